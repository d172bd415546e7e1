"""A DICOM file to display pixels: header checks, display chain, and the facts that are safe to keep.

The display chain is that of PS3.3: modality LUT or rescale (C.11.1), VOI LUT or window (C.11.2), then the
photometric interpretation (C.7.6.3.1.2). Nothing else of a header leaves this module.
"""

import io
import logging
import math
import re
import warnings
from typing import Any

import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_modality_lut, apply_voi
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pydicom.valuerep import PersonName

from tasks.codecs import stored_values
from tasks.greyscale import all_values, look_up, percentile_range, stretch
from tasks.reading import Film, Reading, Refused

RADIOGRAPHS = {"CR", "DX", "DR", "RG", "XR"}  # values of Modality (0008,0060)
VIEWS = {"PA", "AP", "LL", "RL", "LATERAL", "LLD", "RLD", "LPO", "RPO", "LAO", "RAO"}  # of ViewPosition (0018,5101)
LATERAL_VIEWS = {"LL", "RL", "PROFIL", "PERFIL", "SEITLICH"}  # beside all that says LAT
LATERAL_CODES = {"399067008", "399173006", "399198007", "R-10236", "R-10238"}  # of ViewCodeSequence, CID 4010
# Defined terms of BodyPartExamined (PS3.16 Annex L) that are not the chest. Other values, in whatever language, pass.
OTHER_PARTS = {
    *("ABDOMEN", "ANKLE", "ARM", "BREAST", "CALCANEUS", "CALF", "CERVICALSPINE", "CLAVICLE", "COCCYX", "CSPINE"),
    *("ELBOW", "EXTREMITY", "FEMUR", "FINGER", "FOOT", "FOREARM", "HAND", "HEAD", "HIP", "HUMERUS", "JAW", "KNEE"),
    *("LEG", "LSPINE", "LUMBARSPINE", "MAXILLA", "NECK", "PATELLA", "PELVIS", "SACRUM", "SCAPULA", "SHOULDER"),
    *("SINUS", "SKULL", "SPINE", "THIGH", "TIBIA", "TIBIAFIBULA", "TOE", "TSPINE", "THORACICSPINE", "ULNA", "WRIST"),
}
ANIMALS = ("CANINE", "FELINE", "EQUINE", "BOVINE", "VETERINAR")
ASPECTS = (0.25, 4.0)  # of a pixel's height to its width; outside the spacing is an error of the header

# pydicom quotes the offending value when it warns, which can be a name: neither its log nor its checks are wanted.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


def read_dicom(content: bytes, reading: Reading) -> Film:
    """Decode one DICOM file. Raises Refused with the reason."""
    header = _parse(content)
    try:
        _check_header(header, reading)
    except Refused:
        raise
    except Exception as error:  # header values can be damaged in as many ways as there are values
        raise Refused("unreadable", f"the DICOM header cannot be used: {type(error).__name__}") from None
    try:
        return _film(header, reading)
    except (Refused, MemoryError):
        raise
    except NotImplementedError as error:
        raise Refused("unsupported_encoding", f"no decoder for this transfer syntax: {type(error).__name__}") from None
    except Exception as error:  # the same for decoders
        raise Refused("decode_failed", f"the pixels cannot be decoded: {type(error).__name__}") from None


def _parse(content: bytes) -> pydicom.Dataset:
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            whole = content[128:132] == b"DICM"
            header = pydicom.dcmread(io.BytesIO(content)) if whole else _parse_bare(content)
        if any("end of file" in str(warning.message).lower() for warning in said):
            raise Refused("truncated", "the file ends before its data set does")
        if not header.file_meta.get("TransferSyntaxUID"):
            implicit, little = header.original_encoding
            header.file_meta.TransferSyntaxUID = (
                ExplicitVRBigEndian if not little else ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
            )
        return header
    except (Refused, MemoryError):
        raise
    except InvalidDicomError:
        raise Refused("not_dicom", "neither DICOM, PNG, JPEG nor TIFF") from None
    except Exception as error:  # a parser's errors are as many as the ways to damage a file
        raise Refused("unreadable", f"the DICOM header cannot be read: {type(error).__name__}") from None


