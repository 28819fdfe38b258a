"""From a user's column choices to `Roles` and `Schema`; finds arms and categories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from tfalloc.data import _columns
from tfalloc.data._arms import Arms, find_arms, is_label_column
from tfalloc.data._block import Roles, Schema
from tfalloc.data._columns import STRING
from tfalloc.data._errors import require_columns, require_unique

Mapped = Mapping[Any, float]


def build(
    columns: Sequence[str],
    head: pd.DataFrame,
    chunks: Callable[[list[str]], Iterator[pd.DataFrame]],
    *,
    treatment: str,
    response: str,
    cost: str | Mapped,
    features: Sequence[str] | None,
    propensity: str | Mapped | None,
    sample_weight: str | None,
    treatments: Sequence[Any] | None,
    missing: str,
) -> tuple[Roles, Schema]:
    """Resolves the choices against the data.

    Args:
        columns: all column names of the source.
        head: rows that show each column's type (the whole frame, or a streamed source's first).
        chunks: chunks(names) yields the source's rows, only these columns. It is read once, and
            only the treatment and the string features: their values decide arms and codes.
        treatment, response, cost, features, propensity, sample_weight, treatments, missing: as
            `RCTData.from_frame`.
    """
    _columns.check_missing(missing)
    require_unique(list(columns))
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
    kinds = {name: _columns.kind_of(name, head[name]) for name in names}
    by_label = is_label_column(head[treatment])

    strings = [name for name, kind in kinds.items() if kind == STRING]
    distinct, counts = _scan(chunks, treatment, strings, missing)
    cost_map = None if isinstance(cost, str) else cost
    arms = find_arms(distinct, by_label, treatments, cost_map)
    schema = Schema(
        kinds=kinds,
        categories={name: ordered(counts[name]) for name in strings},
        matrix=False,
        missing=missing,
        arms=arms,
        cost_table=None if cost_map is None else cost_table(arms, cost_map),
        propensity_table=(
            share_table(arms, propensity) if isinstance(propensity, Mapping) else None
        ),
        propensity_source=source_of(propensity),
        weighted=sample_weight is not None,
    )
    return roles, schema


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
            count_strings(counts[name], name, chunk[name], missing)
    if empty:
        raise ValueError("the data set is empty (0 rows); expected at least one row per arm.")
    if None in distinct:
        raise ValueError("treatment has missing values; expected one in every row: drop them.")
    return list(distinct), counts


def count_strings(counts: Counter[str], name: str, column: Any, missing: str) -> None:
    """Adds a column's values to `counts`; refuses too many distinct ones early."""
    text = _columns.to_strings(name, column, missing)
    for value, count in pd.Series(text, dtype=object).value_counts().items():
        if not isinstance(value, str):
            raise ValueError(
                f"feature column {name!r} mixes strings with {value!r}; expected strings only: "
                f"convert it, for example frame[{name!r}].astype(str)."
            )
        counts[value] += int(count)
    _columns.check_cardinality(name, len(counts))


def ordered(counts: Counter[str]) -> tuple[str, ...]:
    """Returns categories, most frequent first; equal counts by name."""
    return tuple(sorted(counts, key=lambda value: (-counts[value], value)))


def source_of(propensity: Any) -> str:
    """Returns where propensities come from: "observed", "mapping" or "column"."""
    if propensity is None:
        return "observed"
    return "mapping" if isinstance(propensity, Mapping) else "column"


def cost_table(arms: Arms, cost: Mapped) -> np.ndarray:
    """Returns costs per arm as float64 [K], none negative."""
    table = arms.table(cost, "cost")
    if (table < 0).any():
        arm = int(np.argmax(table < 0))
        raise ValueError(
            f"cost mapping gives {table[arm]:g} for treatment {arms.names[arm]!r}; expected costs "
            ">= 0."
        )
    return table


def share_table(arms: Arms, shares: Mapped) -> np.ndarray:
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
