"""Images from a trained generator, each determined by its class, its seed and its number alone."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.gan.layers import SelfAttention, on_sphere
from model.gan.networks import Generator

# Of one forward pass. More than 16 images of 64 px are slower, as features fall out of a CPU's cache; and the memory is
# bounded at every resolution.
MOST_IMAGES, MOST_PIXELS = 16, 64 * 64 * 64
GOLDEN = (5**0.5 - 1) / 2
AND = "|"  # between the findings of a set


def latents(label: int, first: int, count: int, seed: int, dim: int) -> Tensor:
    """(count, dim) float32 standard normal: latents first .. first + count - 1 of a class and seed.

    Each has a random stream of its own, so none depends on how many others are drawn, or in what order.
    """
    return torch.stack([torch.randn(dim, generator=_stream(seed, label, k)) for k in range(first, first + count)])


def _stream(*key: int) -> torch.Generator:
    digest = hashlib.blake2b(":".join(map(str, key)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def between(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Latents on the great circle from a to b, (D,) each -> (steps, D), both ends included, equal angles apart.

    Spherical interpolation (Shoemake 1985): the generator reads latents on a sphere, where a straight line would
    hurry through the middle. Of opposite latents, which no single great circle joins, the result is not defined.
    """
    a, b = on_sphere(torch.stack([a, b]))
    angle = torch.arccos((a @ b / len(a)).clamp(-1, 1)).clamp_min(1e-4)  # of equal latents the circle is a point
    t = torch.linspace(0, 1, steps)[:, None]
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)


def to_uint8(images: Tensor) -> np.ndarray:
    """(B, 1, H, W) float, [-1, 1] -> (B, H, W) uint8; values outside are clipped."""
    return images[:, 0].float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


@torch.inference_mode()
def render(generator: Generator, z: Tensor, y: Tensor, truncation: float = 1.0) -> np.ndarray:
    """Latents (B, latent_dim) and classes (B,) int64, on any device -> the largest images, uint8 (B, H, W)."""
    device = next(generator.parameters()).device
    return to_uint8(generator(z.to(device), y.to(device), truncation)[-1])


def attention_blocks(generator: Generator) -> dict[int, SelfAttention]:
    """The attention blocks of a generator by side in pixels; none of MSG-GAN."""
    blocks = [module for module in generator.modules() if isinstance(module, SelfAttention)]
    return dict(zip(generator.config.attention_resolutions, blocks, strict=True))


@torch.inference_mode()
def attention_maps(
    generator: Generator, z: Tensor, y: Tensor, points: Sequence[tuple[float, float]]
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """What `render` gives, uint8 (B, H, W), and where each attention block looks from each of `points`, by its side r.

    The latter are the softmax weights over the keys, float32 (B, len(points), r/2, r/2), which sum to 1 over the last
    two. Points are (down, right) in [0, 1) of the image.
    """
    maps: dict[int, np.ndarray] = {}

    def look(side: int, block: SelfAttention, inputs: tuple[Any, ...]) -> None:
        queries = [int(down * side) * side + int(right * side) for down, right in points]
        weights = block.weights(inputs[0])[:, queries]
        maps[side] = weights.unflatten(2, (side // 2, side // 2)).float().cpu().numpy()

    with ExitStack() as hooks:
        for side, block in attention_blocks(generator).items():
            hooks.callback(block.register_forward_pre_hook(partial(look, side)).remove)
        return render(generator, z, y), maps


def sets_of(shares: Mapping[str, int], count: int) -> list[str]:
    """Sets of findings "a|b" of images 0 .. count - 1, as often as `shares` say, in any number of them.

    That of image k depends on k alone: multiples of the golden ratio fill an interval evenly (Knuth, TAOCP 6.4).
    """
    ends = np.cumsum(list(shares.values()))
    places = (0.5 + GOLDEN * np.arange(count)) % 1 * ends[-1]
    names = list(shares)
    return [names[k] for k in np.searchsorted(ends, places, side="right")]


def hot(sets: Sequence[str], classes: Sequence[str]) -> Tensor:
    """(N, K) int64: 1 for each of the findings in a set "a|b". Raises ValueError for one that is not in `classes`."""
    there = torch.zeros(len(sets), len(classes), dtype=torch.int64)
    for k, names in enumerate(sets):
        for name in names.split(AND):
            there[k, list(classes).index(name)] = 1
    return there


def batches(
    generator: Generator, label: int, count: int, seed: int, truncation: float = 1.0, sets: Tensor | None = None
) -> Iterator[np.ndarray]:
    """Images of one class, uint8 (B, H, W) at a time; see `sample`."""
    config = generator.config
    if not 0 <= label < config.classes:
        raise ValueError(f"label must be from 0 to {config.classes - 1}, not {label}")
    # Image k always has the same place in a batch of the same size, and only the surplus of the last is thrown away:
    # kernels may round differently for another batch size.
    size = min(MOST_IMAGES, max(MOST_PIXELS // config.resolution**2, 1))
    y = torch.full((size,), label)
    for first in range(0, count, size):
        z = latents(label, first, size, seed, config.inputs)
        if sets is not None:
            there = sets[first : first + size]
            y = torch.cat([there, there[-1:].expand(size - len(there), -1)])
        yield render(generator, z, y, truncation)[: count - first]


def sample(
    generator: Generator, label: int, count: int, seed: int, truncation: float = 1.0, sets: Tensor | None = None
) -> np.ndarray:
    """uint8 (count, H, W): images 0 .. count - 1 of a class and seed.

    Image k is bitwise the same whatever `count`; on another device or with another number of threads it is the same
    within rounding. No two classes share a latent. `truncation`, 0 or more: see Generator.forward. `sets` (count, K):
    the findings of each image, the class among them, in place of the class alone. Raises ValueError for a class the
    generator does not have.
    """
    side = generator.config.resolution
    parts = list(batches(generator, label, count, seed, truncation, sets))
    return np.concatenate(parts) if parts else np.empty((0, side, side), np.uint8)
