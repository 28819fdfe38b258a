"""The smoothed gradient equals differences of the smoothed outcome, and the limit of NES."""

import functools
import inspect
import math

import numpy as np
import pytest
import tensorflow as tf
from scipy import integrate, optimize, stats

from tests.oracles.trials import SmallTrial, believable_trial
from tfalloc.gradients import Smoothed
from tfalloc.gradients._noisy_choice import _quadrature, _two_arms, gaussian_choice, softmax_choice

NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(120)


def winning_probability(v, c, alpha, kind, scale, scale_cost):
    """[B, K]: softmax, or the normal integral over the noise of each arm by Gauss-Legendre."""
    m = v - alpha * c
    if kind == "softmax":
        odds = np.exp((m - m.max(axis=1, keepdims=True)) / scale)
        return odds / odds.sum(axis=1, keepdims=True)
    x = 9 * NODES
    lead = (m[:, :, None] - m[:, None, :]) / math.hypot(scale, alpha * scale_cost)
    below = stats.norm.cdf(lead[..., None] + x)
    for j in range(m.shape[1]):
        below[:, j, j] = 1.0
    return (9 * NODE_WEIGHTS * stats.norm.pdf(x) * below.prod(axis=2)).sum(axis=-1)


class Oracle:
    """V at the alpha that solves C(alpha) = budget: brentq, and central differences."""

    def __init__(self, trial, kind, scale, scale_cost, models=None):
        self.trial, self.noise, self.models = trial, (kind, scale, scale_cost), models

    def estimates(self, v, c, alpha):
        trial, rows = self.trial, np.arange(len(v))
        p = winning_probability(v, c, alpha, *self.noise)
        w = trial.w * p[rows, trial.t]
        result = []
        for n, observed in enumerate((trial.y, trial.z)):
            if self.models is None:
                result.append(np.sum(w * observed) / np.sum(w))
            else:
                m = self.models[n]
                residual = observed - m[rows, trial.t]
                result.append(np.mean((p * m).sum(axis=1)) + np.sum(w * residual) / np.sum(w))
        return result

    def alpha(self, v, c, budget):
        def excess(alpha):
            return self.estimates(v, c, alpha)[1] - budget

        return optimize.brentq(excess, 0.0, 20.0, xtol=1e-15, rtol=1e-14)

    def goal(self, v, c, budget):
        return self.estimates(v, c, self.alpha(v, c, budget))[0]

    def gradient(self, goal, step=1e-4):
        result = []
        for which in (0, 1):
            slopes = np.zeros_like(self.trial.v)
            for entry in np.ndindex(*slopes.shape):
                ends = []
                # Five points: truncation error of step^4.
                for shift in (2, 1, -1, -2):
                    moved = [self.trial.v.copy(), self.trial.c.copy()]
                    moved[which][entry] += shift * step
                    ends.append(goal(*moved))
                slopes[entry] = (8 * (ends[1] - ends[2]) - (ends[0] - ends[3])) / (12 * step)
            result.append(slopes)
        return result


def small_trial(arms, rows=10, seed=0):
    rng = np.random.default_rng(seed)
    trial = believable_trial(rng, rows=rows, arms=arms)
    trial.t[:] = np.arange(rows) % arms
    trial.z[:] = trial.c[np.arange(rows), trial.t] * rng.choice([0.5, 1.5], rows)
    trial.w[:] = rng.choice([1.0, 2.0, 3.0], rows)
    models = (rng.random((rows, arms)), trial.c + 0.1 * rng.random((rows, arms)))
    return trial, models


