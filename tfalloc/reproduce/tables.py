"""What runs over several seeds say: means, spread, paired differences, Markdown tables.

Two methods that saw the same rows share most of their luck. So methods are compared by their
differences within seeds, d_s = x_s - y_s over seeds s = 1 .. n, by Student's t:

    t = mean(d) / (sd(d) / sqrt(n)),    mean(d) -+ t_(n-1)(1 - a/2) sd(d) / sqrt(n)

The interval is about the mean over seeds (data and initial weights as the study draws them). It
knows nothing of how many methods were compared.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

CONFIDENCE = 0.95
_SOFTWARE = {
    "tfalloc": "tfalloc",
    "tensorflow": "TensorFlow",
    "keras": "Keras",
    "numpy": "NumPy",
    "python": "Python",
}


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, in their unit.

    Attributes:
      mean: of the differences; NaN without any.
      low, high: interval for it; NaN with fewer than two.
      p_value: two-sided, of a mean of 0; NaN with fewer than two.
      count: pairs.
    """

    mean: float
    low: float
    high: float
    p_value: float
    count: int


def paired_difference(
    values: npt.ArrayLike, reference: npt.ArrayLike, *, confidence: float = CONFIDENCE
) -> Difference:
    """The mean difference of two methods over the same seeds, with Student's t interval.

    Args:
      values: [n], one for each seed; pairs with a NaN are left out.
      reference: [n], of the method to compare with, in the same order of seeds.
      confidence: level of the interval.

    Returns:
      `Difference`. Differences that are all 0 have an interval of width 0 and a p-value of 1.

    Raises:
      ValueError: the lengths differ, or the level is not between 0 and 1.

    Example:
      >>> found = paired_difference([0.3, 0.5, 0.4], [0.2, 0.3, 0.3])
      >>> round(found.mean, 3), round(found.low, 3), round(found.high, 3), round(found.p_value, 3)
      (0.133, -0.01, 0.277, 0.057)
    """
    x, y = np.asarray(values, np.float64), np.asarray(reference, np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(
            f"values have shape {x.shape} and reference {y.shape}; expected one number for each "
            "seed, the same seeds in both."
        )
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence={confidence!r}: expected a level between 0 and 1.")
    d = x - y
    d = d[~np.isnan(d)]
    n = d.size
    if n < 2:
        return Difference(float(d[0]) if n else math.nan, math.nan, math.nan, math.nan, n)
    mean, error = float(d.mean()), float(d.std(ddof=1)) / math.sqrt(n)
    if error == 0.0:
        return Difference(mean, mean, mean, 1.0 if mean == 0.0 else 0.0, n)
    reach = student_t_quantile((1.0 + confidence) / 2.0, n - 1) * error
    p_value = 2.0 * student_t_tail(abs(mean) / error, n - 1)
    return Difference(mean, mean - reach, mean + reach, p_value, n)


def comparison(
    runs: pd.DataFrame,
    value: str,
    *,
    reference: Any = None,
    by: str = "method",
    seed: str = "seed",
    confidence: float = CONFIDENCE,
) -> pd.DataFrame:
    """Every method's mean over seeds, and its paired difference to a reference.

    Args:
      runs: one row per run, as `Runs.frame` gives.
      value: column of the figure.
      reference: method to compare with; None: the first.
      by: column of the method.
      seed: column of the seed that pairs runs.
      confidence: level of the intervals.

    Returns:
      One row per method in order of appearance: the column `by`, count, mean, sd (of single runs;
      NaN with fewer than two), difference, difference_low, difference_high, p_value, pairs. The
      reference's own differences are NaN.

    Raises:
      ValueError: a column or the reference is missing, or a method has two runs of a seed.

    Example:
      >>> runs = pd.DataFrame(
      ...     {"method": ["a", "b"] * 3, "seed": [0, 0, 1, 1, 2, 2], "x": [2, 3, 4, 5, 6, 8]}
      ... )
      >>> comparison(runs, "x").round(2)[["method", "mean", "difference", "p_value"]]
        method  mean  difference  p_value
      0      a  4.00         NaN      NaN
      1      b  5.33        1.33     0.06
    """
    absent = [name for name in (by, seed, value) if name not in runs.columns]
    if absent:
        raise ValueError(
            f"the runs have no column {absent}; expected some of {list(runs.columns)}."
        )
    if runs.duplicated([by, seed]).any():
        raise ValueError(
            f"some {by} has two runs of one {seed}; expected one of each: select the runs first."
        )
    wide = runs.pivot(index=seed, columns=by, values=value)[runs[by].drop_duplicates().tolist()]
    if reference is None:
        reference = wide.columns[0]
    if reference not in wide.columns:
        raise ValueError(f"reference={reference!r}: expected one of {list(wide.columns)}.")
    rows = []
    for method in wide.columns:
        x = wide[method].dropna()
        row = {by: method, "count": len(x), "mean": x.mean(), "sd": x.std()}
        found = paired_difference(wide[method], wide[reference], confidence=confidence)
        if method == reference:
            found = Difference(math.nan, math.nan, math.nan, math.nan, found.count)
        row |= {"difference": found.mean, "difference_low": found.low}
        row |= {"difference_high": found.high, "p_value": found.p_value, "pairs": found.count}
        rows.append(row)
    return pd.DataFrame(rows)


def largest(values: pd.DataFrame) -> Any:
    """The column with the largest mean over the rows that all have, the earliest of equals.

    So that none is ahead by easier seeds; over its own rows where no row has all.

    Args:
      values: one row per seed, one column for each that competes; NaN: was not run.

    Example:
      >>> largest(pd.DataFrame({"a": [0.1, 0.9], "b": [0.5, float("nan")]}))
      'b'
    """
    common = values.dropna()
    return (common if len(common) else values).mean().fillna(-math.inf).idxmax()


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table, its first column to the left and the others to the right.

    Args:
      columns: headings.
      rows: cells; floats get four digits, NaN and None a dash.

    Raises:
      ValueError: a row has another number of cells than there are headings.

    Example:
      >>> print(markdown(["method", "value"], [["a|b", 0.123456], ["c", float("nan")]]))
      | method | value |
      |:---|---:|
      | a\\|b | 0.1235 |
      | c | - |
    """
    lines = [list(columns), [":---", *["---:"] * (len(columns) - 1)]]
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"row {list(row)} has {len(row)} cells; expected {len(columns)}.")
        lines.append([number(cell) if _numeric(cell) else str(cell) for cell in row])
    rule = "|" + "|".join(lines.pop(1)) + "|"
    shown = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([shown[0], rule, *shown[1:]])


def number(value: Any, digits: int = 4) -> str:
    """A number for a table.

    >>> number(0.123456), number(12), number(float("nan"))
    ('0.1235', '12', '-')
    """
    if value is None or value != value:
        return "-"
    return f"{value:,}" if isinstance(value, (int, np.integer)) else f"{value:.{digits}g}"


def spread(mean: float, sd: float, digits: int = 4) -> str:
    """Mean and standard deviation for a table.

    >>> spread(0.75, 0.01), spread(0.75, float("nan"))
    ('0.7500 ± 0.0100', '0.7500')
    """
    if mean != mean:
        return "-"
    return f"{mean:.{digits}f}" + ("" if sd != sd else f" ± {sd:.{digits}f}")


def difference(found: Difference | Mapping[str, Any], digits: int = 4) -> str:
    """A paired difference for a table: mean (interval), p.

    Args:
      found: `Difference`, or a row of `comparison`.
      digits: after the point.

    Example:
      >>> difference(Difference(0.1, -0.02, 0.22, 0.0713, 5), digits=2)
      '+0.10 (-0.02 … +0.22), p = 0.071'
    """
    if not isinstance(found, Difference):
        names = ("difference", "difference_low", "difference_high", "p_value", "pairs")
        found = Difference(*[found[name] for name in names])
    if found.mean != found.mean:
        return "-"
    mean = f"{found.mean:+.{digits}f}"
    if found.low != found.low:
        return mean
    interval = f"({found.low:+.{digits}f} … {found.high:+.{digits}f})"
    return f"{mean} {interval}, p = {found.p_value:.2g}"


def percent(value: float, low: float, high: float) -> str:
    """A relative difference for a table, with its interval if there is one.

    >>> percent(0.0116, 0.0072, 0.016), percent(0.0116, float("nan"), float("nan"))
    ('+1.16% (+0.72% … +1.60%)', '+1.16%')
    """
    return f"{value:+.2%}" + ("" if low != low else f" ({low:+.2%} … {high:+.2%})")


def refusals(refused: Sequence[tuple[Mapping[str, Any], str]]) -> list[str]:
    """Paragraphs that name the runs which are not in a table: one, or none.

    Args:
      refused: `Runs.refused`.

    Example:
      >>> refusals([({"method": "DRP", "seed": 3}, "no uplift."), ({"method": "b"}, "no uplift.")])
      ['Refused, and not in the table: DRP 3, b (no uplift.)']
    """
    by: dict[str, list[str]] = {}
    for key, why in refused:
        by.setdefault(why, []).append(" ".join(str(part) for part in key.values()))
    named = "; ".join(f"{', '.join(runs)} ({why})" for why, runs in by.items())
    return [f"Refused, and not in the table: {named}"] if by else []


def made_by(provenance: Sequence[Mapping[str, Any]], seconds: float | None = None) -> str:
    """The lines under a table: commands, versions and machines of its runs, and their time.

    Args:
      provenance: `Runs.provenance`.
      seconds: of all runs together; None: nothing is said of it.
    """
    commands: dict[str, list[str]] = {}
    for each in provenance:
        by = ", ".join(f"{label} {each.get(name, '?')}" for name, label in _SOFTWARE.items())
        machine = f"{each.get('cores', '?')} cores, {each.get('machine', '?')}"
        typed = commands.setdefault(f"({by}; {machine})", [])
        typed += [f"`{each['command']}`"] if "command" in each else []
    parts = ["\n".join([*typed, by]) for by, typed in commands.items()]
    if seconds is not None:
        hours = f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"
        parts.append(f"All runs together: {hours}; what several build on is counted in each.")
    return "\n\n".join(parts)


def student_t_tail(t: float, degrees: float) -> float:
    """P(T > t) of Student's t for t >= 0: half of I_x(n/2, 1/2) at x = n / (n + t^2).

    >>> round(student_t_tail(2.228, 10), 4)
    0.025
    """
    import tensorflow as tf  # for its incomplete beta function: SciPy is no dependency

    x = degrees / (degrees + t * t)
    ends = (tf.constant(part, tf.float64) for part in (degrees / 2.0, 0.5, x))
    return 0.5 * float(tf.math.betainc(*ends))


@functools.lru_cache(None)
def student_t_quantile(level: float, degrees: float) -> float:
    """The t whose lower tail is `level`, at least .5, by bisection.

    >>> round(student_t_quantile(0.975, 10), 3)
    2.228
    """
    low, high = 0.0, 1.0
    while student_t_tail(high, degrees) > 1.0 - level:
        low, high = high, 2.0 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2.0
        if middle in (low, high):
            break
        low, high = (
            (middle, high) if student_t_tail(middle, degrees) > 1.0 - level else (low, middle)
        )
    return (low + high) / 2.0


def _numeric(cell: Any) -> bool:
    return cell is None or (
        isinstance(cell, (int, float, np.number)) and not isinstance(cell, bool)
    )
