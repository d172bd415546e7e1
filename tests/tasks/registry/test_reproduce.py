"""A registered generator is made again from what its entry says, to the bit; and the entry says nothing of patients."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import TinyProject
from tests.test_privacy import found


@pytest.fixture(scope="module")
def registered(tiny_project: TinyProject, tmp_path_factory: pytest.TempPathFactory) -> TinyProject:
    """A copy of the finished project with a champion."""
    project = tiny_project.copy(tmp_path_factory.mktemp("registered") / "project")
    (project.path / "mlflow.db").unlink()  # it would keep the files where the project was
    shutil.rmtree(project.path / "mlruns")
    assert project.run("xraysynth", "models", "register", "msg_gan").stdout == "version 1\n"
    project.run("xraysynth", "models", "promote")
    return project


def test_a_version_is_reproduced_to_the_bit(registered: TinyProject, tmp_path: Path) -> None:
    registered.edit_params({"train": {"seed": 9}})
    registered.git("commit", "--all", "--quiet", "--message", "another seed")
    (registered.path / "models/msg_gan/generator.safetensors").unlink()

    done = registered.run("xraysynth", "models", "reproduce", "1", str(tmp_path / "again"))
    assert done.stdout.startswith("version 1 is reproduced: the weights are equal to the bit")
    assert done.stdout.count("\n") == 1
    assert not (registered.path / "models/msg_gan/generator.safetensors").exists()  # made there, not here

    again = registered.run("xraysynth", "models", "reproduce", "1", str(tmp_path / "again"), check=False)
    assert again.returncode == 2
    assert "again is not an empty folder" in again.stderr
    unknown = registered.run("xraysynth", "models", "reproduce", "2", str(tmp_path / "other"), check=False)
    assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "other").exists()


def test_no_entry_tells_of_a_patient(registered: TinyProject) -> None:
    kept = [registered.path / "mlflow.db", *(f for f in (registered.path / "mlruns").rglob("*") if f.is_file())]
    assert {"dvc.lock", "data_summary.json", "mlflow.db"} <= {file.name for file in kept}
    assert {str(file): canaries for file in kept if (canaries := found(file.read_bytes()))} == {}
