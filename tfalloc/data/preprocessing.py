"""Raw features to one matrix: imputation, normalisation, one-hot strings.

The result is a functional Keras model, so that it can run inside `tf.data` while training (text
in the model would keep Keras from compiling the step) and be fused with the model when it
is exported. Layers inside have names that begin with "tfalloc>", which no feature's input has.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfalloc.data.columns import NUMERIC
from tfalloc.data.features import FeatureSchema
from tfalloc.data.trial import RCTData


def build_preprocessor(
    data: RCTData, *, normalize: bool = True, max_categories: int = 1000
) -> Preprocessor:
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
      ValueError: `max_categories` is not positive, or the trial has no features.

    Example:
      >>> import numpy as np
      >>> data = RCTData({"age": [20.0, 40.0], "os": ["ios", "web"]}, [0, 1], [0, 1], [0, 1])
      >>> raw, _ = next(iter(data.batches(2)))
      >>> build_preprocessor(data)(raw).numpy()[1]
      array([1., 0., 0., 1.], dtype=float32)
    """
    if max_categories < 1:
        raise ValueError(f"max_categories={max_categories}; expected a positive integer.")
    schema, stats = data.schema, data.stats
    if not schema.kinds:
        raise ValueError("the trial has no features; expected at least one to predict from.")
    categories = {}
    for name, counts in zip(schema.strings, stats.counts, strict=True):
        # Only values of the training part: categories of the whole trial would leak.
        known = zip(counts, schema.categories[name], strict=True)
        seen = sorted((-int(count), category) for count, category in known if count)
        categories[name] = [category for _, category in seen[:max_categories]]
    model = Preprocessor(
        kinds=list(schema.kinds.items()),
        matrix=schema.matrix,
        missing=schema.missing,
        normalize=normalize,
        marked=np.flatnonzero(stats.feature_missing).tolist(),
        num_categories=[len(names) for names in categories.values()],
    )
    for layer, names in zip(model.categories, categories.values(), strict=True):
        layer.fit(names)
    if schema.numeric:
        model.numbers.fit(stats.feature_mean, np.sqrt(stats.feature_variance))
    return model


