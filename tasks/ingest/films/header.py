"""What a DICOM header says of a film: whether it is taken, its labels, and the facts that are safe to keep.

Nothing else of a header leaves this module and `display`.
"""

import re
from contextlib import suppress
from typing import Any

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.multival import MultiValue
from pydicom.valuerep import PersonName

from tasks import SIMULATOR
from tasks.ingest.films.film import Reading, Refused

RADIOGRAPHS = {"CR", "DX", "DR", "RG", "XR"}  # values of Modality (0008,0060)
VIEWS = {"PA", "AP", "LL", "RL", "LATERAL", "LLD", "RLD", "LPO", "RPO", "LAO", "RAO"}  # of ViewPosition (0018,5101)
LATERAL_VIEWS = {"LL", "RL", "PROFIL", "PERFIL", "SEITLICH"}  # beside all that says LAT
LATERAL_CODES = {"399067008", "399173006", "399198007", "R-10236", "R-10238"}  # of ViewCodeSequence, CID 4010
FRONTAL_WORDS, LATERAL_WORDS = {"PA", "AP", "FRONTAL"}, {"LAT", "LATERAL", "LL", "PROFIL", "PERFIL", "SEITLICH"}
SIDES = {"L", "R", "LT", "RT", "LEFT", "RIGHT", "BILATERAL", "BOTH"}
# Defined terms of BodyPartExamined (PS3.16 Annex L) that are not the chest. Other values, in whatever language, pass.
OTHER_PARTS = {
    *("ABDOMEN", "ANKLE", "ARM", "BREAST", "CALCANEUS", "CALF", "CERVICALSPINE", "CLAVICLE", "COCCYX", "CSPINE"),
    *("ELBOW", "EXTREMITY", "FEMUR", "FINGER", "FOOT", "FOREARM", "HAND", "HEAD", "HIP", "HUMERUS", "JAW", "KNEE"),
    *("LEG", "LSPINE", "LUMBARSPINE", "MAXILLA", "NECK", "PATELLA", "PELVIS", "SACRUM", "SCAPULA", "SHOULDER"),
    *("SINUS", "SKULL", "SPINE", "THIGH", "TIBIA", "TIBIAFIBULA", "TOE", "TSPINE", "THORACICSPINE", "ULNA", "WRIST"),
    "WHOLEBODY",
}
LONG = 4  # letters from which a part is known as the beginning of a word, HANDGELENK, or at 6 within one
CHEST = ("CHEST", "THORAX", "TORAX", "LUNG", "RIB", "PULMO", "BRUST", "TORACE", "PECHO")
TEETH = {"TEETH", "TOOTH", "DENTAL", "ORTHOPANTOMOGRAM", "PANOREX"}  # in descriptions of panoramas that name no part
DESCRIPTIONS = ("SeriesDescription", "StudyDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription")
IDENTIFIERS = {  # by the kinds that labels know
    "patient": "PatientID",
    "instance": "SOPInstanceUID",
    "series": "SeriesInstanceUID",
    "study": "StudyInstanceUID",
    "accession": "AccessionNumber",
}
ANIMALS = ("CANINE", "FELINE", "EQUINE", "BOVINE", "VETERINAR")
ASPECTS = (0.25, 4.0)  # of a pixel's height to its width; outside the spacing is an error of the header


