"""One contract for all gradients: shape, dtype, finite, repeatable, eager = graph = XLA."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.oracles.trials import believable_trial
from tfalloc import gradients


def doubly_robust(v, c, *rest, **kwargs):
    """Smoothed with a model of outcomes, constant over rows."""
    arms = tf.range(1.0, tf.cast(tf.shape(v)[1] + 1, tf.float32))
    model = 0.2 * arms + tf.zeros_like(v, tf.float32), 0.3 * arms + tf.zeros_like(c, tf.float32)
    return gradients.Smoothed(temperature=0.05)(v, c, *rest, outcome_model=model, **kwargs)


def with_baseline(v, c, treatment, response, cost, *rest, **kwargs):
    """Integrated over outcomes less a function of features."""
    baseline = 0.1 + tf.zeros_like(response), 0.2 + tf.zeros_like(cost)
    gradient = gradients.Integrated(prices=(0.0, 2.0))
    return gradient(v, c, treatment, response, cost, *rest, baseline=baseline, **kwargs)


GRADIENTS = {
    "nes": gradients.NES(sigma=0.02, num_directions=400),
    "finite_difference": gradients.FiniteDifference(step=0.02),
    "finite_difference_masked": gradients.FiniteDifference(step=0.02, num_entries=100),
    "smoothed": gradients.Smoothed(temperature=0.05),
    "smoothed_gaussian": gradients.Smoothed(
        temperature=0.05, kind="gaussian", mu="alpha", num_nodes=12, newton_steps=6
    ),
    "integrated": gradients.Integrated(),
    "integrated_drp": gradients.Integrated(weight="drp", prices=(0.0, 4.0)),
    "integrated_budget": gradients.Integrated(weight="budget"),
    "nes_separate": gradients.NES(sigma=0.02, num_directions=400, joint=False),
    "smoothed_doubly_robust": doubly_robust,
    "integrated_baseline": with_baseline,
}


@pytest.fixture(scope="module")
def trial():
    return believable_trial(np.random.default_rng(0), rows=240, arms=3)


def arguments(trial, dtype):
    v, c, t, y, z = trial.tensors()
    cast = [tf.cast(x, dtype) for x in (v, c, y, z)]
    return [cast[0], cast[1], tf.cast(t, tf.int32), cast[2], cast[3]]


def graph_of(name, args, *, jit_compile):
    """The gradient as one graph of the trial and its propensities, for any number of rows."""
    rows = [*args, args[3]]
    return tf.function(
        lambda *a: GRADIENTS[name](*a[:5], 0.25, propensity=a[5], seed=(1, 2)),
        input_signature=[tf.TensorSpec([None, *x.shape[1:]], x.dtype) for x in rows],
        jit_compile=jit_compile,
    )


@pytest.mark.parametrize("name", GRADIENTS)
def test_contract(name, trial):
    """Shapes, dtypes, seeds, propensities by ratio, plain graphs; and a constant for TensorFlow."""
    args = arguments(trial, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(args[0])
        result = GRADIENTS[name](*args, 0.25, seed=(1, 2))
        total = tf.reduce_sum(result.d_response) + result.goal
    assert tape.gradient(total, args[0]) is None
    assert result.d_response.shape == result.d_cost.shape == (240, 3)
    assert result.goal.shape == result.alpha.shape == ()
    assert {x.dtype for x in result} == {tf.float64}
    assert np.all(np.isfinite(result.d_response)) and np.all(np.isfinite(result.d_cost))
    assert np.any(result.d_response) and np.any(result.d_cost)
    graph = graph_of(name, args, jit_compile=False)
    for eager, other in zip(result, graph(*args, tf.ones_like(args[3])), strict=True):
        np.testing.assert_allclose(eager, other, rtol=1e-9, atol=1e-9)

    share = np.where(trial.t == 0, 0.5, 0.25)
    one, two = graph(*args, share), graph(*args, share / 2)
    np.testing.assert_allclose(one.d_response, two.d_response, rtol=1e-5, atol=1e-6)


# Compiling is what takes time here: one of each kind; training compiles the others too.
@pytest.mark.parametrize(
    "name", ["nes", "finite_difference_masked", "smoothed", "integrated_budget"]
)
def test_xla_of_float32_with_an_unknown_batch(name, trial):
    args = arguments(trial, tf.float32)
    result = GRADIENTS[name](*args, 0.25, seed=(1, 2))
    assert {x.dtype for x in result} == {tf.float32}
    graph = graph_of(name, args, jit_compile=True)
    for eager, xla in zip(result, graph(*args, tf.ones_like(args[3])), strict=True):
        np.testing.assert_allclose(eager, xla, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", GRADIENTS)
def test_ascent_along_it_raises_the_goal(name, trial):
    v, c, *rest = arguments(trial, tf.float64)
    differentiate = tf.function(
        lambda v, c, step: GRADIENTS[name](v, c, *rest, 0.25, seed=tf.stack([1, step]))
    )
    start = float(differentiate(v, c, tf.constant(0)).goal)
    for step in range(20):
        result = differentiate(v, c, tf.constant(step))
        v += 0.015 * tf.sign(result.d_response)
        c += 0.015 * tf.sign(result.d_cost)
    assert float(result.goal) > start + 0.02


def assert_small_batches_are_fine(name, arms, jit_compile):
    shapes = [None, arms], [None, arms], [None], [None], [None]
    dtypes = tf.float64, tf.float64, tf.int32, tf.float64, tf.float64
    spec = [tf.TensorSpec(*pair) for pair in zip(shapes, dtypes, strict=True)]
    solve = tf.function(
        lambda *args: GRADIENTS[name](*args, 0.25, seed=(1, 2)),
        input_signature=spec,
        jit_compile=jit_compile,
    )
    for rows in (0, 1):
        like = [tf.zeros([rows, *s.shape[1:]], s.dtype) for s in spec]
        result = solve(like[0], like[1] + 0.5, like[2], like[3] + 1.0, like[4] + 0.5)
        for slopes in (result.d_response, result.d_cost):
            assert slopes.shape == (rows, arms)
            assert np.all(np.isfinite(slopes))
        if rows == 0:
            assert np.isnan(result.goal)
        else:
            # One arm, or two that are equal: the first, received, is assigned at any price.
            assert float(result.goal) == 1.0


@pytest.mark.parametrize("name", GRADIENTS)
def test_no_rows_one_row_and_one_arm(name):
    for arms in (1, 2):
        assert_small_batches_are_fine(name, arms, jit_compile=False)


def test_no_rows_under_xla():
    """XLA mistakes the shape of what is gathered from nothing."""
    assert_small_batches_are_fine("finite_difference", 2, jit_compile=True)


@pytest.mark.parametrize("name", GRADIENTS)
def test_integer_predictions_do_not_round_the_gradient(name):
    v, c = np.array([[1, 2], [0, 4], [0, 2], [1, 3]]), np.array([[0, 4]] * 4)
    t, y, z = [1, 0, 0, 1], np.array([1.0, 0.5, 0.0, 0.5]), np.array([4.0, 0.0, 0.0, 4.0])
    whole = GRADIENTS[name](v, c, t, y, z, 1.5, seed=(1, 2))
    real = GRADIENTS[name](v.astype(float), c.astype(float), t, y, z, 1.5, seed=(1, 2))
    for one, other in zip(whole, real, strict=True):
        assert one.dtype == tf.float64
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": math.inf}, "expected a finite cost per user"),
        ({"budget": [0.2, 0.3]}, r"shape \(2,\), expected one number"),
        ({"treatment": [0, 2]}, r"treatment\[1\] is 2 .* \[0, num_treatments=2\)"),
        ({"response": [math.nan, 1.0]}, r"response\[0\] is nan"),
        ({"cost": [0.0, -math.inf]}, r"cost\[1\] is -inf"),
        ({"propensity": [0.5, 0.0]}, r"propensity\[1\] is 0"),
    ],
)
def test_messages(name, change, message):
    rows = {"treatment": [0, 1], "response": [0.0, 1.0], "cost": [0.0, 1.0], "budget": 0.25}
    rows = {key: np.asarray(x) for key, x in {**rows, **change}.items()}
    share = rows.pop("propensity", None)
    with pytest.raises(ValueError, match=message):
        GRADIENTS[name](np.eye(2), np.eye(2), *rows.values(), propensity=share, seed=(1, 2))
