"""Which code and which data a page was made from. DVC's files are read, DVC is never called."""

import hashlib
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

LOCK = Path("dvc.lock")
CODE = ("model", "tasks", "dvc.yaml", "params.yaml")  # what decides about results; dvc.lock changes with every stage


def git_revision(code: Sequence[str] = CODE) -> str:
    """The commit of the working folder, and whether `code` there differs from it; "" outside a git repository.

    A file that git does not know differs too, unless it is one to be ignored.
    """
    try:
        head = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=normal", "--", *code)
    except (OSError, subprocess.TimeoutExpired):  # no git here, or none that answers
        return ""
    if head.returncode:
        return ""
    differs = changed.returncode or changed.stdout
    return head.stdout.strip() + (", with changes that are not committed" if differs else "")


def _git(*command: str) -> subprocess.CompletedProcess[str]:
    # Without the option git may write its index, while somebody else works there.
    return subprocess.run(
        ["git", "--no-optional-locks", *command], capture_output=True, text=True, check=False, timeout=30
    )


def locked(lock: Path = LOCK, own_stage: str = "report") -> dict[str, Any]:
    """`digest`, SHA-256 of dvc.lock's entries but that of `own_stage`, and `outs`: the hash of every output by path.

    Its own entry is left out because DVC writes it after the stage has ended. Empty outside a DVC project.
    """
    try:
        stages: dict[str, Any] = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"]
    except (FileNotFoundError, TypeError, KeyError):
        return {}
    others = {name: entry for name, entry in stages.items() if name != own_stage}
    digest = hashlib.sha256(json.dumps(others, sort_keys=True, default=str).encode()).hexdigest()
    outs = {out["path"]: str(out.get("md5", "")) for entry in others.values() for out in entry.get("outs", [])}
    return {"digest": digest, "outs": dict(sorted(outs.items()))}


def raw_digest(dvc_file: Path) -> str:
    """The hash by which DVC knows the archive that `dvc_file` tracks; "" where there is no such snapshot yet."""
    try:
        return str(yaml.safe_load(dvc_file.read_text(encoding="utf-8"))["outs"][0]["md5"])
    except (FileNotFoundError, KeyError, IndexError, TypeError):
        return ""
