"""How few films of a rare class must there be before synthetic images help? On real films, NIH's.

python -m benchmarks.few_films run --rare 5 20 --seeds 5 --jobs 2    what is missing, then the table
python -m benchmarks.few_films table

Each seed splits the patients anew. Of the train patients with pneumonia so many are kept as `--rare` says, all others
stay. MSG-SAGAN learns from these films. Classifiers learn from the same films, with its images and without, until
validation says stop. Simulated films, used in the same way, say what the generator owes to its head start. The arm
`classic` with all films of the rare class says what could be gained: those that were left out are the better images.
A row a classifier goes to benchmarks/results/few_films.jsonl; what is there is not run again.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from benchmarks.class_fidelity import DEFAULT, configs
from benchmarks.class_fidelity import films as simulated
from benchmarks.gan_quality import DATA, interval
from benchmarks.markdown import table
from benchmarks.utility import area, as_set
from model.classifier import predict
from model.gan.networks import Generator
from model.gan.sampling import sample
from model.gan.storage import load_generator, save_generator
from model.head_start.transfer import HeadStart, packaged
from model.training.guard import CollapseGuard, warm_up
from model.training.loop import train
from tasks import image_set
from tasks.classify import training
from tasks.classify.arms import training_set
from tasks.image_set import ImageSet
from tasks.imbalance import analyse
from tasks.ingest import stage as ingest
from tasks.ingest.split import split_patients
from tasks.params import IMAGES_OF, PHANTOM, Classify, Imbalance, Ingest, Split, Synthesize
from tasks.progress import side_by_side, track

WORK, ROWS = Path(".xraysynth/benchmarks/few_films"), Path("benchmarks/results/few_films.jsonl")
LABELS, RARE = DATA / "nih256" / "labels.csv", "pneumonia"
COUNTERPART = {"no_finding": "normal", RARE: "pneumonia"}  # what the simulator calls them
SIDE = DEFAULT["resolution"]
CONTROLS = ("duplicate", "classic", "two_stage_classic", "classic+phantom", "two_stage_phantom")
ARMS = (*CONTROLS, "classic+msg_sagan", "two_stage_msg_sagan")
ALL = 0  # instead of a number of patients


@dataclass(frozen=True)
class Trial:
    """The classifiers that are missing for one split and one number of train patients with the rare class."""

    rare: int
    seed: int
    arms: tuple[str, ...]


@cache
def curated() -> ImageSet:
    """The films, made once. Their split is not used."""
    folder = WORK / f"nih-{SIDE}"
    if not folder.exists():
        ingest.run(LABELS.parent, LABELS, folder, Ingest(size=SIDE))
    return image_set.load(folder)


def real(rare: int, seed: int) -> ImageSet:
    """Split by patient, and in train so many patients with the rare class."""
    every = curated()
    manifest = every.manifest.assign(split=split_patients(every.manifest, Split(), seed))
    of_class = (manifest["split"] == "train") & (manifest["label"] == RARE)
    patients = np.random.default_rng(seed).permutation(np.unique(manifest["patient_id"][of_class].astype(str)))
    out = of_class & ~manifest["patient_id"].isin(patients[: rare or None])
    return ImageSet(every.images, manifest, every.classes, f"{rare}-{seed}").keep(~out.to_numpy())


def generator(films: ImageSet, rare: int, seed: int) -> Generator:
    """MSG-SAGAN with the default settings, begun with the head start; kept."""
    folder = WORK / f"msg_sagan-{rare}-{seed}"
    if not folder.exists():
        learnt = films.where(split="train")
        network, config = configs("default", seed)
        guard = CollapseGuard(learnt.images, learnt.labels, learnt.classes, warm_up(config.kimg))
        head_start = HeadStart.load(packaged("msg_sagan", SIDE), learnt.classes)
        network = replace(network, classes=len(learnt.classes))
        trained = train(learnt.images, learnt.labels, network, config, guard=guard, head_start=head_start)
        save_generator(folder, trained, learnt.classes)
    return load_generator(folder)[0]


def added(arm: str, films: ImageSet, trial: Trial, count: int) -> ImageSet:
    """`count` images of every class for `arm`."""
    if IMAGES_OF[arm] == PHANTOM:
        pool = [simulated(name, SIDE) for name in ("others", "fresh")]
        order = np.random.default_rng(trial.seed)
        every = (
            np.concatenate([some.where(label=COUNTERPART[label]).images for some in pool]) for label in films.classes
        )
        drawn = [some[order.permutation(len(some))[:count]] for some in every]
    else:
        network, truncation = generator(films, trial.rare, trial.seed), Synthesize().truncation
        drawn = [
            sample(network, k, count, seed=1 + trial.seed, truncation=truncation) for k in range(len(films.classes))
        ]
    return as_set(dict(zip(films.classes, drawn, strict=True)), arm)


def do(trial: Trial) -> list[dict[str, Any]]:
    """Train the generator and the classifiers of a trial, and judge these: a row an arm."""
    torch.set_num_threads(1)
    films = real(trial.rare, trial.seed)
    plan = analyse(films.manifest, films.classes, Imbalance())["plan"] if trial.rare else {RARE: 0}
    val, test = (films.where(split=split) for split in ("val", "test"))
    found = []
    for arm in trial.arms:
        start = time.process_time()
        images = added(arm, films, trial, max(plan.values())) if arm in IMAGES_OF else None
        trained = training.train(training_set(arm, films, images, plan, trial.seed), val, Classify(), trial.seed)
        said = predict(trained, test.images)[:, films.classes.index(RARE)]
        truth = test.labels == films.classes.index(RARE)
        found.append(
            {
                "rare": trial.rare,
                "seed": trial.seed,
                "arm": arm,
                "settings": settings(),
                "auprc": round(area(said, truth), 4),
                "steps": trained.curve[-1][0],
                "cpu_seconds": round(time.process_time() - start),
                "machine": f"{os.cpu_count()} cores of {platform.machine()}, torch {torch.__version__}",
            }
        )
    return found


def settings() -> dict[str, Any]:
    """Of the classifiers, the generator and the drawing."""
    counted = {"network", "steps", "patience", "max_cycles", "batch", "learning_rate"}
    begun = HeadStart.load(packaged("msg_sagan", SIDE), list(COUNTERPART)).digest()[:12]
    of_images = {"truncation": Synthesize().truncation, "kimg": DEFAULT["kimg"], "head_start": begun}
    return Classify().model_dump(include=counted) | of_images


def rows() -> list[dict[str, Any]]:
    """What is there with the settings of today."""
    found = ROWS.read_text(encoding="utf-8").splitlines() if ROWS.exists() else []
    return [row for row in map(json.loads, found) if row["settings"] == settings()]


def run(rare: list[int], seeds: int, jobs: int) -> None:
    """What is missing, seed by seed."""
    there = {(row["rare"], row["seed"], row["arm"]) for row in rows()}
    missing = []
    for seed in range(seeds):
        for count in (ALL, *rare):
            arms = tuple(arm for arm in (ARMS if count else ("classic",)) if (count, seed, arm) not in there)
            missing += [Trial(count, seed, arms)] if arms else []
    for name in ("others", "fresh"):
        simulated(name, SIDE)  # made before they are needed twice
    curated()
    for found in track(side_by_side(do, missing, jobs), len(missing), "few films"):
        with ROWS.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in found)


def lines() -> Iterator[tuple[str, ...]]:
    """A line a number of patients and arm: the area, and its difference from the arms that decide, split by split."""
    areas: dict[tuple[int, str], dict[int, float]] = {}
    for row in rows():
        areas.setdefault((row["rare"], row["arm"]), {})[row["seed"]] = row["auprc"]

    def against(some: dict[int, float], control: dict[int, float]) -> str:
        return interval((some[seed] - control[seed] for seed in sorted(some.keys() & control.keys())), 3)

    every = areas.get((ALL, "classic"), {})
    for rare in sorted({rare for rare, _ in areas} - {ALL}):
        classic = areas[rare, "classic"]
        better = {seed: every[seed] for seed in classic if seed in every}
        gain = mean(better.values()) - mean(classic[seed] for seed in better) if better else 0.0
        for arm in ARMS:
            if some := areas.get((rare, arm)):
                share = f"{(mean(some.values()) - mean(classic.values())) / gain:.0%}" if gain > 0 else ""
                phantom = arm.replace("msg_sagan", PHANTOM)
                yield (
                    *(f"{rare}", arm, f"{len(some)}", interval(some.values(), 3)),
                    "" if arm == "classic" else against(some, classic),
                    against(some, areas[rare, phantom]) if phantom != arm and (rare, phantom) in areas else "",
                    "" if arm == "classic" else share,
                )
    if every:
        yield "all", "classic", f"{len(every)}", interval(every.values(), 3), "", "", ""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("run", help="what is missing, then the table")
    command.add_argument("--rare", type=int, nargs="+", default=[5, 20], help="train patients with the rare class")
    command.add_argument("--seeds", type=int, default=5)
    command.add_argument("--jobs", type=int, default=2, help="trials at a time, of one thread each")
    commands.add_parser("table", help="the table of what is there")
    options = parser.parse_args()
    if options.command == "run":
        run(options.rare, options.seeds, options.jobs)
    header = ["patients with pneumonia", "arm", "splits", "AUPRC of pneumonia", "against classic"]
    print(table([*header, "against simulated films", "share of what all films bring"], lines()))


if __name__ == "__main__":
    main()
