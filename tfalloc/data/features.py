"""From raw features, however they come, to the columns that a model was made for.

A data frame, a dict of columns or tensors, a matrix: `FeatureSchema.columns` is the one way from
any of them to checked float32 numbers and text. Trials, predictions, exports and allocations all
go through it, so that the same row means the same everywhere.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

from tfalloc.data import columns as checks
from tfalloc.data.columns import NUMERIC, STRING, did_you_mean, require_unique, shorten

_SCHEMAS: weakref.WeakKeyDictionary[Any, FeatureSchema] = weakref.WeakKeyDictionary()

Columns = dict[str, np.ndarray] | np.ndarray

_WORDS = {NUMERIC: "numbers", STRING: "text"}


@dataclass(frozen=True, kw_only=True)
class FeatureSchema:
    """The feature columns that a model takes.

    Attributes:
      kinds: feature name -> "numeric" or "string", in the order of the features; "0", "1", … are
        the columns of a matrix.
      matrix: whether features are one matrix rather than named columns.
      missing: "error" refuses missing values; "indicator" keeps NaN, and makes missing text the
        category "".
      shapes: shape of a column's rows, where it is not ().
    """

    kinds: dict[str, str]
    matrix: bool = False
    missing: str = "error"
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checks.check_missing(self.missing)

    @property
    def numeric(self) -> list[str]:
        """Names of the numeric features."""
        return [name for name, kind in self.kinds.items() if kind == NUMERIC]

    @property
    def strings(self) -> list[str]:
        """Names of the string features."""
        return [name for name, kind in self.kinds.items() if kind == STRING]

    @classmethod
    def of_matrix(cls, width: int, missing: str = "error") -> FeatureSchema:
        """The schema of a matrix [N, width]."""
        return cls(kinds={str(i): NUMERIC for i in range(width)}, matrix=True, missing=missing)

    @classmethod
    def of_model(cls, model: Any) -> FeatureSchema:
        """The schema of a functional Keras model of raw features.

        One that `build_preprocessor` made knows it. Of any other the inputs tell names and kinds,
        and missing values are allowed if it makes finite numbers of missing numbers.

        Raises:
          ValueError: the inputs are neither columns by name nor one matrix.
        """
        known = getattr(model, "schema", None)
        if isinstance(known, FeatureSchema):
            return known
        if model not in _SCHEMAS:
            with tf.init_scope():  # the first call may be inside a tf.function
                _SCHEMAS[model] = cls._read_off(model)
        return _SCHEMAS[model]

    @classmethod
    def _read_off(cls, model: Any) -> FeatureSchema:
        try:
            inputs = model.input
        except AttributeError:  # a `Sequential` that was never called
            inputs = model.inputs
        if isinstance(inputs, (list, tuple)) and len(inputs) == 1:
            (inputs,) = inputs
        if isinstance(inputs, dict):
            kinds = {
                name: STRING if tensor.dtype == "string" else NUMERIC
                for name, tensor in inputs.items()
            }
            shapes = {
                name: tuple(tensor.shape[1:])
                for name, tensor in inputs.items()
                if len(tensor.shape) > 1
            }
            absent = {
                name: tf.constant("", shape=[1, *shapes.get(name, ())])
                if kind == STRING
                else tf.fill([1, *shapes.get(name, ())], np.float32(np.nan))
                for name, kind in kinds.items()
            }
            known = NUMERIC in kinds.values()
            return cls(
                kinds=kinds, shapes=shapes, missing=_policy(model, absent) if known else "error"
            )
        if hasattr(inputs, "shape") and len(inputs.shape) == 2 and inputs.shape[1] is not None:
            width = int(inputs.shape[1])
            row = tf.fill([1, width], np.float32(np.nan))
            return cls.of_matrix(width, _policy(model, row))
        raise ValueError(
            f"the model takes {type(inputs).__name__} as input; expected columns by name or one "
            "matrix: build it from keras.Input objects in a dict, or from one."
        )

    def columns(self, features: Any, what: str = "features") -> Columns:
        """Returns the features as a model takes them, checked.

        Args:
          features: a data frame or dict of columns [N], of which unknown ones are ignored; a
            matrix [N, F] if this is the schema of one. Columns may be arrays, lists, pandas or
            tensors; numbers may be integers, booleans, `Decimal` or nullable. Symbolic tensors
            are chosen by name and not looked at.
          what: how messages call the features.

        Returns:
          {name: float32 [N], or object [N] of str}, in the order of the schema; for a matrix
          float32 [N, F].

        Raises:
          ValueError: a column is absent or there twice, is of another kind, has missing or
            infinite values that are not allowed, lengths differ, or there are no rows.

        Example:
          >>> schema = FeatureSchema(kinds={"age": "numeric", "city": "string"})
          >>> schema.columns({"city": ["rome"], "id": [7], "age": [True]})
          {'age': array([1.], dtype=float32), 'city': array(['rome'], dtype=object)}
        """
        if self.matrix:
            return self._matrix(features, what)
        named = columns_by_name(features, what, list(self.kinds))
        _require_names(self.kinds, named, what)
        if any(is_symbolic(named[name]) for name in self.kinds):
            for name, kind in self.kinds.items():
                if (named[name].dtype == "string") != (kind == STRING):
                    raise ValueError(
                        f"feature {name!r} has dtype {named[name].dtype}; expected "
                        f"{'text' if kind == STRING else 'numbers'}, as in training."
                    )
            return {name: named[name] for name in self.kinds}
        found = {name: self._column(name, named[name]) for name in self.kinds}
        lengths = {name: len(column) for name, column in found.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"{what} have different lengths: {lengths}; expected one row per user."
            )
        _require_rows(next(iter(lengths.values()), 0), what)
        return found

    def tensors(self, features: Any, what: str = "features") -> Any:
        """Returns `columns(features)` as tensors: float32, and text."""
        found = self.columns(features, what)
        if not isinstance(found, dict):
            return tf.convert_to_tensor(found)
        return {
            name: tf.convert_to_tensor(column, tf.string if column.dtype == object else None)
            for name, column in found.items()
        }

    def accept(self, trial: Any, what: str = "features") -> None:
        """Checks that the features of a trial are what a model takes; more columns do not matter.

        Args:
          trial: `RCTData`.
          what: how messages call the features.

        Raises:
          ValueError: a column is absent or of another kind, or values are missing that must not.
        """
        if trial.is_matrix != self.matrix:
            kinds = {True: "one matrix", False: "named columns"}
            raise ValueError(
                f"{what} are {kinds[trial.is_matrix]}, but the model takes {kinds[self.matrix]}; "
                "expected the kind that it was trained on."
            )
        found = trial.feature_kinds
        if self.matrix and len(found) != len(self.kinds):
            raise ValueError(
                f"{what} have {len(found)} columns; expected {len(self.kinds)}, as in training."
            )
        _require_names(self.kinds, found, what)
        for name, kind in self.kinds.items():
            if found[name] != kind:
                raise ValueError(
                    f"feature {name!r} is {_WORDS[found[name]]}; expected {_WORDS[kind]}, as in "
                    "training."
                )
        if self.missing == "error":
            absent = [name for name in trial.incomplete_features if name in self.kinds]
            if absent:
                raise ValueError(
                    f"{shorten(absent)} of {what} have missing values, and the model was trained "
                    "without; expected finite numbers: fill them, or train on RCTData with "
                    "missing='indicator'."
                )

    def _column(self, name: str, values: Any) -> np.ndarray:
        kind, shape = self.kinds[name], self.shapes.get(name, ())
        if shape:
            return _block_of(name, values, shape, kind, self.missing)
        series = checks.as_series(name, values)
        checks.require_kind(name, series, kind)
        if kind == STRING:
            return checks.to_strings(name, series, self.missing)
        return checks.feature_to_float32(name, series, self.missing)

    def _matrix(self, features: Any, what: str) -> Any:
        width = len(self.kinds)
        if is_symbolic(features):
            return features
        if isinstance(features, (pd.DataFrame, Mapping)):
            named = columns_by_name(features, what, list(self.kinds))
            if any(name not in named for name in self.kinds):
                raise ValueError(
                    f"{what} are columns {shorten(sorted(named))}, but the model takes one matrix "
                    f"of shape [rows, {width}]; expected the kind that it was trained on."
                )
            found = [self._column(name, named[name]) for name in self.kinds]
            matrix = np.stack(found, axis=1)
        else:
            matrix = np.asarray(features)
            if matrix.ndim != 2 or matrix.shape[1] != width:
                raise ValueError(
                    f"{what} are one array of shape {matrix.shape}; expected [rows, {width}], a "
                    "row for each user."
                )
            if matrix.dtype.kind not in "biuf":
                named = {str(i): matrix[:, i] for i in range(width)}
                return self._matrix(named, what)
            with np.errstate(over="ignore"):
                matrix = matrix.astype(np.float32)
            fine = np.isfinite(matrix) if self.missing == "error" else ~np.isinf(matrix)
            if not fine.all():
                name = str(int(np.argmin(fine.all(axis=0))))
                checks.feature_to_float32(name, pd.Series(matrix[:, int(name)]), self.missing)
        _require_rows(len(matrix), what)
        return matrix


def columns_by_name(features: Any, what: str, wanted: list[str]) -> dict[str, Any]:
    """Returns a data frame or dict as {name: column}, with names as text.

    Raises:
      ValueError: it is neither, or a name occurs twice.
    """
    if isinstance(features, pd.DataFrame):
        names = [str(name) for name in features.columns]
        require_unique(names)
        return {name: features.iloc[:, i] for i, name in enumerate(names)}
    if isinstance(features, Mapping):
        require_unique([str(name) for name in features])
        return {str(name): column for name, column in features.items()}
    shape = f"one array of shape {np.shape(features)}" if hasattr(features, "shape") else None
    raise ValueError(
        f"{what} are {shape or type(features).__name__}; expected columns by name, a dict or data "
        f"frame with {shorten(sorted(wanted))}."
    )


def is_symbolic(values: Any) -> bool:
    """Whether these are tensors of a graph, or of a Keras model that is being built."""
    tensor = tf.is_tensor(values) or type(values).__name__ == "KerasTensor"
    return tensor and not hasattr(values, "numpy")


def _block_of(
    name: str, values: Any, shape: tuple[int, ...], kind: str, missing: str
) -> np.ndarray:
    """A column whose rows are arrays, for preprocessors of the user's own."""
    array = np.asarray(values)
    if not tf.TensorShape([None, *shape]).is_compatible_with(array.shape):
        wanted = ", ".join(["rows", *map(str, shape)])
        raise ValueError(f"feature {name!r} has shape {array.shape}; expected [{wanted}].")
    convert = checks.to_strings if kind == STRING else checks.feature_to_float32
    flat = pd.Series(array.ravel())
    checks.require_kind(name, flat, kind)
    return convert(name, flat, missing).reshape(array.shape)


def _require_names(kinds: Mapping[str, str], given: Mapping[str, Any], what: str) -> None:
    absent = [name for name in kinds if name not in given]
    if absent:
        raise ValueError(
            f"{what} lack {shorten(absent)}; received {shorten(sorted(given))}, expected "
            f"{shorten(sorted(kinds))}." + did_you_mean(absent[0], given)
        )


def _require_rows(rows: int, what: str) -> None:
    if not rows:
        raise ValueError(f"there are no rows of {what} (0 users); expected at least one.")


def _policy(model: Any, absent: Any) -> str:
    """Whether a model of raw features makes finite numbers of missing ones."""
    try:
        return "indicator" if np.isfinite(np.asarray(model(absent))).all() else "error"
    except (ValueError, TypeError, tf.errors.OpError):
        return "error"
