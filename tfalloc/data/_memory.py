"""Rows held in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tfalloc.data._block import Block

BLOCK_ROWS = 131_072
"""Rows handled at once in passes over the data: some 8 MB at 16 columns."""


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
