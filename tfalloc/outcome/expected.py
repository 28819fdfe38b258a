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

import tensorflow as tf

from tfalloc.outcome.algorithm1 import bisect, check_search, make_grid, round_up_to_power_of_two
from tfalloc.outcome.batch import Tensor, as_batch, as_budget
from tfalloc.outcome.crossing import last_above
from tfalloc.outcome.curve import sweep
from tfalloc.outcome.estimators import (
    COST,
    RESPONSE,
    BranchTest,
    Estimator,
    Outcomes,
    make_estimator,
)
from tfalloc.outcome.intervals import MatchIntervals

METHODS = ("bisection", "nary", "path")


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
        False if no row is matched.
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
    outcome_model: tuple[Tensor, Tensor] | None = None,
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
        Eq. 5 and 6 whatever the propensities; "ht", Horvitz-Thompson; "doubly_robust", the mean of
        `outcome_model` under the assigned arms plus Hajek's estimate of its residuals: consistent
        if the propensities *or* the model are right, and the less noisy the better the model.
      outcome_model: (response, cost) expected of every row under every arm, each
        [batch, num_treatments], in the units of `response` and `cost`; "doubly_robust" only. From
        a frozen model that has not seen these rows (cross-fitted): residuals of rows that it was
        fitted to are too small, and the estimate keeps its optimism.
      num_points: points a round of nary.

    Returns:
      `ExpectedOutcome`. An empty matched set and a search that does not converge are data
      (`num_matched`, `converged`), not exceptions.

    Raises:
      ValueError: if shapes do not fit, a name is unknown, the budget is not one finite number,
        `outcome_model` is missing or not wanted; outside of graphs also if an outcome is not
        finite, a treatment out of range or a propensity not above 0.

    Example:
      >>> import tfalloc
      >>> v, c = [[0.1, 0.3], [0.2, 0.25], [0.1, 0.2]], [[0.0, 1.0]] * 3
      >>> q = tfalloc.outcome.expected_outcome(
      ...     v, c, [1, 0, 0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0], budget=0.5, method="path"
      ... )
      >>> round(float(q.response), 3), round(float(q.alpha), 3), int(q.num_matched)
      (0.5, 0.05, 2)
      >>> model = [[0.0, 0.5], [0.25, 0.25], [0.0, 0.0]], [[0.0, 1.0]] * 3
      >>> args = v, c, [1, 0, 0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]
      >>> q = tfalloc.outcome.expected_outcome(
      ...     *args, budget=0.5, method="path", estimator="doubly_robust", outcome_model=model
      ... )
      >>> round(float(q.alpha), 3)  # at .05 the last row, unmatched, still costs 1 by the model
      0.1

    Source: Yan et al. 2023, Eq. 5, 6 and Algorithm 1.
    """
    _check(method, alpha_max, max_iterations, tolerance, num_points)
    with tf.name_scope("expected_outcome"):
        by = make_estimator(
            estimator,
            as_batch(pred_response, pred_cost, treatment, response, cost, propensity),
            propensity=propensity,
            outcome_model=outcome_model,
        )
        return outcome_of(
            by,
            as_budget(budget),
            method=method,
            alpha_max=alpha_max,
            max_iterations=max_iterations,
            tolerance=tolerance,
            num_points=num_points,
        )


def outcome_of(
    by: Estimator,
    budget: tf.Tensor,
    *,
    method: str = "bisection",
    alpha_max: float | None = None,
    max_iterations: int = 18,
    tolerance: float = 0.0,
    num_points: int = 15,
) -> ExpectedOutcome:
    """`expected_outcome` of what is converted and checked already; budget: scalar float64."""
    intervals = by.intervals()
    test = BranchTest(by, budget)
    crossings = _path(intervals, test)
    if method == "path":
        found = crossings.answer
    else:
        if alpha_max is None:
            top = test.alpha_max(intervals)
        else:
            top = round_up_to_power_of_two(alpha_max)
        if method == "bisection":
            found = _bisection(intervals, test, top, max_iterations, tolerance)
        else:
            found = _nary(intervals, test, top, max_iterations, tolerance, num_points)
    outcomes = Outcomes(by)
    mean_response, mean_cost, num_matched = outcomes.over(found.matched)
    return ExpectedOutcome(
        response=mean_response.total,
        cost=mean_cost.total,
        alpha=found.alpha,
        num_matched=num_matched,
        num_crossings=crossings.count,
        converged=found.converged & (num_matched > 0),
        response_stderr=outcomes.stderr(found.matched, RESPONSE, mean_response),
        cost_stderr=outcomes.stderr(found.matched, COST, mean_cost),
    )


class _Answer(NamedTuple):
    """Where a search ended; matched: which of the estimator's terms count there."""

    alpha: tf.Tensor
    matched: tf.Tensor
    converged: tf.Tensor


