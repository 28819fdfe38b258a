"""Raw features to one matrix: imputation, normalisation, one-hot strings.

The result is a functional Keras model, so that it can run inside `tf.data` while training (string
look-ups in the model would keep Keras from compiling the step) and be fused with the model when it
is exported.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

import keras
import numpy as np

from tfalloc.data.columns import NUMERIC
from tfalloc.data.trial import RCTData


@keras.saving.register_keras_serializable(package="tfalloc")
class StackColumns(keras.layers.Layer):
    """Stacks columns [batch], …, [batch] into a float32 matrix [batch, number of columns]."""

    def call(self, inputs: Any) -> Any:
        """Returns the matrix."""
        return keras.ops.stack([keras.ops.cast(column, "float32") for column in inputs], axis=-1)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """Returns (batch, number of columns)."""
        return (*input_shape[0], len(input_shape))


@keras.saving.register_keras_serializable(package="tfalloc")
class Impute(keras.layers.Layer):
    """Replaces NaN by each column's training mean: [batch, F] to [batch, F].

    Args:
      mean: replacement for each column, [F].
    """

    def __init__(self, mean: Any, **kwargs: Any):
        super().__init__(**kwargs)
        self.mean = [float(value) for value in mean]

    def call(self, inputs: Any) -> Any:
        """Returns `inputs` without NaN."""
        mean = keras.ops.convert_to_tensor(self.mean, dtype=inputs.dtype)
        return keras.ops.where(keras.ops.isnan(inputs), mean, inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "mean": self.mean}


@keras.saving.register_keras_serializable(package="tfalloc")
class MissingIndicator(keras.layers.Layer):
    """Marks NaN of some columns: [batch, F] to 0/1 [batch, number of columns].

    Args:
      columns: indices of the columns to mark.
    """

    def __init__(self, columns: Any, **kwargs: Any):
        super().__init__(**kwargs)
        self.columns = [int(column) for column in columns]

    def call(self, inputs: Any) -> Any:
        """Returns the indicators as float32."""
        marked = keras.ops.take(inputs, self.columns, axis=-1)
        return keras.ops.cast(keras.ops.isnan(marked), "float32")

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """Returns (batch, number of columns)."""
        return (input_shape[0], len(self.columns))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "columns": self.columns}


def build_preprocessor(
    data: RCTData, *, normalize: bool = True, max_categories: int = 1000
) -> keras.Model:
    """Builds a model from raw features to one float32 matrix [batch, D], fitted on `data`.

    Columns of the result: numeric features in order, then the missing indicators, then for each
    string feature one column for unknown values and one per category, most frequent first.

    With `missing="indicator"`, every numeric column that lacks values in `data` gets an indicator;
    a column that lacks them only later is imputed all the same.

    Args:
      data: the **training** part; statistics of the other parts must not leak.
      normalize: subtract the mean and divide by the standard deviation (numeric features only;
        of the values present). A constant column is only centred.
      max_categories: most categories kept per string feature; the rest share the unknown column.

    Returns:
      A functional model. Inputs: a dict {name: [batch]} (float32, or string), or one input
      [batch, F] for a matrix. Saves as `.keras` and exports as SavedModel.
      Column names that TensorFlow cannot take ("/", spaces, brackets) get underscores in an
      exported signature; the keys of the dict stay as they are.

    Raises:
      ValueError: `max_categories` is not positive.

    Example:
      >>> import numpy as np
      >>> data = RCTData({"age": [20.0, 40.0], "os": ["ios", "web"]}, [0, 1], [0, 1], [0, 1])
      >>> raw, _ = next(iter(data.batches(2)))
      >>> build_preprocessor(data)(raw).numpy()[1]
      array([1., 0., 0., 1.], dtype=float32)
    """
    if max_categories < 1:
        raise ValueError(f"max_categories={max_categories}; expected a positive integer.")
    stats, schema = data._stats, data._schema
    inputs: Any
    if schema.matrix:
        inputs = keras.Input((len(schema.numeric),), name="features", dtype="float32")
        numeric = inputs
    else:
        tensor_names = _tensor_names(list(schema.kinds))
        inputs = {
            name: keras.Input(
                (), name=tensor_names[name], dtype="float32" if kind == NUMERIC else "string"
            )
            for name, kind in schema.kinds.items()
        }
        columns = [inputs[name] for name in schema.numeric]
        numeric = StackColumns(name="stack_columns")(columns) if columns else None

    parts = []
    if numeric is not None:
        values = numeric
        if schema.missing == "indicator":
            values = Impute(stats.feature_mean, name="impute")(values)
        if normalize:
            values = _normalization(stats.feature_mean, stats.feature_variance)(values)
        parts.append(values)
        absent = np.flatnonzero(stats.feature_missing)
        if len(absent):
            parts.append(MissingIndicator(absent, name="missing")(numeric))
    for i, name in enumerate(schema.strings):
        parts.append(
            _lookup(schema.categories[name], stats.counts[i], max_categories)(inputs[name])
        )
    outputs = parts[0] if len(parts) == 1 else keras.layers.Concatenate(name="matrix")(parts)
    with warnings.catch_warnings():
        # Names differ from keys only where `_tensor_names` had to; loading warns of it again.
        warnings.filterwarnings("ignore", message="When providing `inputs` as a dict")
        return keras.Model(inputs, outputs, name="preprocessor")


def _tensor_names(columns: list[str]) -> dict[str, str]:
    """Returns a name for each column's input; the key of the dict stays the column's name.

    Keras refuses "/" in names, and SavedModel what is no name of a graph node, such as spaces.
    """
    names: dict[str, str] = {}
    for column in columns:
        plain = re.sub(r"^[^A-Za-z0-9.]|[^A-Za-z0-9_.-]", "_", column)
        plain = plain if re.match("[A-Za-z0-9.]", plain) else f"column{plain}"
        while plain in names.values() or (plain != column and plain in columns):
            plain += "_"
        names[column] = plain
    return names


def _normalization(mean: np.ndarray, variance: np.ndarray) -> keras.layers.Layer:
    # A spread below float32's resolution at the mean is rounding: dividing by it would blow up.
    constant = variance <= (1e-6 * np.abs(mean)) ** 2
    scale = np.where(constant, 1.0, variance)
    # Keras divides by max(sqrt(variance), 1e-7), which would distort features of tiny scale.
    return Standardize(mean, np.sqrt(scale), name="standardize")


@keras.saving.register_keras_serializable(package="tfalloc")
class Standardize(keras.layers.Layer):
    """Returns (x - mean) / scale, columnwise: [batch, F] to [batch, F].

    Args:
      mean: [F].
      scale: [F], positive.
    """

    def __init__(self, mean: Any, scale: Any, **kwargs: Any):
        super().__init__(**kwargs)
        self.mean = [float(value) for value in mean]
        self.scale = [float(value) for value in scale]

    def call(self, inputs: Any) -> Any:
        """Returns the standardised matrix."""
        mean = keras.ops.convert_to_tensor(self.mean, dtype=inputs.dtype)
        return (inputs - mean) / keras.ops.convert_to_tensor(self.scale, dtype=inputs.dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "mean": self.mean, "scale": self.scale}


def _lookup(
    categories: tuple[str, ...], counts: np.ndarray, max_categories: int
) -> keras.layers.Layer:
    # Only values of the training part: categories of the whole trial would leak, and never train.
    seen = [(-int(count), name) for count, name in zip(counts, categories, strict=True) if count]
    vocabulary = [name for _, name in sorted(seen)[:max_categories]]
    return keras.layers.StringLookup(
        vocabulary=vocabulary, num_oov_indices=1, output_mode="one_hot"
    )
