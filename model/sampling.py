"""Images from a trained generator, each determined by its class, its seed and its number alone."""

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from model.networks import Generator

MOST_IMAGES, MOST_PIXELS = 64, 64 * 64 * 64  # of one forward pass: the memory it takes is bounded at every resolution


def latents(label: int, first: int, count: int, seed: int, dim: int) -> Tensor:
    """(count, dim) float32 standard normal: latents first .. first + count - 1 of a class and seed.

    Each has a random stream of its own, so none depends on how many others are drawn, or in what order.
    """
    return torch.stack([torch.randn(dim, generator=_stream(seed, label, k)) for k in range(first, first + count)])


def _stream(*key: int) -> torch.Generator:
    digest = hashlib.blake2b(":".join(map(str, key)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def to_uint8(images: Tensor) -> np.ndarray:
    """(B, 1, H, W) float, [-1, 1] -> (B, H, W) uint8; values outside are clipped."""
    return images[:, 0].float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


@torch.inference_mode()
def render(generator: Generator, z: Tensor, y: Tensor, truncation: float = 1.0) -> np.ndarray:
    """Latents (B, latent_dim) and classes (B,) int64, on any device -> the largest images, uint8 (B, H, W)."""
    device = next(generator.parameters()).device
    return to_uint8(generator(z.to(device), y.to(device), truncation)[-1])


def batches(generator: Generator, label: int, count: int, seed: int, truncation: float = 1.0) -> Iterator[np.ndarray]:
    """Images of one class, uint8 (B, H, W) at a time; see `sample`."""
    config = generator.config
    if not 0 <= label < config.classes:
        raise ValueError(f"label must be from 0 to {config.classes - 1}, not {label}")
    # Image k always has the same place in a batch of the same size, and only the surplus of the last is thrown away:
    # kernels may round differently for another batch size.
    size = min(MOST_IMAGES, max(MOST_PIXELS // config.resolution**2, 1))
    y = torch.full((size,), label)
    for first in range(0, count, size):
        z = latents(label, first, size, seed, config.latent_dim)
        yield render(generator, z, y, truncation)[: count - first]


def sample(generator: Generator, label: int, count: int, seed: int, truncation: float = 1.0) -> np.ndarray:
    """uint8 (count, H, W): images 0 .. count - 1 of a class and seed.

    Image k is bitwise the same whatever `count`; on another device or with another number of threads it is the same
    within rounding. No two classes share a latent. `truncation` from 0 to 1: see Generator.forward. Raises ValueError
    for a class the generator does not have.
    """
    side = generator.config.resolution
    parts = list(batches(generator, label, count, seed, truncation))
    return np.concatenate(parts) if parts else np.empty((0, side, side), np.uint8)
