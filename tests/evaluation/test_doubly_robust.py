"""Doubly robust estimates, clusters and simultaneous bands: against brute force and known truth."""

from __future__ import annotations

import numpy as np
import pytest

from tests.evaluation.trials import draw, make_world, random_rows
from tfalloc.evaluation import compare, outcome_curve, policy_outcome, true_curve
from tfalloc.outcome import expected_outcome

COLUMNS = ("treatment", "response", "cost", "propensity")
TRIALS, ROWS = 150, 3_000
MARGIN = 3 * np.sqrt(0.05 * 0.95 / TRIALS)
SD_MARGIN = 3 / np.sqrt(2 * TRIALS)


@pytest.mark.parametrize("arms", [2, 4])
def test_equals_the_outcome_package_where_the_budget_does_not_split_a_user(arms):
    """The residual of the user at the crossing is the only difference, one row of many."""
    rng = np.random.default_rng(arms)
    value, price, trial = random_rows(rng, 400, arms)
    model = (value * 0.8 + 0.1, price * 1.1)
    for share in (0.7, 0.9, 9.0):
        budget = share * trial["cost"].mean()
        ours = policy_outcome(
            value, price, trial, budget=budget, estimator="doubly_robust", outcome_model=model
        )
        theirs = expected_outcome(
            value, price, *(trial[c] for c in COLUMNS), budget=budget, method="path",
            estimator="doubly_robust", outcome_model=model,
        )  # fmt: skip
        assert ours.feasible == bool(theirs.converged)
        if not ours.feasible:
            continue
        assert ours.alpha == pytest.approx(float(theirs.alpha), rel=1e-12)
        assert ours.num_crossings == int(theirs.num_crossings)
        if ours.alpha > 0:
            assert ours.cost == pytest.approx(budget, rel=1e-9)
            assert ours.response == pytest.approx(float(theirs.response), abs=0.05)
        else:
            assert ours.response == pytest.approx(float(theirs.response), rel=1e-12)
            assert ours.cost == pytest.approx(float(theirs.cost), rel=1e-12)
            assert ours.response_stderr == pytest.approx(float(theirs.response_stderr), rel=1e-9)
            assert ours.cost_stderr == pytest.approx(float(theirs.cost_stderr), rel=1e-9)
    assert ours.alpha == 0.0


def test_is_the_formula_at_its_alpha():
    """Both sides of alpha by argmax, mixed: V and C of the definition, written out."""
    rng = np.random.default_rng(7)
    value, price, trial = random_rows(rng, 300, 3)
    weight = rng.random(300) + 0.5
    model = (rng.random((300, 3)), rng.random((300, 3)))
    data = trial | {"sample_weight": weight}
    budget = 0.8 * trial["cost"].mean()
    found = policy_outcome(
        value, price, data, budget=budget, estimator="doubly_robust", outcome_model=model
    )
    assert 0 < found.alpha < np.inf
    rows, arm = np.arange(300), trial["treatment"]
    w = weight / trial["propensity"]

    def parts(alpha):
        x = np.argmax(value - alpha * price, axis=1)
        means = [weight @ m[rows, x] / weight.sum() for m in model]
        rest = [(x == arm) * w * (trial[c] - m[rows, arm])
                for c, m in zip(("response", "cost"), model, strict=True)]  # fmt: skip
        return np.array([*means, *(r.sum() for r in rest), (x == arm) @ w])

    low, high = (parts(found.alpha * (1 + d)) for d in (1e-9, -1e-9))

    def outcome(share):
        mix = (1 - share) * low + share * high
        return mix[:2] + mix[2:4] / mix[4]

    shares = np.linspace(0, 1, 100_001)
    costs = np.array([outcome(s)[1] for s in shares[::1000]])
    share = np.interp(budget, costs, shares[::1000])
    assert outcome(share)[1] == pytest.approx(budget, abs=1e-6)
    assert found.cost == pytest.approx(budget, rel=1e-9)
    assert found.response == pytest.approx(outcome(share)[0], abs=1e-6)


