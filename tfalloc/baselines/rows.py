"""A trial as the arrays that learners outside of Keras take, by the package's preprocessing."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np

from tfalloc.data import RCTData
from tfalloc.models.matrix_batches import as_batches

BATCH_ROWS = 65_536


class Rows(NamedTuple):
    """Rows of a trial.

    Attributes:
      matrix: [N, D] float32, numbers standardised, strings one-hot (`data.build_preprocessor`).
      treatment: [N] int32.
      response: [N] float32.
      cost: [N] float32.
      sample_weight: [N] float32, or None.
    """

    matrix: np.ndarray
    treatment: np.ndarray
    response: np.ndarray
    cost: np.ndarray
    sample_weight: np.ndarray | None


def as_rows(data: RCTData, preprocessor: keras.Model) -> Rows:
    """All rows of a trial, streamed or not, in memory."""
    parts = list(as_batches(data, preprocessor, BATCH_ROWS).as_numpy_iterator())
    columns = {
        name: np.concatenate([part[1][name] for part in parts])
        for name in ("treatment", "response", "cost")
    }
    weights = [part[2] for part in parts if len(part) > 2]
    matrix = np.concatenate([part[0] for part in parts])
    return Rows(matrix, **columns, sample_weight=np.concatenate(weights) if weights else None)


def as_matrix(x: Any, preprocessor: keras.Model) -> np.ndarray:
    """Raw features, `RCTData` or a dataset as the matrix [N, D]."""
    batches = as_batches(x, preprocessor, BATCH_ROWS, targets=False)
    return np.concatenate(list(batches.as_numpy_iterator()))
