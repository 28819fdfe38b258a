"""Algorithm 1 (and its n-ary form) against plain Python, step for step, on small hard trials."""

import math

import numpy as np
import pytest

from tests.oracles import algorithm1
from tests.oracles.trials import believable_trial, compiled, random_trial
from tfalloc import outcome

BUDGETS = [0.0, 0.25, 0.5, 0.75, 1.0, 3.0]


def test_the_random_trials_hold_all_hard_cases():
    rng = np.random.default_rng(0)
    trials = [random_trial(rng, dyadic=True) for _ in range(300)]
    counts = dict.fromkeys(
        ("one arm", "one row", "an arm without rows", "unequal propensities", "tie at a price"), 0
    )
    extra = {"zero": 0, "equal": 0, "negative": 0}
    for trial in trials:
        rows, arms = trial.v.shape
        counts["one arm"] += arms == 1
        counts["one row"] += rows == 1
        counts["an arm without rows"] += len(set(trial.t)) < arms
        counts["unequal propensities"] += len(set(trial.w)) > 1
        steps, gains = np.diff(trial.c, axis=1), np.diff(trial.v, axis=1)
        counts["tie at a price"] += np.any((gains == 0.25 * steps) & (steps != 0))
        extra["zero"] += np.any(trial.c == 0)
        extra["equal"] += np.any(steps == 0)
        extra["negative"] += np.any(steps < 0) and np.any(trial.c < 0)
    assert min(counts.values()) >= 15 and min(extra.values()) >= 100


def solver(**options):
    return compiled(
        lambda *a: outcome.expected_outcome(*a[:6], budget=a[6], alpha_max=2.0, **options)
    )


@pytest.mark.parametrize(
    ("method", "estimator", "tolerance"),
    [
        ("bisection", "hajek", 0.0),
        ("bisection", "hajek", 0.125),
        ("bisection", "matched", 0.0),
        ("bisection", "ht", 0.0),
        (1, "hajek", 0.0),
        (3, "hajek", 0.125),
        (15, "hajek", 0.0),
    ],
)
def test_equals_plain_python(method, estimator, tolerance):
    """Algorithm 1: branch test, early stop and answer at the last midpoint; Section 3.3: n-ary."""
    rng = np.random.default_rng(len(estimator) + int(tolerance > 0))
    search = {"method": "bisection"}
    if method != "bisection":
        search = {"method": "nary", "num_points": method}
    function = solver(max_iterations=9, tolerance=tolerance, estimator=estimator, **search)
    solved = hits = 0
    for case in range(160):
        trial = random_trial(rng, dyadic=estimator == "ht" or case % 2 == 0)
        rows = list(trial.lists())
        if estimator == "matched":
            rows[-1] = [1.0] * len(trial.t)
        budget = float(rng.choice(BUDGETS))
        if method != "bisection":
            rounds = math.ceil(9 / math.log2(method + 1))
            expected = algorithm1.nary(*rows, budget, 2.0, rounds, method, tolerance)
        elif estimator == "ht":
            expected = algorithm1.horvitz_thompson(*rows, budget, 2.0, 9)
        else:
            expected = algorithm1.solve(*rows, budget, 2.0, 9, tolerance)
        value, alpha, cost, matched, converged = expected
        result = function(trial, budget)
        assert float(result.alpha) == alpha
        assert int(result.num_matched) == matched
        assert bool(result.converged) == converged
        np.testing.assert_allclose(result.response, value, atol=1e-12)
        if matched:
            np.testing.assert_allclose(result.cost, cost, atol=1e-12)
        solved += matched > 0
        hits += converged
    assert solved > 65 and hits > 3


# Both users are upgraded below alpha = .5, and one was: C is 1 below .5, and 0 from there on.
TWO_USERS = [[0.0, 0.5]] * 2, [[0.0, 1.0]] * 2, [1, 0], [1.0, 0.0], [1.0, 0.0]


