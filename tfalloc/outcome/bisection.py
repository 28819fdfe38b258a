"""Algorithm 1: bisection for the shadow price at which the matched cost meets the budget.

    low, high = 0, alpha_max
    repeat at most I times:
        alpha = (low + high) / 2
        S     = rows whose trial treatment is the assigned one at alpha
        stop if |C - T/B| <= tolerance
        if sum over S of w (z - T/B) > 0:  low  = alpha      # too dear: raise the price
        else:                              high = alpha
    answer alpha, and V over S, at the last midpoint

An empty S counts as "not above" and never stops the search. How the sums at a midpoint are found
(a masked sum, a table of prefix sums, a table plus one perturbed row) is the caller's affair, so
that all users of Algorithm 1 branch alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tfalloc.outcome.exact import Terms
from tfalloc.outcome.ticks import Grid

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
      terms: supplies the units in which the sums are expressed.
      tolerance: stop when |C - budget| is at most this, in cost per user.
      like: integer tensor whose shape is the shape of the runs.
    """

    def close(excess: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        if tolerance == 0.0:
            return (weight > 0) & (excess == 0)
        gap = tf.abs(tf.cast(excess, tf.float64)) * terms.excess_unit
        return (weight > 0) & (gap <= tolerance * tf.cast(weight, tf.float64) * terms.weight_unit)

    # step: midpoints so far; low: lower end of the bracket; tick, visits, done: see `Bisection`.
    def body(step, low, tick, visits, done):
        half = tf.bitwise.right_shift(tf.constant(grid.size // 2, grid.dtype), step)
        middle = low + half
        excess, weight = sums_at(middle)
        hit = close(excess, weight)
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
