"""Rows to fit the table on: any of the accepted kinds, batched as the signatures take them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfalloc.data import RCTData
from tfalloc.export.served_features import MATRIX, Inputs

BATCH_ROWS = 8192

Arguments = dict[str, tf.Tensor]


class Predicted(NamedTuple):
    """Predictions for rows, and what a trial recorded of them.

    Attributes:
      response: [N, K] float32.
      cost: [N, K] float32, per user.
      weight: [N] users that a row stands for, or None.
      trial: "treatment", "response", "cost" and "propensity" (divided by the sample weight), [N]
        each; empty if the rows are features only.
    """

    response: npt.NDArray[np.float32]
    cost: npt.NDArray[np.float32]
    weight: npt.NDArray[np.float32] | None
    trial: dict[str, npt.NDArray[Any]]


def predict_rows(serve: Any, rows: Any, inputs: Inputs, role: str) -> Predicted:
    """Predicts with the function that will be served, so that rounding is the same.

    Args:
      serve: from the signatures' arguments to {"response", "cost"}.
      rows: `RCTData`, a data frame, a dict of columns, or a matrix.
      inputs: of the model.
      role: "population" or "trial", for messages.

    Returns:
      `Predicted`.

    Raises:
      ValueError: if columns are missing or do not fit, there are no rows, or a prediction is not
        finite.
    """
    parts: dict[str, list[Any]] = {}

    def keep(name: str, column: Any) -> None:
        parts.setdefault(name, []).append(np.asarray(column))

    for arguments, targets, weight in _batches(rows, inputs, role):
        predicted = serve(**arguments)
        keep("response", predicted["response"])
        keep("cost", predicted["cost"])
        if weight is not None:
            keep("weight", weight)
        for name in targets:
            keep(f"trial_{name}", targets[name])
    if not parts:
        raise ValueError(f"the {role} is empty (0 rows); expected at least one row of features.")
    columns = {name: np.concatenate(column) for name, column in parts.items()}
    for name in ("response", "cost"):
        bad = ~np.isfinite(columns[name]).all(axis=1)
        if bad.any():
            raise ValueError(
                f"the predicted {name} of {int(bad.sum())} of {len(bad)} rows of the {role} is NaN "
                f"or infinite (first: row {int(np.argmax(bad))}); expected finite predictions: "
                "fill or drop missing features, or train on data with missing='indicator'."
            )
    trial = {name[6:]: column for name, column in columns.items() if name.startswith("trial_")}
    if trial and "weight" in columns:
        trial["propensity"] = trial["propensity"] / columns["weight"]
    return Predicted(columns["response"], columns["cost"], columns.get("weight"), trial)


def first_rows(rows: Any, inputs: Inputs, count: int) -> Arguments:
    """Arguments of the signatures for the first rows, without predicting."""
    arguments, _, _ = next(iter(_batches(rows, inputs, "population")))
    return {name: column[:count] for name, column in arguments.items()}


def _batches(rows: Any, inputs: Inputs, role: str) -> Iterator[tuple[Arguments, Any, Any]]:
    schema, what = inputs.schema, f"features of the {role}"
    if isinstance(rows, RCTData):
        schema.accept(rows, what)
        for batch in rows.batches(BATCH_ROWS):
            yield _arguments(batch[0], inputs), batch[1], batch[2] if batch[2:] else None
        return
    if inputs.is_matrix and isinstance(rows, Mapping) and set(rows) == {MATRIX}:
        rows = rows[MATRIX]
    columns = schema.columns(rows, what)
    total = len(next(iter(columns.values())) if isinstance(columns, dict) else columns)
    arguments = _arguments(columns, inputs)
    for first in range(0, total, BATCH_ROWS):
        part = slice(first, first + BATCH_ROWS)
        yield {name: column[part] for name, column in arguments.items()}, {}, None


def _arguments(columns: Any, inputs: Inputs) -> Arguments:
    named = {MATRIX: columns} if inputs.is_matrix else columns
    return {
        feature.argument: tf.cast(named[feature.column], feature.dtype)
        if feature.dtype != tf.string
        else tf.convert_to_tensor(named[feature.column], tf.string)
        for feature in inputs.features
    }
