"""Treatments to arm indices, and per-arm mappings (cost, share) to tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tfalloc.data.columns import did_you_mean, shorten

MAX_ARMS = 10_000


@dataclass(frozen=True)
class Arms:
    """The arms of a trial.

    Attributes:
      names: label of each arm, [K].
      by_label: whether raw treatments are labels (True) or already indices (False).
    """

    names: tuple[str, ...]
    by_label: bool

    def encode(self, column: Any) -> np.ndarray:
        """Returns raw treatments as int32 [N] in [0, K)."""
        if self.by_label:
            codes, found = pd.factorize(pd.Series(column))
            if (codes < 0).any():
                raise_unknown_label(None, self.names)
            labels = [_text(label) for label in found]
            index = pd.Index(self.names).get_indexer(pd.Index(labels, dtype=object))
            if (index < 0).any():
                raise_unknown_label(labels[int(np.argmax(index < 0))], self.names)
            return index.astype(np.int32)[codes]
        arms = as_indices(column)
        check_range(arms, len(self.names))
        return arms.astype(np.int32)

    def table(self, mapping: Mapping[Any, float], role: str) -> np.ndarray:
        """Returns a mapping {label: number} as float64 [K]; every arm needs one entry."""
        given = {
            _spelled(str(label), self.names) or str(label): value
            for label, value in mapping.items()
        }
        for label in given:
            if label not in self.names:
                raise ValueError(
                    f"{role} mapping names treatment {label!r}; the treatments are "
                    f"{shorten(self.names)}." + did_you_mean(label, self.names)
                )
        absent = [name for name in self.names if name not in given]
        if absent:
            raise ValueError(
                f"{role} mapping has no entry for treatment {absent[0]!r}; expected one for each "
                f"of {shorten(self.names)}."
            )
        table = np.array([float(given[name]) for name in self.names])
        if not np.isfinite(table).all():
            raise ValueError(f"{role} mapping has a NaN or infinite value; expected numbers.")
        return table


def raise_unknown_label(label: object, names: Sequence[str]) -> None:
    """Raises the ValueError for a treatment that is no arm's label."""
    if label is None or label is pd.NA or (isinstance(label, float) and np.isnan(label)):
        raise ValueError("treatment has missing values; expected a label in every row: drop them.")
    raise ValueError(
        f"treatment {label!r} is not among the treatments {shorten(names)}; expected one of them: "
        "add it, or drop its rows." + did_you_mean(label, names)
    )


def is_label_column(column: Any) -> bool:
    """Returns whether treatments are labels (text) rather than arm indices."""
    series = pd.Series(column)
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = pd.Series(series.dtype.categories)
    if pd.api.types.is_object_dtype(series.dtype):
        return pd.api.types.infer_dtype(series, skipna=True) not in (
            "integer",
            "floating",
            "boolean",
            "mixed-integer-float",
            "decimal",
        )
    return not (
        pd.api.types.is_numeric_dtype(series.dtype) or pd.api.types.is_bool_dtype(series.dtype)
    )


def as_indices(column: Any) -> np.ndarray:
    """Returns integer, boolean or integral float treatments as int64 [N]."""
    series = pd.Series(column)
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(object)
    try:
        values = series.to_numpy(dtype=np.float64, na_value=np.nan)
    except OverflowError:
        raise ValueError(
            "treatment has an integer beyond the range of numbers; expected arm indices 0..K-1."
        ) from None
    bad = ~((np.abs(values) < 2.0**53) & (values == np.floor(values)))
    if bad.any():
        raise ValueError(
            f"treatment has {int(bad.sum())} non-integer value(s), for example {values[bad][0]:g}; "
            "expected arm indices 0..K-1, or strings with `treatments=[labels in order]`."
        )
    return values.astype(np.int64)


def check_range(arms: np.ndarray, num_treatments: int) -> None:
    """Raises ValueError for an arm index outside [0, K)."""
    outside = (arms < 0) | (arms >= num_treatments)
    if outside.any():
        raise ValueError(
            f"treatment has {int(outside.sum())} value(s) outside 0..{num_treatments - 1}, for "
            f"example {arms[outside][0]}; expected arm indices: renumber the arms, or pass them as "
            "strings with `treatments=[labels in order]`."
        )


def find_arms(
    distinct: Sequence[Any],
    by_label: bool,
    treatments: Sequence[Any] | None,
    order: Sequence[Any] | None = None,
    num_treatments: int | None = None,
    costs: Mapping[Any, float] | None = None,
) -> Arms:
    """Decides the arms and their order.

    Args:
      distinct: the distinct raw treatments of the trial.
      by_label: whether they are labels.
      treatments: labels in order, if the caller gave them.
      order: labels in the order to take them in otherwise.
      num_treatments: K, if the caller gave it (indices only).
      costs: mapping of costs, which may name an arm of index that has no rows.
    """
    if len(distinct) > MAX_ARMS:
        raise ValueError(
            f"treatment has {len(distinct):,} distinct values; expected at most {MAX_ARMS:,} arms: "
            "it looks like an identifier, name the column of the arm received."
        )
    names = None if treatments is None else tuple(str(label) for label in treatments)
    if names is not None and len(set(names)) < len(names):
        raise ValueError(f"treatments {shorten(names)} repeat a label; expected distinct labels.")
    if by_label:
        labels = [_text(label) for label in distinct]
        if names is None:
            names = tuple(_text(label) for label in order or labels)
        names = tuple(_spelled(name, labels) or name for name in names)
        for label in labels:
            if label not in names:
                raise_unknown_label(label, names)
    else:
        arms = as_indices(list(distinct))
        top = int(max(arms)) + 1
        if names is None:
            wanted = max(num_treatments or top, 1 if costs is None else min(len(costs), MAX_ARMS))
            there = np.unique(arms[(arms >= 0) & (arms < MAX_ARMS)])
            if wanted > max(len(there), 1 if costs is None else len(costs)):
                gap = np.flatnonzero(there != np.arange(len(there)))
                absent = int(gap[0] if len(gap) else len(there))
                raise ValueError(
                    f"treatment {absent} ({str(absent)!r}) has no rows, and there are {wanted:,} "
                    "treatments by the largest index; expected at least one row per arm: renumber "
                    "the arms from 0, or pass them as strings."
                )
            names = tuple(str(arm) for arm in range(wanted))
    if num_treatments is not None and num_treatments != len(names):
        raise ValueError(
            f"num_treatments={num_treatments}, but {len(names)} treatments are named "
            f"{shorten(names)}; expected equal numbers."
        )
    if len(names) < 2:
        raise ValueError(
            f"the trial has one treatment, {names[0]!r}; expected at least two arms to compare."
        )
    return Arms(names, by_label)


def _text(label: Any) -> str:
    return label.decode() if isinstance(label, bytes) else str(label)


def _spelled(label: str, known: Sequence[str]) -> str | None:
    """The label among those known: itself, else the one that differs by spaces around it."""
    if label in known:
        return label
    same = [other for other in known if other.strip() == label.strip()]
    return same[0] if len(same) == 1 else None
