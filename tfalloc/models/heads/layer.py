"""`Heads`: the Keras layer from a network's raw outputs to predictions, and their losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfalloc.data import ArmMoments
from tfalloc.models.heads.checks import HeadSettings, check_settings
from tfalloc.models.heads.distributions import (
    CUT,
    Arms,
    Scales,
    check_loss,
    received,
    row_loss,
    variance,
)
from tfalloc.models.heads.independent import Independent
from tfalloc.models.heads.marginal import Marginal
from tfalloc.models.heads.spline import Spline

OUTCOMES = ("response", "cost")
KINDS: dict[str, Any] = {"independent": Independent, "marginal": Marginal, "spline": Spline}


@keras.saving.register_keras_serializable(package="tfalloc")
class Heads(keras.layers.Layer):
    """Response and cost of every arm from one raw tensor.

    Args:
      num_treatments: K.
      response_head: "binary", "nonnegative", "hurdle" or "real".
      cost_head: "binary", "nonnegative", "hurdle", "constant" or "on_response".
      heads: "independent", "marginal" or "spline".
      monotone: whether response and cost increase from arm to arm.
      cost_amounts: [K], cost of a response in each arm ("on_response" only).

    Input [batch, num_outputs], near 0 at first; output {"response": [batch, K], "cost": [batch,
    K]}, float32 whatever the precision of the network.

    Raises:
      ValueError: if an argument is not known, or they do not go together.

    Example:
      >>> heads = Heads(3, "binary", "nonnegative", "marginal")
      >>> heads.num_outputs
      6
      >>> heads(tf.zeros([4, 6]))["cost"].shape
      TensorShape([4, 3])
    """

    def __init__(
        self,
        num_treatments: int,
        response_head: str,
        cost_head: str,
        heads: str = "independent",
        monotone: bool = False,
        cost_amounts: Sequence[float] | None = None,
        **kwargs: Any,
    ):
        # Half precision would round 1 / rate; what comes after the network is cheap.
        super().__init__(**{**kwargs, "dtype": "float32"})
        amounts = check_settings(
            num_treatments, heads, response_head, cost_head, monotone, cost_amounts
        )
        self.settings = HeadSettings(
            num_treatments, heads, response_head, cost_head, monotone, amounts
        )
        self._outcomes: Independent | Marginal = KINDS[heads](self.settings)
        self.num_outputs = sum(self._outcomes.sizes.values())
        self._row_losses: dict[str, str | None] = {}
        self._started = self.add_weight(
            shape=(), initializer="zeros", trainable=False, name="started"
        )
        self._scales = {
            name: self.add_weight(
                shape=(4,),
                initializer=keras.initializers.Constant(1.0),
                trainable=False,
                name=f"{name}_scales",
            )
            for name in OUTCOMES
        }
        self._log_spread = {
            name: self.add_weight(
                shape=(num_treatments,), initializer="zeros", name=f"{name}_log_spread"
            )
            for name, head in self.settings.head_of().items()
            if head == "hurdle"
        }
        self._constants = {
            name: self.add_weight(
                shape=(length,),
                initializer=keras.initializers.Constant(initial),
                trainable=False,
                name=name,
            )
            for name, (length, initial) in self._outcomes.constants().items()
        }
        self.use_losses()
        self.built = True

    def use_losses(
        self, response_loss: str | None = None, cost_loss: str | None = None
    ) -> dict[str, str | None]:
        """Chooses the losses, None for a head's default; returns what was chosen.

        Raises:
          ValueError: if a loss does not fit its head.
        """
        self._row_losses = {
            name: check_loss(self.settings.head_of()[name], loss, f"{name}_loss")
            for name, loss in (("response", response_loss), ("cost", cost_loss))
        }
        for name, spread in self._log_spread.items():
            spread.trainable = self._row_losses[name] == "lognormal"
        return dict(self._row_losses)

    def start_from(self, response_moments: ArmMoments, cost_moments: ArmMoments) -> None:
        """Lets training start at the trial's arm means (isotonic ones if monotone).

        Args:
          response_moments: `RCTData.arm_moments("response")`.
          cost_moments: `RCTData.arm_moments("cost")`.
        """
        moments = {"response": response_moments, "cost": cost_moments}
        for name, head in self.settings.head_of().items():
            known = moments[name]
            means = np.asarray(known.mean)
            least = means[means > 0].min() if np.any(means > 0) else 1.0
            most = min(float(means.max()), 1 - 1e-6)
            square = variance(known) if head == "real" else known.second_moment
            # No absolute floors: an outcome in other units must train alike.
            scales = Scales(
                square=square if square > 0 else 1.0,
                mean=known.total_mean if known.total_mean > 0 else 1.0,
                low=CUT * least,
                high=1 - CUT * (1 - most),
            )
            self._scales[name].assign(np.array(scales, np.float32))
            if name in self._log_spread:
                deviation = np.sqrt(np.maximum(known.log_variance, 1e-4))
                self._log_spread[name].assign(np.log(deviation))
        for name, value in self._outcomes.start(moments).items():
            self._constants[name].assign(value)

        self._started.assign(1.0)

    @property
    def started(self) -> bool:
        """Whether `start_from` was called, here or before saving."""
        return bool(self._started.numpy())

    def call(self, raw: Any) -> dict[str, Any]:
        """Predictions {"response": [batch, K], "cost": [batch, K]} from [batch, num_outputs]."""
        return {name: arms.mean for name, arms in self._arms(raw).items()}

    def errors(self, raw: Any, treatment: Any, response: Any, cost: Any) -> dict[str, Any]:
        """Loss of each row on the arm it received.

        Args:
          raw: [batch, num_outputs].
          treatment: [batch], int in [0, K).
          response: [batch].
          cost: [batch], per user.

        Returns:
          {"response": [batch], "cost": [batch]}, float32; 0 where there is nothing to learn.
        """
        rows, arms = {}, self._arms(raw)
        for name, outcome in (("response", response), ("cost", cost)):
            spread = None
            if self._row_losses[name] == "lognormal":
                table = tf.convert_to_tensor(self._log_spread[name])
                spread = received(Arms(table[None, :]), treatment).mean
            rows[name] = self._errors(name, received(arms[name], treatment), outcome, spread)
        return rows

    def errors_of_every_arm(self, raw: Any, response: Any, cost: Any) -> dict[str, Any]:
        """Loss of each row on each arm, as if it had received it; not for "hurdle" outcomes.

        Args:
          raw: [batch, num_outputs].
          response: [batch, K], means or outcomes.
          cost: [batch, K], per user.

        Returns:
          {"response": [batch, K], "cost": [batch, K]}, float32.
        """
        arms = self._arms(raw)
        return {
            name: self._errors(name, arms[name], outcome)
            for name, outcome in (("response", response), ("cost", cost))
        }

    def _errors(self, name: str, arms: Arms, outcome: Any, spread: Any = None) -> Any:
        scales = Scales(*tf.unstack(tf.convert_to_tensor(self._scales[name])))
        outcome = tf.cast(outcome, tf.float32)
        return row_loss(self._row_losses[name], arms, outcome, scales, spread)

    def _arms(self, raw: Any) -> dict[str, Arms]:
        sizes = self._outcomes.sizes
        parts = tf.split(tf.cast(raw, tf.float32), list(sizes.values()), axis=1)
        constants = {name: tf.convert_to_tensor(x) for name, x in self._constants.items()}
        return self._outcomes.arms(dict(zip(sizes, parts, strict=True)), constants)

    def compute_output_shape(self, input_shape: Any) -> dict[str, tuple[Any, ...]]:
        """(batch, K) of both outcomes."""
        return dict.fromkeys(OUTCOMES, (*input_shape[:-1], self.settings.num_treatments))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        settings = self.settings
        config = {
            "num_treatments": settings.num_treatments,
            "response_head": settings.response_head,
            "cost_head": settings.cost_head,
            "heads": settings.heads,
            "monotone": settings.monotone,
            "cost_amounts": None if settings.cost_amounts is None else list(settings.cost_amounts),
        }
        return {**super().get_config(), **config}
