"""Stage `imbalance`: how uneven the classes are, and how many images of which class to synthesise."""

from pathlib import Path
from typing import Any

import pandas as pd

from tasks import curated, plots
from tasks.curated import SPLITS
from tasks.params import Imbalance


def run(curated_folder: Path, report: Path, plots_folder: Path, params: Imbalance) -> dict[str, Any]:
    """Analyse the manifest in `curated_folder`; write the report and its plots, return the report.

    The plan and every figure that leads to it come from the train split alone.
    """
    images = curated.load(curated_folder)
    result = analyse(images.manifest, images.classes, params)
    with curated.written_whole(plots_folder) as folder:
        folder.mkdir()
        train = {label: entry["images"]["train"] for label, entry in result["classes"].items()}
        table = pd.DataFrame({"label": list(train), "real": list(train.values())})
        table["planned"] = table["real"] + table["label"].map(result["plan"]).fillna(0).astype(int)
        table.to_csv(folder / "counts.csv", index=False)
        (folder / "counts.png").write_bytes(plots.png(plots.class_counts(train, result["plan"])))
    curated.write_json(report, result)
    return result


def analyse(manifest: pd.DataFrame, classes: list[str], params: Imbalance) -> dict[str, Any]:
    """Counts by class and split, imbalance ratio, effective number of samples and the plan.

    `imbalance_ratio` is the largest class over the smallest, in train images. The effective number is that of
    Cui et al. 2019 (arXiv 1901.05555), (1 - beta^n) / (1 - beta).
    """
    by_class: dict[str, dict[str, Any]] = {}
    for label in classes:
        rows = manifest[manifest["label"] == label]
        by_class[label] = {
            "images": {split: int((rows["split"] == split).sum()) for split in SPLITS},
            "patients": {split: int(rows[rows["split"] == split]["patient_id"].nunique()) for split in SPLITS},
        }
    train = {label: by_class[label]["images"]["train"] for label in classes}
    largest = max(train.values())
    for label, n in train.items():
        by_class[label]["effective_number"] = round((1 - params.beta**n) / (1 - params.beta), 2)
    rare = [label for label, n in train.items() if n < params.rare_below * largest]
    missing = {label: round(params.fill_to * largest) - train[label] for label in rare}
    return {
        "imbalance_ratio": round(largest / min(train.values()), 3),
        "classes": by_class,
        "rare": rare,
        "plan": {label: n for label, n in missing.items() if n > 0},
    }
