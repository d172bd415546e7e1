"""Image measures: MS-SSIM of pairs and the Fréchet distance of features, each to be read beside a real floor."""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# Weights of the five scales, Wang, Simoncelli and Bovik 2003.
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW, SIGMA = 11, 1.5  # taps and width of the Gaussian window, Wang et al. 2004
C1, C2 = 0.01**2, 0.03**2  # their constants for a data range of 1
CHUNK_PIXELS = 1 << 19  # of a map that is smoothed at once: few enough to stay in the cache between the taps


class Level(NamedTuple):
    """Images (B, H, W) at one scale, and the local mean and variance (B, H - 10, W - 10) of each."""

    images: Tensor
    mean: Tensor
    variance: Tensor


def ms_ssim_scales(side: int) -> int:
    """How many of the five scales an image of `side` pixels has room for: the window must fit the smallest.

    Five scales need 176 pixels, four 88, three 44 (field practice: say how many when quoting a value).
    """
    scales = 0
    while scales < len(MS_SSIM_WEIGHTS) and side >> scales >= WINDOW:
        scales += 1
    return scales


def balanced_pairs(n: int, pairs: int, seed: int = 0) -> np.ndarray:
    """(P, 2) indices of different pairs of different images out of `n`: P is `pairs`, or all n (n - 1) / 2.

    The images stand on a circle in random order; each is paired with its next neighbour, then with the one after it,
    and so on. So all images are used equally often, and what concerns one alone can be computed once.
    """
    circle = np.random.default_rng(seed).permutation(n)
    k = np.arange(min(pairs, n * (n - 1) // 2))
    return circle[np.stack([k, k + k // n + 1], axis=1) % n]


@torch.no_grad()
def ms_ssim_pairs(images: np.ndarray, pairs: int, seed: int = 0) -> np.ndarray:
    """MS-SSIM of the `balanced_pairs` of images (N, H, W) uint8: (P,) float64, 1 = the same image.

    N >= 2; H, W >= 11. With fewer scales than five the weights are renormalised to sum 1. Low is diverse; read it
    against real pairs.
    """
    n = len(images)
    if n < 2 or ms_ssim_scales(min(images.shape[1:])) == 0:
        raise ValueError(f"MS-SSIM of pairs needs two images of at least {WINDOW} pixels, got {images.shape}")
    circle = np.random.default_rng(seed).permutation(n)
    values = np.empty(min(pairs, n * (n - 1) // 2))
    rounds = math.ceil(len(values) / n)  # as many pairs begin at each image
    size = max(_chunk(images.shape), rounds)
    for start in range(0, min(n, len(values)), size):
        stop = min(start + size, n)
        some = images[circle[np.arange(start, stop + rounds) % n]]
        levels = _levels(torch.from_numpy(some).float() / 255)
        for k in range(rounds):
            here = values[k * n + start : k * n + stop]  # shorter, or empty, in the last round
            here[:] = _compare(*(_rows(levels, first, first + len(here)) for first in (0, k + 1))).numpy()
    return values


def mean_of_pairs(values: np.ndarray, index: np.ndarray, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean of values (P,) of pairs of images (P, 2), and its interval over the images: (mean, low, high).

    Pairs that share an image are not independent: the variance is the dyadic-robust one (Fafchamps and Gubert 2007,
    doi:10.1016/j.jdeveco.2006.05.005), the sum of products of residuals over all pairs of pairs that share an image,
    and never below that of independent pairs. The interval is normal and cut to the range of MS-SSIM, 0 to 1.
    """
    mean = values.mean()
    rest = values - mean
    shared = np.bincount(index.T.ravel(), np.tile(rest, 2))  # by image, the sum of its pairs' residuals
    independent = float(rest @ rest)
    variance = max(float((shared**2).sum()) - independent, independent) / len(values) ** 2
    reach = NormalDist().inv_cdf(0.5 + confidence / 2) * variance**0.5
    return float(mean), float(max(mean - reach, 0.0)), float(min(mean + reach, 1.0))


def near_duplicates_above(real: np.ndarray) -> float:
    """The MS-SSIM above which two images are near-duplicates, all but one image, from that of real pairs (P,).

    They are nearer to being one image than to all but one in a hundred of the real pairs. Of n images that come
    equally often, 1 / n of the pairs are.
    """
    return (1 + float(np.quantile(real, 0.99))) / 2


@torch.no_grad()
def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """MS-SSIM of images (B, 1, H, W) in [0, 1], pair by pair: (B,). Wang, Simoncelli and Bovik 2003.

    Structure at every scale, luminance at the coarsest only; negative structure counts as 0.
    """
    parts = zip(*(x[:, 0].split(_chunk(a.shape)) for x in (a, b)), strict=True)
    return torch.cat([_compare(_levels(x), _levels(y)) for x, y in parts])


def _chunk(shape: tuple[int, ...] | torch.Size) -> int:
    """How many images of (…, H, W) to look at together."""
    return max(1, CHUNK_PIXELS // (shape[-1] * shape[-2]))


def _levels(images: Tensor) -> list[Level]:
    """All that MS-SSIM needs to know of single images (B, H, W)."""
    levels = []
    for scale in range(ms_ssim_scales(min(images.shape[1:]))):
        if scale:
            odd = [side % 2 for side in images.shape[1:]]
            images = F.avg_pool2d(images[:, None], 2, padding=odd)[:, 0]
        mean, square = _smooth(images), _smooth(images * images)
        levels.append(Level(images, mean, square.addcmul_(mean, mean, value=-1)))
    return levels


def _rows(levels: list[Level], start: int, stop: int) -> list[Level]:
    return [Level(*(part[start:stop] for part in level)) for level in levels]


def _compare(a: list[Level], b: list[Level]) -> Tensor:
    """MS-SSIM (B,) of prepared images."""
    weights = np.array(MS_SSIM_WEIGHTS[: len(a)])
    weights /= weights.sum()
    result = torch.ones(len(a[0].images), dtype=a[0].images.dtype)
    for x, y, weight in zip(a, b, weights, strict=True):
        covariance = _smooth(x.images * y.images).addcmul_(x.mean, y.mean, value=-1)
        term = covariance.mul_(2).add_(C2).div_((x.variance + y.variance).add_(C2))
        if x is a[-1]:
            term = term * (2 * x.mean * y.mean + C1) / (x.mean**2 + y.mean**2 + C1)
        result *= term.mean((1, 2)).relu() ** float(weight)
    return result


def _smooth(images: Tensor) -> Tensor:
    """(B, H, W) -> (B, H - 10, W - 10): the Gaussian window at every place where it fits.

    One multiplication and addition a tap: convolutions of one channel are slower here.
    """
    offsets = np.arange(WINDOW) - WINDOW // 2
    taps = np.exp(-(offsets**2) / (2 * SIGMA**2))
    taps /= taps.sum()
    for dim in (1, 2):
        size = images.shape[dim] - WINDOW + 1
        total = images.narrow(dim, 0, size) * float(taps[0])
        for k in range(1, WINDOW):
            total.add_(images.narrow(dim, k, size), alpha=float(taps[k]))
        images = total
    return images


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance of two Gaussians fitted to features (N, D) and (M, D): >= 0, smaller is closer.

    Heusel et al. 2017 (arXiv 1706.08500). The trace of the root of the product of two covariances is the sum of the
    singular values of the product of their factors: no matrix root that turns complex, and small where N is.
    It is biased upwards for small N: compare it only with floors of the same N.
    """
    difference = a.mean(0) - b.mean(0)
    factor_a, factor_b = _covariance_factor(a), _covariance_factor(b)
    root_trace = np.linalg.svd(factor_a @ factor_b.T, compute_uv=False).sum()
    distance = difference @ difference + (factor_a**2).sum() + (factor_b**2).sum() - 2 * root_trace
    return float(max(distance, 0.0))


def _covariance_factor(features: np.ndarray) -> np.ndarray:
    """(min(N, D), D): its product with its own transpose, from the left, is the covariance of features (N, D)."""
    factor = (features - features.mean(0)) / (len(features) - 1) ** 0.5
    return np.asarray(np.linalg.qr(factor, mode="r")) if len(factor) > factor.shape[1] else factor
