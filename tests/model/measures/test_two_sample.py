"""The two-sample test: who is held out, what is counted, what is balanced. What it sees: tests/tasks/quality."""

import numpy as np
import pytest
import torch

from model.measures import two_sample
from model.measures.two_sample import FOLDS, Networks, TwoSampleConfig, auroc, deal, held_out_scores

RNG = np.random.default_rng


def test_no_patient_is_in_two_parts_and_each_stratum_is_in_all() -> None:
    rng = RNG(0)
    patients, strata = np.repeat(np.arange(30), rng.integers(1, 5, 30)), np.arange(30) // 20
    parts = deal(patients, strata[patients], FOLDS, rng)
    part_of = {patient: set(parts[patients == patient]) for patient in range(30)}
    assert all(len(found) == 1 for found in part_of.values())
    for stratum, size in ((0, 20), (1, 10)):
        counts = np.bincount([min(part_of[k]) for k in range(30) if strata[k] == stratum], minlength=FOLDS)
        assert counts.sum() == size
        assert counts.max() - counts.min() <= 1
    assert not np.array_equal(parts, deal(patients, strata[patients], FOLDS, RNG(1)))


def test_the_auroc_counts_pairs_of_one_fold_and_of_two_patients() -> None:
    """By hand: in fold 0 one of two pairs is won, in fold 1 one of two drawn; across folds all would be lost."""
    scores = np.array([1.0, 0.0, 9.0, 9.0, 0.5, 9.0, -5.0])
    others = np.array([False, False, False, False, True, True, True])
    folds = np.array([0, 0, 1, 1, 0, 1, 2])
    patients = np.array(["a", "b", "c", "d", "e", "c", "f"])
    value, low, high = auroc(scores, others, folds, patients)
    assert value == pytest.approx((0 + 1 + 0.5) / 3)  # the pair of patient c is none
    assert low <= value <= high
    with pytest.raises(ValueError, match="no real image"):
        auroc(scores[[0, 6]], others[[0, 6]], folds[[0, 6]], patients[[0, 6]])


def test_the_interval_holds_what_is_true_and_is_wider_for_few_patients() -> None:
    """Normal scores, one deviation apart: the AUROC is 0.76. A hundred draws of 40 images, then of 10 patients with
    four equal images each."""
    true, held, widths = 0.7602, 0, []
    for seed in range(100):
        rng = RNG(seed)
        others = np.repeat([False, True], 40)
        scores = rng.normal(size=80) + others
        _, low, high = auroc(scores, others, np.zeros(80), np.arange(80), resamples=200)
        held += low <= true <= high
        repeated = np.repeat(scores[::4], 4)
        few = auroc(repeated, others, np.zeros(80), np.arange(80) // 4, resamples=200)
        widths.append((high - low, few[2] - few[1]))
    assert held >= 85
    mean = np.mean(widths, axis=0)
    assert mean[1] > 1.5 * mean[0]


def grey(n: int, level: float, seed: int) -> np.ndarray:
    """(n, 16, 16) uint8 with noise."""
    return RNG(seed).normal(level, 10, (n, 16, 16)).round().astype(np.uint8)


def test_the_class_says_nothing() -> None:
    """Most real images are of one class and most others of another; a third has no others."""
    labels, others = np.repeat([0, 1, 0, 1, 2], (40, 10, 10, 40, 5)), np.repeat([False, True, False], (50, 50, 5))
    train = np.flatnonzero(np.arange(105) % 4 > 0)
    config = TwoSampleConfig(steps=400)
    chosen = two_sample._batches(train, others, labels, config, RNG(0))
    assert set(chosen.ravel()) <= set(train[labels[train] < 2])
    real, other = np.hsplit(chosen, 2)
    assert not others[real].any()
    assert others[other].all()
    assert labels[real].mean() == pytest.approx(labels[other].mean(), abs=0.03)  # 0.2 and 0.8 of what there is


def test_a_network_sees_nothing_of_its_held_out_patients() -> None:
    """What is learnt from all others doesn't change when the images of a fold are exchanged."""
    images, others = grey(48, 100, 0), np.arange(48) % 2 == 1
    config, labels = TwoSampleConfig(steps=5), np.zeros(48, int)
    scores, folds = held_out_scores(images, others, np.arange(48), labels, config)
    assert sorted(set(folds)) == list(range(FOLDS))
    changed = images.copy()
    first, second = np.flatnonzero(folds == 1)[:2]
    changed[first] = 255
    again, _ = held_out_scores(changed, others, np.arange(48), labels, config)
    assert again[second] == pytest.approx(scores[second], abs=1e-4)
    assert abs(again[first] - scores[first]) > 1e-2
    elsewhere = folds != 1
    assert np.abs(again - scores)[elsewhere].max() > 1e-2


def test_the_networks_are_apart() -> None:
    networks, images = Networks().eval(), torch.rand(2, FOLDS, 24, 24)
    before = networks(images)
    images[:, 2] = 0
    changed = (networks(images) - before).detach().abs().amax(0) > 0
    assert changed.tolist() == [False, False, True, False]


def test_the_same_seed_gives_the_same_and_leaves_others_alone() -> None:
    images, others, labels = grey(24, 100, 0), np.arange(24) % 2 == 1, np.zeros(24, int)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, again, other = (
        held_out_scores(images, others, np.arange(24), labels, TwoSampleConfig(steps=3, seed=seed))[0]
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.rand(3), expected)
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_a_side_that_is_all_of_one_patient_cannot_be_judged() -> None:
    images, others = grey(12, 100, 0), np.arange(12) % 2 == 1
    with pytest.raises(ValueError, match="no class has images of both sides"):
        held_out_scores(
            images, others, np.where(others, 99, np.arange(12)), np.zeros(12, int), TwoSampleConfig(steps=1)
        )
