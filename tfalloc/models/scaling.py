"""How hard the goal pulls beside the prediction losses: the "normalized" scale.

With raw outputs r of the network, both heads, and the batch's gradients with respect to them,

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

from typing import Any

import keras
import tensorflow as tf

from tfalloc.models import replicas

RATE = 0.99


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