def test_no_matched_row_is_nan_though_the_model_expects_something():
    value, price = np.tile([0.1, 0.2, 0.9], (6, 1)), np.tile([1.0, 1.0, 1.0], (6, 1))
    trial = {"treatment": [0, 1] * 3, "response": [1.0] * 6, "cost": [1.0] * 6}
    result = policy_outcome(
        value, price, trial, budget=1.0, estimator="doubly_robust", outcome_model=(value, price)
    )
    assert result.num_matched == 0 and np.isnan(result.response) and np.isnan(result.response_low)


@pytest.fixture(scope="module")
def simulation():
    """85/15 trials: hajek, and doubly robust with the true and with an absurd model."""
    world = make_world(size=20_000)
    budget = float(world.cost.mean(axis=0) @ [0.5, 0.5])
    truth = {
        name: true_curve(*model, world.response, world.cost, budget).response[0]
        for name, model in (("good", world.good), ("bad", world.bad))
    }
    rng, results = np.random.default_rng(11), []
    for _ in range(TRIALS):
        user, trial = draw(world, rng, ROWS)
        models = {name: tuple(x[user] for x in getattr(world, name)) for name in ("bad", "good")}
        true_model = (world.response[user], world.cost[user])
        absurd = (1.5 - 3 * true_model[0], 0.7 - true_model[1][:, ::-1])
        found = {"hajek": policy_outcome(*models["good"], trial, budget=budget)}
        for name, model in (("true", true_model), ("absurd", absurd)):
            options = {"estimator": "doubly_robust", "outcome_model": model}
            found[name] = policy_outcome(*models["good"], trial, budget=budget, **options)
            if name == "true":
                pair = compare(models, trial, budget=budget, **options).loc["good"]
        results.append(
            {f"{k}.{f}": getattr(v, f) for k, v in found.items()
             for f in ("response", "response_stderr", "cost", "cost_stderr", "cost_low")}
            | {"difference": pair.difference, "difference_stderr": pair.difference_stderr}
        )  # fmt: skip
    return truth, {k: np.array([r[k] for r in results]) for k in results[0]}


@pytest.mark.parametrize("name", ["true", "absurd"])
def test_covers_whatever_the_model(simulation, name):
    truth, found = simulation
    error = found[f"{name}.response"] - truth["good"]
    stderr = found[f"{name}.response_stderr"]
    assert abs(np.mean(np.abs(error) <= 1.959964 * stderr) - 0.95) < MARGIN
    assert abs(error.std() / np.sqrt(np.mean(stderr**2)) - 1) < SD_MARGIN
    # Unbiased to three standard errors of the mean, and a tenth of one estimate's for the last
    # crossing being the most cautious one.
    assert abs(error.mean()) < 3 * error.std() / np.sqrt(TRIALS) + 0.1 * error.std()


def test_a_good_model_narrows_the_interval(simulation):
    """A little where outcomes are coin flips that nobody can foresee, much where they are not."""
    _, found = simulation
    ratio = found["true.response_stderr"] / found["hajek.response_stderr"]
    assert ratio.mean() < 0.97
    assert found["true.response"].std() < found["hajek.response"].std()
    world, rng = make_world(size=20_000), np.random.default_rng(14)
    user, trial = draw(world, rng, ROWS)
    chosen = user, trial["treatment"]
    trial["response"] = world.response[chosen] + 0.05 * rng.normal(size=ROWS)
    trial["cost"] = world.cost[chosen] + 0.05 * rng.normal(size=ROWS)
    model, budget = tuple(x[user] for x in world.good), 0.4
    plain = policy_outcome(*model, trial, budget=budget)
    sharp = policy_outcome(
        *model, trial, budget=budget, estimator="doubly_robust",
        outcome_model=(world.response[user], world.cost[user]),
    )  # fmt: skip
    assert sharp.response_stderr < 0.75 * plain.response_stderr
    assert sharp.cost_stderr < 0.85 * plain.cost_stderr
    truth = true_curve(*world.good, world.response, world.cost, budget).response[0]
    assert abs(sharp.response - truth) < 3 * sharp.response_stderr


