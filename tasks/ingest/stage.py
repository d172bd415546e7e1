"""Stage `ingest`: a folder of radiographs and their labels to a curated, pseudonymous, split image set.

Every input ends as one row of the manifest or as one row of the quarantine. First the films that are not known yet
are decoded, in worker processes, into the store of `cache`; then labels, duplicates and patients are settled,
in the order of the paths, and the images go from the store into shards.
"""

import hashlib
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from pydicom.datadict import tag_for_keyword

from tasks import image_set
from tasks.errors import UserError
from tasks.files import written_whole
from tasks.ingest import cache, pseudonyms, workers
from tasks.ingest.films.decode import Decoded, Digested, Quarantined, crashed, decode_file, digest_file
from tasks.ingest.films.film import FACTS, Reading
from tasks.ingest.labels import read_labels
from tasks.ingest.settle import Pseudonym, Taken, assign_splits, settle
from tasks.params import Ingest
from tasks.progress import track

ON_PURPOSE = ("other_class", "several_labels", "duplicate", "thinned")  # left out as the params say: no sign of damage
QUARANTINE_COLUMNS = ["path", "reason", "sentence", "digest"]
FILES_AT_ONCE = 1024
DECODERS = ("pydicom", "imagecodecs", "pillow", "opencv-python-headless")
FILMS = Path(__file__).with_name("films")  # the code that decodes


def run(source: Path, labels: Path, out: Path, params: Ingest) -> dict[str, Any]:
    """Curate all files of `source` into `out`; returns counts: inputs, unchanged, curated, quarantined, reasons.

    Raises UserError for a source, labels or a split that cannot be used, and when more than `max_quarantined` of the
    input is refused; `out` is then left as it was. Refusals are written in either case, then beside `out`.
    """
    _check_arguments(source, out, params)
    files, quarantine = _list_files(source, labels)
    inputs = len(files) + len(quarantine)
    pseudonym = partial(pseudonyms.pseudonym, pseudonyms.load_key())
    table = read_labels(labels, params.label_format, files, pseudonym)
    print(table.sentence, flush=True)
    how = _reading(params)
    with cache.opened(_settings(how, params.clahe_clip, pseudonym)) as store:
        digests, unchanged = _decode_new(source.resolve(), files, store, how, params, pseudonym, quarantine)
        settled, refused = settle(digests, store, table, params, pseudonym)
        quarantine += refused
        beside = out.with_name(f"{out.name}.quarantine.csv")
        _check_quarantined(_counts(inputs, quarantine), source, _refusals(quarantine), beside, params.max_quarantined)
        taken, thinned_out = assign_splits(settled, params)
        quarantine += thinned_out
        counts = _counts(inputs, quarantine)
        with written_whole(out) as folder:
            folder.mkdir()
            _refusals(quarantine).to_csv(folder / "quarantine.csv", index=False)
            _write(folder, taken, store, params, pseudonym, counts)
        beside.unlink(missing_ok=True)
        store.tidy(list(digests.values()))
    return {**counts, "unchanged": unchanged}


def _check_arguments(source: Path, out: Path, params: Ingest) -> None:
    if out.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{out} lies in {source}, where the next run would take it for films; choose another place")
    if params.label_tag and tag_for_keyword(params.label_tag) is None:
        raise UserError(
            f"ingest.label_tag {params.label_tag!r} is no keyword of a DICOM element, such as BodyPartExamined"
        )


def _reading(params: Ingest) -> Reading:
    return Reading(
        size=params.size,
        fit=params.fit,
        max_pixels=int(params.max_megapixels * 1e6),
        window=params.window,
        lateral=params.lateral,
        body_part=params.body_part,
        label_tag=params.label_tag,
        label_values=tuple(params.classes) if params.label_tag else (),
    )


def _counts(inputs: int, quarantine: list[Quarantined]) -> dict[str, Any]:
    reasons = dict(Counter(row.reason for row in quarantine).most_common())
    return {
        "inputs": inputs,
        "curated": inputs - len(quarantine),
        "quarantined": len(quarantine),
        "reasons": reasons,
    }


def _refusals(quarantine: list[Quarantined]) -> pd.DataFrame:
    rows = [row.columns() for row in sorted(quarantine, key=lambda row: row.path)]
    return pd.DataFrame(rows, columns=QUARANTINE_COLUMNS)


def _list_files(source: Path, labels: Path) -> tuple[list[str], list[Quarantined]]:
    """Relative paths of all files below `source`, sorted, without the table of labels; and what cannot be one."""
    if not source.is_dir():
        raise UserError(f"no folder {source}; put films there or set ingest.source")

    def refuse(error: OSError) -> None:
        raise UserError(f"the folder {error.filename} cannot be read ({error.strerror}); change its rights")

    root, table = source.resolve(), labels.resolve()
    files: list[str] = []
    refused: list[Quarantined] = []
    for folder, subfolders, names in os.walk(root, onerror=refuse):  # pathlib would pass over what it may not read
        links = [name for name in subfolders if Path(folder, name).is_symlink()]  # others are walked in their turn
        for path in (Path(folder, name) for name in [*names, *links]):
            relative = path.relative_to(root).as_posix()
            try:
                target = path.resolve() if path.is_symlink() else path
                regular = target.is_file()
            except (OSError, RuntimeError):  # a link to itself
                refused.append(Quarantined(relative, "unreadable", "a symbolic link that leads nowhere"))
                continue
            if target == table:
                continue
            if not target.is_relative_to(root):
                refused.append(Quarantined(relative, "outside_source", "a symbolic link that leads out of the source"))
            elif regular:
                files.append(relative)
            elif not target.is_dir():
                refused.append(Quarantined(relative, "unreadable", "neither a file nor a folder"))
    if not files and not refused:
        raise UserError(f"the folder {source} holds no films; put DICOM or picture files there or set ingest.source")
    return sorted(files), refused


