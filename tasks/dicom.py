"""One film in, display pixels out: DICOM, PNG or JPEG to grey levels in [0, 1] and the facts that are safe to keep.

The display chain is that of DICOM PS3.3: modality LUT or rescale (C.11.1), VOI LUT or window (C.11.2),
then the photometric interpretation (C.7.6.3.1.2). Nothing else of a header leaves this module.
"""

import io
import logging
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pydicom
from PIL import Image, UnidentifiedImageError
from pydicom.errors import InvalidDicomError
from pydicom.pixels.processing import apply_modality_lut, apply_voi

MAX_PIXELS = 100_000_000  # a film of 10,000 x 10,000; refused before decoding
RADIOGRAPHS = {"CR", "DX", "DR", "RG", "XR"}  # values of Modality (0008,0060)
VIEWS = {"PA", "AP", "LL", "RL", "LATERAL", "LPO", "RPO", "LAO", "RAO"}  # of ViewPosition (0018,5101)
PERCENTILES = (0.5, 99.5)  # of the display range where a file names no window


# pydicom quotes the offending value when it warns, which can be a name: neither its log nor its checks are wanted.
logging.getLogger("pydicom").disabled = True
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


class Refused(Exception):
    """A file that is not taken: a reason code and a sentence, for one row of the quarantine."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(reason, sentence)
        self.reason, self.sentence = reason, sentence


@dataclass(frozen=True)
class Film:
    """Display pixels (H, W) float32 in [0, 1], 1 = white; `facts` come from an allow-list and may be kept.

    `patient` is an identifier: it goes through the keyed pseudonym and no further.
    """

    pixels: np.ndarray
    patient: str
    facts: dict[str, Any] = field(default_factory=dict)


def read_film(content: bytes) -> Film:
    """Decode one file. Raises Refused with the reason."""
    if content.startswith((b"\x89PNG", b"\xff\xd8\xff")):
        return _read_picture(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _read_dicom(content)


def _read_picture(content: bytes) -> Film:
    try:
        with Image.open(io.BytesIO(content)) as image:
            _check_size(image.height, image.width)
            grey = image if image.mode.startswith("I") else image.convert("L")
            stored = np.asarray(grey)
            kind = image.format or ""
    except Refused:
        raise
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError, SyntaxError) as error:
        raise Refused("decode_failed", f"the picture cannot be decoded: {type(error).__name__}") from None
    # Pictures of 8 bits are as somebody windowed them; deeper ones carry no window and get a robust range.
    pixels = stored.astype(np.float32) / 255 if stored.dtype == np.uint8 else _percentile_range(stored)
    return Film(
        pixels,
        "",
        {
            "source_format": kind,
            "rows": stored.shape[0],
            "columns": stored.shape[1],
            "bits": 8 * stored.itemsize,
        },
    )


def _read_dicom(content: bytes) -> Film:
    try:
        header = pydicom.dcmread(io.BytesIO(content))
    except InvalidDicomError:
        raise Refused("not_dicom", "neither DICOM, PNG nor JPEG") from None
    except Exception as error:  # a parser's errors are as many as the ways to damage a file
        raise Refused("unreadable", f"the DICOM header cannot be read: {type(error).__name__}") from None
    try:
        _check_header(header)
        return Film(_display_pixels(header), str(header.get("PatientID") or ""), _facts(header))
    except Refused:
        raise
    except Exception as error:  # the same for decoders and for damaged header values
        raise Refused("decode_failed", f"the pixels cannot be decoded: {type(error).__name__}") from None


def _check_header(header: pydicom.Dataset) -> None:
    """Refuse by the header alone, before any decoding."""
    modality = str(header.get("Modality", ""))
    if modality not in RADIOGRAPHS:
        raise Refused("not_a_radiograph", f"Modality is not one of {', '.join(sorted(RADIOGRAPHS))}")
    if "PixelData" not in header:
        raise Refused("no_pixel_data", "the object has no PixelData")
    if str(header.get("BurnedInAnnotation", "NO")).strip().upper() == "YES":
        raise Refused("burned_in_annotation", "BurnedInAnnotation is YES: the pixels may name the patient")
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise Refused("multi_frame", "more than one frame")
    if (
        header.get("PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2")
        or header.get("SamplesPerPixel", 1) != 1
    ):
        raise Refused("not_monochrome", "not a greyscale image")
    _check_size(int(header.Rows), int(header.Columns))


def _check_size(rows: int, columns: int) -> None:
    if not 0 < rows * columns <= MAX_PIXELS:
        raise Refused("too_large", f"{rows} x {columns} pixels; the limit is {MAX_PIXELS:,}")


def _display_pixels(header: pydicom.Dataset) -> np.ndarray:
    """(H, W) float32 in [0, 1] as a viewer would show it, by the first window or LUT of the file."""
    try:
        stored = header.pixel_array
    except (NotImplementedError, AttributeError) as error:
        raise Refused("unsupported_encoding", f"no decoder for this transfer syntax: {type(error).__name__}") from None
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        if keyword in header and header[keyword].is_empty:
            del header[keyword]
    values = apply_modality_lut(stored, header)
    padding = header.get("PixelPaddingValue")
    padded = stored == padding if padding is not None else np.zeros_like(stored, dtype=bool)
    window = _window(header)
    if header.get("VOILUTSequence"):
        bits = int(header.VOILUTSequence[0].LUTDescriptor[2])
        indices = np.rint(values).astype(np.int32)  # a table is looked up by integers; rescaling gives floats
        shown = apply_voi(indices, header).astype(np.float32) / (2**bits - 1)
    elif window:
        shown = apply_window(values, *window, str(header.get("VOILUTFunction") or "LINEAR"))
    else:
        shown = _percentile_range(values, ~padded)
    if header.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    shown[padded] = 0.0
    if not np.isfinite(shown).all():
        raise Refused("decode_failed", "the display chain gives values that are not numbers")
    return np.clip(shown, 0, 1)


def _window(header: pydicom.Dataset) -> tuple[float, float] | None:
    """Centre and width of the first window; None without one, or with a width that shows nothing."""
    centre, width = _first(header.get("WindowCenter")), _first(header.get("WindowWidth"))
    if centre is None or width is None or float(width) <= 0:
        return None
    return float(centre), float(width)


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


def _percentile_range(values: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    sample = values if valid is None or not valid.any() else values[valid]
    low, high = map(float, np.percentile(sample, PERCENTILES))  # NumPy's own scalars would widen the pixels
    return np.clip((values.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, pydicom.multival.MultiValue) else value


def _facts(header: pydicom.Dataset) -> dict[str, Any]:
    """The allow-list. Coded values only, checked against their defined terms: free text could carry a name."""

    def coded(keyword: str, terms: set[str]) -> str:
        value = str(header.get(keyword) or "").strip().upper()
        return value if value in terms else ""

    age = str(header.get("PatientAge") or "")
    years = int(age[:3]) if len(age) == 4 and age[:3].isdigit() and age[3] == "Y" else None
    return {
        "source_format": "DICOM",
        "modality": coded("Modality", RADIOGRAPHS),
        "view": coded("ViewPosition", VIEWS),
        "sex": coded("PatientSex", {"M", "F", "O"}),
        "age_decade": "" if years is None else min(years // 10 * 10, 90),
        "photometric": header.PhotometricInterpretation,
        "transfer_syntax": header.file_meta.TransferSyntaxUID.name,
        "rows": int(header.Rows),
        "columns": int(header.Columns),
        "bits": int(header.BitsStored),
    }
