"""What else than the disease could tell the classes apart: view, sex, age, and how and where a film was made.

Only facts that the manifest keeps can be looked at; a confound that nobody wrote down stays unseen.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from model.memorisation import NEARLY_EQUAL, Memory
from tasks.classify.metrics import auroc
from tasks.image_set import FINDING, ImageSet, finding_columns, has, known

GROUPS = {  # name -> columns of the manifest that make it; source: what differs between devices and archives
    "view": ["view"],
    "source": ["source_format", "modality", "photometric", "transfer_syntax", "bits", "display"],
    "native size": ["rows", "columns"],
    "sex": ["sex"],
    "age group": ["age_decade"],
}
NEARLY = 0.5  # of Youden's J, 0 by chance and 1 at best, at which a group tells a class: a balanced accuracy of 0.75
SHUFFLES = 99  # of the labels, which show what chance alone does
COMMON = 0.1  # share of the films: a size of so many is a group by itself
MIN_IMAGES = 10  # of a group to be shown: below, its figure is noise and may point to a person
UNKNOWN = ""


def confounds(
    predictions: pd.DataFrame, manifest: pd.DataFrame, classes: list[str], arms: Sequence[str]
) -> dict[str, list[Any]]:
    """Warnings where class and a group nearly coincide, and the AUROC within each group of the test split.

    `predictions` as in `compare`. {"warnings": [sentence], "looked_at": [name], "not_known": [name], "groups": [{"by",
    "value", "images", "auroc": {arm: mean over seeds and classes, or None where a class is missing}}]}. Groups of fewer
    than MIN_IMAGES are left out. `not_known`: what is unknown, or known of too few films in both splits, or the same in
    all that it is known of.
    """
    groups = {name: values for name in GROUPS if (values := _values(manifest, name)) is not None}
    looked_at = [
        name
        for name, values in groups.items()
        if any(_enough(values[manifest["split"] == split]) for split in ("train", "test"))
    ]
    warnings = [
        sentence
        for split in ("train", "test")
        for name, values in groups.items()
        if (sentence := _warning(values[manifest["split"] == split], manifest, name, split))
    ]
    shown = []
    test = predictions[predictions["split"] == "test"]
    for name, values in groups.items():
        of_image = dict(zip(manifest["image_id"], values, strict=True))
        group_of = test["image_id"].map(of_image)
        images = group_of[~test["image_id"].duplicated()].value_counts().sort_index()
        for value, count in images.items():
            if value != UNKNOWN and count >= MIN_IMAGES:
                found = _auroc_within(test[group_of == value], classes, arms)
                shown.append({"by": name, "value": str(value), "images": int(count), "auroc": found})
    not_known = [name for name in GROUPS if name not in looked_at]
    return {"warnings": warnings, "looked_at": looked_at, "not_known": not_known, "groups": shown}


def youdens_j(groups: np.ndarray, of_class: np.ndarray) -> float:
    """How well groups (N,) of independent films tell those of a class, bool (N,), from the others: 0 to 1.

    Sensitivity + specificity - 1 (Youden 1950, Cancer 3:32) of the best rule that knows the group alone, so it does not
    matter how rare the class is. Of many small groups some rule fits by chance: the mean over shuffled labels is taken
    away, and less than the best of these is 0. 0 where there is one group, or one side.
    """
    codes = np.unique(groups, return_inverse=True)[1]
    if codes.max() == 0 or of_class.all() or not of_class.any():
        return 0.0
    rng, films = np.random.default_rng(0), np.bincount(codes)

    def best(labels: np.ndarray) -> float:
        hits = np.bincount(codes, labels)
        return float(np.maximum(hits / labels.sum() - (films - hits) / (~labels).sum(), 0).sum())

    found, by_chance = best(of_class), [best(rng.permutation(of_class)) for _ in range(SHUFFLES)]
    expected = float(np.mean(by_chance))
    return (found - expected) / (1 - expected) if found > max(by_chance) and expected < 1 else 0.0


def _values(manifest: pd.DataFrame, name: str) -> pd.Series | None:
    """The group of every film, or None where the manifest knows less than two."""
    columns = [column for column in GROUPS[name] if column in manifest]
    if not columns:
        return None
    if name == "native size":
        values = _size(manifest) if len(columns) == 2 else pd.Series(UNKNOWN, index=manifest.index)
    else:
        varied = [column for column in columns if manifest[column].astype(str).nunique() > 1]
        parts = manifest[varied].astype(str)
        values = parts.agg(", ".join, axis=1) if varied else pd.Series(UNKNOWN, index=manifest.index)
        values = values.where((parts != "").any(axis=1), UNKNOWN)
    return values if values[values != UNKNOWN].nunique() > 1 else None


def _size(manifest: pd.DataFrame) -> pd.Series:
    """The native size where many films have it, else a quarter of the others by their number of pixels."""
    sides = manifest[["rows", "columns"]].apply(pd.to_numeric, errors="coerce").dropna().astype(int)
    sizes = sides["rows"].astype(str) + "×" + sides["columns"].astype(str)
    is_common = sizes.map(sizes.value_counts(normalize=True)) >= COMMON
    megapixels = (sides["rows"] * sides["columns"] / 1e6)[~is_common]
    edges = np.unique(megapixels.quantile([0, 0.25, 0.5, 0.75, 1]).dropna())
    quarters = np.searchsorted(edges[1:-1], megapixels, side="left")
    of_quarter = [f"others, {low:.3g} to {high:.3g} megapixels" for low, high in itertools.pairwise(edges)]
    named = pd.Series([(of_quarter or ["others"])[k] for k in quarters], megapixels.index, dtype=object)
    return pd.concat([sizes[is_common], named]).reindex(manifest.index).fillna(UNKNOWN)


def _enough(values: pd.Series) -> bool:
    return int((values != UNKNOWN).sum()) >= 2 * MIN_IMAGES


def _warning(values: pd.Series, manifest: pd.DataFrame, name: str, split: str) -> str:
    """A sentence where a class and a group nearly coincide in these films, else "". Of several classes the worst.

    Films of a patient with the same class and group count once: ten of them say no more about it than one.
    """
    if not _enough(values):
        return ""
    sure = values[values != UNKNOWN]
    named = ["patient_id", "label", *finding_columns(manifest)]
    facts = manifest.loc[sure.index, named].assign(group=sure).drop_duplicates()
    counts = _counts(facts)
    found = {label: _tells(facts, label) for label in counts}
    worst = max(counts, key=lambda label: (round(found[label], 6), -counts[label]))
    if found[worst] < NEARLY:
        return ""
    return (
        f"In the {split} split {worst} and {name} nearly coincide: {name} alone tells {worst} from the other films "
        f"with a balanced accuracy of {(1 + found[worst]) / 2:.2f} (0.5 is chance), so figures over all films may be "
        "of that rather than of the disease; look at those within a group."
    )


def _counts(facts: pd.DataFrame) -> dict[str, int]:
    """How many of the films are of each class, or have each finding."""
    if findings := finding_columns(facts):
        each = {name.removeprefix(FINDING): int(has(facts, name.removeprefix(FINDING)).sum()) for name in findings}
        return {label: n for label, n in each.items() if n}
    return {str(label): int(n) for label, n in facts["label"].value_counts().items()}


def _tells(facts: pd.DataFrame, label: str) -> float:
    """`youdens_j` of the films' groups and a class, among those of which it is known."""
    sure = facts[known(facts, label)]
    return youdens_j(sure["group"].to_numpy(), has(sure, label))


def _auroc_within(rows: pd.DataFrame, classes: list[str], arms: Sequence[str]) -> dict[str, float | None]:
    """The measure `auroc` of every arm in these test films."""
    result: dict[str, float | None] = {}
    for arm in arms:
        found = [
            auroc(of_seed[f"p_{label}"].to_numpy(), has(of_seed, label), known(of_seed, label)[None].astype(float))
            for _, of_seed in rows[rows["arm"] == arm].groupby("seed")
            for label in classes
        ]
        mean = float(np.mean(found)) if found else np.nan
        result[arm] = round(mean, 4) if np.isfinite(mean) else None
    return result


def leaked(films: ImageSet) -> dict[str, int]:
    """By split, how many of its films are nearly equal to a train film: one patient in both, who has two names."""
    train = films.where(split="train").images
    memory = Memory(train, train[:0])
    held_out = {split: films.where(split=split).images for split in ("val", "test")}
    return {
        split: int((memory.look(images).scores["detail"] >= NEARLY_EQUAL).sum()) for split, images in held_out.items()
    }