@pytest.mark.parametrize(("iterations", "alpha"), [(1, 0.5), (2, 0.25), (3, 0.375), (4, 0.4375)])
def test_alpha_rises_where_the_cost_is_above_the_budget_and_falls_elsewhere(iterations, alpha):
    """Algorithm 1, lines 16 to 23: midpoints .5 (C = 0), .25 (C = 1), .375 (C = 1), ..."""
    q = outcome.expected_outcome(
        *TWO_USERS, budget=0.5, alpha_max=1.0, max_iterations=iterations, tolerance=0.25
    )
    assert float(q.alpha) == alpha and not bool(q.converged)
    assert float(q.response) == float(iterations > 1)  # line 28: V at the last midpoint


@pytest.mark.parametrize(
    ("budget", "tolerance", "alpha"), [(1.0, 0.0, 0.25), (0.9, 0.125, 0.25), (0.9, 0.0, 0.4921875)]
)
def test_it_stops_where_the_cost_is_within_the_tolerance(budget, tolerance, alpha):
    """Algorithm 1, lines 10 to 14: |C - T/B| <= epsilon at .25 ends the search there."""
    q = outcome.expected_outcome(
        *TWO_USERS, budget=budget, alpha_max=1.0, max_iterations=7, tolerance=tolerance
    )
    assert float(q.alpha) == alpha and bool(q.converged) == (alpha == 0.25)


def test_nary_is_converged_only_where_it_answers():
    """At .5 (three points: .25, .5, .75) C is below the budget, at .75 it meets it by chance."""
    v, c = np.array([[0.0, 0.3], [0.0, 0.6], [0.6, 0.0]]), np.array([[0.0, 1.0]] * 2 + [[1.0, 0.0]])
    t, z = [1, 1, 1], np.array([1.0, 0.25, 0.5])
    q = outcome.expected_outcome(
        v, c, t, np.ones(3), z, budget=0.5, method="nary", num_points=3, alpha_max=1.0
    )
    assert not bool(q.converged) and abs(float(q.alpha) - 0.3) < 1e-5


def test_nary_with_one_point_is_bisection():
    rng = np.random.default_rng(5)
    nary = solver(method="nary", num_points=1, max_iterations=10)
    bisection = solver(max_iterations=10)
    for _ in range(50):
        trial = random_trial(rng, dyadic=True)
        assert float(nary(trial, 0.5).alpha) == float(bisection(trial, 0.5).alpha)


def test_default_alpha_max_finds_the_scale():
    rng = np.random.default_rng(13)
    trial = believable_trial(rng, rows=3000, arms=3)
    v, c, t, y, z = trial.tensors()
    for scale in (1e-4, 1.0, 1e4):
        result = outcome.expected_outcome(v, c * scale, t, y, z * scale, budget=0.25 * scale)
        assert abs(float(result.cost) / scale - 0.25) < 0.03


def test_default_alpha_max_of_an_infeasible_budget_is_where_nothing_changes_any_more():
    v, c = np.array([[0.1, 0.3], [0.1, 0.3]]), np.array([[0.5, 1.0], [0.5, 1.0]])
    q = outcome.expected_outcome(v, c, [0, 1], np.ones(2), np.array([0.5, 1.0]), budget=0.25)
    # The last choice changes at alpha = .4; the next power of two is .5.
    assert 0.4 < float(q.alpha) < 0.5
    assert not bool(q.converged) and float(q.cost) == 0.5


def test_an_arm_without_rows_and_empty_match():
    v, c = np.array([[0.1, 0.9]] * 3), np.array([[0.0, 0.1]] * 3)
    for estimator in ("hajek", "matched", "ht"):
        q = outcome.expected_outcome(
            v, c, [0, 0, 0], np.ones(3), np.zeros(3), budget=1.0, alpha_max=1.0, estimator=estimator
        )
        assert int(q.num_matched) == 0
        assert math.isnan(float(q.response)) and math.isnan(float(q.cost))
        assert not bool(q.converged)
