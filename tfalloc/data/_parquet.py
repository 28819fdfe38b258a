"""Rows streamed from Parquet files larger than memory.

Files are read a row group at a time, in a fixed order, so that row numbers (and with them splits)
do not depend on how the data is read.
"""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads

from tfalloc.data import _hash
from tfalloc.data._block import Block, Roles, Schema, concatenate, encode
from tfalloc.data._memory import BLOCK_ROWS

Part = tuple[int, float, float]
"""A split's key and the interval [low, high) of the row hash that a part keeps."""

_POOL_ROWS = 2 * BLOCK_ROWS


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

    def head(self) -> pd.DataFrame:
        """The first rows, or none, to show each column's type."""
        with _readable(self.path):
            table = self._dataset.head(1000)
        return table.to_pandas()

    def chunks(self, columns: list[str]) -> Iterator[pd.DataFrame]:
        """Yields all rows in order, only `columns`."""
        for group in range(self.num_groups):
            for _, frame in self.group_chunks(group, columns):
                yield frame

    def group_chunks(self, group: int, columns: list[str]) -> Iterator[tuple[int, pd.DataFrame]]:
        """Yields (row number of the first row, rows) of one row group."""
        fragment, row = self._groups[group]
        # Without buffering ahead a row group is decoded page by page, however large it is.
        scan = pads.ParquetFragmentScanOptions(pre_buffer=False, use_buffered_stream=True)
        with _readable(fragment.path):
            batches = fragment.scanner(
                schema=self._dataset.schema,
                columns=columns,
                batch_size=BLOCK_ROWS,
                batch_readahead=1,
                fragment_readahead=1,
                fragment_scan_options=scan,
            ).to_batches()
            for batch in batches:
                if batch.num_rows:
                    yield row, batch.to_pandas()
                    row += batch.num_rows


class ParquetSource:
    """A trial's rows, encoded as they are streamed."""

    streaming = True
    failure: Exception | None = None  # what went wrong in reading batches

    def __init__(
        self, table: ParquetTable, roles: Roles, schema: Schema, parts: tuple[Part, ...] = ()
    ):
        self.table, self.roles, self.schema, self.parts = table, roles, schema, parts

    def blocks(self) -> Iterator[Block]:
        """Yields all rows of this part in order."""
        for group in range(self.table.num_groups):
            yield from self._group(group)

    def _group(self, group: int) -> Iterator[Block]:
        columns = [*self.schema.kinds, *self.roles.columns()]
        for row, frame in self.table.group_chunks(group, columns):
            block = encode(frame, self.roles, self.schema, row)
            if self.parts:
                block = block.at(in_parts(block.row, self.parts))
            if len(block):
                yield block

    def epoch(
        self, batch_size: int, generator: np.random.Generator | None, first_row: int = 0
    ) -> Iterator[Block]:
        """Yields one epoch of batches; the last may be smaller. In order without `generator`.

        Shuffled: row groups come in random order and pass through a pool of some 260,000 rows (at
        least eight batches) which is shuffled whole each time half of it leaves.

        Args:
            batch_size: rows a block.
            generator: shuffles.
            first_row: rows of the epoch to leave out at its start; they are read, because any of
                their row groups may have rows that left the pool later.
        """
        stream = self.blocks()
        if generator is not None:
            order = generator.permutation(self.table.num_groups)
            groups = (block for group in order for block in self._group(int(group)))
            stream = _shuffle(groups, max(_POOL_ROWS, 8 * batch_size), generator)
        yield from _rebatch(_without(stream, first_row), batch_size)


def in_parts(row: np.ndarray, parts: tuple[Part, ...]) -> np.ndarray:
    """Returns which row numbers [N] every part keeps, bool [N]."""
    keep = np.ones(len(row), bool)
    for key, low, high in parts:
        share = _hash.uniform(row, key)
        keep &= (share >= low) & (share < high)
    return keep


def _shuffle(blocks: Iterator[Block], pool: int, generator: np.random.Generator) -> Iterator[Block]:
    held: list[Block] = []
    num_held = 0
    for block in blocks:
        held.append(block)
        num_held += len(block)
        if num_held >= pool:
            merged = concatenate(held)
            order = generator.permutation(num_held)
            leave = num_held - pool // 2
            yield merged.at(order[:leave])
            held, num_held = [merged.at(order[leave:])], num_held - leave
    if held:
        yield concatenate(held).at(generator.permutation(num_held))


def _without(blocks: Iterator[Block], first_row: int) -> Iterator[Block]:
    for block in blocks:
        if first_row < len(block):
            yield block.at(slice(first_row, None)) if first_row else block
        first_row = max(first_row - len(block), 0)


def _rebatch(blocks: Iterator[Block], batch_size: int) -> Iterator[Block]:
    rest: list[Block] = []
    num_rest = 0
    for block in blocks:
        rest.append(block)
        num_rest += len(block)
        if num_rest < batch_size:
            continue
        merged = concatenate(rest)
        start = 0
        while num_rest - start >= batch_size:
            yield merged.at(slice(start, start + batch_size))
            start += batch_size
        rest, num_rest = [merged.at(slice(start, None))], num_rest - start
    if num_rest:
        yield concatenate(rest)
