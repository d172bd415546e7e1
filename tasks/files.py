"""Files that appear whole or not at all, and the JSON reports by which the stages meet."""

import errno
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.errors import UserError

CANNOT_WRITE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOSPC, errno.EDQUOT}
OUR_FILES = ("dataset.json", "config.json", "counts.csv")  # one of them is in every folder that a stage writes


@contextmanager
def written_whole(out: Path) -> Iterator[Path]:
    """A path beside `out`, for a file or a folder, that takes its place when the block ends without an exception.

    What a killed run left there is removed first. Raises UserError when `out` may not be written, or is a folder
    with content that is not an earlier output: that would be lost.
    """
    out = out.resolve()
    temporary, old = (out.with_name(f".{out.name}.{kind}") for kind in ("tmp", "old"))
    refuse_foreign(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
        yield temporary
        if out.is_dir():
            _remove(old)
            out.rename(old)
        temporary.replace(out)
        _remove(old)
    except OSError as error:
        if error.errno is not None and error.errno not in CANNOT_WRITE:  # NumPy has none when the disk is full
            raise
        why = error.strerror or "no room left"
        raise UserError(
            f"cannot write {out} ({why}); free some room, change its rights or choose another place"
        ) from None
    finally:
        if temporary.exists():
            _remove(temporary)


def refuse_foreign(out: Path) -> None:
    """Raises UserError when `out` is a folder with content that is not an earlier output, and would be lost."""
    if out.is_dir() and any(out.iterdir()) and not any((out / name).exists() for name in OUR_FILES):
        raise UserError(f"{out} holds files that are not an earlier output of xraysynth; choose a new or empty folder")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all; NaN is refused (ValueError), it is not JSON."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_report(path: Path) -> dict[str, Any]:
    """A report of a stage; empty where it was not made."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def private_folder(path: Path) -> None:
    """Make a folder whose content git leaves alone."""
    path.mkdir(parents=True, exist_ok=True)
    (path / ".gitignore").write_text("*\n", encoding="ascii")


def flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings, each with its keys joined by dots."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
