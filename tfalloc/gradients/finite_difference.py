"""Finite differences of the expected outcome (Eq. 8), exact and for every entry.

    dQ/dv_ij ~ [ Q(v + h e_ij, c) - Q(v - h e_ij, c) ] / (2 h),     likewise for c

Q is Algorithm 1: a bisection, at each midpoint of which every user is re-assigned. Solving it anew
for each of the 4BK probes takes hours. Three facts give the same digits in milliseconds:

1. A probe of entry (i, j) moves the match interval of row i only (`_probes`).
2. Algorithm 1 only ever looks at ticks m * alpha_max / 2^I; prefix sums over ticks answer every
   look of every probe, plus or minus row i's own terms (`outcome.table`).
3. If no midpoint that the unperturbed run visited changes its mind about row i, the probe takes
   the same branches and Q does not change. Only the other probes run their own bisection
   (`_moved`), all at once and compacted into chunks of fixed size (`_chunk`), as XLA wants.

All sums are exact integers (`outcome.exact`), so a probe that changes nothing differs by exactly 0.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfalloc.gradients.base import GoalGradient, finish
from tfalloc.outcome._trial import Tensor, Trial, as_float64, as_trial
from tfalloc.outcome.bisection import Bisection, bisect
from tfalloc.outcome.exact import Terms, exact_terms, ratio
from tfalloc.outcome.intervals import match_intervals, received, rivals
from tfalloc.outcome.table import prefix_table
from tfalloc.outcome.ticks import (
    Grid,
    TickIntervals,
    default_alpha_max,
    make_grid,
    round_up_to_power_of_two,
)

_CHUNK = 2048  # probes that run Algorithm 1 together; small enough to stay in cache


class FiniteDifference:
    """Central differences of Q (Eq. 8) with respect to every entry of v and c.

    Args:
      step: h for predicted responses, in units of response.
      step_cost: h for predicted costs, in units of cost; None: the same number as `step`.
      num_entries: None differentiates every entry. A number F' keeps the paper's random mask: F'
        entries of v and F' of c, drawn by `seed` without replacement; the others are 0.
      alpha_max: largest shadow price of Algorithm 1, rounded up to a power of two; None: the
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
            if not getattr(self, name) > 0.0:
                raise ValueError(
                    f"{name}={getattr(self, name)!r}: a finite difference needs a step above 0."
                )
        if num_entries is not None and num_entries < 1:
            raise ValueError(
                f"num_entries={num_entries!r}: expected a positive number of entries, or None."
            )
        if alpha_max is not None and not 0.0 < alpha_max < float("inf"):
            raise ValueError(
                f"alpha_max={alpha_max!r}: expected a positive, finite shadow price, or None."
            )
        if not 1 <= max_iterations <= 24:
            raise ValueError(f"max_iterations={max_iterations!r}: expected 1 to 24 halvings.")
        if not tolerance >= 0.0:
            raise ValueError(f"tolerance={tolerance!r}: expected a number that is not negative.")
        self.num_entries = num_entries
        self.alpha_max = alpha_max
        self.max_iterations = max_iterations
        self.tolerance = float(tolerance)

    def __call__(
        self,
        pred_response: Tensor,
        pred_cost: Tensor,
        treatment: Tensor,
        response: Tensor,
        cost: Tensor,
        budget: Tensor,
        propensity: Tensor | None = None,
        seed: Tensor | None = None,
    ) -> GoalGradient:
        """Differentiates Q on one batch.

        Args:
          pred_response: [batch, num_treatments], predicted response v.
          pred_cost: [batch, num_treatments], predicted cost c, per user.
          treatment: [batch], integers in [0, num_treatments).
          response: [batch], observed response.
          cost: [batch], observed cost, per user.
          budget: scalar, cost per user.
          propensity: [batch], probability of the received treatment; None: all the same.
          seed: two integers; needed with `num_entries` only.

        Returns:
          `GoalGradient` in the dtype of `pred_response`.
        """
        with tf.name_scope("finite_difference"):
            trial = as_trial(pred_response, pred_cost, treatment, response, cost, propensity)
            terms = exact_terms(trial, as_float64(budget))
            grid = self._grid(trial, terms)
            rows = grid.intervals(trial)
            table = prefix_table(rows, terms, grid)
            base = bisect(
                lambda tick: _split(tf.gather(table, tick)),
                grid,
                terms,
                tolerance=self.tolerance,
                like=tf.zeros((), grid.dtype),
            )
            state = _State(grid, terms, rows, table, base, self.tolerance)
            _, weight, sum_response = tf.unstack(tf.gather(table, base.tick), axis=-1)
            goal = ratio(sum_response, terms.response_unit, weight, terms.weight_unit)

            probes = _probes(trial, grid, self.step, self.step_cost)
            open_ = _moved(probes, state)
            if self.num_entries is not None:
                open_ &= _mask(tf.shape(trial.value), self.num_entries, seed)
            outcomes = _solve_open(probes, open_, goal, state)
            v_up, v_down, c_up, c_down = tf.unstack(outcomes)
            return finish(
                goal,
                _difference(v_up, v_down, self.step),
                _difference(c_up, c_down, self.step_cost),
                grid.alpha(base.tick),
                like=pred_response,
            )

    def _grid(self, trial: Trial, terms: Terms) -> Grid:
        if self.alpha_max is None:
            rows = match_intervals(trial.value, trial.price, trial.treatment)
            alpha_max = default_alpha_max(rows, terms.excess)
        else:
            alpha_max = round_up_to_power_of_two(self.alpha_max)
        return make_grid(alpha_max, self.max_iterations)


