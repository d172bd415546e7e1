"""Do the generator's images show their class? An ablation on simulated films, whose truth is known.

python -m benchmarks.class_fidelity run --seeds 3 --jobs 2    what is missing, then the table
python -m benchmarks.class_fidelity table
python -m benchmarks.class_fidelity truncation                the generators that are there, drawn with others
python -m benchmarks.class_fidelity told                      what tells their images from real films

Generators learn from the train split of the default archive. An oracle is a classifier of 1,950 simulated films of
other patients. It says how many of 400 images of each class it takes for that class, beside the same for test films of
those patients. A row a training goes to benchmarks/results/class_fidelity.jsonl; what is there is not run again. The
generators stay in .xraysynth/benchmarks/class_fidelity.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gan_quality import FORMER_NETWORKS, interval
from benchmarks.markdown import table
from model.classifier import Classifier, ClassifierConfig, logits, train_classifier
from model.gan.networks import Generator, NetworkConfig
from model.gan.sampling import sample
from model.gan.storage import load_generator, save_generator
from model.head_start.transfer import HeadStart, packaged
from model.measures.similarity import frechet_distance, ms_ssim_pairs
from model.measures.spectrum import excess_power, grid_peaks, grid_power, radial_power
from model.training.config import TrainConfig
from model.training.guard import CollapseGuard, features, warm_up
from model.training.loop import Tick, train
from tasks import image_set
from tasks.classify.arms import batches, training_set
from tasks.image_set import ImageSet
from tasks.ingest import stage as ingest
from tasks.params import Ingest, Quality, Synthesize
from tasks.quality.controls import blur, noise
from tasks.quality.two_sample import Sets, told_apart
from tasks.shown.pictures import mosaic, picture_png
from tasks.simulate.stage import simulate

ROWS = Path("benchmarks/results/class_fidelity.jsonl")
WORK = Path(".xraysynth/benchmarks/class_fidelity")
IMAGES = 400  # judged, of each class
PAIRS = 1000  # of MS-SSIM
COLUMNS = 12  # of the picture of samples
TRUNCATIONS = (1.0, 1.1, 1.2, 1.3, 1.4)
ORACLE_STEPS = 2000
DEFAULT: dict[str, Any] = {"kimg": 1.5, "attention_resolutions": [32], "resolution": 128, "head_start": "msg_sagan"}
MSG_GAN: dict[str, Any] = DEFAULT | {"attention_resolutions": [], "head_start": "msg_gan"}
FORMER: dict[str, Any] = {  # the networks and the game of all lines of 64 px
    **{"kimg": 6.0, "attention_resolutions": [32], "resolution": 64, "noise": True}
}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": DEFAULT,
    "MSG-GAN": MSG_GAN,
    "random weights": {"kimg": 6.0, "attention_resolutions": [32], "resolution": 128},
    "64 px, random weights": FORMER,
    "64 px, random weights, MSG-GAN": FORMER | {"attention_resolutions": []},
    "64 px, former default": FORMER | FORMER_NETWORKS,
    "64 px, without auxiliary classifier": FORMER | {"auxiliary": 0.0},
    "64 px, auxiliary 0.25": FORMER | {"auxiliary": 0.25},
    "64 px, auxiliary 1.5": FORMER | {"auxiliary": 1.5},
    "64 px, without wrong labels": FORMER | {"mismatch": 0.0},
    "64 px, class at the first layer alone": FORMER | {"class_modulation": False},
    "64 px, nearest upsampling": FORMER | {"upsampling": "nearest"},
    "64 px, without noise": FORMER | {"noise": False},
}


@cache
def films(name: str, side: int) -> ImageSet:
    """The default archive of `make run` ("archive"), films of 2,600 other patients ("others") or of 1,600 further ones
    ("fresh")."""
    folder = WORK / f"{name}-{side}"
    if not folder.exists():
        patients, seed = {"archive": (480, 0), "others": (2600, 99), "fresh": (1600, 7)}[name]
        raw = WORK / f"{name}-raw"
        if not raw.exists():
            simulate(raw, patients, seed)
        ingest.run(raw, raw / "labels.csv", folder, Ingest(size=side))
    return image_set.load(folder)


def oracle(side: int) -> Classifier:
    """Trained on the train split of "others", classes repeated to the same size and augmented; made once."""
    kept, others = WORK / f"oracle-{side}.pt", films("others", side)
    network = Classifier(len(others.classes))
    if not kept.exists():
        train_split, val = others.where(split="train"), others.where(split="val")
        counts = np.bincount(train_split.labels)
        plan = {label: int(counts.max() - n) for label, n in zip(others.classes, counts, strict=True)}
        stream = batches(training_set("classic", others, None, plan, seed=0), 32, seed=0)
        config = ClassifierConfig(steps=ORACLE_STEPS)
        trained = train_classifier(stream, len(others.classes), config, None, (val.images, val.labels))
        torch.save(trained.network.state_dict(), kept)
    network.load_state_dict(torch.load(kept, weights_only=True))
    return network.eval()


def settings(variant: str) -> dict[str, Any]:
    """Of both networks and the training, as JSON knows them, without the seed."""
    network, config = configs(variant, 0)
    every: dict[str, Any] = json.loads(json.dumps(asdict(network) | asdict(config)))
    if begun_with := VARIANTS[variant].get("head_start"):
        every["head_start"] = f"{begun_with} {_weights(begun_with, network.resolution)[:12]}"
    del every["seed"]
    return every


@cache
def _weights(name: str, side: int) -> str:
    """Digest of the head start that ships."""
    return HeadStart.load(packaged(name, side), ["normal"]).digest()


def configs(variant: str, seed: int) -> tuple[NetworkConfig, TrainConfig]:
    """Of one training."""
    named = VARIANTS[variant]
    of_network = {field.name for field in fields(NetworkConfig)} & named.keys()
    network = NetworkConfig(classes=3, **{name: named[name] for name in of_network})
    return network, TrainConfig(seed=seed, **{name: named[name] for name in named.keys() - of_network - {"head_start"}})


def one(variant: str, seed: int) -> None:
    """Train once, judge, add a row."""
    learnt = films("archive", configs(variant, seed)[0].resolution).where(split="train")
    start = time.process_time()
    generator, alarm = learn(variant, seed, learnt)
    seconds = time.process_time() - start
    folder = WORK / f"{variant}-{seed}".replace(" ", "_")
    save_generator(folder, generator, learnt.classes)
    drawn = np.concatenate([sample(generator, k, COLUMNS, seed=1) for k in range(len(learnt.classes))])
    (folder / "samples.png").write_bytes(picture_png(mosaic(drawn, COLUMNS)))
    row = {
        "variant": variant,
        "seed": seed,
        "settings": settings(variant),
        "cpu_seconds": round(seconds),
        "alarm": alarm,
        "classes": judged(folder),
        "machine": f"{os.cpu_count()} cores of {platform.machine()}, torch {torch.__version__}",
    }
    ROWS.parent.mkdir(parents=True, exist_ok=True)
    with ROWS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def learn(variant: str, seed: int, learnt: ImageSet) -> tuple[Generator, str | None]:
    """Train on all films of `learnt`; the generator, and the alarm of its guard."""
    network, config = configs(variant, seed)
    ticks: list[Tick] = []
    guard = CollapseGuard(learnt.images, learnt.labels, learnt.classes, warm_up(config.kimg))
    begun_with = VARIANTS[variant].get("head_start")
    head_start = HeadStart.load(packaged(begun_with, network.resolution), learnt.classes) if begun_with else None
    generator = train(learnt.images, learnt.labels, network, config, ticks.append, head_start=head_start, guard=guard)
    return generator, ticks[-1].alarm


def judged(folder: Path, truncation: float = 1.0) -> dict[str, dict[str, float]]:
    """By class: the share of images that the oracle recognises, and of real test films; the Fréchet distance in the
    guard's features and its floor, train against test films of other patients; MS-SSIM of pairs, and of real pairs."""
    generator, config = load_generator(folder)
    side = generator.config.resolution
    network, others = oracle(side), films("others", side)
    real = others.where(split="train")
    every = features(real.images)
    centre, spread = every.mean(0), every.std(0).clip(0.05)

    def scaled(images: np.ndarray) -> np.ndarray:
        return (features(images) - centre) / spread

    result = {}
    for k, label in enumerate(config["classes"]):
        fakes = sample(generator, k, IMAGES, seed=1, truncation=truncation)
        train_films, test_films = (others.where(split=split, label=label).images for split in ("train", "test"))
        result[label] = {
            "recognised": round(float((logits(network, fakes).argmax(1) == k).mean()), 4),
            "recognised_real": round(float((logits(network, test_films).argmax(1) == k).mean()), 4),
            "frechet": round(frechet_distance(scaled(train_films), scaled(fakes)), 2),
            "frechet_floor": round(frechet_distance(scaled(train_films), scaled(test_films)), 2),
            "ms_ssim": round(float(ms_ssim_pairs(fakes, PAIRS).mean()), 4),
            "ms_ssim_real": round(float(ms_ssim_pairs(test_films, PAIRS).mean()), 4),
        }
    return result


