"""From predictions to figures: the measures of every arm, and the differences that the verdict rests on."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tasks.classify import metrics as st
from tasks.classify.differences import Difference, paired_differences
from tasks.classify.metrics import MIN_PATIENTS, interval
from tasks.image_set import has, targets
from tasks.params import CONTROL_ARMS, GENERATOR_OF, Classify

PRIMARY = "rare_auprc"  # no class can be named so that auprc_CLASS collides with it
ALWAYS_COMPARED = ("duplicate", "classic", "two_stage_classic", "classic+phantom", "two_stage_phantom", "real")
CURVE_RESAMPLES = 500  # bands need fewer than the ends of an interval


@dataclass(frozen=True)
class HeldOut:
    """The test split: labels (N,), patients (N,), weights (1 + B, N) of the resamples, the same for all arms.

    Of several findings labels are (N, K): 1, 0, or -1 where it is not known, and that film does not count.
    """

    labels: np.ndarray
    patients: np.ndarray
    weights: np.ndarray

    @property
    def several(self) -> bool:
        return self.labels.ndim == 2

    def of(self, label: int) -> np.ndarray:
        """bool (N,): the films of a class, or with the finding."""
        return self.labels == label if not self.several else self.labels[:, label] == 1

    def weights_for(self, label: int) -> np.ndarray:
        """(1 + B, N): the weights where only films count of which it is known whether they are of a class."""
        return self.weights * (self.labels[:, label] >= 0) if self.several else self.weights

    def patients_of(self, label: int) -> int:
        """How many patients have a film of the class."""
        return len(np.unique(self.patients[self.of(label)]))

    def fewest_patients_of(self, labels: Iterable[int]) -> int:
        """How many have a film of that class of `labels` which has the fewest."""
        return min(self.patients_of(label) for label in labels)


def compare(predictions: pd.DataFrame, classes: list[str], rare: list[str], params: Classify) -> dict[str, Any]:
    """Measures of every arm in `params.arms` and paired differences of the arms with synthetic images.

    `predictions` has the columns arm, seed, split (val, test), image_id, patient_id, label and p_CLASS, with the same
    images in the same order for every arm and seed, and where films have several findings a column of `image_set` for
    each: a finding is then told from the films that are known not to have it. A value is the mean over the seeds. The
    primary measure is the mean area under the precision-recall curve of the classes `rare` (of all where there are
    none). Intervals of arms are of the choice of test patients (percentiles of a bootstrap), given these trained
    networks. Those of differences are of the patients and of the seeds (`differences`).

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
        "test": _test_counts(predictions, classes),
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
    return HeldOut(targets(one, classes), patients, st.patient_weights(patients, resamples, seed=0))


def measure(rows: pd.DataFrame, classes: list[str], focus: list[int], test: HeldOut) -> dict[str, np.ndarray]:
    """Every measure of one arm as (seeds, 1 + resamples) values; `validation` is the primary one there, (seeds, 1)."""
    per_seed = [_measure(of_seed, classes, focus, test) for _, of_seed in rows.groupby("seed")]
    return {name: np.stack([measures[name] for measures in per_seed]) for name in per_seed[0]}


def _measure(rows: pd.DataFrame, classes: list[str], focus: list[int], test: HeldOut) -> dict[str, np.ndarray]:
    scores, predicted = _test_scores(rows, classes)
    each = range(len(classes))
    at_point, recall, precision = _at_the_operating_point(scores, predicted, test)
    areas = [st.average_precision(scores[:, k], test.of(k), test.weights_for(k)) for k in each]
    val = rows[rows["split"] == "val"]
    val_scores, one = val[columns(classes)].to_numpy(), np.ones((1, len(val)))
    held_out_val = HeldOut(targets(val, classes), val["patient_id"].to_numpy(), one)
    val_areas = [st.average_precision(val_scores[:, k], held_out_val.of(k), held_out_val.weights_for(k)) for k in focus]
    return {
        "auroc": np.mean([st.auroc(scores[:, k], test.of(k), test.weights_for(k)) for k in each], axis=0),
        PRIMARY: np.mean([areas[k] for k in focus], axis=0),
        "balanced_accuracy": at_point["balanced_accuracy"],
        "macro_f1": at_point["macro_f1"],
        "sensitivity_at_90_specificity": np.mean(
            [st.sensitivity_at(scores[:, k], test.of(k), test.weights_for(k)) for k in focus], axis=0
        ),
        "ece": at_point["ece"],
        "brier": at_point["brier"],
        **{f"recall_{label}": recall[k] for k, label in enumerate(classes)},
        **{f"precision_{label}": precision[k] for k, label in enumerate(classes)},
        **{f"auprc_{label}": areas[k] for k, label in enumerate(classes)},
        "validation": np.array([np.nanmean(val_areas) if np.isfinite(val_areas).any() else np.nan]),
    }