def implicit_goal(v, c, trial, alpha, budget, kind, scales, models):
    """The smoothed V as a function that TensorFlow can differentiate, alpha held by C = budget.

    One Newton step from a solution stays there, and moves with v and c as the solution does:
    alpha - (C(alpha; v, c) - budget) / C'(alpha), with alpha and C' constants.
    """
    t, y, z, w = (tf.constant(x) for x in (trial.t, trial.y, trial.z, trial.w))

    def estimates(alpha):
        m = v - alpha * c
        if kind == "softmax":
            p = tf.nn.softmax(m / scales[0], axis=1)
        else:
            x = tf.constant(9 * NODES)
            spread = tf.sqrt(scales[0] ** 2 + (alpha * scales[1]) ** 2)
            lead = (m[:, :, None] - m[:, None, :]) / spread
            below = 0.5 * tf.math.erfc(-(lead[..., None] + x) / math.sqrt(2.0))
            own = tf.eye(m.shape[1], dtype=tf.float64)[None, :, :, None]
            p = tf.reduce_prod(below * (1.0 - own) + own, axis=2)
            p = tf.reduce_sum(9 * NODE_WEIGHTS * stats.norm.pdf(9 * NODES) * p, axis=-1)
        matched = w * tf.gather(p, t, axis=1, batch_dims=1)
        found = []
        for n, outcome in enumerate((y, z)):
            direct = 0.0
            if models is not None:
                direct = tf.reduce_mean(tf.reduce_sum(p * models[n], axis=1))
                outcome = outcome - tf.gather(tf.constant(models[n]), t, axis=1, batch_dims=1)
            found.append(direct + tf.reduce_sum(matched * outcome) / tf.reduce_sum(matched))
        return found

    with tf.GradientTape() as tape:
        tape.watch(alpha)
        cost = estimates(alpha)[1]
    slope = tf.stop_gradient(tape.gradient(cost, alpha))
    return estimates(alpha - (estimates(alpha)[1] - budget) / slope)[0]


@pytest.mark.parametrize(
    ("kind", "arms", "doubly_robust"),
    [("softmax", 4, False), ("softmax", 2, True), ("gaussian", 2, False), ("gaussian", 4, True)],
)
def test_equals_automatic_differentiation_with_implicit_alpha(kind, arms, doubly_robust):
    trial, models = small_trial(arms, rows=100, seed=1)
    models = models if doubly_robust else None
    scales = 0.2, 0.3
    oracle = Oracle(trial, kind, *scales, models)
    ends = [oracle.estimates(trial.v, trial.c, alpha)[1] for alpha in (0.0, 20.0)]
    budget = 0.6 * ends[0] + 0.4 * ends[1]
    gradient = Smoothed(kind=kind, temperature=0.2, temperature_cost=0.3, newton_steps=30)
    result = gradient(*trial.tensors(), budget, propensity=0.1 / trial.w, outcome_model=models)
    v, c = tf.constant(trial.v), tf.constant(trial.c)
    alpha = tf.constant(oracle.alpha(trial.v, trial.c, budget), tf.float64)
    with tf.GradientTape() as tape:
        tape.watch([v, c])
        goal = implicit_goal(v, c, trial, alpha, budget, kind, scales, models)
    expected = tape.gradient(goal, [v, c])
    for slopes, exact in zip((result.d_response, result.d_cost), expected, strict=True):
        np.testing.assert_allclose(slopes, exact, atol=1e-7 * np.abs(exact).max() + 1e-12)
        assert np.abs(exact).max() > 1e-4


