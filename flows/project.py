"""The project as one thing that several flows would change: its params, and the lock that keeps them apart."""

import fcntl
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.utils.hydra import apply_overrides
from filelock import FileLock, Timeout

from tasks.errors import UserError
from tasks.ingest.labels import needs_table
from tasks.params import PARAMS_FILE, load

LOCK_FILE = Path(".xraysynth/flow.lock")
READERS = Path(".dvc/tmp/rwlock")  # where DVC notes which of its processes read and write what


@contextmanager
def held_alone() -> Iterator[None]:
    """No other flow changes this project meanwhile; one within this one may. Raises UserError where one does.

    Params, snapshot and stages belong together: of two flows that interleave each would run on the other's.
    """
    LOCK_FILE.parent.mkdir(exist_ok=True)
    lock = FileLock(LOCK_FILE.resolve(), timeout=0, thread_local=False, is_singleton=True)
    try:
        lock.acquire()
    except Timeout:
        raise UserError("another flow is at work in this project; wait until it has ended, or cancel it") from None
    try:
        _mend_readers()
        yield
    finally:
        lock.release()


def _mend_readers() -> None:
    """Remove READERS if a DVC that was ended while it wrote them has left a part: every later one would refuse it.

    Under DVC's own lock of the file, which is held for moments.
    """
    if not READERS.exists():
        return
    with READERS.with_suffix(".lock").open("a", encoding="utf-8") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        try:
            json.loads(READERS.read_text(encoding="utf-8"))
        except ValueError:
            READERS.unlink(missing_ok=True)


def set_params(source: str | None, labels: str | None, overrides: Sequence[str]) -> None:
    """Write what is given into params.yaml, as `dvc exp run -S` does; comments stay.

    `labels` is by default the file labels.csv of `source`, or `source` itself for a format without a table. Raises
    UserError for an override that params.yaml does not admit; it is then as it was. What it holds is validated in any
    case, before a stage runs.
    """
    if not (source or labels or overrides):
        load(PARAMS_FILE)
        return
    if not PARAMS_FILE.is_file():
        raise UserError(f"there is no {PARAMS_FILE} here to change; make the project's folder the working folder")
    # A sibling with the ending by which DVC knows how to write it; git ignores the folder.
    changed = LOCK_FILE.with_name("params.changed.yaml")
    changed.parent.mkdir(exist_ok=True)
    shutil.copy(PARAMS_FILE, changed)
    try:
        _apply(changed, overrides)
        if source and not labels:
            labels = f"{source}/labels.csv" if needs_table(load(changed).ingest.label_format) else source
        given = (("source", source), ("labels", labels))
        _apply(changed, [f"ingest.{key}={_quoted(value)}" for key, value in given if value])
        if load(changed) != load(PARAMS_FILE):
            changed.replace(PARAMS_FILE)
    except UserError as error:
        raise UserError(str(error).replace(str(changed), "overrides")) from None
    finally:
        changed.unlink(missing_ok=True)


def check_source() -> None:
    """Raises UserError where the films are not there, before DVC says so in its own words."""
    source = load(PARAMS_FILE).ingest.source
    if PARAMS_FILE.is_file() and not Path(source).exists():
        raise UserError(f"there is no folder {source}; put films there, name another, or let `make raw` fill data/raw")


def _apply(file: Path, overrides: Sequence[str]) -> None:
    try:
        apply_overrides(file, list(overrides))
    except DvcException as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise UserError(
            f"the overrides cannot be used ({reason}); write section.key=value, as in params.yaml"
        ) from None


def _quoted(value: str) -> str:
    """For the grammar of overrides, in which a path may hold what has a meaning."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
