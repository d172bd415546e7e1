"""Stage `ingest`: a folder of radiographs and their labels to a curated, pseudonymous, split image set.

Every input ends as one row of the manifest or as one row of the quarantine. First the films that are not known yet
are decoded, in worker processes, into the store of `cache`; then labels, duplicates and patients are settled,
in the order of the paths, and the images go from the store into shards.
"""

import hashlib
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydicom.datadict import tag_for_keyword

from tasks import image_set
from tasks.errors import UserError
from tasks.files import refuse_foreign, written_whole
from tasks.ingest import cache, pseudonyms, workers
from tasks.ingest.class_names import absent, check_present, safe_classes
from tasks.ingest.films.alike import block_means, first_alike
from tasks.ingest.films.decode import (
    Decoded,
    Digested,
    Looked,
    Quarantined,
    crashed,
    decode_file,
    digest_file,
    look_at_file,
)
from tasks.ingest.films.film import FACTS, Reading
from tasks.ingest.inputs import list_files
from tasks.ingest.labels import Labels, identifiers, read_labels
from tasks.ingest.settle import (
    Pseudonym,
    Settled,
    Taken,
    assign_splits,
    by_class,
    far_off,
    losses,
    settle,
    warnings,
)
from tasks.params import Ingest
from tasks.progress import track
from tasks.shown.numbers import percent

ON_PURPOSE = (
    "other_class",
    "several_labels",
    "uncertain",
    "duplicate",
    "thinned",
)  # left out as the params say: no sign of damage
QUARANTINE_COLUMNS = ["path", "reason", "sentence", "digest"]
FILES_AT_ONCE = 1024
DECODERS = ("pydicom", "imagecodecs", "pillow", "opencv-python-headless")
FILMS = Path(__file__).with_name("films")  # the code that decodes


def run(source: Path, labels: Path, out: Path, params: Ingest) -> dict[str, Any]:
    """Curate all files of `source` into `out`; returns counts: inputs, unchanged, curated, quarantined, reasons and,
    by class and reason, losses.

    Raises UserError for a source, labels or a split that cannot be used, for a class of `ingest.classes` without a
    film, and when more than `max_quarantined` of the input is refused; `out` is then left as it was. Refusals are
    written in either case, then beside `out`.
    """
    _check_arguments(source, out, params)
    files, quarantine = list_files(source, labels)
    inputs = len(files) + len(quarantine)
    how, params = _reading(params), _with_safe_names(params)
    pseudonym = partial(pseudonyms.pseudonym, pseudonyms.load_key())
    table = _read_labels(labels, files, params, pseudonym)
    with cache.opened(_settings(how, params.clahe_clip, pseudonym)) as store:
        digests, unchanged = _decode_new(source.resolve(), files, store, how, params, pseudonym, quarantine)
        record = _with_same_pictures(store, list(digests.values()), params.size)
        settled = settle(digests, record, quarantine, table, params, pseudonym)
        beside = out.with_name(f"{out.name}.quarantine.csv")
        counts = _counts(inputs, settled.refused, table, params)
        _tell(settled, counts, table, params)
        with _kept_beside(beside, settled.refused):
            _check_quarantined(counts, source, settled, table, params, f"see {beside}")
        taken, thinned_out = assign_splits(settled.taken, params)
        _tell_warnings(far_off([split for _, split in taken], params.split))
        quarantine = settled.refused + thinned_out
        counts = _counts(inputs, quarantine, table, params)
        with written_whole(out) as folder:
            folder.mkdir()
            _refusals(quarantine).to_csv(folder / "quarantine.csv", index=False)
            _write(folder, taken, store, params, pseudonym, counts)
        beside.unlink(missing_ok=True)
        store.tidy(list(digests.values()))
    return {**counts, "unchanged": unchanged}


