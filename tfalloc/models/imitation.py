"""Imitation ("distillation"): a network learns what another learner predicts of every arm.

A trial shows one outcome of one arm of each user; a teacher that has smoothed the trial, such as
gradient boosting, says the mean of all K. The network fits these means by its own losses,

    loss = 1 / (N K) sum_i sum_j [ l_response(v_ij, V_ij) + l_cost(c_ij, C_ij) ],

with V, C [N, K] the teacher's predictions in the place of outcomes: cross entropy, squared error
and Poisson are least where the network's mean is the teacher's (soft targets, Hinton et al. 2015).
Training through the allocation can then start where the teacher ends.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfalloc.data import RCTData
from tfalloc.models import replicas
from tfalloc.models.matrix_batches import as_batches, joined
from tfalloc.models.phases import EpochLogs
from tfalloc.models.train_step import TrainStep

# Rows a step by default: the targets have no noise, so that steps count for more than rows.
USUAL_BATCH = 1_000
LEAST_BATCHES = 20  # of an epoch
# Beyond an outcome's range by this much is rounding.
ROUNDING = 1e-6


class ImitationModel(TrainStep):
    """Trains the network of a model, with another optimizer, on outcomes of all arms.

    Args:
      model: an adapted `AllocationModel`; its network is shared, nothing else of it changes.

    Targets are {"response": [batch, K], "cost": [batch, K]}.
    """

    def __init__(self, model: Any):
        super().__init__(dtype=model.dtype_policy)
        self.network, self.seed = model.network, model.seed
        self._heads = model.outcome_heads
        self.built = True

    def _choose_losses(self, **outcome_losses: str | None) -> None:
        """Those of the model, whatever is asked for here."""

    def _prediction_losses(
        self, raw: Any, targets: dict[str, Any], sample_weight: Any
    ) -> dict[str, Any]:
        """Every row counts once for each arm, as if it had received it."""
        rows = self._heads.errors_of_every_arm(raw, targets["response"], targets["cost"])
        return {
            f"{name}_loss": replicas.mean(tf.reduce_mean(errors, axis=1), sample_weight)
            for name, errors in rows.items()
        }


def imitate(
    model: Any,
    x: Any,
    predictions: Any,
    *,
    epochs: int,
    batch_size: int | None,
    learning_rate: float,
    sample_weight: Any,
    seed: int | None,
    verbose: Any,
) -> keras.callbacks.History:
    """`AllocationModel.imitate`, which documents the arguments."""
    if not (epochs >= 1 and learning_rate > 0 and (batch_size is None or batch_size >= 1)):
        raise ValueError(
            f"epochs={epochs!r}, batch_size={batch_size!r}, learning_rate={learning_rate!r}: "
            "expected positive numbers (batch_size may be None)."
        )
    for name, head in model._head_of.items():
        if head == "hurdle":
            raise ValueError(
                f"{name}_head='hurdle' cannot imitate: it learns from zeros and positive amounts, "
                "a prediction is their mean; use 'nonnegative', or train by fit."
            )
    if isinstance(x, RCTData) and not model._adapted:
        model.adapt(x)
    if not model._adapted:
        raise ValueError(
            f"x is {type(x).__name__}, but preprocessing and heads start from a trial: pass "
            "RCTData, or call adapt(data) first."
        )
    matrix, weight = _rows(model, x)
    targets = _checked(model, predictions, len(matrix))
    if sample_weight is not None:
        weight = np.asarray(sample_weight, np.float32)
        if weight.shape != (len(matrix),) or not np.all(np.isfinite(weight) & (weight >= 0)):
            raise ValueError(
                f"sample_weight has shape {weight.shape}; expected {len(matrix)} finite numbers "
                "that are not negative, one for each row of x."
            )
    if batch_size is None:
        batch_size = min(USUAL_BATCH, max(1, len(matrix) // LEAST_BATCHES))
    batch_size = min(int(batch_size), len(matrix))
    steps = len(matrix) // batch_size
    with model.distribute_strategy.scope():
        trainer = ImitationModel(model)
        trainer.compile(
            keras.optimizers.Adam(
                keras.optimizers.schedules.CosineDecay(learning_rate, steps * epochs)
            ),
            jit_compile=getattr(model, "_xla", True),
            run_eagerly=model.run_eagerly,
        )
        columns = (matrix, targets) if weight is None else (matrix, targets, weight)
        batches = _shuffled(columns, batch_size, model.seed if seed is None else seed)
        return trainer.fit(
            replicas.by_rows(batches),
            epochs=epochs,
            steps_per_epoch=steps,
            callbacks=[EpochLogs(None)],
            shuffle=False,  # the batches are shuffled already
            verbose=verbose,
        )


def _rows(model: Any, x: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Feature matrix [N, F] and, of a weighted trial, weights [N]; the rows in their order."""
    if isinstance(x, tf.data.Dataset):
        raise ValueError(
            "x is a tf.data.Dataset, whose rows need not come in the order of the predictions; "
            "pass RCTData or features."
        )
    batches = joined(as_batches(x, model.preprocessor, 10_000))
    matrix, _, weight = keras.utils.unpack_x_y_sample_weight(batches)
    return matrix, weight


