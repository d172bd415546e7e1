"""Stage `imbalance`: how uneven the classes are, and how many images of which class to synthesise."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from tasks import image_set
from tasks.errors import UserError
from tasks.files import write_json, written_whole
from tasks.image_set import AND, SPLITS, has, known, sets_of_findings
from tasks.params import Imbalance

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def run(curated_folder: Path, report: Path, plots_folder: Path, params: Imbalance) -> dict[str, Any]:
    """Analyse the manifest in `curated_folder`; write the report and its plots, return the report.

    The plan and every figure that leads to it come from the train split alone.
    """
    from tasks.shown import plots  # matplotlib takes a second to import: not for those who read the plan alone

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

    Where films have several findings, each counts in all of its classes, and an entry says besides of how many films a
    finding is `unknown` and its `prevalence` among the others. `together` has by class how many of its train films have
    each other one too, `sets` how many have which set of findings: images that are drawn for a finding have the sets of
    the real train films that have it. What they bring of other rare findings counts for these, the rarest first.
    """
    by_class: dict[str, dict[str, Any]] = {}
    for label in classes:
        rows = manifest[has(manifest, label)]
        by_class[label] = {
            "images": {split: int((rows["split"] == split).sum()) for split in SPLITS},
            "patients": {split: int(rows[rows["split"] == split]["patient_id"].nunique()) for split in SPLITS},
        }
    of_train = manifest[manifest["split"] == "train"]
    sets = sets_of_findings(of_train, classes)
    for label in sets:
        by_class[label] |= _unknown(manifest, label)
    train = {label: by_class[label]["images"]["train"] for label in classes}
    largest = max(train.values())
    for label, n in train.items():
        by_class[label]["effective_number"] = round((1 - params.beta**n) / (1 - params.beta), 2)
    rare = [label for label, n in train.items() if n < params.rare_below * largest]
    missing = {label: round(params.fill_to * largest) - train[label] for label in rare}
    plan = {label: n for label, n in (_one_by_one(missing, train, sets) if sets else missing).items() if n > 0}
    several = {"together": _together(of_train, classes), "sets": sets} if sets else {}
    return {
        "imbalance_ratio": round(largest / min(train.values()), 3),
        "classes": by_class,
        "rare": rare,
        "plan": plan,
        "draw": dict.fromkeys(classes, max(plan.values())) if plan else {},
        **several,
    }


def _unknown(manifest: pd.DataFrame, label: str) -> dict[str, dict[str, float]]:
    """By split, of how many films it is not known whether they have a finding, and its share of the others."""
    parts = {split: manifest[manifest["split"] == split] for split in SPLITS}
    sure = {split: int(known(rows, label).sum()) for split, rows in parts.items()}
    return {
        "unknown": {split: len(rows) - sure[split] for split, rows in parts.items()},
        "prevalence": {
            split: round(int(has(rows, label).sum()) / max(sure[split], 1), 4) for split, rows in parts.items()
        },
    }


def _together(rows: pd.DataFrame, classes: list[str]) -> dict[str, dict[str, int]]:
    """How many rows have both of two findings, those of each one on the diagonal."""
    each = {label: has(rows, label) for label in classes}
    return {label: {other: int((each[label] & each[other]).sum()) for other in classes} for label in classes}


def _one_by_one(missing: dict[str, int], train: dict[str, int], sets: dict[str, dict[str, int]]) -> dict[str, int]:
    """What is to be drawn for each of `missing`, less what the images for rarer ones bring of it."""
    plan: dict[str, int] = {}
    for label in sorted(missing, key=lambda name: train[name]):
        brought = sum(
            count * sum(n for names, n in sets[other].items() if label in names.split(AND)) / train[other]
            for other, count in plan.items()
        )
        plan[label] = max(missing[label] - round(brought), 0)
    return {label: plan[label] for label in missing}


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
    from tasks.shown import plots

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
