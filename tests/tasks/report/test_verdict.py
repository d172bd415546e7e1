"""Predictions whose answer is known, through the comparison to the sentence."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.classify.comparison import PRIMARY, compare
from tasks.params import Classify
from tasks.report.verdict import decide
from tasks.shown.numbers import signed
from tests.tasks.results import recognised, varied

CLASSES = ["normal", "rare"]
PARAMS = Classify(arms=["real", "duplicate", "classic", "msg_gan", "msg_sagan"], bootstrap=500)
PLAN = {"rare": 100}
GATES = ("memorisation", "diversity", "fidelity")


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
    arms = {"real": 0.9, "duplicate": duplicate, "classic": 0.9, "msg_gan": synthetic, "msg_sagan": synthetic}
    decision = decide(compare(predictions(arms), CLASSES, ["rare"], PARAMS), PLAN)
    assert decision["verdict"] == verdict
    assert decision["reference"] == "duplicate"
    assert signed(decision["differences"]["duplicate"]["mean"]) in decision["sentence"]
    assert "200 test patients (25 with rare) and 2 seeds, of one training of each generator" in decision["sentence"]


def test_better_than_real_but_not_than_duplicates_is_no_evidence() -> None:
    arms = {"real": 0.0, "duplicate": 2.0, "classic": 0.0, "msg_gan": 2.0, "msg_sagan": 2.0}
    assert decide(compare(predictions(arms), CLASSES, ["rare"], PARAMS), PLAN)["verdict"] == "no evidence"


@pytest.mark.parametrize("left_out", ["duplicate", "classic"])
def test_nothing_is_called_help_that_was_not_compared_with_the_cheap_remedies(left_out: str) -> None:
    arms = {"real": 0.9, "duplicate": 1.0, "classic": 1.0, "msg_gan": 3.0, "msg_sagan": 3.0}
    del arms[left_out]
    params = PARAMS.model_copy(update={"arms": list(arms)})
    decision = decide(compare(predictions(arms), CLASSES, ["rare"], params), PLAN)
    assert decision["verdict"] == "no evidence"
    assert f"Without {left_out} among classify.arms nothing is called help." in decision["sentence"]


def test_no_match_for_another_remedy_is_not_harm() -> None:
    arms = {"real": 3.0, "duplicate": 1.0, "classic": 1.0, "msg_gan": 1.0, "msg_sagan": 1.0}
    decision = decide(compare(predictions(arms), CLASSES, ["rare"], PARAMS), PLAN)
    assert decision["reference"] == "real"
    assert decision["differences"]["real"]["high"] < 0
    assert decision["verdict"] == "no evidence"
    assert decision["sentence"].startswith("No evidence that synthetic images help, and they are worse than real: ")


@pytest.mark.parametrize(
    "arms",
    [
        {"real": 0.0, "duplicate": 3.0, "msg_gan": 1.5, "msg_sagan": 1.5},  # better than doing nothing
        {"classic": 3.0, "msg_gan": 1.0, "msg_sagan": 1.0},  # nobody did nothing
    ],
)
def test_harm_needs_a_loss_against_doing_nothing(arms: dict[str, float]) -> None:
    params = PARAMS.model_copy(update={"arms": list(arms)})
    assert decide(compare(predictions(arms), CLASSES, ["rare"], params), PLAN)["verdict"] == "no evidence"


def test_the_interval_is_widened_for_two_arms_and_the_values_are_those_of_the_arms() -> None:
    arms = {"real": 0.5, "classic": 0.75, "duplicate": 1.0, "msg_gan": 1.5, "msg_sagan": 2.0}
    result = compare(predictions(arms), CLASSES, ["rare"], PARAMS)
    assert result["comparison"]["confidence"] == 0.975
    assert result["comparison"]["candidate"] == "msg_sagan"
    measured = {arm: values[PRIMARY]["mean"] for arm, values in result["arms"].items()}
    assert sorted(measured, key=lambda arm: measured[arm]) == list(arms)
    difference = result["comparison"]["differences"]["msg_gan"]["duplicate"]["mean"]
    assert difference == pytest.approx(measured["msg_gan"] - measured["duplicate"], abs=2e-4)


SCREENED = {"threshold": {"ncc": 0.9}, "false_alarms": 0.01, "classes": {"rare": {"drawn": 100, "removed": 3}}}
VARIED = {"classes": {"rare": {"measures": varied(0.42, 0.38, 0.46, 0.4)}}}
SHOWN = {"rare": recognised(0.9, 0.97)}
ANOTHER = {"rare": recognised(0.17, 0.98)}
UNLIKE = (
    "Images of rare by msg_sagan are recognised as rare 17 % of the time (12 % to 22 %), real test films 98 % "
    "(93 % to 100 %). Even allowing for chance, more than 15 percentage points below real films."
)


def of_msg_sagan(
    quality: dict[str, Any] | None,
    screening: dict[str, Any] | None,
    shown: dict[str, Any] | None = SHOWN,
    strength: float = 3.0,
) -> dict[str, Any]:
    """A verdict, of help unless `strength` is small, with these findings about the generator."""
    arms = {"real": 0.9, "duplicate": 1.0, "classic": 0.9, "msg_gan": strength - 0.5, "msg_sagan": strength}
    result = compare(predictions(arms), CLASSES, ["rare"], PARAMS)
    result["fidelity"] = {"msg_gan": {}} if shown is None else {"msg_sagan": shown}
    return decide(
        result, PLAN, {"msg_sagan": quality or {}, "msg_gan": VARIED}, {"msg_sagan": screening, "msg_gan": None}
    )


def test_help_with_open_gates_is_stated_as_it_is() -> None:
    found = of_msg_sagan(VARIED, SCREENED)
    assert found["verdict"] == "helps"
    assert {name: gate["passed"] for name, gate in found["gates"].items()} == dict.fromkeys(GATES, True)
    assert "do not use" not in found["sentence"]
    assert found["classes"] == ["rare"]
    assert found["ratio"] == 1
    assert 0 < found["minimum_effect"]["duplicate"] < 1


@pytest.mark.parametrize(
    ("quality", "screening", "shown", "gate", "why"),
    [
        (VARIED, None, SHOWN, "memorisation", "was not measured"),
        (VARIED, {**SCREENED, "false_alarms": None}, SHOWN, "memorisation", "no held-out films"),
        (VARIED, {**SCREENED, "false_alarms": 0.3}, SHOWN, "memorisation", "30 % of held-out films"),
        (VARIED, {**SCREENED, "classes": {}}, SHOWN, "memorisation", "of rare was not measured"),
        (
            VARIED,
            {**SCREENED, "classes": {"rare": {"drawn": 100, "removed": 40}}},
            SHOWN,
            "memorisation",
            "40 % of the images",
        ),
        (None, SCREENED, SHOWN, "diversity", "was not measured"),
        ({"classes": {"rare": {"ms_ssim": {"mean": 0.4}}}}, SCREENED, SHOWN, "diversity", "was not measured"),
        (
            {"classes": {"rare": {"measures": varied(0.7, 0.6, 0.8, 0.4)}}},
            SCREENED,
            SHOWN,
            "diversity",
            "(0.600 to 0.800), of real pairs 0.400 (0.400 to 0.400). Even allowing for chance, more than 0.05 above",
        ),
        (VARIED, SCREENED, None, "fidelity", "images of rare by msg_sagan show their class was not measured"),
        (VARIED, SCREENED, ANOTHER, "fidelity", UNLIKE),
    ],
)
def test_help_behind_a_closed_gate_is_never_stated_alone(
    quality: dict[str, Any] | None,
    screening: dict[str, Any] | None,
    shown: dict[str, Any] | None,
    gate: str,
    why: str,
) -> None:
    found = of_msg_sagan(quality, screening, shown)
    assert found["verdict"] == "helps"
    assert [name for name, g in found["gates"].items() if not g["passed"]] == [gate]
    assert why in found["gates"][gate]["why"]
    assert found["sentence"].endswith(found["gates"][gate]["why"])
    assert "But do not use them as they are" in found["sentence"]


@pytest.mark.parametrize(("strength", "verdict"), [(1.0, "no evidence"), (0.0, "harms")])
def test_images_that_do_not_show_their_class_are_named_where_they_do_not_help(strength: float, verdict: str) -> None:
    found = of_msg_sagan(VARIED, SCREENED, ANOTHER, strength)
    assert found["verdict"] == verdict
    assert found["sentence"].endswith(f" {UNLIKE}")
    assert "But do not use" not in found["sentence"]
    assert "recognised" not in of_msg_sagan(VARIED, SCREENED, SHOWN, strength)["sentence"]


def test_classic_with_synthetic_images_must_beat_classic() -> None:
    params = PARAMS.model_copy(update={"arms": ["real", "duplicate", "classic", "classic+msg_sagan"]})
    arms = {"real": 0.5, "duplicate": 0.5, "classic": 2.5, "classic+msg_sagan": 2.5}
    result = compare(predictions(arms), CLASSES, ["rare"], params)
    found = decide(result, PLAN)
    assert found["differences"]["duplicate"]["low"] > 0
    assert found["verdict"] == "no evidence"


def test_trainings_that_disagree_widen_the_interval() -> None:
    """The same mean difference, once as steady seeds and once as one that gains and one that loses."""
    arms = {"real": 1.0, "duplicate": 1.0, "classic": 1.0, "msg_gan": 1.5, "msg_sagan": 1.5}
    steady = predictions(arms)
    shaky = steady.copy()
    lucky = (shaky["seed"] == 0) & (shaky["arm"].isin(["msg_gan", "msg_sagan"])) & (shaky["label"] == "rare")
    shaky.loc[lucky, "p_rare"] = 0.5 + shaky.loc[lucky, "p_rare"] / 2
    widths = []
    for table in (steady, shaky):
        found = compare(table, CLASSES, ["rare"], PARAMS)["comparison"]["differences"]["msg_sagan"]["duplicate"]
        widths.append(found["high"] - found["low"])
    assert widths[1] > 1.5 * widths[0]


def test_a_handful_of_rare_test_patients_is_not_enough_for_a_verdict() -> None:
    arms = {"real": 0.0, "duplicate": 0.0, "classic": 0.0, "msg_gan": 9.0, "msg_sagan": 9.0}
    table = predictions(arms)
    rare = table.loc[(table["label"] == "rare") & (table["split"] == "test"), "patient_id"].unique()
    found = decide(compare(table[~table["patient_id"].isin(rare[4:])], CLASSES, ["rare"], PARAMS), PLAN)
    assert found["verdict"] == "no evidence"
    assert "fewer than 5 test patients" in found["sentence"]
    recall = compare(table[~table["patient_id"].isin(rare[4:])], CLASSES, ["rare"], PARAMS)["arms"]["real"]
    assert recall["recall_rare"]["low"] is None
    assert recall["recall_normal"]["low"] is not None


def two_rare_classes(strength: float, of_other: float) -> pd.DataFrame:
    """As `predictions`, 600 patients, with a second rare class: with synthetic images `rare` is told from the others by
    `strength` instead of 0.5, and `other` by `of_other` instead of 2."""
    arms = {"real": 0.5, "duplicate": 0.5, "classic": 0.5, "msg_gan": strength, "msg_sagan": strength}
    table = predictions(arms, patients=600)
    rng = np.random.default_rng(3)
    third = table["image_id"].isin({f"i{k}" for k in range(600) if k % 8 == 3}).to_numpy()
    table.loc[third, "label"] = "other"
    separation = np.where(table["arm"].isin(["msg_gan", "msg_sagan"]), of_other, 2.0)
    table["p_other"] = 1 / (
        1 + np.exp(-(separation * third + rng.normal(size=600)[table["image_id"].str[1:].astype(int)]))
    )
    return table


BOTH = ["rare", "other"]


def test_each_rare_class_is_judged_on_its_own_too() -> None:
    found = decide(compare(two_rare_classes(3.5, 2.0), [*CLASSES, "other"], BOTH, PARAMS), dict.fromkeys(BOTH, 100))
    assert found["classes"] == ["rare"]
    assert found["words"] == {"rare": "helps", "other": "no evidence"}
    assert "By class, it helps for rare, there is no evidence for other." in found["sentence"]


def test_a_class_that_is_harmed_is_named_whatever_the_others_gain() -> None:
    found = decide(compare(two_rare_classes(3.5, -3.0), [*CLASSES, "other"], BOTH, PARAMS), dict.fromkeys(BOTH, 100))
    assert found["words"] == {"rare": "helps", "other": "harms"}
    assert "By class, it helps for rare, it harms for other." in found["sentence"]


def test_the_word_is_of_the_classes_in_the_comparison_alone() -> None:
    """The caller passes those of which images were made; `other`, which they harm, is then none of the primary."""
    result = compare(two_rare_classes(3.5, -3.0), [*CLASSES, "other"], ["rare"], PARAMS)
    assert decide(result, PLAN)["verdict"] == "helps"
    assert list(result["comparison"]["by_class"]) == ["rare"]


def test_a_class_without_test_films_is_named_and_the_other_is_judged() -> None:
    table = two_rare_classes(3.5, 2.0)
    table = table[(table["split"] == "val") | (table["label"] != "other")]
    sentence = decide(compare(table, [*CLASSES, "other"], BOTH, PARAMS), dict.fromkeys(BOTH, 100))["sentence"]
    assert "the test split holds no image of other to measure it on." in sentence
    assert "By class, it helps for rare, there is no evidence for other." in sentence


def test_few_patients_of_a_common_class_take_no_interval_from_the_rare_ones() -> None:
    table = two_rare_classes(3.5, 2.0)
    others = table.loc[(table["split"] == "test") & (table["label"] == "other"), "patient_id"].unique()
    table = table[~table["patient_id"].isin(others[3:])]
    found = compare(table, [*CLASSES, "other"], ["rare"], PARAMS)["arms"]["real"]
    assert found["rare_auprc"] == found["auprc_rare"]
    known = {name for name, values in found.items() if values["low"] is not None}
    assert {"rare_auprc", "sensitivity_at_90_specificity", "ece", "brier", "recall_normal"} <= known
    assert known.isdisjoint({"auprc_other", "recall_other", "auroc", "macro_f1", "balanced_accuracy"})


def test_without_a_rare_film_in_validation_no_arm_is_called_its_best() -> None:
    table = predictions({"real": 0.9, "duplicate": 1.0, "classic": 0.9, "msg_gan": 1.0, "msg_sagan": 3.0})
    table = table[(table["split"] == "test") | (table["label"] == "normal")]
    result = compare(table, CLASSES, ["rare"], PARAMS)
    assert (result["comparison"]["candidate"], result["comparison"]["reference"]) == ("msg_gan", "real")
    sentence = decide(result, PLAN)["sentence"]
    assert "Validation has no film of rare, so no arm could be chosen by it; these are the first." in sentence
    assert "best arm" not in sentence


def test_a_test_that_could_show_nothing_says_so() -> None:
    result = compare(predictions(dict.fromkeys(PARAMS.arms, 1.0)), CLASSES, ["rare"], PARAMS)
    comparison = result["comparison"]
    comparison["minimum_effect"][comparison["candidate"]][comparison["reference"]] = 1.3
    assert "could have shown no change at all" in decide(result, PLAN)["sentence"]
    assert "1.3" not in decide(result, PLAN)["sentence"]


def test_nothing_rare_needs_nothing() -> None:
    assert decide({}, {})["verdict"] == "not needed"


def test_without_a_pair_of_arms_there_is_no_comparison() -> None:
    params = PARAMS.model_copy(update={"arms": ["real"]})
    result = compare(predictions({"real": 1.0}), CLASSES, ["rare"], params)
    assert decide(result, PLAN)["verdict"] == "not compared"


FINDINGS = ["effusion", "hernia", "normal"]
RARE_FINDINGS = ["effusion", "hernia"]


def findings(strength: dict[str, tuple[float, float]], patients: int = 480, unknown: bool = False) -> pd.DataFrame:
    """Arms that tell effusion and hernia by so many standard deviations; one film in twelve has both.

    With `unknown` it is not known of a third of the films whether they have a hernia, and what is said of those is
    the contrary of what is true.
    """
    rng = np.random.default_rng(0)
    k = np.arange(patients)
    there = {"effusion": k % 4 == 0, "hernia": k % 6 == 0}
    there["normal"] = ~(there["effusion"] | there["hernia"])
    open_ones = unknown & (rng.random(patients) < 1 / 3)
    shared = {name: rng.normal(size=patients) for name in FINDINGS}
    tables = []
    for arm, separations in strength.items():
        for seed in (0, 1):
            table: dict[str, Any] = {"arm": arm, "seed": seed, "split": np.where(k // 12 % 3 == 0, "val", "test")}
            table |= {"image_id": [f"i{n}" for n in k], "patient_id": [f"p{n}" for n in k]}
            table["label"] = ["|".join(name for name in FINDINGS if there[name][n]) for n in k]
            for name, separation in zip(FINDINGS, (*separations, 1.0), strict=True):
                sign = np.where(open_ones, -1, 1) if name == "hernia" else 1
                logits = sign * separation * there[name] + shared[name] + 0.1 * rng.normal(size=patients) - 1
                table[f"p_{name}"] = 1 / (1 + np.exp(-logits))
                table[f"finding_{name}"] = there[name].astype(int).astype(str)
            frame = pd.DataFrame(table)
            frame.loc[open_ones, "finding_hernia"] = ""
            tables.append(frame)
    return pd.concat(tables, ignore_index=True)


def test_of_several_findings_the_verdict_says_for_which_it_holds() -> None:
    arms = dict.fromkeys(("real", "duplicate", "classic"), (1.0, 1.0)) | dict.fromkeys(("msg_gan",), (1.0, 3.5))
    arms |= {"msg_sagan": (0.9, 1.1)}
    result = compare(findings(arms), FINDINGS, RARE_FINDINGS, PARAMS)
    found = decide(result, dict.fromkeys(RARE_FINDINGS, 100))
    assert found["candidate"] == "msg_gan"
    assert found["words"] == {"effusion": "no evidence", "hernia": "helps"}
    assert "By class, it helps for hernia, there is no evidence for effusion." in found["sentence"]
    assert result["test"]["by_class"] == {"effusion": 78, "hernia": 52, "normal": 208}  # 26 have both
    assert sum(result["test"]["by_class"].values()) > result["test"]["images"] == 312
    areas = result["arms"]["msg_gan"]
    assert areas["rare_auprc"]["mean"] == pytest.approx(
        (areas["auprc_effusion"]["mean"] + areas["auprc_hernia"]["mean"]) / 2, abs=1e-4
    )


def test_films_of_which_a_finding_is_not_known_do_not_count_for_it() -> None:
    arms = {str(arm): (2.0, 3.0) for arm in PARAMS.arms}
    table = findings(arms, unknown=True)
    sure = compare(table, FINDINGS, RARE_FINDINGS, PARAMS)["arms"]["real"]
    table["finding_hernia"] = ["1" if "hernia" in label else "0" for label in table["label"]]
    fooled = compare(table, FINDINGS, RARE_FINDINGS, PARAMS)["arms"]["real"]
    for name in ("auprc_hernia", "recall_hernia", "auroc", "brier", "ece", "macro_f1", "sensitivity_at_90_specificity"):
        assert sure[name]["mean"] != fooled[name]["mean"], name
    assert sure["auprc_hernia"]["mean"] > 0.8 > fooled["auprc_hernia"]["mean"]
    assert sure["auprc_effusion"] == fooled["auprc_effusion"]
