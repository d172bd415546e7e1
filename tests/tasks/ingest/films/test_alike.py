"""One picture is known in whatever encoding its file is, and two pictures are never taken for one."""

from functools import cache
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

from tasks.ingest import stage
from tasks.ingest.films.alike import block_means, first_alike
from tasks.ingest.films.decode import read_film
from tasks.ingest.films.film import Reading
from tasks.ingest.films.resize import to_square
from tasks.params import Ingest
from tests.tasks.films import encode, make_film
from tests.tasks.ingest.films.test_codecs import anatomy

SIZE = 64


def pixels(k: int) -> np.ndarray:
    """(500, 460) uint16: chests that are higher or lower and more or less dense."""
    rolled = np.roll(anatomy(500, 460), 15 * k, axis=0)
    return (rolled * (0.7 + 0.05 * (k % 6))).astype(np.uint16)


@cache
def content(k: int, encoding: str, patient: str) -> bytes:
    window: dict[str, Any] = {"WindowCenter": 2048, "WindowWidth": 4096}
    return encode(make_film(pixels(k), patient=patient, **window), encoding)


@pytest.mark.parametrize("encoding", ["jpeg_2000", "jpeg_2000_lossy", "htj2k", "htj2k_lossy", "jpeg_extended"])
def test_one_picture_in_two_encodings_is_one(encoding: str) -> None:
    how = Reading(size=SIZE)
    films = [content(k, name, "P") for k in range(8) for name in ("explicit", encoding)]
    images = [to_square(read_film(film, how), SIZE) for film in films]
    means = np.array([block_means(image) for image in images])
    forms = ["explicit", encoding] * 8
    assert first_alike(means, forms, images.__getitem__) == [k // 2 * 2 for k in range(16)]
    assert first_alike(means, ["same"] * 16, images.__getitem__) == list(range(16))  # there the digest knows them


def test_nothing_is_like_nothing() -> None:
    assert first_alike(np.zeros((0, 16)), [], lambda k: np.zeros((4, 4))) == []
    assert first_alike(np.zeros((1, 16)), ["a"], lambda k: np.zeros((4, 4))) == [0]


def test_real_films_are_told_apart() -> None:
    """Of other films none is taken for one that is there, though half are said to be encoded otherwise."""
    from tests.test_real_data import part

    paths = sorted(part("nih256").rglob("*.png"))
    images = [np.asarray(Image.open(path).convert("L").resize((SIZE, SIZE), Image.Resampling.BOX)) for path in paths]
    means = np.array([block_means(image) for image in images])
    forms = [f"{k % 2}" for k in range(len(images))]
    assert first_alike(means, forms, images.__getitem__) == list(range(len(images)))


@pytest.mark.parametrize("whose", ["the same patient", "another patient", "nobody"])
def test_a_picture_in_another_encoding_is_never_in_two_splits(
    whose: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = []
    (tmp_path / "raw").mkdir()
    for k in range(8):
        for name in ("explicit", "jpeg_2000"):
            patient = "" if whose == "nobody" else f"P{k}{name if whose == 'another patient' else ''}"
            (tmp_path / f"raw/{k}-{name}").write_bytes(content(k, name, patient))
            rows.append(f"{k}-{name},{'ab'[k % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows[:-1]]) + "\n")  # a film is there once alone
    how = Ingest(size=SIZE, patients="per_file", max_quarantined=1)
    if whose == "another patient":
        (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows[:7:2], *rows[8:]]) + "\n")
    counts = stage.run(tmp_path / "raw", tmp_path / "labels.csv", tmp_path / "curated", how)
    expected = (
        {"conflicting_patients": 8, "no_label": 4} if whose == "another patient" else {"duplicate": 7, "no_label": 1}
    )
    assert counts["reasons"] == expected
    assert not pd.read_csv(tmp_path / "curated/manifest.csv")["image_id"].duplicated().any()


def test_a_picture_in_jpeg_2000_of_other_levels_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One syntax, and the same pixels to the bit; reduced, they differ."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").mkdir()
    window: dict[str, Any] = {"WindowCenter": 2048, "WindowWidth": 4096}
    for k in range(8):
        for name, levels in (("one", 2), ("other", 6)):
            how: dict[str, Any] = {"codecformat": "j2k", "reversible": True, "bitspersample": 12, "resolutions": levels}
            stream = imagecodecs.jpeg2k_encode(pixels(k), **how)
            film = make_film(pixels(k), patient=f"P{k}", **window)
            film.PixelData = encapsulate([bytes(stream)])
            film["PixelData"].VR, film["PixelData"].is_undefined_length = "OB", True
            film.file_meta.TransferSyntaxUID = JPEG2000Lossless
            pydicom.dcmwrite(tmp_path / f"raw/{k}-{name}", film, enforce_file_format=True)
    rows = [f"{k}-{name},{'ab'[k % 2]}" for k in range(8) for name in ("one", "other")]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    counts = stage.run(tmp_path / "raw", tmp_path / "labels.csv", tmp_path / "curated", Ingest(size=SIZE))
    assert counts["reasons"] == {"duplicate": 8}
