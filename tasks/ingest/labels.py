"""What the labels say of each file: its findings, and whose film it is where they know it."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path, PurePosixPath

from tasks.errors import UserError
from tasks.image_set import AND, none_there
from tasks.ingest import public_labels
from tasks.ingest.class_names import Cells, grouped, safe_name
from tasks.ingest.label_tables import Row, Table, open_table, plain
from tasks.ingest.matching import Places, names, outermost
from tasks.ingest.public_labels import Said
from tasks.params import Uncertain

Pseudonym = Callable[[str, str], str]  # of (kind, identifier)

KEY_COLUMNS = {  # of format table, the most specific first; spelled in any way that `label_tables.plain` forgives
    "path": ("path",),
    "name": ("file_name", "file", "image", "image_id"),
    "instance": ("SOPInstanceUID",),
    "series": ("SeriesInstanceUID",),
    "study": ("StudyInstanceUID",),
    "accession": ("AccessionNumber",),
    "patient": ("PatientID",),
}
OF_FILES = ("path", "name")  # the other kinds are of identifiers in a film's header
NUMBERS = ("accession", "patient")  # that spreadsheets take the leading zeros from
WITHOUT_ZEROS = "_without_zeros"  # the pseudonym of a number as a spreadsheet leaves it


@dataclass(frozen=True, slots=True)
class Entry:
    """What the labels say of one file."""

    findings: tuple[str, ...]  # in the order of the file, without repeats
    patients: frozenset[str] = frozenset()  # pseudonyms; empty when the labels name nobody
    conflict: bool = False  # rows or readers disagree, or several files bear the name that a row gives
    unknown: tuple[str, ...] = ()  # findings of which they do not say whether they are there


@dataclass
class Labels:
    """All that was read; `sentence` says for the log how rows and files were matched, without values of the table.

    `warnings` are sentences of the same kind. `renamed` gives by safe name of a finding the first entry that spells it
    otherwise. `listed`: findings come from a column of labels, and not from what may hold names of patients too.
    """

    sentence: str
    own_patients: bool  # nothing says whose films these are: each counts as its own patient
    listed: bool = False
    warnings: list[str] = field(default_factory=list)
    renamed: dict[str, int] = field(default_factory=dict)
    _rule: Callable[[str, str], Entry | None] | None = field(default=None, repr=False)
    _kind: str = ""
    _rows: "_Rows | None" = field(default=None, repr=False)
    _borne: set[str] = field(default_factory=set, repr=False)  # identifiers, as pseudonyms
    _zeros: int = 0  # films whose number differs from one of the table in leading zeros

    def find(self, path: str, ids: Mapping[str, str], tag: str) -> Entry | None:
        """The entry of a file, None without one.

        `path` is relative to the source, with slashes. `ids` are the pseudonyms of the identifiers in its header, by
        kind (see `identifiers`). `tag` is the value of the DICOM element that holds the label.
        """
        if self._rule is not None:
            return self._rule(path, tag)
        assert self._rows is not None
        if self._kind in OF_FILES:
            return self._rows.found.get(path)
        key = ids.get(self._kind, "")
        entry = self._rows.found.get(key)
        if entry:
            self._borne.add(key)
        elif key:
            without = ids.get(self._kind + WITHOUT_ZEROS, "")
            self._zeros += without in self._rows.found or key in self._rows.without_zeros
        return entry

    def nothing_said(self, path: str) -> str:
        """Why a file has no label, with the entry that comes nearest to it."""
        near = self._rows.near.get(path) if self._rows else None
        hint = f"; entry {near:,} names a file like it, in another folder or with another extension" if near else ""
        return f"the labels say nothing of this file{hint}"

    def unmatched(self) -> Counter[str]:
        """By class, the entries of a table whose film is not there; to be called when all films were looked for."""
        if self._rows is None:
            return Counter()
        result = Counter(self._rows.lost)
        for key, entry in self._rows.found.items() if self._kind not in OF_FILES else ():
            if key not in self._borne:
                result.update(entry.findings)
        return result

    def afterwards(self) -> list[str]:
        """Warnings that can only be given when all films were looked for."""
        if self._rows is None or self._kind in OF_FILES:
            return []
        column = KEY_COLUMNS[self._kind][0]
        several = f"{column}{'es' if column.endswith('s') else 's'}"
        missed = len(self._rows.found) - len(self._borne)
        hint = (
            f"{self._zeros:,} films without a label have one that differs in leading zeros alone, which spreadsheets "
            "take away: make the column text, as the header has it"
            if self._zeros
            else ""
        )
        counted = f"{missed:,} of the {len(self._rows.found):,} {several} in the table are those of no film"
        return ["; ".join(filter(None, (counted, hint)))] if missed else []


def identifiers(known: Mapping[str, str], pseudonym: Pseudonym) -> dict[str, str]:
    """The pseudonyms of a film's identifiers, by the kinds of KEY_COLUMNS, and of its numbers without leading zeros."""
    found = {kind: pseudonym(f"{kind}_id", value) for kind, value in known.items() if value}
    bare = {kind: known[kind].lstrip("0") for kind in NUMBERS if known.get(kind, "").startswith("0")}
    return found | {kind + WITHOUT_ZEROS: pseudonym(f"{kind}_id", value) for kind, value in bare.items() if value}


