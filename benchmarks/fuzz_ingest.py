"""Damaged and hostile files against the decoder: every one must be taken or refused, in bounded time and memory.

python -m benchmarks.fuzz_ingest                    the campaign, then a whole ingest of some of its files
python -m benchmarks.fuzz_ingest --only NUMBER      one file of it, with what becomes of it
python -m benchmarks.fuzz_ingest --help

File NUMBER of a seed is always the same: first come the hostile ones, made by hand, then mutants of small films in
every encoding, of pictures, and of the hostile ones. Linux only (it reads peaks of memory from /proc).
"""

import io
import json
import multiprocessing
import os
import pickle
import signal
import struct
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import UID

from benchmarks.tables import table
from tasks.ingest import stage, workers
from tasks.ingest.films import decode
from tasks.ingest.films.film import Reading
from tasks.ingest.pseudonyms import pseudonym
from tasks.params import Fit, Ingest
from tests.tasks.films import ENCODINGS, encode, make_film

SECRET = "SECRET"  # in all identifiers of all files: it must turn up nowhere
SIZE = 32  # pixels of the curated images
PEAK_LIMIT = 1_000_000_000  # bytes resident
MUTABLE = 1 << 16  # bytes of a file that is still worth mutating
KEY = b"of the campaign"
KEEPS_MEMORY = {"bomb"}  # hostile files that only a limit on the process's memory stops

# Files made by hand

EXPLICIT, DEFLATED, JPEG_SV1 = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.70"
META, PIXELS, END = 0x00020010, 0x7FE00010, 0xFFFFFFFF
LONG_VRS = (b"OB", b"OW", b"OF", b"OD", b"OL", b"SQ", b"UN", b"UT", b"UC", b"UR", b"OV")
Value = tuple[bytes, bytes]  # VR, and the value as it lies in the file


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
    return (
        struct.pack("<HHI", 0xFFFE, 0xE000, said) + content + (struct.pack("<HHI", 0xFFFE, 0xE00D, 0) * (said == END))
    )


def us(*numbers: int) -> Value:
    return b"US", struct.pack(f"<{len(numbers)}H", *numbers)


def text(vr: str, value: str) -> Value:
    return vr.encode(), value.encode() + (b"\0" if vr == "UI" else b" ") * (len(value) % 2)


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
    return _head(syntax) + (_deflated(content) if syntax == DEFLATED else content)


def _head(syntax: str) -> bytes:
    meta = element(META, *text("UI", syntax))
    return bytes(128) + b"DICM" + element(0x00020000, b"UL", struct.pack("<I", len(meta))) + meta


def _deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(content) + packer.flush()


