"""Class fidelity where the truth is known: planted predictions, and networks that learnt from films of plain looks."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.classify.arms import training_set
from tasks.classify.comparison import compare
from tasks.classify.fidelity import ARM, ENDS, fidelity, share
from tasks.classify.stage import predictions_of
from tasks.image_set import ImageSet
from tasks.params import Classify
from tasks.report import gates
from tests.flows import films

CLASSES = ["common", "other", "rare"]
PLAN = {"other": 60, "rare": 60}


def rows(said: dict[tuple[str, str, str], int], seed: int, films_of_a_patient: int = 1) -> pd.DataFrame:
    """Predictions of a network that is sure: how many images of a (split, label) it calls what."""
    table = []
    for (split, label, called), count in said.items():
        for k in range(count):
            names = {"image_id": f"{split}-{label}-{called}-{k}", "patient_id": f"{label}-{k // films_of_a_patient}"}
            found = {f"p_{name}": 0.9 if name == called else 0.05 for name in CLASSES}
            table.append({"arm": ARM, "seed": seed, "split": split, "label": label, **names, **found})
    return pd.DataFrame(table)


RIGHT_ON_VALIDATION = {("val", label, label): 10 for label in CLASSES}
TESTED = {("test", "common", "common"): 72, ("test", "common", "rare"): 8, ("test", "rare", "rare"): 20}


def two_networks() -> pd.DataFrame:
    """The first calls 30 of 40 images of rare by msg_gan rare, the second 10, and both the rest other."""
    parts = [
        rows(
            RIGHT_ON_VALIDATION | TESTED | {("msg_gan", "rare", "rare"): n, ("msg_gan", "rare", "other"): 40 - n}, seed
        )
        for seed, n in enumerate((30, 10))
    ]
    for part in parts:
        part.loc[part["split"] == "msg_gan", "image_id"] = [f"g{k}" for k in range(40)]
    return pd.concat(parts, ignore_index=True)


def test_the_share_that_is_recognised_stands_beside_that_of_real_test_films() -> None:
    found = fidelity(two_networks(), CLASSES, 0.95)
    assert list(found) == ["msg_gan"]
    assert list(found["msg_gan"]) == ["rare"]
    entry = found["msg_gan"]["rare"]
    assert (entry["value"], entry["floor"]) == (0.5, 1.0)
    assert entry["others"] == 0.1  # 8 of 80
    assert entry["confused"] == {"common": 0.0, "other": 0.5}
    assert entry["low"] < 0.25 < 0.75 < entry["high"]  # what the two networks say is no more than they know
    assert entry["floor_low"] == share(np.ones((1, 20)), np.arange(20), 0.95)[1]
    assert entry["floor_high"] == 1.0


def test_of_six_images_evenly_spread_it_is_kept_what_each_network_took_them_for() -> None:
    examples = fidelity(two_networks(), CLASSES, 0.95)["msg_gan"]["rare"]["examples"]
    assert [example["image"] for example in examples] == [0, 8, 16, 23, 31, 39]
    both, one, none = {"rare": 2}, {"rare": 1, "other": 1}, {"other": 2}
    assert [example["taken_for"] for example in examples] == [both, both, one, one, none, none]


def test_the_operating_point_is_that_of_validation() -> None:
    """Networks that never find rare the likeliest class, but put a tenth of their odds on it where it is."""
    table = two_networks()
    table["p_rare"] = np.where(table["p_rare"] == 0.9, 0.3, 0.01)
    table["p_common"] = 0.98 - table["p_rare"]
    table["p_other"] = 0.02
    table = table[table["label"] != "other"]
    entry = fidelity(table, CLASSES, 0.95)["msg_gan"]["rare"]
    assert (entry["value"], entry["floor"]) == (0.5, 1.0)


def test_what_is_not_there_is_not_measured() -> None:
    table = two_networks()
    assert fidelity(table[table["split"] != "msg_gan"], CLASSES, 0.95) == {}
    assert fidelity(table.assign(arm="real"), CLASSES, 0.95) == {}
    without = table[(table["split"] != "test") | (table["label"] != "rare")]
    entry = fidelity(without, CLASSES, 0.95)["msg_gan"]["rare"]
    assert [entry[end] for end in ENDS[3:]] == [None] * 3
    assert entry["value"] == 0.5


def test_images_of_generators_change_no_figure_of_the_test_split() -> None:
    table = two_networks()
    params = Classify(arms=[ARM], bootstrap=100)
    of_films = table[table["split"] != "msg_gan"]
    assert compare(table, CLASSES, ["rare"], params) == compare(of_films, CLASSES, ["rare"], params)


def test_the_interval_is_wilsons_and_knows_that_films_of_a_patient_are_alike() -> None:
    def ends(recognised: np.ndarray, units: np.ndarray) -> tuple[Any, ...]:
        return share(recognised, units, 0.95)

    assert ends(np.ones((2, 10)), np.arange(10)) == (1.0, 0.7225, 1.0)  # textbook: 10 of 10
    assert ends(np.ones((2, 10)), np.arange(10) // 5)[1] == pytest.approx(0.3424, abs=1e-4)  # 2 of 2
    half = np.resize([True, False], (1, 40))
    alone = ends(half, np.arange(40))
    assert alone == pytest.approx((0.5, 0.352, 0.648), abs=5e-3)  # 20 of 40
    by_patient = ends(np.sort(half), np.arange(40) // 4)
    assert by_patient[2] - by_patient[1] > 1.5 * (alone[2] - alone[1])
    disagree = ends(np.stack([np.arange(40) < 30, np.arange(40) < 10]), np.arange(40))
    assert disagree[2] - disagree[1] > 1.5 * (alone[2] - alone[1])


@pytest.mark.parametrize(("images", "truth"), [(12, 0.9), (40, 0.5), (200, 0.97)])
def test_intervals_hold_the_truth_as_often_as_they_say(images: int, truth: float) -> None:
    """Each patient has three films, most of them alike, and five networks mostly agree."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):
        of_patient = np.repeat(rng.random(images) < truth, 3)
        other = rng.random((5, 3 * images)) < truth
        recognised = np.where(rng.random((5, 3 * images)) < 0.2, other, of_patient)
        _, low, high = share(recognised, np.repeat(np.arange(images), 3), 0.95)
        assert low is not None
        assert high is not None
        hits += low <= truth <= high
    assert hits / 400 > 0.92


