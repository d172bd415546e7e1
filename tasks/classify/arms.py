"""What the arms of stage `classify` are trained on.

- `real`: the real train split as it is
- `class_weight`: the same, rare classes weighing more in the loss
- `duplicate`: real images of the rare classes repeated to the count of the plan: the control that decides
- `classic`: the same, and every image changed afresh at each draw by classical augmentation
- `msg_gan`, `msg_sagan`: real and synthetic images mixed, as `Classify.balance` says: "rare", synthetic ones of the
  rare classes, as many as the plan says; "all", the images of `duplicate` and synthetic ones of every class, the same
  share of each, so that what tells synthetic from real does not tell rare from common
- `classic+msg_gan`, `classic+msg_sagan`: the same, and every image, real or synthetic, changed as in `classic`
- `two_stage_msg_gan`, `two_stage_msg_sagan`: a first cycle on synthetic images alone, as many of every class, changed
  as in `classic`; then as `classic` (the order of RoentGen-v2, arXiv 2508.16783)
- `two_stage_classic`: the first cycle as `classic` too: without this control of the same length no gain of two stages
  can be read
- `classic+phantom`, `two_stage_phantom`: the same with films of the simulator in place of a generator's images: what a
  generator owes to its head start (`tasks.phantom`)
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from tasks.errors import UserError
from tasks.image_set import ImageSet, has, targets
from tasks.params import GENERATOR_OF, IMAGES_OF, PHANTOM, TWO_STAGE, Balance, Classify

Augment = Callable[[np.ndarray], np.ndarray]
Batches = Iterator[tuple[np.ndarray, np.ndarray]]
ADD_NOTHING = ("real", "class_weight")
NO_TSTR = (
    "classify.tstr takes synthetic images in place of all films of the rare classes, and films with several findings "
    "have those of other classes too; set it to false, or leave these films out by ingest.multi_label: leave_out"
)


@dataclass(frozen=True)
class Job:
    """One training of a classifier.

    `ratio` is how much the arm adds, as a share of what it adds by the plan. `fraction` is the share of the train
    patients with a rare film whose rare films it sees (`keep_patients`). `only`: of the classes in the plan it sees
    synthetic images alone.
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
        wanted += [Job(name, seed, only=True) for name in generators(params) for seed in params.seeds]
    return list(dict.fromkeys(wanted))


def generators(params: Classify) -> list[str]:
    """Those whose images some arm is trained on."""
    return list(dict.fromkeys(GENERATOR_OF[arm] for arm in params.arms if arm in GENERATOR_OF))


def added(params: Classify) -> list[str]:
    """What some arm adds images of: generators, and the simulator where an arm asks for it."""
    return list(dict.fromkeys(IMAGES_OF[arm] for arm in params.arms if arm in IMAGES_OF))


@dataclass(frozen=True)
class TrainingSet:
    """What one arm is trained on: images (N, H, W) uint8, labels (N,); the rows marked in `changed` are augmented.

    Of several findings labels are (N, K), and `class_weights` are of the films that have one. `first`: what the first
    cycle is on, where that is another set.
    """

    images: np.ndarray
    labels: np.ndarray
    changed: np.ndarray
    class_weights: np.ndarray | None = None
    first: "TrainingSet | None" = None


def training_set(
    arm: str,
    real: ImageSet,
    synthetic: ImageSet | None,
    plan: Mapping[str, int],
    seed: int,
    ratio: float = 1.0,
    fraction: float = 1.0,
    only: bool = False,
    balance: Balance = "all",
) -> TrainingSet:
    """The train split of `real`, with what `arm` adds to it; see `Job` for `ratio`, `fraction` and `only`.

    Raises UserError when synthetic images are missing.
    """
    if arm in IMAGES_OF and synthetic is None:
        raise UserError(f"{arm} needs the images of {IMAGES_OF[arm]}: run {_stage(arm)}")
    adds = arm in IMAGES_OF and any(plan.values())
    if arm.startswith(TWO_STAGE):
        second = training_set("classic", real, None, plan, seed, ratio, fraction)
        return replace(second, first=_synthetic_alone(synthetic, real.classes, plan, ratio, arm) if adds else second)
    train = real.where(split="train")
    rng = np.random.default_rng(seed)
    rare = [label for label, count in plan.items() if count]
    if fraction < 1:
        train = keep_patients(train, rare, fraction, seed)
    if only:
        if real.several:
            raise UserError(NO_TSTR)
        train = train.keep(~train.manifest["label"].isin(rare).to_numpy())
    labels = train.labels
    none_changed = np.zeros(len(labels), dtype=bool)
    if arm == "real":
        return TrainingSet(train.images, labels, none_changed)
    if arm == "class_weight":
        if real.several:
            there, absent = ((labels == value).sum(0) for value in (1, 0))
            return TrainingSet(train.images, labels, none_changed, class_weights=absent / np.maximum(there, 1))
        counts = np.bincount(labels, minlength=len(real.classes))
        return TrainingSet(train.images, labels, none_changed, class_weights=len(labels) / (len(counts) * counts))
    repeated = {label: max(1, round(ratio * plan[label])) for label in rare}
    drawn: dict[str, int] = {}
    if adds and (only or balance == "rare"):
        repeated, drawn = {}, repeated
    elif adds:
        repeated = {label: plan[label] for label in rare}
        films = {label: int(has(train.manifest, label).sum()) for label in real.classes}
        drawn = _same_share(films, plan, ratio)
    extra = [_repeated(train.where(label=label), count, rng) for label, count in repeated.items()]
    extra += [first_images(synthetic, label, count, arm) for label, count in drawn.items()]
    images = np.concatenate([train.images, *(some.images for some in extra)])
    added = [targets(some.manifest, real.classes) for some in extra]
    return TrainingSet(images, np.concatenate([labels, *added]), np.full(len(images), arm.startswith("classic")))


