"""What every gradient of the expected outcome takes and returns."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from tfalloc.outcome.batch import Tensor, as_batch, as_budget


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


class Gradient:
    """A gradient of Q: `FiniteDifference`, `NES`, `Smoothed`, `Integrated`, or your own.

    A gradient is a pure function of tensors with settings: eager, in `tf.function` and compiled by
    XLA it gives the same. Derive from this class and write `_differentiate`.
    """

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
        **extra: Any,
    ) -> GoalGradient:
        """Differentiates Q on one batch.

        Args:
          pred_response: [batch, num_treatments], predicted response v.
          pred_cost: [batch, num_treatments], predicted cost c, per user.
          treatment: [batch], integers in [0, num_treatments).
          response: [batch], observed response.
          cost: [batch], observed cost, per user.
          budget: scalar, cost per user.
          propensity: [batch], probability of the received treatment; None: all the same.
          seed: two integers, for gradients that draw at random: the same seed, the same draws.
          **extra: what this gradient takes beside the trial; see its class.

        Returns:
          `GoalGradient` in the dtype of `pred_response`; float64 if that is an integer.

        Raises:
          ValueError: if shapes do not fit, the budget is not one finite number, or a seed is
            needed and missing.
        """
        with tf.name_scope(type(self).__name__):
            trial = as_batch(pred_response, pred_cost, treatment, response, cost, propensity)
            found = self._differentiate(trial, as_budget(budget), seed, **extra)
            dtype = tf.convert_to_tensor(pred_response).dtype
            dtype = dtype if dtype.is_floating else tf.float64  # integers would lose all of it
            return GoalGradient(*(tf.stop_gradient(tf.cast(x, dtype)) for x in found))

    def extra(self, outcome_model: tuple[Tensor, Tensor]) -> dict[str, Any]:
        """What the call takes of a frozen model's (response, cost) of every row under every arm.

        Nothing, unless a gradient has a use for them.
        """
        return {}

    def _differentiate(self, *arguments: Any, **extra: Any) -> GoalGradient:
        """Q and its derivatives in float64, from (trial, budget, seed)."""
        raise NotImplementedError
