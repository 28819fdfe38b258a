"""Upgrade prices: up to which shadow price each user is still given more than arm j.

User i holds x_i(alpha) = argmax_j v_ij - alpha c_ij (Yan et al. 2023, Eq. 4), arms numbered in the
order of their cost. As alpha rises from 0 the user is moved to cheaper arms; the price of upgrade j
is the alpha at which arm j or a lower one is reached for the first time:

    price_ij = sup { alpha > 0 : x_i(a) > j for all a in (0, alpha) }

Where arm k costs more than arm l, k is the better one while alpha < (v_k - v_l) / (c_k - c_l).
Predicted costs that rise with the arm therefore leave

    price_ij = max over k > j of  min over l <= j of  (v_ik - v_il) / (c_ik - c_il),

for two arms the ratio of uplifts. Predicted costs need not rise with the arm: where k costs less
than l, the same quotient bounds alpha from *below*. Then every k > j is chosen on an interval of
alpha, between the largest of its lower and the smallest of its upper bounds, and the price is the
end of the union of those intervals that begins at 0.

The sign is decided by what happens at alpha = 0, where cost does not matter:

    upgraded at 0      the price is positive; +inf if no alpha ends it (more response, no more cost)
    not upgraded at 0  the price is not positive: the largest alpha < 0 (as if spending were
                       welcome) at which the user would be upgraded, -inf if there is none

So less response for less cost has the price -inf: such users are moved to arm k to save cost, which
is no upgrade, and "two negative uplifts" rank last although their ratio is positive. Ties at alpha
= 0 go to the arm that costs less; of arms of equal cost the later one counts as dearer by nothing,
so that the price between two equal arms is 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tfalloc.mckp.inputs import matrices, require_finite
from tfalloc.mckp.order import in_threads

Floats = npt.NDArray[np.float64]

# Rows at a time: K^2 / 2 pairs of arms are compared in cache.
_BLOCK_ROWS = 16_384


def upgrade_prices(pred_response: npt.ArrayLike, pred_cost: npt.ArrayLike) -> Floats:
    """The largest shadow price at which each user is still upgraded beyond arm j.

        price_j = sup { alpha > 0 : argmax_k v_k - a c_k > j for all a in (0, alpha) }

    For two arms and a positive cost uplift that is the ratio of uplifts (v_1 - v_0) / (c_1 - c_0).
    The sign is looked at before dividing:

        more response, no more cost   +inf: worth any price, ranks first
        less response, more cost      the ratio, negative
        less response, no more cost   -inf: saves cost, but is no upgrade; ranks last
        no difference                 0

    With predicted costs that rise with the arm, the arm held at any alpha >= 0 is the number of
    prices above alpha, so the order of pooled prices is the order in which the exact allocation
    spends a growing budget. They are the scores that `evaluation.aucc` ranks users by.

    Args:
      pred_response: [N, K], predicted response.
      pred_cost: [N, K], predicted cost per user; arms numbered from cheap to dear. Costs of single
        users may be in any order.

    Returns:
      [N, K-1], response per unit of cost, never increasing along a row; [N] if K = 2.

    Raises:
      ValueError: shapes differ, there are fewer than two arms, or an entry is not finite.

    Example:
      >>> response = [[0.1, 0.3], [0.1, 0.2], [0.3, 0.1], [0.3, 0.1]]
      >>> cost = [[0.0, 1.0], [1.0, 0.5], [0.0, 1.0], [1.0, 0.0]]
      >>> upgrade_prices(response, cost).round(3).tolist()
      [0.2, inf, -0.2, -inf]
      >>> upgrade_prices([[0.0, 0.1, 0.5]], [[0.0, 1.0, 2.0]]).tolist()
      [[0.25, 0.25]]

    Source: Yan et al. 2023, Eq. 4.
    """
    names = ("pred_response", "pred_cost")
    value, cost = matrices(pred_response, pred_cost, names)
    n, arms = value.shape
    if arms < 2:
        raise ValueError(
            f"predictions have {arms} column; expected one for each of at least two treatments."
        )
    prices = np.empty((n, arms - 1))

    def work(first: int) -> None:
        block = slice(first, first + _BLOCK_ROWS)
        v = np.ascontiguousarray(value[block].T, np.float64)
        c = np.ascontiguousarray(cost[block].T, np.float64)
        require_finite(v, names[0], first)
        require_finite(c, names[1], first)
        prices[block] = _of_block(v, c).T

    in_threads(work, range(0, n, _BLOCK_ROWS))
    return prices[:, 0] if arms == 2 else prices


def _of_block(v: Floats, c: Floats) -> Floats:
    """Prices [K-1, R] of predictions [K, R]."""
    arms, rows = v.shape
    prices = np.empty((arms - 1, rows))
    # Arm k beats arms 0 .. j between these; entries k > j are in use.
    lower, upper = np.full((arms, rows), -np.inf), np.full((arms, rows), np.inf)
    for j in range(arms - 1):
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            gain, extra = v[j + 1 :] - v[j], c[j + 1 :] - c[j]
            bound = gain / np.abs(extra)
        bound[np.isnan(bound)] = 0.0  # equal arms
        cheaper = extra < 0.0
        above, below = lower[j + 1 :], upper[j + 1 :]
        np.minimum(below, np.where(cheaper, np.inf, bound), out=below)
        prices[j] = below.max(axis=0)
        np.maximum(above, np.where(cheaper, -bound, -np.inf), out=above)
        odd = np.flatnonzero((above > -np.inf).any(axis=0))
        if odd.size:
            prices[j, odd] = _first_end(above[:, odd], below[:, odd])
    return prices


def _first_end(lower: Floats, upper: Floats) -> Any:
    """Where the union of the intervals (lower, upper), [k, R], that covers 0+ ends: [R].

    If none covers it, the largest end of an interval below 0; -inf if there is none.
    """
    end = np.where(lower <= 0.0, upper, -np.inf).max(axis=0)
    while True:
        further = np.where(lower <= end, upper, -np.inf).max(axis=0)
        if not ((end > 0.0) & (further > end)).any():
            break
        end = np.where(end > 0.0, further, end)
    below = np.where((lower < upper) & (upper <= 0.0), upper, -np.inf).max(axis=0)
    return np.where(end > 0.0, end, below)
