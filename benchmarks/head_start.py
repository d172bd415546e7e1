"""The head start: networks that have learnt from simulated films what a chest is, and ship with the package.

python -m benchmarks.head_start films            5,993 simulated films of 4,800 patients, equally many of each class
python -m benchmarks.head_start train NAME       msg_gan or msg_sagan, in the steps of STEPS; resumed where interrupted
python -m benchmarks.head_start export           all to model/head_start, with their card
python -m benchmarks.head_start compare --sides 128 --seeds 3 --jobs 2     with it and without it, on real films
python -m benchmarks.head_start table

The first three are exact: the same films, and on one machine the same weights. Their work lies in
.xraysynth/benchmarks. The comparison trains MSG-SAGAN on NIH's and Kermany's films; the judge of benchmarks.gan_quality
scores the images. A row a training goes to benchmarks/results/head_start.jsonl; what is there is not run again.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.gan_quality import IMBALANCED, NIH, Study, interval, judged
from benchmarks.gan_quality import films as real_films
from benchmarks.markdown import table
from model.gan.networks import Discriminator, Generator, NetworkConfig
from model.gan.storage import load_generator, save_generator
from model.head_start.transfer import PHANTOM, HeadStart, packaged
from model.training.config import TrainConfig
from model.training.guard import CollapseGuard, warm_up
from model.training.loop import Tick, train
from tasks import image_set
from tasks.image_set import ImageSet
from tasks.ingest import stage as ingest
from tasks.params import Ingest
from tasks.shown.pictures import mosaic, picture_png
from tasks.simulate.stage import simulate
from tasks.train.card import sample_grid

WORK = Path(".xraysynth/benchmarks/head_start")
PATIENTS, SEED = 4800, 1_000_000  # `xraysynth simulate` takes no seed so high: nobody's demonstration has these films
# Folder, side, kimg and gamma of each training, which goes on from the one before. The strong penalty is for the start:
# outlines come three times sooner, and no detail after them (R3GAN, arXiv 2501.05441, lowers its gamma too).
STEPS = (("begun", 128, 12.0, 100.0), ("longer", 128, 30.0, 10.0), ("128", 128, 48.0, 10.0), ("64", 64, 5.0, 10.0))
SIDES = (128, 64)
ROWS = Path("benchmarks/results/head_start.jsonl")
SETS: dict[str, dict[str, Any]] = {"NIH": NIH, "Kermany, 10 : 1": IMBALANCED}
STARTS: dict[str, dict[str, Any]] = {  # of TrainConfig
    "random weights": {"kimg": 6.0},
    "head start": {"kimg": 1.5},
    "head start, long": {"kimg": 6.0},
}
MIDDLE = 1.0  # thousand images, after which the generator of a longer training is judged too
ATTENTION: dict[str, tuple[int, ...]] = {"msg_gan": (), "msg_sagan": (32,)}


def films() -> Path:
    """The curated films, made once."""
    raw, curated = WORK / "raw", WORK / "curated"
    if not raw.exists():
        simulate(raw, PATIENTS, SEED, shares={"normal": 1, "pneumonia": 1, "effusion": 1})
    if not curated.exists():
        split = {"train": 0.9, "val": 0.05, "test": 0.05}
        ingest.run(raw, raw / "labels.csv", curated, Ingest.model_validate({"size": max(SIDES), "split": split}))
    return curated


def learn(name: str) -> None:
    """Train the networks of `name` step by step, on one thread."""
    torch.set_num_threads(1)
    learnt = image_set.load(films()).where(split="train")
    head_start = None
    for folder, side, kimg, gamma in STEPS:
        out = WORK / folder / name
        if not (out / "config.json").exists():
            config = TrainConfig(kimg=kimg, tick_kimg=1.0, gamma=gamma)
            learn_at(out, _averaged(learnt.images, side), learnt, config, ATTENTION[name], head_start)
        head_start = HeadStart.load(out, learnt.classes)


def _averaged(images: np.ndarray, side: int) -> np.ndarray:
    """(N, H, H) uint8 -> (N, side, side) uint8, as ingest would have made them but for its rounding."""
    small = [cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in images]
    return np.stack(small)


def learn_at(
    out: Path,
    images: np.ndarray,
    learnt: ImageSet,
    config: TrainConfig,
    attention: tuple[int, ...],
    head_start: HeadStart | None,
) -> None:
    """Train at the size of `images`, which are those of `learnt`, and keep both networks in `out`."""
    network = NetworkConfig(images.shape[1], classes=len(learnt.classes), attention_resolutions=attention)
    guard = CollapseGuard(images, learnt.labels, learnt.classes, warm_up(config.kimg))
    out.mkdir(parents=True, exist_ok=True)
    last: list[Tick] = []

    def on_tick(tick: Tick) -> None:
        last[:] = [tick]
        row = {key: round(value, 4) if isinstance(value, float) else value for key, value in tick.row().items()}
        print(json.dumps(row), flush=True)
        (out / "samples.png").write_bytes(sample_grid(tick.generator, learnt.classes))

    generator = train(
        *(images, learnt.labels, network, config, on_tick),
        head_start=head_start,
        guard=guard,
        checkpoints=out / "checkpoints",
    )
    (tick,) = last
    assert tick.reading is not None
    facts = {
        "simulator": {"patients": PATIENTS, "seed": SEED, "films": len(images)},
        "images_shown": round(tick.kimg * 1000),
        "alarm": tick.alarm,
        "frechet": tick.reading.frechet,
        "frechet_floor": tick.reading.frechet_floor,
        "ms_ssim": tick.reading.ms_ssim,
        "ms_ssim_real": tick.reading.ms_ssim_real,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, bf16 {config.bf16()}",
    }
    save_generator(out, generator, learnt.classes, facts, tick.discriminator)


def export() -> None:
    """All networks in half precision, and the card."""
    for side in SIDES:
        for name in ATTENTION:
            folder = WORK / str(side) / name
            generator, config = load_generator(folder)
            discriminator = Discriminator(generator.config)
            HeadStart.load(folder, config["classes"]).give(Generator(generator.config), discriminator)
            to = PHANTOM / str(side) / name
            save_generator(to, generator, config["classes"], config["extra"], discriminator, torch.float16)
    (PHANTOM / "card.md").write_text(card(), encoding="utf-8")


def card() -> str:
    """What a user of the weights must know, in Markdown."""
    found = {
        (side, name): json.loads((PHANTOM / str(side) / name / "config.json").read_text(encoding="utf-8"))
        for side in SIDES
        for name in ATTENTION
    }
    config = found[max(SIDES), "msg_gan"]
    facts = config["extra"]
    simulator = facts["simulator"]
    header = ["network", "side, px", "images shown in its last step", "Fréchet of the guard (floor)"]
    header += ["MS-SSIM of pairs (real)"]
    body = (
        (
            name,
            str(side),
            str(of["extra"]["images_shown"]),
            f"{of['extra']['frechet']:.1f} ({of['extra']['frechet_floor']:.1f})",
            ", ".join(
                f"{label} {value:.3f} ({of['extra']['ms_ssim_real'][label]:.3f})"
                for label, value in of["extra"]["ms_ssim"].items()
            ),
        )
        for (side, name), of in found.items()
    )
    steps = "\n".join(
        f"  {number}. {1000 * kimg:,.0f} images at {side} px, gamma {gamma:g}"
        for number, (_, side, kimg, gamma) in enumerate(STEPS, 1)
    )
    return f"""# Head start