@keras.saving.register_keras_serializable(package="tfalloc")
class Preprocessor(keras.Model):
    """Raw features to a float32 matrix [batch, D]; `build_preprocessor` makes and fits it.

    Features are taken by name and checked, as `FeatureSchema.columns` does.

    Args:
      kinds: (feature, "numeric" or "string") in order.
      matrix: whether features are one matrix.
      missing: "error" or "indicator".
      normalize: whether to subtract means and divide by standard deviations, which are weights.
      marked: numeric columns, by index, whose missing values get an indicator.
      num_categories: number of categories of each string feature.
    """

    def __init__(
        self,
        kinds: Sequence[tuple[str, str]],
        matrix: bool,
        missing: str,
        normalize: bool,
        marked: Sequence[int],
        num_categories: Sequence[int],
        name: str = "preprocessor",
        **kwargs: Any,
    ):
        schema = FeatureSchema(kinds=dict(kinds), matrix=matrix, missing=missing)
        inputs: Any
        if matrix:
            numeric = inputs = keras.Input((len(kinds),), name="features", dtype="float32")
        else:
            tensor_names = _tensor_names(list(schema.kinds))
            inputs = {
                column: keras.Input(
                    (), name=tensor_names[column], dtype="float32" if kind == NUMERIC else "string"
                )
                for column, kind in schema.kinds.items()
            }
            numeric = [inputs[column] for column in schema.numeric]
        numbers = Numbers(missing == "indicator", normalize, marked, name="tfalloc>numbers")
        parts = [numbers(numeric)] if schema.numeric else []
        categories = []
        for i, (column, size) in enumerate(zip(schema.strings, num_categories, strict=True)):
            categories.append(Categories(size, name=f"tfalloc>categories_{i}"))
            parts.append(categories[-1](inputs[column]))
        joined = keras.layers.Concatenate(name="tfalloc>matrix")
        with warnings.catch_warnings():
            # Names differ from keys only where `_tensor_names` had to; loading warns of it again.
            warnings.filterwarnings("ignore", message="When providing `inputs` as a dict")
            super().__init__(
                inputs, parts[0] if len(parts) == 1 else joined(parts), name=name, **kwargs
            )
        self.schema, self.numbers, self.categories = schema, numbers, categories
        self._config = {
            "kinds": [list(pair) for pair in kinds],
            "matrix": matrix,
            "missing": missing,
            "normalize": normalize,
            "marked": list(marked),
            "num_categories": list(num_categories),
        }

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The matrix of raw features, checked first."""
        return super().__call__(self.schema.tensors(inputs), *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**self._config, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Preprocessor:
        """The inverse of `get_config`."""
        return cls(**config)


@keras.saving.register_keras_serializable(package="tfalloc")
class Numbers(keras.layers.Layer):
    """Numeric columns to (x - mean) / scale, NaN first replaced by the mean, and then marks of NaN.

    From columns [batch], …, or a matrix [batch, F], to [batch, F + number of marked]. The mean and
    scale are weights, so that they are saved and loaded with all others.

    Args:
      impute: whether to replace NaN.
      normalize: whether to subtract and divide.
      marked: indices of the columns of which to mark NaN by 1.
    """

    def __init__(self, impute: bool, normalize: bool, marked: Sequence[int], **kwargs: Any):
        super().__init__(**kwargs)
        self.impute, self.normalize = impute, normalize
        self.marked = [int(column) for column in marked]

    def build(self, input_shape: Any) -> None:
        """Creates mean and scale."""
        width = len(input_shape) if isinstance(input_shape, list) else input_shape[-1]
        options = {"shape": (width,), "trainable": False, "dtype": "float32"}
        self.mean = self.add_weight(name="mean", initializer="zeros", **options)
        self.scale = self.add_weight(name="scale", initializer="ones", **options)
        self.built = True

    def fit(self, mean: np.ndarray, deviation: np.ndarray) -> None:
        """Sets mean and scale, [F] each; where the deviation is 0, the scale is 1."""
        scale = deviation.astype(np.float32)
        self.mean.assign(mean.astype(np.float32))
        self.scale.assign(np.where(scale > 0, scale, np.float32(1.0)))

    def call(self, inputs: Any) -> Any:
        """Returns the matrix."""
        if isinstance(inputs, list):
            inputs = keras.ops.stack([keras.ops.cast(x, "float32") for x in inputs], axis=-1)
        # Read as constants: input pipelines run on the CPU wherever the weights are.
        with tf.init_scope():
            mean, scale = (keras.ops.convert_to_numpy(x) for x in (self.mean, self.scale))
        values = inputs
        if self.impute:
            values = keras.ops.where(keras.ops.isnan(values), mean, values)
        if self.normalize:
            values = (values - mean) / scale
        if self.marked:
            marks = keras.ops.isnan(keras.ops.take(inputs, self.marked, axis=-1))
            values = keras.ops.concatenate([values, keras.ops.cast(marks, "float32")], axis=-1)
        return values

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """Returns (batch, F + number of marked)."""
        columns = isinstance(input_shape, list)
        width = len(input_shape) if columns else input_shape[-1]
        batch = input_shape[0][0] if columns else input_shape[0]
        return (batch, width + len(self.marked))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        own = {"impute": self.impute, "normalize": self.normalize, "marked": self.marked}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="tfalloc")
class Categories(keras.layers.Layer):
    """Text [batch] to one-hot [batch, 1 + number of categories]; the first is "unknown".

    Categories are known by 63 bits of a hash, which are weights: a table of texts would be saved
    with the model, but not with its weights alone, and then mean other columns where it is loaded.

    Args:
      size: number of categories.
    """

    def __init__(self, size: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.size = size

    def build(self, input_shape: Any) -> None:
        """Creates the hashes."""
        self.hashes = self.add_weight(
            name="hashes", shape=(self.size,), initializer="zeros", trainable=False, dtype="int64"
        )
        self.built = True

    def fit(self, categories: Sequence[str]) -> None:
        """Sets the categories in the order of their columns, [size]."""
        self.hashes.assign(_hashes(tf.constant(list(categories), tf.string)))

    def call(self, inputs: Any) -> Any:
        """Returns the columns as float32."""
        with tf.init_scope():
            known = keras.ops.convert_to_numpy(self.hashes)
        hot = keras.ops.cast(_hashes(inputs)[:, None] == known[None, :], "float32")
        return keras.ops.concatenate([1.0 - keras.ops.sum(hot, axis=1, keepdims=True), hot], axis=1)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """Returns (batch, 1 + number of categories)."""
        return (input_shape[0], 1 + self.size)

    def compute_output_spec(self, inputs: Any) -> Any:
        """As Keras cannot find out by itself for text."""
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), "float32")

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "size": self.size}


def _hashes(text: Any) -> Any:
    """A number from 0 to 2^63 - 2 for each text."""
    return tf.strings.to_hash_bucket_fast(text, 2**63 - 1)


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
