"""The display chain against pydicom's own, and the refusals."""

import io
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.pixels.processing import apply_windowing

from tasks.dicom import apply_window
from tasks.film import read_film
from tasks.reading import Reading, Refused
from tests.tasks.films import make_film, ramp


def to_bytes(film: pydicom.Dataset) -> bytes:
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, film, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_agree_with_pydicom(function: str) -> None:
    film = make_film(ramp(), WindowCenter=1800, WindowWidth=1500, VOILUTFunction=function)
    expected = apply_windowing(ramp(), film) / 4095
    np.testing.assert_allclose(apply_window(ramp(), 1800, 1500, function), expected, atol=1e-5)
    np.testing.assert_allclose(read_film(to_bytes(film)).pixels, expected, atol=1e-5)


def test_rescale_comes_before_the_window() -> None:
    film = make_film(ramp(), RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=3095, WindowWidth=8190)
    shown = read_film(to_bytes(film)).pixels
    np.testing.assert_allclose(shown, ramp() / 4095, atol=1e-3)


def test_monochrome1_is_inverted() -> None:
    plain = read_film(to_bytes(make_film(ramp(), WindowCenter=2048, WindowWidth=4096))).pixels
    window: dict[str, Any] = {"WindowCenter": 2048, "WindowWidth": 4096}
    inverted = read_film(to_bytes(make_film(ramp(), PhotometricInterpretation="MONOCHROME1", **window))).pixels
    np.testing.assert_allclose(inverted, 1 - plain, atol=1e-6)


def test_the_first_of_several_windows_counts() -> None:
    several = make_film(ramp(), WindowCenter=[1000, 3000], WindowWidth=[500, 800])
    first = make_film(ramp(), WindowCenter=1000, WindowWidth=500)
    np.testing.assert_array_equal(read_film(to_bytes(several)).pixels, read_film(to_bytes(first)).pixels)


def test_without_a_window_a_few_extreme_pixels_do_not_set_the_range() -> None:
    pixels = ramp(64, top=1000)
    pixels[0, 0] = 4095
    shown = read_film(to_bytes(make_film(pixels))).pixels
    assert shown.min() == 0
    assert np.median(shown) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    "odd",
    [{"WindowCenter": 0, "WindowWidth": 0}, {"RescaleSlope": None, "RescaleIntercept": None}, {"VOILUTSequence": []}],
)
def test_what_vendors_leave_empty_is_as_if_absent(odd: dict[str, Any]) -> None:
    film = make_film(ramp())
    for keyword, value in odd.items():
        setattr(film, keyword, value)
    shown = read_film(to_bytes(film)).pixels
    np.testing.assert_array_equal(shown, read_film(to_bytes(make_film(ramp()))).pixels)


def test_padding_is_black_and_outside_the_range() -> None:
    pixels = ramp(64, top=1000)
    pixels[:, :20] = 4000
    shown = read_film(to_bytes(make_film(pixels, PixelPaddingValue=4000))).pixels
    assert (shown[:, :20] == 0).all()
    assert shown[:, 20:].max() == 1


@pytest.mark.parametrize("bits", [8, 16])
def test_pictures_are_read(bits: int) -> None:
    grey = ramp(64, top=2**bits - 1).astype(f"uint{bits}")
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, format="PNG")
    film = read_film(buffer.getvalue())
    np.testing.assert_allclose(film.pixels, grey / (2**bits - 1), atol=0.012)  # 16 bits: the percentile range
    assert film.facts["bits"] == bits


@pytest.mark.parametrize(
    ("reason", "elements"),
    [
        ("not_a_radiograph", {"Modality": "CT"}),
        ("no_pixel_data", {"PixelData": None}),
        ("burned_in_annotation", {"BurnedInAnnotation": "YES"}),
        ("multi_frame", {"NumberOfFrames": 3}),
        ("not_monochrome", {"PhotometricInterpretation": "PALETTE COLOR"}),
        ("truncated", {"PixelData": b"\0\0"}),
    ],
)
def test_refusals_by_the_header(reason: str, elements: dict[str, Any]) -> None:
    with pytest.raises(Refused) as refused:
        read_film(to_bytes(make_film(ramp(), **elements)))
    assert refused.value.reason == reason


def test_a_giant_is_refused_before_decoding() -> None:
    film = make_film(ramp())
    film.Rows = film.Columns = 65535
    assert film.Rows * film.Columns > Reading().max_pixels
    with pytest.raises(Refused, match="65535 x 65535"):
        read_film(to_bytes(film))


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x89PNG\r\n broken", b"\xff\xd8\xff", b"\0" * 128 + b"DICM" + b"\x08"]
)
def test_damaged_files_are_refused_and_never_raise_anything_else(content: bytes) -> None:
    with pytest.raises(Refused):
        read_film(content)


def test_facts_are_coded_values_only() -> None:
    film = make_film(
        ramp(), PatientSex="F", PatientAge="067Y", ViewPosition="PA", PatientComments="DOE JANE", StudyID="42"
    )
    facts = read_film(to_bytes(film)).facts
    assert (facts["sex"], facts["age_decade"], facts["view"]) == ("F", 60, "PA")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_values_are_dropped_and_not_quoted_in_a_log(
    caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    film = make_film(ramp(), PatientBirthDate="JANE DOE", WindowWidth=4096, WindowCenter=2048)
    film.PatientSex, film.ViewPosition, film.PatientAge = "JANE", "DOE", "JANE"
    content = to_bytes(film)
    caplog.clear()
    recwarn.clear()
    facts = read_film(content).facts
    assert not caplog.records
    assert not recwarn.list
    assert (facts["sex"], facts["age_decade"], facts["view"]) == ("", "", "")
