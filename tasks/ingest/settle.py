"""Which of the decoded films are taken: labels and patients joined, duplicates found, split by patient."""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd

from tasks.ingest.cache import DecodedFiles
from tasks.ingest.films.decode import Quarantined
from tasks.ingest.labels import Labels, decide
from tasks.ingest.split import split_patients, thinned
from tasks.params import Ingest

Pseudonym = Callable[[str, str], str]  # of (kind, identifier)


class Taken(NamedTuple):
    """A film that becomes a row of the manifest; `patient` is a pseudonym."""

    digest: str
    label: str
    patient: str


def settle(
    digests: dict[str, str], store: DecodedFiles, table: Labels, params: Ingest, pseudonym: Pseudonym
) -> tuple[list[tuple[str, Taken]], list[Quarantined]]:
    """Join films with labels and patients; of films that show the same picture the first is taken.

    The same picture under two labels or of two patients is a conflict, and none of its files is taken. `digests` by
    path; the films that are taken come back with their paths, and a row for each of the others.
    """
    refused: list[Quarantined] = []
    films: list[tuple[str, str, Taken]] = []
    first: dict[str, Taken] = {}  # by picture
    conflicts: dict[str, tuple[str, str]] = {}  # by picture: reason and sentence
    for path, digest in digests.items():
        record = store.record(digest)
        answer = _label_and_patient(path, record, table, params, pseudonym)
        if isinstance(answer, Quarantined):
            refused.append(Quarantined(path, answer.reason, answer.sentence, digest))
            continue
        picture, row = record["picture"], Taken(digest, *answer)
        known = first.setdefault(picture, row)
        if known.label != row.label:
            conflicts[picture] = "conflicting_labels", "the same picture comes with different labels"
        elif known.patient != row.patient:
            conflicts.setdefault(
                picture, ("conflicting_patients", "the same picture comes as that of several patients")
            )
        films.append((path, picture, row))
    taken: list[tuple[str, Taken]] = []
    for path, picture, row in films:
        if picture in conflicts:
            refused.append(Quarantined(path, *conflicts[picture], row.digest))
        elif first[picture] is not row:
            refused.append(Quarantined(path, "duplicate", "a film with the same picture was taken already", row.digest))
        else:
            taken.append((path, row))
    return taken, refused


def assign_splits(
    settled: list[tuple[str, Taken]], params: Ingest
) -> tuple[list[tuple[Taken, str]], list[Quarantined]]:
    """The films with their splits, and those that `thin_train` leaves out."""
    films = pd.DataFrame([(row.patient, row.label) for _, row in settled], columns=["patient_id", "label"])
    splits = split_patients(films, params.split, params.seed)
    dropped = thinned(films, splits, params.thin_train)
    sentence = "one of the train films that ingest.thin_train leaves out"
    kept = [(row, str(splits[i])) for i, (_, row) in enumerate(settled) if i not in dropped]
    return kept, [Quarantined(settled[i][0], "thinned", sentence, settled[i][1].digest) for i in sorted(dropped)]


def _label_and_patient(
    path: str, film: dict[str, Any], table: Labels, params: Ingest, pseudonym: Pseudonym
) -> tuple[str, str] | Quarantined:
    if film["reason"]:
        return Quarantined(path, film["reason"], film["sentence"])
    entry = table.find(path, film["instance"], film["patient"], film["label"])
    label = decide(entry, params.classes, params.multi_label)
    if not isinstance(label, str):
        return Quarantined(path, *label)
    patients = entry.patients if entry else frozenset()
    if len(patients) > 1:
        return Quarantined(path, "conflicting_patients", f"the labels name {len(patients)} patients for this file")
    patient = next(iter(patients), film["patient"])
    if table.own_patients or (not patient and params.patients == "per_file"):
        patient = pseudonym("patient_id", f"of {film['picture']}")
    if not patient:
        return Quarantined(path, "no_patient", "neither a PatientID in the file nor a patient in the labels")
    return sys.intern(label), patient
