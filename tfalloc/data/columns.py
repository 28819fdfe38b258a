"""One raw column to validated NumPy: numbers to float32, text to str; and how messages are worded.

Every input format arrives here as a pandas column, so that arrays, frames, CSV and streamed
Parquet obey the same rules and fail with the same words.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

MAX_CATEGORIES = 10_000
"""Most distinct values of a string feature: more is an identifier, not a category."""

NUMERIC, STRING = "numeric", "string"


def check_missing(missing: str) -> None:
    """Raises ValueError unless `missing` is a known policy."""
    if missing not in ("error", "indicator"):
        raise ValueError(f"missing={missing!r} is unknown; expected 'error' or 'indicator'.")


def kind_of(name: str, column: pd.Series) -> str:
    """Returns "numeric" or "string" for a column; refuses dates, lists and mixed types."""
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return kind_of(name, pd.Series(dtype.categories))
    if pd.api.types.is_bool_dtype(dtype):
        return NUMERIC
    if pd.api.types.is_complex_dtype(dtype) or pd.api.types.is_timedelta64_dtype(dtype):
        pass
    elif pd.api.types.is_numeric_dtype(dtype):
        return NUMERIC
    elif pd.api.types.is_object_dtype(dtype) or pd.api.types.is_string_dtype(dtype):
        inferred = pd.api.types.infer_dtype(column, skipna=True)
        if inferred in ("string", "bytes", "empty"):
            return STRING
        if inferred in ("integer", "floating", "mixed-integer-float", "boolean", "decimal"):
            return NUMERIC
        raise ValueError(
            f"feature column {name!r} holds {inferred} values; expected numbers, booleans or "
            f"strings of one kind: convert it, for example frame[{name!r}].astype(str)."
        )
    raise ValueError(
        f"feature column {name!r} has dtype {dtype}; expected numbers, booleans or strings: "
        "convert it to a number (for example days since a date) or leave it out of `features`."
    )


def as_series(name: str, values: Any) -> pd.Series:
    """Returns a column as pandas [N]; lists keep their missing values as such.

    Raises:
      ValueError: it does not have one dimension.
    """
    if isinstance(values, pd.Series):
        return values.reset_index(drop=True)
    if hasattr(values, "numpy"):
        values = values.numpy()
    if isinstance(values, (list, tuple)) and np.ndim(values[:1]) == 1:
        return pd.Series(values)  # NumPy would make the text "nan" of a NaN among strings
    if isinstance(values, (pd.api.extensions.ExtensionArray, pd.Index)):
        return pd.Series(values).reset_index(drop=True)
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name!r} has shape {array.shape}; expected one dimension, [N].")
    return pd.Series(array if array.dtype.kind not in "US" else array.astype(object))


def require_kind(name: str, column: pd.Series, kind: str) -> None:
    """Raises ValueError unless a feature is of the kind that it had in training.

    A column without any value is of either kind.
    """
    found = kind_of(name, column)
    if found != kind and not column.isna().all():
        words = {NUMERIC: "numbers", STRING: "text"}
        raise ValueError(
            f"feature {name!r} is {words[found]} (such as {column.dropna().iloc[0]!r}); expected "
            f"{words[kind]}, as in training."
        )


def _as_float64(name: str, role: str, column: Any) -> np.ndarray:
    series = column if isinstance(column, pd.Series) else pd.Series(np.asarray(column))
    if series.dtype == np.float32:
        return series.to_numpy()
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(object)
    try:
        return series.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError, OverflowError):
        try:
            return pd.to_numeric(series.astype(object)).to_numpy(np.float64, na_value=np.nan)
        except (TypeError, ValueError, OverflowError):
            example = next((v for v in series if isinstance(v, str)), series.iloc[0])
            raise ValueError(
                f"{role} {name!r} holds {example!r}; expected numbers: convert the column."
            ) from None


def feature_to_float32(name: str, column: Any, missing: str) -> np.ndarray:
    """Returns a numeric feature as float32 [N]; NaN only where `missing="indicator"`.

    Raises:
      ValueError: infinite values, or NaN when `missing="error"`; names column and count.
    """
    wide = _as_float64(name, "feature column", column)
    with np.errstate(over="ignore"):
        values = wide.astype(np.float32)
    num_nan = int(np.isnan(values).sum())
    num_inf = int(np.isinf(values).sum())
    if num_inf:
        raise ValueError(
            f"feature column {name!r} has {num_inf} infinite value(s) of "
            f"{len(values)} (as float32); expected finite numbers: clip them, or set them to NaN "
            "and pass missing='indicator'."
        )
    if num_nan and missing == "error":
        raise ValueError(
            f"feature column {name!r} has {num_nan} NaN value(s) of {len(values)}; expected finite "
            "numbers: pass missing='indicator' to impute them, or fill or drop these rows."
        )
    return values


def target_to_float32(
    name: str,
    column: Any,
    role: str,
    *,
    least: float | None = None,
    most: float | None = None,
    open_least: bool = False,
) -> np.ndarray:
    """Returns response, cost, propensity or weight as float32 [N], finite and within range."""
    wide = _as_float64(name, role, column)
    with np.errstate(over="ignore"):
        values = wide.astype(np.float32)
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise ValueError(
            f"{role} {name!r} has {bad} NaN or infinite value(s) of {len(values)}; expected finite "
            "numbers: drop these rows or mend the column."
        )
    outside = np.zeros(len(values), bool)
    if least is not None:
        outside |= (values <= least) if open_least else (values < least)
    if most is not None:
        # Above as given: a float64 share of 1 + 1e-9 is rounding, and float32 forgives it.
        outside |= values > most
    if outside.any():
        low = f"{'(' if open_least else '['}{least:g}"
        high = f"{most:g}]" if most is not None else "infinity)"
        raise ValueError(
            f"{role} {name!r} has {int(outside.sum())} value(s) outside {low}, {high}, for example "
            f"{values[outside][0]:g}; expected all inside: mend the column."
        )
    return values


def labels_to_float32(name: str, column: Any, labels: tuple[str, str]) -> np.ndarray:
    """Returns a response of two labels, (that of 0, that of 1), as float32 [N].

    Raises:
      ValueError: a label is missing, or another.
    """
    codes, found = pd.factorize(pd.Series(column))
    texts = [as_text(value) for value in found]
    other = [text for text in texts if text not in labels]
    if other or (codes < 0).any():
        raise ValueError(
            f"response {name!r} has {f'the label {other[0]!r}' if other else 'missing values'}; "
            f"expected {labels[0]!r} (0) or {labels[1]!r} (1) in every row."
        )
    return np.array([float(text == labels[1]) for text in texts], np.float32)[codes]


def ids_to_hashes(name: str, column: Any) -> np.ndarray:
    """Returns identifiers of any kind as int64 [N]; equal ones, and as good as only these, agree.

    Raises:
      ValueError: one is missing.
    """
    codes, found = pd.factorize(pd.Series(column))
    if (codes < 0).any():
        raise ValueError(
            f"cluster {name!r} has no id in row {int(np.argmax(codes < 0))}; expected one for each "
            "row: give rows of their own an id of their own."
        )
    texts = np.array([as_text(value) for value in found], object)
    return pd.util.hash_array(texts, categorize=False).view(np.int64)[codes]


def as_text(value: Any) -> str:
    """A label or identifier as text: that of a whole number has no decimal point."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def is_number(text: str) -> bool:
    """Whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def to_strings(name: str, column: Any, missing: str) -> np.ndarray:
    """Returns a string feature as object [N] of str; missing entries become "" or an error."""
    series = column if isinstance(column, pd.Series) else pd.Series(column, dtype=object)
    values = series.astype(object).to_numpy(copy=True)
    absent = pd.isna(values)
    if absent.any():
        if missing == "error":
            raise ValueError(
                f"feature column {name!r} has {int(absent.sum())} missing string(s) of "
                f"{len(values)}; expected text: pass missing='indicator' to make them a category "
                "of their own, or fill them."
            )
        values[absent] = ""
    if any(isinstance(value, bytes) for value in values):
        values = np.array([v.decode() if isinstance(v, bytes) else v for v in values], object)
    return values


def check_cardinality(name: str, num_distinct: int) -> None:
    """Raises ValueError when a string feature has more than `MAX_CATEGORIES` values."""
    if num_distinct > MAX_CATEGORIES:
        raise ValueError(
            f"string feature column {name!r} has more than {MAX_CATEGORIES:,} distinct values; "
            "expected a category, not an identifier: leave it out of `features`, group rare "
            "values, or convert it to a number."
        )


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """Returns `" Did you mean 'x'?"`, or an empty string when nothing is close.

    >>> did_you_mean("recencey", ["recency", "history"])
    " Did you mean 'recency'?"
    """
    lower = {str(item).lower(): str(item) for item in known}
    close = difflib.get_close_matches(str(name).lower(), list(lower), n=1, cutoff=0.6)
    return f" Did you mean {lower[close[0]]!r}?" if close else ""


def shorten(items: Sequence[object], limit: int = 12) -> str:
    """Lists `items` for a message, cut after `limit` of them."""
    shown = ", ".join(repr(item) for item in items[:limit])
    more = f", … ({len(items)} in all)" if len(items) > limit else ""
    return f"[{shown}{more}]"


def require_columns(wanted: Iterable[tuple[str, str]], known: Sequence[str]) -> None:
    """Raises ValueError for the first `(role, name)` in `wanted` that is not a known column."""
    names = list(known)
    for role, name in wanted:
        if name not in names:
            raise ValueError(
                f"{role} column {name!r} is not in the data; its columns are {shorten(names)}."
                + did_you_mean(name, names)
            )


def require_unique(names: Sequence[str]) -> None:
    """Raises ValueError when a column name occurs twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(
                f"column {name!r} occurs more than once; expected distinct column names: "
                "rename or drop the duplicates."
            )
        seen.add(name)
