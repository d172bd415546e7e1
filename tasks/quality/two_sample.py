"""The two-sample test of all classes of a generator: can a network tell its images from real films?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model.measures.two_sample import FOLDS, TwoSampleConfig, auroc, deal, held_out_scores
from tasks.params import Quality
from tasks.quality.controls import DAMAGE, ONE_IMAGE

MIN_PATIENTS = 2 * FOLDS  # of a class: so both halves of the floor have one in each fold
FLOORS = 3
MOST_FILMS = 500  # of a class: the error of the AUROC is below 0.02 then
TOLD_BY = (
    "By small networks, {steps} steps on crops of films and images of all classes, as many of a class on each side. "
    f"They are judged on patients whom they have not seen, in {FOLDS} folds, class by class where there are "
    f"{MIN_PATIENTS} patients. Well below 0.5 the images are copies of films: what is like a film that was learnt "
    "from is called real."
)

Range = tuple[float, float, float]  # a value, and the ends of its interval


@dataclass(frozen=True)
class Sets:
    """Of one class: real images (N, H, W) of `patients` (N,), and synthetic ones (M, H, W), all uint8."""

    real: np.ndarray
    patients: np.ndarray
    synthetic: np.ndarray


@dataclass(frozen=True)
class Sample:
    """Images (N, H, W) of all classes, the `patients` (N,) and the classes, `labels` (N,), that they are of."""

    images: np.ndarray
    patients: np.ndarray
    labels: np.ndarray


def told_apart(classes: Mapping[str, Sets], params: Quality) -> dict[str, tuple[Range, Range, dict[str, float]]]:
    """By class: the AUROC of synthetic against real images, its floor, and those of the damaged controls.

    Few films teach little, so the networks learn from all classes; each is judged alone. As many synthetic images as
    real ones. The floor is real images of one half of the patients against those of the other half, the mean of FLOORS
    divisions. A damaged film is held out with its original. Classes with fewer than MIN_PATIENTS patients or FOLDS
    synthetic images are left out.
    """
    rng = np.random.default_rng(params.seed)
    taken = _taken(classes, rng)
    if not taken:
        return {}
    config = TwoSampleConfig(params.two_sample_steps, seed=params.seed)
    sets = list(taken.values())
    _, patients = np.unique(np.concatenate([some.patients for some in sets]), return_inverse=True)
    real = _sample([some.real for some in sets], patients)
    value = _against(real, _sample([some.synthetic for some in sets]), config)
    divided = [deal(real.patients, real.labels, 2, rng) == 1 for _ in range(FLOORS)]
    floor = np.mean([_judged(real, half, config) for half in divided], axis=0)
    controls = {
        kind: _against(real, _sample([damage(some.real, rng) for some in sets], patients), config)
        for kind, damage in DAMAGE.items()
    }
    repeated = [np.repeat(some.real[:1], len(some.real), axis=0) for some in sets]
    controls[ONE_IMAGE] = _against(real, _sample(repeated), config)
    return {
        label: (value[k], tuple(floor[k]), {kind: ranges[k][0] for kind, ranges in controls.items()})
        for k, label in enumerate(taken)
    }


def _taken(classes: Mapping[str, Sets], rng: np.random.Generator) -> dict[str, Sets]:
    """The classes that can be tested, at most MOST_FILMS of each; the rarest first.

    So the patients who have films of two classes are dealt into folds with those of the rarer one.
    """
    taken, seen = dict[str, Sets](), set[str]()
    for label, sets in sorted(classes.items(), key=lambda item: len(item[1].real)):
        real = rng.permutation(len(sets.real))[:MOST_FILMS]
        synthetic = rng.spawn(1)[0].permutation(len(sets.synthetic))[: len(real)]  # floors are the same for all models
        patients = sets.patients[real]
        own = set(patients) - seen
        if len(own) >= MIN_PATIENTS and len(synthetic) >= FOLDS:
            taken[label] = Sets(sets.real[real], patients, sets.synthetic[synthetic])
            seen |= own
    return taken


def _sample(by_class: Sequence[np.ndarray], patients: np.ndarray | None = None) -> Sample:
    """Images of each class; without `patients`, which are numbers from 0, each is of nobody else's."""
    images = np.concatenate(by_class)
    labels = np.repeat(np.arange(len(by_class)), list(map(len, by_class)))
    return Sample(images, -1 - np.arange(len(images)) if patients is None else patients, labels)


def _against(real: Sample, others: Sample, config: TwoSampleConfig) -> list[Range]:
    """By class, others against real images."""
    both = Sample(*(np.concatenate([vars(real)[name], some]) for name, some in vars(others).items()))
    return _judged(both, np.repeat([False, True], [len(real.images), len(others.images)]), config)


def _judged(sample: Sample, others: np.ndarray, config: TwoSampleConfig) -> list[Range]:
    """By class, those of the sample that are `others`, bool (N,), against the rest."""
    scores, folds = held_out_scores(sample.images, others, sample.patients, sample.labels, config)
    classes = (sample.labels == k for k in range(sample.labels.max() + 1))
    return [auroc(scores[of], others[of], folds[of], sample.patients[of], config.seed) for of in classes]
