"""`outcome_curve` against `policy_outcome`, shares against argmax, true curves against mckp."""

from __future__ import annotations

import numpy as np
import pytest

from tests.evaluation.trials import make_world, random_rows
from tfalloc import mckp
from tfalloc.evaluation import mix_curve, oracle_curve, outcome_curve, policy_outcome, true_curve


def test_curve_is_policy_outcome_at_each_budget():
    value, price, trial = random_rows(np.random.default_rng(0), 500, 4)
    table = outcome_curve(value, price, trial, num_points=7, confidence=0.8)
    assert len(table) == 7 and table.budget.is_monotonic_increasing
    for row in table.itertuples():
        alone = policy_outcome(value, price, trial, budget=row.budget, confidence=0.8)
        for field in ("response", "response_low", "response_high", "cost", "alpha", "num_matched"):
            assert getattr(row, field) == getattr(alone, field)


def test_shares_equal_argmax():
    value, price, trial = random_rows(np.random.default_rng(1), 300, 4)
    weight = np.random.default_rng(2).random(300) + 0.5
    data = trial | {"sample_weight": weight}
    table = outcome_curve(value, price, data, num_points=9)
    shares = table.filter(like="share_").to_numpy()
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, rtol=1e-12)
    for alpha, found in zip(table.alpha, shares, strict=True):
        if np.isfinite(alpha):
            arm = np.argmax(value - alpha * price, axis=1)
            expected = np.bincount(arm, weights=weight, minlength=4) / weight.sum()
            # One user is indifferent at alpha.
            np.testing.assert_allclose(found, expected, atol=1.5 * weight.max() / weight.sum())


def test_shares_of_users_who_are_all_alike():
    trial = {"treatment": [0, 1, 2] * 4, "response": [0, 0, 1] * 4, "cost": [0, 1, 2] * 4}
    value, price = np.tile([0.0, 0.6, 0.9], (12, 1)), np.tile([0.0, 1.0, 2.0], (12, 1))
    table = outcome_curve(value, price, trial, budgets=[0.0, 0.25, 1.0, 1.5, 2.0, 5.0])
    np.testing.assert_allclose(
        table.filter(like="share_"),
        [[1, 0, 0], [0.75, 0.25, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1], [0, 0, 1]],
        atol=1e-12,
    )


def test_shares_carry_names_and_infeasible_budgets_the_cheapest_arm():
    from tfalloc.data import RCTData

    trial = RCTData(
        {"x": np.zeros(4)}, [0, 1, 0, 1], [0, 1, 0, 1], [1.0, 2.0, 1.0, 2.0],
        treatment_names=["none", "coupon"],
    )  # fmt: skip
    table = outcome_curve(np.tile([0.1, 0.2], (4, 1)), np.tile([1.0, 2.0], (4, 1)), trial,
                          budgets=[0.5, 1.5])  # fmt: skip
    assert table.feasible.tolist() == [False, True]
    assert table.share_none.tolist() == [1.0, 0.5]
    assert table.share_coupon.tolist() == [0.0, 0.5]


def test_true_curve_of_true_predictions_is_the_knapsack_path():
    rng = np.random.default_rng(3)
    value, cost = rng.random((200, 5)), rng.random((200, 5))
    curve = mckp.path(value, cost)
    budgets = np.linspace(curve.cost[0], curve.cost[-1], 23)
    table = oracle_curve(value, cost, budgets)
    np.testing.assert_allclose(table.response, [curve.value_at(b) for b in budgets], rtol=1e-10)
    np.testing.assert_allclose(table.cost, budgets, rtol=1e-10)
    ends = oracle_curve(value, cost, [curve.cost[0] - 0.1, curve.cost[-1] + 0.1])
    assert ends.feasible.tolist() == [False, True]
    assert ends.alpha.tolist() == [np.inf, 0.0]


def test_true_curve_equals_argmax_at_its_alpha():
    rng = np.random.default_rng(4)
    value, price, truth, spend = rng.random((4, 300, 3))
    table = true_curve(value, price, truth, spend, np.linspace(0.3, 0.6, 9))
    rows = np.arange(300)
    for row in table.itertuples():
        if 0 < row.alpha < np.inf:
            arm = np.argmax(value - row.alpha * price, axis=1)
            assert truth[rows, arm].mean() == pytest.approx(row.response, abs=1.5 / 300)
            assert spend[rows, arm].mean() == pytest.approx(row.cost, abs=1.5 / 300)