def _parse_bare(content: bytes) -> pydicom.FileDataset:
    """A data set without the preamble of a file, as old systems and network dumps write it."""
    if content[:2] not in (b"\x02\x00", b"\x08\x00", b"\x00\x08"):  # the groups that can come first
        raise InvalidDicomError
    header = pydicom.dcmread(io.BytesIO(content), force=True)
    if "SOPClassUID" not in header and "Modality" not in header:
        raise InvalidDicomError
    return header


def _check_header(header: pydicom.Dataset, reading: Reading) -> None:
    """Refuse by the header alone, before any decoding."""
    if _text(header, "Modality") not in RADIOGRAPHS:
        raise Refused("not_a_radiograph", f"Modality is not one of {', '.join(sorted(RADIOGRAPHS))}")
    if _text(header, "SyntheticData") == "YES":
        raise Refused("synthetic", "SyntheticData is YES: it was made by a generator")
    if _text(header, "PresentationIntentType") == "FOR PROCESSING":
        raise Refused("for_processing", "raw data of the detector (PresentationIntentType), not what a viewer shows")
    if "PixelData" not in header:
        last: Any = header.get_item(max(header.keys()))
        if isinstance(last, RawDataElement) and len(last.value or b"") < last.length:
            raise Refused("truncated", "the file ends before its data set does")
        raise Refused("no_pixel_data", "the object has no PixelData")
    if _text(header, "BurnedInAnnotation") == "YES":
        raise Refused("burned_in_annotation", "BurnedInAnnotation is YES: the pixels may name the patient")
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise Refused("multi_frame", "more than one frame")
    if (
        _text(header, "PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2")
        or (header.get("SamplesPerPixel") or 1) != 1
    ):
        raise Refused("not_monochrome", "not a greyscale image")
    for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation"):
        if not isinstance(header.get(keyword), int):
            raise Refused("unreadable", f"{keyword} is missing or no number")
    reading.check_size(header.Rows, header.Columns)
    if header.PixelRepresentation not in (0, 1):
        raise Refused("unreadable", "PixelRepresentation is neither 0 nor 1")
    if header.BitsAllocated not in (8, 16) or not 1 <= header.BitsStored <= header.BitsAllocated:
        raise Refused("unsupported_encoding", "pixels are neither 8 nor 16 bits wide")
    if reading.lateral == "refuse" and _is_lateral(header):
        raise Refused("lateral_view", "a lateral view (ingest.lateral: take keeps these)")
    if reading.body_part == "chest" and _text(header, "BodyPartExamined").replace(" ", "") in OTHER_PARTS:
        raise Refused("not_a_chest", "BodyPartExamined is another part (ingest.body_part: any keeps these)")
    species = _text(header, "PatientSpeciesDescription")
    device = "".join(
        _text(header, keyword) for keyword in ("InstitutionName", "AcquisitionDeviceProcessingDescription")
    )
    if species not in ("", "HUMAN", "HOMO SAPIENS") or any(word in device for word in ANIMALS):
        raise Refused("not_human", "the header speaks of an animal")


def _is_lateral(header: pydicom.Dataset) -> bool:
    codes = {_text(item, "CodeValue") for item in header.get("ViewCodeSequence") or ()}
    view = _text(header, "ViewPosition")
    named = view in LATERAL_VIEWS or ("LAT" in view and "DEC" not in view)  # a lateral decubitus is a frontal view
    return named or bool(codes & LATERAL_CODES)


def _film(header: pydicom.Dataset, reading: Reading) -> Film:
    aspect = _aspect(header)
    rows, columns = int(header.Rows), int(header.Columns)
    stored = stored_values(header, reading.largest_step(rows, columns, aspect))
    table, display = _display_table(header, stored.values, reading.window)
    return Film(
        look_up(stored.values, table),
        (rows, columns),
        stored.step,
        stored.first,
        aspect,
        patient=_said(header.get("PatientID")),
        instance=_said(header.get("SOPInstanceUID")),
        label=_label(header, reading),
        facts={**_facts(header), "display": display},
    )


