"""The paired difference over patients and seeds: how often it is wrong, and that its parts are what they say."""

import numpy as np
import pytest

from tasks.classify.differences import Difference, paired_difference, paired_differences, seed_variance
from tasks.classify.metrics import MIN_PATIENTS


def experiment(
    rng: np.random.Generator, seeds: int, patients: int, training: float, effect: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Measures (arms, seeds, 1 + B) of five arms: means over patients, of which seeds shift all by `training`."""
    values = rng.normal(0, 1, (5, 1, patients)) + rng.normal(0, 0.5, (5, seeds, patients))
    values += training * rng.normal(0, 1, (5, seeds, 1))
    values[0] += effect
    weights = rng.multinomial(patients, np.full(patients, 1 / patients), size=120) / patients
    return values, np.concatenate([values.mean(2, keepdims=True), values @ weights.T], axis=2)


def difference(measured: np.ndarray, patients: int) -> Difference:
    return paired_difference(measured[0], measured[1], patients, seed_variance(measured[:, :, 0]))


@pytest.mark.parametrize(("seeds", "patients", "training"), [(2, 30, 0.0), (2, 30, 0.6), (4, 12, 0.3)])
def test_without_an_effect_one_is_found_about_as_rarely_as_is_said(seeds: int, patients: int, training: float) -> None:
    rng = np.random.default_rng(0)
    found, found_without_seeds = 0, 0
    for _ in range(400):
        _, measured = experiment(rng, seeds, patients, training)
        low, high = (difference(measured, patients).interval(0.9)[end] for end in ("low", "high"))
        found += low > 0 or high < 0  # type: ignore[operator]
        resampled = (measured[0] - measured[1]).mean(0)[1:]
        low, high = np.quantile(resampled, [0.05, 0.95])
        found_without_seeds += low > 0 or high < 0
    assert 0.05 <= found / 400 <= 0.14
    assert training < 0.5 or found_without_seeds / 400 > 0.3  # what a bootstrap of patients alone would claim


def test_arms_that_vary_more_than_the_others_are_not_measured_by_the_others() -> None:
    rng = np.random.default_rng(3)
    found, found_pooled = 0, 0
    for _ in range(400):
        training = np.array([0.8, 0.8, 0.4, 0.4, 0.4]).reshape(5, 1, 1) * rng.normal(0, 1, (5, 5, 1))
        measured = training + experiment(rng, 5, 30, 0.0)[1] / 4
        between = seed_variance(measured[:, :, 0])
        one = difference(measured, 30)
        pooled = between.value / 5
        low, high = (one.interval(0.95)[end] for end in ("low", "high"))
        found += low > 0 or high < 0  # type: ignore[operator]
        found_pooled += abs(one.mean) > 2.12 * pooled**0.5  # Student's t of 16 degrees of freedom
    assert found / 400 <= 0.1
    assert found_pooled / 400 > 0.11


def test_an_effect_of_the_minimum_size_is_found_four_times_in_five() -> None:
    rng = np.random.default_rng(1)
    effect = np.mean([difference(experiment(rng, 3, 30, 0.2)[1], 30).minimum_effect(0.95) for _ in range(50)])
    found = 0
    for _ in range(300):
        low = difference(experiment(rng, 3, 30, 0.2, effect=float(effect))[1], 30).interval(0.95)["low"]
        found += low > 0  # type: ignore[operator]
    assert 0.7 <= found / 300 <= 0.9


def test_more_seeds_narrow_what_training_adds_and_nothing_else() -> None:
    rng = np.random.default_rng(2)
    few, many = (
        np.mean([difference(experiment(rng, s, 30, 1.0)[1], 30).standard_error for _ in range(30)]) for s in (2, 18)
    )
    assert 1.8 < few / many < 3.2  # 3 if there were no patients
    few, many = (
        np.mean([difference(experiment(rng, s, 30, 0.0)[1], 30).standard_error for _ in range(30)]) for s in (2, 18)
    )
    assert few / many < 1.3


def test_too_few_patients_have_no_interval_and_one_seed_is_refused() -> None:
    _, measured = experiment(np.random.default_rng(0), 2, 30, 0.1)
    few = difference(measured, MIN_PATIENTS - 1)
    assert few.interval(0.95) == {"mean": round(few.mean, 4), "low": None, "high": None}
    assert few.minimum_effect(0.95) is None
    with pytest.raises(ValueError, match="two seeds"):
        seed_variance(measured[:, :1, 0])


def test_where_nothing_varies_there_is_no_interval_and_no_effect_that_would_be_seen() -> None:
    """All arms perfect on every patient, say: an interval of no width would be sure of what nobody knows."""
    found = difference(np.ones((3, 2, 20)), 30)
    assert found.interval(0.95) == {"mean": 0.0, "low": None, "high": None}
    assert found.minimum_effect(0.95) is None


def test_every_arm_tells_how_much_training_varies_also_one_that_is_not_compared() -> None:
    _, values = experiment(np.random.default_rng(4), 3, 30, 0.2)
    measured = dict(zip("abcde", values, strict=True))
    found = paired_differences(measured, ["a", "b"], iter(["c", "d"]), 30)
    between = seed_variance(values[:, :, 0])
    assert found == {
        arm: {control: paired_difference(measured[arm], measured[control], 30, between) for control in "cd"}
        for arm in "ab"
    }
    of_fewer = paired_differences({arm: measured[arm] for arm in "abcd"}, ["a"], ["c"], 30)
    assert of_fewer["a"]["c"].standard_error != found["a"]["c"].standard_error


def test_an_interval_ends_where_differences_of_shares_do() -> None:
    assert Difference(0.82, 0.1, 30).interval(0.99)["high"] == 1
    assert Difference(-0.82, 0.1, 30).interval(0.99)["low"] == -1
