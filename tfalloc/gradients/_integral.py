"""J: the integral over shadow prices of the policy's value, row by row, and its derivatives.

Row i, matched between lo and hi, adds w [ y (Om0(hi) - Om0(lo)) - z (Om1(hi) - Om1(lo)) ] / N and
pulls at either end q = (v_k - v_t) / (c_k - c_t) with +- (w/N) (y - q z) omega(q) (`integrated`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf

from tfalloc.gradients._prices import Prices
from tfalloc.outcome._trial import Tensor, Trial, as_float64
from tfalloc.outcome.intervals import received, rivals

_GAP = 0.01  # default of min_cost_gap, in mean spreads of predicted cost


class IntegratedObjective(NamedTuple):
    """J and its gradient; float64 constants for automatic differentiation.

    Attributes:
      objective: scalar, J; response per user times the mass of omega.
      d_response: [batch, num_treatments], dJ/dv.
      d_cost: [batch, num_treatments], dJ/dc.
      prices: [2], the range (low, high) over which J integrates, response per unit of cost.
    """

    objective: tf.Tensor
    d_response: tf.Tensor
    d_cost: tf.Tensor
    prices: tf.Tensor


def integrate(
    trial: Trial,
    prices: Prices,
    min_cost_gap: float | None,
    baseline: tuple[Tensor, Tensor] | None,
) -> IntegratedObjective:
    """J and its gradient on one batch; see `Integrated` for the arguments."""
    value, price, arm = trial.value, trial.price, trial.treatment
    arms = tf.shape(value)[1]
    y, z = trial.response, trial.cost
    if baseline is not None:
        y, z = (x - _row(b, x) for x, b in zip((y, z), baseline, strict=True))
    # The mean of 1 / propensity is K in expectation.
    share = trial.weight * tf.math.divide_no_nan(
        tf.cast(arms, tf.float64), tf.reduce_sum(trial.weight)
    )

    own_value, own_price = received(value, arm), received(price, arm)
    versus = rivals(own_value, own_price, value, price, arm)
    extra = price - own_price[:, tf.newaxis]
    if min_cost_gap is None:
        spread = tf.reduce_max(price, axis=1) - tf.reduce_min(price, axis=1)
        gap = _GAP * tf.reduce_mean(spread)
    else:
        gap = tf.constant(min_cost_gap, tf.float64)
    guarded = tf.abs(extra) < gap
    safe = tf.where(guarded, tf.where(extra < 0.0, -gap, gap), extra)
    safe = tf.where(safe == 0.0, tf.ones_like(safe), safe)
    quotient = (value - own_value[:, tf.newaxis]) / safe
    infinity = tf.constant(math.inf, tf.float64)
    lowers = tf.where(versus.dearer, quotient, -infinity)
    uppers = tf.where(versus.cheaper, quotient, infinity)
    lower, upper = tf.reduce_max(lowers, axis=1), tf.reduce_min(uppers, axis=1)
    lo, hi = prices.clip(lower), prices.clip(upper)
    matched = (lo < hi) & ~tf.reduce_any(versus.beaten, axis=1)

    lo0, lo1 = prices.antiderivatives(lo)
    hi0, hi1 = prices.antiderivatives(hi)
    each = share * (y * (hi0 - lo0) - z * (hi1 - lo1))
    objective = tf.reduce_sum(tf.where(matched, each, tf.zeros_like(each)))

    def through(end: tf.Tensor, inside: tf.Tensor, rival: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """dJ/dend, carried to the entries of the two arms that meet there, [B, K] each."""
        slope = share * (y - end * z) * prices.density(end)
        slope = tf.where(matched & inside, slope, tf.zeros_like(slope))
        meets = tf.one_hot(rival, arms, dtype=tf.float64)
        at_rival = meets * (slope[:, tf.newaxis] / safe)
        at_rival_cost = tf.where(guarded, tf.zeros_like(at_rival), -end[:, tf.newaxis] * at_rival)
        own = tf.one_hot(arm, arms, dtype=tf.float64)
        d_value, d_price = (
            x - own * tf.reduce_sum(x, axis=1, keepdims=True) for x in (at_rival, at_rival_cost)
        )
        return d_value, d_price

    hi_value, hi_price = through(hi, hi == upper, tf.argmin(uppers, axis=1))
    lo_value, lo_price = through(lo, lo == lower, tf.argmax(lowers, axis=1))
    ends = tf.stack([prices.low, prices.high])
    found = objective, hi_value - lo_value, hi_price - lo_price, ends
    return IntegratedObjective(*(tf.stop_gradient(x) for x in found))


def _row(baseline: Tensor, like: tf.Tensor) -> tf.Tensor:
    column = as_float64(baseline)
    if column.shape.rank != 1 or not column.shape.is_compatible_with(like.shape):
        raise ValueError(
            f"baseline must be two columns of shape [batch] = {like.shape}; "
            f"received {column.shape}."
        )
    return column
