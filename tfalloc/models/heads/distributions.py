"""Kinds of outcomes: from raw outputs to means, the loss that fits them, and where they start.

    head          mean m of raw outputs          loss (default first), per row of outcome y
    binary        sigmoid(location + raw)        cross_entropy  - y log m - (1 - y) log(1 - m)
    nonnegative   scale softplus(raw) / log 2    squared_error  (m - y)^2 / E[y^2]
                                                 poisson        (m - y log(m / E y)) E y / E[y^2]
    real          location + scale raw           squared_error  (m - y)^2 / Var y
    hurdle        p times nonnegative            gamma          CE(1{y > 0}, p)
                                                                + 1{y > 0} (y/q - log(y/q) - 1)
                                                 lognormal      CE(1{y > 0}, p)
                                                                + 1{y > 0} (e^2 / 2 + log s)
    constant      known, no output               none           a cost known in advance
    on_response   amount times response          none           of the arm

with p = P(y > 0), q = m/p and e = (log y - log q + s^2 / 2) / s. Where arms rise one by one, a step
is scale (softplus(location + raw) + FLOOR), positive. Locations and scales are set from the trial,
so that raw outputs near 0 predict its arm rates and a raw output of 1 means a change of the
outcome's own size.

E and Var are over the trial: losses are free of units. For a 0/1 outcome squared error and Poisson
are then in the units of cross entropy, and in any other currency they are what they would be in
that one. Gamma is quasi-likelihood: its minimum is the mean whatever the distribution of the
positives; log-normal is sharper if they are log-normal, biased if not.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfalloc.data import ArmMoments

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
LOG_2 = float(np.log(2.0))
# Steps of rates that do not rise still start with this part of a usual step: with none, softplus
# would be flat and they could never learn to.
LEAST_STEP = 0.01
# A softplus underflows at -104; a step that vanished would divide by zero in a return.
FLOOR = 1e-4


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


def check_loss(head: str | None, loss: str | None, name: str = "loss") -> str | None:
    """The loss of a head: as asked for, or its default.

    Args:
      head: one of `LOSSES`; None: not known yet, only the spelling is checked.
      loss: its name, or None.
      name: of the argument, for messages.

    Returns:
      The name; None if the head has no loss (or neither is known).

    Raises:
      ValueError: if the loss does not exist, or not for this head.

    Example:
      >>> check_loss("hurdle", None)
      'gamma'
    """
    if head is None:
        known = tuple(sorted({each for losses in LOSSES.values() for each in losses}))
        if loss is not None and loss not in known:
            raise ValueError(f"{name}={loss!r} is not known; expected one of {known} or None.")
        return loss
    losses = LOSSES[head]
    if loss is None:
        return losses[0] if losses else None
    if loss not in losses:
        expected = f"expected one of {losses} or None" if losses else "it has none: leave it out"
        raise ValueError(f"{name}={loss!r} does not fit a {head!r} head; {expected}.")
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


def level(head: str, raw: Any, location: Any, scale: Any) -> Any:
    """Mean outcome [batch, n] from raw [batch, n]; of a binary outcome its log odds."""
    if head == "binary":
        return location + raw
    if head == "real":
        return location + scale * raw
    return scale * tf.nn.softplus(raw) / LOG_2


def start_level(head: str, means: np.ndarray, size: float) -> tuple[np.ndarray, np.ndarray]:
    """(location, scale), each [n], at which raw = 0 predicts `means` [n].

    Args:
      head: of the outcome.
      means: [n].
      size: standard deviation of the outcome, what a raw output of 1 adds ("real" only).
    """
    if head == "binary":
        return log_odds(means), np.ones_like(means)
    if head == "real":
        return means, np.full_like(means, size)
    return np.zeros_like(means), means


def variance(moments: ArmMoments) -> float:
    """Variance of an outcome over the trial, at least a part of its mean square; 1 if all are 0.

    The floor is relative, so that an outcome in other units starts and trains alike.
    """
    return max(moments.variance, 1e-12 * moments.second_moment) or 1.0


def rise(raw: Any, location: Any, scale: Any) -> Any:
    """Positive steps [batch, n] from raw [batch, n]."""
    return scale * (tf.nn.softplus(location + raw) + FLOOR)


def start_rise(steps: np.ndarray, usual: float) -> tuple[np.ndarray, np.ndarray]:
    """(location, scale), each [n], at which raw = 0 gives `steps`, or `LEAST_STEP` of `usual`.

    Args:
      steps: [n], in the trial.
      usual: > 0, size of a usual step: what a raw output of 1 adds to a step smaller than that.
    """
    scale = np.maximum(steps, usual)
    relative = np.maximum(steps / scale, LEAST_STEP) - FLOOR
    return relative + np.log(-np.expm1(-relative)), scale  # the inverse of softplus


def climb(first: Any, steps: Any) -> Any:
    """[first, first + step_1, first + step_1 + step_2, …], [batch, K] from [batch, 1] and K - 1."""
    return tf.concat([first, first + tf.cumsum(steps, axis=1)], axis=1)


def log_odds(rates: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)), finite at 0 and 1."""
    rates = np.clip(rates, 1e-6, 1 - 1e-6)
    return np.log(rates) - np.log1p(-rates)


def isotonic(means: np.ndarray) -> np.ndarray:
    """The increasing sequence nearest to `means` [K] in least squares.

    By the min-max formula: x_j = max over a <= j of min over b >= j of mean(means[a..b]).

    Example:
      >>> isotonic(np.array([1.0, 3.0, 2.0, 5.0])).tolist()
      [1.0, 2.5, 2.5, 5.0]
    """
    sums = np.concatenate([[0.0], np.cumsum(means)])
    arms = np.arange(len(means))
    length = arms[None, :] - arms[:, None] + 1  # of a..b, in row a and column b
    with np.errstate(divide="ignore", invalid="ignore"):
        average = np.where(length > 0, (sums[None, 1:] - sums[:-1, None]) / length, np.inf)
    least = np.minimum.accumulate(average[:, ::-1], axis=1)[:, ::-1]  # over b >= j
    least = np.where(length > 0, least, -np.inf)  # a <= j
    return least.max(axis=0)
