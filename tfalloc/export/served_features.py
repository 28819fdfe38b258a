"""What an exported model takes: one input per feature column, or one matrix."""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from typing import Any, Literal

import keras
import tensorflow as tf

from tfalloc.data import FeatureSchema

MATRIX = "features"
POLICY_INPUTS = ("policy_alpha", "policy_budget")


@dataclass(frozen=True)
class Feature:
    """One input of the signatures.

    Attributes:
      column: name of the feature column; "features" for a matrix.
      argument: name of the signatures' input: the column's name as far as TensorFlow allows.
      shape: without the batch dimension: () for a column, (F,) for a matrix.
      dtype: of the input.
    """

    column: str
    argument: str
    shape: tuple[int, ...]
    dtype: tf.DType

    @property
    def kind(self) -> Literal["numeric", "string"]:
        """ "string" or "numeric"."""
        return "string" if self.dtype == tf.string else "numeric"

    @property
    def spec(self) -> tf.TensorSpec:
        """Signature of the input, with an unknown batch size."""
        return tf.TensorSpec([None, *self.shape], self.dtype, name=self.argument)


@dataclass(frozen=True)
class Inputs:
    """All inputs of a model.

    Attributes:
      features: one for each column, or one for the matrix.
      is_matrix: whether the model takes one matrix rather than a dict of columns.
      schema: what raw features must be.
    """

    features: tuple[Feature, ...]
    is_matrix: bool
    schema: FeatureSchema

    def arguments(self, columns: Any) -> dict[str, tf.Tensor]:
        """The signatures' arguments from features by column, or the matrix."""
        named = {MATRIX: columns} if self.is_matrix else columns
        return {
            feature.argument: tf.convert_to_tensor(named[feature.column], tf.string)
            if feature.dtype == tf.string
            else tf.cast(named[feature.column], feature.dtype)
            for feature in self.features
        }

    def pack(self, arguments: dict[str, tf.Tensor]) -> Any:
        """The model's own input from the signatures' arguments."""
        if self.is_matrix:
            return arguments[self.features[0].argument]
        return {feature.column: arguments[feature.argument] for feature in self.features}


def inputs_of(model: Any) -> Inputs:
    """Reads a model's inputs: those of its preprocessor, else of its network.

    Args:
      model: an `AllocationModel`, or a functional Keras model of raw features.

    Raises:
      ValueError: if the model has no network yet, its inputs are neither a dict of columns nor one
        matrix, or a column has the name of a policy input.
    """
    structure, schema = _structure(model)
    if not schema.matrix:
        features = tuple(
            Feature(name, argument_name(name), tuple(tensor.shape[1:]), tf.as_dtype(tensor.dtype))
            for name, tensor in structure.items()
        )
        _check(features)
        return Inputs(features, is_matrix=False, schema=schema)
    shape, dtype = (len(schema.kinds),), tf.as_dtype(structure.dtype)
    return Inputs((Feature(MATRIX, MATRIX, shape, dtype),), is_matrix=True, schema=schema)


def argument_name(column: str) -> str:
    """A column's name as TensorFlow allows inputs to be named.

    Signature inputs are Python identifiers of ASCII characters that start with a letter; other
    characters become "_".

    Example:
      >>> argument_name("recency"), argument_name("days since visit"), argument_name("2nd")
      ('recency', 'days_since_visit', 'arg_2nd')
    """
    name = re.sub(r"[^A-Za-z0-9_]", "_", column)
    if not re.match(r"[A-Za-z]", name):
        name = f"arg_{name}"
    return f"{name}_" if keyword.iskeyword(name) or name in ("self", "cls") else name


def _structure(model: Any) -> tuple[Any, FeatureSchema]:
    """The model's inputs, a dict or a tensor, and what raw features must be."""
    preprocessor = getattr(model, "preprocessor", None)
    if preprocessor is None and hasattr(model, "network"):
        if model.network is None:
            raise ValueError(
                "the model has no network yet; expected a trained model: call fit(data) or "
                "adapt(data) before save."
            )
        matrix = keras.KerasTensor((None, model.num_features), "float32")
        return matrix, FeatureSchema.of_matrix(model.num_features)
    source = model if preprocessor is None else preprocessor
    try:
        structure = source.input
    except (AttributeError, ValueError):
        raise ValueError(
            f"the model's {type(source).__name__} does not declare its inputs; expected a "
            "functional Keras model: build it as keras.Model(inputs, outputs)."
        ) from None
    if isinstance(structure, (list, tuple)) and len(structure) == 1:
        structure = structure[0]
    return structure, FeatureSchema.of_model(source)


def _check(features: tuple[Feature, ...]) -> None:
    seen: dict[str, str] = {}
    for feature in features:
        if feature.argument in POLICY_INPUTS:
            raise ValueError(
                f"feature column {feature.column!r} has the name of a policy input; expected none "
                f"of {list(POLICY_INPUTS)}: rename the column and train again."
            )
        if feature.argument in seen:
            raise ValueError(
                f"feature columns {seen[feature.argument]!r} and {feature.column!r} would both be "
                f"served as {feature.argument!r}; expected distinct names of ASCII letters, digits "
                "and '_': rename one and train again."
            )
        seen[feature.argument] = feature.column
