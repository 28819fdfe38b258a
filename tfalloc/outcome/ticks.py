"""Match intervals on the grid of midpoints that Algorithm 1 can visit.

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

from tfalloc.outcome._trial import Tensor, as_float64
from tfalloc.outcome.exact import Terms, binary_exponent, power_of_two
from tfalloc.outcome.intervals import MatchIntervals, Rivals

# Candidates for alpha_max=None: 2^-32 to 2^31 in units of response per cost.
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


def default_alpha_max(excess_at: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """The smallest power of two from which on the matched cost is not above the budget.

    "From which on" looks at powers of two only (2^-32 to 2^31): one test for each, exact and free
    of sorting. If the cost is above the budget at every price, it is the smallest power of two
    from which on nothing changes any more.

    Args:
      excess_at: prices [n] -> [n], above 0 where the matched cost is above the budget.
    """
    powers = tf.constant([2.0 ** (_LOW_EXPONENT + i) for i in range(_NUM_EXPONENTS)], tf.float64)
    excess = excess_at(powers)
    above = excess > tf.zeros((), excess.dtype)
    too_low = tf.where(above[-1], excess != excess[-1], above)
    position = tf.range(1, _NUM_EXPONENTS + 1)
    last = tf.reduce_max(tf.where(too_low, position, tf.zeros_like(position)))
    return tf.gather(powers, tf.minimum(last, _NUM_EXPONENTS - 1))


def search_grid(
    rows: MatchIntervals, terms: Terms, alpha_max: float | None, max_iterations: int
) -> Grid:
    """The ticks on which Algorithm 1 looks; alpha_max None: `default_alpha_max`."""
    if alpha_max is None:

        def excess_at(alpha: tf.Tensor) -> tf.Tensor:
            matched = rows.contains(alpha[:, tf.newaxis])
            return tf.reduce_sum(tf.cast(matched, tf.int64) * terms.excess, axis=1)

        return make_grid(default_alpha_max(excess_at), max_iterations)
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
