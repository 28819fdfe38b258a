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
# Beyond an outcome's range by this part of the largest prediction is rounding.
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
    epochs: int = 30,
    batch_size: int | None = None,
    learning_rate: float = 3e-3,
    sample_weight: Any = None,
    seed: int | None = None,
    verbose: Any = "auto",
) -> keras.callbacks.History:
    """Trains the network on what another learner predicts of every arm ("distillation").

    A trial shows one arm of each user, a teacher speaks of all of them: the network comes to
    predict what the teacher does, and `fit` goes on from there through the allocation. The
    model need not be compiled; an optimizer that it has is left as it is, and so are losses
    chosen by `compile`, which are used here.

    Args:
      x: `RCTData`, on which preprocessing and heads start as in `fit` if they have not; or,
        after `adapt` or `fit`, raw features as for `predict`.
      predictions: {"response": [N, K], "cost": [N, K]}, means per user as `predict` gives them,
        in the order of the rows of `x`. A teacher that overfits should be cross-fitted: each
        row predicted by a copy that has not seen it. Costs that are "constant" or
        "on_response" are not learned, and may be left out.
      epochs: passes over the rows.
      batch_size: rows a step; None: 1,000, less on small data.
      learning_rate: of Adam at first; it falls to 0 along a cosine.
      sample_weight: [N], what a row counts; None: that of the trial, if it has one.
      seed: seeds the shuffling of rows; None: the model's.
      verbose: as in `keras.Model.fit`.

    Returns:
      History of `loss`, `response_loss` and `cost_loss`, means of each epoch over rows and
      arms. Where predictions are imitated exactly, squared errors are 0, but cross entropy and
      Poisson are not.

    The feature matrix of all rows is held in memory, as the predictions are.

    Raises:
      ValueError: if predictions are not finite [N, K] within the range of their head; if a head
        is "hurdle", whose loss wants outcomes, not means; or an argument is out of range.

    Example:
      >>> import tfalloc
      >>> trial = tfalloc.datasets.five_arms(2_000, seed=0)
      >>> truth = {"response": trial.true_response, "cost": trial.true_cost}
      >>> model = tfalloc.AllocationModel(num_treatments=5, backbone="small", seed=0)
      >>> history = model.imitate(trial.data, truth, epochs=2, verbose=0)
      >>> history.history["loss"][1] < history.history["loss"][0]
      True

    Source: soft targets, Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural
    network".
    """
    whole = [epochs] if batch_size is None else [epochs, batch_size]
    if not (
        all(isinstance(x, (int, np.integer)) and x >= 1 for x in whole)
        and 0 < learning_rate < np.inf
    ):
        raise ValueError(
            f"epochs={epochs!r}, batch_size={batch_size!r}, learning_rate={learning_rate!r}: "
            "expected positive numbers, the first two integers (batch_size may be None)."
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
    matrix, weight = rows_in_memory(model, x)
    targets = _checked(model, predictions, len(matrix))
    if sample_weight is not None:
        weight = np.asarray(sample_weight, np.float32)
        if (
            weight.shape != (len(matrix),)
            or not np.all(np.isfinite(weight) & (weight >= 0))
            or not weight.any()
        ):
            raise ValueError(
                f"sample_weight has shape {weight.shape} and sum {weight.sum():.6g}; expected "
                f"{len(matrix)} finite numbers that are not negative and not all 0, one for each "
                "row of x."
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


def rows_in_memory(model: Any, x: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Feature matrix [N, F] and weights [N] or None, the rows in their order."""
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
        slack = ROUNDING * np.abs(values[np.isfinite(values)]).max(initial=0.0)
        wrong = ~(np.isfinite(values) & (values >= low - slack) & (values <= high + slack))
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