@pytest.mark.parametrize(
    ("kind", "arms", "doubly_robust"),
    [("softmax", 3, True), ("softmax", 2, False), ("gaussian", 2, True), ("gaussian", 3, False)],
)
def test_equals_differences_of_the_smoothed_outcome(kind, arms, doubly_robust):
    trial, models = small_trial(arms)
    models = models if doubly_robust else None
    oracle = Oracle(trial, kind, 0.2, 0.3, models)
    ends = [oracle.estimates(trial.v, trial.c, alpha)[1] for alpha in (0.0, 20.0)]
    budget = 0.6 * ends[0] + 0.4 * ends[1]
    gradient = Smoothed(kind=kind, temperature=0.2, temperature_cost=0.3, newton_steps=30)
    call = functools.partial(
        gradient.outcome,
        *trial.tensors(),
        budget,
        propensity=0.1 / trial.w,
        outcome_model=models,
    )
    result = call()
    np.testing.assert_allclose(result.cost, budget, rtol=1e-10)
    np.testing.assert_allclose(result.alpha, oracle.alpha(trial.v, trial.c, budget), rtol=1e-8)
    np.testing.assert_allclose(result.response, oracle.goal(trial.v, trial.c, budget), rtol=1e-8)
    expected = oracle.gradient(lambda v, c: oracle.goal(v, c, budget))
    np.testing.assert_allclose(result.d_response, expected[0], atol=1e-6)
    np.testing.assert_allclose(result.d_cost, expected[1], atol=1e-6)
    assert np.abs(expected[0]).max() > 1e-3 and np.abs(expected[1]).max() > 1e-3

    # At fixed alpha: mu = 0 is the derivative of V; mu enters linearly.
    alpha = float(result.alpha)
    fixed = oracle.gradient(lambda v, c: oracle.estimates(v, c, alpha)[0])
    none, one = call(mu=0.0), call(mu=tf.constant(1.0))
    np.testing.assert_allclose(none.d_response, fixed[0], atol=1e-6)
    np.testing.assert_allclose(none.d_cost, fixed[1], atol=1e-6)
    at_alpha = Smoothed(**{**settings(gradient), "mu": "alpha"}).outcome(
        *call.args, **call.keywords
    )
    np.testing.assert_allclose(
        at_alpha.d_response, none.d_response + alpha * (one.d_response - none.d_response), atol=1e-9
    )
    np.testing.assert_allclose(
        result.d_response,
        none.d_response + result.mu * (one.d_response - none.d_response),
        atol=1e-9,
    )


def settings(gradient):
    names = inspect.signature(type(gradient).__init__).parameters
    return {name: getattr(gradient, name) for name in names if name != "self"}


def test_an_outcome_model_of_zeros_changes_nothing():
    trial, _ = small_trial(3)
    zeros = np.zeros_like(trial.v)
    gradient = Smoothed(temperature=0.1)
    plain = gradient(*trial.tensors(), 0.2)
    robust = gradient(*trial.tensors(), 0.2, outcome_model=(zeros, zeros))
    np.testing.assert_allclose(plain.d_response, robust.d_response, atol=1e-12)