def _same_share(films: Mapping[str, int], plan: Mapping[str, int], ratio: float) -> dict[str, int]:
    """How many synthetic images of each class are the same share of it: of the largest as many as any class lacks."""
    filled = {label: count + plan.get(label, 0) for label, count in films.items()}
    most = ratio * max(plan.values()) / max(filled.values())
    return {label: max(1, round(most * count)) for label, count in filled.items()}


def _synthetic_alone(
    synthetic: ImageSet | None, classes: list[str], plan: Mapping[str, int], ratio: float, arm: str
) -> TrainingSet:
    """Of every class as many synthetic images as any class lacks, changed at each draw."""
    count = max(1, round(ratio * max(plan.values())))
    parts = [first_images(synthetic, label, count, arm) for label in classes]
    images = np.concatenate([some.images for some in parts])
    labels = np.concatenate([targets(some.manifest, classes) for some in parts])
    return TrainingSet(images, labels, np.full(len(images), True))


def first_images(synthetic: ImageSet | None, label: str, count: int, arm: str) -> ImageSet:
    """The first `count` synthetic images of a class. Raises UserError when there are fewer."""
    pool = None if synthetic is None else synthetic.where(label=label)
    there = 0 if pool is None else len(pool.images)
    if pool is None or there < count:
        raise UserError(
            f"{arm} has {there} synthetic images of {label!r}, the plan asks for {count}: run {_stage(arm)}"
        )
    return pool.keep(np.arange(there) < count)


def _stage(arm: str) -> str:
    return PHANTOM if IMAGES_OF.get(arm) == PHANTOM else "synthesize"


def keep_patients(train: ImageSet, rare: list[str], fraction: float, seed: int) -> ImageSet:
    """`train` without the rare films of all but a share of the patients who have any, by class; at least one is kept.

    A smaller share is part of a larger one. Their other films stay. This asks how rare a class may be for the
    classifier; the generators were trained on all rare films, so that an arm with synthetic images knows more than it
    would in truth. Where it gains at a small fraction, train the generators on that little data before believing it.
    """
    keep = np.ones(len(train.manifest), dtype=bool)
    first = ~keep  # films of the first patient of each class: those with another rare finding must not go with that
    for label in rare:
        of_class = has(train.manifest, label)
        patients = np.unique(train.manifest["patient_id"].to_numpy()[of_class].astype(str))
        order = np.random.default_rng(seed).permutation(patients)
        kept = order[: max(1, round(fraction * len(order)))]
        keep &= ~of_class | train.manifest["patient_id"].isin(kept).to_numpy()
        first |= of_class & train.manifest["patient_id"].isin(order[:1]).to_numpy()
    return train.keep(keep | first)


def _repeated(films: ImageSet, count: int, rng: np.random.Generator) -> ImageSet:
    """`count` of `films`, each used equally often but for the remainder."""
    n = len(films.images)
    rows = np.concatenate([rng.permutation(n) for _ in range(-(-count // n))])[:count]
    return ImageSet(films.images[rows], films.manifest.iloc[rows], films.classes, films.digest)


def classical_augmentation(seed: int) -> Augment:
    """Changes that positioning and exposure make to a chest film; no flip, a chest has a left and a right."""
    import albumentations as A  # takes two seconds to import, and most arms do without

    transform = A.Compose(
        [
            A.Affine(scale=(0.92, 1.08), translate_percent=(-0.06, 0.06), rotate=(-7, 7), p=1.0),
            A.RandomBrightnessContrast(brightness_limit=0.12, contrast_limit=0.12, p=0.8),
            A.GaussNoise(std_range=(0.0, 0.02), p=0.3),
        ],
        seed=seed,
        is_check_shapes=False,  # a third of its time, and there is one image
    )
    return lambda image: transform(image=image)["image"]


def batches(chosen: TrainingSet, batch: int, seed: int) -> Batches:
    """Endless minibatches in shuffled epochs, the marked images augmented at each draw."""
    rng = np.random.default_rng(seed)
    augment = classical_augmentation(seed) if chosen.changed.any() else None
    order = np.empty(0, dtype=np.int64)
    while True:
        while len(order) < batch:
            order = np.concatenate([order, rng.permutation(len(chosen.labels))])
        rows, order = order[:batch], order[batch:]
        images = chosen.images[rows]
        if augment:
            for k in np.flatnonzero(chosen.changed[rows]):
                images[k] = augment(images[k])
        yield images, chosen.labels[rows]
