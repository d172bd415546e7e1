"""The split by patient: all films of a patient are in one split, and every class is in every split it can fill."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping

import pandas as pd

from tasks.errors import UserError
from tasks.image_set import SPLITS
from tasks.params import Split


def split_patients(manifest: pd.DataFrame, shares: Split, seed: int) -> pd.Series:
    """The split of every row of `manifest` (columns patient_id, label), stratified by class; a label may be several.

    A patient counts for the rarest class among their films. Within a class, patients are ordered by a hash, so
    that new patients move few of the old ones. Train and test get a patient before validation does.
    Raises UserError for a class with fewer than two patients: it cannot be both learnt and tested.
    """
    each = manifest.explode("label")  # a row a finding, under the number of its film
    patients = each.groupby("label")["patient_id"].nunique()
    for label, count in patients.items():
        if count < 2:
            raise UserError(
                f"class {label!r} has {count} patient; at least two are needed, one to train and one to test: "
                "add films of it or leave it out of the labels"
            )
    stratum = each.groupby("patient_id")["label"].agg(lambda labels: min(labels, key=lambda x: (patients[x], x)))
    split_of: dict[str, str] = {}
    for _, members in stratum.groupby(stratum):
        ordered = _shuffled(members.index, f"{seed}")
        counts = _apportion(len(ordered), shares)
        names = [name for name in SPLITS for _ in range(counts[name])]
        split_of.update(zip(ordered, names, strict=True))
    split = manifest["patient_id"].map(split_of)
    _check_classes(each["label"], split[each.index])
    return split


def thinned(manifest: pd.DataFrame, split: pd.Series, keep: Mapping[str, float]) -> set[int]:
    """Places of the films to leave out so that of a class only the share keep[label] of its train patients remains.

    That makes a set imbalanced whose test split keeps its power. At least one patient remains; of the others only
    the films of the class go. A smaller share keeps a part of what a larger one keeps. Raises UserError for a class
    that is not there.
    """
    out: set[int] = set()
    first: set[int] = set()  # films of the one that remains: they must not go with another of their findings
    labels = manifest["label"].explode()
    for label, share in keep.items():
        films = manifest.index[manifest.index.isin(labels.index[labels == label]) & (split == "train")]
        if films.empty:
            raise UserError(f"ingest.thin_train names {label!r}, and no such class was found; correct or remove it")
        patients = _shuffled(manifest["patient_id"][films].unique(), "thin")
        kept = set(patients[: max(1, round(share * len(patients)))])
        out.update(i for i in films if manifest["patient_id"][i] not in kept)
        first.update(i for i in films if manifest["patient_id"][i] == patients[0])
    return out - first


def _shuffled(patients: Iterable[str], salt: str) -> list[str]:
    return sorted(patients, key=lambda patient: hashlib.sha256(f"{salt}:{patient}".encode()).digest())


def _apportion(n: int, shares: Split) -> Counter[str]:
    """`n` patients by largest remainder; with few, train, test and val get one each in that order."""
    counts = Counter({name: int(n * getattr(shares, name)) for name in SPLITS})
    by_remainder = sorted(SPLITS, key=lambda name: counts[name] - n * getattr(shares, name))
    for name in by_remainder[: n - counts.total()]:
        counts[name] += 1
    for name in ("train", "test", "val")[:n]:
        if counts[name] == 0:
            counts[counts.most_common(1)[0][0]] -= 1
            counts[name] += 1
    return counts


def _check_classes(labels: pd.Series, split: pd.Series) -> None:
    """Patients with films of two classes can leave a class without train or test films: say so."""
    for label in sorted(labels.unique()):
        present = set(split[(labels == label).to_numpy()])
        for needed in ("train", "test"):
            if needed not in present:
                raise UserError(
                    f"class {label!r} has no patient for the {needed} split, since its patients also have films of "
                    "rarer classes; add patients of it or choose another ingest.seed"
                )
