"""The whole outcome curve: response per user against cost per user, with bands."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tfalloc.evaluation.influence import largest_t, standardised
from tfalloc.evaluation.policy import Evaluator
from tfalloc.evaluation.policy_path import Path
from tfalloc.evaluation.trial_rows import (
    Floats,
    Predictions,
    Rows,
    as_count,
    check_budget,
    check_confidence,
    predictions_and_rows,
)
from tfalloc.mckp.hull import climb

BANDS = ("pointwise", "simultaneous")
FIELDS = (
    "budget",
    "response",
    "response_low",
    "response_high",
    "response_stderr",
    "cost",
    "alpha",
    "num_matched",
    "feasible",
)


def outcome_curve(
    pred_response: npt.ArrayLike,
    pred_cost: npt.ArrayLike,
    data: Any,
    *,
    budgets: npt.ArrayLike | None = None,
    num_points: int = 40,
    estimator: str = "hajek",
    outcome_model: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    cluster: Any = None,
    band: str = "pointwise",
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Outcomes of a model's policy at many budgets: `policy_outcome` at each, from one sort.

    Args:
      pred_response: [rows, num_treatments], predicted response.
      pred_cost: [rows, num_treatments], predicted cost.
      data: trial rows, as for `policy_outcome`.
      budgets: [M], cost per user; None: evenly spaced from the estimated cost of the cheapest
        assignment to that of the dearest useful one (alpha = 0).
      num_points: number of budgets if none are given.
      estimator, outcome_model, cluster: as for `policy_outcome`.
      band: "pointwise", each interval holds for its own budget; "simultaneous", all of them hold at
        once with probability `confidence`: read the best budget off a curve with these. Both need
        budgets that the trial can tell from the ends of the curve, by a few standard errors of
        cost.
      confidence: level of the bands.
      seed: seeds the simulation behind a simultaneous band.

    Returns:
      One row per budget: budget, response, response_low, response_high, response_stderr, cost,
      alpha, num_matched, feasible, and for each arm "share_<treatment name>", the share of all
      rows (weighted by sample_weight) to which the policy assigns it.

    Raises:
      ValueError: as `policy_outcome`, no budget is given, or the band is not known.

    Example:
      >>> import numpy as np
      >>> from tfalloc.evaluation import outcome_curve
      >>> trial = {"treatment": [0, 1] * 50, "response": [0, 1, 0, 0] * 25, "cost": [0, 1] * 50}
      >>> v, c = np.tile([0.0, 0.5], (100, 1)), np.tile([0.0, 1.0], (100, 1))
      >>> curve = outcome_curve(v, c, trial, num_points=3)
      >>> curve[["budget", "response", "share_1"]].round(3).to_numpy().tolist()
      [[0.0, 0.0, 0.0], [0.5, 0.25, 0.5], [1.0, 0.5, 1.0]]

    Source of the simultaneous band: the multiplier bootstrap of the largest t statistic, Belloni,
    Chernozhukov, Fernandez-Val, Hansen 2017, section 5 (see `influence`).
    """
    check_confidence(confidence)
    if band not in BANDS:
        raise ValueError(f"band={band!r} is not known; expected one of {BANDS}.")
    options: Any = {"outcome_model": outcome_model, "cluster": cluster, "known_costs": True}
    predictions, rows = predictions_and_rows(
        pred_response, pred_cost, data, estimator=estimator, **options
    )
    evaluator = Evaluator(predictions, rows)
    if budgets is None:
        targets = default_budgets(evaluator.path, num_points)
    else:
        targets = [check_budget(budget) for budget in np.atleast_1d(np.asarray(budgets))]
    if not targets:
        raise ValueError("budgets is empty; expected at least one cost per user, or None.")
    outcomes, crossings, influences = [], [], []
    for budget in targets:
        outcome, psi, crossing = evaluator.at(budget, confidence)
        outcomes.append(outcome)
        crossings.append(crossing)
        if band == "simultaneous":  # else influences, [N] each, are dropped at once
            influences.append(standardised(psi, rows))
    table = pd.DataFrame({name: [getattr(o, name) for o in outcomes] for name in FIELDS})
    if band == "simultaneous":
        margin = largest_t(np.stack(influences), confidence, seed) * table["response_stderr"]
        table["response_low"] = table["response"] - margin
        table["response_high"] = table["response"] + margin
    shares = treatment_shares(
        predictions,
        rows,
        np.array([crossing.alpha for crossing in crossings]),
        np.array([crossing.dearer_share for crossing in crossings]),
    )
    for arm, name in enumerate(rows.names):
        table[f"share_{name}"] = shares[:, arm]
    return table


def default_budgets(path: Path, num_points: int) -> list[float]:
    """Evenly spaced budgets from the cost of the cheapest assignment to that at alpha = 0.

    Args:
      path: of the model on the trial.
      num_points: how many.

    Raises:
      ValueError: fewer than one point, or no policy of the path has a matched row.
    """
    points = as_count("num_points", num_points, 1)
    costs = path.costs()
    costs = costs[np.isfinite(costs)]
    if not costs.size:
        raise ValueError(
            "no row of the trial received an arm that the policy would pick at any alpha; expected "
            "predictions for the columns of the trial's own arms."
        )
    low, high = float(costs[-1]), float(costs[0])
    if high <= low:  # the predictions spend on arms that turn out to be cheap
        high = float(costs.max())
    return [float(budget) for budget in np.unique(np.linspace(low, high, points))]


def treatment_shares(
    predictions: Predictions,
    rows: Rows,
    alphas: Floats,
    dearer_shares: Floats,
) -> Floats:
    """Share of each arm in the policies at given shadow prices, of all rows, matched or not.

    Hull upgrades of an alpha above have been taken, those at alpha by `dearer_shares` of
    the users; so the counts change by bucketed sums instead of an argmax for each alpha.

    Args:
      predictions: of the model.
      rows: the trial, for its sample weights.
      alphas: [M], shadow prices.
      dearer_shares: [M], how ties at alpha are broken.

    Returns:
      [M, K], rows sum to 1.
    """
    arms, weight = len(rows.names), rows.sample_weight
    done = climb(*predictions)
    steps = done.steps
    knots, of_budget = np.unique(alphas, return_inverse=True)
    # Buckets 2j: knots[j-1] < price < knots[j]; 2j + 1: price == knots[j].
    left = np.searchsorted(knots, steps.alpha, side="left")
    at = left + np.searchsorted(knots, steps.alpha, side="right")
    buckets, moved = 2 * knots.size + 1, weight[steps.row]

    def tally(arm: npt.NDArray[Any]) -> Floats:
        flat = at * arms + arm
        sums = np.bincount(flat, weights=moved, minlength=buckets * arms)
        return sums.astype(np.float64, copy=False).reshape(buckets, arms)

    gains = tally(steps.treatment) - tally(steps.before)
    from_here = np.cumsum(gains[::-1], axis=0)[::-1]  # this bucket and all dearer ones
    start = np.bincount(done.treatment, weights=weight, minlength=arms)
    tied = 2 * of_budget + 1
    counts = start + from_here[tied + 1] + dearer_shares[:, None] * gains[tied]
    return np.clip(counts / weight.sum(), 0.0, 1.0)
