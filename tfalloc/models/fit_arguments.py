"""What `fit` and `evaluate` are given: rows to train on and to validate on, and how they come.

Arguments without a use beside the others are refused: nobody should believe that they did anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from tfalloc.data import RCTData
from tfalloc.models.matrix_batches import TARGETS, as_batches, as_trial_data, refuse_beside

USUAL_BATCH = 10_000  # rows a step, the paper's
VALIDATION_SPLIT = 0.2
# Arguments of `fit` that are Keras' alone.
KERAS_FIT = {
    "verbose", "steps_per_epoch", "validation_steps", "validation_batch_size", "validation_freq",
}  # fmt: skip


def split_rows(
    x: Any,
    y: Any,
    sample_weight: Any,
    validation_data: Any,
    validation_split: float | None,
    batch_size: int | None,
    seed: int,
) -> tuple[Any, Any, int]:
    """Rows to train on, rows to validate on, and rows a step, of the arguments of `fit`.

    Returns:
      (train, valid, batch_size): `RCTData` or a dataset; likewise or None; the batch size is not
      used with a dataset.

    Raises:
      ValueError: an argument is out of range, or has no use with the others.
    """
    if validation_data is not None:
        if validation_split:
            raise ValueError(
                f"validation_split={validation_split!r} beside validation_data: pass one of them."
            )
        if not isinstance(validation_data, (RCTData, tf.data.Dataset)):
            validation_data = as_trial_data(*validation_data)
    if isinstance(x, tf.data.Dataset):
        refuse_beside(x, y=y, sample_weight=sample_weight, batch_size=batch_size)
        refuse_beside(x, validation_split=validation_split or None)
        return x, validation_data, 1
    share = VALIDATION_SPLIT if validation_split is None else validation_split
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r}: expected at least 1, or None.")
    if not 0 <= share < 1:
        raise ValueError(
            f"validation_split={share!r}: expected a share of the rows, from 0 to less than 1."
        )
    train = as_trial_data(x, y, sample_weight)
    if validation_data is None and share:
        train, validation_data = train.split([1 - share, share], seed)
    if batch_size is None:
        batch_size = min(USUAL_BATCH, max(1, len(train) // 10))
    return train, validation_data, min(batch_size, len(train))


def in_batches(data: Any, batch_size: int | None) -> Any:
    """Rows to validate on as Keras takes them: `RCTData` in batches, others as they are."""
    return data.batches(batch_size or 10_000) if isinstance(data, RCTData) else data


def batches_from(
    data: Any,
    preprocessor: keras.Model | None,
    batch_size: int,
    *,
    epochs: tuple[int, int],
    steps_per_epoch: int | None,
    steps_per_execution: int,
    **order: Any,
) -> tf.data.Dataset:
    """Batches of a training that goes on at the beginning of an epoch.

    Those of `RCTData` are one endless stream. So is a dataset of which epochs take a number of
    steps; otherwise it begins anew with every epoch.

    Args:
      data: rows to train on.
      preprocessor: as in `as_batches`.
      batch_size: for `RCTData`.
      epochs: the first one of the run, and the first one that is trained now.
      steps_per_epoch: batches of an epoch, which Keras rounds up to whole executions.
      steps_per_execution: batches that Keras takes at once.
      **order: of `RCTData.batches`: shuffle, seed, drop_remainder.
    """
    first, now = epochs
    executions = -(-(steps_per_epoch or 0) // steps_per_execution)
    taken = (now - first) * executions * steps_per_execution
    if not isinstance(data, RCTData):
        return as_batches(data.skip(taken) if taken else data, preprocessor, batch_size)
    passes, batch = divmod(taken, len(data) // batch_size)
    order = {**order, "repeat": True, "start": (first + passes, batch)}
    return as_batches(data, preprocessor, batch_size, **order)


@contextmanager
def lost_files_named(*data: Any) -> Iterator[None]:
    """Raises what reading a streamed trial failed with, not TensorFlow's words for it."""
    try:
        yield
    except tf.errors.OpError as error:
        for each in data:
            if isinstance(each, RCTData) and each.failure is not None:
                raise each.failure from error
        raise


def one_batch(x: Any, y: Any, sample_weight: Any) -> tf.data.Dataset:
    """A dataset of one batch of raw features, as `train_on_batch` and `test_on_batch` take it.

    Raises:
      ValueError: if `y` lacks a target.
    """
    if not isinstance(y, dict) or any(name not in y for name in TARGETS):
        given = sorted(y) if isinstance(y, dict) else type(y).__name__
        raise ValueError(f"y must be a dict with {list(TARGETS)}; received {given}.")
    if isinstance(x, pd.DataFrame):
        x = {str(name): column.to_numpy() for name, column in x.items()}
    names = [*TARGETS, *(["propensity"] if "propensity" in y else [])]
    kinds = {name: np.int32 if name == "treatment" else np.float32 for name in names}
    targets = {name: np.asarray(y[name], kind) for name, kind in kinds.items()}
    weight = () if sample_weight is None else (np.asarray(sample_weight, np.float32),)
    return tf.data.Dataset.from_tensors((x, targets, *weight))


def refuse_class_weight(class_weight: Any) -> None:
    """Raises ValueError if there is one."""
    if class_weight is not None:
        raise ValueError("class_weight: there are no classes; weigh rows by sample_weight.")


def refuse_unknown(method: str, given: dict[str, Any], known: set[str]) -> None:
    """Raises TypeError for an argument that a method does not have."""
    unknown = sorted(set(given) - known)
    if unknown:
        raise TypeError(f"{method}() has no argument {unknown[0]!r}.")
