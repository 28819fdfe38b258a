"""The budget-to-alpha table: from a budget per user to the shadow price that keeps to it.

A table is a list of knots in order of increasing cost and decreasing alpha. The look-up takes the
dearest knot that the budget still pays for:

    alpha(budget) = alpha_k,    k = max {k : cost_k <= budget}

Between two knots this is the *larger* alpha. Linear interpolation would not do: cost is a step
function of alpha, and a price between two knots may already cost what the dearer one costs.

What the policy argmax(v - alpha c) costs at every alpha comes first, by one of two calibrations. By
the model: mean predicted cost of the arms chosen for a population; exact, and monotone by itself.
By the trial: the estimated cost of the policy (`outcome.curve`), a noisy step function; replaced by
its smallest monotone majorant

    M(alpha) = max over alpha' >= alpha of C(alpha')

so that an alpha accepted for a budget is one above which no alpha costs more than the budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tfalloc import mckp, outcome
from tfalloc.mckp.within_budget import FLOAT32_ROUNDING
from tfalloc.outcome.crossing import most_from_here_on

Floats = npt.NDArray[np.float64]

MAX_KNOTS = 4096

# A budget this close below a knot's cost (relative) pays for it: budgets reach a served policy in
# float32, and predicted costs are float32, so "exactly the cost of a knot" is known to that only.
ROUNDING = FLOAT32_ROUNDING

# Near-ties: users whose price is this close (relative) below a knot's alpha count as spending. The
# same user's float32 predictions differ in the last digit with the batch size and the machine,
# which moves a price v_j - v_k over c_j - c_k by some 1e-5 of itself; and where many users are
# alike, a knot between their almost equal prices would let all of them cross it at once.
NEAR_TIE = 3e-5

# Geometric bins reach down to this share of the range of extra cost above the cheapest policy.
FINEST_SHARE = 1e-4

_LARGEST = float(np.finfo(np.float32).max)

# Shadow prices beyond this cannot be served; they come from cost differences that are rounding.
_LARGEST_PRICE = _LARGEST / 8

# Rows whose dearest useful arms are found at a time.
_BLOCK_ROWS = 262_144


@dataclass(frozen=True)
class PolicyCost:
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


def predicted_policy_cost(
    response: npt.NDArray[Any],
    cost: npt.NDArray[Any],
    weight: npt.NDArray[Any] | None = None,
    known: npt.NDArray[Any] | None = None,
) -> PolicyCost:
    """Mean predicted cost of the arms chosen for a population, or their known cost.

    Args:
      response: [N, K], predicted response.
      cost: [N, K], predicted cost per user.
      weight: [N] > 0, how many users each row stands for; None: one each.
      known: [K], what the arms truly cost, whatever is predicted; None: it is not known.

    Returns:
      `PolicyCost`.

    Raises:
      ValueError: if a prediction is not finite.

    Example:
      >>> curve = predicted_policy_cost(
      ...     np.array([[0.0, 3.0], [0.0, 2.0]]), np.array([[0.0, 1.0]] * 2)
      ... )
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
    if known is not None:
        cost = np.broadcast_to(np.asarray(known, np.float64), cost.shape)
    wide = np.float64
    extra = cost[rows, arms].astype(wide) - cost[rows, previous].astype(wide)
    start = np.take_along_axis(cost, steps.start[:, np.newaxis], axis=1)[:, 0].astype(wide)
    spent = np.sum(share * start) + np.append(0.0, np.cumsum(share[rows] * extra))

    price = np.minimum(steps.alpha[1:], _LARGEST_PRICE)
    last = np.flatnonzero(np.append(price[1:] != price[:-1], True)[: price.size])
    breakpoints = price[last][::-1]
    curve = np.append(spent[0], spent[1 + last])[::-1]
    if known is not None:  # predictions may be wrong about which arm costs more
        curve = np.maximum.accumulate(curve[::-1])[::-1]
    return PolicyCost(
        breakpoints=breakpoints,
        cost=curve,
        known=np.ones(curve.size, bool),
        cost_at_zero=max(_cost_at_zero(response, cost, share), float(curve[0])),
        largest_price=float(breakpoints[-1]) if breakpoints.size else 0.0,
    )


