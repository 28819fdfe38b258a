"""Exact sums: weighted outcomes as 64-bit integers, so that no order of addition matters.

Whether a branch of Algorithm 1 goes left or right hangs on the sign of a sum; whether a finite
difference is zero hangs on two sums being *equal*. Floating-point sums depend on the order of
their terms: prefix differences, masked sums and updates by one row would disagree in the last
digit, and divided by a step of 3e-4 that digit becomes a gradient. Scaled by a power of two and
rounded to integers, the terms add up exactly in any order; the one rounding of each term is below
sum|x| / 2^60, finer than float64 summation itself. Dyadic input is represented without any error.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfalloc.outcome.batch import TrialBatch

_MANTISSA_BITS = 52
_EXPONENT_BIAS = 1023
_HEADROOM = 60  # |sum| stays below 2^60: prefix sums and one row's correction cannot overflow.


class Terms(NamedTuple):
    """What each row adds to the sums over the matched set S.

    Attributes:
      excess: [B] int64, w (z - budget), the branch test of Algorithm 1.
      weight: [B] int64, w.
      response: [B] int64, w y.
      excess_unit: scalar float64, the worth of one unit of `excess`.
      weight_unit: scalar float64, likewise.
      response_unit: scalar float64, likewise.
      slack: scalar float64, how far above the budget C is still within it, cost per user.
    """

    excess: tf.Tensor
    weight: tf.Tensor
    response: tf.Tensor
    excess_unit: tf.Tensor
    weight_unit: tf.Tensor
    response_unit: tf.Tensor
    slack: tf.Tensor

    def above(self, excess: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        """Whether C is above the budget, from sums over S; not where S is empty."""
        return tf.cast(excess, tf.float64) > self._per_weight(self.slack, weight)

    def close(self, excess: tf.Tensor, weight: tf.Tensor, tolerance: float) -> tf.Tensor:
        """Whether |C - budget| is at most `tolerance`, or what rounding leaves of it."""
        most = self._per_weight(tf.maximum(self.slack, tolerance), weight)
        return (weight > 0) & (tf.abs(tf.cast(excess, tf.float64)) <= most)

    def _per_weight(self, cost: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        """An excess of `cost` per user, in units of excess."""
        return cost * (self.weight_unit / self.excess_unit) * tf.cast(weight, tf.float64)

    def columns(self) -> tf.Tensor:
        """The three terms side by side, [B, 3] int64."""
        return tf.stack([self.excess, self.weight, self.response], axis=1)


def power_of_two(exponent: tf.Tensor) -> tf.Tensor:
    """2^exponent for an int64 exponent, exactly (`tf.pow` is not exact on every device)."""
    biased = tf.cast(exponent, tf.int64) + _EXPONENT_BIAS
    return tf.bitcast(tf.bitwise.left_shift(biased, _MANTISSA_BITS), tf.float64)


def binary_exponent(x: tf.Tensor) -> tf.Tensor:
    """floor(log2(x)) of positive, normal float64 numbers, int64, exactly."""
    return tf.bitwise.right_shift(tf.bitcast(x, tf.int64), _MANTISSA_BITS) - _EXPONENT_BIAS


def to_fixed_point(x: tf.Tensor) -> tf.Tensor:
    """Rounds terms to integers whose sum is exact.

    Args:
      x: [B] float64.

    Returns:
      integers [B] int64, and the scalar float64 worth of one unit: x ~ integers * unit.
    """
    total = tf.reduce_sum(tf.abs(x))
    exponent = tf.where(total > 1e-290, binary_exponent(tf.maximum(total, 1e-290)), 0)
    # Scale in two factors: for a tiny total one factor alone would leave the range of float64.
    scaled = (x * power_of_two(-exponent)) * float(2 ** (_HEADROOM - 1))
    unit = power_of_two(exponent) * 2.0 ** (1 - _HEADROOM)
    # Integers have no NaN: the unit carries it, so that what is computed of bad terms is NaN too.
    unit = tf.where(tf.math.is_finite(total), unit, tf.constant(float("nan"), tf.float64))
    return tf.cast(tf.round(scaled), tf.int64), unit


def exact_terms(trial: TrialBatch, budget: tf.Tensor) -> Terms:
    """The terms of V (Eq. 5), C (Eq. 6) and of Algorithm 1's branch test, as exact integers."""
    excess, excess_unit = to_fixed_point(trial.weight * (trial.cost - budget))
    weight, weight_unit = to_fixed_point(trial.weight)
    response, response_unit = to_fixed_point(trial.weight * trial.response)
    slack = trial.rounding * tf.abs(budget)
    return Terms(excess, weight, response, excess_unit, weight_unit, response_unit, slack)


def ratio(
    numerator: tf.Tensor, unit: tf.Tensor, denominator: tf.Tensor, denominator_unit: tf.Tensor
) -> tf.Tensor:
    """numerator / denominator of exact sums; NaN where the denominator is zero (empty S)."""
    empty = denominator == 0
    safe = tf.cast(tf.where(empty, tf.ones_like(denominator), denominator), tf.float64)
    quotient = (tf.cast(numerator, tf.float64) / safe) * (unit / denominator_unit)
    return tf.where(empty, tf.constant(float("nan"), tf.float64), quotient)
