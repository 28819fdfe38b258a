"""Piecewise-linear encoding: what lets a network see thresholds that trees see.

A column x with edges e_0 < … < e_B becomes B numbers, how far x has come through every bin,

    phi_b(x) = clip((x - e_{b-1}) / (e_b - e_{b-1}), 0, 1)

so that a linear function of them is any function that is linear between the edges, and a hidden
unit can turn on at an edge. Edges are quantiles of the training rows. Values that hold more than a
bin's share of them (a mode, 0 and 1) are edges of their own, and the quantiles are those of the
rest: otherwise a column that is mostly one value would have no resolution left.

Source: Gorishniy, Rubachev and Babenko 2022, "On Embeddings for Numerical Features in Tabular Deep
Learning", Eq. 1.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


@keras.saving.register_keras_serializable(package="tfalloc")
class PiecewiseLinear(keras.layers.Layer):
    """Encodes every column by its bins: [batch, F] to [batch, F * bins].

    Args:
      bins: B, at least 2. A column of fewer values has bins that stay 0.

    Before `fit` all is 0.

    Raises:
      ValueError: `bins` is below 2.

    Example:
      >>> layer = PiecewiseLinear(2)
      >>> layer.build((None, 1))
      >>> layer.fit(np.array([[0.0], [1.0], [2.0], [3.0], [4.0]]))
      >>> layer(np.array([[1.0], [3.0], [9.0]], "float32")).numpy().tolist()
      [[0.5, 0.0], [1.0, 0.5], [1.0, 1.0]]
    """

    def __init__(self, bins: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.bins = check_bins(bins)

    def build(self, input_shape: Any) -> None:
        """Creates the edges, which training leaves as they are."""
        self.edges = self.add_weight(
            shape=(input_shape[-1], self.bins + 1),
            initializer="zeros",
            trainable=False,
            name="edges",
        )
        self.built = True

    @property
    def fitted(self) -> bool:
        """Whether `fit` was called, here or before saving."""
        return bool(np.any(np.asarray(self.edges)))

    def fit(self, matrix: np.ndarray) -> None:
        """Sets the edges from rows [N, F]."""
        self.edges.assign(np.stack([quantile_edges(x, self.bins) for x in matrix.T]))

    def call(self, inputs: Any) -> Any:
        """Returns the encoding."""
        edges = keras.ops.cast(self.edges, inputs.dtype)
        low, width = edges[:, :-1], edges[:, 1:] - edges[:, :-1]
        some = width > 0
        inside = (inputs[:, :, None] - low) / keras.ops.where(some, width, 1.0)
        bins = keras.ops.where(some, keras.ops.clip(inside, 0.0, 1.0), 0.0)
        return keras.ops.reshape(bins, (-1, inputs.shape[-1] * self.bins))

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """Returns (batch, F * bins)."""
        return (*input_shape[:-1], input_shape[-1] * self.bins)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "bins": self.bins}


def check_bins(bins: Any) -> Any:
    """An integer of at least 2, or None.

    Raises:
      ValueError: it is neither.
    """
    if bins is None:
        return None
    if not isinstance(bins, (int, float, np.number)) or isinstance(bins, bool):
        whole = False
    else:
        whole = bool(np.isfinite(bins)) and bins == int(bins)
    if not whole or bins < 2:
        raise ValueError(f"bins={bins!r}: expected an integer of at least 2, None or 'auto'.")
    return int(bins)


def quantile_edges(column: np.ndarray, bins: int) -> np.ndarray:
    """Edges of a column's bins, ascending float32 [bins + 1]; the last repeats where few suffice.

    Args:
      column: [N], finite, at least one row.
      bins: B.

    Example:
      >>> quantile_edges(np.array([0.0] * 90 + list(range(1, 11))), 4).tolist()
      [0.0, 1.0, 4.0, 7.0, 10.0]
    """
    column = np.asarray(column, np.float32)
    values, counts = np.unique(column, return_counts=True)
    heavy = values[counts * bins > len(column)]
    rest = np.sort(column[~np.isin(column, heavy)])
    if len(values) <= bins + 1:
        edges = values
    else:
        # Fewer than `bins` values can be heavy, so that at least two edges are left for the rest.
        at = np.linspace(0.0, 1.0, bins + 1 - len(heavy))
        edges = np.unique(np.concatenate([heavy, np.quantile(rest, at, method="nearest")]))
    return np.concatenate([edges, np.full(bins + 1 - len(edges), edges[-1])]).astype(np.float32)
