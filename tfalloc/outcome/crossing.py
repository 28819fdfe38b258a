"""The smallest alpha above which the cost never exceeds the budget.

C(alpha), estimated from a trial, is a noisy step function: it may cross the budget many times. The
alpha of a budget is where it is above for the last time,

    alpha* = inf { alpha >= 0 : C(a) <= budget for all a > alpha },

or, for all budgets at once, what the least monotone majorant of C says:

    M(alpha) = max over a >= alpha of C(a),      alpha* = inf { alpha : M(alpha) <= budget }

Once in TensorFlow, on the layout of `curve.OutcomeCurve`, and once in NumPy, on plain intervals.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf


def last_above(above: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Where a curve is above the budget for the last time, and the entry of the answer after it.

    Args:
      above: [entries, ...] bool, C > budget at each entry of an `OutcomeCurve`: a breakpoint, the
        open interval after it, the next breakpoint and so on.

    Returns:
      int32 [...] each: the last entry that is above, -1 if none is; and the entry whose alpha is
      the answer, 0 if none is above. The last entry of all, if C is above the budget for ever.
    """
    size = tf.shape(above)[0]
    entries = tf.reshape(tf.range(size), [-1] + [1] * (above.shape.rank - 1))
    last = tf.reduce_max(tf.where(above, entries, -1), axis=0)
    # After a breakpoint comes its own open interval; after an open interval, the next breakpoint.
    return last, tf.where(last < 0, 0, tf.minimum(last + 1 + last % 2, size - 1))


def first_within(cost: npt.ArrayLike, budget: float) -> int:
    """The first interval of alpha from which on the cost never exceeds the budget.

    Args:
      cost: [M], cost on the intervals between breakpoints, alpha ascending. NaN (no estimate)
        exceeds nothing.
      budget: in the unit of `cost`.

    Returns:
      0 to M; M: even the last interval is above the budget. The alpha of the budget is the left end
      of the interval.

    Example:
      >>> first_within([3.0, 1.0, 2.0, 0.5], budget=1.5)
      3
    """
    above = np.flatnonzero(np.asarray(cost) > budget)
    return int(above[-1]) + 1 if above.size else 0


def most_from_here_on(cost: npt.ArrayLike) -> npt.NDArray[Any]:
    """M, the most that this or any larger alpha costs: `first_within` for every budget at once.

    Args:
      cost: [M], as for `first_within`.

    Returns:
      [M], never increasing; -inf where nothing is known from here on.

    Example:
      >>> most_from_here_on([3.0, 1.0, 2.0, 0.5]).tolist()
      [3.0, 2.0, 2.0, 0.5]
    """
    known = np.asarray(cost, np.float64)
    known = np.where(np.isnan(known), -np.inf, known)
    return np.maximum.accumulate(known[::-1])[::-1]
