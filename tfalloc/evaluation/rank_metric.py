"""What a rank metric returns: one number, its interval, and the curve that it is the area of."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from tfalloc.evaluation._rows import Floats
from tfalloc.evaluation.policy import quantile


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
