"""Hostile files with compressed pixels, made by hand, and the reason of the refusal of each."""

import struct

from benchmarks.fuzz_ingest.elements import END, HUGE, PIXELS, Files, Value, built, element, item, us
from benchmarks.fuzz_ingest.streams import code_stream, colour_jpeg, fragments, jp2, of_65535, run_lengths, second_frame

BASELINE, LOSSLESS, JPEG_LS, JPEG_2000, RLE = (
    f"1.2.840.10008.1.2.{code}" for code in ("4.50", "4.70", "4.80", "4.90", "5")
)
EIGHT_BITS: dict[int, Value | None] = {0x00280100: us(8), 0x00280101: us(8), 0x00280102: us(7)}


def code_streams() -> Files:
    """Compressed pixels that contradict the header, or themselves."""
    jpeg, lossless, wavelet = code_stream("jpeg_baseline"), code_stream("jpeg_lossless"), code_stream("jpeg_2000")
    huge_wavelet = wavelet[:8] + struct.pack(">II", 65535, 65535) + wavelet[16:]
    return {
        "JPEG claims 65535": (built(EIGHT_BITS, BASELINE, fragments(of_65535(jpeg))), "decode_failed"),
        "lossless JPEG claims 65535": (built({}, LOSSLESS, fragments(of_65535(lossless))), "decode_failed"),
        "JPEG-LS claims 65535": (built({}, JPEG_LS, fragments(of_65535(code_stream("jpeg_ls")))), "decode_failed"),
        "JPEG 2000 claims 65535": (built({}, JPEG_2000, fragments(huge_wavelet)), "decode_failed"),
        "JPEG and header claim 65535": (built(EIGHT_BITS | HUGE, BASELINE, fragments(of_65535(jpeg))), "too_large"),
        "rows differ": (built({0x00280010: us(31)}, LOSSLESS, fragments(lossless)), "decode_failed"),
        "two frame headers": (built({}, LOSSLESS, fragments(second_frame(lossless))), "decode_failed"),
        "JPEG of 8 bits said to have 12": (built({}, BASELINE, fragments(jpeg)), "taken"),
        "lossless of 12 bits said to have 8": (built(EIGHT_BITS, LOSSLESS, fragments(lossless)), "decode_failed"),
        "JPEG 2000 of 12 bits said to have 8": (built(EIGHT_BITS, JPEG_2000, fragments(wavelet)), "decode_failed"),
        "colour JPEG": (built(EIGHT_BITS, BASELINE, fragments(colour_jpeg())), "not_monochrome"),
        "JP2": (built({}, JPEG_2000, fragments(jp2(wavelet, 32, 24, 1))), "taken"),
        "JP2 claims 65535": (built({}, JPEG_2000, fragments(jp2(wavelet, 65535, 65535, 1))), "taken"),
        "JP2 claims colour": (built({}, JPEG_2000, fragments(jp2(wavelet, 32, 24, 3))), "taken"),
        "JP2 claims other rows": (built({}, JPEG_2000, fragments(jp2(wavelet, 24, 32, 1))), "taken"),
        "JP2 behind another stream": (built({}, JPEG_2000, fragments(wavelet[:60] + wavelet)), "truncated"),
    }


def in_fragments() -> Files:
    """Code streams whose fragments are missing, cut or too long, and run lengths."""
    lossless = code_stream("jpeg_lossless")
    return {
        "no fragments": (built({}, LOSSLESS, fragments(b"")), "unsupported_encoding"),
        "fragment cut": (built({}, LOSSLESS, fragments(lossless[: len(lossless) // 2])), "truncated"),
        "fragment cut before its end": (built({}, LOSSLESS, fragments(lossless[:-40] + b"\xff\xd9")), "taken"),
        "fragments without a table": (
            built({}, LOSSLESS, element(PIXELS, b"OB", b"", END) + item(lossless)),
            "truncated",
        ),
        "compressed of defined length": (built({}, LOSSLESS, element(PIXELS, b"OB", lossless)), "decode_failed"),
        "compressed without fragments": (built({}, LOSSLESS, element(PIXELS, b"OB", b"", END)), "truncated"),
        "fragment longer than the file": (
            built({}, LOSSLESS, element(PIXELS, b"OB", b"", END) + item(lossless, 1 << 30)),
            "truncated",
        ),
        "RLE of rubbish": (built({}, RLE, fragments(bytes(range(256)))), "decode_failed"),
        "RLE of too much": (built({}, RLE, fragments(run_lengths(b"\x81\0\x81\7" * 3 + b"\0\7"))), "taken"),
        "RLE of too little": (built({}, RLE, fragments(run_lengths(b"\x81\0" * 5))), "truncated"),
        "RLE of other segments": (built(EIGHT_BITS, RLE, fragments(run_lengths(b"\x81\0" * 6))), "decode_failed"),
        "RLE bomb": (built({}, RLE, fragments(run_lengths(b"\x81\0" * 4000))), "blank"),
    }
