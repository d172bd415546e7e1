"""Image sets on disk: uint8 shards (N, H, W) that can be read by memory map, and a manifest with one row an image.

Curated and synthetic sets share this format. A set is written into a temporary sibling folder and renamed
when it is complete, so a folder that exists is whole.
"""

import errno
import hashlib
import json
import re
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tasks.errors import UserError

CANNOT_WRITE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOSPC, errno.EDQUOT}
OUR_FILES = ("dataset.json", "config.json", "counts.csv")  # one of them is in every folder that a stage writes
SHARD_BYTES = 1 << 24  # of a shard, on average
CLASS_NAME = re.compile(r"\w[\w .-]*")  # classes name folders, metrics and columns
SPLITS = ("train", "val", "test")


@contextmanager
def written_whole(out: Path) -> Iterator[Path]:
    """A path beside `out`, for a file or a folder, that takes its place when the block ends without an exception.

    What a killed run left there is removed first. Raises UserError when `out` may not be written, or is a folder
    with content that is not an earlier output: that would be lost.
    """
    out = out.resolve()
    temporary, old = (out.with_name(f".{out.name}.{kind}") for kind in ("tmp", "old"))
    if out.is_dir() and any(out.iterdir()) and not any((out / name).exists() for name in OUR_FILES):
        raise UserError(f"{out} holds files that are not an earlier output of xraysynth; choose a new or empty folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
        yield temporary
        if out.is_dir():
            _remove(old)
            out.rename(old)
        temporary.replace(out)
        _remove(old)
    except OSError as error:
        if error.errno is not None and error.errno not in CANNOT_WRITE:  # NumPy has none when the disk is full
            raise
        why = error.strerror or "no room left"
        raise UserError(
            f"cannot write {out} ({why}); free some room, change its rights or choose another place"
        ) from None
    finally:
        if temporary.exists():
            _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all; NaN is refused (ValueError), it is not JSON."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


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
        return np.array([self.classes.index(label) for label in self.manifest["label"]], dtype=np.int64)

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
        shards = {name: np.load(folder / name, mmap_mode="r") for name in manifest["shard"].unique()}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{folder} is not an image set ({error}); make it with `xraysynth ingest` or `xraysynth synthesize`"
        ) from None
    images = [shards[shard][rows.to_numpy()] for shard, rows in manifest.groupby("shard", sort=False)["row"]]
    none = np.empty((0, facts["size"], facts["size"]), dtype=np.uint8)
    return ImageSet(np.concatenate([none, *images]), manifest, facts["classes"], facts["digest"])
