"""Precision, recall, density, coverage and KID against their definitions, written out plainly."""

import numpy as np
import pytest

from model.measures.manifold import ROWS, Manifold, kid, manifold


def by_definition(real: np.ndarray, fake: np.ndarray, k: int) -> Manifold:
    """Equations 1 and 2 of arXiv 1904.06991, 3 and 5 of 2002.09797 (the package prdc computes the same)."""

    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.sqrt(((a[:, None] - b[None]) ** 2).sum(2))

    def radius(x: np.ndarray) -> np.ndarray:
        return np.array([np.sort(np.delete(row, i))[k - 1] for i, row in enumerate(distances(x, x))])

    between = distances(real, fake)
    inside = between < radius(real)[:, None]
    return Manifold(
        precision=float(inside.any(0).mean()),
        recall=float((between < radius(fake)[None]).any(1).mean()),
        density=float(inside.sum(0).mean() / k),
        coverage=float((between.min(1) < radius(real)).mean()),
    )


@pytest.mark.parametrize(("n", "m", "k", "width"), [(60, 45, 5, 1.0), (300, 2 * ROWS + 1, 3, 1.3), (257, 20, 1, 0.4)])
def test_it_equals_the_definition(n: int, m: int, k: int, width: float) -> None:
    rng = np.random.default_rng(n)
    real, fake = rng.normal(5, 1, (n, 6)), rng.normal(5.3, width, (m, 6))
    ours, expected = manifold(real, fake, k), by_definition(real, fake, k)
    for name, value in vars(expected).items():
        assert getattr(ours, name) == pytest.approx(value, abs=1e-12), name
        assert 0 < value < 1.2


def test_equal_features_have_no_distance() -> None:
    """A set of one image has balls without room, and a real image in it is not within them."""
    rng = np.random.default_rng(0)
    real = rng.normal(100, 1, (50, 64))
    repeated = manifold(real, np.repeat(real[:1], 50, axis=0))
    assert repeated.recall == 0
    assert repeated.precision == 1
    assert repeated.coverage < 0.5
    assert manifold(real, real).coverage == 1


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="5 and 9 images have no 5 neighbours"):
        manifold(np.zeros((5, 2)), np.zeros((9, 2)))
    with pytest.raises(ValueError, match="two images"):
        kid(np.zeros((1, 2)), np.zeros((9, 2)))


def test_kid_equals_its_definition() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 3)), rng.normal(0.5, 1, (5, 3))

    def kernel(u: np.ndarray, v: np.ndarray) -> float:
        return float((u @ v / 3 + 1) ** 3)

    expected = sum(kernel(x[i], x[j]) for i in range(7) for j in range(7) if i != j) / (7 * 6)
    expected += sum(kernel(y[i], y[j]) for i in range(5) for j in range(5) if i != j) / (5 * 4)
    expected -= 2 * float(np.mean([kernel(u, v) for u in x for v in y]))
    assert kid(x, y) == pytest.approx(expected, rel=1e-12)


def test_kid_is_unbiased_and_subsets_agree_with_the_whole() -> None:
    rng = np.random.default_rng(0)
    same = [kid(rng.normal(size=(20, 4)), rng.normal(size=(20, 4))) for _ in range(200)]
    assert abs(np.mean(same)) < 4 * np.std(same) / len(same) ** 0.5
    assert min(same) < 0
    a, b = rng.normal(size=(600, 4)), rng.normal(0.3, 1, (600, 4))
    assert kid(a, b, subset=200) == pytest.approx(kid(a, b), rel=0.15)
