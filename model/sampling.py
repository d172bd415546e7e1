"""Images from a trained generator, each determined by its seed and its number alone."""

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from model.networks import Generator


def latents(first: int, count: int, seed: int, dim: int) -> Tensor:
    """(count, dim) float32 standard normal: latents first .. first + count - 1 of a seed.

    Each has a random stream of its own, so none depends on how many others are drawn, or in what order.
    """
    return torch.stack([torch.randn(dim, generator=_stream(seed, k)) for k in range(first, first + count)])


def _stream(seed: int, k: int) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}:{k}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def to_uint8(images: Tensor) -> np.ndarray:
    """(B, 1, H, W) float, [-1, 1] -> (B, H, W) uint8; values outside are clipped."""
    return images[:, 0].float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


@torch.inference_mode()
def batches(
    generator: Generator, label: int, count: int, seed: int, truncation: float = 1.0, batch: int = 64
) -> Iterator[np.ndarray]:
    """Images of one class, uint8 (<= batch, H, W) at a time; see `sample`."""
    config = generator.config
    if not 0 <= label < config.classes:
        raise ValueError(f"label must be from 0 to {config.classes - 1}, not {label}")
    device = next(generator.parameters()).device
    y = torch.full((batch,), label, device=device)
    for first in range(0, count, batch):
        # Always a full batch: kernels may round differently for another batch size.
        z = latents(first, batch, seed, config.latent_dim).to(device)
        yield to_uint8(generator(z, y, truncation)[-1])[: count - first]


def sample(
    generator: Generator, label: int, count: int, seed: int, truncation: float = 1.0, batch: int = 64
) -> np.ndarray:
    """uint8 (count, H, W): images 0 .. count - 1 of a seed and class.

    Image k is bitwise the same whatever `count`; for another `batch`, device or number of threads it is the
    same within rounding, one grey level. Image k of two classes has the same latent. `truncation` from 0
    to 1: see Generator.forward. Raises ValueError for a class the generator does not have.
    """
    side = generator.config.resolution
    parts = list(batches(generator, label, count, seed, truncation, batch))
    return np.concatenate(parts) if parts else np.empty((0, side, side), np.uint8)
