"""Quality of the GAN for a fixed time, by the judge of the shared tools. Rows are added to a file; a table is printed.

python -m benchmarks.gan quality --seconds 420 --set gamma=10    one training, one row
python -m benchmarks.gan table                                    all rows

The films are the 1,341 normal ones of Kermany, at 64 x 64; `XRAYSYNTH_TESTDATA` says where, by default ../shared/data.
The judge is an independent implementation (SqueezeNet features; not the published FID): `tools` beside the data.
"""

import importlib.util
import json
import os
import platform
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Annotated, Any

import cv2
import numpy as np
import pandas as pd
import torch
import typer
import yaml
from PIL import Image

from benchmarks.tables import table
from model.networks import NetworkConfig
from model.sampling import sample
from model.training import Tick, TrainConfig, train
from tasks import plots

DATA = Path(os.environ.get("XRAYSYNTH_TESTDATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
ROWS = Path("benchmarks/results/gan.jsonl")
SIDE, SAMPLES = 64, 1344
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


def films() -> np.ndarray:
    """(1341, 64, 64) uint8: the normal films of Kermany."""
    labels = pd.read_csv(DATA / "kermany224" / "labels.csv")
    paths = sorted(labels.loc[labels["label"] == "normal", "path"])
    read = (np.asarray(Image.open(DATA / "kermany224" / path).convert("L")) for path in paths)
    return np.stack([cv2.resize(film, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for film in read])


def judge() -> tuple[ModuleType, dict[str, torch.Tensor]]:
    """The judge and its weights."""
    spec = importlib.util.spec_from_file_location("judge", DATA.parent / "tools" / "judge.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with np.load(DATA.parent / "weights" / "squeezenet_v1.0_imagenet.npz") as weights:
        return module, {name: torch.from_numpy(weights[name]) for name in weights.files}


@app.command()
def quality(
    seconds: Annotated[float, typer.Option(min=1)] = 420.0,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="key=value of NetworkConfig or TrainConfig")
    ] = None,
    pictures: Annotated[Path | None, typer.Option(help="A folder for a grid of samples.")] = None,
) -> None:
    """Train for a time and judge 1,344 samples against all films."""
    settings: dict[str, Any] = {k: yaml.safe_load(v) for k, _, v in (change.partition("=") for change in changes or [])}
    network_keys = NetworkConfig.__dataclass_fields__.keys() & settings.keys()
    network = replace(NetworkConfig(resolution=SIDE), **{k: settings[k] for k in network_keys})
    config = TrainConfig(kimg=1000.0, max_seconds=seconds, tick_kimg=5.0)
    config = replace(config, **{k: v for k, v in settings.items() if k not in network_keys})
    real = films()
    ticks: list[Tick] = []
    start = time.perf_counter()
    generator = train(real, np.zeros(len(real), np.int64), network, config, ticks.append)
    taken = time.perf_counter() - start
    fake = sample(generator, 0, SAMPLES, seed=0)
    module, weights = judge()
    with torch.inference_mode():
        of_real, of_fake = module.features(weights, real), module.features(weights, fake)
    centre, scale = of_real.mean(0), of_real.std(0).mean()  # as the judge's own command does
    of_real, of_fake = (of_real - centre) / scale, (of_fake - centre) / scale
    halves = np.array_split(of_real[np.random.default_rng(0).permutation(len(of_real))], 2)
    row = {
        "settings": settings,
        "seconds": round(taken),
        "kimg": ticks[-1].kimg,
        "images_per_second": round(median(tick.images_per_second for tick in ticks), 1),
        "frechet": round(module.frechet(of_real, of_fake), 1),
        "frechet_floor": round(module.frechet(*halves), 1),
        "kid": round(module.kid(of_real, of_fake), 4),
        "ms_ssim": round(module.ms_ssim_pairs(fake), 4),
        "ms_ssim_real": round(module.ms_ssim_pairs(real), 4),
        "machine": f"{os.cpu_count()} cores of {platform.machine()}, {torch.get_num_threads()} threads",
    }
    ROWS.parent.mkdir(parents=True, exist_ok=True)
    with ROWS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
        name = "-".join(f"{k}_{v}" for k, v in settings.items()) or "default"
        (pictures / f"{name}.png").write_bytes(plots.picture_png(plots.mosaic(fake[:32], 8)))
    print_table()


@app.command("table")
def print_table() -> None:
    """All rows so far, as Markdown."""
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    names = ("seconds", "kimg", "images_per_second", "frechet", "frechet_floor", "kid", "ms_ssim", "ms_ssim_real")
    settings = (", ".join(f"{k} {v}" for k, v in row["settings"].items()) or "default" for row in rows)
    print(
        table(["settings", *names], ((how, *(row[n] for n in names)) for how, row in zip(settings, rows, strict=True)))
    )


if __name__ == "__main__":
    app()
