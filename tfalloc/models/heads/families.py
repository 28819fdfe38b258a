"""Kinds of outcomes: the loss that fits each one's mean, per row and free of units.

    family        loss (default first)   per row of outcome y, predicted mean m
    binary        cross_entropy          - y log m - (1 - y) log(1 - m)
    nonnegative   squared_error          (m - y)^2 / E[y^2]
                  poisson                (m - y log(m / E y)) E y / E[y^2]
    real          squared_error          (m - y)^2 / Var y
    hurdle        gamma                  CE(1{y > 0}, p) + 1{y > 0} (y/q - log(y/q) - 1), q = m/p
                  lognormal              CE(1{y > 0}, p) + 1{y > 0} (e^2 / 2 + log s),
                                         e = (log y - log q + s^2 / 2) / s
    constant      none                   0 (a cost known in advance)
    on_response   none                   0 (cost = known amount of the arm x response)

E and Var are over the trial. For a 0/1 outcome squared error and Poisson are then in the units of
cross entropy, and in any other currency they are what they would be in that one. Gamma is
quasi-likelihood: its minimum is the mean whatever the distribution of the positives; log-normal is
sharper if they are log-normal, biased if not.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

LOSSES: dict[str, tuple[str, ...]] = {
    "binary": ("cross_entropy",),
    "nonnegative": ("squared_error", "poisson"),
    "hurdle": ("gamma", "lognormal"),
    "real": ("squared_error",),
    "constant": (),
    "on_response": (),
}
RESPONSE_HEADS = ("binary", "nonnegative", "hurdle", "real")
COST_HEADS = ("binary", "nonnegative", "hurdle", "constant", "on_response")

# Means at which logarithms are cut off, relative to the least arm's mean in the trial.
CUT = 0.01


class Arms(NamedTuple):
    """One outcome's predictions: for every arm [batch, K], or for the received one [batch].

    Attributes:
      mean: expected outcome.
      logit: log odds of the outcome (binary, where the mean is the sigmoid of it) or of its being
        positive (hurdle); None: only the mean is predicted.
    """

    mean: Any
    logit: Any = None


class Scales(NamedTuple):
    """What makes an outcome's loss free of units; scalars, or floats.

    Attributes:
      square: mean square in the trial, or the variance if "real".
      mean: mean in the trial.
      low: cut-off of the mean where a loss takes its logarithm.
      high: cut-off towards 1 of a binary outcome.
    """

    square: Any = 1.0
    mean: Any = 1.0
    low: Any = 1e-6
    high: Any = 1 - 1e-6


def check_loss(family: str | None, loss: str | None, name: str = "loss") -> str | None:
    """The loss of a family: as asked for, or its default.

    Args:
      family: one of `LOSSES`; None: not known yet, only the spelling is checked.
      loss: its name, or None.
      name: of the argument, for messages.

    Returns:
      The name; None if the family has no loss (or neither is known).

    Raises:
      ValueError: if the loss does not exist, or not for this family.

    Example:
      >>> check_loss("hurdle", None)
      'gamma'
    """
    if family is None:
        known = tuple(sorted({each for losses in LOSSES.values() for each in losses}))
        if loss is not None and loss not in known:
            raise ValueError(f"{name}={loss!r} is not known; expected one of {known} or None.")
        return loss
    losses = LOSSES[family]
    if loss is None:
        return losses[0] if losses else None
    if loss not in losses:
        expected = f"expected one of {losses} or None" if losses else "it has none: leave it out"
        raise ValueError(f"{name}={loss!r} does not fit a {family!r} head; {expected}.")
    return loss


def received(arms: Arms, treatment: Any) -> Arms:
    """The prediction for the arm that each row received, [batch]; treatment is [batch]."""
    # A masked sum, not a gather: its derivative is a masked broadcast, which XLA fuses.
    mask = tf.one_hot(treatment, arms.mean.shape[1], dtype=arms.mean.dtype)
    return Arms(*(None if x is None else tf.reduce_sum(x * mask, axis=1) for x in arms))


def row_loss(loss: str | None, arms: Arms, outcome: Any, scales: Scales, log_spread: Any) -> Any:
    """Loss of each row, [batch].

    Args:
      loss: as `check_loss` returns it.
      arms: prediction for the received arm, [batch].
      outcome: observed, [batch].
      scales: of the outcome.
      log_spread: log of the standard deviation of log outcomes, [batch] ("lognormal" only).

    Returns:
      float32 [batch].
    """
    mean, logit = arms
    if loss is None:
        return tf.zeros_like(outcome)
    if loss == "squared_error":
        return (mean - outcome) ** 2 / scales.square
    if loss == "cross_entropy":
        if logit is not None:
            return _cross_entropy(outcome, logit)
        inside = tf.clip_by_value(mean, scales.low, scales.high)
        surprise = -outcome * tf.math.log(inside) - (1 - outcome) * tf.math.log1p(-inside)
        above = tf.nn.relu(mean - scales.high) / (1 - scales.high)
        return surprise + _shortfall(mean, scales.low) + CUT * above
    inside = tf.maximum(mean, scales.low)
    if loss == "poisson":
        deviance = inside - outcome * tf.math.log(inside / scales.mean)
        return deviance * scales.mean / scales.square + _shortfall(mean, scales.low)
    positive = outcome > 0
    happens = _cross_entropy(tf.cast(positive, tf.float32), logit)
    # Zeros have no logarithm, and a NaN behind a mask still poisons its gradient.
    log_outcome = tf.math.log(tf.where(positive, outcome, tf.ones_like(outcome)))
    excess = log_outcome - (tf.math.log(inside) - tf.math.log_sigmoid(logit))
    if loss == "gamma":
        amount = _capped_exp(excess) - excess - 1
    else:
        error = excess * tf.exp(-log_spread) + tf.exp(log_spread) / 2
        amount = error**2 / 2 + log_spread
    return (
        happens + tf.where(positive, amount, tf.zeros_like(amount)) + _shortfall(mean, scales.low)
    )


def _cross_entropy(outcome: Any, logit: Any) -> Any:
    return tf.nn.sigmoid_cross_entropy_with_logits(labels=outcome, logits=logit)


def _shortfall(mean: Any, low: Any) -> Any:
    """Pulls a mean below its cut-off back, by 1 for each least arm mean: the cut has no slope."""
    return CUT * tf.nn.relu(low - mean) / low


def _capped_exp(x: Any) -> Any:
    """exp(x), continued by its tangent above 10, where one row would rule a batch."""
    cut = tf.minimum(x, 10.0)
    return tf.exp(cut) * (1 + x - cut)
