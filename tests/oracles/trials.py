"""Small random trials, with and without ties, for comparison with the oracles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf


@dataclass
class SmallTrial:
    v: np.ndarray
    c: np.ndarray
    t: np.ndarray
    y: np.ndarray
    z: np.ndarray
    w: np.ndarray
    dyadic: bool

    def lists(self):
        return tuple(x.tolist() for x in (self.v, self.c, self.t, self.y, self.z, self.w))

    def tensors(self):
        return tuple(tf.constant(x) for x in (self.v, self.c, self.t, self.y, self.z))

    @staticmethod
    def is_dyadic(alpha: float) -> bool:
        return float(alpha * 2**20).is_integer()


def random_trial(rng, *, dyadic: bool, rows: int | None = None, arms: int | None = None):
    """Dyadic trials are full of ties, equal costs and dominated arms, all exact in binary."""
    n = int(rng.integers(1, 14)) if rows is None else rows
    k = int(rng.integers(1, 5)) if arms is None else arms
    if dyadic:
        v, c = rng.integers(0, 9, (n, k)) / 8, rng.integers(-1, 5, (n, k)) / 4
        w = rng.choice([1.0, 2.0, 4.0], n)
    else:
        v, c = rng.random((n, k)), rng.random((n, k))
        w = rng.random(n) + 0.5
    t = rng.integers(0, k, n)
    y, z = rng.integers(0, 2, n).astype(float), rng.integers(0, 5, n) / 4
    if rng.random() < 0.2:
        t[:] = t[0]  # the other arms have no rows
    return SmallTrial(v, c, t, y, z, w, dyadic)


def believable_trial(rng, *, rows: int, arms: int):
    """A larger trial whose outcomes follow the predictions, so that budgets are feasible."""
    v = np.sort(rng.random((rows, arms)), axis=1)
    c = np.cumsum(rng.random((rows, arms)), axis=1) / arms - 1.0 / arms * rng.random((rows, 1))
    c = np.maximum(c, 0.0)
    t = rng.integers(0, arms, rows)
    n = np.arange(rows)
    y = (rng.random(rows) < v[n, t]).astype(float)
    return SmallTrial(v, c, t, y, c[n, t] * rng.choice([0.5, 1.5], rows), np.ones(rows), False)


def compiled(call, *extra):
    """`call(v, c, t, y, z, propensity, budget, *extra)` as one graph for trials of any size.

    Returns a function of (trial, budget, *extra) with `extra` [None, None] float64 matrices.
    """
    matrix, column = (tf.TensorSpec([None] * rank, tf.float64) for rank in (2, 1))
    rows = tf.TensorSpec([None], tf.int64)
    signature = [matrix, matrix, rows, column, column, column, tf.TensorSpec([], tf.float64)]
    graph = tf.function(call, input_signature=signature + [matrix] * len(extra))

    def solve(trial, budget, *matrices):
        return graph(*trial.tensors(), 1 / trial.w, budget, *matrices)

    return solve
