"""Spend never above the budget, alpha monotone, underspend bounded."""

import numpy as np
import pytest
import tensorflow as tf

from tfalloc import export, mckp, outcome
from tfalloc.data import RCTData
from tfalloc.export.budget_table import MAX_KNOTS, fit_table, predicted_policy_cost


def predictions(rows=3000, arms=4, seed=0):
    rng = np.random.default_rng(seed)
    v = np.cumsum(rng.random((rows, arms)) * 0.2, axis=1).astype(np.float32)
    c = np.cumsum(rng.random((rows, arms)), axis=1).astype(np.float32)
    return v, c - c[:, :1] * rng.integers(0, 2, (rows, 1)).astype(np.float32)


def spend(v, c, alpha, weight=None):
    v, c = v.astype(np.float64), c.astype(np.float64)
    arms = np.argmax(v - alpha * c, axis=1)
    return np.average(c[np.arange(len(c)), arms], weights=weight)


@pytest.mark.parametrize("weighted", [False, True])
def test_predicted_curve_is_the_exact_path(weighted):
    v, c = predictions()
    weight = np.random.default_rng(1).random(len(v)) + 0.5 if weighted else None
    curve = predicted_policy_cost(v, c, weight)
    if not weighted:
        steps = mckp.path(v, c)
        np.testing.assert_allclose(curve.cost[[0, -1]], steps.cost[[-1, 0]], rtol=1e-12)
    ends = np.concatenate([[0.0], curve.breakpoints, [2 * curve.breakpoints[-1]]])
    for s in np.random.default_rng(2).integers(0, len(curve.cost), 40):
        middle = (ends[s] + ends[s + 1]) / 2
        np.testing.assert_allclose(curve.cost[s], spend(v, c, middle, weight), rtol=1e-9)
    np.testing.assert_allclose(curve.cost_at_zero, spend(v, c, 0.0, weight), rtol=1e-12)


def test_spend_never_above_the_budget_and_close_to_it():
    v, c = predictions(rows=20_000)
    curve = predicted_policy_cost(v, c)
    table = fit_table(curve)
    assert len(table.alpha) <= MAX_KNOTS
    assert np.all(np.diff(table.alpha) < 0) and np.all(np.diff(table.cost) >= 0)
    np.testing.assert_array_equal(table.alpha, table.alpha.astype(np.float32))
    low, high = table.cost[[0, -1]]
    assert table.max_underspend < 3 * 2 * (high - low) / MAX_KNOTS
    for budget in np.random.default_rng(3).uniform(low, high, 50):
        alpha, clamped = table.lookup(budget)
        spent = spend(v, c, alpha)
        assert not clamped
        assert budget - table.max_underspend * (1 + 1e-9) <= spent <= budget * (1 + 1e-12)


def test_the_cost_of_a_knot_buys_the_knot_in_float32_too():
    v, c = predictions()
    table = fit_table(predicted_policy_cost(v, c))
    for costs in (table.cost, table.cost.astype(np.float32)):
        alpha, clamped = table.lookup(costs)
        # Not one knot less; the next one may cost the same but for rounding.
        bought = np.searchsorted(-table.alpha, -alpha)
        assert (alpha <= table.alpha).all() and not np.any(clamped)
        assert (table.cost[bought] <= table.cost * (1 + 2.0**-22)).all()


def test_known_costs_of_arms_are_used_exactly(tmp_path, exported):
    """A trial whose arms cost 0, .3 and .5 says what spend is, whatever is predicted."""
    v, c = predictions(arms=3)
    known, weight = np.array([0.0, 0.3, 0.5]), np.random.default_rng(1).random(len(v)) + 0.5
    table = fit_table(predicted_policy_cost(v, c, weight, known))
    for budget in np.linspace(0.0, 0.5, 21):
        arms = np.argmax(v - table.lookup(budget)[0] * c.astype(np.float64), axis=1)
        spent = np.average(known[arms], weights=weight)
        assert budget - table.max_underspend - 1e-9 <= spent <= budget + 1e-9
    frame = exported.data.frame().drop(columns=["cost", "propensity"])
    roles = {"treatment": "treatment", "response": "response", "cost": {0: 0.0, 1: 0.3, 2: 0.5}}
    trial = RCTData.from_frame(frame, **roles)
    options = {"population": trial, "calibration": "trial"}
    export.save(exported.model, tmp_path / "m", **options)
    served = export.load_table(tmp_path / "m")
    assert served.cost[0] == 0.0 and served.cost[-1] <= 0.5
    v, c = (exported.predicted[name].astype(np.float64) for name in ("response", "cost"))
    for budget in np.linspace(0.02, served.cost[-1], 9):
        arms = np.argmax(v - served.lookup(budget)[0] * c, axis=1)
        assert budget - served.max_underspend - 1e-6 <= known[arms].mean() <= budget + 1e-6


