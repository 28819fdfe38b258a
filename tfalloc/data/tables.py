"""Tables of raw columns: CSV, Parquet files larger than memory, tensorflow-datasets.

Parquet is read a row group at a time, in a fixed order, so that row numbers (and with them splits)
do not depend on how the data is read.
"""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads

from tfalloc._files import is_csv
from tfalloc.data.columns import require_unique
from tfalloc.data.csv_table import IDS, CsvTable

CHUNK_ROWS = 131_072
"""Rows of a chunk: some 8 MB at 16 columns."""

NULLABLE = {pa.bool_(): pd.BooleanDtype()}
"""Types that pandas would make objects of when values are missing."""


def open_table(path: str | os.PathLike[str], na: Sequence[str] = ()) -> CsvTable | ParquetTable:
    """Opens CSV or Parquet; both have `columns` and `chunks(columns)`.

    Args:
      path: CSV or Parquet, by its suffix.
      na: for CSV, fields that mean a missing value, beside the empty one.

    Raises:
      FileNotFoundError, ValueError: nothing there, a damaged file, or another suffix.
    """
    return CsvTable(path, na) if is_csv(path) else ParquetTable(path)


def read_tfds(source: Any, split: str) -> pd.DataFrame:
    """Returns a TFDS name, builder or dataset of dicts as a frame."""
    import tensorflow as tf

    if isinstance(source, str):
        source = tfds_builder(source)
    if not isinstance(source, tf.data.Dataset):
        try:
            source.download_and_prepare()
            source = source.as_dataset(split=split)
        except Exception as error:  # tfds raises dozens of kinds, most of them about the network
            raise ValueError(
                f"tensorflow-datasets could not prepare {getattr(source, 'name', source)!r}, split "
                f"{split!r} ({_first_line(error)}); expected a network or prepared data: download "
                "the data elsewhere and pass its path."
            ) from error
    spec = source.element_spec
    if not isinstance(spec, dict):
        raise ValueError(
            f"the dataset yields {type(spec).__name__} elements; expected dicts of columns: do not "
            "use as_supervised."
        )
    ranks = {name: getattr(part, "shape", tf.TensorShape(None)).rank for name, part in spec.items()}
    if set(ranks.values()) == {0}:
        source = source.batch(65_536)
    elif set(ranks.values()) != {1}:
        raise ValueError(
            f"the dataset's columns have ranks {ranks}; expected scalars, or batches of scalars."
        )
    frames = [pd.DataFrame(batch) for batch in source.as_numpy_iterator()]
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(spec))
    for name, part in spec.items():
        if part.dtype == tf.string:
            frame[name] = [v.decode() if isinstance(v, bytes) else v for v in frame[name]]
    return frame


