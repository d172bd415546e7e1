"""Small films of which the looks are known, in a delivery and by generators that draw them in place of their own.

What a planted generator draws is decided by the width of its network (`DRAWS`), so by a key of params.yaml: whatever
it learnt, its images are as good or as bad as a test needs them.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from model.gan.networks import Generator

SIDE, DEPTH = 16, 80
LOOKS = {"plain": 0, "bright": 1, "dark": -1}  # of a place low in one lung: the sign of what is added to it
RIGHT = {"plain": "common", "bright": "rare", "dark": "other"}
MIXED_UP = {"plain": "common", "bright": "other", "dark": "rare"}
LEARNT_MIXED_UP, LEARNT_RIGHT = 8, 16  # widths of networks
DRAWS = {LEARNT_MIXED_UP: MIXED_UP, LEARNT_RIGHT: RIGHT}


def write(folder: Path, seed: int, **counts: int) -> pd.DataFrame:
    """Films of each look by count, e.g. plain=100, each of a patient of its own; columns path, look, patient_id."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows = []
    for look, count in counts.items():
        for k in range(count):
            name = f"{look}-{seed}-{k:04d}"
            Image.fromarray(film(rng, look)).save(folder / f"{name}.png")
            rows.append((f"{name}.png", look, name))
    return pd.DataFrame(rows, columns=["path", "look", "patient_id"])


def write_labels(folder: Path, films: pd.DataFrame) -> None:
    """labels.csv, a label a film."""
    labels = films["look"].map(RIGHT)
    films.assign(label=labels)[["path", "label", "patient_id"]].to_csv(folder / "labels.csv", index=False)


def batches(generator: Generator, label: int, count: int, seed: int, truncation: float = 1.0) -> Iterator[np.ndarray]:
    """In place of `model.gan.sampling.batches`: fresh films of the look that the generator takes for the class."""
    width = generator.config.width
    look_of = {name: look for look, name in DRAWS[width].items()}
    look = look_of[sorted(look_of)[label]]
    rng = np.random.default_rng([seed, label, width, 1])  # another stream than that of any delivery
    yield np.stack([film(rng, look) for _ in range(count)])


def film(rng: np.random.Generator, look: str) -> np.ndarray:
    """Two dark lungs that vary in place and size, and DEPTH grey levels added or taken low in the right one: uint8."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1)

    def blob(x0: float, y0: float, width: float, height: float) -> np.ndarray:
        return np.asarray(np.exp(-(((x - x0) / width) ** 2) - ((y - y0) / height) ** 2))

    lungs = sum(
        blob(c + rng.normal(0, 0.03), 0.5 + rng.normal(0, 0.03), rng.normal(0.16, 0.015), rng.normal(0.34, 0.03))
        for c in (0.3, 0.7)
    )
    image = 160 + rng.normal(0, 5) - (80 + rng.normal(0, 5)) * lungs
    image += DEPTH * LOOKS[look] * blob(0.7 + rng.normal(0, 0.05), 0.72 + rng.normal(0, 0.05), 0.22, 0.2)
    return np.clip(image + rng.normal(0, 8, (SIDE, SIDE)), 0, 255).astype(np.uint8)
