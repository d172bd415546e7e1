"""What are synthetic images worth, as a share of what as many further real films are worth?

python -m benchmarks.utility run --rare 0 10 25 --seeds 5 --jobs 2    what is missing, then the tables
python -m benchmarks.utility table

Simulated films, whose truth is known. Classifiers learn from the default archive (--rare 0), or from one with so many
films of each rare class, and from images of msg_sagan that learnt from the same films, or, in the same arm, from as
many films of other patients: the oracle. All are trained until validation says stop, controls too, and tested on 824
films of others. The share is (arm - control) / (oracle - control), control and oracle being the best by their means. A
row a training goes to benchmarks/results/utility.jsonl; what is there is not run again. Generators of class_fidelity
serve the default archive.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch

from benchmarks.class_fidelity import WORK, configs, films, learn
from benchmarks.class_fidelity import settings as of_generator
from benchmarks.gan_quality import interval
from benchmarks.markdown import table
from model.classifier import predict
from model.gan.networks import Generator
from model.gan.sampling import sample
from model.gan.storage import load_generator, save_generator
from tasks.classify import training
from tasks.classify.arms import training_set
from tasks.classify.metrics import average_precision
from tasks.image_set import ImageSet
from tasks.imbalance import analyse
from tasks.params import IMAGES_OF, Balance, Classify, ControlArm, Imbalance, Synthesize
from tasks.progress import side_by_side, track

ROWS = Path("benchmarks/results/utility.jsonl")
SIDE = configs("default", 0)[0].resolution
GENERATORS = 3  # of the default archive; seed k of a classifier learns from number k % GENERATORS
ORACLE, DRAWN = "films of other patients", "msg_sagan"
CONTROLS = tuple(arm for arm in get_args(ControlArm) if arm not in IMAGES_OF)
TWO_STAGE, MIXED = "two_stage_msg_sagan", "classic+msg_sagan"


@dataclass(frozen=True)
class Trial:
    """One training of a classifier: `rare` films of each rare class (0: those of the archive), `images` it adds."""

    rare: int
    arm: str
    seed: int
    images: str = ""
    balance: Balance = "all"


def trials(rare: int, seeds: int) -> Iterator[Trial]:
    """Seed by seed. Thinned archives have fewer arms: the controls that decide, and mixing."""
    for seed in range(seeds):
        for arm in CONTROLS if rare == 0 else ("duplicate", "classic"):
            yield Trial(rare, arm, seed)
        for images in (DRAWN, ORACLE):
            yield Trial(rare, MIXED, seed, images)
            if rare == 0:
                yield Trial(rare, TWO_STAGE, seed, images)
                yield Trial(rare, MIXED, seed, images, "rare")


@cache
def real(rare: int) -> ImageSet:
    """Train and validation films of the default archive, those of rare classes thinned; test films of others."""
    archive = films("archive", SIDE)
    kept = archive.keep((archive.manifest["split"] != "test").to_numpy())
    if rare:
        in_train = kept.manifest["split"] == "train"
        number = kept.manifest[in_train].groupby("label").cumcount()
        many = in_train & kept.manifest["label"].isin(plan(0)) & (number.reindex(kept.manifest.index) >= rare)
        kept = kept.keep(~many.to_numpy())
    tested = films("others", SIDE).where(split="test")
    images = np.concatenate([kept.images, tested.images])
    manifest = pd.concat([kept.manifest, tested.manifest], ignore_index=True)
    return ImageSet(images, manifest, archive.classes, f"{rare}")


@cache
def plan(rare: int) -> dict[str, int]:
    """As stage `imbalance` makes it of the archive."""
    known = real(rare) if rare else films("archive", SIDE)
    made: dict[str, int] = analyse(known.manifest, known.classes, Imbalance())["plan"]
    return made


@cache
def added(rare: int, images: str, seed: int) -> ImageSet:
    """Of every class as many as the plan asks of any."""
    count = max(plan(rare).values())
    if images == ORACLE:
        others = films("others", SIDE)
        pool = [others.keep((others.manifest["split"] != "test").to_numpy()), films("fresh", SIDE)]
        of_class = {
            label: np.concatenate([some.where(label=label).images for some in pool]) for label in real(rare).classes
        }
    else:
        network, truncation = generator(rare, seed), Synthesize().truncation
        of_class = {
            label: sample(network, k, count, seed=1 + seed, truncation=truncation)
            for k, label in enumerate(real(rare).classes)
        }
    chosen = {label: np.random.default_rng(seed).permutation(some)[:count] for label, some in of_class.items()}
    return as_set(chosen, images)


def as_set(of_class: dict[str, np.ndarray], name: str) -> ImageSet:
    """Images (N, side, side) uint8 by class, in the order of the classes, as what an arm adds."""
    labels = [label for label, some in of_class.items() for _ in some]
    manifest = pd.DataFrame({"image_id": [f"{k}" for k in range(len(labels))], "label": labels})
    return ImageSet(np.concatenate(list(of_class.values())), manifest, list(of_class), name)


def area(said: np.ndarray, truth: np.ndarray) -> float:
    """Under the precision-recall curve: probabilities (N,) of a class, and whether the films have it, bool (N,)."""
    return float(average_precision(said, truth, np.ones((1, len(truth))))[0])


def generator(rare: int, seed: int) -> Generator:
    """The msg_sagan that learnt from the train films; of a thinned archive one, trained when it is needed."""
    number = seed % GENERATORS if rare == 0 else 0
    folder = WORK / (f"default-{number}" if rare == 0 else f"default-{number}-of-{rare}")
    if not folder.exists():
        learnt = real(rare).where(split="train")
        save_generator(folder, learn("default", number, learnt)[0], learnt.classes)
    return load_generator(folder)[0]


def val(rare: int) -> ImageSet:
    """The validation films."""
    return real(rare).where(split="val")


def do(trial: Trial) -> dict[str, Any]:
    """Train and judge."""
    torch.set_num_threads(1)
    images = added(trial.rare, trial.images, trial.seed) if trial.images else None
    start = time.process_time()
    chosen = training_set(trial.arm, real(trial.rare), images, plan(trial.rare), trial.seed, balance=trial.balance)
    trained = training.train(chosen, val(trial.rare), Classify(), trial.seed)
    seconds = time.process_time() - start
    test = real(trial.rare).where(split="test")
    said = predict(trained, test.images)
    classes = [real(trial.rare).classes.index(label) for label in plan(trial.rare)]
    return {
        **asdict(trial),
        "settings": settings(),
        "auprc": round(mean(area(said[:, k], test.labels == k) for k in classes), 4),
        "steps": trained.curve[-1][0],
        "gaining": trained.gaining,
        "cpu_seconds": round(seconds),
        "machine": f"{os.cpu_count()} cores of {platform.machine()}, torch {torch.__version__}",
    }


def settings() -> dict[str, Any]:
    """Of the classifiers, the generators and the drawing."""
    counted = {"network", "steps", "patience", "max_cycles", "batch", "learning_rate"}
    of_drawing = {"truncation": Synthesize().truncation, "generator": of_generator("default")}
    return Classify().model_dump(include=counted) | of_drawing


def rows() -> list[dict[str, Any]]:
    """What is there with the settings of today."""
    found = ROWS.read_text(encoding="utf-8").splitlines() if ROWS.exists() else []
    return [row for row in map(json.loads, found) if row["settings"] == settings()]


def run(rare: list[int], seeds: int, jobs: int) -> None:
    """What is missing, `jobs` trainings at a time."""
    there = {tuple(row[name] for name in Trial.__dataclass_fields__) for row in rows()}
    missing = [trial for count in rare for trial in trials(count, seeds) if tuple(asdict(trial).values()) not in there]
    for name in ("archive", "others", "fresh"):
        films(name, SIDE)  # made before they are needed twice
    for row in track(side_by_side(do, missing, jobs), len(missing), "utility"):
        with ROWS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def lines(rare: int) -> Iterator[tuple[str, ...]]:
    """A line an arm: its area, its differences from the control and its share of the oracle's, over the seeds."""
    found: dict[tuple[str, str, str], dict[int, dict[str, Any]]] = {}
    for row in rows():
        if row["rare"] == rare:
            found.setdefault((row["arm"], row["images"], row["balance"]), {})[row["seed"]] = row

    def of(some: dict[int, dict[str, Any]]) -> float:
        return mean(row["auprc"] for row in some.values())

    controls = [key for key in found if not key[1]]
    if not controls:
        return
    control = found[max(controls, key=lambda key: of(found[key]))]
    oracles = [of(some) for key, some in found.items() if key[1] == ORACLE]
    gain = max(oracles, default=0.0) - of(control)
    for (arm, images, balance), some in found.items():
        both = sorted(some.keys() & control.keys())
        yield (
            f"{arm}, in rare classes alone" if images and balance == "rare" else arm,
            images,
            str(len(some)),
            interval((row["auprc"] for row in some.values()), 3),
            "the control" if some is control else interval((some[k]["auprc"] - control[k]["auprc"] for k in both), 3),
            f"{(of(some) - of(control)) / gain:.0%}" if images and gain > 0 else "",
            f"{np.median([row['steps'] for row in some.values()]):.0f}",
            f"{sum(row['gaining'] for row in some.values())} of {len(some)}",
        )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("run", help="what is missing, then the tables")
    command.add_argument("--rare", type=int, nargs="+", default=[0, 5, 10, 25], help="films of each rare class; 0: all")
    command.add_argument("--seeds", type=int, default=5)
    command.add_argument("--jobs", type=int, default=2, help="trainings at a time, of one thread each")
    commands.add_parser("table", help="the tables of what is there")
    options = parser.parse_args()
    if options.command == "run":
        run(options.rare, options.seeds, options.jobs)
    for rare in sorted({row["rare"] for row in rows()}):
        print(f"{rare or 'All'} films of each rare class\n")
        header = ["arm", "images", "seeds", "AUPRC of rare classes", "difference", "share of the oracle's gain"]
        print(table([*header, "steps", "still gaining"], lines(rare)), "\n")


if __name__ == "__main__":
    main()
