"""Image sets on disk: uint8 shards (N, H, W) that can be read by memory map, and a manifest with one row an image.

Curated and synthetic sets share this format. A set is written into a temporary sibling folder and renamed
when it is complete, so a folder that exists is whole.
"""

import hashlib
import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tasks.errors import UserError
from tasks.files import write_json

SHARD_BYTES = 1 << 24  # of a shard, on average
CLASS_NAME = re.compile(r"\w[\w .-]*")  # classes name folders, metrics and columns
SPLITS = ("train", "val", "test")


class ShardWriter:
    """Collects images (H, W) uint8 and writes them into shards of about SHARD_BYTES.

    A shard ends after an image whose checksum says so, not after a fixed count: images added in the middle change the
    shard that they fall into and leave the others byte for byte the same, so DVC stores and sends only that one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.digest = hashlib.sha256()
        self._pending: list[np.ndarray] = []
        self._shards = 0

    def add(self, image: np.ndarray) -> tuple[str, int]:
        """Add one image; returns the name of its shard and its row there."""
        place = self._name(), len(self._pending)
        self._pending.append(image)
        self.digest.update(image.tobytes())
        mean = max(1, SHARD_BYTES // image.nbytes)
        ends = zlib.crc32(image.tobytes()) % mean == 0 and len(self._pending) >= mean // 4
        if ends or len(self._pending) >= 4 * mean:
            self.close()
        return place

    def close(self) -> None:
        """Write what is pending."""
        if self._pending:
            np.save(self.folder / self._name(), np.stack(self._pending))
            self._pending.clear()
            self._shards += 1

    def _name(self) -> str:
        return f"images-{self._shards:05d}.npy"


def class_numbers(labels: pd.Series, classes: list[str]) -> np.ndarray:
    """(N,) int64: the place of each of `labels` in `classes`. Raises ValueError for a label that is not there."""
    numbers = pd.Categorical(labels, pd.Index(classes)).codes.astype(np.int64)
    if (numbers < 0).any():
        raise ValueError(f"a label is none of the classes {', '.join(classes)}")
    return numbers


@dataclass(frozen=True)
class ImageSet:
    """Images (N, H, W) uint8 and their manifest rows, in the same order."""

    images: np.ndarray
    manifest: pd.DataFrame
    classes: list[str]
    digest: str

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64 indices into `classes`."""
        return class_numbers(self.manifest["label"], self.classes)

    def counts(self) -> dict[str, dict[str, int]]:
        """Images by split and class."""
        table = self.manifest.groupby(["split", "label"]).size()
        return {
            split: {label: int(table.get((split, label), 0)) for label in self.classes}
            for split in SPLITS
            if split in table.index.get_level_values("split")
        }

    def where(self, **columns: str) -> "ImageSet":
        """The rows in which every named column has the given value, e.g. `where(split="train")`."""
        keep = np.ones(len(self.manifest), dtype=bool)
        for column, value in columns.items():
            keep &= (self.manifest[column] == value).to_numpy()
        return self.keep(keep)

    def keep(self, keep: np.ndarray) -> "ImageSet":
        """The rows that bool `keep` (N,) marks."""
        return ImageSet(self.images[keep], self.manifest[keep].reset_index(drop=True), self.classes, self.digest)


def save_index(
    folder: Path, manifest: pd.DataFrame, classes: list[str], size: int, writer: ShardWriter, **facts: Any
) -> None:
    """Close the shards, then write manifest.csv and dataset.json (classes, size, digest and `facts`)."""
    writer.close()
    manifest.to_csv(folder / "manifest.csv", index=False)
    writer.digest.update("\n".join(manifest["label"]).encode())
    write_json(
        folder / "dataset.json",
        {
            "classes": classes,
            "size": size,
            "images": len(manifest),
            "digest": writer.digest.hexdigest(),
            **facts,
        },
    )


def load(folder: Path) -> ImageSet:
    """Read an image set. Raises UserError when `folder` is not one."""
    try:
        facts = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        manifest = pd.read_csv(folder / "manifest.csv", dtype={"patient_id": str, "label": str}, keep_default_na=False)
        images = np.empty((len(manifest), facts["size"], facts["size"]), dtype=np.uint8)
        for shard, places in manifest.groupby("shard").indices.items():  # in whatever order the rows stand
            images[places] = np.load(folder / str(shard), mmap_mode="r")[manifest["row"].to_numpy()[places]]
        return ImageSet(images, manifest, facts["classes"], facts["digest"])
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise UserError(
            f"{folder} is not an image set ({error}); make it with `xraysynth ingest` or `xraysynth synthesize`"
        ) from None
