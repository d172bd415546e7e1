"""Class fidelity: do classifiers that learnt from real films alone recognise the class of a synthetic image?

They are those of the arm `classic`. Synthetic images and real test films are called at the same operating point, that
of best balanced accuracy on validation: at that of best accuracy a rare class would hardly be called at all.
"""

from collections import Counter
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import pandas as pd

from tasks.classify.comparison import called
from tasks.image_set import SPLITS, has, known

ARM: Final = "classic"
ENDS = ("value", "low", "high", "floor", "floor_low", "floor_high")
EXAMPLES = 6  # images of a class, of which it is kept what each was taken for


def fidelity(predictions: pd.DataFrame, classes: list[str], confidence: float) -> dict[str, dict[str, Any]]:
    """{generator: {label: {value, low, high, floor, floor_low, floor_high, others, confused, examples}}}.

    Empty without ARM. `predictions` as in `compare`, where the images of a generator are a split of its name. `value`
    is the share of the class's synthetic images that are recognised, `floor` that of its real test films, `others` the
    share of the other classes' test films that are called so, each a mean over the networks of ARM; None where there is
    no such film. `confused` has the shares of synthetic images that are taken for each other class. `examples` are
    EXAMPLES images, evenly spread over those of the class: `image`, the place among them, and `taken_for`, {class: how
    many networks}. Intervals (`share`) are of the choice of images and of the seeds; those of the floor of the choice
    of patients, given these networks: how much seeds differ is counted once in the difference. Of
    several findings the images of one are those drawn for it, which `label` says of them, each finding has its
    operating point, and images confused are those without the other one.
    """
    networks = [of_seed for _, of_seed in predictions[predictions["arm"] == ARM].groupby("seed")]
    if not networks:
        return {}
    said = np.stack([called(of_seed, of_seed, classes) for of_seed in networks])
    recognised = {name: said == k if said.ndim == 2 else said[:, :, k] for k, name in enumerate(classes)}
    split, label, patients = (networks[0][name].to_numpy().astype(str) for name in ("split", "label", "patient_id"))
    there = {name: has(networks[0], name) for name in classes}
    absent = {name: known(networks[0], name) & ~there[name] for name in classes}

    def mean(images: np.ndarray, name: str) -> float | None:
        return _short(recognised[name][:, images].mean()) if images.any() else None

    result: dict[str, dict[str, Any]] = {}
    for generator in sorted(set(split.tolist()) - set(SPLITS)):
        result[generator] = {}
        for name in sorted(set(label[split == generator].tolist())):
            drawn, test = (split == generator) & (label == name), (split == "test") & there[name]
            films = recognised[name][:, test].mean(0, keepdims=True)
            ends = (
                *share(recognised[name][:, drawn], patients[drawn], confidence),
                *share(films, patients[test], confidence),
            )
            result[generator][name] = {
                **dict(zip(ENDS, ends, strict=True)),
                "others": mean((split == "test") & absent[name], name),
                "confused": {other: mean(drawn & ~there[other], other) for other in classes if other != name},
                "examples": _examples(np.stack([of[:, drawn] for of in recognised.values()], axis=2), classes),
            }
    return result


def _examples(said: np.ndarray, classes: list[str]) -> list[dict[str, Any]]:
    """Of what S networks say of N images of a class, bool (S, N, K)."""
    chosen = np.unique(np.linspace(0, said.shape[1] - 1, EXAMPLES).round().astype(int))
    called = {int(k): Counter(classes[place] for place in np.nonzero(said[:, k])[1]) for k in chosen}
    return [{"image": k, "taken_for": dict(taken.most_common())} for k, taken in called.items()]


def share(
    recognised: np.ndarray, units: np.ndarray, confidence: float
) -> tuple[float | None, float | None, float | None]:
    """The mean of `recognised` (S, N), in [0, 1], by S networks of N images, and its interval; None without an image.

    What varies independently are `units` (N,), e.g. patients, and the networks: the variance is clustered both ways
    (Cameron, Gelbach & Miller 2011, J. Bus. Econ. Stat. 29:238). The interval is Wilson's (1927) for as many
    independent images as would vary so much, at most the units (Korn & Graubard 1998, Survey Methodology 24:193): so
    there is one where all are recognised, too.
    """
    if not recognised.size:
        return None, None, None
    value = recognised.mean()
    left = (recognised - value) / recognised.size
    sums = [np.bincount(np.unique(units, return_inverse=True)[1], left.sum(0)), left.sum(1)]
    variance = sum((parts**2).sum() * len(parts) / (len(parts) - 1) for parts in sums if len(parts) > 1)
    count = min(len(sums[0]), value * (1 - value) / variance if variance else np.inf)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre, half = value + z**2 / (2 * count), z * (value * (1 - value) / count + z**2 / (4 * count**2)) ** 0.5
    low, high = ((centre + side * half) / (1 + z**2 / count) for side in (-1, 1))
    return _short(value), _short(low), _short(high)


def _short(value: float) -> float:
    return round(float(value), 4) + 0.0  # no minus nought
