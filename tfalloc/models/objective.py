"""The training objective: prediction losses plus the surrogate of the goal (Eq. 11).

    loss = L_response + L_cost - goal_weight [ sum v stop(dQ/dv) + sum c stop(dQ/dc) ]

The surrogate's value means nothing; its gradient with respect to the network's weights is that of
goal_weight * Q, by the chain rule through v and c.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfalloc import gradients
from tfalloc.gradients import GoalGradient

Budget = Any  # float | tuple[float, float] | Callable[[tf.Tensor], tf.Tensor]


def surrogate(pred_response: tf.Tensor, pred_cost: tf.Tensor, goal: GoalGradient) -> tf.Tensor:
    """sum v stop(dQ/dv) + sum c stop(dQ/dc), scalar (Yan et al. 2023, Eq. 11)."""
    d_response, d_cost = tf.stop_gradient(goal.d_response), tf.stop_gradient(goal.d_cost)
    return tf.reduce_sum(pred_response * d_response) + tf.reduce_sum(pred_cost * d_cost)


def check_budget(budget: Budget) -> Budget:
    """Refuses budgets that are neither a number, a range (low, high), nor a callable.

    Raises:
      ValueError: with the budget as passed and what was expected.
    """
    if budget is None or callable(budget):
        return budget
    numbers = np.atleast_1d(np.asarray(budget, dtype=np.float64))
    if numbers.size not in (1, 2) or not np.all(np.isfinite(numbers)) or np.any(numbers < 0):
        raise ValueError(
            f"budget={budget!r}: expected a finite cost per user that is not negative, a range "
            "(low, high), or a callable of the step."
        )
    if numbers.size == 1:
        return float(numbers[0])
    if numbers[0] > numbers[1]:
        raise ValueError(f"budget={budget!r}: expected a range (low, high) with low <= high.")
    return float(numbers[0]), float(numbers[1])


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


def central_budget(budget: Budget) -> float:
    """The budget at which validation judges: the middle of a range."""
    if callable(budget):
        return float(budget(tf.constant(0, tf.int64)))
    return sum(budget) / 2 if isinstance(budget, tuple) else float(budget)


def step_seed(seed: int, step: tf.Tensor) -> tf.Tensor:
    """A pair of integers for stateless random operations, different at each step."""
    return tf.stack([tf.constant(seed, tf.int32), tf.cast(step, tf.int32)])


def weight_at(goal_weight: float | Callable[[tf.Tensor], Any], step: tf.Tensor) -> tf.Tensor:
    """goal_weight at a step: a number, or a schedule (also a Keras LearningRateSchedule)."""
    value = goal_weight(step) if callable(goal_weight) else goal_weight
    return tf.cast(value, tf.float32)


def check_goal_weight(goal_weight: Any) -> Any:
    """Refuses weights that are neither a schedule nor a finite number that is not negative."""
    if callable(goal_weight):
        return goal_weight
    if not (math.isfinite(goal_weight) and goal_weight >= 0):
        raise ValueError(
            f"goal_weight={goal_weight!r}: expected a finite number that is not negative (0 is the "
            "two-stage baseline), or a callable of the step."
        )
    return float(goal_weight)


def gradient_to_config(gradient: Any) -> dict[str, Any] | None:
    """A JSON description of one of `tfalloc.gradients`; None for a user's own."""
    name = type(gradient).__name__
    if getattr(gradients, name, None) is not type(gradient):
        return None
    arguments = inspect.signature(type(gradient).__init__).parameters
    return {"class": name, **{key: getattr(gradient, key) for key in arguments if key != "self"}}


def gradient_from_config(config: dict[str, Any]) -> Any:
    """The inverse of `gradient_to_config`."""
    arguments = dict(config)
    return getattr(gradients, arguments.pop("class"))(**arguments)
