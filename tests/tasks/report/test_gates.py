"""The reasons of the gates of diversity and of class fidelity say what was shown, and no more."""

from typing import Any

import numpy as np
import pytest

from model.measures.similarity import ms_ssim_pairs
from tasks.params import Quality
from tasks.quality.stage import variety
from tasks.report.gates import MS_SSIM_MARGIN, diversity, fidelity
from tests.model.measures.test_similarity import blobs
from tests.tasks.results import recognised, varied


def measured(value: float, low: float, high: float, error: float = 0.0, near_duplicates: float = 0.0) -> dict[str, Any]:
    return {"measures": varied(value, low, high, 0.53, error, near_duplicates)}


@pytest.mark.parametrize(
    ("found", "passed", "words"),
    [
        (
            measured(0.54, 0.52, 0.56),
            True,
            "0.540 (0.520 to 0.560), of real pairs {same}. Allowing",
        ),
        # Wholly above real pairs, but not surely by more than the margin: open, and never called as varied.
        (
            measured(0.589, 0.573, 0.606),
            True,
            "0.589 (0.573 to 0.606), of real pairs {same}. Allowing",
        ),
        (
            measured(0.613, 0.597, 0.628),
            False,
            "0.613 (0.597 to 0.628), of real pairs {same}. Even allowing",
        ),
        # The same where few films leave the floor uncertain.
        (
            measured(0.613, 0.597, 0.628, 0.06),
            True,
            "(0.597 to 0.628), of real pairs 0.530 (0.470 to 0.590). Allowing",
        ),
    ],
)
def test_what_was_shown_is_said_with_its_interval(found: dict[str, Any], passed: bool, words: str) -> None:
    gate = diversity("msg_gan", {"classes": {"rare": found}}, {"rare": 9})
    assert gate["passed"] is passed
    assert gate["why"].startswith("Likeness (MS-SSIM, at most 1) of pairs of rare by msg_gan ")
    assert words.format(same="0.530 (0.530 to 0.530)") in gate["why"]
    assert "more than 0.05 above real pairs" in gate["why"]
    assert ("less varied than real ones" in gate["why"]) is not passed


def test_an_open_gate_names_the_class_that_came_nearest_to_closing_it() -> None:
    classes = {"near": measured(0.58, 0.575, 0.585), "far": measured(0.6, 0.5, 0.7)}
    why = diversity("msg_gan", {"classes": classes}, {"near": 9, "far": 9})["why"]
    assert why.startswith("The worst of all classes: near. Likeness (MS-SSIM, at most 1) of pairs of near by")


@pytest.mark.parametrize(("modes", "passed"), [(5, False), (10, False), (20, False), (300, True)])
def test_few_films_repeated_close_the_gate_though_their_mean_is_that_of_films(modes: int, passed: bool) -> None:
    real, others = blobs(100, 32, seed=0), blobs(300, 32, seed=1)
    order = np.random.default_rng(0).permutation(300)
    synthetic = np.resize(others[:modes], others.shape)[order]
    assert ms_ssim_pairs(synthetic, 400).mean() < ms_ssim_pairs(real, 400).mean() + MS_SSIM_MARGIN or modes < 10
    measures = variety(real, synthetic, Quality(), np.arange(100))
    gate = diversity("msg_gan", {"classes": {"rare": {"measures": measures}}}, {"rare": 300})
    assert gate["passed"] is passed, gate
    assert ("more than 1 % above real pairs: it repeats a few images" in gate["why"]) is not passed


def test_real_films_that_are_there_twice_do_not_hide_images_that_are() -> None:
    real = blobs(100, 32, seed=0)
    real[:11] = real[0]
    synthetic = np.resize(blobs(5, 32, seed=1), real.shape)
    measures = variety(real, synthetic, Quality(), np.arange(100))
    assert not diversity("msg_gan", {"classes": {"rare": {"measures": measures}}}, {"rare": 100})["passed"]


def test_films_that_are_all_much_alike_are_no_near_duplicates() -> None:
    real, fresh = (np.uint8(120) + blobs(80, 32, seed) // 32 for seed in (0, 1))
    assert ms_ssim_pairs(real, 400).mean() > 0.9
    gate = diversity(
        "g", {"classes": {"rare": {"measures": variety(real, fresh, Quality(), np.arange(80))}}}, {"rare": 80}
    )
    assert gate["passed"], gate


def test_few_images_that_differ_do_not_close_it_by_chance() -> None:
    real, closed = blobs(100, 32, seed=0), 0
    for seed in range(20):
        measures = variety(real, blobs(10, 32, seed=100 + seed), Quality(), np.arange(100))
        closed += "repeats" in diversity("g", {"classes": {"rare": {"measures": measures}}}, {"rare": 10})["why"]
    assert closed == 0


def test_a_class_whose_pairs_were_not_looked_at_for_near_duplicates_was_not_measured() -> None:
    found = measured(0.5, 0.49, 0.51)
    del found["measures"]["near_duplicates"]
    gate = diversity("msg_gan", {"classes": {"rare": found}}, {"rare": 9})
    why = "The variety of the images of rare by msg_gan was not measured."
    assert gate == {"passed": False, "why": why, "label": ""}


@pytest.mark.parametrize(
    ("found", "passed", "words"),
    [
        (
            recognised(0.17, 0.98),
            False,
            "(12 % to 22 %), real test films 98 % (93 % to 100 %). Even allowing for chance, more than 15",
        ),
        (
            recognised(0.9, 0.98),
            True,
            "90 % of the time (85 % to 95 %), real test films 98 %",
        ),
        (
            recognised(0.77, 0.98),
            True,
            "(93 % to 100 %). Allowing for chance, no more than 15 percentage points below",
        ),
        # Of few films, or of networks that differ, as low a share shows less.
        (recognised(0.6, 0.98, error=0.2), True, "60 % of the time (40 % to 80 %)"),
        # Classifiers that call other films so nearly as often could not have seen it.
        (recognised(0.6, 0.7, others=0.55), False, "and other test films 55 %: so classifiers cannot tell"),
    ],
)
def test_a_class_that_is_not_recognised_closes_the_gate(found: dict[str, Any], passed: bool, words: str) -> None:
    gate = fidelity("msg_gan", {"rare": found}, {"rare": 9})
    assert gate["passed"] is passed, gate
    assert gate["why"].startswith("Images of rare by msg_gan are recognised as rare ")
    assert words in gate["why"]


@pytest.mark.parametrize(
    "found", [None, {}, {"other": recognised(0.9, 0.9)}, {"rare": recognised(0.9, 0.9) | {"floor": None}}]
)
def test_a_class_that_was_not_looked_at_has_not_passed(found: dict[str, Any] | None) -> None:
    gate = fidelity("msg_gan", found, {"rare": 9, "none": 0})
    assert not gate["passed"]
    assert "the images of rare by msg_gan show their class was not measured: that takes the arm classic" in gate["why"]


def test_every_class_that_is_not_recognised_is_named_and_else_the_nearest_to_it() -> None:
    classes = {"a": recognised(0.2, 0.9), "b": recognised(0.9, 0.9), "c": recognised(0.1, 0.9)}
    why = fidelity("msg_gan", classes, {"a": 9, "b": 9})["why"]  # c was not planned, and drawn
    assert [label for label in classes if f"Images of {label} by" in why] == ["a", "c"]
    classes = {"a": recognised(0.88, 0.9), "b": recognised(0.8, 0.9)}
    why = fidelity("msg_gan", classes, {"a": 9, "b": 9})["why"]
    assert why.startswith("The worst of all classes: b. Images of b by msg_gan are")