def _display_table(header: pydicom.Dataset, pixels: np.ndarray, window: str) -> tuple[np.ndarray, str]:
    """What a viewer shows for every pattern of `pixels`, float32 in [0, 1], and how it was found.

    The window or VOI LUT named `window`; else the first LUT; else the first window; else the percentiles of the film.
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
        shown, display = apply_window(values, *found, _text(header, "VOILUTFunction") or "LINEAR"), "window"
    else:
        shown, display = stretch(values, *percentile_range(pixels, values, ~padded)), "percentiles"
    # PresentationLUTShape INVERSE says the same of a MONOCHROME1 film (PS3.3 C.8.11.1): one inversion, not two.
    if (
        _text(header, "PhotometricInterpretation") == "MONOCHROME1"
        or _text(header, "PresentationLUTShape") == "INVERSE"
    ):
        shown = 1 - shown
    shown[padded] = 0.0
    if not np.isfinite(shown).all():
        raise Refused("decode_failed", "the display chain gives values that are not numbers")
    return np.clip(shown, 0, 1).astype(np.float32), f"named {display}" if named else display


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
            if _said(found).casefold() == name.strip().casefold():
                return kind, index
    return None


def _window(header: pydicom.Dataset, index: int) -> tuple[float, float] | None:
    """Centre and width of a window; None without one that makes sense."""
    centres, widths = (_all(header.get(keyword)) for keyword in ("WindowCenter", "WindowWidth"))
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


def _aspect(header: pydicom.Dataset) -> float:
    """Height of a pixel over its width (PS3.3 10.7.1.1: spacing of rows first); 1 where the header gives no sense."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"):
        found = _all(header.get(keyword))
        try:
            height, width = (float(value) for value in found)
        except (TypeError, ValueError):
            continue
        if height > 0 and width > 0:
            return height / width if ASPECTS[0] <= height / width <= ASPECTS[1] else 1.0
    return 1.0


def _all(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, MultiValue) else [value]


def _label(header: pydicom.Dataset, reading: Reading) -> str:
    """The element's values that are classes, with a backslash between them; its other text stays here."""
    elements = _all(header.get(reading.label_tag)) if reading.label_tag else []
    values = (part.strip() for element in elements for part in re.split(r"[\\|;]", _said(element)))
    return "\\".join(value for value in values if value in reading.label_values)


def _said(value: Any) -> str:
    """A value as text; "" for a sequence or bytes: a sequence as text takes minutes when it is deep enough."""
    return str(value).strip() if isinstance(value, (str, float, int, PersonName)) else ""


def _text(header: pydicom.Dataset, keyword: str) -> str:
    return _said(header.get(keyword)).upper()


def _facts(header: pydicom.Dataset) -> dict[str, Any]:
    """The allow-list. Coded values only, checked against their defined terms: free text could carry a name."""

    def coded(keyword: str, terms: set[str]) -> str:
        value = _text(header, keyword)
        return value if value in terms else ""

    age = _said(header.get("PatientAge"))
    years = int(age[:3]) if len(age) == 4 and age[:3].isascii() and age[:3].isdigit() and age[3] == "Y" else None
    syntax = header.file_meta.TransferSyntaxUID
    return {
        "source_format": "DICOM",
        "modality": coded("Modality", RADIOGRAPHS),
        "view": coded("ViewPosition", VIEWS),
        "sex": coded("PatientSex", {"M", "F", "O"}),
        "age_decade": "" if years is None else min(years // 10 * 10, 90),
        "photometric": coded("PhotometricInterpretation", {"MONOCHROME1", "MONOCHROME2"}),
        "transfer_syntax": syntax.name if not syntax.is_private and syntax.is_transfer_syntax else "",
        "rows": int(header.Rows),
        "columns": int(header.Columns),
        "bits": int(header.BitsStored),
    }
