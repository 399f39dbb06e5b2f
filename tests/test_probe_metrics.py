"""Scores and their intervals: against scikit-learn's, and against the bootstrap written out."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from facepcl.probes import action_units, metrics


def ratio(sums):
    return metrics.divide(sums[..., 0], sums[..., 1])


@pytest.fixture
def classes():
    random = np.random.default_rng(0)
    truth = random.integers(0, 4, 500)
    return truth, np.where(random.random(500) < 0.6, truth, random.integers(0, 4, 500))


def test_accuracy_macro_f1_and_mean_class_accuracy_are_those_of_scikit_learn(classes):
    truth, predicted = classes
    found = metrics.class_scores(metrics.confusion_parts(truth, predicted, 4).sum(0), 4)
    wanted = [
        (truth == predicted).mean(),
        f1_score(truth, predicted, average="macro"),
        balanced_accuracy_score(truth, predicted),
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_a_class_that_does_not_occur_counts_in_no_mean(classes):
    truth, predicted = classes
    some = truth < 3
    found = metrics.class_scores(metrics.confusion_parts(truth[some], predicted[some], 4).sum(0), 4)
    assert found[2] == pytest.approx(np.mean([(predicted[truth == k] == k).mean() for k in range(3)]))


def test_f1_of_units_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    truth, predicted = random.random((200, 5)) < 0.3, random.random((200, 5)) < 0.4
    found = metrics.f1_scores(metrics.f1_parts(truth, predicted).sum(0))
    np.testing.assert_allclose(found, [f1_score(t, p) for t, p in zip(truth.T, predicted.T, strict=True)])


def test_an_interval_draws_whole_subjects():
    # two answers a subject, always equal: the interval of 50 subjects, not that of 100 answers
    random = np.random.default_rng(0)
    right = np.repeat(random.random(50) < 0.7, 2)
    parts = np.stack([right, np.ones(100)], 1)
    _, low, high = metrics.estimate(np.repeat(np.arange(50), 2), parts, ratio, seed=0)
    draws = [right.reshape(50, 2)[random.integers(0, 50, 50)].mean() for _ in range(4000)]
    np.testing.assert_allclose([low, high], np.percentile(draws, [2.5, 97.5]), atol=0.02)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_json_does_not_have_is_none(value):
    assert metrics.tidy(np.float32(value)) is None


def test_one_subject_alone_has_no_interval():
    found = metrics.estimate(np.zeros(5, int), np.ones((5, 2)), ratio, seed=0)
    assert (found.value, np.isnan(found.low), np.isnan(found.high)) == (1, True, True)


def test_a_pair_counts_as_often_as_both_of_its_people_are_drawn():
    random = np.random.default_rng(0)
    a, b = random.integers(0, 30, (2, 400))
    right = (a + b) % 3 > 0
    parts = np.stack([right, np.ones(400)], 1).astype(np.float32)
    _, low, high = metrics.estimate(a, parts, ratio, seed=0, others=b)
    draws = []
    for _ in range(4000):
        times = np.bincount(random.integers(0, 30, 30), minlength=30)
        weight = np.where(a == b, times[a], times[a] * times[b] * 30 / 29)  # both kinds count 1 on average
        draws.append((weight * right).sum() / weight.sum())
    np.testing.assert_allclose([low, high], np.percentile(draws, [2.5, 97.5]), atol=0.02)


def test_icc_is_one_for_equal_ratings_and_falls_with_an_offset():
    truth = np.random.default_rng(0).random(100)
    assert metrics.icc(truth, truth) == pytest.approx(1)
    assert metrics.icc(truth, truth + 0.3) == pytest.approx(1)  # ICC(3,1): consistency, not agreement
    assert metrics.icc(truth, 2 * truth) == pytest.approx(0.8)  # 2 s / (1 + s^2) of scale s = 2


def test_true_acceptance_is_read_where_false_acceptance_is_at_most_the_rate():
    scores = np.arange(200) / 200
    truth = np.zeros(200, bool)
    truth[[199, 198, 196, 150]] = True  # above all others, above all others, above all but one, lower
    false, true = metrics.roc(scores, truth)
    assert metrics.true_at_false(false, true, 1e-3) == 0.5
    assert metrics.true_at_false(false, true, 1 / 196) == 0.75
    assert metrics.true_at_false(false, true, 1.0) == 1


def test_true_acceptance_is_that_of_the_best_threshold_within_the_rate_where_scores_are_equal():
    rng = np.random.default_rng(0)
    for _ in range(200):
        scores, truth = rng.integers(0, 6, 40) / 5, rng.random(40) < 0.4
        if truth.all() or not truth.any():
            continue
        rates = [((scores >= t)[~truth].mean(), (scores >= t)[truth].mean()) for t in (*scores, 2)]
        for rate in (0.05, 0.1, 0.3):
            wanted = max(true for false, true in rates if false <= rate)
            assert metrics.true_at_false(*metrics.roc(scores, truth), rate) == pytest.approx(wanted)


def test_the_threshold_of_a_unit_is_the_best_where_probabilities_are_equal():
    rng = np.random.default_rng(0)
    for _ in range(15):
        probability, truth = rng.integers(1, 6, 30) / 6, rng.random(30) < 0.4
        if not truth.any():
            continue
        best = max(f1_score(truth, probability >= t) for t in probability)
        found = f1_score(truth, probability >= action_units._best_threshold(probability, truth))
        assert found == pytest.approx(best)
