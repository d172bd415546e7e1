"""Stage `ingest`: a folder of radiographs and a table of labels to a curated, pseudonymous, split image set.

Every input file ends as one row of the manifest or as one row of the quarantine.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from tasks import curated, pseudonyms
from tasks.dicom import Refused, read_film
from tasks.errors import UserError
from tasks.labels import Entry, read_labels
from tasks.params import Ingest
from tasks.progress import track
from tasks.split import split_patients

QUARANTINE_COLUMNS = ["path", "reason", "sentence", "digest"]


@dataclass(frozen=True)
class Candidate:
    """A decoded file: `path` relative to the source, SHA-256 `digest`, `image` (size, size) uint8."""

    path: str
    digest: str
    image: np.ndarray
    patient: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Quarantined:
    """A file that is not taken; the fields are the columns of quarantine.csv."""

    path: str
    reason: str
    sentence: str
    digest: str


def run(source: Path, labels: Path, out: Path, params: Ingest) -> dict[str, Any]:
    """Curate all files of `source` into `out`; returns counts: inputs, curated, quarantined, reasons.

    Raises UserError for a source, labels or a split that cannot be used; `out` is then left as it was.
    """
    files = _list_files(source, labels)
    entries = read_labels(labels)
    key = pseudonyms.load_key()
    with curated.written_whole(out) as folder:
        folder.mkdir()
        writer = curated.ShardWriter(folder)
        rows: list[dict[str, Any]] = []
        quarantine: list[Quarantined] = []
        seen: set[str] = set()
        for result in track(_decode_all(source, files, params), len(files), "ingest"):
            matched = _match(result, entries.get(result.path), seen) if isinstance(result, Candidate) else result
            if isinstance(matched, Quarantined):
                quarantine.append(matched)
                continue
            candidate, label = matched
            shard, row = writer.add(candidate.image)
            place = {"split": "", "shard": shard, "row": row}
            rows.append(
                {
                    "image_id": candidate.digest,
                    "patient_id": candidate.patient,
                    "label": label,
                    **place,
                    **candidate.facts,
                }
            )
        reasons = dict(Counter(item.reason for item in quarantine).most_common())
        if not rows:
            found = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
            raise UserError(f"none of the {len(files)} files in {source} can be taken ({found}); see docs/ingest.md")
        manifest = pd.DataFrame(rows)
        manifest["split"] = split_patients(manifest, params.split, params.seed)
        for column in ("image_id", "patient_id"):
            manifest[column] = [pseudonyms.pseudonym(key, column, value) for value in manifest[column]]
        counts = {
            "inputs": len(files),
            "curated": len(rows),
            "quarantined": len(quarantine),
            "reasons": reasons,
        }
        pd.DataFrame(quarantine, columns=QUARANTINE_COLUMNS).to_csv(folder / "quarantine.csv", index=False)
        curated.save_index(folder, manifest, sorted(manifest["label"].unique()), params.size, writer, **counts)
    return counts


def _list_files(source: Path, labels: Path) -> list[str]:
    """Relative paths of all files below `source`, sorted, without the table of labels."""
    if not source.is_dir():
        raise UserError(f"no folder {source}; put films there or set ingest.source")

    def refuse(error: OSError) -> None:
        raise UserError(f"the folder {error.filename} cannot be read ({error.strerror}); change its rights")

    walked = os.walk(source, onerror=refuse)  # pathlib would pass over what it may not read
    found = [Path(folder) / name for folder, _, names in walked for name in names]
    found = [path for path in found if path.is_file() and path.resolve() != labels.resolve()]
    if not found:
        raise UserError(f"the folder {source} holds no films; put DICOM, PNG or JPEG files there or set ingest.source")
    return sorted(path.relative_to(source).as_posix() for path in found)


def _decode_all(source: Path, files: list[str], params: Ingest) -> Iterator[Candidate | Quarantined]:
    """Decode in worker processes; results come in the order of `files`."""
    work = partial(_decode, source, params.size, params.fit)
    workers = min(os.cpu_count() or 1, len(files))
    try:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            yield from pool.map(work, files, chunksize=8)
    except BrokenProcessPool:
        raise UserError(f"a worker process died while decoding {source}, most likely for lack of memory") from None


def _decode(source: Path, size: int, fit: str, path: str) -> Candidate | Quarantined:
    try:
        content = (source / path).read_bytes()
    except OSError as error:
        return Quarantined(path, "unreadable", f"the file cannot be read: {error.strerror}", "")
    digest = hashlib.sha256(content).hexdigest()
    try:
        film = read_film(content)
    except Refused as refused:
        return Quarantined(path, refused.reason, refused.sentence, digest)
    return Candidate(path, digest, resize(film.pixels, size, fit), film.patient, film.facts)


def _match(candidate: Candidate, entry: Entry | None, seen: set[str]) -> tuple[Candidate, str] | Quarantined:
    """Join a decoded file with its label; `seen` holds the digests that were taken before."""

    def refused(reason: str, sentence: str) -> Quarantined:
        return Quarantined(candidate.path, reason, sentence, candidate.digest)

    if entry is None or not entry.labels:
        return refused("no_label", "the table of labels has no label for this path")
    if len(entry.labels) > 1:
        return refused("conflicting_labels", f"the table of labels has {len(entry.labels)} labels for this path")
    if candidate.digest in seen:
        return refused("duplicate", "a file with the same content was taken already")
    if len(entry.patients) > 1:
        return refused("conflicting_patients", f"the table of labels has {len(entry.patients)} patients for this path")
    patient = next(iter(entry.patients), candidate.patient)
    if not patient:
        return refused("no_patient", "neither a PatientID in the file nor a patient_id in the table of labels")
    seen.add(candidate.digest)
    (label,) = entry.labels
    return replace(candidate, patient=patient), label


def resize(pixels: np.ndarray, size: int, fit: str) -> np.ndarray:
    """(H, W) float32 in [0, 1] to (size, size) uint8 by area averaging.

    `fit`: pad (whole film, black margins), crop (central square) or stretch (aspect ratio given up).
    """
    height, width = pixels.shape
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    scale = size / max(pixels.shape)
    target = (size, size) if fit == "stretch" else tuple(max(1, round(n * scale)) for n in pixels.shape)
    # INTER_AREA averages when shrinking but repeats pixels when enlarging.
    method = cv2.INTER_AREA if target[0] <= pixels.shape[0] and target[1] <= pixels.shape[1] else cv2.INTER_LINEAR
    small = cv2.resize(pixels, (target[1], target[0]), interpolation=method)
    canvas = np.zeros((size, size), dtype=np.uint8)
    top, left = (size - target[0]) // 2, (size - target[1]) // 2
    canvas[top : top + target[0], left : left + target[1]] = np.rint(np.clip(small, 0, 1) * 255)
    return canvas