def _at_the_operating_point(
    scores: np.ndarray, predicted: np.ndarray, test: HeldOut
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Measures of all classes (1 + B,), and recall and precision of each, (K, 1 + B). Of several findings balanced
    accuracy, F1 and what is about calibration are means over these."""
    labels, weights, classes = test.labels, test.weights, scores.shape[1]
    if test.several:
        recall, precision, specificity = st.found_and_right(predicted, labels, weights)
        f1 = st.f1(recall, precision)
        measures = {"balanced_accuracy": (recall + specificity).mean(0) / 2, "macro_f1": f1.mean(0)}
        measures |= {"ece": st.sigmoid_calibration(scores, labels, weights)}
        return measures | {"brier": st.sigmoid_brier(scores, labels, weights)}, recall, precision
    recall = st.recalls(predicted, labels, classes, weights)
    measures = {"balanced_accuracy": recall.mean(0), "macro_f1": st.macro_f1(predicted, labels, classes, weights)}
    measures |= {"ece": st.calibration_error(scores, labels, weights), "brier": st.brier_score(scores, labels, weights)}
    return measures, recall, st.precisions(predicted, labels, classes, weights)


def called(rows: pd.DataFrame, of_network: pd.DataFrame, classes: list[str]) -> np.ndarray:
    """Classes (N,) of the images `rows` at the operating point that is best on validation, among all `of_network`.

    Of several findings bool (N, K), each at an operating point of its own.
    """
    val, names = of_network[of_network["split"] == "val"], columns(classes)
    truth = targets(val, classes)
    if truth.ndim == 2:
        limits = st.thresholds(val[names].to_numpy(), truth)
        return np.asarray(rows[names].to_numpy() > limits)
    offsets = st.class_offsets(val[names].to_numpy(), truth)
    return np.asarray((np.log(np.clip(rows[names].to_numpy(), 1e-9, None)) + offsets).argmax(1))


def _test_scores(rows: pd.DataFrame, classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, K) of the test images by one network, and their classes at its operating point, as `called`."""
    test = rows[rows["split"] == "test"]
    return test[columns(classes)].to_numpy(), called(test, rows, classes)


def _confusion(rows: pd.DataFrame, classes: list[str], test: HeldOut) -> list[list[float]]:
    """Mean over the seeds. Of several findings, of the films that have one (row) the shares called each."""
    said = [_test_scores(of_seed, classes)[1] for _, of_seed in rows.groupby("seed")]
    if test.several:
        per_seed = [st.called_together(predicted, test.labels) for predicted in said]
    else:
        per_seed = [st.confusion(predicted, test.labels, len(classes)) for predicted in said]
    return [[round(float(share), 4) for share in row] for row in np.mean(per_seed, axis=0)]


def _curves(
    rows: pd.DataFrame, classes: list[str], focus: list[int], test: HeldOut, confidence: float
) -> dict[str, Any]:
    """ROC and precision-recall curves of the classes in focus: means over the seeds, bands of the resamples."""
    weights_for = {k: test.weights_for(k)[: CURVE_RESAMPLES + 1] for k in focus}
    scores = [of_seed.loc[of_seed["split"] == "test", columns(classes)] for _, of_seed in rows.groupby("seed")]
    return {
        classes[k]: {
            name: _band(
                [curve(of_seed.iloc[:, k].to_numpy(), test.of(k), weights_for[k]) for of_seed in scores],
                confidence,
                test.patients_of(k),
            )
            for name, curve in (("roc", st.roc_curve), ("pr", st.precision_recall_curve))
        }
        for k in focus
        if test.of(k).any() and not test.of(k)[test.weights_for(k)[0] > 0].all()
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


def _test_counts(predictions: pd.DataFrame, classes: list[str]) -> dict[str, Any]:
    test = predictions[predictions["split"] == "test"].drop_duplicates("image_id")
    of_class = {label: rows for label in sorted(classes) if len(rows := test[has(test, label)])}
    return {
        "images": len(test),
        "patients": int(test["patient_id"].nunique()),
        "by_class": {label: len(rows) for label, rows in of_class.items()},
        "patients_by_class": {label: int(rows["patient_id"].nunique()) for label, rows in of_class.items()},
    }
