"""Stored values to what a viewer shows, by look-up: a display chain is a function of the value, so 65,536 are enough.

The chain is that of PS3.3: modality LUT or rescale (C.11.1), VOI LUT or window (C.11.2), then the photometric
interpretation (C.7.6.3.1.2).
"""

import math

import cv2
import numpy as np
import pydicom
from pydicom.pixels.processing import apply_modality_lut, apply_voi

from tasks.ingest.films.film import Refused
from tasks.ingest.films.header import all_of, said, text

EIGHT = 8  # bits up to which a film without a window is as somebody windowed it
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


def display_table(header: pydicom.Dataset, pixels: np.ndarray, window: str) -> tuple[np.ndarray, str]:
    """What a viewer shows for every pattern of `pixels`, float32 in [0, 1], and how it was found.

    The window or VOI LUT named `window`; else the first LUT; else the first window; else all of the range that 8 bits
    have, as for pictures of 8 bits; else the percentiles of the film. Then the presentation LUT.
    """
    stored = all_values(pixels, int(header.BitsStored), header.PixelRepresentation == 1)
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        if keyword in header and header[keyword].is_empty:
            del header[keyword]
    values = apply_modality_lut(stored, header)
    if not np.isfinite(values).all():
        raise Refused("decode_failed", "rescaling gives values that are not numbers")
    padded = _padding(header, stored)
    named, luts = _named(header, window), header.get("VOILUTSequence")
    if luts and not (named and named[0] == "window"):
        index = named[1] if named else 0
        bits = int(luts[index].LUTDescriptor[2])
        indices = np.rint(values).astype(np.int32)  # a table is looked up by integers; rescaling gives floats
        shown, display = apply_voi(indices, header, index=index).astype(np.float32) / (2**bits - 1), "VOI LUT"
    elif found := _window(header, named[1] if named else 0):
        shown, display = apply_window(values, *found, text(header, "VOILUTFunction") or "LINEAR"), "window"
    elif header.BitsStored <= EIGHT:
        shown, display = stretch(values, float(values.min()), float(values.max())), "as stored"
    else:
        shown, display = stretch(values, *percentile_range(pixels, values, ~padded)), "percentiles"
    shown = _presented(header, shown)
    shown[padded] = 0.0
    if not np.isfinite(shown).all():
        raise Refused("decode_failed", "the display chain gives values that are not numbers")
    return np.clip(shown, 0, 1).astype(np.float32), f"named {display}" if named else display


def _presented(header: pydicom.Dataset, shown: np.ndarray) -> np.ndarray:
    """What the presentation makes of the windowed values in [0, 1] (PS3.3 C.11.4, C.11.6): a look-up table gives
    grey levels themselves, from black to white. One without its table is as if absent.
    """
    luts = header.get("PresentationLUTSequence")
    if luts and len(luts[0].get("LUTDescriptor") or ()) == 3 and luts[0].get("LUTData"):
        entries, first, bits = (int(value) for value in luts[0].LUTDescriptor)
        table = pydicom.Dataset()  # pydicom looks up in a VOI LUT, which has the same form
        table.file_meta, table.PixelRepresentation, table.VOILUTSequence = header.file_meta, 0, luts
        indices = np.rint(np.clip(shown, 0, 1) * ((entries or 1 << 16) - 1)).astype(np.int32) + first
        return apply_voi(indices, table).astype(np.float32) / (2**bits - 1)
    # PresentationLUTShape INVERSE says the same of a MONOCHROME1 film (PS3.3 C.8.11.1): one inversion, not two.
    if text(header, "PhotometricInterpretation") == "MONOCHROME1" or text(header, "PresentationLUTShape") == "INVERSE":
        return 1 - shown
    return shown


def _padding(header: pydicom.Dataset, stored: np.ndarray) -> np.ndarray:
    """Which stored values are padding (PS3.3 C.7.5.1.1.2): PixelPaddingValue, to PixelPaddingRangeLimit if given."""
    value = header.get("PixelPaddingValue")
    if value is None:
        return np.zeros(len(stored), dtype=bool)
    limit = header.get("PixelPaddingRangeLimit")
    low, high = sorted((int(value), int(value if limit is None else limit)))
    return (low <= stored) & (stored <= high)


def _named(header: pydicom.Dataset, name: str) -> tuple[str, int] | None:
    """Where the file has a VOI window or LUT called `name`: ("window" or "lut", its index)."""
    if not name:
        return None
    windows = header.get("WindowCenterWidthExplanation") or ()
    explained = {
        "window": [windows] if isinstance(windows, str) else list(windows),
        "lut": [item.get("LUTExplanation") for item in header.get("VOILUTSequence") or ()],
    }
    for kind, names in explained.items():
        for index, found in enumerate(names):
            if said(found).casefold() == name.strip().casefold():
                return kind, index
    return None


def _window(header: pydicom.Dataset, index: int) -> tuple[float, float] | None:
    """Centre and width of a window; None without one that makes sense."""
    centres, widths = (all_of(header.get(keyword)) for keyword in ("WindowCenter", "WindowWidth"))
    try:
        centre, width = float(centres[index]), float(widths[index])
    except (IndexError, TypeError, ValueError):  # none, or one that is no number: the pixels are as good without it
        return None
    return (centre, width) if width > 0 and math.isfinite(centre) else None


def apply_window(values: np.ndarray, centre: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """Grey values to [0, 1] by a window (PS3.3 C.11.2.1.2 and C.11.2.1.3): float32, the shape of `values`."""
    values = values.astype(np.float32)
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - centre) / width))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if width <= 1:
        return (values > centre - 0.5).astype(np.float32)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
