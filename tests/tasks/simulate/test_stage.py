"""The simulated archive: valid DICOM of every kind asked for, the same for the same seed, and truly diseased."""

import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.dataset import Dataset

from tasks.errors import UserError
from tasks.ingest.films.header import safe_facts
from tasks.simulate import dicom, radiograph, stage, thorax
from tasks.simulate.anatomy import Anatomy, Pose, draw_anatomy, draw_pose
from tasks.simulate.disease import BOTH, LABELS, fluid
from tasks.simulate.stage import plan, simulate

PATIENTS, SEED, SIZE = 16, 5, 96


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simulated") / "raw"
    simulate(out, PATIENTS, SEED, size=SIZE, workers=1)
    return out


@pytest.fixture(scope="module")
def films(archive: Path) -> dict[str, pydicom.Dataset]:
    return {path: pydicom.dcmread(archive / path) for path in pd.read_csv(archive / "labels.csv")["path"]}


def _files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _patient(seed: int) -> tuple[Anatomy, Pose]:
    rng = np.random.default_rng(seed)
    anatomy = draw_anatomy(rng, female=bool(seed % 2))
    # a narrow film would cut the costophrenic angles off
    pose = draw_pose(rng, anatomy, 160)
    return anatomy, replace(pose, spacing=max(pose.spacing, 400 / 160), expiration=5.0, shift=(0.0, -190.0))


def test_labels_name_every_file_and_every_class(archive: Path) -> None:
    table = pd.read_csv(archive / "labels.csv")
    assert list(table.columns) == ["path", "label"]
    assert set(table["label"]) == set(LABELS)
    assert {*table["path"], "labels.csv"} == set(_files(archive))
    assert {Path(p).suffix for p in table["path"]} == {"", ".dcm"}


def test_pixels_are_twelve_bits_and_fill_them(films: dict[str, pydicom.Dataset]) -> None:
    for path, film in films.items():
        pixels = film.pixel_array
        assert pixels.dtype == np.uint16, path
        assert pixels.shape == (film.Rows, film.Columns), path
        assert min(pixels.shape) >= SIZE, path
        assert pixels.max() <= 4095, path
        assert np.ptp(pixels) > 2500, path


def test_the_field_s_encodings_are_all_there(films: dict[str, pydicom.Dataset]) -> None:
    pairs = {(film.file_meta.TransferSyntaxUID, film.PhotometricInterpretation) for film in films.values()}
    assert pairs == {(s, p) for s in dicom.SYNTAXES for p in dicom.PHOTOMETRIC}
    assert any("VOILUTSequence" in film for film in films.values())
    assert any(film.get("VOILUTFunction") == "SIGMOID" for film in films.values())
    assert any(isinstance(film.get("WindowCenter"), pydicom.multival.MultiValue) for film in films.values())


