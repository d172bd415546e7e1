"""Strings that nobody else writes, planted wherever an archive has room for text. `test_privacy.py` looks for them.

Every text starts with MARK, every long number with DIGITS: so all are found at once.
"""

import csv
import io
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import imagecodecs
import numpy as np
import pandas as pd
import pydicom
from PIL import Image, PngImagePlugin, TiffImagePlugin
from pydicom.datadict import DicomDictionary, dictionary_VR, tag_for_keyword  # type: ignore[attr-defined]
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.tag import BaseTag, Tag
from pydicom.uid import JPEG2000, UID, JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from tests.tasks.films import make_film

MARK, PATH_MARK = "ZQ7X", "ZQ7P"  # of values, and of names of files and folders
DIGITS = "7319274650"
DATE, TIME = "17310927", "175943.918273"
NUMBERS = {"DA": DATE, "TM": TIME, "DT": DATE + TIME, "IS": f"{DIGITS}18", "DS": f"{DIGITS}.18263"}
UID_ROOT = f"1.2.826.0.1.{DIGITS}."
FILM, FILM_UID = f"{MARK}00", f"{UID_ROOT}1000."  # a file's own number takes the place of the zeros

TEXTS = {
    *("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"),
    *("OB", "UN"),
}
# What decides whether a film is taken, and numbers that pixels are shown by: `_refused` has films with these changed.
KEPT = {
    *("SpecificCharacterSet", "Modality", "PhotometricInterpretation", "NumberOfFrames", "PatientSpeciesDescription"),
    *("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "VOILUTSequence", "ModalityLUTSequence"),
    *("PixelData", "PatientID", "TransferSyntaxUID", "FileMetaInformationVersion"),
}
OTHERS = {  # of groups that repeat, after the pixels, and private: the reserving element, text, bytes and a sequence
    **{0x60001500: "LO", 0x60000022: "LO", 0x50002500: "LO", 0x00203100: "CS", 0xFFFCFFFC: "OB"},
    **{0x00190010: "LO", 0x00191001: "LO", 0x00191002: "UN", 0x00191003: "SQ", 0x00191004: "PN"},
}
PARTS = 16
WHOLE = 4  # films with the whole dictionary
Row = tuple[str, str, str]  # of the labels: path, label, patient


def canary(tag: int, vr: str = "LO", place: int = 0) -> str:
    """The text for an element; `place` tells those of one tag apart."""
    text = f"{FILM}{zlib.crc32(f'{tag} {place}'.encode()) & 0xFFFF:04X}"
    if vr == "UI":
        return f"{FILM_UID}{tag}.{place}"
    return f"https://{text}/{text}" if vr == "UR" else f"{text}^{text}={text}" if vr == "PN" else text


def _raw(tag: int, vr: str, value: str) -> RawDataElement:
    """An element as it lies in a file: nobody looks whether its VR takes the value."""
    content = value.encode()
    content += (b"\0" if vr in ("UI", "OB", "UN") else b" ") * (len(content) % 2)
    return RawDataElement(Tag(tag), vr, len(content), content, 0, False, True)


@cache
def _elements(numeric: bool) -> dict[BaseTag, DataElement | RawDataElement]:
    """Every element of pydicom's dictionary that holds text, bytes or items; `numeric`: with numbers and dates that
    are well-formed, not text in their place."""
    found: dict[BaseTag, DataElement | RawDataElement] = {}
    known = {tag: entry[0] for tag, entry in DicomDictionary.items() if entry[4] not in KEPT}
    for tag, vr in {**known, **OTHERS}.items():
        if tag >> 16 in (0x0000, 0x0002, 0x7FE0, 0xFFFE) or (vr == "OB" and tag >> 16 == 0x0028):
            continue
        if vr == "SQ":
            item, deeper = Dataset(), Dataset()
            deeper[0x0040A160] = _raw(0x0040A160, "UT", canary(tag, "UT", 1))
            for place, (inner, kind) in enumerate([(0x00080104, "LO"), (0x00081155, "UI"), (0x00100010, "PN")], 2):
                item[inner] = _raw(inner, kind, canary(tag, kind, place))
            item.add(DataElement(0x0040A730, "SQ", [deeper]))
            found[Tag(tag)] = DataElement(tag, "SQ", [item])
        elif vr in TEXTS:
            found[Tag(tag)] = _raw(tag, vr, NUMBERS[vr] if numeric and vr in NUMBERS else canary(tag, vr))
    return found


def plant(film: Dataset, patient: str, *, numeric: bool, part: int | None = None) -> None:
    """Put a canary in every place that takes one; `patient` becomes the PatientID.

    With `part`, elements that the film lacks are added for one in PARTS of the dictionary only, which is faster.
    """
    age = film.get_item("PatientAge")
    for place, (known, element) in enumerate(_elements(numeric).items()):
        if part is None or known in film or place % PARTS == part % PARTS:
            film[known] = element
    if numeric and age:
        film["PatientAge"] = age
    for item in film.get("VOILUTSequence") or ():
        put(item, "LUTExplanation", canary(0x00283003))
    put(film, "PatientID", patient)
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if tag >> 16 == 2 and vr in TEXTS and keyword not in KEPT:
            text = canary(tag, vr)
            setattr(film.file_meta, keyword, text.encode() if vr == "OB" else text)
    film.file_meta.MediaStorageSOPInstanceUID = UID(canary(0x00080018, "UI"))
    film.preamble = (FILM + "PREA").encode().ljust(16) * 8


def put(film: Dataset, keyword: str, value: str, vr: str = "") -> None:
    """Set an element to a text, whatever its VR takes; `vr` is another one to declare."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    film[tag] = _raw(tag, vr or dictionary_VR(tag), value)


def content(film: Dataset, number: int) -> bytes:
    """The file of a film that has its canaries, now with its own number in them."""
    file = io.BytesIO()
    with pydicom.config.disable_value_validation():
        pydicom.dcmwrite(file, film, enforce_file_format=True)
    return _numbered(file.getvalue(), number)


def _numbered(file: bytes, number: int) -> bytes:
    file = file.replace(FILM.encode(), f"{MARK}{number:02X}".encode())
    return file.replace(FILM_UID.encode(), f"{UID_ROOT}1{number:03d}.".encode())


def picture(image: Image.Image, kind: str, number: int, **options: object) -> bytes:
    """The file of a picture, PNG, JPEG or TIFF, with canaries wherever the format takes text."""
    names = iter(f"{MARK}{number:02X}{place:04X}" for place in range(1, 100))
    exif = Image.Exif()
    for tag in (0x010E, 0x010F, 0x0110, 0x0131, 0x013B, 0x8298, 0x9C9B, 0x9C9F):
        exif[tag] = next(names) if tag < 0x9C00 else next(names).encode("utf-16-le")
    exif.get_ifd(0x8769).update({0x927C: next(names).encode(), 0x9286: b"ASCII\0\0\0" + next(names).encode()})
    xmp = f"<x:xmpmeta><rdf:li>{next(names)}</rdf:li></x:xmpmeta>"
    file = io.BytesIO()
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_text("Title", next(names))
        info.add_text(next(names), next(names), zip=True)
        info.add_itxt("XML:com.adobe.xmp", xmp, zip=True)
        info.add(b"prVt", next(names).encode())
        image.save(file, "PNG", pnginfo=info, exif=exif)
    elif kind == "JPEG":
        image.save(file, "JPEG", exif=exif, xmp=xmp.encode(), comment=next(names), icc_profile=next(names).encode())
    else:
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        for tag in (269, 270, 271, 272, 285, 305, 306, 315, 316, 33432, 65000):
            tags.tagtype[tag], tags[tag] = 2, next(names)
        tags.tagtype[700], tags[700] = 7, xmp.encode()
        image.save(file, "TIFF", tiffinfo=tags, **options)
    return file.getvalue()


class Archive:
    """The simulated archive in `folder`, planted with canaries, and beside its films those of every other kind.

    Also planted are paths and the labels. `taken` counts the files that a curated set must have in the end, `refused`
    holds the reasons that the others must get.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.taken, self.refused = folder, 0, set[str]()
        self._number = 0
        self._rows: list[Row] = []
        self._rng = np.random.default_rng(0)
        self._simulated()
        self._small_films()
        self._labelled_badly()
        self._pictures()
        self._rows.append((f"{PATH_MARK}FFFF/nowhere.dcm", "normal", f"{MARK}FFFFFF"))
        with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["path", "label", "patient_id", "PatientName", "Report"])
            table.writerows((*row, f"{MARK}FE{k:04X}^Jane", f"{MARK}FD{k:04X}") for k, row in enumerate(self._rows))

    @property
    def films(self) -> list[Path]:
        """All files but the labels."""
        return [path for path in self.folder.rglob("*") if path.is_file() and path.name != "labels.csv"]

    def identifiers(self, keyword: str) -> list[str]:
        """What the films say for an identifier, without repeats."""
        found = [pydicom.dcmread(path, stop_before_pixels=True).get(keyword) for path in self.simulated]
        return list(dict.fromkeys(map(str, found)))

    def _simulated(self) -> None:
        patients: dict[str, str] = {}
        for path, label in pd.read_csv(self.folder / "labels.csv").itertuples(index=False):
            film = pydicom.dcmread(self.folder / path)
            name = patients.setdefault(film.PatientID, f"{MARK}F0{len(patients):04X}")
            if int(name[-1], 16) % 3 == 0:
                name = f"{DIGITS}{int(name[-2:], 16):03d}"
            plant(film, name, numeric=self._number % 2 == 0, part=self._number if self._number >= WHOLE else None)
            self._add(content(film, self._next()), label, name if self._number % 3 == 0 else "")
            (self.folder / path).unlink()
        self.simulated = self.films

    def _small_films(self) -> None:
        """Films as they are not to be, one thing wrong with each; and odd ones that are taken."""
        film = self._small()
        for reason, changes in _WRONG:
            saved = {keyword: film.get_item(keyword) if keyword in film else None for keyword in changes}
            for keyword, value in changes.items():
                if value is None:
                    del film[keyword]
                elif isinstance(value, int):
                    film[keyword] = DataElement(keyword, "US", value)
                else:
                    vr, _, text = value.rpartition(":")
                    put(film, keyword, text, vr)
            self._add(content(film, self._next()), "normal", reason=reason)
            for keyword, element in saved.items():
                if element is None:
                    del film[keyword]
                else:
                    film[keyword] = element
        whole = content(film, self._next())
        self._add(whole[: len(whole) - len(film.PixelData) // 2], "normal", reason="truncated")
        self._add(whole[: len(whole) // 3], "normal", reason="truncated")
        self._add(whole[:132] + whole[400:900], "normal", reason="not_a_radiograph")
        self._add(b"Patient: " + canary(1, "PN").encode(), "normal", reason="not_dicom")
        rows = whole.replace(b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00ZQ")
        assert rows != whole
        self._add(rows, "normal", reason="unreadable")
        for syntax, stream in _streams(self._pixels() * 16):
            broken = self._small()
            broken.PixelData = encapsulate([stream])
            broken["PixelData"].VR, broken["PixelData"].is_undefined_length = "OB", True
            broken.file_meta.TransferSyntaxUID = syntax
            self._add(content(broken, self._next()), "normal", reason="decode_failed")
        unknown = content(self._small(), self._next()).replace(b"1.2.840.10008.1.2.1\0", f"{UID_ROOT}9"[:20].encode())
        self._add(unknown, "normal", reason="decode_failed")
        odd = self._small()
        odd.SpecificCharacterSet = "ISO_IR 100"
        charset = canary(0x00080005)
        self._add(content(odd, self._next()).replace(b"ISO_IR 100", charset.encode()), "normal")

    def _labelled_badly(self) -> None:
        other = f"{MARK}FC0001"
        for reason, labels, patients in (
            ("no_label", [], [""]),
            ("conflicting_labels", ["normal", "pneumonia"], [""]),
            ("several_labels", ["normal|pneumonia"], [""]),
            ("other_class", [f"{MARK}FB0001"], [""]),
            ("conflicting_patients", ["normal"], [other, f"{DIGITS}999"]),
        ):
            path = self._write(content(self._small(), self._next()), reason)
            self._rows += [(path, label, patient) for label in labels for patient in patients]
        nobody = self._small()
        del nobody["PatientID"]
        self._add(content(nobody, self._next()), "normal", reason="no_patient")
        twice = self._small()
        self._add(content(twice, self._next()), "normal", other)
        self._add(content(twice, self._next()), "normal", other, reason="duplicate")

    def _pictures(self) -> None:
        def grey() -> Image.Image:
            return Image.fromarray(self._pixels().astype(np.uint8))

        for kind, damaged in (("PNG", "decode_failed"), ("JPEG", ""), ("TIFF", "")):
            file = picture(grey(), kind, self._next())
            self._add(file, "normal", f"{MARK}FA{self._number:04X}")
            self._add(file[: len(file) // 2], "normal", "x", reason="decode_failed" if kind == "JPEG" else "truncated")
            file = picture(grey(), kind, self._next())
            file = file.replace(MARK.encode(), MARK[:3].encode() + b"\xff")  # not ASCII, and chunks with a wrong sum
            self._add(file, "normal", f"{MARK}FA{self._number:04X}", reason=damaged)
        self._add(picture(grey(), "TIFF", self._next(), save_all=True, append_images=[grey()]), "normal", "x",
                  reason="multi_frame")  # fmt: skip
        colour = Image.merge("RGB", [grey(), Image.new("L", (64, 64)), Image.new("L", (64, 64), 255)])
        self._add(picture(colour, "PNG", self._next()), "normal", "x", reason="not_monochrome")

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _pixels(self) -> np.ndarray:
        return np.sort(self._rng.integers(0, 256, (64, 64)), axis=1).astype(np.uint16)

    def _small(self) -> Dataset:
        film = make_film(self._pixels() * 16)
        film.WindowCenter, film.WindowWidth = 2048, 4096
        plant(film, f"{MARK}F1{self._number:04X}", numeric=self._number % 2 == 0, part=self._number)
        return film

    def _write(self, file: bytes, reason: str) -> str:
        """Returns the path in the archive, which has a canary and does not tell the kind of file."""
        path = f"DICOM/{PATH_MARK}{self._number:04X}^Jane/{len(list(self.folder.rglob('*'))):04d}"
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_bytes(file)
        if reason:
            self.refused.add(reason)
        else:
            self.taken += 1
        return path

    def _add(self, file: bytes, label: str, patient: str = "", reason: str = "") -> None:
        self._rows.append((self._write(file, reason), label, patient))


# Reason, and elements to change: to a number or a text, which may start with a VR to declare; None leaves one out.
_WRONG: list[tuple[str, dict[str, str | int | None]]] = [
    ("not_a_radiograph", {"Modality": canary(1)}),
    ("burned_in_annotation", {"BurnedInAnnotation": "YES"}),
    ("multi_frame", {"NumberOfFrames": "2"}),
    ("unreadable", {"NumberOfFrames": canary(2)}),
    ("unreadable", {"Rows": "LO:" + canary(3)}),
    ("unsupported_encoding", {"BitsAllocated": "LO:" + canary(4)}),
    ("not_monochrome", {"PhotometricInterpretation": canary(5)}),
    ("too_large", {"Rows": 65535, "Columns": 65535}),
    ("unsupported_encoding", {"BitsAllocated": 32}),
    ("lateral_view", {"ViewPosition": "LL"}),
    ("not_a_chest", {"BodyPartExamined": "HAND"}),
    ("not_human", {"PatientSpeciesDescription": canary(6)}),
    ("", {"WindowCenter": canary(7)}),  # the pixels are as good without it
    ("decode_failed", {"RescaleSlope": canary(8), "RescaleIntercept": "0"}),
    ("decode_failed", {"PixelPaddingValue": "LO:" + canary(9)}),
    ("decode_failed", {"VOILUTSequence": "LO:" + canary(10)}),
    ("decode_failed", {"ModalityLUTSequence": "LO:" + canary(11)}),
    ("no_pixel_data", {"PixelData": None}),
]


def _streams(pixels: np.ndarray) -> Iterator[tuple[UID, bytes]]:
    """By transfer syntax, code streams of `pixels` (h, w) with a comment in them that are broken after it."""
    eight, note = (pixels >> 4).astype(np.uint8), canary(12).encode()
    jpeg = b"\xff\xfe" + (len(note) + 2).to_bytes(2, "big") + note
    comment = b"\xff\x64" + (len(note) + 4).to_bytes(2, "big") + b"\0\1" + note
    tables, scan, coding, tile = b"\xff\xc4", b"\xff\xda", b"\xff\x52", b"\xff\x90"
    for syntax, stream, said, before, breaks in (
        (JPEGBaseline8Bit, imagecodecs.jpeg8_encode(eight), jpeg, b"\xff\xdb", tables),
        (JPEGLosslessSV1, imagecodecs.jpeg8_encode(pixels, lossless=True, bitspersample=12), jpeg, tables, tables),
        (JPEGLSLossless, imagecodecs.jpegls_encode(pixels), jpeg, b"\xff\xf7", scan),
        (JPEG2000, imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True), comment, coding, tile),
    ):
        start, end = stream.index(before), stream.index(breaks) + 5
        yield syntax, bytes(stream[:start]) + said + stream[start:end] + note * 40 + b"\xff\xd9"
    yield RLELossless, note * 20
