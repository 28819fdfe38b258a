"""One budget against enumeration, HiGHS, the dual and the path."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.mckp.problems import dyadic, smooth
from tests.oracles import mckp as oracle
from tfalloc.mckp import path, solve
from tfalloc.mckp.within_budget import FLOAT64_ROUNDING, rounding

# `tfalloc.mckp.solve` is the function: the module of that name is reached through the registry.
MODULE = sys.modules["tfalloc.mckp.solve"]


def check(value, cost, budget, result):
    """Asserts everything that holds for every allocation."""
    n = len(value)
    rows = np.arange(n)
    assert result.treatment.dtype == np.int32 and result.treatment.shape == (n,)
    assert result.cost == pytest.approx(cost[rows, result.treatment].mean(), abs=1e-12)
    assert result.value == pytest.approx(value[rows, result.treatment].mean(), abs=1e-12)
    allowance = rounding(cost) * (abs(budget) + np.abs(cost.min(axis=1)).mean())
    assert result.cost <= budget + allowance
    assert result.slack == pytest.approx(budget - result.cost, abs=1e-12)
    assert result.gap >= 0 and result.gap == result.upper_bound - result.value
    assert result.upper_bound == pytest.approx(
        oracle.dual_value(value, cost, budget, result.alpha), abs=1e-9
    )


@settings(max_examples=150, deadline=None)
@given(dyadic(max_rows=5, max_arms=4), st.integers(0, 12))
def test_certificate_encloses_the_best_of_all_allocations(problem, step):
    value, cost = problem
    budget = cost.min(axis=1).mean() + step / 8
    result = solve(value, cost, budget=budget)
    check(value, cost, budget, result)
    best = oracle.best_by_enumeration(value, cost, budget)
    assert result.value <= best + 1e-12 and best <= result.upper_bound + 1e-12
    # Less than one upgrade of one row is lost.
    assert result.gap * len(value) <= np.ptp(value, axis=1).max() + 1e-12


@settings(max_examples=100, deadline=None)
@given(dyadic(), st.floats(0, 1))
def test_agrees_with_the_path(problem, share):
    value, cost = problem
    curve = path(value, cost)
    budget = (1 - share) * curve.cost[0] + share * curve.cost[-1]
    result = solve(value, cost, budget=budget)
    assert result.alpha == curve.alpha_at(budget)
    assert result.upper_bound == pytest.approx(curve.value_at(budget), abs=1e-12)
    rows = np.arange(len(value))
    assert result.value >= value[rows, curve.allocation_at(budget)].mean() - 1e-12


@pytest.mark.parametrize(("n", "k", "share"), [(8, 3, 0.2), (40, 5, 0.5), (60, 4, 0.8)])
def test_integer_programs_lie_within_the_certificate(n, k, share):
    value, cost = smooth(n, n, k)
    curve = path(value, cost)
    budget = curve.cost[0] + share * (curve.cost[-1] - curve.cost[0])
    result = solve(value, cost, budget=budget)
    check(value, cost, budget, result)
    best = oracle.integer_optimum(value, cost, budget)
    assert result.value <= best + 1e-9 and best <= result.upper_bound + 1e-9
    assert result.upper_bound == pytest.approx(
        oracle.relaxed_optimum(value, cost, budget), abs=1e-9
    )


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999, 1.0, 1.5])
@pytest.mark.parametrize("grid", [None, 4])
def test_sampled_bracket_finds_the_exact_price(share, grid, monkeypatch):
    monkeypatch.setattr(MODULE, "SAMPLE_ROWS", 500)
    value, cost = smooth(1, 20_000, 5)
    if grid:  # a handful of prices, shared by thousands of steps
        value, cost = np.round(value * grid) / grid, np.round(cost * grid) / grid
    curve = path(value, cost)
    budget = curve.cost[0] + share * (curve.cost[-1] - curve.cost[0])
    result = solve(value, cost, budget=budget)
    check(value, cost, budget, result)
    assert result.alpha == curve.alpha_at(budget)
    assert result.upper_bound == pytest.approx(curve.value_at(budget), abs=1e-11)


@pytest.mark.parametrize("wrong", [(1e-9, 1e-8), (5.0, 6.0), (5.0, np.inf), (0.0, 1e-9)], ids=str)
def test_wrong_bracket_is_widened(wrong, monkeypatch):
    value, cost = smooth(2, 400, 4)
    curve = path(value, cost)
    budget = (curve.cost[0] + curve.cost[-1]) / 2
    expected = solve(value, cost, budget=budget)
    monkeypatch.setattr(MODULE, "_bracket", lambda *args: wrong)
    result = solve(value, cost, budget=budget)
    check(value, cost, budget, result)
    assert result.alpha == expected.alpha
    assert result.upper_bound == pytest.approx(expected.upper_bound, abs=1e-12)


def test_budget_read_off_the_path_buys_its_vertex():
    # Tenths are not dyadic: sums in different orders differ in the last digits.
    rng = np.random.default_rng(0)
    cost = rng.integers(0, 30, (300, 4)) / 10
    value = rng.random((300, 4))
    curve = path(value, cost)
    for k in range(0, curve.cost.size, 7):
        result = solve(value, cost, budget=curve.cost[k])
        assert result.upper_bound == pytest.approx(curve.value[k], abs=1e-11)
        assert result.value == pytest.approx(curve.value[k], abs=1e-11)


@pytest.mark.parametrize("bracket", [(0.0, 0.11690953146838215), (0.11690953146838215, np.inf)])
def test_a_total_between_two_roundings_of_one_sum_ends(bracket, monkeypatch):
    """From either side of the bracket the other one looked right, for ever."""
    rng = np.random.default_rng(0)
    cost = np.cumsum(rng.integers(0, 30, (3000, 4)) / 10, axis=1)
    value = np.sqrt(cost) * rng.random((3000, 1))
    monkeypatch.setattr(MODULE, "_bracket", lambda *args: bracket)
    total = 11640.199999983948
    result = solve(value, cost, total_budget=total)
    assert result.cost == pytest.approx(total / 3000, abs=1e-11)
    assert result.gap >= 0 and result.alpha <= 0.11690953146838215


def test_within_budget_is_up_to_the_rounding_of_the_costs():
    """.1 in float32 is above .1, and what the user calls equal must be feasible."""
    for dtype in (np.float32, np.float64):
        cost = np.tile(np.array([[0.1, 0.3]], dtype), (7, 1))
        cheapest = solve(np.zeros((7, 2)), cost, budget=0.1)
        assert cheapest.treatment.tolist() == [0] * 7 and abs(cheapest.slack) < 1e-8
        dearest = solve(np.tile([[0.0, 1.0]], (7, 1)), cost, budget=0.3)
        assert dearest.treatment.tolist() == [1] * 7
        assert path(np.zeros((7, 2)), cost).allocation_at(0.1).tolist() == [0] * 7
        # Beyond rounding it is infeasible as ever.
        with pytest.raises(ValueError, match="infeasible"):
            solve(np.zeros((7, 2)), cost, budget=0.1 * (1 - 3 * rounding(cost)))
    assert rounding(np.zeros(2, int)) == rounding([0.5]) == FLOAT64_ROUNDING


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_budget_of_zero_buys_what_is_free_and_nothing_else(dtype):
    rng = np.random.default_rng(3)
    cost = rng.random((200, 3)).astype(dtype) * np.array([0.0, 1e-12, 1.0], dtype)
    value = np.cumsum(rng.random((200, 3)), axis=1)
    assert not np.any(solve(value, cost, budget=0.0).treatment)
    assert not np.any(path(value, cost).allocation_at(0.0))


def test_slack_is_filled_by_later_steps_that_fit():
    # Prices 10, 2, 1: the second costs too much for what the first leaves, the third fits.
    value, cost = np.array([[0.0, 10], [0, 10], [0, 1]]), np.array([[0.0, 1], [0, 5], [0, 1]])
    result = solve(value, cost, total_budget=3.0)
    assert result.treatment.tolist() == [1, 0, 1]
    assert result.alpha == 2.0 and result.slack == pytest.approx(1 / 3)


def test_total_budget_is_n_times_the_budget_per_user():
    value, cost = smooth(5, 64, 3)
    per_user, total = solve(value, cost, budget=1.0), solve(value, cost, total_budget=64.0)
    np.testing.assert_array_equal(per_user.treatment, total.treatment)
    assert per_user[1:] == total[1:]


def test_one_row_one_arm_zero_and_ample_budgets():
    only = solve([[2.0]], [[0.0]], budget=0.0)
    assert only.treatment.tolist() == [0] and only.alpha == 0.0 and only.gap == 0.0
    value, cost = smooth(6, 30, 4)
    cost -= cost.min(axis=1, keepdims=True)
    zero = solve(value, cost, budget=0.0)
    assert zero.cost == 0.0 and zero.treatment.tolist() == cost.argmin(axis=1).tolist()
    ample = solve(value, cost, budget=1e6)
    assert ample.alpha == 0.0 and ample.gap == 0.0
    assert ample.treatment.tolist() == value.argmax(axis=1).tolist()


@settings(max_examples=50, deadline=None)
@given(dyadic(), st.sampled_from([0.25, 8.0]), st.sampled_from([0.5, 4.0]), st.integers(0, 8))
def test_scales_with_value_and_cost(problem, by_value, by_cost, step):
    value, cost = problem
    budget = cost.min(axis=1).mean() + step / 8
    one = solve(value, cost, budget=budget)
    scaled = solve(value * by_value, cost * by_cost, budget=budget * by_cost)
    np.testing.assert_array_equal(scaled.treatment, one.treatment)
    assert scaled.alpha == one.alpha * by_value / by_cost


def test_order_of_rows_does_not_matter():
    value, cost = smooth(7, 200, 5)
    rows = np.random.default_rng(0).permutation(200)
    one, mixed = solve(value, cost, budget=1.5), solve(value[rows], cost[rows], budget=1.5)
    np.testing.assert_array_equal(mixed.treatment, one.treatment[rows])
    assert mixed.alpha == one.alpha


def test_inputs_are_left_alone_in_any_layout():
    value, cost = smooth(8, 100, 3)
    one = solve(value, cost, budget=1.0)
    fortran, strided = np.asfortranarray(value), np.repeat(cost, 2, axis=0)[::2]
    fortran.flags.writeable = strided.flags.writeable = False
    np.testing.assert_array_equal(solve(fortran, strided, budget=1.0).treatment, one.treatment)


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        ({}, "budget=None and total_budget=None, expected exactly one"),
        ({"budget": 1.0, "total_budget": 2.0}, "expected exactly one"),
        ({"budget": np.inf}, "budget is inf.*last cost"),
        ({"total_budget": np.nan}, "total_budget is nan"),
        ({"budget": "ten"}, "budget is 'ten', expected one number"),
        ({"budget": 0.25}, "budget=0.25 is infeasible: .* costs 0.5 per user"),
        ({"total_budget": 0.25}, "total_budget=0.25 is infeasible: .* costs 1, pass"),
    ],
)
def test_bad_budgets_are_named(budgets, message):
    with pytest.raises(ValueError, match=message):
        solve([[0.0, 1.0]] * 2, [[0.5, 1.0]] * 2, **budgets)


def test_no_rows_is_an_error():
    with pytest.raises(ValueError, match="at least one row"):
        solve(np.zeros((0, 2)), np.zeros((0, 2)), budget=1.0)
