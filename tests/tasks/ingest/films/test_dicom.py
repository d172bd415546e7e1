"""The display chain against pydicom's own, and the refusals."""

import io
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_windowing

from tasks.ingest.films.decode import read_film
from tasks.ingest.films.display import apply_window
from tasks.ingest.films.film import Reading, Refused
from tasks.ingest.films.resize import to_square
from tests.tasks.films import encode, make_film, ramp


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
    [
        {"WindowCenter": 0, "WindowWidth": 0},
        {"WindowCenter": [], "WindowWidth": 400},
        {"RescaleSlope": None, "RescaleIntercept": None},
        {"VOILUTSequence": []},
        {"PresentationLUTSequence": []},
        {"PresentationLUTSequence": [Dataset()]},
    ],
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
        ("synthetic", {"SyntheticData": "YES"}),
        ("for_processing", {"PresentationIntentType": "FOR PROCESSING"}),
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


def windows(**more: Any) -> pydicom.Dataset:
    """A film with two windows, named NORMAL and LUNG."""
    explained: dict[str, Any] = {"WindowCenterWidthExplanation": ["NORMAL", "LUNG"]}
    return make_film(ramp(), WindowCenter=[2048, 1000], WindowWidth=[4096, 500], **explained, **more)


@pytest.mark.parametrize(
    ("name", "centre", "width", "display"),
    [("", 2048, 4096, "window"), ("lung ", 1000, 500, "named window"), ("BONE", 2048, 4096, "window")],
)
def test_a_window_by_name(name: str, centre: int, width: int, display: str) -> None:
    """A file without a window of that name is shown by its first, and the manifest says so."""
    film = read_film(to_bytes(windows()), Reading(window=name))
    np.testing.assert_allclose(film.pixels, apply_window(ramp(), centre, width), atol=1e-6)
    assert film.facts["display"] == display


def lut(name: str, data: list[int]) -> pydicom.Dataset:
    """An item of VOILUTSequence for 12 bits in, 8 bits out."""
    item = pydicom.Dataset()
    item.LUTDescriptor, item.LUTExplanation = [len(data), 0, 8], name
    item.LUTData = np.array(data, dtype=np.uint16).tobytes()
    return item


def test_lookup_tables_come_before_windows_unless_a_window_is_named() -> None:
    bright, dark = (lut(name, [value] * 4096) for name, value in (("BRIGHT", 204), ("DARK", 51)))
    content = to_bytes(windows(VOILUTSequence=[bright, dark]))
    shown = {name: read_film(content, Reading(window=name)) for name in ("", "dark", "LUNG")}
    assert shown[""].pixels.mean() == pytest.approx(0.8)
    assert shown["dark"].pixels.mean() == pytest.approx(0.2)
    np.testing.assert_allclose(shown["LUNG"].pixels, apply_window(ramp(), 1000, 500), atol=1e-6)
    assert [film.facts["display"] for film in shown.values()] == ["VOI LUT", "named VOI LUT", "named window"]


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted"),
    [
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME1", "INVERSE", True),  # as every DX film of this kind is written: one inversion, not two
        ("MONOCHROME1", None, True),
        ("MONOCHROME2", "INVERSE", True),
    ],
)
def test_inverse_presentation(photometric: str, shape: str | None, inverted: bool) -> None:
    more: dict[str, Any] = {"PresentationLUTShape": shape} if shape else {}
    content = to_bytes(
        make_film(ramp(), WindowCenter=2048, WindowWidth=4096, PhotometricInterpretation=photometric, **more)
    )
    expected = apply_window(ramp(), 2048, 4096)
    np.testing.assert_allclose(read_film(content).pixels, 1 - expected if inverted else expected, atol=1e-6)


