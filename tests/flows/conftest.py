"""A Prefect server for these tests alone, and small DVC projects whose stages are shell lines."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

import flows  # noqa: F401  first: it says where Prefect keeps its things and that nothing phones home

from prefect.settings import PREFECT_API_URL  # isort: skip
from prefect.testing.utilities import prefect_test_harness  # isort: skip

ROOT = Path(__file__).resolve().parents[2]
Stage = dict[str, object]


@pytest.fixture(scope="package")
def prefect_api() -> Iterator[str]:
    """Of a server with an empty database, the URL. Files that name it run one after the other: it is dear to keep."""
    with prefect_test_harness(server_startup_timeout=180):
        yield str(PREFECT_API_URL.value())


@pytest.fixture(scope="session")
def empty_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git and DVC repository with a data source `raw.dvc`, to be copied."""
    project = tmp_path_factory.mktemp("template") / "project"
    (project / "raw").mkdir(parents=True)
    (project / "raw" / "film.txt").write_text("film\n")
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
    for arguments in (
        ["init", "--quiet"],
        ["config", "core.analytics", "false"],
        ["config", "core.check_update", "false"],
        ["add", "--quiet", "raw"],
    ):
        subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=project, check=True)
    return project


@pytest.fixture(scope="module")
def make_project(empty_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Path]]:
    """A project with the given stages, which becomes the working directory."""
    before = Path.cwd()

    def make(**stages: Stage) -> Path:
        project = tmp_path_factory.mktemp("toy") / "project"
        shutil.copytree(empty_project, project)
        (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
        os.chdir(project)
        return project

    yield make
    os.chdir(before)
