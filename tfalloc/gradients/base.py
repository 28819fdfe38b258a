"""What every gradient of the expected outcome returns, and the interface they share."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import tensorflow as tf

from tfalloc.outcome._trial import Tensor


class GoalGradient(NamedTuple):
    """An estimate of dQ/dv and dQ/dc on one batch; constants for automatic differentiation.

    Attributes:
      goal: scalar, the expected outcome Q, response per user; NaN if no row was matched.
      d_response: [batch, num_treatments], dQ/dv.
      d_cost: [batch, num_treatments], dQ/dc.
      alpha: scalar, the shadow price at which Q was taken, response per unit of cost.
    """

    goal: tf.Tensor
    d_response: tf.Tensor
    d_cost: tf.Tensor
    alpha: tf.Tensor


class Gradient(Protocol):
    """The call that `FiniteDifference`, `NES`, `Smoothed` and `Integrated` answer."""

    def __call__(
        self,
        pred_response: Tensor,
        pred_cost: Tensor,
        treatment: Tensor,
        response: Tensor,
        cost: Tensor,
        budget: Tensor,
        propensity: Tensor | None = None,
        seed: Tensor | None = None,
    ) -> GoalGradient: ...


def finish(
    goal: tf.Tensor,
    d_response: tf.Tensor,
    d_cost: tf.Tensor,
    alpha: tf.Tensor,
    like: Tensor,
) -> GoalGradient:
    """Casts results to the dtype of the predictions and cuts them off from differentiation."""
    dtype = tf.convert_to_tensor(like).dtype
    return GoalGradient(
        *(tf.stop_gradient(tf.cast(x, dtype)) for x in (goal, d_response, d_cost, alpha))
    )