def rows() -> list[dict[str, Any]]:
    """What is there of the variants as they are defined now."""
    lines = ROWS.read_text(encoding="utf-8").splitlines() if ROWS.exists() else []
    found = map(json.loads, lines)
    return [row for row in found if row["variant"] in VARIANTS and row["settings"] == settings(row["variant"])]


def run(variants: list[str], seeds: int, jobs: int) -> None:
    """What is missing, seed by seed, `jobs` trainings at a time."""
    for side in {configs(variant, 0)[0].resolution for variant in variants}:
        oracle(side), films("archive", side)  # made before they are needed twice
    there = {(row["variant"], row["seed"]) for row in rows()}
    missing = [(variant, seed) for seed in range(seeds) for variant in variants if (variant, seed) not in there]
    threads = {"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // jobs, 1))}

    def start(trial: tuple[str, int]) -> None:
        command = [sys.executable, "-m", "benchmarks.class_fidelity", "one", trial[0], str(trial[1])]
        subprocess.run(command, check=True, env=os.environ | threads, stdout=subprocess.DEVNULL)
        print(f"{trial[0]}, seed {trial[1]}", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(start, missing))


def lines(found: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """A line a variant and class."""
    for variant in VARIANTS:
        some = [row for row in found if row["variant"] == variant]
        seconds = f"{np.median([row['cpu_seconds'] for row in some]):.0f}" if some else ""
        yield from ((*line, seconds) for line in by_class(variant, [row["classes"] for row in some]))


def truncated() -> Iterator[tuple[str, ...]]:
    """A line a variant, truncation and class."""
    for variant in dict.fromkeys(row["variant"] for row in rows()):
        folders = [WORK / f"{variant}-{row['seed']}".replace(" ", "_") for row in rows() if row["variant"] == variant]
        for truncation in TRUNCATIONS:
            yield from by_class(f"{variant}, {truncation:g}", [judged(f, truncation) for f in folders if f.exists()])


def told() -> Iterator[tuple[str, ...]]:
    """A line a change of real train films and synthetic images alike: the two-sample AUROC of each class after it.

    Of the default variant; with the spectra where nothing is changed. As many images as there are films.
    """
    learnt, rng = films("archive", configs("default", 0)[0].resolution).where(split="train"), np.random.default_rng(0)
    changes: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "as they are": lambda x: x,
        "noise of 5 grey levels added": lambda x: noise(x, rng, 5.0),
        "noise of 10 grey levels added": lambda x: noise(x, rng, 10.0),
        "blurred by 1 px": lambda x: blur(x, 1.0),
    }
    drawn = []
    for folder in sorted(WORK.glob("default-?")):
        generator, _ = load_generator(folder)
        drawn.append([sample(generator, k, IMAGES, 1, Synthesize().truncation) for k in range(len(learnt.classes))])
    for name, change in changes.items():
        aurocs: dict[str, list[float]] = {label: [] for label in learnt.classes}
        for fakes in drawn:
            sets = {}
            for label, some in zip(learnt.classes, fakes, strict=True):
                real = learnt.where(label=label)
                patients = real.manifest["patient_id"].to_numpy()
                sets[label] = Sets(change(real.images), patients, change(some[: len(real.images)]))
            for label, (value, _, _) in told_apart(sets, Quality()).items():
                aurocs[label].append(value[0])
        yield (name, str(len(drawn)), *(interval(values, 2) for values in aurocs.values()))
    for name, measure in {
        "excess of fine detail, dB": lambda a, b: excess_power(radial_power(a), radial_power(b)),
        "excess of a grid, dB": lambda a, b: grid_power(grid_peaks(a), grid_peaks(b)),
    }.items():
        values = (
            [measure(learnt.where(label=label).images, fakes[k]) for fakes in drawn]
            for k, label in enumerate(learnt.classes)
        )
        yield (name, str(len(drawn)), *(interval(some, 2) for some in values))


def by_class(name: str, of_seeds: list[dict[str, dict[str, float]]]) -> Iterator[tuple[str, ...]]:
    """A line a class: what `judged` gave of each seed, with the intervals of `interval`."""
    for label in of_seeds[0] if of_seeds else ():
        scores = [classes[label] for classes in of_seeds]
        first = scores[0]
        yield (
            name,
            label,
            str(len(scores)),
            f"{interval((s['recognised'] for s in scores), 2)} ({first['recognised_real']:.2f})",
            f"{interval((s['recognised'] / s['recognised_real'] for s in scores), 2)}",
            f"{interval((s['frechet'] for s in scores), 1)} ({first['frechet_floor']:.1f})",
            f"{interval((s['ms_ssim'] - s['ms_ssim_real'] for s in scores), 3)}",
        )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("run", help="what is missing, then the table")
    command.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT")
    command.add_argument("--seeds", type=int, default=3)
    command.add_argument("--jobs", type=int, default=2, help="trainings at a time, which share the cores")
    command = commands.add_parser("one", help="one training, then the table")
    command.add_argument("variant", choices=VARIANTS)
    command.add_argument("seed", type=int)
    commands.add_parser("table", help="the table of what is there")
    commands.add_parser("truncation", help="the generators that are there, drawn with other truncations")
    commands.add_parser("told", help="what tells images of the default generators from real films")
    options = parser.parse_args()
    if options.command == "one":
        one(options.variant, options.seed)
    if options.command == "run":
        run(options.variants, options.seeds, options.jobs)
    header = [
        "variant",
        "class",
        "seeds",
        "recognised (real)",
        "share of real",
        "Fréchet (floor)",
        "MS-SSIM above real",
    ]
    if options.command == "told":
        print(table(["films and images", "seeds", *films("archive", 64).classes], told()))
    elif options.command == "truncation":
        print(table(header, truncated()))
    else:
        print(table([*header, "CPU seconds"], lines(rows())))


if __name__ == "__main__":
    main()
