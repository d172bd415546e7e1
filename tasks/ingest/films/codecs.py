"""Stored pixel values of a DICOM film, in every transfer syntax, at reduced resolution where the codec can.

JPEG 2000 is decoded at a wavelet level and baseline JPEG in the DCT, by as much as the target allows. What a stream
is, is read from the stream itself: files are mislabelled, and its size must be known before it is decoded.
"""

import io
import struct
from dataclasses import dataclass, replace

import imagecodecs
import numpy as np
import pydicom
from PIL import Image, ImageFile
from pydicom.encaps import get_frame
from pydicom.uid import RLELossless

from tasks.ingest.films.film import Refused

Image.MAX_IMAGE_PIXELS = None  # Reading.max_pixels is the limit, and it holds before decoding
ImageFile.LOAD_TRUNCATED_IMAGES = False

END_WITHIN = 64  # bytes from the end of a fragment where the end-of-image marker must lie; padding follows it
START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xF7}  # of JPEG (ITU-T T.81) and JPEG-LS (T.87)
STANDALONE = {0x01, *range(0xD0, 0xDA)}  # markers without a length
START_OF_JPEG_2000 = b"\xff\x4f\xff\x51"
JPEG_LOSSLESS, JPEG_LS = 0xC3, 0xF7
OVERSHOOT = 2.0  # times the largest value of a film: more than wavelets do (1.4 was seen)
NOTABLE, MANY = 1.1, 0.1  # times the largest value, and a share of the pixels: as many do not overshoot by as much


@dataclass(frozen=True)
class Stored:
    """`values` (h, w) are bit patterns, uint8 or uint16; `step` and `first` as in `film.Film`.

    What a pattern means depends on the header's BitsStored and PixelRepresentation: see `display`. `coding`: what a
    decode at reduced resolution depends on beside the pixels.
    """

    values: np.ndarray
    step: int = 1
    first: float = 0.5
    coding: str = ""


@dataclass(frozen=True)
class Stream:
    """What a code stream says of itself; `kind` is the start-of-frame marker of JPEG or 0 for JPEG 2000."""

    kind: int
    rows: int
    columns: int
    components: int
    bits: int
    signed: bool = False
    levels: int = 0  # wavelet decompositions
    reversible: bool = True
    tile: tuple[int, ...] = ()  # width and height


