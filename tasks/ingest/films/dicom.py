"""A DICOM file to display pixels: parsed, checked by its header, decoded, shown as a viewer would."""

import io
import logging
import warnings
from typing import BinaryIO

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tasks.ingest.films.codecs import stored_values
from tasks.ingest.films.display import display_table, look_up
from tasks.ingest.films.film import Film, Reading, Refused
from tasks.ingest.films.header import check_header, identifiers, label_of, pixel_aspect, safe_facts, turn

# pydicom quotes the offending value when it warns, which can be a name: neither its log nor its checks are wanted.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
LARGE = 4096  # bytes; no value that is looked at is longer
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


def read_dicom(content: bytes, reading: Reading) -> Film:
    """Decode one DICOM file. Raises Refused with the reason."""
    header = _parse(io.BytesIO(content))
    try:
        return _decoded(header, reading)
    except Refused as refused:
        refused.ids = identifiers(header)
        raise


def look_at_dicom(file: BinaryIO, reading: Reading) -> tuple[dict[str, str], str]:
    """The identifiers and the label that `read_dicom` would find, by the header alone. Raises Refused."""
    header = _parse(file, LARGE)
    try:
        _check(header, reading)
        return identifiers(header), label_of(header, reading)
    except Refused as refused:
        refused.ids = identifiers(header)
        raise


def _decoded(header: pydicom.Dataset, reading: Reading) -> Film:
    _check(header, reading)
    try:
        return _film(header, reading)
    except (Refused, MemoryError):
        raise
    except NotImplementedError as error:
        raise Refused("unsupported_encoding", f"no decoder for this transfer syntax: {type(error).__name__}") from None
    except Exception as error:  # the same for decoders
        raise Refused("decode_failed", f"the pixels cannot be decoded: {type(error).__name__}") from None


def _check(header: pydicom.Dataset, reading: Reading) -> None:
    try:
        check_header(header, reading)
    except Refused:
        raise
    except Exception as error:  # header values can be damaged in as many ways as there are values
        raise Refused("unreadable", f"the DICOM header cannot be used: {type(error).__name__}") from None


def _parse(file: BinaryIO, passed: int | None = None) -> pydicom.Dataset:
    """The data set; values of more than `passed` bytes are left in the file."""
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            start = file.read(132)
            file.seek(0)
            whole = start[128:] == b"DICM"
            header = pydicom.dcmread(file, passed) if whole else _parse_bare(file, start, passed)
        if any("end of file" in str(warning.message).lower() for warning in warned):
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


def _parse_bare(file: BinaryIO, start: bytes, passed: int | None) -> pydicom.FileDataset:
    """A data set without the preamble of a file, as old systems and network dumps write it."""
    if start[:2] not in (b"\x02\x00", b"\x08\x00", b"\x00\x08"):  # the groups that can come first
        raise InvalidDicomError
    header = pydicom.dcmread(file, passed, force=True)
    if "SOPClassUID" not in header and "Modality" not in header:
        raise InvalidDicomError
    return header


def _film(header: pydicom.Dataset, reading: Reading) -> Film:
    aspect = pixel_aspect(header)
    rows, columns = int(header.Rows), int(header.Columns)
    stored = stored_values(header, reading.largest_step(rows, columns, aspect))
    table, display = display_table(header, stored.values, reading.window)
    return Film(
        look_up(stored.values, table),
        (rows, columns),
        stored.step,
        stored.first,
        aspect,
        ids=identifiers(header),
        label=label_of(header, reading),
        facts={**safe_facts(header), "display": display, "coding": stored.coding},
        turn=turn(header),
    )
