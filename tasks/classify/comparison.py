"""From predictions to figures: the measures of every arm, and the differences that the verdict rests on."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tasks.classify import metrics as st
from tasks.classify.differences import Difference, paired_differences
from tasks.classify.metrics import MIN_PATIENTS, interval
from tasks.image_set import class_numbers
from tasks.params import CONTROL_ARMS, GENERATOR_OF, Classify

PRIMARY = "rare_auprc"  # no class can be named so that auprc_CLASS collides with it
ALWAYS_COMPARED = ("duplicate", "classic", "two_stage_classic", "classic+phantom", "two_stage_phantom", "real")
CURVE_RESAMPLES = 500  # bands need fewer than the ends of an interval


@dataclass(frozen=True)
class HeldOut:
    """The test split: labels (N,), patients (N,), weights (1 + B, N) of the resamples, the same for all arms."""

    labels: np.ndarray
    patients: np.ndarray
    weights: np.ndarray

    def patients_of(self, label: int) -> int:
        """How many patients have a film of the class."""
        return len(np.unique(self.patients[self.labels == label]))

    def fewest_patients_of(self, labels: Iterable[int]) -> int:
        """How many have a film of that class of `labels` which has the fewest."""
        return min(self.patients_of(label) for label in labels)


def compare(predictions: pd.DataFrame, classes: list[str], rare: list[str], params: Classify) -> dict[str, Any]:
    """Measures of every arm in `params.arms` and paired differences of the arms with synthetic images.

    `predictions` has the columns arm, seed, split (val, test), image_id, patient_id, label and p_CLASS, with the same
    images in the same order for every arm and seed. A value is the mean over the seeds. The primary measure is the
    mean area under the precision-recall curve of the classes `rare` (of all where there are none). Intervals of
    arms are of the choice of test patients (percentiles of a bootstrap), given these trained networks. Those of
    differences are of the patients and of the seeds (`differences`).

    The candidate is the arm with synthetic images that is best on validation, the reference the best without (where
    validation has no film of `rare`, which `chosen_on_validation` says, the first of each); arms of ALWAYS_COMPARED
    are compared as well. Seeds that are lucky on validation may be so on test, so intervals of
    differences are corrected for the number of arms among which the candidate was chosen (Bonferroni), those by class
    for the number of rare classes too. They are not for the number of controls: the verdict asks for an effect against
    all of them, an intersection-union test (Berger 1982), whose level is that of each.
    """
    focus = [classes.index(label) for label in rare or classes]
    main: dict[str, pd.DataFrame] = {arm: predictions[predictions["arm"] == arm] for arm in params.arms}
    test = held_out(main[params.arms[0]], classes, params.bootstrap)
    measured = {arm: measure(rows, classes, focus, test) for arm, rows in main.items()}
    means = {arm: {name: values.mean(0) for name, values in measures.items()} for arm, measures in measured.items()}
    patients = patients_behind(classes, focus, test)
    result: dict[str, Any] = {
        "primary": PRIMARY,
        "min_patients": MIN_PATIENTS,
        "rare": rare,
        "classes": classes,
        "arms": {
            arm: {
                name: interval(values, params.confidence, patients[name])
                for name, values in measures.items()
                if name != "validation"
            }
            for arm, measures in means.items()
        },
        "test": _test_counts(predictions),
        "seeds": params.seeds,
        "confusion": {arm: _confusion(rows, classes, test) for arm, rows in main.items()},
        "curves": {arm: _curves(rows, classes, focus, test, params.confidence) for arm, rows in main.items()},
    }
    validation = {arm: float(measures["validation"][0]) for arm, measures in means.items()}
    result["chosen_on_validation"] = bool(np.isfinite(list(validation.values())).all())
    controls = [arm for arm in main if arm in CONTROL_ARMS]
    synthetic = [arm for arm in main if arm in GENERATOR_OF]
    if controls and synthetic:
        result["comparison"] = _differences(measured, validation, controls, synthetic, result, test, params)
    return result


def _differences(
    measured: dict[str, dict[str, np.ndarray]],
    validation: dict[str, float],
    controls: list[str],
    synthetic: list[str],
    result: dict[str, Any],
    test: HeldOut,
    params: Classify,
) -> dict[str, Any]:
    """The part `comparison` of the result."""
    reference = max(controls, key=lambda arm: validation[arm])  # the first, where none is a number
    compared = list(dict.fromkeys([reference, *(arm for arm in ALWAYS_COMPARED if arm in controls)]))
    focus = result["rare"] or result["classes"]
    patients = {label: test.patients_of(result["classes"].index(label)) for label in focus}

    def differences(name: str, fewest: int) -> dict[str, dict[str, Difference]]:
        values = {arm: measures[name] for arm, measures in measured.items()}
        return paired_differences(values, synthetic, compared, fewest)

    def intervals(by_arm: dict[str, dict[str, Difference]], level: float) -> dict[str, Any]:
        return {arm: {control: d.interval(level) for control, d in by.items()} for arm, by in by_arm.items()}

    confidence = 1 - (1 - params.confidence) / len(synthetic)
    by_class = 1 - (1 - confidence) / len(focus)
    primary = differences(PRIMARY, min(patients.values()))
    return {
        "reference": reference,
        "candidate": max(synthetic, key=lambda arm: validation[arm]),
        "confidence": round(confidence, 4),
        "differences": intervals(primary, confidence),
        "minimum_effect": {
            arm: {control: d.minimum_effect(confidence) for control, d in by.items()} for arm, by in primary.items()
        },
        "confidence_by_class": round(by_class, 4),
        "by_class": {label: intervals(differences(f"auprc_{label}", patients[label]), by_class) for label in focus},
    }


def patients_behind(classes: list[str], focus: list[int], test: HeldOut) -> dict[str, int]:
    """By measure, how many test patients it is of: of its class, or the fewest of its classes."""
    of_class = {label: test.patients_of(k) for k, label in enumerate(classes)}
    rare = test.fewest_patients_of(focus)
    return {
        **dict.fromkeys(("auroc", "balanced_accuracy", "macro_f1"), min(of_class.values())),
        **dict.fromkeys((PRIMARY, "sensitivity_at_90_specificity"), rare),
        **dict.fromkeys(("ece", "brier"), len(np.unique(test.patients))),
        **{f"{name}_{label}": n for name in ("recall", "precision", "auprc") for label, n in of_class.items()},
    }


def held_out(rows: pd.DataFrame, classes: list[str], resamples: int) -> HeldOut:
    """The test images of one arm's rows, and resamples of their patients."""
    one = rows[(rows["seed"] == rows["seed"].iloc[0]) & (rows["split"] == "test")]
    patients = one["patient_id"].to_numpy().astype(str)
    return HeldOut(class_numbers(one["label"], classes), patients, st.patient_weights(patients, resamples, seed=0))


