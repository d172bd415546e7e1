"""What the labels say of each file: its findings, and whose film it is where they know it."""

import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath

from tasks.errors import UserError
from tasks.image_set import CLASS_NAME
from tasks.ingest import public_labels
from tasks.ingest.label_tables import Row, Table, open_table
from tasks.ingest.public_labels import Said

Pseudonym = Callable[[str, str], str]  # of (kind, identifier)

PATIENT_COLUMNS = ("PatientID", "patient_id")
KEY_COLUMNS = {  # of format table, in the order in which they are looked for; capitals don't matter
    "path": ("path",),
    "name": ("file_name", "filename", "file", "image", "image_id"),
    "instance": ("SOPInstanceUID", "sop_instance_uid"),
    "patient": PATIENT_COLUMNS,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """What the labels say of one file."""

    findings: tuple[str, ...]  # in the order of the file, without repeats
    patients: frozenset[str] = frozenset()  # pseudonyms; empty when the labels name nobody
    conflict: bool = False  # rows or readers disagree, or several files bear the name that a row gives


@dataclass(frozen=True)
class Labels:
    """All that was read; `sentence` says for the log how rows and files were matched, without values of the table."""

    sentence: str
    own_patients: bool  # nothing says whose films these are: each counts as its own patient
    _lookup: Callable[[str, str, str, str], Entry | None] = field(repr=False)

    def find(self, path: str, instance: str, patient: str, tag: str) -> Entry | None:
        """The entry of a file, None without one.

        `path` is relative to the source, with slashes. `instance` and `patient` are the pseudonyms of SOPInstanceUID
        and PatientID, '' when unknown. `tag` is the value of the DICOM element that holds the label.
        """
        return self._lookup(path, instance, patient, tag)


def read_labels(path: Path, label_format: str, files: Sequence[str], pseudonym: Pseudonym) -> Labels:
    """Read labels in one of the LabelFormats.

    `path` is the table, or for the formats without one (folder, dicom_tag, covid19_radiography, kermany) a folder.
    `files` are all files of the source, relative to it, with slashes; `pseudonym(kind, identifier)` is asked for the
    kinds patient_id and instance_id. The formats of public sets are those of `public_labels`.

    Raises UserError when `path` is not what the format takes, lacks a column, or holds a label that is no class name.
    """
    about = FORMATS[label_format]
    if (rule := about.rule) is not None:
        if not path.is_dir():
            raise UserError(
                f"{path} is no folder, but format {label_format} takes labels from the films themselves; "
                "set ingest.labels to the folder of films, as ingest.source"
            )

        def lookup(file: str, _instance: str, _patient: str, tag: str) -> Entry | None:
            said = rule(PurePosixPath(file), tag)
            return _entry(*said, pseudonym) if said else None

        return Labels(f"labels: {about.sentence}", about.own_patients, lookup)
    if path.is_dir():
        raise UserError(f"{path} is a folder, but format {label_format} takes a table; set ingest.labels to that file")
    table = open_table(path)
    kind, key, rows = _keyed_rows(table, label_format)
    found, counts = _collect(path, kind, rows, files, pseudonym)
    known_by = {"path": 0, "name": 0, "instance": 1, "patient": 2}[kind]
    caveat = f"; {about.sentence}" if about.sentence else ""
    return Labels(
        f"labels: {label_format}, matched by {key}; {counts}{caveat}",
        about.own_patients,
        lambda *known: found.get(known[known_by]),
    )


def decide(entry: Entry | None, classes: Sequence[str], multi_label: str) -> str | tuple[str, str]:
    """The class of a file, or why it has none: (reason, sentence), where the sentence holds counts and no values.

    Only findings among `classes` count, or all when `classes` is empty. Of several, `multi_label` "first" takes the
    first in the order of `classes`; "leave_out" refuses the file.
    """
    if entry is None or not (entry.findings or entry.conflict):
        return "no_label", "the labels say nothing of this file"
    if entry.conflict:
        return "conflicting_labels", "the labels contradict each other, or name a file of which there are several"
    found = [name for name in classes or entry.findings if name in entry.findings]
    if not found:
        return "other_class", f"none of its {len(entry.findings)} findings is among the {len(classes)} ingest.classes"
    if len(found) > 1 and not (multi_label == "first" and classes):
        return "several_labels", f"the labels give {len(found)} classes, and ingest.multi_label leaves such files out"
    return found[0]


def key_of(table: Table, label_format: str) -> tuple[str, str]:
    """How the rows of a table name their files (path, name, instance or patient), and the column that does.

    Raises UserError where the table lacks a column.
    """
    kind, key, _ = _keyed_rows(table, label_format)
    return kind, key


def _keyed_rows(table: Table, label_format: str) -> tuple[str, str, Iterator[Row]]:
    if label_format == "table":
        return _table(table)
    key, rows = public_labels.rows(table, label_format)
    return "name", key, rows


def _table(table: Table) -> tuple[str, str, Iterator[Row]]:
    """The kind of key, its column and the rows of a table of one's own; the first key column that is known counts."""
    needed = f"label and one of {', '.join(name for names in KEY_COLUMNS.values() for name in names)}"
    label = table.needed("label", needed)
    for kind, names in KEY_COLUMNS.items():
        if key := table.column(*names):
            return kind, key, table.labelled_rows(key, label, table.column(*PATIENT_COLUMNS))
    table.refuse("no column that says which file a row is about", needed)


def _entry(findings: tuple[str, ...], patient: str, conflict: bool, pseudonym: Pseudonym) -> Entry:
    return Entry(findings, frozenset([pseudonym("patient_id", patient)] if patient else []), conflict)


def _collect(
    path: Path, kind: str, rows: Iterable[Row], files: Sequence[str], pseudonym: Pseudonym
) -> tuple[dict[str, Entry], str]:
    """Entries by path of the source (kinds path and name) or by pseudonym, and the counts for the log.

    Rows about the same file, or the same identifier, become one entry.
    """

    @cache  # many rows, few labels
    def are_classes(findings: tuple[str, ...]) -> bool:
        return all(CLASS_NAME.fullmatch(name) for name in findings)

    @cache
    def entry(findings: tuple[str, ...], patient: str, conflict: bool) -> Entry:
        return _entry(findings, patient, conflict, pseudonym)

    of_files = kind in ("path", "name")
    place_of = places_of(kind, files) if of_files else lambda key: pseudonym(f"{kind}_id", key) if key else ""
    found: dict[str, Entry] = {}
    shared: set[str] = set()
    count = lost = 0
    for name, findings, patient, conflict in rows:
        place = place_of(name)
        count += 1
        if not are_classes(findings):  # what stands there is not quoted: in a wrong column it may be somebody's name
            raise UserError(
                f"{path}: the label of entry {count:,} is no class name; use letters, digits, '_', '-', '.' and blanks"
            )
        if place is None:
            shared.add(name)
        elif place:
            found[place] = _joined(found.get(place), entry(findings, patient, conflict))
        else:
            lost += 1
    whole = {posixpath.basename(file) for file in files} if shared else set()
    for file in files if shared else ():
        name, stem = _names(file)
        if name in shared or (stem in shared and stem not in whole):
            found[file] = Entry((), conflict=True)
    what = "for no file of the source" if of_files else "without an identifier"
    counts = [f"{count:,} entries", *([f"{lost:,} {what}"] if lost else [])]
    return found, ", ".join([*counts, *([f"{len(shared):,} names of several files"] if shared else [])])


def _joined(old: Entry | None, new: Entry) -> Entry:
    if old is None or old == new:
        return new
    differ = bool(old.findings and new.findings) and set(old.findings) != set(new.findings)
    conflict = old.conflict or new.conflict or differ
    return Entry(old.findings or new.findings, old.patients | new.patients, conflict)


def places_of(kind: str, files: Sequence[str]) -> Callable[[str], str | None]:
    """From the key of a row, a path or a name, to its file: '' for none, None when several files bear the name."""
    paths = frozenset(files)
    by_name: dict[str, str | None] = {}
    stems: dict[str, str | None] = {}
    for file in files if kind == "name" else ():
        name, stem = _names(file)
        for known, key in ((by_name, name), (stems, stem)):
            known[key] = None if key in known else file
    by_name = {**stems, **by_name}  # a whole name before one without its extension

    def place(key: str) -> str | None:
        key = key.replace("\\", "/")
        if kind == "name" and "/" not in key:
            return by_name.get(key, "")
        path = posixpath.normpath(key)
        return path if path in paths else ""

    return place


def _names(file: str) -> tuple[str, str]:
    """The name of a file with and without its extension."""
    name = posixpath.basename(file)
    return name, posixpath.splitext(name)[0]


def _folder(path: PurePosixPath, _tag: str) -> Said | None:
    """The folders that hold the file, the nearest first; which of them are classes, ingest.classes says."""
    names = tuple(dict.fromkeys(name for name in reversed(path.parts[:-1]) if CLASS_NAME.fullmatch(name)))
    return (names, "", False) if names else None


def _dicom_tag(_path: PurePosixPath, tag: str) -> Said | None:
    """The element's values that are among ingest.classes; its other text does not come this far."""
    names = tuple(dict.fromkeys(tag.split("\\"))) if tag else ()
    return (names, "", False) if names else None


@dataclass(frozen=True, slots=True)
class Format:
    """One of the LabelFormats: what the log says of it, and what is known of patients.

    `own_patients`: it does not say whose film an image is, so each counts as its own patient. `rule` gives what is said
    of a file by its path and the value of its DICOM element; None where a table says it.
    """

    sentence: str = ""
    own_patients: bool = False
    rule: Callable[[PurePosixPath, str], Said | None] | None = None


_OWN_PATIENT = "does not say whose film it is, so every image counts as its own patient"
FORMATS = {
    "table": Format(),
    "folder": Format("the names of the folders that hold a file", rule=_folder),
    "dicom_tag": Format("the value of the DICOM element ingest.label_tag", rule=_dicom_tag),
    "chestxray14": Format(),
    "rsna": Format("its patientId stands for one film, and a person may have several"),
    "vindr": Format(f"VinDr-CXR {_OWN_PATIENT}", own_patients=True),
    "covid19_radiography": Format(
        f"the folders of the COVID-19 Radiography Database, which {_OWN_PATIENT}",
        own_patients=True,
        rule=lambda path, _tag: public_labels.covid19_radiography(path),
    ),
    "kermany": Format(
        "the file names of Kermany's set; their number of a person is the best key to a patient that there is",
        rule=lambda path, _tag: public_labels.kermany(path),
    ),
}
