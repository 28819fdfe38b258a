"""Users to allocate: feature rows, streamed in chunks from CSV or Parquet."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tfalloc.data import FeatureSchema, feature_chunks
from tfalloc.data.features import Columns

CHUNK_ROWS = 50_000


class Users:
    """Rows of features at a path.

    Args:
      path: CSV or Parquet.
      kinds: feature column -> "numeric" or "string".
      missing: "error" or "indicator", as in training.
      id_column: column that names a user; None: the row number.

    Raises:
      ValueError: `missing` is not known.
    """

    def __init__(
        self, path: str, kinds: dict[str, str], missing: str = "error", id_column: str | None = None
    ):
        self.path, self.id_column = path, id_column
        self.schema = FeatureSchema(kinds=kinds, missing=missing)

    def chunks(self) -> Iterator[tuple[np.ndarray, Columns]]:
        """Yields (ids [n], feature columns {name: [n]}), as `feature_chunks`."""
        return feature_chunks(self.path, self.schema, id_column=self.id_column, rows=CHUNK_ROWS)