def test_paired_difference_covers(simulation):
    truth, found = simulation
    error = found["difference"] - (truth["good"] - truth["bad"])
    stderr = found["difference_stderr"]
    assert abs(np.mean(np.abs(error) <= 1.959964 * stderr) - 0.95) < MARGIN
    assert abs(error.std() / np.sqrt(np.mean(stderr**2)) - 1) < SD_MARGIN


@pytest.mark.parametrize("estimator", ["hajek", "ht", "matched", "doubly_robust"])
def test_duplicated_rows_as_clusters_are_the_original_rows(estimator):
    rng = np.random.default_rng(8)
    value, price, trial = random_rows(rng, 400, 3)
    options = {"budget": 0.7 * trial["cost"].mean(), "estimator": estimator}
    model = (value, price) if estimator == "doubly_robust" else None
    once = policy_outcome(value, price, trial, outcome_model=model, **options)
    order = rng.permutation(np.repeat(np.arange(400), 3))
    twice = {k: v[order] for k, v in trial.items()} | {"user": np.char.add("u", order.astype(str))}
    again = policy_outcome(
        value[order], price[order], twice, cluster="user",
        outcome_model=model and (value[order], price[order]), **options,
    )  # fmt: skip
    for field in ("response", "alpha", "response_stderr", "cost_stderr", "uplift_stderr"):
        assert getattr(again, field) == pytest.approx(getattr(once, field), rel=1e-9)
    table = compare(
        {"a": (value[order], price[order]), "b": (price[order], price[order])}, twice,
        cluster=order, outcome_model=model and (value[order], price[order]), **options,
    )  # fmt: skip
    alone = compare(
        {"a": (value, price), "b": (price, price)}, trial, outcome_model=model, **options
    )
    assert table.difference_stderr["b"] == pytest.approx(alone.difference_stderr["b"], rel=1e-9)
    curve = outcome_curve(
        value[order], price[order], twice, cluster="user", num_points=3,
        outcome_model=model and (value[order], price[order]), estimator=estimator,
    )  # fmt: skip
    plain = outcome_curve(
        value, price, trial, num_points=3, outcome_model=model, estimator=estimator
    )
    np.testing.assert_allclose(curve.response_stderr, plain.response_stderr, rtol=1e-9)


def test_clusters_of_one_row_change_nothing():
    value, price, trial = random_rows(np.random.default_rng(9), 300, 2)
    plain = policy_outcome(value, price, trial, budget=0.3)
    alone = policy_outcome(value, price, trial, budget=0.3, cluster=np.arange(300))
    assert alone.response_stderr == pytest.approx(plain.response_stderr, rel=1e-12)


def test_a_cluster_may_be_a_feature_of_a_trial():
    from tfalloc.data import RCTData

    value, price, trial = random_rows(np.random.default_rng(10), 300, 2)
    shop = np.arange(300) % 40
    data = RCTData({"shop": shop.astype(float)}, **trial)
    named = policy_outcome(value, price, data, budget=0.3, cluster="shop")
    given = policy_outcome(value, price, data, budget=0.3, cluster=shop)
    assert named == given


def test_few_clusters_are_warned_of():
    """Three shops say next to nothing of how shops differ, whatever the formula makes of it."""
    value, price, trial = random_rows(np.random.default_rng(11), 300, 2)
    few = np.arange(300) % 3
    with pytest.warns(UserWarning, match="3 clusters: standard errors from fewer than 20"):
        policy_outcome(value, price, trial, budget=0.3, cluster=few)


