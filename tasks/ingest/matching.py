"""Which file a row of a table means by a path or a name: as it is written, else by what can mean one file alone."""

import posixpath
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

MOST_LIKE = 64  # files of one name among which a part of a path is looked for; beyond, it means none of them
SPELLED, LONGER, SHORTER = (  # than the file's own path in the source; as the log says it
    "by a name whose capitals or accents are written otherwise",
    "without the folders that the table writes before them",
    "by the end of the path alone",
)


class Meant(NamedTuple):
    """`place`: the file, '' for none, None where several are meant. `how` and `before` where that is not as written."""

    place: str | None
    how: str = ""
    before: tuple[str, ...] = ()  # folders that only the table writes


class Places:
    """The files of a source, by all that can be meant by a key of `kind` path or name."""

    def __init__(self, kind: str, files: Sequence[str]) -> None:
        self.kind, self.files = kind, files
        self._paths = frozenset(files)
        self._names: dict[str, str | None] = {}
        if kind == "name":
            stems: dict[str, str | None] = {}
            for file in files:
                for known, key in zip((self._names, stems), names(file), strict=True):
                    known[key] = None if key in known else file
            self._names = {**stems, **self._names}  # a whole name before one without its extension

    def find(self, key: str) -> Meant:
        """The file that `key` means, if it is one."""
        key = key.replace("\\", "/")
        if self.kind == "name" and "/" not in key:
            place = self._names.get(key, "")
        else:
            path = posixpath.normpath(key)
            place = path if path in self._paths else ""
        return Meant(place) if place != "" or not key else self._loosely(key)

    def namesakes(self, key: str) -> list[str]:
        """The files that only share the name with a key that means none of them, with or without its extension."""
        name = _parts(key)[-1:]
        found = self._by_end.get(tuple(name)) or self._by_stem.get(posixpath.splitext(name[0])[0]) if name else None
        return list(found or ())

    def _loosely(self, key: str) -> Meant:
        parts = _parts(key)
        if not parts:
            return Meant("")
        if self.kind == "name" and "/" not in key:
            found = self._by_end.get(tuple(parts)) or self._by_stem.get(parts[0], [])
            return _only(found, SPELLED)
        for start in range(len(parts)):  # the longest end of the key that is a file
            if files := self._by_path.get(parts[start:]):
                longer = _only(files, LONGER if start else SPELLED, parts[:start])
                return longer if not start or len(self._ending(parts)) == 0 else Meant(None)
        return _only(self._ending(parts), SHORTER)

    def _ending(self, parts: tuple[str, ...]) -> list[str]:
        """The files in some folder of which the whole key is the end."""
        found = self._by_end.get(parts[-2:], [])
        if len(parts) == 1:
            return found
        if len(found) > MOST_LIKE:
            return []
        return [file for file in found if _parts(file)[-len(parts) :] == parts and len(_parts(file)) > len(parts)]

    @cached_property
    def _by_path(self) -> dict[tuple[str, ...], list[str]]:
        return _listed((_parts(file), file) for file in self.files)

    @cached_property
    def _by_end(self) -> dict[tuple[str, ...], list[str]]:
        ends = ((_parts(file), file) for file in self.files)
        return _listed((parts[-n:], file) for parts, file in ends for n in {1, min(2, len(parts))})

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return _listed((posixpath.splitext(_parts(file)[-1])[0], file) for file in self.files)


def outermost(before: Counter[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """Of the folders that a table writes before its files, those that can all be the source: none lies in another.

    Of two of which one does, more rows decide. What the others seem to mean is another file, that is not there.
    """
    kept: set[tuple[str, ...]] = set()
    for folders, _ in sorted(before.items(), key=lambda item: (-item[1], len(item[0]))):
        if not any(folders[: len(one)] == one or one[: len(folders)] == folders for one in kept):
            kept.add(folders)
    return kept


def names(file: str) -> tuple[str, str]:
    """The name of a file with and without its extension."""
    name = posixpath.basename(file)
    return name, posixpath.splitext(name)[0]


def _parts(path: str) -> tuple[str, ...]:
    """Folders and name, in one spelling of accents (NFC) and without capitals."""
    text = path if path.isascii() else unicodedata.normalize("NFC", path)
    parts = posixpath.normpath(text.replace("\\", "/")).casefold().split("/")
    return tuple(part for part in parts if part not in ("", "."))


def _only(files: Sequence[str], how: str, before: tuple[str, ...] = ()) -> Meant:
    return Meant("") if not files else Meant(files[0], how, before) if len(files) == 1 else Meant(None)


def _listed(pairs: Iterable[tuple]) -> dict:
    found = defaultdict(list)
    for key, file in pairs:
        found[key].append(file)
    return dict(found)
