"""Predictions of a model for any rows that the package reads, in bounded memory.

    rows -> chunks of checked features -> model -> response and cost [n, K] of each chunk

A trial on disk, a file of users, a data frame: features are never in memory beyond one chunk; what
is kept of a row are its 2 K predictions and, of a trial, its outcomes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfalloc.data import FeatureSchema, RCTData, feature_chunks
from tfalloc.evaluation.trial_rows import Predictions, joined, outcome_columns

# Rows predicted at a time.
BATCH_ROWS = 20_000


def predict(
    model: Any,
    data: Any,
    *,
    schema: FeatureSchema | None = None,
    batch_size: int = BATCH_ROWS,
    na: Sequence[str] = (),
) -> Predictions:
    """Predicted response and cost of every row under every arm.

    Args:
      model: an `AllocationModel`, a baseline, any Keras model from raw features to {"response",
        "cost"} [n, K], or a function from a dict of column tensors (or a matrix) to that.
      data: `RCTData` (in memory or on disk), a data frame, a dict of columns, a matrix, a dataset
        of batches, or the path of a CSV or Parquet file. Columns that the model does not take are
        ignored.
      schema: the feature columns that a function takes, if `data` are no trial; None: those of the
        model.
      batch_size: rows predicted at a time.
      na: fields of a CSV file that mean a missing value, beside the empty one.

    Returns:
      `Predictions`: (response, cost), [N, K] each. They are held in memory, features are not.

    Raises:
      ValueError: features do not fit the model, there are no rows, or the model returns something
        else.

    Example:
      >>> from tfalloc.data import FeatureSchema
      >>> def model(columns):  # two arms: the second costs 1 and helps the old
      ...     age = columns["age"][:, None]
      ...     return {"response": age * [0.0, 0.125], "cost": 0.0 * age + [0.0, 1.0]}
      >>> ages = FeatureSchema(kinds={"age": "numeric"})
      >>> response, cost = predict(model, {"age": [2, 4]}, schema=ages)
      >>> response.tolist(), cost.tolist()
      ([[0.0, 0.25], [0.0, 0.5]], [[0.0, 1.0], [0.0, 1.0]])
    """
    chunks = predict_chunks(model, data, schema=schema, batch_size=batch_size, na=na)
    return _joined([predictions for _, predictions in chunks])


def predict_chunks(
    model: Any,
    data: Any,
    *,
    schema: FeatureSchema | None = None,
    batch_size: int = BATCH_ROWS,
    id_column: str | None = None,
    na: Sequence[str] = (),
) -> Iterator[tuple[npt.NDArray[Any], Predictions]]:
    """Yields (ids, `Predictions`) of some rows after the other, where all would not fit in memory.

    Args:
      model, data, schema, batch_size, na: as for `predict`.
      id_column: column of a file or table that names a user; None: ids are row numbers, from 0.

    Raises:
      ValueError: as for `predict`.

    Example:
      >>> from tfalloc.data import FeatureSchema
      >>> users = {"name": ["ann", "bob", "cid"], "age": [2, 4, 6]}
      >>> def model(columns):
      ...     age = columns["age"][:, None]
      ...     return {"response": age * [0.0, 0.125], "cost": 0.0 * age + [0.0, 1.0]}
      >>> options = {"schema": FeatureSchema(kinds={"age": "numeric"}), "id_column": "name"}
      >>> for ids, found in predict_chunks(model, users, batch_size=2, **options):
      ...     print(ids.tolist(), found.response[:, 1].tolist())
      ['ann', 'bob'] [0.25, 0.5]
      ['cid'] [0.75]
    """
    function = _Function(model, schema)
    if isinstance(data, RCTData) and id_column is None and not function.takes_arrays:
        # As tensors straight from the trial, which has checked them.
        first = 0
        for features, *_ in _batches(data, [function], batch_size):
            predictions = function(features)
            yield np.arange(first, first + len(predictions.cost)), predictions
            first += len(predictions.cost)
        return
    taken = function.schema
    if taken is None and isinstance(data, RCTData):
        taken = FeatureSchema(kinds=data.feature_kinds, matrix=data.is_matrix, missing=data.missing)
    if taken is None:
        raise ValueError(
            f"{type(model).__name__} does not say which features it takes; expected a Keras model, "
            "or schema=FeatureSchema(kinds={...})."
        )
    for ids, columns in feature_chunks(data, taken, id_column=id_column, rows=batch_size, na=na):
        yield ids, function(columns if function.takes_arrays else _tensors(columns))


def predict_trial(
    models: Mapping[str, Any],
    trial: RCTData,
    *,
    batch_size: int = BATCH_ROWS,
) -> tuple[dict[str, Predictions], dict[str, Any]]:
    """Predictions of several models for the rows of a trial, and its outcomes, from one pass.

    Of a trial larger than memory that is what every function of `tfalloc.evaluation` needs.

    Args:
      models: {name: model}, each as for `predict`.
      trial: `RCTData`, in memory or on disk.
      batch_size: rows predicted at a time.

    Returns:
      {name: `Predictions`}, and the trial's columns without its features: treatment, response,
      cost, propensity, sample_weight and cluster (if it has them) and treatment_names.

    Raises:
      ValueError: as for `predict`, or the data are no trial.

    Example:
      >>> from tfalloc import RCTData, evaluation
      >>> trial = RCTData({"age": [30, 41, 25, 60]}, [0, 1, 0, 1], [0, 1, 0, 0], [0, 2, 0, 2])
      >>> def model(columns):
      ...     age = columns["age"][:, None]
      ...     return {"response": age * [0.0, 0.125], "cost": 0.0 * age + [0.0, 2.0]}
      >>> predictions, outcomes = evaluation.predict_trial({"mine": model}, trial)
      >>> evaluation.policy_outcome(*predictions["mine"], outcomes, budget=1.0).cost
      1.0
    """
    if not isinstance(trial, RCTData):
        raise ValueError(
            f"trial is a {type(trial).__name__}; expected RCTData, which has treatments and "
            "outcomes beside the features."
        )
    functions = {name: _Function(model) for name, model in models.items()}
    parts: dict[str, list[Predictions]] = {name: [] for name in models}
    kept: list[dict[str, Any]] = []
    for features, targets, *weight in _batches(trial, functions.values(), batch_size):
        kept.append(outcome_columns(targets, *weight))
        for name, function in functions.items():
            parts[name].append(function(features))
    return {name: _joined(part) for name, part in parts.items()}, joined(kept, trial)


class _Function:
    """A model as a function from the features of a chunk to `Predictions`.

    Args:
      model: as for `predict`.
      schema: as for `predict`.

    Attributes:
      schema: the features that it takes; None: it does not say.
      takes_arrays: whether it wants NumPy columns rather than tensors.
    """

    def __init__(self, model: Any, schema: FeatureSchema | None = None):
        self.takes_arrays = False
        if isinstance(model, keras.Model):
            self._call: Any = functools.partial(model, training=False)
        elif callable(getattr(model, "predict", None)):
            self._call, self.takes_arrays = model.predict, True
        elif callable(model):
            self._call = model
        else:
            raise ValueError(
                f"model is a {type(model).__name__}; expected a Keras model, a baseline, or a "
                "function from features to {'response', 'cost'}."
            )
        self.schema = _schema_of(model) if schema is None else schema

    def __call__(self, features: Any) -> Predictions:
        found = self._call(features)
        if not isinstance(found, Mapping) or not {"response", "cost"} <= set(found):
            raise ValueError(
                f"the model returns {type(found).__name__}; expected a dict with 'response' and "
                "'cost', [rows, treatments] each."
            )
        return Predictions(np.asarray(found["response"]), np.asarray(found["cost"]))


def _schema_of(model: Any) -> FeatureSchema | None:
    if isinstance(getattr(model, "schema", None), FeatureSchema):
        return model.schema
    preprocessor = getattr(model, "preprocessor", None)
    if preprocessor is not None:
        return FeatureSchema.of_model(preprocessor)
    width = getattr(model, "num_features", None)
    if width is not None:
        return FeatureSchema.of_matrix(width)
    if hasattr(model, "preprocessor"):
        raise ValueError("the model is not trained yet; expected one after fit(data).")
    return FeatureSchema.of_model(model) if isinstance(model, keras.Model) else None


def _batches(trial: RCTData, functions: Iterable[_Function], batch_size: int) -> Iterator[Any]:
    """The batches of a trial, whose features are what the models take."""
    for function in functions:
        if function.schema is not None:
            function.schema.accept(trial, "features of the trial")
    try:
        yield from trial.batches(batch_size)
    except tf.errors.OpError as error:
        if trial.failure is not None:
            raise trial.failure from error
        raise


def _tensors(columns: Any) -> Any:
    if not isinstance(columns, dict):
        return tf.constant(columns)
    return {
        name: tf.constant(x, tf.string if x.dtype == object else tf.float32)
        for name, x in columns.items()
    }


def _joined(parts: list[Predictions]) -> Predictions:
    return Predictions(*(np.concatenate(x) for x in zip(*parts, strict=True)))
