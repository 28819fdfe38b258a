"""Q by bisection, nary and path against plain Python, with ties, empty sets and odd sizes."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.oracles import algorithm1
from tests.oracles.trials import believable_trial, random_trial
from tfalloc import outcome


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


@pytest.mark.parametrize("block", range(5))
def test_bisection_is_algorithm_1_to_the_letter(block):
    rng = np.random.default_rng(block)
    function = tf.function(
        lambda *a, budget, propensity: outcome.expected_outcome(
            *a, propensity, budget=budget, alpha_max=2.0, max_iterations=9
        ),
        reduce_retracing=True,
    )
    solved = 0
    for case in range(500):
        trial = random_trial(rng, dyadic=case % 2 == 0)
        budget = float(rng.choice([0.0, 0.25, 0.5, 0.75, 1.0, 3.0]))
        expected = algorithm1.solve(*trial.lists(), budget, 2.0, 9)
        result = function(
            *trial.tensors(),
            budget=tf.constant(budget, tf.float64),
            propensity=tf.constant(1 / trial.w),
        )
        value, alpha, cost, matched, converged = expected
        assert float(result.alpha) == alpha
        assert int(result.num_matched) == matched
        assert bool(result.converged) == converged
        np.testing.assert_allclose(result.response, value, atol=1e-12)
        np.testing.assert_allclose(result.cost, cost, atol=1e-12)
        solved += matched > 0
    assert solved > 250


@pytest.mark.parametrize("num_points", [1, 3, 15])
@pytest.mark.parametrize("tolerance", [0.0, 0.125])
def test_nary_equals_plain_python(num_points, tolerance):
    rng = np.random.default_rng(31)
    function = tf.function(
        lambda *a, budget: outcome.expected_outcome(
            *a,
            budget=budget,
            method="nary",
            num_points=num_points,
            alpha_max=2.0,
            max_iterations=8,
            tolerance=tolerance,
        ),
        reduce_retracing=True,
    )
    rounds = math.ceil(8 / math.log2(num_points + 1))
    solved = hits = 0
    for case in range(200):
        trial = random_trial(rng, dyadic=case % 2 == 0)
        budget = float(rng.choice([0.0, 0.25, 0.5, 0.75, 1.0, 3.0]))
        value, alpha, cost, matched, converged = algorithm1.nary(
            *trial.lists(), budget, 2.0, rounds, num_points, tolerance
        )
        result = function(
            *trial.tensors(), tf.constant(1 / trial.w), budget=tf.constant(budget, tf.float64)
        )
        assert float(result.alpha) == alpha
        assert int(result.num_matched) == matched
        assert bool(result.converged) == converged
        np.testing.assert_allclose(result.response, value, atol=1e-12)
        np.testing.assert_allclose(result.cost, cost, atol=1e-12)
        solved += matched > 0
        hits += converged
    assert solved > 100 and hits > 5


def test_nary_is_converged_only_where_it_answers():
    """At .5 (three points: .25, .5, .75) C is below the budget, at .75 it meets it by chance."""
    v, c = np.array([[0.0, 0.3], [0.0, 0.6], [0.6, 0.0]]), np.array([[0.0, 1.0]] * 2 + [[1.0, 0.0]])
    t, z = [1, 1, 1], np.array([1.0, 0.25, 0.5])
    q = outcome.expected_outcome(
        v, c, t, np.ones(3), z, budget=0.5, method="nary", num_points=3, alpha_max=1.0
    )
    assert not bool(q.converged) and abs(float(q.alpha) - 0.3) < 1e-5


def test_tolerance_stops_early():
    rng = np.random.default_rng(7)
    stops = 0
    for _ in range(100):
        trial = random_trial(rng, dyadic=False)
        expected = algorithm1.solve(*trial.lists(), 0.5, 1.0, 12, tolerance=0.05)
        result = outcome.expected_outcome(
            *trial.tensors(),
            1 / trial.w,
            budget=0.5,
            alpha_max=1.0,
            max_iterations=12,
            tolerance=0.05,
        )
        assert float(result.alpha) == expected[1]
        assert bool(result.converged) == expected[4]
        stops += expected[4]
    assert stops > 5


@pytest.mark.parametrize("block", range(3))
def test_path_equals_brute_force_over_all_breakpoints(block):
    rng = np.random.default_rng(100 + block)
    for case in range(100):
        trial = random_trial(rng, dyadic=case % 3 > 0)
        budget = float(rng.choice([0.0, 0.25, 0.5, 1.0]))
        result = outcome.expected_outcome(
            *trial.tensors(), 1 / trial.w, budget=budget, method="path"
        )
        alpha, value, feasible, crossings = algorithm1.path(*trial.lists(), budget)
        assert bool(result.converged) == feasible
        if feasible:
            np.testing.assert_allclose(float(result.alpha), alpha, rtol=1e-12)
            np.testing.assert_allclose(result.response, value, atol=1e-12)
            assert int(result.num_crossings) == crossings


def test_curve_equals_argmax_at_and_between_breakpoints():
    rng = np.random.default_rng(3)
    for case in range(60):
        trial = random_trial(rng, dyadic=case % 2 == 0)
        line = outcome.curve(*trial.tensors(), 1 / trial.w)
        alphas = line.alpha.numpy()
        last = int(np.sum(np.isfinite(alphas)))
        assert np.all(np.diff(alphas[:last]) >= 0)
        assert np.all(alphas[0:last:2] == alphas[1:last:2])
        for s in range(0, last, 2):
            after = alphas[s + 2] if s + 2 < last else alphas[s] + 1.0
            between = alphas[s] + (after - alphas[s]) / 2
            for entry, alpha in ((s, alphas[s]), (s + 1, between)):
                if not trial.dyadic and entry == s and s > 0:
                    continue  # a rounded quotient is not exactly where the two arms tie
                if trial.dyadic and entry == s and not trial.is_dyadic(alpha):
                    continue
                _, weight, value, matched = algorithm1.matched_sums(*trial.lists(), alpha, 0.0)
                assert int(line.num_matched[entry]) == matched
                if matched:
                    np.testing.assert_allclose(line.response[entry], value / weight, atol=1e-12)
                else:
                    assert math.isnan(float(line.response[entry]))


def test_nary_with_one_point_is_bisection_without_its_last_digit_rule():
    rng = np.random.default_rng(5)
    for _ in range(50):
        trial = random_trial(rng, dyadic=True)
        one = outcome.expected_outcome(
            *trial.tensors(),
            1 / trial.w,
            budget=0.5,
            method="nary",
            num_points=1,
            alpha_max=1.0,
            max_iterations=10,
        )
        two = outcome.expected_outcome(
            *trial.tensors(),
            1 / trial.w,
            budget=0.5,
            method="bisection",
            alpha_max=1.0,
            max_iterations=10,
        )
        assert float(one.alpha) == float(two.alpha)


def test_nary_brackets_the_budget():
    rng = np.random.default_rng(11)
    trial = believable_trial(rng, rows=4000, arms=4)
    kwargs = {"budget": 0.25, "alpha_max": 4.0, "max_iterations": 24}
    nary = outcome.expected_outcome(*trial.tensors(), 1 / trial.w, method="nary", **kwargs)
    path = outcome.expected_outcome(*trial.tensors(), 1 / trial.w, method="path", budget=0.25)
    assert abs(float(nary.cost) - 0.25) < 0.02
    assert abs(float(path.cost) - 0.25) < 0.02
    assert float(path.cost) <= 0.25
    assert int(path.num_crossings) >= 1


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
    q = outcome.expected_outcome(
        v, c, [0, 0, 0], np.ones(3), np.zeros(3), budget=1.0, alpha_max=1.0
    )
    assert int(q.num_matched) == 0
    assert math.isnan(float(q.response)) and math.isnan(float(q.cost))
    assert not bool(q.converged)


@pytest.mark.parametrize("method", ["bisection", "nary", "path"])
def test_no_rows_at_all(method):
    empty = np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, int), np.zeros(0), np.zeros(0)
    q = outcome.expected_outcome(*empty, budget=1.0, method=method, alpha_max=1.0)
    assert int(q.num_matched) == 0 and math.isnan(float(q.response))


@pytest.mark.parametrize("method", ["bisection", "nary", "path"])
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_eager_graph_and_xla_agree_with_unknown_batch(method, dtype):
    rng = np.random.default_rng(29)
    trial = random_trial(rng, dyadic=True, rows=40, arms=3)
    v, c, t, y, z = trial.tensors()
    args = [
        tf.cast(v, dtype),
        tf.cast(c, dtype),
        tf.cast(t, tf.int32),
        tf.cast(y, dtype),
        tf.cast(z, dtype),
    ]
    spec = [tf.TensorSpec([None, *a.shape[1:]], a.dtype) for a in args]

    def call(*a):
        return outcome.expected_outcome(*a, budget=0.5, method=method)

    eager = call(*args)
    for jit in (False, True):
        compiled = tf.function(call, input_signature=spec, jit_compile=jit)(*args)
        for a, b in zip(eager, compiled):
            np.testing.assert_allclose(a, b, rtol=1e-12)
