"""Q after each probe of Eq. 8, without solving Algorithm 1 for each.

Three facts:

1. A probe of entry (i, j) moves the match interval of row i only (`open_probes`).
2. Algorithm 1 only ever looks at ticks m * alpha_max / 2^I; prefix sums over ticks answer every
   look of every probe, plus or minus row i's own terms (`outcome.table`).
3. If no midpoint that the unperturbed run visited changes its mind about row i, the probe takes
   the same branches and Q does not change (`Solved.walks_apart`). Only the other probes run their
   own bisection, all at once and compacted into chunks of fixed size (`_chunk`), as XLA wants.

All sums are exact integers (`outcome.exact`), so a probe that changes nothing differs by exactly 0.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfalloc.outcome._trial import Trial
from tfalloc.outcome.bisection import Bisection, bisect
from tfalloc.outcome.exact import Terms, exact_terms, ratio
from tfalloc.outcome.intervals import intervals_of, received, rivals
from tfalloc.outcome.table import PrefixTable, prefix_table
from tfalloc.outcome.ticks import Grid, TickIntervals, search_grid

_CHUNK = 2048  # probes that run Algorithm 1 together; small enough to stay in cache


class Steps(NamedTuple):
    """h for responses and for costs, scalars."""

    value: tf.Tensor
    price: tf.Tensor


class Solved(NamedTuple):
    """The unperturbed problem, solved."""

    trial: Trial
    grid: Grid
    terms: Terms
    rows: TickIntervals
    table: PrefixTable
    tolerance: float
    base: Bisection
    goal: tf.Tensor

    def walks_apart(self, probe: TickIntervals, before: TickIntervals) -> tf.Tensor:
        """Whether a row's new interval may change the walk; False only where Q is surely the same.

        A bound x in [0, 2^I) decides "m <= x" for every midpoint m. Walking down the digits of x
        and of the visited path, the first digit in which they differ fixes the answer at all
        visited midpoints. So two bounds agree at all of them iff they leave the path at the same
        digit.
        """
        unvisited = self.grid.iterations - self.base.visits

        def leaves_path_at(bound: tf.Tensor) -> tf.Tensor:
            digits = tf.bitwise.bitwise_xor(bound, self.base.path)
            digits = tf.bitwise.right_shift(digits, unvisited)
            # The exponent of a float32 is the position of an integer's leading digit.
            return tf.bitwise.right_shift(tf.bitcast(tf.cast(digits, tf.float32), tf.int32), 23)

        same_after = leaves_path_at(probe.after) == leaves_path_at(before.after)
        same_until = leaves_path_at(probe.until) == leaves_path_at(before.until)
        both_empty = (probe.after >= probe.until) & (before.after >= before.until)
        return ~((same_after & same_until) | both_empty)


def solve(
    trial: Trial,
    budget: tf.Tensor,
    alpha_max: float | None,
    iterations: int,
    tolerance: float,
) -> Solved:
    terms = exact_terms(trial, budget)
    matched = intervals_of(trial.value, trial.price, trial.treatment)
    grid = search_grid(matched, terms, alpha_max, iterations)
    rows = grid.intervals(matched)
    table = prefix_table(rows, terms, grid)
    base = bisect(
        lambda tick: _split(table.at(tick)),
        grid,
        terms,
        tolerance=tolerance,
        like=tf.zeros((), grid.dtype),
    )
    goal = _outcome(table.at(base.tick), terms)
    return Solved(trial, grid, terms, rows, table, tolerance, base, goal)


def _split(sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return sums[..., 0], sums[..., 1]


def _outcome(sums: tf.Tensor, terms: Terms) -> tf.Tensor:
    return ratio(sums[..., 2], terms.response_unit, sums[..., 1], terms.weight_unit)


def open_probes(solved: Solved, steps: Steps) -> tf.Tensor:
    """How many of an entry's two probes need a run of their own: [2, B, K] int32, for v and c."""
    trial, grid = solved.trial, solved.grid
    value, price, arm = trial.value, trial.price, trial.treatment
    own_value, own_price = received(value, arm), received(price, arm)
    own = tf.range(tf.shape(value)[1])[tf.newaxis, :] == arm[:, tf.newaxis]
    others = _without_each(grid.bounds(rivals(own_value, own_price, value, price, arm)))
    before = TickIntervals(*(x[:, tf.newaxis] for x in solved.rows))

    def probe(sign: float) -> tf.Tensor:
        dv, dc = sign * tf.stack([steps.value, 0.0]), sign * tf.stack([0.0, steps.price])
        dv, dc = dv[:, tf.newaxis, tf.newaxis], dc[:, tf.newaxis, tf.newaxis]
        # A rival moves: its new bound joins those of all the other rivals.
        moved = grid.bounds(rivals(own_value, own_price, value + dv, price + dc, arm))
        # The received arm moves: every bound changes.
        mine = grid.bounds(
            rivals(own_value + dv[..., 0], own_price + dc[..., 0], value, price, arm)
        )
        mine_after = tf.reduce_max(mine.after, axis=-1, keepdims=True)
        mine_until = tf.reduce_min(mine.until, axis=-1, keepdims=True)
        after = tf.where(own, mine_after, tf.maximum(others.after, moved.after))
        until = tf.where(own, mine_until, tf.minimum(others.until, moved.until))
        return tf.cast(solved.walks_apart(TickIntervals(after, until), before), tf.int32)

    return probe(1.0) + probe(-1.0)


