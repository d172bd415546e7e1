"""What a delivery adds to the archive: a place for each new film, and the rows of its table that are new.

Nothing of the archive is overwritten. Films are known by their content: one that comes again under another name is the
one that is there, and another film of the same name gets a name of its own.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd

from tasks.errors import UserError
from tasks.ingest.label_tables import UTF_8, Table, kind_of, open_table, plain, workbook
from tasks.ingest.labels import OF_FILES, key_of
from tasks.ingest.matching import Meant, Places

DIGITS = 8  # of a film's digest, in the name of one whose own name is taken


class Film(NamedTuple):
    """A film of a delivery: its path in the source and its place in the archive, both relative, with slashes."""

    path: str
    place: str
    new: bool  # whether the archive lacks it


def places(films: Mapping[str, str], archive: Mapping[str, str], on_disk: Callable[[str], str]) -> list[Film]:
    """Where each film of a delivery is, or is to go, in the archive.

    `films` and `archive`: the digest of the content by path. `on_disk(path)`: that of what lies in the archive's folder
    although the archive does not know it, '' for nothing; a copy that was cut off has left it there.
    """
    holder = {digest: path for path, digest in reversed(list(archive.items()))}  # of several the first
    claimed: dict[str, str] = {}
    result = []
    for path, digest in films.items():
        new = digest not in holder
        if archive.get(path) == digest:
            place = path
        elif not new:
            place = holder[digest]
        else:
            taken = claimed.get(path) or archive.get(path) or on_disk(path)
            place = _with_digest(path, digest) if taken not in ("", digest) else path
            claimed[place], holder[digest] = digest, place
        result.append(Film(path, place, new))
    return result


def _with_digest(path: str, digest: str) -> str:
    pure = PurePosixPath(path)
    return str(pure.with_name(f"{pure.stem}-{digest[:DIGITS]}{pure.suffix}"))


class Addition(NamedTuple):
    """Rows that a delivered table adds to the archive's, in its columns and `more` that it did not have."""

    more: list[str]
    rows: list[list[str]]


def addition(
    archive: Path, delivered: Path, label_format: str, films: Sequence[Film], known: Sequence[str]
) -> Addition:
    """What the table `delivered` says that the table `archive` does not. `known`: the paths of the archive's films.

    A film that has rows in both must be said the same of in both. Raises UserError that names the row where it is not,
    and for tables that name films in different ways.
    """
    ours, theirs = open_table(archive), open_table(delivered)
    (kind, key), (their_kind, their_key) = key_of(ours, label_format), key_of(theirs, label_format)
    if kind != their_kind:
        raise UserError(
            f"{delivered} names films by {their_key}, and the archive's table {archive} by {key}; deliver a table with "
            "that column"
        )
    ours_keys, their_keys = ([name for (name,) in table.rows(at)] for table, at in ((ours, key), (theirs, their_key)))
    films_of = _Films(kind, films, known, ours_keys, their_keys)
    columns, more = _columns(ours, theirs, key, their_key)
    at_key, their_at = ours.columns.index(key), theirs.columns.index(their_key)
    common = [(k, j) for k, j in enumerate(columns[: len(ours.columns)]) if j is not None and k != at_key]

    said: dict[str, dict[tuple[str, ...], int]] = {}  # by film, what is said of it and in which row
    for number, row in enumerate(ours.rows(*ours.columns), start=1):
        what = tuple(row[k] for k, _ in common)
        said.setdefault(films_of.archived(row[at_key]), {}).setdefault(what, number)
    rows = []
    for number, row in enumerate(theirs.rows(*theirs.columns), start=1):
        film, name = films_of.delivered(row[their_at])
        if film in said:
            if tuple(row[j] for _, j in common) not in said[film]:
                raise UserError(
                    f"row {number:,} of {delivered} says otherwise of its film than row "
                    f"{next(iter(said[film].values())):,} of the archive's table {archive}; correct one of them"
                )
            continue
        rows.append([name if k == at_key else "" if j is None else row[j] for k, j in enumerate(columns)])
    return Addition(more, rows)


