"""J is the integral of the policy's value over prices; DRP and its kin are special cases."""

import inspect
import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from scipy import integrate

from tests.oracles import algorithm1
from tests.oracles.trials import SmallTrial, believable_trial, random_trial
from tfalloc.gradients import FiniteDifference, Integrated, integrated_objective
from tfalloc.gradients.alpha_range import EDGE, highest_alpha
from tfalloc.outcome import expected_outcome


def integral(trial, low, high, weight):
    """Sum over the pieces between breakpoints: in each, the assignment is that of its middle."""
    width = high - low
    edge = EDGE * width if weight == "drp" else 0.0

    def omega(alpha):
        return 1 / width if weight == "uniform" else width / ((alpha - low) * (high - alpha))

    rows, arms = trial.v.shape
    points = {low + edge, high - edge}
    for i in range(rows):
        for j in range(arms):
            for k in range(j):
                if trial.c[i, j] != trial.c[i, k]:
                    points.add((trial.v[i, j] - trial.v[i, k]) / (trial.c[i, j] - trial.c[i, k]))
    points = sorted(p for p in points if low + edge <= p <= high - edge)
    share = trial.w * arms / trial.w.sum()
    total = 0.0
    for a, b in itertools.pairwise(points):
        here = [
            algorithm1.assigned(trial.v[i], trial.c[i], (a + b) / 2) == trial.t[i]
            for i in range(rows)
        ]
        y, z = (share * trial.y)[here].sum(), (share * trial.z)[here].sum()
        total += y * integrate.quad(omega, a, b, epsabs=1e-13)[0]
        total -= z * integrate.quad(lambda p: p * omega(p), a, b, epsabs=1e-13)[0]
    return total


@pytest.mark.parametrize("weight", ["uniform", "drp"])
@pytest.mark.parametrize("prices", [(0.0, 1.0), (0.25, 3.0), (-1.0, 2.0)])
def test_is_the_integral_over_prices(weight, prices):
    rng = np.random.default_rng(0)
    for case in range(12):
        trial = random_trial(rng, dyadic=case % 2 == 0)
        result = integrated_objective(
            *trial.tensors(), 1 / trial.w, prices=prices, weight=weight, min_cost_gap=0.0
        )
        expected = integral(trial, *prices, weight)
        np.testing.assert_allclose(result.objective, expected, atol=1e-9)


@pytest.mark.parametrize("gap", [0.0, 0.15])
@pytest.mark.parametrize("weight", ["uniform", "drp"])
def test_gradient_equals_central_differences(weight, gap):
    rng = np.random.default_rng(1)
    nonzero = 0
    for _ in range(2):
        trial = random_trial(rng, dyadic=False, rows=5, arms=3)

        fixed = trial.t, trial.y, trial.z, 1 / trial.w
        options = {"prices": (-1.0, 3.0), "weight": weight, "min_cost_gap": gap}

        @tf.function
        def objective(v, c, fixed=fixed, options=options):
            return integrated_objective(v, c, *fixed, **options)

        result = objective(trial.v, trial.c)
        for which, slopes in enumerate((result.d_response, result.d_cost)):
            nonzero += np.count_nonzero(slopes)
            for entry in np.ndindex(5, 3):
                ends = []
                for shift in (1e-6, -1e-6):
                    moved = [trial.v.copy(), trial.c.copy()]
                    moved[which][entry] += shift
                    ends.append(float(objective(*moved).objective))
                expected = (ends[0] - ends[1]) / 2e-6
                np.testing.assert_allclose(slopes[entry], expected, rtol=1e-5, atol=1e-7)
    assert nonzero > 3


def two_arm_trial(rng, rows=300, share=0.3):
    """An unequal trial and scores s, whose sigmoid is the price of indifference."""
    t = (rng.random(rows) < share).astype(int)
    y, z = rng.random(rows) * (1 + t), rng.random(rows) * (1 + 2 * t)
    s = rng.uniform(-4, 4, rows)  # sigmoid inside (EDGE, 1 - EDGE)
    return t, y, z, s


def shares(t, arms):
    return np.bincount(t, minlength=arms)[t] / len(t)


def drp_loss(s, t, y, z):
    """L = -[E_T(r s) - E_C(r s) - E_T(c softplus(s)) + E_C(c softplus(s))], arm means."""
    each = y * s - z * np.logaddexp(0.0, s)
    return -(each[t == 1].mean() - each[t == 0].mean())