def _without_each(bounds: TickIntervals) -> TickIntervals:
    """For each rival, what all the *other* rivals leave: the two extreme bounds suffice."""

    def largest_of_others(x: tf.Tensor) -> tf.Tensor:
        first = tf.argmax(x, axis=1, output_type=tf.int32)[:, tf.newaxis]
        is_first = tf.range(tf.shape(x)[1])[tf.newaxis, :] == first
        largest = tf.reduce_max(x, axis=1, keepdims=True)
        second = tf.reduce_max(tf.where(is_first, x.dtype.min, x), axis=1, keepdims=True)
        return tf.where(is_first, second, largest)

    # The received arm's own column holds the neutral bounds, so that K = 1 and 2 need no care.
    return TickIntervals(largest_of_others(bounds.after), -largest_of_others(-bounds.until))


def differences(open_: tf.Tensor, solved: Solved, steps: Steps) -> tf.Tensor:
    """(Q(x + h) - Q(x - h)) / 2h for each entry x of v and of c, [2, B, K] float64.

    Open probes are numbered through, up before down, and solved a chunk at a time. An entry whose
    two probes are both open needs both in one chunk, so chunks overlap by one probe.
    """
    shape = tf.shape(open_)
    batch, width = shape[1], shape[2]
    open_ = tf.reshape(open_, tf.stack([2 * batch, width]))
    per_row = tf.reduce_sum(open_, axis=1)
    up_to_row = tf.cumsum(per_row)
    total = tf.reduce_sum(per_row)
    spare = tf.size(open_)  # one slot past the end takes what idle lanes write

    def body(start: tf.Tensor, found: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # The n-th open probe: its row of [2B, K] by binary search, its column by counting.
        nth = start + tf.range(_CHUNK)
        row = _first_above(up_to_row, nth)
        rank = nth - _take(up_to_row, row) + _take(per_row, row)
        count = _take(open_, row)
        seen = tf.cumsum(count, axis=1)
        column = tf.reduce_sum(tf.cast(seen <= rank[:, tf.newaxis], tf.int32), axis=1)
        column = tf.minimum(column, width - 1)
        first = rank == received(seen - count, column)
        difference, known = _chunk(row, column, first, solved, steps)
        entry = tf.where(known & (nth < total), row * width + column, spare)
        found = tf.tensor_scatter_nd_update(found, entry[:, tf.newaxis], difference)
        return start + _CHUNK - 1, found

    _, found = tf.while_loop(
        lambda start, _: start < total, body, (0, tf.zeros([spare + 1], tf.float64))
    )
    return tf.reshape(found[:-1], shape)


def _take(x: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """x[index] along the first axis. XLA mistakes the shape of what it takes from nothing: an empty
    x gets a row that nobody reads, any other x a padding of width 0, which costs nothing."""
    missing = tf.cast(tf.equal(tf.shape(x)[0], 0), tf.int32)
    return tf.gather(tf.pad(x, [[0, missing]] + [[0, 0]] * (x.shape.rank - 1)), index)


def _first_above(ascending: tf.Tensor, queries: tf.Tensor) -> tf.Tensor:
    """Index of the first element above each query (clamped to the last): `tf.searchsorted`
    compares all pairs under XLA, this takes log2(n) gathers."""
    size = tf.size(ascending)

    def body(low, high):
        middle = (low + high) // 2
        above = _take(ascending, middle) > queries
        return tf.where(above, low, middle + 1), tf.where(above, middle, high)

    low = tf.zeros_like(queries)
    low, _ = tf.while_loop(
        lambda low, high: tf.reduce_any(low < high), body, (low, tf.zeros_like(queries) + size - 1)
    )
    return tf.minimum(low, size - 1)


def _chunk(
    row: tf.Tensor, column: tf.Tensor, first: tf.Tensor, solved: Solved, steps: Steps
) -> tuple[tf.Tensor, tf.Tensor]:
    """Runs Algorithm 1 on the table for a chunk of probes, each lane its own.

    Args:
      row: [chunk] int32, row of [2B, K]: i differentiates v, B + i differentiates c.
      column: [chunk] int32, arm.
      first: [chunk] bool, whether the lane is the first open probe of its entry.

    Returns:
      the central difference of the lane's entry, [chunk] float64, and whether the lane knows it.
    """
    trial, table = solved.trial, solved.table
    batch, width = tf.shape(trial.value)[0], tf.shape(trial.value)[1]
    is_price = row >= batch
    i = row % batch
    here = tf.range(width)[tf.newaxis, :] == column[:, tf.newaxis]
    value, price = _take(trial.value, i), _take(trial.price, i)
    arm = _take(trial.treatment, i)
    before = TickIntervals(*(_take(x, i) for x in solved.rows))

    def probe(sign: float) -> tuple[TickIntervals, tf.Tensor]:
        moves_value, moves_price = here & ~is_price[:, tf.newaxis], here & is_price[:, tf.newaxis]
        intervals = intervals_of(
            tf.where(moves_value, value + sign * steps.value, value),
            tf.where(moves_price, price + sign * steps.price, price),
            arm,
        )
        ticks = solved.grid.intervals(intervals)
        return ticks, solved.walks_apart(ticks, before)

    (up, up_open), (down, down_open) = probe(1.0), probe(-1.0)
    is_up = first & up_open
    mine = TickIntervals(*(tf.where(is_up, x, y) for x, y in zip(up, down, strict=True)))
    terms = _take(solved.terms.columns(), i)

    def sums(tick: tf.Tensor) -> tf.Tensor:
        # Row i leaves with its old interval and returns with its new one.
        change = tf.cast(mine.contain(tick), tf.int64) - tf.cast(before.contain(tick), tf.int64)
        return table.at(tick) + change[:, tf.newaxis] * terms

    run = bisect(
        lambda tick: _split(sums(tick)),
        solved.grid,
        solved.terms,
        tolerance=solved.tolerance,
        like=row,
    )
    outcome = _outcome(sums(run.tick), solved.terms)
    # The partner of an up probe that is not alone is the next lane.
    outcome_down = tf.where(down_open, tf.roll(outcome, -1, axis=0), solved.goal)
    rise = tf.where(is_up, outcome - outcome_down, solved.goal - outcome)
    difference = rise / (2.0 * tf.where(is_price, steps.price, steps.value))
    difference = tf.where(tf.math.is_nan(difference), tf.zeros_like(difference), difference)
    has_partner = tf.range(_CHUNK) < _CHUNK - 1
    return difference, tf.where(is_up, ~down_open | has_partner, ~up_open)
