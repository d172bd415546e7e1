"""Every transfer syntax against pydicom's own decoding, at full and at reduced resolution."""

import io
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.processing import apply_voi
from pydicom.uid import JPEG2000

from tasks.ingest.films.decode import read_film
from tasks.ingest.films.film import Reading, Refused
from tasks.ingest.films.resize import to_square
from tests.tasks.films import ENCODINGS, LOSSY, encode, make_film

LOSSLESS = [name for name in ENCODINGS if name not in LOSSY]
REDUCED = {"jpeg_baseline", "jpeg_2000", "jpeg_2000_lossy", "htj2k", "htj2k_lossy"}
WINDOW: dict[str, Any] = {"WindowCenter": 1500, "WindowWidth": 2500}


def anatomy(rows: int = 301, columns: int = 251) -> np.ndarray:
    """(rows, columns) uint16, 12 bits: smooth with edges and a little noise, sides odd as of real films."""
    y, x = np.mgrid[:rows, :columns] / max(rows, columns)
    lungs = sum(np.exp(-(((x - cx) / 0.13) ** 2 + ((y - 0.45) / 0.27) ** 2) * 1.5) for cx in (0.25, 0.6))
    ribs = 120 * np.sin(40 * y + 6 * np.abs(x - 0.42)) * (lungs > 0.3)
    noise = np.random.default_rng(0).normal(0, 8, (rows, columns))
    return np.clip(2700 - 1700 * lungs + ribs + noise, 0, 4095).astype(np.uint16)


def film_for(encoding: str, pixels: np.ndarray) -> pydicom.Dataset:
    if encoding != "jpeg_baseline":
        return make_film(pixels, **WINDOW)
    eight: dict[str, Any] = {
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelData": (pixels >> 4).astype(np.uint8).tobytes(),
    }
    return make_film(pixels, **eight, WindowCenter=128, WindowWidth=256)


def reference(content: bytes, size: int) -> np.ndarray:
    """pydicom's full decode and window, and an area resize: (rows, columns) float in [0, 255]."""
    header = pydicom.dcmread(io.BytesIO(content))
    shown = apply_voi(header.pixel_array, header) if header.get("VOILUTSequence") else None
    if shown is None:
        shown = pydicom.pixels.processing.apply_windowing(header.pixel_array, header)
    scale = size / max(shown.shape)
    target = tuple(max(1, round(side * scale)) for side in shown.shape)
    grey = shown.astype(np.float64) / (2**header.BitsStored - 1) * 255
    return cv2.resize(grey, target[::-1], interpolation=cv2.INTER_AREA)


def psnr(difference: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean(difference**2)))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_full_decodes_agree_with_pydicom(encoding: str) -> None:
    content = encode(film_for(encoding, anatomy()), encoding)
    film = read_film(content)
    assert film.step == 1
    expected = reference(content, 301)
    assert np.abs(film.pixels * 255 - expected).max() <= 1.001


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("size", [32, 64, 128])
def test_curated_images_agree_with_pydicom(encoding: str, size: int) -> None:
    content = encode(film_for(encoding, anatomy()), encoding)
    film = read_film(content, Reading(size=size))
    assert (film.step > 1) == (encoding in REDUCED and size <= 128)
    expected = reference(content, size)
    left = (size - expected.shape[1]) // 2
    image = to_square(film, size)[:, left : left + expected.shape[1]].astype(float)
    difference = image - expected
    if film.step == 1:
        assert np.abs(difference).max() <= 1
    else:
        assert np.abs(difference).mean() <= 1.5
        assert psnr(difference) >= 40


@pytest.mark.parametrize("size", [32, 256])
def test_the_same_film_in_any_lossless_encoding_gives_the_same_image(size: int) -> None:
    pixels = anatomy()
    first, *others = (
        to_square(read_film(encode(make_film(pixels, **WINDOW), name), Reading(size=size)), size).astype(int)
        for name in LOSSLESS
    )
    for image in others:
        # At reduced resolution the low-pass filter of the wavelet stands in for an area average.
        assert np.abs(image - first).max() <= (1 if size == 256 else 6)
        assert np.abs(image - first).mean() < 0.6