def measure(rows: pd.DataFrame, classes: list[str], focus: list[int], test: HeldOut) -> dict[str, np.ndarray]:
    """Every measure of one arm as (seeds, 1 + resamples) values; `validation` is the primary one there, (seeds, 1)."""
    per_seed = [_measure(of_seed, classes, focus, test) for _, of_seed in rows.groupby("seed")]
    return {name: np.stack([measures[name] for measures in per_seed]) for name in per_seed[0]}


def _measure(rows: pd.DataFrame, classes: list[str], focus: list[int], test: HeldOut) -> dict[str, np.ndarray]:
    scores, predicted = _test_scores(rows, classes)
    labels, weights, each = test.labels, test.weights, range(len(classes))
    recall = st.recalls(predicted, labels, len(classes), weights)
    precision = st.precisions(predicted, labels, len(classes), weights)
    areas = [st.average_precision(scores[:, k], labels == k, weights) for k in each]
    val = rows[rows["split"] == "val"]
    val_labels, val_scores = class_numbers(val["label"], classes), val[columns(classes)].to_numpy()
    one = np.ones((1, len(val)))
    val_areas = [st.average_precision(val_scores[:, k], val_labels == k, one) for k in focus]
    return {
        "auroc": np.mean([st.auroc(scores[:, k], labels == k, weights) for k in each], axis=0),
        PRIMARY: np.mean([areas[k] for k in focus], axis=0),
        "balanced_accuracy": recall.mean(0),
        "macro_f1": st.macro_f1(predicted, labels, len(classes), weights),
        "sensitivity_at_90_specificity": np.mean(
            [st.sensitivity_at(scores[:, k], labels == k, weights) for k in focus], axis=0
        ),
        "ece": st.calibration_error(scores, labels, weights),
        "brier": st.brier_score(scores, labels, weights),
        **{f"recall_{label}": recall[k] for k, label in enumerate(classes)},
        **{f"precision_{label}": precision[k] for k, label in enumerate(classes)},
        **{f"auprc_{label}": areas[k] for k, label in enumerate(classes)},
        "validation": np.array([np.nanmean(val_areas) if np.isfinite(val_areas).any() else np.nan]),
    }


