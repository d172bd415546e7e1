"""Radiographs as pictures: mosaics, PNG bytes and data URIs."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image


def mosaic(images: np.ndarray | Sequence[np.ndarray], columns: int, gap: int = 2) -> np.ndarray:
    """Images (N, H, W) uint8 in rows of `columns`, `gap` white pixels apart: (H', W') uint8."""
    n, height, width = np.shape(images)
    rows = -(-n // columns)
    canvas = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap), 255, dtype=np.uint8)
    for k, image in enumerate(images):
        top, left = gap + k // columns * (height + gap), gap + k % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas


def picture_png(pixels: np.ndarray, zoom: int = 1) -> bytes:
    """(H, W) uint8 as PNG bytes, each pixel `zoom` times as large."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.repeat(zoom, 0).repeat(zoom, 1)).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def data_uri(content: bytes, kind: str = "image/png") -> str:
    """A file as a URI that holds it, for a page or an artifact that has to travel alone."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
