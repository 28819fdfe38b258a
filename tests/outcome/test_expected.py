"""Q by all three methods: the path against brute force, empty batches, graphs and XLA."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.oracles import algorithm1
from tests.oracles.trials import believable_trial, compiled, random_trial
from tfalloc import outcome


def test_path_equals_brute_force_over_all_breakpoints():
    rng = np.random.default_rng(100)
    solve = compiled(lambda *a: outcome.expected_outcome(*a[:6], budget=a[6], method="path"))
    for case in range(120):
        trial = random_trial(rng, dyadic=case % 3 > 0)
        budget = float(rng.choice([0.0, 0.25, 0.5, 1.0]))
        result = solve(trial, budget)
        alpha, value, feasible, crossings = algorithm1.path(*trial.lists(), budget)
        assert bool(result.converged) == (feasible and not math.isnan(value))
        if feasible:
            np.testing.assert_allclose(float(result.alpha), alpha, rtol=1e-12)
            np.testing.assert_allclose(result.response, value, atol=1e-12)
            assert int(result.num_crossings) == crossings


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


@pytest.mark.parametrize("method", ["bisection", "nary", "path"])
def test_no_rows_at_all(method):
    empty = np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, int), np.zeros(0), np.zeros(0)
    q = outcome.expected_outcome(*empty, budget=1.0, method=method, alpha_max=1.0)
    assert int(q.num_matched) == 0 and math.isnan(float(q.response))


@pytest.mark.parametrize("method", ["bisection", "nary", "path"])
def test_eager_graph_and_xla_agree_with_unknown_batch(method):
    rng = np.random.default_rng(29)
    trial = random_trial(rng, dyadic=True, rows=40, arms=3)
    v, c, t, y, z = trial.tensors()

    def call(*a):
        return outcome.expected_outcome(*a, budget=0.5, method=method)

    for dtype, jit in ((tf.float64, False), (tf.float32, method == "path")):
        v, c, y, z = (tf.cast(x, dtype) for x in (v, c, y, z))
        args = [v, c, tf.cast(t, tf.int32), y, z]
        spec = [tf.TensorSpec([None, *a.shape[1:]], a.dtype) for a in args]
        graph = tf.function(call, input_signature=spec, jit_compile=jit)(*args)
        for a, b in zip(call(*args), graph):
            np.testing.assert_allclose(a, b, rtol=1e-12)
