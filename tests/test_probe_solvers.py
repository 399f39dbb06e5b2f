"""The solvers of the probes: each against scikit-learn's on the same standardised features."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from facepcl.probes.solvers import STRENGTHS, Basis, class_path, ridge_path, units_path

TRIED = STRENGTHS[2:9:2]  # 1 to 1e-3: weaker ones take scikit-learn thousands of steps


@pytest.fixture(params=[(400, 60), (60, 400)], ids=["more images than numbers", "fewer"])
def data(request):
    """Features with a decaying spectrum, of scales from 0.01 to 100 and one of them constant; 4 classes."""
    count, wide = request.param
    random = np.random.default_rng(0)
    x = random.normal(size=(count, wide)) @ (
        random.normal(size=(wide, wide)) / np.arange(1, wide + 1)[:, None]
    )
    x = x * 10 ** random.uniform(-2, 2, wide)
    x[:, 3] = 7.0
    x = x.astype(np.float32)
    scores = StandardScaler().fit_transform(x) @ random.normal(size=(wide, 4)) / 4
    return x, (scores + random.gumbel(size=scores.shape)).argmax(1), np.arange(count)


def standard(x):
    return StandardScaler().fit_transform(x.astype(np.float64))


def test_ridge_regression_is_that_of_scikit_learn(data):
    x, _, rows = data
    y = np.random.default_rng(1).normal(size=(len(x), 3)) + x[:, :3] / x[:, :3].std(0)
    for strength, linear in zip(TRIED, ridge_path(Basis(x, rows), y, TRIED), strict=True):
        wanted = Ridge(alpha=strength * len(x)).fit(standard(x), y).predict(standard(x))
        # float32 features of a spread of 1e4
        np.testing.assert_allclose(linear(x), wanted, atol=2e-3)


def test_logistic_regression_is_that_of_scikit_learn(data):
    x, y, rows = data
    for strength, linear in zip(TRIED, class_path(Basis(x, rows), y, 4, TRIED), strict=True):
        model = LogisticRegression(C=1 / (strength * len(x)), tol=1e-8, max_iter=5000).fit(standard(x), y)
        found = np.exp(linear(x) - linear(x).max(1, keepdims=True))
        # both stop at gradients near 1e-5
        np.testing.assert_allclose(
            found / found.sum(1, keepdims=True), model.predict_proba(standard(x)), atol=3e-3
        )


def test_one_layer_for_units_is_a_logistic_regression_of_each(data):
    x, y, rows = data
    occurs = np.stack([y == 0, y < 2, np.arange(len(y)) % 7 == 0], 1)
    for strength, linear in zip(TRIED, units_path(Basis(x, rows), occurs, TRIED), strict=True):
        for unit in range(3):
            model = LogisticRegression(C=1 / (strength * len(x)), tol=1e-8, max_iter=5000)
            wanted = model.fit(standard(x), occurs[:, unit]).predict_proba(standard(x))[:, 1]
            np.testing.assert_allclose(1 / (1 + np.exp(-linear(x)[:, unit])), wanted, atol=3e-3)


def test_a_solution_stays_as_it_was_when_the_next_is_made(data):
    x, y, rows = data
    path = class_path(Basis(x, rows), y, 4)
    first = next(path)
    scores = first(x)
    assert len(list(path)) == len(STRENGTHS) - 1
    np.testing.assert_array_equal(first(x), scores)


def test_a_unit_that_never_occurs_is_never_found(data):
    x, _, rows = data
    occurs = np.zeros((len(x), 1), bool)
    for linear in units_path(Basis(x, rows), occurs):
        assert (linear(x) < -8).all()


def test_only_the_rows_that_are_given_are_seen(data):
    x, y, _ = data
    rows = np.arange(0, len(x), 2)
    spoiled = x.copy()
    spoiled[1::2] = np.nan
    for a, b in zip(
        class_path(Basis(x, rows), y[rows], 4, TRIED),
        class_path(Basis(spoiled, rows), y[rows], 4, TRIED),
        strict=True,
    ):
        np.testing.assert_array_equal(a(x[rows]), b(x[rows]))
