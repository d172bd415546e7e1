"""Stage `ingest`: a folder of radiographs and their labels to a curated, pseudonymous, split image set.

Every input ends as one row of the manifest or as one row of the quarantine. First the films that are not known yet
are decoded, in worker processes, into the store of `tasks.decoded`; then labels, duplicates and patients are settled,
in the order of the paths, and the images go from the store into shards.
"""

import hashlib
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from pydicom.datadict import tag_for_keyword

from tasks import codecs, curated, decode, decoded, dicom, film, greyscale, pseudonyms, reading, square, workers
from tasks.decode import Digested, Quarantined, crashed, decode_file, digest_file
from tasks.errors import UserError
from tasks.labels import Labels, decide, read_labels
from tasks.params import Ingest
from tasks.progress import track
from tasks.reading import FACTS, Reading
from tasks.split import split_patients, thinned

ON_PURPOSE = ("other_class", "several_labels", "duplicate", "thinned")  # left out as the params say: no sign of damage
QUARANTINE_COLUMNS = ["path", "reason", "sentence", "digest"]
FILES_AT_ONCE = 1024
DECODERS = ("pydicom", "imagecodecs", "pillow", "opencv-python-headless")
Pseudonym = Callable[[str, str], str]


class Taken(NamedTuple):
    """A film that becomes a row of the manifest; `patient` is a pseudonym."""

    digest: str
    label: str
    patient: str


def run(source: Path, labels: Path, out: Path, params: Ingest) -> dict[str, Any]:
    """Curate all files of `source` into `out`; returns counts: inputs, unchanged, curated, quarantined, reasons.

    Raises UserError for a source, labels or a split that cannot be used, and when more than `max_quarantined` of the
    input is refused; `out` is then left as it was. Refusals are written in either case, then beside `out`.
    """
    if out.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{out} lies in {source}, where the next run would take it for films; choose another place")
    if params.label_tag and tag_for_keyword(params.label_tag) is None:
        raise UserError(
            f"ingest.label_tag {params.label_tag!r} is no keyword of a DICOM element, such as BodyPartExamined"
        )
    files, quarantine = _list_files(source, labels)
    inputs = len(files) + len(quarantine)
    key = pseudonyms.load_key()
    pseudonym = partial(pseudonyms.pseudonym, key)
    table = read_labels(labels, params.label_format, files, pseudonym)
    print(table.sentence, flush=True)
    how = Reading(
        size=params.size,
        fit=params.fit,
        max_pixels=int(params.max_megapixels * 1e6),
        window=params.window,
        lateral=params.lateral,
        body_part=params.body_part,
        label_tag=params.label_tag,
        label_values=tuple(params.classes) if params.label_tag else (),
    )
    with decoded.opened(_settings(how, params.clahe_clip, pseudonym)) as store:
        digests, unchanged = _decode_new(source.resolve(), files, store, how, params, pseudonym, quarantine)
        settled, refused = _settle(digests, store, table, params, pseudonym)
        quarantine += refused
        beside = out.with_name(f"{out.name}.quarantine.csv")
        _check_quarantined(_counts(inputs, quarantine), source, _refusals(quarantine), beside, params.max_quarantined)
        taken, thinned_out = _split(settled, params)
        quarantine += thinned_out
        counts = _counts(inputs, quarantine)
        with curated.written_whole(out) as folder:
            folder.mkdir()
            _refusals(quarantine).to_csv(folder / "quarantine.csv", index=False)
            _write(folder, taken, store, params, pseudonym, counts)
        beside.unlink(missing_ok=True)
        store.tidy(list(digests.values()))
    return {**counts, "unchanged": unchanged}


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
    for module in (codecs, decode, decoded, dicom, film, greyscale, reading, square):
        digest.update(Path(str(module.__file__)).read_bytes())
    return pseudonym("settings", digest.hexdigest())


def _decode_new(
    source: Path,
    files: list[str],
    store: decoded.DecodedFiles,
    how: Reading,
    params: Ingest,
    pseudonym: Pseudonym,
    quarantine: list[Quarantined],
) -> tuple[dict[str, str], int]:
    """Decode what the store does not know; returns the digest of every readable file and how many were known.

    Files without a digest, because they cannot be read or ended their worker, are added to `quarantine`.
    """
    digests: dict[str, str] = {}
    new: list[str] = []
    names = {path: pseudonym("path", f"{source}/{path}") for path in files}
    for path in files:
        found = _known(source / path, names[path], store)
        if found:
            digests[path] = found
        else:
            new.append(path)
    if not store.is_empty():  # moved, copied or touched files have the bytes of a film that is known
        for file in _read(source, new, how):
            if store.has(file.digest):
                store.note(names[file.path], file.state, file.digest)
                digests[file.path] = file.digest
        new = [path for path in new if path not in digests]
    unchanged = len(digests)
    if unchanged:
        print(f"ingest: {unchanged} of {len(files)} files were decoded before and have not changed", flush=True)
    seen: Counter[str] = Counter()
    decode_one = partial(decode_file, source, how, params.clahe_clip)
    results = workers.each(decode_one, new, partial(crashed, source), params.executor, params.workers)
    for result in track(results, len(new), "ingest", " films", lambda: f"{seen['refused']} refused"):
        if isinstance(result, Quarantined):
            seen["refused"] += 1
            quarantine.append(result)
            continue
        reason, sentence = result.refusal
        seen["refused"] += bool(reason)
        record = {
            "reason": reason,
            "sentence": sentence,
            "patient": result.patient and pseudonym("patient_id", result.patient),
            "instance": result.instance and pseudonym("instance_id", result.instance),
            "label": result.label,
            "facts": result.facts,
        }
        store.put(names[result.path], result.state, result.digest, record, result.image)
        digests[result.path] = result.digest
    store.commit()
    return {path: digests[path] for path in files if path in digests}, unchanged