def _settings(how: Reading, clahe_clip: float, pseudonym: Pseudonym) -> str:
    """Of everything that a decoded film depends on but its file: another value makes the store's films stale."""
    digest = hashlib.sha256(repr((asdict(how), clahe_clip, [version(name) for name in DECODERS])).encode())
    for file in [*sorted(FILMS.glob("*.py")), Path(str(cache.__file__))]:
        digest.update(file.read_bytes())
    return pseudonym("settings", digest.hexdigest())


def _decode_new(
    source: Path,
    files: list[str],
    store: cache.DecodedFiles,
    how: Reading,
    params: Ingest,
    pseudonym: Pseudonym,
    quarantine: list[Quarantined],
) -> tuple[dict[str, str], int]:
    """Decode what the store does not know; returns the digest of every readable file and how many were known.

    Files without a digest, because they cannot be read or ended their worker, are added to `quarantine`.
    """
    names = {path: pseudonym("path", f"{source}/{path}") for path in files}
    digests = _known(source, names, how, store)
    unchanged = len(digests)
    if unchanged:
        print(f"ingest: {unchanged} of {len(files)} files were decoded before and have not changed", flush=True)
    new = [path for path in files if path not in digests]
    seen: Counter[str] = Counter()
    decode_one = partial(decode_file, source, how, params.clahe_clip)
    results = workers.each(decode_one, new, partial(crashed, source), params.executor, params.workers)
    for result in track(results, len(new), "ingest", " films", lambda: f"{seen['refused']} refused"):
        if isinstance(result, Quarantined):
            seen["refused"] += 1
            quarantine.append(result)
            continue
        seen["refused"] += bool(result.refusal[0])
        store.put(names[result.path], result.state, result.digest, _record(result, pseudonym), result.image)
        digests[result.path] = result.digest
    store.commit()
    return {path: digests[path] for path in files if path in digests}, unchanged


def _record(decoded: Decoded, pseudonym: Pseudonym) -> dict[str, Any]:
    """What the store keeps of a film beside its image: no identifier, but their pseudonyms."""
    reason, sentence = decoded.refusal
    return {
        "reason": reason,
        "sentence": sentence,
        "patient": decoded.patient and pseudonym("patient_id", decoded.patient),
        "instance": decoded.instance and pseudonym("instance_id", decoded.instance),
        "label": decoded.label,
        "facts": decoded.facts,
    }


def _known(source: Path, names: dict[str, str], how: Reading, store: cache.DecodedFiles) -> dict[str, str]:
    """By path, the digests of the films that were decoded before; `names`: the pseudonyms of the paths.

    Files that were moved, copied or touched are read, for they have the bytes of a film that is known.
    """
    digests = {path: digest for path, name in names.items() if (digest := _unchanged(source / path, name, store))}
    if not store.is_empty():
        for file in _read(source, [path for path in names if path not in digests], how):
            if store.has(file.digest):
                store.note(names[file.path], file.state, file.digest)
                digests[file.path] = file.digest
    return digests


def _read(source: Path, files: list[str], how: Reading) -> Iterator[Digested]:
    """The digests of files that can be read, in threads: there is nothing that could crash."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), FILES_AT_ONCE):
            part = pool.map(partial(digest_file, source, how), files[start : start + FILES_AT_ONCE])
            yield from (file for file in part if file is not None)


def _unchanged(path: Path, name: str, store: cache.DecodedFiles) -> str | None:
    try:
        return store.digest(name, cache.state(path.stat()))
    except OSError:
        return None  # the worker says why


def _check_quarantined(
    counts: dict[str, Any], source: Path, refusals: pd.DataFrame, beside: Path, allowed: float
) -> None:
    share = (counts["quarantined"] - sum(counts["reasons"].get(name, 0) for name in ON_PURPOSE)) / counts["inputs"]
    if counts["curated"] and share <= allowed:
        return
    with written_whole(beside) as file:
        refusals.to_csv(file, index=False)
    found = ", ".join(f"{count} {reason}" for reason, count in counts["reasons"].items())
    if not counts["curated"]:
        raise UserError(
            f"none of the {counts['inputs']} files in {source} can be taken ({found}); see {beside} and docs/ingest.md"
        )
    raise UserError(
        f"{share:.1%} of the {counts['inputs']} files in {source} are refused ({found}), and ingest.max_quarantined "
        f"allows {allowed:.1%}; see {beside}, and mend the files or the labels, or raise that limit"
    )


def _write(
    folder: Path,
    taken: list[tuple[Taken, str]],
    store: cache.DecodedFiles,
    params: Ingest,
    pseudonym: Pseudonym,
    counts: dict[str, Any],
) -> None:
    writer = image_set.ShardWriter(folder)
    columns: dict[str, list[Any]] = defaultdict(list)  # values that repeat are the same object: flat in memory
    for row, split in track(taken, len(taken), "curate", " films"):
        shard, place = writer.add(store.image(row.digest, params.size))
        facts = store.record(row.digest)["facts"]
        values = {
            "image_id": pseudonym("image_id", row.digest),
            "patient_id": row.patient,
            "label": row.label,
            "split": split,
            "shard": shard,
            "row": place,
            **{name: facts.get(name, "") for name in FACTS},
        }
        for name, value in values.items():
            columns[name].append(sys.intern(value) if isinstance(value, str) else value)
    manifest = pd.DataFrame(columns)
    image_set.save_index(folder, manifest, sorted(manifest["label"].unique()), params.size, writer, **counts)
