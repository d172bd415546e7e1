"""Pixels as they lie in files: films in every encoding, and code streams, pictures and run lengths that lie."""

import io
import struct
import zlib

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import UID

from benchmarks.fuzz_ingest.elements import DEFLATED, END, PIXELS, SECRET, base, element, head, item
from tests.tasks.films import encode, make_film


def film(rows: int, columns: int, bits: int, number: int = 0) -> Dataset:
    """A film with all that the display chain looks at; `number` varies what it has."""
    rng = np.random.default_rng(number)
    slope = np.add.outer(np.arange(rows), np.arange(columns)) / (rows + columns)
    pixels = np.rint((0.8 * slope + 0.2 * rng.random((rows, columns))) * (2**bits - 1)).astype(np.uint16)
    elements: dict[str, object] = {
        "PatientName": f"{SECRET}^JANE",
        "SOPInstanceUID": f"2.25.{1000 + number}",
        "StudyDescription": "CHEST PA",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        "PatientAge": "061Y",
        "PixelSpacing": [0.2, 0.25] if number % 2 else [0.2, 0.2],
    }
    top = 2 ** (bits - 1)
    if number % 3 == 0:
        elements |= {"WindowCenter": [top, top // 2], "WindowWidth": [top, top // 4], "RescaleSlope": "2"}
        elements |= {"WindowCenterWidthExplanation": ["NORMAL", "BONE"], "RescaleIntercept": "-10", "RescaleType": "US"}
    elif number % 3 == 1:
        lut = Dataset()
        lut.LUTDescriptor, lut.LUTExplanation = [256, 0, 12], "BONE"
        lut.LUTData = np.arange(0, 4096, 16, dtype="<u2").tobytes()
        elements |= {"VOILUTSequence": [lut], "PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 0}
    if bits == 8:
        narrow = pixels.astype(np.uint8).tobytes()
        elements |= {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelData": narrow}
    made = make_film(pixels, f"{SECRET}-{number}", **elements)
    made.file_meta.MediaStorageSOPInstanceUID = UID(f"2.25.{1000 + number}")
    made["PixelData"].VR = "OW" if bits > 8 else "OB"
    return made


def code_stream(encoding: str, rows: int = 32, columns: int = 24) -> bytes:
    """The code stream of a film in one of ENCODINGS."""
    whole = encode(film(rows, columns, 8 if encoding == "jpeg_baseline" else 12), encoding)
    start = whole.index(b"\xff\x4f\xff\x51" if "2000" in encoding or "htj2k" in encoding else b"\xff\xd8")
    return whole[start : whole.rindex(b"\xff\xd9") + 2]


def run_lengths(segment: bytes) -> bytes:
    """An RLE stream of twice the same segment."""
    return struct.pack("<16I", 2, 64, 64 + len(segment), *[0] * 13) + segment * 2


def frame_header(code: bytes) -> int:
    """Where a JPEG stream says its rows."""
    markers = (b"\xff\xc0", b"\xff\xc1", b"\xff\xc3", b"\xff\xf7")
    return 5 + next(at for marker in markers if (at := code.find(marker)) >= 0)


def jp2(code: bytes, rows: int, columns: int, components: int) -> bytes:
    """A code stream in a JP2 file that describes it as it likes."""

    def box(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", 8 + len(content)) + kind + content

    header = box(b"ihdr", struct.pack(">IIHBBBB", rows, columns, components, 11, 7, 0, 0))
    header += box(b"colr", struct.pack(">BBBI", 1, 0, 0, 17 if components < 3 else 16))
    head = box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 \0\0\0\0jp2 ") + box(b"jp2h", header)
    return head + box(b"jp2c", code)


def fragments(code: bytes) -> bytes:
    """PixelData of one fragment behind an empty table of offsets."""
    fragment = item(code + b"\0" * (len(code) % 2))
    return element(PIXELS, b"OB", b"", END) + item(b"") + fragment + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def bomb(megabytes: int) -> bytes:
    """A deflated film that goes on with zeros: one that says so, in a private element."""
    packer = zlib.compressobj(wbits=-15)
    start = b"".join(element(tag, *value) for tag, value in sorted(base().items()) if tag != PIXELS)
    start = packer.compress(start + element(PIXELS, b"OW", b"", megabytes << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    zeros = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head(DEFLATED) + start + zeros * megabytes + packer.flush()


def of_65535(code: bytes) -> bytes:
    """A JPEG stream that claims 65535 rows and columns."""
    at = frame_header(code)
    return code[:at] + b"\xff\xff\xff\xff" + code[at + 4 :]


def second_frame(code: bytes) -> bytes:
    """A JPEG stream that names its size twice, and differently."""
    start = frame_header(code) - 5
    length = struct.unpack_from(">H", code, start + 2)[0]
    frame = code[start : start + 2 + length]
    return code[: start + len(frame)] + frame[:5] + b"\x20\x00\x20\x00" + frame[9:] + code[start + len(frame) :]


def colour_jpeg() -> bytes:
    """A JPEG stream of three components."""
    file = io.BytesIO()
    Image.new("RGB", (24, 32), "red").save(file, "JPEG")
    return file.getvalue()


def png(rows: int, columns: int, *chunks: bytes) -> bytes:
    """A grey PNG that claims a size and has hardly any pixels."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0))
    pixels = _chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + pixels + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_text_bomb() -> bytes:
    """A small PNG with 100 MB of text, deflated."""
    return png(32, 24, _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100 << 20), 9)))