def test_drp_is_minus_the_loss_of_direct_ranking():
    rng = np.random.default_rng(2)
    t, y, z, s = two_arm_trial(rng)
    extra = rng.uniform(0.2, 2.0, len(t))  # any cost uplift: only the quotient matters
    c = np.stack([0.1 + 0 * extra, 0.1 + extra], axis=1)
    gradient = Integrated(weight="drp", prices=(0.0, 1.0), min_cost_gap=0.0)

    def solve(s):
        q = 1 / (1 + np.exp(-s))
        v = np.stack([0.2 + 0 * q, 0.2 + q * extra], axis=1)
        return q, gradient.objective(v, c, t, y, z, 0.5, shares(t, 2))

    q, here = solve(s)
    # Scale 1, by the chain rule ds -> dq -> dv.
    through_v = here.d_response.numpy()[:, 1] * extra * q * (1 - q)
    expected = []
    for i in range(len(t)):
        shift = 1e-5 * (np.arange(len(t)) == i)
        expected.append((drp_loss(s + shift, t, y, z) - drp_loss(s - shift, t, y, z)) / 2e-5)
    np.testing.assert_allclose(through_v, -np.array(expected), atol=1e-9)
    # The same price through the cost: dq/dc = -q / (c_1 - c_0).
    np.testing.assert_allclose(here.d_cost, -q[:, None] * here.d_response, atol=1e-12)
    # J + L is constant.
    other = rng.uniform(-4, 4, len(t))
    np.testing.assert_allclose(
        here.objective + drp_loss(s, t, y, z),
        solve(other)[1].objective + drp_loss(other, t, y, z),
        atol=1e-10,
    )


def dpm_loss(q, t, y, z, weight):
    """mean[c (q_{t-1}^2 1{t>0} - q_t^2 1{t<K-1}) - r (q_{t-1} 1{t>0} - q_t 1{t<K-1})]."""
    rows, upgrades = q.shape
    n = np.arange(rows)
    below = np.where(t > 0, q[n, np.maximum(t - 1, 0)], 0.0)
    above = np.where(t < upgrades, q[n, np.minimum(t, upgrades - 1)], 0.0)
    return np.mean(weight * (z * (below**2 - above**2) - y * (below - above)))


