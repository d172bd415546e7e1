"""Small image sets on disk for the tests of the stages."""

from pathlib import Path

import numpy as np
import pandas as pd

from tasks import image_set

CLASSES = ["normal", "rare"]
NORMAL_DISC = 20.0


def film(rng: np.random.Generator, side: int, disc: float) -> np.ndarray:
    """A grey square (side, side) uint8 with noise and a soft disc that is `disc` grey levels brighter."""
    y, x = np.mgrid[:side, :side] / side
    cy, cx = rng.uniform(0.3, 0.7, 2)
    soft = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 0.02) * disc
    return np.clip(80 + soft + rng.normal(0, 8, (side, side)), 0, 255).astype(np.uint8)


def write_set(folder: Path, seed: int = 0, side: int = 32, images: int = 75, disc: float = 90) -> Path:
    """A curated set, by default of 60 normal and 15 rare images, the rare ones with a bright disc; every patient has
    one image."""
    rng = np.random.default_rng(seed)
    writer, rows = image_set.ShardWriter(folder), []
    folder.mkdir(parents=True)
    for k in range(images):
        label = CLASSES[k % 5 == 0]
        shard, row = writer.add(film(rng, side, disc if label == "rare" else NORMAL_DISC))
        split = ("train", "train", "val", "test")[k // 5 % 4]
        rows.append([f"i{k}", f"p{k}", label, split, shard, row])
    manifest = pd.DataFrame(rows, columns=["image_id", "patient_id", "label", "split", "shard", "row"])
    counts = {"inputs": images, "curated": images, "quarantined": 0, "reasons": {}}
    image_set.save_index(folder, manifest, CLASSES, side, writer, **counts)
    return folder
