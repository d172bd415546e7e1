"""The judge judged, in small: `benchmarks/verdict.py` on made-up films whose truth is known."""

from typing import Any

import numpy as np
import pytest

from benchmarks import verdict

SIDE = 16
TRAIN = (120, 8)


def pool(label: str) -> np.ndarray:
    """A faint disc at a random place in noise is the disease."""
    rng = np.random.default_rng(verdict.CLASSES.index(label))
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    cy, cx = rng.uniform(0.25, 0.75, (2, verdict.POOL_SIZE, 1, 1))
    disc = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 0.02) * (30 if label == verdict.RARE else 0)
    return np.clip(100 + disc + rng.normal(0, 12, disc.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def row() -> dict[str, Any]:
    small = {"SIDE": SIDE, "TRAIN": TRAIN, "VAL": (60, 20), "TEST": (300, 80), "pool": pool}
    params = verdict.PARAMS.model_copy(update={"steps": 80, "seeds": [0, 1], "bootstrap": 300})
    with pytest.MonkeyPatch.context() as patch:
        for name, value in small.items():
            patch.setattr(verdict, name, value)
        patch.setattr(verdict, "PLAN", {verdict.RARE: TRAIN[0] - TRAIN[1]})
        patch.setattr(verdict, "PARAMS", params)
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