@pytest.mark.parametrize("arms", [2, 3, 4])
def test_uniform_is_minus_2k_times_the_loss_for_several_treatments(arms):
    """Its factors are half the prices: price of upgrade j = 2 q_j, falling in j."""
    rng = np.random.default_rng(arms)
    rows = 200
    t = rng.choice(arms, rows, p=np.arange(1, arms + 1) / np.arange(1, arms + 1).sum())
    y, z = rng.random(rows), rng.random(rows)
    steps = rng.uniform(0.3, 1.0, (rows, arms - 1))
    start = np.zeros((rows, 1))
    c = np.concatenate([start, np.cumsum(steps, axis=1)], axis=1)
    weight = 1 / (arms * shares(t, arms))

    def factors():
        return np.sort(rng.uniform(0.01, 0.49, (rows, arms - 1)), axis=1)[:, ::-1].copy()

    def solve(q):
        v = np.concatenate([start, np.cumsum(2 * q * steps, axis=1)], axis=1)
        return integrated_objective(
            v, c, t, y, z, shares(t, arms), prices=(0.0, 1.0), min_cost_gap=0.0
        )

    q, other = factors(), factors()
    scale = 2 * arms
    np.testing.assert_allclose(
        solve(q).objective - solve(other).objective,
        -scale * (dpm_loss(q, t, y, z, weight) - dpm_loss(other, t, y, z, weight)),
        atol=1e-12,
    )
    # dJ/dq_j: v_k for every k > j moves by 2 steps_j.
    d_response = solve(q).d_response.numpy()
    tail = np.cumsum(d_response[:, ::-1], axis=1)[:, ::-1][:, 1:]
    for i, j in [(i, j) for i in range(0, rows, 10) for j in range(arms - 1)]:
        ends = []
        for shift in (1e-6, -1e-6):
            moved = q.copy()
            moved[i, j] += shift
            ends.append(dpm_loss(moved, t, y, z, weight))
        expected = -scale * (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(2 * steps[i, j] * tail[i, j], expected, atol=1e-8)


def well_specified(rng, rows):
    """Three arms with known means, concave in cost for most rows, unequal propensities."""
    x = rng.normal(size=rows)
    slope = 0.4 + 0.2 * np.tanh(x)
    means = np.stack([0.1 + 0 * x, 0.1 + 0.5 * slope, 0.1 + 0.75 * slope], axis=1)
    costs = np.stack([0.1 + 0 * x, 0.6 + 0.1 * np.tanh(x), 1.3 + 0 * x], axis=1)
    return x, means, costs


def draw(rng, means, costs):
    rows, arms = means.shape
    n = np.arange(rows)
    chance = np.array([0.5, 0.3, 0.2])
    t = rng.choice(arms, rows, p=chance)
    y = (rng.random(rows) < means[n, t]).astype(float)
    z = costs[n, t] * rng.choice([0.5, 1.5], rows)
    return t, y, z, chance[t]


@pytest.mark.parametrize("weight", ["uniform", "drp", "budget"])
def test_the_truth_is_stationary(weight):
    """Expected gradient 0 at the true (v, c), 3 standard errors; far from it beside the truth."""
    rng = np.random.default_rng(5)
    x, means, costs = well_specified(rng, 40_000)
    t, y, z, share = draw(rng, means, costs)
    prices = None if weight == "budget" else (0.0, 1.0)
    gradient = Integrated(weight=weight, prices=prices, spread=0.3)

    def scores(v):
        result = gradient(v, costs, t, y, z, 0.5, share)
        found = []
        for slopes in (result.d_response.numpy(), result.d_cost.numpy()):
            for direction in (np.ones_like(x), x):
                each = slopes[:, 1:] * direction[:, None]
                stderr = each.std(axis=0) * np.sqrt(len(x))
                found += [each.sum(axis=0) / stderr]
        return np.array(found)

    assert np.all(np.abs(scores(means)) < 3)
    # The last upgrade looks better than it is: J wants it lowered.
    assert scores(means * [1.0, 1.15, 1.3])[0, 1] < -4


def test_a_baseline_changes_the_variance_only():
    """It removes the worth v - alpha c that both arms share at an end: much where the response is
    high without treatment."""
    rng = np.random.default_rng(6)
    x, means, costs = well_specified(rng, 1000)
    means = means + 0.5
    v = means * [1.0, 1.02, 1.04]
    share = 1 / np.array([0.5, 0.3, 0.2])
    baseline = means @ share / share.sum(), costs @ share / share.sum()

    @tf.function
    def solve(t, y, z, propensity, by, bz):
        result = integrated_objective(
            v, costs, t, y, z, propensity, prices=(0.0, 1.0), baseline=(by, bz)
        )
        return result.d_response[:, 1], result.d_response[:, 2], result.d_cost[:, 2]

    plain, reduced = [], []
    zeros = np.zeros_like(x)
    for _ in range(200):
        trial = draw(rng, means, costs)
        plain.append([np.sum(d) for d in solve(*trial, zeros, zeros)])
        reduced.append([np.sum(d) for d in solve(*trial, *baseline)])
    difference = np.array(plain) - np.array(reduced)
    stderr = difference.std(axis=0) / np.sqrt(len(difference))
    assert np.all(np.abs(difference.mean(axis=0)) < 3 * stderr)
    assert np.all(np.var(reduced, axis=0) < 0.6 * np.var(plain, axis=0))


def test_budget_prices_come_from_the_outcome_curve():
    trial = believable_trial(np.random.default_rng(7), rows=2000, arms=3)
    ends = [
        float(expected_outcome(*trial.tensors(), budget=b, method="path").alpha)
        for b in (0.3 * 1.2, 0.3 * 0.8)
    ]
    by_spread = Integrated(weight="budget", spread=0.2).objective(*trial.tensors(), 0.3)
    by_range = Integrated(weight="budget", budgets=(0.24, 0.36)).objective(*trial.tensors(), 9.0)
    for result in (by_spread, by_range):
        np.testing.assert_allclose(result.prices, ends, rtol=1e-12)
    fixed = integrated_objective(*trial.tensors(), prices=tuple(ends))
    np.testing.assert_allclose(by_range.d_response, fixed.d_response, atol=1e-12)
    # Budgets that never bind, or that no price meets, still leave a range.
    for budgets in ((50.0, 60.0), (-2.0, -1.0)):
        low, high = (
            Integrated(weight="budget", budgets=budgets).objective(*trial.tensors(), 0.3).prices
        )
        assert 0.0 <= float(low) < float(high) < math.inf


def test_highest_price_leaves_a_hundredth_of_the_spend():
    rng = np.random.default_rng(8)
    trial = believable_trial(rng, rows=4000, arms=2)
    high = float(highest_alpha(tf.constant(trial.v), tf.constant(trial.c)))

    def spend(alpha):
        chosen = np.argmax(trial.v - alpha * trial.c, axis=1)
        return np.sum(trial.c[np.arange(4000), chosen] - trial.c.min(axis=1))

    np.testing.assert_allclose(spend(high) / spend(0.0), 0.01, atol=5e-4)
    automatic = Integrated().objective(*trial.tensors(), 0.3)
    np.testing.assert_allclose(automatic.prices, [0.0, high])
    # Nobody buys at any price: a range all the same.
    assert float(highest_alpha(-tf.constant(trial.c), tf.constant(trial.c))) > 0.0


@pytest.mark.parametrize(("weight", "arms"), [("uniform", 1), ("drp", 2), ("budget", 3)])
def test_degenerate_batches_are_finite(weight, arms):
    gradient = Integrated(weight=weight)
    ladder = np.arange(2 * arms).reshape(2, arms) / 4.0
    for v, c in [
        (np.zeros((2, arms)), np.ones((2, arms))),  # equal arms
        (ladder, np.ones((2, arms))),  # equal costs, the last arm dominates
        (ladder, -ladder + 2.0),  # better and cheaper
        (ladder, 1e-9 * ladder),  # next to nothing to pay
        (-ladder, ladder),  # nobody buys
    ]:
        for rows in (1, 2):
            t, y = np.zeros(rows, int), np.ones(rows)
            args = v[:rows], c[:rows], t, y, y, 0.5
            result = gradient(*args)
            assert np.all(np.isfinite(result.d_response)) and np.all(np.isfinite(result.d_cost))
            assert np.isfinite(gradient.objective(*args).objective)


def test_a_small_cost_gap_bounds_the_gradient():
    v, c = np.array([[0.1, 0.1 + 1e-5]]), np.array([[0.5, 0.5 + 1e-4]])
    arguments = v, c, [1], [1.0], [0.5]
    sharp = integrated_objective(*arguments, prices=(0.0, 1.0), min_cost_gap=0.0)
    bounded = integrated_objective(*arguments, prices=(0.0, 1.0), min_cost_gap=0.01)
    assert float(sharp.d_response[0, 1]) > 1e4
    assert 0.0 < float(bounded.d_response[0, 1]) <= 2 / 0.01
    assert not np.any(bounded.d_cost)


def test_goal_is_the_hard_q():
    trial = believable_trial(np.random.default_rng(0), rows=200, arms=3)
    one, other = (g(*trial.tensors(), 0.25) for g in (Integrated(), FiniteDifference()))
    assert float(one.goal) == float(other.goal) and float(one.alpha) == float(other.alpha)


def test_serialisable_by_its_arguments():
    def settings(gradient):
        names = inspect.signature(type(gradient).__init__).parameters
        return {name: getattr(gradient, name) for name in names if name != "self"}

    for gradient in (
        Integrated(weight="drp", prices=(0, 2), min_cost_gap=0.1),
        Integrated(weight="budget", budgets=(0.1, 0.2)),
    ):
        assert settings(Integrated(**settings(gradient))) == settings(gradient)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": "flat"}, "weight='flat' is not known"),
        ({"prices": (1.0, 0.0)}, r"prices=\(1.0, 0.0\): expected a range"),
        ({"prices": 3.0}, r"prices=3.0: expected a range"),
        ({"prices": (0.0, math.inf)}, "finite, low < high"),
        ({"weight": "budget", "prices": (0.0, 1.0)}, "weight='budget' finds its prices"),
        ({"budgets": (0.0, 1.0)}, "only weight='budget'"),
        ({"spread": 0.0}, r"a share of the budget in \(0, 1\]"),
        ({"min_cost_gap": -1.0}, "a cost that is not negative"),
    ],
)
def test_messages(arguments, message):
    with pytest.raises(ValueError, match=message):
        Integrated(**arguments)


def test_messages_of_the_call():
    trial = SmallTrial(*(np.zeros((2, 2)),) * 2, np.zeros(2, int), *(np.zeros(2),) * 3, False)
    with pytest.raises(ValueError, match="baseline must be two columns"):
        Integrated()(*trial.tensors(), 0.5, baseline=(np.zeros(3), np.zeros(3)))
    with pytest.raises(ValueError, match="weight='budget' is not known"):
        integrated_objective(*trial.tensors(), prices=(0.0, 1.0), weight="budget")
