"""Networks from a feature matrix to one raw output for each head."""

from __future__ import annotations

from typing import Any

import keras

PAPER_UNITS = (512, 256, 128, 64)
SMALL_UNITS = (16,)
HEAD_UNITS = 32
# Batches are large and steps few: with Keras' .99 the averages used for prediction would still be
# near their initial values after an epoch.
NORM_MOMENTUM = 0.9
BACKBONES = ("paper", "small")


@keras.saving.register_keras_serializable(package="tfalloc")
class ParallelHeads(keras.layers.Layer):
    """Many small heads on one trunk in three operations: Dense, ReLU, BatchNorm, then Dense(1).

    All heads' hidden layers are one matrix product and all their outputs one einsum; a layer for
    each of 2K heads would make tracing slow at K = 30.

    Args:
      num_heads: number of heads H.
      units: hidden units of each head.
      seed: of the initial weights.

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
        )
        self.norm = keras.layers.BatchNormalization(momentum=NORM_MOMENTUM, name="norm")

    def build(self, input_shape: Any) -> None:
        """Creates the weights."""
        self.hidden.build(input_shape)
        self.norm.build((*input_shape[:-1], self.num_heads * self.units))
        self.kernel = self.add_weight(
            shape=(self.num_heads, self.units),
            initializer=keras.initializers.RandomNormal(stddev=0.02, seed=self.seed),
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
    num_treatments: int,
    backbone: str | keras.Model | None = None,
    *,
    seed: int | None = None,
) -> keras.Model:
    """A functional model from features to raw outputs of 2K heads.

    Args:
      num_features: width of the feature matrix.
      num_treatments: K.
      backbone: None or "paper" (512-256-128-64, ReLU then batch normalisation, He
        initialisation), "small" (16 units), or any Keras model from [batch, num_features] to
        [batch, width].
      seed: of the initial weights.

    Returns:
      A model with outputs {"response": [batch, K], "cost": [batch, K]}, raw.

    Raises:
      ValueError: if `backbone` is not known or does not fit `num_features`.
    """
    features = keras.Input((num_features,), name="features")
    trunk = features
    if backbone is None or isinstance(backbone, str):
        units = {None: PAPER_UNITS, "paper": PAPER_UNITS, "small": SMALL_UNITS}.get(backbone)
        if units is None:
            raise ValueError(
                f"backbone={backbone!r} is not known; expected one of {BACKBONES} or a Keras model."
            )
        for layer, width in enumerate(units):
            initial = keras.initializers.HeNormal(None if seed is None else seed + layer)
            trunk = keras.layers.Dense(
                width, activation="relu", kernel_initializer=initial, name=f"trunk_{layer}"
            )(trunk)
            trunk = keras.layers.BatchNormalization(
                momentum=NORM_MOMENTUM, name=f"trunk_norm_{layer}"
            )(trunk)
    else:
        expected = backbone.input_shape[-1]
        if expected is not None and expected != num_features:
            raise ValueError(
                f"backbone takes {expected} features, but the data have {num_features} after "
                "preprocessing; build it with "
                f"keras.Input(({num_features},))."
            )
        trunk = backbone(features)
    head_seed = None if seed is None else seed + 1000
    raw = ParallelHeads(2 * num_treatments, seed=head_seed, name="heads")(trunk)
    return keras.Model(
        features,
        {"response": raw[:, :num_treatments], "cost": raw[:, num_treatments:]},
        name="network",
    )
