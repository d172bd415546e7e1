"""Films to squares: area averaging in the right place, whatever the shape of film and pixel."""

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.ingest.films.display import all_values, look_up, percentile_range
from tasks.ingest.films.film import Film
from tasks.ingest.films.resize import to_square
from tasks.params import Fit


def reduced(pixels: np.ndarray, step: int) -> Film:
    """A film decoded at reduced resolution by block averages, as JPEG does it; the last blocks are smaller."""
    rows, columns = pixels.shape
    sums = np.add.reduceat(np.add.reduceat(pixels, range(0, rows, step), 0), range(0, columns, step), 1)
    areas = np.add.reduceat(np.add.reduceat(np.ones_like(pixels), range(0, rows, step), 0), range(0, columns, step), 1)
    return Film(sums / areas, pixels.shape, step, step / 2)


@given(st.integers(40, 90), st.integers(40, 90), st.sampled_from([2, 4]), st.sampled_from(["pad", "crop", "stretch"]))
def test_reduced_films_agree_with_whole_ones(rows: int, columns: int, step: int, fit: Fit) -> None:
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    pixels = 0.5 + 0.25 * np.sin(x / 17) + 0.25 * np.cos(y / 13)
    whole, small = (to_square(film, 8, fit).astype(int) for film in (Film(pixels, pixels.shape), reduced(pixels, step)))
    # Cropping to whole pixels moves the frame by up to half of one.
    assert np.abs(whole - small).max() <= (8 if fit == "crop" else 3)


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize(("aspect", "columns"), [(2.0, 32), (0.5, 32), (1.0, 64)])
def test_pixels_that_are_not_square_become_so(aspect: float, columns: int, step: int) -> None:
    """64 rows of pixels twice as high as wide stand for a film four times as high as 32 columns are wide."""
    pixels = np.ones((64, columns), dtype=np.float32)
    film = Film(pixels, pixels.shape, aspect=aspect) if step == 1 else reduced(pixels, step)
    film = Film(film.pixels, film.shape, film.step, film.first, aspect)
    image = to_square(film, 16)
    height, width = (image > 0).any(1).sum(), (image > 0).any(0).sum()
    assert height / width == pytest.approx(64 * aspect / columns, rel=0.1)


def test_clahe_spreads_contrast_and_leaves_margins_black() -> None:
    flat = (0.5 + 0.02 * np.random.default_rng(0).random((128, 64))).astype(np.float32)
    film = Film(flat, flat.shape)
    plain, equalised = to_square(film, 64), to_square(film, 64, clahe_clip=4.0)
    assert equalised[:, 16:48].std() > 3 * plain[:, 16:48].std()
    assert not equalised[:, :16].any()
    assert not equalised[:, 48:].any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("signed", [False, True])
def test_percentiles_from_a_histogram_are_those_of_numpy(dtype: Any, signed: bool) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (37, 41)).astype(dtype)
    values = all_values(pixels, 8, signed)
    shown = values[pixels].astype(float)
    expected = np.percentile(shown, (0.5, 99.5))
    np.testing.assert_allclose(percentile_range(pixels, values, np.ones(len(values), bool)), expected)
    inner = shown[shown > 20]
    np.testing.assert_allclose(percentile_range(pixels, values, values > 20), np.percentile(inner, (0.5, 99.5)))


def test_looking_up_is_indexing() -> None:
    rng = np.random.default_rng(0)
    for dtype in (np.uint8, np.uint16):
        table = rng.random(np.iinfo(dtype).max + 1, dtype=np.float32)
        pixels = rng.integers(0, len(table), (5, 7)).astype(dtype)
        np.testing.assert_array_equal(look_up(pixels, table), table[pixels])


def test_averaging_is_that_of_opencv() -> None:
    pixels = np.random.default_rng(0).random((100, 60), dtype=np.float32)
    expected = np.rint(cv2.resize(pixels, (30, 50), interpolation=cv2.INTER_AREA) * 255)
    np.testing.assert_array_equal(to_square(Film(pixels, (100, 60)), 50)[:, 10:40], expected)
