"""A judge of classes: says at each tick of a training whether synthetic images show the class that they are drawn as.

A small classifier of the real films alone, trained before the GAN. The generator never sees it: the auxiliary
classifier, which the generator follows, would flatter it.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from model.classifier import Classifier, ClassifierConfig, logits, train_classifier
from model.training import augment
from model.training.auxiliary import PROBABILITY
from model.training.batches import by_class

STEPS, BATCH, LEARNING_RATE = 250, 32, 0.01
LOOKED_AT = 200
STEPS_PER_KIMG = 40  # of the GAN: a short training does not wait long for its judge


class Judge:
    """Learns the classes of images uint8 (N, H, H), H at least 16, with labels int (N,), in so many steps.

    Of labels (N, K), several findings of 1, 0 or -1 where it is not known, it learns each by itself. One then counts as
    seen above the logit that parts its images best from those without it, among at most LOOKED_AT of either.
    The same images and `seed` give the same judge on a CPU with the same number of threads.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, classes: int, steps: int, seed: int = 0) -> None:
        config = ClassifierConfig(steps=steps, learning_rate=LEARNING_RATE, seed=seed)
        build = partial(Classifier, side=images.shape[1])
        self.network = train_classifier(_batches(images, labels, classes, seed), classes, config, build=build).network
        self.limits = None
        if labels.ndim == 2:
            self.limits = [self._limit(images, labels[:, label], label, seed) for label in range(classes)]

    def share(self, images: np.ndarray, label: int) -> float:
        """Of images uint8 (N, H, H) of one class, the part that it takes for that class."""
        said = logits(self.network, images)
        if self.limits is not None:
            return float((said[:, label] > self.limits[label]).mean())
        return float((said.argmax(1) == label).mean())

    def _limit(self, images: np.ndarray, there: np.ndarray, label: int, seed: int) -> float:
        """The logit of best balanced accuracy between images with a finding and without; 0 where there is one side.

        `there` (N,): 1, 0, or -1 where it is not known.
        """
        rng = np.random.default_rng(seed)
        sides = [rng.permutation(np.flatnonzero(there == value))[:LOOKED_AT] for value in (0, 1)]
        if not all(map(len, sides)):
            return 0.0
        without, having = (np.sort(logits(self.network, images[side])[:, label]) for side in sides)
        limits = np.unique(np.concatenate([without, having]))
        right = np.searchsorted(without, limits, side="right") / len(without)
        found = 1 - np.searchsorted(having, limits, side="right") / len(having)
        return float(limits[int(np.argmax(right + found))])


def steps(kimg: float) -> int:
    """How long a judge learns for a GAN that trains for `kimg`: at 64 px about a thirtieth of its time."""
    return min(STEPS, max(round(STEPS_PER_KIMG * kimg), 1))


def _batches(
    images: np.ndarray, labels: np.ndarray, classes: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every class equally often, each image changed afresh."""
    rng, random = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    members = [some.numpy() for some in by_class(torch.from_numpy(labels), classes)]
    while True:
        y = rng.integers(classes, size=BATCH)
        chosen = [rng.choice(members[label]) for label in y]
        x = torch.from_numpy(images[chosen])[:, None].float() / 127.5 - 1
        (x,) = augment.draw(BATCH, PROBABILITY, images.shape[-1], random, holes=False)([x])
        yield x[:, 0].clamp(-1, 1).add(1).mul(127.5).round().byte().numpy(), y if labels.ndim == 1 else labels[chosen]
