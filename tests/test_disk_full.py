"""The disk is full: one sentence, nothing half-written, and the same command resumes once there is room."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.tasks.sets import write_set

ROOT = Path(__file__).resolve().parents[1]
SIZE = 48 * 2**20
PARAMS = {
    "train": {"width": 8, "kimg": 0.06, "batch": 4},
    "models": {"msg_gan": {"attention_resolutions": []}, "msg_sagan": {"attention_resolutions": [8]}},
}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of SIZE with a working folder on it."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(tmp_path)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here (it takes root)")
    try:
        write_set(tmp_path / "data/curated")
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS))
        yield tmp_path
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def train(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-c", "from tasks.cli import main; main()", "train", "msg_sagan"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def fill(folder: Path, leave: int) -> Path:
    """A file that takes all but `leave` bytes of the disk."""
    ballast, free = folder / "ballast", os.statvfs(folder)
    ballast.write_bytes(bytes(free.f_bavail * free.f_frsize - leave))
    return ballast


def test_training_on_a_full_disk(small_disk: Path) -> None:
    ballast = fill(small_disk, leave=2**20)
    failed = train(small_disk)
    assert failed.returncode == 2, failed.stderr
    assert "Traceback" not in failed.stderr
    (sentence,) = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
    assert "No space left on device" in sentence or "no room left" in sentence
    assert not (small_disk / "models/msg_sagan").exists()
    assert list(small_disk.glob("models/.*")) == []
    ballast.unlink()
    done = train(small_disk)
    assert done.returncode == 0, done.stderr
    assert (small_disk / "models/msg_sagan/generator.safetensors").is_file()
