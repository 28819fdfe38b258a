"""What the columns of a trial mean: `Schema`, from a user's choices; finds arms and categories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from tfalloc.data import columns as checks
from tfalloc.data.arms import Arms, find_arms, is_label_column
from tfalloc.data.columns import STRING, require_columns, require_unique
from tfalloc.data.features import FeatureSchema, columns_by_name

Mapped = Mapping[Any, float]


@dataclass(frozen=True, kw_only=True)
class Schema(FeatureSchema):
    """What the columns of a trial mean: its features, and what else it knows of users.

    Attributes:
      categories: string feature -> its distinct values in the whole trial, most frequent first.
      arms: the treatments.
      cost_table: cost per arm [K] when costs were given as a mapping, else None.
      propensity_table: share per arm [K] unless a column gives propensities.
      propensity_source: "observed", "column" or "mapping".
      weighted: whether rows have sample weights.
    """

    categories: dict[str, tuple[str, ...]]
    arms: Arms
    cost_table: np.ndarray | None
    propensity_table: np.ndarray | None
    propensity_source: str
    weighted: bool

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
        return list(dict.fromkeys(name for _, name in self._given()))

    def of(self, frame: pd.DataFrame) -> dict[str, pd.Series]:
        """The target columns of a frame by role."""
        return {role: frame[name] for role, name in self._given()}

    def _given(self) -> list[tuple[str, str]]:
        return [(role, name) for role, name in vars(self).items() if name is not None]


def from_table(
    table: Any,
    *,
    treatment: str,
    response: str,
    cost: str | Mapped,
    features: Sequence[str] | None = None,
    propensity: str | Mapped | None = None,
    sample_weight: str | None = None,
    treatments: Sequence[Any] | None = None,
    missing: str = "error",
) -> tuple[Roles, Schema]:
    """Resolves a user's choices against a table.

    Args:
      table: has `columns`, all names; `head()`, rows that show each column's type; and
        `chunks(names)`, which yields all rows of these columns. That is read once, and only
        for the treatment and the string features: their values decide arms and codes.
      treatment, response, cost, features, propensity, sample_weight, treatments, missing: as
        `RCTData.from_frame`.
    """
    columns, head = list(table.columns), table.head()
    checks.check_missing(missing)
    require_unique(columns)
    roles = Roles(
        treatment,
        response,
        cost if isinstance(cost, str) else None,
        propensity if isinstance(propensity, str) else None,
        sample_weight,
    )
    wanted = [("treatment", treatment), ("response", response)]
    for role, name in (
        ("cost", roles.cost),
        ("propensity", roles.propensity),
        ("sample_weight", sample_weight),
    ):
        if name is not None:
            wanted.append((role, name))
    require_columns(wanted, columns)
    if treatment in (response, roles.cost, roles.propensity, sample_weight):
        raise ValueError(
            f"column {treatment!r} is the treatment and another target too; expected columns of "
            "their own for response, cost, propensity and weight."
        )
    names = _feature_names(columns, roles, features)
    kinds = {name: checks.kind_of(name, head[name]) for name in names}
    by_label = is_label_column(head[treatment])

    strings = [name for name, kind in kinds.items() if kind == STRING]
    distinct, counts = _scan(table.chunks, treatment, strings, missing)
    cost_map = None if isinstance(cost, str) else cost
    arms = find_arms(distinct, by_label, treatments, cost_map)
    schema = Schema(
        kinds=kinds,
        categories={name: _ordered(counts[name]) for name in strings},
        matrix=False,
        missing=missing,
        arms=arms,
        cost_table=None if cost_map is None else _cost_table(arms, cost_map),
        propensity_table=(
            _share_table(arms, propensity) if isinstance(propensity, Mapping) else None
        ),
        propensity_source="column"
        if roles.propensity is not None
        else "observed"
        if propensity is None
        else "mapping",
        weighted=sample_weight is not None,
    )
    return roles, schema


def from_arrays(
    features: Any,
    targets: Mapping[str, pd.Series],
    *,
    propensity: Mapped | None,
    num_treatments: int | None,
    treatment_names: Sequence[str] | None,
    missing: str,
) -> Schema:
    """Finds the meaning of arrays.

    Args:
      features: a data frame, a dict of columns, or a matrix, as `RCTData`.
      targets: by role; treatment, response and cost, and if there are columns for them
        propensity and sample_weight.
      propensity: {treatment: share}, if there is no column.
      num_treatments, treatment_names, missing: as `RCTData`.
    """
    checks.check_missing(missing)
    columns, matrix = _feature_columns(features)
    received = targets["treatment"]
    for name, values in [*targets.items(), *columns.items()]:
        if len(values) != len(received):
            raise ValueError(
                f"{name!r} has {len(values)} rows, treatment has {len(received)}; "
                "expected equal lengths."
            )
    if len(received) == 0:
        raise ValueError("the data set is empty (0 rows); expected at least one row per arm.")
    kinds = {name: checks.kind_of(name, column) for name, column in columns.items()}
    counts: dict[str, Counter[str]] = {n: Counter() for n, kind in kinds.items() if kind == STRING}
    for name, counter in counts.items():
        _count_strings(counter, name, columns[name], missing)
    arms = find_arms(
        pd.unique(received), is_label_column(received), treatment_names, None, num_treatments
    )
    return Schema(
        kinds=kinds,
        categories={name: _ordered(counter) for name, counter in counts.items()},
        matrix=matrix,
        missing=missing,
        arms=arms,
        cost_table=None,
        propensity_table=None if propensity is None else _share_table(arms, propensity),
        propensity_source="mapping"
        if propensity is not None
        else "column"
        if "propensity" in targets
        else "observed",
        weighted="sample_weight" in targets,
    )


def _feature_columns(features: Any) -> tuple[dict[str, pd.Series], bool]:
    if isinstance(features, (pd.DataFrame, Mapping)):
        named = columns_by_name(features, "features", [])
        if not named:
            raise ValueError("features is an empty dict; expected at least one column.")
        return {name: checks.as_series(name, column) for name, column in named.items()}, False
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


def _feature_names(
    columns: Sequence[str], roles: Roles, features: Sequence[str] | None
) -> list[str]:
    if isinstance(features, str):
        raise ValueError(f"features={features!r} is one string; expected a list of column names.")
    taken = roles.columns()
    if features is None:
        names = [name for name in columns if name not in taken]
    else:
        names = list(features)
        require_columns([("feature", name) for name in names], columns)
        require_unique(names)
        for name in names:
            if name in taken:
                raise ValueError(
                    f"column {name!r} is both a feature and a target (treatment, response, cost, "
                    "propensity or weight); expected one role: leave it out of `features`."
                )
    if not names:
        raise ValueError(
            "no feature columns are left; expected at least one besides treatment, response and "
            "cost."
        )
    return names


def _scan(
    chunks: Callable[[list[str]], Iterator[pd.DataFrame]],
    treatment: str,
    strings: list[str],
    missing: str,
) -> tuple[list[Any], dict[str, Counter[str]]]:
    distinct: dict[Any, None] = {}
    counts: dict[str, Counter[str]] = {name: Counter() for name in strings}
    empty = True
    for chunk in chunks([treatment, *strings]):
        empty = empty and len(chunk) == 0
        for value in pd.unique(chunk[treatment]):
            distinct.setdefault(None if pd.isna(value) else value)
        for name in strings:
            _count_strings(counts[name], name, chunk[name], missing)
    if empty:
        raise ValueError("the data set is empty (0 rows); expected at least one row per arm.")
    if None in distinct:
        raise ValueError("treatment has missing values; expected one in every row: drop them.")
    return list(distinct), counts


def _count_strings(counts: Counter[str], name: str, column: Any, missing: str) -> None:
    """Adds a column's values to `counts`; refuses too many distinct ones early."""
    text = checks.to_strings(name, column, missing)
    for value, count in pd.Series(text, dtype=object).value_counts().items():
        if not isinstance(value, str):
            raise ValueError(
                f"feature column {name!r} mixes strings with {value!r}; expected strings only: "
                f"convert it, for example frame[{name!r}].astype(str)."
            )
        counts[value] += int(count)
    checks.check_cardinality(name, len(counts))


def _ordered(counts: Counter[str]) -> tuple[str, ...]:
    """Returns categories, most frequent first; equal counts by name."""
    return tuple(sorted(counts, key=lambda value: (-counts[value], value)))


def _cost_table(arms: Arms, cost: Mapped) -> np.ndarray:
    """Returns costs per arm as float64 [K], none negative."""
    table = arms.table(cost, "cost")
    if (table < 0).any():
        arm = int(np.argmax(table < 0))
        raise ValueError(
            f"cost mapping gives {table[arm]:g} for treatment {arms.names[arm]!r}; expected costs "
            ">= 0."
        )
    return table


def _share_table(arms: Arms, shares: Mapped) -> np.ndarray:
    """Returns shares per arm as float64 [K], in (0, 1] and summing to 1."""
    table = arms.table(shares, "propensity")
    if (table <= 0).any() or (table > 1).any():
        raise ValueError(
            f"propensity mapping has {table[(table <= 0) | (table > 1)][0]:g}; expected shares in "
            "(0, 1]."
        )
    if abs(table.sum() - 1) > 1e-3:
        raise ValueError(
            f"propensity mapping sums to {table.sum():g}; expected shares summing to 1."
        )
    return table
