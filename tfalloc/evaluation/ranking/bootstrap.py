"""What a rank metric returns, and its interval: the Poisson bootstrap of rows, or of clusters.

In each replicate every row counts Poisson(1) times, independently: for many rows that is the
bootstrap, without the sum of counts being fixed, which the ratios of the metrics make immaterial.
Rows are sorted once; a replicate only reweights them.

Rows whose outcomes are all 0 move nothing but the sizes of their arms. If they all have the weight
of their arm, their counts are drawn together, as one Poisson variable: of Criteo's rows 95 %.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tfalloc.evaluation.policy import quantile
from tfalloc.evaluation.ranking.order import Ints
from tfalloc.evaluation.trial_rows import Floats, Rows

# Counts drawn at a time: bounds the memory of a replicate's arrays, beyond that of one.
CHUNK_ENTRIES = 1 << 21
# Groups of neighbouring scores in a replicate. Within one the curve is taken as straight.
MAX_GROUPS = 1 << 14


@dataclass(frozen=True)
class RankMetric:
    """How well a score ranks the rows of a trial; `float(metric)` is its value.

    Attributes:
      value: the metric.
      low, high: bootstrap interval, value -+ a normal quantile times stderr; NaN without bootstrap.
      stderr: bootstrap standard error; NaN without.
      random: what a score of pure noise gets in expectation.
      response_uplift: response per user of the last arm minus that of arm 0, in these rows.
      cost_uplift: likewise cost; NaN where the metric knows no costs.
      curve: the curve under which the area lies; the column `random` is its random line.
      confidence: level of the interval.
      num_bootstrap: replicates asked for.
    """

    value: float
    low: float
    high: float
    stderr: float
    random: float
    response_uplift: float
    cost_uplift: float
    curve: pd.DataFrame = field(repr=False, compare=False)
    confidence: float
    num_bootstrap: int

    def __float__(self) -> float:
        return self.value


def interval(value: float, replicates: Floats, confidence: float) -> dict[str, float]:
    """low, high and stderr from bootstrap replicates; those that are NaN are left out.

    Args:
      value: the estimate.
      replicates: [B], of the estimate; empty: no interval.
      confidence: level.
    """
    found = replicates[np.isfinite(replicates)]
    stderr = float(found.std(ddof=1)) if found.size > 1 else float("nan")
    margin = quantile(confidence) * stderr
    return {"low": value - margin, "high": value + margin, "stderr": stderr}


def _poisson_table() -> npt.NDArray[np.uint8]:
    """Poisson(1) counts by inversion at 2^16 midpoints: the mean is 1 to five digits."""
    factorials = np.cumprod(np.append(1.0, np.arange(1.0, 12.0)))
    levels = np.cumsum(np.exp(-1.0) / factorials)
    return np.searchsorted(levels, (np.arange(1 << 16) + 0.5) / (1 << 16)).astype(np.uint8)


class Resampler:
    """Draws how often each unit (row or cluster) counts, and the weighted sizes of the arms.

    Args:
      rows: the trial.
      kept: [N], rows whose outcomes are not all 0; None: all rows are wanted.
      seed: seeds the draws.

    Attributes:
      unit: [N], position of each row's unit among those drawn; meaningless for rows not kept.
      kept: [N], as given, or None if rows could not be drawn together after all.
    """

    def __init__(self, rows: Rows, kept: npt.NDArray[np.bool_] | None, seed: int):
        arms = len(rows.names)
        self._rng = np.random.default_rng(seed)
        self._table = _poisson_table()
        self._rest: tuple[Floats, Floats] | None = None
        self.kept = kept
        if rows.cluster is not None:
            self.unit: Ints = rows.cluster
            self._count = int(rows.cluster.max()) + 1
            flat = rows.cluster * arms + rows.treatment
            sizes = np.bincount(flat, weights=rows.weight, minlength=self._count * arms)
            self._sizes: Floats | None = sizes.astype(np.float64).reshape(-1, arms)
            return
        self._sizes = None
        each = _weight_of_arms(rows)
        if kept is None or each is None:
            self.kept = None
            self.unit, self._count = np.arange(rows.treatment.size), rows.treatment.size
            self._arm, self._weight = rows.treatment, rows.weight
        else:
            self.unit, self._count = np.cumsum(kept) - 1, int(np.count_nonzero(kept))
            self._arm, self._weight = rows.treatment[kept], rows.weight[kept]
            others = np.bincount(rows.treatment[~kept], minlength=arms)
            self._rest = others.astype(np.float64), each
        self._arms = arms

    def draws(self, num: int, width: int) -> Iterator[tuple[npt.NDArray[np.uint8], Floats]]:
        """Yields (counts [B, units], weighted arm sizes [B, K]) until there are `num` replicates.

        Args:
          num: replicates.
          width: numbers that the caller needs per replicate: decides how many come at once.
        """
        batch = max(1, CHUNK_ENTRIES // max(width, self._count, 1))
        for first in range(0, num, batch):
            shape = (min(batch, num - first), self._count)
            counts = self._table[self._rng.integers(0, 1 << 16, shape, np.uint16)]
            yield counts, self._arm_sizes(counts)

    def _arm_sizes(self, counts: npt.NDArray[np.uint8]) -> Floats:
        if self._sizes is not None:
            return counts.astype(np.float64) @ self._sizes
        sizes = np.stack(
            [np.bincount(self._arm, weights=c * self._weight, minlength=self._arms) for c in counts]
        ).astype(np.float64, copy=False)
        if self._rest is not None:
            others, each = self._rest
            sizes += each * self._rng.poisson(others, sizes.shape)
        return sizes


def _weight_of_arms(rows: Rows) -> Floats | None:
    """The common weight of the rows of each arm, [K]; None if they differ within an arm."""
    each = np.zeros(len(rows.names))
    each[rows.treatment] = rows.weight
    return each if np.array_equal(each[rows.treatment], rows.weight) else None


def as_num_bootstrap(given: Any, least: int = 0) -> int:
    """Refuses numbers of replicates from which no standard error can be computed."""
    number = np.asarray(given)
    whole = number.ndim == 0 and number.dtype.kind in "iuf" and number % 1 == 0
    if not whole or (given != 0 and given < 20) or given < least:
        raise ValueError(
            f"num_bootstrap={given!r}; expected {'0 or ' if not least else ''}at least 20, such as "
            "200."
        )
    return int(given)
