"""DICOM files made by hand, one element after the other, so that every one of them can lie."""

import struct
import zlib

import numpy as np

SECRET = "SECRET"  # in all identifiers of all files: it must turn up nowhere
EXPLICIT, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"
META, PIXELS, END = 0x00020010, 0x7FE00010, 0xFFFFFFFF
LONG_VRS = (b"OB", b"OW", b"OF", b"OD", b"OL", b"SQ", b"UN", b"UT", b"UC", b"UR", b"OV")
Value = tuple[bytes, bytes]  # VR, and the value as it lies in the file
Files = dict[str, tuple[bytes, str]]  # by name: content, and the reason of the refusal or "taken"


def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """One element in explicit little endian; `length` is what it says of its value."""
    value += b"\0" * (len(value) % 2)
    said = len(value) if length is None else length
    form = "<2sHI" if vr in LONG_VRS else "<2sH"
    fields = (vr, 0, said) if vr in LONG_VRS else (vr, min(said, 0xFFFF))
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + struct.pack(form, *fields) + value


def item(content: bytes, length: int | None = None) -> bytes:
    """An item of a sequence; with a length of END its delimiter follows."""
    said = len(content) if length is None else length
    end = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) if said == END else b""
    return struct.pack("<HHI", 0xFFFE, 0xE000, said) + content + end


def us(*numbers: int) -> Value:
    """A value of one or several unsigned shorts."""
    return b"US", struct.pack(f"<{len(numbers)}H", *numbers)


def text(vr: str, value: str) -> Value:
    """A value of characters, padded to an even length."""
    return vr.encode(), value.encode() + (b"\0" if vr == "UI" else b" ") * (len(value) % 2)


HUGE: dict[int, Value | None] = {0x00280010: us(65535), 0x00280011: us(65535)}


def base(rows: int = 32, columns: int = 24) -> dict[int, Value]:
    """The elements of a film of 12 bits."""
    pixels = np.linspace(0, 4095, rows * columns).astype("<u2").tobytes()
    return {
        0x00080016: text("UI", "1.2.840.10008.5.1.4.1.1.1.1"),
        0x00080018: text("UI", "2.25.1234"),
        0x00080060: text("CS", "DX"),
        0x00100010: text("PN", f"{SECRET}^JANE"),
        0x00100020: text("LO", f"{SECRET}-1"),
        0x00280002: us(1),
        0x00280004: text("CS", "MONOCHROME2"),
        0x00280010: us(rows),
        0x00280011: us(columns),
        0x00280100: us(16),
        0x00280101: us(12),
        0x00280102: us(11),
        0x00280103: us(0),
        PIXELS: (b"OW", pixels),
    }


def built(changes: dict[int, Value | None] | None = None, syntax: str = EXPLICIT, tail: bytes | None = None) -> bytes:
    """A file of `base` with `changes` (None leaves an element out); `tail` stands in for PixelData."""
    elements = base() | {tag: value for tag, value in (changes or {}).items() if value}
    for tag, value in (changes or {}).items():
        if value is None:
            del elements[tag]
    if tail is not None:
        del elements[PIXELS]
    content = b"".join(element(tag, *elements[tag]) for tag in sorted(elements)) + (tail or b"")
    return head(syntax) + (deflated(content) if syntax == DEFLATED else content)


def head(syntax: str) -> bytes:
    """Preamble and meta information, which name a transfer syntax."""
    meta = element(META, *text("UI", syntax))
    return bytes(128) + b"DICM" + element(0x00020000, b"UL", struct.pack("<I", len(meta))) + meta


def deflated(content: bytes) -> bytes:
    """As a data set of the deflated transfer syntax lies in its file."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(content) + packer.flush()


def sequences(levels: int, undefined: bool = False) -> bytes:
    """ViewCodeSequence in ViewCodeSequence, and so on."""
    content = b""
    for _ in range(levels):
        content = item(content, END if undefined else None)
        end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0) if undefined else b""
        content = element(0x00540220, b"SQ", b"", END if undefined else len(content)) + content + end
    return content


def lut(*descriptor: int, entries: int = 16, vr: bytes = b"US") -> Value:
    """A sequence of one table, whose descriptor need not be that of its entries."""
    content = element(0x00283002, b"US", struct.pack(f"<{len(descriptor)}H", *descriptor))
    values = np.linspace(0, 65535, entries).astype("<u2").tobytes()
    return b"SQ", item(content + element(0x00283006, vr, values))
