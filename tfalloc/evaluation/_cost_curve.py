"""Cost curves of scores on one trial: increments by groups of rows, areas, bootstrap replicates.

A group of rows adds w z / N_t to dC and w y / N_t to dR, with the sign of its side of the upgrade
(`_ranking`), w the weights of rows and N_t their sum over arm t of the whole trial. The definitions
are those of `aucc`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tfalloc._warn import warn
from tfalloc.evaluation._checks import as_count
from tfalloc.evaluation._influence import standard_error
from tfalloc.evaluation._ranking import Ranking, scored_rows
from tfalloc.evaluation._resampling import MAX_GROUPS, Resampler
from tfalloc.evaluation._rows import Floats, Rows

METHODS = ("paper", "trapezoid")

# A step this close (relative to the whole cost) to a prefix is reached: rounding of running sums.
ROUNDING = 1e-10
# A ratio to an uplift of fewer standard errors than this has a distribution with heavy tails: its
# interval, of bootstrap replicates some of which divide by next to nothing, is not to be trusted.
CLEAR = 4.0
# More than this share of the thresholds without a row of its own is worth a warning.
LOST = 0.05


class CostCurves:
    """Cost curves of scores on one trial.

    Args:
      data, num_thresholds, method, cluster: as for `aucc`.
    """

    def __init__(self, data: Any, num_thresholds: int, method: str, cluster: Any):
        if method not in METHODS:
            raise ValueError(f"method={method!r} is not known; expected one of {METHODS}.")
        self._data, self._cluster = data, cluster
        self._steps, self._method = as_count("num_thresholds", num_thresholds, 2), method
        self._rows: Rows | None = None
        self._columns = 0

    def rows_of(self, scores: Floats) -> Rows:
        """The trial, read once; it has been refused if there is no curve to speak of.

        Raises:
          ValueError: it does not fit the scores, or dC(n) or dR(n) is not positive.
        """
        if self._rows is None or scores.shape != (self._rows.treatment.size, self._columns):
            self._rows = scored_rows(scores, self._data, self._cluster)
            self._columns = scores.shape[1]
            _check_uplifts(self._rows)
        return self._rows

    def estimate(self, scores: Floats, rows: Rows) -> tuple[float, Floats]:
        """AUCC, and dR at the q + 1 thresholds as shares of dR(n)."""
        ranking = Ranking(scores, rows.treatment, _moves(rows))
        sizes = rows.arm_totals(rows.weight)
        side = (
            np.where(ranking.treated, 1.0, -1.0)
            * (rows.weight / sizes[rows.treatment])[ranking.row]
        )
        cost = ranking.sums(side * rows.cost[ranking.row])
        response = ranking.sums(side * rows.response[ranking.row])
        points, where = thresholds(cost, response, ranking.size, self._steps)
        lost = self._steps - 1 - np.unique(where, axis=0).shape[0]
        if self._method == "paper" and lost > LOST * self._steps:
            warn(
                f"{lost} of {self._steps} cost thresholds fall on rows that others fall on: too "
                "few rows with costs for so many; lower num_thresholds, and compare figures of the "
                "same num_thresholds only."
            )
        if self._method == "paper":
            return float(points.mean()), points
        return trapezoid(cost, response), points

    def replicates(self, scores: list[Floats], rows: Rows, num: int, seed: int) -> Floats:
        """Bootstrap replicates of AUCC, [scores, num], all scores on the same draws."""
        found = np.full((len(scores), num), np.nan)
        if not num:
            return found
        resampler = Resampler(rows, _moves(rows), seed)
        orders = []
        for score in scores:
            ranking = Ranking(score, rows.treatment, _moves(rows)).coarser(MAX_GROUPS)
            side = np.where(ranking.treated, 1.0, -1.0) * rows.weight[ranking.row]
            orders.append(
                (
                    ranking,
                    resampler.unit[ranking.row],
                    rows.treatment[ranking.row],
                    side * rows.cost[ranking.row],
                    side * rows.response[ranking.row],
                )
            )
        width = max(unit.size for _, unit, *_ in orders)
        done = 0
        for counts, sizes in resampler.draws(num, width):
            # Of a few clusters a replicate may draw none that has an arm: there is no curve then.
            scale = np.divide(1.0, sizes, out=np.full_like(sizes, np.nan), where=sizes > 0.0)
            for i, (ranking, unit, arm, cost, response) in enumerate(orders):
                factor = counts[:, unit] * scale[:, arm]
                found[i, done : done + len(counts)] = self._areas(
                    ranking.sums(factor * cost), ranking.sums(factor * response), ranking.size
                )
            done += len(counts)
        return found

    def _areas(self, cost: Floats, response: Floats, size: npt.NDArray[np.intp]) -> list[float]:
        areas = []
        for c, r in zip(cost, response, strict=True):
            if not (c.sum() > 0.0 and r.sum() != 0.0):
                areas.append(np.nan)
            elif self._method == "paper":
                areas.append(float(thresholds(c, r, size, self._steps)[0].mean()))
            else:
                areas.append(trapezoid(c, r))
        return areas


def uplift_of(x: Floats, rows: Rows) -> tuple[float, float]:
    """Mean of x [N] in the last arm less that in the first, and its standard error."""
    sizes = rows.arm_totals(rows.weight)
    means = rows.arm_totals(rows.weight * x) / sizes
    side = np.zeros(sizes.size)
    side[0], side[-1] = -1.0, 1.0
    psi = (side / sizes)[rows.treatment] * rows.weight * (x - means[rows.treatment])
    return float(means[-1] - means[0]), standard_error(psi, rows)


def warn_if_unclear(what: str, uplift: float, stderr: float, metric: str) -> None:
    """Warns if what a metric divides by is not clear of 0."""
    if abs(uplift) < CLEAR * stderr:
        warn(
            f"the {what}, {uplift:.3g}, is within {CLEAR:g} standard errors ({stderr:.2g}) of 0, "
            f"and {metric} divides by it: neither it nor its interval means much on these rows; "
            "take more, or judge the policy by compare."
        )


def thresholds(
    cost: Floats, response: Floats, size: npt.NDArray[np.intp], steps: int
) -> tuple[Floats, npt.NDArray[np.intp]]:
    """dR where dC first reaches each of `steps` equal parts of dC(n), as shares of dR(n).

    A group of m tied rows is a straight line walked in m steps.

    Args:
      cost, response: [G], what each group adds to dC and dR.
      size: [G], rows of each group.
      steps: q.

    Returns:
      [q + 1], from 0 to 1; and [q - 1, 2], group and step within it of each inner threshold.
    """
    total = cost.cumsum()
    gained = response.cumsum()
    levels = total[-1] * (np.arange(1, steps) / steps - ROUNDING)
    group = np.searchsorted(np.maximum.accumulate(total), levels)
    part, m = cost[group], size[group]
    # The threshold is first reached in this group, so part > 0.
    step = np.clip(np.ceil(m * (1.0 - (total[group] - levels) / part)), 1, m)
    points = gained[group] - response[group] * (1.0 - step / m)
    inner = points / gained[-1]
    return np.concatenate([[0.0], inner, [1.0]]), np.stack([group, step.astype(np.intp)], axis=1)


def trapezoid(cost: Floats, response: Floats) -> float:
    """Area under (dC / dC(n), dR / dR(n)) from what each group adds, [G] each."""
    gained = response.cumsum()
    return float(cost @ (gained - 0.5 * response) / (cost.sum() * gained[-1]))


def _moves(rows: Rows) -> npt.NDArray[np.bool_]:
    return (rows.response != 0.0) | (rows.cost != 0.0)


def _check_uplifts(rows: Rows) -> None:
    """Refuses totals that a curve cannot be a share of, warns of doubtful ones."""
    first, last = rows.names[0], rows.names[-1]
    cure = {
        "cost": "number the arms from cheap to dear, or judge the policy by compare",
        "response": "AUCC divides by it, so it takes more rows or a treatment that works",
    }
    outcomes = (("cost", rows.cost), ("response", rows.response))
    sides = {what: (x, *uplift_of(x, rows)) for what, x in outcomes}
    for what, (x, uplift, stderr) in sides.items():
        if uplift <= ROUNDING * float(np.abs(x).max()):
            raise ValueError(
                f"{what} per user is {uplift:.3g} (standard error {stderr:.2g}) higher in arm "
                f"{last!r} than in arm {first!r}; expected a positive difference: {cure[what]}."
            )
    for what, (_, uplift, stderr) in sides.items():
        warn_if_unclear(f"{what} uplift of arm {last!r}", uplift, stderr, "AUCC")
