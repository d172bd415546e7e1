"""The weighted measures against scikit-learn, and what the bootstrap promises."""

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    precision_recall_curve,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)

from tasks.classify import metrics as st
from tasks.classify.metrics import auroc, average_precision, class_offsets, interval, patient_weights, recalls


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


def test_what_is_decided_agrees_with_scikit_learn_on_every_resample(rng: np.random.Generator) -> None:
    labels, predicted = rng.integers(0, 3, 120), rng.integers(0, 3, 120)
    weights = patient_weights(rng.integers(0, 70, 120), 20, seed=0)
    for k, row in enumerate(st.precisions(predicted, labels, 3, weights)):
        expected = [precision_score(labels == k, predicted == k, sample_weight=w) for w in weights]
        np.testing.assert_allclose(row, expected)
    f1 = [f1_score(labels, predicted, average="macro", sample_weight=w) for w in weights]
    np.testing.assert_allclose(st.macro_f1(predicted, labels, 3, weights), f1)
    expected = confusion_matrix(labels, predicted, normalize="true")
    np.testing.assert_allclose(st.confusion(predicted, labels, 3), expected)


def test_the_brier_score_agrees_with_scikit_learn(rng: np.random.Generator) -> None:
    labels = rng.integers(0, 3, 80)
    probabilities = rng.dirichlet(np.ones(3), 80)
    weights = patient_weights(np.arange(80), 5, seed=0)
    expected = [brier_score_loss(labels, probabilities, sample_weight=w, scale_by_half=True) for w in weights]
    np.testing.assert_allclose(st.brier_score(probabilities, labels, weights), expected)


def test_curves_go_through_the_points_of_scikit_learn(rng: np.random.Generator) -> None:
    scores = rng.integers(0, 25, 160) / 25
    positive = rng.random(160) < scores
    weights = patient_weights(np.arange(160), 10, seed=0)
    found = {
        "roc": st.roc_curve(scores, positive, weights),
        "pr": st.precision_recall_curve(scores, positive, weights),
        "sensitivity": st.sensitivity_at(scores, positive, weights),
    }
    for k, w in enumerate(weights):
        fpr, tpr, _ = roc_curve(positive, scores, sample_weight=w, drop_intermediate=False)
        np.testing.assert_allclose(found["roc"][k], np.interp(st.GRID, fpr, tpr))
        assert found["sensitivity"][k] == pytest.approx(tpr[fpr <= 0.1 + 1e-9].max())
        precision, recall, _ = precision_recall_curve(positive, scores, sample_weight=w)
        for grid in (10, 50, 90):
            # scikit-learn's points go from all films down to none: of those that reach the recall the last one counts.
            assert found["pr"][k, grid] == pytest.approx(precision[recall >= st.GRID[grid] - 1e-9][-1])


def test_calibration_error_is_the_gap_between_being_sure_and_being_right(rng: np.random.Generator) -> None:
    sure = rng.uniform(0.5, 1, 20000)
    probabilities = np.stack([sure, 1 - sure], axis=1)
    honest = (rng.random(20000) > sure).astype(int)
    boastful = (rng.random(20000) > sure - 0.2).astype(int)
    weights = np.ones((1, 20000))
    assert st.calibration_error(probabilities, honest, weights)[0] < 0.02
    assert st.calibration_error(probabilities, boastful, weights)[0] == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("gap", [0.0, 0.1])
def test_the_interval_of_the_calibration_error_is_about_its_value(rng: np.random.Generator, gap: float) -> None:
    weights = patient_weights(np.arange(300), 200, seed=0)
    held = 0
    for _ in range(40):
        sure = rng.choice(np.linspace(0.6, 0.95, 4), 300)
        wrong = rng.random(300) > sure - gap
        probabilities = np.stack([sure, 1 - sure], axis=1)
        error = st.calibration_error(probabilities, wrong.astype(int), weights)
        low, high = np.quantile(error[1:], [0.025, 0.975])
        assert low < error[0] < high
        held += low <= gap <= high
    assert held >= 34 or not gap  # 38 of 40 are expected; no value of a finite test is as low as 0


def test_a_class_without_images_has_no_figure() -> None:
    labels, weights = np.zeros(6, int), np.ones((3, 6))
    assert np.isnan(st.macro_f1(labels, labels, 2, weights)).all()
    assert np.isnan(st.precisions(labels, labels, 2, weights)[1]).all()
    assert np.isnan(st.sensitivity_at(np.linspace(0, 1, 6), labels == 1, weights)).all()
    assert st.confusion(labels, labels, 2).tolist() == [[1, 0], [0, 0]]


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
        found = interval(values, 0.9, 60)
        covered.append(found["low"] <= 0.7 <= found["high"])  # type: ignore[operator]
    assert 0.82 <= np.mean(covered) <= 0.96


