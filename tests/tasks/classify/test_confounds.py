"""Planted confounds are named, innocent groups are not, and figures within a group take the confound out."""

import numpy as np
import pandas as pd
import pytest

from tasks.classify.confounds import GROUPS, MIN_IMAGES, confounds, youdens_j

CLASSES = ["normal", "rare"]


def study(confounded: float, films: int = 600) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A manifest in which that share of the rare films is AP and the same share of the others PA, else by chance, and
    an arm `sees_view` that knows the view alone beside `sees_disease`.
    """
    rng = np.random.default_rng(0)
    rare = rng.random(films) < 0.25
    view = np.where(rng.random(films) < confounded, rare, rng.random(films) < 0.5)
    manifest = pd.DataFrame(
        {
            "image_id": [f"i{k}" for k in range(films)],
            "patient_id": [f"p{k}" for k in range(films)],
            "label": np.where(rare, "rare", "normal"),
            "split": np.where(np.arange(films) % 2, "train", "test"),
            "view": np.where(view, "AP", "PA"),
            "sex": rng.choice(["M", "F", ""], films),
            "age_decade": rng.choice(["30", "40", "50", ""], films),
            "source_format": "DICOM",
            "rows": rng.integers(500, 3000, films),
            "columns": 1000,
        }
    )
    test = manifest[manifest["split"] == "test"]
    parts = []
    for arm, signal in (("sees_view", test["view"] == "AP"), ("sees_disease", test["label"] == "rare")):
        p = 1 / (1 + np.exp(-(2 * signal.to_numpy() - 1 + rng.normal(0, 0.5, len(test)))))
        columns = ["image_id", "patient_id", "split", "label"]
        parts.append(test[columns].assign(p_normal=1 - p, p_rare=p, arm=arm, seed=0))
    return pd.concat(parts, ignore_index=True), manifest


def test_a_planted_confound_is_named_in_both_splits_and_nothing_else_is() -> None:
    predictions, manifest = study(0.9)
    warnings = confounds(predictions, manifest, CLASSES, ["sees_view"])["warnings"]
    assert [sentence.split(" nearly")[0] for sentence in warnings] == [
        "In the train split rare and view",
        "In the test split rare and view",
    ]
    assert "view alone tells rare from the other films with a balanced accuracy of 0.9" in warnings[0]


@pytest.mark.parametrize("share", [0.03, 0.3])
def test_a_confound_is_named_however_rare_the_class_is(share: float) -> None:
    """Of the rare films nine in ten are AP, of the others one in ten: the association of all films falls with `share`,
    not what a classifier can make of it."""
    rng = np.random.default_rng(0)
    rare = rng.random(4000) < share
    view = np.where(rng.random(4000) < 0.9, rare, ~rare)
    predictions, manifest = study(0.0, films=4000)
    manifest = manifest.assign(label=np.where(rare, "rare", "normal"), view=np.where(view, "AP", "PA"))
    predictions["label"] = predictions["image_id"].map(manifest.set_index("image_id")["label"])
    warnings = confounds(predictions, manifest, CLASSES, ["sees_view"])["warnings"]
    assert [sentence.split(" nearly")[0] for sentence in warnings] == [
        "In the train split rare and view",
        "In the test split rare and view",
    ]


def test_a_size_that_nearly_all_films_have_does_not_hide_another() -> None:
    """All rare films, and few others, come from a device with a size of its own."""
    predictions, manifest = study(0.0, films=2000)
    rng = np.random.default_rng(0)
    rare = rng.random(2000) < 0.05
    manifest = manifest.assign(
        label=np.where(rare, "rare", "normal"), rows=np.where(rare, 1500, 2000), columns=np.where(rare, 1500, 2000)
    )
    predictions["label"] = predictions["image_id"].map(manifest.set_index("image_id")["label"])
    found = confounds(predictions, manifest, CLASSES, ["sees_view"])
    assert [sentence.split(":")[0] for sentence in found["warnings"]] == [
        "In the train split rare and native size nearly coincide",
        "In the test split rare and native size nearly coincide",
    ]
    sizes = [group["value"] for group in found["groups"] if group["by"] == "native size"]
    assert sizes == ["2000×2000", "others"]


@pytest.mark.parametrize("confounded", [0.0, 0.2])
def test_no_warning_without_a_confound(confounded: float) -> None:
    predictions, manifest = study(confounded)
    assert confounds(predictions, manifest, CLASSES, ["sees_view"])["warnings"] == []


def test_within_a_group_a_classifier_of_the_confound_knows_nothing() -> None:
    predictions, manifest = study(0.8, films=4000)
    groups = confounds(predictions, manifest, CLASSES, ["sees_view", "sees_disease"])["groups"]
    views = [group for group in groups if group["by"] == "view"]
    assert [group["value"] for group in views] == ["AP", "PA"]
    assert sum(group["images"] for group in views) == 2000
    for group in views:
        assert group["auroc"]["sees_view"] == pytest.approx(0.5, abs=0.15)
        assert group["auroc"]["sees_disease"] > 0.9
    by_sex = [group["auroc"]["sees_view"] for group in groups if group["by"] == "sex"]
    assert min(by_sex) > 0.8  # over all views it looks as if it knew the disease
    assert {group["by"] for group in groups} == {"view", "sex", "age group", "native size"}
    assert all(group["value"] for group in groups)  # films of unknown sex or age are no group


def test_a_group_with_one_class_has_no_figure_and_a_small_one_is_not_shown() -> None:
    predictions, manifest = study(1.0)
    manifest.loc[manifest.index[: 2 * (MIN_IMAGES - 1)], "view"] = "LL"
    groups = confounds(predictions, manifest, CLASSES, ["sees_view"])["groups"]
    assert {g["value"]: g["auroc"] for g in groups if g["by"] == "view"} == {
        "AP": {"sees_view": None},
        "PA": {"sees_view": None},
    }


def test_a_manifest_that_knows_nothing_gives_nothing() -> None:
    predictions, manifest = study(1.0)
    nothing = {"warnings": [], "looked_at": [], "not_known": list(GROUPS), "groups": []}
    bare = manifest[["image_id", "patient_id", "label", "split"]]
    assert confounds(predictions, bare, CLASSES, ["sees_view"]) == nothing
    blank = manifest.assign(view="", sex="", age_decade="", rows="", columns="", source_format="")
    assert confounds(predictions, blank, CLASSES, ["sees_view"]) == nothing


def test_what_was_looked_at_is_told_from_what_nobody_knew() -> None:
    """The source is the same for all, and the sex is known of too few films."""
    predictions, manifest = study(0.0)
    manifest["sex"] = ["M", "F"] * 9 + [""] * (len(manifest) - 18)
    found = confounds(predictions, manifest, CLASSES, ["sees_view"])
    assert found["looked_at"] == ["view", "native size", "age group"]
    assert found["not_known"] == ["source", "sex"]


def test_sizes_that_differ_little_are_told_apart() -> None:
    predictions, manifest = study(0.0)
    rare = manifest["label"] == "rare"
    found = confounds(predictions, manifest.assign(rows=np.where(rare, 1000, 1001)), CLASSES, ["sees_view"])
    assert [sentence.split(":")[0] for sentence in found["warnings"]] == [
        "In the train split rare and native size nearly coincide",
        "In the test split rare and native size nearly coincide",
    ]
    assert [g["value"] for g in found["groups"] if g["by"] == "native size"] == ["1000×1000", "1001×1000"]


def test_many_films_of_few_patients_are_no_confound() -> None:
    """Five rare patients with eight films each: their age groups are theirs by chance."""
    rng, named = np.random.default_rng(0), 0
    for _ in range(40):
        patients = np.repeat(np.arange(210), 8)
        manifest = pd.DataFrame(
            {
                "image_id": [f"i{k}" for k in range(len(patients))],
                "patient_id": patients,
                "split": np.where(patients % 2, "train", "test"),
                "label": np.where(patients < 10, "rare", "normal"),
                "age_decade": rng.integers(1, 9, 210)[patients] * 10,
            }
        )
        nothing = manifest.iloc[:0].assign(p_normal=0.0, p_rare=0.0, arm="", seed=0)
        named += len(confounds(nothing, manifest, CLASSES, [])["warnings"])
    assert named <= 4  # of 80; by films 28 %


def test_the_source_is_all_that_differs_between_archives() -> None:
    predictions, manifest = study(0.0)
    of_class = manifest["label"] == "rare"
    archives = manifest.assign(
        source_format=np.where(of_class, "PNG", "JPEG"), bits=np.where(of_class, 8, 12), modality="DX"
    )
    found = confounds(predictions, archives, CLASSES, ["sees_view"])
    assert len(found["warnings"]) == 2
    assert "rare and source nearly coincide: source alone tells rare from the other films" in found["warnings"][0]
    assert "a balanced accuracy of 1.00 (0.5" in found["warnings"][0]
    assert [g["value"] for g in found["groups"] if g["by"] == "source"] == ["JPEG, 12", "PNG, 8"]


def test_youdens_j_is_that_of_the_best_rule_and_unmoved_by_many_small_groups() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(400) < 0.5
    assert youdens_j(labels, labels) == pytest.approx(1)
    by_chance = [youdens_j(rng.integers(0, 60, 400), labels) for _ in range(20)]
    assert np.mean(by_chance) < 0.05  # 0.3 without the shuffles
    assert youdens_j(np.zeros(400), labels) == youdens_j(labels, np.ones(400, bool)) == 0
    half = np.where(rng.random(20000) < 0.75, x := rng.random(20000) < 0.1, ~x)  # sensitivity and specificity 3/4
    assert youdens_j(half, x) == pytest.approx(0.5, abs=0.03)
    assert sum(youdens_j(rng.integers(0, 8, 300), np.arange(300) < 3) > 0.5 for _ in range(50)) <= 1  # three films