def read_labels(
    path: Path,
    label_format: str,
    files: Sequence[str],
    pseudonym: Pseudonym,
    classes: Sequence[str] = (),
    uncertain: Uncertain = "ignore",
    together: bool = False,
) -> Labels:
    """Read labels in one of the LabelFormats.

    `path` is the table, or for the formats without one (folder, dicom_tag, covid19_radiography, kermany) a folder.
    `files` are all files of the source, relative to it, with slashes; `pseudonym(kind, identifier)` is asked for the
    kinds patient_id, instance_id and so on. `classes` are those of `ingest.classes`, which may look like a missing
    value, and without a column `label` name the columns of findings; `uncertain` is `ingest.uncertain`. With `together`
    rows about one film, or one exam, are its findings together, and do not contradict each other; those about a patient
    do, for they may be of different times. The formats of public sets are those of `public_labels`.

    Raises UserError when `path` is not what the format takes, lacks a column, or holds a label that is no class name.
    """
    about = FORMATS[label_format]
    if (rule := about.rule) is not None:
        if not path.is_dir():
            raise UserError(
                f"{path} is no folder, but format {label_format} takes labels from the films themselves; "
                "set ingest.labels to the folder of films, as ingest.source"
            )

        def lookup(file: str, tag: str) -> Entry | None:
            said = rule(PurePosixPath(file), tag)
            return _entry(*said, pseudonym) if said else None

        if label_format == "folder":
            _check_folders(files, classes)
        return Labels(f"labels: {about.sentence}", about.own_patients, _rule=lookup)
    if path.is_dir():
        raise UserError(f"{path} is a folder, but format {label_format} takes a table; set ingest.labels to that file")
    table = open_table(path)
    keyed = _keyed_rows(table, label_format, classes, uncertain)
    rows = _collect(table, keyed, Places(keyed.kind, files), pseudonym, classes, together and keyed.kind != "patient")
    read = f", {table.said}" if table.said else ""
    specific = f" (more specific than {' and '.join(keyed.passed)})" if keyed.passed else ""
    caveat = f"; {about.sentence}" if about.sentence else ""
    return Labels(
        f"labels: {label_format}{read}, matched by {keyed.key}{specific}; {rows.counts}{caveat}",
        about.own_patients,
        listed=True,
        warnings=rows.warnings,
        renamed=rows.renamed,
        _kind=keyed.kind,
        _rows=rows,
    )


def decide(entry: Entry | None, classes: Sequence[str], multi_label: str) -> str | tuple[str, str]:
    """The class of a file, or why it has none: (reason, sentence), where the sentence holds counts and no values.

    Only findings among `classes` count, or all when `classes` is empty. Of several, `multi_label` "first" takes the
    first in the order of `classes`; "leave_out" refuses the file; "all" takes them all, sorted and joined by AND.
    """
    if entry is not None and entry.unknown and not (entry.findings or entry.conflict):
        return "uncertain", f"the labels are sure of no finding, and of {len(entry.unknown)} they do not know"
    if entry is None or not (entry.findings or entry.conflict):
        return "no_label", "the labels say nothing of this file"  # see Labels.nothing_said
    if entry.conflict:
        return "conflicting_labels", "the labels contradict each other, or name a file of which there are several"
    found = [name for name in classes or entry.findings if name in entry.findings]
    if not found:
        return "other_class", f"none of its {len(entry.findings)} findings is among the {len(classes)} ingest.classes"
    if multi_label == "all":
        if len(found) > 1 and any(map(none_there, found)):
            return "conflicting_labels", "the labels say both a finding and that there is none"
        return AND.join(sorted(found))
    if len(found) > 1 and not (multi_label == "first" and classes):
        how = "ingest.multi_label leaves such files out (all takes every finding)"
        return "several_labels", f"the labels give {len(found)} classes, and {how}"
    return found[0]


