"""Cost per user of the policy argmax(v - alpha c) at every alpha, made monotone.

Two calibrations. By the model: mean predicted cost of the arms chosen for a population; exact,
and monotone by itself. By the trial: the estimated cost of the policy (`outcome.curve`), a noisy
step function; replaced by its smallest monotone majorant

    M(alpha) = max over alpha' >= alpha of C(alpha')

so that a price accepted for a budget is one above which no price costs more than the budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tfalloc import mckp, outcome

Floats = npt.NDArray[np.float64]

# Prices beyond float32 cannot be served; they also come from cost differences that are rounding.
_LARGEST = float(np.finfo(np.float32).max) / 8

_BLOCK_ROWS = 262_144


@dataclass(frozen=True)
class CostCurve:
    """A step function of alpha with M breakpoints.

    Attributes:
      breakpoints: [M], distinct prices > 0, ascending, response per unit of cost.
      cost: [M + 1], cost per user on the open intervals (0, b_0), (b_0, b_1), ..., (b_M-1, inf);
        never increases.
      known: [M + 1] bool, whether there is an estimate on the interval; `cost` of others is that
        of the next one that has.
      cost_at_zero: cost per user at exactly alpha = 0, not below cost[0].
      largest_price: above this alpha every user of the population gets a cheapest arm.
    """

    breakpoints: Floats
    cost: Floats
    known: npt.NDArray[np.bool_]
    cost_at_zero: float
    largest_price: float


def predicted_curve(
    response: npt.NDArray[Any], cost: npt.NDArray[Any], weight: npt.NDArray[Any] | None = None
) -> CostCurve:
    """Mean predicted cost of the arms chosen for a population.

    Args:
      response: [N, K], predicted response.
      cost: [N, K], predicted cost per user.
      weight: [N] > 0, how many users each row stands for; None: one each.

    Returns:
      `CostCurve`.

    Raises:
      ValueError: if a prediction is not finite.

    Example:
      >>> curve = predicted_curve(np.array([[0.0, 3.0], [0.0, 2.0]]), np.array([[0.0, 1.0]] * 2))
      >>> curve.breakpoints.tolist(), curve.cost.tolist()
      ([2.0, 3.0], [1.0, 0.5, 0.0])
    """
    steps = mckp.path(response, cost)
    share = np.ones(len(response)) if weight is None else np.asarray(weight, np.float64)
    share = share / share.sum()
    rows, arms = steps.row[1:], steps.treatment[1:]

    # The arm left by each step: the one that the same row's step before led to.
    order = np.argsort(rows, kind="stable")
    previous = np.empty(rows.size, np.int32)
    previous[order[1:]] = arms[order[:-1]]
    first = order[np.append(True, rows[order][1:] != rows[order][:-1])[: rows.size]]
    previous[first] = steps.start[rows[first]]
    wide = np.float64
    extra = cost[rows, arms].astype(wide) - cost[rows, previous].astype(wide)
    start = np.take_along_axis(cost, steps.start[:, np.newaxis], axis=1)[:, 0].astype(wide)
    spent = np.sum(share * start) + np.append(0.0, np.cumsum(share[rows] * extra))

    price = np.minimum(steps.alpha[1:], _LARGEST)
    last = np.flatnonzero(np.append(price[1:] != price[:-1], True)[: price.size])
    breakpoints = price[last][::-1]
    curve = np.append(spent[0], spent[1 + last])[::-1]
    return CostCurve(
        breakpoints=breakpoints,
        cost=curve,
        known=np.ones(curve.size, bool),
        cost_at_zero=max(_cost_at_zero(response, cost, share), float(curve[0])),
        largest_price=float(breakpoints[-1]) if breakpoints.size else 0.0,
    )


def trial_curve(
    response: npt.NDArray[Any],
    cost: npt.NDArray[Any],
    trial: dict[str, npt.NDArray[Any]],
    largest_price: float,
) -> CostCurve:
    """Smallest monotone majorant of the trial's estimate of the policy's cost.

    Args:
      response: [B, K], predicted response for the trial's rows.
      cost: [B, K], predicted cost per user.
      trial: "treatment", "response", "cost" and "propensity", [B] each; a sample weight is
        already in the propensity.
      largest_price: above this alpha every user of the population gets a cheapest arm.

    Returns:
      `CostCurve`.

    Raises:
      ValueError: if no row received the arm that is cheapest for it.
    """
    estimate = outcome.curve(
        response,
        cost,
        trial["treatment"],
        trial["response"],
        trial["cost"],
        propensity=trial["propensity"],
    )
    alpha, observed = estimate.alpha.numpy(), estimate.cost.numpy()
    # Entries 2s + 1 hold between neighbouring breakpoints, entry 0 at alpha = 0.
    left = alpha[1::2]
    used = left < _LARGEST
    left, between = left[used], observed[1::2][used]
    if not np.isfinite(between[-1]):
        raise ValueError(
            f"calibration='trial': none of the trial's {len(response)} rows received the arm that "
            "is predicted to be the cheapest for it, so the least cost cannot be estimated; pass "
            "a larger trial, or calibration='predicted'."
        )
    known = np.isfinite(between)
    majorant = np.maximum.accumulate(np.where(known, between, -np.inf)[::-1])[::-1]
    at_zero = observed[0] if np.isfinite(observed[0]) else -np.inf
    return CostCurve(
        breakpoints=left[1:],
        cost=majorant,
        known=known,
        cost_at_zero=float(max(at_zero, majorant[0])),
        largest_price=max(largest_price, float(left[-1])),
    )


def _cost_at_zero(response: npt.NDArray[Any], cost: npt.NDArray[Any], share: Floats) -> float:
    """Mean predicted cost of argmax v, first index wins: dearer than needed where values tie."""
    total = 0.0
    for first in range(0, len(response), _BLOCK_ROWS):
        block = slice(first, first + _BLOCK_ROWS)
        arms = np.argmax(response[block], axis=1)[:, np.newaxis]
        chosen = np.take_along_axis(cost[block], arms, axis=1)[:, 0]
        total += float(np.sum(share[block] * chosen.astype(np.float64)))
    return total
