"""`heads="spline"`: many arms in the order of their dose share a few outputs.

With arms 0 … K - 1 at equal distances and a clamped B-spline basis S [K, M], M = min(K, 6), an
independent head's raw output of arm j becomes

    raw_j = sum over m of S_jm r_m

so the network learns a curve over the arms from M outputs, and neighbours lend each other rows.
Nothing makes the curve rise or bend. The trial's arm rates, where the curves start, are smoothed by
the same basis; with K <= 6 these are independent heads in other coordinates.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfalloc.data import ArmMoments
from tfalloc.models.heads.checks import HeadSettings
from tfalloc.models.heads.distributions import Arms
from tfalloc.models.heads.independent import Independent

COLUMNS, DEGREE = 6, 3  # three pieces of cubics: flat, then steep, then flat again
LEAST_SHARE = 0.01  # a smoothed mean stays above this part of the least one


class Spline(Independent):
    """Raw outputs to both outcomes of all arms, through curves over the arms."""

    def __init__(self, settings: HeadSettings):
        super().__init__(settings)
        self.basis = spline_basis(settings.num_treatments)
        self.sizes = dict.fromkeys(self.sizes, len(self.basis[0]))

    def _start(self, head: str, moments: ArmMoments) -> tuple[np.ndarray, np.ndarray]:
        location, scale = super()._start(head, moments)
        if head == "constant":
            return location, scale
        if head in ("binary", "real"):
            return self._smooth(location), scale
        least = LEAST_SHARE * scale[scale > 0].min() if np.any(scale > 0) else 0.0
        return location, np.maximum(self._smooth(scale), least)

    def start(self, moments: dict[str, ArmMoments]) -> dict[str, np.ndarray]:
        """Constants at which raw = 0 predicts the smoothed means of the arms."""
        values = super().start(moments)
        return {
            name: self._smooth(value) if name.endswith("_odds") else value
            for name, value in values.items()
        }

    def _smooth(self, of_arms: np.ndarray) -> np.ndarray:
        return self.basis @ np.linalg.lstsq(self.basis, of_arms, rcond=None)[0]

    def arms(self, raw: dict[str, Any], constants: dict[str, Any]) -> dict[str, Arms]:
        """Predictions of both outcomes, [batch, K]."""
        curve = tf.constant(self.basis.T, tf.float32)
        return super().arms({name: x @ curve for name, x in raw.items()}, constants)


def spline_basis(num_arms: int) -> np.ndarray:
    """Clamped B-splines on equal knots at the arms 0 … K - 1, [K, min(K, 6)]; rows sum to 1.

    Cox and de Boor's recursion from degree 0 up:

        S_m,d(x) = (x - u_m) / (u_m+d - u_m) S_m,d-1(x)
                   + (u_m+d+1 - x) / (u_m+d+1 - u_m+1) S_m+1,d-1(x)

    Args:
      num_arms: K.

    Example:
      >>> spline_basis(30).shape, spline_basis(3).tolist()
      ((30, 6), [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    """
    if num_arms <= COLUMNS:
        return np.eye(num_arms)
    x = np.linspace(0.0, 1.0, num_arms)
    inner = np.linspace(0.0, 1.0, COLUMNS - DEGREE + 1)
    knots = np.concatenate([np.zeros(DEGREE), inner, np.ones(DEGREE)])
    piece = np.minimum(np.searchsorted(inner, x, side="right") - 1, len(inner) - 2) + DEGREE
    basis = np.eye(len(knots) - 1)[piece]  # degree 0
    for degree in range(1, DEGREE + 1):
        left, right = knots[: -degree - 1], knots[degree + 1 :]
        up = _part(x[:, None] - left, knots[degree:-1] - left)
        down = _part(right - x[:, None], right - knots[1:-degree])
        basis = up * basis[:, :-1] + down * basis[:, 1:]
    return basis


def _part(length: np.ndarray, of: np.ndarray) -> np.ndarray:
    """length / of, 0 where knots coincide."""
    return np.divide(length, of, out=np.zeros_like(length + of), where=of > 0)
