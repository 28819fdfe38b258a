"""Validation judges whole sets at one budget or several, and never hands NaN to a monitor."""

import numpy as np
import pytest

from tfalloc.models.whole_set import goals
from tfalloc.outcome import expected_outcome


def columns(v, c, t, y, z):
    share = np.full(len(t), 0.5)
    names = ("pred_response", "pred_cost", "treatment", "response", "cost", "propensity")
    return dict(zip(names, (v, c, t, y, z, share), strict=True))


def rows(n=4000, seed=0):
    rng = np.random.default_rng(seed)
    gain = rng.uniform(0, 0.4, n)
    v, c = np.stack([0 * gain + 0.1, 0.1 + gain], 1), np.tile([0.2, 1.0], (n, 1))
    t = rng.integers(0, 2, n)
    y = (rng.random(n) < v[np.arange(n), t]).astype(float)
    return columns(v, c, t, y, c[np.arange(n), t])


def test_the_mean_over_budgets_and_each():
    trial = rows()
    one = {b: expected_outcome(**trial, budget=b, method="path") for b in (0.4, 0.6)}
    logs = goals(trial, (0.4, 0.6)).logs
    assert logs["goal@0.4"] == float(one[0.4].response)
    assert logs["goal@0.6"] == float(one[0.6].response)
    assert logs["goal"] == pytest.approx(np.mean([float(q.response) for q in one.values()]))
    assert logs["cost"] == pytest.approx(np.mean([float(q.cost) for q in one.values()]))
    assert logs["matched"] == np.mean([int(q.num_matched) for q in one.values()])
    assert set(goals(trial, (0.4,)).logs) == {"goal", "cost", "alpha", "matched"}


def test_a_budget_that_cannot_be_kept_counts_as_the_cheapest_arm():
    trial = rows()
    untreated = trial["response"][trial["treatment"] == 0].mean()
    logs = goals(trial, (0.05, 0.6)).logs
    assert logs["goal@0.05"] == pytest.approx(untreated)
    assert np.isfinite(logs["goal"]) and logs["goal@0.6"] > untreated
    assert np.isnan(logs["cost"]) and np.isnan(logs["alpha"])


def test_nothing_matched_counts_as_the_cheapest_arm():
    trial = rows()
    # Predictions never choose the arm that the trial gave.
    v = np.where(np.eye(2)[trial["treatment"]] > 0, 0.0, 1.0)
    logs = goals({**trial, "pred_response": v, "pred_cost": np.full_like(v, 0.5)}, (0.6,)).logs
    assert logs["matched"] == 0
    assert logs["goal"] == pytest.approx(trial["response"][trial["treatment"] == 0].mean())


def test_evaluate_takes_several_budgets(model_of, trial_of_two_arms):
    model = model_of(validation_budgets=None)
    model.adapt(trial_of_two_arms)
    logs = model.evaluate(trial_of_two_arms, budget=[0.4, 0.2], return_dict=True)
    single = model.evaluate(trial_of_two_arms, budget=0.4, return_dict=True)
    assert [name for name in logs if "@" in name] == ["goal@0.2", "goal@0.4"]
    assert logs["goal@0.4"] == single["goal"] and "goal@0.4" not in single
    assert logs["loss"] == pytest.approx(logs["response_loss"] + logs["cost_loss"])
    compiled = model.evaluate(trial_of_two_arms, return_dict=True)
    assert sum("@" in name for name in compiled) == 5


def test_influences_give_the_error_of_a_paired_difference():
    rng = np.random.default_rng(5)
    differences, errors = [], []
    for _ in range(150):
        n = 1_500
        x, t = rng.normal(size=n), rng.integers(0, 2, n)
        uplift = 0.3 * (x > 0)
        y = (rng.random(n) < 0.2 + t * uplift).astype(float)
        z = t * rng.uniform(0.5, 1.5, n)
        cost = np.tile([0.0, 1.0], (n, 1))
        policies = [
            np.stack([0 * x, u], 1) for u in (uplift + 0.01 * x, 0.1 + 0.05 * np.sin(9 * x))
        ]
        a, b = (goals(columns(v, cost, t, y, z), (0.3, 0.4)) for v in policies)
        differences.append(a.logs["goal"] - b.logs["goal"])
        errors.append(np.sqrt(np.sum((a.influence - b.influence) ** 2)))
    # The standard deviation of 150 replications is itself known to 6 %.
    assert 0.8 < np.mean(errors) / np.std(differences) < 1.25
