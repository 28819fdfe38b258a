"""The outcome of one model's policy at one budget, from a randomised trial, with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from tfalloc._warn import warn
from tfalloc.evaluation.influence import (
    Slopes,
    centred,
    inflation,
    mean_and_influence,
    standard_error,
)
from tfalloc.evaluation.policy_path import Crossing, find_crossing, make_path
from tfalloc.evaluation.trial_rows import (
    Floats,
    Predictions,
    Rows,
    check_budget,
    check_confidence,
    predictions_and_rows,
)


@dataclass(frozen=True)
class PolicyOutcome:
    """What a policy achieves per user when its estimated cost equals the budget.

    Attributes:
      response: expected response per user; NaN if no row of the trial is matched.
      response_low, response_high: interval for the response at a *true* cost equal to the budget.
      response_stderr: its standard error.
      cost: estimated cost per user; the budget where it binds.
      cost_low, cost_high: interval for what the policy truly costs at this alpha.
      cost_stderr: its standard error, alpha held fixed.
      uplift: response minus that of giving arm 0 to everybody; NaN if the trial has no arm 0.
      uplift_low, uplift_high, uplift_stderr: likewise, from the same rows.
      alpha: shadow price, response per unit of cost; 0 if the budget does not bind; if it is
        infeasible, inf, or that above which no row is matched.
      marginal_response: mu, what one more unit of cost per user would add to the response; an
        estimate of alpha that does not trust the predictions. 0 if the budget does not bind.
      budget: cost per user that was asked for.
      num_matched: rows whose trial treatment the policy picks (with any probability).
      num_crossings: how often the estimated cost crosses the budget; more than 1 by noise only.
      feasible: whether the cheapest assignment is within the budget. If not, all numbers are those
        of the cheapest assignment that the trial can judge, and `cost` exceeds the budget.
      confidence: level of the intervals.
    """

    response: float
    response_low: float
    response_high: float
    response_stderr: float
    cost: float
    cost_low: float
    cost_high: float
    cost_stderr: float
    uplift: float
    uplift_low: float
    uplift_high: float
    uplift_stderr: float
    alpha: float
    marginal_response: float
    budget: float
    num_matched: int
    num_crossings: int
    feasible: bool
    confidence: float


def policy_outcome(
    pred_response: npt.ArrayLike,
    pred_cost: npt.ArrayLike,
    data: Any,
    *,
    budget: float,
    estimator: str = "hajek",
    outcome_model: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    cluster: Any = None,
    confidence: float = 0.95,
) -> PolicyOutcome:
    """Expected response per user when `budget` is spent as the predictions say.

        x_i(alpha) = argmax_j v_ij - alpha c_ij            the policy at a shadow price
        V = sum_S w y / sum_S w,  C = sum_S w z / sum_S w  over rows with x_i(alpha) = t_i
        alpha: the smallest above which C never exceeds the budget

    C(alpha) is a step function. The policies just below and just above alpha are mixed (users
    indifferent at alpha are randomised) so that C equals the budget exactly, not one step below:
    models are compared at the same cost. V and C are those of the mixture. The standard error
    allows for alpha, which was chosen by the same noisy C (`influence`):

        psi_i = w_i 1{i in S} [(y_i - V) - mu (z_i - C)] / sum_S w,   stderr^2 = sum_i psi_i^2

    Where the trial barely fixes alpha (`num_crossings` of ten or so, the budget a few standard
    errors of cost from the ends of the curve), the last crossing is also the most cautious one and
    V is biased down, in simulations by .1 to .3 standard errors, all models alike; intervals are
    then a little wide. Both vanish as rows grow.

    Predictions are taken as given: they must come from other rows than `data`.

    Args:
      pred_response: [rows, num_treatments], predicted response v, any unit.
      pred_cost: [rows, num_treatments], predicted cost c, any unit: alpha is set by observed cost.
      data: an `RCTData`, a mapping or data frame, or any object with treatment, response, cost
        and, if it has them, propensity (None: observed shares of the arms) and sample_weight.
      budget: observed cost per user.
      estimator: "hajek", ratio of sums weighted by sample_weight / propensity; "matched", plain
        means over S whatever the propensities (the paper's Eq. 5, 6: biased in an unequal trial);
        "ht", Horvitz-Thompson; "doubly_robust", hajek of what `outcome_model` did not expect, plus
        what it expects of all rows:

            V = mean_i m_{i,x_i} + sum_S w (y - m_t) / sum_S w,   C likewise

        consistent whatever the model, and the better the model the narrower the interval.
      outcome_model: (response, cost), [rows, num_treatments] each: outcomes expected of every row
        under every arm, in the units of the data, by a model that has not seen the row
        (cross-fitted, or trained on other rows). For "doubly_robust" only.
      cluster: rows that are not independent (one user's, one shop's): [rows] of ids, or the name
        of a column of `data`; None: those of `RCTData(cluster=...)`, if any. Influences are summed
        within clusters before they are squared, so the intervals need clusters by the dozen: one is
        refused, a few are warned of.
      confidence: level of the intervals.

    Returns:
      `PolicyOutcome`. An infeasible budget and an empty matched set are data, not exceptions.

    Raises:
      ValueError: shapes or values do not fit, or a name is unknown.

    Warns:
      UserWarning: an arm of the predictions has no row in the trial, so that users who would get it
        are left out of the estimates (but those of an `outcome_model`).

    Example:
      >>> import numpy as np
      >>> from tfalloc.evaluation import policy_outcome
      >>> trial = {"treatment": [0, 1] * 50, "response": [0, 1, 0, 0] * 25, "cost": [0, 1] * 50}
      >>> v, c = np.tile([0.0, 0.5], (100, 1)), np.tile([0.0, 1.0], (100, 1))
      >>> result = policy_outcome(v, c, trial, budget=0.4)  # a random 40 % of users get arm 1
      >>> round(result.response, 3), round(result.cost, 3), result.alpha
      (0.2, 0.4, 0.5)
      >>> round(result.response_stderr, 4)  # 0.4 x the standard error of arm 1's mean
      0.0283

    Source: Yan et al. 2023, Eq. 2 to 6; influence functions of ratios and of implicitly defined
    parameters: van der Vaart, "Asymptotic Statistics", 1998, chapters 5 and 20; doubly robust
    values of policies: Dudik, Langford, Li, "Doubly Robust Policy Evaluation and Learning", 2011.
    """
    target = check_budget(budget)
    check_confidence(confidence)
    options: Any = {"outcome_model": outcome_model, "cluster": cluster, "known_costs": True}
    both = predictions_and_rows(pred_response, pred_cost, data, estimator=estimator, **options)
    return Evaluator(*both).at(target, confidence)[0]


class Evaluator:
    """One model on one trial: sorts once, then answers any number of budgets in O(N) each.

    Args:
      predictions: of the model.
      rows: the trial.
    """

    def __init__(self, predictions: Predictions, rows: Rows):
        self.rows = rows
        _warn_of_absent_arms(rows)
        self.path = make_path(predictions, rows)
        self._slopes = Slopes(self.path, inflation(rows))
        untreated = (rows.treatment == 0).astype(np.float64)
        expected = rows.expected_response
        of_first = None if expected is None else expected[:, 0].astype(np.float64)
        self._base, psi = mean_and_influence(rows.response, untreated, rows, of_first)
        self._psi_base = centred(psi, rows)

    def at(self, budget: float, confidence: float) -> tuple[PolicyOutcome, Floats, Crossing]:
        """Evaluates one budget.

        Returns:
          The outcome, the influence of every row on its response [N], and the policy chosen.
        """
        rows, base = self.rows, self._base
        crossing = find_crossing(self.path, budget)
        members = self.path.members(crossing.alpha, crossing.dearer_share)
        of_response, of_cost = self.path.expectations(crossing.alpha, crossing.dearer_share)
        response, psi = mean_and_influence(rows.response, members, rows, of_response)
        cost, psi_cost = mean_and_influence(rows.cost, members, rows, of_cost)
        mu = self._slopes.at(crossing.interval) if crossing.binds else 0.0
        if mu != 0.0:
            psi = psi - mu * psi_cost
        psi, psi_cost = centred(psi, rows), centred(psi_cost, rows)
        stderr, cost_stderr = standard_error(psi, rows), standard_error(psi_cost, rows)
        uplift_stderr = standard_error(psi - self._psi_base, rows)
        z = quantile(confidence)
        return (
            PolicyOutcome(
                response=response,
                response_low=response - z * stderr,
                response_high=response + z * stderr,
                response_stderr=stderr,
                cost=cost,
                cost_low=cost - z * cost_stderr,
                cost_high=cost + z * cost_stderr,
                cost_stderr=cost_stderr,
                uplift=response - base,
                uplift_low=response - base - z * uplift_stderr,
                uplift_high=response - base + z * uplift_stderr,
                uplift_stderr=uplift_stderr,
                alpha=crossing.alpha,
                marginal_response=mu,
                budget=budget,
                num_matched=int(np.count_nonzero(members > 0.0)),
                num_crossings=crossing.num_crossings,
                feasible=crossing.feasible,
                confidence=confidence,
            ),
            psi,
            crossing,
        )


def _warn_of_absent_arms(rows: Rows) -> None:
    absent = [n for n, w in zip(rows.names, rows.arm_weights, strict=True) if w == 0.0]
    if absent and rows.expected_response is None:
        warn(
            f"no row of the trial received {absent}: users to whom a policy gives these arms are "
            "left out of its estimates. Leave the arms out of the predictions, or judge on a trial "
            "that has them."
        )


def quantile(confidence: float) -> float:
    """Half-width of a two-sided normal interval, in standard errors.

    Example:
      >>> round(quantile(0.95), 3)
      1.96
    """
    return NormalDist().inv_cdf(0.5 + confidence / 2.0)
