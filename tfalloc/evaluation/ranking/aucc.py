"""The area under the cost curve: how well a score ranks users by response per unit of cost.

Rows sorted by score, descending, arm sizes N_t of the whole set: for a prefix k

    dC(k) = sum_{i<=k, treated} cost_i / N_T - sum_{i<=k, control} cost_i / N_C
    dR(k) = the same with response

and AUCC is the area under the curve (dC(k) / dC(n), dR(k) / dR(n)): .5 for a random score. A group
of tied rows adds w z / N_t to dC and w y / N_t to dR, with the sign of its side of the upgrade
(`order`), w the weights of rows and N_t their sum over arm t of the whole trial.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tfalloc._warn import warn
from tfalloc.evaluation.compare import difference_columns
from tfalloc.evaluation.influence import group_means, standard_error
from tfalloc.evaluation.ranking.bootstrap import (
    MAX_GROUPS,
    RankMetric,
    Resampler,
    as_num_bootstrap,
    interval,
)
from tfalloc.evaluation.ranking.order import Ranking, as_scores, scored_rows
from tfalloc.evaluation.trial_rows import Floats, Rows, as_count, check_confidence, outcomes_of

METHODS = ("paper", "trapezoid")

# A step this close (relative to the whole cost) to a prefix is reached: rounding of running sums.
ROUNDING = 1e-10
# A ratio to an uplift of fewer standard errors than this has a distribution with heavy tails: its
# interval, of bootstrap replicates some of which divide by next to nothing, is not to be trusted.
CLEAR = 4.0
# More than this share of the thresholds without a row of its own is worth a warning.
LOST = 0.05


def aucc(
    score: npt.ArrayLike,
    data: Any,
    *,
    num_thresholds: int = 200,
    method: str = "paper",
    num_bootstrap: int = 0,
    cluster: Any = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> RankMetric:
    """Area under the cost curve, response uplift against cost uplift, of a ranking of users.

        "paper"      q = num_thresholds equal steps of dC(n) / q; dR_k is dR at the first prefix at
                     which dC reaches step k, dR_0 = 0, dR_q = dR(n):
                     AUCC = sum_{k=0..q} dR_k / (dR(n) (q + 1))
        "trapezoid"  sum_k (dC(k) - dC(k-1)) (dR(k) + dR(k-1)) / (2 dC(n) dR(n))

    **q is part of the number**: compare only figures of the same q and method. AUCC is not bounded
    by 1, is no amount of anything, and weighs all budgets alike; `compare` says what a policy
    brings at *your* budget. Rows of equal score count as if in random order, by a straight line
    through m of them in m steps, so the result does not depend on the order of rows.

    Several arms (MT-AUCC): the upgrades from each arm to the next are pooled in one ranking. A row
    that received arm t is a treated row of the upgrade t - 1 to t, with the score of that upgrade,
    and a control row of t to t + 1; its outcomes are divided by N_t. Arms go from cheap to dear.

    Args:
      score: [rows], higher ranks first; [rows, num_treatments - 1] for several arms; `aucc_score`
        makes one of predictions. Infinite scores are allowed.
      data: trial rows, as for `policy_outcome`. With sample weights s or propensities p a row
        counts s / p times, also in N_t.
      num_thresholds: q of "paper", at least 2; and points of `curve`.
      method: "paper" or "trapezoid".
      num_bootstrap: replicates for interval and standard error; 0: none. 200 do.
      cluster: as for `policy_outcome`: whole clusters are drawn.
      confidence: level of the interval.
      seed: seeds the bootstrap.

    Returns:
      `RankMetric`, with the curve's columns threshold (share of dC(n)), response (share of dR(n))
      and random. In a replicate neighbouring scores beyond 16,384 groups are pooled.

    Raises:
      ValueError: input does not fit; the arms' costs differ by nothing or the wrong way, or their
        responses do: there is no curve then.

    Warns:
      UserWarning: the data are too small for the thresholds, or for dC(n) or dR(n) to be told from
        0 by four standard errors.

    Example:
      >>> import numpy as np
      >>> from tfalloc.evaluation import aucc
      >>> rng = np.random.default_rng(0)
      >>> worth, arm = rng.random(20_000), rng.integers(0, 2, 20_000)
      >>> trial = {"treatment": arm, "cost": arm, "response": rng.random(20_000) < worth * arm}
      >>> bool(abs(aucc(worth, trial).value - 2 / 3) < 0.02)  # the integral of 2 s - s^2
      True

    Source: Du, Lee, Ghaffarizadeh, "Improve User Retention with Causal Learning", 2019; several
    arms: Zhou et al., "Direct Heterogeneous Causal Learning for Resource Allocation", 2023.
    """
    curves = CostCurves(data, num_thresholds, method, cluster)
    check_confidence(confidence)
    replicates = as_num_bootstrap(num_bootstrap)
    scores = as_scores(score)
    rows = curves.rows_of(scores)
    value, points = curves.estimate(scores, rows)
    found = curves.replicates([scores], rows, replicates, seed)[0]
    share = np.linspace(0.0, 1.0, points.size)
    return RankMetric(
        value=value,
        **interval(value, found, confidence),
        random=0.5,
        response_uplift=uplift_of(rows.response, rows)[0],
        cost_uplift=uplift_of(rows.cost, rows)[0],
        curve=pd.DataFrame({"threshold": share, "response": points, "random": share}),
        confidence=confidence,
        num_bootstrap=replicates,
    )


def compare_aucc(
    scores: Mapping[str, npt.ArrayLike],
    data: Any,
    *,
    reference: str | None = None,
    num_thresholds: int = 200,
    method: str = "paper",
    num_bootstrap: int = 200,
    cluster: Any = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """AUCC of several scores on the same rows, and paired differences to a reference.

    All scores are judged on the same bootstrap replicates, so what they share cancels: on millions
    of rows the difference of two AUCCs is known several times better than either.

    Args:
      scores: {name: score}, each as for `aucc`.
      data: trial rows; the same for all.
      reference: name of the score to compare with; None: the first.
      num_thresholds, method, cluster, confidence, seed: as for `aucc`.
      num_bootstrap: replicates, at least 20.

    Returns:
      One row per score, in the given order, index "model": aucc, low, high, stderr, difference,
      difference_low, difference_high, difference_stderr, p_value (two-sided, normal, of no
      difference; not corrected for several comparisons). The reference has NaN differences.

    Raises:
      ValueError: as `aucc`, no score is given, or the reference is not among them.

    Example:
      >>> import numpy as np
      >>> from tfalloc.evaluation import compare_aucc
      >>> rng = np.random.default_rng(0)
      >>> worth, arm = rng.random(5_000), rng.integers(0, 2, 5_000)
      >>> trial = {"treatment": arm, "cost": arm, "response": rng.random(5_000) < worth * arm}
      >>> table = compare_aucc({"noise": rng.random(5_000), "good": worth}, trial)
      >>> bool(table.p_value["good"] < 0.001)
      True
    """
    if not scores:
        raise ValueError("scores is empty; expected {name: score}.")
    first = next(iter(scores)) if reference is None else reference
    if first not in scores:
        raise ValueError(
            f"reference={reference!r} is not among the scores {list(scores)}; expected one of them."
        )
    check_confidence(confidence)
    replicates = as_num_bootstrap(num_bootstrap, least=20)
    curves = CostCurves(data, num_thresholds, method, cluster)
    columns: list[Floats] = []
    values = []
    for name, given in scores.items():
        try:
            columns.append(as_scores(given))
            rows = curves.rows_of(columns[-1])
            values.append(curves.estimate(columns[-1], rows)[0])
        except ValueError as error:
            raise ValueError(f"score {name!r}: {error}") from error
    found = curves.replicates(columns, rows, replicates, seed)
    base = list(scores).index(first)
    table = []
    for i, value in enumerate(values):
        gap = value - values[base] if i != base else np.nan
        spread = interval(gap, found[i] - found[base], confidence)["stderr"]
        table.append(
            {"aucc": value}
            | interval(value, found[i], confidence)
            | difference_columns(gap, spread if i != base else np.nan, confidence)
        )
    return pd.DataFrame(table, index=pd.Index(list(scores), name="model"))


class CostCurves:
    """Cost curves of scores on one trial.

    Args:
      data, num_thresholds, method, cluster: as for `aucc`.
    """

    def __init__(self, data: Any, num_thresholds: int, method: str, cluster: Any):
        if method not in METHODS:
            raise ValueError(f"method={method!r} is not known; expected one of {METHODS}.")
        self._data, self._cluster = outcomes_of(data, cluster), cluster
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
    means, psi = group_means(x, rows.weight, rows.treatment, len(rows.names))
    side = np.zeros(means.size)
    side[0], side[-1] = -1.0, 1.0
    return float(means[-1] - means[0]), standard_error(side[rows.treatment] * psi, rows)


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
