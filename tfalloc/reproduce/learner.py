"""One compiled model for many trainings, because compiling a step takes longer than most of them.

The weight of the goal is a variable that the compiled step reads, so that one step serves a whole
sweep over weights; weight 0 is the two-stage baseline to the last bit of the loss.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfalloc.data import RCTData
from tfalloc.gradients import FiniteDifference
from tfalloc.models import AllocationModel


class Learner:
    """Trains models that differ in weight of the goal, data and seed only.

    Args:
      reference: rows that preprocessing is fitted to, the same whichever run comes first.
      budget: cost per user.
      learning_rate: of Adam.
      goal_scale: as in `AllocationModel.compile`.
      jit: whether XLA compiles the step.
      **shape: arguments of `AllocationModel`: heads, backbone and the like.
    """

    def __init__(
        self,
        reference: RCTData,
        *,
        budget: float,
        learning_rate: float,
        goal_scale: str = "paper",
        jit: bool = True,
        **shape: Any,
    ):
        self._shape = {"num_treatments": reference.num_treatments, **shape}
        self._weight = tf.Variable(0.0, dtype=tf.float32)
        self.model = AllocationModel(**self._shape)
        self.model.compile(
            keras.optimizers.Adam(learning_rate),
            goal_weight=lambda step: self._weight,
            goal_scale=goal_scale,
            budget=budget,
            # No draws in the step: the result does not depend on what was trained before.
            gradient=FiniteDifference(),
            jit_compile=jit,
        )
        self.model.adapt(reference)

    def fit(self, train: RCTData, *, goal_weight: float, seed: int, epochs: int) -> AllocationModel:
        """Trains anew for a fixed number of epochs, in batches of 10,000 rows or a tenth.

        Args:
          train: rows.
          goal_weight: of the goal, at least 0.
          seed: of initial weights and order of rows.
          epochs: passes over the rows.

        Returns:
          The model, which the next call changes.
        """
        model = self.model
        model.adapt(train)  # output biases; preprocessing stays that of the reference
        families = {name: model.get_config()[name] for name in ("response_head", "cost_head")}
        fresh = AllocationModel(
            **{**self._shape, **families}, seed=seed, preprocessor=model.preprocessor
        )
        model.seed = seed
        model.network.set_weights(fresh.network.get_weights())
        for variable in [*model.optimizer.variables, *model._norms.variables]:
            if variable.name != "learning_rate":
                variable.assign(np.zeros(variable.shape, variable.dtype))
        self._weight.assign(goal_weight)
        model.fit(
            train,
            epochs=epochs,
            validation_split=0.0,
            early_stopping=False,
            verbose=0,
        )
        return model
