"""The judge judged, in small: `benchmarks/verdict.py` with planted classifiers, which know what they were shown.

With trained ones, whose luck differs from training to training, it is the benchmark itself.
"""

from typing import Any

import numpy as np
import pytest

from benchmarks import verdict
from tasks.classify.arms import TrainingSet
from tasks.image_set import ImageSet
from tasks.params import Classify

SIDE = 16
TRAIN = (120, 8)


def pool(label: str) -> np.ndarray:
    """Noise, in which the first pixel says the class."""
    number = verdict.CLASSES.index(label)
    films = np.random.default_rng(number).integers(0, 256, (verdict.POOL_SIZE, SIDE, SIDE), np.uint8)
    films[:, 0, 0] = number
    return films


def planted(chosen: TrainingSet, real: ImageSet, images: np.ndarray, params: Classify, seed: int) -> np.ndarray:
    """Probabilities (N, 2) that are the better the more different films of the rare class were shown as such, and the
    worse the more of others were; some films are harder than others, for all classifiers alike."""
    shown = np.unique(chosen.images[chosen.labels == 1], axis=0)
    truly_rare = int((shown[:, 0, 0] == 1).sum())
    strength = 0.6 * truly_rare / len(shown) * np.log1p(truly_rare)
    hard = np.array([np.random.default_rng(image[1].astype(int)).normal() for image in images])
    luck = np.random.default_rng([seed, len(chosen.images), truly_rare]).normal(0, 0.1, len(images))
    rare = 1 / (1 + np.exp(2 - strength * images[:, 0, 0] - hard - luck))
    return np.stack([1 - rare, rare], axis=1)


@pytest.fixture(scope="module")
def row() -> dict[str, Any]:
    small = {"SIDE": SIDE, "TRAIN": TRAIN, "VAL": (60, 20), "TEST": (300, 80), "pool": pool}
    params = verdict.PARAMS.model_copy(update={"seeds": [0, 1], "bootstrap": 300})
    with pytest.MonkeyPatch.context() as patch:
        for name, value in small.items():
            patch.setattr(verdict, name, value)
        patch.setattr(verdict, "PLAN", {verdict.RARE: TRAIN[0] - TRAIN[1]})
        patch.setattr(verdict, "PARAMS", params)
        patch.setattr(verdict, "train_and_predict", planted)
        return verdict.repetition(0)


def test_fresh_films_of_the_rare_class_help(row: dict[str, Any]) -> None:
    assert row["oracle"]["verdict"] == "helps"


@pytest.mark.parametrize("added", ["shuffled", "copies"])
def test_films_of_other_classes_and_copies_do_not(row: dict[str, Any], added: str) -> None:
    assert row[added]["verdict"] in ("no evidence", "harms")


def test_shuffled_labels_come_out_below_the_truth(row: dict[str, Any]) -> None:
    changes = {
        name: row[name]["differences"][row[name]["candidate"]]["duplicate"]["mean"] for name in verdict.TREATMENTS
    }
    assert changes["shuffled"] < changes["oracle"] - 0.1
    assert abs(changes["copies"]) < changes["oracle"] / 2
