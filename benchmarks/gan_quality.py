"""Quality of the GAN, scored by the judge of the shared tools: studies of several settings and seeds.

python -m benchmarks.gan_quality run STUDY --seeds 3 --jobs 2    what is missing of a study, then its table
python -m benchmarks.gan_quality table [STUDY]                   the tables of what is there

Every training is a process of its own and adds a row to benchmarks/results/gan_quality.jsonl; one that is there is not
run again, so a study can be interrupted and resumed, here or elsewhere. The films are those of
`XRAYSYNTH_TESTDATA`, by default ../shared/data; the judge (SqueezeNet features; not the published FID), and its
weights, lie beside them.
"""

import argparse
import importlib.util
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import mean, median, stdev
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.stats import t as student

from benchmarks.markdown import table
from model.gan.networks import Generator, NetworkConfig
from model.gan.sampling import sample
from model.training.config import TrainConfig
from model.training.guard import CollapseGuard, warm_up
from model.training.loop import Tick, train
from tasks.shown.pictures import mosaic, picture_png

DATA = Path(os.environ.get("XRAYSYNTH_TESTDATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
ROWS = Path("benchmarks/results/gan_quality.jsonl")
WORK = Path(".xraysynth/benchmarks")  # features of real films; grids of samples
Settings = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """One question. Each variant is a change of the base settings, and the first one is the base itself."""

    films: str  # a table of labels, FOLDER/NAME
    classes: tuple[str, ...]  # learnt
    judged: tuple[str, ...]  # of these classes
    reference: str  # a table of labels: the films that the judge compares with
    base: Settings  # of NetworkConfig and TrainConfig
    variants: dict[str, Settings]
    samples: int = 640  # judged, of each class
    truncations: tuple[float, ...] = ()  # judged with these too
    at_ticks: bool = False  # judged at every tick too


# The networks and the game that the studies below are of, before the class entered at every scale: see class_fidelity.
FORMER_NETWORKS: Settings = {"class_modulation": False, "upsampling": "nearest", "noise": False}
FORMER_NETWORKS |= {"mismatch": 0.0, "auxiliary": 0.0}
# The default settings that most studies started from.
FORMER: Settings = FORMER_NETWORKS | {"loss": "relativistic", "minibatch_stddev": "last"}
HINGE, EVERY = {"loss": "relativistic_average_hinge"}, {"minibatch_stddev": "every"}
KERMANY = ("bacterial_pneumonia", "normal", "viral_pneumonia")
RARE = ("viral_pneumonia",)
IMBALANCED: dict[str, Any] = {
    "films": "kermany224/labels_imbalanced",
    "classes": ("normal", "viral_pneumonia"),
    "judged": RARE,
    "reference": "kermany224/labels",  # 1,243 films of the class, of which 134 were learnt from
}
NIH: dict[str, Any] = {
    "films": "nih256/labels",
    "classes": ("no_finding", "pneumonia"),
    "judged": ("no_finding", "pneumonia"),
    "reference": "nih256/labels",
}
SHORT: Settings = {**FORMER, "resolution": 64, "kimg": 8.0, "batch": 4, "learning_rate": 0.003}  # of most studies
STUDIES = {
    # The reach of 7 minutes on two cores: run with --jobs 1.
    "seven_minutes": Study(
        films="kermany224/labels",
        classes=("normal",),
        judged=("normal",),
        reference="kermany224/labels",
        base={
            **FORMER,
            "resolution": 64,
            "kimg": 1000.0,
            "max_seconds": 420.0,
            "tick_kimg": 5.0,
            "batch": 4,
            "learning_rate": 0.003,
        },
        variants={
            "MSG-GAN": {},
            "MSG-SAGAN": {"attention_resolutions": [32]},
            "MSG-GAN, hinge, minibatch_stddev every": {**HINGE, **EVERY},
            "MSG-SAGAN, hinge, minibatch_stddev every": {"attention_resolutions": [32], **HINGE, **EVERY},
        },
        samples=1344,
        truncations=(1.1, 1.2),
    ),
    # Likeness against variety, and attention in a longer training: as many images as seven minutes were on the machine
    # of docs/results.md.
    "trade_off": Study(
        films="kermany224/labels",
        classes=("normal",),
        judged=("normal",),
        reference="kermany224/labels",
        base={**FORMER, "resolution": 64, "kimg": 40.0, "tick_kimg": 10.0, "batch": 4, "learning_rate": 0.003},
        variants={
            "MSG-GAN": {},
            "MSG-SAGAN": {"attention_resolutions": [32]},
            "MSG-GAN, minibatch_stddev every": EVERY,
            "MSG-GAN, hinge, minibatch_stddev every": {**HINGE, **EVERY},
            "MSG-SAGAN, hinge, minibatch_stddev every": {"attention_resolutions": [32], **HINGE, **EVERY},
        },
        samples=1344,
        truncations=(0.9, 1.1, 1.2, 1.3),
        at_ticks=True,
    ),
    "ablation": Study(
        **IMBALANCED,
        base={**SHORT, "kimg": 6.0, "attention_resolutions": [32]},
        variants={
            "former default": {},
            "batch 8": {"batch": 8},
            "batch 8, learning_rate 0.002": {"batch": 8, "learning_rate": 0.002},
            "loss relativistic_average_hinge": HINGE,
            "loss non_saturating": {"loss": "non_saturating"},
            "loss wgan_gp": {"loss": "wgan_gp", "penalty_interval": 4},
            "augmented, 0.3": {"augment_probability": 0.3},
            "augmented, adaptive": {"augment_target": 0.6},
            "attention nowhere": {"attention_resolutions": []},
            "attention 16": {"attention_resolutions": [16]},
            "attention 16 and 32": {"attention_resolutions": [16, 32]},
            "attention 64": {"attention_resolutions": [64]},
            "phi lin_cat": {"phi": "lin_cat"},
            "phi cat_lin": {"phi": "cat_lin"},
            "minibatch_stddev every": EVERY,
            "hinge, minibatch_stddev every": {**HINGE, **EVERY},
            "class after 1.5 kimg": {"warmup_kimg": 1.5},
            "penalty at real images alone": {"penalty_on": "real", "gamma": 5.0},  # R1 weighs the same
        },
    ),
    # The same length, all of it spent on the rare class: a generator a class.
    "ablation_alone": Study(
        **IMBALANCED | {"classes": RARE},
        base={**SHORT, "kimg": 6.0, "attention_resolutions": [32]},
        variants={"rare class alone": {}, "rare class alone, augmented": {"augment_target": 0.6}},
    ),
    "claim_kermany": Study(
        films="kermany224/labels",
        classes=KERMANY,
        judged=KERMANY,
        reference="kermany224/labels",
        base=SHORT,
        variants={"MSG-GAN": {}, "MSG-SAGAN": {"attention_resolutions": [32]}},
    ),
    "claim_nih": Study(**NIH, base=SHORT, variants={"MSG-GAN": {}, "MSG-SAGAN": {"attention_resolutions": [32]}}),
    # Today's networks and game after few images.
    # Where attention helps: at half of the resolution, on smaller images and in narrower networks.
    "claim_nih_32px": Study(
        **NIH,
        base={**SHORT, "resolution": 32},
        variants={"MSG-GAN": {}, "MSG-SAGAN": {"attention_resolutions": [16]}},
    ),
    "claim_nih_width_32": Study(
        **NIH,
        base={**SHORT, "width": 32},
        variants={"MSG-GAN": {}, "MSG-SAGAN": {"attention_resolutions": [32]}},
    ),
}


def films(name: str, label: str, side: int) -> np.ndarray:
    """(N, side, side) uint8: the films of a class in a table of labels of the test data."""
    labels = pd.read_csv(DATA / f"{name}.csv")
    folder = (DATA / name).parent
    paths = sorted(labels.loc[labels["label"] == label, "path"])
    read = (np.asarray(Image.open(folder / path).convert("L")) for path in paths)
    return np.stack([cv2.resize(film, (side, side), interpolation=cv2.INTER_AREA) for film in read])


class Judge:
    """The judge of the shared tools, with what it made of the real films of a class."""

    def __init__(self, name: str, label: str, side: int) -> None:
        spec = importlib.util.spec_from_file_location("judge", DATA.parent / "tools" / "judge.py")
        assert spec is not None
        assert spec.loader is not None
        self.module: ModuleType = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        with np.load(DATA.parent / "weights" / "squeezenet_v1.0_imagenet.npz") as weights:
            self.weights = {key: torch.from_numpy(weights[key]) for key in weights.files}
        self.films = films(name, label, side)
        kept = WORK / f"{name.replace('/', '-')}-{label}-{side}.npy"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            part = kept.with_suffix(f".{os.getpid()}.npy")
            np.save(part, self.features(self.films))
            part.replace(kept)
        self.real = np.load(kept)

    @torch.inference_mode()
    def features(self, images: np.ndarray) -> np.ndarray:
        found: np.ndarray = self.module.features(self.weights, images)
        return found

    def score(self, images: np.ndarray) -> dict[str, float]:
        """Each figure of (N, H, W) uint8 images beside that of the real films, or of halves of them."""
        centre, scale = self.real.mean(0), self.real.std(0).mean()  # as the judge's own command does
        real, fake = ((x - centre) / scale for x in (self.real, self.features(images)))
        halves = np.array_split(real[np.random.default_rng(0).permutation(len(real))], 2)
        return {
            "frechet": round(self.module.frechet(real, fake), 1),
            "frechet_floor": round(self.module.frechet(*halves), 1),
            "kid": round(self.module.kid(real, fake), 4),
            "kid_floor": round(self.module.kid(*halves), 4),
            "ms_ssim": round(self.module.ms_ssim_pairs(images), 4),
            "ms_ssim_real": round(self.module.ms_ssim_pairs(self.films), 4),
        }


def judged(
    study: Study, generator: Generator, label: str, truncation: float = 1.0
) -> tuple[np.ndarray, dict[str, float]]:
    """Samples (N, H, W) uint8 of a class, and what the judge says of them."""
    fakes = sample(generator, study.classes.index(label), study.samples, seed=0, truncation=truncation)
    return fakes, Judge(study.reference, label, generator.config.resolution).score(fakes)


def configs(study: Study, variant: str, seed: int) -> tuple[NetworkConfig, TrainConfig]:
    """Of one training of a study."""
    named = study.base | study.variants[variant]
    of_network = {field.name for field in fields(NetworkConfig)} & named.keys()
    network = NetworkConfig(classes=len(study.classes), **{name: named[name] for name in of_network})
    return network, TrainConfig(seed=seed, **{name: named[name] for name in named.keys() - of_network})


def settings(study: Study, variant: str) -> Settings:
    """The networks and the training as JSON knows them, but the seed: rows of other defaults don't count.

    What a study learns from and is judged by stands in STUDIES, and a study of other films is another study.
    """
    network, config = configs(study, variant, 0)
    every: Settings = json.loads(json.dumps(asdict(network) | asdict(config)))
    del every["seed"]
    return every


def one(study_name: str, variant: str, seed: int) -> None:
    """Train once, have it judged, add a row and a grid of samples."""
    study = STUDIES[study_name]
    network, config = configs(study, variant, seed)
    learnt = [films(study.films, label, network.resolution) for label in study.classes]
    labels = np.repeat(np.arange(len(learnt)), [len(some) for some in learnt])
    ticks: list[Tick] = []
    curve: list[dict[str, float]] = []
    images = np.concatenate(learnt)

    def on_tick(tick: Tick) -> None:
        ticks.append(tick)
        if study.at_ticks and tick.kimg < config.kimg:
            curve.append({"kimg": tick.kimg, "truncation": 1.0} | judged(study, tick.generator, study.judged[0])[1])

    guard = CollapseGuard(images, labels, study.classes, warm_up(config.kimg))
    start = time.perf_counter()
    generator = train(images, labels, network, config, on_tick, guard=guard)
    taken = time.perf_counter() - start
    scores = {}
    for label in study.judged:
        fakes, scores[label] = judged(study, generator, label)
        WORK.mkdir(parents=True, exist_ok=True)
        grid = WORK / f"{study_name}-{variant}-{seed}-{label}.png".replace(" ", "_")
        grid.write_bytes(picture_png(mosaic(fakes[:32], 8)))
    for truncation in study.truncations:
        _, score = judged(study, generator, study.judged[0], truncation)
        curve.append({"kimg": ticks[-1].kimg, "truncation": truncation} | score)
    row = {
        "study": study_name,
        "variant": variant,
        "seed": seed,
        "settings": settings(study, variant),
        "kimg": ticks[-1].kimg,
        "seconds": round(taken),
        "images_per_second": round(median(tick.images_per_second for tick in ticks), 1),
        "threads": torch.get_num_threads(),
        "precision": "bf16" if config.bf16() else "fp32",
        "alarm": ticks[-1].alarm,
        "gammas": {name: round(value, 3) for name, value in ticks[-1].gammas.items()},
        "classes": scores,
        **({"curve": curve} if curve else {}),
        "machine": f"{os.cpu_count()} cores of {platform.machine()}, torch {torch.__version__}",
    }
    ROWS.parent.mkdir(parents=True, exist_ok=True)
    with ROWS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def rows(study_name: str) -> list[dict[str, Any]]:
    """What is there of a study as it is defined now: rows of other settings do not count."""
    study = STUDIES[study_name]
    lines = ROWS.read_text(encoding="utf-8").splitlines() if ROWS.exists() else []
    return [
        row
        for row in map(json.loads, lines)
        if row["study"] == study_name
        and row["variant"] in study.variants
        and FORMER_NETWORKS | row["settings"] == settings(study, row["variant"])  # rows of then do not name them
    ]


def run(study_name: str, seeds: int, jobs: int) -> None:
    """What is missing of a study, seed by seed, `jobs` trainings at a time."""
    there = {(row["variant"], row["seed"]) for row in rows(study_name)}
    missing = [
        (variant, seed)
        for seed in range(seeds)
        for variant in STUDIES[study_name].variants
        if (variant, seed) not in there
    ]
    threads = {"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // jobs, 1))}

    def start(trial: tuple[str, int]) -> None:
        command = [sys.executable, "-m", "benchmarks.gan_quality", "one", study_name, trial[0], str(trial[1])]
        subprocess.run(command, check=True, env=os.environ | threads, stdout=subprocess.DEVNULL)
        print(f"{study_name}: {trial[0]}, seed {trial[1]}", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(start, missing))


def interval(values: Iterable[float], digits: int) -> str:
    """Mean and half of the 95 % interval of Student's t, where there are two values or more."""
    values = list(values)
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    half = student.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return f"{mean(values):.{digits}f} ± {half:.{digits}f}"


def lines(study_name: str) -> Iterator[tuple[str, ...]]:
    """A line a variant and class. Differences are paired: the same seed is the same data order and the same weights
    but those that only one of the two has."""
    study, found = STUDIES[study_name], rows(study_name)
    base = {row["seed"]: row for row in found if row["variant"] == next(iter(study.variants))}
    for label in study.judged:
        for variant in study.variants:
            some = [row for row in found if row["variant"] == variant]
            if not some:
                continue
            scores = [row["classes"][label] for row in some]
            floor = scores[0]
            pairs = [
                (row["classes"][label], base[row["seed"]]["classes"][label]) for row in some if row["seed"] in base
            ]
            differences = [ours["frechet"] - theirs["frechet"] for ours, theirs in pairs]
            yield (
                variant,
                label,
                str(len(some)),
                f"{interval((s['frechet'] for s in scores), 0)} ({floor['frechet_floor']:.0f})",
                interval(differences, 0) if differences and any(differences) else "",
                f"{interval((s['kid'] for s in scores), 2)} ({floor['kid_floor']:.2f})",
                f"{interval((s['ms_ssim'] for s in scores), 3)} ({floor['ms_ssim_real']:.3f})",
                f"{median(row['kimg'] for row in some):.1f}",
                f"{median(row['images_per_second'] for row in some):.0f}",
            )


def print_table(study_name: str) -> None:
    """A study in Markdown."""
    header = ["variant", "class", "seeds", "Fréchet (floor)", "against the first", "KID (floor)"]
    header += ["MS-SSIM of pairs (real)", "kimg", "images/s"]
    print(f"### {study_name}\n\n{table(header, lines(study_name))}\n")
    curve: dict[tuple[str, str, str], list[dict[str, float]]] = {}  # a point of all seeds
    for row in rows(study_name):
        for point in row.get("curve", ()):
            curve.setdefault((row["variant"], f"{point['kimg']:g}", f"{point['truncation']:g}"), []).append(point)
    if curve:
        header = ["variant", "kimg", "truncation", "seeds", "Fréchet", "KID", "MS-SSIM of pairs"]
        digits = {"frechet": 0, "kid": 2, "ms_ssim": 3}
        points = (
            (*at, str(len(some)), *(interval((point[key] for point in some), n) for key, n in digits.items()))
            for at, some in curve.items()
        )
        print(table(header, points), "\n")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("run", help="what is missing of a study, then its table")
    command.add_argument("study", choices=STUDIES)
    command.add_argument("--seeds", type=int, default=3)
    command.add_argument("--jobs", type=int, default=2, help="trainings at a time, which share the cores")
    command = commands.add_parser("one", help="one training of a study, then its table")
    command.add_argument("study", choices=STUDIES)
    command.add_argument("variant")
    command.add_argument("seed", type=int)
    command = commands.add_parser("table", help="the tables of what is there")
    command.add_argument("study", nargs="?", choices=STUDIES)
    options = parser.parse_args()
    if options.command == "one":
        one(options.study, options.variant, options.seed)
    if options.command == "run":
        run(options.study, options.seeds, options.jobs)
    for name in [options.study] if options.study else STUDIES:
        if rows(name):
            print_table(name)


if __name__ == "__main__":
    main()
