"""The expected outcome Q of the assignment under a budget (Algorithm 1), three ways.

    Q(v, c) = V(alpha*),   alpha* such that C(alpha*) meets the budget

C(alpha) estimated from a trial is a noisy step function that may cross the budget many times, so
"the" alpha* needs a definition, and each method has its own, exact to the last tie:

    bisection   Algorithm 1 to the letter: V at the last midpoint
    nary        n points a round; the bracket is the first point that is not above the budget
    path        the smallest alpha above which C never exceeds the budget; V just above it
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfalloc.outcome._trial import Tensor, Trial, as_float64, as_trial
from tfalloc.outcome.bisection import bisect
from tfalloc.outcome.curve import sweep
from tfalloc.outcome.exact import Terms, ratio, to_fixed_point
from tfalloc.outcome.intervals import MatchIntervals, match_intervals
from tfalloc.outcome.ticks import default_alpha_max, make_grid, round_up_to_power_of_two

METHODS = ("bisection", "nary", "path")
ESTIMATORS = ("hajek", "matched", "ht")


class ExpectedOutcome(NamedTuple):
    """The outcome of the budgeted assignment, scalars.

    Attributes:
      response: expected response per user (Q); NaN if no row is matched.
      cost: expected cost per user at `alpha`; NaN if no row is matched.
      alpha: shadow price, response per unit of cost.
      num_matched: rows whose trial treatment is the assigned one.
      num_crossings: how often C(alpha) crosses the budget on alpha >= 0; 1 on a clean problem, and
        many where the trial is too small to fix alpha.
      converged: bisection and nary: |cost - budget| <= tolerance; path: the budget is feasible.
      response_stderr: standard error of `response` at this alpha, by the influence function.
      cost_stderr: standard error of `cost` at this alpha.
    """

    response: tf.Tensor
    cost: tf.Tensor
    alpha: tf.Tensor
    num_matched: tf.Tensor
    num_crossings: tf.Tensor
    converged: tf.Tensor
    response_stderr: tf.Tensor
    cost_stderr: tf.Tensor


def expected_outcome(
    pred_response: Tensor,
    pred_cost: Tensor,
    treatment: Tensor,
    response: Tensor,
    cost: Tensor,
    propensity: Tensor | None = None,
    *,
    budget: Tensor,
    method: str = "bisection",
    alpha_max: float | None = None,
    max_iterations: int = 18,
    tolerance: float = 0.0,
    estimator: str = "hajek",
    num_points: int = 15,
) -> ExpectedOutcome:
    """Expected response per user when a budget is spent as the predictions say.

    Args:
      pred_response: [batch, num_treatments], predicted response v.
      pred_cost: [batch, num_treatments], predicted cost c, per user.
      treatment: [batch], integers in [0, num_treatments).
      response: [batch], observed response.
      cost: [batch], observed cost, per user.
      propensity: [batch], probability of the received treatment; None: all the same.
      budget: scalar, cost per user.
      method: "bisection", "nary" or "path".
      alpha_max: largest shadow price of bisection and nary, rounded up to a power of two; None:
        the smallest power of two from which on the matched cost is not above the budget.
      max_iterations: halvings of bisection, at most 52; nary takes as many rounds as reach the
        same resolution.
      tolerance: bisection and nary stop when |C - budget| is at most this, in cost per user.
      estimator: "hajek", ratio of sums weighted by 1 / propensity; "matched", the plain means of
        Eq. 5 and 6 whatever the propensities; "ht", Horvitz-Thompson.
      num_points: points a round of nary.

    Returns:
      `ExpectedOutcome`. An empty matched set and a search that does not converge are data
      (`num_matched`, `converged`), not exceptions.

    Raises:
      ValueError: if shapes do not fit, a name is unknown, or the budget is not finite.

    Example:
      >>> import tfalloc
      >>> v, c = [[0.1, 0.3], [0.2, 0.25], [0.1, 0.2]], [[0.0, 1.0]] * 3
      >>> q = tfalloc.outcome.expected_outcome(
      ...     v, c, [1, 0, 0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0], budget=0.5, method="path"
      ... )
      >>> round(float(q.response), 3), round(float(q.alpha), 3), int(q.num_matched)
      (0.5, 0.05, 2)

    Source: Yan et al. 2023, Eq. 5, 6 and Algorithm 1.
    """
    _check(method, estimator, budget, alpha_max, max_iterations, tolerance, num_points)
    with tf.name_scope("expected_outcome"):
        if estimator == "matched":
            propensity = None
        trial = as_trial(pred_response, pred_cost, treatment, response, cost, propensity)
        if estimator == "ht" and propensity is None:
            arms = tf.cast(tf.shape(trial.value)[1], tf.float64)
            trial = trial._replace(weight=trial.weight * arms)
        budget = as_float64(budget)
        rows = match_intervals(trial.value, trial.price, trial.treatment)
        sums = _Sums(trial, budget, estimator)
        crossings = _path(rows, sums)
        if method == "path":
            alpha, matched, converged = crossings.alpha, crossings.matched, crossings.feasible
        else:
            if alpha_max is None:
                top = default_alpha_max(rows, sums.terms.excess, sums.offset)
            else:
                top = round_up_to_power_of_two(alpha_max)
            if method == "bisection":
                alpha, matched, converged = _bisection(trial, sums, top, max_iterations, tolerance)
            else:
                alpha, converged = _nary(rows, sums, top, max_iterations, tolerance, num_points)
                matched = rows.contains(alpha)
        return _summarise(trial, sums, matched, alpha, converged, crossings.count)


class _Sums:
    """Exact sums of one estimator: C is above the budget iff sum over S of excess > offset."""

    def __init__(self, trial: Trial, budget: tf.Tensor, estimator: str):
        self.horvitz_thompson = estimator == "ht"
        w, y, z = trial.weight, trial.response, trial.cost
        self.size = tf.cast(tf.size(w), tf.float64)
        excess, excess_unit = to_fixed_point(w * z if self.horvitz_thompson else w * (z - budget))
        weight, weight_unit = to_fixed_point(w)
        value, value_unit = to_fixed_point(w * y)
        self.terms = Terms(excess, weight, value, excess_unit, weight_unit, value_unit)
        # Horvitz-Thompson divides by the number of rows, matched or not.
        self.offset = (
            tf.cast(tf.round(self.size * budget / excess_unit), tf.int64)
            if self.horvitz_thompson
            else tf.zeros((), tf.int64)
        )
        self.whole = tf.cast(tf.round(self.size / weight_unit), tf.int64)

    def over(self, matched: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(excess, weight) over matched rows, [..., B] bool -> [...]."""
        member = tf.cast(matched, tf.int64)
        excess = tf.reduce_sum(member * self.terms.excess, axis=-1) - self.offset
        if self.horvitz_thompson:
            return excess, tf.zeros_like(excess) + self.whole
        return excess, tf.reduce_sum(member * self.terms.weight, axis=-1)


