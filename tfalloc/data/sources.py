"""Where a trial's rows come from: memory, or Parquet files that are read on every pass.

Both yield the same rows with the same numbers, so that a split, which is decided by a hash of
(seed, row number), divides streamed data as it divides data in memory.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tfalloc.data.moments import TrialStats, measure
from tfalloc.data.rows import BLOCK_ROWS, Block, concatenate, encode
from tfalloc.data.schema import Roles, Schema

Part = tuple[int, float, float]
"""A split's key and the interval [low, high) of the row hash that a part keeps."""

_POOL_ROWS = 2 * BLOCK_ROWS
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class MemorySource:
    """A trial's rows in one block."""

    streaming = False
    failure: Exception | None = None  # what went wrong in reading batches

    def __init__(self, block: Block):
        self.block = block

    def blocks(self) -> Iterator[Block]:
        """Yields all rows in order, as views of at most `BLOCK_ROWS`."""
        for start in range(0, len(self.block), BLOCK_ROWS):
            yield self.block.at(slice(start, start + BLOCK_ROWS))

    def epoch(
        self, batch_size: int, generator: np.random.Generator | None, first_row: int = 0
    ) -> Iterator[Block]:
        """Yields one epoch of batches; the last may be smaller. In order without `generator`.

        Args:
          batch_size: rows a block.
          generator: shuffles.
          first_row: rows of the epoch to leave out at its start.
        """
        num_rows = len(self.block)
        if generator is None:
            for start in range(first_row, num_rows, batch_size):
                yield self.block.at(slice(start, start + batch_size))
            return
        order = generator.permutation(num_rows)
        for start in range(first_row, num_rows, batch_size):
            yield self.block.at(order[start : start + batch_size])


class StreamedSource:
    """A trial's rows, encoded as a table is read."""

    streaming = True
    failure: Exception | None = None  # what went wrong in reading batches

    def __init__(self, table: Any, roles: Roles, schema: Schema, parts: tuple[Part, ...] = ()):
        self.table, self.roles, self.schema, self.parts = table, roles, schema, parts

    def blocks(self) -> Iterator[Block]:
        """Yields all rows of this part in order."""
        for group in range(self.table.num_groups):
            yield from self._group(group)

    def _group(self, group: int) -> Iterator[Block]:
        columns = [*self.schema.kinds, *self.roles.columns()]
        for row, frame in self.table.group_chunks(group, columns):
            block = encode(frame, self.roles.of(frame), self.roles, self.schema, row)
            if self.parts:
                block = block.at(in_parts(block.unit, self.parts))
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


Source = MemorySource | StreamedSource


def divide(
    source: Source, schema: Schema, shares: np.ndarray, key: int
) -> list[tuple[Source, TrialStats]]:
    """Divides rows at random by their numbers; `shares` sum to 1.

    Returns:
      One (source, its statistics) per share.
    """
    edges = np.concatenate([[0.0], np.cumsum(shares)])
    edges[-1] = 1.0
    parts = [(key, float(a), float(b)) for a, b in itertools.pairwise(edges)]
    if isinstance(source, MemorySource):
        block = source.block
        found = [MemorySource(block.at(np.flatnonzero(in_parts(block.unit, [p])))) for p in parts]
        return [(part, measure(part.blocks(), schema)) for part in found]
    stats = [TrialStats(schema) for _ in parts]
    for block in source.blocks():
        for part, part_stats in zip(parts, stats, strict=True):
            part_stats.add(block.at(in_parts(block.unit, [part])))
    return [
        (StreamedSource(source.table, source.roles, schema, (*source.parts, part)), part_stats)
        for part, part_stats in zip(parts, stats, strict=True)
    ]


def in_parts(unit: np.ndarray, parts: Sequence[Part]) -> np.ndarray:
    """Returns which rows every part keeps, by row number or cluster [N], bool [N]."""
    keep = np.ones(len(unit), bool)
    for key, low, high in parts:
        share = uniform(unit, key)
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


def _mix(x: np.ndarray) -> np.ndarray:
    """The SplitMix64 finaliser (Steele, Lea and Flood 2014), elementwise on uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def split_key(seed: int, depth: int) -> int:
    """Returns the key of one split: `depth` counts the splits above it.

    Depth is part of the key so that splitting a part again with the same seed is independent of
    the split that made the part.
    """
    with np.errstate(over="ignore"):
        state = np.array([seed % 2**64], np.uint64) * _GOLDEN + np.uint64(1)
        return int(_mix(_mix(state) + np.uint64(depth + 1) * _GOLDEN)[0])


def uniform(row: np.ndarray, key: int) -> np.ndarray:
    """Returns a number in [0, 1) for each row number.

    Args:
      row: row numbers in the original trial, or cluster ids, int64 [N].
      key: from `split_key`.

    Returns:
      float64 [N].

    Example:
      >>> import numpy as np
      >>> whole, part = (uniform(np.arange(a, 9), split_key(0, 0)) for a in (0, 3))
      >>> bool((whole[3:] == part).all())
      True
    """
    with np.errstate(over="ignore"):
        mixed = _mix(_mix(row.astype(np.uint64) * _GOLDEN + np.uint64(key)) + _GOLDEN)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def fingerprint(schema: Schema, source: Source, stats: TrialStats) -> str:
    """Returns what `RCTData.fingerprint` documents."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(repr((schema.kinds, schema.categories, schema.arms.names)).encode())
    digest.update(repr((schema.missing, schema.matrix, schema.weighted)).encode())
    if isinstance(source, MemorySource):
        for field in dataclasses.fields(source.block):
            column = getattr(source.block, field.name)
            if column is not None:
                digest.update(np.ascontiguousarray(column).reshape(-1).view(np.uint8).data)
    else:
        digest.update(repr((source.table.group_rows, source.parts)).encode())
        for moments in (stats.rows, stats.w, stats.wy, stats.w2yy, stats.wz, stats.w2zz):
            digest.update(moments.tobytes())
        digest.update(stats.feature_mean.tobytes() + stats.feature_variance.tobytes())
        digest.update(repr([counts.tolist() for counts in stats.counts]).encode())
    return digest.hexdigest()
