"""From raw outputs to numbers that an outcome may take, and the constants that start them at rates.

    binary        sigmoid(location + raw)
    real          location + scale raw
    otherwise     scale softplus(raw) / log 2
    rise          scale (softplus(location + raw) + FLOOR), positive: a step up from arm to arm

Locations and scales are set from the trial, so that raw outputs near 0 predict its arm rates and a
raw output of 1 means a change of the outcome's own size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

LOG_2 = float(np.log(2.0))
# Steps of rates that do not rise still start with this part of a usual step: with none, softplus
# would be flat and they could never learn to.
LEAST_STEP = 0.01
# A softplus underflows at -104; a step that vanished would divide by zero in the user's price.
FLOOR = 1e-4


def level(family: str, raw: Any, location: Any, scale: Any) -> Any:
    """Mean outcome [batch, n] from raw [batch, n]; of a binary outcome its log odds."""
    if family == "binary":
        return location + raw
    if family == "real":
        return location + scale * raw
    return scale * tf.nn.softplus(raw) / LOG_2


def start_level(family: str, means: np.ndarray, variance: float) -> tuple[np.ndarray, np.ndarray]:
    """(location, scale), each [n], at which raw = 0 predicts `means` [n]."""
    if family == "binary":
        return log_odds(means), np.ones_like(means)
    if family == "real":
        return means, np.full_like(means, max(variance, 1e-12) ** 0.5)
    return np.zeros_like(means), means


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
