"""The training objective: prediction losses plus the surrogate of the goal (Eq. 11).

    loss = L_response + L_cost - goal_weight * sum_k g_k s_k surrogate_k
    surrogate_k = sum v stop(d_k/dv) + sum c stop(d_k/dc)

with gradients k = 1, 2, … of the expected outcome, their weights g_k, and scales s_k: 1 on the
"paper" scale, running ratios of gradient norms on the "normalized" one. A surrogate's value means
nothing; its gradient with respect to the network's weights is that of the goal, by the chain rule
through v and c.

The "normalized" scale says how hard the goal pulls beside the prediction losses. With raw outputs r
of the network, both heads, and the batch's gradients with respect to them,

    p = || d(L_response + L_cost)/dr ||,     q_k = || d surrogate_k/dr ||
    s_k = sqrt( mean p^2 / mean q_k^2 )

where mean is a running average over steps with rate .99, corrected for its start as in Adam. Both
norms are over the same entries, so the ratio is that of root mean squares: a goal_weight of 1 makes
the goal pull as hard as the prediction losses do, whatever the estimator of the gradient, the
batch size, the units of response and cost, or how rare responses are.

The batch itself is in the average, so one batch with an outlying q_k pulls at most
1 / sqrt(1 - .99) = 10 times as hard as the prediction losses, where a fixed weight has no bound. A
batch without any gradient (no row matched) counts as 0 and is made up for by others.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import Any

import keras
import tensorflow as tf

from tfalloc import gradients as library
from tfalloc._warn import warn
from tfalloc.gradients import FiniteDifference, GoalGradient
from tfalloc.models import replicas
from tfalloc.models.schedules import (
    Budget,
    check_budget,
    check_budgets,
    check_goal_weight,
    validation_budgets_of,
)

SCALES = ("normalized", "paper")
RATE = 0.99  # of the running averages of squared norms


def surrogate(pred_response: tf.Tensor, pred_cost: tf.Tensor, goal: GoalGradient) -> tf.Tensor:
    """sum v stop(dQ/dv) + sum c stop(dQ/dc), scalar (Yan et al. 2023, Eq. 11)."""
    d_response, d_cost = tf.stop_gradient(goal.d_response), tf.stop_gradient(goal.d_cost)
    return tf.reduce_sum(pred_response * d_response) + tf.reduce_sum(pred_cost * d_cost)


@dataclasses.dataclass(frozen=True)
class Objective:
    """What `compile` was told about the goal, checked.

    Attributes:
      goal_weight: a number or a callable of the step.
      goal_scale: "normalized" or "paper".
      budget: cost per user: None, a number, a range (low, high) or a callable of the step.
      gradients: (weight, gradient) of every gradient.
      validation_budgets: at which validation reports the goal, ascending; empty without a budget.
    """

    goal_weight: Any
    goal_scale: str
    budget: Budget
    gradients: tuple[tuple[float, Any], ...]
    validation_budgets: tuple[float, ...]

    @classmethod
    def checked(
        cls, goal_weight: Any, goal_scale: str, budget: Any, gradient: Any, validation_budgets: Any
    ) -> Objective:
        """From the arguments of `compile`.

        Raises:
          ValueError: if one is out of range, or there is a goal_weight without a budget.
        """
        goal_weight, budget = check_goal_weight(goal_weight), check_budget(budget)
        if goal_scale not in SCALES:
            raise ValueError(f"goal_scale={goal_scale!r} is not known; expected one of {SCALES}.")
        if budget is None and goal_weight != 0.0:
            raise ValueError(
                f"goal_weight={goal_weight!r} needs a budget: pass budget=cost per user, or "
                "budget=(low, high)."
            )
        if validation_budgets is None:
            reported = validation_budgets_of(budget)
        else:
            reported = check_budgets(validation_budgets)
        return cls(goal_weight, goal_scale, budget, _weighted(gradient), reported)

    @property
    def through_allocation(self) -> bool:
        """Whether training differentiates the goal at all."""
        return callable(self.goal_weight) or self.goal_weight > 0.0

    def to_config(self) -> dict[str, Any]:
        """Arguments of `compile` in JSON's types.

        Functions that Keras does not know by a registered name cannot be stored: a warning says
        what the loaded model has instead.
        """
        budget = self.budget
        return {
            "goal_weight": _stored(self.goal_weight, "goal_weight", 0.0),
            "goal_scale": self.goal_scale,
            "budget": list(budget) if isinstance(budget, tuple) else _stored(budget, "budget"),
            "gradient": [[weight, _gradient_config(each)] for weight, each in self.gradients],
            "validation_budgets": list(self.validation_budgets) or None,
        }

    @staticmethod
    def arguments_from_config(config: dict[str, Any]) -> dict[str, Any]:
        """The inverse of `to_config`: arguments of `compile`."""
        arguments = {name: _restored(config[name]) for name in ("goal_weight", "budget")}
        arguments["gradient"] = [
            (weight, _gradient_from_config(each)) for weight, each in config["gradient"]
        ]
        if arguments["budget"] is None:
            arguments["goal_weight"] = 0.0
        return {**config, **arguments}


def _weighted(gradient: Any) -> tuple[tuple[float, Any], ...]:
    if gradient is None:
        gradient = FiniteDifference()
    entries = list(gradient) if isinstance(gradient, (list, tuple)) else [gradient]
    pairs = []
    for entry in entries:
        weight, each = entry if isinstance(entry, (list, tuple)) and len(entry) == 2 else (1, entry)
        if not callable(each) or callable(weight) or not 0 < float(weight) < math.inf:
            raise ValueError(
                f"gradient={gradient!r}: expected one of tfalloc.gradients, a list of them, or a "
                "list of (weight, gradient) with weights above 0."
            )
        pairs.append((float(weight), each))
    if not pairs:
        raise ValueError(f"gradient={gradient!r}: expected at least one gradient.")
    return tuple(pairs)


class RunningNorms(keras.metrics.Metric):
    """Running mean squares of gradient norms; saved with the model, not reset between epochs.

    Args:
      num_gradients: number of gradients of the goal, n.
    """

    def __init__(self, num_gradients: int, name: str = "running_norms"):
        super().__init__(name=name)
        # Equal on all replicas, not shares of a sum as Keras' metrics have them.
        self.steps = self.add_variable((), "zeros", aggregation="only_first_replica", name="steps")
        self.squares = self.add_variable(
            (1 + num_gradients,), "zeros", aggregation="only_first_replica", name="squares"
        )

    def update_state(self, losses: Any, goals: list[Any]) -> None:
        """Takes in one batch.

        Args:
          losses: tensors, gradient of the prediction losses with respect to the raw outputs.
          goals: n such lists, one for each surrogate.
        """
        now = replicas.total(tf.stack([_square(losses), *(_square(goal) for goal in goals)]))
        self.squares.assign(RATE * self.squares + (1.0 - RATE) * now)
        self.steps.assign_add(1.0)

    def result(self) -> tf.Tensor:
        """The scales s_k, [n]; 0 where a goal never had a gradient."""
        seen = 1.0 - tf.pow(RATE, tf.convert_to_tensor(self.steps))
        squares = tf.math.divide_no_nan(tf.convert_to_tensor(self.squares), seen)
        return tf.sqrt(tf.math.divide_no_nan(squares[0], squares[1:]))

    def save_own_variables(self, store: Any) -> None:
        """Keras saves no metrics of its own accord."""
        store["steps"], store["squares"] = self.steps.numpy(), self.squares.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Starts anew if the file knows another number of gradients, or none."""
        if "squares" in store.keys() and store["squares"].shape == self.squares.shape:  # noqa: SIM118
            self.steps.assign(store["steps"])
            self.squares.assign(store["squares"])


