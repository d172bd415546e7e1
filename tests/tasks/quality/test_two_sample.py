"""What the two-sample test and the spectrum see of damage that was planted in films, and who is held out."""

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from model.measures.encoder import Encoder
from model.measures.two_sample import TwoSampleConfig, auroc, held_out_scores
from tasks.params import Quality
from tasks.quality import stage
from tasks.quality.two_sample import MIN_PATIENTS, Range, Sets, told_apart
from tasks.simulate import radiograph
from tasks.simulate.anatomy import draw_anatomy, draw_pose
from tasks.simulate.disease import Label

DATA = Path(os.environ.get("XRAYSYNTH_TESTDATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
SLIGHT = ("slightly_blurred", "slightly_noisy", "grid")
COUNTS: dict[Label, int] = {"effusion": 24, "pneumonia": 32}  # few: as many as an archive has of a rare class
SHORT = Quality(two_sample_steps=60)
QUICK = Quality(pairs=50, repeats=4, two_sample_steps=2)

Told = dict[str, tuple[Range, Range, dict[str, float]]]


def film(label: Label, seed: int, number: int) -> np.ndarray:
    """(64, 64) uint8: a simulated film; no patient has two, not even with two diseases."""
    rng = np.random.default_rng([seed, number, list(COUNTS).index(label)])
    anatomy = draw_anatomy(rng, female=bool(number % 2))
    pose = draw_pose(rng, anatomy, 128)
    pixels = radiograph.render(anatomy, pose, radiograph.draw_exposure(rng, pose), label, number)
    return cv2.resize((pixels >> 4).astype(np.uint8), (64, 64), interpolation=cv2.INTER_AREA)


def films(seed: int) -> dict[str, np.ndarray]:
    return {label: np.stack([film(label, seed, k) for k in range(n)]) for label, n in COUNTS.items()}


@pytest.fixture(scope="module")
def real() -> dict[str, np.ndarray]:
    return films(seed=0)


@pytest.fixture(scope="module")
def others() -> dict[str, np.ndarray]:
    """Films of other patients: what a perfect generator would give."""
    return films(seed=1)


def sets(real: dict[str, np.ndarray], synthetic: dict[str, np.ndarray]) -> dict[str, Sets]:
    """Every real film is of a patient of its own."""
    return {
        label: Sets(some, np.array([f"{label}{k}" for k in range(len(some))]), synthetic[label])
        for label, some in real.items()
    }


@pytest.fixture(scope="module")
def told(real: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> Told:
    return told_apart(sets(real, others), SHORT)


@pytest.fixture(scope="module")
def measured(real: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """The other measures of the stage, by class; of its encoder nothing is asked here."""
    return {label: stage.measure(real[label], others[label], Encoder(), QUICK)["measures"] for label in COUNTS}


def test_real_films_of_other_patients_pass(told: Told, measured: dict[str, dict[str, Any]]) -> None:
    """By chance an AUROC of 24 films and 24 others has a deviation of 0.08."""
    for label, (value, floor, _) in told.items():
        assert 0.2 < value[0] < 0.8
        assert 0.2 < floor[0] < 0.8
        assert all(ends[1] < ends[0] < ends[2] < 1 for ends in (value, floor))
        assert abs(measured[label]["excess_power"]["value"]) < 1.5
        assert measured[label]["grid_power"]["value"] < measured[label]["grid_power"]["floor_high"] + 3


def test_slight_damage_is_told(told: Told) -> None:
    for _, _, damaged in told.values():
        assert all(damaged[kind] > 0.9 for kind in (*SLIGHT, "blurred", "noisy"))
        assert damaged["one_image"] > 0.85


@pytest.mark.parametrize("label", COUNTS)
def test_the_spectrum_says_what_the_damage_is(label: str, measured: dict[str, dict[str, Any]]) -> None:
    excess, grid = measured[label]["excess_power"], measured[label]["grid_power"]
    found = {kind: value - excess["floor"] for kind, value in excess["damaged"].items()}
    assert found["blurred"] < -15 < -6 < found["slightly_blurred"] < -2.5
    assert found["noisy"] > found["slightly_noisy"] + 1 > 1.7
    assert abs(found["grid"]) < 0.7
    assert grid["damaged"]["grid"] > grid["floor"] + 8
    for kind in ("blurred", "slightly_blurred", "noisy", "slightly_noisy"):
        assert grid["damaged"][kind] < grid["floor"] + 4


def test_copies_of_the_films_are_below_one_half(real: dict[str, np.ndarray]) -> None:
    """A film that is held out is called synthetic, for its copy was: so a perfect copyist is not taken for perfect."""
    films = np.concatenate(list(real.values()))
    n = len(films)
    copies, patients = np.repeat([False, True], n), np.arange(2 * n)
    scores, folds = held_out_scores(np.r_[films, films], copies, patients, np.zeros(2 * n, int), TwoSampleConfig())
    assert auroc(scores, copies, folds, patients)[0] < 0.45


def test_the_real_films_of_kermany() -> None:
    if not (DATA / "kermany224").is_dir():
        pytest.skip(f"no real films in {DATA}: set XRAYSYNTH_TESTDATA")
    table = pd.read_csv(DATA / "kermany224/labels.csv").query("label == 'viral_pneumonia'")
    numbers = pd.factorize(table["patient_id"])[0]

    def read(rows: pd.DataFrame) -> np.ndarray:
        paths = (DATA / "kermany224" / path for path in rows["path"])
        return np.stack(
            [cv2.resize(cv2.imread(str(path), 0), (64, 64), interpolation=cv2.INTER_AREA) for path in paths]  # type: ignore[arg-type]
        )

    one, other = table[numbers % 2 == 0][:60], table[numbers % 2 == 1][:60]
    ((value, floor, damaged),) = told_apart(
        {"viral_pneumonia": Sets(read(one), one["patient_id"].to_numpy(), read(other))}, SHORT
    ).values()
    assert 0.3 < value[0] < 0.7
    assert 0.2 < floor[0] < 0.8
    assert all(damaged[kind] > 0.9 for kind in SLIGHT)


def test_floor_and_controls_do_not_depend_on_the_generator(real: dict[str, np.ndarray]) -> None:
    flat = {label: np.full((n, 64, 64), 128, np.uint8) for label, n in {"effusion": 9, "pneumonia": 300}.items()}
    one, other = (told_apart(sets(real, synthetic), QUICK) for synthetic in (flat, real))
    for label in COUNTS:
        assert one[label][0] != other[label][0]
        assert one[label][1:] == other[label][1:]


def test_classes_with_too_few_patients_are_left_out(real: dict[str, np.ndarray]) -> None:
    patients = np.arange(24) % (MIN_PATIENTS - 1)
    few = {"effusion": Sets(real["effusion"], patients, real["effusion"])}
    assert told_apart(few, QUICK) == {}
    enough = sets(real, {"effusion": real["effusion"][:3], "pneumonia": real["pneumonia"]})
    assert list(told_apart(enough, QUICK)) == ["pneumonia"]


@pytest.mark.parametrize("seed", range(4))
def test_patients_may_have_films_of_two_classes(real: dict[str, np.ndarray], seed: int) -> None:
    """Eight patients with both, whose other films are then no patients' of their own; every fold still has pairs."""
    rare, common = real["effusion"][:8], real["pneumonia"]
    classes = {
        "common": Sets(common, np.r_[np.arange(8), np.arange(8, 16), np.arange(16)], common),
        "rare": Sets(rare, np.arange(8), rare),
    }
    found = told_apart(classes, Quality(two_sample_steps=1, seed=seed))
    assert set(found) == {"rare", "common"}
    classes["common"] = Sets(common, np.arange(32) % 15, common)
    assert set(told_apart(classes, Quality(two_sample_steps=1, seed=seed))) == {"rare"}
