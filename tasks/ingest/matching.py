"""Which file a row of a table means by a path or a name: as it is written, else by what can mean one file alone."""

import posixpath
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

SPELLED, LONGER, SHORTER = (  # than the file's own path in the source; as the log says it
    "by a name whose capitals or accents are written otherwise",
    "without the folders that the table writes before them",
    "by the end of the path alone",
)


class Meant(NamedTuple):
    """`place`: the file, '' for none, None where several are meant. `how`: '' where that is as written.

    `before`: the folders that only the table writes, which are to be the source; None where the key does not say.
    """

    place: str | None
    how: str = ""
    before: tuple[str, ...] | None = None


class Places:
    """The files of a source, by all that can be meant by a key of `kind` path or name."""

    def __init__(self, kind: str, files: Sequence[str]) -> None:
        self.kind, self.files = kind, files
        self._paths = frozenset(files)
        self._names: dict[str, str | None] = {}
        self._ends: dict[int, dict[tuple[str, ...], list[str]]] = {}
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
            exact = Meant(self._names.get(key, ""))
        else:
            path = posixpath.normpath(key)
            exact = Meant(path, before=()) if path in self._paths else Meant("")
        return exact if exact.place != "" or not key else self._loosely(key)

    def find_all(self, keys: Iterable[str]) -> dict[str, Meant]:
        """What each of the keys of one table means; none where others say that its folders are not the source, and
        several films where it and another one, neither as it is written, would mean the same.
        """
        found = {key: self.find(key) for key in dict.fromkeys(keys)}
        kept = outermost(Counter(meant.before for meant in found.values() if meant.before is not None))
        found = {key: Meant("") if meant.before and meant.before not in kept else meant for key, meant in found.items()}
        loose = Counter(meant.place for meant in found.values() if meant.how)
        return {key: Meant(None) if meant.how and loose[meant.place] > 1 else meant for key, meant in found.items()}

    def namesakes(self, key: str) -> Sequence[str]:
        """The files that only share the name with a key that means none of them, with or without its extension.

        The same object for every key of one name: there may be as many keys as files.
        """
        name = "".join(_parts(key)[-1:])
        return self._by_name.get((name,)) or self._by_stem.get(posixpath.splitext(name)[0]) or ()

    def _loosely(self, key: str) -> Meant:
        parts = _parts(key)
        if not parts:
            return Meant("")
        if self.kind == "name" and "/" not in key:
            found = self._by_name.get(parts) or self._by_stem.get(parts[0], [])
            return _only(found, SPELLED)
        deeper = self._deeper(len(parts)).get(parts, [])  # files of whose paths the key is the end
        for start in range(len(parts)):  # the longest end of the key that is a file
            if files := self._by_path.get(parts[start:]):
                top = ("/",) if start and key.startswith("/") else ()
                return _only([*files, *deeper] if start else files, LONGER if start else SPELLED, top + parts[:start])
        return _only(deeper, SHORTER)

    @cached_property
    def _by_path(self) -> dict[tuple[str, ...], list[str]]:
        return _listed((_parts(file), file) for file in self.files)

    @cached_property
    def _by_name(self) -> dict[tuple[str, ...], list[str]]:
        return _listed((_parts(file)[-1:], file) for file in self.files)

    def _deeper(self, length: int) -> dict[tuple[str, ...], list[str]]:
        """By the `length` last parts of their paths, the files that lie deeper; an index a length."""
        if length not in self._ends:
            split = ((_parts(file), file) for file in self.files)
            self._ends[length] = _listed((parts[-length:], file) for parts, file in split if len(parts) > length)
        return self._ends[length]

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return _listed((posixpath.splitext(_parts(file)[-1])[0], file) for file in self.files)


def outermost(before: Counter[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """Of the folders that a table writes before its files, those that can all be the source: none lies in another.

    Of two of which one does, more rows decide. What the others seem to mean is another file, that is not there. () is
    that of paths that are written from the source on; folders of a whole machine can be the source beside it.
    """
    kept: set[tuple[str, ...]] = set()
    above: set[tuple[str, ...]] = set()  # the folders that those kept lie in
    for folders, _ in sorted(before.items(), key=lambda item: (-item[1], len(item[0]))):
        whole = folders and (folders[0] == "/" or ":" in folders[0])
        parents = [folders[:n] for n in range(1 if whole else 0, len(folders))]
        if folders not in above and kept.isdisjoint(parents):
            kept.add(folders)
            above.update(parents)
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


def _only(files: Sequence[str], how: str, before: tuple[str, ...] | None = None) -> Meant:
    return Meant("") if not files else Meant(files[0], how, before) if len(files) == 1 else Meant(None)


def _listed(pairs: Iterable[tuple]) -> dict:
    found = defaultdict(list)
    for key, file in pairs:
        found[key].append(file)
    return dict(found)
