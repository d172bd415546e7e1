"""Stage `classify`: train the downstream classifier with and without synthetic images, and compare on real patients.

All arms share the optimiser steps, the seeds (so the first weights), the validation and the test images. They
differ in what they are trained on:

- `real`: the real train split as it is
- `class_weight`: the same, rare classes weighing more in the loss
- `duplicate`: real images of the rare classes repeated to the count of the plan: the control that decides
- `classic`: the same, and every image changed afresh at each draw by classical augmentation
- `msg_gan`, `msg_sagan`: synthetic images of the rare classes, as many as the plan says
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pandas as pd

from model.classifier import ClassifierConfig, predict, train_classifier
from tasks import curated, tracking
from tasks.comparison import compare
from tasks.curated import ImageSet
from tasks.errors import UserError
from tasks.params import SYNTHETIC_ARMS, Classify
from tasks.progress import track

Augment = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class TrainingSet:
    """What one arm is trained on: images (N, H, W) uint8, labels (N,); the rows marked in `changed` are augmented."""

    images: np.ndarray
    labels: np.ndarray
    changed: np.ndarray
    class_weights: np.ndarray | None = None


def run(
    curated_folder: Path,
    synthetic_folders: Mapping[str, Path],
    imbalance_report: Path,
    out: Path,
    predictions_file: Path,
    params: Classify,
) -> dict[str, Any]:
    """Train every arm with every seed; write the predictions and the comparison `out`, return the latter."""
    real = curated.load(curated_folder)
    imbalance = json.loads(imbalance_report.read_text(encoding="utf-8"))
    synthetic = {arm: curated.load(synthetic_folders[arm]) for arm in params.arms if arm in SYNTHETIC_ARMS}
    with tracking.tracked("classify", params.model_dump(), real.digest) as tracked:
        jobs = [(arm, seed) for arm in params.arms for seed in params.seeds]
        parts = []
        for arm, seed in track(jobs, len(jobs), "classify"):
            chosen = training_set(arm, real, synthetic.get(arm), imbalance["plan"], seed)
            parts.append(_train_and_predict(chosen, real, params, seed).assign(arm=arm, seed=seed))
        predictions = pd.concat(parts, ignore_index=True)
        result = compare(predictions, real.classes, imbalance["rare"], params)
        with curated.written_whole(predictions_file) as temporary:
            predictions.to_csv(temporary, index=False, float_format="%.6f")
        curated.write_json(out, result)
        tracked.metrics(result["arms"])
        tracked.artifact(out.name, out.read_bytes())
    return result


def training_set(
    arm: str, real: ImageSet, synthetic: ImageSet | None, plan: Mapping[str, int], seed: int
) -> TrainingSet:
    """The train split of `real`, with what `arm` adds to it. Raises UserError when synthetic images are missing."""
    train = real.where(split="train")
    labels = train.labels
    none_changed = np.zeros(len(labels), dtype=bool)
    if arm == "real":
        return TrainingSet(train.images, labels, none_changed)
    if arm == "class_weight":
        counts = np.bincount(labels, minlength=len(real.classes))
        return TrainingSet(train.images, labels, none_changed, class_weights=len(labels) / (len(counts) * counts))
    extra_images, extra_labels = [], []
    rng = np.random.default_rng(seed)
    for label, count in plan.items():
        pool = (synthetic or train).where(label=label).images
        if synthetic is not None and len(pool) < count:
            raise UserError(
                f"{arm} has {len(pool)} synthetic images of {label!r}, the plan asks for {count}: run synthesize"
            )
        rows = np.arange(count) if synthetic is not None else _repeats(len(pool), count, rng)
        extra_images.append(pool[rows])
        extra_labels.append(np.full(count, real.classes.index(label)))
    added = sum(plan.values())
    return TrainingSet(
        np.concatenate([train.images, *extra_images]),
        np.concatenate([labels, *extra_labels]),
        np.full(len(labels) + added, arm == "classic"),
    )


def _repeats(n: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` indices below `n`, each used equally often but for the remainder."""
    return np.concatenate([rng.permutation(n) for _ in range(-(-count // n))])[:count]


def classical_augmentation(seed: int) -> Augment:
    """Changes that positioning and exposure make to a chest film; no flip, a chest has a left and a right."""
    transform = A.Compose(
        [
            A.Affine(scale=(0.92, 1.08), translate_percent=(-0.06, 0.06), rotate=(-7, 7), p=1.0),
            A.RandomBrightnessContrast(brightness_limit=0.12, contrast_limit=0.12, p=0.8),
            A.GaussNoise(std_range=(0.0, 0.02), p=0.3),
        ],
        seed=seed,
    )
    return lambda image: transform(image=image)["image"]


def batches(chosen: TrainingSet, batch: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Endless minibatches in shuffled epochs, the marked images augmented at each draw."""
    rng, augment = np.random.default_rng(seed), classical_augmentation(seed)
    order = np.empty(0, dtype=np.int64)
    while True:
        while len(order) < batch:
            order = np.concatenate([order, rng.permutation(len(chosen.labels))])
        rows, order = order[:batch], order[batch:]
        images = chosen.images[rows]
        for k in np.flatnonzero(chosen.changed[rows]):
            images[k] = augment(images[k])
        yield images, chosen.labels[rows]


def _train_and_predict(chosen: TrainingSet, real: ImageSet, params: Classify, seed: int) -> pd.DataFrame:
    """Predictions for validation and test: image_id, patient_id, split, label and the probability of every class."""
    config = ClassifierConfig(steps=params.steps, learning_rate=params.learning_rate, seed=seed)
    network = train_classifier(batches(chosen, params.batch, seed), len(real.classes), config, chosen.class_weights)
    held_out = (real.manifest["split"] != "train").to_numpy()
    table = real.manifest.loc[held_out, ["image_id", "patient_id", "split", "label"]].reset_index(drop=True)
    probabilities = predict(network, real.images[held_out])
    return table.join(pd.DataFrame(probabilities, columns=[f"p_{label}" for label in real.classes]))
