"""The read-only side of `RCTData`: what the data are, and their columns."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tfalloc.data.moments import TrialStats
from tfalloc.data.rows import Block
from tfalloc.data.schema import Schema
from tfalloc.data.sources import MemorySource, Source


class TrialView:
    """Properties of a trial. Columns need data in memory; everything else is always known."""

    _schema: Schema
    _source: Source
    _stats: TrialStats
    _depth: int  # splits above this part

    # What the data are.

    @property
    def num_rows(self) -> int:
        """Number of rows N."""
        return self._stats.num_rows

    def __len__(self) -> int:
        return self.num_rows

    @property
    def num_treatments(self) -> int:
        """Number of arms K."""
        return len(self._schema.arms.names)

    @property
    def treatment_names(self) -> list[str]:
        """Labels of the arms in order, [K]."""
        return list(self._schema.arms.names)

    @property
    def feature_names(self) -> list[str]:
        """Names of the features; "0", "1", … for a matrix."""
        return list(self._schema.kinds)

    @property
    def feature_kinds(self) -> dict[str, str]:
        """Feature name -> "numeric" or "string"."""
        return dict(self._schema.kinds)

    @property
    def is_matrix(self) -> bool:
        """Whether features are one matrix [N, F] rather than named columns."""
        return self._schema.matrix

    @property
    def missing(self) -> str:
        """The policy for missing features, "error" or "indicator"."""
        return self._schema.missing

    @property
    def positive(self) -> str | None:
        """The label of the response that counts as 1; None if the response is a number."""
        labels = self._schema.response_labels
        return None if labels is None else labels[1]

    @property
    def incomplete_features(self) -> list[str]:
        """Names of the numeric features that have missing values."""
        lacking = zip(self._schema.numeric, self._stats.feature_missing, strict=True)
        return [name for name, count in lacking if count]

    @property
    def streaming(self) -> bool:
        """Whether rows are read from disk on every pass."""
        return self._source.streaming

    @property
    def propensity_source(self) -> str:
        """Where propensities come from: "observed", "column" or "mapping"."""
        return self._schema.propensity_source

    @property
    def response_kind(self) -> str:
        """ "binary" (all 0 or 1), "nonnegative" or "real"."""
        if self._stats.binary:
            return "binary"
        return "nonnegative" if self._stats.nonnegative else "real"

    @property
    def schema(self) -> Schema:
        """Names, kinds and categories of the features, and the arms."""
        return self._schema

    @property
    def stats(self) -> TrialStats:
        """Moments of outcomes and features."""
        return self._stats

    # The columns, for data in memory.

    @property
    def features(self) -> dict[str, np.ndarray] | np.ndarray:
        """Columns {name: float32 or str [N]}, or the float32 matrix [N, F]."""
        return self._block("features").features(self._schema)

    def feature_blocks(self) -> Iterator[tuple[dict[str, np.ndarray] | np.ndarray, int]]:
        """Yields (`features`, number of rows) of some rows after the other, streamed data too."""
        for block in self._source.blocks():
            yield block.features(self._schema), len(block)

    @property
    def treatment(self) -> np.ndarray:
        """Arm received, int32 [N]."""
        return self._block("treatment").treatment

    @property
    def response(self) -> np.ndarray:
        """Reward per user, float32 [N]."""
        return self._block("response").response

    @property
    def cost(self) -> np.ndarray:
        """Cost per user, float32 [N]."""
        return self._block("cost").cost

    @property
    def propensity(self) -> np.ndarray:
        """Probability of the received treatment, float32 [N]."""
        return self._block("propensity").propensity

    @property
    def sample_weight(self) -> np.ndarray | None:
        """Row weights, float32 [N], or None."""
        return self._block("sample_weight").weight

    @property
    def cluster(self) -> np.ndarray | None:
        """Ids of what was randomised together, int64 [N], or None: each row by itself.

        Of a streamed trial they are read from disk at each call.
        """
        if isinstance(self._source, MemorySource):
            return self._source.block.cluster
        if self._source.roles.cluster is None:
            return None
        return np.concatenate([block.cluster for block in self._source.blocks()])

    def _block(self, wanted: str) -> Block:
        if isinstance(self._source, MemorySource):
            return self._source.block
        raise ValueError(
            f"{wanted} needs all rows in memory, but this trial is streamed; use batches(), or "
            "load it with in_memory=True."
        )