def _checked(model: Any, predictions: Any, num_rows: int) -> dict[str, np.ndarray]:
    """Predictions as float32 [N, K]; a cost that nothing learns may be absent.

    Raises:
      ValueError: if one is missing, of another shape, not finite, or out of its head's range.
    """
    settings = model.outcome_heads.settings
    shape = (num_rows, settings.num_treatments)
    learned = [name for name in settings.head_of() if settings.learns(name)]
    if not isinstance(predictions, dict) or any(name not in predictions for name in learned):
        given = sorted(predictions) if isinstance(predictions, dict) else type(predictions).__name__
        raise ValueError(
            f"predictions: received {given}; expected a dict with {learned}, each [rows, "
            "treatments], as teacher.predict(x) gives."
        )
    targets = {name: np.zeros(shape, np.float32) for name in settings.head_of()}
    for name in learned:
        values, head = np.asarray(predictions[name], np.float32), settings.head_of()[name]
        if values.shape != shape:
            raise ValueError(
                f"predictions[{name!r}] has shape {values.shape}; expected {shape}: a row for each "
                "row of x, a column for each treatment."
            )
        low = -np.inf if head == "real" else 0.0
        high = 1.0 if head == "binary" else np.inf
        wrong = ~(np.isfinite(values) & (values >= low - ROUNDING) & (values <= high + ROUNDING))
        if wrong.any():
            row, arm = np.argwhere(wrong)[0]
            raise ValueError(
                f"predictions[{name!r}][{row}, {arm}] is {values[row, arm]:.6g} "
                f"({wrong.sum()} such values); expected finite numbers in [{low:g}, {high:g}] for "
                f"{name}_head={head!r}: clip them with np.clip, or use another head."
            )
        targets[name] = np.clip(values, low, high)
    return targets


def _shuffled(columns: Any, batch_size: int, seed: int) -> tf.data.Dataset:
    """Endless whole batches of rows of arrays; an epoch's order is a function of (seed, epoch)."""
    columns = tf.nest.map_structure(tf.convert_to_tensor, columns)
    num_rows = len(columns[0])

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(
            tf.range(num_rows), seed=tf.stack([tf.constant(seed, tf.int64), number])
        )
        return tf.data.Dataset.from_tensor_slices(order).batch(batch_size, drop_remainder=True)

    def gather(rows: tf.Tensor) -> Any:
        return tf.nest.map_structure(lambda column: tf.gather(column, rows), columns)

    return tf.data.Dataset.counter().flat_map(epoch).map(gather).prefetch(2)
