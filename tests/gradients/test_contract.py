"""One contract for all gradients: shape, dtype, finite, repeatable, eager = graph = XLA."""

import numpy as np
import pytest
import tensorflow as tf

from tests.oracles.trials import believable_trial
from tfalloc import gradients

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
}


@pytest.fixture(scope="module")
def trial():
    return believable_trial(np.random.default_rng(0), rows=240, arms=3)


def arguments(trial, dtype):
    v, c, t, y, z = trial.tensors()
    cast = [tf.cast(x, dtype) for x in (v, c, y, z)]
    return [cast[0], cast[1], tf.cast(t, tf.int32), cast[2], cast[3]]


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
@pytest.mark.parametrize("name", GRADIENTS)
class TestContract:
    def test_shapes_and_dtypes(self, name, dtype, trial):
        result = GRADIENTS[name](*arguments(trial, dtype), 0.25, seed=(1, 2))
        assert result.d_response.shape == result.d_cost.shape == (240, 3)
        assert result.goal.shape == result.alpha.shape == ()
        assert {x.dtype for x in result} == {dtype}
        assert np.all(np.isfinite(result.d_response)) and np.all(np.isfinite(result.d_cost))
        assert np.any(result.d_response) and np.any(result.d_cost)

    def test_seed_repeats(self, name, dtype, trial):
        one = GRADIENTS[name](*arguments(trial, dtype), 0.25, seed=(1, 2))
        two = GRADIENTS[name](*arguments(trial, dtype), 0.25, seed=(1, 2))
        np.testing.assert_array_equal(one.d_response, two.d_response)

    @pytest.mark.parametrize("jit_compile", [False, True])
    def test_compiled_with_unknown_batch(self, name, dtype, trial, jit_compile):
        args = arguments(trial, dtype)
        spec = [tf.TensorSpec([None, *a.shape[1:]], a.dtype) for a in args]
        call = tf.function(
            lambda *a: GRADIENTS[name](*a, 0.25, seed=(1, 2)),
            input_signature=spec,
            jit_compile=jit_compile,
        )
        tolerance = 1e-5 if dtype == tf.float32 else 1e-9
        for eager, compiled in zip(
            GRADIENTS[name](*args, 0.25, seed=(1, 2)), call(*args), strict=True
        ):
            np.testing.assert_allclose(eager, compiled, rtol=tolerance, atol=tolerance)

    def test_never_differentiates_the_objective(self, name, dtype, trial):
        args = arguments(trial, dtype)
        with tf.GradientTape() as tape:
            tape.watch(args[0])
            result = GRADIENTS[name](*args, 0.25, seed=(1, 2))
            total = tf.reduce_sum(result.d_response) + result.goal
        assert tape.gradient(total, args[0]) is None

    def test_propensities_matter_only_by_their_ratio(self, name, dtype, trial):
        args = arguments(trial, dtype)
        share = tf.cast(np.where(trial.t == 0, 0.5, 0.25), dtype)
        one = GRADIENTS[name](*args, 0.25, propensity=share, seed=(1, 2))
        two = GRADIENTS[name](*args, 0.25, propensity=share / 2, seed=(1, 2))
        np.testing.assert_allclose(one.d_response, two.d_response, rtol=1e-5, atol=1e-6)

    def test_ascent_along_it_raises_the_goal(self, name, dtype, trial):
        args = arguments(trial, dtype)
        start = None
        for step in range(30):
            result = GRADIENTS[name](*args, 0.25, seed=(1, step))
            start = float(result.goal) if start is None else start
            args[0] += 0.01 * tf.sign(result.d_response)
            args[1] += 0.01 * tf.sign(result.d_cost)
        assert float(result.goal) > start + 0.02
