"""The exact outcome curve: V and C of the induced policy at every shadow price (Eq. 5, 6).

Each row is matched on one interval of alpha. Sorting all interval ends and accumulating what
enters and leaves gives V(alpha) and C(alpha) everywhere in O(B log B). Both are step functions,
and because ties go to the first arm, their value *at* a breakpoint may differ from both sides. The
curve therefore lists every breakpoint twice: the point itself, then the open interval after it.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfalloc.outcome.batch import Tensor, as_batch
from tfalloc.outcome.estimators import Outcomes, make_estimator
from tfalloc.outcome.intervals import MatchIntervals


class OutcomeCurve(NamedTuple):
    """The outcome of the policy at every alpha >= 0, fields of shape [4B + 2].

    ([4BK + 2] for the doubly robust estimate, where every arm of a row has its interval.)

    Entry 2s holds at exactly `alpha[2s]`; entry 2s + 1 holds on the open interval between
    `alpha[2s + 1]` (the same number) and `alpha[2s + 2]`. Breakpoints ascend from 0. Unused entries
    at the end have alpha = inf and repeat the outcome at unbounded alpha.

    Attributes:
      alpha: float64, shadow price, response per unit of cost.
      response: float64, expected response per user (V); NaN where no row is matched.
      cost: float64, expected cost per user (C); NaN where no row is matched.
      num_matched: int64, rows whose trial treatment is the assigned one.
    """

    alpha: tf.Tensor
    response: tf.Tensor
    cost: tf.Tensor
    num_matched: tf.Tensor


def curve(
    pred_response: Tensor,
    pred_cost: Tensor,
    treatment: Tensor,
    response: Tensor,
    cost: Tensor,
    propensity: Tensor | None = None,
    *,
    outcome_model: tuple[Tensor, Tensor] | None = None,
) -> OutcomeCurve:
    """Expected response and cost of `argmax(v - alpha c)` at every shadow price.

    Args:
      pred_response: [batch, num_treatments], predicted response v.
      pred_cost: [batch, num_treatments], predicted cost c, per user.
      treatment: [batch], integers in [0, num_treatments).
      response: [batch], observed response.
      cost: [batch], observed cost, per user.
      propensity: [batch], probability of the received treatment; None: all the same (Eq. 5, 6).
      outcome_model: (response, cost) expected of every row under every arm, each
        [batch, num_treatments], in the units of `response` and `cost`, by a frozen model that has
        not seen these rows (cross-fitted): the doubly robust estimate of `expected_outcome`.

    Returns:
      `OutcomeCurve`, by the ratio of weighted sums (Hajek) with weights 1 / propensity.

    Raises:
      ValueError: if the shapes do not fit together.

    Example:
      >>> import tfalloc
      >>> v, c = [[0.10, 0.30], [0.20, 0.25]], [[0.0, 1.0], [0.0, 1.0]]
      >>> line = tfalloc.outcome.curve(v, c, [1, 0], response=[1.0, 0.0], cost=[1.0, 0.0])
      >>> line.alpha.numpy().round(2).tolist()[:6]
      [0.0, 0.0, 0.05, 0.05, 0.2, 0.2]
      >>> line.response.numpy().tolist()[:6]  # both rows are matched between .05 and .2
      [1.0, 1.0, 0.5, 0.5, 0.0, 0.0]

    Source: Yan et al. 2023, Eq. 5 and 6, for all alpha at once.
    """
    with tf.name_scope("outcome_curve"):
        trial = as_batch(pred_response, pred_cost, treatment, response, cost, propensity)
        estimator = make_estimator(
            "hajek" if outcome_model is None else "doubly_robust",
            trial,
            propensity=propensity,
            outcome_model=outcome_model,
        )
        outcomes = Outcomes(estimator)
        alpha, sums = sweep(estimator.intervals(), tf.stack(outcomes.columns, axis=1))
        mean_response, mean_cost, num_matched = outcomes.of(tf.unstack(sums, axis=1))
        return OutcomeCurve(alpha, mean_response.total, mean_cost.total, num_matched)


def sweep(rows: MatchIntervals, columns: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Sums over the matched set at every alpha >= 0.

    Args:
      rows: [B] match intervals.
      columns: [B, n] int64, what each row adds to the sums.

    Returns:
      alpha [4B + 2] float64 and sums [4B + 2, n] int64, laid out as `OutcomeCurve` says.
    """
    inf = tf.constant(float("inf"), tf.float64)
    zero = tf.zeros((), tf.float64)
    lower = tf.maximum(rows.lower, zero)
    lower_closed = rows.lower_closed | (rows.lower < zero)
    matched = (lower < rows.upper) | (
        (lower == rows.upper) & lower_closed & rows.upper_closed & (lower < inf)
    )
    upper = tf.where(matched, rows.upper, inf)

    ends = tf.concat([zero[tf.newaxis], lower, upper], axis=0)
    order = tf.argsort(ends)
    ascending = tf.gather(ends, order)
    steps = tf.cast(ascending[1:] != ascending[:-1], tf.int32)
    rank_of_sorted = tf.concat([[0], tf.cumsum(steps)], axis=0)
    size = tf.size(ends)
    rank = tf.scatter_nd(order[:, tf.newaxis], rank_of_sorted, size[tf.newaxis])
    # Equal ends share a rank and write the same number, so the order of writing is immaterial.
    breakpoints = tf.tensor_scatter_nd_update(
        tf.fill(size[tf.newaxis], inf), rank_of_sorted[:, tf.newaxis], ascending
    )
    rank_lower, rank_upper = tf.split(rank[1:], 2)
    first = 2 * rank_lower + tf.cast(~lower_closed, tf.int32)
    beyond = 2 * rank_upper + tf.cast(rows.upper_closed, tf.int32)
    beyond = tf.where(upper < inf, beyond, 2 * size)

    columns = tf.where(matched[:, tf.newaxis], columns, tf.zeros((), columns.dtype))
    sums = tf.zeros(tf.stack([2 * size + 1, tf.shape(columns)[1]]), columns.dtype)
    sums = tf.tensor_scatter_nd_add(sums, first[:, tf.newaxis], columns)
    sums = tf.tensor_scatter_nd_add(sums, beyond[:, tf.newaxis], -columns)
    return tf.repeat(breakpoints, 2), tf.cumsum(sums, axis=0)[:-1]
