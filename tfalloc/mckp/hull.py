"""Upper-left convex hulls of all rows, climbed from the cheapest arm upwards.

Only the hull of a row's points (cost_ij, value_ij) is ever chosen by

    x_i(alpha) = argmax_j value_ij - alpha cost_ij                  (Yan et al. 2023, Eq. 4)

and each edge of the hull is an upgrade from one arm to the next, worth taking while alpha is
below its slope, the edge's alpha (Kellerer, Pferschy, Pisinger, "Knapsack Problems", 11.2).

Rows are climbed by gift wrapping: from the arm held, the next one has the largest slope

    (value_ij - value_held) / (cost_ij - cost_held)    over arms with cost_ij > cost_held.

This needs no sort of the row and only as many rounds as the longest hull has edges; rows that
have arrived drop out. A round is some ten NumPy calls on a [K, rows] block that stays in cache.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tfalloc.mckp.inputs import Matrix, require_finite
from tfalloc.mckp.order import in_threads

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

# Entries of one [K, rows] block: large enough that threads rarely wait for the interpreter lock
# between calls (at a quarter of this, two threads are no faster than one), small enough for the
# third-level cache.
BLOCK_ENTRIES = 98_304
# Blocks that one thread takes at a time.
BLOCKS_PER_TASK = 4
# Smallest normal float64: stands in for cost differences <= 0, see `_climb_block`.
TINY = float(np.finfo(np.float64).tiny)


class Steps(NamedTuple):
    """Upgrades, in order of row and, within a row, from cheap to dear. All fields are [M]."""

    alpha: Floats  # slope value / cost: response per unit of cost, never increasing within a row
    cost: Floats  # extra cost of the upgrade, > 0
    value: Floats  # extra response of the upgrade, > 0
    row: npt.NDArray[np.signedinteger]
    before: npt.NDArray[np.unsignedinteger]  # arm that the row must hold
    treatment: npt.NDArray[np.unsignedinteger]  # arm that it holds afterwards


class Climb(NamedTuple):
    """All rows after the upgrades dearer than `cap`, and the upgrades still to choose from."""

    treatment: npt.NDArray[np.unsignedinteger]  # [N], arm held
    cost: float  # sum over rows of the arms held
    value: float  # sum over rows of the arms held
    least_cost: float  # sum over rows of the cheapest arms
    magnitude: float  # sum over rows of |cost| of the cheapest arms: the scale of rounding
    steps: Steps  # floor < alpha <= cap


def climb(value: Matrix, cost: Matrix, *, floor: float = 0.0, cap: float = np.inf) -> Climb:
    """Takes every upgrade with alpha > cap, lists those with floor < alpha <= cap.

    Every row starts from its cheapest arm; among equally cheap arms from the most valuable one,
    among equals from the first. Among equal slopes the nearest arm is taken, so points on a
    straight stretch of hull are visited one by one; equal points are represented by the first.

    Args:
      value: [N, K], float32 or float64.
      cost: [N, K], likewise.
      floor: >= 0, upgrades of this alpha or below are ignored.
      cap: upgrades above this alpha are taken at once, and not listed.

    Returns:
      `Climb`. The result does not depend on the number of threads.

    Raises:
      ValueError: if an entry is NaN or infinite.

    Example:
      >>> import numpy as np
      >>> done = climb(np.array([[0.0, 3.0, 4.0]]), np.array([[0.0, 1.0, 2.0]]))
      >>> done.steps.alpha.tolist(), done.steps.treatment.tolist()
      ([3.0, 1.0], [1, 2])
    """
    n, k = value.shape
    # Local row numbers are sorted as 16-bit integers.
    block = max(1, min(BLOCK_ENTRIES // k, 65_536))
    starts = range(0, n, block)

    def work(task: range) -> list[Climb]:
        # Buffers belong to one task: reused by its blocks, never shared by threads.
        v_buffer, c_buffer = np.empty((k, block)), np.empty((k, block))
        done = []
        with np.errstate(over="ignore", under="ignore"):
            for first in task:
                rows = min(block, n - first)
                v, c = v_buffer, c_buffer
                if rows < block:
                    v, c = np.empty((k, rows)), np.empty((k, rows))
                v[...] = value[first : first + rows].T
                c[...] = cost[first : first + rows].T
                require_finite(v, "value", first)
                require_finite(c, "cost", first)
                done.append(_climb_block(v, c, floor, cap, first, row_dtype))
        return done

    row_dtype = np.dtype(np.int32 if n <= np.iinfo(np.int32).max else np.int64)
    tasks = [starts[i : i + BLOCKS_PER_TASK] for i in range(0, len(starts), BLOCKS_PER_TASK)]
    blocks = [b for part in in_threads(work, tasks) for b in part]
    if len(blocks) == 1:
        return blocks[0]
    return Climb(
        treatment=np.concatenate([b.treatment for b in blocks]),
        cost=float(np.sum([b.cost for b in blocks])),
        value=float(np.sum([b.value for b in blocks])),
        least_cost=float(np.sum([b.least_cost for b in blocks])),
        magnitude=float(np.sum([b.magnitude for b in blocks])),
        steps=Steps(*(np.concatenate(field) for field in zip(*(b.steps for b in blocks)))),
    )


def _climb_block(
    v: Floats, c: Floats, floor: float, cap: float, first_row: int, row_dtype: np.dtype
) -> Climb:
    """`climb` for one block of columns: v and c are [K, R]."""
    k, rows = c.shape
    arm_dtype = np.min_scalar_type(k)
    everyone = np.arange(rows)
    arm = _pick(c == c.min(axis=0), c, v)
    treatment = arm.copy()
    c_arm, v_arm = _at(c, arm, everyone), _at(v, arm, everyone)
    least_cost, magnitude = float(c_arm.sum()), float(np.abs(c_arm).sum())

    # Loop state of the rows still climbing (columns of c_left, v_left):
    place = everyone  # [r], position in the block
    alpha = np.full(rows, np.inf)  # [r], of the row's last upgrade
    c_left, v_left = c, v  # [K, r]
    taken: list[tuple[Ints, Floats, Floats, Floats, Ints, Ints]] = []
    while True:
        # Arms that are not dearer than the one held never have more value (else they, not it,
        # would have been the last step), so dividing by TINY instead makes their slope zero or
        # hugely negative: cheaper than masking them.
        slope = v_left - v_arm
        slope /= np.maximum(c_left - c_arm, TINY)
        best = slope.max(axis=0)
        go = np.flatnonzero(best > floor)
        if not go.size:
            break
        if go.size < best.size:
            slope, c_left, v_left = (x.take(go, axis=1) for x in (slope, c_left, v_left))
            place, arm = place.take(go), arm.take(go)
            alpha, best = alpha.take(go), best.take(go)
            c_arm, v_arm = c_arm.take(go), v_arm.take(go)
        after = _pick(slope == best, c_left, v_left)
        c_after, v_after = _at(c_left, after, everyone), _at(v_left, after, everyone)
        # Slopes of a hull never increase; rounding on a straight stretch could make them.
        alpha = np.minimum(best, alpha)
        taken.append((place, alpha, c_after - c_arm, v_after - v_arm, arm, after))
        arm, c_arm, v_arm = after, c_after, v_after

    if taken:
        at, alphas, costs, values, before, now = (np.concatenate(x) for x in zip(*taken))
        if cap < np.inf:
            # Rounds are in climbing order and NumPy assigns in order: a row's last one stays.
            free = alphas > cap
            treatment[at[free]] = now[free]
            keep = np.flatnonzero(~free)
            at = at.take(keep)
        order = at.astype(np.uint16).argsort(kind="stable")  # radix sort
        at = at.take(order)
        if cap < np.inf:
            order = keep.take(order)
        steps = Steps(
            alphas.take(order),
            costs.take(order),
            values.take(order),
            (at + first_row).astype(row_dtype),
            before.take(order).astype(arm_dtype),
            now.take(order).astype(arm_dtype),
        )
    else:
        none, no_arm = np.empty(0), np.empty(0, arm_dtype)
        steps = Steps(none, none, none, np.empty(0, row_dtype), no_arm, no_arm)
    return Climb(
        treatment=treatment.astype(arm_dtype),
        cost=float(_at(c, treatment, everyone).sum()),
        value=float(_at(v, treatment, everyone).sum()),
        least_cost=least_cost,
        magnitude=magnitude,
        steps=steps,
    )


def _at(x: Floats, arm: Ints, everyone: Ints) -> Floats:
    """x[arm[i], i] for a contiguous [K, r] block; a flat take is twice as fast as two indices."""
    r = x.shape[1]
    return x.ravel().take(arm * r + everyone[:r])


def _pick(candidate: npt.NDArray[np.bool_], c: Floats, v: Floats) -> Ints:
    """The cheapest candidate of every column; if several the most valuable; if several the first.

    Args:
      candidate: [K, r], at least one True per column.
      c: [K, r], cost.
      v: [K, r], value.

    Returns:
      [r], arm numbers.
    """
    k, r = candidate.shape
    if np.count_nonzero(candidate) > r:  # ties are rare, and this count is nearly free
        tied = np.flatnonzero(candidate.sum(axis=0) > 1)
        among = candidate.take(tied, axis=1)
        c_tied = np.where(among, c.take(tied, axis=1), np.inf)
        among &= c_tied == c_tied.min(axis=0)
        v_tied = np.where(among, v.take(tied, axis=1), -np.inf)
        among &= v_tied == v_tied.max(axis=0)
        candidate[:, tied] = among
    # Weights K, K - 1, .., 1 make the first candidate the largest: argmax along the short axis
    # in whole-row operations on small integers.
    weight = np.arange(k, 0, -1, dtype=np.min_scalar_type(k))
    return k - (candidate * weight[:, None]).max(axis=0).astype(np.intp)