def _columns(ours: Table, theirs: Table, key: str, their_key: str) -> tuple[list[int | None], list[str]]:
    """Of each column of the archive's table and then of `more`: its place in the delivered one, None for none."""
    place = {plain(name): j for j, name in reversed(list(enumerate(theirs.columns)))}
    place[plain(key)] = theirs.columns.index(their_key)
    names = {plain(name) for name in ours.columns} | {plain(their_key)}
    more = [name for name in theirs.columns if plain(name) not in names]
    return [place.get(plain(name)) for name in [*ours.columns, *more]], more


class _Films:
    """Which film a row of either table is about, as the path in the archive, or as the row's own key."""

    def __init__(
        self, kind: str, films: Sequence[Film], known: Sequence[str], ours: Sequence[str], theirs: Sequence[str]
    ) -> None:
        self.kind = kind
        self.place = {film.path: film.place for film in films}
        self.in_delivery: dict[str, Meant] = {}
        self.in_archive: dict[str, Meant] = {}
        if kind in OF_FILES:
            self.in_delivery = Places(kind, list(self.place)).find_all(theirs)
            there = list(dict.fromkeys([*known, *self.place.values()]))
            archive = Places(kind, there)
            self.in_archive = archive.find_all(theirs) | archive.find_all(ours)  # tables of two machines, perhaps

    def archived(self, key: str) -> str:
        return (self.in_archive[key].place or key) if self.in_archive else key

    def delivered(self, key: str) -> tuple[str, str]:
        """The film, and the key under which a row about it goes into the archive's table: what could mean one film of
        the delivery alone could mean several there.
        """
        meant = self.in_delivery.get(key)
        if not (meant and meant.place):
            return self.archived(key), key
        place = self.place[meant.place]
        if place == meant.place and not meant.how:
            return place, key
        bare = self.kind == "name" and "/" not in key.replace("\\", "/")
        return place, PurePosixPath(place).name if bare else place


def extended(archive: Path, added: Addition) -> bytes:
    """The archive's table with the rows that are added, in its own form; what it held stays as it is.

    Text in another encoding than UTF-8 becomes UTF-8, with the mark by which Excel knows it: no value can be lost.
    """
    table, kind = open_table(archive), kind_of(archive)
    if kind == "parquet":
        return _extended_parquet(archive, table, added)
    if kind == "Excel":
        return _extended_excel(archive, table, added)
    content = archive.read_bytes()
    if table.encoding != UTF_8:
        content = content.decode(table.encoding).encode(UTF_8)
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=table.delimiter, lineterminator="\n")
    if not added.more:
        out.write("" if content.endswith(b"\n") else "\n")
        writer.writerows(added.rows)
        return content + out.getvalue().encode()
    out.write(f"sep={table.delimiter}\n" if table.marked else "")
    writer.writerow([*table.columns, *added.more])
    writer.writerows([*row, *[""] * len(added.more)] for row in table.rows(*table.columns))
    writer.writerows(added.rows)
    return out.getvalue().encode("utf-8" if table.encoding == UTF_8 else UTF_8)


def _extended_excel(archive: Path, table: Table, added: Addition) -> bytes:
    book = workbook(archive, whole=True)
    sheet = book.worksheets[0]
    header = next(k for k, row in enumerate(sheet.iter_rows(values_only=True), start=1) if any(row))
    for k, name in enumerate(added.more, start=len(table.columns) + 1):
        sheet.cell(header, k, name)
    for row in added.rows:
        sheet.append([f"{value}" for value in row])
        for cell in sheet[sheet.max_row]:
            cell.data_type = "s"  # no value is a formula
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def _extended_parquet(archive: Path, table: Table, added: Addition) -> bytes:
    old = pd.read_parquet(archive)
    new = pd.DataFrame(added.rows, columns=[*table.columns, *added.more])
    try:
        both = pd.concat([old, new.astype({name: old[name].dtype for name in old.columns})], ignore_index=True)
    except (ValueError, TypeError):
        raise UserError(f"a value of the delivery does not fit its column of {archive}; correct it") from None
    return bytes(both.to_parquet())
