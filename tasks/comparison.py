"""From predictions to figures: the measures of every arm, and the differences that the verdict rests on."""

from typing import Any

import numpy as np
import pandas as pd

from tasks.params import CONTROL_ARMS, SYNTHETIC_ARMS, Classify
from tasks.statistics import (
    auroc,
    average_precision,
    class_offsets,
    interval,
    patient_weights,
    recalls,
)

PRIMARY = "rare_auprc"  # no class can be named so that auprc_CLASS collides with it
ALWAYS_COMPARED = ("duplicate", "real")


def compare(predictions: pd.DataFrame, classes: list[str], rare: list[str], params: Classify) -> dict[str, Any]:
    """Measures with patient-bootstrap intervals of every arm, and paired differences of the synthetic arms.

    `predictions` has the columns arm, seed, split (val, test), image_id, patient_id, label and p_CLASS. A value is
    the mean over the seeds. The primary measure is the mean area under the precision-recall curve of the rare
    classes (of all classes where none is rare). The reference is the arm without synthetic images that is best on
    validation; `duplicate` and `real` are always compared as well. Intervals are of the choice of test patients,
    given these trained networks; those of differences are widened for the number of synthetic arms (Bonferroni).
    """
    focus = [classes.index(label) for label in rare or classes]
    measured = {arm: _measure(predictions[predictions["arm"] == arm], classes, focus, params) for arm in params.arms}
    arms = {
        arm: {name: interval(values, params.confidence) for name, values in measures.items() if name != "validation"}
        for arm, measures in measured.items()
    }
    controls = [arm for arm in params.arms if arm in CONTROL_ARMS]
    synthetic = [arm for arm in params.arms if arm in SYNTHETIC_ARMS]
    result: dict[str, Any] = {"primary": PRIMARY, "rare": rare, "classes": classes, "arms": arms}
    result["test"] = _test_counts(predictions)
    result["seeds"] = params.seeds
    if not controls or not synthetic:
        return result
    validation = {arm: float(measured[arm]["validation"][0]) for arm in params.arms}
    best_control = max(controls, key=lambda arm: validation[arm])
    best_synthetic = max(synthetic, key=lambda arm: validation[arm])
    confidence = 1 - (1 - params.confidence) / len(synthetic)
    result["comparison"] = {
        "reference": best_control,
        "candidate": best_synthetic,
        "confidence": round(confidence, 4),
        "differences": {
            arm: {
                control: interval(measured[arm][PRIMARY] - measured[control][PRIMARY], confidence)
                for control in dict.fromkeys([best_control, *(c for c in ALWAYS_COMPARED if c in controls)])
            }
            for arm in synthetic
        },
    }
    return result


def _measure(rows: pd.DataFrame, classes: list[str], focus: list[int], params: Classify) -> dict[str, np.ndarray]:
    """Every measure as (1 + resamples,) values, the mean over the seeds; `validation` is the primary one there."""
    columns = [f"p_{label}" for label in classes]
    per_seed: list[dict[str, np.ndarray]] = []
    for _, of_seed in rows.groupby("seed"):
        val, test = (of_seed[of_seed["split"] == split] for split in ("val", "test"))
        labels = _codes(test["label"], classes)
        # The same resamples of patients for every arm and seed: differences are paired.
        weights = patient_weights(test["patient_id"].to_numpy(), params.bootstrap, seed=0)
        scores = test[columns].to_numpy()
        val_labels, val_scores = _codes(val["label"], classes), val[columns].to_numpy()
        offsets = class_offsets(val_scores, val_labels)
        recall = recalls((np.log(np.clip(scores, 1e-9, None)) + offsets).argmax(1), labels, len(classes), weights)
        precision = [average_precision(scores[:, k], labels == k, weights) for k in range(len(classes))]
        one = np.ones((1, len(val)))
        val_precision = [average_precision(val_scores[:, k], val_labels == k, one) for k in focus]
        per_seed.append(
            {
                "auroc": np.mean([auroc(scores[:, k], labels == k, weights) for k in range(len(classes))], axis=0),
                PRIMARY: np.mean([precision[k] for k in focus], axis=0),
                "balanced_accuracy": recall.mean(0),
                **{f"recall_{label}": recall[k] for k, label in enumerate(classes)},
                **{f"auprc_{label}": precision[k] for k, label in enumerate(classes)},
                "validation": np.array([_mean_or(val_precision, 0.0)]),
            }
        )
    return {name: np.mean([measures[name] for measures in per_seed], axis=0) for name in per_seed[0]}


def _mean_or(values: list[np.ndarray], otherwise: float) -> float:
    """The mean of those that exist: a rare class may have no validation image."""
    finite = [float(value[0]) for value in values if np.isfinite(value[0])]
    return float(np.mean(finite)) if finite else otherwise


def _codes(labels: pd.Series, classes: list[str]) -> np.ndarray:
    return np.array([classes.index(label) for label in labels], dtype=np.int64)


def _test_counts(predictions: pd.DataFrame) -> dict[str, Any]:
    test = predictions[predictions["split"] == "test"].drop_duplicates("image_id")
    return {
        "images": len(test),
        "patients": int(test["patient_id"].nunique()),
        "by_class": {str(label): int(n) for label, n in test["label"].value_counts().sort_index().items()},
    }
