"""`RCTData`: one validated trial, in memory or streamed from Parquet."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

from tfalloc.data import schema as schemas
from tfalloc.data import tables
from tfalloc.data.batches import make_dataset
from tfalloc.data.columns import as_series
from tfalloc.data.moments import TrialStats, measure
from tfalloc.data.rows import concatenate, encode, row_indices
from tfalloc.data.schema import Schema
from tfalloc.data.sources import MemorySource, StreamedSource, divide, split_key
from tfalloc.data.view import TrialView

Features = Mapping[str, Any] | np.ndarray

IN_MEMORY_BYTES = 2**30
"""Raw size below which `from_parquet` loads by default."""


class RCTData(TrialView):
    """A randomised trial: what each user was like, received, did, and cost.

    All columns are checked once, here, so that training never meets a NaN. Data that fits in memory
    is packed into float32; Parquet beyond that is streamed, with the same methods except those
    that need every row at once (`features`, `treatment`, `frame`, `take`, …).

    Args:
      features: columns {name: [N]} of numbers, booleans or strings, or a float matrix [N, F].
      treatment: arm received, [N]: indices in [0, K), or labels.
      response: reward per user, [N]: 0/1 or any finite number.
      cost: cost per user, [N], >= 0.
      propensity: probability of the *received* treatment, [N] in (0, 1]; a mapping
        {treatment: share}; or None for the observed (weighted) shares.
      sample_weight: weight of each row, [N] > 0, for example 1 / down-sampling rate.
      num_treatments: K, when treatments are indices and the last arms might be absent.
      treatment_names: labels of the arms in order, [K].
      missing: "error" refuses NaN features; "indicator" keeps them for `build_preprocessor` to
        impute and mark, and makes missing strings the category "".
      cluster: ids of what was randomised together, such as households, [N] of any kind: `split`
        keeps them whole.

    Raises:
      ValueError: anything above is violated; the message names the column and the remedy.

    Example:
      >>> import numpy as np
      >>> data = RCTData({"age": [30, 41, 25, 60]}, [0, 1, 0, 1], [0, 1, 0, 0], [0, 2, 0, 2])
      >>> len(data), data.num_treatments, data.response_kind
      (4, 2, 'binary')
      >>> data.propensity.tolist()
      [0.5, 0.5, 0.5, 0.5]
    """

    def __init__(
        self,
        features: Features,
        treatment: Any,
        response: Any,
        cost: Any,
        *,
        propensity: Any = None,
        sample_weight: Any = None,
        num_treatments: int | None = None,
        treatment_names: Sequence[str] | None = None,
        missing: str = "error",
        cluster: Any = None,
    ):
        given = {"treatment": treatment, "response": response, "cost": cost}
        shares = propensity if isinstance(propensity, Mapping) else None
        if propensity is not None and shares is None:
            given["propensity"] = propensity
        if sample_weight is not None:
            given["sample_weight"] = sample_weight
        if cluster is not None:
            given["cluster"] = cluster
        targets = {name: as_series(name, values) for name, values in given.items()}
        roles, schema = schemas.from_arrays(
            features,
            targets,
            propensity=shares,
            num_treatments=num_treatments,
            treatment_names=treatment_names,
            missing=missing,
        )
        self._adopt(schema, MemorySource(encode(features, targets, roles, schema, 0)))

    def _adopt(
        self, schema: Schema, source: Any, *, stats: TrialStats | None = None, depth: int = 0
    ) -> None:
        """Sets the state; a whole trial (stats None) is measured and its shares observed."""
        self._depth = depth
        self._stats = measure(source.blocks(), schema) if stats is None else stats
        if stats is None:
            self._stats.check_arms(schema.arms.names)
        if schema.propensity_source == "observed" and schema.propensity_table is None:
            schema = schema.with_shares(self._stats.shares)
            if isinstance(source, MemorySource):
                table = np.asarray(schema.propensity_table)
                source.block.propensity = table[source.block.treatment].astype(np.float32)
            else:
                source.schema = schema
        self._schema, self._source = schema, source
        self._summary = None

    @classmethod
    def _of(cls, schema: Schema, source: Any, **state: Any) -> RCTData:
        data = cls.__new__(cls)
        data._adopt(schema, source, **state)
        return data

    @classmethod
    def _read(cls, table: Any, in_memory: bool = True, **choices: Any) -> RCTData:
        roles, schema = schemas.from_table(table, **choices)
        source: Any = StreamedSource(table, roles, schema)
        if in_memory:
            # Encoding while reading keeps the peak near twice the packed size.
            source = MemorySource(concatenate(list(source.blocks())))
        return cls._of(schema, source)

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        *,
        treatment: str,
        response: str,
        cost: str | Mapping[Any, float],
        features: Sequence[str] | None = None,
        propensity: str | Mapping[Any, float] | None = None,
        sample_weight: str | None = None,
        treatments: Sequence[Any] | None = None,
        missing: str = "error",
        positive: Any = None,
        cluster: str | None = None,
        exclude: Sequence[str] = (),
    ) -> RCTData:
        """Reads a pandas data frame.

        Args:
          frame: one row per user.
          treatment: column of the arm received. Integers and booleans are arm indices; strings
            are labels, in the order of `treatments`, else of an ordered categorical, else by their
            mean cost. The first, the cheapest, is the baseline of uplifts.
          response: column of the reward: numbers, or two labels such as "Yes" and "No".
          cost: column of the cost per user, or a mapping {treatment: cost per user}.
          features: feature columns; None takes every column without another role.
          propensity: column, mapping {treatment: share}, or None for observed shares.
          sample_weight: column of row weights.
          treatments: labels in the order of the arms.
          missing: "error" or "indicator", as in the class.
          positive: label (or number) of the response that counts as 1, the other as 0.
          cluster: column of what was randomised together, such as a household or store: `split`
            keeps it whole.
          exclude: columns that are no features, such as identifiers and what comes after treatment.

        Raises:
          ValueError: an unknown column, or any violation listed for the class.

        Example:
          >>> import pandas as pd
          >>> frame = pd.DataFrame({"age": [30, 41], "arm": ["none", "mail"], "bought": [0, 1]})
          >>> data = RCTData.from_frame(
          ...     frame, treatment="arm", response="bought", cost={"none": 0.0, "mail": 0.1}
          ... )
          >>> data.treatment_names, data.feature_names
          (['none', 'mail'], ['age'])
        """
        return cls._read(
            tables.FrameTable(frame),
            treatment=treatment,
            response=response,
            cost=cost,
            features=features,
            propensity=propensity,
            sample_weight=sample_weight,
            treatments=treatments,
            missing=missing,
            positive=positive,
            cluster=cluster,
            exclude=exclude,
        )

    @classmethod
    def from_csv(
        cls, path: str | os.PathLike[str], *, na: Sequence[str] = (), **same: Any
    ) -> RCTData:
        """Reads a CSV file (also .gz, .bz2, .zip, .xz) with the arguments of `from_frame`.

        A column is numeric if all its fields are numbers (or all true or false), else text: "007",
        "NA" and "None" are text.

        Args:
          path: comma-separated UTF-8 with a header line.
          na: fields that mean a missing value, beside the empty field, such as ["NA"].
          **same: as `from_frame`.

        Raises:
          FileNotFoundError: no such file.
          ValueError: an empty, corrupt or truncated file, rows of other lengths than the header,
            or as `from_frame`.
        """
        return cls._read(tables.CsvTable(path, na), **same)

    @classmethod
    def from_parquet(
        cls, path: str | os.PathLike[str], *, in_memory: bool | None = None, **same: Any
    ) -> RCTData:
        """Reads Parquet with the arguments of `from_frame`; streams what is too large.

        Args:
          path: a file, a glob, or a directory (hive partitions become columns).
          in_memory: True loads, False streams; None loads below 1 GiB of raw data. Streaming
            reads every needed column once now, to validate, and again on every epoch.
          **same: as `from_frame`.

        Raises:
          FileNotFoundError: no such file.
          ValueError: an empty, corrupt or truncated file, or as `from_frame`.
        """
        table = tables.ParquetTable(path)
        if table.num_rows == 0:
            raise ValueError(f"{table.path} is empty (0 rows); expected at least one row per arm.")
        if in_memory is None:
            in_memory = table.raw_bytes < IN_MEMORY_BYTES
        return cls._read(table, in_memory, **same)

    @classmethod
    def from_tfds(cls, source: Any, *, split: str = "train", **same: Any) -> RCTData:
        """Reads tensorflow-datasets with the arguments of `from_frame`, into memory.

        Args:
          source: a TFDS name, a builder, or a `tf.data.Dataset` of dicts of scalars (or of
            batches). Never a supervised pair: columns are chosen by name.
          split: split to read, for a name or builder.
          **same: as `from_frame`.

        Raises:
          ValueError: tensorflow-datasets is absent, the data cannot be had, or as `from_frame`.
        """
        return cls.from_frame(tables.read_tfds(source, split), **same)

    def take(self, indices: Any) -> RCTData:
        """Returns the rows at `indices` ([M] integers, or a boolean mask [N]), in memory.

        Propensities stay those of the full trial; an arm may be absent.

        Raises:
          ValueError: no row, an index out of range, or streamed data.
        """
        block = self._block("take()")
        source = MemorySource(block.at(row_indices(indices, len(block))))
        return self._of(
            self._schema, source, stats=measure(source.blocks(), self._schema), depth=self._depth
        )

    def split(self, shares: Sequence[float], seed: int = 0) -> tuple[RCTData, ...]:
        """Divides the rows at random.

        A row's part is a hash of (seed, its row number in the trial), so the division is the same
        in memory and streamed; with clusters, of (seed, its cluster), so that none is divided. Part
        sizes are therefore random about `shares`. Observed propensities stay those of the full
        trial.

        Args:
          shares: share of each part, positive, summing to 1.
          seed: any integer.

        Returns:
          One `RCTData` per share.

        Raises:
          ValueError: shares do not sum to 1, or a part has no row, or none of some arm.

        Example:
          >>> import numpy as np
          >>> data = RCTData(
          ...     np.zeros([1000, 1]), np.arange(1000) % 2, np.zeros(1000), np.zeros(1000)
          ... )
          >>> train, test = data.split([0.7, 0.3], seed=1)
          >>> len(train) + len(test)
          1000
        """
        portions = np.asarray(list(shares), np.float64)
        if len(portions) == 0 or not (portions > 0).all() or abs(portions.sum() - 1) > 1e-6:
            raise ValueError(f"shares={list(shares)}; expected positive numbers that sum to 1.")
        parts = divide(self._source, self._schema, portions, split_key(seed, self._depth))
        for number, (_, stats) in enumerate(parts):
            stats.check_arms(
                self.treatment_names, f"part {number} of split(shares={list(shares)}, seed={seed})"
            )
        return tuple(
            self._of(self._schema, source, stats=stats, depth=self._depth + 1)
            for source, stats in parts
        )

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_remainder: bool = False,
        repeat: bool = False,
        epoch_varying: bool = True,
        start: tuple[int, int] = (0, 0),
    ) -> tf.data.Dataset:
        """Returns `(features, {"treatment", "response", "cost", "propensity"}[, sample_weight])`.

        A trial with clusters has their ids (int64) among the targets, as "cluster".

        Features are a dict of tensors [batch] (a matrix [batch, F] if the data are one);
        treatments are int32, strings are tf.string, everything else float32.

        Args:
          batch_size: rows per batch; the last batch of an epoch may be smaller.
          shuffle: random order. In memory a full permutation; streamed, row groups in random
            order through a pool of some 260,000 rows: files sorted by something should have
            small row groups.
          seed: the order is a function of (seed, epoch).
          drop_remainder: drop the smaller last batch; makes the batch dimension static.
          repeat: go on for ever; otherwise each iteration over the dataset is the next epoch.
          epoch_varying: False repeats the order of epoch 0.
          start: (epoch, batch) to start at, as if what comes before had been consumed. In memory
            nothing is read for it; streamed, the rows before that batch are read again.

        Raises:
          ValueError: `batch_size` is not positive, drop_remainder would leave nothing, or an
            epoch has no batch `start`.

        Example:
          >>> data = RCTData({"age": [30, 41]}, [0, 1], [0, 1], [0, 2])
          >>> for features, targets in data.batches(2):
          ...     print(features["age"].numpy(), targets["treatment"].numpy())
          [30. 41.] [0 1]
        """
        return make_dataset(
            self._source,
            self._schema,
            self.num_rows,
            batch_size,
            shuffle=shuffle,
            seed=seed,
            drop_remainder=drop_remainder,
            repeat=repeat,
            epoch_varying=epoch_varying,
            start=start,
        )
