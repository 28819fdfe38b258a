"""Algorithm 1: bisection for the shadow price at which the matched cost meets the budget.

    low, high = 0, alpha_max
    repeat at most I times:
        alpha = (low + high) / 2
        S     = rows whose trial treatment is the assigned one at alpha
        stop if |C - T/B| <= tolerance
        if sum over S of w (z - T/B) > 0:  low  = alpha      # too dear: raise alpha
        else:                              high = alpha
    answer alpha, and V over S, at the last midpoint

An empty S counts as "not above" and never stops the search. A cost that differs from the budget by
rounding only (`mckp.within_budget`) is equal to it, and stops the search whatever the tolerance.
How the sums at a midpoint are found (a masked sum, a table of prefix sums, a table plus one
perturbed row) is the caller's affair, so that all users of Algorithm 1 branch alike.

With alpha in [0, alpha_max] and I halvings, every midpoint is m * alpha_max / 2^I for an integer
"tick" m in [1, 2^I - 1]. Rounding interval ends to ticks once turns "is row i matched at this
midpoint?" into two integer comparisons:

    matched at tick m   iff   after < m <= until

`after` is the last tick at which some dearer arm still wins, `until` the last at which no cheaper
arm does. alpha_max is a power of two, so scaling a quotient to ticks is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tfalloc.outcome.batch import Tensor, TrialBatch, as_float64
from tfalloc.outcome.fixed_point import Terms, binary_exponent, power_of_two
from tfalloc.outcome.intervals import MatchIntervals, Rivals

# tick -> (excess, weight): exact sums over the matched set, same shape as tick.
SumsAt = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


class Bisection(NamedTuple):
    """Where Algorithm 1 stopped; all fields have the shape of the runs.

    Attributes:
      tick: the last midpoint visited; V at this tick is the answer.
      path: the binary digits of the walk: every visited midpoint can be read off it.
      visits: int32, the number of midpoints visited.
      converged: bool, whether |C - T/B| <= tolerance at `tick`.
    """

    tick: tf.Tensor
    path: tf.Tensor
    visits: tf.Tensor
    converged: tf.Tensor


def bisect(
    sums_at: SumsAt, grid: Grid, terms: Terms, *, tolerance: float, like: tf.Tensor
) -> Bisection:
    """Runs Algorithm 1, for one problem or for many at once.

    Args:
      sums_at: maps ticks to exact sums (excess, weight) over the matched rows.
      grid: the ticks.
      terms: knows the units of the sums, and what rounding leaves of a cost equal to the budget.
      tolerance: stop when |C - budget| is at most this, in cost per user.
      like: integer tensor whose shape is the shape of the runs.
    """

    # step: midpoints so far; low: lower end of the bracket; tick, visits, done: see `Bisection`.
    def body(step, low, tick, visits, done):
        half = tf.bitwise.right_shift(tf.constant(grid.size // 2, grid.dtype), step)
        middle = low + half
        excess, weight = sums_at(middle)
        hit = terms.close(excess, weight, tolerance)
        low = tf.where(~done & (hit | (excess > 0)), middle, low)
        tick = tf.where(done, tick, middle)
        visits = visits + tf.cast(~done, tf.int32)
        return step + 1, low, tick, visits, done | hit

    zero = tf.zeros_like(like, grid.dtype)
    _, low, tick, visits, done = tf.while_loop(
        lambda step, low, tick, visits, done: ~tf.reduce_all(done),
        body,
        (tf.constant(0, grid.dtype), zero, zero, tf.zeros_like(like, tf.int32), zero > 0),
        maximum_iterations=grid.iterations,
    )
    return Bisection(tick=tick, path=low, visits=visits, converged=done)


# Candidates for alpha_max=None: 2^-32 to 2^31 times the typical alpha.
_LOW_EXPONENT, _NUM_EXPONENTS = -32, 64


class TickIntervals(NamedTuple):
    """Rows are matched at ticks m with after < m <= until; integers, any common shape."""

    after: tf.Tensor
    until: tf.Tensor

    def contain(self, tick: tf.Tensor) -> tf.Tensor:
        return (self.after < tick) & (tick <= self.until)


class Grid(NamedTuple):
    """The ticks 0 .. 2^iterations of [0, alpha_max].

    Attributes:
      alpha_max: scalar float64, a power of two.
      iterations: Python int, the number of halvings I.
      dtype: integer dtype of ticks.
    """

    alpha_max: tf.Tensor
    iterations: int
    dtype: tf.DType

    @property
    def size(self) -> int:
        return 1 << self.iterations

    def alpha(self, tick: tf.Tensor) -> tf.Tensor:
        """The shadow price of a tick, exactly."""
        return tf.cast(tick, tf.float64) * (self.alpha_max / float(self.size))

    def bounds(self, versus: Rivals) -> TickIntervals:
        """What each rival alone leaves of the grid, same shape as `versus`."""
        tick = versus.quotient * (float(self.size) / self.alpha_max)
        below, above = tf.math.floor(tick), tf.math.ceil(tick) - 1.0
        zero, last = tf.constant(0.0, tf.float64), tf.constant(self.size - 1.0, tf.float64)
        after = tf.where(versus.wins_tie, above, below)
        until = tf.where(versus.wins_tie, below, above)
        after = tf.clip_by_value(after, zero, last)
        until = tf.clip_by_value(until, zero, last)
        after = tf.where(versus.dearer, after, tf.where(versus.beaten, last, zero))
        until = tf.where(versus.cheaper, until, tf.where(versus.beaten, zero, last))
        return TickIntervals(tf.cast(after, self.dtype), tf.cast(until, self.dtype))

    def intervals(self, rows: MatchIntervals) -> TickIntervals:
        """The ticks at which rows are matched, same shape as `rows`."""
        scale = float(self.size) / self.alpha_max
        lower, upper = rows.lower * scale, rows.upper * scale
        after = tf.where(rows.lower_closed, tf.math.ceil(lower) - 1.0, tf.math.floor(lower))
        until = tf.where(rows.upper_closed, tf.math.floor(upper), tf.math.ceil(upper) - 1.0)
        return TickIntervals(self._ticks(after), self._ticks(until))

    def _ticks(self, x: tf.Tensor) -> tf.Tensor:
        zero, last = tf.constant(0.0, tf.float64), tf.constant(self.size - 1.0, tf.float64)
        return tf.cast(tf.clip_by_value(x, zero, last), self.dtype)


def make_grid(alpha_max: tf.Tensor, iterations: int) -> Grid:
    """A grid of 2^iterations ticks on [0, alpha_max]."""
    return Grid(alpha_max, iterations, tf.int32 if iterations <= 30 else tf.int64)


def round_up_to_power_of_two(alpha_max: Tensor) -> tf.Tensor:
    """The smallest power of two that is not below `alpha_max` (positive)."""
    x = as_float64(alpha_max)
    floor = power_of_two(binary_exponent(x))
    return tf.where(floor < x, 2.0 * floor, floor)


def typical_alpha(pred_response: tf.Tensor, pred_cost: tf.Tensor) -> tf.Tensor:
    """Mean spread of responses over mean spread of costs; 1 where that says nothing."""

    def spread(x: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(tf.reduce_max(x, axis=1) - tf.reduce_min(x, axis=1))

    ratio = tf.math.divide_no_nan(spread(pred_response), spread(pred_cost))
    return tf.where(ratio > 0.0, ratio, tf.ones_like(ratio))


def default_alpha_max(
    sums_at: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]], terms: Terms, trial: TrialBatch
) -> tf.Tensor:
    """The smallest power of two from which on the matched cost is not above the budget.

    "From which on" looks at powers of two only, 2^-32 to 2^31 times `typical_alpha`, so that the
    units of response and cost do not matter: one test for each, exact and free of sorting. If the
    cost is above the budget at every price, it is the smallest power of two from which on nothing
    changes any more.

    Args:
      sums_at: prices [n] -> sums (excess, weight) over the matched rows, [n] each.
      terms: as for `bisect`.
      trial: the batch.
    """
    typical = binary_exponent(typical_alpha(trial.pred_response, trial.pred_cost))
    typical = tf.clip_by_value(typical, -900, 900)  # all powers stay normal numbers
    powers = power_of_two(typical + tf.range(_NUM_EXPONENTS, dtype=tf.int64) + _LOW_EXPONENT)
    excess, weight = sums_at(powers)
    above = terms.above(excess, weight)
    too_low = tf.where(above[-1], excess != excess[-1], above)
    position = tf.range(1, _NUM_EXPONENTS + 1)
    last = tf.reduce_max(tf.where(too_low, position, tf.zeros_like(position)))
    return tf.gather(powers, tf.minimum(last, _NUM_EXPONENTS - 1))


def search_grid(
    trial: TrialBatch,
    rows: MatchIntervals,
    terms: Terms,
    alpha_max: float | None,
    max_iterations: int,
) -> Grid:
    """The ticks on which Algorithm 1 looks; alpha_max None: `default_alpha_max`."""
    if alpha_max is None:

        def sums_at(alpha: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            member = tf.cast(rows.contains(alpha[:, tf.newaxis]), tf.int64)
            excess, weight = (member * x for x in (terms.excess, terms.weight))
            return tf.reduce_sum(excess, axis=1), tf.reduce_sum(weight, axis=1)

        return make_grid(default_alpha_max(sums_at, terms, trial), max_iterations)
    return make_grid(round_up_to_power_of_two(alpha_max), max_iterations)


def check_search(
    alpha_max: float | None, max_iterations: int, tolerance: float, most_iterations: int = 52
) -> None:
    """Refuses settings that Algorithm 1 cannot search with.

    Raises:
      ValueError: the setting, its value and what was expected.
    """
    if alpha_max is not None and not 0.0 < alpha_max < float("inf"):
        raise ValueError(
            f"alpha_max={alpha_max!r}: expected a positive, finite shadow price, or None."
        )
    if not 1 <= max_iterations <= most_iterations:
        raise ValueError(
            f"max_iterations={max_iterations!r}: expected 1 to {most_iterations} halvings."
        )
    if not tolerance >= 0.0:
        raise ValueError(f"tolerance={tolerance!r}: expected a number that is not negative.")
