"""What the arms of stage `classify` are trained on.

- `real`: the real train split as it is
- `class_weight`: the same, rare classes weighing more in the loss
- `duplicate`: real images of the rare classes repeated to the count of the plan: the control that decides
- `classic`: the same, and every image changed afresh at each draw by classical augmentation
- `msg_gan`, `msg_sagan`: synthetic images of the rare classes, as many as the plan says
- `classic+msg_sagan`: the images of `msg_sagan`, and every image, real or synthetic, changed as in `classic`
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import albumentations as A
import numpy as np

from tasks.errors import UserError
from tasks.image_set import ImageSet
from tasks.params import GENERATOR_OF, SYNTHETIC_ARMS, Classify

Augment = Callable[[np.ndarray], np.ndarray]
Batches = Iterator[tuple[np.ndarray, np.ndarray]]
ADD_NOTHING = ("real", "class_weight")


@dataclass(frozen=True)
class Job:
    """One training of a classifier.

    `ratio` is the share of the plan that the arm adds. `fraction` is the share of the train patients with a rare film
    whose rare films it sees (`keep_patients`). `only`: of the classes in the plan it sees synthetic images alone.
    """

    arm: str
    seed: int
    ratio: float = 1.0
    fraction: float = 1.0
    only: bool = False

    @property
    def main(self) -> bool:
        """Whether the comparison and the verdict look at it; the others are sweeps."""
        return self.ratio == self.fraction == 1 and not self.only


def jobs(params: Classify) -> list[Job]:
    """All trainings that the params ask for: those of the verdict first, none twice."""
    adding = [arm for arm in params.arms if arm not in ADD_NOTHING]
    wanted = [Job(arm, seed) for arm in params.arms for seed in params.seeds]
    wanted += [Job(arm, seed, ratio=ratio) for ratio in params.ratios for arm in adding for seed in params.seeds]
    wanted += [
        Job(arm, seed, fraction=part) for part in params.real_fractions for arm in params.arms for seed in params.seeds
    ]
    if params.tstr:
        wanted += [Job("real", seed) for seed in params.seeds]
        wanted += [Job(arm, seed, only=True) for arm in params.arms if arm in SYNTHETIC_ARMS for seed in params.seeds]
    return list(dict.fromkeys(wanted))


@dataclass(frozen=True)
class TrainingSet:
    """What one arm is trained on: images (N, H, W) uint8, labels (N,); the rows marked in `changed` are augmented."""

    images: np.ndarray
    labels: np.ndarray
    changed: np.ndarray
    class_weights: np.ndarray | None = None


def training_set(
    arm: str,
    real: ImageSet,
    synthetic: ImageSet | None,
    plan: Mapping[str, int],
    seed: int,
    ratio: float = 1.0,
    fraction: float = 1.0,
    only: bool = False,
) -> TrainingSet:
    """The train split of `real`, with what `arm` adds to it; see `Job` for the last three.

    Raises UserError when synthetic images are missing.
    """
    train = real.where(split="train")
    rng = np.random.default_rng(seed)
    rare = [label for label, count in plan.items() if count]
    if fraction < 1:
        train = keep_patients(train, rare, fraction, seed)
    if only:
        train = train.keep(~train.manifest["label"].isin(rare).to_numpy())
    labels = train.labels
    none_changed = np.zeros(len(labels), dtype=bool)
    if arm == "real":
        return TrainingSet(train.images, labels, none_changed)
    if arm == "class_weight":
        counts = np.bincount(labels, minlength=len(real.classes))
        return TrainingSet(train.images, labels, none_changed, class_weights=len(labels) / (len(counts) * counts))
    if arm in GENERATOR_OF and synthetic is None:
        raise UserError(f"{arm} needs the synthetic images of {GENERATOR_OF[arm]}: run synthesize")
    extra_images, extra_labels = [], []
    for label in rare:
        count = max(1, round(ratio * plan[label]))
        if arm in GENERATOR_OF:
            extra_images.append(first_images(synthetic, label, count, arm))
        else:
            pool = train.where(label=label).images
            extra_images.append(pool[_repeats(len(pool), count, rng)])
        extra_labels.append(np.full(count, real.classes.index(label)))
    images = np.concatenate([train.images, *extra_images])
    changed = np.full(len(images), arm.startswith("classic"))
    return TrainingSet(images, np.concatenate([labels, *extra_labels]), changed)


def first_images(synthetic: ImageSet | None, label: str, count: int, arm: str) -> np.ndarray:
    """The first `count` synthetic images of a class. Raises UserError when there are fewer."""
    pool = np.empty(0) if synthetic is None else synthetic.where(label=label).images
    if len(pool) < count:
        raise UserError(
            f"{arm} has {len(pool)} synthetic images of {label!r}, the plan asks for {count}: run synthesize"
        )
    return pool[:count]


def keep_patients(train: ImageSet, rare: list[str], fraction: float, seed: int) -> ImageSet:
    """`train` without the rare films of all but a share of the patients who have any, by class; at least one is kept.

    A smaller share is part of a larger one. Their other films stay. This asks how rare a class may be for the
    classifier; the generators were trained on all rare films, so that an arm with synthetic images knows more than it
    would in truth. Where it gains at a small fraction, train the generators on that little data before believing it.
    """
    keep = np.ones(len(train.manifest), dtype=bool)
    for label in rare:
        of_class = (train.manifest["label"] == label).to_numpy()
        patients = np.unique(train.manifest["patient_id"].to_numpy()[of_class].astype(str))
        order = np.random.default_rng(seed).permutation(patients)
        kept = order[: max(1, round(fraction * len(order)))]
        keep &= ~of_class | train.manifest["patient_id"].isin(kept).to_numpy()
    return train.keep(keep)


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


def batches(chosen: TrainingSet, batch: int, seed: int) -> Batches:
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
