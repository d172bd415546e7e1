"""A simulated radiograph as a DICOM file: Digital X-Ray Image Storage, For Presentation (PS3.3 A.26).

Every attribute of type 1 and 2 is there, with people, places and dates that nobody has, so that what later
stages do about privacy can be tested. Nothing here knows the patient's disease.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.pixels.utils import compress
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from tasks import SIMULATOR
from tasks.simulate.anatomy import Pose
from tasks.simulate.radiograph import MAX_VALUE, Exposure

SYNTAXES: tuple[UID, ...] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless)
PHOTOMETRIC = ("MONOCHROME2", "MONOCHROME1")
WINDOWS = ("one", "several", "linear", "sigmoid", "table")

# family^given by sex (F, M), and the character set the file needs
_NAMES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("", ("Okafor^Ngozi", "Lindqvist^Karin", "Marsh^Eleanor", "Tanner^Ruth^M", "Haddad^Layla", "Novak^Petra"),
     ("Adeyemi^Tunde", "Baker^Thomas^J", "Rossi^Marco", "Whitfield^George", "Jansen^Pieter", "Silva^Rui")),
    ("ISO_IR 100", ("Müller^Jürgen-Käthe", "Nuñez^Begoña", "Lefèvre^Aurélie", "Østergård^Åse"),
     ("Schäfer^Jörg", "García^Íñigo", "Gagné^Benoît", "Sjöberg^Håkan")),
    ("ISO_IR 192", ("Yamada^Hanako=山田^花子=やまだ^はなこ", "Παπαδοπούλου^Ελένη", "Кузнецова^Ольга",
      "Kim^Ji-woo=김^지우"),
     ("Wang^Wei=王^伟", "Παππάς^Νίκος", "Соколов^Дмитрий", "Nguyễn^Văn Minh", "Yılmaz^Çağrı")),
)  # fmt: skip
_PLACES = (
    "St Alban Infirmary",
    "Northfield General Hospital",
    "Harbour Street Clinic",
    "Kestrel Valley Hospital",
)
_DOCTORS = (
    "Abbot^Miriam^^Dr",
    "Castellan^Hugo^^Dr",
    "Ferrier^Anne^^Prof",
    "Oyelaran^Samuel^^Dr",
    "Petrov^Ilya^^Dr",
)
_DEVICES = (("Helion Imaging", "DR-X 200"), ("Orbis Medical", "Thora 4"), ("Sanwa Rontgen", "SR-3100"))


@dataclass(frozen=True)
class Person:
    """Who the films say the patient is."""

    name: str
    charset: str
    patient_id: str
    sex: str
    birth: date
    place: str
    comment: str


@dataclass(frozen=True)
class Record:
    """What one film's header says beside the person; `entropy` gives its UIDs and the study's."""

    person: Person
    study: tuple[int, ...]
    film: tuple[int, ...]
    taken: datetime
    number: int
    syntax: UID
    photometric: str
    window: str


def draw_person(rng: np.random.Generator, number: int, female: bool) -> Person:
    """A random identity; the patient's number makes its ID unique in the archive."""
    charset, women, men = _NAMES[int(rng.choice(3, p=[0.6, 0.2, 0.2]))]
    birth = date(1930, 1, 1) + timedelta(days=int(rng.integers(0, 365 * 76)))
    return Person(
        name=str(rng.choice(women if female else men)),
        charset=charset,
        patient_id=f"{rng.choice(['MRN', 'P', 'KH-'])}{700000 + number * 37 + int(rng.integers(37))}",
        sex="F" if female else "M",
        birth=birth,
        place=str(rng.choice(_PLACES)),
        comment=str(rng.choice(["", "", "Phone +00 555 0143", "Next of kin informed"])),
    )


def draw_uid(entropy: tuple[int, ...]) -> UID:
    """A UID under 2.25 (PS3.5 B.2) from integers, the same for the same integers."""
    words = np.random.SeedSequence(entropy).generate_state(4, np.uint32)
    return UID(f"2.25.{int.from_bytes(words.astype('<u4').tobytes(), 'little')}")


def write(path: Path, pixels: NDArray[np.uint16], pose: Pose, shot: Exposure, record: Record) -> None:
    """Write `pixels` (rows, columns), 0 to 4095, bright where attenuation is high, as one DICOM file."""
    rng = np.random.default_rng((*record.study, 9))  # films of one study agree in what is the study's
    stored = pixels if record.photometric == "MONOCHROME2" else MAX_VALUE - pixels
    dataset = FileDataset(str(path), {}, preamble=b"\0" * 128, file_meta=_meta(record))
    _patient_and_study(dataset, record, rng)
    _series_and_equipment(dataset, pose, shot, record, rng)
    _image(dataset, stored, pose, record)
    _window(dataset, stored, record, rng)
    implicit = record.syntax == ImplicitVRLittleEndian
    if record.syntax in (JPEG2000Lossless, RLELossless):
        compress(dataset, record.syntax, generate_instance_uid=False)
    dataset.save_as(path, implicit_vr=implicit, little_endian=True, enforce_file_format=True)


def _meta(record: Record) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = draw_uid(record.film)
    compressed = record.syntax in (JPEG2000Lossless, RLELossless)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian if compressed else record.syntax
    return meta


