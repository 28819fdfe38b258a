"""Outcomes of the policy at every shadow price, and the policy that meets a budget.

Each row is matched (the policy picks the arm that it received in the trial) on one interval of
alpha, `outcome.match_intervals`. One sort of the ends of all intervals and running sums give

    W(alpha) = sum_S w,    Y(alpha) = sum_S w y,    Z(alpha) = sum_S w z

for every alpha. Only the open intervals between neighbouring ends are kept: *at* an end some user
is indifferent between two arms, and which way `argmax` breaks that tie is of no interest to an
evaluation that randomises between both sides.

A doubly robust estimate counts *every* row under its assigned arm, too. That arm changes at the
upgrades of the row's hull (`mckp.hull`), so the model's sums along the whole path

    sum_i s_i m_{i, x_i(alpha)},      s the sample weights,

are the sum at alpha = 0, and a change at the shadow price of each upgrade.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tfalloc.evaluation.trial_rows import Floats, Predictions, Rows
from tfalloc.mckp.hull import climb
from tfalloc.outcome import match_intervals
from tfalloc.outcome.crossing import first_within

# Rows of match intervals found at a time: bounds memory at 30 arms to some 200 MB.
BLOCK_ROWS = 65_536

# A matched cost this close to the budget (relative) meets it: rounding of running sums.
ROUNDING = 1e-10


class Expected:
    """What is expected of all rows, response, cost or both, along the path of one policy.

    Args:
      predictions: by which the policy assigns.
      rows: the trial, with expectations.

    Attributes:
      steps: upgrades of all rows, with their shadow prices.
      dearest: sums of expected response and cost over rows at alpha = 0.
      changes: what passing the alpha of each upgrade, from below, adds to these sums, [steps] each.
    """

    def __init__(self, predictions: Predictions, rows: Rows):
        done = climb(*predictions)
        self._models = rows.expected_response, rows.expected_cost
        self._cheapest = done.treatment.astype(np.intp)
        self.steps = done.steps
        self._after = done.steps.treatment.astype(np.intp)
        weight = rows.sample_weight
        row, before, moved = done.steps.row, done.steps.before, weight[done.steps.row]
        self.changes = [
            np.zeros(row.size)
            if model is None
            else moved * (model[row, before].astype(np.float64) - model[row, self._after])
            for model in self._models
        ]
        start = self._of(self._arms(self.steps.alpha > 0.0))
        self.dearest = [0.0 if x is None else float(weight @ x) for x in start]

    def at(self, alpha: float, dearer_share: float) -> tuple[Floats | None, ...]:
        """Expected response and cost of each row, [N] or None each, under the policy at alpha.

        Args:
          alpha: shadow price.
          dearer_share: share of users for whom ties at alpha go to the dearer arm.
        """
        above = self._of(self._arms(self.steps.alpha > alpha))
        if dearer_share == 0.0:
            return above
        below = self._of(self._arms(self.steps.alpha >= alpha))
        return tuple(
            None if a is None or b is None else (1.0 - dearer_share) * a + dearer_share * b
            for a, b in zip(above, below, strict=True)
        )

    def _arms(self, taken: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
        """[N], the arm that each row holds after these upgrades."""
        arm = self._cheapest.copy()
        # Steps go from cheap to dear within a row and NumPy assigns in order: the last one stays.
        arm[self.steps.row[taken]] = self._after[taken]
        return arm

    def _of(self, arm: npt.NDArray[np.intp]) -> tuple[Floats | None, ...]:
        everyone = np.arange(arm.size)
        return tuple(
            None if model is None else model[everyone, arm].astype(np.float64)
            for model in self._models
        )


class Path(NamedTuple):
    """Sums over the matched rows on the M + 1 open intervals between M breakpoints of alpha.

    Attributes:
      lower, upper: [N], each row is matched between these; never if lower >= upper.
      alpha: [M + 1], left end of each interval, ascending from 0; the last one reaches infinity.
      events: [M + 1], number of interval ends passed: an even clock along the path.
      weight: [M + 1], W.
      response: [M + 1], Y.
      spend: [M + 1], Z.
      noise: [M + 1, 6], running sums of w^2 times 1, z, z^2, y, y^2 and y z over the rows that
        came or went.
      total: number of rows N, weighted by the sample weights.
      divides_by_total: Horvitz-Thompson: means divide by N rather than by W.
      expected: what is expected of all rows by a model, or because costs are known; else None.
      expected_response, expected_spend: [M + 1], sums over all rows of these; 0 without.
      needs_match: whether there is no estimate without a matched row.
    """

    lower: Floats
    upper: Floats
    alpha: Floats
    events: Floats
    weight: Floats
    response: Floats
    spend: Floats
    noise: Floats
    total: float
    divides_by_total: bool
    expected: Expected | None
    expected_response: Floats
    expected_spend: Floats
    needs_match: bool

    @property
    def denominator(self) -> Floats:
        """What divides the sums, [M + 1]; NaN where no row is matched."""
        matched = np.where(self.weight > ROUNDING * self.total, self.weight, np.nan)
        return np.where(np.isnan(matched), np.nan, self.total) if self.divides_by_total else matched

    def costs(self) -> Floats:
        """Estimated cost per user of each policy of the path, [M + 1]."""
        rounding = ROUNDING * np.abs(self.spend).max()
        matched = np.where(np.abs(self.spend) > rounding, self.spend, 0.0) / self.denominator
        return matched + self.expected_spend / self.total

    def expectations(self, alpha: float, dearer_share: float) -> tuple[Floats | None, ...]:
        """What the model expects of each row's response and cost, [N] each; None without one."""
        if self.expected is None:
            return None, None
        return self.expected.at(alpha, dearer_share)

    def members(self, alpha: float, dearer_share: float) -> Floats:
        """How far each row is matched, [N]: a mixture of the policies on both sides of alpha."""
        if np.isinf(alpha):
            return ((self.upper == np.inf) & (self.lower < np.inf)).astype(np.float64)
        above = (self.lower <= alpha) & (alpha < self.upper)
        if dearer_share == 0.0:
            return above.astype(np.float64)
        below = (self.lower < alpha) & (alpha <= self.upper)
        return (1.0 - dearer_share) * above + dearer_share * below


