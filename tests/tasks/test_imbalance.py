"""Counts, ratio, effective number and the plan, on a set that can be counted by hand."""

import pandas as pd
import pytest

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
