"""One training of a classifier, and what is kept of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from model.classifier import Classifier, ClassifierConfig, Trained, predict, train_classifier
from tasks.classify.arms import TrainingSet, batches
from tasks.errors import UserError
from tasks.files import written_whole
from tasks.image_set import ImageSet
from tasks.params import Classify


@dataclass(frozen=True)
class Outcome:
    """What is kept of a training: calibrated probabilities (N, K), and how validation went (`Trained`)."""

    probabilities: np.ndarray
    step: int
    curve: np.ndarray  # (P, 2): step, loss
    gaining: bool

    @classmethod
    def read(cls, file: Path) -> "Outcome":
        """As `Work` has kept it."""
        with np.load(file) as kept:
            return cls(kept["probabilities"], int(kept["step"]), kept["curve"], bool(kept["gaining"]))


@dataclass(frozen=True)
class Work:
    """A training to be done, with all that it takes: it may be sent to another process."""

    file: Path  # where its outcome goes
    chosen: TrainingSet
    validation: ImageSet
    images: np.ndarray
    params: Classify
    seed: int


def do(work: Work) -> None:
    """Train, predict and keep the outcome, on one thread: sums depend on how many threads share them."""
    with _one_thread():
        trained = train(work.chosen, work.validation, work.params, work.seed)
        probabilities = predict(trained, work.images)
    with written_whole(work.file) as temporary, temporary.open("wb") as stream:
        curve = np.array(trained.curve)
        np.savez(stream, probabilities=probabilities, step=trained.step, curve=curve, gaining=trained.gaining)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train(chosen: TrainingSet, validation: ImageSet, params: Classify, seed: int) -> Trained:
    """A network trained on `chosen`; when it stops, its best point and its temperature are chosen on `validation`."""
    config = ClassifierConfig(params.steps, params.patience, params.max_cycles, params.learning_rate, seed=seed)
    first = None if chosen.first is None else batches(chosen.first, params.batch, _other(seed))
    return train_classifier(
        batches(chosen, params.batch, seed),
        len(validation.classes),
        config,
        chosen.class_weights,
        (validation.images, validation.labels),
        architecture(params.network, validation.images.shape[1]),
        first,
    )


def _other(seed: int) -> int:
    """Of a first stage: else that of two_stage_classic would be classic's first cycle, and no training of its own."""
    return int(np.random.default_rng([seed, 1]).integers(2**32))


def train_and_predict(
    chosen: TrainingSet, real: ImageSet, images: np.ndarray, params: Classify, seed: int
) -> np.ndarray:
    """Calibrated probabilities (N, K) of `images` (N, H, W) by a network trained on `chosen`, validated on `real`."""
    return predict(train(chosen, real.where(split="val"), params, seed), images)


def architecture(name: str, side: int) -> Callable[[int], nn.Module]:
    """What makes a network for a number of classes. Raises UserError where it cannot be had."""
    if name == "small":
        return partial(Classifier, side=side)
    if side < 32:
        raise UserError(f"classify.network densenet121 halves the side five times; {side} pixels are too few")
    try:
        from monai.networks.nets import DenseNet121
    except ImportError:
        raise UserError(
            "classify.network densenet121 needs MONAI, which is not installed: pip install 'xraysynth[monai]'"
        ) from None
    return lambda classes: DenseNet121(spatial_dims=2, in_channels=1, out_channels=classes)
