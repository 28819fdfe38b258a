"""Sorting upgrades by alpha, summing along the order, and the threads that share such work.

NumPy's argsort of float64 takes some 100 ns an element; its stable sort of 16-bit integers is a
radix sort and takes 8. So alphas are squeezed into 32 bits by a monotone map, sorted in two
radix passes, and the few neighbours that the map could not tell apart are put right.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
Task = TypeVar("Task")
Result = TypeVar("Result")

# Beyond this memory bandwidth, not arithmetic, is what more threads would wait for.
MAX_WORKERS = 16

# Below this many elements the two radix tables of 65,536 counts cost more than they save.
RADIX_FROM = 30_000
# Length of the inner sums of `running`.
SUM_BLOCK = 1024


def descending(alpha: Floats) -> Ints:
    """Returns the stable permutation that sorts `alpha` from high to low.

    Args:
      alpha: [M], > 0, may be infinite.

    Returns:
      [M], indices; equal alphas keep their order.

    Example:
      >>> import numpy as np
      >>> descending(np.array([1.0, 3.0, 1.0, 2.0])).tolist()
      [1, 3, 0, 2]
    """
    if alpha.size < RADIX_FROM:
        return np.argsort(-alpha, kind="stable")
    middle = float(np.median(alpha[:: alpha.size // 1024]))
    if not np.isfinite(middle):
        middle = 1.0
    # m / (alpha + m): from 1 down to 0 as alpha grows, and half of all alphas on either side
    # of 1/2. Each operation rounds monotonically, so the key never puts two alphas the wrong way
    # round; it can only fail to separate them.
    with np.errstate(over="ignore", under="ignore"):
        key = (middle / (alpha + middle) * 4_294_967_295.0).astype(np.uint32)
    order = key.astype(np.uint16).argsort(kind="stable")
    high = (key >> np.uint32(16)).astype(np.uint16).take(order)
    order = order.take(high.argsort(kind="stable"))
    return _separate(order, alpha, key)


def _separate(order: Ints, alpha: Floats, key: npt.NDArray[np.uint32]) -> Ints:
    """Sorts by alpha within the groups of equal keys that are not sorted yet."""
    sorted_alpha = alpha.take(order)
    wrong = sorted_alpha[1:] > sorted_alpha[:-1]
    if not wrong.any():
        return order
    sorted_key = key.take(order)
    group = np.concatenate([[0], np.cumsum(sorted_key[1:] != sorted_key[:-1])])
    mixed = np.zeros(group[-1] + 1, np.bool_)
    mixed[group[1:][wrong]] = True
    member = np.flatnonzero(mixed[group])
    inside = np.lexsort((-sorted_alpha[member], group[member]))
    order[member] = order[member[inside]]
    return order


def by_alpha(alpha: Floats) -> list[Ints]:
    """Returns pieces whose concatenation is `descending(alpha)`, one piece a thread.

    Pieces are cut at quantiles of a sample; equal alphas are always in one piece.
    """
    pieces = num_workers()
    if pieces == 1 or alpha.size < RADIX_FROM:
        return [descending(alpha)]
    sample = np.sort(alpha[:: alpha.size // 1024])
    cuts = sample[[sample.size * i // pieces for i in range(pieces - 1, 0, -1)]]
    bounds = [np.inf, *cuts.tolist(), -np.inf]

    def work(i: int) -> Ints:
        high, low = bounds[i], bounds[i + 1]
        inside = alpha > low
        if i:
            inside &= alpha <= high
        mine = np.flatnonzero(inside)
        return mine.take(descending(alpha.take(mine)))

    return in_threads(work, range(pieces))


def running(x: Floats) -> Floats:
    """Running sums, in blocks so that rounding grows with sqrt(M) operations rather than M.

    Args:
      x: [M].

    Returns:
      [M], x[0], x[0] + x[1], ...
    """
    whole = x.size - x.size % SUM_BLOCK
    total = np.empty_like(x)
    blocks = total[:whole].reshape(-1, SUM_BLOCK)
    np.cumsum(x[:whole].reshape(-1, SUM_BLOCK), axis=1, out=blocks)
    np.cumsum(x[whole:], out=total[whole:])
    ends = np.cumsum(blocks[:, -1])
    blocks[1:] += ends[:-1, None]
    if whole:
        total[whole:] += ends[-1]
    return total


def num_workers() -> int:
    """Number of threads: the cores that this process may use."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    return max(1, min(cores, MAX_WORKERS))


def in_threads(work: Callable[[Task], Result], tasks: Iterable[Task]) -> list[Result]:
    """Returns `[work(task) for task in tasks]`, computed in threads; the first error is raised."""
    todo = list(tasks)
    workers = min(num_workers(), len(todo))
    if workers <= 1:
        return [work(task) for task in todo]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, todo))
