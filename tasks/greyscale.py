"""Grey values by look-up: a display chain is a function of the stored value, so 65,536 values are enough."""

import cv2
import numpy as np

PERCENTILES = (0.5, 99.5)  # of the display range where a film names no window


def all_values(pixels: np.ndarray, bits: int = 16, signed: bool = False) -> np.ndarray:
    """What each pattern of uint8 or uint16 `pixels` stands for, when the low `bits` count (two's complement if
    `signed`): uint16 or int16, 256 or 65,536 of them.
    """
    patterns = np.arange(1 << 8 * pixels.itemsize, dtype=np.int32) & ((1 << bits) - 1)
    if signed:
        return (patterns - ((patterns >> (bits - 1)) << bits)).astype(np.int16)
    return patterns.astype(np.uint16)


def look_up(pixels: np.ndarray, table: np.ndarray) -> np.ndarray:
    """`table` (an entry for each pattern) at every one of `pixels` (H, W), uint8 or uint16."""
    shown: np.ndarray = cv2.LUT(pixels, table)
    return shown.reshape(pixels.shape)


def percentile_range(pixels: np.ndarray, values: np.ndarray, valid: np.ndarray) -> tuple[float, float]:
    """The robust range of `values` (one for each pattern) over those of `pixels` (H, W) whose pattern is `valid`.

    The same as `np.percentile` of the values, from a histogram; all pixels count when none is valid.
    """
    count = len(values)
    counts = cv2.calcHist([pixels], [0], None, [count], [0, count]).ravel().astype(np.int64)
    if counts[valid].any():
        counts = np.where(valid, counts, 0)
    order = np.argsort(values, kind="stable")
    cumulated = np.cumsum(counts[order])
    ranks = np.array(PERCENTILES) / 100 * (cumulated[-1] - 1)

    def at(rank: np.ndarray) -> np.ndarray:
        found: np.ndarray = values[order][np.searchsorted(cumulated, rank, side="right")]
        return found.astype(np.float64)

    below = np.floor(ranks).astype(np.int64)
    low, high = at(below) + (ranks - below) * (at(np.ceil(ranks).astype(np.int64)) - at(below))
    return float(low), float(high)


def stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """`values` to float32 in [0, 1], from `low` to `high`."""
    return np.clip((values.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)