Generators and discriminators of MSG-GAN and MSG-SAGAN, width {config["network"]["width"]}, in half precision. They have
learnt from simulated films alone: **nobody's films**, no patient's data.

- films: {simulator["films"]} of the simulator of `xraysynth simulate`, {simulator["patients"]} patients, a third each
  normal, with pneumonia and with an effusion; seed {simulator["seed"]}, which the command does not take, so that no
  simulated archive has a film in common with them
- made by `python -m benchmarks.head_start films | train | export`, with the default settings of `TrainConfig` but for
  length and gamma; those of 64 px went on from those of 128; machine: {facts["machine"]}
- in {len(STEPS)} steps, each with the networks of the one before and a new optimiser; of those that ship the first
  ended at 11,800 images (msg_sagan) and 13,100 (msg_gan):
{steps}
- **no noise a pixel**: with it the generator draws ribs as grain
- licence: Apache-2.0

{table(header, body)}

**Use**: `train.head_start: phantom`. A training takes over every weight that fits: another size has the scales that
both have, a class of another name begins with the mean of these three, networks of another width take nothing.
Simulated films are no films: what a generator draws before it has seen real ones is of no use to anybody.

**Films of this simulator, the demonstration among them, are no test of it**: it knows them from before.
"""


def one(films_name: str, side: int, start: str, seed: int) -> None:
    """Train once on real films, have it judged, add a row."""
    torch.set_num_threads(1)
    study = Study(**SETS[films_name], base={"resolution": side}, variants={})
    learnt = [real_films(study.films, label, side) for label in study.classes]
    images, labels = np.concatenate(learnt), np.repeat(np.arange(len(learnt)), [len(some) for some in learnt])
    network = NetworkConfig(side, classes=len(learnt), attention_resolutions=ATTENTION["msg_sagan"])
    config = TrainConfig(tick_kimg=MIDDLE, seed=seed, **STARTS[start])
    begun = not start.startswith("random weights")
    head_start = HeadStart.load(packaged("msg_sagan", side), study.classes) if begun else None
    guard = CollapseGuard(images, labels, study.classes, warm_up(config.kimg))
    scores: dict[str, dict[str, Any]] = {}

    def score(generator: Generator, kimg: float) -> None:
        for label in study.judged:
            fakes, found = judged(study, generator, label)
            scores.setdefault(f"{kimg:g}", {})[label] = found
            picture = WORK / f"{films_name}-{side}-{start}-{seed}-{label}-{kimg:g}.png".replace(" ", "_")
            picture.write_bytes(picture_png(mosaic(fakes[:32], 8)))

    def on_tick(tick: Tick) -> None:
        if abs(tick.kimg - MIDDLE) < 1e-6:
            score(tick.generator, tick.kimg)

    WORK.mkdir(parents=True, exist_ok=True)
    started = time.process_time()
    generator = train(images, labels, network, config, on_tick, head_start=head_start, guard=guard)
    score(generator, config.kimg)
    row = {
        "films": films_name,
        "side": side,
        "start": start,
        "digest": head_start.digest()[:12] if head_start else "",
        "seed": seed,
        "settings": {**json.loads(json.dumps(asdict(network) | asdict(config))), "seed": None},
        "scores": scores,
        "cpu_seconds": round(time.process_time() - started),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, bf16 {config.bf16()}",
    }
    ROWS.parent.mkdir(parents=True, exist_ok=True)
    with ROWS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()] if ROWS.exists() else []


def compare(sides: list[int], seeds: int, jobs: int, starts: list[str]) -> None:
    """What is missing, seed by seed."""
    there = {(row["films"], row["side"], row["start"], row["seed"]) for row in rows()}
    wanted = [(f, side, start, seed) for side in sides for seed in range(seeds) for f in SETS for start in starts]

    def begin(trial: tuple[str, int, str, int]) -> None:
        command = [sys.executable, "-m", "benchmarks.head_start", "one", *map(str, trial)]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
        print(*trial, file=sys.stderr, flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(begin, [trial for trial in wanted if trial not in there]))


def lines() -> Iterator[tuple[str, ...]]:
    """A line a set, class, size, length and start."""
    found = rows()
    for films_name, side in sorted({(row["films"], row["side"]) for row in found}):
        starts = dict.fromkeys(row["start"] for row in found)  # "former": with noise a pixel, and other weights
        for label, start in product(SETS[films_name]["judged"], sorted(starts)):
            some = [row for row in found if (row["films"], row["side"], row["start"]) == (films_name, side, start)]
            for length in some[0]["scores"] if some else ():
                scores = [row["scores"][length][label] for row in some]
                yield (
                    f"{films_name}, {side} px",
                    label,
                    f"{float(length) * 1000:g}",
                    start,
                    str(len(some)),
                    f"{interval((s['frechet'] for s in scores), 0)} ({scores[0]['frechet_floor']:.0f})",
                    f"{interval((s['ms_ssim'] for s in scores), 3)} ({scores[0]['ms_ssim_real']:.3f})",
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("films")
    commands.add_parser("train").add_argument("name", choices=list(ATTENTION))
    commands.add_parser("export")
    several = commands.add_parser("compare")
    several.add_argument("--sides", type=int, nargs="+", default=[128])
    several.add_argument("--seeds", type=int, default=3)
    several.add_argument("--jobs", type=int, default=2)
    several.add_argument(
        "--starts", nargs="+", choices=list(STARTS), default=["random weights", "head start"], metavar="START"
    )
    single = commands.add_parser("one")
    single.add_argument("films")
    single.add_argument("side", type=int)
    single.add_argument("start", choices=list(STARTS))
    single.add_argument("seed", type=int)
    commands.add_parser("table")
    arguments = parser.parse_args()
    if arguments.command == "films":
        print(films())
    elif arguments.command == "train":
        learn(arguments.name)
    elif arguments.command == "export":
        export()
    elif arguments.command == "compare":
        compare(arguments.sides, arguments.seeds, arguments.jobs, arguments.starts)
    elif arguments.command == "one":
        one(arguments.films, arguments.side, arguments.start, arguments.seed)
    else:
        header = ["films", "class", "images shown", "begun with", "seeds", "Fréchet (floor)", "MS-SSIM of pairs (real)"]
        print(table(header, lines()))


if __name__ == "__main__":
    main()
