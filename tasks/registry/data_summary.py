"""What a train split looks like, in aggregates alone: counts by class, and the spread of simple image statistics.

A registry entry keeps the summary of the data that its generator learnt from; `drift` compares later data with
it. It names no film and no patient, and no statistic in it is of fewer than FEWEST films. So that the films can be told
apart that were added later, it holds four bytes of a digest of each one's pixels and label.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks.image_set import ImageSet, has

GREY_BINS = 16  # of the histogram of pixels, 0 to 255
MOST_BINS = 10  # of the films by a statistic: deciles, where there are enough films
FEWEST = 5  # films of a class, and in a bin: fewer would tell of single films
EPSILON = 1e-6
OTHER_SETS = ""  # of findings: those of fewer than FEWEST films, together

Summary = dict[str, Any]


def summarise(images: ImageSet) -> Summary:
    """Of a train split: "size" (pixels), "counts" by class, "seen" (`marks`, sorted), and "images".

    Where films have several findings, "sets" are their counts by set of findings, "a|b", the few of rare ones together.
    In "images" stand, by class, where it has FEWEST films or more, of each of `statistics`: mean, sd, the inner edges
    of bins that hold about equally many films (none where there are too few for two bins), and the shares of films in
    these; and "histogram", the shares of the pixels in GREY_BINS bins.
    """
    classes = {label: images.where(label=label).images for label in images.classes}
    return {
        "size": int(images.images.shape[-1]),
        "counts": counts(images),
        **({"sets": _sets(images)} if images.several else {}),
        "seen": sorted(marks(images)),
        "images": {label: _of_class(films) for label, films in classes.items() if len(films) >= FEWEST},
    }


def counts(images: ImageSet) -> dict[str, int]:
    """How many images each class has, those with several findings in each."""
    return {label: int(has(images.manifest, label).sum()) for label in images.classes}


def _sets(images: ImageSet) -> dict[str, int]:
    found = Counter(images.manifest["label"])
    result = Counter({names: n for names, n in found.items() if n >= FEWEST})
    result[OTHER_SETS] = found.total() - result.total()
    return dict(result)


def marks(images: ImageSet) -> list[str]:
    """Of each film eight hexadecimal digits of a digest: another label or other pixels make another mark."""
    labels = images.manifest["label"]
    films = zip(labels, images.images, strict=True)
    return [hashlib.sha256(str(label).encode() + b"\0" + film.tobytes()).hexdigest()[:8] for label, film in films]


def statistics(films: np.ndarray) -> dict[str, np.ndarray]:
    """(N,) values of films (N, H, W) uint8: mean grey and contrast (sd) in grey levels, and sharpness.

    Sharpness is log10 of the variance of the Laplacian as a share of that of the film: dimensionless, and the same
    whatever the contrast; noise raises it, blur lowers it.
    """
    found: dict[str, list[float]] = {"mean_grey": [], "contrast": [], "sharpness": []}
    for film in films:
        grey = film.astype(np.float64)
        inner = grey[1:-1, 1:-1]
        laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
        found["mean_grey"].append(grey.mean())
        found["contrast"].append(grey.std())
        found["sharpness"].append(float(np.log10((laplacian.var() + EPSILON) / (grey.var() + EPSILON))))
    return {name: np.array(values) for name, values in found.items()}


def shares(values: np.ndarray, edges: list[float]) -> list[float]:
    """Of values (N,), how large a share lies in each of the bins between the inner edges; a value at an edge above."""
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    return [round(float(share), 6) for share in counts / len(values)]


def histogram(films: np.ndarray) -> list[float]:
    """Shares of all pixels of films (N, H, W) uint8 in GREY_BINS bins."""
    counts = np.bincount(films.ravel() // (256 // GREY_BINS), minlength=GREY_BINS)
    return [round(float(share), 6) for share in counts / films.size]


def _of_class(films: np.ndarray) -> Mapping[str, Any]:
    bins = min(MOST_BINS, len(films) // FEWEST)
    result: dict[str, Any] = {"histogram": histogram(films)}
    for name, values in statistics(films).items():
        edges: list[float] = []
        if bins > 1:
            edges = sorted({round(float(edge), 4) for edge in np.quantile(values, np.arange(1, bins) / bins)})
        result[name] = {
            "mean": round(float(values.mean()), 4),
            "sd": round(float(values.std()), 4),
            "edges": edges,
            "shares": shares(values, edges),
        }
    return result
