"""Messages: what was passed, what was expected, how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


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
