"""`policy_outcome` against the outcome package and by hand; ties, weights, odd sizes, errors."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.evaluation.trials import random_rows
from tfalloc.evaluation import compare, outcome_curve, policy_outcome
from tfalloc.outcome import expected_outcome

COLUMNS = ("treatment", "response", "cost", "propensity")


@pytest.mark.parametrize("estimator", ["hajek", "matched", "ht"])
def test_alpha_is_that_of_the_path_method(estimator):
    rng = np.random.default_rng(0)
    for arms in (2, 3, 5):
        for share in (0.3, 0.6, 1.5):
            value, price, trial = random_rows(rng, 400, arms)
            budget = share * trial["cost"].mean()
            ours = policy_outcome(value, price, trial, budget=budget, estimator=estimator)
            theirs = expected_outcome(
                value, price, *(trial[c] for c in COLUMNS),
                budget=budget, method="path", estimator=estimator,
            )  # fmt: skip
            assert ours.feasible == bool(theirs.converged)
            if not ours.feasible:
                continue
            assert ours.alpha == float(theirs.alpha)
            assert ours.num_crossings == int(theirs.num_crossings)
            if ours.alpha > 0:  # one row of difference at most: the one that is split
                assert ours.cost == pytest.approx(budget, rel=1e-9)
                assert 0 <= ours.num_matched - int(theirs.num_matched) <= 1
                assert ours.response == pytest.approx(float(theirs.response), abs=0.05)
            else:
                assert ours.response == pytest.approx(float(theirs.response), rel=1e-12)
                assert ours.response_stderr <= float(theirs.response_stderr) * 1.001
                assert ours.marginal_response == 0.0


def test_budgets_that_do_not_bind_or_cannot_be_met():
    trial = {"treatment": [0, 0, 1, 1], "response": [0, 1, 1, 1], "cost": [1, 1, 3, 3]}
    value, price = np.tile([0.2, 0.4], (4, 1)), np.tile([1.0, 2.0], (4, 1))
    rich = policy_outcome(value, price, trial, budget=9.0)
    assert (rich.response, rich.cost, rich.alpha, rich.feasible) == (1.0, 3.0, 0.0, True)
    assert rich.uplift == 0.5 and rich.num_crossings == 0
    poor = policy_outcome(value, price, trial, budget=0.5)
    assert (poor.response, poor.cost, poor.alpha, poor.feasible) == (0.5, 1.0, np.inf, False)
    exact = policy_outcome(value, price, trial, budget=1.0)
    assert (exact.response, exact.feasible, exact.num_matched) == (0.5, True, 2)


def test_users_who_are_all_alike_are_randomised():
    """V lies on the straight line between arms, whatever the index of the cheap one."""
    trial = {
        "treatment": [0, 0, 1, 1] * 10,
        "response": [0, 0, 0, 1] * 10,
        "cost": [0, 0, 2, 2] * 10,
    }
    for flip in (False, True):
        value, price = np.tile([0.1, 0.3], (40, 1)), np.tile([0.0, 1.0], (40, 1))
        data = dict(trial)
        if flip:
            value, price = value[:, ::-1], price[:, ::-1]
            data["treatment"] = 1 - np.array(trial["treatment"])
        result = policy_outcome(value, price, data, budget=0.5)
        assert result.cost == pytest.approx(0.5)
        assert result.response == pytest.approx(0.125)
        assert result.marginal_response == pytest.approx(0.25)
        assert result.num_matched == 40


@pytest.fixture(scope="module")
def priced():
    """An unequal trial of two arms that cost 0 and .3, and predictions without ties."""
    rng = np.random.default_rng(3)
    x, arm = rng.random(2000), (rng.random(2000) < 0.7).astype(int)
    trial = {
        "treatment": arm,
        "response": (rng.random(2000) < 0.1 + 0.4 * x * arm).astype(float),
        "cost": np.float32(0.3) * arm,
        "propensity": np.where(arm == 1, 0.7, 0.3),
        "sample_weight": rng.integers(1, 4, 2000).astype(float),
    }
    pair = np.stack([0.1 + 0 * x, 0.1 + x], 1), np.tile([0.0, 0.3], (2000, 1))
    return pair, trial


@pytest.mark.parametrize("estimator", ["hajek", "ht"])
def test_known_costs_are_used_exactly(priced, estimator):
    """What the policy at a budget of .1 costs is .1, not what its matched rows cost by chance."""
    pair, trial = priced
    cost, weight = float(np.float32(0.3)), trial["sample_weight"]
    budgets = [0.02, 0.1, 0.25]
    curve = outcome_curve(*pair, trial, budgets=budgets, estimator=estimator)
    for budget in budgets:
        found = policy_outcome(*pair, trial, budget=budget, estimator=estimator)
        treated = pair[0][:, 1] - pair[0][:, 0] > found.alpha * (pair[1][:, 1] - pair[1][:, 0])
        assert found.cost == pytest.approx(budget, rel=1e-12)
        spent = cost * np.average(treated, weights=weight)
        assert spent == pytest.approx(budget, abs=cost * weight.max() / weight.sum())
        assert found.num_crossings == 1 and found.response_stderr > 0.0
    np.testing.assert_allclose(curve["cost"], budgets, rtol=1e-12)
    np.testing.assert_allclose(curve["share_1"], np.array(budgets) / cost, rtol=1e-9)
    free = policy_outcome(*pair, trial, budget=0.0, estimator=estimator)
    assert free.feasible and free.cost == pytest.approx(0.0, abs=1e-12)
    rich = policy_outcome(*pair, trial, budget=9.0, estimator=estimator)
    assert rich.cost == pytest.approx(cost) and rich.alpha == 0.0
    table = compare({"a": pair, "b": (pair[0][::-1], pair[1])}, trial, budget=0.1)
    np.testing.assert_allclose(table["cost"], 0.1, rtol=1e-12)


def test_costs_known_on_response_follow_the_model_of_responses(priced):
    pair, trial = priced
    trial = trial | {"cost": 2.0 * trial["treatment"] * trial["response"]}
    expected = np.stack([0.1 + 0 * pair[0][:, 1], 0.2 + 0.3 * pair[0][:, 1]], 1)
    options = {"budget": 0.2, "estimator": "doubly_robust"}
    wrong = policy_outcome(*pair, trial, outcome_model=(expected, 0.0 * expected), **options)
    right = policy_outcome(*pair, trial, outcome_model=(expected, expected * [0, 2]), **options)
    assert wrong == right


def test_no_matched_row_is_nan_not_zero():
    value, price = np.tile([0.1, 0.2, 0.9], (6, 1)), np.tile([1.0, 1.0, 1.0], (6, 1))
    trial = {"treatment": [0, 1] * 3, "response": [1.0] * 6, "cost": [1.0] * 6}
    with pytest.warns(UserWarning, match="no row of the trial received"):
        result = policy_outcome(value, price, trial, budget=1.0)
    assert result.num_matched == 0 and np.isnan(result.response) and np.isnan(result.response_low)


def test_integer_weights_are_repeated_rows():
    rng = np.random.default_rng(4)
    value, price, trial = random_rows(rng, 300, 3)
    times = rng.integers(1, 4, 300)
    budget = 0.6 * trial["cost"].mean()
    for estimator in ("hajek", "matched", "ht"):
        weighted = policy_outcome(
            value, price, trial | {"sample_weight": times}, budget=budget, estimator=estimator
        )
        repeated = policy_outcome(
            np.repeat(value, times, 0), np.repeat(price, times, 0),
            {k: np.repeat(v, times) for k, v in trial.items()}, budget=budget, estimator=estimator,
        )  # fmt: skip
        for field in ("response", "cost", "alpha", "uplift"):
            assert getattr(weighted, field) == pytest.approx(getattr(repeated, field), rel=1e-9)
        # Repeated rows are not independent: the weighted standard error must know.
        assert weighted.response_stderr > repeated.response_stderr


def test_a_trial_without_the_cheapest_arm_says_what_it_cannot_judge():
    rng = np.random.default_rng(6)
    arm = rng.integers(1, 3, 400)
    trial = {"treatment": arm, "response": rng.random(400) < 0.1 * arm, "cost": arm}
    value = np.cumsum(rng.random((400, 3)), axis=1)
    cost = np.tile([0.0, 1.0, 2.0], (400, 1))
    with pytest.warns(UserWarning, match=r"received \['0'\].*left out"):
        low = policy_outcome(value, cost, trial, budget=0.5)
    assert not low.feasible and low.cost >= 1.0  # no row that costs less was ever seen
    assert 0.0 < low.alpha < np.inf and low.marginal_response == 0.0 and low.num_matched >= 1
    with pytest.warns(UserWarning, match="left out"):
        assert policy_outcome(value, cost, trial, budget=1.5).feasible


def test_weights_scale_out():
    value, price, trial = random_rows(np.random.default_rng(5), 300, 3)
    one = policy_outcome(value, price, trial, budget=0.3)
    many = policy_outcome(value, price, trial | {"sample_weight": np.full(300, 7.0)}, budget=0.3)
    np.testing.assert_allclose(
        [many.response, many.response_stderr, many.uplift_stderr],
        [one.response, one.response_stderr, one.uplift_stderr], rtol=1e-9,
    )  # fmt: skip


def test_data_may_be_a_frame_an_object_or_a_trial():
    from tfalloc.data import RCTData

    value, price, trial = random_rows(np.random.default_rng(6), 200, 2)
    trial.pop("propensity")
    results = [policy_outcome(value, price, trial, budget=0.3)]
    results.append(policy_outcome(value, price, pd.DataFrame(trial), budget=0.3))
    results.append(policy_outcome(value, price, type("Columns", (), trial), budget=0.3))
    for result in results[1:]:
        assert result == results[0]
    packed = RCTData({"x": np.zeros(200)}, **trial)  # float32
    result = policy_outcome(value.astype("float32"), price.astype("float32"), packed, budget=0.3)
    assert result.response == pytest.approx(results[0].response, abs=1e-3)
    assert result.response_stderr == pytest.approx(results[0].response_stderr, rel=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": np.nan}, "expected one finite cost per user"),
        ({"budget": [1.0, 2.0]}, "expected one finite cost per user"),
        ({"budget": None}, "budget=None; expected one finite cost per user"),
        ({"budget": "much"}, "budget='much'; expected one finite cost per user"),
        ({"confidence": "high"}, "confidence='high'; expected a level in"),
        ({"value": [["a", "b"]] * 4}, "pred_response is not numeric"),
        ({"confidence": 95}, r"expected a level in \(0, 1\)"),
        ({"estimator": "mean"}, "expected one of"),
        ({"value": np.zeros((4, 3))}, "expected the same shape"),
        ({"value": np.full((4, 2), np.nan)}, "NaN or infinite entry, first in row 0"),
        ({"value": np.zeros(4)}, r"expected \[rows, num_treatments\]"),
        ({"data": {"treatment": [0, 1], "response": [0, 1], "cost": [0, 1]}}, "one prediction for"),
        ({"data": {"treatment": [0, 1]}}, "data has no 'response'"),
        ({"data": {"treatment": []}}, "0 rows"),
        ({"treatment": [0, 1, 2, 1]}, "expected integers in 0..1"),
        ({"treatment": ["no", "yes", "no", "no"]}, "treatment is not numeric .* number the arms"),
        ({"cost": np.array(["2026-11-01"] * 4, "M8[ns]")}, "cost is not numeric .*datetime64"),
        ({"treatment": [0, 0.5, 1, 1]}, "treatment is 0.5 in row 1; expected integers in 0..1"),
        ({"cost": [0, 1, np.inf, 1]}, "cost has values that are not finite"),
        ({"cost": [0, 1]}, "one entry for each row"),
        ({"propensity": [0.0, 1, 1, 1]}, "positive, finite"),
        ({"propensity": [2.0, 1, 1, 1]}, "pass probabilities, not weights"),
        ({"sample_weight": [-1.0, 1, 1, 1]}, "positive, finite"),
    ],
)
def test_errors_say_what_was_expected(change, message):
    keywords = {"budget": 0.5} | {
        k: change[k] for k in ("budget", "confidence", "estimator") if k in change
    }
    columns = {"treatment": [0, 1, 0, 1], "response": [0, 1, 0, 0], "cost": [0, 1, 0, 1]}
    columns |= {k: v for k, v in change.items() if k in (*COLUMNS, "sample_weight")}
    with pytest.raises(ValueError, match=message) as caught:
        policy_outcome(
            change.get("value", np.zeros((4, 2))), np.zeros((4, 2)),
            change.get("data", columns), **keywords,
        )  # fmt: skip
    assert "\n" not in str(caught.value)
