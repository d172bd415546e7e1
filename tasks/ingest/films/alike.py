"""Which curated images show one picture, although their files are encoded in different ways.

Of one encoding the same pixels give the same image, to the bit; JPEG 2000 of another number of levels or of other tiles
is another one. A reduced decode differs in the last bits, and a lossy one in more: 24 chest films in JPEG 2000 and
HTJ2K, lossy and not, at 64 pixels by up to 1.9 grey levels on average and 2.3 in a block. The two nearest of 704
different films of ChestX-ray14 differ by 9.6 and 15.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

BLOCKS = 4  # a side, whose means tell most pictures apart
MEANS, PIXELS = 5.0, 3.0  # grey levels: largest difference of the means of blocks, and mean difference of the pixels
NEAREST = 8  # of the images whose blocks are alike, those that are looked at


def block_means(image: np.ndarray) -> np.ndarray:
    """(BLOCKS²,) float32 of an image (size, size) uint8."""
    return cv2.resize(image.astype(np.float32), (BLOCKS, BLOCKS), interpolation=cv2.INTER_AREA).ravel()


def first_alike(means: np.ndarray, forms: Sequence[str], image: Callable[[int], np.ndarray]) -> list[int]:
    """For each of N images the first that shows the same picture: itself where none does.

    `means` (N, BLOCKS²) as of `block_means`; `forms`: what each was encoded as. Only images of different forms are
    compared, `image(k)` (size, size) uint8.
    """
    from scipy.spatial import cKDTree  # slow to import, and most archives have films of one form

    first = list(range(len(means)))
    if len(means) < 2:
        return first
    distances, others = cKDTree(means).query(means, min(NEAREST + 1, len(means)), p=np.inf, distance_upper_bound=MEANS)
    for one, row in enumerate(others):
        for other in (int(k) for k in row[np.isfinite(distances[one])]):
            if one < other and forms[one] != forms[other] and _alike(image(one), image(other)):
                low, high = sorted((_root(first, one), _root(first, other)))
                first[high] = low
    return [_root(first, k) for k in range(len(first))]


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    return float(np.abs(one.astype(np.int16) - other).mean()) <= PIXELS


def _root(first: Sequence[int], k: int) -> int:
    while first[k] != k:
        k = first[k]
    return k
