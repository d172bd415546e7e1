"""What mutants are made of: small films in every encoding, pictures, and the small ones of the hostile files."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.fuzz_ingest.by_hand import hostile
from benchmarks.fuzz_ingest.streams import film
from tests.tasks.films import ENCODINGS, encode

MUTABLE = 1 << 16  # bytes of a file that is still worth mutating


@dataclass(frozen=True)
class Seed:
    """A file to be mutated: its `kind` (a row of the table), and the end of its header, for pixels are bytes too."""

    kind: str
    content: bytes
    header: int


SHAPES = ((24, 20), (32, 48), (96, 80))


@cache
def seeds() -> list[Seed]:
    """Small films in all encodings, pictures, and those of the hostile files that are small."""
    files = []
    for place, encoding in enumerate(ENCODINGS):
        for number, shape in enumerate(SHAPES):
            bits = 8 if encoding == "jpeg_baseline" else 12
            content = encode(film(*shape, bits, number=3 * place + number), encoding)
            end = content.find(b"\x7f\xe0\x00\x10" if encoding == "big_endian" else b"\xe0\x7f\x10\x00")
            files.append(Seed(encoding, content, end if end > 0 else len(content)))
    for kind, content in _pictures():
        files.append(Seed(kind, content, min(len(content), 200)))
    for content, _ in hostile().values():
        if 200 < len(content) < MUTABLE:
            files.append(Seed("by hand", content, max(content.find(b"\xe0\x7f\x10\x00"), 200)))
    return files


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