@pytest.mark.parametrize(("rows", "columns"), [(1955, 1841), (130, 257), (129, 129), (1000, 33)])
def test_reduced_jpeg_2000_of_any_shape(rows: int, columns: int) -> None:
    """Pillow rounds reduced sides where the standard rounds up: 1,841 / 4 is 460 to the one, 461 to the other."""
    film = read_film(encode(make_film(anatomy(rows, columns), **WINDOW), "jpeg_2000"), Reading(size=32))
    assert film.step > 1
    assert film.pixels.shape == (-(-rows // film.step), -(-columns // film.step))


@pytest.mark.parametrize("encoding", ["explicit", "rle", "jpeg_lossless", "jpeg_ls", "jpeg_2000", "htj2k"])
def test_unused_high_bits_and_signed_values(encoding: str) -> None:
    """The low BitsStored bits count, in two's complement if PixelRepresentation is 1 (PS3.5 8.1.1)."""
    pixels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    content = encode(make_film(pixels, **WINDOW), encoding)
    header = pydicom.dcmread(io.BytesIO(content))
    header.PixelRepresentation, header.WindowCenter, header.WindowWidth = 1, 0, 4096
    header.PixelData = header.PixelData if encoding != "explicit" else (pixels | 0x5000).tobytes()
    changed = io.BytesIO()
    pydicom.dcmwrite(changed, header)
    expected = ((pixels.astype(int) + 2048) % 4096) / 4095  # -2048 is black, 2047 white
    np.testing.assert_allclose(read_film(changed.getvalue()).pixels, expected, atol=1e-3)


def wavelet_film(pixels: np.ndarray, bits: int = 12, signed: bool = False, **how: Any) -> bytes:
    """JPEG 2000 of 16 bits, as some archives write films of fewer."""
    values = pixels.astype(np.int16) - 2 ** (bits - 1) if signed else pixels
    stream = imagecodecs.jpeg2k_encode(values, codecformat="j2k", **how)
    film = make_film(pixels, BitsStored=bits, HighBit=bits - 1, PixelRepresentation=int(signed), **WINDOW)
    film.WindowCenter, film.WindowWidth = 2 ** (bits - 1) * (not signed), 2**bits
    film.PixelData = encapsulate([bytes(stream)])
    film["PixelData"].VR, film["PixelData"].is_undefined_length = "OB", True
    film.file_meta.TransferSyntaxUID = JPEG2000
    content = io.BytesIO()
    pydicom.dcmwrite(content, film, enforce_file_format=True)
    return content.getvalue()


def with_letters(top: int) -> np.ndarray:
    """(512, 480) uint16 with letters as white as a film can be, beside which wavelets overshoot."""
    pixels = (anatomy(512, 480) * (top / 4095)).astype(np.uint16)
    letters = np.kron(np.random.default_rng(0).integers(0, 2, (8, 24)), np.ones((8, 8)))
    pixels[24:88, 24:216][letters > 0] = top
    return pixels


@pytest.mark.parametrize("how", [{"reversible": True}, {"reversible": False, "level": 75}], ids=["reversible", "lossy"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("size", [32, 64, 256])
def test_what_wavelets_overshoot_is_cut_off(bits: int, size: int, signed: bool, how: dict[str, Any]) -> None:
    """The stream says 16 bits and the header fewer: no film is refused for it, and white stays white."""
    pixels = with_letters(2**bits - 1)
    content = wavelet_film(pixels, bits, signed, **how)
    reduced = to_square(read_film(content, Reading(size=size)), size).astype(float)
    window: dict[str, Any] = {"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits}
    plain = make_film(pixels, BitsStored=bits, HighBit=bits - 1, **window)
    expected = to_square(read_film(encode(plain, "explicit")), size)
    assert np.abs(reduced - expected).mean() < 3
    read_film(content)


def test_only_a_whole_decode_says_that_pixels_need_more_bits() -> None:
    pixels = with_letters(4095)
    pixels[200:300, 200:300] = 60000
    for size in (32, None):
        with pytest.raises(Refused, match="pixels need more than the 12 bits"):
            read_film(wavelet_film(pixels, reversible=True), Reading(size=size))
    with pytest.raises(Refused, match="pixels need more than the 12 bits"):
        read_film(wavelet_film(np.minimum(pixels, 4200), reversible=True), Reading(size=None))


@pytest.mark.parametrize("how", [{"reversible": True}, {"reversible": False, "level": 75}], ids=["reversible", "lossy"])
@pytest.mark.parametrize("size", [32, 64, None])
def test_a_film_of_more_bits_than_its_header_says_is_not_cut_off(size: int | None, how: dict[str, Any]) -> None:
    """Half of its pixels would be white; edges alone overshoot."""
    pixels = anatomy(512, 480)
    pixels = (pixels * (5500 / pixels.max())).astype(np.uint16)
    with pytest.raises(Refused, match="pixels need more than the 12 bits"):
        read_film(wavelet_film(pixels, **how), Reading(size=size))


def with_frame(encoding: str, change: object) -> bytes:
    """A film whose compressed frame is `change(frame)`."""
    header = pydicom.dcmread(io.BytesIO(encode(film_for(encoding, anatomy(64, 48)), encoding)))
    frame = get_frame(header.PixelData, 0, number_of_frames=1)
    header.PixelData = encapsulate([change(frame)])  # type: ignore[operator]
    content = io.BytesIO()
    pydicom.dcmwrite(content, header)
    return content.getvalue()


def reason_of(content: bytes) -> str:
    with pytest.raises(Refused) as refused:
        read_film(content, Reading(size=32))
    return refused.value.reason


COMPRESSED = ["jpeg_baseline", "jpeg_extended", "jpeg_lossless", "jpeg_ls", "jpeg_2000", "htj2k"]


@pytest.mark.parametrize("encoding", COMPRESSED)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_a_frame_cut_short_is_truncated(encoding: str, share: float) -> None:
    assert reason_of(with_frame(encoding, lambda frame: frame[: int(len(frame) * share)])) == "truncated"


@pytest.mark.parametrize("encoding", COMPRESSED)
def test_a_frame_that_is_none(encoding: str) -> None:
    assert reason_of(with_frame(encoding, lambda frame: b"HELLO" * 40)) == "unsupported_encoding"


@pytest.mark.parametrize("encoding", COMPRESSED)
def test_a_stream_larger_than_its_header_says_is_not_decoded(encoding: str) -> None:
    header = pydicom.dcmread(io.BytesIO(encode(film_for(encoding, anatomy(64, 48)), encoding)))
    header.Rows = 32
    content = io.BytesIO()
    pydicom.dcmwrite(content, header)
    assert reason_of(content.getvalue()) == "decode_failed"


def test_a_file_cut_inside_its_pixels_is_truncated() -> None:
    for encoding in ("explicit", "implicit", "big_endian", "rle", "jpeg_2000"):
        content = encode(make_film(anatomy(), **WINDOW), encoding)
        assert reason_of(content[:-1000]) == "truncated", encoding


def test_film_of_every_step_keeps_the_place_of_things() -> None:
    """A white spot on black keeps its centre of mass, whatever the codec does on the way."""
    y, x = np.mgrid[:512, :512] + 0.5
    pixels = (4095 * np.exp(-((y - 232) ** 2 + (x - 340) ** 2) / 40**2)).astype(np.uint16)
    window: dict[str, Any] = {"WindowCenter": 2048, "WindowWidth": 4096}
    for encoding in ("explicit", "jpeg_2000", "htj2k"):
        film = read_film(encode(make_film(pixels, **window), encoding), Reading(size=32))
        image = to_square(film, 32).astype(float)
        centre = (image.sum(1) @ (np.arange(32) + 0.5), image.sum(0) @ (np.arange(32) + 0.5)) / image.sum()
        np.testing.assert_allclose(centre, (232 / 16, 340 / 16), atol=0.02, err_msg=encoding)


def native(values: np.ndarray, **elements: Any) -> bytes:
    """An uncompressed film of 16 bits allocated, with the words as they are."""
    return written(make_film(values, **elements))


def written(film: pydicom.Dataset) -> bytes:
    content = io.BytesIO()
    pydicom.dcmwrite(content, film, enforce_file_format=True)
    return content.getvalue()


def test_bits_that_are_not_the_lowest_are_moved_down() -> None:
    pixels = anatomy(40, 30)
    high = native(pixels << 4, HighBit=15, **WINDOW)
    np.testing.assert_array_equal(read_film(high).pixels, read_film(native(pixels, **WINDOW)).pixels)
    assert reason_of(native(pixels, HighBit=3)) == "decode_failed"


def test_pixels_that_need_more_bits_than_the_header_says_do_not_wrap() -> None:
    pixels = anatomy(40, 30)
    assert reason_of(native(pixels, BitsStored=10, HighBit=9)) == "decode_failed"
    film = make_film(pixels | 0x8000, **WINDOW)
    film.add_new(0x60000102, "US", 15)  # OverlayBitPosition: an overlay in the highest bit
    np.testing.assert_array_equal(read_film(written(film)).pixels, read_film(native(pixels, **WINDOW)).pixels)
