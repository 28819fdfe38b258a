"""Eq. 11: what the surrogate sends through a network is the gradient of the goal itself."""

import numpy as np
import pytest
import tensorflow as tf

from tests.oracles.trials import believable_trial
from tfalloc import gradients
from tfalloc.models.objective import surrogate


@pytest.mark.parametrize("goal", ["smoothed", "integrated"])
def test_surrogate_s_gradient_is_that_of_the_goal(goal):
    """Section 3.5: d/dtheta of Tr[v' stop(dQ/dv)] + Tr[c' stop(dQ/dc)] is dQ/dtheta.

    A small network, and goals that are smooth enough for differences with respect to its weights.
    """
    rng = np.random.default_rng(0)
    trial = believable_trial(rng, rows=80, arms=3)
    features = tf.constant(np.concatenate([trial.v, trial.c], axis=1))
    rest = trial.tensors()[2:]
    theta = tf.Variable(np.concatenate([np.eye(6), 0.1 * rng.normal(size=(1, 6))]))

    def predict():
        raw = tf.matmul(features, theta[:6]) + theta[6]
        return tf.sigmoid(raw[:, :3]), tf.nn.softplus(raw[:, 3:])

    if goal == "smoothed":
        gradient = gradients.Smoothed(temperature=0.1, newton_steps=40)
        value = lambda: gradient.outcome(*predict(), *rest, budget).response  # noqa: E731
    else:
        gradient = gradients.Integrated(prices=(0.0, 2.0), min_cost_gap=0.0)
        value = lambda: gradient.objective(*predict(), *rest, budget).objective  # noqa: E731
    budget = float(np.mean(trial.z))
    with tf.GradientTape() as tape:
        v, c = predict()
        loss = surrogate(v, c, gradient(v, c, *rest, budget))
    found = tf.convert_to_tensor(tape.gradient(loss, theta)).numpy()

    start, value = theta.numpy(), tf.function(value)
    entries = [(0, 0), (1, 2), (3, 4), (5, 5), (6, 0), (6, 2), (6, 3), (6, 5)]
    for entry in entries:
        ends = []
        for sign in (1, -1):
            moved = start.copy()
            moved[entry] += sign * 1e-5
            theta.assign(moved)
            ends.append(float(value()))
        np.testing.assert_allclose(found[entry], (ends[0] - ends[1]) / 2e-5, rtol=1e-4, atol=1e-8)
    assert np.max(np.abs([found[entry] for entry in entries])) > 1e-3
