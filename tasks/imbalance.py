"""Stage `imbalance`: how uneven the classes are, and how many images of which class to synthesise."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from tasks import image_set
from tasks.errors import UserError
from tasks.files import write_json, written_whole
from tasks.image_set import SPLITS
from tasks.params import Imbalance

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def run(curated_folder: Path, report: Path, plots_folder: Path, params: Imbalance) -> dict[str, Any]:
    """Analyse the manifest in `curated_folder`; write the report and its plots, return the report.

    The plan and every figure that leads to it come from the train split alone.
    """
    from tasks import plots  # matplotlib takes a second to import: not for those who read the plan alone

    images = image_set.load(curated_folder)
    result = analyse(images.manifest, images.classes, params)
    with written_whole(plots_folder) as folder:
        folder.mkdir()
        train = {label: entry["images"]["train"] for label, entry in result["classes"].items()}
        table = pd.DataFrame({"label": list(train), "real": list(train.values())})
        table["planned"] = table["real"] + table["label"].map(result["plan"]).fillna(0).astype(int)
        table.to_csv(folder / "counts.csv", index=False)
        (folder / "counts.png").write_bytes(plots.png(class_counts(train, result["plan"])))
    write_json(report, result)
    return result


def analyse(manifest: pd.DataFrame, classes: list[str], params: Imbalance) -> dict[str, Any]:
    """Counts by class and split, imbalance ratio, effective number of samples, the plan and what is drawn for it.

    `imbalance_ratio` is the largest class over the smallest, in train images. The effective number is that of
    Cui et al. 2019 (arXiv 1901.05555), (1 - beta^n) / (1 - beta). `plan` is what rare classes lack. `draw` is of every
    class as many as the plan asks of any: some classifiers learn from synthetic images of common classes too, or what
    tells synthetic from real would tell them rare from common.
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
    plan = {label: n for label, n in missing.items() if n > 0}
    return {
        "imbalance_ratio": round(largest / min(train.values()), 3),
        "classes": by_class,
        "rare": rare,
        "plan": plan,
        "draw": dict.fromkeys(classes, max(plan.values())) if plan else {},
    }


def to_draw(imbalance_report: Path) -> dict[str, int]:
    """How many images of which class are drawn for the plan. Raises UserError where it is not said."""
    try:
        counts: dict[str, int] = json.loads(imbalance_report.read_text(encoding="utf-8"))["draw"]
        if all(isinstance(count, int) and count >= 0 for count in counts.values()):
            return counts
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UserError(f"{imbalance_report} holds no plan; run `xraysynth imbalance`, or name a class with --label")


def class_counts(counts: dict[str, int], plan: dict[str, int]) -> "Figure":
    """Bars of the train images of each class, and of those that the plan adds."""
    from tasks import plots

    names = sorted(counts, key=lambda name: -counts[name])
    figure, (axes,) = plots.new_figure(height=0.9 + 0.5 * len(names))
    real = [counts[name] for name in names]
    added = [plan.get(name, 0) for name in names]
    axes.barh(names, real, color=plots.BLUE, label="real")
    if any(added):
        axes.barh(names, added, left=real, color=plots.ORANGE, label="to synthesise")
    for k, (n, extra) in enumerate(zip(real, added, strict=True)):
        axes.text(n + extra, k, f" {n}" + (f" + {extra}" if extra else ""), va="center")
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("images in the train split")
    figure.legend(loc="outside upper left", ncols=2)
    return figure