def check(source: Path, labels: Path, out: Path, params: Ingest) -> dict[str, Any]:
    """What `run` would do, found by names, headers and the table alone; nothing is written.

    Returns its counts and raises as it does. What only pixels show, damage and films that come twice, is not found.
    """
    _check_arguments(source, out, params)
    files, quarantine = list_files(source, labels)
    how, params = _reading(params), _with_safe_names(params)
    pseudonym = partial(pseudonyms.pseudonym, pseudonyms.load_key(make=False))  # by it patients go into splits
    table = _read_labels(labels, files, params, pseudonym)
    root, records = source.resolve(), {}
    looks = workers.each(partial(look_at_file, root, how), files, _crashed_look, params.executor, params.workers)
    for seen in track(looks, len(files), "check", " headers"):
        reason, sentence = seen.refusal
        ids = identifiers(seen.ids, pseudonym)
        records[seen.path] = {"reason": reason, "sentence": sentence, "ids": ids, "label": seen.label}
        records[seen.path]["picture"] = seen.path  # as if no picture came twice
    settled = settle({path: path for path in files}, records.__getitem__, quarantine, table, params, pseudonym)
    counts = _counts(len(files) + len(quarantine), settled.refused, table, params)
    _tell(settled, counts, table, params)
    _check_quarantined(counts, source, settled, table, params, "nothing was written")
    taken, _ = assign_splits(settled.taken, params)
    _tell_warnings(far_off([split for _, split in taken], params.split))
    return counts


def _check_arguments(source: Path, out: Path, params: Ingest) -> None:
    if out.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{out} lies in {source}, where the next run would take it for films; choose another place")
    refuse_foreign(out)
    if params.label_tag and tag_for_keyword(params.label_tag) is None:
        raise UserError(
            f"ingest.label_tag {params.label_tag!r} is no keyword of a DICOM element, such as BodyPartExamined"
        )


def _with_safe_names(params: Ingest) -> Ingest:
    thin = dict(zip(safe_classes(list(params.thin_train)), params.thin_train.values(), strict=True))
    return params.model_copy(update={"classes": safe_classes(params.classes), "thin_train": thin})


def _read_labels(path: Path, files: list[str], params: Ingest, pseudonym: Pseudonym) -> Labels:
    how = params.uncertain, params.multi_label == "all"
    table = read_labels(path, params.label_format, files, pseudonym, params.classes, *how)
    print(table.sentence, flush=True)
    _tell_warnings(table.warnings)
    return table


def _tell(settled: Settled, counts: dict[str, Any], table: Labels, params: Ingest) -> None:
    """What came of the films, by class, and what is easily overlooked."""
    for line in filter(None, (settled.decision, "films by class:", *by_class(settled.labels(), counts["losses"]))):
        print(line, flush=True)
    if several := sum(len(row.findings) > 1 for _, row in settled.taken):
        print(f"films with several findings, counted in each of them: {several:,}", flush=True)
    _tell_warnings(warnings(settled, table, params))


def _tell_warnings(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        print(f"warning: {sentence}", flush=True)


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


def _counts(inputs: int, quarantine: list[Quarantined], table: Labels, params: Ingest) -> dict[str, Any]:
    reasons = dict(Counter(row.reason for row in quarantine).most_common())
    return {
        "inputs": inputs,
        "curated": inputs - len(quarantine),
        "quarantined": len(quarantine),
        "reasons": reasons,
        "losses": losses(quarantine, table.unmatched(), params.classes),
    }


def _refusals(quarantine: list[Quarantined]) -> pd.DataFrame:
    rows = [row.columns() for row in sorted(quarantine, key=lambda row: row.path)]
    return pd.DataFrame(rows, columns=QUARANTINE_COLUMNS)


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
        "ids": identifiers(decoded.ids, pseudonym),
        "label": decoded.label,
        "facts": decoded.facts,
    }


