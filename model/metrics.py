"""Image measures: MS-SSIM of pairs and the Fréchet distance of features, each to be read beside a real floor."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# Weights of the five scales, Wang, Simoncelli and Bovik 2003.
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW, SIGMA = 11, 1.5  # taps and width of the Gaussian window, Wang et al. 2004
C1, C2 = 0.01**2, 0.03**2  # their constants for a data range of 1


def ms_ssim_scales(side: int) -> int:
    """How many of the five scales an image of `side` pixels has room for: the window must fit the smallest.

    Five scales need 176 pixels, four 88, three 44 (field practice: say how many when quoting a value).
    """
    scales = 0
    while scales < len(MS_SSIM_WEIGHTS) and side >> scales >= WINDOW:
        scales += 1
    return scales


def ms_ssim_pairs(images: np.ndarray, pairs: int, seed: int = 0, batch: int = 256) -> np.ndarray:
    """MS-SSIM of random pairs of different images: (pairs,) float64, 1 = the same image.

    `images` is (N, H, W) uint8, N >= 2 and H, W >= 11. With fewer scales than five the weights are renormalised
    to sum 1. Pairs are drawn with replacement from all N (N - 1). Low is diverse; read it against real pairs.
    """
    n, side = len(images), min(images.shape[1:])
    scales = ms_ssim_scales(side)
    if n < 2 or scales == 0:
        raise ValueError(f"MS-SSIM of pairs needs two images of at least {WINDOW} pixels, got {images.shape}")
    rng = np.random.default_rng(seed)
    first = rng.integers(0, n, pairs)
    second = (first + rng.integers(1, n, pairs)) % n
    values = []
    for k in range(0, pairs, batch):
        a, b = (torch.from_numpy(images[index[k : k + batch]]).float()[:, None] / 255 for index in (first, second))
        values.append(ms_ssim(a, b))
    return torch.cat(values).double().numpy()


@torch.no_grad()
def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """MS-SSIM of images (B, 1, H, W) in [0, 1], pair by pair: (B,). Wang, Simoncelli and Bovik 2003.

    Structure at every scale, luminance at the coarsest only; negative structure counts as 0.
    """
    scales = ms_ssim_scales(min(a.shape[2:]))
    weights = np.array(MS_SSIM_WEIGHTS[:scales])
    weights /= weights.sum()
    result = torch.ones(len(a), dtype=a.dtype)
    for scale, weight in enumerate(weights):
        luminance, structure = _ssim_maps(a, b)
        term = structure * luminance if scale == scales - 1 else structure
        result *= term.mean((1, 2, 3)).relu() ** float(weight)
        odd = [side % 2 for side in a.shape[2:]]
        a, b = (F.avg_pool2d(x, 2, padding=odd) for x in (a, b))
    return result


def _ssim_maps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The luminance term and the contrast-structure term of SSIM at every place where the window fits."""
    offsets = torch.arange(WINDOW, dtype=a.dtype) - WINDOW // 2
    taps = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    taps /= taps.sum()
    moments = torch.cat([a, b, a * a, b * b, a * b], dim=1)  # (B, 5, H, W)
    for shape in ((1, 1, WINDOW, 1), (1, 1, 1, WINDOW)):
        moments = F.conv2d(moments, taps.view(shape).repeat(5, 1, 1, 1), groups=5)
    mean_a, mean_b, aa, bb, ab = moments.split(1, dim=1)
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    variances = aa - mean_a**2 + bb - mean_b**2
    structure = (2 * (ab - mean_a * mean_b) + C2) / (variances + C2)
    return luminance, structure


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance of two Gaussians fitted to features (N, D) and (M, D): >= 0, smaller is closer.

    Heusel et al. 2017 (arXiv 1706.08500), the trace term from eigenvalues: no matrix root that turns complex.
    It is biased upwards for small N: compare it only with floors of the same N.
    """
    difference = a.mean(0) - b.mean(0)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    eigenvalues = np.linalg.eigvals(cov_a @ cov_b)
    root_trace = np.sqrt(np.maximum(eigenvalues.real, 0)).sum()
    distance = difference @ difference + np.trace(cov_a) + np.trace(cov_b) - 2 * root_trace
    return float(max(distance, 0.0))
