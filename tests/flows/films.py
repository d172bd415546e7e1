"""Small pictures in place of films, of which the looks are known and a network of seconds learns them."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

SIDE, DEPTH = 32, 50
LOOKS = {"plain": 0, "bright": 1, "dark": -1}  # of a place low in one lung: the sign of what is added to it


def write(folder: Path, seed: int, **counts: int) -> pd.DataFrame:
    """Pictures of each look by count, e.g. plain=100, each of a patient of its own; columns path, look, patient_id."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows = []
    for look, count in counts.items():
        for k in range(count):
            name = f"{look}-{seed}-{k:04d}"
            Image.fromarray(_film(rng, DEPTH * LOOKS[look])).save(folder / f"{name}.png")
            rows.append((f"{name}.png", look, name))
    return pd.DataFrame(rows, columns=["path", "look", "patient_id"])


def write_labels(folder: Path, films: pd.DataFrame, labels: pd.Series) -> None:
    """labels.csv, a label a film."""
    films.assign(label=labels)[["path", "label", "patient_id"]].to_csv(folder / "labels.csv", index=False)


def _film(rng: np.random.Generator, added: float) -> np.ndarray:
    """Two dark lungs that vary a little in place and size, and `added` grey levels low in the right one: uint8.

    Neither the noise nor the lungs vary much: a generator of seconds does not learn it, and its images would be too
    much alike beside films that do.
    """
    y, x = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1)

    def blob(x0: float, y0: float, width: float, height: float) -> np.ndarray:
        return np.asarray(np.exp(-(((x - x0) / width) ** 2) - ((y - y0) / height) ** 2))

    lungs = sum(
        blob(c + rng.normal(0, 0.012), 0.5 + rng.normal(0, 0.012), rng.normal(0.16, 0.008), rng.normal(0.34, 0.012))
        for c in (0.3, 0.7)
    )
    image = 170 + rng.normal(0, 5) - (100 + rng.normal(0, 5)) * lungs
    image += added * blob(0.7 + rng.normal(0, 0.05), 0.72 + rng.normal(0, 0.05), 0.22, 0.2)
    return np.clip(image + rng.normal(0, 2, (SIDE, SIDE)), 0, 255).astype(np.uint8)
