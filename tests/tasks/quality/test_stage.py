"""The measures order: real half, mildly degraded, badly degraded; and one image repeated is caught by two of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from model.measures.encoder import Encoder, EncoderConfig, train_encoder
from tasks import image_set
from tasks.errors import UserError
from tasks.files import write_json
from tasks.params import Encoder as EncoderParams
from tasks.params import Quality
from tasks.quality import encoder, stage
from tasks.quality.controls import blur, noise
from tests.model.measures.test_similarity import blobs
from tests.tasks.sets import write_set

PARAMS = Quality(pairs=300, repeats=6)
XRAY = ("frechet_xray", "kid_xray", "ms_ssim", "near_duplicates", "precision", "recall", "density", "coverage")
SPECTRUM = ("excess_power", "grid_power")
CONTROLS = {"blurred", "slightly_blurred", "noisy", "slightly_noisy", "grid", "one_image"}


def films(n: int, seed: int) -> np.ndarray:
    """(n, 32, 32) uint8: soft discs with a little grain."""
    smooth = blobs(n, 32, seed)
    return noise(smooth // 2 + 60, np.random.default_rng(seed), 3)


@pytest.fixture(scope="module")
def real() -> np.ndarray:
    return films(240, seed=0)


@pytest.fixture(scope="module")
def network(real: np.ndarray) -> Encoder:
    return train_encoder(real, EncoderConfig(steps=150))[0]


def values(real: np.ndarray, synthetic: np.ndarray, network: Encoder) -> dict[str, dict[str, Any]]:
    return stage.measure(real, synthetic, network, PARAMS)["measures"]


@pytest.fixture(scope="module")
def ladders(real: np.ndarray, network: Encoder) -> dict[str, list[dict[str, dict[str, Any]]]]:
    """The measures of other real films, then of mildly and of badly degraded ones."""
    fresh, rng = films(120, seed=1), np.random.default_rng(0)
    good = values(real, fresh, network)
    return {
        "noise": [good, *(values(real, noise(fresh, rng, sigma), network) for sigma in (6, 25))],
        "blur": [good, *(values(real, blur(fresh, sigma), network) for sigma in (2, 4))],
        "few": [good, *(values(real, np.resize(fresh[:n], fresh.shape), network) for n in (24, 1))],
        "fewer": [good, *(values(real, np.resize(fresh[:n], fresh.shape), network) for n in (2, 1))],
    }


# Which way the measure goes as the damage grows; what is not here is not its business: precision and density don't ask
# how many kinds there are, and recall asks only that, so that soft images which reach all real ones keep it.
WAYS: dict[str, dict[str, tuple[str, ...]]] = {
    "noise": {"up": ("frechet_xray", "kid_xray"), "down": ("ms_ssim", "precision", "recall", "density", "coverage")},
    "blur": {"up": ("frechet_xray", "kid_xray", "ms_ssim"), "down": ("precision", "density", "coverage")},
    "few": {"up": ("frechet_xray", "kid_xray", "near_duplicates"), "down": ("recall", "coverage")},
    "fewer": {"up": ("ms_ssim", "near_duplicates")},  # of 24 modes only every 24th pair is one image
}


@pytest.mark.parametrize(
    ("damage", "way", "measure"),
    [(damage, way, name) for damage, ways in WAYS.items() for way, names in ways.items() for name in names],
)
def test_each_measure_orders_real_mild_and_bad(
    damage: str, way: str, measure: str, ladders: dict[str, list[dict[str, dict[str, Any]]]]
) -> None:
    good, mild, bad = ((1 if way == "up" else -1) * rung[measure]["value"] for rung in ladders[damage])
    assert good < mild < bad


def test_one_good_image_repeated_is_caught_by_ms_ssim_and_coverage(real: np.ndarray, network: Encoder) -> None:
    """The Fréchet distance rises too, to thirty floors, but does not say why: noise has more of it, here."""
    one = values(real, np.repeat(films(1, seed=1), 120, axis=0), network)
    assert one["ms_ssim"]["low"] > 0.99 > one["ms_ssim"]["floor"] + 0.2
    assert one["coverage"]["value"] < 0.1 < 0.8 < one["coverage"]["floor"]
    assert one["recall"]["value"] == 0
    frechet = one["frechet_xray"]
    assert 10 * frechet["floor"] < frechet["value"] < frechet["damaged"]["noisy"]
    for measure in ("ms_ssim", "coverage"):
        entry = one[measure]
        assert entry["value"] == pytest.approx(entry["damaged"]["one_image"], abs=0.05)


def test_an_entry_has_floor_and_controls_at_the_same_number_of_images(real: np.ndarray, network: Encoder) -> None:
    result = stage.measure(real, films(50, seed=1), network, PARAMS)
    assert result["images"] == {"real": 240, "synthetic": 50, "compared": 50}
    assert set(result["measures"]) == {*XRAY, *SPECTRUM}
    curves = result["spectrum"]
    assert {name: len(curve) for name, curve in curves.items()} == dict.fromkeys(
        ("frequency", "real", "real_low", "real_high", "synthetic"), 16
    )
    assert curves["frequency"][-1] == 0.5
    assert all(
        low < mean < high
        for low, mean, high in zip(*(curves[k] for k in ("real_low", "real", "real_high")), strict=True)
    )
    for name, entry in result["measures"].items():
        more = {"most_alike"} if name == "near_duplicates" else set()
        assert set(entry) == {"value", "low", "high", "floor", "floor_low", "floor_high", "damaged", "better"} | more
        assert set(entry["damaged"]) == CONTROLS
        assert entry["low"] <= entry["value"] <= entry["high"], name
        assert entry["floor_low"] <= entry["floor"] <= entry["floor_high"], name
    frechet = result["measures"]["frechet_xray"]
    assert frechet["floor"] < min(frechet["damaged"].values())
    assert result == stage.measure(real, films(50, seed=1), network, PARAMS)


@pytest.mark.parametrize(
    ("films_of", "sizes"),
    [([1] * 9, {4, 5}), ([5, 4, 3, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1], {16}), ([7, 1, 1], {2, 7})],
)
def test_halves_share_no_patient_and_are_as_equal_as_patients_allow(films_of: list[int], sizes: set[int]) -> None:
    patients = np.repeat([f"p{k}" for k in range(len(films_of))], films_of)
    drawn = [stage.halves(patients, np.random.default_rng(seed)) for seed in range(20)]
    for one, other in drawn:
        assert sorted([*one, *other]) == list(range(len(patients)))
        assert not set(patients[one]) & set(patients[other])
        assert {len(one), len(other)} == sizes
    assert len({tuple(sorted(one)) for one, _ in drawn}) > 1


def test_films_of_one_patient_in_both_halves_would_lower_the_floor(network: Encoder) -> None:
    """Forty patients with four films each, which differ by little."""
    alike = noise(np.repeat(films(40, seed=5), 4, axis=0), np.random.default_rng(0), 2)
    by_patient, by_image = (
        stage.measure(alike, films(120, seed=1), network, PARAMS, patients=patients)
        for patients in (np.repeat(np.arange(40), 4), None)
    )
    assert by_patient["images"] == by_image["images"] == {"real": 160, "synthetic": 120, "compared": 80}
    floors = [found["measures"]["frechet_xray"]["floor"] for found in (by_patient, by_image)]
    assert floors[0] > 2 * floors[1]
    floors = [found["measures"]["coverage"]["floor"] for found in (by_patient, by_image)]
    assert floors[0] < floors[1] - 0.2


def test_the_two_images_that_are_most_alike_are_named() -> None:
    synthetic = films(40, seed=1)
    synthetic[31] = noise(synthetic[[7]], np.random.default_rng(0), 2)[0]
    found = stage.variety(films(40, seed=0), synthetic, PARAMS, np.arange(40))["near_duplicates"]["most_alike"]
    assert sorted(found["images"]) == [7, 31]
    assert found["ms_ssim"] > 0.9


def test_pairs_of_one_patient_are_none_of_the_floor_of_variety(network: Encoder) -> None:
    """Ten patients with six films each, which differ by little: one pair in twelve is of one patient."""
    alike, patients = noise(np.repeat(films(10, seed=5), 6, axis=0), np.random.default_rng(0), 2), np.arange(60)
    by_patient, by_image = (
        stage.measure(alike, films(60, seed=1), network, PARAMS, patients=of)["measures"]["ms_ssim"]
        for of in (patients // 6, patients)
    )
    assert by_patient["value"] == by_image["value"]
    assert by_patient["floor"] < by_image["floor"] - 0.01
    assert by_patient["floor"] == pytest.approx(stage.pairs(films(10, seed=5), PARAMS).mean()[0], abs=0.05)


def test_a_set_that_is_nearly_all_of_one_patient_has_a_floor_of_variety() -> None:
    """Of the first twenty pairs of these 400 films none is of two patients, so more are drawn."""
    alike = noise(np.repeat(films(1, seed=5), 400, axis=0), np.random.default_rng(0), 2)
    params, others = Quality(pairs=20), np.arange(400) < 4
    assert stage.of_several(np.where(others, np.arange(400), 4))
    alike[others] = films(4, seed=1)
    value, low, high = stage.pairs(alike, params, np.where(others, np.arange(400), 4)).mean()
    assert 0 < low < value < high < stage.pairs(alike, params).mean()[0]


def test_the_floor_of_few_films_is_less_certain_than_that_of_many(real: np.ndarray) -> None:
    widths = []
    for n in (8, 200):
        entry = stage.variety(real[:n], films(120, seed=1), PARAMS, np.arange(n))["ms_ssim"]
        widths.append(entry["floor_high"] - entry["floor_low"])
    assert widths[0] > 2 * widths[1] > 0


@pytest.mark.parametrize("n", [4, 5, 7])
def test_the_smallest_sets_give_finite_numbers(n: int, real: np.ndarray, network: Encoder) -> None:
    json.dumps(stage.measure(real[:n], films(4, seed=1), network, PARAMS), allow_nan=False)


def test_the_stage_reports_by_class_and_says_what_was_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "curated", images=150)
    encoder.run(tmp_path / "curated", tmp_path / "encoder", EncoderParams(steps=3))
    assert encoder.load(tmp_path / "encoder")[1] == image_set.load(tmp_path / "curated").digest
    writer, rows = image_set.ShardWriter(tmp_path / "synthetic"), []
    (tmp_path / "synthetic").mkdir()
    for k, image in enumerate(films(9, seed=1)):
        rows.append([f"s{k}", "", "rare" if k < 6 else "normal", *writer.add(image)])
    manifest = pd.DataFrame(rows, columns=["image_id", "patient_id", "label", "shard", "row"])
    image_set.save_index(tmp_path / "synthetic", manifest, ["normal", "rare"], 32, writer)
    out = tmp_path / "quality.json"
    folders = tmp_path / "curated", tmp_path / "synthetic", tmp_path / "encoder"
    params = Quality(pairs=10, repeats=2, two_sample_steps=2)
    result = stage.run("msg_gan", *folders, out, params)
    assert json.loads(out.read_text()) == result
    assert list(result["classes"]) == ["rare"]
    assert list(result["left_out"]) == ["normal"]
    assert result["extractors"]["inception"].startswith("Not used")
    assert "never" in result["extractors"]["frechet_xray"]
    assert "over 2 random divisions" in result["intervals"]
    assert "2 steps" in result["extractors"]["two_sample_auroc"]
    told = result["classes"]["rare"]["measures"]["two_sample_auroc"]
    assert set(told["damaged"]) == CONTROLS
    assert 0 <= told["low"] <= told["value"] <= told["high"] <= 1
    assert 0 <= told["floor_low"] <= told["floor"] <= told["floor_high"] <= 1
    assert stage.by_measure(result["classes"])["two_sample_auroc"]["rare.floor"] == told["floor"]

    write_json(tmp_path / "encoder/config.json", {"data_digest": "another"})
    with pytest.raises(UserError, match="an encoder of other films; make it again"):
        stage.run("msg_gan", *folders, out, params)
    encoder.run(tmp_path / "curated", tmp_path / "encoder", EncoderParams(steps=3))

    of_one = pd.read_csv(tmp_path / "curated/manifest.csv")
    of_one.loc[of_one["label"] == "rare", "patient_id"] = "one"
    of_one.to_csv(tmp_path / "curated/manifest.csv", index=False)
    result = stage.run("msg_gan", *folders, out, params)
    assert "of one patient" in result["left_out"]["rare"]


def test_a_folder_without_an_encoder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no encoder"):
        encoder.load(tmp_path)


def test_mlflow_gets_a_group_a_measure() -> None:
    found = {"value": 1.0, "low": 0.5, "high": 2.0, "floor": 0.25, "floor_low": 0.2, "damaged": {"noisy": 9.0}}
    classes = {"rare": {"images": {"real": 40}, "measures": {"kid_xray": found}}}
    group = {"rare": 1.0, "rare.low": 0.5, "rare.high": 2.0, "rare.floor": 0.25}
    assert stage.by_measure(classes) == {"kid_xray": group}
