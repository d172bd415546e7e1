"""`make audit` fails on a finding, and not for being offline."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
CLEAN = {"name": "requests", "version": "2", "vulns": []}
BAD = {"name": "pillow", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["1.1"]}]}
UNKNOWN = {"name": "ours", "version": "1", "skip_reason": "not there"}


def run(answer: Any, folder: Path, answers: int = 2) -> subprocess.CompletedProcess[str]:
    """With a pip-audit that answers so, and no more often; None: as one that reaches nothing."""
    program = folder / "pip-audit"
    said = "" if answer is None else json.dumps({"dependencies": answer})
    fails = f"test $(wc -l < {folder}/asked) -gt {answers} && {{ echo starts >&2; echo 'it broke' >&2; exit 1; }}"
    program.write_text(f"#!/bin/sh\necho asked >> {folder}/asked\n{fails}\nprintf '%s' '{said}'\nexit 1\n")
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run([sys.executable, ".ci/audit.py"], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("answer", [None, [UNKNOWN]], ids=["offline", "a mirror that knows nothing"])
def test_offline_it_says_so_after_one_try(answer: Any, tmp_path: Path) -> None:
    done = run(answer, tmp_path)
    assert done.returncode == 0
    assert "cannot be reached from here; nothing was checked" in done.stdout
    assert (tmp_path / "asked").read_text() == "asked\n"


def test_a_database_that_answers_for_one_and_not_for_all_fails(tmp_path: Path) -> None:
    done = run([CLEAN], tmp_path, answers=1)
    assert done.returncode == 1
    assert "answers for one package, not for all of them (it broke); nothing was checked" in done.stdout


def test_a_finding_fails(tmp_path: Path) -> None:
    done = run([CLEAN, BAD, UNKNOWN], tmp_path)
    assert done.returncode == 1
    assert "pillow 1: CVE-1, mended in 1.1\n" in done.stdout
    assert "audit: 2 packages checked, 1 findings; unknown to it: ours" in done.stdout


def test_without_a_finding_all_is_well(tmp_path: Path) -> None:
    assert run([CLEAN], tmp_path).returncode == 0


def test_ci_runs_it() -> None:
    assert "make audit\n" in (ROOT / ".ci/run").read_text()
    assert "python .ci/audit.py" in (ROOT / "Makefile").read_text()
