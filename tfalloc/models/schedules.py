"""What may change from step to step: the budget and the weight of the goal.

Both are a number or a callable of the step; a budget may also be a range (low, high), from which
every step draws anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

Budget = float | tuple[float, float] | Callable[[tf.Tensor], Any] | None

RANGE_POINTS = 5  # budgets at which validation reports a range


def check_budget(budget: Any) -> Budget:
    """Refuses budgets that are neither a number, a range (low, high), nor a callable.

    Raises:
      ValueError: with the budget as passed and what was expected.
    """
    if budget is None or callable(budget):
        return budget
    numbers = _numbers("budget", budget)
    if numbers.size not in (1, 2):
        raise ValueError(
            f"budget={budget!r}: expected one cost per user, a range (low, high), or a callable of "
            "the step."
        )
    if numbers.size == 1:
        return float(numbers[0])
    if numbers[0] > numbers[1]:
        raise ValueError(f"budget={budget!r}: expected a range (low, high) with low <= high.")
    return float(numbers[0]), float(numbers[1])


def check_budgets(budgets: Any) -> tuple[float, ...]:
    """One budget or several, ascending and each once.

    Raises:
      ValueError: if one is negative or not finite, or there is none.
    """
    return tuple(np.unique(_numbers("budgets", budgets)).tolist())


def validation_budgets_of(budget: Budget) -> tuple[float, ...]:
    """Where validation reports a budget of training: there, or at five points of a range.

    Example:
      >>> validation_budgets_of((0.25, 0.5))
      (0.25, 0.3125, 0.375, 0.4375, 0.5)
    """
    if budget is None:
        return ()
    if callable(budget):
        return check_budgets(float(budget(tf.constant(0, tf.int64))))
    if isinstance(budget, tuple):
        return check_budgets(np.linspace(*budget, RANGE_POINTS))
    return (budget,)


def draw_budget(budget: Budget, seed: int, step: tf.Tensor) -> tf.Tensor:
    """The budget of a training step: fixed, uniform on a range, or what the callable says."""
    if callable(budget):
        return tf.cast(budget(step), tf.float32)
    if isinstance(budget, tuple):
        pair = step_seed(seed, step)
        low, high = budget
        # Integer bits: float draws differ between XLA and plain graphs when the seed is a tensor.
        bits = tf.random.stateless_uniform((), pair, None, None, tf.int32, alg="philox")
        return low + (high - low) * (tf.cast(bits, tf.float32) / 2.0**32 + 0.5)
    return tf.constant(budget, tf.float32)


def step_seed(seed: int, step: tf.Tensor) -> tf.Tensor:
    """A pair of integers for stateless random operations, different at each step."""
    return tf.stack([tf.constant(seed, tf.int32), tf.cast(step, tf.int32)])


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


def _numbers(name: str, value: Any) -> np.ndarray:
    try:
        numbers = np.atleast_1d(np.asarray(value, dtype=np.float64)).ravel()
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if not numbers.size or not np.all(np.isfinite(numbers)) or np.any(numbers < 0):
        raise ValueError(
            f"{name}={value!r}: expected a finite cost per user that is not negative, or several."
        )
    return numbers
