"""Networks from a feature matrix to one raw output for each head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfalloc.models import _keras, replicas
from tfalloc.models.encoding import PiecewiseLinear

PRESETS = {"encoded": (16,), "paper": (512, 256, 128, 64), "small": (16,)}
HEAD_UNITS = 32
# Batches are large and steps few: with Keras' .99 the averages used for prediction would still be
# near their initial values after an epoch.
NORM_MOMENTUM = 0.9
# Small, so that the first predictions are the trial's rates to a percent: before any step batch
# normalisation does not centre yet, and larger kernels would shift every arm at random.
START_STDDEV = 0.002


def batch_norm(name: str, dtype: Any = None) -> keras.layers.BatchNormalization:
    """Batch normalisation over the global batch; on one replica in Keras' plain form."""
    return keras.layers.BatchNormalization(
        momentum=NORM_MOMENTUM, synchronized=replicas.count() > 1, name=name, dtype=dtype
    )


@keras.saving.register_keras_serializable(package="tfalloc")
class ParallelHeads(keras.layers.Layer):
    """Many small heads on one trunk in three operations: Dense, ReLU, BatchNorm, then Dense(1).

    All heads' hidden layers are one matrix product and all their outputs one einsum; a layer for
    each of them would make tracing slow at K = 30.

    Args:
      num_heads: number of heads H.
      units: hidden units of each head.
      seed: seeds the initial weights.

    Input [batch, width]; output [batch, num_heads], near 0 at first so that training starts from
    what is known of each arm, not from the noise of initial weights.
    """

    def __init__(
        self, num_heads: int, units: int = HEAD_UNITS, seed: int | None = None, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.num_heads, self.units, self.seed = num_heads, units, seed
        self.hidden = keras.layers.Dense(
            num_heads * units,
            activation="relu",
            kernel_initializer=keras.initializers.HeNormal(seed),
            name="hidden",
            dtype=self.dtype_policy,
        )
        self.norm = batch_norm("norm", self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        """Creates the weights."""
        self.hidden.build(input_shape)
        self.norm.build((*input_shape[:-1], self.num_heads * self.units))
        self.kernel = self.add_weight(
            shape=(self.num_heads, self.units),
            initializer=keras.initializers.RandomNormal(stddev=START_STDDEV, seed=self.seed),
            name="kernel",
        )
        self.bias = self.add_weight(shape=(self.num_heads,), initializer="zeros", name="bias")
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns the raw outputs [batch, num_heads]."""
        hidden = self.norm(self.hidden(inputs), training=training)
        hidden = keras.ops.reshape(hidden, (-1, self.num_heads, self.units))
        return keras.ops.einsum("bhu,hu->bh", hidden, self.kernel) + self.bias

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """Returns (batch, num_heads)."""
        return (*input_shape[:-1], self.num_heads)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        config = {"num_heads": self.num_heads, "units": self.units, "seed": self.seed}
        return {**super().get_config(), **config}


def build_network(
    num_features: int,
    num_outputs: int,
    backbone: str | Sequence[int] | keras.Model,
    *,
    bins: int | None = None,
    linear: bool = False,
    seed: int | None = None,
    dtype: Any = None,
) -> keras.Model:
    """A functional model from features to one raw output for each head.

        raw = heads(trunk(x)) + x W,    x = features, or with bins [features, their encoding]

    Args:
      num_features: width of the feature matrix.
      num_outputs: R, of the heads together.
      backbone: "paper" (512-256-128-64, ReLU then batch normalisation, He initialisation),
        "encoded" or "small" (16 units), widths of layers made likewise, (64, 32), or any Keras
        model from [batch, num_features] to [batch, width].
      bins: of every feature's piecewise-linear encoding (`PiecewiseLinear`), appended to the
        features; None: without.
      linear: whether to add a linear path around trunk and heads, 0 at first.
      seed: seeds the initial weights.
      dtype: policy of the layers made here, such as "mixed_bfloat16"; None: Keras' global one.

    Returns:
      A model with output [batch, R], near 0 at first.

    Raises:
      ValueError: if `backbone` is not known or does not fit the features, or `bins` is below 2.

    Source: "paper" with heads of 32 units, Yan et al. 2023, Section 4.3 (He initialisation, ReLU
    and then batch normalisation after every layer but the last of a head). It departs from the
    paper where heads start: their last layer is small instead of He's, so that the first
    predictions are the trial's arm rates. The linear path: Cheng et al. 2016, "Wide & Deep Learning
    for Recommender Systems".
    """

    def own(name: str) -> str:
        """A name that a backbone's cannot be."""
        taken = backbone.name if isinstance(backbone, keras.Model) else None
        return f"{name}_of_network" if name == taken else name

    features = keras.Input((num_features,), name=own("features"))
    encoded = features
    if bins is not None:
        # Half precision would move the edges.
        encoding = PiecewiseLinear(bins, name=own("encoding"), dtype="float32")(features)
        join = keras.layers.Concatenate(name=own("encoded"), dtype="float32")
        encoded = join([features, encoding])
    trunk = encoded
    if not isinstance(backbone, keras.Model):
        for layer, width in enumerate(_units(backbone)):
            initial = keras.initializers.HeNormal(None if seed is None else seed + layer)
            trunk = keras.layers.Dense(
                width,
                activation="relu",
                kernel_initializer=initial,
                name=f"trunk_{layer}",
                dtype=dtype,
            )(trunk)
            trunk = batch_norm(f"trunk_norm_{layer}", dtype)(trunk)
    else:
        _check_shapes(backbone, encoded.shape[-1], bins)
        trunk = backbone(encoded)
    head_seed = None if seed is None else seed + 1000
    raw = ParallelHeads(num_outputs, seed=head_seed, name=own("heads"), dtype=dtype)(trunk)
    if linear:
        path = keras.layers.Dense(
            num_outputs, kernel_initializer="zeros", name=own("linear"), dtype=dtype
        )
        raw = keras.layers.Add(name=own("raw"), dtype=dtype)([raw, path(encoded)])
    return keras.Model(features, raw, name="network")


def encoding_of(network: keras.Model) -> PiecewiseLinear | None:
    """The network's piecewise-linear encoding, if it was built with `bins`."""
    return next((layer for layer in network.layers if isinstance(layer, PiecewiseLinear)), None)


def frozen_layers(network: keras.Model, backbone: Any = None) -> list[str]:
    """Names of the layers made here whose weights are not trained.

    Args:
      network: of `build_network`.
      backbone: a Keras model that keeps account of its own layers.
    """
    return [x.name for x in network.layers if not x.trainable and x is not backbone]


def freeze(network: keras.Model, names: Sequence[str]) -> None:
    """Stops the training of layers by name, as `frozen_layers` gives them."""
    for name in names:
        network.get_layer(name).trainable = False


def copy_untrained(source: keras.Model, target: keras.Model) -> None:
    """Copies the weights of all layers that training leaves alone to a network of the same shape.

    A frozen trunk means what its weights say, and the constants of a `Normalization` likewise.
    """
    for given, made in zip(_keras.all_layers(source), _keras.all_layers(target), strict=True):
        if given.weights and not given.trainable_weights:
            made.set_weights(given.get_weights())


def _check_shapes(backbone: keras.Model, num_features: int, bins: int | None) -> None:
    advice = f"begin it with keras.Input(({num_features},)), end it with [batch, width]"
    try:
        taken, given = backbone.input_shape, backbone.output_shape
    except (AttributeError, ValueError) as error:
        raise ValueError(f"backbone {backbone.name!r} has no shapes yet: {advice}.") from error
    if not _is_matrix(taken) or not _is_matrix(given) or given[1] is None:
        raise ValueError(
            f"backbone {backbone.name!r} maps {taken} to {given}; expected one matrix to one "
            f"matrix: {advice}."
        )
    if taken[1] not in (None, num_features):
        after = "preprocessing" if bins is None else f"preprocessing and bins={bins}"
        raise ValueError(
            f"backbone takes {taken[1]} features, but the data have {num_features} after {after}; "
            f"build it with keras.Input(({num_features},))."
        )


def _is_matrix(shape: Any) -> bool:
    return isinstance(shape, tuple) and len(shape) == 2 and not isinstance(shape[1], (tuple, list))


def _units(backbone: str | Sequence[int]) -> Sequence[int]:
    units = PRESETS.get(backbone) if isinstance(backbone, str) else backbone
    if (
        not isinstance(units, (list, tuple))
        or not units
        or not all(isinstance(x, (int, np.integer)) and x is not True and x > 0 for x in units)
    ):
        raise ValueError(
            f"backbone={backbone!r} is not known; expected one of {tuple(PRESETS)}, widths of "
            "layers such as (64, 32), or a Keras model."
        )
    return [int(width) for width in units]
