"""Checks of single arguments: budgets, levels, counts, and pairs of predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def as_floats(name: str, given: Any, advice: str = "") -> npt.NDArray[Any]:
    """Returns float32 as it is, everything else as float64, of any shape.

    Raises:
      ValueError: it is not numeric.
    """
    array = np.asarray(given)
    if array.dtype == np.float32:
        return array
    try:
        if array.dtype.kind in "mMc":  # NumPy would take nanoseconds, or a real part
            raise TypeError(f"it is {array.dtype}")
        return array.astype(np.float64, copy=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is not numeric ({error}); expected numbers{advice}.") from error


def check_budget(budget: Any) -> float:
    """Returns the budget as a float.

    Raises:
      ValueError: it is not one finite number.
    """
    number = np.asarray(budget)
    if number.ndim != 0 or number.dtype.kind not in "biuf" or not np.isfinite(number):
        raise ValueError(
            f"budget={budget!r}; expected one finite cost per user: for an unlimited budget pass "
            "more than the dearest arm costs."
        )
    return float(budget)


def as_pair(given: Any) -> tuple[Any, Any]:
    """Returns (pred_response, pred_cost) of a model.

    Raises:
      ValueError: it is something else.
    """
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise ValueError(
            f"{type(given).__name__} is no pair; expected (pred_response, pred_cost), each [rows, "
            "num_treatments]."
        )
    return given[0], given[1]


def as_count(name: str, given: Any, least: int) -> int:
    """Returns a number of points, bins or thresholds.

    Raises:
      ValueError: it is no integer of at least `least`.
    """
    number = np.asarray(given)
    if number.ndim != 0 or number.dtype.kind not in "iuf" or not number >= least or number % 1:
        raise ValueError(f"{name}={given!r}; expected an integer of at least {least}.")
    return int(number)


def check_confidence(confidence: float) -> None:
    """Refuses confidence levels outside (0, 1)."""
    number = np.asarray(confidence)
    if number.ndim != 0 or number.dtype.kind != "f" or not 0.0 < number < 1.0:
        raise ValueError(f"confidence={confidence!r}; expected a level in (0, 1), such as 0.95.")