def _with_same_pictures(store: cache.DecodedFiles, digests: list[str], size: int) -> Callable[[str], dict[str, Any]]:
    """The store's records, in which films of different encodings that show one picture have the same one."""
    if not store.has_forms():
        return store.record
    films = {digest: film for digest in digests if not (film := store.record(digest))["reason"]}
    first: dict[str, str] = {}  # a film for each picture of a form
    for digest, film in films.items():
        first.setdefault(f"{film['picture']} {[film['facts'].get(name) for name in cache.FORM]}", digest)
    shown, forms = list(first.values()), [key.partition(" ")[2] for key in first]
    means = np.array([block_means(store.image(digest, size)) for digest in shown])
    found = first_alike(means, forms, lambda k: store.image(shown[k], size))
    same = {films[shown[k]]["picture"]: films[shown[one]]["picture"] for k, one in enumerate(found) if k != one}

    def record(digest: str) -> dict[str, Any]:
        film = store.record(digest)
        return film | {"picture": same.get(film["picture"], film["picture"])}

    return record


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


def _crashed_look(path: str) -> Looked:
    return Looked(path, ("unreadable", "its header cannot be read, or took too long or too much memory"))


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


@contextmanager
def _kept_beside(beside: Path, quarantine: list[Quarantined]) -> Iterator[None]:
    """The list of refusals is there when the block fails."""
    try:
        yield
    except UserError:
        with written_whole(beside) as file:
            _refusals(quarantine).to_csv(file, index=False)
        raise


def _check_quarantined(
    counts: dict[str, Any], source: Path, settled: Settled, table: Labels, params: Ingest, where: str
) -> None:
    share = (counts["quarantined"] - sum(counts["reasons"].get(name, 0) for name in ON_PURPOSE)) / counts["inputs"]
    found = ", ".join(f"{count} {reason}" for reason, count in counts["reasons"].items())
    nobody = (
        "; pictures name no patient: say in a column patient_id of the labels whose they are, or set ingest.patients: "
        "per_file, and each is its own patient"
        if counts["reasons"].get("no_patient")
        else ""
    )
    if not counts["curated"]:
        wrong = absent(params.classes, settled.borne, table.listed) if counts["reasons"].get("other_class") else ""
        hint = f"; {wrong}" if wrong else nobody
        raise UserError(
            f"none of the {counts['inputs']} files in {source} can be taken ({found}){hint}; {where} and docs/ingest.md"
        )
    if share > params.max_quarantined:
        raise UserError(
            f"{percent(share)} of the {counts['inputs']} files in {source} are refused ({found}), and "
            f"ingest.max_quarantined allows {percent(params.max_quarantined)}{nobody}; {where}, and mend the files or "
            "the labels, or raise that limit"
        )
    check_present(params.classes, settled.labels(), settled.borne, table.listed)


def _write(
    folder: Path,
    taken: list[tuple[Taken, str]],
    store: cache.DecodedFiles,
    params: Ingest,
    pseudonym: Pseudonym,
    counts: dict[str, Any],
) -> None:
    writer = image_set.ShardWriter(folder)
    classes = sorted({name for row, _ in taken for name in row.findings})
    unsure = {name for row, _ in taken for name in row.unknown.split(image_set.AND)}
    several = any(len(row.findings) > 1 for row, _ in taken) or not unsure.isdisjoint(classes)
    columns: dict[str, list[Any]] = defaultdict(list)  # values that repeat are the same object: flat in memory
    for row, split in track(taken, len(taken), "curate", " films"):
        shard, place = writer.add(store.image(row.digest, params.size))
        facts = store.record(row.digest)["facts"]
        values = {
            "image_id": pseudonym("image_id", row.digest),
            "patient_id": row.patient,
            "label": row.label,
            **(image_set.with_findings(row.label, row.unknown, classes) if several else {}),
            "split": split,
            "shard": shard,
            "row": place,
            **{name: facts.get(name, "") for name in FACTS},
        }
        for name, value in values.items():
            columns[name].append(sys.intern(value) if isinstance(value, str) else value)
    manifest = pd.DataFrame(columns)
    image_set.save_index(folder, manifest, classes, params.size, writer, **counts)
