"""The judge judged: does the verdict know an arm that helps from one that does not, where the truth is known?

python -m benchmarks.verdict --repetitions 20

Simulated films, of which more can always be drawn, take the place of a generator's: `oracle` adds fresh films of the
rare class, which must help; `shuffled` adds fresh films of all classes labelled rare; `copies` adds exact duplicates of
the rare train films, twice with different draws: the null experiment, in which nothing differs from the arm
`duplicate`. Every repetition draws new patients; the classifiers, the comparison and the verdict are those of the
pipeline. A row a repetition goes to benchmarks/results/verdict.jsonl; those that are there are not run again.
"""

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from tasks.phantom import radiograph
from tasks.phantom.anatomy import draw_anatomy, draw_pose
from tasks.phantom.disease import Label

ROWS = Path("benchmarks/results/verdict.jsonl")
POOL = Path(".xraysynth/benchmarks")
CLASSES: tuple[Label, ...] = ("normal", "pneumonia")
POOL_SIZE = 3000  # films of each class, a patient each
SIDE = 32
SEVERITY = (0.35, 0.75)  # of pneumonia, milder than that of `xraysynth simulate`: there must be something to gain


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