def tfds_builder(name: str, **options: Any) -> Any:
    """Returns a TFDS builder by name, or a ValueError that says what is absent."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ValueError(
            f"reading {name!r} needs tensorflow-datasets, which is not installed: "
            "pip install tensorflow-datasets, or pass a path."
        ) from error
    try:
        return tfds.builder(name, **options)
    except Exception as error:
        raise ValueError(
            f"tensorflow-datasets has no usable {name!r} ({_first_line(error)}); expected one of "
            "its data set names."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(
                errno.ENOENT, "the file was there when the data were first read, and is gone", path
            ) from error
        reason = str(error).strip().splitlines()[0][:200]
        raise ValueError(
            f"cannot read {path} as Parquet ({reason}); expected whole Parquet files of one "
            "schema: the file is probably corrupt or truncated, write or download it again."
        ) from error


def find_files(path: str | os.PathLike[str]) -> list[str]:
    """Returns the Parquet files at a path, glob or directory, sorted.

    Raises:
      FileNotFoundError: nothing is there.
    """
    text = os.fspath(path)
    if os.path.isdir(text):
        files = sorted(
            str(file)
            for file in Path(text).rglob("*.parquet")
            if not any(part[0] in "._" for part in file.relative_to(text).parts)
        )
        if not files:
            raise FileNotFoundError(f"no *.parquet file in the directory {text}.")
        return files
    if os.path.exists(text):
        return [text]
    files = sorted(glob.glob(text, recursive=True)) if glob.has_magic(text) else []
    if not files:
        raise FileNotFoundError(f"no Parquet file at {text}; expected a file, glob or directory.")
    return files


class FrameTable:
    """A data frame as a table of one group of rows."""

    num_groups = 1

    def __init__(self, frame: pd.DataFrame):
        self.columns = [str(name) for name in frame.columns]
        self._frame = frame.set_axis(self.columns, axis=1)

    def head(self, columns: Sequence[str]) -> pd.DataFrame:
        """All rows, only `columns`."""
        return self._frame[list(columns)]

    def chunks(self, columns: list[str]) -> Iterator[pd.DataFrame]:
        """Yields all rows, only `columns`."""
        yield self._frame[columns]

    def group_chunks(self, group: int, columns: list[str]) -> Iterator[tuple[int, pd.DataFrame]]:
        """Yields (0, all rows)."""
        yield 0, self._frame[columns]


class ParquetTable:
    """Parquet files as one table: column names, row groups, and chunks of rows."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        files = find_files(path)
        for file in files:
            if os.path.getsize(file) == 0:
                raise ValueError(f"{file} is empty (0 bytes); expected a Parquet file.")
        base = self.path if os.path.isdir(self.path) else None
        options = {"partitioning": "hive", "partition_base_dir": base} if base else {}
        with _readable(self.path):
            self._dataset = pads.dataset(files, format="parquet", **options)
            require_unique(self.columns)
            self._groups: list[tuple[Any, int]] = []
            num_rows = raw_bytes = 0
            for fragment in self._dataset.get_fragments():
                with _readable(fragment.path):
                    for group in fragment.split_by_row_group():
                        self._groups.append((group, num_rows))
                        num_rows += group.row_groups[0].num_rows
                        raw_bytes += group.row_groups[0].total_byte_size
        self.num_rows = num_rows
        # Encoded pages can be far smaller than values (dictionaries, runs): count decoded too.
        self.raw_bytes = max(raw_bytes, num_rows * 4 * len(self.columns))

    @property
    def columns(self) -> list[str]:
        """Column names, partition columns included."""
        return list(self._dataset.schema.names)

    @property
    def num_groups(self) -> int:
        """Number of row groups in all files."""
        return len(self._groups)

    @property
    def group_rows(self) -> list[int]:
        """Rows of every row group."""
        return [group.row_groups[0].num_rows for group, _ in self._groups]

    def head(self, columns: Sequence[str]) -> pd.DataFrame:
        """The first rows, or none, to show the type of some columns."""
        with _readable(self.path):
            table = self._dataset.head(1000, columns=list(columns))
        return table.to_pandas(types_mapper=NULLABLE.get)

    def chunks(
        self,
        columns: Sequence[str],
        kinds: Mapping[str, str] | None = None,
        ids: str | None = None,
    ) -> Iterator[pd.DataFrame]:
        """Yields all rows in order, only `columns`.

        Args:
          columns: names.
          kinds: not needed, the files know their types; taken as `CsvTable.chunks` takes it.
          ids: column to yield once more, as `IDS`; integers stay integers where some are missing.
        """
        for group in range(self.num_groups):
            for _, frame in self.group_chunks(group, columns, ids):
                yield frame

    def group_chunks(
        self, group: int, columns: Sequence[str], ids: str | None = None
    ) -> Iterator[tuple[int, pd.DataFrame]]:
        """Yields (row number of the first row, rows) of one row group."""
        fragment, row = self._groups[group]
        # Without buffering ahead a row group is decoded page by page, however large it is.
        scan = pads.ParquetFragmentScanOptions(pre_buffer=False, use_buffered_stream=True)
        with _readable(fragment.path):
            batches = fragment.scanner(
                schema=self._dataset.schema,
                columns=[*columns, *([ids] if ids is not None and ids not in columns else [])],
                batch_size=CHUNK_ROWS,
                batch_readahead=1,
                fragment_readahead=1,
                fragment_scan_options=scan,
            ).to_batches()
            for batch in batches:
                if batch.num_rows:
                    frame = batch.select(list(columns)).to_pandas(types_mapper=NULLABLE.get)
                    if ids is not None:
                        frame[IDS] = batch.column(ids).to_pandas(integer_object_nulls=True)
                    yield row, frame
                    row += batch.num_rows
