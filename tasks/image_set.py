"""Image sets on disk: uint8 shards (N, H, W) that can be read by memory map, and a manifest with one row an image.

Curated and synthetic sets share this format. A set is written into a temporary sibling folder and renamed
when it is complete, so a folder that exists is whole.

Images have one class each, or several findings at once: then the manifest has a column FINDING + NAME for each class,
1, 0 or empty where it is not known, and `label` is the findings that are there, joined by AND. No finding is a class
like the others, which no other goes with. An image that was drawn for one of its findings has that in `drawn_for`.
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
FINDING, AND, DRAWN_FOR = "finding_", "|", "drawn_for"  # of sets whose images may have several findings
NO_FINDING = {"nofinding", "nofindings", "normal"}  # names of it, in small letters and without what parts words


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


def none_there(label: str) -> bool:
    """Whether a class is that of films without a finding, such as "No Finding" or "normal"."""
    return re.sub(r"[\W_]+", "", label).casefold() in NO_FINDING


def finding_columns(rows: pd.DataFrame) -> list[str]:
    """The columns of a manifest, or of predictions, that say whether a finding is there; none of a single class."""
    return [name for name in map(str, rows.columns) if name.startswith(FINDING)]


def has(rows: pd.DataFrame, label: str) -> np.ndarray:
    """bool (N,): which rows of a manifest, or of predictions, are of a class, or have the finding."""
    return _said(rows, label) == 1


def known(rows: pd.DataFrame, label: str) -> np.ndarray:
    """bool (N,): of which rows it is known whether they are of a class, or have the finding."""
    return _said(rows, label) >= 0


def _said(rows: pd.DataFrame, label: str) -> np.ndarray:
    """(N,) int8: 1, 0, or -1 where it is not known."""
    if not finding_columns(rows):
        return (rows["label"] == label).to_numpy().astype(np.int8)
    if FINDING + label not in rows:  # a generator of other classes cannot say
        return np.full(len(rows), -1, np.int8)
    return pd.to_numeric(rows[FINDING + label], errors="coerce").fillna(-1).to_numpy().astype(np.int8)


def targets(rows: pd.DataFrame, classes: list[str]) -> np.ndarray:
    """What rows of a manifest are of: (N,) int64 places in `classes`, or of several findings (N, K) int8 of 1, 0, -1.

    Raises ValueError for a label that is not among `classes`.
    """
    if not finding_columns(rows):
        return class_numbers(rows["label"], classes)
    return np.stack([_said(rows, label) for label in classes], axis=1)


def with_findings(label: str, unknown: str, classes: list[str]) -> dict[str, str]:
    """The columns of findings of one film: `label` and `unknown` are findings, joined by AND.

    Where it is known that there is none, none of them is unknown.
    """
    there, unsure = label.split(AND), unknown.split(AND) if unknown else []
    none = any(map(none_there, there))

    def said(name: str) -> str:
        return "1" if name in there else "" if name in unsure and not none else "0"

    return {FINDING + name: said(name) for name in classes}


def sets_of_findings(rows: pd.DataFrame, classes: list[str]) -> dict[str, dict[str, int]]:
    """By class, how many of the rows that have it have which set of findings, {class: {"a|b": n}}; sorted.

    Empty where images have one class each.
    """
    if not finding_columns(rows):
        return {}
    found = {label: rows["label"][has(rows, label)].value_counts().sort_index() for label in classes}
    return {label: {str(names): int(n) for names, n in counts.items()} for label, counts in found.items()}


@dataclass(frozen=True)
class ImageSet:
    """Images (N, H, W) uint8 and their manifest rows, in the same order."""

    images: np.ndarray
    manifest: pd.DataFrame
    classes: list[str]
    digest: str

    @property
    def several(self) -> bool:
        """Whether an image may have several findings."""
        return bool(finding_columns(self.manifest))

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64 indices into `classes`; of several findings (N, K) int8: 1, 0, or -1 where it is not known."""
        return targets(self.manifest, self.classes)

    def counts(self) -> dict[str, dict[str, int]]:
        """Images by split and class, those with several findings in each."""
        there = set(self.manifest["split"])
        parts = {split: self.manifest[self.manifest["split"] == split] for split in SPLITS if split in there}
        return {split: {label: int(has(rows, label).sum()) for label in self.classes} for split, rows in parts.items()}

    def where(self, **columns: str) -> "ImageSet":
        """The rows in which every named column has the given value, e.g. `where(split="train")`.

        `label` is a class: of several findings the rows that have it, or where images were drawn for one, those.
        """
        keep = np.ones(len(self.manifest), dtype=bool)
        for column, value in columns.items():
            if column != "label":
                keep &= (self.manifest[column] == value).to_numpy()
            elif DRAWN_FOR in self.manifest:
                keep &= (self.manifest[DRAWN_FOR] == value).to_numpy()
            else:
                keep &= has(self.manifest, value)
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
    if findings := finding_columns(manifest):
        writer.digest.update(manifest[findings].to_csv(index=False).encode())
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
        texts = dict.fromkeys(["patient_id", "label", DRAWN_FOR, *(FINDING + name for name in facts["classes"])], str)
        manifest = pd.read_csv(folder / "manifest.csv", dtype=texts, keep_default_na=False)
        images = np.empty((len(manifest), facts["size"], facts["size"]), dtype=np.uint8)
        for shard, places in manifest.groupby("shard").indices.items():  # in whatever order the rows stand
            images[places] = np.load(folder / str(shard), mmap_mode="r")[manifest["row"].to_numpy()[places]]
        return ImageSet(images, manifest, facts["classes"], facts["digest"])
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise UserError(
            f"{folder} is not an image set ({error}); make it with `xraysynth ingest` or `xraysynth synthesize`"
        ) from None