class _State(NamedTuple):
    """The unperturbed problem, solved."""

    grid: Grid
    terms: Terms
    rows: TickIntervals
    table: tf.Tensor
    base: Bisection
    tolerance: float


def _split(sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return sums[..., 0], sums[..., 1]


def _difference(up: tf.Tensor, down: tf.Tensor, step: float) -> tf.Tensor:
    difference = (up - down) / (2.0 * step)
    return tf.where(tf.math.is_nan(difference), tf.zeros_like(difference), difference)


def _probes(trial: Trial, grid: Grid, step: float, step_cost: float) -> TickIntervals:
    """Row i's match interval after each probe of row i: [4, B, K], for v+h, v-h, c+h and c-h."""
    value, price, arm = trial.value, trial.price, trial.treatment
    own_value, own_price = received(value, arm), received(price, arm)
    own = tf.range(tf.shape(value)[1])[tf.newaxis, :] == arm[:, tf.newaxis]
    others = _without_each(grid.bounds(rivals(own_value, own_price, value, price, arm)))

    dv = tf.constant([step, -step, 0.0, 0.0], tf.float64)[:, tf.newaxis]
    dc = tf.constant([0.0, 0.0, step_cost, -step_cost], tf.float64)[:, tf.newaxis]
    # A rival moves: its new bound joins those of all the other rivals.
    moved_value, moved_price = value + dv[..., tf.newaxis], price + dc[..., tf.newaxis]
    moved = grid.bounds(rivals(own_value, own_price, moved_value, moved_price, arm))
    # The received arm moves: every bound changes.
    mine = grid.bounds(rivals(own_value + dv, own_price + dc, value, price, arm))
    mine_after = tf.reduce_max(mine.after, axis=-1, keepdims=True)
    mine_until = tf.reduce_min(mine.until, axis=-1, keepdims=True)
    return TickIntervals(
        after=tf.where(own, mine_after, tf.maximum(others.after, moved.after)),
        until=tf.where(own, mine_until, tf.minimum(others.until, moved.until)),
    )


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


def _moved(probes: TickIntervals, state: _State) -> tf.Tensor:
    """Probes that may change the walk: [4, B, K] bool; False only where Q is surely the same.

    A bound x in [0, 2^I) decides "m <= x" for every midpoint m. Walking down the digits of x and
    of the visited path, the first digit in which they differ fixes the answer at all visited
    midpoints. So two bounds agree at all of them iff they leave the path at the same digit.
    """
    unvisited = state.grid.iterations - state.base.visits
    path = state.base.path

    def leaves_path_at(bound: tf.Tensor) -> tf.Tensor:
        digits = tf.bitwise.right_shift(tf.bitwise.bitwise_xor(bound, path), unvisited)
        # The exponent of a float32 is the position of an integer's leading digit.
        return tf.bitwise.right_shift(tf.bitcast(tf.cast(digits, tf.float32), tf.int32), 23)

    after, until = state.rows.after[:, tf.newaxis], state.rows.until[:, tf.newaxis]
    same_after = leaves_path_at(probes.after) == leaves_path_at(after)
    same_until = leaves_path_at(probes.until) == leaves_path_at(until)
    both_empty = (probes.after >= probes.until) & (after >= until)
    return ~((same_after & same_until) | both_empty)


def _mask(shape: tf.Tensor, num_entries: int, seed: Tensor | None) -> tf.Tensor:
    """The paper's random mask: `num_entries` entries of v, and as many of c, [4, B, K] bool."""
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
    v, c = tf.unstack(tf.reshape(ranks < num_entries, [2, shape[0], shape[1]]))
    return tf.stack([v, v, c, c])


def _solve_open(
    probes: TickIntervals, open_: tf.Tensor, goal: tf.Tensor, state: _State
) -> tf.Tensor:
    """Q after each probe, [4, B, K]: `goal` where nothing moved, Algorithm 1 for the open ones."""
    shape = tf.shape(open_)
    batch, width = shape[1], shape[2]
    open_ = tf.reshape(open_, tf.stack([4 * batch, width]))
    per_row = tf.reduce_sum(tf.cast(open_, tf.int32), axis=1)
    up_to_row = tf.cumsum(per_row)
    total = tf.reduce_sum(per_row)
    flat = TickIntervals(tf.reshape(probes.after, [-1]), tf.reshape(probes.until, [-1]))
    spare = tf.size(open_)  # one slot past the end takes what the last chunk's dead slots write
    outcomes = tf.fill([spare + 1], goal)

    def body(start: tf.Tensor, outcomes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # The n-th open probe: its row of [4B, K] by binary search, its column by counting.
        nth = start + tf.range(_CHUNK)
        live = nth < total
        row = _first_above(up_to_row, nth)
        rank = nth - tf.gather(up_to_row, row) + tf.gather(per_row, row)
        seen = tf.cumsum(tf.cast(tf.gather(open_, row), tf.int32), axis=1)
        column = tf.reduce_sum(tf.cast(seen <= rank[:, tf.newaxis], tf.int32), axis=1)
        entry = tf.where(live, row * width + column, 0)
        probe = TickIntervals(tf.gather(flat.after, entry), tf.gather(flat.until, entry))
        solved = _chunk(row % batch, probe, state)
        target = tf.where(live, entry, spare)
        return start + _CHUNK, tf.tensor_scatter_nd_update(outcomes, target[:, tf.newaxis], solved)

    _, outcomes = tf.while_loop(lambda start, _: start < total, body, (0, outcomes))
    return tf.reshape(outcomes[:-1], shape)


def _first_above(ascending: tf.Tensor, queries: tf.Tensor) -> tf.Tensor:
    """Index of the first element above each query (clamped to the last): `tf.searchsorted`
    compares all pairs under XLA, this takes log2(n) gathers."""
    size = tf.size(ascending)

    def body(low, high):
        middle = (low + high) // 2
        above = tf.gather(ascending, middle) > queries
        return tf.where(above, low, middle + 1), tf.where(above, middle, high)

    low = tf.zeros_like(queries)
    low, _ = tf.while_loop(
        lambda low, high: tf.reduce_any(low < high), body, (low, tf.zeros_like(queries) + size - 1)
    )
    return tf.minimum(low, size - 1)


def _chunk(row: tf.Tensor, probe: TickIntervals, state: _State) -> tf.Tensor:
    """Q of a chunk of probes, each by its own run of Algorithm 1 on the table: [chunk] float64."""
    before = TickIntervals(tf.gather(state.rows.after, row), tf.gather(state.rows.until, row))
    terms = tf.gather(state.terms.columns(), row)

    def sums(tick: tf.Tensor) -> tf.Tensor:
        # Row i leaves with its old interval and returns with its new one.
        change = tf.cast(probe.contain(tick), tf.int64) - tf.cast(before.contain(tick), tf.int64)
        return tf.gather(state.table, tick) + change[:, tf.newaxis] * terms

    run = bisect(
        lambda tick: _split(sums(tick)),
        state.grid,
        state.terms,
        tolerance=state.tolerance,
        like=row,
    )
    _, weight, response = tf.unstack(sums(run.tick), axis=-1)
    return ratio(response, state.terms.response_unit, weight, state.terms.weight_unit)
