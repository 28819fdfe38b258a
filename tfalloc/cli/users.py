"""Users to allocate: feature rows, streamed in chunks from CSV or Parquet.

They need no treatment and no outcome, so `RCTData` does not apply; columns obey the same rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tfalloc.cli.trial import column_names, is_csv
from tfalloc.data import columns as checks
from tfalloc.data.columns import require_columns
from tfalloc.data.tables import ParquetTable

CHUNK_ROWS = 50_000


class Users:
    """Rows of features at a path.

    Args:
      path: CSV or Parquet.
      kinds: feature column -> "numeric" or "string".
      missing: "error" or "indicator", as in training.
      id_column: column that names a user; None: the row number.

    Raises:
      FileNotFoundError, ValueError: nothing there, a damaged file, or a column is missing.
    """

    def __init__(
        self, path: str, kinds: dict[str, str], missing: str = "error", id_column: str | None = None
    ):
        self.path, self.kinds, self.missing, self.id_column = path, kinds, missing, id_column
        wanted = [("feature", name) for name in kinds]
        if id_column is not None:
            wanted.append(("id", id_column))
        require_columns(wanted, column_names(path))

    def chunks(self) -> Iterator[tuple[Any, dict[str, npt.NDArray[Any]]]]:
        """Yields (ids [n], feature columns {name: [n]}), validated.

        Raises:
          ValueError: NaN or infinite features, text where numbers are due, a damaged file, or no
            row at all.
        """
        start = 0
        for frame in self._frames():
            for first in range(0, len(frame), CHUNK_ROWS):
                part = frame.iloc[first : first + CHUNK_ROWS]
                ids = np.arange(start, start + len(part))
                start += len(part)
                yield ids if self.id_column is None else part[self.id_column], self._columns(part)
        if start == 0:
            raise ValueError(f"{self.path} is empty (0 rows); expected at least one user.")

    def _columns(self, frame: pd.DataFrame) -> dict[str, npt.NDArray[Any]]:
        return {
            name: (
                checks.to_strings(name, frame[name], self.missing)
                if kind == checks.STRING
                else checks.feature_to_float32(name, frame[name], self.missing)
            )
            for name, kind in self.kinds.items()
        }

    def _frames(self) -> Iterator[pd.DataFrame]:
        wanted = list(dict.fromkeys([*self.kinds, *([self.id_column] if self.id_column else [])]))
        if not is_csv(self.path):
            yield from ParquetTable(self.path).chunks(wanted)
            return
        # Text stays text: a chunk whose categories look like numbers must not become numbers.
        text: Any = {name: str for name, kind in self.kinds.items() if kind == checks.STRING}
        try:
            yield from pd.read_csv(self.path, usecols=wanted, dtype=text, chunksize=CHUNK_ROWS)
        except (ValueError, OSError, EOFError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"cannot read {self.path} as CSV ({reason}); expected comma-separated UTF-8 text: "
                "the file is probably corrupt or truncated."
            ) from error