class TestChoice:
    def test_two_arms_equal_quadrature(self):
        rng = np.random.default_rng(0)
        score = tf.constant(rng.normal(size=(200, 2)))
        coefficients = tf.constant(rng.normal(size=(3, 200, 2)))
        for scale in (0.03, 0.3, 3.0):
            closed = _two_arms(score, scale, coefficients)
            integral = _quadrature(score, scale, coefficients, 32)
            for a, b in zip(closed, integral, strict=True):
                np.testing.assert_allclose(a, b, atol=1e-9 / scale)

    @pytest.mark.parametrize("arms", [1, 3, 30])
    def test_quadrature_equals_scipy(self, arms):
        score = np.random.default_rng(arms).normal(size=(3, arms)) * [[0.0], [0.5], [3.0]]
        found = gaussian_choice(
            tf.constant(score), tf.constant(0.5, tf.float64), tf.zeros([1, 3, arms], tf.float64), 32
        ).probability
        for i, j in [(i, j) for i in range(3) for j in range(min(arms, 3))]:

            def integrand(x, i=i, j=j):
                rivals = np.delete(score[i], j)
                return stats.norm.pdf(x) * np.prod(stats.norm.cdf(x + (score[i, j] - rivals) / 0.5))

            expected = integrate.quad(integrand, -9, 9, epsabs=1e-12, limit=200)[0]
            np.testing.assert_allclose(found[i, j], expected, atol=1e-7)
        np.testing.assert_allclose(tf.reduce_sum(found, axis=1), 1.0, atol=1e-5)

    def test_equals_monte_carlo(self):
        rng = np.random.default_rng(0)
        draws = 400_000
        for arms in (2, 4):
            score = rng.normal(size=arms)
            noisy = score + 0.7 * rng.normal(size=(draws, arms))
            frequency = np.bincount(noisy.argmax(axis=1), minlength=arms) / draws
            p = gaussian_choice(
                tf.constant(score[None]),
                tf.constant(0.7, tf.float64),
                tf.zeros((1, 1, arms), tf.float64),
                32,
            )
            p = p.probability.numpy()[0]
            assert np.all(np.abs(frequency - p) < 4 * np.sqrt(p * (1 - p) / draws))

    @pytest.mark.parametrize("arms", [1, 2, 5])
    @pytest.mark.parametrize("kind", ["softmax", "gaussian"])
    def test_pulled_is_the_derivative(self, kind, arms):
        rng = np.random.default_rng(0)
        score, a = rng.normal(size=(4, arms)), rng.normal(size=(2, 4, arms))

        def choose(score):
            scale = tf.constant(0.5, tf.float64)
            if kind == "softmax":
                return softmax_choice(tf.constant(score), scale, tf.constant(a))
            return gaussian_choice(tf.constant(score), scale, tf.constant(a), 40)

        pulled = choose(score).pulled
        for k in range(arms):
            shift = 1e-5 * np.eye(arms)[k]
            ends = [np.sum(a * choose(score + s * shift).probability, axis=-1) for s in (1, -1)]
            np.testing.assert_allclose(pulled[:, :, k], (ends[0] - ends[1]) / 2e-5, atol=1e-8)


def hard_q(v, c, trial, budget, alpha_max=4.0, iterations=18):
    low, high = 0.0, alpha_max
    for _ in range(iterations):
        alpha = (low + high) / 2
        s = np.argmax(v - alpha * c, axis=1) == trial.t
        if np.sum(trial.z[s] - budget) > 0:
            low = alpha
        else:
            high = alpha
    return trial.y[s].mean()


