"""The project as one thing that several flows would change: its params, and the lock that keeps them apart."""

import fcntl
import io
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from dvc.exceptions import DvcException
from dvc.utils.hydra import apply_overrides
from filelock import FileLock, Timeout
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from tasks.errors import UserError
from tasks.params import PARAMS_FILE, Params, load, needs_table

LOCK_FILE = Path(".xraysynth/flow.lock")
CHANGED = LOCK_FILE.with_name("params.changed.yaml")  # with the ending by which DVC knows how to write it
BEFORE, OF_RUN = LOCK_FILE.with_name("params.before.yaml"), LOCK_FILE.with_name("params.of-run.yaml")
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
        if lock.lock_counter == 1:  # not within another flow of this process
            _mend_readers()
            _put_back()
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


@contextmanager
def params_of_run(
    source: str | None = None,
    labels: str | None = None,
    overrides: Sequence[str] = (),
    keep: bool = False,
    films: bool = True,
) -> Iterator[None]:
    """params.yaml with what this run asks for, and as it was once the block ends, unless `keep`; comments stay.

    `labels` is by default the file labels.csv of `source`, or `source` itself for a format without a table. All is
    checked before params.yaml changes: UserError for an override that it does not admit, and with `films` also where
    these or their table are not there. What a killed process has changed the next one puts back (`held_alone`).
    """
    if not (source or labels or overrides):
        _check(load(PARAMS_FILE), films)
        yield
        return
    if not PARAMS_FILE.is_file():
        raise UserError(f"there is no {PARAMS_FILE} here to change; make the project's folder the working folder")
    changed = _changed(PARAMS_FILE, source, labels, overrides, films)
    if keep:
        _write(PARAMS_FILE, changed)
        yield
        return
    _write(BEFORE, PARAMS_FILE.read_text(encoding="utf-8"))
    _write(OF_RUN, changed)
    _write(PARAMS_FILE, changed)
    try:
        yield
    finally:
        _put_back()


def keep_source(source: str, labels: str | None) -> None:
    """Name films and table in params.yaml for good, also where the rest of it is of this run."""
    for file in (PARAMS_FILE, OF_RUN, BEFORE):
        if file.is_file():
            _write(file, _changed(file, source, labels, (), films=False))


def _put_back() -> None:
    """params.yaml as it was before the run that changed it; not where somebody has changed it since."""
    ours = all(file.is_file() for file in (BEFORE, OF_RUN, PARAMS_FILE))
    if ours and PARAMS_FILE.read_bytes() == OF_RUN.read_bytes():
        _write(PARAMS_FILE, BEFORE.read_text(encoding="utf-8"))
    for file in (OF_RUN, BEFORE):
        file.unlink(missing_ok=True)


def _check(params: Params, films: bool, named: bool = False) -> None:
    """Raises UserError where films, or a table that this run has `named`, are not there, before DVC does."""
    ingest = params.ingest
    if not films:
        return
    if PARAMS_FILE.is_file() and not Path(ingest.source).exists():
        raise UserError(
            f"there is no folder {ingest.source}; put films there, name another, or let `make raw` fill data/raw"
        )
    if named and needs_table(ingest.label_format) and not Path(ingest.labels).exists():
        raise UserError(f"there is no table of labels {ingest.labels}; put it there, or name another")


def _changed(file: Path, source: str | None, labels: str | None, overrides: Sequence[str], films: bool) -> str:
    """The text of a params file after the changes, validated."""
    CHANGED.parent.mkdir(exist_ok=True)
    shutil.copy(file, CHANGED)
    try:
        _apply(CHANGED, overrides)
        if source and not labels:
            labels = f"{source}/labels.csv" if needs_table(load(CHANGED).ingest.label_format) else source
        given = (("source", source), ("labels", labels))
        _apply(CHANGED, [f"ingest.{key}={_quoted(value)}" for key, value in given if value])
        _check(load(CHANGED), films, named=bool(source or labels))
        values = yaml.safe_load(CHANGED.read_text(encoding="utf-8"))
    except UserError as error:
        raise UserError(str(error).replace(str(CHANGED), "overrides")) from None
    finally:
        CHANGED.unlink(missing_ok=True)
    return _with_values(file.read_text(encoding="utf-8"), values)


def _with_values(text: str, values: Any) -> str:
    """YAML `text` with other values: comments stay, and lists in brackets stay in brackets."""
    editor = YAML()
    editor.preserve_quotes, editor.width = True, 10**6
    document = editor.load(text) or CommentedMap()
    _update(document, values)
    out = io.StringIO()
    editor.dump(document, out)
    return out.getvalue()


def _update(old: Any, new: Any) -> None:
    for key in [key for key in old if key not in new]:
        del old[key]
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            _update(old[key], value)
        elif isinstance(value, list) and isinstance(old.get(key), list):
            old[key][:] = value
        elif key not in old or old[key] != value:
            old[key] = value


def _write(file: Path, text: str) -> None:
    CHANGED.write_text(text, encoding="utf-8")
    CHANGED.replace(file)


def _apply(file: Path, overrides: Sequence[str]) -> None:
    for override in overrides:
        try:
            apply_overrides(file, [override if override.startswith(("+", "~")) else f"++{override}"])
        except DvcException:
            raise UserError(
                f"the override {override!r} cannot be used; write section.key=value, as in params.yaml"
            ) from None


def _quoted(value: str) -> str:
    """For the grammar of overrides, in which a path may hold what has a meaning."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
