"""Findings as tables spell them, and classes as `ingest.classes` does: safe names, and what is easily mistaken."""

import difflib
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from tasks.errors import UserError
from tasks.image_set import CLASS_NAME

MISSING = {"na", "n/a", "n.a.", "#n/a", "nan", "null"}  # how programs write that a cell is empty, in small letters
DASHED, LEFT_OUT = (
    re.compile("[/+&]"),
    re.compile(r"[()\[\]:]"),
)  # a comma is left alone: it is found in names of people


def safe_name(text: str) -> str:
    """`text` as the name of a class, which also names folders, columns and metrics; '' where it cannot be one.

    Slashes become dashes, "Nodule-Mass", and brackets and colons go, "Pneumonia suspected".
    """
    if CLASS_NAME.fullmatch(text):
        return text
    name = " ".join(LEFT_OUT.sub(" ", DASHED.sub("-", text)).split()).rstrip("-")
    return name if CLASS_NAME.fullmatch(name) else ""


def safe_classes(classes: Sequence[str]) -> list[str]:
    """The safe names of `ingest.classes`. Raises UserError for one that has none, and for two that have the same."""
    found = {name: safe_name(name) for name in classes}
    for name, safe in found.items():
        if not safe:
            raise UserError(f"ingest.classes: {name!r} is no class name; use letters, digits, '_', '-', '.' and blanks")
    by_safe = grouped(found.items())
    if twice := next((names for names in by_safe.values() if len(names) > 1), None):
        raise UserError(f"ingest.classes: {' and '.join(map(repr, twice))} become the same name; leave one of them out")
    return list(found.values())


def grouped(named: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """By what they become, the names of (name, what it becomes)."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, becomes in named:
        found[becomes].append(name)
    return dict(found)


class Cells:
    """The findings of a table's cells under safe names; values that are missing are counted."""

    def __init__(self, path: Path, classes: Sequence[str]) -> None:
        self.path, self.classes = path, {name.casefold() for name in classes}
        self.missing = 0
        self.names: dict[str, tuple[str, int]] = {}  # by finding as it is written: its safe name, and the first entry
        self._known: dict[tuple[str, ...], tuple[tuple[str, ...], bool]] = {}  # many rows, few labels

    def findings(self, texts: tuple[str, ...], number: int) -> tuple[str, ...]:
        """Raises UserError for one that is no class name: what stands there may be somebody's name, and is not said."""
        if texts not in self._known:
            there = [text for text in texts if text.casefold() not in MISSING - self.classes]
            for text in there:
                if not (safe := safe_name(text)):
                    raise UserError(
                        f"{self.path}: the label of entry {number:,} is no class name; use letters, digits, '_', '-', "
                        "'.' and blanks"
                    )
                self.names.setdefault(text, (safe, number))
            safe_ones = tuple(dict.fromkeys(self.names[text][0] for text in there))
            self._known[texts] = safe_ones, len(there) < len(texts)
        found, some_missing = self._known[texts]
        self.missing += some_missing
        return found

    def check(self) -> None:
        """Raises UserError where two findings become the same name."""
        first: dict[str, int] = {}
        for safe, number in self.names.values():
            if safe in first:
                raise UserError(
                    f"{self.path}: the labels of entries {first[safe]:,} and {number:,} differ in slashes, brackets or "
                    "the like alone, which no class name may have; spell them alike, or so that they differ in letters"
                )
            first[safe] = number


def twins(films: Mapping[str, int], classes: Collection[str]) -> list[str]:
    """A warning for each name that some films bear and others with other capitals or blanks.

    `films`: how many films bear each finding. `classes`: those of `ingest.classes`, or none where all are taken.
    """
    found = []
    for names in grouped((name, _spelling(name)) for name in sorted({*films, *classes})).values():
        counts = ", ".join(f"{name!r} of {films.get(name, 0):,} films" for name in names)
        left_out = [name for name in names if films.get(name) and name not in classes]
        if len(names) > 1 and not classes:
            found.append(f"labels that differ in capitals or blanks alone are different classes: {counts}")
        elif len(names) > 1 and left_out and any(name in classes for name in names):
            found.append(f"labels that differ from ingest.classes in capitals or blanks alone are left out: {counts}")
    return found


def check_present(classes: Sequence[str], taken: Mapping[str, int], films: Mapping[str, int], listed: bool) -> None:
    """Raises UserError for a class of `ingest.classes` of which no film is `taken`.

    `films` as in `twins`. `listed`: their names come from a column of labels, so that any may be named: those of
    folders could be of patients.
    """
    for name in classes:
        if not taken.get(name):
            raise UserError(f"ingest.classes names {name!r}, {_why(name, classes, films, listed)}")


def absent(classes: Sequence[str], films: Mapping[str, int], listed: bool) -> str:
    """What `check_present` says of the first class that no film bears, refused or not; '' where all are borne."""
    name = next((name for name in classes if not films.get(name)), "")
    return f"ingest.classes names {name!r}, {_why(name, classes, films, listed)}" if name else ""


def _why(name: str, classes: Sequence[str], films: Mapping[str, int], listed: bool) -> str:
    if films.get(name):
        return (
            f"and none of the {films[name]:,} films that are labelled so can be taken; see the losses by class above, "
            "or leave it out there"
        )
    others = {_spelling(other): other for other in films if other not in classes}
    near = [_spelling(name)] if _spelling(name) in others else []
    if listed and not near:
        near = difflib.get_close_matches(_spelling(name), list(others), n=1)
    hint = f": is {others[near[0]]!r} meant, as the labels say of {films[others[near[0]]]:,} films?" if near else ""
    return f"and no film is labelled so; correct it or leave it out{hint}"


def _spelling(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()
