"""A PNG, JPEG or TIFF file to display pixels."""

import io
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from tasks.ingest.films.codecs import Stored, decode_jpeg
from tasks.ingest.films.display import all_values, look_up, percentile_range, stretch
from tasks.ingest.films.film import Film, Reading, Refused

FIRST_BYTES = {
    **{b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG"},
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF"),  # the last two are BigTIFF
}
ORIENTATION, UPRIGHT = 0x0112, 1  # of Exif
COLOUR = 8  # grey levels between the channels, on average, from which a picture is no radiograph
WHITE_IS_ZERO = 0  # PhotometricInterpretation (262) of TIFF


def picture_kind(content: bytes) -> str:
    """PNG, JPEG or TIFF by the first bytes; "" for all else, and for a DICOM file, whose preamble may be a TIFF's."""
    kinds = (kind for start, kind in FIRST_BYTES.items() if content.startswith(start))
    return "" if content[128:132] == b"DICM" else next(kinds, "")


def look_at_picture(file: BinaryIO, kind: str, reading: Reading) -> None:
    """Refuse what the first bytes of a picture of a `picture_kind` give reason to. Raises Refused."""
    try:
        with Image.open(file, formats=[kind]) as image:
            _check(image, reading)
    except (Refused, MemoryError):
        raise
    except Exception as error:
        raise Refused("decode_failed", f"the picture cannot be decoded: {type(error).__name__}") from None


def _check(image: Image.Image, reading: Reading) -> None:
    reading.check_size(image.height, image.width)
    if getattr(image, "n_frames", 1) > 1:
        raise Refused("multi_frame", "more than one page")


def read_picture(content: bytes, kind: str, reading: Reading) -> Film:
    """Decode one picture of a `picture_kind`. Raises Refused with the reason, and MemoryError."""
    try:
        with Image.open(io.BytesIO(content), formats=[kind]) as opened:
            image: Image.Image = opened
            _check(image, reading)
            if kind != "TIFF" and image.getexif().get(ORIENTATION, UPRIGHT) != UPRIGHT:  # Pillow turns TIFF itself
                image = ImageOps.exif_transpose(image)
            shape = image.height, image.width
            largest = reading.largest_step(*shape, 1.0)
            stored = _grey(image, kind, largest.bit_length() - 1)
    except (Refused, MemoryError):
        raise
    except Exception as error:  # decoders raise what they like on damaged files
        reason = "truncated" if "truncated" in str(error) else "decode_failed"
        raise Refused(reason, f"the picture cannot be decoded: {type(error).__name__}") from None
    values = all_values(stored.values)
    everything = np.ones(len(values), dtype=bool)
    # Pictures of 8 bits are as somebody windowed them; deeper ones carry no window and get a robust range.
    eight = stored.values.dtype == np.uint8
    low, high = (0.0, 255.0) if eight else percentile_range(stored.values, values, everything)
    facts = {"source_format": kind, "rows": shape[0], "columns": shape[1], "bits": 8 * stored.values.itemsize}
    return Film(
        look_up(stored.values, stretch(values, low, high)),
        shape,
        stored.step,
        stored.first,
        facts={**facts, "display": "as stored" if eight else "percentiles"},
    )


def _grey(image: Image.Image, kind: str, reductions: int) -> Stored:
    """Grey values uint8 or uint16 of a picture of any mode."""
    if image.mode.startswith("I"):
        wide = np.asarray(image)
        if wide.min() < 0 or wide.max() > 65535:
            raise Refused("unsupported_encoding", "pixels are neither 8 nor 16 bits wide")
        inverted = kind == "TIFF" and image.tag_v2.get(262) == WHITE_IS_ZERO  # type: ignore[attr-defined]
        return Stored((65535 - wide if inverted else wide).astype(np.uint16))
    if image.mode == "F":
        raise Refused("unsupported_encoding", "floating-point pixels")
    if image.mode not in ("1", "L", "LA"):
        channels = np.asarray(image.convert("RGB").reduce(max(1, min(image.size) // 64)), dtype=np.int16)
        if np.ptp(channels, axis=2).mean() > COLOUR:
            raise Refused("not_monochrome", "a colour picture")
    if image.format == "JPEG" and image.mode == "L":
        return decode_jpeg(image, reductions)
    return Stored(np.asarray(image.convert("L")))
