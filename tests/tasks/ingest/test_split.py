"""The split: never a patient in two, every class where it is needed."""

import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tasks.errors import UserError
from tasks.ingest.split import split_patients, thinned
from tasks.params import Split

patients = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), min_size=6, max_size=40)


def manifest_of(films: list[list[str]]) -> pd.DataFrame:
    rows = [(f"p{k}", label) for k, labels in enumerate(films) for label in labels]
    return pd.DataFrame(rows, columns=["patient_id", "label"])


@settings(max_examples=100, deadline=None)
@given(films=patients, seed=st.integers(0, 5))
def test_no_patient_in_two_splits_and_every_class_learnt_and_tested(films: list[list[str]], seed: int) -> None:
    manifest = manifest_of(films)
    try:
        manifest["split"] = split_patients(manifest, Split(), seed)
    except UserError:
        assume(False)
    assert manifest["split"].isin(["train", "val", "test"]).all()
    assert (manifest.groupby("patient_id")["split"].nunique() == 1).all()
    for _, rows in manifest.groupby("label"):
        assert {"train", "test"} <= set(rows["split"])


def test_shares_hold_in_every_class() -> None:
    manifest = manifest_of([["a"]] * 200 + [["b"]] * 20)
    manifest["split"] = split_patients(manifest, Split(train=0.5, val=0.2, test=0.3), 0)
    counts = pd.crosstab(manifest["label"], manifest["split"])
    assert counts.loc["a"].to_dict() == {"train": 100, "val": 40, "test": 60}
    assert counts.loc["b"].to_dict() == {"train": 10, "val": 4, "test": 6}


def test_new_patients_move_few_of_the_old() -> None:
    old = manifest_of([["a"]] * 200)
    new = manifest_of([["a"]] * 220)
    moved = (split_patients(old, Split(), 0) != split_patients(new, Split(), 0)[:200]).mean()
    assert moved < 0.1


def test_the_order_of_the_rows_does_not_matter() -> None:
    manifest = manifest_of([["a"], ["b"], ["a", "b"]] * 10)
    shuffled = manifest.sample(frac=1, random_state=0)
    pd.testing.assert_series_equal(
        split_patients(manifest, Split(), 0), split_patients(shuffled, Split(), 0).sort_index()
    )


def test_two_patients_are_one_to_learn_and_one_to_test() -> None:
    split = split_patients(manifest_of([["a"], ["a"], ["b"], ["b"]]), Split(), 0)
    assert sorted(split) == ["test", "test", "train", "train"]


def test_one_patient_is_refused() -> None:
    with pytest.raises(UserError, match="class 'b' has 1 patient"):
        split_patients(manifest_of([["a"], ["a"], ["b", "b"]]), Split(), 0)


def test_thinning_takes_films_of_whole_patients_of_the_class_and_of_the_train_split_alone() -> None:
    manifest = manifest_of([["a"]] * 60 + [["b", "b"]] * 60 + [["a", "b"]] * 20)
    split = split_patients(manifest, Split(), 0)
    train = manifest[split == "train"]
    patients = train.loc[train["label"] == "b", "patient_id"].nunique()
    few, more = (thinned(manifest, split, {"b": share}) for share in (0.1, 0.4))
    left = train.drop(index=list(few))
    assert left.loc[left["label"] == "b", "patient_id"].nunique() == round(0.1 * patients)
    assert set(manifest.loc[list(few), "label"]) == {"b"}
    assert set(split[list(few)]) == {"train"}
    gone = set(manifest.loc[list(few), "patient_id"])
    assert not gone & set(left.loc[left["label"] == "b", "patient_id"])  # all films of a patient or none
    assert more < few  # a larger share keeps all that a smaller one keeps
    assert len(thinned(manifest, split, {"b": 0.001})) < (train["label"] == "b").sum()
    with pytest.raises(UserError, match=r"thin_train names 'c', and no such class"):
        thinned(manifest, split, {"c": 0.5})


@settings(max_examples=60, deadline=None)
@given(films=st.lists(st.lists(st.sets(st.sampled_from("abc"), min_size=1), min_size=1, max_size=3), min_size=6))
def test_films_with_several_findings_stay_with_their_patient_and_every_finding_is_learnt_and_tested(
    films: list[list[set[str]]],
) -> None:
    rows = [(f"p{k}", tuple(sorted(findings))) for k, own in enumerate(films) for findings in own]
    manifest = pd.DataFrame(rows, columns=["patient_id", "label"])
    try:
        manifest["split"] = split_patients(manifest, Split(), 0)
    except UserError:
        assume(False)
    assert (manifest.groupby("patient_id")["split"].nunique() == 1).all()
    for _, of_finding in manifest.explode("label").groupby("label"):
        assert {"train", "test"} <= set(of_finding["split"])


def test_a_patient_counts_for_the_rarest_finding() -> None:
    manifest = pd.DataFrame([(f"p{k}", ("a", "b") if k < 20 else ("a",)) for k in range(220)])
    manifest.columns = pd.Index(["patient_id", "label"])
    split = split_patients(manifest, Split(train=0.5, val=0.2, test=0.3), 0)
    assert split[:20].value_counts().to_dict() == {"train": 10, "val": 4, "test": 6}


def test_thinning_of_two_findings_leaves_a_film_of_each() -> None:
    manifest = pd.DataFrame([(f"p{k}", ("a", "b")) for k in range(60)], columns=["patient_id", "label"])
    split = split_patients(manifest, Split(), 0)
    gone = thinned(manifest, split, {"a": 0.1, "b": 0.001})
    left = manifest[split == "train"].drop(index=list(gone))
    assert 0 < len(left) < 0.2 * (split == "train").sum()
