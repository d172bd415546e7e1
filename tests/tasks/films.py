"""Small DICOM files made to measure for the tests."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid


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
