"""The reason of the diversity gate says what was shown, and no more."""

from typing import Any

import pytest

from tasks.gates import diversity


def measured(value: float, low: float, high: float, floor: float = 0.53) -> dict[str, Any]:
    return {"measures": {"ms_ssim": {"value": value, "low": low, "high": high, "floor": floor}}}


@pytest.mark.parametrize(
    ("found", "passed", "words"),
    [
        (measured(0.54, 0.52, 0.56), True, "0.540 (0.520 to 0.560), of real pairs 0.530: not surely above it by"),
        # Wholly above real pairs, but not surely by more than the margin: open, and never called as varied.
        (measured(0.589, 0.573, 0.606), True, "0.589 (0.573 to 0.606), of real pairs 0.530: not surely above it by"),
        (measured(0.613, 0.597, 0.628), False, "0.613 (0.597 to 0.628), of real pairs 0.530: surely above it by"),
    ],
)
def test_what_was_shown_is_said_with_its_interval(found: dict[str, Any], passed: bool, words: str) -> None:
    gate = diversity("msg_gan", {"classes": {"rare": found}}, {"rare": 9})
    assert gate["passed"] is passed
    assert f"MS-SSIM of pairs of rare by msg_gan {words} more than 0.05" in gate["why"]
    assert ("less varied than real ones" in gate["why"]) is not passed


def test_an_open_gate_names_the_class_that_came_nearest_to_closing_it() -> None:
    classes = {"near": measured(0.58, 0.575, 0.585), "far": measured(0.6, 0.5, 0.7)}
    assert "of near by" in diversity("msg_gan", {"classes": classes}, {"near": 9, "far": 9})["why"]
