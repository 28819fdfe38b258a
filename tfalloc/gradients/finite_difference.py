"""Finite differences of the expected outcome (Eq. 8), exact and for every entry.

    dQ/dv_ij ~ [ Q(v + h e_ij, c) - Q(v - h e_ij, c) ] / (2 h),     likewise for c

Q is Algorithm 1: a bisection, at each midpoint of which every user is re-assigned. Solving it anew
for each of the 4BK probes takes hours. Three facts give the same digits in milliseconds:

1. A probe of entry (i, j) moves the match interval of row i only (`open_probes`).
2. Algorithm 1 only ever looks at ticks m * alpha_max / 2^I; prefix sums over ticks answer every
   look of every probe, plus or minus row i's own terms (`_prefix_table`).
3. If no midpoint that the unperturbed run visited changes its mind about row i, the probe takes
   the same branches and Q does not change (`Solved.walks_apart`). Only the other probes run their
   own bisection, all at once and compacted into chunks of fixed size (`_chunk`), as XLA wants.

All sums are exact integers (`outcome.fixed_point`), so a probe that changes nothing differs by
exactly 0.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfalloc.gradients._prefix_table import PrefixTable, prefix_table
from tfalloc.gradients.base import GoalGradient, Gradient
from tfalloc.outcome.algorithm1 import (
    Bisection,
    Grid,
    TickIntervals,
    bisect,
    check_search,
    search_grid,
)
from tfalloc.outcome.batch import Tensor, TrialBatch
from tfalloc.outcome.fixed_point import Terms, exact_terms, ratio
from tfalloc.outcome.intervals import intervals_of, received, rivals

_CHUNK = 2048  # probes that run Algorithm 1 together; small enough to stay in cache


class FiniteDifference(Gradient):
    """Central differences of Q (Eq. 8) with respect to every entry of v and c.

    Args:
      step: h for predicted responses, in units of response.
      step_cost: h for predicted costs, in units of cost; None: the same number as `step`.
      num_entries: None differentiates every entry. A number F' keeps the paper's random mask: F'
        entries of v and F' of c, drawn by `seed` without replacement; the others are 0.
      alpha_max: largest shadow c of Algorithm 1, rounded up to a power of two; None: the
        smallest power of two from which on the matched cost is not above the budget.
      max_iterations: halvings I of Algorithm 1, at most 24 (the table has 2^I rows).
      tolerance: Algorithm 1 stops when |C - budget| is at most this, in cost per user.

    Calling it gives a `GoalGradient`. Where S is empty, before or after a probe, the entry is 0.

    Raises:
      ValueError: if an argument is out of its range.

    Example:
      >>> import tfalloc
      >>> gradient = tfalloc.gradients.FiniteDifference(step=0.1, alpha_max=1.0)
      >>> v = [[0.10, 0.30], [0.20, 0.25], [0.10, 0.15]]
      >>> c = [[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]
      >>> result = gradient(v, c, [1, 1, 0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0], budget=0.5)
      >>> result.d_response.shape
      TensorShape([3, 2])

    Source: Yan et al. 2023, Eq. 8 and Algorithm 1.
    """

    def __init__(
        self,
        *,
        step: float = 3e-4,
        step_cost: float | None = None,
        num_entries: int | None = None,
        alpha_max: float | None = None,
        max_iterations: int = 18,
        tolerance: float = 0.0,
    ):
        self.step = step
        self.step_cost = step if step_cost is None else step_cost
        for name in ("step", "step_cost"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise ValueError(
                    f"{name}={getattr(self, name)!r}: a finite difference needs a step above 0, "
                    "and a finite one."
                )
        if num_entries is not None and num_entries < 1:
            raise ValueError(
                f"num_entries={num_entries!r}: expected a positive number of entries, or None."
            )
        check_search(alpha_max, max_iterations, tolerance, most_iterations=24)
        self.num_entries = num_entries
        self.alpha_max = alpha_max
        self.max_iterations = max_iterations
        self.tolerance = float(tolerance)

    def _differentiate(
        self, trial: TrialBatch, budget: tf.Tensor, seed: Tensor | None
    ) -> GoalGradient:
        solved = solve(trial, budget, self.alpha_max, self.max_iterations, self.tolerance)
        steps = Steps(*(tf.constant(h, tf.float64) for h in (self.step, self.step_cost)))
        open_ = open_probes(solved, steps)
        if self.num_entries is not None:
            chosen = _mask(tf.shape(trial.pred_response), self.num_entries, seed)
            open_ = tf.where(chosen, open_, tf.zeros_like(open_))
        d_response, d_cost = tf.unstack(differences(open_, solved, steps))
        return GoalGradient(solved.goal, d_response, d_cost, solved.grid.alpha(solved.base.tick))


def _mask(shape: tf.Tensor, num_entries: int, seed: Tensor | None) -> tf.Tensor:
    """The paper's random mask: `num_entries` entries of v, and as many of c, [2, B, K] bool."""
    if seed is None:
        raise ValueError(
            f"num_entries={num_entries} draws entries at random: pass seed=(a, b), two integers."
        )
    # Integer bits: float draws differ between XLA and plain graphs when the seed is a tensor.
    keys = tf.random.stateless_uniform(
        tf.stack([2, shape[0] * shape[1]]),
        tf.cast(seed, tf.int32),
        minval=None,
        maxval=None,
        dtype=tf.int32,
        alg="philox",
    )
    # Ranks, not a threshold: equal keys must not change the number of entries.
    ranks = tf.argsort(tf.argsort(keys, axis=1, stable=True), axis=1)
    return tf.reshape(ranks < num_entries, [2, shape[0], shape[1]])


class Steps(NamedTuple):
    """h for responses and for costs, scalars."""

    response: tf.Tensor
    cost: tf.Tensor


class Solved(NamedTuple):
    """The unperturbed problem, solved."""

    trial: TrialBatch
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
    trial: TrialBatch,
    budget: tf.Tensor,
    alpha_max: float | None,
    iterations: int,
    tolerance: float,
) -> Solved:
    terms = exact_terms(trial, budget)
    matched = intervals_of(trial.pred_response, trial.pred_cost, trial.treatment)
    grid = search_grid(trial, matched, terms, alpha_max, iterations)
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
    v, c, arm = trial.pred_response, trial.pred_cost, trial.treatment
    own_response, own_cost = received(v, arm), received(c, arm)
    own = tf.range(tf.shape(v)[1])[tf.newaxis, :] == arm[:, tf.newaxis]
    others = _without_each(grid.bounds(rivals(own_response, own_cost, v, c, arm)))
    before = TickIntervals(*(x[:, tf.newaxis] for x in solved.rows))

    def probe(sign: float) -> tf.Tensor:
        dv, dc = sign * tf.stack([steps.response, 0.0]), sign * tf.stack([0.0, steps.cost])
        dv, dc = dv[:, tf.newaxis, tf.newaxis], dc[:, tf.newaxis, tf.newaxis]
        # A rival moves: its new bound joins those of all the other rivals.
        moved = grid.bounds(rivals(own_response, own_cost, v + dv, c + dc, arm))
        # The received arm moves: every bound changes.
        mine = grid.bounds(rivals(own_response + dv[..., 0], own_cost + dc[..., 0], v, c, arm))
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
    batch, width = tf.shape(trial.pred_response)[0], tf.shape(trial.pred_response)[1]
    is_cost = row >= batch
    i = row % batch
    here = tf.range(width)[tf.newaxis, :] == column[:, tf.newaxis]
    v, c = _take(trial.pred_response, i), _take(trial.pred_cost, i)
    arm = _take(trial.treatment, i)
    before = TickIntervals(*(_take(x, i) for x in solved.rows))

    def probe(sign: float) -> tuple[TickIntervals, tf.Tensor]:
        moves_response, moves_cost = here & ~is_cost[:, tf.newaxis], here & is_cost[:, tf.newaxis]
        intervals = intervals_of(
            tf.where(moves_response, v + sign * steps.response, v),
            tf.where(moves_cost, c + sign * steps.cost, c),
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
    difference = rise / (2.0 * tf.where(is_cost, steps.cost, steps.response))
    difference = tf.where(tf.math.is_nan(difference), tf.zeros_like(difference), difference)
    has_partner = tf.range(_CHUNK) < _CHUNK - 1
    return difference, tf.where(is_up, ~down_open | has_partner, ~up_open)