def _read(source: Path, files: list[str], how: Reading) -> Iterator[Digested]:
    """The digests of files that can be read, in threads: there is nothing that could crash."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), FILES_AT_ONCE):
            part = pool.map(partial(digest_file, source, how), files[start : start + FILES_AT_ONCE])
            yield from (file for file in part if file is not None)


def _known(path: Path, name: str, store: decoded.DecodedFiles) -> str | None:
    try:
        return store.digest(name, decoded.state(path.stat()))
    except OSError:
        return None  # the worker says why


def _settle(
    digests: dict[str, str], store: decoded.DecodedFiles, table: Labels, params: Ingest, pseudonym: Pseudonym
) -> tuple[list[tuple[str, Taken]], list[Quarantined]]:
    """Join films with labels and patients; of films that show the same picture the first is taken.

    The same picture under two labels or of two patients is a conflict, and none of its files is taken.
    """
    refused: list[Quarantined] = []
    films: list[tuple[str, str, Taken]] = []
    first: dict[str, Taken] = {}  # by picture
    conflicts: dict[str, tuple[str, str]] = {}  # by picture: reason and sentence
    for path, digest in digests.items():
        record = store.record(digest)
        answer = _label_and_patient(path, record, table, params, pseudonym)
        if isinstance(answer, Quarantined):
            refused.append(Quarantined(path, answer.reason, answer.sentence, digest))
            continue
        picture, row = record["picture"], Taken(digest, *answer)
        known = first.setdefault(picture, row)
        if known.label != row.label:
            conflicts[picture] = "conflicting_labels", "the same picture comes with different labels"
        elif known.patient != row.patient:
            conflicts.setdefault(
                picture, ("conflicting_patients", "the same picture comes as that of several patients")
            )
        films.append((path, picture, row))
    taken: list[tuple[str, Taken]] = []  # with the path
    for path, picture, row in films:
        if picture in conflicts:
            refused.append(Quarantined(path, *conflicts[picture], row.digest))
        elif first[picture] is not row:
            refused.append(Quarantined(path, "duplicate", "a film with the same picture was taken already", row.digest))
        else:
            taken.append((path, row))
    return taken, refused


def _split(settled: list[tuple[str, Taken]], params: Ingest) -> tuple[list[tuple[Taken, str]], list[Quarantined]]:
    """The films with their splits, and those that `thin_train` leaves out."""
    films = pd.DataFrame([(row.patient, row.label) for _, row in settled], columns=["patient_id", "label"])
    splits = split_patients(films, params.split, params.seed)
    dropped = thinned(films, splits, params.thin_train)
    sentence = "one of the train films that ingest.thin_train leaves out"
    kept = [(row, str(splits[i])) for i, (_, row) in enumerate(settled) if i not in dropped]
    return kept, [Quarantined(settled[i][0], "thinned", sentence, settled[i][1].digest) for i in sorted(dropped)]


def _label_and_patient(
    path: str, film: dict[str, Any], table: Labels, params: Ingest, pseudonym: Pseudonym
) -> tuple[str, str] | Quarantined:
    if film["reason"]:
        return Quarantined(path, film["reason"], film["sentence"])
    entry = table.find(path, film["instance"], film["patient"], film["label"])
    label = decide(entry, params.classes, params.multi_label)
    if not isinstance(label, str):
        return Quarantined(path, *label)
    patients = entry.patients if entry else frozenset()
    if len(patients) > 1:
        return Quarantined(path, "conflicting_patients", f"the labels name {len(patients)} patients for this file")
    patient = next(iter(patients), film["patient"])
    if table.own_patients or (not patient and params.patients == "per_file"):
        patient = pseudonym("patient_id", f"of {film['picture']}")
    if not patient:
        return Quarantined(path, "no_patient", "neither a PatientID in the file nor a patient in the labels")
    return sys.intern(label), patient


def _check_quarantined(
    counts: dict[str, Any], source: Path, refusals: pd.DataFrame, beside: Path, allowed: float
) -> None:
    share = (counts["quarantined"] - sum(counts["reasons"].get(name, 0) for name in ON_PURPOSE)) / counts["inputs"]
    if counts["curated"] and share <= allowed:
        return
    with curated.written_whole(beside) as file:
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
    store: decoded.DecodedFiles,
    params: Ingest,
    pseudonym: Pseudonym,
    counts: dict[str, Any],
) -> None:
    writer = curated.ShardWriter(folder)
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
    curated.save_index(folder, manifest, sorted(manifest["label"].unique()), params.size, writer, **counts)