@pytest.mark.parametrize(("value", "limit", "count"), [(0, None, 1), (0, 1000, 8), (4095, 3000, 9), (9999, None, 0)])
def test_a_range_of_padding(value: int, limit: int | None, count: int) -> None:
    """PixelPaddingRangeLimit may lie on either side of PixelPaddingValue (PS3.3 C.7.5.1.1.2)."""
    more: dict[str, Any] = {"PixelPaddingRangeLimit": limit} if limit is not None else {}
    window: dict[str, Any] = {"WindowCenter": -2000, "WindowWidth": 2}  # everything else is white
    film = make_film(ramp(), PixelPaddingValue=value, PhotometricInterpretation="MONOCHROME2", **window, **more)
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        if keyword in film:
            film[keyword].VR = "US"
    assert (read_film(to_bytes(film)).pixels[0] == 0).sum() == count


@pytest.mark.parametrize(
    ("elements", "reason", "kept_by"),
    [
        ({"ViewPosition": "LL"}, "lateral_view", Reading(lateral="take")),
        ({"ViewPosition": "LATERAL"}, "lateral_view", Reading(lateral="take")),
        ({"BodyPartExamined": "EXTREMITY"}, "not_a_chest", Reading(body_part="any")),
        ({"BodyPartExamined": "LUMBAR SPINE"}, "not_a_chest", Reading(body_part="any")),
        ({"PatientSpeciesDescription": "Canis lupus"}, "not_human", None),
        ({"InstitutionName": "Veterinary hospital"}, "not_human", None),
    ],
)
def test_films_that_are_no_frontal_chest_of_a_human(
    elements: dict[str, Any], reason: str, kept_by: Reading | None
) -> None:
    content = to_bytes(make_film(ramp(), **elements))
    with pytest.raises(Refused) as refused:
        read_film(content)
    assert refused.value.reason == reason
    if kept_by:
        assert read_film(content, kept_by).shape == (32, 32)


def test_a_lateral_view_by_its_code() -> None:
    code = pydicom.Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "399173006", "SCT", "left lateral"
    with pytest.raises(Refused, match="lateral"):
        read_film(to_bytes(make_film(ramp(), ViewCodeSequence=[code])))


@pytest.mark.parametrize(
    "elements",
    [
        {"ViewPosition": "PA", "BodyPartExamined": "CHEST", "PatientSpeciesDescription": "Homo sapiens"},
        {"ViewPosition": "AP", "BodyPartExamined": "TORAX"},  # what a Spanish modality writes
        {"BodyPartExamined": "RIBCAGE", "InstitutionName": "St. Elsewhere"},
    ],
)
def test_what_may_be_a_frontal_chest_is_taken(elements: dict[str, Any]) -> None:
    assert read_film(to_bytes(make_film(ramp(), **elements))).shape == (32, 32)


@pytest.mark.parametrize(
    ("elements", "aspect"),
    [
        ({"PixelSpacing": [0.2, 0.1]}, 2),
        ({"ImagerPixelSpacing": [0.1, 0.2]}, 0.5),
        ({"PixelAspectRatio": [3, 2]}, 1.5),
        ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.2, 0.1]}, 2),
        ({"PixelSpacing": [50, 0.1]}, 1),  # no detector has such pixels
        ({}, 1),
    ],
)
def test_the_shape_of_a_pixel(elements: dict[str, Any], aspect: float) -> None:
    assert read_film(to_bytes(make_film(ramp(), **elements))).aspect == pytest.approx(aspect)


@pytest.mark.parametrize("encoding", ["implicit", "explicit", "big_endian"])
def test_a_data_set_without_preamble_and_meta_header(encoding: str) -> None:
    film = make_film(ramp(), WindowCenter=2048, WindowWidth=4096)
    content = encode(film, encoding)
    length = int.from_bytes(content[140:144], "little")
    np.testing.assert_array_equal(read_film(content[144 + length :]).pixels, read_film(to_bytes(film)).pixels)