def key_of(table: Table, label_format: str) -> tuple[str, str]:
    """How the rows of a table name their files (a kind of KEY_COLUMNS), and the column that does.

    Raises UserError where the table lacks a column.
    """
    if label_format == "table":
        found = _keys(table)
        return next(iter(found.items()))
    return "name", public_labels.rows(table, label_format)[0]


@dataclass(frozen=True)
class _Keyed:
    """A table's rows, the column that says which file they are about, its kind, and less specific ones it has too."""

    kind: str
    key: str
    rows: Iterator[Row]
    passed: tuple[str, ...] = ()


def _keyed_rows(table: Table, label_format: str, classes: Sequence[str], uncertain: Uncertain) -> _Keyed:
    if label_format == "table":
        return _table(table, classes, uncertain)
    key, rows = public_labels.rows(table, label_format, uncertain)
    return _Keyed("name", key, rows)


def _table(table: Table, classes: Sequence[str], uncertain: Uncertain) -> _Keyed:
    """A table of one's own: the most specific key counts, and beside another one PatientID says whose film it is.

    Without a column `label` the columns that `classes` name are findings.
    """
    found = _keys(table, classes)
    (kind, key), *others = found.items()
    passed = tuple(column for other, column in others if other != "patient" or kind not in OF_FILES)
    patient = found.get("patient")
    if label := table.column("label"):
        return _Keyed(kind, key, table.labelled_rows(key, label, patient), passed)
    none = next(filter(none_there, classes), "")
    findings = _finding_columns(table, classes)
    return _Keyed(kind, key, table.rows_of_columns(key, findings, patient, uncertain, none), passed)


def _keys(table: Table, classes: Sequence[str] = ()) -> dict[str, str]:
    """The columns that say which file a row is about, by kind. Raises UserError without one, and without labels."""
    keys = f"one of {', '.join(name for columns in KEY_COLUMNS.values() for name in columns)}"
    needed = f"label and {keys}"
    if not table.column("label") and not _finding_columns(table, classes):
        if classes:
            needed += ", or in place of label a column of 1 and 0 for each of ingest.classes"
        table.needed("label", needed)
    found = {kind: column for kind, columns in KEY_COLUMNS.items() if (column := table.column(*columns))}
    if not found:
        table.refuse("no column that says which file a row is about", needed)
    return found


def _finding_columns(table: Table, classes: Sequence[str]) -> dict[str, str]:
    """By column the class that it is of; empty unless all `classes` have one, but for that of no finding."""
    columns = {plain(safe_name(column)): column for column in reversed(table.columns)}
    found = {columns[plain(name)]: name for name in classes if plain(name) in columns}
    lacking = [name for name in classes if plain(name) not in columns and not none_there(name)]
    return {} if lacking else found


def _entry(findings: tuple[str, ...], patient: str, conflict: bool, pseudonym: Pseudonym) -> Entry:
    return Entry(findings, frozenset([pseudonym("patient_id", patient)] if patient else []), conflict)


@dataclass
class _Rows:
    """What the rows of a table say, by path of the source or by pseudonym, and what came of them."""

    found: dict[str, Entry] = field(default_factory=dict)
    counts: str = ""  # for the log
    lost: Counter[str] = field(default_factory=Counter)  # by finding, entries for no file
    near: dict[str, int] = field(default_factory=dict)  # by file, the entry that names one like it
    renamed: dict[str, int] = field(default_factory=dict)  # by safe name, the first entry that spells it otherwise
    without_zeros: set[str] = field(default_factory=set)  # of the numbers that begin with zeros, the rest's pseudonyms
    warnings: list[str] = field(default_factory=list)


