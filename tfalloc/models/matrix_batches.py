"""What `fit`, `evaluate` and `predict` accept, turned into batches of a feature matrix."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfalloc.data import FeatureSchema, RCTData

TARGETS = ("treatment", "response", "cost")
_ADAPT_ROWS = 1_000_000
_SAMPLE_ROWS = 100_000  # enough for quantiles


def as_trial_data(x: Any, y: Any = None, sample_weight: Any = None) -> RCTData:
    """`RCTData` from itself, from (features, dict of targets), or from the rows of a dataset.

    A dataset is read up to a million rows, enough to fit preprocessing and arm rates.

    Raises:
      ValueError: if targets are missing or do not fit, or come beside data that bring their own.
    """
    if isinstance(x, (RCTData, tf.data.Dataset)):
        refuse_beside(x, y=y, sample_weight=sample_weight)
        return x if isinstance(x, RCTData) else _from_dataset(x)
    if not isinstance(y, dict) or any(name not in y for name in TARGETS):
        given = sorted(y) if isinstance(y, dict) else type(y).__name__
        raise ValueError(
            f"y must be a dict with {list(TARGETS)}; received {given}. Or pass RCTData as x."
        )
    return RCTData(
        x,
        y["treatment"],
        y["response"],
        y["cost"],
        propensity=y.get("propensity"),
        sample_weight=sample_weight,
    )


def refuse_beside(x: Any, **given: Any) -> None:
    """Refuses arguments beside data that bring what they say.

    Raises:
      ValueError: one is not None.
    """
    for name, value in given.items():
        if value is None:
            continue
        how = {
            "y": "leave it out",
            "sample_weight": "RCTData(…, sample_weight=) holds weights"
            if isinstance(x, RCTData)
            else "a dataset yields weights as a third component",
            "batch_size": "a dataset brings its own batches",
            "validation_split": "a dataset cannot be split, pass validation_data",
        }[name]
        shown = value if isinstance(value, (int, float)) else "…"
        what = "RCTData" if isinstance(x, RCTData) else "a dataset"
        raise ValueError(f"{name}={shown} beside {what} has no use: {how}.")


def _from_dataset(dataset: tf.data.Dataset) -> RCTData:
    parts, rows = [], 0
    for batch in dataset.as_numpy_iterator():
        if not isinstance(batch, tuple) or len(batch) < 2:
            raise ValueError(
                "a dataset for AllocationModel yields (features, targets[, sample_weight]) with "
                f"targets a dict of {list(TARGETS)}; received {type(batch).__name__}."
            )
        parts.append(batch)
        rows += len(batch[1]["treatment"])
        if rows >= _ADAPT_ROWS:
            break
    if not parts:
        raise ValueError("the dataset is empty (0 batches).")
    whole = _concatenated(parts)
    features, targets = whole[0], whole[1]
    weight = whole[2] if len(whole) > 2 else None
    return as_trial_data(features, targets, weight)


def joined(batches: tf.data.Dataset) -> Any:
    """All batches as one, NumPy arrays in memory."""
    return _concatenated(list(batches.as_numpy_iterator()))


def _concatenated(parts: list[Any]) -> Any:
    return tf.nest.map_structure(lambda *leaves: np.concatenate(leaves), *parts)


def as_batches(
    x: Any,
    preprocessor: keras.Model | None,
    batch_size: int,
    *,
    targets: bool = True,
    **options: Any,
) -> tf.data.Dataset:
    """Batches with features as a matrix; preprocessing runs in the pipeline, off the step.

    Args:
      x: `RCTData`, a dataset, or raw features (without targets only).
      preprocessor: raw features to a matrix; None: features are one already.
      batch_size: for `RCTData` and raw features.
      targets: whether to keep targets and weights.
      **options: passed to `RCTData.batches`.

    Raises:
      ValueError: raw features are not those the preprocessor takes, or it makes NaN of them.
    """
    schema = None if preprocessor is None else FeatureSchema.of_model(preprocessor)
    if isinstance(x, RCTData):
        if schema is not None:
            schema.accept(x)
        x = x.batches(batch_size, **options)
    elif not isinstance(x, tf.data.Dataset):
        columns = (schema or FeatureSchema.of_matrix(np.shape(x)[-1])).columns(x)
        x = tf.data.Dataset.from_tensor_slices(columns).batch(batch_size)

    def prepare(features: Any, *rest: Any) -> Any:
        if schema is not None and preprocessor is not None:
            features = preprocessor(schema.columns(features))
        return (features, *rest) if targets and rest else features

    return x.map(prepare, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)


def sample_matrix(data: RCTData, preprocessor: keras.Model | None, seed: int) -> np.ndarray:
    """The feature matrix of up to 100,000 random rows, [N, num_features]."""
    batch = min(len(data), 10_000)
    batches = as_batches(data, preprocessor, batch, targets=False, shuffle=True, seed=seed)
    return np.concatenate(list(batches.take(_SAMPLE_ROWS // batch).as_numpy_iterator()))
