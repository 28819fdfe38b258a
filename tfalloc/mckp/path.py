"""The exact curve of the relaxed knapsack: every budget's optimum in one sort.

    maximise    (1/N) sum_ij x_ij value_ij
    subject to  (1/N) sum_ij x_ij cost_ij <= budget,   sum_j x_ij = 1,   x_ij >= 0

(Yan et al. 2023, Eq. 2, relaxed.) Starting from everybody's cheapest arm, take the hull upgrades
of all rows (`hull.climb`) in order of falling price. The states passed through are the vertices
of the optimal curve, and between two of them a single row is split (Kellerer, Pferschy,
Pisinger, "Knapsack Problems", 11.2; Sverdrup et al. 2023, "Qini curves for multi-armed treatment
rules", whose R package `maq` computes the same path).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tfalloc.mckp.hull import Floats, climb
from tfalloc.mckp.inputs import matrices
from tfalloc.mckp.order import by_alpha, in_threads, running
from tfalloc.mckp.within_budget import rounding


class MCKPPath(NamedTuple):
    """The curve, as M + 1 vertices in order of increasing cost and value; vertex 0 is the start.

    Vertex k is reached from vertex k - 1 by moving row `row[k]` to arm `treatment[k]`. Equal
    prices are kept as separate vertices, in order of row.
    """

    alpha: Floats
    """[M + 1], price of the step that led here, response per unit of cost; inf at the start,
    then never increasing and > 0. The shadow price of a budget in [cost[k], cost[k + 1]) is
    alpha[k + 1], and 0 from cost[M] on."""
    cost: Floats
    """[M + 1], mean cost per user."""
    value: Floats
    """[M + 1], mean response per user; concave in cost."""
    row: npt.NDArray[Any]
    """[M + 1], row that was moved; -1 at the start."""
    treatment: npt.NDArray[np.int32]
    """[M + 1], arm that it was moved to; -1 at the start."""
    start: npt.NDArray[np.int32]
    """[N], arms of vertex 0: the cheapest; if several, the most valuable; if several, the first."""
    rounding: float
    """What a budget may be exceeded by, as a share of it (`within_budget`)."""

    def allocation_at(self, budget: float) -> npt.NDArray[np.int32]:
        """Returns the last whole allocation of the path that costs no more than `budget`.

        Args:
          budget: mean cost per user; exceeded by rounding at most (`within_budget`).

        Returns:
          [N], int32 treatments.

        Raises:
          ValueError: if the budget is not finite or below the cheapest assignment.

        Example:
          >>> curve = path([[0.0, 3.0, 4.0], [0.0, 2.0, 2.0]], [[0.0, 1.0, 2.0]] * 2)
          >>> curve.allocation_at(1.0)
          array([1, 1], dtype=int32)
        """
        last = self._last_within(budget)
        treatment = self.start.copy()
        # A row may occur several times; NumPy assigns in order, so its last arm stays.
        treatment[self.row[1 : last + 1]] = self.treatment[1 : last + 1]
        return treatment

    def value_at(self, budget: float) -> float:
        """Returns the optimum of the relaxed problem: the curve, linear between vertices.

        Args:
          budget: mean cost per user.

        Returns:
          Mean response per user, an upper bound of what any allocation reaches.

        Raises:
          ValueError: if the budget is not finite or below the cheapest assignment.

        Example:
          >>> path([[0.0, 3.0, 4.0]], [[0.0, 1.0, 2.0]]).value_at(1.5)
          3.5
        """
        self._last_within(budget)
        return float(np.interp(budget, self.cost, self.value))

    def alpha_at(self, budget: float) -> float:
        """Returns the shadow price: what one more unit of budget would buy, 0 if nothing.

        Args:
          budget: mean cost per user.

        Returns:
          Response per unit of cost.

        Raises:
          ValueError: if the budget is not finite or below the cheapest assignment.

        Example:
          >>> path([[0.0, 3.0, 4.0]], [[0.0, 1.0, 2.0]]).alpha_at(1.5)
          1.0
        """
        last = self._last_within(budget)
        return float(self.alpha[last + 1]) if last + 1 < self.alpha.size else 0.0

    def _last_within(self, budget: float) -> int:
        if not np.isfinite(budget):
            raise ValueError(
                f"budget is {budget}, expected a finite cost per user: for an unlimited one pass "
                f"the path's last cost, {self.cost[-1]:.17g}."
            )
        allowed = budget + self.rounding * (abs(budget) + float(np.abs(self.cost[0])))
        last = int(np.searchsorted(self.cost, allowed, side="right")) - 1
        if last < 0:
            raise ValueError(
                f"budget {budget:.17g} per user is infeasible: the cheapest assignment costs "
                f"{self.cost[0]:.17g} per user, pass at least that."
            )
        return last


def path(value: npt.ArrayLike, cost: npt.ArrayLike) -> MCKPPath:
    """Returns the exact optimal curve of response against cost over all budgets.

        cost[k]  = (1/N) (sum_i cost_i,start(i)  + sum_{m <= k} extra cost of step m)
        value[k] = (1/N) (sum_i value_i,start(i) + sum_{m <= k} extra value of step m)

    with the steps of all rows' hulls sorted by falling price alpha = extra value / extra cost.
    It ends where spending more stops to help. Values and costs may be of any sign, the cheapest
    arm need not be free.

    Args:
      value: [N, K], predicted response of each user to each treatment.
      cost: [N, K], predicted cost, in the unit of the budget.

    Returns:
      `MCKPPath`.

    Raises:
      ValueError: if the shapes differ, a dimension is zero, or an entry is not finite.

    Example:
      >>> curve = path([[0.0, 3.0, 4.0], [0.0, 2.0, 2.0]], [[0.0, 1.0, 2.0]] * 2)
      >>> curve.cost.tolist(), curve.value.tolist()
      ([0.0, 0.5, 1.0, 1.5], [0.0, 1.5, 2.5, 3.0])
      >>> curve.alpha.tolist()
      [inf, 3.0, 2.0, 1.0]
    """
    v, c = matrices(value, cost)
    n = v.shape[0]
    done = climb(v, c)
    steps = done.steps
    pieces = by_alpha(steps.alpha)

    size = steps.alpha.size + 1
    result = MCKPPath(
        alpha=np.empty(size),
        cost=np.empty(size),
        value=np.empty(size),
        row=np.empty(size, steps.row.dtype),
        treatment=np.empty(size, np.int32),
        start=done.treatment.astype(np.int32),
        rounding=rounding(c),
    )
    result.alpha[0], result.cost[0], result.value[0] = np.inf, done.cost, done.value
    result.row[0], result.treatment[0] = -1, -1

    ends = 1 + np.cumsum([0] + [piece.size for piece in pieces])

    def fill(i: int) -> None:
        piece, to = pieces[i], slice(ends[i], ends[i + 1])
        result.alpha[to] = steps.alpha.take(piece)
        result.cost[to] = running(steps.cost.take(piece))
        result.value[to] = running(steps.value.take(piece))
        result.row[to] = steps.row.take(piece)
        result.treatment[to] = steps.treatment.take(piece)

    in_threads(fill, range(len(pieces)))
    for curve in (result.cost, result.value):
        for i in range(len(pieces)):
            if ends[i + 1] > ends[i]:
                curve[ends[i] : ends[i + 1]] += curve[ends[i] - 1]
        curve /= n
    return result
