"""The command line as a user meets it: one sentence and exit code 2 for bad input, never a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def xraysynth(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("xraysynth")
    return subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, env=dict(os.environ))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ingest", "nowhere"), "no folder nowhere"),
        (("ingest", "empty", "out", "--labels", "nowhere.csv"), "the folder empty holds no films"),
        (("ingest", "--params", "nowhere.yaml"), "no params file nowhere.yaml"),
        (("ingest", "--params", "wrong.yaml"), "unknown key 'ingest.sise'"),
        (("imbalance",), "data/curated is not an image set"),
        (("train", "msg_gan"), "data/curated is not an image set"),
        (("synthesize", "msg_gan"), "reports/imbalance.json"),
        (("synthesize", "nowhere", "--label", "a"), "nowhere has no generator.safetensors"),
        (("report",), "data/curated is not an image set"),
        (("verdict",), "no reports/verdict.json here"),
        (("models", "register", "best"), "reports/verdict.json names no generator"),
        (("models", "register", "msg_gan"), "models/msg_gan has no generator.safetensors"),
        (("simulate", "wrong.yaml"), "wrong.yaml is not an empty folder"),
    ],
)
def test_bad_input(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong.yaml").write_text("ingest: {sise: 64}")
    done = xraysynth(tmp_path, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "wrong.yaml"]


def test_doctor_names_every_part(tmp_path: Path) -> None:
    done = xraysynth(tmp_path, "doctor")
    assert done.returncode == 0
    for part in ("device", "JPEG 2000", "RLE", "MLflow", "Prefect", "DVC remote"):
        assert part in done.stdout