class Crossing(NamedTuple):
    """The policy of the path whose estimated cost meets a budget.

    Attributes:
      alpha: shadow price; 0 where the budget does not bind; where it is infeasible, inf, or that
        of the cheapest policy that matches any row.
      dearer_share: share of users for whom ties at alpha go to the dearer arm, so that the
        estimated cost is the budget exactly and not one step below.
      interval: the interval of the path that begins at alpha.
      binds: whether some alpha costs more than the budget.
      feasible: whether the cheapest assignment that matches any row is within the budget.
      num_crossings: how often the estimated cost crosses the budget.
    """

    alpha: float
    dearer_share: float
    interval: int
    binds: bool
    feasible: bool
    num_crossings: int


def make_path(predictions: Predictions, rows: Rows) -> Path:
    """Sorts the interval ends of all rows once.

    Args:
      predictions: of the model.
      rows: the trial.
    """
    lower, upper = _intervals(predictions, rows.treatment)
    np.maximum(lower, 0.0, out=lower)
    live = np.flatnonzero(lower < upper)
    leaving = live[upper[live] < np.inf]
    row = np.concatenate([live, leaving])
    sign = np.concatenate([np.ones(live.size), -np.ones(leaving.size)])
    ends = np.concatenate([lower[live], upper[leaving]])
    some = rows.expected_response is not None or rows.expected_cost is not None
    expected = Expected(predictions, rows) if some else None
    changes: list[Floats] = []
    if expected is not None:
        # Upgrades end where matches do, but of all rows: events that move the model's sums only.
        changes = [np.concatenate([np.zeros(row.size), x]) for x in expected.changes]
        row = np.concatenate([row, expected.steps.row])
        sign = np.concatenate([sign, np.zeros(expected.steps.row.size)])
        ends = np.concatenate([ends, expected.steps.alpha])
    order = np.argsort(ends, kind="stable")
    ends, row, sign = ends[order], row[order], sign[order]

    # The last event of each distinct end; 0 is a breakpoint even if no interval begins there.
    last = np.flatnonzero(np.append(ends[1:] != ends[:-1], True)) if ends.size else np.empty(0, int)
    starts_at_zero = bool(ends.size and ends[0] == 0.0)
    alpha = ends[last] if starts_at_zero else np.concatenate([[0.0], ends[last]])

    def running(x: Floats) -> Floats:
        sums = np.cumsum(x)[last]
        return sums if starts_at_zero else np.concatenate([[0.0], sums])

    w, y, z = rows.weight[row], rows.response[row], rows.cost[row]
    w[sign == 0.0] = 0.0
    wy, wz = w * y, w * z
    sums = [np.zeros(alpha.size), np.zeros(alpha.size)]
    if expected is not None:
        sums = [
            first + running(x[order]) for first, x in zip(expected.dearest, changes, strict=True)
        ]
    return Path(
        lower=lower,
        upper=upper,
        alpha=alpha,
        events=running(np.ones(row.size)),
        weight=running(sign * w),
        response=running(sign * wy),
        spend=running(sign * wz),
        noise=np.stack(
            [running(a) for a in (w * w, w * wz, wz * wz, w * wy, wy * wy, wy * wz)], axis=1
        ),
        total=float(rows.sample_weight.sum()),
        divides_by_total=rows.estimator == "ht",
        expected=expected,
        expected_response=sums[0],
        expected_spend=sums[1],
        needs_match=rows.expected_response is None and rows.estimator != "ht",
    )


