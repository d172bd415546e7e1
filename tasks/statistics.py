"""Measures of classifiers and their intervals by a bootstrap of patients.

Each measure takes weights (B, N), how often each test image counts in each of B resamples, and gives (B,) values:
one pass over the sorted scores serves all resamples. Row 0 of `patient_weights` is the test set as it is.
"""

import numpy as np


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


def recalls(predicted: np.ndarray, labels: np.ndarray, classes: int, weights: np.ndarray) -> np.ndarray:
    """Recall of each class: (classes, B)."""
    correct = (predicted == labels) * weights
    return np.stack([_divide(correct[:, labels == k].sum(1), weights[:, labels == k].sum(1)) for k in range(classes)])


def _divide(a: np.ndarray, b: np.ndarray, otherwise: float = np.nan) -> np.ndarray:
    return np.divide(a, b, out=np.full(np.broadcast(a, b).shape, otherwise), where=b != 0)


def interval(values: np.ndarray, confidence: float) -> dict[str, float | None]:
    """The value on the test set as it is (`values[0]`) and the percentile interval of the resamples.

    Resamples without a value (a class was not drawn) are left out; None where nothing is left.
    """
    drawn = values[1:][np.isfinite(values[1:])]
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail]) if len(drawn) else (np.nan, np.nan)
    return {
        name: round(float(value), 4) if np.isfinite(value) else None
        for name, value in (("mean", values[0]), ("low", low), ("high", high))
    }


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
