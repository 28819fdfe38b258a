"""The weight of the goal over the steps of training: a number or a schedule."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="tfalloc")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly from 0 to `weight` over the first `steps` steps, then stays.

    Args:
      weight: final weight.
      steps: number of training steps, at least 1.

    Raises:
      ValueError: if `weight` is negative or not finite, or `steps` is below 1.

    Example:
      >>> schedule = WarmUp(0.5, steps=100)
      >>> [float(schedule(step)) for step in (0, 50, 1000)]
      [0.0, 0.25, 0.5]
    """

    def __init__(self, weight: float, steps: int):
        super().__init__()
        self.weight = check_goal_weight(weight)
        if steps < 1:
            raise ValueError(f"steps={steps!r}: expected at least 1.")
        self.steps = int(steps)

    def __call__(self, step: Any) -> tf.Tensor:
        """The weight at a step, scalar."""
        return self.weight * tf.minimum(tf.cast(step, tf.float32) / self.steps, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {"weight": self.weight, "steps": self.steps}


def check_goal_weight(goal_weight: Any) -> Any:
    """Refuses weights that are neither a schedule nor a finite number that is not negative.

    Raises:
      ValueError: with the weight as passed.
    """
    if callable(goal_weight):
        return goal_weight
    try:
        number = float(goal_weight)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(
            f"goal_weight={goal_weight!r}: expected a finite number that is not negative (0 is the "
            "two-stage baseline), or a callable of the step."
        )
    return number


def weight_at(goal_weight: Any, step: tf.Tensor) -> tf.Tensor:
    """goal_weight at a step: a number, or a schedule (also a Keras LearningRateSchedule)."""
    value = goal_weight(step) if callable(goal_weight) else goal_weight
    return tf.cast(value, tf.float32)