def _bisection(
    trial: Trial, sums: _Sums, alpha_max: tf.Tensor, iterations: int, tolerance: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    grid = make_grid(alpha_max, iterations)
    ticks = grid.intervals(trial)
    run = bisect(
        lambda tick: sums.over(ticks.contain(tick)),
        grid,
        sums.terms,
        tolerance=tolerance,
        like=tf.zeros((), grid.dtype),
    )
    return grid.alpha(run.tick), ticks.contain(run.tick), run.converged


def _nary(
    rows: MatchIntervals,
    sums: _Sums,
    alpha_max: tf.Tensor,
    iterations: int,
    tolerance: float,
    num_points: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """n evenly spaced points a round; the bracket ends at the first one not above the budget."""
    share = tf.range(1, num_points + 1, dtype=tf.float64) / (num_points + 1.0)
    rounds = math.ceil(iterations / math.log2(num_points + 1))
    limit = tolerance * sums.terms.weight_unit / sums.terms.excess_unit

    def first(flags: tf.Tensor, otherwise: int) -> tf.Tensor:
        index = tf.range(num_points)
        return tf.reduce_min(tf.where(flags, index, otherwise))

    def body(low, high, answer, done):
        points = low + (high - low) * share
        excess, weight = sums.over(rows.contains(points[:, tf.newaxis]))
        gap = tf.cast(tf.abs(excess), tf.float64)
        close = (weight > 0) & (gap <= limit * tf.cast(weight, tf.float64))
        hit = first(close, num_points)
        stop = first(excess <= 0, num_points)  # the first point that is not above
        bracket = tf.concat([low[tf.newaxis], points, high[tf.newaxis]], axis=0)
        last = tf.minimum(stop, num_points - 1)
        answer = tf.gather(points, tf.where(hit < num_points, tf.minimum(hit, last), last))
        return (
            tf.gather(bracket, stop),
            tf.gather(bracket, stop + 1),
            answer,
            hit < num_points,
        )

    zero = tf.zeros((), tf.float64)
    _, _, answer, done = tf.while_loop(
        lambda low, high, answer, done: ~done,
        body,
        (zero, alpha_max, zero, tf.constant(False)),
        maximum_iterations=rounds,
    )
    return answer, done


class _Path(NamedTuple):
    alpha: tf.Tensor
    matched: tf.Tensor
    feasible: tf.Tensor
    count: tf.Tensor


def _path(rows: MatchIntervals, sums: _Sums) -> _Path:
    """The last place where C is above the budget, on the exact curve."""
    alphas, totals = sweep(rows, tf.stack([sums.terms.excess, sums.terms.weight], axis=1))
    above = totals[:, 0] > sums.offset
    size = tf.size(alphas)
    last = tf.reduce_max(tf.where(above, tf.range(size), -1))
    # After a point comes its own open interval; after an open interval, the next breakpoint's.
    here = tf.where(last < 0, 0, tf.minimum(last + 1 + last % 2, size - 1))
    alpha = tf.gather(alphas, here)
    just_above = (rows.lower <= alpha) & (alpha < rows.upper)
    at_zero = rows.contains(tf.zeros((), tf.float64))
    return _Path(
        alpha=alpha,
        matched=tf.where(last < 0, at_zero, just_above),
        feasible=last < size - 1,
        count=tf.reduce_sum(tf.cast(above[1:] != above[:-1], tf.int32)),
    )


def _summarise(
    trial: Trial,
    sums: _Sums,
    matched: tf.Tensor,
    alpha: tf.Tensor,
    converged: tf.Tensor,
    num_crossings: tf.Tensor,
) -> ExpectedOutcome:
    """Point estimates from exact sums; standard errors by influence functions.

    Hajek: the influence of row i on V is w_i 1{i in S} (y_i - V) / sum over S of w.
    Horvitz-Thompson: (w_i 1{i in S} y_i - V) / N.
    """
    member = tf.cast(matched, tf.int64)
    count = tf.reduce_sum(member)
    weight = trial.weight * tf.cast(matched, tf.float64)
    total = sums.whole if sums.horvitz_thompson else tf.reduce_sum(member * sums.terms.weight)
    total = tf.where(count > 0, total, tf.zeros_like(total))

    def estimate(outcome: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        fixed, unit = to_fixed_point(trial.weight * outcome)
        mean = ratio(tf.reduce_sum(member * fixed), unit, total, sums.terms.weight_unit)
        if sums.horvitz_thompson:
            influence = (weight * outcome - mean) / sums.size
        else:
            influence = weight * (outcome - mean) / tf.reduce_sum(weight)
        return mean, tf.sqrt(tf.reduce_sum(influence**2))

    response, response_stderr = estimate(trial.response)
    cost, cost_stderr = estimate(trial.cost)
    return ExpectedOutcome(
        response, cost, alpha, count, num_crossings, converged, response_stderr, cost_stderr
    )


def _check(
    method: str,
    estimator: str,
    budget: Tensor,
    alpha_max: float | None,
    max_iterations: int,
    tolerance: float,
    num_points: int,
) -> None:
    if method not in METHODS:
        raise ValueError(f"method={method!r} is not known; expected one of {METHODS}.")
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator={estimator!r} is not known; expected one of {ESTIMATORS}.")
    if not tf.is_symbolic_tensor(budget) and not np.all(np.isfinite(np.asarray(budget))):
        raise ValueError(
            f"budget={budget!r}: expected a finite cost per user; for an unlimited budget pass one "
            "above the cost of the dearest assignment."
        )
    if alpha_max is not None and not 0.0 < alpha_max < math.inf:
        raise ValueError(
            f"alpha_max={alpha_max!r}: expected a positive, finite shadow price, or None."
        )
    if not 1 <= max_iterations <= 52:
        raise ValueError(f"max_iterations={max_iterations!r}: expected 1 to 52 halvings.")
    if not tolerance >= 0.0:
        raise ValueError(f"tolerance={tolerance!r}: expected a number that is not negative.")
    if num_points < 1:
        raise ValueError(f"num_points={num_points!r}: expected at least 1 point a round.")