def stored_values(header: pydicom.Dataset, largest_step: int) -> Stored:
    """The pixels of a single-frame greyscale film, sides divided by a power of two up to `largest_step`.

    Raises Refused (truncated, decode_failed, unsupported_encoding); a decoder's own errors pass through.
    """
    syntax = header.file_meta.TransferSyntaxUID
    if not syntax.is_transfer_syntax:
        raise Refused("unsupported_encoding", "no decoder for this transfer syntax")
    if not syntax.is_compressed or syntax.is_deflated:
        return Stored(_used_bits(_native(header), header))
    code = get_frame(header.PixelData, 0, number_of_frames=1)
    if syntax == RLELossless:
        lengths = _run_lengths(code, header.Rows, header.Columns, header.BitsAllocated // 8)
        return Stored(_used_bits(lengths, header))
    stream = _inspect(code)
    if (stream.rows, stream.columns) != (header.Rows, header.Columns):
        raise Refused("decode_failed", "the compressed picture has another size than the header says")
    if stream.components != 1:
        raise Refused("not_monochrome", f"the compressed picture has {stream.components} components")
    if stream.bits > 16:
        raise Refused("unsupported_encoding", f"{stream.bits} bits a pixel; up to 16 are read")
    if b"\xff\xd9" not in code[-END_WITHIN:]:
        raise Refused("truncated", "the compressed picture has no end")
    stored = _decode(code, stream, largest_step)
    if stored.values.shape != (-(-stream.rows // stored.step), -(-stream.columns // stored.step)):
        raise Refused("decode_failed", "the compressed picture has another size than it says")
    if stream.kind == 0 and stream.signed == (header.PixelRepresentation == 1):
        return _without_overshoot(stored, code, stream, header)
    if not stream.signed:
        _check_bits(stored.values, header)
    return stored


def _without_overshoot(stored: Stored, code: bytes, stream: Stream, header: pydicom.Dataset) -> Stored:
    """What wavelets overshoot is cut off: where the stream has more bits than the film, its decoder does not.

    Only a whole decode can say that pixels need more bits: a reversible stream has the pixels themselves, of others
    they lie far beyond the film's, or many of them do. In a reduced decode that gives reason to look there.
    """
    if stream.signed:
        signed, half = stored.values.view(f"i{stored.values.itemsize}"), 1 << (header.BitsStored - 1)
        return replace(stored, values=np.clip(signed, -half, half - 1).view(stored.values.dtype))
    limit = (1 << header.BitsStored) - 1
    largest = int(stored.values.max())
    if largest <= limit:
        return stored
    beyond = largest > OVERSHOOT * limit or np.mean(stored.values > NOTABLE * limit) > MANY
    if stored.step == 1 and (stream.reversible or beyond):
        _check_bits(stored.values, header)
    elif beyond:
        _without_overshoot(_decode(code, stream, 1), code, stream, header)
    return replace(stored, values=np.minimum(stored.values, stored.values.dtype.type(limit)))


def _used_bits(values: np.ndarray, header: pydicom.Dataset) -> np.ndarray:
    """The BitsStored bits below HighBit, which are not the lowest in some old files, moved down (PS3.5 8.1.1)."""
    shift = header.get("HighBit", header.BitsStored - 1) + 1 - header.BitsStored
    if not 0 <= shift <= header.BitsAllocated - header.BitsStored:
        raise Refused("decode_failed", "HighBit and BitsStored contradict each other")
    values = values >> shift if shift else values
    if not any(0x6000 <= tag.group <= 0x60FF for tag in list(header.keys())):  # overlays lie above
        _check_bits(values, header)
    return values


def _check_bits(values: np.ndarray, header: pydicom.Dataset) -> None:
    if header.PixelRepresentation == 0 and int(values.max()) >> header.BitsStored:
        raise Refused("decode_failed", f"pixels need more than the {header.BitsStored} bits that the header says")


def _native(header: pydicom.Dataset) -> np.ndarray:
    expected = header.Rows * header.Columns * header.BitsAllocated // 8
    data = header.PixelData or b""
    if len(data) < expected:
        raise Refused("truncated", f"{len(data):,} bytes of pixels where {expected:,} are declared")
    if len(data) >= 2 * expected:
        raise Refused("multi_frame", "pixel data for more than one frame")
    order = "<" if header.file_meta.TransferSyntaxUID.is_little_endian else ">"
    if order == ">" and header.BitsAllocated == 8 and header["PixelData"].VR == "OW":
        data = np.frombuffer(data, "u2", len(data) // 2).byteswap().tobytes()  # pairs of pixels are words
    values = np.frombuffer(data, f"{order}u{header.BitsAllocated // 8}", header.Rows * header.Columns)
    return _patterns(values.reshape(header.Rows, header.Columns))


def _run_lengths(code: bytes, rows: int, columns: int, itemsize: int) -> np.ndarray:
    """RLE of PS3.5 Annex G. pylibjpeg-rle panics on damaged streams, which no `except Exception` catches."""
    expected = rows * columns * itemsize
    if code[:4] != struct.pack("<I", itemsize):
        raise Refused("decode_failed", f"run lengths are not in {itemsize} segments")
    decoded = imagecodecs.dicomrle_decode(code, f"<u{itemsize}")
    if len(decoded) < expected:
        raise Refused("truncated", f"{len(decoded):,} bytes of pixels where {expected:,} are declared")
    return np.frombuffer(decoded, f"<u{itemsize}", rows * columns).reshape(rows, columns)


def _patterns(values: np.ndarray) -> np.ndarray:
    return values.astype(values.dtype.newbyteorder("="), copy=False).view(f"u{values.itemsize}")


def _inspect(code: bytes) -> Stream:
    """Read the main header of a JPEG, JPEG-LS or JPEG 2000 stream."""
    try:
        start = code.find(START_OF_JPEG_2000, 0, 4096)  # the stream may be wrapped in a JP2 file
        return _inspect_jpeg_2000(code[start:]) if start >= 0 else _inspect_jpeg(code)
    except (struct.error, IndexError):
        raise Refused("truncated", "the compressed picture ends in its header") from None


def _inspect_jpeg(code: bytes) -> Stream:
    if not code.startswith(b"\xff\xd8"):
        raise Refused("unsupported_encoding", "the compressed picture is neither JPEG, JPEG-LS nor JPEG 2000")
    at = 2
    while True:
        if code[at] != 0xFF:
            raise Refused("decode_failed", "the header of the compressed picture is damaged")
        marker = code[at + 1]
        if marker in START_OF_FRAME:
            bits, rows, columns, components = struct.unpack_from(">BHHB", code, at + 4)
            return Stream(marker, rows, columns, components, bits)
        at += 1 if marker == 0xFF else 2 if marker in STANDALONE else 2 + struct.unpack_from(">H", code, at + 2)[0]


def _inspect_jpeg_2000(code: bytes) -> Stream:
    """ISO/IEC 15444-1 A.5.1 (SIZ) and A.6.1 (COD)."""
    right, bottom, left, top = struct.unpack_from(">4I", code, 8)
    tile = struct.unpack_from(">2I", code, 24)
    (components,) = struct.unpack_from(">H", code, 40)
    depth, dx, dy = struct.unpack_from(">3B", code, 42)
    if (left, top, dx, dy) != (0, 0, 1, 1):
        raise Refused("unsupported_encoding", "a JPEG 2000 picture with an offset or with subsampling")
    levels, reversible, at = 0, True, 2
    while code[at + 1] != 0x90:  # start of the first tile
        if code[at] != 0xFF:
            raise Refused("decode_failed", "the header of the compressed picture is damaged")
        if code[at + 1] == 0x52:
            levels, reversible = code[at + 9], code[at + 13] == 1
        at += 2 + struct.unpack_from(">H", code, at + 2)[0]
    return Stream(0, bottom, right, components, (depth & 0x7F) + 1, bool(depth & 0x80), levels, reversible, tile)


def _decode(code: bytes, stream: Stream, largest_step: int) -> Stored:
    reductions = largest_step.bit_length() - 1
    if stream.kind == 0:
        return _decode_jpeg_2000(code, stream, min(reductions, stream.levels))
    if stream.kind == JPEG_LS:
        return Stored(_patterns(imagecodecs.jpegls_decode(code)))
    if stream.kind == JPEG_LOSSLESS or stream.bits > 8:
        return Stored(_patterns(imagecodecs.jpeg8_decode(code)))
    return decode_jpeg(Image.open(io.BytesIO(code), formats=["JPEG"]), reductions)


def decode_jpeg(image: Image.Image, reductions: int) -> Stored:
    """Grey values uint8 of an opened JPEG, sides divided by up to 2^`reductions` (8 at most) in the DCT."""
    side, step = max(image.size), 1 << min(reductions, 3)
    image.draft("L", (image.width // step, image.height // step))
    step = round(side / max(image.size))
    return Stored(np.asarray(image.convert("L")), step, step / 2)


def _decode_jpeg_2000(code: bytes, stream: Stream, reductions: int) -> Stored:
    """A low-pass sample lies on the first of the samples it stands for, so the first stays at half a pixel."""
    code = code[code.find(START_OF_JPEG_2000) :]  # what was inspected, whatever a JP2 file says around it
    image = Image.open(io.BytesIO(code), formats=["JPEG2000"])
    step = 1 << reductions
    if reductions:
        image.reduce = reductions  # type: ignore[method-assign, assignment]
        # Pillow rounds the reduced size where JPEG 2000 (B-15) rounds up, and then finds the stream broken.
        image._size = -(-stream.columns // step) * step, -(-stream.rows // step) * step
    values = np.asarray(image)
    values = values >> (8 * values.itemsize - stream.bits)  # Pillow fills the word from the top,
    if stream.signed:
        values = values - values.dtype.type(1 << (stream.bits - 1))  # and makes signed samples positive
    return Stored(values, step, 0.5, f"{stream.levels} {stream.reversible} {stream.tile}")
