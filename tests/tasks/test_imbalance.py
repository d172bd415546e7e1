"""Counts, ratio, effective number and the plan, on a set that can be counted by hand."""

import pandas as pd
import pytest

from tasks.image_set import with_findings
from tasks.imbalance import analyse
from tasks.params import Imbalance


@pytest.fixture
def manifest() -> pd.DataFrame:
    rows = [("normal", f"n{k // 2}", "train" if k < 80 else "test") for k in range(100)]
    rows += [("rare", f"r{k}", "train" if k < 8 else "val") for k in range(10)]
    rows += [("half", f"h{k}", "train") for k in range(40)]
    return pd.DataFrame(rows, columns=["label", "patient_id", "split"])


CLASSES = ["half", "normal", "rare"]


def test_counts_images_and_patients(manifest: pd.DataFrame) -> None:
    result = analyse(manifest, CLASSES, Imbalance())
    assert result["classes"]["normal"]["images"] == {"train": 80, "val": 0, "test": 20}
    assert result["classes"]["normal"]["patients"] == {"train": 40, "val": 0, "test": 10}
    assert result["imbalance_ratio"] == 10
    assert result["classes"]["rare"]["effective_number"] == pytest.approx((1 - 0.999**8) / 0.001, abs=0.01)


@pytest.mark.parametrize(
    ("params", "plan"),
    [
        (Imbalance(), {"rare": 72}),  # 40 of 80 is not below a half
        (Imbalance(rare_below=0.6), {"half": 40, "rare": 72}),
        (Imbalance(fill_to=0.5), {"rare": 32}),
        (Imbalance(fill_to=0.05), {}),
        (Imbalance(rare_below=0.05), {}),
    ],
)
def test_plan(params: Imbalance, plan: dict[str, int], manifest: pd.DataFrame) -> None:
    result = analyse(manifest, CLASSES, params)
    assert result["plan"] == plan
    assert set(plan) <= set(result["rare"])


def films_with_findings(*sets: tuple[str, str, int, str]) -> pd.DataFrame:
    """Of (label, unknown, how many, split), each film of a patient of its own."""
    rows = [
        {"label": label, "patient_id": f"{k}-{n}", "split": split, **with_findings(label, unknown, FINDINGS)}
        for k, (label, unknown, count, split) in enumerate(sets)
        for n in range(count)
    ]
    return pd.DataFrame(rows)


FINDINGS = ["effusion", "hernia", "normal"]
MIXED = films_with_findings(
    ("normal", "", 100, "train"),
    ("effusion", "", 30, "train"),
    ("effusion|hernia", "", 5, "train"),
    ("hernia", "effusion", 5, "train"),
    ("effusion", "hernia", 4, "test"),
    ("normal", "", 16, "test"),
)


def test_findings_are_counted_each_and_unknown_ones_apart() -> None:
    result = analyse(MIXED, FINDINGS, Imbalance())
    effusion, hernia = result["classes"]["effusion"], result["classes"]["hernia"]
    assert effusion["images"] == effusion["patients"] == {"train": 35, "val": 0, "test": 4}
    assert effusion["unknown"] == {"train": 5, "val": 0, "test": 0}
    assert effusion["prevalence"] == {"train": 0.2593, "val": 0.0, "test": 0.2}  # 35 of 135 that are known
    assert hernia["unknown"]["test"] == 4
    assert result["together"]["hernia"] == {"effusion": 5, "hernia": 10, "normal": 0}
    assert result["together"]["normal"] == {"effusion": 0, "hernia": 0, "normal": 100}
    assert result["sets"]["hernia"] == {"effusion|hernia": 5, "hernia": 5}
    assert result["sets"]["effusion"] == {"effusion": 30, "effusion|hernia": 5}


def test_what_images_of_a_rarer_finding_bring_of_another_is_not_planned_again() -> None:
    result = analyse(MIXED, FINDINGS, Imbalance())
    assert result["plan"] == {
        "effusion": 20,
        "hernia": 90,
    }  # half of those with hernia have both
    assert result["draw"] == dict.fromkeys(FINDINGS, 90)
    assert result["rare"] == ["effusion", "hernia"]


def test_of_single_classes_nothing_is_said_of_sets(manifest: pd.DataFrame) -> None:
    result = analyse(manifest, CLASSES, Imbalance())
    assert list(result) == ["imbalance_ratio", "classes", "rare", "plan", "draw"]
    assert list(result["classes"]["rare"]) == ["images", "patients", "effective_number"]