def _collect(
    table: Table, keyed: _Keyed, places: Places, pseudonym: Pseudonym, classes: Sequence[str], together: bool
) -> _Rows:
    """Rows about the same file, or the same identifier, become one entry."""
    kind, result, cells = keyed.kind, _Rows(), Cells(table.path, classes)
    found = result.found

    @cache
    def entry(findings: tuple[str, ...], patient: str, conflict: bool, unknown: tuple[str, ...]) -> Entry:
        return replace(_entry(findings, patient, conflict, pseudonym), unknown=unknown)

    loose: dict[str, list[tuple[str, str, tuple[str, ...], Entry, int]]] = {}  # by file: key, how, before, entry, row
    shared: set[str] = set()
    told: set[str] = set()  # names of files to which the entry that comes nearest was found
    before: Counter[tuple[str, ...]] = Counter()  # folders that only the table writes
    lost = near = number = 0
    first_near = 0
    for number, row in enumerate(keyed.rows, start=1):
        name = row.key
        unknown = cells.findings(row.unknown, number)
        said = entry(cells.findings(row.findings, number), row.patient, row.conflict, unknown)
        if kind not in OF_FILES:
            if not name:
                lost += 1
                continue
            place = pseudonym(f"{kind}_id", name)
            found[place] = _joined(found.get(place), said, together)
            if kind in NUMBERS and name.startswith("0"):
                result.without_zeros.add(pseudonym(f"{kind}_id", name.lstrip("0")))
            continue
        meant = places.find(name)
        if meant.place is None:
            shared.add(name)
        elif not meant.place:
            lost += 1
            result.lost.update(said.findings)
            if alike := places.namesakes(name):
                near, first_near = near + 1, first_near or number
                last = names(name.replace("\\", "/"))[0]
                for file in () if last in told else alike:
                    result.near.setdefault(file, number)
                told.add(last)
        elif meant.how:
            loose.setdefault(meant.place, []).append((name, meant.how, meant.before or (), said, number))
        else:
            found[meant.place] = _joined(found.get(meant.place), said, together)
        if meant.before is not None:
            before[meant.before] += 1
    cells.check()
    result.renamed = {safe: entry for text, (safe, entry) in cells.names.items() if safe != text}

    kept = outermost(before)
    hows: Counter[str] = Counter()
    for file, rows in loose.items():
        rows = [row for row in rows if not row[2] or row[2] in kept]
        for _, how, _, said, _ in rows:
            hows[how] += 1
            found[file] = _joined(found.get(file), said, together)
        if len({name for name, *_ in rows}) > 1:  # two ways to write it can be two films
            found[file] = Entry((), conflict=True)
    for file, rows in loose.items():
        for _, _, folders, said, entry_number in rows:
            if folders and folders not in kept:
                lost, near, first_near = lost + 1, near + 1, first_near or entry_number
                result.lost.update(said.findings)
                result.near.setdefault(file, entry_number)

    stems = {names(file)[0] for file in places.files} if shared else set()
    for file in places.files if shared else ():
        name, stem = names(file)
        if name in shared or (stem in shared and stem not in stems):
            found.setdefault(file, Entry((), conflict=True))  # but for those of which another row says the path
    what = "for no file of the source" if kind in OF_FILES else "without an identifier"
    parts = [
        f"{number:,} entries",
        *(f"{count:,} {how}" for how, count in hows.items()),
        *([f"{lost:,} {what}"] if lost else []),
        *([f"{len(shared):,} names of several files"] if shared else []),
    ]
    result.counts = ", ".join(parts)
    if near:
        result.warnings.append(
            f"{near:,} of the {lost:,} entries for no file name one that is there in another folder or with another "
            f"extension, entry {first_near:,} for one; quarantine.csv names the nearest entry beside each file"
        )
    if cells.missing:
        result.warnings.append(
            f"{cells.missing:,} entries say NA or the like, which is read as no label; a class of that name must be "
            "among ingest.classes"
        )
    return result


def _joined(old: Entry | None, new: Entry, together: bool) -> Entry:
    if old is None or old == new:
        return new
    findings = old.findings or new.findings
    differ = bool(old.findings and new.findings) and set(old.findings) != set(new.findings)
    if together:
        findings, differ = tuple(dict.fromkeys((*old.findings, *new.findings))), False
    unknown = tuple(name for name in dict.fromkeys((*old.unknown, *new.unknown)) if name not in findings)
    return Entry(findings, old.patients | new.patients, old.conflict or new.conflict or differ, unknown)


def _check_folders(files: Sequence[str], classes: Sequence[str]) -> None:
    """Raises UserError where folders of different names would become one of `classes`."""
    folders = {name for file in files for name in file.split("/")[:-1]}
    named = grouped((name, safe_name(name)) for name in folders)
    if twice := next((name for name in classes if len(named.get(name, ())) > 1), None):
        raise UserError(
            f"ingest.classes: folders of {len(named[twice])} names become class {twice!r}, for they differ in slashes, "
            "brackets or the like alone, which no class name may have; rename them"
        )


def _folder(path: PurePosixPath, _tag: str) -> Said | None:
    """The folders that hold the file, the nearest first; which of them are classes, ingest.classes says."""
    found = tuple(dict.fromkeys(safe for name in reversed(path.parts[:-1]) if (safe := safe_name(name))))
    return (found, "", False) if found else None


def _dicom_tag(_path: PurePosixPath, tag: str) -> Said | None:
    """The element's values that are among ingest.classes; its other text does not come this far."""
    found = tuple(dict.fromkeys(safe for name in tag.split("\\") if (safe := safe_name(name)))) if tag else ()
    return (found, "", False) if found else None


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
    "chexpert": Format("lateral views are left out; whose film it is stands in its path"),
    "padchest": Format("films that its table does not call PA or AP are left out"),
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
