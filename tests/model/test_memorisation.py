"""Planted copies are found, films of others are not, and what cannot be known is not claimed."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from model.memorisation import SIGNALS, Memory, Screen, calibrate

SIDE = 32


def make_films(count: int, seed: int, side: int = SIDE) -> np.ndarray:
    """uint8 (count, side, side): one anatomy for all, slow gradients and structures of their own."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    lungs = -60 * (
        np.exp(-((x - 0.3) ** 2 + (y - 0.5) ** 2) / 0.03) + np.exp(-((x - 0.7) ** 2 + (y - 0.5) ** 2) / 0.03)
    )
    films = 140 + lungs + 20 * rng.normal(size=(count, 1, 1)) * x + 20 * rng.normal(size=(count, 1, 1)) * y
    for sigma, strength in ((side / 32, 8), (side / 12, 12)):
        texture = gaussian_filter(rng.normal(size=films.shape), (0, sigma, sigma))
        films += strength * texture / texture.std()
    return np.clip(films, 0, 255).round().astype(np.uint8)


TRAIN, HELD_OUT, OTHERS = (make_films(n, seed) for seed, n in enumerate((150, 120, 100)))
PATIENTS = np.arange(len(HELD_OUT)) // 2


@pytest.fixture(scope="module")
def memory() -> Memory:
    return Memory(TRAIN, HELD_OUT)


@pytest.fixture(scope="module")
def screen(memory: Memory) -> Screen:
    return calibrate(memory, HELD_OUT, PATIENTS)


def moved(films: np.ndarray, down: int, right: int) -> np.ndarray:
    padded = np.pad(films, ((0, 0), (2, 2), (2, 2)), mode="edge")
    return padded[:, 2 + down : 2 + down + SIDE, 2 + right : 2 + right + SIDE]


def contrasted(films: np.ndarray, factor: float) -> np.ndarray:
    return np.clip(128 + factor * (films - 128.0), 0, 255).astype(np.uint8)


COPIES = {
    "exact": TRAIN[:60],
    "noisy": np.clip(TRAIN[:60] + np.random.default_rng(3).normal(0, 5, (60, SIDE, SIDE)), 0, 255).astype(np.uint8),
    "shifted": moved(TRAIN[:60], 1, -1),
    "flipped": TRAIN[:60, :, ::-1],
    "more contrast": contrasted(TRAIN[:60], 1.2),
    "less contrast": contrasted(TRAIN[:60], 0.8),
}


@pytest.mark.parametrize("kind", COPIES)
def test_planted_copies_are_found_with_their_film(kind: str, memory: Memory, screen: Screen) -> None:
    looks = memory.look(COPIES[kind])
    assert screen.reasons(looks.scores).any(1).mean() >= 0.95
    assert all((film == np.arange(60)).mean() >= 0.95 for film in looks.nearest.values())


def test_films_of_others_are_no_copies(memory: Memory, screen: Screen) -> None:
    assert screen.reasons(memory.look(OTHERS).scores).any(1).sum() <= 1
    assert screen.false_alarms is not None
    assert screen.false_alarms <= 0.02
    assert (screen.held_out, screen.leaked) == (120, 0)
    assert list(screen.threshold) == list(SIGNALS)


def test_brightness_contrast_and_a_mirror_change_no_score(memory: Memory) -> None:
    plain = memory.look(OTHERS[:20]).scores
    for changed in (OTHERS[:20, :, ::-1], OTHERS[:20] // 2 + 60):
        scores = memory.look(changed).scores
        for name in ("detail", "layout"):
            np.testing.assert_allclose(scores[name], plain[name], atol=0.04)


def test_an_excess_agrees_with_its_reason(memory: Memory, screen: Screen) -> None:
    scores = memory.look(np.concatenate([OTHERS, COPIES["noisy"]])).scores
    np.testing.assert_array_equal(screen.excess(scores) > 0, screen.reasons(scores))


def test_the_films_of_a_patient_are_not_compared_with_each_other() -> None:
    """Pairs of equal held-out films would make every one of them look far from the training films."""
    pairs = np.repeat(HELD_OUT[:60], 2, axis=0)
    memory, patients = Memory(TRAIN, pairs), np.repeat(np.arange(60), 2)
    apart = memory.look(pairs, patients[:, None] == patients[None]).scores["nearer_than_held_out"]
    assert memory.look(pairs).scores["nearer_than_held_out"].max() < 0.01 < apart.min()


def test_with_few_held_out_films_only_nearly_equal_images_count() -> None:
    few = HELD_OUT[:10]
    memory = Memory(TRAIN, few)
    screen = calibrate(memory, few, PATIENTS[:10])
    assert screen.false_alarms is None
    assert screen.reasons(memory.look(COPIES["exact"]).scores).all()
    assert not screen.reasons(memory.look(OTHERS).scores).any()


def test_nothing_held_out_at_all() -> None:
    memory = Memory(TRAIN, HELD_OUT[:0])
    screen = calibrate(memory, HELD_OUT[:0], PATIENTS[:0])
    assert (screen.false_alarms, screen.held_out) == (None, 0)
    assert screen.reasons(memory.look(TRAIN[:5]).scores).all()


def test_a_held_out_film_that_is_a_training_film_spoils_no_threshold(screen: Screen) -> None:
    held_out = np.concatenate([HELD_OUT, TRAIN[:2]])
    leaky = calibrate(Memory(TRAIN, held_out), held_out, np.append(PATIENTS, [900, 901]))
    assert (leaky.held_out, leaky.leaked) == (120, 2)
    assert leaky.threshold["detail"] == pytest.approx(screen.threshold["detail"], abs=0.01)


def test_flat_images_are_no_copies(memory: Memory, screen: Screen) -> None:
    flat = np.stack([np.full((SIDE, SIDE), grey, np.uint8) for grey in (0, 100, 255)])
    scores = memory.look(flat).scores
    assert all(np.isfinite(values).all() for values in scores.values())
    assert not screen.reasons(scores).any()


@pytest.mark.parametrize("side", [16, 128])
def test_other_sizes(side: int) -> None:
    train, held_out, others = (make_films(n, seed, side) for seed, n in enumerate((40, 40, 20)))
    memory = Memory(train, held_out)
    screen = calibrate(memory, held_out, np.arange(40))
    assert screen.reasons(memory.look(train[:20, :, ::-1]).scores).any(1).all()
    assert screen.reasons(memory.look(others).scores).any(1).sum() <= 1


def test_nothing_looked_at(memory: Memory, screen: Screen) -> None:
    looks = memory.look(TRAIN[:0])
    assert screen.reasons(looks.scores).shape == (0, 4)
    assert {len(film) for film in looks.nearest.values()} == {0}


@pytest.mark.parametrize("wrong", [TRAIN[:0], TRAIN.astype(np.float32), TRAIN[0], TRAIN[:, :16, :16]])
def test_what_cannot_be_compared_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"images \(N, H, W\) of one size|no training films"):
        Memory(wrong, HELD_OUT)
