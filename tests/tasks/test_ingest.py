"""From files and labels to a curated set: nothing lost, nobody named, refusals in one sentence."""

import re
import stat
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tasks import curated, ingest, pseudonyms
from tasks.errors import UserError
from tasks.params import Ingest
from tasks.reading import Film, Fit
from tasks.square import to_square
from tests.tasks.films import ramp, write_film

PARAMS = Ingest(size=32)


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_labels(path: Path, rows: Sequence[tuple[str, ...]], header: str = "path,label") -> Path:
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return path


@pytest.fixture
def archive(in_tmp: Path) -> Path:
    """Twelve films of six patients in two classes, and files of every refused kind."""
    raw, rows = in_tmp / "raw", []
    rng = np.random.default_rng(0)
    for k in range(12):
        name = f"study{k % 3}/film{k}"
        write_film(raw / name, rng.integers(0, 4096, (40, 30), dtype=np.uint16), patient=f"SECRET-{k // 2}")
        rows.append((name, "normal" if k < 8 else "rare"))
    write_film(raw / "ct", ramp(), Modality="CT")
    write_film(raw / "unlabelled", ramp(), patient="SECRET-9")
    write_film(raw / "conflict", ramp(32, 2000), patient="SECRET-9")
    write_film(raw / "nobody", ramp(32, 1000), patient="")
    (raw / "copy").write_bytes((raw / "study0/film0").read_bytes())
    (raw / "notes.txt").write_text("SECRET-1 was here")
    rows += [("ct", "normal"), ("conflict", "normal"), ("conflict", "rare"), ("copy", "normal"), ("nobody", "normal")]
    write_labels(raw / "labels.csv", rows)
    return raw


def test_inputs_are_curated_or_quarantined(archive: Path, in_tmp: Path) -> None:
    out = in_tmp / "curated"
    counts = ingest.run(archive, archive / "labels.csv", out, PARAMS)
    quarantine = pd.read_csv(out / "quarantine.csv").set_index("path")["reason"].to_dict()
    files = [p for p in archive.rglob("*") if p.is_file() and p.name != "labels.csv"]
    assert counts["inputs"] == len(files) == counts["curated"] + counts["quarantined"]
    # The files are taken in the order of their paths: of two equal ones the first stays.
    assert quarantine == {
        "conflict": "conflicting_labels",
        "ct": "not_a_radiograph",
        "nobody": "no_patient",
        "notes.txt": "not_dicom",
        "study0/film0": "duplicate",
        "unlabelled": "no_label",
    }
    images = curated.load(out)
    assert images.images.shape == (12, 32, 32)
    assert images.classes == ["normal", "rare"]
    assert images.manifest["label"].value_counts().to_dict() == {"normal": 8, "rare": 4}


def test_the_pixels_are_those_of_the_file(archive: Path, in_tmp: Path) -> None:
    write_film(archive / "ramp", ramp(32, 4095), patient="SECRET-0", WindowCenter=2048, WindowWidth=4096)
    with (archive / "labels.csv").open("a") as labels:
        labels.write("ramp,normal\n")
    ingest.run(archive, archive / "labels.csv", in_tmp / "curated", PARAMS)
    images = curated.load(in_tmp / "curated").images
    closest = np.abs(images.astype(int) - np.rint(ramp(32, 4095) / 4095 * 255)).max((1, 2)).min()
    assert closest <= 1


def test_no_identifier_in_what_is_written(archive: Path, in_tmp: Path) -> None:
    ingest.run(archive, archive / "labels.csv", in_tmp / "curated", PARAMS)
    written = b"".join(p.read_bytes() for p in (in_tmp / "curated").iterdir())
    assert b"SECRET" not in written
    assert b"DOE" not in written


def test_pseudonyms_stay_and_depend_on_the_key(archive: Path, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def patients() -> list[str]:
        ingest.run(archive, archive / "labels.csv", in_tmp / "curated", PARAMS)
        return list(curated.load(in_tmp / "curated").manifest["patient_id"])

    first = patients()
    assert stat.S_IMODE(pseudonyms.KEY_FILE.stat().st_mode) == 0o600
    assert patients() == first
    monkeypatch.setenv(pseudonyms.KEY_VARIABLE, "another key")
    assert not set(patients()) & set(first)


def test_pictures_take_the_patient_from_the_labels(in_tmp: Path) -> None:
    raw, rows = in_tmp / "raw", []
    raw.mkdir()
    rng = np.random.default_rng(0)
    for k in range(8):
        Image.fromarray(rng.integers(0, 255, (40, 40), dtype=np.uint8)).save(raw / f"{k}.png")
        rows.append((f"{k}.png", "ab"[k % 2], f"p{k // 2 * 2 + k % 2}"))
    labels = write_labels(in_tmp / "labels.csv", rows, "path,label,patient_id")
    counts = ingest.run(raw, labels, in_tmp / "curated", PARAMS)
    assert counts["curated"] == 8


@pytest.mark.parametrize(
    ("fit", "shape", "black"),
    [("pad", (40, 20), 16 * 32), ("crop", (40, 20), 0), ("stretch", (40, 20), 0), ("pad", (8, 8), 0)],
)
def test_fit(fit: Fit, shape: tuple[int, int], black: int) -> None:
    image = to_square(Film(np.ones(shape, dtype=np.float32), shape), 32, fit)
    assert image.shape == (32, 32)
    assert (image == 0).sum() == black
    assert set(np.unique(image)) <= {0, 255}


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("no folder", "no folder"),
        ("empty", "holds no films"),
        ("no labels", "no labels file"),
        ("columns", "has no column label"),
        ("one patient", "class 'rare' has 1 patient"),
        ("nothing fits", "none of the 18 files"),
        ("class name", "is no class name"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(damage: str, sentence: str, archive: Path, in_tmp: Path) -> None:
    source, labels, out = archive, archive / "labels.csv", in_tmp / "curated"
    if damage == "no folder":
        source = in_tmp / "nowhere"
    elif damage == "empty":
        source = in_tmp / "empty"
        source.mkdir()
    elif damage == "no labels":
        labels = in_tmp / "nowhere.csv"
    elif damage == "columns":
        write_labels(labels, [("a", "b")], "path,finding")
    elif damage == "one patient":
        write_labels(labels, [(f"study{k % 3}/film{k}", "rare" if k > 9 else "normal") for k in range(12)])
    elif damage == "nothing fits":
        write_labels(labels, [("elsewhere.dcm", "normal")])
    elif damage == "class name":
        write_labels(labels, [("ct", "../../etc")])
    with pytest.raises(UserError, match=re.escape(sentence)) as error:
        ingest.run(source, labels, out, PARAMS)
    assert "\n" not in str(error.value)
    assert not out.exists()
    assert not list(in_tmp.glob(".*tmp"))


def test_a_failed_run_leaves_the_old_set(archive: Path, in_tmp: Path) -> None:
    out = in_tmp / "curated"
    ingest.run(archive, archive / "labels.csv", out, PARAMS)
    before = (out / "manifest.csv").read_bytes()
    write_labels(archive / "labels.csv", [("elsewhere.dcm", "normal")])
    with pytest.raises(UserError):
        ingest.run(archive, archive / "labels.csv", out, PARAMS)
    assert (out / "manifest.csv").read_bytes() == before
