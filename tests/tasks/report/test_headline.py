"""The verdict in a few words: short, with the control that is hardest to beat, and what to do first."""

from typing import Any

import pytest

from tasks.classify.comparison import compare
from tasks.report.headline import MOST, told
from tasks.report.verdict import decide
from tests.tasks.report.test_verdict import CLASSES, PARAMS, PLAN, predictions

Facts = dict[str, Any]


def facts(**strength: float) -> tuple[Facts, Facts]:
    """The verdict and the comparison of arms whose truth is planted, and no gate passed."""
    arms = {"real": 0.9, "duplicate": 1.0, "classic": 1.0, "msg_gan": 1.0, "msg_sagan": 1.0} | strength
    downstream = compare(predictions(arms), CLASSES, ["rare"], PARAMS)
    return decide(downstream, PLAN), downstream


def opened(decision: Facts) -> Facts:
    return decision | {"gates": {name: gate | {"passed": True} for name, gate in decision["gates"].items()}}


HELP = {"msg_gan": 3.0, "msg_sagan": 3.0}
HARM = {"msg_gan": 0.0, "msg_sagan": 0.0, "duplicate": 1.5}


@pytest.mark.parametrize(
    ("strength", "headline", "first"),
    [
        (HELP, "Synthetic images help", "Confirm it on films of another time"),
        (HARM, "Synthetic images harm", "Train with "),
        ({}, "No evidence that synthetic images help", "Leave synthetic images out"),
        ({"real": 3.0}, "No evidence of help; worse than real", "Use five classify.seeds or more"),
    ],
)
def test_the_headline_says_what_is_and_the_advice_what_follows(
    strength: dict[str, float], headline: str, first: str
) -> None:
    decision, downstream = facts(**strength)
    found = told(opened(decision), downstream)
    assert found["headline"] == headline
    assert found["advice"][0].startswith(first)
    assert decision["worse"] == (["real"] if "real" in strength else [])


def test_what_must_not_be_used_is_not_called_help_alone() -> None:
    decision, downstream = facts(**HELP)
    found = told(decision, downstream)
    assert found["headline"] == "Synthetic images help, but must not be used (memorisation)"
    assert len(found["advice"]) == MOST
    assert found["advice"][0].startswith("Do not use these images")


def test_the_lines_are_of_the_control_that_is_hardest_to_beat() -> None:
    decision, downstream = facts(classic=2.0)
    change, patients, effect = told(decision, downstream)["lines"]
    arms, candidate = downstream["arms"], decision["candidate"]
    before, after = (arms[arm]["rare_auprc"]["mean"] for arm in ("classic", candidate))
    assert change.startswith(
        f"AUPRC of rare: {before:.3f} without synthetic images (classic), {after:.3f} with them ({candidate}); −"
    )
    assert patients == "200 test patients (25 with rare), 2 seeds, one training of each generator."
    least = decision["minimum_effect"]["classic"]
    assert effect == f"A true change below {least:.3f} would be missed more than one time in five."


def test_leaks_and_confounds_come_first() -> None:
    decision, downstream = facts(**HELP)
    downstream |= {"leaked": {"test": 1, "val": 0}, "confounds": {"warnings": ["sex"]}}
    leak, confound, _ = told(decision, downstream)["advice"]
    assert "nearly equal in train and test" in leak
    assert "confound" in confound


def test_nothing_to_compare_is_said_in_a_few_words() -> None:
    for plan, word in (({}, "No class is rare enough to need synthetic images"), (PLAN, "Nothing was compared")):
        found = told(decide({}, plan), {})
        assert (found["headline"], found["lines"]) == (word, [])


def test_no_headline_is_longer_than_twelve_words() -> None:
    worst = {
        control: {"mean": -0.1, "low": -0.2, "high": -0.05} for control in ("two_stage_classic", "real", "classic")
    }
    gates = {"memorisation": {"passed": False, "why": ""}}
    for verdict in ("helps", "harms", "no evidence"):
        decision: Facts = {"verdict": verdict, "gates": gates, "differences": worst, "candidate": "msg_gan"}
        decision |= {"minimum_effect": dict.fromkeys(worst, 0.1), "confidence": 0.95, "reference": "classic"}
        decision["worse"] = list(worst) if verdict == "no evidence" else []
        downstream = {
            "primary": "auprc",
            "arms": {arm: {"auprc": {"mean": 0.5}} for arm in (*worst, "msg_gan")},
            "test": {"patients": 9, "patients_by_class": {}},
            "rare": ["rare"],
            "seeds": [0, 1],
        }
        assert len(told(decision, downstream)["headline"].split()) <= 12
