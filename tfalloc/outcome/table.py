"""Prefix sums over ticks: the sums over the matched set at *every* midpoint, from one pass.

A row that is matched at ticks after < m <= until enters at after + 1 and leaves at until + 1.
Scattered and accumulated, its terms give the sums at any m by one look-up, instead of an O(BK)
pass for each midpoint of each run of Algorithm 1.
"""

from __future__ import annotations

import tensorflow as tf

from tfalloc.outcome.exact import Terms
from tfalloc.outcome.ticks import Grid, TickIntervals


def prefix_table(rows: TickIntervals, terms: Terms, grid: Grid) -> tf.Tensor:
    """Sums over the matched set at each tick.

    Args:
      rows: [B] tick intervals.
      terms: [B] exact terms.
      grid: the ticks; 2^iterations + 1 table rows of 24 bytes.

    Returns:
      [2^I + 1, 3] int64: (excess, weight, response) over the rows matched at tick m, m >= 1.
    """
    matched = rows.after < rows.until
    columns = tf.where(matched[:, tf.newaxis], terms.columns(), tf.zeros((), tf.int64))
    table = tf.zeros((grid.size + 1, 3), tf.int64)
    table = tf.tensor_scatter_nd_add(table, (rows.after + 1)[:, tf.newaxis], columns)
    table = tf.tensor_scatter_nd_add(table, (rows.until + 1)[:, tf.newaxis], -columns)
    return _cumulate(table, grid)


def _cumulate(table: tf.Tensor, grid: Grid) -> tf.Tensor:
    """Cumulative sums over ticks in two levels, so that no level scans more than some 512 rows."""
    width = 1 << (grid.iterations // 2)
    last, body = table[-1:], tf.reshape(table[:-1], (-1, width, 3))
    within = tf.cumsum(body, axis=1)
    before = tf.cumsum(within[:, -1], axis=0, exclusive=True)
    body = tf.reshape(within + before[:, tf.newaxis], (-1, 3))
    return tf.concat([body, last + body[-1:]], axis=0)