def called(rows: pd.DataFrame, of_network: pd.DataFrame, classes: list[str]) -> np.ndarray:
    """Classes (N,) of the images `rows` at the operating point that is best on validation, among all `of_network`."""
    val, names = of_network[of_network["split"] == "val"], columns(classes)
    offsets = st.class_offsets(val[names].to_numpy(), class_numbers(val["label"], classes))
    return np.asarray((np.log(np.clip(rows[names].to_numpy(), 1e-9, None)) + offsets).argmax(1))


def _test_scores(rows: pd.DataFrame, classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, K) of the test images by one network, and their classes (N,) at its operating point."""
    test = rows[rows["split"] == "test"]
    return test[columns(classes)].to_numpy(), called(test, rows, classes)


def _confusion(rows: pd.DataFrame, classes: list[str], test: HeldOut) -> list[list[float]]:
    """Mean over the seeds."""
    per_seed = [
        st.confusion(_test_scores(of_seed, classes)[1], test.labels, len(classes))
        for _, of_seed in rows.groupby("seed")
    ]
    return [[round(float(share), 4) for share in row] for row in np.mean(per_seed, axis=0)]


def _curves(
    rows: pd.DataFrame, classes: list[str], focus: list[int], test: HeldOut, confidence: float
) -> dict[str, Any]:
    """ROC and precision-recall curves of the classes in focus: means over the seeds, bands of the resamples."""
    weights = test.weights[: CURVE_RESAMPLES + 1]
    scores = [of_seed.loc[of_seed["split"] == "test", columns(classes)] for _, of_seed in rows.groupby("seed")]
    return {
        classes[k]: {
            name: _band(
                [curve(of_seed.iloc[:, k].to_numpy(), test.labels == k, weights) for of_seed in scores],
                confidence,
                test.patients_of(k),
            )
            for name, curve in (("roc", st.roc_curve), ("pr", st.precision_recall_curve))
        }
        for k in focus
        if (test.labels == k).any() and not (test.labels == k).all()
    }


def _band(curves: list[np.ndarray], confidence: float, patients: int) -> dict[str, list[float | None]]:
    values = np.mean(curves, axis=0)
    low, high = np.nanquantile(values[1:], [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    if patients < MIN_PATIENTS:
        low, high = np.full((2, len(st.GRID)), np.nan)
    rows = {"x": st.GRID, "mean": values[0], "low": low, "high": high}
    return {name: [round(float(v), 4) if np.isfinite(v) else None for v in row] for name, row in rows.items()}


def columns(classes: list[str]) -> list[str]:
    """Names of the columns in which predictions hold the probability of each class."""
    return [f"p_{label}" for label in classes]


def _test_counts(predictions: pd.DataFrame) -> dict[str, Any]:
    test = predictions[predictions["split"] == "test"].drop_duplicates("image_id")
    return {
        "images": len(test),
        "patients": int(test["patient_id"].nunique()),
        "by_class": {str(label): int(n) for label, n in test["label"].value_counts().sort_index().items()},
        "patients_by_class": {str(k): int(n) for k, n in test.groupby("label")["patient_id"].nunique().items()},
    }