def check_header(header: pydicom.Dataset, reading: Reading) -> None:
    """Refuse by the header alone, before any decoding."""
    if text(header, "Modality") not in RADIOGRAPHS:
        raise Refused("not_a_radiograph", f"Modality is not one of {', '.join(sorted(RADIOGRAPHS))}")
    if text(header, "SyntheticData") == "YES":
        raise Refused("synthetic", "SyntheticData is YES: it was made by a generator")
    if text(header, "PresentationIntentType") == "FOR PROCESSING":
        raise Refused("for_processing", "raw data of the detector (PresentationIntentType), not what a viewer shows")
    if "PixelData" not in header:
        last: Any = header.get_item(max(header.keys()))
        if isinstance(last, RawDataElement) and len(last.value or b"") < last.length:
            raise Refused("truncated", "the file ends before its data set does")
        raise Refused("no_pixel_data", "the object has no PixelData")
    if text(header, "BurnedInAnnotation") == "YES":
        raise Refused("burned_in_annotation", "BurnedInAnnotation is YES: the pixels may name the patient")
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise Refused("multi_frame", "more than one frame")
    if (
        text(header, "PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2")
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
    if reading.body_part == "chest" and _is_other_part(header):
        raise Refused("not_a_chest", "the header names another part (ingest.body_part: any keeps these)")
    species = text(header, "PatientSpeciesDescription")
    device = "".join(text(header, keyword) for keyword in ("InstitutionName", "AcquisitionDeviceProcessingDescription"))
    if species not in ("", "HUMAN", "HOMO SAPIENS") or any(word in device for word in ANIMALS):
        raise Refused("not_human", "the header speaks of an animal")


def _is_other_part(header: pydicom.Dataset) -> bool:
    words = _words(text(header, "BodyPartExamined"))
    joined = "".join(word for word in words if word not in SIDES)
    if joined in OTHER_PARTS or "".join(words) in OTHER_PARTS:
        return True
    if any(part in joined for part in CHEST):
        return False
    described = {word for keyword in DESCRIPTIONS for word in _words(text(header, keyword))}
    return (
        any(word in OTHER_PARTS for word in words)
        or any(word.startswith(part) for word in words for part in OTHER_PARTS if len(part) >= LONG)
        or any(part in joined for part in OTHER_PARTS if len(part) >= LONG + 2)
        or bool(described & TEETH and not any(part in word for word in described for part in CHEST))
    )


def _words(value: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", value)


def turn(header: pydicom.Dataset) -> tuple[bool, bool, bool]:
    """What makes a frontal view upright by its PatientOrientation (PS3.3 C.7.6.1.1.1): whether its axes are exchanged,
    and then whether it stands on its head and whether it is mirrored. Rows are to go to the left, columns to the feet.
    """
    along, down = _directions(header)
    exchanged = along in ("H", "F")
    along, down = (down, along) if exchanged else (along, down)
    if along not in ("L", "R") or down not in ("H", "F"):
        return False, False, False
    return exchanged, down == "H", along == "R"


def _directions(header: pydicom.Dataset) -> tuple[str, str]:
    """Where the rows and the columns go: L, R, A, P, H or F; "" where the header has nothing that makes sense."""
    found = [said(value).upper()[:1] for value in all_of(header.get("PatientOrientation"))]
    return (found[0], found[1]) if len(found) == 2 else ("", "")


def _is_lateral(header: pydicom.Dataset) -> bool:
    axes = {frozenset("HF"): "HF", frozenset("AP"): "AP"}
    sides = {name for letter in _directions(header) for axis, name in axes.items() if letter in axis}
    view, series = text(header, "ViewPosition"), text(header, "SeriesDescription")
    described = set(_words(re.sub(r"\b([AP])\W{1,2}([AP])\b", r"\1\2", series)))  # p.a. is PA
    if sides == {"HF", "AP"} or (
        view not in FRONTAL_WORDS and described & LATERAL_WORDS and not described & {*FRONTAL_WORDS, "DECUBITUS"}
    ):
        return True
    codes = {text(item, "CodeValue") for item in header.get("ViewCodeSequence") or ()}
    named = view in LATERAL_VIEWS or ("LAT" in view and "DEC" not in view)  # a lateral decubitus is a frontal view
    return named or bool(codes & LATERAL_CODES)


def pixel_aspect(header: pydicom.Dataset) -> float:
    """Height of a pixel over its width (PS3.3 10.7.1.1: spacing of rows first); 1 where the header gives no sense."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"):
        found = all_of(header.get(keyword))
        try:
            height, width = (float(value) for value in found)
        except (TypeError, ValueError):
            continue
        if height > 0 and width > 0:
            return height / width if ASPECTS[0] <= height / width <= ASPECTS[1] else 1.0
    return 1.0


def identifiers(header: pydicom.Dataset) -> dict[str, str]:
    """By the kinds of IDENTIFIERS those that the header has; of a header too damaged to give one, the others."""
    found = {}
    for kind, keyword in IDENTIFIERS.items():
        with suppress(Exception):  # values can be damaged in as many ways as there are values
            found[kind] = said(header.get(keyword))
    return {kind: value for kind, value in found.items() if value}


def label_of(header: pydicom.Dataset, reading: Reading) -> str:
    """The element's values that are classes, in whatever capitals, with a backslash between them; its other text stays
    here.
    """
    elements = all_of(header.get(reading.label_tag)) if reading.label_tag else []
    values = (part.strip() for element in elements for part in re.split(r"[\\|;]", said(element)))
    classes = {name.casefold() for name in reading.label_values}
    return "\\".join(value for value in values if value.casefold() in classes)


def safe_facts(header: pydicom.Dataset) -> dict[str, Any]:
    """The allow-list. Coded values only, checked against their defined terms: free text could carry a name."""

    def coded(keyword: str, terms: set[str]) -> str:
        value = text(header, keyword)
        return value if value in terms else ""

    age = said(header.get("PatientAge"))
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
        "simulated": "yes" if SIMULATOR in map(said, all_of(header.get("SoftwareVersions"))) else "",
    }


def all_of(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, MultiValue) else [value]


def said(value: Any) -> str:
    """A value as text; "" for a sequence or bytes: a sequence as text takes minutes when it is deep enough."""
    return str(value).strip() if isinstance(value, (str, float, int, PersonName)) else ""


def text(header: pydicom.Dataset, keyword: str) -> str:
    return said(header.get(keyword)).upper()