def _bomb(megabytes: int) -> bytes:
    """A deflated film that goes on with zeros: one that says so, in a private element."""
    packer = zlib.compressobj(wbits=-15)
    start = b"".join(element(tag, *value) for tag, value in sorted(base().items()) if tag != PIXELS)
    start = packer.compress(start + element(PIXELS, b"OW", b"", megabytes << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    zeros = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return _head(DEFLATED) + start + zeros * megabytes + packer.flush()


def _sequences(levels: int, undefined: bool = False) -> bytes:
    """ViewCodeSequence in ViewCodeSequence, and so on."""
    content = b""
    for _ in range(levels):
        content = item(content, END if undefined else None)
        end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0) if undefined else b""
        content = element(0x00540220, b"SQ", b"", END if undefined else len(content)) + content + end
    return content


def _fragments(code: bytes) -> bytes:
    """PixelData of one fragment behind an empty table of offsets."""
    fragment = item(code + b"\0" * (len(code) % 2))
    return element(PIXELS, b"OB", b"", END) + item(b"") + fragment + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def _code(encoding: str, rows: int = 32, columns: int = 24) -> bytes:
    """The code stream of a film in one of ENCODINGS."""
    whole = encode(_film(rows, columns, 8 if encoding == "jpeg_baseline" else 12), encoding)
    start = whole.index(b"\xff\x4f\xff\x51" if "2000" in encoding or "htj2k" in encoding else b"\xff\xd8")
    return whole[start : whole.rindex(b"\xff\xd9") + 2]


def _run_lengths(segment: bytes) -> bytes:
    """An RLE stream of twice the same segment."""
    return struct.pack("<16I", 2, 64, 64 + len(segment), *[0] * 13) + segment * 2


def _frame(code: bytes) -> int:
    """Where a JPEG stream says its rows."""
    return (
        next(at for marker in (b"\xff\xc0", b"\xff\xc1", b"\xff\xc3", b"\xff\xf7") if (at := code.find(marker)) >= 0)
        + 5
    )


def _jp2(code: bytes, rows: int, columns: int, components: int) -> bytes:
    """A code stream in a JP2 file that describes it as it likes."""

    def box(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", 8 + len(content)) + kind + content

    header = box(b"ihdr", struct.pack(">IIHBBBB", rows, columns, components, 11, 7, 0, 0))
    header += box(b"colr", struct.pack(">BBBI", 1, 0, 0, 17 if components < 3 else 16))
    head = box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 \0\0\0\0jp2 ") + box(b"jp2h", header)
    return head + box(b"jp2c", code)


def _lut(*descriptor: int, entries: int = 16, vr: bytes = b"US") -> Value:
    content = element(0x00283002, b"US", struct.pack(f"<{len(descriptor)}H", *descriptor))
    values = np.linspace(0, 65535, entries).astype("<u2").tobytes()
    return b"SQ", item(content + element(0x00283006, vr, values))


@cache
def hostile() -> dict[str, tuple[bytes, str]]:
    """Files by name, and the reason of their refusal; "taken" for one that is harmless."""
    wide = us(65535)
    jpeg, lossless, wavelet = _code("jpeg_baseline"), _code("jpeg_lossless"), _code("jpeg_2000")
    patched = {
        name: code[: _frame(code)] + b"\xff\xff\xff\xff" + code[_frame(code) + 4 :]
        for name, code in (("jpeg", jpeg), ("lossless", lossless), ("ls", _code("jpeg_ls")))
    }
    eight: dict[int, Value | None] = {0x00280100: us(8), 0x00280101: us(8), 0x00280102: us(7)}
    huge_wavelet = wavelet[:8] + struct.pack(">II", 65535, 65535) + wavelet[16:]
    j2k, sv1, ls, baseline, rle = (f"1.2.840.10008.1.2.{code}" for code in ("4.90", "4.70", "4.80", "4.50", "5"))
    both = {0x00280010: wide, 0x00280011: wide}
    pixels = base()[PIXELS][1]
    plain = built()
    files: dict[str, tuple[bytes, str]] = {
        "plain": (plain, "taken"),
        "huge": (built({**both}), "too_large"),
        "huge rows": (built({0x00280010: wide}), "truncated"),
        "just below the limit": (built({0x00280010: us(6324), 0x00280011: us(6324)}), "truncated"),
        "empty rows": (built({0x00280010: us(0)}), "too_large"),
        "rows as text": (built({0x00280010: text("LO", "thirty")}), "unreadable"),
        "rows as a name": (built({0x00280010: text("PN", f"{SECRET}^A")}), "unreadable"),
        "rows of several": (built({0x00280010: us(32, 32)}), "unreadable"),
        "rows without value": (built({0x00280010: us()}), "unreadable"),
        "rows as bytes": (built({0x00280010: (b"OB", b"\x20\x00")}), "unreadable"),
        "rows as a float": (built({0x00280010: (b"FD", struct.pack("<d", 32.0))}), "unreadable"),
        "rows nan": (built({0x00280010: (b"FD", struct.pack("<d", float("nan")))}), "unreadable"),
        "rows negative": (built({0x00280010: (b"SS", struct.pack("<h", -32))}), "too_large"),
        "both negative": (built({0x00280010: (b"SS", b"\xe0\xff"), 0x00280011: (b"SS", b"\xe8\xff")}), "too_large"),
        "two frames": (built({PIXELS: (b"OW", pixels * 2)}), "multi_frame"),
        "two frames, almost": (built({PIXELS: (b"OW", pixels + pixels[:-2])}), "taken"),
        **{
            f"{name} a deep sequence": (built({tag: (b"SQ", item(_sequences(1500)))}), reason)
            for name, tag, reason in (
                ("rows", 0x00280010, "unreadable"),
                ("pixel representation", 0x00280103, "unreadable"),
                ("modality", 0x00080060, "not_a_radiograph"),
                ("patient", 0x00100020, "taken"),
                ("window", 0x00281050, "taken"),
                ("view", 0x00185101, "taken"),
                ("slope", 0x00281053, "taken"),
                ("padding", 0x00280120, "decode_failed"),
            )
        },
        "rows a sequence": (built({0x00280010: (b"SQ", item(b""))}), "unreadable"),
        "bits stored 0": (built({0x00280101: us(0)}), "unsupported_encoding"),
        "bits stored 17": (built({0x00280101: us(17)}), "unsupported_encoding"),
        "bits stored as text": (built({0x00280101: text("LO", "twelve")}), "unreadable"),
        "bits stored a float": (built({0x00280101: (b"FD", struct.pack("<d", 11.5))}), "unreadable"),
        "bits allocated 12": (built({0x00280100: us(12)}), "unsupported_encoding"),
        "bits allocated 32": (built({0x00280100: us(32)}), "unsupported_encoding"),
        "no bits stored": (built({0x00280101: None}), "unreadable"),
        "no pixel representation": (built({0x00280103: None}), "unreadable"),
        "pixel representation 7": (built({0x00280103: us(7)}), "unreadable"),
        "pixel representation text": (built({0x00280103: text("CS", "SIGNED")}), "unreadable"),
        "samples 3": (built({0x00280002: us(3)}), "not_monochrome"),
        "samples as text": (built({0x00280002: text("CS", "ONE")}), "not_monochrome"),
        "photometric of several": (built({0x00280004: text("CS", "MONOCHROME2\\MONOCHROME1")}), "not_monochrome"),
        "frames 1A": (built({0x00280008: text("IS", "1A")}), "unreadable"),
        "frames of several": (built({0x00280008: text("IS", "1\\1")}), "unreadable"),
        "frames -3": (built({0x00280008: text("IS", "-3")}), "taken"),
        "frames 10^30": (built({0x00280008: text("IS", "1" + "0" * 30)}), "multi_frame"),
        "modality of several": (built({0x00080060: text("CS", "DX\\CR")}), "not_a_radiograph"),
        "modality a sequence": (built({0x00080060: (b"SQ", item(b""))}), "not_a_radiograph"),
        "no modality": (built({0x00080060: None}), "not_a_radiograph"),
        "no pixels": (built({PIXELS: None}), "no_pixel_data"),
        "empty pixels": (built({PIXELS: (b"OW", b"")}), "truncated"),
        "pixels as text": (built({PIXELS: (b"LT", pixels[:1000])}), "truncated"),
        "pixels a sequence": (built({PIXELS: (b"SQ", item(b""))}), "truncated"),
        "short pixels": (built({PIXELS: (b"OW", pixels[:-10])}), "truncated"),
        "cut in the pixels": (plain[:-100], "truncated"),
        "cut in the header": (plain[: plain.index(b"MONOCHROME2") + 5], "truncated"),
        "native of undefined length": (built(tail=element(PIXELS, b"OW", b"", END) + pixels), "truncated"),
        "fragments in a native syntax": (built(tail=_fragments(jpeg)), "truncated"),
        "no preamble": (plain[132:], "taken"),
        "no meta": (b"".join(element(tag, *value) for tag, value in sorted(base().items())), "taken"),
        "preamble without meta": (bytes(128) + b"DICM" + plain[plain.index(b"\x08\x00\x16\x00") :], "taken"),
        "meta without syntax": (built(syntax=""), "taken"),
        "private syntax": (built(syntax="1.2.276.0.7230010.3.99"), "unsupported_encoding"),
        "syntax that is none": (built(syntax="1.2.840.10008.5.1.4.1.1.1"), "unsupported_encoding"),
        "syntax a name": (built(syntax=f"{SECRET}^JANE"), "unsupported_encoding"),
        "video": (built({}, "1.2.840.10008.1.2.4.102", _fragments(b"\0\0\1\xb3" * 99)), "unsupported_encoding"),
        "explicit said to be implicit": (built(syntax="1.2.840.10008.1.2"), "taken"),
        "explicit said to be big endian": (built(syntax="1.2.840.10008.1.2.2"), "not_a_radiograph"),
        "explicit said to be deflated": (_head(DEFLATED) + plain[len(_head(EXPLICIT)) :], "unreadable"),
        "bomb": (_bomb(500), "too_large"),
        "window nan": (built({0x00281050: text("DS", "nan"), 0x00281051: text("DS", "nan")}), "taken"),
        "window inf": (built({0x00281050: text("DS", "inf"), 0x00281051: text("DS", "inf")}), "taken"),
        "window 1e308": (built({0x00281050: text("DS", "1e308"), 0x00281051: text("DS", "1e308")}), "decode_failed"),
        "window -1e308 of 1": (built({0x00281050: text("DS", "-1e308"), 0x00281051: text("DS", "1")}), "taken"),
        "window 1e-300": (built({0x00281050: text("DS", "0"), 0x00281051: text("DS", "1e-300")}), "taken"),
        "window a name": (built({0x00281050: text("PN", SECRET), 0x00281051: text("PN", SECRET)}), "taken"),
        "window a sequence": (built({0x00281050: (b"SQ", item(b"")), 0x00281051: (b"SQ", item(b""))}), "taken"),
        "sigmoid 1e-300": (
            built({0x00281050: text("DS", "0"), 0x00281051: text("DS", "1e-300"), 0x00281056: text("CS", "SIGMOID")}),
            "decode_failed",
        ),
        "slope nan": (built({0x00281052: text("DS", "nan"), 0x00281053: text("DS", "nan")}), "decode_failed"),
        "slope inf": (built({0x00281052: text("DS", "inf"), 0x00281053: text("DS", "inf")}), "decode_failed"),
        "slope 1e308": (built({0x00281052: text("DS", "1e308"), 0x00281053: text("DS", "1e308")}), "decode_failed"),
        "slope alone": (built({0x00281053: text("DS", "2")}), "taken"),
        "slope of several": (built({0x00281052: text("DS", "0\\1"), 0x00281053: text("DS", "1\\2")}), "decode_failed"),
        "padding as text": (built({0x00280120: text("LO", "none")}), "decode_failed"),
        "padding of several": (built({0x00280120: us(0, 1)}), "decode_failed"),
        "padding as bytes": (built({0x00280120: (b"OB", b"\0\0")}), "decode_failed"),
        "padding everything": (built({0x00280120: us(0), 0x00280121: us(65535)}), "blank"),
        "padding nan": (built({0x00280120: (b"FD", struct.pack("<d", float("nan")))}), "decode_failed"),
        "spacing rubbish": (built({0x00280030: text("DS", "a\\b")}), "taken"),
        "spacing nan": (built({0x00280030: text("DS", "nan\\nan")}), "taken"),
        "spacing extreme": (built({0x00280030: text("DS", "1e-300\\1e300")}), "taken"),
        "spacing a sequence": (built({0x00280030: (b"SQ", item(b""))}), "taken"),
        "LUT that lies": (built({0x00283010: _lut(65535, 0, 16)}), "decode_failed"),
        "LUT of 0 bits": (built({0x00283010: _lut(16, 0, 0)}), "unsupported_encoding"),
        "LUT of 65535 bits": (built({0x00283010: _lut(16, 0, 65535)}), "unsupported_encoding"),
        "LUT of one number": (built({0x00283010: _lut(16)}), "decode_failed"),
        "LUT of no entries": (built({0x00283010: _lut(0, 0, 16, entries=0)}), "decode_failed"),
        "LUT of odd bytes": (built({0x00283010: _lut(16, 0, 8, vr=b"OW")}), "decode_failed"),
        "LUT as text": (built({0x00283010: text("LO", "LUT")}), "decode_failed"),
        "LUT sequence empty": (built({0x00283010: (b"SQ", b"")}), "taken"),
        "modality LUT that lies": (built({0x00283000: _lut(65535, 0, 16)}), "decode_failed"),
        "view codes as text": (built({0x00540220: text("LO", "PA")}), "unreadable"),
        "one row": (built({0x00280010: us(1), 0x00280011: us(768)}), "taken"),
        "one column": (built({0x00280010: us(768), 0x00280011: us(1)}), "taken"),
        "long patient": (built({0x00100020: (b"UT", SECRET.encode() * 10_000)}), "taken"),
        "patient not UTF-8": (
            built({0x00080005: text("CS", "ISO_IR 192"), 0x00100020: (b"LO", b"\xff\xfe\xed\xa0")}),
            "taken",
        ),
        "patient of surrogates": (
            built({0x00080005: text("CS", "GB18030"), 0x00100020: (b"LO", b"\x84\x31\xa5\x30\xed\xa0\x80\x80")}),
            "taken",
        ),
        "charset rubbish": (built({0x00080005: text("CS", f"{SECRET}\\\\ISO 2022 IR 999")}), "taken"),
        "species a name": (built({0x00102201: text("LO", SECRET)}), "not_human"),
        "JPEG claims 65535": (built(eight, baseline, _fragments(patched["jpeg"])), "decode_failed"),
        "lossless JPEG claims 65535": (built({}, sv1, _fragments(patched["lossless"])), "decode_failed"),
        "JPEG-LS claims 65535": (built({}, ls, _fragments(patched["ls"])), "decode_failed"),
        "JPEG 2000 claims 65535": (built({}, j2k, _fragments(huge_wavelet)), "decode_failed"),
        "JPEG and header claim 65535": (built({**eight, **both}, baseline, _fragments(patched["jpeg"])), "too_large"),
        "rows differ": (built({0x00280010: us(31)}, sv1, _fragments(lossless)), "decode_failed"),
        "two frame headers": (built({}, sv1, _fragments(_second_frame(lossless))), "decode_failed"),
        "JPEG of 8 bits said to have 12": (built({}, baseline, _fragments(jpeg)), "taken"),
        "lossless of 12 bits said to have 8": (built(eight, sv1, _fragments(lossless)), "decode_failed"),
        "JPEG 2000 of 12 bits said to have 8": (built(eight, j2k, _fragments(wavelet)), "decode_failed"),
        "colour JPEG": (built(eight, baseline, _fragments(_colour_jpeg())), "not_monochrome"),
        "JP2": (built({}, j2k, _fragments(_jp2(wavelet, 32, 24, 1))), "taken"),
        "JP2 claims 65535": (built({}, j2k, _fragments(_jp2(wavelet, 65535, 65535, 1))), "taken"),
        "JP2 claims colour": (built({}, j2k, _fragments(_jp2(wavelet, 32, 24, 3))), "taken"),
        "JP2 claims other rows": (built({}, j2k, _fragments(_jp2(wavelet, 24, 32, 1))), "taken"),
        "JP2 behind another stream": (built({}, j2k, _fragments(wavelet[:60] + wavelet)), "truncated"),
        "no fragments": (built({}, sv1, _fragments(b"")), "unsupported_encoding"),
        "fragment cut": (built({}, sv1, _fragments(lossless[: len(lossless) // 2])), "truncated"),
        "fragment cut before its end": (built({}, sv1, _fragments(lossless[:-40] + b"\xff\xd9")), "taken"),
        "fragments without a table": (built({}, sv1, element(PIXELS, b"OB", b"", END) + item(lossless)), "truncated"),
        "compressed of defined length": (built({}, sv1, element(PIXELS, b"OB", lossless)), "decode_failed"),
        "compressed without fragments": (built({}, sv1, element(PIXELS, b"OB", b"", END)), "truncated"),
        "fragment longer than the file": (
            built({}, sv1, element(PIXELS, b"OB", b"", END) + item(lossless, 1 << 30)),
            "truncated",
        ),
        "RLE of rubbish": (built({}, rle, _fragments(bytes(range(256)))), "decode_failed"),
        "RLE of too much": (built({}, rle, _fragments(_run_lengths(b"\x81\0\x81\7" * 3 + b"\0\7"))), "taken"),
        "RLE of too little": (built({}, rle, _fragments(_run_lengths(b"\x81\0" * 5))), "truncated"),
        "RLE of other segments": (built(eight, rle, _fragments(_run_lengths(b"\x81\0" * 6))), "decode_failed"),
        "RLE bomb": (built({}, rle, _fragments(_run_lengths(b"\x81\0" * 4000))), "blank"),
        "length beyond the file": (built(tail=element(0x00540220, b"SQ", b"", 1 << 31) + b"\0\0"), "truncated"),
        "item beyond the file": (built(tail=element(0x00540220, b"SQ", item(b"", 1 << 31), END)), "unreadable"),
        "PNG of 65535": (_png(65535, 65535), "too_large"),
        "PNG below the limit": (_png(6000, 6000), "truncated"),
        "PNG with a bomb of text": (_png_text_bomb(), "decode_failed"),
        "empty": (b"", "not_dicom"),
        "preamble": (bytes(128) + b"DICM", "not_a_radiograph"),
    }  # fmt: skip
    for levels in (50, 400, 2000):
        for undefined in (False, True):
            name = f"sequence of {levels} levels, of {'undefined' if undefined else 'defined'} length"
            content = built(tail=_sequences(levels, undefined) + element(PIXELS, *base()[PIXELS]))
            files[name] = (content, "unreadable" if undefined and levels > 50 else "taken")
    return files


def _second_frame(code: bytes) -> bytes:
    """A JPEG stream that names its size twice, and differently."""
    start = _frame(code) - 5
    length = struct.unpack_from(">H", code, start + 2)[0]
    frame = code[start : start + 2 + length]
    return code[: start + len(frame)] + frame[:5] + b"\x20\x00\x20\x00" + frame[9:] + code[start + len(frame) :]


def _colour_jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (24, 32), "red").save(file, "JPEG")
    return file.getvalue()


def _png(rows: int, columns: int, *chunks: bytes) -> bytes:
    """A grey PNG that claims a size and has hardly any pixels."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0))
    pixels = _chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + pixels + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png_text_bomb() -> bytes:
    return _png(32, 24, _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100 << 20), 9)))


# Seeds of the mutants


@dataclass(frozen=True)
class Seed:
    """A file to be mutated: its `kind` (a row of the table), and the end of its header, for pixels are bytes too."""

    kind: str
    content: bytes
    header: int


def _film(rows: int, columns: int, bits: int, number: int = 0) -> Dataset:
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
    film = make_film(pixels, f"{SECRET}-{number}", **elements)
    film.file_meta.MediaStorageSOPInstanceUID = UID(f"2.25.{1000 + number}")
    film["PixelData"].VR = "OW" if bits > 8 else "OB"
    return film


SHAPES = ((24, 20), (32, 48), (96, 80))


@cache
def seeds() -> list[Seed]:
    """Small films in all encodings, pictures, and those of the hostile files that are small."""
    found = []
    for place, encoding in enumerate(ENCODINGS):
        for number, shape in enumerate(SHAPES):
            film = _film(*shape, bits=8 if encoding == "jpeg_baseline" else 12, number=3 * place + number)
            content = encode(film, encoding)
            end = content.find(b"\x7f\xe0\x00\x10" if encoding == "big_endian" else b"\xe0\x7f\x10\x00")
            found.append(Seed(encoding, content, end if end > 0 else len(content)))
    for kind, content in _pictures():
        found.append(Seed(kind, content, min(len(content), 200)))
    for content, _ in hostile().values():
        if 200 < len(content) < MUTABLE:
            found.append(Seed("by hand", content, max(content.find(b"\xe0\x7f\x10\x00"), 200)))
    return found


def _pictures() -> Iterator[tuple[str, bytes]]:
    grey = np.linspace(0, 255, 40 * 50).reshape(40, 50).astype(np.uint8)
    images = {mode: Image.fromarray(grey).convert(mode) for mode in ("L", "LA", "1", "P", "RGB", "RGBA", "CMYK", "F")}
    images["I;16"] = Image.fromarray(grey.astype(np.uint16) * 257)
    wanted: list[tuple[str, str, dict[str, Any]]] = [
        *(("PNG", mode, {}) for mode in ("L", "LA", "1", "P", "RGB", "RGBA", "I;16")),
        *(("JPEG", mode, {}) for mode in ("L", "RGB", "CMYK")),
        ("JPEG", "L", {"progressive": True}),
        *(("TIFF", mode, {}) for mode in ("L", "1", "P", "RGB", "F", "I;16")),
        *(("TIFF", "L", {"compression": name}) for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")),
        ("TIFF", "I;16", {"compression": "tiff_lzw"}),
        ("TIFF", "1", {"compression": "group4"}),
        ("TIFF", "L", {"save_all": True, "append_images": [images["L"]]}),
    ]
    for kind, mode, options in wanted:
        file = io.BytesIO()
        images[mode].save(file, kind, **options)
        yield kind, file.getvalue()


# Mutations

Bytes = bytearray
Rng = np.random.Generator
TELLING = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)
LENGTHS = (0, 1, 2, 3, 0xFFFF, 0xFFFE, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, END)
TAGS = (
    *(0x00080005, 0x00080016, 0x00080018, 0x00080060, 0x00081030, 0x00100020, 0x00101010, 0x00102201, 0x00180015),
    *(0x00181164, 0x00185101, 0x00280002, 0x00280004, 0x00280006, 0x00280008, 0x00280010, 0x00280011, 0x00280030),
    *(0x00280034, 0x00280100, 0x00280101, 0x00280102, 0x00280103, 0x00280120, 0x00280121, 0x00281050, 0x00281051),
    *(0x00281052, 0x00281053, 0x00281055, 0x00281056, 0x00283000, 0x00283010, 0x00540220, 0x20500020, 0x7FE00010),
)
VRS = (b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"FD", b"FL", b"IS", b"LO", b"LT", b"OB", b"OW", b"PN", b"SH", b"SL",
       b"SQ", b"SS", b"SV", b"UI", b"UL", b"UN", b"US", b"UT", b"ZZ", b"\0\0")  # fmt: skip
NUMBERS = ("0", "-1", "1A", "nan", "inf", "-inf", "1e308", "1e-320", "", " ", "1\\2\\3", "\\", "9" * 40, "0.0\\0.0",
           "1e-9\\1e9", "32767", "65536", "2", "MONOCHROME1", f"{SECRET}^X", "\\\\\\")  # fmt: skip


def mutant(seed: int, number: int) -> tuple[str, str, bytes]:
    """Kind, mutations and content of file `number`."""
    known = hostile()
    if number < len(known):
        name, (content, _) = list(known.items())[number]
        return "by hand, whole", name, content
    rng = np.random.default_rng((seed, number))
    if rng.random() < 0.2:
        return "values", *_values(rng)
    chosen = _choose(rng)
    if chosen.kind == "deflated" and rng.random() < 0.8:
        start = 144 + struct.unpack_from("<I", chosen.content, 140)[0]  # by the group length of the meta information
        inside = Bytes(zlib.decompress(chosen.content[start:], wbits=-15))
        name = _mutate(inside, len(inside) // 3, rng)
        return chosen.kind, name, chosen.content[:start] + _deflated(bytes(inside))
    mutable = Bytes(chosen.content)
    return chosen.kind, _mutate(mutable, chosen.header, rng), bytes(mutable)


def _choose(rng: Rng) -> Seed:
    """A seed: every kind as often as the others, but for the many by hand."""
    by_hand = bool(rng.random() < 0.2)
    found = [seed for seed in seeds() if (seed.kind == "by hand") == by_hand]
    return found[rng.integers(len(found))]


def _values(rng: Rng) -> tuple[str, bytes]:
    """A film of which some elements have values that nobody expects."""
    changes: dict[int, Value | None] = {}
    for tag in rng.choice(TAGS, rng.integers(1, 4), replace=False):
        vr = VRS[rng.integers(len(VRS))]
        value = rng.choice(np.array(TELLING, np.uint8), rng.integers(0, 9)).tobytes()
        words = NUMBERS[rng.integers(len(NUMBERS))].encode()
        known = base().get(int(tag))
        match int(rng.integers(4)):
            case 0 if known:
                changes[int(tag)] = (vr, known[1])
            case 1:
                changes[int(tag)] = (vr, value)
            case 2:
                changes[int(tag)] = (vr, item(element(TAGS[rng.integers(len(TAGS))], b"DS", words)))
            case _:
                changes[int(tag)] = (vr if rng.random() < 0.5 else b"DS", words)
    return "values", built(changes, EXPLICIT if rng.random() < 0.8 else DEFLATED)


def _mutate(content: Bytes, header: int, rng: Rng) -> str:
    """Mutate in place, one to four times, half of the time in the header; returns the names of the mutations."""
    names = []
    for _ in range(1 + min(3, rng.geometric(0.6) - 1)):
        if len(content) < 8:
            break
        end = max(8, min(header if rng.random() < 0.5 else len(content), len(content)))
        name, change = MUTATIONS[rng.integers(len(MUTATIONS))]
        change(content, min(132, end - 1) if rng.random() < 0.9 and end > 140 else 0, end, rng)
        names.append(name)
    return ", ".join(names)


def _flip(content: Bytes, start: int, end: int, rng: Rng) -> None:
    for at in rng.integers(start, end, rng.integers(1, 5)):
        content[at] ^= 1 << int(rng.integers(8))


def _set(content: Bytes, start: int, end: int, rng: Rng) -> None:
    for at in rng.integers(start, end, rng.integers(1, 5)):
        content[at] = TELLING[rng.integers(len(TELLING))] if rng.random() < 0.7 else int(rng.integers(256))


def _cut(content: Bytes, start: int, end: int, rng: Rng) -> None:
    del content[int(rng.integers(start, end)) :]


def _delete(content: Bytes, start: int, end: int, rng: Rng) -> None:
    at = int(rng.integers(start, end))
    del content[at : at + int(rng.integers(1, 40))]


def _insert(content: Bytes, start: int, end: int, rng: Rng) -> None:
    at = int(rng.integers(start, end))
    content[at:at] = rng.integers(0, 256, rng.integers(1, 40), dtype=np.uint8).tobytes()


def _repeat(content: Bytes, start: int, end: int, rng: Rng) -> None:
    at = int(rng.integers(start, end))
    content[at:at] = content[at : at + int(rng.integers(1, 200))] * int(rng.choice([1, 1, 1, 50]))


def _lie(content: Bytes, start: int, end: int, rng: Rng) -> None:
    """Another length behind a tag, or what looks like one."""
    for _ in range(100):
        at = int(rng.integers(start, end))
        mark = bytes(content[at : at + 4])
        group = int.from_bytes(mark[:2], "little")
        if len(content) < at + 12 or group not in (2, 8, 16, 24, 40, 84, 0x7FE0, 0xFFFE):
            continue
        length = LENGTHS[rng.integers(len(LENGTHS))] if rng.random() < 0.7 else int(rng.integers(1 << 16))
        explicit = content[at + 4 : at + 6].isalpha()
        if explicit and bytes(content[at + 4 : at + 6]) not in LONG_VRS:
            struct.pack_into("<H", content, at + 6, length & 0xFFFF)
        else:
            struct.pack_into("<I", content, at + (8 if explicit else 4), length)
        return


def _swap(content: Bytes, start: int, end: int, rng: Rng) -> None:
    """One of the tags in another's place; a tag is where the bytes of one are."""
    marks = [struct.pack("<HH", tag >> 16, tag & 0xFFFF) for tag in TAGS]
    places = [at for mark in marks if start <= (at := content.find(mark)) < end]
    if len(places) > 1:
        one, other = (int(at) for at in rng.choice(places, 2, replace=False))
        content[one : one + 4], content[other : other + 4] = content[other : other + 4], content[one : one + 4]


def _splice(content: Bytes, start: int, end: int, rng: Rng) -> None:
    other = _choose(rng)
    at = int(rng.integers(start, end))
    content[at:] = other.content[
        min(at, len(other.content)) if rng.random() < 0.5 else int(rng.integers(other.header)) :
    ]


Mutation = Callable[[Bytes, int, int, Rng], None]
MUTATIONS: list[tuple[str, Mutation]] = [
    *(("flip", _flip), ("set", _set), ("set", _set), ("cut", _cut), ("delete", _delete), ("insert", _insert)),
    *(("repeat", _repeat), ("lie", _lie), ("lie", _lie), ("swap", _swap), ("splice", _splice)),
]


# Judgement


@dataclass(frozen=True)
class Verdict:
    """What became of a file: the reason of its refusal or "taken", and `trouble` where that is not good enough."""

    number: int
    kind: str
    mutations: str
    outcome: str
    seconds: float
    trouble: str = ""
    peak: int = 0  # bytes resident
    noise: str = ""  # what was printed


FITS: tuple[Fit, ...] = ("pad", "pad", "crop", "stretch")


def readings(number: int) -> tuple[Reading, float]:
    """How file `number` is read, and the clip of its CLAHE; those made by hand as it is usual."""
    if number < len(hostile()):
        return Reading(size=SIZE), 0.0
    return (
        Reading(
            size=SIZE,
            fit=FITS[number % len(FITS)],
            window="BONE" if number % 5 == 0 else "",
            lateral="take" if number % 2 else "refuse",
            label_tag="StudyDescription" if number % 7 == 0 else "",
        ),
        2.0 if number % 3 == 0 else 0.0,
    )


def judge(number: int, kind: str, mutations: str, content: bytes) -> Verdict:
    """What `decode.decode_file` makes of a file, and what the stage then does with it."""
    reading, clip = readings(number)
    outcome, trouble, written = "error", "", ""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "film").write_bytes(content)
        start = time.perf_counter()
        try:
            found = pickle.loads(pickle.dumps(decode.decode_file(Path(folder), reading, clip, "film")))
            seconds = time.perf_counter() - start
            if isinstance(found, decode.Quarantined):
                outcome, written = found.reason, found.sentence
            else:
                outcome = found.refusal[0] or "taken"
                if found.refusal[1].startswith(decode.UNFORESEEN):
                    trouble = found.refusal[1]
                names = [pseudonym(KEY, "patient_id", found.patient), pseudonym(KEY, "instance_id", found.instance)]
                written = json.dumps([found.refusal, names, found.facts])
                if outcome == "taken" and (found.image is None or found.image.shape != (SIZE, SIZE)):
                    trouble = "no image of the size that was asked for"
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the panic of a library in Rust is no Exception
            seconds = time.perf_counter() - start
            last = traceback.extract_tb(error.__traceback__)[-1]
            trouble = f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}: {str(error)[:120]}"
    if SECRET in written:
        trouble = f"an identifier in {written[:120]}"
    return Verdict(number, kind, mutations, outcome, seconds, trouble)


def _judge_here(seed: int, number: int) -> Verdict:
    """`judge` in a worker that may die of it."""
    made = mutant(seed, number)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    with _caught() as said:
        verdict = judge(number, *made)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    verdict = replace(verdict, peak=1024 * int(peak.split()[1]), noise=said())
    if SECRET in verdict.noise:
        return replace(verdict, trouble=f"an identifier was printed: {verdict.noise[:120]}")
    if verdict.peak > PEAK_LIMIT and not verdict.trouble:
        return replace(verdict, trouble=f"{verdict.peak / 1e6:,.0f} MB resident")
    return verdict


@contextmanager
def _caught() -> Iterator[Callable[[], str]]:
    """What is printed in the meantime, also by libraries in C; to be asked for afterwards."""
    kept = [os.dup(1), os.dup(2)]
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        said: list[str] = []
        try:
            yield lambda: said[0]
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, old in enumerate(kept, 1):
                os.dup2(old, number)
                os.close(old)
            file.seek(0)
            said.append(file.read(10_000).decode(errors="replace"))


def _died(seed: int, seconds: float, number: int) -> Verdict:
    """Of what a worker died: it is done again alone, for its exit code."""
    kind, name, _ = mutant(seed, number)
    process = multiprocessing.get_context("spawn").Process(target=_judge_alone, args=(seed, seconds, number))
    process.start()
    process.join()
    code = process.exitcode or 0
    cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    trouble = f"no answer in {seconds:.0f} s" if cause == "SIGALRM" else f"the process ended: {cause}"
    return Verdict(number, kind, name, "died", 0.0, trouble)


def _judge_alone(seed: int, seconds: float, number: int) -> None:
    workers._start_worker(workers.MEMORY_LIMIT)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    _judge_here(seed, number)


# The campaign

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def main(
    count: Annotated[int, typer.Option(min=0, help="Files, those made by hand included.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    first: Annotated[int, typer.Option(min=0, help="Where to start.")] = 0,
    seconds_a_file: Annotated[float, typer.Option(min=0.1)] = 10.0,
    keep: Annotated[Path | None, typer.Option(help="Where offenders are written to, by number.")] = None,
    only: Annotated[int | None, typer.Option(help="This file alone, in this process.")] = None,
    processes: Annotated[int, typer.Option(min=1)] = 1,
    archive: Annotated[int, typer.Option(min=0, help="Files of the whole ingest at the end; 0 for none.")] = 400,
) -> None:
    """Exit code 1 when there are offenders."""
    if only is not None:
        print(judge(only, *mutant(seed, only)))
        return
    start = time.perf_counter()
    work, died = partial(_judge_here, seed), partial(_died, seed, seconds_a_file)
    verdicts = []
    for verdict in workers.each(work, range(first, first + count), died, "processes", processes, seconds_a_file):
        verdicts.append(verdict)
        if verdict.trouble:
            print(f"{verdict.number} ({verdict.kind}; {verdict.mutations}): {verdict.trouble}", flush=True)
            if keep:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{seed}-{verdict.number}").write_bytes(mutant(seed, verdict.number)[2])
        if len(verdicts) % 1000 == 0:
            print(f"{len(verdicts)} files, {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    _print(verdicts)
    offenders = sum(bool(verdict.trouble) for verdict in verdicts)
    print(f"\n{len(verdicts):,} files, {offenders} offenders, {time.perf_counter() - start:.0f} s")
    if archive:
        ingest_whole(seed, [verdict for verdict in verdicts if verdict.number < archive])
    raise typer.Exit(bool(offenders))


def _print(verdicts: list[Verdict]) -> None:
    outcomes = pd.DataFrame([(verdict.outcome, verdict.kind) for verdict in verdicts], columns=["outcome", "kind"])
    counts = pd.crosstab(outcomes["kind"], outcomes["outcome"], margins=True, margins_name="all")
    print("\n" + table(["seed", *counts.columns], ((kind, *counts.loc[kind]) for kind in counts.index)))
    slowest = sorted(verdicts, key=lambda verdict: -verdict.seconds)[:8]
    times = ((v.number, v.kind, v.mutations, f"{v.seconds:.2f} s", v.outcome) for v in slowest)
    print("\n" + table(["slowest", "seed", "mutations", "time", "outcome"], times))
    largest = sorted(verdicts, key=lambda verdict: -verdict.peak)[:8]
    peaks = ((v.number, v.kind, v.mutations, f"{v.peak / 1e6:,.0f} MB", v.outcome) for v in largest)
    print("\n" + table(["largest", "seed", "mutations", "peak", "outcome"], peaks))
    noise = Counter(line[:80] for verdict in verdicts for line in set(verdict.noise.splitlines()))
    print("\n" + table(["printed", "files"], noise.most_common(8)))
    offenders: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.trouble:
            offenders.setdefault(verdict.trouble, []).append(verdict)
    troubles = ((trouble, len(found), found[0].number, found[0].kind) for trouble, found in offenders.items())
    print("\n" + table(["trouble", "files", "such as", "seed"], troubles))


def ingest_whole(seed: int, verdicts: list[Verdict]) -> None:
    """The stage itself on the files of `verdicts`, and healthy films: nothing may be lost, and none may end it."""
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        try:
            source, rows = Path("raw"), []
            source.mkdir()
            for verdict in verdicts:
                (source / f"{verdict.number}").write_bytes(mutant(seed, verdict.number)[2])
                rows.append((str(verdict.number), f"{SECRET}-M{verdict.number}", "mutant"))
            for number in range(24):
                (source / f"film{number}").write_bytes(encode(_film(40, 40, 12, 1000 + number), "explicit"))
                rows.append((f"film{number}", f"{SECRET}-{number}", ("normal", "rare")[number % 2]))
            pd.DataFrame(rows, columns=["path", "patient_id", "label"]).to_csv("labels.csv", index=False)
            os.environ.setdefault("XRAYSYNTH_PSEUDONYM_KEY", "of the campaign")
            params = Ingest(size=SIZE, max_quarantined=1.0, workers=1)
            counts = stage.run(source, Path("labels.csv"), Path("curated"), params)
            written = b"".join(path.read_bytes() for path in Path("curated").iterdir())
        finally:
            os.chdir(before)
    print(f"\nwhole ingest: {counts}")
    deaths = sum(verdict.outcome == "died" for verdict in verdicts)
    assert counts["inputs"] == len(rows) == counts["curated"] + counts["quarantined"]
    assert sum(counts["reasons"].values()) == counts["quarantined"]
    assert counts["reasons"].get("decoder_crashed", 0) == deaths, f"{deaths} files of the campaign ended a worker"
    assert SECRET.encode() not in written


if __name__ == "__main__":
    app()
