"""The judge judged: does the verdict know an arm that helps from one that does not, where the truth is known?

python -m benchmarks.verdict --repetitions 20

Simulated films, of which more can always be drawn, take the place of a generator's: `oracle` adds fresh films of the
rare class, which must help; `shuffled` adds fresh films of all classes labelled rare; `copies` adds exact duplicates of
the rare train films: the null experiment, in which nothing tells them from the arms `duplicate` and `classic`. Each is
added with and without classical augmentation, as the pipeline has it for MSG-SAGAN. Every repetition draws its patients
anew from a pool; the classifiers, the comparison and the verdict are those of the pipeline. A row a repetition goes to
benchmarks/results/verdict.jsonl; those that are there are not run again.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch

from benchmarks.markdown import table
from tasks.classify.arms import Job
from tasks.classify.comparison import compare
from tasks.classify.stage import Data, held_out_images
from tasks.classify.training import train_and_predict
from tasks.image_set import ImageSet
from tasks.params import Arm, Classify
from tasks.report.verdict import decide
from tasks.simulate import radiograph
from tasks.simulate.anatomy import draw_anatomy, draw_pose
from tasks.simulate.disease import Label

ROWS = Path("benchmarks/results/verdict.jsonl")
POOL = Path(".xraysynth/benchmarks")
CLASSES: tuple[Label, ...] = ("normal", "pneumonia")
POOL_SIZE = 2400  # films of each class, a patient each
SIDE = 32
SEVERITY = (0.75, 1.15)  # of pneumonia


def film(label: Label, number: int) -> np.ndarray:
    """(SIDE, SIDE) uint8: patient `number` of a class."""
    rng = np.random.default_rng([7, CLASSES.index(label), number])
    anatomy = draw_anatomy(rng, bool(rng.random() < 0.5))
    pose = draw_pose(rng, anatomy, 64)
    shot = radiograph.draw_exposure(rng, pose)
    pixels = radiograph.render(anatomy, pose, shot, label, int(rng.integers(2**62)), float(rng.uniform(*SEVERITY)))
    grey = (pixels / radiograph.MAX_VALUE * 255).astype(np.uint8)
    return cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def pool(label: Label) -> np.ndarray:
    """(POOL_SIZE, SIDE, SIDE) uint8, made once."""
    kept = POOL / f"simulated-{label}-{POOL_SIZE}-{SIDE}.npy"
    if not kept.exists():
        with ProcessPoolExecutor(initializer=cv2.setNumThreads, initargs=(1,)) as workers:
            films = list(workers.map(film, [label] * POOL_SIZE, range(POOL_SIZE), chunksize=50))
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.save(kept, np.stack(films))
    return np.load(kept)


TRAIN, VAL, TEST = (240, 16), (120, 24), (720, 140)  # films of CLASSES in each split, a patient each
RARE = CLASSES[1]
PLAN: dict[str, int] = {RARE: TRAIN[0] - TRAIN[1]}
CONTROLS: tuple[Arm, ...] = ("real", "duplicate", "classic")
TREATMENTS = ("oracle", "shuffled", "copies")
ARMS: tuple[Arm, ...] = ("msg_sagan", "classic+msg_sagan")  # whose images they take the place of
PARAMS = Classify(arms=list(CONTROLS), seeds=list(range(5)), balance="rare", steps=150, max_cycles=1, bootstrap=1000)


def image_set(films: dict[str, np.ndarray], split: str) -> ImageSet:
    """Films by class, (N, SIDE, SIDE) uint8 each, as the stages know them."""
    labels = [label for label, some in films.items() for _ in some]
    names = [f"{split}-{k}" for k in range(len(labels))]
    manifest = pd.DataFrame({"image_id": names, "patient_id": names, "label": labels, "split": split})
    return ImageSet(np.concatenate(list(films.values())), manifest, list(CLASSES), split)


def draw(number: int) -> tuple[ImageSet, dict[str, ImageSet]]:
    """The real set of a repetition, and what each treatment adds to it. No two share a patient."""
    rng = np.random.default_rng(number)
    left = {label: list(pool(label)[rng.permutation(POOL_SIZE)]) for label in CLASSES}

    def take(*counts: int) -> dict[str, np.ndarray]:
        return {
            label: np.array([left[label].pop() for _ in range(count)], np.uint8).reshape(-1, SIDE, SIDE)
            for label, count in zip(CLASSES, counts, strict=True)
        }

    splits = {"train": take(*TRAIN), "val": take(*VAL), "test": take(*TEST)}
    parts = [image_set(films, split) for split, films in splits.items()]
    images = np.concatenate([part.images for part in parts])
    real = ImageSet(images, pd.concat([part.manifest for part in parts], ignore_index=True), list(CLASSES), "real")
    count = PLAN[RARE]
    rare_among = round(count * TRAIN[1] / sum(TRAIN))
    drawn = {
        "oracle": lambda: take(0, count)[RARE],
        "shuffled": lambda: np.concatenate(list(take(count - rare_among, rare_among).values())),
        "copies": lambda: rng.permutation(np.resize(splits["train"][RARE], (count, SIDE, SIDE))),
    }
    return real, {name: image_set({RARE: drawn[name]()}, name) for name in TREATMENTS}


def predictions(data: Data, arms: Iterable[str]) -> pd.DataFrame:
    """What the networks of each arm and seed say, as stage `classify` has it."""
    parts = []
    for job in (Job(arm, seed) for arm in arms for seed in PARAMS.seeds):
        images, rows = held_out_images(job, data, PARAMS)
        found = train_and_predict(data.of(job), data.real, images, PARAMS, job.seed)
        columns = pd.DataFrame(found, columns=[f"p_{label}" for label in CLASSES])
        parts.append(rows.join(columns).assign(arm=job.arm, seed=job.seed))
    return pd.concat(parts, ignore_index=True)


def repetition(number: int) -> dict[str, Any]:
    """The verdict on each treatment."""
    torch.set_num_threads(1)
    real, added = draw(number)
    controls = predictions(Data(real, {}, PLAN, PARAMS.balance), CONTROLS)
    row: dict[str, Any] = {"repetition": number, "settings": SETTINGS}
    for name, images in added.items():
        treated = predictions(Data(real, {"msg_sagan": images}, PLAN, PARAMS.balance), ARMS)
        params = PARAMS.model_copy(update={"arms": [*CONTROLS, *ARMS]})
        result = compare(pd.concat([controls, treated], ignore_index=True), list(CLASSES), [RARE], params)
        verdict = decide(result, PLAN)
        row[name] = {key: verdict[key] for key in ("verdict", "candidate", "minimum_effect")}
        row[name]["differences"] = result["comparison"]["differences"]
    return row


SETTINGS = [POOL_SIZE, SIDE, SEVERITY, TRAIN, VAL, TEST, ARMS, PARAMS.seeds, PARAMS.steps]


def rows() -> list[dict[str, Any]]:
    """What is there of the experiment as it is defined now."""
    lines = ROWS.read_text(encoding="utf-8").splitlines() if ROWS.exists() else []
    wanted = json.loads(json.dumps(SETTINGS))
    return [row for row in map(json.loads, lines) if row["settings"] == wanted]


def summary(name: str, found: list[dict[str, Any]]) -> list[str]:
    """A line of the table: how often each verdict, the mean change of the rare class's AUPRC, and the median of the
    smallest that would be seen against `classic`."""
    verdicts = [row[name]["verdict"] for row in found]
    counts = [f"{verdicts.count(word)} of {len(verdicts)}" for word in ("helps", "no evidence", "harms")]
    about = [row[name]["differences"][row[name]["candidate"]] for row in found]
    changes = [f"{mean(differences[control]['mean'] for differences in about):+.3f}" for control in CONTROLS]
    effect = median(row[name]["minimum_effect"]["classic"] for row in found)
    return [name, *counts, *changes, f"{effect:.3f}"]


def false_alarms(arm: str, control: str, found: list[dict[str, Any]]) -> list[str]:
    """A line of the table of contrasts in which nothing differs: how often an interval lies above and below 0."""
    intervals = [row["copies"]["differences"][arm][control] for row in found]
    above, below = sum(i["low"] > 0 for i in intervals), sum(i["high"] < 0 for i in intervals)
    return [f"{arm} − {control}", f"{above} of {len(found)}", f"{below} of {len(found)}"]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2, help="at a time")
    options = parser.parse_args()
    for label in CLASSES:
        pool(label)
    there = {row["repetition"] for row in rows()}
    missing = [number for number in range(options.repetitions) if number not in there]
    ROWS.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as workers:
        for row in workers.map(repetition, missing):
            with ROWS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(f"repetition {row['repetition']}", file=sys.stderr, flush=True)
    header = ["added", "helps", "no evidence", "harms", *(f"mean change against {control}" for control in CONTROLS)]
    print(table([*header, "minimum effect"], (summary(name, rows()) for name in TREATMENTS)), "\n")
    same = (false_alarms(arm, control, rows()) for arm, control in zip(ARMS, ("duplicate", "classic"), strict=True))
    print(table(["copies: arms that are the same", "interval above 0", "below 0"], same))


if __name__ == "__main__":
    main()
