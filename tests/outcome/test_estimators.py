"""Hajek, matched and Horvitz-Thompson: values, bias in an unequal trial, coverage of intervals."""

import numpy as np
import pytest
import tensorflow as tf

from tests.oracles import algorithm1
from tests.oracles.trials import believable_trial
from tfalloc import outcome


def test_estimators():
    rng = np.random.default_rng(17)
    trial = believable_trial(rng, rows=500, arms=2)
    trial.c[:, 0] = 0.0
    trial.z[trial.t == 0] = 0.0
    p = np.where(trial.t == 1, 0.85, 0.15)
    for estimator in ("hajek", "matched", "ht"):
        q = outcome.expected_outcome(
            *trial.tensors(), p, budget=0.25, method="path", estimator=estimator
        )
        alpha = np.nextafter(float(q.alpha), np.inf)
        s = (
            np.array([algorithm1.assigned(v, c, alpha) for v, c in zip(trial.v, trial.c)])
            == trial.t
        )
        w = np.ones(500) if estimator == "matched" else 1 / p
        n = 500 if estimator == "ht" else np.sum(w[s])
        np.testing.assert_allclose(q.response, np.sum((w * trial.y)[s]) / n, atol=1e-12)
        np.testing.assert_allclose(q.cost, np.sum((w * trial.z)[s]) / n, atol=1e-12)
        assert float(q.cost) <= 0.25


def simulate(rng, rows, share=0.85):
    """Arm 1 is worth .1 + .5 u for 1 + u, arm 0 .2 for 0: at price 0 assigned where u > .2."""
    u = rng.random(rows)
    v = np.stack([0.2 + 0 * u, 0.1 + 0.5 * u], 1)
    c = np.stack([0 * u, 1 + u], 1)
    t = (rng.random(rows) < share).astype(int)
    n = np.arange(rows)
    y = (rng.random(rows) < v[n, t]).astype(float)
    z = c[n, t] * rng.choice([0.5, 1.5], rows)
    return [v, c, t, y, z, np.where(t == 1, share, 1 - share)]


# Of that policy: .2 * .2 + int_.2^1 (.1 + .5 u) du, and int_.2^1 (1 + u) du.
TRUE_RESPONSE, TRUE_COST = 0.04 + 0.08 + 0.25 * (1 - 0.04), 0.8 + 0.5 * (1 - 0.04)


def estimates(rng, estimator, rows, repeats):
    """(V, C) and their standard errors in repeated 85/15 trials, [repeats, 2] each.

    A budget that does not bind holds the price at 0, and so the policy fixed.
    """
    solve = tf.function(
        lambda *a: outcome.expected_outcome(*a, budget=100.0, method="path", estimator=estimator)
    )
    found = [solve(*(tf.constant(x) for x in simulate(rng, rows))) for _ in range(repeats)]
    return (
        np.array([[q.response, q.cost] for q in found]),
        np.array([[q.response_stderr, q.cost_stderr] for q in found]),
    )


@pytest.mark.parametrize("estimator", ["hajek", "ht", "matched"])
def test_propensity_weights_remove_the_bias_of_plain_means(estimator):
    """200 trials of 85/15, known truth: weighted means are right, Eq. 6's plain ones are not."""
    found, _ = estimates(np.random.default_rng(19), estimator, rows=2000, repeats=200)
    score = (found.mean(axis=0) - [TRUE_RESPONSE, TRUE_COST]) / (found.std(axis=0) / np.sqrt(200))
    if estimator == "matched":
        # Treated rows count .85 / .15 times as much as they should: too dear, and too good.
        assert np.all(score > 30)
        assert found[:, 1].mean() > 1.15 * TRUE_COST
    else:
        assert np.all(np.abs(score) < 3)


@pytest.mark.parametrize("estimator", ["hajek", "ht"])
def test_intervals_cover(estimator):
    """95 % intervals of V and C at a fixed policy cover the population's, and no more often."""
    repeats = 400
    found, stderr = estimates(np.random.default_rng(23), estimator, rows=1000, repeats=repeats)
    covered = np.mean(np.abs(found - [TRUE_RESPONSE, TRUE_COST]) < 1.96 * stderr, axis=0)
    # Binomial(400, .95): 3 standard errors are .033.
    assert np.all(np.abs(covered - 0.95) < 0.033)
    # A standard deviation of 400 draws is good to 3.5 %; 3 standard errors.
    np.testing.assert_allclose(stderr.mean(axis=0) / found.std(axis=0), 1.0, atol=0.106)


def test_intervals_of_plain_means_cover_in_a_balanced_trial():
    rng = np.random.default_rng(29)
    solve = tf.function(
        lambda *a: outcome.expected_outcome(*a, budget=100.0, method="path", estimator="matched")
    )
    covered = []
    for _ in range(300):
        q = solve(*(tf.constant(x) for x in simulate(rng, 500, share=0.5)))
        errors = float(q.response) - TRUE_RESPONSE, float(q.cost) - TRUE_COST
        stderrs = float(q.response_stderr), float(q.cost_stderr)
        covered.append([abs(e) < 1.96 * s for e, s in zip(errors, stderrs, strict=True)])
    # Binomial(300, .95): 3 standard errors are .038.
    assert np.all(np.abs(np.mean(covered, axis=0) - 0.95) < 0.038)


def test_a_budget_far_above_all_costs_does_not_overflow():
    v, c = np.array([[0.1, 0.3]] * 4), np.array([[0.0, 1.0]] * 4)
    for scale in (1.0, -1.0):
        z = scale * np.array([1.0, 0.5, 0.25, 1.0])
        q = outcome.expected_outcome(
            v, c, [1, 1, 1, 0], np.ones(4), z, budget=1e6, method="path", estimator="ht"
        )
        assert bool(q.converged) and float(q.alpha) == 0.0
