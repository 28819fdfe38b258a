"""Checks of the arguments that `path` and `solve` share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[Any]


def matrices(
    value: npt.ArrayLike, cost: npt.ArrayLike, names: tuple[str, str] = ("value", "cost")
) -> tuple[Matrix, Matrix]:
    """Returns `value` and `cost` as real matrices of one shape, float32 or float64, uncopied if so.

    Args:
      value: [N, K], response of every treatment, any real number.
      cost: [N, K], cost of every treatment, any real number.
      names: what the caller calls them, for messages.

    Raises:
      ValueError: if either is not a real [N, K] array, the shapes differ, or N or K is zero.
    """
    v, c = _real(value, names[0]), _real(cost, names[1])
    if v.ndim != 2 or v.shape != c.shape:
        raise ValueError(
            f"{names[0]} and {names[1]} must both have shape [rows, treatments], got "
            f"{list(v.shape)} and {list(c.shape)}: pass one row per user with one column "
            "per treatment."
        )
    if 0 in v.shape:
        raise ValueError(
            f"{names[0]} and {names[1]} have shape {list(v.shape)}, expected at least one row "
            "and one treatment: check the filter or file that the rows came from."
        )
    return v, c


def _real(x: npt.ArrayLike, name: str) -> Matrix:
    try:
        array = np.asarray(x)
    except NotImplementedError:  # TensorFlow's answer; nothing of it is imported here
        raise ValueError(
            f"{name} is a tensor of a graph, expected an array or an eager tensor: call this "
            "outside of tf.function, or inside through tf.numpy_function."
        ) from None
    except ValueError:
        raise ValueError(
            f"{name} has rows of several lengths, expected a matrix: pass one column per "
            "treatment in every row."
        ) from None
    if array.dtype == np.float64 or array.dtype == np.float32:
        return array
    # "V" is how NumPy sees bfloat16 and the other types of ml_dtypes.
    if array.dtype.kind not in "fiubV":
        raise ValueError(
            f"{name} has dtype {array.dtype}, expected real numbers: convert it with "
            ".astype('float64')."
        )
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} has dtype {array.dtype}, expected real numbers: convert it with "
            ".astype('float64')."
        ) from error


def require_finite(x: Matrix, name: str, first_row: int) -> None:
    """Raises ValueError naming the first entry of a [K, R] block that is NaN or infinite."""
    bad = ~np.isfinite(x)
    if bad.any():
        row, arm = (int(i[0]) for i in np.nonzero(bad.T))
        raise ValueError(
            f"{name}[{first_row + row}, {arm}] is {x[arm, row]}, expected finite numbers: drop "
            "the row or replace the entry before allocating."
        )
