"""Upgrade prices against the argmax itself, evaluated between all alphas at which it can change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.mckp.problems import dyadic
from tests.oracles import mckp as oracle
from tfalloc import baselines, evaluation
from tfalloc.mckp import upgrade_prices

MODULE = "tfalloc.mckp.upgrade_prices"


@settings(max_examples=200, deadline=None)
@given(dyadic(max_rows=4, max_arms=6), st.booleans())
def test_argmax_goes_beyond_the_arm_just_up_to_its_price(problem, in_order):
    """Costs in any order, equal costs, equal arms; `in_order` is the common case."""
    value, cost = problem
    if value.shape[1] == 1:
        return
    if in_order:
        cost = np.sort(cost, axis=1)
    prices = upgrade_prices(value, cost)
    expected = np.array([oracle.upgrade_prices(*row) for row in zip(value, cost)])
    np.testing.assert_array_equal(prices.reshape(expected.shape), expected)
    assert (expected[:, 1:] <= expected[:, :-1]).all()
    arms = np.argmax(value, axis=1)
    assert ((prices.reshape(expected.shape) > 0).sum(axis=1) >= arms).all()


def test_two_arms_in_any_order_of_cost():
    #           dear, better  free, better  cheaper, better  cheaper, worse  dear, worse
    response = [[0.0, 0.4], [0.0, 0.1], [0.0, 0.1], [0.2, 0.1], [0.2, 0.1]]
    cost = [[0.0, 2.0], [1.0, 1.0], [1.0, 0.5], [1.0, 0.8], [0.0, 1.0]]
    prices = upgrade_prices(response, cost)
    np.testing.assert_allclose(prices, [0.2, np.inf, np.inf, -np.inf, -0.1])
    #                       cheaper, equal  no difference  same cost, worse
    edges = upgrade_prices([[0.0, 0.0], [1.0, 1.0], [1.0, 0.5]], [[1.0, 0.5], [2.0, 2.0], [2, 2]])
    assert edges.tolist() == [np.inf, 0.0, -np.inf]


def test_a_cheaper_arm_can_take_over_before_the_upgrade_is_undone():
    # Arm 1 is worth its cost up to 2; from 1 on arm 2, cheaper than arm 0, beats both.
    assert upgrade_prices([[4.0, 8.0, 3.0]], [[4.0, 6.0, 3.0]]).tolist() == [[np.inf, -np.inf]]
    # Here arm 2 comes at 3, after arm 0 was back at 2.
    assert upgrade_prices([[4.0, 8.0, 1.0]], [[4.0, 6.0, 3.0]]).tolist() == [[2.0, -np.inf]]


def test_prices_count_the_arms_of_the_allocation():
    """At any alpha the arm assigned by argmax is the number of prices above it."""
    rng = np.random.default_rng(0)
    value = np.cumsum(rng.normal(0.1, 0.2, (40_000, 5)), axis=1)  # several blocks
    cost = np.cumsum(rng.random((40_000, 5)), axis=1)
    prices = upgrade_prices(value, cost)
    for alpha in (0.0, 0.03, 0.3, 5.0):
        assigned = np.argmax(value - alpha * cost, axis=1)
        np.testing.assert_array_equal((prices > alpha).sum(axis=1), assigned)


def test_it_is_the_score_of_evaluation_and_of_baselines():
    assert evaluation.aucc_score is upgrade_prices and baselines.upgrade_prices is upgrade_prices


@pytest.mark.parametrize(
    ("response", "cost", "message"),
    [
        ([[1.0]], [[1.0]], "1 column; expected one for each of at least two treatments"),
        ([[0.0, 1.0], [0.1, 0.2]], [[0.0, 1.0], [0.0, np.nan]], r"pred_cost\[1, 1\] is nan"),
        ([[0.0, 1.0]], [[1.0]], "pred_response and pred_cost must both have shape"),
    ],
)
def test_bad_input_is_named(response, cost, message):
    with pytest.raises(ValueError, match=message):
        upgrade_prices(response, cost)
