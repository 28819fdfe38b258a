"""The exact curve against enumeration of prices, HiGHS, and its own invariants."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.mckp.problems import dyadic, smooth
from tests.oracles import mckp as oracle
from tfalloc.mckp import hull, order, path, solve


@settings(max_examples=150, deadline=None)
@given(dyadic())
def test_visits_exactly_the_choices_of_argmax(problem):
    value, cost = problem
    curve = path(value, cost)
    costs, values = oracle.swept_curve(value, cost)
    # Every allocation chosen at some price is on the curve, and the extremes are its ends.
    np.testing.assert_allclose(np.interp(costs, curve.cost, curve.value), values, atol=1e-12)
    np.testing.assert_allclose(curve.cost[[0, -1]], costs[[0, -1]], atol=1e-12)
    np.testing.assert_allclose(curve.value[[0, -1]], values[[0, -1]], atol=1e-12)


@settings(max_examples=150, deadline=None)
@given(dyadic())
def test_is_monotone_concave_and_replayable(problem):
    value, cost = problem
    n = len(value)
    curve = path(value, cost)
    assert curve.alpha[0] == np.inf and curve.row[0] == -1 and curve.treatment[0] == -1
    assert (np.diff(curve.cost) > 0).all() and (np.diff(curve.value) > 0).all()
    assert (np.diff(curve.alpha[1:]) <= 0).all() and (curve.alpha[1:] > 0).all()
    np.testing.assert_allclose(np.diff(curve.value), curve.alpha[1:] * np.diff(curve.cost))
    for k, budget in enumerate(curve.cost):
        held = curve.allocation_at(budget)
        assert held.dtype == np.int32
        got_cost = cost[np.arange(n), held].mean()
        got_value = value[np.arange(n), held].mean()
        assert (got_cost, got_value) == pytest.approx((curve.cost[k], curve.value[k]), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(dyadic(), st.randoms(use_true_random=False))
def test_equal_prices_are_taken_in_order_of_row(problem, random):
    value, cost = problem
    curve = path(value, cost)
    same = curve.alpha[1:] == curve.alpha[:-1]
    assert (np.diff(curve.row)[same] >= 0).all()

    rows = list(range(len(value)))
    random.shuffle(rows)
    mixed = path(value[rows], cost[rows])
    np.testing.assert_array_equal(mixed.alpha, curve.alpha)
    np.testing.assert_allclose(
        np.interp(mixed.cost, curve.cost, curve.value), mixed.value, atol=1e-12
    )


@settings(max_examples=50, deadline=None)
@given(dyadic(), st.sampled_from([0.125, 4.0]), st.sampled_from([0.5, 16.0]))
def test_scales_with_value_and_cost(problem, by_value, by_cost):
    value, cost = problem
    curve, scaled = path(value, cost), path(value * by_value, cost * by_cost)
    np.testing.assert_array_equal(scaled.cost, curve.cost * by_cost)
    np.testing.assert_array_equal(scaled.value, curve.value * by_value)
    np.testing.assert_array_equal(scaled.alpha, curve.alpha * by_value / by_cost)
    np.testing.assert_array_equal(scaled.treatment, curve.treatment)


@pytest.mark.parametrize(("n", "k"), [(1, 4), (7, 2), (12, 5), (5, 30)])
def test_equals_linear_programs_at_and_between_all_vertices(n, k):
    value, cost = smooth(n, n, k)
    curve = path(value, cost)
    budgets = np.concatenate([curve.cost, (curve.cost[1:] + curve.cost[:-1]) / 2])
    for budget in [*budgets, curve.cost[-1] + 1]:
        # The solver gets room for rounding at the start, where only one point is feasible.
        found = oracle.relaxed_optimum(value, cost, budget + 1e-12)
        assert curve.value_at(budget) == pytest.approx(found, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(dyadic(max_rows=4, max_arms=4))
def test_equals_linear_programs_at_all_vertices_where_there_are_ties(problem):
    value, cost = problem
    curve = path(value, cost)
    for budget in curve.cost:
        found = oracle.relaxed_optimum(value, cost, budget + 1e-12)
        assert curve.value_at(budget) == pytest.approx(found, abs=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int32"])
def test_tensors_are_taken_as_arrays_are(dtype):
    import tensorflow as tf

    value, cost = (tf.cast(16 * x, dtype) for x in smooth(9, 40, 4))
    whole = [np.asarray(tf.cast(x, "float64")) for x in (value, cost)]
    for got, want in zip(path(value, cost)[:-1], path(*whole)[:-1]):  # all but `rounding`
        np.testing.assert_array_equal(got, want)
    budget = float(whole[1].mean())
    one = solve(tf.Variable(value), cost, budget=tf.constant(budget, tf.float64))
    two = solve(*whole, budget=budget)
    np.testing.assert_array_equal(one.treatment, two.treatment)
    assert one[1:] == two[1:]


def test_graph_tensors_are_refused_by_name():
    import tensorflow as tf

    value, cost = smooth(9, 4, 2)
    with pytest.raises(ValueError, match="value is a tensor of a graph.*numpy_function"):
        tf.function(lambda x: path(x, cost).alpha)(tf.constant(value))
    with pytest.raises(ValueError, match="cost has rows of several lengths"):
        path(value, [[1.0], [1.0, 2.0]])


def test_duplicates_take_the_first_arm_and_straight_hulls_every_arm():
    curve = path([[1.0, 0.0, 0.0, 1.0, 2.0, 2.0]], [[1.0, 0.0, 0.0, 1.0, 2.0, 2.0]])
    assert curve.start.tolist() == [1]
    assert curve.treatment[1:].tolist() == [0, 4]
    assert curve.alpha[1:].tolist() == [1.0, 1.0]


def test_start_is_the_most_valuable_of_the_cheapest_arms_even_if_not_free():
    curve = path([[5.0, 1.0, 2.0]], [[3.0, -1.0, -1.0]])
    assert curve.start.tolist() == [2]
    assert curve.cost.tolist() == [-1.0, 3.0] and curve.alpha[1] == 0.75


@pytest.mark.parametrize("value", [[[1.0]], [[3.0, 2.0, 1.0]], [[2.0, 2.0, 2.0]]])
def test_single_vertex_when_spending_never_helps(value):
    curve = path(value, [list(range(len(value[0])))])
    assert curve.alpha.tolist() == [np.inf]
    assert curve.alpha_at(10.0) == 0.0 and curve.value_at(10.0) == value[0][0]
    assert curve.allocation_at(0.0).tolist() == [0]


def test_blocks_and_threads_change_nothing(monkeypatch):
    value, cost = smooth(0, 3000, 6)
    value, cost = np.round(value * 8) / 8, np.round(cost * 8) / 8
    whole = path(value, cost)
    monkeypatch.setattr(hull, "BLOCK_ENTRIES", 600)
    monkeypatch.setattr(order, "RADIX_FROM", 0)
    split = path(value, cost)
    for got, want in zip(split, whole):
        np.testing.assert_array_equal(got, want)
    monkeypatch.setattr("tfalloc.mckp.order.MAX_WORKERS", 1)
    for got, want in zip(path(value, cost), whole):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    "price",
    [
        lambda rng: rng.random(100_000),
        lambda rng: rng.integers(1, 9, 100_000) / 8,
        lambda rng: 1 + rng.random(100_000) * 1e-13,
        lambda rng: np.exp(100 * rng.standard_normal(100_000)),
        lambda rng: np.where(rng.random(100_000) < 0.7, np.inf, rng.random(100_000)),
    ],
    ids=["uniform", "ties", "crowded", "wide", "infinite"],
)
def test_radix_sort_is_a_stable_sort(price):
    price = price(np.random.default_rng(0))
    expected = np.argsort(-price, kind="stable")
    np.testing.assert_array_equal(order.descending(price), expected)
    np.testing.assert_array_equal(np.concatenate(order.by_alpha(price)), expected)


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 5000])
def test_running_sums(size):
    x = np.arange(size, dtype=float)
    np.testing.assert_array_equal(order.running(x), np.cumsum(x))


def test_extreme_sizes_of_numbers_give_no_warning_and_stay_ordered():
    value = [[0.0, 1e300, 2e300, 1e-320], [1e-310, 2e-310, 0.0, 1.0]]
    cost = [[0.0, 1e-300, 1e300, 1e-310], [0.0, 5e-324, 1e-320, 1e-300]]
    curve = path(value, cost)
    assert (np.diff(curve.cost) >= 0).all() and (curve.alpha[1:] <= curve.alpha[:-1]).all()


def test_float32_and_integers_are_computed_in_float64():
    value, cost = (x.astype(np.float32) for x in smooth(3, 50, 4))
    double = path(value.astype(float), cost.astype(float))
    for got, want in zip(path(value, cost)[:-1], double[:-1]):  # all but `rounding`
        np.testing.assert_array_equal(got, want)
    assert path([[0, 3]], [[0, 1]]).alpha.tolist() == [np.inf, 3.0]


@pytest.mark.parametrize(
    ("value", "cost", "message"),
    [
        (np.zeros((0, 3)), np.zeros((0, 3)), r"shape \[0, 3\].*at least one row"),
        (np.zeros((2, 0)), np.zeros((2, 0)), "at least one row and one treatment"),
        (np.zeros(3), np.zeros(3), r"got \[3\] and \[3\]"),
        (np.zeros((2, 3)), np.zeros((3, 2)), r"got \[2, 3\] and \[3, 2\]"),
        ([[0.0, np.nan]], [[0.0, 1.0]], r"value\[0, 1\] is nan"),
        ([[0.0, 1.0], [0.0, 1.0]], [[0.0, 1.0], [-np.inf, 1.0]], r"cost\[1, 0\] is -inf"),
        ([["a"]], [[1.0]], "value has dtype <U1"),
        ([[1.0]], [[1j]], "cost has dtype complex128"),
    ],
)
def test_bad_input_is_named(value, cost, message):
    with pytest.raises(ValueError, match=message):
        path(value, cost)


def test_bad_budgets_of_a_path_are_named():
    curve = path([[0.0, 1.0]], [[0.5, 1.0]])
    with pytest.raises(ValueError, match="cheapest assignment costs 0.5 per user"):
        curve.allocation_at(0.25)
    with pytest.raises(ValueError, match="budget is inf.*last cost, 1"):
        curve.value_at(np.inf)