def estimated_policy_cost(
    response: npt.NDArray[Any],
    cost: npt.NDArray[Any],
    trial: dict[str, npt.NDArray[Any]],
    largest_price: float,
) -> PolicyCost:
    """Smallest monotone majorant of the trial's estimate of the policy's cost.

    Args:
      response: [B, K], predicted response for the trial's rows.
      cost: [B, K], predicted cost per user.
      trial: "treatment", "response", "cost", "propensity" and, if it has them, "sample_weight",
        [B] each.
      largest_price: above this alpha every user of the population gets a cheapest arm.

    Returns:
      `PolicyCost`.

    Raises:
      ValueError: if no row received the arm that is cheapest for it.
    """
    estimate = outcome.curve(
        response,
        cost,
        trial["treatment"],
        trial["response"],
        trial["cost"],
        propensity=trial["propensity"] / trial.get("sample_weight", np.float32(1.0)),
    )
    alpha, observed = estimate.alpha.numpy(), estimate.cost.numpy()
    # Entries 2s + 1 hold between neighbouring breakpoints, entry 0 at alpha = 0.
    left = alpha[1::2]
    used = left < _LARGEST_PRICE
    left, between = left[used], observed[1::2][used]
    if not np.isfinite(between[-1]):
        raise ValueError(
            f"calibration='trial': none of the trial's {len(response)} rows received the arm that "
            "is predicted to be the cheapest for it, so the least cost cannot be estimated; pass "
            "a larger trial, or calibration='predicted'."
        )
    known = np.isfinite(between)
    majorant = most_from_here_on(between)
    at_zero = observed[0] if np.isfinite(observed[0]) else -np.inf
    return PolicyCost(
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


class BudgetTable(NamedTuple):
    """Knots of the look-up; `alpha` never increases and `cost` never decreases.

    Attributes:
      alpha: [M] float64 holding float32 numbers, response per unit of cost, >= 0. The first is
        above every price of the population (everybody gets the cheapest arm), the last is 0.
      cost: [M] float64, cost per user of the policy at that alpha.
    """

    alpha: Floats
    cost: Floats

    @property
    def max_underspend(self) -> float:
        """Most that a budget within the table's range can be left unspent, cost per user."""
        return float(np.max(np.diff(self.cost), initial=0.0))

    def lookup(self, budget: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Prices that keep to budgets; the exported signature computes the same.

        Args:
          budget: [batch] or scalar, cost per user. NaN counts as below the range.

        Returns:
          alpha (as `budget`, float64) and clamped (bool): whether the budget is below the cheapest
          policy (the largest alpha is returned, and it costs more than the budget), or above the
          dearest useful one (alpha is 0, and the budget does not bind).

        Example:
          >>> table = BudgetTable(np.array([8.0, 2.0, 0.0]), np.array([0.0, 0.5, 1.0]))
          >>> alpha, clamped = table.lookup([0.0, 0.7, 1.0, 3.0, -1.0])
          >>> alpha.tolist(), clamped.tolist()
          ([8.0, 2.0, 0.0, 0.0, 8.0], [False, False, False, True, True])
        """
        given = np.asarray(budget, np.float64)
        amount = np.where(np.isnan(given), -np.inf, given)
        index = np.searchsorted(self.thresholds, amount, side="right") - 1
        clamped = (index < 0) | (amount > self.cost[-1] + ROUNDING * abs(self.cost[-1]))
        return self.alpha[np.maximum(index, 0)], clamped

    @property
    def thresholds(self) -> Floats:
        """[M], least budget that pays for each knot: its cost up to rounding."""
        return self.cost - ROUNDING * np.abs(self.cost)


def fit_table(
    curve: PolicyCost,
    *,
    budgets: tuple[float, float] | None = None,
    max_knots: int = MAX_KNOTS,
) -> BudgetTable:
    """Chooses knots on a cost curve.

    Every policy of the curve is a candidate. If there are too many, the range of cost is cut into
    bins, half of equal width and half of geometric width above the cheapest policy (small budgets
    deserve small errors), and each keeps the candidate with the widest gap of alpha around it:
    predictions that differ in the last digit on another machine then move no user across it.

    Args:
      curve: cost of the policy at every alpha.
      budgets: (low, high), cost per user: three quarters of the bins go there.
      max_knots: most knots.

    Returns:
      `BudgetTable`. Each knot's cost is that of the curve at its alpha or just below (`NEAR_TIE`).

    Raises:
      ValueError: if `budgets` is not a range, or lies below the cheapest policy.
    """
    _check_budgets(budgets, float(curve.cost[-1]))
    low_end = np.concatenate([[0.0], curve.breakpoints])
    high_end = np.append(curve.breakpoints, np.inf)

    # Of policies that cost the same, the one of the smallest alpha; never one of unknown cost.
    before = np.append(np.inf, np.minimum.accumulate(np.where(curve.known, curve.cost, np.inf)))
    chosen = np.flatnonzero(curve.known & (curve.cost < before[:-1]))
    if chosen.size > max_knots - 2:
        gap = 1.0 - low_end[chosen] / high_end[chosen]
        chosen = chosen[_thin(curve.cost[chosen], gap, _bin_edges(curve, budgets, max_knots))]

    inner = chosen[np.isfinite(high_end[chosen])]
    middle = low_end[inner] + (high_end[inner] - low_end[inner]) / 2
    alpha = np.unique(np.append(middle, 0.0).astype(np.float32)).astype(np.float64)[::-1]
    alpha = np.append(_above_all(curve.largest_price), alpha)
    segment = np.searchsorted(curve.breakpoints, alpha * (1.0 - NEAR_TIE), side="right")
    cost = np.where(alpha > 0.0, curve.cost[segment], curve.cost_at_zero)
    cost = np.maximum.accumulate(cost)
    # Of knots that cost the same, the smallest alpha; but the first stays for budgets below all.
    useful = np.append(cost[1:] > cost[:-1], True)
    useful[0] = True
    return BudgetTable(alpha[useful], cost[useful])


def _bin_edges(curve: PolicyCost, budgets: tuple[float, float] | None, max_knots: int) -> Floats:
    least, most = float(curve.cost[-1]), float(curve.cost[0])
    bins = max_knots - 4
    edges = []
    if budgets is not None:
        low, high = max(budgets[0], least), min(budgets[1], most)
        inside = 3 * bins // 4
        edges.append(np.linspace(low, max(low, high), inside))
        bins -= inside
    edges.append(np.linspace(least, most, bins // 2))
    edges.append(least + (most - least) * np.geomspace(FINEST_SHARE, 1.0, bins // 2))
    return np.unique(np.concatenate(edges))


def _thin(cost: Floats, gap: Floats, edges: Floats) -> npt.NDArray[np.intp]:
    """Indices of the candidate with the widest gap in each bin of cost, ascending."""
    bins = np.digitize(cost, edges)
    order = np.lexsort((-gap, bins))
    first = np.append(True, np.diff(bins[order]) != 0)
    return np.sort(order[first])


def _above_all(price: float) -> float:
    """A power of two well above every price: users unlike the population stay cheap, too."""
    if not price > 0.0:
        return 1.0
    return float(min(2.0 ** (np.ceil(np.log2(price)) + 2.0), 2.0**126, _LARGEST))


def _check_budgets(budgets: tuple[float, float] | None, cheapest: float) -> None:
    if budgets is None:
        return
    try:
        low, high = (float(budget) for budget in budgets)
    except (TypeError, ValueError):
        raise ValueError(
            f"budgets={budgets!r}: expected a range (low, high), cost per user."
        ) from None
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise ValueError(f"budgets={budgets!r}: expected finite costs per user with low <= high.")
    if high < cheapest * (1.0 - ROUNDING):
        raise ValueError(
            f"budgets={budgets!r} are infeasible: the cheapest assignment costs {cheapest:.6g} per "
            "user; pass a range that reaches above it."
        )
