"""A synthetic image as a DICOM file: Secondary Capture Image Storage (PS3.3 A.8.1), marked as made by a machine.

Not Digital X-Ray, whose mandatory attributes describe a detector and an exposure that never were. There is no
patient: a name that is no person's says so wherever the image is shown, all else about people and dates is empty.
"""

import hashlib
from dataclasses import astuple, dataclass
from pathlib import Path
from uuid import NAMESPACE_OID, uuid5

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

NOBODY = ("Synthetic^Not a patient", "SYNTHETIC")  # PatientName, PatientID
EMPTY = (  # of type 2: must be there, may be empty
    *("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"),
    *("ReferringPhysicianName", "SeriesNumber", "Laterality", "PatientOrientation"),
)


@dataclass(frozen=True)
class Origin:
    """What images have in common that are of one DICOM series."""

    model: str  # SHA-256 of the generator's weights, hexadecimal
    seed: int
    truncation: float
    label: str  # the class


def write(path: Path, image: np.ndarray, origin: Origin, number: int) -> None:
    """Write `image` (H, W) uint8, white bright, uncompressed. `number` is that of the image within its origin.

    The same image of the same origin and number gives the same bytes: its UIDs are derived from these alone. A study
    is what one model draws from one seed at one truncation; a series is one class of it.
    """
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.SyntheticData = "YES"
    for keyword in EMPTY:
        setattr(ds, keyword, None)
    ds.PatientName, ds.PatientID = NOBODY

    *study, _ = astuple(origin)
    ds.StudyInstanceUID = _uid(*study)
    ds.SeriesInstanceUID = _uid(*astuple(origin))
    ds.SOPInstanceUID = _uid(*astuple(origin), number, hashlib.sha256(image.tobytes()).hexdigest())
    ds.InstanceNumber = number
    ds.Modality = "OT"
    ds.ConversionType = "SYN"
    ds.Manufacturer = "xraysynth"
    ds.SeriesDescription = origin.label[:64]  # all that VR LO holds

    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.BurnedInAnnotation = "NO"
    ds.DerivationDescription = (
        f"Synthetic image {number} of class {origin.label}, seed {origin.seed}, truncation {origin.truncation:g}, "
        f"drawn by the generator with SHA-256 {origin.model}"
    )
    ds.WindowCenter, ds.WindowWidth = 128, 256  # shown as it is, not stretched (PS3.3 C.11.2.1.2)
    ds.set_pixel_data(image, "MONOCHROME2", bits_stored=8, generate_instance_uid=False)
    ds.save_as(path, enforce_file_format=True)


def _uid(*parts: object) -> UID:
    """The UID of a name-based UUID (PS3.5 B.2), the same for the same parts."""
    return UID(f"2.25.{uuid5(NAMESPACE_OID, repr(parts)).int}")