# --- networks of films whose looks are easy to tell


def film_set(seed: int, looks: dict[str, tuple[str, int]]) -> ImageSet:
    """By class a look of its films and how many there are, each of a patient of its own; a quarter is test."""
    rng = np.random.default_rng(seed)
    labels = [label for label, (_, count) in looks.items() for _ in range(count)]
    images = np.stack([films.film(rng, looks[label][0]) for label in labels])
    names = [f"{seed}-{k}" for k in range(len(labels))]
    split = np.resize(["train", "train", "val", "test"], len(labels))
    manifest = pd.DataFrame({"image_id": names, "patient_id": names, "label": labels, "split": split})
    return ImageSet(images, manifest, CLASSES, str(seed))


def with_grid(drawn: ImageSet, depth: int) -> ImageSet:
    """Every other pixel `depth` grey levels brighter, the others as much darker."""
    grid = depth * (-1) ** np.add.outer(np.arange(films.SIDE), np.arange(films.SIDE))
    images = np.clip(drawn.images.astype(int) + grid, 0, 255).astype(np.uint8)
    return ImageSet(images, drawn.manifest, CLASSES, f"{drawn.digest}-grid")


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, Any]]:
    """By planted generator; the networks have learnt from other films than these."""
    right, mixed_up = ({label: (look, 60) for look, label in of.items()} for of in (films.RIGHT, films.MIXED_UP))
    real = film_set(0, {"common": ("plain", 200), "other": ("dark", 60), "rare": ("bright", 60)})
    fresh, wrong = (film_set(seed, {label: of[label] for label in PLAN}) for seed, of in ((1, right), (2, mixed_up)))
    sets = {"right": fresh, "mixed_up": wrong, "grid": with_grid(fresh, 6)}
    params = Classify(steps=100, batch=16, learning_rate=0.003)
    said = [
        predictions_of(training_set(ARM, real, None, PLAN, seed), real, params, seed, sets).assign(arm=ARM)
        for seed in (0, 1)
    ]
    return fidelity(pd.concat(said, ignore_index=True), CLASSES, 0.95)


