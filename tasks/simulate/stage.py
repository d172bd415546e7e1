"""Stage `simulate`: an archive of chest radiographs that nobody has, as a PACS would export it.

Patients are normal, have pneumonia or an effusion, about 20 : 3 : 2. Everything but the disease is drawn without
looking at the disease, so the only way to tell the classes apart is the one a radiologist has.
"""

import multiprocessing
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from pydicom.uid import UID

from tasks.errors import UserError
from tasks.files import written_whole
from tasks.progress import cores, track
from tasks.simulate import dicom, radiograph
from tasks.simulate.anatomy import draw_anatomy, draw_pose
from tasks.simulate.disease import BOTH, Both, Label

MIN_PATIENTS = 6  # two of each class
MIN_SIZE = 64
SHARES: Mapping[Label, int] = {"normal": 20, "pneumonia": 3, "effusion": 2}  # of the patients


@dataclass(frozen=True)
class Film:
    """One film to make: whose, which, with what disease, and how the file is encoded."""

    seed: int
    patient: int
    number: int  # among the patient's films
    visit: int  # the study it belongs to
    label: Label | Both
    syntax: str
    photometric: str
    window: str
    size: int


def simulate(
    out: Path,
    patients: int,
    seed: int,
    size: int = 512,
    workers: int | None = None,
    shares: Mapping[Label, int] = SHARES,
    both: float = 0.0,
) -> pd.DataFrame:
    """Write `patients` patients' films as DICOM and OUT/labels.csv; returns that table (path, label).

    `size` is the shorter side in pixels, `shares` how the patients are divided among the classes, `both` (0 to 1) the
    share of the patients with pneumonia who have an effusion too, under the label BOTH. The files depend on these,
    `patients` and `seed` alone, however many workers there are. OUT appears when all is written: UserError, and no OUT,
    when that cannot be done.
    """
    if patients < MIN_PATIENTS:
        raise UserError(f"{patients} patients are too few for three classes: ask for {MIN_PATIENTS} or more")
    if size < MIN_SIZE:
        raise UserError(f"films of {size} pixels are too small: ask for {MIN_SIZE} or more")
    if seed < 0:
        raise UserError(f"the seed {seed} is negative: give 0 or more")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not an empty folder: choose a new one, or empty it first")
    films = plan(patients, seed, size, shares, both)
    try:
        with written_whole(out) as folder:
            rows = list(track(_make(films, folder, workers), len(films), "simulate"))
            table = pd.DataFrame(rows, columns=["path", "label"]).sort_values("path", ignore_index=True)
            table.to_csv(folder / "labels.csv", index=False)
    except BrokenProcessPool:
        raise UserError("a worker process died, most likely for lack of memory: try again with fewer workers") from None
    return table


def plan(
    patients: int, seed: int, size: int = 512, shares: Mapping[Label, int] = SHARES, both: float = 0.0
) -> list[Film]:
    """Which films to make: exact numbers of patients a class, then films a patient, then encodings."""
    rng = np.random.default_rng([seed, 0])
    total = sum(shares.values())
    counted: dict[Label, int] = {
        label: max(2, round(patients * share / total)) for label, share in shares.items() if label != "normal"
    }
    counted["normal"] = patients - sum(counted.values())
    by_class: list[Label] = [label for label, n in counted.items() for _ in range(n)]
    classes = [by_class[k] for k in rng.permutation(patients)]
    three, two = round(0.05 * patients), max(round(0.15 * patients), 1)
    counts = rng.permutation([3] * three + [2] * two + [1] * (patients - three - two))
    drafts: list[tuple[int, int, int, Label | Both]] = []
    for patient, (label, count) in enumerate(zip(classes, counts, strict=True)):
        # some fall ill or recover between two films
        well = int(rng.choice([0, count - 1])) if count > 1 and rng.random() < 0.4 else -1
        visits = np.cumsum(rng.random(count) < 0.7)  # the others are repeats at the same visit
        for number, visit in enumerate(visits - visits[0]):
            drafts.append((patient, number, int(visit), "normal" if number == well else label))
    kinds = [(s, p) for s in dicom.SYNTAXES for p in dicom.PHOTOMETRIC]
    kind = rng.permutation(np.arange(len(drafts)) % len(kinds))
    window = rng.permutation(np.arange(len(drafts)) % len(dicom.WINDOWS))
    drafts = _with_both(drafts, both, seed)
    return [
        Film(seed, *draft, str(kinds[kind[k]][0]), kinds[kind[k]][1], dicom.WINDOWS[window[k]], size)
        for k, draft in enumerate(drafts)
    ]


def _with_both(
    drafts: list[tuple[int, int, int, Label | Both]], share: float, seed: int
) -> list[tuple[int, int, int, Label | Both]]:
    """A share of the patients with pneumonia, drawn by a stream of its own, have BOTH in its place."""
    ill = sorted({patient for patient, _, _, label in drafts if label == "pneumonia"})
    chosen = set(np.random.default_rng([seed, 5]).permutation(ill)[: round(share * len(ill))].tolist())
    return [
        (patient, number, visit, BOTH if patient in chosen and label == "pneumonia" else label)
        for patient, number, visit, label in drafts
    ]


def _make(films: list[Film], folder: Path, workers: int | None) -> Iterator[tuple[str, Label | Both]]:
    """Make all films, in order of the plan, in this process or in a pool."""
    count = min(workers or cores(), len(films))
    if count == 1:
        for film in films:
            yield _write(film, folder)
        return
    # spawned, not forked: the caller may have threads
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        try:
            yield from pool.map(
                _write, films, [folder] * len(films), chunksize=max(1, min(8, len(films) // (4 * count)))
            )
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write(film: Film, folder: Path) -> tuple[str, Label | Both]:
    """Make one film; everything is drawn from its own seeds."""
    who = np.random.default_rng([film.seed, 1, film.patient])
    female = bool(who.random() < 0.5)
    anatomy = draw_anatomy(who, female)
    person = dicom.draw_person(who, film.patient, female)
    illness = int(who.integers(2**62))
    start = datetime(2016, 1, 4, 7, 30) + timedelta(minutes=int(who.integers(5 * 365 * 1440)))
    gaps = who.integers(2, 400, 8)

    rng = np.random.default_rng([film.seed, 2, film.patient, film.number])
    pose = draw_pose(rng, anatomy, film.size)
    shot = radiograph.draw_exposure(rng, pose)
    severity = float(rng.uniform(0.75, 1.05))
    pixels = radiograph.render(anatomy, pose, shot, film.label, illness, severity)

    record = dicom.Record(
        person=person,
        study=(film.seed, 3, film.patient, film.visit),
        film=(film.seed, 4, film.patient, film.number),
        taken=start + timedelta(days=int(gaps[: film.visit].sum())),
        number=film.number + 1,
        syntax=UID(film.syntax),
        photometric=film.photometric,
        window=film.window,
    )
    path = _place(film, rng, dicom.draw_uid(record.film))
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    dicom.write(folder / path, pixels, pose, shot, record)
    return path.as_posix(), film.label


def _place(film: Film, rng: np.random.Generator, uid: str) -> Path:
    """A path as archives export them: numbered folders, a file named by number or UID, with an extension or not."""
    name = str(
        rng.choice([f"IM{film.number + 1:04d}", f"IM{film.number + 1:04d}.dcm", f"{uid}.dcm", f"I{film.number:07d}"])
    )
    return Path("DICOM") / f"PA{film.patient:06d}" / f"ST{film.visit:06d}" / "SE000000" / name