def test_monochrome1_is_stored_inverted(films: dict[str, pydicom.Dataset]) -> None:
    for path, film in films.items():
        pixels = film.pixel_array.astype(float)
        shown = 4095 - pixels if film.PhotometricInterpretation == "MONOCHROME1" else pixels
        rows, cols = shown.shape
        spine = shown[rows // 3 : 2 * rows // 3, int(0.45 * cols) : int(0.55 * cols)].mean()
        beside = shown[: rows // 8, [*range(cols // 12), *range(cols - cols // 12, cols)]].mean()
        assert spine > beside, path


def test_identities_are_consistent(films: dict[str, pydicom.Dataset]) -> None:
    people = {(f.PatientID, str(f.PatientName), f.PatientBirthDate, f.PatientSex) for f in films.values()}
    per_patient = Counter(f.PatientID for f in films.values())
    assert len(people) == len(per_patient) == PATIENTS
    assert max(per_patient.values()) > 1
    assert len({f.SOPInstanceUID for f in films.values()}) == len(films)
    studies = {(f.StudyInstanceUID, f.PatientID, f.StudyDate, f.AccessionNumber) for f in films.values()}
    assert len(studies) == len({f.StudyInstanceUID for f in films.values()})
    assert any(f.get("SpecificCharacterSet") == "ISO_IR 192" for f in films.values())


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy (dicom3tools) is not installed")
def test_a_validator_finds_nothing_wrong(archive: Path, films: dict[str, pydicom.Dataset], tmp_path: Path) -> None:
    def complaints(path: Path) -> list[str]:
        done = subprocess.run(["dciodvfy", str(path)], capture_output=True, check=False)
        text = (done.stdout + done.stderr).decode(errors="replace")
        assert "DXImageForPresentation" in text
        return [line for line in text.splitlines() if line.startswith(("Error", "Warning"))]

    for path in films:
        assert complaints(archive / path) == [], path
    broken = pydicom.dcmread(archive / next(iter(films)))
    del broken.ImageLaterality
    broken.save_as(tmp_path / "broken.dcm")
    assert complaints(tmp_path / "broken.dcm"), "the validator must be able to complain"


def test_the_seed_decides_and_the_workers_do_not(archive: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "pool", PATIENTS, SEED, size=SIZE, workers=2)
    assert _files(tmp_path / "pool") == _files(archive)
    simulate(tmp_path / "other", 6, SEED + 1, size=64, workers=1)
    assert not set(_files(tmp_path / "other").values()) & set(_files(archive).values())


@pytest.mark.usefixtures("one_core_of_many")
def test_one_core_needs_no_other_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "ProcessPoolExecutor", None)
    monkeypatch.setattr(stage, "_write", lambda film, folder: (f"{film.patient}", film.label))
    films = plan(PATIENTS, SEED, SIZE)
    assert len(list(stage._make(films, tmp_path, None))) == len(films)


@pytest.mark.parametrize(("patients", "rare"), [(6, (2, 2)), (25, (3, 2)), (480, (58, 38))])
def test_the_rare_classes_have_their_exact_share(patients: int, rare: tuple[int, int]) -> None:
    films = plan(patients, seed=1)
    ill: dict[int, str] = {f.patient: f.label for f in sorted(films, key=lambda f: f.label != "normal")}
    assert len({f.patient for f in films}) == patients
    assert (Counter(ill.values())["pneumonia"], Counter(ill.values())["effusion"]) == rare


def test_the_shares_can_be_chosen() -> None:
    films = stage.plan(60, 0, shares={"normal": 1, "pneumonia": 1, "effusion": 1})
    ill = {label: len({film.patient for film in films if film.label == label}) for label in ("pneumonia", "effusion")}
    assert ill == {"pneumonia": 20, "effusion": 20}


def test_480_patients_give_about_600_films_and_some_change_their_label() -> None:
    films = plan(480, seed=2)
    assert 580 <= len(films) <= 620
    labels: dict[int, set[str]] = {}
    for film in films:
        labels.setdefault(film.patient, set()).add(film.label)
    assert 2 <= sum(len(found) > 1 for found in labels.values()) <= 30


def test_encoding_says_nothing_of_the_disease() -> None:
    films = plan(5000, seed=3)
    for label in LABELS:
        mine = [f for f in films if f.label == label]
        assert np.mean([f.photometric == "MONOCHROME1" for f in mine]) == pytest.approx(0.5, abs=0.08)
        assert np.mean([f.syntax == dicom.SYNTAXES[2] for f in mine]) == pytest.approx(0.25, abs=0.08)


@pytest.mark.parametrize("seed", range(6))
def test_an_effusion_fills_a_costophrenic_angle(seed: int) -> None:
    anatomy, pose = _patient(seed)
    healthy, bone = radiograph.path_lengths(anatomy, pose, "normal")
    filled, same_bone = radiograph.path_lengths(anatomy, pose, "effusion", illness=seed)
    x, y = pose.grid()
    lungs = thorax.lungs(anatomy, pose, x, y)
    corner = (lungs.air > 12) & (np.abs(x) > 0.72 * lungs.half_width) & (y > lungs.dome - 15)
    more = [float((filled - healthy)[corner & (side * x > 0)].mean()) for side in (-1, 1)]
    assert max(more) > 5, "mm of water in the path"
    np.testing.assert_allclose(bone, same_bone, atol=1e-3)


@pytest.mark.parametrize("seed", range(6))
def test_pneumonia_lies_within_the_lungs(seed: int) -> None:
    anatomy, pose = _patient(seed)
    healthy, _ = radiograph.path_lengths(anatomy, pose, "normal")
    sick, _ = radiograph.path_lengths(anatomy, pose, "pneumonia", illness=seed)
    air = thorax.lungs(anatomy, pose, *pose.grid()).air
    more = sick - healthy
    assert more[air > 20].max() > 10
    assert np.abs(more[air == 0]).mean() < 0.05 * more[air > 20].mean()


@pytest.mark.parametrize("seed", range(4))
def test_the_heart_is_on_the_patient_s_left_and_shown_on_the_right(seed: int) -> None:
    anatomy, pose = _patient(seed)
    pose = replace(pose, turn=0.0, tilt=0.0)
    x, y = pose.grid()
    lungs = thorax.lungs(anatomy, pose, x, y)
    level = np.abs(y - (anatomy.lung_height - pose.expiration - 35)) < 10
    left = lungs.air[level & (x > 30) & (x < 60)].mean()
    right = lungs.air[level & (x < -30) & (x > -60)].mean()
    assert left < right
    assert x[0, 0] < 0 < x[0, -1], "columns run from the patient's right to the left"


def test_noise_falls_with_exposure() -> None:
    anatomy, pose = _patient(1)
    paths = radiograph.path_lengths(anatomy, pose, "normal")
    shot = radiograph.draw_exposure(np.random.default_rng(0), pose)

    def relative_noise(photons: float) -> float:
        a, b = (
            radiograph.expose(*paths, pose, replace(shot, photons=photons, noise_seed=seed)) / photons
            for seed in (1, 2)
        )
        return float(np.std((a - b) / (a + b)))

    assert relative_noise(2e4) == pytest.approx(2 * relative_noise(8e4), rel=0.1)


def test_refusals_are_one_sentence_and_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "film").touch()
    with pytest.raises(UserError, match="not an empty folder"):
        simulate(tmp_path / "full", 6, 0)
    with pytest.raises(UserError, match="ask for 6 or more"):
        simulate(tmp_path / "new", 5, 0)
    with pytest.raises(UserError, match="cannot write"):
        simulate(tmp_path / "full" / "film" / "below", 6, 0)

    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dicom, "write", disk_full)
    with pytest.raises(UserError, match="No space left on device"):
        simulate(tmp_path / "new", 6, 0, size=64, workers=1)
    assert [p.name for p in tmp_path.iterdir()] == ["full"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    table = simulate(tmp_path / "raw", 6, 0, size=64, workers=1)
    assert (tmp_path / "raw" / table["path"][0]).is_file()


@pytest.mark.parametrize("seed", range(6))
def test_two_findings_at_once_show_both_and_take_no_more_than_the_air(seed: int) -> None:
    anatomy, pose = _patient(seed)
    lungs = thorax.lungs(anatomy, pose, *pose.grid())
    both, pneumonia, effusion = (
        fluid(label, anatomy, pose, lungs, seed, 1.05) for label in (BOTH, "pneumonia", "effusion")
    )
    assert (both <= lungs.air + 1e-3).all()
    assert (both >= np.maximum(pneumonia, effusion) - 1e-3).all()
    assert (both <= pneumonia + effusion + 1e-3).all()
    assert both.sum() > max(pneumonia.sum(), effusion.sum())


def test_two_findings_at_once_change_the_films_of_their_patients_alone(archive: Path, tmp_path: Path) -> None:
    table = simulate(tmp_path / "both", PATIENTS, SEED, size=SIZE, workers=1, both=0.5)
    before = pd.read_csv(archive / "labels.csv")
    changed = (table["label"] == BOTH).to_numpy()
    assert set(table["label"]) == {*LABELS, BOTH}
    assert (table["path"] == before["path"]).all()
    assert set(before.loc[changed, "label"]) == {"pneumonia"}
    assert (table["label"] == before["label"])[~changed].all()
    one, other = _files(archive), _files(tmp_path / "both")
    differ = {path for path in one if one[path] != other[path]}
    assert differ == {*table.loc[changed, "path"], "labels.csv"}
    assert {film.label for film in plan(200, 0, both=1.0)} == {"normal", "effusion", BOTH}


def test_ingest_knows_that_they_are_simulated(films: dict[str, pydicom.Dataset]) -> None:
    assert {safe_facts(film)["simulated"] for film in films.values()} == {"yes"}
    of_a_device = Dataset()
    of_a_device.update(next(iter(films.values())))
    of_a_device.file_meta, of_a_device.SoftwareVersions = next(iter(films.values())).file_meta, "4.1"
    assert safe_facts(of_a_device)["simulated"] == ""
