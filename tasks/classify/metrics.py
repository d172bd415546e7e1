"""Measures of classifiers and their intervals by a bootstrap of patients.

Each measure takes weights (B, N), how often each test image counts in each of B resamples, and gives (B,) values:
one pass over the sorted scores serves all resamples. Row 0 of `patient_weights` is the test set as it is.
"""

import numpy as np

MIN_PATIENTS = 5  # of a class: with fewer a bootstrap does not know how much they vary
GRID = np.linspace(0, 1, 101)  # of the curves: false-positive rates or recalls


def patient_weights(patients: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Weights (1 + resamples, N): ones, then patients drawn with replacement, all their images together."""
    unique, index = np.unique(patients, return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(unique), np.full(len(unique), 1 / len(unique)), size=resamples)
    return np.concatenate([np.ones((1, len(patients))), drawn[:, index]])


def _cumulated(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of true and of false positives (B, T) at each of the T distinct thresholds, from the highest."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = positive[order]
    true = np.cumsum(weights[:, order] * hits, axis=1)[:, ends]
    false = np.cumsum(weights[:, order] * ~hits, axis=1)[:, ends]
    return true, false


def auroc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of `scores` (N,) for bool `positive` (N,); NaN where a resample has one side only."""
    true, false = (np.pad(part, ((0, 0), (1, 0))) for part in _cumulated(scores, positive, weights))
    area = (np.diff(false) * (true[:, 1:] + true[:, :-1]) / 2).sum(1)
    return _divide(area, true[:, -1] * false[:, -1])


def average_precision(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the precision-recall curve as a sum of steps, scikit-learn's `average_precision_score`."""
    true, false = _cumulated(scores, positive, weights)
    gained = np.diff(true, axis=1, prepend=0)
    return _divide((gained * _divide(true, true + false, 0.0)).sum(1), true[:, -1])


def sensitivity_at(
    scores: np.ndarray, positive: np.ndarray, weights: np.ndarray, specificity: float = 0.9
) -> np.ndarray:
    """The highest sensitivity at a threshold whose specificity is at least `specificity`; no interpolation."""
    true, false = _cumulated(scores, positive, weights)
    allowed = false <= (1 - specificity) * false[:, -1:] + 1e-9
    return np.where(false[:, -1] > 0, _divide((true * allowed).max(1), true[:, -1]), np.nan)


def roc_curve(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sensitivity (B, 101) at the false-positive rates of GRID, linear between thresholds; NaN without a side."""
    true, false = (np.pad(part, ((0, 0), (1, 0))) for part in _cumulated(scores, positive, weights))
    x, y = _divide(false, false[:, -1:]), _divide(true, true[:, -1:])
    return np.stack([np.interp(GRID, a, b) for a, b in zip(x, y, strict=True)])


def precision_recall_curve(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Precision (B, 101) at the highest threshold that reaches each recall of GRID; steps, as in the AUPRC."""
    true, false = _cumulated(scores, positive, weights)
    precision = _divide(true, true + false)
    reached = _divide(true, true[:, -1:])
    last = precision.shape[1] - 1
    # At recall 0 the first threshold with a hit counts, as the first step of the area does.
    wanted = np.maximum(GRID - 1e-9, 1e-12)
    rows = [p[np.minimum(np.searchsorted(r, wanted), last)] for p, r in zip(precision, reached, strict=True)]
    return np.where(true[:, -1:] > 0, np.stack(rows), np.nan)


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray, bins: int = 15) -> np.ndarray:
    """Expected calibration error of the likeliest class (Guo et al. 2017) in `bins` bins of equal width.

    A gap of a bin counts whatever its sign, so each resample adds its own noise to it: the error of resamples lies
    above that of the test set, often all of it. By this bias, their mean less the value of row 0, they are lowered.
    """
    sure, right = probabilities.max(1), probabilities.argmax(1) == labels
    bin_of = np.minimum((sure * bins).astype(int), bins - 1)
    gaps = np.zeros((len(labels), bins))
    gaps[np.arange(len(labels)), bin_of] = right - sure
    return _without_bias(_divide(np.abs(weights @ gaps).sum(1), weights.sum(1)))


def _without_bias(found: np.ndarray) -> np.ndarray:
    if len(found) > 1:
        found[1:] = np.maximum(found[1:] - (found[1:].mean() - found[0]), 0)
    return found


def brier_score(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Half the squared distance to the truth, in [0, 1]: for two classes the usual Brier score."""
    distances = ((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(1) / 2
    return _divide(weights @ distances, weights.sum(1))


def precisions(predicted: np.ndarray, labels: np.ndarray, classes: int, weights: np.ndarray) -> np.ndarray:
    """Precision of each class: (classes, B); NaN where nothing is called so."""
    correct = (predicted == labels) * weights
    called = [predicted == k for k in range(classes)]
    return np.stack([_divide(correct[:, of].sum(1), weights[:, of].sum(1)) for of in called])


def macro_f1(predicted: np.ndarray, labels: np.ndarray, classes: int, weights: np.ndarray) -> np.ndarray:
    """Mean over the classes of F1 = 2 TP / (2 TP + FP + FN); NaN where a class has no image."""
    correct = (predicted == labels) * weights
    scores = []
    for k in range(classes):
        true, there = correct[:, labels == k].sum(1), weights[:, labels == k].sum(1)
        scores.append(np.where(there > 0, _divide(2 * true, there + weights[:, predicted == k].sum(1)), np.nan))
    return np.mean(scores, axis=0)


def f1(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """F1 of findings, of any shape; 0 where none is found, NaN where there is none."""
    both = recall + np.nan_to_num(precision)  # the precision of no call: recall is 0 then
    return np.where(np.isnan(recall), np.nan, _divide(2 * recall * np.nan_to_num(precision), both, 0.0))


def called_together(called: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Shares (K, K): of the images with a finding (row) those called each; called is bool (N, K), truth (N, K)."""
    there = (truth == 1).astype(float)
    return _divide(there.T @ called, there.sum(0)[:, None], 0.0)


def confusion(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Shares (classes, classes): of the images of a true class (row) those called each class; 0 for one without."""
    counts = np.zeros((classes, classes))
    np.add.at(counts, (labels, predicted), 1)
    return _divide(counts, counts.sum(1, keepdims=True), 0.0)


def recalls(predicted: np.ndarray, labels: np.ndarray, classes: int, weights: np.ndarray) -> np.ndarray:
    """Recall of each class: (classes, B)."""
    correct = (predicted == labels) * weights
    return np.stack([_divide(correct[:, labels == k].sum(1), weights[:, labels == k].sum(1)) for k in range(classes)])


def _divide(a: np.ndarray, b: np.ndarray, otherwise: float = np.nan) -> np.ndarray:
    return np.divide(a, b, out=np.full(np.broadcast(a, b).shape, otherwise), where=b != 0)


def interval(values: np.ndarray, confidence: float, patients: int) -> dict[str, float | None]:
    """The value on the test set as it is (`values[0]`) and the percentile interval of the resamples.

    Resamples without a value (a class was not drawn) are left out. The ends are None where a bootstrap cannot know
    them: below MIN_PATIENTS `patients` of the class that is measured (the fewest, of several), and where no resample
    differs from another, as at a recall of 1.
    """
    drawn = values[1:][np.isfinite(values[1:])]
    tail, known = (1 - confidence) / 2, patients >= MIN_PATIENTS and len(drawn) and np.ptp(drawn) > 0
    low, high = np.quantile(drawn, [tail, 1 - tail]) if known else (np.nan, np.nan)
    return {
        name: round(float(value), 4) if np.isfinite(value) else None
        for name, value in (("mean", values[0]), ("low", low), ("high", high))
    }


def thresholds(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The operating points (K,) of findings, probabilities (N, K) and truth (N, K) of 1, 0, or -1 where not known.

    Each is that of best balanced accuracy: what lies above it is called so. To be called with validation images, never
    with test images. Between two scores it lies in the middle; of several as good the nearest to a half, which it is
    too where there is one side only.
    """
    result = np.full(probabilities.shape[1], 0.5)
    for k in range(len(result)):
        there, absent = (np.sort(probabilities[truth[:, k] == value, k]) for value in (1, 0))
        if not (len(there) and len(absent)):
            continue
        scores = np.unique(np.concatenate([there, absent]))
        tried = np.concatenate([[scores[0] / 2], (scores[1:] + scores[:-1]) / 2])
        found = 1 - np.searchsorted(there, tried, side="right") / len(there)
        right = np.searchsorted(absent, tried, side="right") / len(absent)
        best = np.flatnonzero(np.isclose(found + right, (found + right).max()))
        result[k] = tried[best[np.argmin(np.abs(tried[best] - 0.5))]]
    return result


def found_and_right(
    called: np.ndarray, truth: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of findings: sensitivity, precision and specificity (K, B) of what is called, bool (N, K); truth as above."""
    there, absent = ((truth == value).astype(float) for value in (1, 0))
    hits, alarms = weights @ (called * there), weights @ (called * absent)
    sensitivity = _divide(hits, weights @ there)
    specificity = 1 - _divide(alarms, weights @ absent)
    return sensitivity.T, _divide(hits, hits + alarms).T, specificity.T


def sigmoid_calibration(
    probabilities: np.ndarray, truth: np.ndarray, weights: np.ndarray, bins: int = 15
) -> np.ndarray:
    """Expected calibration error of the probabilities of findings, their mean (B,); see `calibration_error`."""
    errors = []
    for k in range(truth.shape[1]):
        sure = truth[:, k] >= 0
        bin_of = np.minimum((probabilities[:, k] * bins).astype(int), bins - 1)
        gaps = np.zeros((len(truth), bins))
        gaps[np.arange(len(truth)), bin_of] = ((truth[:, k] == 1) - probabilities[:, k]) * sure
        errors.append(_without_bias(_divide(np.abs(weights @ gaps).sum(1), weights @ sure.astype(float))))
    return np.mean(errors, axis=0)


def sigmoid_brier(probabilities: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The Brier score of the probabilities of findings, the mean over these, (B,)."""
    sure = (truth >= 0).astype(float)
    distances = sure * (probabilities - (truth == 1)) ** 2
    return _divide(weights @ distances, weights @ sure).mean(1)


def class_offsets(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The operating point: log-offsets (K,) to the log-probabilities (N, K) that give the best balanced accuracy.

    For two classes this is the threshold. To be called with validation images, never with test images. Found by
    coordinate search over a grid; the first class stays at 0, and ties go to the smaller offset.
    """
    logs, classes = np.log(np.clip(probabilities, 1e-9, None)), probabilities.shape[1]
    grid = np.array(sorted(np.linspace(-6, 6, 49), key=abs))
    offsets, one = np.zeros(classes), np.ones((1, len(labels)))
    for _ in range(3):
        for k in range(1, classes):
            tried = []
            for value in grid:
                offsets[k] = value
                tried.append(np.nanmean(recalls((logs + offsets).argmax(1), labels, classes, one)))
            offsets[k] = grid[int(np.argmax(tried))]
    return offsets
