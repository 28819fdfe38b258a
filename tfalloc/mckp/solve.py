"""One budget: an integer allocation with a certificate.

The relaxed optimum takes the upgrades of falling price (`path`) until one no longer fits; the
price of that critical step is the shadow price alpha. Keeping its row at the lower arm gives a
feasible allocation that misses the bound by less than one step's value (Kellerer, Pferschy,
Pisinger, "Knapsack Problems", 11.2); what is left of the budget goes to later steps that fit.

The whole path is not needed. A sample of rows brackets alpha; one climb over all rows then takes
every upgrade above the bracket and stops below it, so that only the few steps inside are sorted.
Those have exactly the prices that `path` would give them, hence so has the critical one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tfalloc.mckp.hull import Climb, Floats, Ints, climb
from tfalloc.mckp.inputs import Matrix, matrices
from tfalloc.mckp.order import descending, in_threads, running
from tfalloc.mckp.path import path
from tfalloc.mckp.within_budget import rounding

# Rows drawn to bracket alpha, and the width of the bracket in standard errors of their spend.
SAMPLE_ROWS = 20_000
STANDARD_ERRORS = 5.0
# Rows gathered at a time when the allocation is evaluated.
GATHER_ROWS = 65_536


class Allocation(NamedTuple):
    """A feasible allocation and the bound that no allocation within the budget exceeds."""

    treatment: npt.NDArray[np.int32]
    """[N], arm of every row."""
    alpha: float
    """Shadow price, response per unit of cost: price of the first step that the relaxed optimum
    does not take in full; 0 if the budget does not bind."""
    value: float
    """Mean response per user of `treatment`."""
    cost: float
    """Mean cost per user of `treatment`."""
    upper_bound: float
    """Relaxed optimum, mean response per user: min over alpha >= 0 of
    alpha budget + (1/N) sum_i max_j (value_ij - alpha cost_ij)."""
    gap: float
    """upper_bound - value >= 0, per user; less than (value of one upgrade) / N."""
    slack: float
    """Budget left, per user: budget - cost. Below 0 by rounding at most, see `solve`."""


def solve(
    value: npt.ArrayLike,
    cost: npt.ArrayLike,
    *,
    budget: float | None = None,
    total_budget: float | None = None,
) -> Allocation:
    """Chooses one treatment per row, the most response whose mean cost stays within the budget.

        maximise (1/N) sum_i value[i, t_i]   subject to   (1/N) sum_i cost[i, t_i] <= budget

    (Yan et al. 2023, Eq. 2 to 4). The knapsack is NP-hard; the answer is within `gap` of the
    best, and the gap falls like 1/N. The budget holds up to rounding: total cost <= total budget +
    r (|total budget| + sum_i |cheapest cost of row i|), where r is 1e-12, and 2^-23 for costs in
    float32 (`within_budget`).

    Args:
      value: [N, K], predicted response of each user to each treatment, any sign.
      cost: [N, K], predicted cost, any sign.
      budget: per user, in the unit of `cost`. Give this or `total_budget`.
      total_budget: for all N rows together.

    Returns:
      `Allocation`; the same for any number of threads.

    Raises:
      ValueError: if not exactly one budget is given, it is not finite or below the cheapest
        assignment (the message says what is the least), shapes differ, a dimension is zero, or
        an entry is not finite.

    Example:
      >>> best = solve([[0.0, 3.0, 4.0], [0.0, 2.0, 2.0]], [[0.0, 1.0, 2.0]] * 2, budget=1.0)
      >>> best.treatment, best.value, best.alpha, best.gap
      (array([1, 1], dtype=int32), 2.5, 1.0, 0.0)
    """
    v, c = matrices(value, cost)
    n = v.shape[0]
    total = _total(budget, total_budget, n)
    low, high = _bracket(v, c, total / n)
    for last_try in (False, False, True):
        if last_try:
            # Both sides of the bracket gave way: the total lies between two roundings of one sum.
            low, high = 0.0, np.inf
        done = climb(v, c, floor=low, cap=high)
        allowed = total + rounding(c) * (abs(total) + done.magnitude)
        if done.least_cost > allowed:
            raise _infeasible(total, done.least_cost, n, per_user=budget is not None)
        if done.cost > allowed:  # the sample put alpha too low
            low, high = high, np.inf
            continue
        steps = done.steps
        order = descending(steps.alpha)
        spent = done.cost + running(steps.cost.take(order))
        critical = int(np.searchsorted(spent, allowed, side="right"))
        if critical < order.size or low == 0.0:
            break
        low, high = 0.0, low  # too high

    taken = order[:critical]
    used = float(spent[critical - 1]) if critical else done.cost
    bound = done.value + float(steps.value.take(taken).sum())
    alpha = 0.0
    if critical < order.size:
        split = order[critical]
        alpha = float(steps.alpha[split])
        # Not alpha * (total - used): the price may have overflowed where the fraction is sound.
        bound += max(0.0, (total - used) / float(steps.cost[split])) * float(steps.value[split])

    treatment = done.treatment.astype(np.int32)
    treatment[steps.row[taken]] = steps.treatment[taken]  # in order: a row's last arm stays
    _fill(treatment, done, order[critical:], allowed - used)

    got_value, got_cost = _evaluate(v, c, treatment)
    bound = max(bound, got_value)
    return Allocation(
        treatment=treatment,
        alpha=alpha,
        value=got_value / n,
        cost=got_cost / n,
        upper_bound=bound / n,
        gap=bound / n - got_value / n,
        slack=(total - got_cost) / n,
    )


def _total(budget: float | None, total_budget: float | None, n: int) -> float:
    if (budget is None) == (total_budget is None):
        raise ValueError(
            f"got budget={budget} and total_budget={total_budget}, expected exactly one: pass "
            "budget=cost per user or total_budget=cost of all rows."
        )
    given = budget if total_budget is None else total_budget
    name = "budget" if total_budget is None else "total_budget"
    try:
        amount = float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {given!r}, expected one number.") from error
    if not np.isfinite(amount):
        raise ValueError(
            f"{name} is {amount}, expected a finite cost: for an unlimited budget pass the last "
            "cost of tfalloc.mckp.path, where spending more stops to help."
        )
    return amount * n if total_budget is None else amount


def _infeasible(total: float, least: float, n: int, *, per_user: bool) -> ValueError:
    name, unit, scale = ("budget", " per user", n) if per_user else ("total_budget", "", 1)
    return ValueError(
        f"{name}={total / scale:.17g} is infeasible: the cheapest assignment costs "
        f"{least / scale:.17g}{unit}, pass at least that."
    )


def _bracket(v: Matrix, c: Matrix, budget: float) -> tuple[float, float]:
    """Guesses (low, high) around alpha from a sample of rows; everything if there are few rows."""
    n = v.shape[0]
    if n <= 2 * SAMPLE_ROWS:
        return 0.0, np.inf
    # Random rather than every n-th row, since data often come in cycles; a fixed seed because
    # the bracket decides which steps may fill the slack.
    rows = np.sort(np.random.default_rng(0).integers(n, size=SAMPLE_ROWS))
    c_sample = c[rows]
    curve = path(v[rows], c_sample)
    held = curve.start if budget < curve.cost[0] else curve.allocation_at(budget)
    spread = float(np.std(np.take_along_axis(c_sample, held[:, None], axis=1), dtype=np.float64))
    margin = STANDARD_ERRORS * spread / np.sqrt(SAMPLE_ROWS)
    below = int(np.searchsorted(curve.cost, budget - margin, side="right")) - 1
    above = int(np.searchsorted(curve.cost, budget + margin, side="right"))
    high = float(curve.alpha[max(below, 0)])
    # One step of rounding down, so that steps at exactly this price are inside.
    low = float(np.nextafter(curve.alpha[above], 0.0)) if above < curve.alpha.size else 0.0
    return low, high


def _fill(treatment: npt.NDArray[np.int32], done: Climb, later: Ints, slack: float) -> None:
    """Takes, in order of price, the later steps that still fit: in place, in linear time.

    A step needs the one before it in its row, so a row that was skipped once stays where it is.
    Only steps inside the bracket are tried: they are the ones with the best prices.
    """
    steps = done.steps
    fitting = later[steps.cost[later] <= slack]
    if not fitting.size:
        return
    costs = steps.cost[fitting]
    # least[m]: cheapest step from m on, to stop as soon as nothing can fit.
    least = np.minimum.accumulate(costs[::-1])[::-1].tolist()
    candidates = zip(
        costs.tolist(),
        least,
        steps.row[fitting].tolist(),
        steps.before[fitting].tolist(),
        steps.treatment[fitting].tolist(),
    )
    for extra, least_extra, row, before, after in candidates:
        if least_extra > slack:
            return
        if extra <= slack and treatment[row] == before:
            treatment[row] = after
            slack -= extra


def _evaluate(v: Matrix, c: Matrix, treatment: npt.NDArray[np.int32]) -> tuple[float, float]:
    """Total value and cost of an allocation, from the matrices themselves."""
    n = treatment.size

    def work(first: int) -> tuple[float, float]:
        rows = slice(first, min(first + GATHER_ROWS, n))
        held = treatment[rows, None]
        return (
            float(np.take_along_axis(v[rows], held, axis=1).sum(dtype=np.float64)),
            float(np.take_along_axis(c[rows], held, axis=1).sum(dtype=np.float64)),
        )

    sums: Floats = np.array(in_threads(work, range(0, n, GATHER_ROWS)))
    return float(sums[:, 0].sum()), float(sums[:, 1].sum())