@pytest.mark.parametrize("arms", [2, 3])
def test_is_what_nes_converges_to(arms):
    """E (Q+ - Q-)/2 <g, noise> = sigma^2 <gradient of NES, g>: equal to sigma^2 |g|^2 for parts g
    of the smoothed gradient. 700 antithetic pairs, 4 standard errors."""
    rng = np.random.default_rng(3)
    rows, sigma, sigma_cost = 1000, 0.15, 0.1
    trial = believable_trial(rng, rows=rows, arms=arms)
    budget = 0.6 * trial.z[trial.t == arms - 1].mean() + 0.4 * trial.z[trial.t == 0].mean()
    gradient = Smoothed(kind="gaussian", temperature=sigma, temperature_cost=sigma_cost)
    result = gradient(*trial.tensors(), budget)
    outcome = gradient.outcome(*trial.tensors(), budget)
    assert 0.2 < float(outcome.alpha) < 2.0
    g = np.stack([sigma * result.d_response.numpy(), sigma_cost * result.d_cost.numpy()])
    half, projections, levels = [], [], []
    first = (np.arange(rows) < rows // 2)[:, None]
    last = np.arange(arms) == arms - 1
    parts = [g, g * [[[1]], [[0]]], g * [[[0]], [[1]]], g * first, g * last]
    for _ in range(700):
        noise = rng.normal(size=g.shape)
        e, d = sigma * noise[0], sigma_cost * noise[1]
        up, down = (hard_q(trial.v + s * e, trial.c + s * d, trial, budget) for s in (1, -1))
        half.append((up - down) / 2)
        levels.append((up + down) / 2)
        projections.append([np.sum(part * noise) for part in parts])
    products = np.array(half)[:, None] * np.array(projections)
    expected = np.array([np.sum(part**2) for part in parts])
    stderr = products.std(axis=0) / np.sqrt(len(products))
    assert np.all(np.abs(products.mean(axis=0) - expected) < 4 * stderr)
    assert stderr[0] < 0.1 * expected[0]  # the comparison has power
    # Correlation of whole differences with their first-order prediction.
    assert np.corrcoef(half, np.array(projections)[:, 0])[0, 1] > 0.8
    # The smoothed V is the mean of Q under noise, up to O(1 / rows).
    assert abs(np.mean(levels) - float(outcome.response)) < 0.01


@pytest.mark.parametrize("kind", ["softmax", "gaussian"])
@pytest.mark.parametrize("mu", ["empirical", "alpha", 0.7])
def test_budget_that_does_not_bind(kind, mu):
    trial, _ = small_trial(3)
    gradient = Smoothed(kind=kind, temperature=0.2, temperature_cost=0.3, mu=mu)
    result = gradient.outcome(*trial.tensors(), 100.0, propensity=1 / trial.w)
    assert float(result.alpha) == float(result.mu) == 0.0
    oracle = Oracle(trial, kind, 0.2, 0.3)
    expected = oracle.gradient(lambda v, c: oracle.estimates(v, c, 0.0)[0])
    np.testing.assert_allclose(result.d_response, expected[0], atol=1e-7)
    assert not np.any(result.d_cost)


@pytest.mark.parametrize(
    ("arms", "kind", "budget"),
    [
        (1, "softmax", 0.3),
        (2, "softmax", 0.0),
        (3, "softmax", 5.0),
        (1, "gaussian", 0.0),
        (2, "gaussian", 0.3),
        (3, "gaussian", 0.3),
    ],
)
def test_degenerate_batches_are_finite(arms, kind, budget):
    gradient = Smoothed(kind=kind, temperature=1e-3, num_nodes=8, newton_steps=4)
    for v, c in [
        (np.zeros((2, arms)), np.ones((2, arms))),
        (np.arange(2 * arms).reshape(2, arms) / 4.0, np.zeros((2, arms))),
        (np.arange(2 * arms).reshape(2, arms) / 4.0, np.arange(2 * arms).reshape(2, arms) / 2.0),
    ]:
        for rows in (1, 2):
            t, y = np.zeros(rows, int), np.ones(rows)
            result = gradient(v[:rows], c[:rows], t, y, y, budget)
            assert np.all(np.isfinite(result.d_response)) and np.all(np.isfinite(result.d_cost))


@pytest.mark.parametrize(
    ("alpha_max", "temperature"), [(1e-6, 0.3), (1.0, 0.01), (2.0**31, 0.01), (2.0**31, 0.3)]
)
def test_the_search_does_not_depend_on_its_start(alpha_max, temperature):
    trial = believable_trial(np.random.default_rng(0), rows=1000, arms=3)
    gradient = Smoothed(temperature=temperature, alpha_max=alpha_max)
    result = gradient.outcome(*trial.tensors(), 0.1875)
    np.testing.assert_allclose(result.cost, 0.1875, rtol=1e-9)


def test_infeasible_budget_gives_no_gradient():
    trial = believable_trial(np.random.default_rng(0), rows=60, arms=2)
    result = Smoothed(temperature=0.1)(*trial.tensors(), -1.0)
    assert not np.any(result.d_response) and not np.any(result.d_cost)


def test_goal_is_the_hard_q():
    from tfalloc.gradients import FiniteDifference

    trial = believable_trial(np.random.default_rng(0), rows=200, arms=3)
    soft, hard = (g(*trial.tensors(), 0.25) for g in (Smoothed(), FiniteDifference()))
    assert float(soft.goal) == float(hard.goal) and float(soft.alpha) == float(hard.alpha)


def test_doubly_robust_needs_only_one_to_be_right():
    """Truth: the same features with known means. 3 standard errors of 100 simulated trials."""
    rng = np.random.default_rng(0)
    rows, budget = 3000, 0.45
    x = rng.normal(size=rows)
    means = np.stack([0.2 + 0.0 * x, 0.35 + 0.2 * np.tanh(x)], axis=1)
    costs = np.stack([0.1 + 0.0 * x, 0.8 + 0.3 * np.tanh(x)], axis=1)
    chance = 1 / (1 + np.exp(-x))  # of arm 1
    v, c = means + 0.05 * rng.normal(size=means.shape), costs
    gradient = Smoothed(temperature=0.05)
    right = (means, costs)
    wrong = (means * [0.5, 2.0] + 0.1, costs * [1.0, 0.7])

    @tf.function
    def solve(t, y, z, propensity, m_y, m_z):
        r = gradient.outcome(v, c, t, y, z, budget, propensity, outcome_model=(m_y, m_z))
        return r.response, r.alpha, r.d_response, r.d_cost

    n = np.arange(rows)
    zeros = np.zeros(rows, np.int32)
    truth = solve(zeros, means[:, 0], costs[:, 0], np.ones(rows), *right)
    g = truth[2].numpy(), truth[3].numpy()

    def statistics(result):
        along = np.sum(result[2] * g[0]) / np.sum(g[0] ** 2)
        along_cost = np.sum(result[3] * g[1]) / np.sum(g[1] ** 2)
        return [float(result[0]), float(result[1]), along, along_cost]

    found = {"model wrong": [], "propensity wrong": [], "both wrong": []}
    for _ in range(100):
        t = (rng.random(rows) < chance).astype(np.int32)
        y = (rng.random(rows) < means[n, t]).astype(float)
        z = costs[n, t] * rng.choice([0.5, 1.5], rows)
        share, even = np.where(t == 1, chance, 1 - chance), np.full(rows, 0.5)
        found["model wrong"].append(statistics(solve(t, y, z, share, *wrong)))
        found["propensity wrong"].append(statistics(solve(t, y, z, even, *right)))
        found["both wrong"].append(statistics(solve(t, y, z, even, *wrong)))
    expected = np.array([float(truth[0]), float(truth[1]), 1.0, 1.0])
    scores = {
        name: (np.mean(s, axis=0) - expected) / (np.std(s, axis=0) / np.sqrt(100))
        for name, s in found.items()
    }
    assert np.all(np.abs(scores["model wrong"]) < 3)
    assert np.all(np.abs(scores["propensity wrong"]) < 3)
    assert np.abs(scores["both wrong"]).max() > 5


def test_serialisable_by_its_arguments():
    gradient = Smoothed(temperature=0.02, kind="gaussian", mu=0.3, num_nodes=20)
    assert settings(Smoothed(**settings(gradient))) == settings(gradient)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0: expected a number above 0"),
        ({"temperature_cost": -1.0}, "temperature_cost=-1.0"),
        ({"kind": "probit"}, "kind='probit' is not known"),
        ({"mu": "running"}, "mu='running': expected 'empirical', 'alpha' or a finite"),
        ({"mu": math.nan}, "mu=nan"),
        ({"num_nodes": 1}, "2 to 1024 quadrature nodes"),
        ({"newton_steps": 0}, "at least 1 step"),
        ({"alpha_max": math.inf}, "positive, finite shadow price"),
    ],
)
def test_messages(arguments, message):
    with pytest.raises(ValueError, match=message):
        Smoothed(**arguments)


def test_message_of_a_misshapen_outcome_model():
    trial = SmallTrial(*(np.zeros((2, 2)),) * 2, *(np.zeros(2),) * 4, False)
    with pytest.raises(ValueError, match="outcome_model's response must have the shape"):
        Smoothed()(*trial.tensors(), 0.5, outcome_model=(np.zeros((2, 3)), np.zeros((2, 3))))