def test_a_missing_transfer_syntax_is_found_out() -> None:
    film = make_film(ramp(), WindowCenter=2048, WindowWidth=4096)
    content = to_bytes(film).replace(b"UI\x14\x001.2.840.10008.1.2.1\x00", b"UI\x14\x00" + b"\0" * 20)
    header = pydicom.dcmread(io.BytesIO(content))
    del header.file_meta.TransferSyntaxUID
    changed = io.BytesIO()
    pydicom.dcmwrite(changed, header, implicit_vr=False, little_endian=True, enforce_file_format=False)
    np.testing.assert_array_equal(read_film(changed.getvalue()).pixels, read_film(to_bytes(film)).pixels)


def test_the_tag_that_holds_the_label() -> None:
    content = to_bytes(make_film(ramp(), StudyDescription="pneumonia", ImageType=["ORIGINAL", "PRIMARY"]))
    assert read_film(content).label == ""
    assert read_film(content, Reading(label_tag="StudyDescription", label_values=("pneumonia",))).label == "pneumonia"
    assert read_film(content, Reading(label_tag="StudyDescription", label_values=("normal",))).label == ""
    both = Reading(label_tag="ImageType", label_values=("PRIMARY", "ORIGINAL"))
    assert read_film(content, both).label == "ORIGINAL\\PRIMARY"


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_pictures_of_sixteen_bits(kind: str) -> None:
    film = read_film(saved(Image.fromarray((ramp(64) * 16).astype(np.uint16)), kind))
    assert film.facts["bits"] == 16
    low, high = np.percentile(ramp(64), (0.5, 99.5))
    np.testing.assert_allclose(film.pixels, np.clip((ramp(64) - low) / (high - low), 0, 1), atol=1e-3)


def test_tiff_whose_white_is_zero_is_inverted() -> None:
    pixels = (ramp(64) * 16).astype(np.uint16)
    plain, inverted = (saved(Image.fromarray(pixels), "TIFF", tiffinfo={262: white}) for white in (1, 0))
    np.testing.assert_allclose(read_film(inverted).pixels, 1 - read_film(plain).pixels, atol=1e-3)


def test_large_jpeg_pictures_are_decoded_reduced() -> None:
    grey = np.rint(np.outer(np.linspace(0, 1, 500), np.linspace(0, 255, 700))).astype(np.uint8)
    content = saved(Image.fromarray(grey), "JPEG", quality=95)
    film = read_film(content, Reading(size=64))
    assert (film.step, film.shape) == (8, (500, 700))
    full = to_square(read_film(content), 64).astype(int)
    assert np.abs(to_square(film, 64) - full).max() <= 2


BLACK = Image.new("L", (32, 32))


@pytest.mark.parametrize(
    ("reason", "content"),
    [
        ("not_monochrome", saved(Image.new("RGB", (32, 32), (200, 20, 20)), "PNG")),
        (
            "multi_frame",
            saved(Image.new("L", (32, 32)), "TIFF", save_all=True, append_images=[Image.new("L", (32, 32))]),
        ),
        ("truncated", saved(Image.effect_noise((64, 64), 50), "JPEG")[:-500]),
        ("truncated", saved(Image.effect_noise((64, 64), 50), "PNG")[:-500]),
        ("unsupported_encoding", saved(Image.new("F", (32, 32)), "TIFF")),
    ],
)
def test_pictures_that_are_refused(reason: str, content: bytes) -> None:
    with pytest.raises(Refused) as refused:
        read_film(content)
    assert refused.value.reason == reason


def test_a_grey_picture_in_colour_channels_is_taken() -> None:
    grey = ramp(64, 255).astype(np.uint8)
    film = read_film(saved(Image.fromarray(np.dstack([grey] * 3)), "PNG"))
    np.testing.assert_allclose(film.pixels, grey / 255, atol=1e-6)


