"""Feature rows in chunks, of users whose outcomes nobody knows, over any data the package reads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

from tfalloc.data import columns as checks
from tfalloc.data.columns import require_columns
from tfalloc.data.csv_table import IDS
from tfalloc.data.features import Columns, FeatureSchema, columns_by_name
from tfalloc.data.tables import open_table
from tfalloc.data.trial import RCTData

CHUNK_ROWS = 50_000


def feature_chunks(
    source: Any,
    schema: FeatureSchema,
    *,
    id_column: str | None = None,
    rows: int = CHUNK_ROWS,
    na: Sequence[str] = (),
) -> Iterator[tuple[np.ndarray, Columns]]:
    """Yields feature rows in order, checked, whatever their number.

    Args:
      source: path of CSV or Parquet (file, pattern, directory), data frame, dict of columns,
        matrix, `RCTData` (streamed too), or a dataset whose elements are batches of features,
        alone or before targets.
      schema: the features that a model takes, `FeatureSchema.of_model(model)`.
      id_column: column that names a user; None: the number of the row, from 0.
      rows: rows of a chunk at most.
      na: for CSV, fields that mean a missing value, beside the empty one.

    Yields:
      (ids, columns): ids [n], of a CSV the text as it is in the file; columns as
      `FeatureSchema.columns` returns them, {name: [n]} or a matrix [n, F].

    Raises:
      FileNotFoundError: nothing at the path.
      ValueError: as `FeatureSchema.columns`, an id column that is not there, a damaged file, or
        no row at all.

    Example:
      >>> schema = FeatureSchema(kinds={"age": "numeric"})
      >>> for ids, columns in feature_chunks({"age": [30, 41, 25]}, schema, rows=2):
      ...     print(ids, columns["age"])
      [0 1] [30. 41.]
      [2] [25.]
    """
    if rows < 1:
        raise ValueError(f"rows={rows!r}; expected at least 1 row of a chunk.")
    start = 0
    for raw, ids, length in _parts(source, schema, id_column, rows, na):
        columns = schema.columns(raw)
        yield np.arange(start, start + length) if ids is None else np.asarray(ids), columns
        start += length
    if start == 0:
        name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else "the data set"
        raise ValueError(f"{name} is empty (0 rows); expected at least one user.")


def _parts(
    source: Any, schema: FeatureSchema, id_column: str | None, rows: int, na: Sequence[str]
) -> Iterator[tuple[Any, Any, int]]:
    """(features as `FeatureSchema.columns` takes them, ids or None, number of rows) in pieces."""
    if isinstance(source, (str, os.PathLike)):
        table = open_table(source, na)
        _require(schema, id_column, table.columns)
        for frame in table.chunks(list(schema.kinds), schema.kinds, id_column):
            ids = None if id_column is None else frame.pop(IDS)
            yield from _slices(frame, ids, len(frame), rows)
        return
    if isinstance(source, (pd.DataFrame, Mapping)):
        named = columns_by_name(source, "features", list(schema.kinds))
        _require(schema, id_column, list(named))
        ids = None if id_column is None else checks.as_series(id_column, named[id_column])
        columns = {name: checks.as_series(name, named[name]) for name in schema.kinds}
        lengths = {name: len(column) for name, column in columns.items()}
        if ids is not None:
            lengths[str(id_column)] = len(ids)
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"features have different lengths: {lengths}; expected one row per user."
            )
        yield from _slices(columns, ids, next(iter(lengths.values())), rows)
        return
    if id_column is not None:
        raise ValueError(
            f"id_column={id_column!r}, but a {type(source).__name__} has no ids; expected a path, "
            "a data frame or a dict of columns, or id_column=None."
        )
    if isinstance(source, RCTData):
        for features, length in source.feature_blocks():
            yield from _slices(features, None, length, rows)
    elif isinstance(source, tf.data.Dataset):
        for element in source:
            features = element[0] if isinstance(element, tuple) else element
            length = len(next(iter(features.values())) if isinstance(features, dict) else features)
            yield from _slices(features, None, length, rows)
    else:
        yield from _slices(source, None, len(source), rows)


def _slices(features: Any, ids: Any, length: int, rows: int) -> Iterator[tuple[Any, Any, int]]:
    for first in range(0, length, rows):
        part = slice(first, first + rows)
        if isinstance(features, Mapping):
            piece: Any = {name: column[part] for name, column in features.items()}
        else:
            piece = features.iloc[part] if isinstance(features, pd.DataFrame) else features[part]
        yield piece, None if ids is None else ids[part], min(rows, length - first)


def _require(schema: FeatureSchema, id_column: str | None, names: list[str]) -> None:
    wanted = [("feature", name) for name in schema.kinds]
    if id_column is not None:
        wanted.append(("id", id_column))
    require_columns(wanted, names)
