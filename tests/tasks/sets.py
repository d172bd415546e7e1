"""Small image sets on disk for the tests of the stages."""

from pathlib import Path

import numpy as np
import pandas as pd

from tasks import curated

CLASSES = ["normal", "rare"]


def write_set(folder: Path, seed: int = 0, side: int = 32) -> Path:
    """A curated set of 60 normal and 15 rare images, the rare ones with a bright disc; every patient has one image."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    writer, rows = curated.ShardWriter(folder), []
    folder.mkdir(parents=True)
    for k in range(75):
        label = CLASSES[k % 5 == 0]
        cy, cx = rng.uniform(0.3, 0.7, 2)
        disc = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 0.02) * (90 if label == "rare" else 20)
        image = np.clip(80 + disc + rng.normal(0, 8, (side, side)), 0, 255).astype(np.uint8)
        shard, row = writer.add(image)
        split = ("train", "train", "val", "test")[k // 5 % 4]
        rows.append([f"i{k}", f"p{k}", label, split, shard, row])
    manifest = pd.DataFrame(rows, columns=["image_id", "patient_id", "label", "split", "shard", "row"])
    counts = {"inputs": 75, "curated": 75, "quarantined": 0, "reasons": {}}
    curated.save_index(folder, manifest, CLASSES, side, writer, **counts)
    return folder