def test_the_signature_gives_the_knot_of_exactly_its_cost(exported):
    """That knot and not one less; or one that costs the same but for the rounding of float32."""
    table = export.load_table(exported.path["predicted"])
    knots = np.linspace(0, len(table.cost) - 1, 500).astype(int)
    ask = exported.loaded["predicted"].signatures["allocate_for_budget"]
    rows = {name: column[:500] for name, column in exported.arguments.items()}
    answer = ask(**rows, policy_budget=tf.constant(table.cost[knots], tf.float32))
    bought = np.searchsorted(-table.alpha, -answer["alpha"].numpy().astype(np.float64))
    assert (bought >= knots).all() and not answer["clamped"].numpy().any()
    assert (table.cost[bought] <= table.cost[knots] * (1 + 2.0**-22)).all()


def test_small_budgets_have_small_errors_and_a_range_smaller_ones():
    v, c = predictions(rows=20_000, seed=5)
    c -= c.min(axis=1, keepdims=True)
    curve = predicted_policy_cost(v, c)
    budget = 0.002 * curve.cost[0]
    assert budget - spend(v, c, fit_table(curve).lookup(budget)[0]) < 0.02 * budget
    around = (0.4 * curve.cost[0], 0.41 * curve.cost[0])
    narrow = fit_table(curve, budgets=around, max_knots=256)
    wide = fit_table(curve, max_knots=256)

    def worst(table):
        return max(b - spend(v, c, table.lookup(b)[0]) for b in np.linspace(*around, 30))

    assert worst(narrow) < worst(wide) / 10


def test_users_alike_up_to_rounding_move_together():
    # A thousand equal users whose predictions differ in the last digit, as batches make them.
    rng = np.random.default_rng(0)
    v = np.array([[0.5, 0.6], [0.5, 0.9]]).repeat(1000, axis=0)
    noisy = (v * (1 + 1e-7 * rng.normal(size=v.shape))).astype(np.float32)
    c = np.array([[0.0, 1.0]]).repeat(2000, axis=0).astype(np.float32)
    table = fit_table(predicted_policy_cost(noisy, c))
    again = (v * (1 + 1e-7 * rng.normal(size=v.shape))).astype(np.float32)
    for budget in np.linspace(0.0, 1.0, 101):
        assert spend(again, c, table.lookup(budget)[0]) <= budget


def test_value_ties_at_price_zero():
    # Equal values: argmax takes the first, dear arm at alpha = 0, the cheap one at any alpha > 0.
    v, c = np.full((10, 2), 0.5, np.float32), np.array([[3.0, 1.0]] * 10, np.float32)
    table = fit_table(predicted_policy_cost(v, c))
    assert table.lookup(2.0)[0] > 0.0
    for budget in (1.0, 2.0, 2.99, 3.0, 9.0):
        assert spend(v, c, table.lookup(budget)[0]) <= budget
    assert table.lookup([0.5, 1.0, 3.0, 3.1])[1].tolist() == [True, False, False, True]


@pytest.mark.parametrize("calibration", ["predicted", "trial"])
def test_served_spend_on_the_population(exported, calibration):
    table = export.load_table(exported.path[calibration])
    low, high = table.cost[[0, -1]]
    data = exported.data
    served = exported.call("serve")
    v, c = served["response"], served["cost"]
    line = outcome.curve(v, c, data.treatment, data.response, data.cost, data.propensity)
    steps, estimate = line.alpha.numpy(), line.cost.numpy()
    budgets = np.sort(np.random.default_rng(4).uniform(low, high, 50)).astype(np.float32)
    signature = exported.loaded[calibration].signatures["allocate_for_budget"]
    alphas = []
    for budget in budgets:
        answer = exported.call("allocate_for_budget", calibration, policy_budget=budget)
        assert not answer["clamped"].any() and np.ptp(answer["alpha"]) == 0
        alphas.append(answer["alpha"][0])
        match = answer["treatment"] == data.treatment
        weight = match / data.propensity.astype(np.float64)
        if calibration == "predicted":
            assert answer["cost"].mean(dtype=np.float64) <= budget
        else:
            assert np.average(data.cost.astype(np.float64), weights=weight) <= budget
            # No dearer at any larger price either.
            assert np.nanmax(estimate[steps > alphas[-1]]) <= budget
        np.testing.assert_array_equal(table.lookup(budget)[0], alphas[-1])
    assert np.all(np.diff(alphas) <= 0) and alphas[0] > alphas[-1]
    assert signature is not None


def test_clamped_outside_the_range(exported):
    for calibration in ("predicted", "trial"):
        table = export.load_table(exported.path[calibration])
        for budget, alpha in ((-1.0, table.alpha[0]), (2 * table.cost[-1] + 1, 0.0)):
            answer = exported.call("allocate_for_budget", calibration, policy_budget=budget)
            assert answer["clamped"].all() and np.all(answer["alpha"] == alpha)


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        ((1.0, 0.5), "low <= high"),
        ((0.1, np.nan), "finite"),
        (3.0, "expected a range"),
        ((0.0, 0.001), "are infeasible: the cheapest assignment costs"),
    ],
)
def test_budget_ranges_are_checked(budgets, message):
    v, c = predictions(rows=50)
    with pytest.raises(ValueError, match=message):
        fit_table(predicted_policy_cost(v, c + 1.0), budgets=budgets)
