"""V and C with every match replaced by its probability, and the price at which C meets the budget.

    n = sum_i w_i p_it,     V = (1/N) sum_ij p_ij m_ij + sum_i w_i p_it (y_i - m_it) / n

and C likewise; m = 0 unless a model of outcomes is given. At fixed alpha, with R the second term,

    dV = (1/N) sum_ij m_ij dp_ij + sum_i (w_i / n) [ (y_i - m_it) - R ] dp_it

so all that is needed of the noise are p and the derivatives of sum_j a_j p_j for a few sets of
coefficients a: the received arm's indicator, and the two models (`_choice`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf

from tfalloc.gradients._choice import (
    Choice,
    gaussian_choice,
    softmax_choice,
    softmax_received,
)
from tfalloc.gradients._prices import typical_price
from tfalloc.outcome._trial import Tensor, Trial, as_outcome_model
from tfalloc.outcome.intervals import received

# Of C(alpha) = budget, relative to the largest cost, before the last Newton step, which doubles
# the digits.
_PRECISION = 1e-6
_REACH = 4.0  # a search without an upper end grows by at most this factor a step


class Noise(NamedTuple):
    """Kind and scale of the noise on scores; see `Smoothed`."""

    kind: str
    scale: float
    scale_cost: float
    num_nodes: int


class Values(NamedTuple):
    """V and C at a shadow price; slopes: d/dalpha; d_*: [B, K], d/dscore at fixed alpha."""

    response: tf.Tensor
    cost: tf.Tensor
    response_slope: tf.Tensor
    cost_slope: tf.Tensor
    d_response: tf.Tensor
    d_cost: tf.Tensor


class SmoothOutcome:
    """alpha -> `Values` of one batch."""

    def __init__(self, trial: Trial, noise: Noise, outcome_model: tuple[Tensor, Tensor] | None):
        self._trial = trial
        self._noise = noise
        self._doubly_robust = outcome_model is not None
        arms = tf.shape(trial.value)[1]
        # What is differentiated: the received arm's probability, then each model's mean outcome.
        sets = [tf.one_hot(trial.treatment, arms, dtype=tf.float64)]
        self._residuals = [trial.response, trial.cost]
        if outcome_model is not None:
            models = as_outcome_model(outcome_model, trial.value.shape)
            sets += models
            self._residuals = [
                x - received(m, trial.treatment)
                for x, m in zip(self._residuals, models, strict=True)
            ]
        self._coefficients = tf.stack(sets)

    def __call__(self, alpha: tf.Tensor) -> Values:
        trial = self._trial
        score = trial.value - alpha * trial.price
        choice, growth = self._choose(score, alpha)
        matched = trial.weight * received(choice.probability, trial.treatment)
        total = tf.reduce_sum(matched)
        motion = -trial.price - growth * score  # d score / dalpha, with the change of noise
        rows = tf.cast(tf.shape(score)[0], tf.float64)

        def estimate(outcome: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            residual = self._residuals[outcome]
            mean = tf.math.divide_no_nan(tf.reduce_sum(matched * residual), total)
            influence = tf.math.divide_no_nan(trial.weight * (residual - mean), total)
            d_score = influence[:, tf.newaxis] * choice.pulled[0]
            if self._doubly_robust:
                mean += tf.reduce_sum(choice.probability * self._coefficients[1 + outcome]) / rows
                d_score += choice.pulled[1 + outcome] / rows
            return mean, tf.reduce_sum(d_score * motion), d_score

        response, response_slope, d_response = estimate(0)
        cost, cost_slope, d_cost = estimate(1)
        return Values(response, cost, response_slope, cost_slope, d_response, d_cost)

    def cost(self, alpha: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """C and dC/dalpha alone, which is all that the search for alpha looks at."""
        if self._noise.kind != "softmax" or self._doubly_robust:
            values = self(alpha)
            return values.cost, values.cost_slope
        trial = self._trial
        extra = trial.price - received(trial.price, trial.treatment)[:, tf.newaxis]
        gain = trial.value - received(trial.value, trial.treatment)[:, tf.newaxis] - alpha * extra
        scale = tf.constant(self._noise.scale, tf.float64)
        probability, slope = softmax_received(gain, -extra, scale)
        total = tf.reduce_sum(trial.weight * probability)
        cost = tf.math.divide_no_nan(tf.reduce_sum(trial.weight * probability * trial.cost), total)
        motion = tf.reduce_sum(trial.weight * slope * (trial.cost - cost))
        return cost, tf.math.divide_no_nan(motion, total)

    def _choose(self, score: tf.Tensor, alpha: tf.Tensor) -> tuple[Choice, tf.Tensor]:
        """Also d log(scale) / dalpha: growing noise is shrinking scores, as p(m, s) = p(m/s, 1)."""
        scale = tf.constant(self._noise.scale, tf.float64)
        if self._noise.kind == "softmax":
            return softmax_choice(score, scale, self._coefficients), tf.zeros_like(alpha)
        scale_cost = tf.constant(self._noise.scale_cost, tf.float64)
        variance = scale**2 + (alpha * scale_cost) ** 2
        choice = gaussian_choice(
            score, tf.sqrt(variance), self._coefficients, self._noise.num_nodes
        )
        return choice, alpha * scale_cost**2 / variance


def search(
    at: SmoothOutcome, trial: Trial, budget: tf.Tensor, start: tf.Tensor, steps: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Newton steps on C(alpha) = budget inside a bracket; (alpha, whether C reached the budget).

    C of a finite batch need not be monotone, so a Newton step is taken only where C falls and the
    step stays inside the bracket; otherwise the bracket is halved, or, without an upper end, grown.
    """
    inf = tf.constant(math.inf, tf.float64)
    tolerance = _PRECISION * (tf.abs(budget) + tf.reduce_max(tf.abs(trial.cost)))

    # The hard alpha may be next to 0 where only the smooth C exceeds the budget.
    typical = typical_price(trial.value, trial.price)

    # low, high: C(low) > budget >= C(high), once seen; alpha: the next point to look at.
    def body(step, alpha, low, high, done):
        cost, slope = at.cost(alpha)
        excess = cost - budget
        low = tf.where(excess > 0.0, alpha, low)
        high = tf.where(excess > 0.0, high, alpha)
        top = tf.where(high < inf, high, _REACH * tf.maximum(alpha, typical))
        # From far above, climbing again is faster than halving.
        middle = tf.minimum(0.5 * (low + high), _REACH * tf.maximum(low, typical))
        newton = alpha - tf.math.divide_no_nan(excess, slope)
        good = (slope < 0.0) & (newton > low) & (newton < top)
        done = tf.abs(excess) <= tolerance
        otherwise = tf.where(done, alpha, tf.where(high < inf, middle, top))
        alpha = tf.where(good, newton, otherwise)
        return step + 1, alpha, low, high, done

    zero = tf.zeros((), tf.float64)
    _, alpha, _, high, done = tf.while_loop(
        lambda step, alpha, low, high, done: ~done,
        body,
        (0, start, zero, inf, tf.constant(False)),
        maximum_iterations=steps,
    )
    return alpha, done | (high < inf)
