"""Finite differences of the expected outcome (Eq. 8), exact and for every entry.

    dQ/dv_ij ~ [ Q(v + h e_ij, c) - Q(v - h e_ij, c) ] / (2 h),     likewise for c

Q is Algorithm 1: a bisection, at each midpoint of which every user is re-assigned. Solving it anew
for each of the 4BK probes takes hours; `_probes` gives the same digits in milliseconds.
"""

from __future__ import annotations

import tensorflow as tf

from tfalloc.gradients._probes import Steps, differences, open_probes, solve
from tfalloc.gradients.base import GoalGradient, Gradient
from tfalloc.outcome._trial import Tensor, Trial
from tfalloc.outcome.ticks import check_search


class FiniteDifference(Gradient):
    """Central differences of Q (Eq. 8) with respect to every entry of v and c.

    Args:
      step: h for predicted responses, in units of response.
      step_cost: h for predicted costs, in units of cost; None: the same number as `step`.
      num_entries: None differentiates every entry. A number F' keeps the paper's random mask: F'
        entries of v and F' of c, drawn by `seed` without replacement; the others are 0.
      alpha_max: largest shadow price of Algorithm 1, rounded up to a power of two; None: the
        smallest power of two from which on the matched cost is not above the budget.
      max_iterations: halvings I of Algorithm 1, at most 24 (the table has 2^I rows).
      tolerance: Algorithm 1 stops when |C - budget| is at most this, in cost per user.

    Calling it gives a `GoalGradient`. Where S is empty, before or after a probe, the entry is 0.

    Raises:
      ValueError: if an argument is out of its range.

    Example:
      >>> import tfalloc
      >>> gradient = tfalloc.gradients.FiniteDifference(step=0.1, alpha_max=1.0)
      >>> v = [[0.10, 0.30], [0.20, 0.25], [0.10, 0.15]]
      >>> c = [[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]
      >>> result = gradient(v, c, [1, 1, 0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0], budget=0.5)
      >>> result.d_response.shape
      TensorShape([3, 2])

    Source: Yan et al. 2023, Eq. 8 and Algorithm 1.
    """

    def __init__(
        self,
        *,
        step: float = 3e-4,
        step_cost: float | None = None,
        num_entries: int | None = None,
        alpha_max: float | None = None,
        max_iterations: int = 18,
        tolerance: float = 0.0,
    ):
        self.step = step
        self.step_cost = step if step_cost is None else step_cost
        for name in ("step", "step_cost"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise ValueError(
                    f"{name}={getattr(self, name)!r}: a finite difference needs a step above 0, "
                    "and a finite one."
                )
        if num_entries is not None and num_entries < 1:
            raise ValueError(
                f"num_entries={num_entries!r}: expected a positive number of entries, or None."
            )
        check_search(alpha_max, max_iterations, tolerance, most_iterations=24)
        self.num_entries = num_entries
        self.alpha_max = alpha_max
        self.max_iterations = max_iterations
        self.tolerance = float(tolerance)

    def _differentiate(self, trial: Trial, budget: tf.Tensor, seed: Tensor | None) -> GoalGradient:
        solved = solve(trial, budget, self.alpha_max, self.max_iterations, self.tolerance)
        steps = Steps(*(tf.constant(h, tf.float64) for h in (self.step, self.step_cost)))
        open_ = open_probes(solved, steps)
        if self.num_entries is not None:
            chosen = _mask(tf.shape(trial.value), self.num_entries, seed)
            open_ = tf.where(chosen, open_, tf.zeros_like(open_))
        d_response, d_cost = tf.unstack(differences(open_, solved, steps))
        return GoalGradient(solved.goal, d_response, d_cost, solved.grid.alpha(solved.base.tick))


def _mask(shape: tf.Tensor, num_entries: int, seed: Tensor | None) -> tf.Tensor:
    """The paper's random mask: `num_entries` entries of v, and as many of c, [2, B, K] bool."""
    if seed is None:
        raise ValueError(
            f"num_entries={num_entries} draws entries at random: pass seed=(a, b), two integers."
        )
    # Integer bits: float draws differ between XLA and plain graphs when the seed is a tensor.
    keys = tf.random.stateless_uniform(
        tf.stack([2, shape[0] * shape[1]]),
        tf.cast(seed, tf.int32),
        minval=None,
        maxval=None,
        dtype=tf.int32,
        alg="philox",
    )
    # Ranks, not a threshold: equal keys must not change the number of entries.
    ranks = tf.argsort(tf.argsort(keys, axis=1, stable=True), axis=1)
    return tf.reshape(ranks < num_entries, [2, shape[0], shape[1]])
