"""Which of the films are taken: labels and patients joined, duplicates found, split by patient, losses counted."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pandas as pd

from tasks.errors import UserError
from tasks.image_set import AND, SPLITS
from tasks.ingest.class_names import twins
from tasks.ingest.films.decode import Quarantined
from tasks.ingest.labels import Entry, Labels, decide
from tasks.ingest.split import split_patients, thinned
from tasks.params import Ingest, Split
from tasks.shown.numbers import percent

Pseudonym = Callable[[str, str], str]  # of (kind, identifier)

NO_FILM = "no_film"  # beside the reasons of the quarantine: an entry of the table whose film is not there
ONE_PATIENT = 0.5  # share of the films above which a PatientID is taken for that of an archive that was anonymised
MANY = 40  # films from which shares tell something
NEARLY = 0.9  # of the films, from which all of them have what a class could be told by
FAR_OFF = 0.05  # of the share of films that a split was to have


class Taken(NamedTuple):
    """A film that becomes a row of the manifest; `patient` is a pseudonym.

    `label` is its class, or its findings joined by AND; `unknown` are those of which the labels do not know, likewise.
    """

    digest: str
    label: str
    patient: str
    unknown: str = ""

    @property
    def findings(self) -> tuple[str, ...]:
        """Its class, or all of its findings."""
        return tuple(self.label.split(AND))


@dataclass(frozen=True)
class Settled:
    """`taken`: films with their paths. `refused`: a row for each of the others. `borne`: films by finding.

    `forms`: the films taken by label and by what they came as and how they are shown, e.g. "PNG, as stored".
    `decision`: what `multi_label` auto makes of them, and why, for the log; '' where the params say it.
    """

    taken: list[tuple[str, Taken]]
    refused: list[Quarantined]
    borne: Counter[str]
    forms: Counter[tuple[str, str]]
    decision: str

    def labels(self) -> Counter[str]:
        """Films taken, by class."""
        return Counter(name for _, row in self.taken for name in row.findings)


def settle(
    digests: Mapping[str, str],
    record: Callable[[str], Mapping[str, Any]],
    unread: Iterable[Quarantined],
    table: Labels,
    params: Ingest,
    pseudonym: Pseudonym,
) -> Settled:
    """Join films with labels and patients; of films that show the same picture the first is taken.

    The same picture under two labels or of two patients is a conflict, and none of its files is taken. `digests` by
    path; `record(digest)` is what the store keeps of a film. `unread` are refused already.
    """
    refused: list[Quarantined] = []
    films: list[tuple[str, str, Taken, str]] = []
    borne: Counter[str] = Counter()
    first: dict[str, Taken] = {}  # by picture
    conflicts: dict[str, tuple[str, str]] = {}  # by picture: reason and sentence
    for row in unread:
        entry = table.find(row.path, {}, "")
        borne.update(entry.findings if entry else ())
        refused.append(replace(row, classes=_classes(entry, params.classes)))
    entries, readable = _looked_up(digests, record, table)
    params, decision = _decided(readable, params)
    for path, digest in digests.items():
        film, entry = record(digest), entries[path]
        borne.update(entry.findings if entry else ())
        answer = _label_and_patient(path, film, entry, table, params, pseudonym)
        if isinstance(answer, Quarantined):
            refused.append(replace(answer, digest=digest, classes=_classes(entry, params.classes)))
            continue
        picture, taken = film["picture"], Taken(digest, *answer)
        known = first.setdefault(picture, taken)
        if (known.label, known.unknown) != (taken.label, taken.unknown):
            conflicts[picture] = "conflicting_labels", "the same picture comes with different labels"
        elif known.patient != taken.patient:
            conflicts.setdefault(
                picture, ("conflicting_patients", "the same picture comes as that of several patients")
            )
        films.append((path, picture, taken, sys.intern(_form(film))))
    kept: list[tuple[str, Taken]] = []
    forms: Counter[tuple[str, str]] = Counter()
    for path, picture, taken, form in films:
        if picture in conflicts:
            refused.append(Quarantined(path, *conflicts[picture], taken.digest, taken.findings))
        elif first[picture] is not taken:
            sentence = "a film with the same picture was taken already"
            refused.append(Quarantined(path, "duplicate", sentence, taken.digest, taken.findings))
        else:
            kept.append((path, taken))
            forms[taken.label, form] += 1
    return Settled(kept, refused, borne, forms, decision)


def assign_splits(
    settled: list[tuple[str, Taken]], params: Ingest
) -> tuple[list[tuple[Taken, str]], list[Quarantined]]:
    """The films with their splits, and those that `thin_train` leaves out.

    Raises UserError for a class that cannot be in every split, and says so where that is for one PatientID's sake.
    """
    films = pd.DataFrame([(row.patient, row.findings) for _, row in settled], columns=["patient_id", "label"])
    try:
        splits = split_patients(films, params.split, params.seed)
    except UserError:
        if crowd := _crowd(settled):
            raise UserError(crowd) from None
        raise
    dropped = thinned(films, splits, params.thin_train)
    sentence = "one of the train films that ingest.thin_train leaves out"
    kept = [(row, str(splits[i])) for i, (_, row) in enumerate(settled) if i not in dropped]
    left = [settled[i] for i in sorted(dropped)]
    return kept, [Quarantined(path, "thinned", sentence, row.digest, row.findings) for path, row in left]


def losses(refused: Iterable[Quarantined], unmatched: Mapping[str, int], classes: Sequence[str]) -> dict[str, Any]:
    """By class the films that are lost to it, by reason; one with several classes is lost to each of them.

    `unmatched`: entries of the table without a film, by finding. Only `classes` count, or all when there are none.
    """
    counted = Counter((name, row.reason) for row in refused for name in row.classes)
    counted.update({(name, NO_FILM): n for name, n in unmatched.items() if n and (name in classes or not classes)})
    result: dict[str, dict[str, int]] = {}
    for (name, reason), n in sorted(counted.items(), key=lambda item: (item[0][0], -item[1], item[0][1])):
        result.setdefault(name, {})[reason] = n
    return result


def by_class(taken: Mapping[str, int], lost: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """A line for each class: how many films are taken, and how many are lost for which reason."""
    for name in sorted({*taken, *lost}):
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in lost.get(name, {}).items())
        yield f"  {name}: {taken.get(name, 0):,} taken" + (f"; not taken: {reasons}" if reasons else "")


def warnings(settled: Settled, table: Labels, params: Ingest) -> Iterator[str]:
    """What is easily overlooked in labels and patients, each as a sentence that names classes alone."""
    labels = settled.labels()
    if made := [name for name in table.renamed if name in labels]:
        listed = ", ".join(f"{name} (entry {table.renamed[name]:,})" for name in made)
        yield f"no class name may have slashes, brackets and the like; taken without them are {listed}"
    yield from table.afterwards()
    yield from twins(settled.borne, params.classes)
    if len(labels) == 1:
        yield f"all films are of one class, {next(iter(labels))}; there is nothing to tell it from"
    yield from _never_absent(settled, labels)
    yield from _confounded(settled.forms)
    if params.patients == "ignored":
        yield "ingest.patients is ignored: every film counts as its own patient, whoever it is of"
    elif crowd := _crowd(settled.taken):
        yield crowd


def far_off(splits: Sequence[str], asked: Split) -> Iterator[str]:
    """A warning for each split whose share of the films is far from its share of the patients, which was asked for."""
    counts = Counter(splits)
    for name in SPLITS:
        share, wanted = counts[name] / max(1, len(splits)), getattr(asked, name)
        if len(splits) >= MANY and abs(share - wanted) > FAR_OFF:
            yield (
                f"the {name} split has {counts[name]:,} of {len(splits):,} films, {percent(share, 0)} where "
                f"{percent(wanted, 0)} of the patients were asked for, since some have many films; another ingest.seed "
                "draws other patients"
            )


def _looked_up(
    digests: Mapping[str, str], record: Callable[[str], Mapping[str, Any]], table: Labels
) -> tuple[dict[str, Entry | None], list[Entry | None]]:
    """By path what the labels say of each film, and a list of what they say of those that can be taken."""
    entries: dict[str, Entry | None] = {}
    readable: list[Entry | None] = []
    for path, digest in digests.items():
        film = record(digest)
        entries[path] = table.find(path, film["ids"], film["label"])
        if not film["reason"]:
            readable.append(entries[path])
    return entries, readable


def _decided(entries: Sequence[Entry | None], params: Ingest) -> tuple[Ingest, str]:
    """The params with "all" or "leave_out" in place of `multi_label` auto, and for the log what was decided and why.

    What counts is one label that says several findings of a film: a cell "A|B", a 1 in two columns. Rows that differ
    are not joined for it, for they may contradict each other; nor are folders within folders.
    """
    if params.multi_label != "auto":
        return params, ""
    in_folders = params.label_format == "folder"
    labels = [decide(entry, params.classes, "all") for entry in entries if not in_folders]
    several = sum(isinstance(label, str) and AND in label for label in labels)
    if several:
        decision = (
            f"several findings a film: {several:,} of {len(entries):,} films have more than one in their label, and "
            "each of them counts; ingest.multi_label: leave_out would leave these films out and keep one class a film"
        )
    else:
        why = "as label_format folder has it" if in_folders else "for no label of a film says several findings"
        decision = f"one class a film, {why}; ingest.multi_label: all would take all rows about a film together"
    return params.model_copy(update={"multi_label": "all" if several else "leave_out"}), decision


def _form(film: Mapping[str, Any]) -> str:
    facts = film.get("facts", {})
    return ", ".join(str(facts[name]) for name in ("source_format", "display") if facts.get(name))


def _never_absent(settled: Settled, labels: Iterable[str]) -> Iterator[str]:
    """A warning for each finding that no film is known to be without, as where a table has 1 and empty cells alone."""
    said = {(row.findings, *row.unknown.split(AND)) for _, row in settled.taken}
    for name in sorted(labels):
        if any(name in unknown for _, *unknown in said) and all(name in (*there, *unknown) for there, *unknown in said):
            yield (
                f"no film is known to be without {name}, for neither an empty cell nor -1 says so; write 0 where it is "
                "not there, or set ingest.uncertain: negative"
            )


def _confounded(forms: Counter[tuple[str, str]]) -> Iterator[str]:
    """A warning for each class that all but coincides with a form of its films."""
    total = forms.total()
    for label in sorted({name for names, _ in forms for name in names.split(AND)}):
        own: Counter[str] = Counter()
        for (names, form), n in forms.items():
            own[form] += n * (label in names.split(AND))
        (form, n), of_class = own.most_common(1)[0], own.total()
        others = sum(m for (names, other), m in forms.items() if other == form and label not in names.split(AND))
        if of_class < total >= MANY and n >= NEARLY * of_class and others <= (1 - NEARLY) * (total - of_class):
            yield (
                f"{n:,} of {of_class:,} films of {label} are {form}, and {others:,} of the {total - of_class:,} "
                "others: what differs between ways to store and to show a film can be taken for the class"
            )


def _crowd(settled: list[tuple[str, Taken]]) -> str:
    """What to do where one patient seems to have most of the films; '' where none does."""
    patients = Counter(row.patient for _, row in settled)
    most = max(patients.values(), default=0)
    if len(settled) < 4 or most <= ONE_PATIENT * len(settled):
        return ""
    return (
        f"one PatientID holds {most:,} of {len(settled):,} films, as where an archive was anonymised; say in a column "
        "patient_id of the labels whose they are, or set ingest.patients: ignored, and every film is its own patient"
    )


def _classes(entry: Entry | None, classes: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in entry.findings if name in classes or not classes) if entry else ()


def _label_and_patient(
    path: str, film: Mapping[str, Any], entry: Entry | None, table: Labels, params: Ingest, pseudonym: Pseudonym
) -> tuple[str, str, str] | Quarantined:
    if film["reason"]:
        return Quarantined(path, film["reason"], film["sentence"])
    label = decide(entry, params.classes, params.multi_label)
    if not isinstance(label, str):
        reason, sentence = label
        return Quarantined(path, reason, table.nothing_said(path) if reason == "no_label" else sentence)
    patients = entry.patients if entry else frozenset()
    if len(patients) > 1 and params.patients != "ignored":
        return Quarantined(path, "conflicting_patients", f"the labels name {len(patients)} patients for this file")
    patient = next(iter(patients), film["ids"].get("patient", ""))
    alone = params.patients == "ignored" or (not patient and params.patients == "per_file")
    if table.own_patients or alone:
        patient = pseudonym("patient_id", f"of {film['picture']}")
    if not patient:
        return Quarantined(path, "no_patient", "neither a PatientID in the file nor a patient in the labels")
    unknown = sorted(_classes(replace(entry, findings=entry.unknown), params.classes)) if entry else []
    return sys.intern(label), patient, sys.intern(AND.join(unknown if params.multi_label == "all" else []))
