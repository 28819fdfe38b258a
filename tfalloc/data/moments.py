"""Moments of a trial, accumulated block by block: one pass, constant memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from tfalloc.data.rows import Block
from tfalloc.data.schema import Schema


class ArmMoments(NamedTuple):
    """Moments of one outcome.

    Attributes:
      mean: of each arm, [K].
      stderr: of the means, [K].
      arm_variance: within each arm, [K].
      second_moment: mean square over the trial.
      variance: over the trial.
      binary: whether all values are 0 or 1.
      nonnegative: whether no value is below 0.
      total_mean: over the trial.
      positive_share: share of values above 0 in each arm, [K].
      positive_mean: mean of the values above 0 in each arm, [K]; 0 where there are none.
      log_variance: variance of the logarithm of the values above 0 in each arm, [K].
    """

    mean: np.ndarray
    stderr: np.ndarray
    arm_variance: np.ndarray
    second_moment: float
    variance: float
    binary: bool
    nonnegative: bool
    total_mean: float
    positive_share: np.ndarray
    positive_mean: np.ndarray
    log_variance: np.ndarray


class PositiveSums(NamedTuple):
    """Weighted sums over the values above 0 of one outcome in each arm, [K]: 1, x, log x, log^2."""

    one: np.ndarray
    value: np.ndarray
    log: np.ndarray
    log2: np.ndarray

    @classmethod
    def zeros(cls, k: int) -> PositiveSums:
        """No rows yet."""
        return cls(*np.zeros((4, k)))

    def add(self, arm: np.ndarray, weight: np.ndarray, value: np.ndarray) -> None:
        """Adds rows in place."""
        above = value > 0
        arm, weight, value = arm[above], weight[above], value[above]
        log = np.log(value)
        terms = (weight, weight * value, weight * log, weight * log * log)
        for total, term in zip(self, terms, strict=True):
            total += np.bincount(arm, weights=term, minlength=len(total))


class TrialStats:
    """Counts, weighted outcome moments by arm, and unweighted feature moments.

    Attributes:
      rows: rows per arm, int64 [K].
      w, w2: sums of weights and squared weights per arm, float64 [K].
      wy, w2y, w2yy, wz, w2z, w2zz: the same times response y and cost z, [K].
      positive: sums over the positive values of "response" and "cost".
      finite: non-missing values per numeric feature, [Fn].
      low, high: least and largest value per numeric feature, [Fn].
      counts: for each string feature, rows per category.
      binary, nonnegative: whether all responses are 0 or 1, or >= 0.
      binary_cost: whether all costs are 0 or 1.
    """

    def __init__(self, schema: Schema):
        k, num_numeric = len(schema.arms.names), len(schema.numeric)
        self.rows = np.zeros(k, np.int64)
        self.w, self.w2, self.wy, self.w2y, self.w2yy, self.wz, self.w2z, self.w2zz = np.zeros(
            (8, k)
        )
        self.positive = {name: PositiveSums.zeros(k) for name in ("response", "cost")}
        self.finite = np.zeros(num_numeric, np.int64)
        self.low = np.full(num_numeric, np.inf)
        self.high = np.full(num_numeric, -np.inf)
        self._shift = np.zeros(num_numeric)
        self._shifted = np.zeros(num_numeric, bool)
        self._sum = np.zeros(num_numeric)
        self._sum2 = np.zeros(num_numeric)
        self.counts = [np.zeros(len(schema.categories[name]), np.int64) for name in schema.strings]
        self.binary = self.nonnegative = self.binary_cost = True

    @property
    def num_rows(self) -> int:
        """Rows in all arms."""
        return int(self.rows.sum())

    @property
    def shares(self) -> np.ndarray:
        """Weighted share of each arm, float64 [K]."""
        return self.w / self.w.sum()

    @property
    def feature_mean(self) -> np.ndarray:
        """Mean of the non-missing values of each numeric feature, float64 [Fn] (0 if none)."""
        return self._shift + self._sum / np.maximum(self.finite, 1)

    @property
    def feature_variance(self) -> np.ndarray:
        """Population variance of the non-missing values, float64 [Fn]; exactly 0 if constant."""
        n = np.maximum(self.finite, 1)
        variance = np.maximum(self._sum2 / n - (self._sum / n) ** 2, 0.0)
        return np.where(self.low < self.high, variance, 0.0)

    @property
    def feature_missing(self) -> np.ndarray:
        """Missing values of each numeric feature, int64 [Fn]."""
        return self.num_rows - self.finite

    def add(self, block: Block) -> None:
        """Adds the rows of a block."""
        if len(block) == 0:
            return
        k, arm = len(self.rows), block.treatment
        y, z = block.response.astype(np.float64), block.cost.astype(np.float64)
        w = np.ones(len(block)) if block.weight is None else block.weight.astype(np.float64)
        self.rows += np.bincount(arm, minlength=k)
        w2 = w * w
        for name, term in (
            ("w", w),
            ("w2", w2),
            ("wy", w * y),
            ("w2y", w2 * y),
            ("w2yy", w2 * y * y),
            ("wz", w * z),
            ("w2z", w2 * z),
            ("w2zz", w2 * z * z),
        ):
            getattr(self, name).__iadd__(np.bincount(arm, weights=term, minlength=k))
        self.positive["response"].add(arm, w, y)
        self.positive["cost"].add(arm, w, z)
        self.binary = self.binary and bool(((y == 0) | (y == 1)).all())
        self.nonnegative = self.nonnegative and bool((y >= 0).all())
        self.binary_cost = self.binary_cost and bool(((z == 0) | (z == 1)).all())
        self._add_features(block)

    def _add_features(self, block: Block) -> None:
        for i in range(len(self.finite)):
            x = block.numeric[:, i].astype(np.float64)
            x = x[~np.isnan(x)]
            if len(x) == 0:
                continue
            if not self._shifted[i]:
                # Moments about a value near the mean: the sum of squares does not cancel.
                self._shift[i], self._shifted[i] = x.mean(), True
            self.low[i] = min(self.low[i], x.min())
            self.high[i] = max(self.high[i], x.max())
            x -= self._shift[i]
            self.finite[i] += len(x)
            self._sum[i] += x.sum()
            self._sum2[i] += x @ x
        for i, counts in enumerate(self.counts):
            counts += np.bincount(block.codes[:, i], minlength=len(counts))

    def mean_and_error(self, outcome: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns (weighted mean [K], its standard error [K]) of "response" or "cost"."""
        wx, w2x, w2xx = (
            (self.wy, self.w2y, self.w2yy)
            if outcome == "response"
            else (self.wz, self.w2z, self.w2zz)
        )
        mean = wx / np.maximum(self.w, 1e-300)
        # Linearised ratio: sum w^2 (x - mean)^2 / (sum w)^2, with the small-sample factor.
        spread = np.maximum(w2xx - 2 * mean * w2x + mean**2 * self.w2, 0.0)
        factor = self.rows / np.maximum(self.rows - 1, 1)
        return mean, np.sqrt(spread * factor) / np.maximum(self.w, 1e-300)

    def moments(self, outcome: str) -> ArmMoments:
        """Returns the moments of "response" or "cost"."""
        wx, w2xx = (self.wy, self.w2yy) if outcome == "response" else (self.wz, self.w2zz)
        mean, stderr = self.mean_and_error(outcome)
        # Second moments only set scales, so the squared weights that are at hand will do.
        square = w2xx / np.maximum(self.w2, 1e-300)
        total = float(w2xx.sum() / max(self.w2.sum(), 1e-300))
        total_mean = float(wx.sum() / max(self.w.sum(), 1e-300))
        above = self.positive[outcome]
        rows = np.maximum(above.one, 1e-300)
        return ArmMoments(
            mean=mean,
            stderr=stderr,
            arm_variance=np.maximum(square - mean**2, 0.0),
            second_moment=total,
            variance=max(total - total_mean**2, 0.0),
            binary=self.binary if outcome == "response" else self.binary_cost,
            nonnegative=self.nonnegative if outcome == "response" else True,
            total_mean=total_mean,
            positive_share=above.one / np.maximum(self.w, 1e-300),
            positive_mean=above.value / rows,
            log_variance=np.maximum(above.log2 / rows - (above.log / rows) ** 2, 0.0),
        )

    def check_arms(self, names: Iterable[str], where: str = "") -> None:
        """Raises ValueError when there is no row at all, or an arm has none."""
        if self.num_rows == 0:
            raise ValueError(
                f"{where or 'the data set'} is empty (0 rows); expected at least one row per arm."
            )
        for arm, name in enumerate(names):
            if self.rows[arm] == 0:
                raise ValueError(
                    f"treatment {arm} ({name!r}) has no rows{' in ' + where if where else ''}; "
                    "expected at least one row per arm: leave the arm out, or use more rows."
                )


def measure(blocks: Iterable[Block], schema: Schema) -> TrialStats:
    """Returns the stats of all `blocks`."""
    stats = TrialStats(schema)
    for block in blocks:
        stats.add(block)
    return stats
