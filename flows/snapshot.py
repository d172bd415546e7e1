"""The snapshot of the films that DVC keeps of `data/raw`: what a source holds beyond it, and how to take that in."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from dvc.exceptions import OutputNotFoundError
from dvc.fs import localfs
from dvc.repo import Repo
from dvc_data.hashfile.hash import hash_file

from flows.deliveries import Addition, Film, addition, extended, places
from tasks.errors import UserError
from tasks.paths import RAW, RAW_DVC

INCOMING = Path(".xraysynth/incoming")
MD5 = "md5"  # by which DVC knows contents


class Changes(NamedTuple):
    """What a source holds beyond the snapshot."""

    films: list[Film]  # all of the source; those that the snapshot lacks are marked as new
    table: Path | None = None  # the archive's own table, which need not be there yet; None for labels without one
    rows: Addition | None = None  # of the delivered table, beyond the archive's
    labels: bool = False  # whether the delivered table says something that the archive's does not

    @property
    def new(self) -> int:
        """How many films the snapshot lacks."""
        return len({film.place for film in self.films if film.new})


def changes(source: Path, labels: Path | None, table: Path | None = None, label_format: str = "table") -> Changes:
    """Compare a source with the snapshot, by content; names that begin with a dot are passed over.

    `labels`: the delivered table; `table`: that of the archive, in `data/raw`. Raises UserError for a source that
    cannot be read, for a table that contradicts the archive's, and for a snapshot whose list of files is not in DVC's
    cache. What vanishes meanwhile is not among the films.
    """
    if not source.is_dir():
        raise UserError(f"there is no folder {source}; name the one into which films are delivered")
    if labels and not labels.is_file():
        raise UserError(f"there is no table of labels {labels}; name it, or put labels.csv into the source")
    known, apart = _known(), {path.resolve() for path in (labels, table) if path}
    with _without_names(f"{source} cannot be read", "change its rights"), Repo() as repo:
        digests = {path: _digest(repo, source / path) for path in sorted(_files(source, apart))}
        present = {path: digest for path, digest in digests.items() if digest}
        films = places(present, known, lambda path: _digest(repo, RAW / path))
        edited = table is not None and _digest(repo, table) != known.get(os.path.relpath(table, RAW), "")
    if labels is None or table is None:
        return Changes(films)
    if labels.resolve() == table.resolve():  # the archive's own, in which somebody may have corrected a label
        return Changes(films, table, labels=edited)
    if not table.is_file():
        return Changes(films, table, labels=True)
    rows = addition(table, labels, label_format, films, list(known))
    return Changes(films, table, rows, labels=bool(rows.rows))


def others(source: Path, labels: Path | None) -> bool:
    """Whether `data/raw` holds films that the source does not. Raises UserError as `changes` does."""
    table = {labels.name} if labels else set()
    with _without_names(f"{RAW} cannot be read", "change its rights"):
        here = {*_known(), *(_files(RAW, set()) if RAW.is_dir() else ())} - table
        return any(not (source / path).is_file() for path in here)


def take(source: Path, labels: Path | None, found: Changes) -> None:
    """Copy what a source holds beyond the snapshot into `data/raw`; each file appears whole, and none is overwritten.

    What has vanished from the source is left for the next time. Raises UserError where something cannot be copied.
    """
    films = [film for film in found.films if film.new] if source.resolve() != RAW.resolve() else []
    with _without_names(f"a file cannot be copied from {source} to {RAW}", "free some room, or change rights"):
        for film in films:
            with suppress(FileNotFoundError):
                if not (RAW / film.place).exists():  # else a copy that was cut off has brought it
                    _place(source / film.path, RAW / film.place)
        if labels and found.labels and found.table:
            content = labels.read_bytes() if found.rows is None else extended(found.table, found.rows)
            _place(content, found.table)


def _place(what: Path | bytes, target: Path) -> None:
    """Put a copy of a file, or content, at `target`, whole: by a rename, for a link into DVC's cache may be there."""
    INCOMING.parent.mkdir(exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if isinstance(what, Path):
            shutil.copyfile(what, INCOMING)
        else:
            INCOMING.write_bytes(what)
        shutil.move(INCOMING, target)
    finally:
        INCOMING.unlink(missing_ok=True)  # on a full disk it would stand in the way


@contextmanager
def _without_names(what: str, to_do: str) -> Iterator[None]:
    """An OSError names its file, and names of films may say whose they are: the UserError in its place does not."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{what} ({error.strerror or type(error).__name__}); {to_do}") from None


def _known() -> dict[str, str]:
    """The digest of every file of the snapshot. Raises UserError as `changes` does."""
    with Repo() as repo:
        try:
            (out,) = repo.find_outs_by_path(str(RAW))
        except OutputNotFoundError:
            return {}
        tree = out.get_obj()
        if tree is None:
            raise UserError(f"the list of files in the snapshot {RAW_DVC} is not here; run `dvc pull {RAW_DVC}`")
        return {"/".join(key): str(entry.value) for key, _, entry in tree}


def _digest(repo: Repo, path: Path) -> str:
    """Of a file's content, '' of one that has vanished; DVC remembers those of files that have not changed."""
    try:
        return str(hash_file(str(path.resolve()), localfs, MD5, repo.state)[1].value)
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _files(source: Path, apart: set[Path]) -> Iterator[str]:
    """Regular files below a source but those `apart`; a link out of it is none of its films."""
    root = source.resolve()

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # it has vanished
            raise error

    for folder, subfolders, names in os.walk(root, onerror=refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for path in (Path(folder, name) for name in names if not name.startswith(".")):
            target = Path(os.path.realpath(path))  # which, unlike resolve(), takes a link to itself
            if target not in apart and target.is_relative_to(root) and target.is_file():
                yield path.relative_to(root).as_posix()
