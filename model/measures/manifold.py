"""Measures of features that ask where two sets of images lie, not how their Gaussians differ.

KID compares the distributions; precision and density ask whether synthetic images are real ones, recall and coverage
whether all real ones are reached. All are to be read beside a floor: the same of two halves of the real images.
"""

from dataclasses import dataclass

import numpy as np

ROWS = 128  # of a distance matrix at a time: its chunk of 10,000 columns takes 10 MB
ROUND_OFF = 1e-12  # a squared distance below this share of the largest squared norm is that of equal features


@dataclass(frozen=True)
class Manifold:
    """Shares of images: precision, recall and coverage in [0, 1]; density >= 0, about 1 for equal distributions."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(real: np.ndarray, fake: np.ndarray, neighbours: int = 5) -> Manifold:
    """Precision and recall (arXiv 1904.06991), density and coverage (arXiv 2002.09797) of features (N, D), (M, D).

    A ball reaches from each image to its `neighbours`-th nearest of the same set, itself not counted; only what is
    strictly within counts. Precision: fakes within any real ball. Recall: reals within any fake ball. Density: real
    balls that a fake is in, over `neighbours`. Coverage: real balls with a fake in. Float64, in chunks of rows:
    O(N M) time, O(N + M) memory. Raises ValueError when a set is not larger than `neighbours`.
    """
    if neighbours < 1 or min(len(real), len(fake)) <= neighbours:
        raise ValueError(f"{len(real)} and {len(fake)} images have no {neighbours} neighbours each")
    # A common centre changes no distance and keeps the squares small.
    a, b = (x - real.mean(0, dtype=np.float64) for x in (real, fake))
    radii_a, radii_b = _radii(a, neighbours), _radii(b, neighbours)
    balls = np.zeros(len(b), dtype=np.int64)  # by fake, the real balls that it is in
    recalled = covered = 0
    for start in range(0, len(a), ROWS):
        distances = _squared_distances(a[start : start + ROWS], b)
        within = distances < radii_a[start : start + ROWS, None]
        balls += within.sum(0)
        covered += int(within.any(1).sum())
        recalled += int((distances < radii_b).any(1).sum())
    return Manifold(
        precision=float((balls > 0).mean()),
        recall=recalled / len(a),
        density=float(balls.mean()) / neighbours,
        coverage=covered / len(a),
    )


def _radii(x: np.ndarray, neighbours: int) -> np.ndarray:
    """(N,): squared distance of each feature to its `neighbours`-th nearest other one."""
    radii = np.empty(len(x))
    for start in range(0, len(x), ROWS):
        distances = _squared_distances(x[start : start + ROWS], x)
        rows = np.arange(len(distances))
        distances[rows, start + rows] = np.inf  # itself
        distances.partition(neighbours - 1, axis=1)
        radii[start : start + ROWS] = distances[:, neighbours - 1]
    return radii


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M) squared Euclidean distances of features (N, D) and (M, D); exactly 0 where they are equal."""
    norms_a, norms_b = ((x * x).sum(1) for x in (a, b))
    distances = (-2 * a) @ b.T
    distances += norms_a[:, None]
    distances += norms_b
    distances[distances < ROUND_OFF * norms_b.max()] = 0
    return distances


def kid(a: np.ndarray, b: np.ndarray, subset: int = 1000, subsets: int = 20, seed: int = 0) -> float:
    """Kernel distance of features (N, D) and (M, D), arXiv 1801.01401: unbiased, so below 0 by chance for equal ones.

    The squared maximum mean discrepancy with the kernel (x·y / D + 1)³. Sets larger than `subset` are compared by
    the mean over `subsets` random subsets of that size. Raises ValueError for fewer than two features in a set.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"KID needs two images in each set, got {len(a)} and {len(b)}")
    if max(len(a), len(b)) <= subset:
        return _squared_mmd(a, b)
    rng = np.random.default_rng(seed)
    draws = ((x[rng.permutation(len(x))[:subset]] for x in (a, b)) for _ in range(subsets))
    return float(np.mean([_squared_mmd(*draw) for draw in draws]))


def _squared_mmd(a: np.ndarray, b: np.ndarray) -> float:
    within = sum(_mean_off_diagonal(_kernel(x, x)) for x in (a, b))
    return float(within - 2 * _kernel(a, b).mean())


def _mean_off_diagonal(kernel: np.ndarray) -> float:
    n = len(kernel)
    return float(kernel.sum() - np.trace(kernel)) / (n * (n - 1))


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    base = a @ b.T / a.shape[1] + 1
    return base * base * base  # a power is ten times slower
