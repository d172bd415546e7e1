"""Are larger films worth their time to the downstream classifier?

python -m benchmarks.sides run --seeds 5 --jobs 2    what is missing, then the table
python -m benchmarks.sides table

The arm `classic` on real films, trained until validation says stop: NIH's with one in ten of the pneumonias, and
Kermany's 10 : 1, as in docs/results.md. At each side the network of that side; at 128 px also that of 64 px, which does
not halve the images first. The test films are the same at every side. A row a training goes to
benchmarks/results/sides.jsonl.
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
from statistics import mean, median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.gan_quality import DATA, interval
from benchmarks.markdown import table
from model.classifier import Classifier, predict
from tasks import image_set
from tasks.classify import training
from tasks.classify.arms import training_set
from tasks.classify.metrics import average_precision
from tasks.image_set import ImageSet
from tasks.imbalance import analyse
from tasks.ingest import stage as ingest
from tasks.params import Classify, Imbalance, Ingest
from tasks.progress import side_by_side, track

WORK, ROWS = Path(".xraysynth/benchmarks/sides"), Path("benchmarks/results/sides.jsonl")
SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "NIH, 1 in 10": ("nih256/labels.csv", {"thin_train": {"pneumonia": 0.1}}),
    "Kermany, 10 : 1": ("kermany224/labels_imbalanced.csv", {"max_quarantined": 0.8}),
}
BATCH = Classify().batch
NETWORKS = {"of its side": (64, 128, 256), "of 64 px": (128,)}


@dataclass(frozen=True)
class Trial:
    """One training."""

    films: str
    side: int
    network: str
    seed: int


@cache
def films(name: str, side: int) -> ImageSet:
    """Curated, made once."""
    labels, params = SETS[name]
    folder = WORK / f"{labels.partition('/')[0]}-{side}"
    if not folder.exists():
        ingest.run((DATA / labels).parent, DATA / labels, folder, Ingest.model_validate({"size": side, **params}))
    return image_set.load(folder)


def do(trial: Trial) -> dict[str, Any]:
    """Train and judge."""
    torch.set_num_threads(1)
    real, params = films(trial.films, trial.side), Classify()
    plan = analyse(real.manifest, real.classes, Imbalance())["plan"]
    val, test = (real.where(split=split) for split in ("val", "test"))
    start = time.process_time()
    chosen = training_set("classic", real, None, plan, trial.seed)
    side = trial.side if trial.network == "of its side" else 64
    with patch.object(training, "architecture", lambda *_: lambda classes: Classifier(classes, side)):
        trained = training.train(chosen, val, params, trial.seed)
    seconds = time.process_time() - start
    said = predict(trained, test.images)
    places = [real.classes.index(label) for label in plan]
    once = np.ones((1, len(test.labels)))
    return {
        **asdict(trial),
        "auprc": round(mean(float(average_precision(said[:, k], test.labels == k, once)[0]) for k in places), 4),
        "steps": trained.curve[-1][0],
        "cpu_seconds": round(seconds),
        "machine": f"{os.cpu_count()} cores of {platform.machine()}, torch {torch.__version__}",
    }


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()] if ROWS.exists() else []


def run(seeds: int, jobs: int) -> None:
    """What is missing, seed by seed."""
    there = {Trial(*(row[name] for name in Trial.__dataclass_fields__)) for row in rows()}
    every = [(name, side) for name, sides in NETWORKS.items() for side in sides]
    wanted = [Trial(of, side, name, seed) for seed in range(seeds) for of in SETS for name, side in every]
    missing = [trial for trial in wanted if trial not in there]
    for trial in missing:
        films(trial.films, trial.side)  # made before they are needed twice
    for row in track(side_by_side(do, missing, jobs), len(missing), "sides"):
        with ROWS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def lines() -> Iterator[tuple[str, ...]]:
    """A line a set, side and network."""
    for of in SETS:
        for name, sides in NETWORKS.items():
            for side in sides:
                some = [row for row in rows() if (row["films"], row["side"], row["network"]) == (of, side, name)]
                if some:
                    areas, seconds = [row["auprc"] for row in some], [row["cpu_seconds"] for row in some]
                    yield of, f"{side}", name, f"{len(some)}", interval(areas, 3), f"{median(seconds):.0f}"


def speed() -> Iterator[tuple[str, ...]]:
    """A line a side and network: milliseconds of CPU of a training step on one thread, medians of five, in turn."""
    torch.set_num_threads(1)
    spent: dict[tuple[int, str], list[float]] = {}
    for _ in range(5):
        for name, sides in NETWORKS.items():
            for side in sides:
                network = Classifier(2, side if name == "of its side" else 64)
                images, labels = torch.rand(BATCH, 1, side, side), torch.zeros(BATCH, dtype=torch.long)
                start = time.process_time()
                F.cross_entropy(network(images), labels).backward()
                spent.setdefault((side, name), []).append((time.process_time() - start) * 1000)
    for (side, name), each in sorted(spent.items()):
        yield f"{side}", name, f"{median(each):.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    several = commands.add_parser("run")
    several.add_argument("--seeds", type=int, default=5)
    several.add_argument("--jobs", type=int, default=2)
    commands.add_parser("table")
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(arguments.seeds, arguments.jobs)
    print(
        table(["films", "side, px", "network", "seeds", "AUPRC of the rare class", "CPU seconds a training"], lines())
    )
    print("\n" + table(["side, px", "network", f"CPU milliseconds a step of {BATCH} images"], speed()))


if __name__ == "__main__":
    main()
