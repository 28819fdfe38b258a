"""Outcomes expected of each row by models that have not seen it: the doubly robust part of a goal.

A model of outcomes takes noise out of the expected outcome of a batch (`gradients.Smoothed`,
`gradients.Integrated`), but only if it has not seen the rows that it speaks of: otherwise its
errors are those of the rows themselves. So the rows fall into folds, each fold has a model trained
on the others, and a row is spoken of by the model of its own fold.

The fold is a hash of the row's feature matrix. So it needs no column, is the same in the input
pipeline, in the training step and in a later run, and rows with equal features share a fold.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfalloc.gradients import Gradient
from tfalloc.models.matrix_batches import as_batches

NUM_FOLDS = 2
# Odd multipliers: "splitmix" finaliser for 32 bits (Steele, Lea and Flood 2014).
_MIX = (0x7FEB352D, 0x846CA68B - 2**32)
_COLUMN = 0x9E3779B1 - 2**32


def fold_of(matrix: tf.Tensor, num_folds: int = NUM_FOLDS) -> tf.Tensor:
    """The fold of each row, [batch] int32 in [0, num_folds), from features [batch, width]."""
    bits = tf.bitcast(tf.cast(matrix, tf.float32), tf.int32)
    columns = tf.range(1, tf.shape(bits)[1] + 1) * tf.constant(_COLUMN, tf.int32)
    word = tf.reduce_sum(_mixed(bits + columns), axis=1)
    return tf.math.floormod(_mixed(word), num_folds)


def _mixed(word: tf.Tensor) -> tf.Tensor:
    for shift, factor in zip((16, 15), _MIX, strict=True):
        high = tf.bitwise.right_shift(tf.bitcast(word, tf.uint32), tf.constant(shift, tf.uint32))
        word = tf.bitwise.bitwise_xor(word, tf.bitcast(high, tf.int32)) * factor
    high = tf.bitwise.right_shift(tf.bitcast(word, tf.uint32), tf.constant(16, tf.uint32))
    return tf.bitwise.bitwise_xor(word, tf.bitcast(high, tf.int32))


class CrossFitted:
    """Predictions [batch, K] of response and cost for a feature matrix, each by its fold's model.

    Args:
      models: one for each fold, trained on the rows of all other folds; frozen here.
    """

    def __init__(self, models: list[Any]):
        self.models = models

    def __call__(self, matrix: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(response, cost) of every row under every arm, constants for differentiation."""
        fold = fold_of(matrix, len(self.models))[:, tf.newaxis]
        found = [model.outcomes_of(matrix) for model in self.models]

        def of_own_fold(name: str) -> tf.Tensor:
            parts = [tf.where(fold == k, each[name], 0.0) for k, each in enumerate(found)]
            return tf.stop_gradient(tf.add_n(parts))

        return of_own_fold("response"), of_own_fold("cost")


def cross_fit(
    model: Any, train: tf.data.Dataset, *, num_folds: int = NUM_FOLDS, **options: Any
) -> CrossFitted:
    """Trains two-stage copies of a model, each on the rows of all folds but its own.

    Args:
      model: has `two_stage_copy(seed)`.
      train: batches (matrix, targets[, sample_weight]).
      num_folds: at least 2.
      **options: of `fit`, such as epochs and validation_data.
    """

    def without(fold: int) -> tf.data.Dataset:
        def weigh(matrix: Any, targets: Any, weight: Any = None) -> Any:
            others = tf.cast(fold_of(matrix, num_folds) != fold, tf.float32)
            return matrix, targets, others if weight is None else others * weight

        return train.map(weigh, num_parallel_calls=tf.data.AUTOTUNE)

    copies = [model.two_stage_copy(model.seed + 1 + fold) for fold in range(num_folds)]
    for fold, copy in enumerate(copies):
        copy.fit(without(fold), monitor="val_loss", verbose=0, **options)
    return CrossFitted(copies)


def copies_of(
    model: Any, train: Any, valid: Any, batch_size: int, epochs: int, order: dict[str, Any]
) -> CrossFitted:
    """The copies that `fit(doubly_robust=True)` trains first, each time the same.

    Args:
      model: compiled and adapted.
      train: rows to train on, `RCTData` or a dataset.
      valid: rows to validate on, or None.
      batch_size: rows a step.
      epochs: at most.
      order: of `RCTData.batches`: shuffle, seed, drop_remainder.

    Raises:
      ValueError: no gradient of the model has a use for them.
    """
    objective = model._compiled_objective()
    used = any(
        isinstance(gradient, Gradient) and type(gradient).extra is not Gradient.extra
        for _, gradient in objective.gradients
    )
    if not (objective.through_allocation and used):
        raise ValueError(
            "doubly_robust=True needs a goal_weight above 0 and a gradient that takes a model of "
            "outcomes: compile with gradients.Smoothed() or gradients.Integrated()."
        )
    batches = as_batches(train, model.preprocessor, batch_size, **order)
    if valid is not None:
        valid = as_batches(valid, model.preprocessor, 10_000)
    with model.distribute_strategy.scope():
        return cross_fit(model, batches, epochs=epochs, validation_data=valid)