def test_no_model_beats_the_oracle():
    world = make_world(size=5_000)
    budgets = np.linspace(*world.cost.mean(axis=0), 11)
    best = oracle_curve(world.response, world.cost, budgets).response.to_numpy()
    good = true_curve(*world.good, world.response, world.cost, budgets).response.to_numpy()
    assert (good <= best + 1e-12).all() and (good[3:8] < best[3:8]).all()


@pytest.mark.parametrize("arms", [2, 3, 6])
def test_mix_curve_is_the_best_mixture(arms):
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(arms)
    value, cost = rng.random((50, arms)), rng.random((50, arms)) * np.arange(1, arms + 1)
    weight = rng.random(50)
    v, c = (weight @ x / weight.sum() for x in (value, cost))
    budgets = np.linspace(c.min(), 1.2 * c.max(), 11)
    table = mix_curve(value, cost, budgets, sample_weight=weight)
    for budget, found in zip(budgets, table.response, strict=True):
        best = optimize.linprog(-v, A_ub=[c], b_ub=[budget], A_eq=[np.ones(arms)], b_eq=[1.0])
        assert found == pytest.approx(-best.fun, rel=1e-9)
    assert table.feasible.all() and not mix_curve(value, cost, 0.0).feasible[0]


def test_targeting_beats_the_mix_unless_users_are_alike():
    value, cost = np.random.default_rng(6).random((2, 400, 4)).astype("f4") * [[[0, 1, 2, 3]]]
    budgets = [0.2, 0.5, 0.9]
    mix, best = (curve(value, cost, budgets).response for curve in (mix_curve, oracle_curve))
    assert (mix < best - 0.05).all()
    alike = np.tile(value[:1], (400, 1)), np.tile(cost[:1], (400, 1))
    mix, best = (curve(*alike, budgets).response for curve in (mix_curve, oracle_curve))
    np.testing.assert_allclose(mix, best, rtol=1e-6)


def test_weighted_truth_is_repeated_users():
    rng = np.random.default_rng(5)
    tables = rng.random((4, 50, 3))
    times = rng.integers(1, 4, 50)
    weighted = true_curve(*tables, [0.4, 0.5], sample_weight=times)
    repeated = true_curve(*(np.repeat(x, times, axis=0) for x in tables), [0.4, 0.5])
    np.testing.assert_allclose(weighted.response, repeated.response, rtol=1e-10)


def test_errors():
    value = np.zeros((4, 2))
    trial = {"treatment": [0, 1, 0, 1], "response": [0, 1, 0, 0], "cost": [0, 1, 0, 1]}
    with pytest.raises(ValueError, match="budgets is empty"):
        outcome_curve(value, value, trial, budgets=[])
    for points in (0, 2.5):
        with pytest.raises(ValueError, match=f"num_points={points}; expected an integer of at"):
            outcome_curve(value, value, trial, num_points=points)
    with pytest.raises(ValueError, match="expected one finite cost"):
        outcome_curve(value, value, trial, budgets=[np.inf])
    with pytest.raises(ValueError, match="same users and arms"):
        true_curve(value, value, value[:2], value[:2], 1.0)
    with pytest.raises(ValueError, match="one per user"):
        true_curve(value, value, value, value, 1.0, sample_weight=[1.0])
    with pytest.raises(ValueError, match="one per user"):
        mix_curve(value, value, 1.0, sample_weight=[1.0])
    for wrong in ([1.0, np.nan, 1.0, 1.0], [1.0, -1.0, 1.0, 1.0], np.zeros(4)):
        with pytest.raises(ValueError, match="finite numbers that are not negative"):
            true_curve(value, value, value, value, 1.0, sample_weight=wrong)
        with pytest.raises(ValueError, match="finite numbers that are not negative"):
            mix_curve(value, value, 1.0, sample_weight=wrong)
    with pytest.raises(ValueError, match="budgets is empty"):
        true_curve(value, value, value, value, [])