def _bisection(
    intervals: MatchIntervals,
    test: BranchTest,
    alpha_max: tf.Tensor,
    iterations: int,
    tolerance: float,
) -> _Answer:
    grid = make_grid(alpha_max, iterations)
    ticks = grid.intervals(intervals)
    run = bisect(
        lambda tick: test.over(ticks.contain(tick)),
        grid,
        test.units,
        tolerance=tolerance,
        like=tf.zeros((), grid.dtype),
    )
    return _Answer(grid.alpha(run.tick), ticks.contain(run.tick), run.converged)


def _nary(
    intervals: MatchIntervals,
    test: BranchTest,
    alpha_max: tf.Tensor,
    iterations: int,
    tolerance: float,
    num_points: int,
) -> _Answer:
    """n evenly spaced points a round; the bracket ends at the first one not above the budget."""
    share = tf.range(1, num_points + 1, dtype=tf.float64) / (num_points + 1.0)
    rounds = math.ceil(iterations / math.log2(num_points + 1))

    def first(flags: tf.Tensor, otherwise: int) -> tf.Tensor:
        index = tf.range(num_points)
        return tf.reduce_min(tf.where(flags, index, otherwise))

    def body(low, high, answer, done):
        points = low + (high - low) * share
        excess, weight = test.over(intervals.contains(points[:, tf.newaxis]))
        hit = first(test.units.close(excess, weight, tolerance), num_points)
        stop = first(
            ~test.units.above(excess, weight), num_points
        )  # the first point that is not above
        bracket = tf.concat([low[tf.newaxis], points, high[tf.newaxis]], axis=0)
        # A hit past the end of the bracket is not where the search is.
        done = hit < tf.minimum(stop + 1, num_points)
        answer = tf.gather(points, tf.where(done, hit, tf.minimum(stop, num_points - 1)))
        return tf.gather(bracket, stop), tf.gather(bracket, stop + 1), answer, done

    zero = tf.zeros((), tf.float64)
    _, _, answer, done = tf.while_loop(
        lambda low, high, answer, done: ~done,
        body,
        (zero, alpha_max, zero, tf.constant(False)),
        maximum_iterations=rounds,
    )
    return _Answer(answer, intervals.contains(answer), done)


class _Path(NamedTuple):
    answer: _Answer
    count: tf.Tensor


def _path(intervals: MatchIntervals, test: BranchTest) -> _Path:
    """The last place where C is above the budget, on the exact curve; and how often it crosses."""
    alphas, sums = sweep(intervals, tf.stack(test.columns, axis=1))
    above = test.units.above(*test.of(tf.unstack(sums, axis=1)))
    last, here = last_above(above)
    alpha = tf.gather(alphas, here)
    just_above = (intervals.lower <= alpha) & (alpha < intervals.upper)
    at_zero = intervals.contains(tf.zeros((), tf.float64))
    return _Path(
        _Answer(
            alpha, tf.where(last < 0, at_zero, just_above), converged=last < tf.size(alphas) - 1
        ),
        count=tf.reduce_sum(tf.cast(above[1:] != above[:-1], tf.int32)),
    )


def _check(
    method: str,
    alpha_max: float | None,
    max_iterations: int,
    tolerance: float,
    num_points: int,
) -> None:
    if method not in METHODS:
        raise ValueError(f"method={method!r} is not known; expected one of {METHODS}.")
    check_search(alpha_max, max_iterations, tolerance)
    if num_points < 1:
        raise ValueError(f"num_points={num_points!r}: expected at least 1 point a round.")
