"""What is passed: Python numbers, variables, numbers that are none, and messages."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.oracles.trials import believable_trial
from tfalloc import outcome
from tfalloc.mckp.within_budget import rounding
from tfalloc.outcome.algorithm1 import round_up_to_power_of_two


def test_python_numbers_keep_their_digits():
    """In float32, .3 is above .3: a budget that pays exactly must not become one that does not."""
    v, c = [[0.1, 0.3], [0.1, 0.2]], [[0.0, 0.3], [0.0, 0.3]]
    q = outcome.expected_outcome(v, c, [1, 1], [1.0, 0.0], [0.3, 0.3], budget=0.3, method="path")
    assert float(q.cost) == 0.3 and float(q.alpha) == 0.0
    assert float(outcome.match_intervals(v, c, [1, 1]).upper[1]) == (0.2 - 0.1) / 0.3


def test_python_numbers_are_not_rounded_on_the_way():
    """In float32, .1 is above .1: at a tie the first arm would lose."""
    rows = outcome.match_intervals([[0.0, 0.1]], [[0.0, 1.0]], [0])
    assert float(rows.lower[0]) == 0.1 and bool(rows.contains(0.1)[0])
    assert float(round_up_to_power_of_two(1.0 + 1e-9)) == 2.0
    assert float(round_up_to_power_of_two(2.0**130)) == 2.0**130


@pytest.mark.parametrize("method", ["bisection", "nary", "path"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_cost_that_is_the_budget_up_to_rounding_is_within_it(dtype, method):
    """.1, .2 and .3 in float32, and their mean, are not the numbers of the same names."""
    v, c = np.array([[0.1, 0.3]] * 3, dtype), np.array([[0.0, 0.3]] * 3, dtype)
    z = np.array([0.1, 0.2, 0.3], dtype)
    q = outcome.expected_outcome(
        v, c, [1] * 3, np.ones(3, dtype), z, budget=0.2, method=method, alpha_max=1.0
    )
    assert bool(q.converged) and int(q.num_matched) == 3
    np.testing.assert_allclose(q.cost, 0.2, rtol=1e-7)
    assert float(q.alpha) == {"bisection": 0.5, "nary": 0.0625, "path": 0.0}[method]
    less = 0.2 * (1 - 3 * rounding(z))
    q = outcome.expected_outcome(
        v, c, [1] * 3, np.ones(3, dtype), z, budget=less, method=method, alpha_max=1.0
    )
    assert not bool(q.converged)


@pytest.mark.parametrize("method", ["bisection", "nary", "path"])
@pytest.mark.parametrize("estimator", ["hajek", "matched", "ht"])
def test_an_empty_matched_set_has_not_converged(estimator, method):
    """Nobody's cost is not a cost of 0, whatever the budget."""
    v, c = np.array([[0.1, 0.9]] * 3), np.array([[0.5, 0.5]] * 3)
    rows = v, c, [0, 0, 0], np.ones(3), np.zeros(3)
    for budget in (0.0, 1.0):
        q = outcome.expected_outcome(
            *rows, budget=budget, method=method, estimator=estimator, tolerance=0.1
        )
        assert int(q.num_matched) == 0 and math.isnan(float(q.response))
        assert not bool(q.converged)


@pytest.mark.parametrize("method", ["bisection", "nary", "path"])
def test_units_of_response_and_cost_do_not_matter(method):
    """To the last digit, since powers of two round nothing; also where the budget does not bind."""
    v, c, t, y, z = believable_trial(np.random.default_rng(1), rows=200, arms=3).tensors()
    for budget in (0.25, 9.0):
        one = outcome.expected_outcome(v, c, t, y, z, budget=budget, method=method)
        for a, b in ((2.0**-20, 1.0), (2.0**-40, 2.0**30), (2.0**20, 2.0**-40)):
            other = outcome.expected_outcome(
                a * v, b * c, t, a * y, b * z, budget=b * budget, method=method
            )
            assert float(other.response) == a * float(one.response)
            assert float(other.cost) == b * float(one.cost)
            assert float(other.alpha) == a / b * float(one.alpha)


def test_what_is_not_a_number_is_not_an_answer():
    """In graphs nobody looks at values: NaN, never a number made of it."""
    v, c = np.array([[0.1, 0.3], [0.2, 0.25], [0.1, 0.15]]), np.array([[0.0, 1.0]] * 3)
    t, good = np.array([1, 1, 0]), np.array([1.0, 0.0, 1.0])
    solve = tf.function(lambda *a: outcome.expected_outcome(*a, budget=0.9, method="path"))
    bad = np.array([math.nan, 0.0, 1.0])
    assert math.isnan(float(solve(v, c, t, bad, good).response))
    assert math.isnan(float(solve(v, c, t, good, bad).cost))
    assert math.isnan(float(solve(v, c, t, good, good, np.array([0.0, 0.5, 0.5])).response))
    # A row without a prediction is not matched; the others are what they are.
    v[0, 1] = math.nan
    rest = outcome.expected_outcome(v[1:], c[1:], t[1:], good[1:], good[1:], budget=0.9)
    q = outcome.expected_outcome(v, c, t, good, good, budget=0.9)
    assert int(q.num_matched) == int(rest.num_matched) == 1
    assert float(q.response) == float(rest.response)


def test_the_budget_may_be_a_variable():
    rows = [[0.1, 0.3], [0.2, 0.25]], [[0.0, 1.0]] * 2, [1, 0], [1.0, 0.0], [1.0, 0.0]
    budget = tf.Variable(0.5, dtype=tf.float64)
    call = tf.function(lambda: outcome.expected_outcome(*rows, budget=budget).response)
    assert float(call()) == float(outcome.expected_outcome(*rows, budget=0.5).response)


def test_messages():
    v = np.ones((2, 2))
    good = (v, v, [0, 1], [0.0, 1.0], [0.0, 1.0])
    with pytest.raises(ValueError, match="method='newton' is not known"):
        outcome.expected_outcome(*good, budget=1.0, method="newton")
    with pytest.raises(ValueError, match="estimator='ipw' is not known"):
        outcome.expected_outcome(*good, budget=1.0, estimator="ipw")
    with pytest.raises(ValueError, match="expected a finite cost per user"):
        outcome.expected_outcome(*good, budget=math.inf)
    with pytest.raises(ValueError, match="budget='ten': expected one number"):
        outcome.expected_outcome(*good, budget="ten")
    with pytest.raises(ValueError, match=r"budget has shape \(1,\), expected one number"):
        outcome.expected_outcome(*good, budget=[1.0])
    with pytest.raises(ValueError, match=r"response\[1\] is nan \(1 such rows\), expected finite"):
        outcome.expected_outcome(*good[:3], [0.0, math.nan], [0.0, 1.0], budget=1.0)
    with pytest.raises(ValueError, match=r"propensity\[0\] is 0.0 .* numbers above 0"):
        outcome.curve(*good, [0.0, 0.5])
    with pytest.raises(ValueError, match=r"treatment\[0\] is -1 .* integers in \[0, num_trea"):
        outcome.match_intervals(v, v, [-1, 1])
    with pytest.raises(ValueError, match="one entry for each row"):
        outcome.expected_outcome(v, v, [0, 1, 0], [0.0, 1.0], [0.0, 1.0], budget=1.0)
    with pytest.raises(ValueError, match="same shape"):
        outcome.curve(v, np.ones((2, 3)), [0, 1], [0.0, 1.0], [0.0, 1.0])
