"""What else than the disease could tell the classes apart: view, sex, age, and how and where a film was made.

Only facts that the manifest keeps can be looked at; a confound that nobody wrote down stays unseen.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from tasks.statistics import auroc

GROUPS = {  # name -> columns of the manifest that make it; source: what differs between devices and archives
    "view": ["view"],
    "source": ["source_format", "modality", "photometric", "transfer_syntax", "bits", "display"],
    "native size": ["rows", "columns"],
    "sex": ["sex"],
    "age group": ["age_decade"],
}
NEARLY = 0.5  # of Cramér's V: from here on it is called a large association, at whatever number of groups
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


def cramers_v(one: np.ndarray, other: np.ndarray) -> float:
    """Association of two nominal variables (N,), 0 to 1, corrected for the bias of small tables (Bergsma 2013).

    0 where either has a single value.
    """
    table = pd.crosstab(pd.Series(one), pd.Series(other)).to_numpy(dtype=float)
    n, (r, k) = table.sum(), table.shape
    if min(r, k) < 2:
        return 0.0
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / n
    phi = ((table - expected) ** 2 / expected).sum() / n
    phi = max(0.0, phi - (k - 1) * (r - 1) / (n - 1))
    rows, columns = r - (r - 1) ** 2 / (n - 1), k - (k - 1) ** 2 / (n - 1)
    return float(min(1.0, np.sqrt(phi / max(min(rows, columns) - 1, 1e-9))))


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
    """Quarters of the number of stored pixels: single sizes are too many to compare."""
    rows, columns = (pd.to_numeric(manifest[name], errors="coerce") for name in ("rows", "columns"))
    megapixels = rows * columns / 1e6
    if megapixels.nunique() < 2:
        return pd.Series(UNKNOWN, index=manifest.index)
    bins = pd.qcut(megapixels, 4, duplicates="drop", precision=2)
    return (
        bins.map(lambda part: f"{max(part.left, 0):.2f} to {part.right:.2f} megapixels").astype(object).fillna(UNKNOWN)
    )


def _enough(values: pd.Series) -> bool:
    return int((values != UNKNOWN).sum()) >= 2 * MIN_IMAGES


def _warning(values: pd.Series, manifest: pd.DataFrame, name: str, split: str) -> str:
    """A sentence where class and group nearly coincide in these films, else ""."""
    if not _enough(values):
        return ""
    known = values[values != UNKNOWN]
    v = cramers_v(known.to_numpy(), manifest.loc[known.index, "label"].to_numpy())
    if v < NEARLY:
        return ""
    return (
        f"In the {split} split class and {name} nearly coincide (Cramér's V {v:.2f}, 1 is full): a classifier can tell "
        f"classes by the {name}, and figures over all films may be of that rather than of the disease; look at those "
        f"within a group."
    )


def _auroc_within(rows: pd.DataFrame, classes: list[str], arms: Sequence[str]) -> dict[str, float | None]:
    """The measure `auroc` of every arm in these test films."""
    result: dict[str, float | None] = {}
    for arm in arms:
        found = [
            auroc(of_seed[f"p_{label}"].to_numpy(), (of_seed["label"] == label).to_numpy(), np.ones((1, len(of_seed))))
            for _, of_seed in rows[rows["arm"] == arm].groupby("seed")
            for label in classes
        ]
        mean = float(np.mean(found)) if found else np.nan
        result[arm] = round(mean, 4) if np.isfinite(mean) else None
    return result