def test_fresh_films_of_the_class_pass(measured: dict[str, dict[str, Any]]) -> None:
    gate = gates.fidelity("right", measured["right"], PLAN)
    assert gate["passed"], gate
    assert all(entry["value"] > 0.7 and entry["floor"] > 0.7 for entry in measured["right"].values()), measured


def test_right_images_under_wrong_labels_close_the_gate(measured: dict[str, dict[str, Any]]) -> None:
    gate = gates.fidelity("mixed_up", measured["mixed_up"], PLAN)
    assert not gate["passed"]
    for label, other in (("other", "rare"), ("rare", "other")):
        entry = measured["mixed_up"][label]
        assert entry["value"] < 0.3
        assert entry["confused"][other] > 0.7
        assert f"Images of {label} by mixed_up are recognised as {label} " in gate["why"]
    assert gate["why"].count("Even allowing for chance, more than 15 percentage points below") == 2


def test_a_faint_grid_is_no_other_class(measured: dict[str, dict[str, Any]]) -> None:
    """It is what a two-sample test is for: the finding is still there, and is recognised about as often."""
    for label, entry in measured["grid"].items():
        assert abs(entry["value"] - measured["right"][label]["value"]) < 0.3


def said_of(images: dict[tuple[str, str, str], int], seed: int) -> pd.DataFrame:
    """Predictions of a network that is sure: of (split, findings, called), how many; those drawn are for the first."""
    table = []
    for (split, label, called), count in images.items():
        for k in range(count):
            row: dict[str, Any] = {
                "arm": ARM,
                "seed": seed,
                "split": split,
                "image_id": f"{split}-{label}-{called}-{k}",
            }
            row |= {"patient_id": row["image_id"], "label": label.split("|")[0] if split == "msg_gan" else label}
            row |= {f"p_{name}": 0.9 if name in called.split("|") else 0.1 for name in CLASSES}
            table.append(row | {f"finding_{name}": str(int(name in label.split("|"))) for name in CLASSES})
    return pd.DataFrame(table)


def test_of_several_findings_each_is_recognised_by_itself() -> None:
    validation = {("val", label, label): 10 for label in (*CLASSES, "other|rare")}
    test = {("test", "common", "common"): 60, ("test", "common", "rare"): 20, ("test", "rare", "rare"): 10}
    test |= {("test", "other|rare", "other|rare"): 6, ("test", "other|rare", "other"): 4}
    drawn = {("msg_gan", "rare", "rare"): 20, ("msg_gan", "rare|other", "other|rare"): 10}
    drawn |= {("msg_gan", "rare", "other"): 5, ("msg_gan", "rare|other", "other"): 5}
    predictions = pd.concat([said_of(validation | test | drawn, seed) for seed in (0, 1)], ignore_index=True)
    found = fidelity(predictions, CLASSES, 0.95)["msg_gan"]
    assert list(found) == ["rare"]  # whatever else they show: all were drawn for it
    assert found["rare"]["value"] == 0.75  # 30 of 40
    assert found["rare"]["floor"] == 0.8  # 16 of the 20 films that have it
    assert found["rare"]["others"] == 0.25  # 20 of 80
    assert found["rare"]["confused"] == {"common": 0.0, "other": 0.2}  # 5 of the 25 that were to show rare alone
