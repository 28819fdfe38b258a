"""The packed form of some rows of a trial, and the way from raw columns to it.

Numeric features lie together in one row-major matrix, so that gathering a row touches one or two
cache lines instead of one per column; strings are integer codes into the schema's categories, so
that batches never touch Python strings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from tfalloc.data import columns as checks
from tfalloc.data.schema import Roles, Schema

BLOCK_ROWS = 131_072
"""Rows handled at once in passes over the data: some 8 MB at 16 columns."""


@dataclass
class Block:
    """Some rows of a trial.

    Attributes:
      numeric: float32 [n, number of numeric features].
      codes: int32 [n, number of string features].
      treatment: int32 [n]. response, cost, propensity: float32 [n].
      weight: float32 [n] or None.
      row: row numbers in the original trial, int64 [n].
      cluster: which rows were randomised together, int64 [n], or None: each by itself.
    """

    numeric: np.ndarray
    codes: np.ndarray
    treatment: np.ndarray
    response: np.ndarray
    cost: np.ndarray
    propensity: np.ndarray
    weight: np.ndarray | None
    row: np.ndarray
    cluster: np.ndarray | None = None

    @property
    def unit(self) -> np.ndarray:
        """What was randomised, int64 [n]: the cluster, else the row."""
        return self.row if self.cluster is None else self.cluster

    def __len__(self) -> int:
        return len(self.treatment)

    def features(self, schema: Schema) -> dict[str, np.ndarray] | np.ndarray:
        """Returns columns {name: float32 or str [n]}, or the float32 matrix [n, F]."""
        if schema.matrix:
            return self.numeric
        columns = {name: self.numeric[:, i] for i, name in enumerate(schema.numeric)}
        for i, name in enumerate(schema.strings):
            columns[name] = np.array(schema.categories[name], object)[self.codes[:, i]]
        return {name: columns[name] for name in schema.kinds}

    def at(self, index: np.ndarray | slice) -> Block:
        """Returns the rows at `index`: copies for an array, views for a slice."""

        def pick(array: np.ndarray) -> np.ndarray:
            if isinstance(index, slice) or index.dtype == bool:
                return array[index]
            # `take` gathers rows of a matrix several times faster than indexing does.
            return np.take(array, index, axis=0)

        picked: dict[str, Any] = {}
        for field in fields(self):
            column = getattr(self, field.name)
            picked[field.name] = None if column is None else pick(column)
        return Block(**picked)


def concatenate(blocks: Sequence[Block]) -> Block:
    """Returns the rows of `blocks` in one block."""
    if len(blocks) == 1:
        return blocks[0]
    joined: dict[str, Any] = {}
    for field in fields(Block):
        columns = [getattr(block, field.name) for block in blocks]
        joined[field.name] = None if columns[0] is None else np.concatenate(columns)
    return Block(**joined)


def row_indices(indices: Any, num_rows: int) -> np.ndarray:
    """Returns indices of rows, or a boolean mask [N], as a vector of integers.

    Raises:
      ValueError: it is neither, is empty, or points outside.
    """
    index = np.asarray(indices)
    if index.dtype == bool:
        if index.shape != (num_rows,):
            raise ValueError(f"mask has shape {index.shape}; expected ({num_rows},).")
        index = np.flatnonzero(index)
    if index.ndim != 1 or len(index) == 0 or not np.issubdtype(index.dtype, np.integer):
        raise ValueError(
            f"indices have shape {index.shape} and dtype {index.dtype}; expected a non-empty "
            "vector of integers or a boolean mask."
        )
    if index.min() < -num_rows or index.max() >= num_rows:
        raise ValueError(f"an index is out of range; expected indices in [0, {num_rows}).")
    return index


def encode(
    features: Any, targets: Mapping[str, Any], roles: Roles, schema: Schema, first_row: int
) -> Block:
    """Returns raw columns as a validated block.

    Args:
      features: whatever `schema.columns` takes.
      targets: column by role, as `Roles.of` gives them.
      roles: what the columns are called, for messages.
      schema: of the trial.
      first_row: number of the first row in the trial.
    """
    columns = schema.columns(features)
    num_rows = len(targets["treatment"])
    if isinstance(columns, dict):
        numeric = np.empty((num_rows, len(schema.numeric)), np.float32)
        for i, name in enumerate(schema.numeric):
            numeric[:, i] = columns[name]
        codes = np.empty((num_rows, len(schema.strings)), np.int32)
        for i, name in enumerate(schema.strings):
            known = pd.Index(np.array(schema.categories[name], dtype=object), dtype=object)
            codes[:, i] = known.get_indexer(pd.Index(columns[name], dtype=object))
            if (codes[:, i] < 0).any():
                raise ValueError(
                    f"feature column {name!r} has values that it did not have when the data were "
                    "first read; expected files that do not change: read them again."
                )
    else:
        numeric, codes = columns, np.empty((num_rows, 0), np.int32)
    treatment = schema.arms.encode(targets["treatment"])

    def number(role: str, **limits: Any) -> np.ndarray:
        name = getattr(roles, role)
        return checks.target_to_float32(name, targets[role], role, **limits)

    if schema.cost_table is not None:
        cost = schema.cost_table[treatment].astype(np.float32)
    else:
        cost = number("cost", least=0.0)
    if "propensity" in targets:
        propensity = number("propensity", least=0.0, most=1.0, open_least=True)
    elif schema.propensity_table is not None:
        propensity = schema.propensity_table[treatment].astype(np.float32)
    else:  # Observed shares are known only after a pass over all rows.
        propensity = np.full(num_rows, np.nan, np.float32)
    weight = None
    if "sample_weight" in targets:
        weight = number("sample_weight", least=0.0, open_least=True)
    if schema.response_labels is None:
        response = number("response")
    else:
        response = checks.labels_to_float32(
            roles.response, targets["response"], schema.response_labels
        )
    cluster = None
    if roles.cluster is not None:
        cluster = checks.ids_to_hashes(roles.cluster, targets["cluster"])
    return Block(
        numeric,
        codes,
        treatment,
        response,
        cost,
        propensity,
        weight,
        np.arange(first_row, first_row + num_rows, dtype=np.int64),
        cluster,
    )