def test_a_window_that_is_no_number_is_as_if_absent() -> None:
    content = to_bytes(make_film(ramp(), WindowCenter=2048, WindowWidth=4096))
    damaged = read_film(content.replace(b"2048", b"ab,c"))
    np.testing.assert_array_equal(damaged.pixels, read_film(to_bytes(make_film(ramp()))).pixels)


def test_turned_pictures_are_shown_upright() -> None:
    grey = np.rint(np.outer(np.linspace(0, 1, 60), np.linspace(0, 255, 40))).astype(np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned to the right by 90 degrees
    for kind in ("JPEG", "PNG"):
        film = read_film(saved(Image.fromarray(grey), kind, exif=turned))
        assert film.shape == (40, 60), kind
        np.testing.assert_allclose(film.pixels, np.rot90(grey, -1) / 255, atol=0.03, err_msg=kind)


def test_slender_jpeg_pictures_are_reduced_alike_on_both_sides() -> None:
    grey = np.tile(np.linspace(0, 255, 9).astype(np.uint8), (1500, 1))
    film = read_film(saved(Image.fromarray(grey), "JPEG", quality=95), Reading(size=64, fit="stretch"))
    assert film.pixels.shape == tuple(-(-side // film.step) for side in film.shape)


@pytest.mark.parametrize(
    "part",
    [
        *("L-SPINE", "L KNEE", "LOWEREXTREMITY", "ABDOMENPELVIS", "WHOLEBODY", "HANDGELENK", "Knee, left", "C SPINE"),
        *("LSPINE", "RT HAND", "UPPER_EXTREMITY", "HEAD & NECK", "HIP"),
    ],
)
def test_another_part_is_known_however_it_is_written(part: str) -> None:
    film = to_bytes(make_film(ramp(), BodyPartExamined=part))
    with pytest.raises(Refused) as refused:
        read_film(film)
    assert refused.value.reason == "not_a_chest"
    read_film(film, Reading(body_part="any"))


@pytest.mark.parametrize(
    "part",
    [
        *("", "CHEST", "THORAX", "TORAX", "RIBCAGE", "CHEST ABDOMEN", "CHEST, PORTABLE", "THORAX LIEGEND", "LUNGE"),
        *("PORTABLE", "BRUSTKORB", "CHESTABDPELVIS", "RTHORAX", "COLLEGE"),
    ],
)
def test_a_chest_in_whatever_words_is_taken(part: str) -> None:
    read_film(to_bytes(make_film(ramp(), BodyPartExamined=part)))


@pytest.mark.parametrize("keyword", ["SeriesDescription", "StudyDescription", "ProtocolName"])
def test_a_panorama_of_teeth_is_no_chest(keyword: str) -> None:
    elements: dict[str, Any] = {keyword: "Panorama, TEETH"}
    with pytest.raises(Refused, match="another part"):
        read_film(to_bytes(make_film(ramp(), **elements)))
    read_film(to_bytes(make_film(ramp(), BodyPartExamined="CHEST", **elements)))
    read_film(to_bytes(make_film(ramp(), **{keyword: "Chest before dental surgery"})))


@pytest.mark.parametrize(
    "elements",
    [
        {"PatientOrientation": ["A", "F"]},
        {"PatientOrientation": ["P", "F"], "ViewPosition": "PA"},
        {"PatientOrientation": ["F", "AR"]},
        {"SeriesDescription": "Thorax LAT"},
        {"SeriesDescription": "Thorax seitlich"},
        {"SeriesDescription": "CHEST LATERAL", "ViewPosition": "LL"},
    ],
)
def test_lateral_views_are_known_by_more_than_their_view(elements: dict[str, Any]) -> None:
    film = to_bytes(make_film(ramp(), **elements))
    with pytest.raises(Refused) as refused:
        read_film(film)
    assert refused.value.reason == "lateral_view"
    read_film(film, Reading(lateral="take"))


@pytest.mark.parametrize(
    "elements",
    [
        {"SeriesDescription": "Thorax PA LAT"},
        {"SeriesDescription": "Thorax p.a. / lat."},
        {"SeriesDescription": "Thorax LAT", "ViewPosition": "PA"},
        {"SeriesDescription": "LAT DECUBITUS"},
        {"SeriesDescription": "PLATE 2"},
        {"PatientOrientation": ["L", "F"]},
        {"PatientOrientation": ""},
        {"PatientOrientation": ["L", "P"]},
    ],
)
def test_frontal_views_are_taken(elements: dict[str, Any]) -> None:
    read_film(to_bytes(make_film(ramp(), **elements)))


@pytest.mark.parametrize("encoding", ["explicit", "jpeg_2000"])
@pytest.mark.parametrize("shape", [(512, 512), (500, 300)])
@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (["L", "F"], lambda film: film),
        (["LF", "FR"], lambda film: film),
        (["R", "F"], np.fliplr),
        (["L", "H"], np.flipud),
        (["R", "H"], lambda film: film[::-1, ::-1]),
        (["F", "L"], np.transpose),
        (["H", "L"], lambda film: np.transpose(film)[:, ::-1]),
        (["F", "R"], lambda film: np.transpose(film)[::-1]),
        (["nonsense"], lambda film: film),
    ],
)
def test_films_are_shown_upright(orientation: list[str], stored: Any, shape: tuple[int, int], encoding: str) -> None:
    """However they lie in the file: the patient's left is on the right, and the feet are below."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    upright = (3000 * np.exp(-((y - 120) ** 2 + (x - 90) ** 2) / 60**2) + y).astype(np.uint16)
    window: dict[str, Any] = {"WindowCenter": 2048, "WindowWidth": 4096}
    expected = to_square(read_film(encode(make_film(upright, **window), encoding), Reading(size=32)), 32)
    film = make_film(np.ascontiguousarray(stored(upright)), **window, PatientOrientation=orientation)
    found = to_square(read_film(encode(film, encoding), Reading(size=32)), 32)
    assert np.abs(found.astype(float) - expected).mean() < 1.5


def presentation(data: list[int], bits: int = 12) -> Dataset:
    """An item of PresentationLUTSequence."""
    item = Dataset()
    item.LUTDescriptor = [len(data), 0, bits]
    item.add_new("LUTData", "US", data)
    return item


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_presentation_lut_is_looked_up_after_the_window(photometric: str) -> None:
    """It gives grey levels from black to white, whatever the pixels' own polarity is (PS3.3 C.11.6)."""
    steps = np.linspace(0, 1, 256) ** 2
    window: dict[str, Any] = {"WindowCenter": 2048, "WindowWidth": 4096, "PhotometricInterpretation": photometric}
    item = presentation([round(4095 * step) for step in steps])
    shown = read_film(to_bytes(make_film(ramp(), **window, PresentationLUTSequence=[item]))).pixels
    np.testing.assert_allclose(shown, (ramp() / 4095) ** 2, atol=0.005)


@pytest.mark.parametrize("allocated", [8, 16])
@pytest.mark.parametrize("compressed", [False, True])
def test_eight_bits_without_a_window_are_shown_as_a_picture_of_them_is(allocated: int, compressed: bool) -> None:
    pixels = (40 + ramp(64, top=120)).astype(np.uint8)
    data = pixels.tobytes() if allocated == 8 else pixels.astype(np.uint16).tobytes()
    film = make_film(pixels, BitsAllocated=allocated, BitsStored=8, HighBit=7, PixelData=data)
    picture = io.BytesIO()
    Image.fromarray(pixels).save(picture, format="PNG")
    found = read_film(encode(film, "jpeg_2000") if compressed else to_bytes(film))
    expected = read_film(picture.getvalue())
    np.testing.assert_allclose(found.pixels, expected.pixels, atol=1e-6)
    assert found.facts["display"] == expected.facts["display"] == "as stored"
