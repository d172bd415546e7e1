"""Small DICOM files made to measure for the tests, in every encoding that radiographs come in."""

import io
from copy import deepcopy
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.utils import compress
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    generate_uid,
)

ENCODINGS: dict[str, UID] = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "big_endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg_baseline": JPEGBaseline8Bit,
    "jpeg_extended": JPEGExtended12Bit,
    "jpeg_lossless": JPEGLosslessSV1,
    "jpeg_lossless_any": JPEGLossless,
    "jpeg_ls": JPEGLSLossless,
    "jpeg_ls_near": JPEGLSNearLossless,
    "jpeg_2000": JPEG2000Lossless,
    "jpeg_2000_lossy": JPEG2000,
    "htj2k": HTJ2KLossless,
    "htj2k_lossy": HTJ2K,
}
LOSSY = frozenset({"jpeg_baseline", "jpeg_extended", "jpeg_ls_near", "jpeg_2000_lossy", "htj2k_lossy"})


def make_film(pixels: np.ndarray, patient: str = "PAT1", **elements: Any) -> Dataset:
    """A DX object with `pixels` (H, W) uint16, 12 bits stored; `elements` are set by keyword, None leaves one out."""
    film = Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.file_meta.MediaStorageSOPClassUID = film.SOPClassUID = DigitalXRayImageStorageForPresentation
    film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID = generate_uid()
    film.PatientID, film.PatientName, film.Modality = patient, "DOE^JANE", "DX"
    film.Rows, film.Columns = pixels.shape
    film.SamplesPerPixel, film.PhotometricInterpretation = 1, "MONOCHROME2"
    film.BitsAllocated, film.BitsStored, film.HighBit, film.PixelRepresentation = 16, 12, 11, 0
    film.PixelData = np.ascontiguousarray(pixels, dtype=np.uint16).tobytes()
    for keyword, value in elements.items():
        if value is None:
            delattr(film, keyword)
        else:
            setattr(film, keyword, value)
    return film


def write_film(path: Path, *args: Any, **kwargs: Any) -> Path:
    """`make_film` written to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, make_film(*args, **kwargs), enforce_file_format=True)
    return path


def ramp(side: int = 32, top: int = 4095) -> np.ndarray:
    """(side, side) uint16 from 0 at the left to `top` at the right."""
    return np.tile(np.linspace(0, top, side).round().astype(np.uint16), (side, 1))


def encode(film: Dataset, encoding: str) -> bytes:
    """The whole file of `film` in one of ENCODINGS; `film` is unsigned, uncompressed, and stays as it is.

    Without LOSSY the same pixels come back; those of LOSSY come back within 5 % of the range, noise the worst. Of the
    other elements, words in an OW (of a VOI LUT, say) are not swapped for big_endian. Raises ValueError for pixels
    that the encoding does not hold: more than 8 bits in jpeg_baseline, more than 12 in jpeg_extended, signed ones.
    """
    pixels, bits = film.pixel_array, int(film.BitsStored)
    limit = {"jpeg_baseline": 8, "jpeg_extended": 12}.get(encoding, 16)
    if film.PixelRepresentation or pixels.itemsize > 2 or bits > limit:
        raise ValueError(f"{encoding} of {bits} bits, PixelRepresentation {film.PixelRepresentation}")
    film, syntax = deepcopy(film), ENCODINGS[encoding]
    if encoding == "rle":
        compress(film, syntax, generate_instance_uid=False)
    elif syntax.is_encapsulated:
        film.PixelData = encapsulate([bytes(_codestream(pixels, bits, encoding))])
        film["PixelData"].VR = "OB"
        film["PixelData"].is_undefined_length = True
    else:
        data = (pixels.byteswap() if encoding == "big_endian" else pixels).tobytes()
        film.PixelData = data + b"\0" * (len(data) % 2)
        film["PixelData"].VR = "OB" if pixels.itemsize == 1 and not syntax.is_implicit_VR else "OW"
    film.file_meta.TransferSyntaxUID = syntax
    film.LossyImageCompression = "01" if encoding in LOSSY else "00"
    file = io.BytesIO()
    pydicom.dcmwrite(file, film, enforce_file_format=True)
    return file.getvalue()


def _codestream(pixels: np.ndarray, bits: int, encoding: str) -> bytes | bytearray:
    """One frame (H, W) uint8 or uint16 of `bits` bits, as a fragment of PixelData."""
    match encoding:
        case "jpeg_baseline":
            return imagecodecs.jpeg8_encode(pixels.astype(np.uint8), level=90)
        case "jpeg_extended":  # a precision of 8 or of 12 (ITU-T T.81, table B.2)
            return imagecodecs.jpeg8_encode(pixels, level=90, bitspersample=8 if pixels.itemsize == 1 else 12)
        case "jpeg_lossless" | "jpeg_lossless_any":
            predictor = 1 if encoding == "jpeg_lossless" else 6
            return imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=predictor, bitspersample=bits)
        case "jpeg_ls" | "jpeg_ls_near":
            stream = imagecodecs.jpegls_encode(pixels, level=2 if encoding == "jpeg_ls_near" else 0)
            return b"\xff\xd8" + stream[stream.index(b"\xff\xf7") :]  # without the SPIFF header of a file
        case "jpeg_2000":
            return imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True, bitspersample=bits)
        case "jpeg_2000_lossy":  # the level is a PSNR in dB
            return imagecodecs.jpeg2k_encode(pixels, 50, codecformat="j2k", reversible=False, bitspersample=bits)
        case "htj2k":
            return _htj2k(pixels, bits)
        case "htj2k_lossy":
            return _htj2k(pixels, bits, level=4e-3)
    raise ValueError(f"no codestream for {encoding}")


def _htj2k(pixels: np.ndarray, bits: int, level: float | None = None) -> bytes | bytearray:
    """HTJ2K of `bits` bits; `level` is the step of a lossy one, as a share of the range.

    The encoder knows 8 and 16 bits alone. A codestream of unsigned pixels is that of signed ones around the middle
    of the range (ITU-T T.800, G.1): so these are encoded, and the component is then declared to have `bits` bits.
    A lossy step is relative to the range declared: its pixels are scaled to the range encoded.
    """
    if pixels.itemsize == 1 and bits == 8:
        return imagecodecs.htj2k_encode(pixels, level=level, reversible=level is None)
    centred = pixels.astype(np.int32) - 2 ** (bits - 1)
    if level is not None:
        centred *= 2 ** (16 - bits)
    stream = imagecodecs.htj2k_encode(centred.astype(np.int16), level=level, reversible=level is None)
    precision = stream.index(b"\xff\x51") + 40  # Ssiz of the first component (T.800, A.5.1)
    return stream[:precision] + bytes([bits - 1]) + stream[precision + 1 :]