def find_crossing(path: Path, budget: float) -> Crossing:
    """Finds the smallest alpha above which the estimated cost never exceeds the budget.

    The same alpha as `outcome.expected_outcome(method="path")`; the policies just below and just
    above it are mixed so that the estimated cost equals the budget.

    Args:
      path: of `make_path`.
      budget: cost per user.
    """
    # With an empty matched set there is no cost, hence none above the budget; but known ones are.
    known = path.expected is not None and not path.spend.any()
    scale = path.total if path.divides_by_total or known else path.weight
    excess = path.spend + (path.expected_spend / path.total - budget) * scale
    largest = np.abs(path.spend).max() + np.abs(path.expected_spend).max()
    slack = ROUNDING * (largest + abs(budget) * path.total)
    above = excess > slack
    crossings = int(np.count_nonzero(above[1:] != above[:-1]))
    if not above.any():
        return Crossing(0.0, 0.0, 0, False, True, crossings)
    last = first_within(excess, slack) - 1
    if last == above.size - 1:
        return Crossing(np.inf, 0.0, last, False, False, crossings)
    if path.needs_match and np.isnan(path.denominator[last + 1 :]).all():
        # What costs less is never seen: some arm, mostly the cheapest, has no rows.
        return Crossing(float(path.alpha[last]), 0.0, last, False, False, crossings)
    high, low = float(excess[last]), min(float(excess[last + 1]), 0.0)
    # Of a mixture with share s the excess is low + (high - low - bend) s + bend s^2: the model's
    # sums and the matched weight both change with s, and are multiplied.
    bend = 0.0
    if path.expected is not None and not known:
        rise = path.expected_spend[last] - path.expected_spend[last + 1]
        bend = float(rise * (path.weight[last] - path.weight[last + 1])) / path.total
    slope = high - low - bend
    root = np.sqrt(slope * slope - 4.0 * bend * low)
    # The same root, written so that nothing cancels; slope <= 0 leaves bend >= high > 0.
    share = -2.0 * low / (slope + root) if slope > 0.0 else (root - slope) / (2.0 * bend)
    return Crossing(float(path.alpha[last + 1]), float(share), last + 1, True, True, crossings)


def _intervals(predictions: Predictions, treatment: npt.NDArray[np.int32]) -> tuple[Floats, Floats]:
    n = treatment.size
    lower, upper = np.empty(n), np.empty(n)
    for first in range(0, n, BLOCK_ROWS):
        block = slice(first, first + BLOCK_ROWS)
        found = match_intervals(
            predictions.response[block], predictions.cost[block], treatment[block]
        )
        lower[block], upper[block] = found.lower.numpy(), found.upper.numpy()
    return lower, upper
