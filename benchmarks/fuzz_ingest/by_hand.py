"""The hostile files, made by hand: each with the reason for which it must be refused, or "taken" if it is harmless."""

import struct
from functools import cache

from benchmarks.fuzz_ingest.by_hand_compressed import code_streams, in_fragments
from benchmarks.fuzz_ingest.elements import (
    DEFLATED,
    END,
    EXPLICIT,
    HUGE,
    PIXELS,
    SECRET,
    Files,
    base,
    built,
    element,
    head,
    item,
    lut,
    sequences,
    text,
    us,
)
from benchmarks.fuzz_ingest.streams import bomb, code_stream, fragments, png, png_text_bomb

KEEPS_MEMORY = {"bomb"}  # hostile files that only a limit on the process's memory stops


@cache
def hostile() -> Files:
    """Files by name, and the reason of their refusal; "taken" for one that is harmless.

    A file's place is its number in a campaign: new ones at the end change the mutants, those in between all numbers.
    """
    return {
        **_sizes(),
        **_descriptions(),
        **_pixel_data(),
        **_preambles_and_syntaxes(),
        **_displays(),
        **_views_and_patients(),
        **code_streams(),
        **in_fragments(),
        **_beyond_the_end(),
        **_nested(),
    }


def _sizes() -> Files:
    """Rows, columns and frames, which say how much memory is asked for."""
    pixels = base()[PIXELS][1]
    return {
        "plain": (built(), "taken"),
        "huge": (built(HUGE), "too_large"),
        "huge rows": (built({0x00280010: us(65535)}), "truncated"),
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
            f"{name} a deep sequence": (built({tag: (b"SQ", item(sequences(1500)))}), reason)
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
    }


def _descriptions() -> Files:
    """Bits, samples, frames and modality: what the header says of the pixels."""
    return {
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
    }


def _pixel_data() -> Files:
    """PixelData that is missing, short or of another kind than the transfer syntax has."""
    plain, pixels = built(), base()[PIXELS][1]
    return {
        "no pixels": (built({PIXELS: None}), "no_pixel_data"),
        "empty pixels": (built({PIXELS: (b"OW", b"")}), "truncated"),
        "pixels as text": (built({PIXELS: (b"LT", pixels[:1000])}), "truncated"),
        "pixels a sequence": (built({PIXELS: (b"SQ", item(b""))}), "truncated"),
        "short pixels": (built({PIXELS: (b"OW", pixels[:-10])}), "truncated"),
        "cut in the pixels": (plain[:-100], "truncated"),
        "cut in the header": (plain[: plain.index(b"MONOCHROME2") + 5], "truncated"),
        "native of undefined length": (built(tail=element(PIXELS, b"OW", b"", END) + pixels), "truncated"),
        "fragments in a native syntax": (built(tail=fragments(code_stream("jpeg_baseline"))), "truncated"),
    }


def _preambles_and_syntaxes() -> Files:
    """What comes before the data set, and transfer syntaxes that do not fit it."""
    plain = built()
    return {
        "no preamble": (plain[132:], "taken"),
        "no meta": (b"".join(element(tag, *value) for tag, value in sorted(base().items())), "taken"),
        "preamble without meta": (bytes(128) + b"DICM" + plain[plain.index(b"\x08\x00\x16\x00") :], "taken"),
        "meta without syntax": (built(syntax=""), "taken"),
        "private syntax": (built(syntax="1.2.276.0.7230010.3.99"), "unsupported_encoding"),
        "syntax that is none": (built(syntax="1.2.840.10008.5.1.4.1.1.1"), "unsupported_encoding"),
        "syntax a name": (built(syntax=f"{SECRET}^JANE"), "unsupported_encoding"),
        "video": (built({}, "1.2.840.10008.1.2.4.102", fragments(b"\0\0\1\xb3" * 99)), "unsupported_encoding"),
        "explicit said to be implicit": (built(syntax="1.2.840.10008.1.2"), "taken"),
        "explicit said to be big endian": (built(syntax="1.2.840.10008.1.2.2"), "not_a_radiograph"),
        "explicit said to be deflated": (head(DEFLATED) + plain[len(head(EXPLICIT)) :], "unreadable"),
        "bomb": (bomb(500), "too_large"),
    }


def _displays() -> Files:
    """Windows, rescaling, padding, spacing and tables: what turns values into greys."""
    return {
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
        "LUT that lies": (built({0x00283010: lut(65535, 0, 16)}), "decode_failed"),
        "LUT of 0 bits": (built({0x00283010: lut(16, 0, 0)}), "unsupported_encoding"),
        "LUT of 65535 bits": (built({0x00283010: lut(16, 0, 65535)}), "unsupported_encoding"),
        "LUT of one number": (built({0x00283010: lut(16)}), "decode_failed"),
        "LUT of no entries": (built({0x00283010: lut(0, 0, 16, entries=0)}), "decode_failed"),
        "LUT of odd bytes": (built({0x00283010: lut(16, 0, 8, vr=b"OW")}), "decode_failed"),
        "LUT as text": (built({0x00283010: text("LO", "LUT")}), "decode_failed"),
        "LUT sequence empty": (built({0x00283010: (b"SQ", b"")}), "taken"),
        "modality LUT that lies": (built({0x00283000: lut(65535, 0, 16)}), "decode_failed"),
    }


def _views_and_patients() -> Files:
    """View codes, films of one row or column, and what is said of the patient."""
    return {
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
    }


def _beyond_the_end() -> Files:
    """Lengths that point beyond the file, pictures, and next to nothing."""
    return {
        "length beyond the file": (built(tail=element(0x00540220, b"SQ", b"", 1 << 31) + b"\0\0"), "truncated"),
        "item beyond the file": (built(tail=element(0x00540220, b"SQ", item(b"", 1 << 31), END)), "unreadable"),
        "PNG of 65535": (png(65535, 65535), "too_large"),
        "PNG below the limit": (png(6000, 6000), "truncated"),
        "PNG with a bomb of text": (png_text_bomb(), "decode_failed"),
        "empty": (b"", "not_dicom"),
        "preamble": (bytes(128) + b"DICM", "not_a_radiograph"),
    }


def _nested() -> Files:
    """Sequences in sequences, many levels deep."""
    files = {}
    for levels in (50, 400, 2000):
        for undefined in (False, True):
            name = f"sequence of {levels} levels, of {'undefined' if undefined else 'defined'} length"
            content = built(tail=sequences(levels, undefined) + element(PIXELS, *base()[PIXELS]))
            files[name] = (content, "unreadable" if undefined and levels > 50 else "taken")
    return files
