"""Which shadow prices the integrated objective looks at, and how much each of them counts.

A weight omega on prices [low, high] enters through two antiderivatives,

    Om0(a) = integral of omega,     Om1(a) = integral of a omega

With s = (a - low) / (high - low), counted from 0 to 1, and R = high - low:

    uniform   omega ds = ds                 Om0 = s,                 Om1 = low s + R s^2 / 2
    drp       omega ds = ds / (s (1 - s))   Om0 = log(s / (1 - s)),  Om1 = low Om0 - R log(1 - s)

"uniform" has mass 1: the objective is the mean over prices. "drp" has no finite mass, so `EDGE` of
the range is left out at either end; mass 2 log((1 - EDGE) / EDGE) = 9.2 remains.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfalloc.outcome.algorithm1 import typical_alpha
from tfalloc.outcome.batch import TrialBatch
from tfalloc.outcome.crossing import last_above
from tfalloc.outcome.curve import sweep
from tfalloc.outcome.fixed_point import exact_terms
from tfalloc.outcome.intervals import match_intervals

EDGE = 0.01
_TAIL = 0.01  # share of the spend that may be left above the highest price
_LEAST_SHARE = 0.01  # prices of a budget range cover at least this share of all prices


class AlphaRange(NamedTuple):
    """A range of shadow prices and its weight.

    Attributes:
      low: scalar float64, response per unit of cost.
      high: scalar float64, above `low`.
      drp: Python bool, omega of DRP; else uniform.
    """

    low: tf.Tensor
    high: tf.Tensor
    drp: bool

    def clip(self, alpha: tf.Tensor) -> tf.Tensor:
        """The nearest price that counts."""
        edge = EDGE * (self.high - self.low) if self.drp else 0.0
        return tf.clip_by_value(alpha, self.low + edge, self.high - edge)

    def density(self, alpha: tf.Tensor) -> tf.Tensor:
        """omega, per unit of price, at prices that count."""
        width = self.high - self.low
        if not self.drp:
            return tf.ones_like(alpha) / width
        return width / ((alpha - self.low) * (self.high - alpha))

    def antiderivatives(self, alpha: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(Om0, Om1) at prices that count."""
        width = self.high - self.low
        share = (alpha - self.low) / width
        if not self.drp:
            return share, share * (self.low + 0.5 * width * share)
        rest = tf.math.log1p(-share)
        logit = tf.math.log(share) - rest
        return logit, self.low * logit - width * rest


def highest_alpha(pred_response: tf.Tensor, pred_cost: tf.Tensor) -> tf.Tensor:
    """The price above which a hundredth of the predicted spend is left.

    Row i buys more than its cheapest arm below the price r_i = max over k of (v_k - v_0) / (c_k -
    c_0), and spends c_k - c_0 just below it. Prices are weighted by this spend because the largest
    ones belong to rows whose arms cost nearly the same.
    """
    cheapest = tf.reduce_min(pred_cost, axis=1, keepdims=True)
    extra = pred_cost - cheapest
    base = tf.reduce_max(
        tf.where(extra == 0.0, pred_response, pred_response.dtype.min), axis=1, keepdims=True
    )
    gain = tf.math.divide_no_nan(pred_response - base, extra)  # 0 for the cheapest arm itself
    last = tf.reduce_max(gain, axis=1)
    spend = tf.gather(extra, tf.argmax(gain, axis=1), axis=1, batch_dims=1)
    # A row that buys nothing changes nothing, and lets a batch without rows pass.
    last, spend = (tf.concat([[tf.zeros((), tf.float64)], x], axis=0) for x in (last, spend))
    order = tf.argsort(last)
    below = tf.cumsum(tf.gather(spend, order))
    enough = tf.cast(below >= (1.0 - _TAIL) * below[-1], tf.int32)
    high = tf.gather(last, tf.gather(order, tf.argmax(enough)))
    return tf.where(high > 0.0, high, typical_alpha(pred_response, pred_cost))


def alphas_of_budgets(
    trial: TrialBatch, budgets: tuple[tf.Tensor, tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor]:
    """The shadow prices of two budgets (low, high) on the exact outcome curve, ascending.

    The price of a budget is the smallest above which C never exceeds it; for a budget that no
    price meets, `highest_alpha`.
    """
    rows = match_intervals(trial.pred_response, trial.pred_cost, trial.treatment)
    terms = [exact_terms(trial, budget) for budget in budgets]
    columns = [*(each.excess for each in terms), terms[0].weight]
    alphas, sums = sweep(rows, tf.stack(columns, axis=1))
    above = [each.above(sums[:, n], sums[:, 2]) for n, each in enumerate(terms)]
    _, entries = last_above(tf.stack(above, axis=1))
    found = tf.gather(alphas, entries)
    highest = highest_alpha(trial.pred_response, trial.pred_cost)
    found = tf.where(found < float("inf"), found, highest)
    low, high = tf.reduce_min(found), tf.reduce_max(found)
    return low, tf.maximum(high, low + _LEAST_SHARE * highest)
