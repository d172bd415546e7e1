"""The damaged controls: real films with known damage, which every measure is to be seen to notice, or not to notice."""

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter

BLUR, NOISE = 1.0, 10.0  # sigma in pixels, and in grey levels of 255; slightly is half of it
GRID = 2  # grey levels, upwards, of every second column
ONE_IMAGE = "one_image"  # a control too: one real image, repeated


def blur(images: np.ndarray, sigma: float = BLUR) -> np.ndarray:
    """Images (N, H, W) uint8 behind a Gaussian of `sigma` pixels."""
    return gaussian_filter(images.astype(np.float32), (0, sigma, sigma)).round().astype(np.uint8)


def noise(images: np.ndarray, rng: np.random.Generator, sigma: float = NOISE) -> np.ndarray:
    """Images (N, H, W) uint8 with independent Gaussian noise of `sigma` grey levels."""
    return np.clip(images + rng.normal(0, sigma, images.shape), 0, 255).round().astype(np.uint8)


def grid(images: np.ndarray, levels: int = GRID) -> np.ndarray:
    """Images (N, H, W) uint8 whose every second column is lighter by `levels`, as transposed convolutions leave it."""
    lighter = np.arange(images.shape[2]) % 2 * levels
    return np.clip(images.astype(np.int16) + lighter, 0, 255).astype(np.uint8)


DAMAGE: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {  # by name of the control; to films
    "blurred": lambda films, _: blur(films),
    "slightly_blurred": lambda films, _: blur(films, BLUR / 2),
    "noisy": lambda films, rng: noise(films, rng),
    "slightly_noisy": lambda films, rng: noise(films, rng, NOISE / 2),
    "grid": lambda films, _: grid(films),
}
