"""The weighted measures against scikit-learn, and what the bootstrap promises."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from tasks.statistics import auroc, average_precision, class_offsets, interval, patient_weights, recalls


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_measures_agree_with_scikit_learn_on_every_resample(rng: np.random.Generator) -> None:
    scores = rng.integers(0, 20, 150) / 20  # with many ties
    positive = rng.random(150) < scores
    weights = patient_weights(rng.integers(0, 90, 150), 30, seed=0)
    expected_auroc = [roc_auc_score(positive, scores, sample_weight=w) for w in weights]
    expected_precision = [average_precision_score(positive, scores, sample_weight=w) for w in weights]
    np.testing.assert_allclose(auroc(scores, positive, weights), expected_auroc)
    np.testing.assert_allclose(average_precision(scores, positive, weights), expected_precision)
    predicted = (scores > 0.5).astype(int)
    balanced = [balanced_accuracy_score(positive, predicted, sample_weight=w) for w in weights]
    np.testing.assert_allclose(recalls(predicted, positive.astype(int), 2, weights).mean(0), balanced)


def test_the_films_of_a_patient_stay_together(rng: np.random.Generator) -> None:
    patients = np.repeat(np.arange(20), 3)
    weights = patient_weights(patients, 50, seed=0)
    assert (weights[0] == 1).all()
    for patient in range(20):
        assert (np.ptp(weights[:, patients == patient], axis=1) == 0).all()
    assert (weights[1:, ::3].sum(1) == 20).all()


def test_intervals_cover_the_truth_about_as_often_as_they_say(rng: np.random.Generator) -> None:
    covered = []
    for trial in range(200):
        correct = rng.random(60) < 0.7
        values = recalls(correct.astype(int), np.ones(60, int), 2, patient_weights(np.arange(60), 300, trial))[1]
        found = interval(values, 0.9)
        covered.append(found["low"] <= 0.7 <= found["high"])  # type: ignore[operator]
    assert 0.82 <= np.mean(covered) <= 0.96


def test_a_wider_interval_for_patients_with_many_films(rng: np.random.Generator) -> None:
    of_patient = rng.random(30) < 0.6
    correct = np.repeat(of_patient, 8).astype(int)

    def width(patients: np.ndarray) -> float:
        found = interval(recalls(correct, np.ones(240, int), 2, patient_weights(patients, 500, 0))[1], 0.95)
        return found["high"] - found["low"]  # type: ignore[operator]

    assert width(np.repeat(np.arange(30), 8)) > 2 * width(np.arange(240))


def test_no_positives_is_none_and_not_a_number() -> None:
    values = auroc(np.linspace(0, 1, 5), np.zeros(5, bool), np.ones((4, 5)))
    assert interval(values, 0.95) == {"mean": None, "low": None, "high": None}


def test_offsets_mend_a_classifier_that_underrates_the_rare_class(rng: np.random.Generator) -> None:
    labels = (rng.random(400) < 0.1).astype(int)
    score = 1 / (1 + np.exp(-(labels * 2 - 3.5 + rng.normal(size=400))))
    probabilities = np.stack([1 - score, score], axis=1)
    offsets = class_offsets(probabilities, labels)
    before = balanced_accuracy_score(labels, probabilities.argmax(1))
    after = balanced_accuracy_score(labels, (np.log(probabilities) + offsets).argmax(1))
    assert offsets[0] == 0 < offsets[1]
    assert after > before + 0.1