def _square(tensors: Any) -> tf.Tensor:
    return tf.add_n([tf.reduce_sum(tf.cast(each, tf.float32) ** 2) for each in tensors])


# Storing ------------------------------------------------------------------------------------


def _stored(value: Any, name: str, otherwise: Any = None) -> Any:
    if not callable(value):
        return value
    if hasattr(value, "get_config") or _is_registered(value):
        return keras.saving.serialize_keras_object(value)
    warn(
        f"{name}={value!r} cannot be stored: the loaded model is compiled with {name}={otherwise}. "
        "Register it by @keras.saving.register_keras_serializable(), or compile again."
    )
    return otherwise


def _is_registered(function: Any) -> bool:
    name = getattr(function, "__name__", "")
    return keras.saving.get_registered_name(function) != name


def _restored(value: Any) -> Any:
    if isinstance(value, dict) and "class_name" in value:
        return keras.saving.deserialize_keras_object(value)
    return value


def _gradient_config(gradient: Any) -> Any:
    name = type(gradient).__name__
    if getattr(library, name, None) is not type(gradient):
        return _stored(gradient, "gradient", None)
    arguments = inspect.signature(type(gradient).__init__).parameters
    return {"gradient": name, **{k: getattr(gradient, k) for k in arguments if k != "self"}}


def _gradient_from_config(config: Any) -> Any:
    if config is None:
        return FiniteDifference()
    if "gradient" not in config:
        return _restored(config)
    arguments = dict(config)
    return getattr(library, arguments.pop("gradient"))(**arguments)
