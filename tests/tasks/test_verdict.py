"""Predictions whose answer is known, through the comparison to the sentence."""

import numpy as np
import pandas as pd
import pytest

from tasks.comparison import PRIMARY, compare
from tasks.params import Classify
from tasks.verdict import decide

CLASSES = ["normal", "rare"]
PARAMS = Classify(arms=["real", "duplicate", "msg_gan", "msg_sagan"], bootstrap=500)
PLAN = {"rare": 100}


def predictions(strength: dict[str, float], patients: int = 300) -> pd.DataFrame:
    """Arms whose score separates the classes by `strength` standard deviations, on the same patients."""
    rng = np.random.default_rng(0)
    labels = (np.arange(patients) % 8 == 0).astype(int)
    shared = rng.normal(size=patients)
    tables = []
    for arm, separation in strength.items():
        for seed in (0, 1):
            score = 1 / (1 + np.exp(-(separation * labels + shared + 0.1 * rng.normal(size=patients) - 1)))
            table = pd.DataFrame(
                {
                    "arm": arm,
                    "seed": seed,
                    "split": np.where(np.arange(patients) % 3 == 0, "val", "test"),
                    "image_id": [f"i{k}" for k in range(patients)],
                    "patient_id": [f"p{k}" for k in range(patients)],
                    "label": [CLASSES[label] for label in labels],
                    "p_normal": 1 - score,
                    "p_rare": score,
                }
            )
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


@pytest.mark.parametrize(
    ("synthetic", "duplicate", "verdict"), [(3.0, 1.0, "helps"), (1.0, 1.0, "no evidence"), (0.0, 1.5, "harms")]
)
def test_the_verdict_follows_the_truth(synthetic: float, duplicate: float, verdict: str) -> None:
    arms = {"real": 0.9, "duplicate": duplicate, "msg_gan": synthetic, "msg_sagan": synthetic}
    decision = decide(compare(predictions(arms), CLASSES, ["rare"], PARAMS), PLAN, {}, {})
    assert decision["verdict"] == verdict
    assert decision["reference"] == "duplicate"
    assert f"{decision['differences']['duplicate']['mean']:+.3f}" in decision["sentence"]
    assert "200 test patients, 2 seeds" in decision["sentence"]


def test_better_than_real_but_not_than_duplicates_is_no_evidence() -> None:
    arms = {"real": 0.0, "duplicate": 2.0, "msg_gan": 2.0, "msg_sagan": 2.0}
    assert decide(compare(predictions(arms), CLASSES, ["rare"], PARAMS), PLAN, {}, {})["verdict"] == "no evidence"


def test_no_match_for_another_remedy_is_not_harm() -> None:
    arms = {"real": 3.0, "duplicate": 1.0, "msg_gan": 1.0, "msg_sagan": 1.0}
    decision = decide(compare(predictions(arms), CLASSES, ["rare"], PARAMS), PLAN, {}, {})
    assert decision["reference"] == "real"
    assert decision["differences"]["real"]["high"] < 0
    assert decision["verdict"] == "no evidence"


@pytest.mark.parametrize(
    "arms",
    [
        {"real": 0.0, "duplicate": 3.0, "msg_gan": 1.5, "msg_sagan": 1.5},  # better than doing nothing
        {"classic": 3.0, "msg_gan": 1.0, "msg_sagan": 1.0},  # nobody did nothing
    ],
)
def test_harm_needs_a_loss_against_doing_nothing(arms: dict[str, float]) -> None:
    params = PARAMS.model_copy(update={"arms": list(arms)})
    assert decide(compare(predictions(arms), CLASSES, ["rare"], params), PLAN, {}, {})["verdict"] == "no evidence"


def test_the_interval_is_widened_for_two_arms_and_the_values_are_those_of_the_arms() -> None:
    arms = {"real": 0.5, "duplicate": 1.0, "msg_gan": 1.5, "msg_sagan": 2.0}
    result = compare(predictions(arms), CLASSES, ["rare"], PARAMS)
    assert result["comparison"]["confidence"] == 0.975
    assert result["comparison"]["candidate"] == "msg_sagan"
    measured = {arm: values[PRIMARY]["mean"] for arm, values in result["arms"].items()}
    assert sorted(measured, key=lambda arm: measured[arm]) == list(arms)
    difference = result["comparison"]["differences"]["msg_gan"]["duplicate"]["mean"]
    assert difference == pytest.approx(measured["msg_gan"] - measured["duplicate"], abs=2e-4)


def test_nothing_rare_needs_nothing() -> None:
    assert decide({}, {}, {}, {})["verdict"] == "not needed"


def test_without_a_pair_of_arms_there_is_no_comparison() -> None:
    params = PARAMS.model_copy(update={"arms": ["real"]})
    result = compare(predictions({"real": 1.0}), CLASSES, ["rare"], params)
    assert decide(result, PLAN, {}, {})["verdict"] == "not compared"
