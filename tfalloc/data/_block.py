"""The packed form of some rows, and the schema that unpacks it.

Numeric features lie together in one row-major matrix, so that gathering a row touches one or two
cache lines instead of one per column; strings are integer codes into the schema's categories, so
that batches never touch Python strings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from tfalloc.data import _columns
from tfalloc.data._arms import Arms
from tfalloc.data._columns import NUMERIC, STRING


@dataclass
class Block:
    """Some rows of a trial.

    Attributes:
        numeric: float32 [n, number of numeric features].
        codes: int32 [n, number of string features].
        treatment: int32 [n]. response, cost, propensity: float32 [n].
        weight: float32 [n] or None.
        row: row numbers in the original trial, int64 [n].
    """

    numeric: np.ndarray
    codes: np.ndarray
    treatment: np.ndarray
    response: np.ndarray
    cost: np.ndarray
    propensity: np.ndarray
    weight: np.ndarray | None
    row: np.ndarray

    def __len__(self) -> int:
        return len(self.treatment)

    def at(self, index: np.ndarray | slice) -> Block:
        """Returns the rows at `index`: copies for an array, views for a slice."""

        def pick(array: np.ndarray) -> np.ndarray:
            if isinstance(index, slice) or index.dtype == bool:
                return array[index]
            # `take` gathers rows of a matrix several times faster than indexing does.
            return np.take(array, index, axis=0)

        return Block(
            pick(self.numeric),
            pick(self.codes),
            pick(self.treatment),
            pick(self.response),
            pick(self.cost),
            pick(self.propensity),
            None if self.weight is None else pick(self.weight),
            pick(self.row),
        )


def concatenate(blocks: Sequence[Block]) -> Block:
    """Returns the rows of `blocks` in one block."""
    if len(blocks) == 1:
        return blocks[0]
    fields = {
        name: np.concatenate([getattr(block, name) for block in blocks])
        for name in ("numeric", "codes", "treatment", "response", "cost", "propensity", "row")
    }
    weight = (
        None
        if blocks[0].weight is None
        else np.concatenate([block.weight for block in blocks if block.weight is not None])
    )
    return Block(weight=weight, **fields)


@dataclass(frozen=True)
class Schema:
    """What the columns mean.

    Attributes:
        kinds: feature name -> "numeric" or "string", in the order of the features.
        categories: string feature -> its distinct values in the whole trial, most frequent first.
        matrix: whether features are one matrix rather than named columns.
        missing: "error" or "indicator".
        arms: the treatments.
        cost_table: cost per arm [K] when costs were given as a mapping, else None.
        propensity_table: share per arm [K] unless a column gives propensities.
        propensity_source: "observed", "column" or "mapping".
        weighted: whether rows have sample weights.
    """

    kinds: dict[str, str]
    categories: dict[str, tuple[str, ...]]
    matrix: bool
    missing: str
    arms: Arms
    cost_table: np.ndarray | None
    propensity_table: np.ndarray | None
    propensity_source: str
    weighted: bool

    @property
    def numeric(self) -> list[str]:
        """Names of the numeric features, the columns of `Block.numeric`."""
        return [name for name, kind in self.kinds.items() if kind == NUMERIC]

    @property
    def strings(self) -> list[str]:
        """Names of the string features, the columns of `Block.codes`."""
        return [name for name, kind in self.kinds.items() if kind == STRING]

    def with_shares(self, shares: np.ndarray) -> Schema:
        """Returns the schema with observed shares [K] as propensities."""
        return replace(self, propensity_table=shares)


@dataclass(frozen=True)
class Roles:
    """Which column plays which role; mappings are already in the schema."""

    treatment: str
    response: str
    cost: str | None
    propensity: str | None
    sample_weight: str | None

    def columns(self) -> list[str]:
        """The target columns that are read, in order; one may be both response and cost."""
        given = (self.treatment, self.response, self.cost, self.propensity, self.sample_weight)
        return list(dict.fromkeys(name for name in given if name is not None))


def encode_features(
    frame: Mapping[str, Any] | pd.DataFrame, schema: Schema, num_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (numeric float32 [n, Fn], codes int32 [n, Fs]); validates both."""
    numeric = np.empty((num_rows, len(schema.numeric)), np.float32)
    for i, name in enumerate(schema.numeric):
        numeric[:, i] = _columns.feature_to_float32(name, frame[name], schema.missing)
    codes = np.empty((num_rows, len(schema.strings)), np.int32)
    for i, name in enumerate(schema.strings):
        text = _columns.to_strings(name, frame[name], schema.missing)
        index = pd.Index(np.array(schema.categories[name], dtype=object), dtype=object)
        codes[:, i] = index.get_indexer(pd.Index(text, dtype=object))
    return numeric, codes


def encode(frame: pd.DataFrame, roles: Roles, schema: Schema, first_row: int) -> Block:
    """Returns a chunk of raw columns as a validated block."""
    num_rows = len(frame)
    numeric, codes = encode_features(frame, schema, num_rows)
    treatment = schema.arms.encode(frame[roles.treatment])
    to_float = _columns.target_to_float32
    if roles.cost is not None:
        cost = to_float(roles.cost, frame[roles.cost], "cost", least=0.0)
    else:
        assert schema.cost_table is not None  # for the type checker: one of the two is given
        cost = schema.cost_table[treatment].astype(np.float32)
    if roles.propensity is not None:
        propensity = to_float(
            roles.propensity,
            frame[roles.propensity],
            "propensity",
            least=0.0,
            most=1.0,
            open_least=True,
        )
    elif schema.propensity_table is not None:
        propensity = schema.propensity_table[treatment].astype(np.float32)
    else:  # Observed shares are known only after a pass over all rows.
        propensity = np.full(num_rows, np.nan, np.float32)
    weight = None
    if roles.sample_weight is not None:
        weight = to_float(
            roles.sample_weight,
            frame[roles.sample_weight],
            "sample_weight",
            least=0.0,
            open_least=True,
        )
    return Block(
        numeric,
        codes,
        treatment,
        to_float(roles.response, frame[roles.response], "response"),
        cost,
        propensity,
        weight,
        np.arange(first_row, first_row + num_rows, dtype=np.int64),
    )
