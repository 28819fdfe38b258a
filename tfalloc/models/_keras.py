"""What is private in Keras and used all the same, each with its reason. Keras 3.6 to 3.15 have it.

Everything else in the package uses public names of Keras.
"""

from __future__ import annotations

from typing import Any

import keras


def trained_by(optimizer: Any) -> set[int]:
    """Ids of the variables that an optimizer was built for; empty before.

    The public `optimizer.variables` are its own: moments, steps and learning rate.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
    return {id(each) for each in optimizer._trainable_variables} if optimizer.built else set()


def all_layers(model: keras.Model) -> list[Any]:
    """Layers of a model and of the models and layers in it; `model.layers` has the first only."""
    return list(model._flatten_layers(include_self=False))


def knows_direction(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback has found out yet if less of its metric is better."""
    return getattr(callback, "monitor_op", True) is not None


def find_direction(callback: Any) -> None:
    """Lets a callback find out now if less is better, as it would at the end of its first epoch.

    It changes the sign of numbers such as `min_delta` then: before they are restored, not after.
    """
    callback._set_monitor_op()


def built_by_adapt(cls: Any) -> Any:
    """Class decorator: `fit` builds the optimizer, and draws no batch to build the model with.

    Under a distribution strategy Keras takes the mean of the replicas' batches for that, which
    fails if they have different numbers of rows, and the network was built by `adapt` before.
    """

    def _maybe_symbolic_build(self: Any, iterator: Any = None, data_batch: Any = None) -> None:
        if self.built and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    cls._maybe_symbolic_build = _maybe_symbolic_build
    return cls
