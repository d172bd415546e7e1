"""Small image sets on disk for the tests of the stages."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from tasks import image_set
from tasks.image_set import AND

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


FINDINGS = ["left", "normal", "right"]  # which side a bright disc is on; both at once is left|right
OFTEN, SELDOM = ["normal"] * 13, ["left", "left", "left|right", "right", "left|right", "left", "right"]


def film_of(rng: np.random.Generator, label: str, side: int, disc: float = 110) -> np.ndarray:
    """A grey square (side, side) uint8 with noise, and a disc on each side that `label` names."""
    y, x = np.mgrid[:side, :side] / side
    image = 80 + rng.normal(0, 8, (side, side))
    for name, place in (("left", 0.25), ("right", 0.75)):
        if name in label.split(AND):
            cy, cx = rng.uniform(0.3, 0.7), place + rng.uniform(-0.08, 0.08)
            image += disc * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 0.02)
    return np.clip(image, 0, 255).astype(np.uint8)


def write_findings(folder: Path, seed: int = 0, side: int = 16, images: int = 240, unknown: str = "") -> Path:
    """A curated set whose films have several findings; of some ill films with one alone `unknown` is not known.

    Seven films of twenty are ill, two of them with both findings; every patient has one film.
    """
    rng = np.random.default_rng(seed)
    writer, rows = image_set.ShardWriter(folder), []
    folder.mkdir(parents=True)
    for k in range(images):
        label = (OFTEN + SELDOM)[k % 20]
        unsure = unknown if AND not in label and label not in ("normal", unknown) and k // 20 % 3 == 0 else ""
        shard, row = writer.add(film_of(rng, label, side))
        split = ("train", "train", "val", "test")[k // 20 % 4]
        said = image_set.with_findings(label, unsure, FINDINGS)
        facts = {"image_id": f"i{k}", "patient_id": f"p{k}", "label": label, **said, "split": split}
        rows.append([*facts.values(), shard, row])
    counts = {"inputs": images, "curated": images, "quarantined": 0, "reasons": {}}
    manifest = pd.DataFrame(rows, columns=[*facts, "shard", "row"])
    image_set.save_index(folder, manifest, FINDINGS, side, writer, **counts)
    return folder


def write_drawn(folder: Path, counts: Mapping[str, int], seed: int = 1, side: int = 16) -> Path:
    """What stage `synthesize` would write for a set like that of `write_findings`, by a generator that is perfect."""
    rng = np.random.default_rng([seed, 7])
    writer, rows = image_set.ShardWriter(folder), []
    folder.mkdir(parents=True)
    sets = {"left": ["left", "left|right"], "right": ["right", "left|right"], "normal": ["normal"]}
    for name, count in counts.items():
        for k in range(count):
            label = sets[name][k % len(sets[name])]
            shard, row = writer.add(film_of(rng, label, side))
            said = image_set.with_findings(label, "", FINDINGS)
            facts = {"image_id": f"{name}-{k:06d}", "label": label, "drawn_for": name, **said}
            rows.append([*facts.values(), shard, row])
    manifest = pd.DataFrame(rows, columns=[*facts, "shard", "row"])
    image_set.save_index(folder, manifest, FINDINGS, side, writer)
    return folder
