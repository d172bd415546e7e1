"""What training refuses to try."""

import pytest

from model.training.config import TrainConfig


@pytest.mark.parametrize(
    "wrong",
    [
        {"kimg": 0},
        {"batch": 0},
        {"loss": "wgan"},
        {"gamma": -1.0},
        {"precision": "fp8"},
        {"penalty_on": "fake"},
        {"augment_probability": 1.5},
        {"augment_target": -0.1},
        {"augment_kimg": 0.0},
        {"warmup_kimg": -1.0},
    ],
)
def test_impossible_settings_are_named(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainConfig(**wrong)
