"""What `fit`, `evaluate` and `predict` accept, turned into batches of a feature matrix."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfalloc.data import RCTData

TARGETS = ("treatment", "response", "cost")
_ADAPT_ROWS = 1_000_000
_SAMPLE_ROWS = 100_000  # enough for quantiles


def as_trial_data(x: Any, y: Any = None, sample_weight: Any = None) -> RCTData:
    """`RCTData` from itself, from (features, dict of targets), or from the rows of a dataset.

    A dataset is read up to a million rows, enough to fit preprocessing and arm rates.

    Raises:
      ValueError: if targets are missing or do not fit.
    """
    if isinstance(x, RCTData):
        return x
    if isinstance(x, tf.data.Dataset):
        return _from_dataset(x)
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
    joined = tf.nest.map_structure(lambda *leaves: np.concatenate(leaves), *parts)
    features, targets = joined[0], joined[1]
    if isinstance(features, dict):
        features = {name: _text(column) for name, column in features.items()}
    weight = joined[2] if len(joined) > 2 else None
    return as_trial_data(features, targets, weight)


def _text(column: np.ndarray) -> np.ndarray:
    if column.dtype != object:
        return column
    return np.array([x.decode() if isinstance(x, bytes) else x for x in column], object)


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
    if isinstance(x, RCTData):
        x = x.batches(batch_size, **options)
    elif not isinstance(x, tf.data.Dataset):
        columns = _columns(x)
        _check_columns(columns, preprocessor)
        x = tf.data.Dataset.from_tensor_slices(columns).batch(batch_size)

    def prepare(features: Any, *rest: Any) -> Any:
        matrix = features if preprocessor is None else preprocessor(features)
        return (matrix, *rest) if targets and rest else matrix

    return x.map(prepare, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)


def sample_matrix(data: RCTData, preprocessor: keras.Model | None, seed: int) -> np.ndarray:
    """The feature matrix of up to 100,000 random rows, [N, num_features]."""
    batch = min(len(data), 10_000)
    batches = as_batches(data, preprocessor, batch, targets=False, shuffle=True, seed=seed)
    return np.concatenate(list(batches.take(_SAMPLE_ROWS // batch).as_numpy_iterator()))


def _columns(features: Any) -> Any:
    """Columns as the preprocessor's inputs take them: numbers float32, strings as they are."""
    if hasattr(features, "to_dict") and hasattr(features, "columns"):
        features = {name: features[name].to_numpy() for name in features.columns}
    if not isinstance(features, dict):
        return np.asarray(features, np.float32)
    columns = {}
    for name, column in features.items():
        column = np.asarray(column)
        columns[name] = (
            column.astype(np.float32) if column.dtype.kind in "biuf" else column.astype(str)
        )
    return columns


def _check_columns(columns: Any, preprocessor: keras.Model | None) -> None:
    """Trials are checked when they are made; features to predict for come as they are."""
    taken = None if preprocessor is None else preprocessor.input
    if isinstance(taken, dict):
        if not isinstance(columns, dict):
            raise ValueError(
                f"features are one array of shape {columns.shape}; expected columns by name, a "
                f"dict or data frame with {sorted(taken)}."
            )
        absent = [name for name in taken if name not in columns]
        if absent:
            raise ValueError(
                f"features lack {absent}; received {sorted(columns)}, expected {sorted(taken)}."
            )
        for name, tensor in taken.items():
            text = columns[name].dtype.kind == "U"
            if text != (tensor.dtype == "string"):
                kinds = ("text", "numbers") if text else ("numbers", "text")
                raise ValueError(
                    f"feature {name!r} is {kinds[0]}; expected {kinds[1]}, as in training."
                )
    named = columns if isinstance(columns, dict) else {"features": columns}
    lengths = {name: len(column) for name, column in named.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"features have different lengths: {lengths}; expected one row per user.")
    if not named or not next(iter(lengths.values())):
        raise ValueError("there are no rows of features (0 users); expected at least one.")
    _check_finite(columns, named, preprocessor)


def _check_finite(columns: Any, named: dict[str, np.ndarray], preprocessor: Any) -> None:
    """A ReLU makes 0 of NaN: predictions would look like any others."""
    bad = {
        name: ~np.isfinite(column).reshape(len(column), -1).all(axis=1)
        for name, column in named.items()
        if column.dtype.kind == "f"
    }
    rows = np.flatnonzero(np.any(list(bad.values()), axis=0)) if bad else np.array([], int)
    if not len(rows):
        return
    some = rows[:1000]
    matrix = tf.nest.map_structure(lambda column: tf.constant(column[some]), columns)
    if preprocessor is not None:
        matrix = preprocessor(matrix)  # it may impute
    if not np.isfinite(np.asarray(matrix)).all():
        names = [name for name, where in bad.items() if where.any()]
        raise ValueError(
            f"{names} are NaN or infinite in {len(rows)} of {len(next(iter(named.values())))} "
            "rows, and the model was trained without; expected finite numbers: fill them, or train "
            "on RCTData with missing='indicator'."
        )
