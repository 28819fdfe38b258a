"""Match intervals: the shadow prices at which a policy agrees with the trial (Eq. 2 to 5).

Row i of the trial received arm t. The policy at shadow pred_cost alpha assigns
argmax_j v_ij - alpha c_ij, so the row is matched exactly where t beats every other arm k:

    v_t - v_k > alpha (c_t - c_k),   or both sides are equal and t < k     (argmax: first wins)

Divided by c_k - c_t this bounds alpha from below for dearer arms and from above for cheaper ones
by the same quotient q_k = (v_k - v_t) / (c_k - c_t). The conjunction over k is one interval:

    lower = max over dearer k of q_k,      upper = min over cheaper k of q_k

An end is closed where t also wins the tie that happens there. An arm of equal cost either never
binds or empties the interval. One O(BK) pass replaces an argmax pass for each alpha.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfalloc.outcome.batch import Tensor, as_float64, as_predictions


class Rivals(NamedTuple):
    """The received arm against every arm k, [..., B, K] each.

    Attributes:
      quotient: alpha at which the received arm and arm k are worth the same (0 where `same`).
      dearer: arm k costs more than the received arm: `quotient` bounds alpha from below.
      cheaper: arm k costs less: `quotient` bounds alpha from above.
      wins_tie: the received arm comes first, so that argmax prefers it at a tie.
      beaten: equal cost, and arm k is better at every alpha: the row is never matched.
    """

    quotient: tf.Tensor
    dearer: tf.Tensor
    cheaper: tf.Tensor
    wins_tie: tf.Tensor
    beaten: tf.Tensor


class MatchIntervals(NamedTuple):
    """For each row, the interval of shadow prices at which the policy picks the received arm.

    Attributes:
      lower: [B] float64, response per unit of cost; -inf where no arm is dearer.
      upper: [B] float64; +inf where no arm is cheaper. Empty intervals have lower > upper, or
        lower == upper with an open end.
      lower_closed: [B] bool, whether the row is matched at `lower` itself.
      upper_closed: [B] bool, whether the row is matched at `upper` itself.
    """

    lower: tf.Tensor
    upper: tf.Tensor
    lower_closed: tf.Tensor
    upper_closed: tf.Tensor

    def contains(self, alpha: Tensor) -> tf.Tensor:
        """Whether each row is matched at `alpha` (scalar or broadcastable to [..., B])."""
        alpha = as_float64(alpha)
        above = (alpha > self.lower) | (self.lower_closed & (alpha == self.lower))
        below = (alpha < self.upper) | (self.upper_closed & (alpha == self.upper))
        return above & below


def rivals(
    own_response: tf.Tensor,
    own_cost: tf.Tensor,
    pred_response: tf.Tensor,
    pred_cost: tf.Tensor,
    treatment: tf.Tensor,
) -> Rivals:
    """Compares the received arm with every arm.

    Args:
      own_response: [..., B] float64, v of the received arm.
      own_cost: [..., B] float64, c of the received arm.
      pred_response: [..., B, K] float64, v of the rivals.
      pred_cost: [..., B, K] float64, c of the rivals.
      treatment: [B] int32. Its own column never binds, whatever the rivals'
        arguments say there.
    """
    arms = tf.range(tf.shape(pred_response)[-1])[tf.newaxis, :]
    received = treatment[:, tf.newaxis]
    gain = pred_response - own_response[..., tf.newaxis]
    extra = pred_cost - own_cost[..., tf.newaxis]
    own = arms == received
    wins_tie = received < arms
    equal = extra == 0.0
    return Rivals(
        quotient=gain / tf.where(equal, tf.ones_like(extra), extra),
        dearer=(extra > 0.0) & ~own,
        cheaper=(extra < 0.0) & ~own,
        wins_tie=wins_tie,
        beaten=equal & ~own & ((gain > 0.0) | ((gain == 0.0) & ~wins_tie)),
    )


def received(matrix: tf.Tensor, treatment: tf.Tensor) -> tf.Tensor:
    """Picks the received arm's column of [B, K]: [B]."""
    return tf.gather(matrix, treatment, axis=1, batch_dims=1)


def match_intervals(pred_response: Tensor, pred_cost: Tensor, treatment: Tensor) -> MatchIntervals:
    """Shadow prices at which `argmax(v - alpha c)` equals the arm received in the trial.

    Args:
      pred_response: [batch, num_treatments], predicted response v.
      pred_cost: [batch, num_treatments], predicted cost c, per user.
      treatment: [batch], integers in [0, num_treatments).

    Returns:
      `MatchIntervals`. Row i is matched at alpha iff `intervals.contains(alpha)[i]`.

    Raises:
      ValueError: if the shapes do not fit together.

    Example:
      >>> import tfalloc
      >>> v, c = [[0.10, 0.30], [0.20, 0.25]], [[0.0, 1.0], [0.0, 1.0]]
      >>> rows = tfalloc.outcome.match_intervals(v, c, treatment=[1, 0])
      >>> rows.upper.numpy().round(3).tolist()  # row 0 gets arm 1 while alpha < .2
      [0.2, inf]
      >>> rows.lower.numpy().round(3).tolist()  # row 1 gets arm 0 from alpha = .05 on
      [-inf, 0.05]

    Source: Yan et al. 2023, Eq. 2 to 5, solved for alpha.
    """
    with tf.name_scope("match_intervals"):
        return intervals_of(*as_predictions(pred_response, pred_cost, treatment))


def intervals_of(
    pred_response: tf.Tensor, pred_cost: tf.Tensor, treatment: tf.Tensor
) -> MatchIntervals:
    """`match_intervals` of tensors that have their dtypes: float64 [B, K] twice, int32 [B]."""
    own_response, own_cost = received(pred_response, treatment), received(pred_cost, treatment)
    versus = rivals(own_response, own_cost, pred_response, pred_cost, treatment)
    inf = tf.constant(float("inf"), tf.float64)

    def largest(among: tf.Tensor) -> tf.Tensor:
        return tf.reduce_max(tf.where(among, versus.quotient, -inf), axis=1)

    def smallest(among: tf.Tensor) -> tf.Tensor:
        return tf.reduce_min(tf.where(among, versus.quotient, inf), axis=1)

    # Several arms may share an end; it is closed only if the received arm wins all the ties.
    lower, open_lower = largest(versus.dearer), largest(versus.dearer & ~versus.wins_tie)
    upper, open_upper = smallest(versus.cheaper), smallest(versus.cheaper & ~versus.wins_tie)
    # A row whose predictions are not numbers agrees with the trial nowhere.
    unknown = tf.math.is_nan(versus.quotient)
    empty = tf.reduce_any(versus.beaten | unknown, axis=1)
    return MatchIntervals(
        lower=tf.where(empty, inf, lower),
        upper=tf.where(empty, -inf, upper),
        lower_closed=open_lower < lower,
        upper_closed=upper < open_upper,
    )