def _patient_and_study(ds: Dataset, record: Record, rng: np.random.Generator) -> None:
    person, taken = record.person, record.taken
    if person.charset:
        ds.SpecificCharacterSet = person.charset
    ds.SOPClassUID = DigitalXRayImageStorageForPresentation
    ds.SOPInstanceUID = draw_uid(record.film)
    ds.PatientName = person.name
    ds.PatientID = person.patient_id
    ds.PatientBirthDate = person.birth.strftime("%Y%m%d")
    ds.PatientSex = person.sex
    ds.PatientAge = f"{(taken.date() - person.birth).days // 365:03d}Y"
    if person.comment:
        ds.PatientComments = person.comment
    ds.StudyInstanceUID = draw_uid(record.study)
    ds.SeriesInstanceUID = draw_uid((*record.study, 1))
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = taken.strftime("%Y%m%d")
    ds.StudyTime = taken.strftime("%H%M%S")
    ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = (taken + timedelta(minutes=3 * record.number)).strftime(
        "%H%M%S"
    )
    ds.ReferringPhysicianName = str(rng.choice(_DOCTORS))
    ds.AccessionNumber = f"A{int(rng.integers(10**7)):07d}"
    ds.StudyID = str(int(rng.integers(1000, 99999)))
    ds.StudyDescription = "Chest radiograph"


def _series_and_equipment(ds: Dataset, pose: Pose, shot: Exposure, record: Record, rng: np.random.Generator) -> None:
    ds.Modality = "DX"
    ds.SeriesNumber = 1
    ds.SeriesDescription = "Chest AP bedside" if pose.anteroposterior else "Chest PA"
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.OperatorsName = str(rng.choice(["Brandt^Lea", "Moore^Ian", "Sato^Mei"]))
    maker, model = _DEVICES[int(rng.integers(len(_DEVICES)))]
    ds.Manufacturer, ds.ManufacturerModelName = maker, model
    ds.DeviceSerialNumber = f"SN{int(rng.integers(10**6)):06d}"
    ds.SoftwareVersions = [f"{int(rng.integers(2, 7))}.{int(rng.integers(10))}", SIMULATOR]
    ds.InstitutionName = record.person.place
    ds.InstitutionAddress = "1 Example Road"
    ds.StationName = f"DX{int(rng.integers(1, 9))}"
    ds.BodyPartExamined = "CHEST"
    ds.ViewPosition = "AP" if pose.anteroposterior else "PA"
    ds.KVP = int(shot.kvp)
    ds.ExposureTime = int(rng.integers(4, 25))
    ds.XRayTubeCurrent = int(rng.integers(160, 400))
    ds.Exposure = max(int(ds.ExposureTime * ds.XRayTubeCurrent / 1000), 1)
    ds.DistanceSourceToDetector = int(pose.source_distance)
    ds.PositionerType = "NONE"
    ds.DetectorType = str(rng.choice(["SCINTILLATOR", "DIRECT"]))
    ds.DetectorConfiguration = "AREA"
    ds.DetectorID = f"D{int(rng.integers(10**5)):05d}"


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


def _image(ds: Dataset, stored: NDArray[np.uint16], pose: Pose, record: Record) -> None:
    inverse = record.photometric == "MONOCHROME1"
    ds.InstanceNumber = record.number
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.PatientOrientation = ["L", "F"]
    ds.ImageLaterality = "U"
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    spacing = f"{pose.spacing:.5f}"
    ds.ImagerPixelSpacing = [spacing, spacing]
    region = _code("816094009", "Chest")
    ds.AnatomicRegionSequence = Sequence([region])
    ap = pose.anteroposterior
    view = _code(*(("399348003", "antero-posterior") if ap else ("272479007", "postero-anterior")))
    view.ViewModifierCodeSequence = Sequence([])
    ds.ViewCodeSequence = Sequence([view])
    ds.AcquisitionContextSequence = Sequence([])
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = record.photometric
    ds.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    ds.PixelIntensityRelationship = "LOG"
    ds.PixelIntensityRelationshipSign = 1 if inverse else -1  # MONOCHROME2 is bright where little X-ray arrived
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = stored.astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"


def _window(ds: Dataset, stored: NDArray[np.uint16], record: Record, rng: np.random.Generator) -> None:
    """The VOI transformation that a presentation image must carry: windows or a table."""
    low, high = np.percentile(stored[::4, ::4], [1, 99.5])
    full = rng.random() < 0.3
    centre, width = (2048, 4096) if full else (round((low + high) / 2), max(round(1.06 * (high - low)), 256))
    if record.window == "table":
        x = np.arange(MAX_VALUE + 1) / MAX_VALUE
        gain = float(rng.uniform(2.0, 5.0))
        curve = np.tanh(gain * (x - 0.5)) / np.tanh(gain / 2) / 2 + 0.5
        table = Dataset()
        table.LUTDescriptor = [MAX_VALUE + 1, 0, 12]
        table.LUTExplanation = "S-shaped"
        table.LUTData = np.rint(curve * MAX_VALUE).astype("<u2").tobytes()
        table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "OW"
        ds.VOILUTSequence = Sequence([table])
        return
    if record.window == "several":
        ds.WindowCenter = [centre, centre, centre]
        ds.WindowWidth = [width, round(width * 0.75), round(width * 1.3)]
        ds.WindowCenterWidthExplanation = ["NORMAL", "HARDER", "SOFTER"]
        return
    ds.WindowCenter, ds.WindowWidth = centre, width
    if record.window in ("linear", "sigmoid"):
        ds.VOILUTFunction = record.window.upper()
