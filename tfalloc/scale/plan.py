"""`Plan`: who gets which treatment, what it is predicted to bring, and the file to write it to."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tfalloc import _files

CHUNK_ROWS = 50_000


@dataclasses.dataclass
class Plan:
    """An allocation with its predictions.

    Attributes:
      ids: [N], of the users.
      id_name: name of their column.
      names: K labels of the treatments.
      treatment: [N] int32.
      response: [N], predicted, of the treatment given.
      cost_of: [N], likewise.
      budget: cost per user that was asked for.
      alpha: shadow price, response per unit of cost.
      upper_bound: response per user that no allocation exceeds; None if not known.
      extra: further columns to write.
    """

    ids: Any
    id_name: str
    names: list[str]
    treatment: npt.NDArray[np.int32]
    response: npt.NDArray[Any]
    cost_of: npt.NDArray[Any]
    budget: float
    alpha: float
    upper_bound: float | None = None
    extra: dict[str, npt.NDArray[Any]] = dataclasses.field(default_factory=dict)

    @property
    def num_users(self) -> int:
        """N."""
        return len(self.treatment)

    @property
    def value(self) -> float:
        """Predicted response per user."""
        return float(self.response.mean(dtype=np.float64))

    @property
    def cost(self) -> float:
        """Predicted cost per user."""
        return float(self.cost_of.mean(dtype=np.float64))

    def mix(self) -> list[tuple[str, int, float, float]]:
        """(label, users, mean predicted response, mean predicted cost) of every treatment."""
        rows = []
        for arm, name in enumerate(self.names):
            given = self.treatment == arm
            count = int(given.sum())
            means = [
                float(x[given].mean()) if count else np.nan for x in (self.response, self.cost_of)
            ]
            rows.append((name, count, means[0], means[1]))
        return rows

    def frames(self) -> Iterator[pd.DataFrame]:
        """The rows to write, in chunks."""
        labels = np.array(self.names, object)
        for first in range(0, self.num_users, CHUNK_ROWS):
            part = slice(first, first + CHUNK_ROWS)
            columns = {
                self.id_name: self.ids[part],
                "treatment": labels[self.treatment[part]],
                "treatment_index": self.treatment[part],
                "response": self.response[part],
                "cost": self.cost_of[part],
                **{name: column[part] for name, column in self.extra.items()},
            }
            yield pd.DataFrame(columns)

    def write(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Writes a row for each user to CSV or Parquet, by suffix, whole or not at all.

        Args:
          path: the file.
          overwrite: whether an earlier file of that name is replaced.

        Raises:
          ValueError: another suffix, or the file exists or cannot be written.
        """
        suffix = output_suffix(path)
        with _files.new_file(path, overwrite=overwrite) as file:
            (_write_csv if suffix == ".csv" else _write_parquet)(file, self.frames())


def output_suffix(path: str | os.PathLike[str]) -> str:
    """The kind of table to write.

    Raises:
      ValueError: the suffix is neither .csv nor .parquet.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise ValueError(f"output {path} ends in {suffix!r}; expected .csv or .parquet.")
    return suffix


def _write_csv(file: Path, frames: Iterator[pd.DataFrame]) -> None:
    for number, frame in enumerate(frames):
        frame.to_csv(file, mode="a", header=number == 0, index=False)


def _write_parquet(file: Path, frames: Iterator[pd.DataFrame]) -> None:
    writer = None
    try:
        for frame in frames:
            table = pa.Table.from_pandas(frame, preserve_index=False)
            writer = writer or pq.ParquetWriter(file, table.schema)
            writer.write_table(table.cast(writer.schema))
    finally:
        if writer is not None:
            writer.close()
