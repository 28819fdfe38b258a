"""The read-only side of `RCTData`: what the data are, their columns, and what they say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from tfalloc.data.columns import NUMERIC, STRING
from tfalloc.data.moments import ArmMoments, TrialStats
from tfalloc.data.rows import Block
from tfalloc.data.schema import Schema
from tfalloc.data.sources import MemorySource, Source, fingerprint
from tfalloc.data.summary import TrialSummary, check_balance, summarise


class TrialView:
    """Properties of a trial. Columns need data in memory; everything else is always known."""

    _schema: Schema
    _source: Source
    _stats: TrialStats
    _depth: int  # splits above this part
    _summary: TrialSummary | None  # once it was asked for

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
        """Ids of what was randomised together, int64 [N], or None: each row by itself."""
        return self._block("cluster").cluster

    # What they say.

    def fingerprint(self) -> str:
        """Returns 16 hexadecimal digits that other rows, columns or another order would change.

        Streamed data are known by their statistics and row groups, without reading them.

        Example:
          >>> import tfalloc
          >>> data = tfalloc.RCTData({"age": [30, 41]}, [0, 1], [0, 1], [0, 2])
          >>> data.fingerprint() == data.take([1, 0]).fingerprint()
          False
        """
        return fingerprint(self._schema, self._source, self._stats)

    @property
    def failure(self) -> Exception | None:
        """What last went wrong in reading batches, before TensorFlow made its own error of it."""
        return self._source.failure

    def frame(self) -> pd.DataFrame:
        """Returns features and the columns treatment (label), response, cost, propensity, … .

        Raises:
          ValueError: streamed data, or a feature has the name of one of these columns.
        """
        block, features = self._block("frame()"), self.features
        columns: dict[str, Any] = (
            {f"feature_{i}": features[:, i] for i in range(features.shape[1])}
            if isinstance(features, np.ndarray)
            else dict(features)
        )
        arms: Any = np.array(self.treatment_names, object)[block.treatment]
        targets = {
            "treatment": arms if self._schema.arms.by_label else block.treatment,
            "response": block.response,
            "cost": block.cost,
            "propensity": block.propensity,
        }
        if block.weight is not None:
            targets["sample_weight"] = block.weight
        for name in targets:
            if name in columns:
                raise ValueError(
                    f"feature {name!r} has the name of a target column of frame(); rename it first."
                )
        return pd.DataFrame({**columns, **targets})

    def arm_moments(self, outcome: str) -> ArmMoments:
        """Returns mean, variance and kind of an outcome by arm, without another pass.

        Args:
          outcome: "response" or "cost".

        Raises:
          ValueError: another outcome is asked for.
        """
        if outcome not in ("response", "cost"):
            raise ValueError(f"outcome={outcome!r}; expected 'response' or 'cost'.")
        return self._stats.moments(outcome)

    def describe(self) -> TrialSummary:
        """Returns arms, outcomes with standard errors, and the check of randomisation."""
        if self._summary is None:
            found = check_balance(self._source.blocks(), self._schema, self._stats)
            design = self._schema.propensity_table if self.propensity_source == "mapping" else None
            self._summary = summarise(self._stats, found, self._schema, self.response_kind, design)
        return self._summary

    def summary(self, print_fn: Any = print) -> None:
        """Prints `describe()` as a table, with a WARNING line if randomisation looks broken."""
        print_fn(str(self.describe()))

    def __repr__(self) -> str:
        kinds = list(self._schema.kinds.values())
        where = "streamed" if self.streaming else "in memory"
        return (
            f"RCTData({self.num_rows:,} rows {where}, {kinds.count(NUMERIC)} numeric and "
            f"{kinds.count(STRING)} string features, {self.num_treatments} treatments "
            f"{self.treatment_names[:6]}, {self.response_kind} response, "
            f"propensity {self.propensity_source})"
        )

    def _block(self, wanted: str) -> Block:
        if isinstance(self._source, MemorySource):
            return self._source.block
        raise ValueError(
            f"{wanted} needs all rows in memory, but this trial is streamed; use batches(), or "
            "load it with in_memory=True."
        )
