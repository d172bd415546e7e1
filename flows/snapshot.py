"""The snapshot of the films that DVC keeps of `data/raw`: what a source holds beyond it, and how to take that in."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from dvc.exceptions import OutputNotFoundError
from dvc.repo import Repo

from tasks.errors import UserError
from tasks.paths import RAW, RAW_DVC

INCOMING = Path(".xraysynth/incoming")


class Changes(NamedTuple):
    """What a source holds beyond the snapshot, as paths relative to the source; the table of labels is apart."""

    films: list[str]  # that the snapshot lacks, or has in another size
    labels: bool  # whether the table is new or of another size or content


def changes(source: Path, labels: Path | None) -> Changes:
    """Compare a source with the snapshot; names that begin with a dot are passed over.

    A table of labels within or outside the source is compared with the file of its name in the snapshot. Raises
    UserError for a source that cannot be read, and for a snapshot whose list of files is not in DVC's cache. What
    vanishes meanwhile is not among them.
    """
    if not source.is_dir():
        raise UserError(f"there is no folder {source}; name the one into which films are delivered")
    if labels and not labels.is_file():
        raise UserError(f"there is no table of labels {labels}; name it, or put labels.csv into the source")
    known = _known()
    table = labels.resolve() if labels else None
    films = []
    with _without_names(f"{source} cannot be read", "change its rights"):
        for path in _files(source, table):
            with suppress(FileNotFoundError):
                size = (source / path).stat().st_size
                if _size(known, path) != size:
                    films.append(path)
        return Changes(sorted(films), labels is not None and not _same(known, labels))


def others(source: Path, labels: Path | None) -> bool:
    """Whether `data/raw` holds films that the source does not. Raises UserError as `changes` does."""
    table = {labels.name} if labels else set()
    with _without_names(f"{RAW} cannot be read", "change its rights"):
        here = {*_known(), *(_files(RAW, None) if RAW.is_dir() else ())} - table
        return any(not (source / path).is_file() for path in here)


def take(source: Path, labels: Path | None, found: Changes) -> None:
    """Copy what a source holds beyond the snapshot into `data/raw`; each file appears whole. Nothing is removed.

    What has vanished from the source is left for the next time. Raises UserError where something cannot be copied.
    """
    films = found.films if source.resolve() != RAW.resolve() else []
    with _without_names(f"a file cannot be copied from {source} to {RAW}", "free some room, or change rights"):
        for path in films:
            with suppress(FileNotFoundError):
                _copy(source / path, RAW / path)
        if labels and found.labels and labels.resolve() != (RAW / labels.name).resolve():
            _copy(labels, RAW / labels.name)


def _copy(file: Path, target: Path) -> None:
    INCOMING.parent.mkdir(exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(file, INCOMING)
        shutil.move(INCOMING, target)  # a rename; DVC may have put a link into its cache there, not to be written
    finally:
        INCOMING.unlink(missing_ok=True)  # on a full disk it would stand in the way


@contextmanager
def _without_names(what: str, to_do: str) -> Iterator[None]:
    """An OSError names its file, and names of films may say whose they are: the UserError in its place does not."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{what} ({error.strerror or type(error).__name__}); {to_do}") from None


def _known() -> dict[str, Path]:
    """Of every file of the snapshot, where the cache has it. Raises UserError as `changes` does."""
    with Repo() as repo:
        try:
            (out,) = repo.find_outs_by_path(str(RAW))
        except OutputNotFoundError:
            return {}
        tree = out.get_obj()
        if tree is None:
            raise UserError(f"the list of files in the snapshot {RAW_DVC} is not here; run `dvc pull {RAW_DVC}`")
        return {"/".join(key): Path(out.cache.oid_to_path(entry.value)) for key, _, entry in tree}


def _size(known: dict[str, Path], path: str) -> int:
    """Bytes of a file in the snapshot, -1 where it has none. Raises UserError where the cache has lost it."""
    if path not in known:
        return -1
    try:
        return known[path].stat().st_size
    except FileNotFoundError:
        raise UserError(f"DVC's cache has not all films of the snapshot; run `dvc fetch {RAW_DVC}`") from None


def _same(known: dict[str, Path], labels: Path) -> bool:
    here = known.get(labels.name)
    return here is not None and here.is_file() and here.read_bytes() == labels.read_bytes()


def _files(source: Path, table: Path | None) -> Iterator[str]:
    """Regular files below a source; a link out of it is none of its films."""
    root = source.resolve()

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # it has vanished
            raise error

    for folder, subfolders, names in os.walk(root, onerror=refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for path in (Path(folder, name) for name in names if not name.startswith(".")):
            target = Path(os.path.realpath(path))  # which, unlike resolve(), takes a link to itself
            if target != table and target.is_relative_to(root) and target.is_file():
                yield path.relative_to(root).as_posix()
