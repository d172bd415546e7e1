"""Are copies of training films found? `python -m benchmarks.memorisation [--side 256]` plants some and prints a table.

Films of `XRAYSYNTH_TESTDATA` (by default ../shared/data), curated at 64 px or SIDE and split by patient as the pipeline
does. Thresholds come from the validation split; copies are of training films; false alarms are counted on the test
split, which nothing has seen. One thread.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from benchmarks.gan_quality import DATA
from benchmarks.markdown import table
from model.memorisation import SIGNALS, Memory, Screen, calibrate, thresholds
from tasks import image_set
from tasks.ingest import stage
from tasks.params import Ingest

SETS = {"Kermany": "kermany224", "NIH": "nih256"}
COPIES = 400  # of each kind, of as many training films, where there are so many
RNG = np.random.default_rng(0)


def noisy(films: np.ndarray) -> np.ndarray:
    return films + RNG.normal(0, 5, films.shape)


def shifted(films: np.ndarray) -> np.ndarray:
    """By 2 px along each axis, either way; the border is repeated."""
    padded, side = np.pad(films, ((0, 0), (2, 2), (2, 2)), mode="edge"), films.shape[-1]
    places = RNG.choice([0, 4], (len(films), 2))
    return np.stack([film[y : y + side, x : x + side] for film, (y, x) in zip(padded, places, strict=True)])


def contrast(films: np.ndarray, factor: float) -> np.ndarray:
    """Around each film's mean; what leaves the range of grey levels is clipped later."""
    mean = films.mean((1, 2), keepdims=True)
    return mean + factor * (films - mean)


KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # float64 (N, H, W) in and out
    "exact": lambda films: films,
    "noisy, sigma 5/255": noisy,
    "shifted by 2 px": shifted,
    "flipped": lambda films: films[..., ::-1],
    "contrast +20 %": lambda films: contrast(films, 1.2),
    "contrast -20 %": lambda films: contrast(films, 0.8),
    "shifted, flipped, contrast -20 %, noisy": lambda films: noisy(contrast(shifted(films)[..., ::-1], 0.8)),
    "blurred, sigma 1 px": lambda films: gaussian_filter(films, (0, 1, 1)),
    "blurred, sigma 2 px": lambda films: gaussian_filter(films, (0, 2, 2)),
}


def planted(kind: str, films: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W) -> copies of them."""
    return np.clip(np.round(KINDS[kind](films.astype(float))), 0, 255).astype(np.uint8)


def main() -> None:
    """Both sets, then the speed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=64)
    side = parser.parse_args().side
    torch.set_num_threads(1)
    rows, everything = [], []
    with tempfile.TemporaryDirectory() as name:
        for title, folder in SETS.items():
            out = Path(name) / folder
            stage.run(DATA / folder, DATA / folder / "labels.csv", out, Ingest(size=side, max_quarantined=0.9))
            films = image_set.load(out)
            everything.append(films.images)
            rows += measured(title, *(films.where(split=split) for split in image_set.SPLITS))
    print(table(["films", "images", "all signals", *(f"{signal} alone" for signal in SIGNALS)], rows), "\n")
    print(speed(np.concatenate(everything)))


def measured(
    title: str, train: image_set.ImageSet, held_out: image_set.ImageSet, test: image_set.ImageSet
) -> list[list[str]]:
    """Rows of the table: shares called copies."""
    memory, groups = Memory(train.images, held_out.images), held_out.manifest["patient_id"].to_numpy()
    screen = calibrate(memory, held_out.images, groups)
    scores = memory.look(held_out.images, groups[:, None] == groups[None]).scores
    alone = [Screen(thresholds({name: scores[name]}), None, 0, 0) for name in SIGNALS]
    print(
        f"{title}: {len(train.images)} training, {screen.held_out} validation, {len(test.images)} test films; "
        f"{screen.leaked} validation films left out; false alarms by cross-fitting {screen.false_alarms:.2%}; "
        f"thresholds {', '.join(f'{name} {limit:.3g}' for name, limit in screen.threshold.items())}\n"
    )
    some = train.images[RNG.permutation(len(train.images))[:COPIES]]
    images = {f"copies: {kind}": planted(kind, some) for kind in KINDS} | {"real test films": test.images}
    rows = []
    for kind, part in images.items():
        seen = memory.look(part).scores
        shares = [one.reasons(seen).any(1).mean() for one in (screen, *alone)]
        rows.append([title, f"{len(part)} {kind}", *(f"{share:.1%}" for share in shares)])
    return rows


def speed(films: np.ndarray, images: int = 1000, against: int = 5000) -> str:
    """Seconds for so many images against so many training films and 1,000 held-out ones."""
    order = np.arange(against + 1000) % len(films)
    start, cpu = time.perf_counter(), time.process_time()
    Memory(films[order[:against]], films[order[against:]]).look(films[RNG.permutation(len(films))[:images]])
    return (
        f"{images} images against {against} training films and 1000 held-out ones at {films.shape[-1]} px: "
        f"{time.process_time() - cpu:.0f} s of one core, {time.perf_counter() - start:.0f} s by the clock, "
        f"load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