def test_simultaneous_bands_hold_everywhere_and_pointwise_ones_do_not():
    world = make_world(size=20_000)
    # Off the ends of the curve, where 450 untreated rows barely fix alpha.
    budgets = world.cost.mean(axis=0) @ [np.linspace(0.65, 0.2, 8), np.linspace(0.35, 0.8, 8)]
    truth = true_curve(*world.good, world.response, world.cost, budgets).response.to_numpy()
    rng, inside = np.random.default_rng(12), {"pointwise": [], "simultaneous": []}
    trials = 100
    for _ in range(trials):
        user, trial = draw(world, rng, ROWS)
        model = tuple(x[user] for x in world.good)
        table = outcome_curve(*model, trial, budgets=budgets, band="simultaneous")
        low, high = table.response_low.to_numpy(), table.response_high.to_numpy()
        inside["simultaneous"].append(((low <= truth) & (truth <= high)).all())
        error = np.abs(table.response - truth) / table.response_stderr
        inside["pointwise"].append((error <= 1.959964).all())
    margin = 3 * np.sqrt(0.05 * 0.95 / trials)
    assert abs(np.mean(inside["simultaneous"]) - 0.95) < margin
    assert np.mean(inside["pointwise"]) < 0.95 - margin


def test_simultaneous_bands_are_wider_by_one_factor_and_repeatable():
    value, price, trial = random_rows(np.random.default_rng(13), 500, 3)
    wide = outcome_curve(value, price, trial, num_points=8, band="simultaneous", seed=3)
    thin = outcome_curve(value, price, trial, num_points=8)
    factor = (wide.response_high - wide.response) / (thin.response_high - thin.response)
    np.testing.assert_allclose(factor, factor[0], rtol=1e-9)
    assert 1.05 < factor[0] < 1.6
    again = outcome_curve(value, price, trial, num_points=8, band="simultaneous", seed=3)
    assert wide.equals(again)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "doubly_robust"}, "needs outcome_model="),
        ({"outcome_model": (np.zeros((4, 2)),) * 2}, "not used by estimator='hajek'"),
        (
            {"estimator": "doubly_robust", "outcome_model": (np.zeros((4, 3)),) * 2},
            r"shape \(4, 3\); expected \(4, 2\)",
        ),
        (
            {"estimator": "doubly_robust", "outcome_model": (np.full((4, 2), np.nan),) * 2},
            "outcome_model's response has a NaN",
        ),
        ({"cluster": "shop"}, "no column 'shop'"),
        ({"cluster": [1, 2]}, "one id for each row"),
        ({"cluster": [1, 2, np.nan, 3]}, "no id in row 2"),
        ({"cluster": ["a", "b", float("nan"), "c"]}, "no id in row 2"),
        ({"cluster": [7, 7, 7, 7]}, "all 4 rows into one cluster; expected several"),
        ({"band": "wide"}, "expected one of"),
    ],
)
def test_errors(options, message):
    trial = {"treatment": [0, 1, 0, 1], "response": [0, 1, 0, 0], "cost": [0, 1, 0, 1]}
    with pytest.raises(ValueError, match=message) as caught:
        outcome_curve(np.zeros((4, 2)), np.zeros((4, 2)), trial, **options)
    assert "\n" not in str(caught.value)


def test_an_absent_cheapest_arm_leaves_the_costs_that_other_rows_know():
    """Between arms 1 and 0, which nobody received, no row is matched: the model says the cost."""
    rng = np.random.default_rng(5)
    segment = rng.integers(0, 2, 1000)
    value = np.stack([[0.0, 0.2, 0.3], [0.0, 0.1, 0.25]])[segment]
    price = np.tile([0.0, 1.0, 2.0], (1000, 1))
    arm = rng.integers(1, 3, 1000)
    trial = {
        "treatment": arm,
        "response": rng.random(1000) < value[np.arange(1000), arm],
        "cost": price[np.arange(1000), arm],
    }
    options = {"estimator": "doubly_robust", "outcome_model": (value, price)}
    for budget in (0.3, 0.5, 0.8):
        found = policy_outcome(value, price, trial, budget=budget, **options)
        assert found.cost == pytest.approx(budget)
        assert 0.0 < found.response < 0.3 and 0 < found.num_matched < 1000