def test_a_wider_interval_for_patients_with_many_films(rng: np.random.Generator) -> None:
    of_patient = rng.random(30) < 0.6
    correct = np.repeat(of_patient, 8).astype(int)

    def width(patients: np.ndarray) -> float:
        found = interval(recalls(correct, np.ones(240, int), 2, patient_weights(patients, 500, 0))[1], 0.95, 30)
        return found["high"] - found["low"]  # type: ignore[operator]

    assert width(np.repeat(np.arange(30), 8)) > 2 * width(np.arange(240))


def test_no_positives_is_none_and_not_a_number() -> None:
    values = auroc(np.linspace(0, 1, 5), np.zeros(5, bool), np.ones((4, 5)))
    assert interval(values, 0.95, 5) == {"mean": None, "low": None, "high": None}


@pytest.mark.parametrize(("right", "patients", "known"), [(4, 5, True), (4, 4, False), (5, 5, False)])
def test_what_a_bootstrap_cannot_know_has_no_interval(right: int, patients: int, known: bool) -> None:
    """Too few patients; and five of five right, of which every resample says 1 and the truth may be far below."""
    weights = patient_weights(np.arange(5), 500, 0)
    found = interval(recalls((np.arange(5) < right).astype(int), np.ones(5, int), 2, weights)[1], 0.95, patients)
    assert found["mean"] == right / 5
    assert (found["low"] is not None) is (found["high"] is not None) is known


def test_offsets_mend_a_classifier_that_underrates_the_rare_class(rng: np.random.Generator) -> None:
    labels = (rng.random(400) < 0.1).astype(int)
    score = 1 / (1 + np.exp(-(labels * 2 - 3.5 + rng.normal(size=400))))
    probabilities = np.stack([1 - score, score], axis=1)
    offsets = class_offsets(probabilities, labels)
    before = balanced_accuracy_score(labels, probabilities.argmax(1))
    after = balanced_accuracy_score(labels, (np.log(probabilities) + offsets).argmax(1))
    assert offsets[0] == 0 < offsets[1]
    assert after > before + 0.1


def several_findings(n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and truth (n, 3) of 1, 0 and, for a third, -1."""
    rng = np.random.default_rng(0)
    truth = (rng.random((n, 3)) < (0.1, 0.4, 0.6)).astype(np.int8)
    scores = 1 / (1 + np.exp(-rng.normal(2 * truth - 1, 1.5)))
    return scores, np.where(rng.random((n, 3)) < 1 / 3, -1, truth)


def test_measures_of_findings_are_those_of_the_films_that_are_known() -> None:
    scores, truth = several_findings()
    limits = st.thresholds(scores, truth)
    called = scores > limits
    recall, precision, specificity = st.found_and_right(called, truth, np.ones((1, len(truth))))
    f1 = st.f1(recall, precision)
    brier = []
    for k in range(3):
        sure = truth[:, k] >= 0
        y, said = truth[sure, k], called[sure, k]
        assert recall[k, 0] == pytest.approx(recall_score(y, said))
        assert precision[k, 0] == pytest.approx(precision_score(y, said))
        assert specificity[k, 0] == pytest.approx(recall_score(1 - y, ~said))
        assert f1[k, 0] == pytest.approx(f1_score(y, said))
        best = max(balanced_accuracy_score(y, scores[sure, k] > t) for t in np.linspace(0, 1, 201))
        assert balanced_accuracy_score(y, said) >= best - 1e-9
        brier.append(brier_score_loss(y, scores[sure, k]))
    np.testing.assert_allclose(st.sigmoid_brier(scores, truth, np.ones((1, len(truth)))), np.mean(brier))


def test_a_finding_without_both_sides_is_called_above_a_half() -> None:
    scores, truth = several_findings()
    truth[:, 1] = np.where(truth[:, 1] == 1, -1, truth[:, 1])
    assert st.thresholds(scores, truth)[1] == 0.5
    recall, precision, _ = st.found_and_right(scores > 0.5, truth, np.ones((1, len(truth))))
    assert np.isnan(recall[1]).all()
    assert np.isnan(st.f1(recall, precision)[1]).all()


def test_sigmoids_that_say_what_is_true_are_calibrated_and_overconfident_ones_not() -> None:
    rng = np.random.default_rng(0)
    p = rng.random((20_000, 2))
    truth = np.where(rng.random(p.shape) < 0.3, -1, rng.random(p.shape) < p).astype(np.int8)
    one = np.ones((1, len(p)))
    assert st.sigmoid_calibration(p, truth, one)[0] < 0.02
    assert st.sigmoid_calibration(np.where(p > 0.5, 0.99, 0.01), truth, one)[0] > 0.2


def test_what_is_called_together_is_a_share_of_the_films_with_the_finding() -> None:
    truth = np.array([[1, 1], [1, 0], [0, 1], [1, -1]])
    called = np.array([[True, True], [True, False], [True, True], [False, True]])
    np.testing.assert_allclose(st.called_together(called, truth), np.array([[2 / 3, 2 / 3], [1, 1]]))
