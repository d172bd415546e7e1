"""MS-SSIM against pytorch-msssim, the Fréchet distance against its closed form, and the encoder."""

import numpy as np
import pytest
import torch
from pytorch_msssim import ms_ssim as reference

from model.measures.encoder import EncoderConfig, encode, train_encoder
from model.measures.similarity import (
    MS_SSIM_WEIGHTS,
    balanced_pairs,
    frechet_distance,
    mean_of_pairs,
    ms_ssim,
    ms_ssim_pairs,
    ms_ssim_scales,
)


def blobs(n: int, side: int, seed: int = 0) -> np.ndarray:
    """(n, side, side) uint8: two soft discs of varying place and size, smooth as a film is."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    images = np.zeros((n, side, side))
    for _ in range(2):
        cy, cx = rng.uniform(0.25, 0.75, (2, n, 1, 1))
        width = rng.uniform(0.08, 0.25, (n, 1, 1))
        images += np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * width**2))
    return (images / images.max((1, 2), keepdims=True) * 230).astype(np.uint8)


@pytest.mark.parametrize(("side", "scales"), [(64, 3), (96, 4), (192, 5)])
def test_ms_ssim_agrees_with_the_reference(side: int, scales: int) -> None:
    assert ms_ssim_scales(side) == scales
    a, b = (torch.from_numpy(blobs(8, side, seed)).float()[:, None] for seed in (0, 1))
    weights = np.array(MS_SSIM_WEIGHTS[:scales])
    if scales == 5:
        expected = reference(a, b, data_range=255, size_average=False)
    else:  # the reference asserts room for five scales before it looks at the weights
        from pytorch_msssim.ssim import _fspecial_gauss_1d, _ssim

        window = _fspecial_gauss_1d(11, 1.5).repeat(1, 1, 1, 1)
        expected, x, y = torch.ones(8), a, b
        for k, weight in enumerate(weights / weights.sum()):
            ssim, structure = (part.relu() for part in _ssim(x, y, data_range=255, win=window, size_average=False))
            expected = expected * (ssim if k == scales - 1 else structure)[:, 0] ** weight
            x, y = (torch.nn.functional.avg_pool2d(t, 2, padding=[s % 2 for s in t.shape[2:]]) for t in (x, y))
    torch.testing.assert_close(ms_ssim(a / 255, b / 255), expected, atol=1e-4, rtol=0)


def test_pairs_are_of_different_images_and_repeatable() -> None:
    two = np.stack([np.zeros((32, 32)), np.full((32, 32), 255)]).astype(np.uint8)
    assert ms_ssim_pairs(two, 50).max() < 0.1
    images = blobs(20, 32)
    np.testing.assert_array_equal(ms_ssim_pairs(images, 30, seed=1), ms_ssim_pairs(images, 30, seed=1))


@pytest.mark.parametrize(("n", "pairs"), [(2, 50), (9, 20), (10, 100), (70, 150)])
def test_every_pair_comes_once_and_every_image_equally_often(n: int, pairs: int) -> None:
    index = balanced_pairs(n, pairs, seed=3)
    assert len(index) == min(pairs, n * (n - 1) // 2)
    assert len({frozenset(pair) for pair in index.tolist()}) == len(index)
    assert (index[:, 0] != index[:, 1]).all()
    assert np.ptp(np.bincount(index.ravel(), minlength=n)) <= 2
    images = blobs(n, 32)
    a, b = (torch.from_numpy(images[ends]).float()[:, None] / 255 for ends in index.T)
    np.testing.assert_allclose(ms_ssim_pairs(images, pairs, seed=3), ms_ssim(a, b), atol=1e-6)


@pytest.mark.parametrize("pairs", [40, 400])
def test_the_interval_of_pairs_holds_the_mean_as_often_as_it_says(pairs: int) -> None:
    """Pairs share images, so intervals of independent pairs would hold it far less often."""
    rng, index, hits, naive = np.random.default_rng(0), balanced_pairs(40, pairs), 0, 0
    for _ in range(400):
        x = rng.uniform(0, 0.5, 40)
        values = 0.25 + (x[index] - 0.25).sum(1) / 2 + rng.normal(0, 0.02, len(index))
        _, low, high = mean_of_pairs(values, index)
        hits += low <= 0.25 <= high
        naive += abs(values.mean() - 0.25) <= 1.96 * values.std() / len(values) ** 0.5
    assert 0.91 <= hits / 400 <= 0.98
    assert naive / 400 < (0.88 if pairs == 40 else 0.4)


def test_one_image_repeated_has_no_variety() -> None:
    images = blobs(20, 64)
    assert ms_ssim_pairs(np.repeat(images[:1], 20, axis=0), 50).min() > 0.999
    assert ms_ssim_pairs(images, 50).mean() < 0.8


@pytest.mark.parametrize("shape", [(1, 64, 64), (5, 8, 8)])
def test_too_few_or_too_small_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="two images of at least 11"):
        ms_ssim_pairs(np.zeros(shape, dtype=np.uint8), 3)


def test_frechet_distance_of_gaussians() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(20000, 3)), rng.normal(size=(20000, 3)) * 2 + [1, 0, 0]
    assert frechet_distance(a, b) == pytest.approx(1 + 3 * (2 - 1) ** 2, rel=0.03)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))


def test_frechet_distance_equals_the_trace_of_the_matrix_root() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200, 12)) @ rng.normal(size=(12, 12)), rng.normal(size=(90, 12))
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).real).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + sum(map(np.trace, covariances)) - 2 * root
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(a[:8], b[:9]) >= 0


def test_frechet_distance_with_fewer_images_than_features() -> None:
    rng = np.random.default_rng(0)
    assert np.isfinite(frechet_distance(rng.normal(size=(5, 64)), rng.normal(size=(7, 64))))


def test_the_encoder_learns_to_tell_what_was_changed() -> None:
    _, losses = train_encoder(blobs(160, 32), EncoderConfig(steps=120))
    assert np.mean(losses[-10:]) < 0.85 * np.mean(losses[:10])


def test_the_encoder_is_the_same_for_a_seed() -> None:
    images = blobs(20, 32)
    first, second = (train_encoder(images, EncoderConfig(steps=3))[0] for _ in range(2))
    np.testing.assert_array_equal(encode(first, images), encode(second, images))
