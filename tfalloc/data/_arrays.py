"""Arrays to `Schema` and rows: the path behind `RCTData(...)`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from tfalloc.data import _columns, _schema
from tfalloc.data._arms import find_arms, is_label_column
from tfalloc.data._block import Roles, Schema, encode
from tfalloc.data._columns import STRING
from tfalloc.data._errors import require_unique
from tfalloc.data._memory import MemorySource


def build(
    features: Any,
    outcomes: Mapping[str, Any],
    *,
    propensity: Any,
    sample_weight: Any,
    num_treatments: int | None,
    treatment_names: Sequence[str] | None,
    missing: str,
) -> tuple[Schema, MemorySource]:
    """Returns the schema and rows; `outcomes` has treatment, response and cost, all [N].

    The other arguments, and the errors, are those of `RCTData`.
    """
    _columns.check_missing(missing)
    columns, matrix = _feature_columns(features)
    targets = dict(outcomes)
    if propensity is not None and not isinstance(propensity, Mapping):
        targets["propensity"] = propensity
    if sample_weight is not None:
        targets["sample_weight"] = sample_weight
    targets = {name: _one_dimensional(name, value) for name, value in targets.items()}
    _check_lengths(columns, targets)
    if len(targets["treatment"]) == 0:
        raise ValueError("the data set is empty (0 rows); expected at least one row per arm.")
    kinds = {name: _columns.kind_of(name, column) for name, column in columns.items()}
    strings = [name for name, kind in kinds.items() if kind == STRING]
    categories = {}
    for name in strings:
        counts: Counter[str] = Counter()
        _schema.count_strings(counts, name, columns[name], missing)
        categories[name] = _schema.ordered(counts)
    received = targets["treatment"]
    arms = find_arms(
        pd.unique(received), is_label_column(received), treatment_names, None, num_treatments
    )
    schema = Schema(
        kinds=kinds,
        categories=categories,
        matrix=matrix,
        missing=missing,
        arms=arms,
        cost_table=None,
        propensity_table=(
            _schema.share_table(arms, propensity) if isinstance(propensity, Mapping) else None
        ),
        propensity_source=_schema.source_of(propensity),
        weighted=sample_weight is not None,
    )
    # Targets get names that no feature can have, whatever the features are called.
    frame: dict[Any, Any] = dict(columns)
    frame.update({("target", name): value for name, value in targets.items()})
    roles = Roles(
        *[
            ("target", name) if name in targets else None  # type: ignore[arg-type]
            for name in ("treatment", "response", "cost", "propensity", "sample_weight")
        ]
    )
    block = encode(_Columns(frame, len(received)), roles, schema, 0)  # type: ignore[arg-type]
    return schema, MemorySource(block)


class _Columns(dict):
    """A dict of columns with the length of a frame, for `encode`."""

    def __init__(self, columns: Mapping[Any, Any], num_rows: int):
        super().__init__(columns)
        self._num_rows = num_rows

    def __len__(self) -> int:
        return self._num_rows


def _feature_columns(features: Any) -> tuple[dict[str, pd.Series], bool]:
    if isinstance(features, pd.DataFrame):
        require_unique([str(name) for name in features.columns])
        features = {str(name): features[name] for name in features.columns}
    if isinstance(features, Mapping):
        if not features:
            raise ValueError("features is an empty dict; expected at least one column.")
        return {str(k): _one_dimensional(str(k), v) for k, v in features.items()}, False
    matrix = np.asarray(features)
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise ValueError(
            f"features has shape {matrix.shape}; expected a matrix [N, F] or a dict of columns."
        )
    if not (np.issubdtype(matrix.dtype, np.number) or matrix.dtype == bool):
        raise ValueError(
            f"the feature matrix has dtype {matrix.dtype}; expected numbers: pass a dict of "
            "columns for strings."
        )
    return {str(i): pd.Series(matrix[:, i]) for i in range(matrix.shape[1])}, True


def _one_dimensional(name: str, values: Any) -> pd.Series:
    if isinstance(values, pd.Series):
        return values.reset_index(drop=True)
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name!r} has shape {array.shape}; expected one dimension, [N].")
    return pd.Series(array if array.dtype.kind not in "US" else array.astype(object))


def _check_lengths(columns: Mapping[str, Any], targets: Mapping[str, Any]) -> None:
    expected = len(targets["treatment"])
    for name, values in [*targets.items(), *columns.items()]:
        if len(values) != expected:
            raise ValueError(
                f"{name!r} has {len(values)} rows, treatment has {expected}; "
                "expected equal lengths."
            )
