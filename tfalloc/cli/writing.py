"""Tables written chunk by chunk; without TensorFlow, so that a bad name is refused at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


class TableWriter:
    """Writes frames one after the other to CSV or Parquet, by suffix.

    Args:
      path: the file.
      suffix: ".csv" or ".parquet".
    """

    def __init__(self, path: Path, suffix: str):
        self._path, self._csv = path, suffix == ".csv"
        self._writer: Any = None
        self._started = False

    def write(self, frame: pd.DataFrame) -> None:
        """Appends rows."""
        if self._csv:
            frame.to_csv(self._path, mode="a", header=not self._started, index=False)
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq

            table = pa.Table.from_pandas(frame, preserve_index=False)
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._path, table.schema)
            self._writer.write_table(table.cast(self._writer.schema))
        self._started = True

    def close(self) -> None:
        """Finishes the file."""
        if self._writer is not None:
            self._writer.close()


def output_suffix(path: Path) -> str:
    """The kind of table to write.

    Raises:
      ValueError: the suffix is neither .csv nor .parquet.
    """
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise ValueError(f"output {path} ends in {suffix!r}; expected .csv or .parquet.")
    return suffix
