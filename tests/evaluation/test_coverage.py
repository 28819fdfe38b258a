"""Intervals and paired differences against known truth, over repeated 85/15 trials."""

from __future__ import annotations

import numpy as np
import pytest

from tests.evaluation.trials import draw, make_world
from tfalloc.evaluation import compare, policy_outcome, true_curve
from tfalloc.evaluation.influence import centred, mean_and_influence, standard_error
from tfalloc.evaluation.policy_path import find_crossing, make_path
from tfalloc.evaluation.trial_rows import Predictions, as_rows

TRIALS = 400
ROWS = 5_000


@pytest.fixture(scope="module")
def simulation():
    """Estimates of both models in each trial, and the truth of each."""
    world = make_world()
    budget = float(world.cost.mean(axis=0) @ [0.5, 0.5])
    truth = {
        name: true_curve(*model, world.response, world.cost, budget).response[0]
        for name, model in (("good", world.good), ("bad", world.bad))
    }
    truth["nobody"] = world.response[:, 0].mean()
    rng, results = np.random.default_rng(1), []
    for _ in range(TRIALS):
        user, trial = draw(world, rng, ROWS)
        models = {
            "bad": tuple(x[user] for x in world.bad),
            "good": tuple(x[user] for x in world.good),
        }
        table = compare(models, trial, budget=budget)
        results.append(
            table.loc["good"].to_dict() | {"naive": naive(models["good"], trial, budget)}
        )
    return truth, {name: np.array([r[name] for r in results]) for name in results[0]}


def naive(model, trial, budget):
    """The standard error that takes alpha as known: mu = 0."""
    rows = as_rows(trial, 2)
    path = make_path(Predictions(*model), rows)
    crossing = find_crossing(path, budget)
    members = path.members(crossing.alpha, crossing.dearer_share)
    psi = mean_and_influence(rows.response, members, rows)[1]
    return standard_error(centred(psi, rows), rows)


def coverage(estimate, stderr, truth):
    return np.mean(np.abs(estimate - truth) <= 1.959964 * stderr)


# Three standard errors of the share covered.
MARGIN = 3 * np.sqrt(0.05 * 0.95 / TRIALS)
# The sd of TRIALS estimates has a relative standard error of 1 / sqrt(2 TRIALS).
SD_MARGIN = 3 / np.sqrt(2 * TRIALS)


def test_intervals_cover_at_equal_true_cost(simulation):
    truth, found = simulation
    share = np.mean(
        (found["response_low"] <= truth["good"]) & (truth["good"] <= found["response_high"])
    )
    assert abs(share - 0.95) < MARGIN
    ratio = found["response"].std() / np.sqrt(np.mean(found["response_stderr"] ** 2))
    assert abs(ratio - 1) < SD_MARGIN


def test_taking_alpha_as_known_covers_too_little(simulation):
    truth, found = simulation
    assert coverage(found["response"], found["naive"], truth["good"]) < 0.95 - MARGIN
    assert found["response"].std() / np.sqrt(np.mean(found["naive"] ** 2)) > 1 + SD_MARGIN


def test_uplift_covers(simulation):
    truth, found = simulation
    share = coverage(found["uplift"], found["uplift_stderr"], truth["good"] - truth["nobody"])
    assert abs(share - 0.95) < MARGIN


def test_paired_difference_has_the_right_sd(simulation):
    truth, found = simulation
    gap = truth["good"] - truth["bad"]
    ratio = found["difference"].std() / np.sqrt(np.mean(found["difference_stderr"] ** 2))
    assert abs(ratio - 1) < SD_MARGIN
    assert abs(coverage(found["difference"], found["difference_stderr"], gap) - 0.95) < MARGIN
    # Pairing matters: independent estimates would be less certain.
    assert np.mean(found["difference_stderr"] < found["response_stderr"]) > 0.95
    low = found["difference_low"] > 0
    assert np.array_equal((found["p_value"] < 0.05) & (found["difference"] > 0), low)


def test_marginal_response_is_the_slope_of_the_true_curve():
    world = make_world()
    budget = float(world.cost.mean(axis=0) @ [0.5, 0.5])
    step = 0.01
    values = true_curve(*world.good, world.response, world.cost, [budget - step, budget + step])
    slope = float(np.diff(values.response)[0]) / (2 * step)
    rng, found = np.random.default_rng(2), []
    for _ in range(12):
        user, trial = draw(world, rng, 40_000)
        model = (x[user] for x in world.good)
        found.append(policy_outcome(*model, trial, budget=budget).marginal_response)
    # A window has a width: 5 % for curvature beside 3 standard errors.
    assert abs(np.mean(found) - slope) < 3 * np.std(found) / np.sqrt(12) + 0.05 * slope


def test_observed_shares_narrow_the_interval_rightly():
    """With estimated propensities chance imbalance cancels: arms with unequal means show it."""
    rng, kept, stderrs, known = np.random.default_rng(3), [], [], []
    value, price = np.tile([0.0, 1.0], (2000, 1)), np.tile([0.0, 1.0], (2000, 1))
    for _ in range(300):
        arm = (rng.random(2000) < 0.7).astype(int)
        trial = {"treatment": arm, "cost": arm.astype(float)}
        trial["response"] = rng.normal(np.where(arm == 1, 3.0, 1.0), 0.5)
        result = policy_outcome(value, price, trial, budget=0.5, estimator="ht")
        kept.append(result.response)
        stderrs.append(result.response_stderr)
        design = trial | {"propensity": np.where(arm == 1, 0.7, 0.3)}
        known.append(policy_outcome(value, price, design, budget=0.5, estimator="ht").response)
    assert abs(np.std(kept) / np.mean(stderrs) - 1) < 3 / np.sqrt(600)
    assert np.std(kept) < np.std(known)
