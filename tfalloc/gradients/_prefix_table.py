"""Prefix sums over ticks: the sums over the matched set at *every* midpoint, from one pass.

A row that is matched at ticks after < m <= until enters at after + 1 and leaves at until + 1.
Scattered and accumulated, its terms give the sums at any m by one look-up, instead of an O(BK)
pass for each midpoint of each run of Algorithm 1.

Ticks are cut into blocks of `width`. The sums within blocks run over all blocks side by side, so
that each of the `width` steps adds whole vectors, and the sums before a block are added at
look-up: accumulating the table in its natural order would take twice as long.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfalloc.outcome.algorithm1 import Grid, TickIntervals
from tfalloc.outcome.fixed_point import Terms


class PrefixTable(NamedTuple):
    """Sums over the matched set at each tick.

    Attributes:
      within: [width * blocks, 3] int64, sums since the start of the tick's block; tick m stands at
        (m mod width) * blocks + m div width.
      before: [blocks, 3] int64, sums over all earlier blocks.
    """

    within: tf.Tensor
    before: tf.Tensor

    def at(self, tick: tf.Tensor) -> tf.Tensor:
        """(excess, weight, response) over the rows matched at a tick m >= 1: [..., 3] int64."""
        blocks = tf.shape(self.before)[0]
        width = tf.shape(self.within)[0] // blocks
        tick = tf.cast(tick, tf.int32)
        block = tick // width
        place = (tick - block * width) * blocks + block
        return tf.gather(self.within, place) + tf.gather(self.before, block)


def prefix_table(rows: TickIntervals, terms: Terms, grid: Grid) -> PrefixTable:
    """Accumulates what rows add and take away.

    Args:
      rows: [B] tick intervals.
      terms: [B] exact terms.
      grid: the ticks; 2^iterations table rows of 24 bytes.
    """
    blocks = grid.size // _width(grid)
    matched = rows.after < rows.until
    columns = tf.where(matched[:, tf.newaxis], terms.columns(), tf.zeros((), tf.int64))
    # Past the last tick nobody looks: what leaves there need not leave.
    leaves = rows.until < grid.size - 1
    leaving = tf.where(leaves[:, tf.newaxis], columns, tf.zeros((), tf.int64))

    def place(tick: tf.Tensor) -> tf.Tensor:
        tick = tf.cast(tick, tf.int32)
        block = tick // _width(grid)
        return ((tick - block * _width(grid)) * blocks + block)[:, tf.newaxis]

    steps = tf.zeros((grid.size, 3), tf.int64)
    # An empty interval may begin past the last tick; it adds zeros, anywhere.
    enter = tf.minimum(rows.after + 1, grid.size - 1)
    leave = tf.minimum(rows.until + 1, grid.size - 1)
    steps = tf.tensor_scatter_nd_add(steps, place(enter), columns)
    steps = tf.tensor_scatter_nd_add(steps, place(leave), -leaving)
    within = _running_sums(tf.reshape(steps, (_width(grid), 3 * blocks)))
    totals = tf.reshape(within[-1], (blocks, 3))
    return PrefixTable(tf.reshape(within, (-1, 3)), _exclusive_sums(totals))


def _width(grid: Grid) -> int:
    return 1 << (grid.iterations // 3)


def _running_sums(steps: tf.Tensor) -> tf.Tensor:
    """Cumulative sums of a matrix along its first axis, a row at a time."""
    length = steps.shape[0]

    def body(i, total, rows):
        total += steps[i]
        return i + 1, total, rows.write(i, total)

    rows = tf.TensorArray(steps.dtype, length, element_shape=steps.shape[1:])
    _, _, rows = tf.while_loop(
        lambda i, *_: i < length,
        body,
        (0, tf.zeros_like(steps[0]), rows),
        parallel_iterations=1,
    )
    return tf.ensure_shape(rows.stack(), steps.shape)


def _exclusive_sums(totals: tf.Tensor) -> tf.Tensor:
    """Cumulative sums of [blocks, 3] before each block, in two levels: short scans are faster."""
    blocks = totals.shape[0]
    width = 1 << ((blocks.bit_length() - 1) // 2)
    within = tf.cumsum(tf.reshape(totals, (-1, width, 3)), axis=1)
    before = tf.cumsum(within[:, -1], axis=0, exclusive=True)
    return tf.reshape(within + before[:, tf.newaxis], (-1, 3)) - totals
