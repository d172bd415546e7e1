"""The spectra have the decibels and the frequencies of what was planted, and a film's borders don't leak into them."""

import numpy as np
import pytest

from model.measures import spectrum
from model.measures.spectrum import excess_power, frequencies, grid_peaks, grid_power, radial_power

SIDE = 64


def grainy(n: int, sigma: float, seed: int = 0) -> np.ndarray:
    """(n, 64, 64) uint8: grey with noise of `sigma` levels."""
    return np.random.default_rng(seed).normal(128, sigma, (n, SIDE, SIDE)).round().astype(np.uint8)


def waves(period: float, height: float = 20) -> np.ndarray:
    """(1, 64, 64) uint8: vertical stripes of so many pixels."""
    return np.tile(128 + height * np.cos(2 * np.pi * np.arange(SIDE) / period), (1, SIDE, 1)).round().astype(np.uint8)


def test_noise_has_its_variance_at_all_frequencies() -> None:
    power = radial_power(grainy(60, 5)).mean(0)
    assert power.shape == frequencies(SIDE).shape == (SIDE // 2,)
    # Rounding adds a twelfth. At low frequencies few directions are averaged, and the mean of their logarithm is lower.
    assert power[7:] == pytest.approx(10 * np.log10(25 + 1 / 12), abs=0.5)


def test_a_wave_stands_at_its_frequency() -> None:
    for period in (16, 4, 2.5):
        power = radial_power(waves(period))[0]
        assert frequencies(SIDE)[power.argmax()] == pytest.approx(1 / period, abs=1 / SIDE)


def test_borders_that_do_not_meet_are_no_fine_detail(monkeypatch: pytest.MonkeyPatch) -> None:
    """From black on the left to white on the right; without the window it has as much detail as noise of ten levels."""
    ramp = np.tile(np.linspace(0, 255, SIDE), (1, SIDE, 1)).round().astype(np.uint8)
    assert radial_power(ramp)[0, SIDE // 4 :].max() < 0
    monkeypatch.setattr(np, "hanning", np.ones)
    assert radial_power(ramp)[0, SIDE // 4 :].min() > 5


def test_excess_is_the_difference_of_power_in_decibels() -> None:
    some = radial_power(grainy(40, 4))
    assert excess_power(some, radial_power(grainy(40, 8, seed=1))) == pytest.approx(6.0, abs=0.3)
    assert excess_power(some, radial_power(grainy(40, 2, seed=1))) == pytest.approx(-6.0, abs=0.3)
    assert excess_power(some, some) == 0


@pytest.mark.parametrize(("down", "across"), spectrum.GRIDS)
def test_a_faint_grid_is_seen_that_is_no_excess_of_detail(down: float, across: float) -> None:
    """A grid of one level in noise of four, along rows, columns or both, of two or four pixels."""
    y, x = np.mgrid[:SIDE, :SIDE]
    lines = np.cos(2 * np.pi * (down * y + across * x) + np.pi / 4) * 2**0.5
    films, others = grainy(40, 4), grainy(40, 4, seed=1)
    marred = (others + lines).round().astype(np.uint8)
    assert grid_power(grid_peaks(films), grid_peaks(others)) < 3
    assert grid_power(grid_peaks(films), grid_peaks(marred)) > 9
    assert abs(excess_power(radial_power(films), radial_power(marred))) < 0.7


def test_detail_without_a_period_is_no_grid() -> None:
    """However much of it there is."""
    assert grid_power(grid_peaks(grainy(40, 4)), grid_peaks(grainy(40, 16, seed=1))) < 3


def test_blank_images_have_a_spectrum() -> None:
    """A generator may have collapsed to one grey."""
    blank = np.full((3, 16, 16), 7, np.uint8)
    assert np.isfinite(excess_power(radial_power(grainy(3, 4)[:, :16, :16]), radial_power(blank)))
    assert grid_power(grid_peaks(blank), grid_peaks(blank)) == pytest.approx(0)


def test_many_films_are_looked_at_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    films = grainy(7, 4)
    at_once = radial_power(films), grid_peaks(films)
    monkeypatch.setattr(spectrum, "CHUNK_PIXELS", 2 * SIDE**2)
    for some, expected in zip((radial_power(films), grid_peaks(films)), at_once, strict=True):
        np.testing.assert_allclose(some, expected)
