"""Exact values in a simulation, where every user's true response and cost of every arm is known.

A policy path is followed through the upgrades of the *predicted* hulls, dearest shadow price
first, and each upgrade is valued by what it truly adds. No matching, hence no sampling error: the
truth that estimates from a trial are to be compared with.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from tfalloc.evaluation.trial_rows import Floats, as_predictions, check_budget
from tfalloc.mckp.hull import climb
from tfalloc.outcome.crossing import first_within

# A true cost this close to the budget (relative) meets it: rounding of running sums.
ROUNDING = 1e-10


def true_curve(
    pred_response: npt.ArrayLike,
    pred_cost: npt.ArrayLike,
    true_response: npt.ArrayLike,
    true_cost: npt.ArrayLike,
    budgets: npt.ArrayLike,
    *,
    sample_weight: npt.ArrayLike | None = None,
) -> pd.DataFrame:
    """Value of the predictions' policy in the population, at equal *true* cost.

        V(alpha) = mean_i true_response[i, x_i(alpha)],  C(alpha) = mean_i true_cost[i, x_i(alpha)]
        alpha: the smallest above which C never exceeds the budget

    As in `policy_outcome` users indifferent at alpha are randomised, so that C = budget.

    Args:
      pred_response: [N, K], predicted response.
      pred_cost: [N, K], predicted cost.
      true_response: [N, K], expected response of every user to every arm.
      true_cost: [N, K], expected cost.
      budgets: [M] or scalar, true cost per user.
      sample_weight: [N], weight of each user; None: all the same.

    Returns:
      One row per budget: budget, response, cost, alpha, feasible. Where the budget does not bind
      cost stays below it and alpha is 0; an infeasible one shows the cheapest assignment.

    Raises:
      ValueError: shapes do not fit, or an entry is not finite.

    Example:
      >>> v, c = [[0.1, 0.4], [0.2, 0.3]], [[0.0, 1.0], [0.0, 1.0]]
      >>> true_curve(v, c, [[0.0, 0.2], [0.0, 0.6]], c, [0.5, 1.0]).response.round(3).tolist()
      [0.1, 0.4]
    """
    predictions = as_predictions(pred_response, pred_cost)
    truth, spend = as_predictions(true_response, true_cost)
    if truth.shape != predictions.cost.shape:
        raise ValueError(
            f"predictions have shape {predictions.cost.shape} and the truth {truth.shape}; "
            "expected the same users and arms."
        )
    n = len(truth)
    weight = np.ones(n) if sample_weight is None else _as_weight(sample_weight, n)
    done = climb(*predictions)
    start, everyone, steps = done.treatment.astype(np.intp), np.arange(n), done.steps
    order = np.argsort(-steps.alpha, kind="stable")
    row, before, after = (
        x[order].astype(np.intp) for x in (steps.row, steps.before, steps.treatment)
    )
    alpha = steps.alpha[order]
    # Equal alphas are one step: they differ by ties only.
    ends = np.flatnonzero(np.append(alpha[1:] != alpha[:-1], True)) if alpha.size else row
    share = weight / weight.sum()

    def along(outcome: npt.NDArray[np.floating]) -> Floats:
        first = share @ outcome[everyone, start].astype(np.float64)
        gains = share[row] * (outcome[row, after].astype(np.float64) - outcome[row, before])
        return np.concatenate([[first], first + np.cumsum(gains)[ends]])

    costs, values = along(spend), along(truth)
    alphas = np.concatenate([[np.inf], alpha[ends]])
    slack = ROUNDING * np.abs(costs).max()
    asked = np.atleast_1d(budgets)
    if not asked.size:
        raise ValueError("budgets is empty; expected at least one cost per user.")
    return pd.DataFrame([_meet(check_budget(b), costs, values, alphas, slack) for b in asked])


def oracle_curve(
    true_response: npt.ArrayLike,
    true_cost: npt.ArrayLike,
    budgets: npt.ArrayLike,
    *,
    sample_weight: npt.ArrayLike | None = None,
) -> pd.DataFrame:
    """The best that any policy can do: `true_curve` of predictions that equal the truth.

    Args:
      true_response: [N, K], expected response of every user to every arm.
      true_cost: [N, K], expected cost.
      budgets: [M] or scalar, cost per user.
      sample_weight: [N], weight of each user; None: all the same.

    Returns:
      As `true_curve`.

    Raises:
      ValueError: as `true_curve`.

    Example:
      >>> c = [[0.0, 1.0], [0.0, 1.0]]
      >>> oracle_curve([[0.0, 0.2], [0.0, 0.6]], c, 0.5).response.tolist()
      [0.3]
    """
    return true_curve(
        true_response, true_cost, true_response, true_cost, budgets, sample_weight=sample_weight
    )


def mix_curve(
    true_response: npt.ArrayLike,
    true_cost: npt.ArrayLike,
    budgets: npt.ArrayLike,
    *,
    sample_weight: npt.ArrayLike | None = None,
) -> pd.DataFrame:
    """The best that can be done without targeting: one mix of arms, the same for every user.

    The arms' means (C_k, V_k) are points of a plane; mixtures of arms fill their convex hull, whose
    upper edge up to its highest point is the curve.

    Args:
      true_response: [N, K], expected response of every user to every arm.
      true_cost: [N, K], expected cost.
      budgets: [M] or scalar, cost per user.
      sample_weight: [N], weight of each user; None: all the same.

    Returns:
      As `true_curve`; alpha is the slope of the edge that the budget falls on.

    Raises:
      ValueError: as `true_curve`.

    Example:
      >>> c = [[0.0, 1.0], [0.0, 1.0]]
      >>> mix_curve([[0.0, 0.2], [0.0, 0.6]], c, 0.5).response.tolist()
      [0.2]
    """
    truth, spend = as_predictions(true_response, true_cost)
    weight = None if sample_weight is None else _as_weight(sample_weight, len(truth))
    # Someone whose outcomes are the arms' means: randomised between two arms, they are the mix.
    means = [np.average(x.astype(np.float64), axis=0, weights=weight)[None] for x in (truth, spend)]
    return oracle_curve(means[0], means[1], budgets)


def _as_weight(sample_weight: npt.ArrayLike, n: int) -> Floats:
    weight = np.asarray(sample_weight, np.float64)
    if weight.shape != (n,):
        raise ValueError(f"sample_weight has shape {weight.shape}; expected [{n}], one per user.")
    if not (np.isfinite(weight) & (weight >= 0.0)).all() or not weight.sum() > 0.0:
        raise ValueError(
            "sample_weight: expected finite numbers that are not negative, some of them positive."
        )
    return weight


def _meet(
    budget: float, costs: Floats, values: Floats, alphas: Floats, slack: float
) -> dict[str, float | bool]:
    """The first crossing from the cheap end, interpolated along the step that crosses."""
    # `costs` rise with falling alpha: their end is where alpha is 0.
    first = len(costs) - first_within(costs[::-1], budget + slack)
    if first == len(costs):
        response, cost, alpha = values[-1], costs[-1], 0.0
    elif first == 0:
        response, cost, alpha = values[0], costs[0], np.inf
    else:
        part = max(budget - costs[first - 1], 0.0) / (costs[first] - costs[first - 1])
        response = (1.0 - part) * values[first - 1] + part * values[first]
        cost, alpha = min(budget, costs[first]), alphas[first]
    return {
        "budget": budget,
        "response": float(response),
        "cost": float(cost),
        "alpha": float(alpha),
        "feasible": first > 0,
    }
