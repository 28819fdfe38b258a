"""Rows to fit the table on: any of the accepted kinds, batched as the signatures take them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfalloc.data import RCTData
from tfalloc.export.served_features import Feature, Inputs

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
    if isinstance(rows, RCTData):
        if rows.is_matrix != inputs.is_matrix:
            kinds = {True: "one matrix", False: "named columns"}
            raise ValueError(
                f"the {role} has {kinds[rows.is_matrix]} as features, but the model takes "
                f"{kinds[inputs.is_matrix]}; expected the kind that it was trained on."
            )
        for batch in rows.batches(BATCH_ROWS):
            features = {inputs.features[0].column: batch[0]} if inputs.is_matrix else batch[0]
            yield _arguments(features, inputs, role), batch[1], batch[2] if batch[2:] else None
        return
    columns = _arguments(_by_name(rows, inputs, role), inputs, role)
    sizes = {name: int(column.shape[0]) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"the {role}'s columns have lengths {sizes}; expected equal lengths.")
    total = next(iter(sizes.values()))
    for first in range(0, total, BATCH_ROWS):
        part = slice(first, first + BATCH_ROWS)
        yield {name: column[part] for name, column in columns.items()}, {}, None


def _by_name(rows: Any, inputs: Inputs, role: str) -> Mapping[str, Any]:
    if inputs.is_matrix:
        if isinstance(rows, Mapping) and set(rows) == {inputs.features[0].column}:
            return rows
        if isinstance(rows, Mapping):
            raise ValueError(
                f"the {role} has columns {list(rows)}, but the model takes one matrix; expected an "
                f"array of shape [rows, {inputs.features[0].shape[0]}]."
            )
        return {inputs.features[0].column: rows}
    if hasattr(rows, "columns") and hasattr(rows, "iloc"):
        return {str(name): rows[name].to_numpy() for name in rows.columns}
    if isinstance(rows, Mapping):
        return rows
    raise ValueError(
        f"the {role} is a {type(rows).__name__}, but the model takes named columns; expected "
        "RCTData, a data frame, or a dict of columns."
    )


def _arguments(columns: Mapping[str, Any], inputs: Inputs, role: str) -> Arguments:
    absent = [feature.column for feature in inputs.features if feature.column not in columns]
    if absent:
        raise ValueError(
            f"the {role} has no column {absent[0]!r}; its columns are {list(columns)}: pass every "
            "feature that the model was trained on."
        )
    return {
        feature.argument: _tensor(columns[feature.column], feature, role)
        for feature in inputs.features
    }


def _tensor(column: Any, feature: Feature, role: str) -> tf.Tensor:
    if not isinstance(column, tf.Tensor):
        array = np.asarray(column)
        if feature.dtype == tf.string:
            array = np.array([_text(x, feature.column, role) for x in array.ravel()], object)
        else:
            try:
                array = array.astype(feature.dtype.as_numpy_dtype)
            except (TypeError, ValueError):
                raise ValueError(
                    f"column {feature.column!r} of the {role} has dtype {array.dtype}; expected "
                    "numbers: convert it."
                ) from None
        column = tf.convert_to_tensor(array, feature.dtype)
    if not column.shape[1:].is_compatible_with(feature.shape) or column.shape.rank == 0:
        wanted = ", ".join(["rows", *map(str, feature.shape)])
        raise ValueError(
            f"{feature.column!r} of the {role} has shape {column.shape}; expected [{wanted}]."
        )
    return column


def _text(value: Any, column: str, role: str) -> str | bytes:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""  # as `RCTData` encodes a missing string
    if isinstance(value, (str, bytes)):
        return value
    raise ValueError(
        f"column {column!r} of the {role} holds {value!r}; expected strings: use .astype(str)."
    )
