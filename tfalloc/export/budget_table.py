"""The budget-to-alpha table: from a budget per user to the shadow price that keeps to it.

A table is a list of knots in order of increasing cost and decreasing alpha. The look-up takes the
dearest knot that the budget still pays for:

    alpha(budget) = alpha_k,    k = max {k : cost_k <= budget}

Between two knots this is the *larger* alpha. Linear interpolation would not do: cost is a step
function of alpha, and a price between two knots may already cost what the dearer one costs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tfalloc.export.cost_curve import CostCurve

Floats = npt.NDArray[np.float64]

MAX_KNOTS = 4096

# A budget this close below a knot's cost (relative) pays for it: rounding of the sum over users.
ROUNDING = 1e-12

# Near-ties: users whose price is this close (relative) below a knot's alpha count as spending. The
# same user's float32 predictions differ in the last digit with the batch size and the machine,
# which moves a price v_j - v_k over c_j - c_k by some 1e-5 of itself; and where many users are
# alike, a knot between their almost equal prices would let all of them cross it at once.
NEAR_TIE = 3e-5

# Geometric bins reach down to this share of the range of extra cost above the cheapest policy.
FINEST_SHARE = 1e-4

_LARGEST = float(np.finfo(np.float32).max)


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
    curve: CostCurve,
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


def _bin_edges(curve: CostCurve, budgets: tuple[float, float] | None, max_knots: int) -> Floats:
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
