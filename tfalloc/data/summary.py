"""What a trial looks like: arms, outcomes, and whether the randomisation holds.

For a design matrix x (numeric columns, missing indicators, frequent categories), arms t with
shares p and weights w, the score test of the multinomial logistic model "x predicts t" at its
null has the closed form

    U_k = sum_i w_i (1{t_i = k} - p_k) (x_i - mean),   M = sum_i w_i^2 (x_i - mean)(x_i - mean)'
    statistic = sum_k U_k' M^+ U_k / p_k   ~   chi-square, rank(M) (K - 1) degrees of freedom

which needs sums only: one pass over the data, no iterations, whatever the number of rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tfalloc.data.moments import TrialStats
from tfalloc.data.rows import Block
from tfalloc.data.schema import Schema

LEVEL = 1e-3
"""Significance level at which `TrialSummary` warns: one false alarm in a thousand trials."""


@dataclass(frozen=True)
class ArmSummary:
    """One arm; outcomes are per user, standard errors follow in `…_error`.

    Uplifts are differences from arm 0 and are 0 with error 0 for arm 0 itself.
    """

    name: str
    rows: int
    share: float
    response: float
    response_error: float
    cost: float
    cost_error: float
    response_uplift: float
    response_uplift_error: float
    cost_uplift: float
    cost_uplift_error: float


@dataclass(frozen=True)
class TrialSummary:
    """A trial in numbers.

    Attributes:
      num_rows: rows in all arms.
      num_features: columns, or width of the feature matrix.
      arms: one `ArmSummary` per treatment.
      response_kind: "binary", "nonnegative" or "real".
      propensity_source: "observed", "column" or "mapping".
      differences: feature -> largest standardised mean difference between two arms.
      balance_statistic, balance_degrees, balance_p_value: joint test of "do the features predict
        the treatment?"; NaN where propensities vary within an arm (the design then depends on
        features).
      share_p_value: test of arm sizes against a propensity mapping; NaN for other sources.
      warnings: sentences; empty for a proper trial.
    """

    num_rows: int
    num_features: int
    arms: tuple[ArmSummary, ...]
    response_kind: str
    propensity_source: str
    differences: dict[str, float]
    balance_statistic: float
    balance_degrees: int
    balance_p_value: float
    share_p_value: float
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        header = (
            "arm",
            "rows",
            "share",
            "response",
            "±se",
            "cost",
            "±se",
            "uplift(resp)",
            "±se",
            "uplift(cost)",
            "±se",
        )
        table = [header] + [
            (
                a.name,
                f"{a.rows:,}",
                f"{a.share:.4f}",
                f"{a.response:.5g}",
                f"{a.response_error:.2g}",
                f"{a.cost:.5g}",
                f"{a.cost_error:.2g}",
                f"{a.response_uplift:+.4g}",
                f"{a.response_uplift_error:.2g}",
                f"{a.cost_uplift:+.4g}",
                f"{a.cost_uplift_error:.2g}",
            )
            for a in self.arms
        ]
        widths = [max(len(row[i]) for row in table) for i in range(len(header))]
        lines = [
            f"{self.num_rows:,} rows, {self.num_features} features, {len(self.arms)} treatments, "
            f"{self.response_kind} response, propensity: {self.propensity_source}"
        ]
        for row in table:
            cells = [row[0].ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  ".join(cells))
        lines.append(f"uplifts are from the baseline: {self.arms[0].name!r}")
        worst = sorted(self.differences.items(), key=lambda item: -item[1])[:3]
        lines.append(
            "largest standardised mean differences: "
            + ", ".join(f"{name} {value:.4f}" for name, value in worst)
        )
        if math.isnan(self.balance_p_value):
            lines.append("randomisation: no joint test (propensities vary, or no usable feature)")
        else:
            lines.append(
                f"randomisation: chi-square {self.balance_statistic:.1f} on "
                f"{self.balance_degrees} degrees of freedom, p = {self.balance_p_value:.3g}"
            )
        lines += [f"WARNING: {warning}" for warning in self.warnings]
        return "\n".join(lines)


def summarise(
    stats: TrialStats,
    balance: Balance,
    schema: Schema,
    response_kind: str,
    design: np.ndarray | None,
) -> TrialSummary:
    """Puts moments and balance together.

    Args:
      stats: moments of the trial.
      balance: its balance check.
      schema: its columns and arms.
      response_kind: as `RCTData.response_kind`.
      design: intended share per arm [K] to test arm sizes against, or None.
    """
    mean_y, error_y = stats.mean_and_error("response")
    mean_z, error_z = stats.mean_and_error("cost")
    arms = []
    for k, name in enumerate(schema.arms.names):
        base = 0.0 if k == 0 else 1.0
        arms.append(
            ArmSummary(
                name,
                int(stats.rows[k]),
                float(stats.shares[k]),
                float(mean_y[k]),
                float(error_y[k]),
                float(mean_z[k]),
                float(error_z[k]),
                float(mean_y[k] - mean_y[0]),
                base * math.hypot(error_y[k], error_y[0]),
                float(mean_z[k] - mean_z[0]),
                base * math.hypot(error_z[k], error_z[0]),
            )
        )
    share_p = math.nan
    if design is not None:
        # Weighted counts, deflated to the effective number of rows.
        effective = stats.w.sum() ** 2 / stats.w2.sum()
        gap = stats.shares - design / design.sum()
        share_p = chi_square_tail(float(effective * (gap**2 / design).sum()), len(design) - 1)
    warnings = []
    if balance.p_value < LEVEL:
        worst = max(balance.differences, key=lambda name: balance.differences[name])
        warnings.append(
            f"the features predict the treatment (p = {balance.p_value:.2g}; most uneven: {worst}, "
            f"{balance.differences[worst]:.3f} sd between arms): randomisation looks broken, so "
            "effects may be confounded; check the assignment, or pass the true `propensity`."
        )
    if share_p < LEVEL:
        warnings.append(
            f"arm sizes differ from the propensity mapping (p = {share_p:.2g}): rows were lost or "
            "the shares are wrong."
        )
    return TrialSummary(
        stats.num_rows,
        len(schema.kinds),
        tuple(arms),
        response_kind,
        schema.propensity_source,
        balance.differences,
        balance.statistic,
        balance.degrees,
        balance.p_value,
        share_p,
        tuple(warnings),
    )


MAX_LEVELS = 20
"""Categories of a string feature that enter the test; the rest are one level together."""
MIN_COUNT = 25
"""Rarer indicators are left out: their sums are far from normal."""


@dataclass(frozen=True)
class Balance:
    """Outcome of the check.

    Attributes:
      differences: feature -> largest standardised mean difference between two arms.
      statistic, degrees, p_value: the joint test; NaN, 0, NaN when it does not apply.
    """

    differences: dict[str, float]
    statistic: float
    degrees: int
    p_value: float


def chi_square_tail(statistic: float, degrees: int) -> float:
    """Returns P(X > statistic) for a chi-square X with `degrees` degrees of freedom.

    The regularised upper incomplete gamma function, by its series or its continued fraction.

    Example:
      >>> round(chi_square_tail(3.841458820694124, 1), 6)
      0.05
    """
    a, x = degrees / 2.0, statistic / 2.0
    if degrees <= 0 or x <= 0:
        return 1.0
    scale = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:
        term = total = 1.0 / a
        n = a
        while term > total * 1e-16:
            n += 1
            term *= x / n
            total += term
        return max(0.0, 1.0 - total * scale)
    # Lentz's method.
    b, tiny = x + 1 - a, 1e-300
    c, d = 1 / tiny, 1 / b
    h = d
    for i in range(1, 100_000):
        an = -i * (i - a)
        b += 2
        d = 1 / (an * d + b or tiny)
        c = b + an / c or tiny
        h *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return min(1.0, scale * h)


class _Design:
    """Builds the columns of x for a block, and remembers whose they are."""

    def __init__(self, schema: Schema, stats: TrialStats):
        names, scale = schema.numeric, np.sqrt(stats.feature_variance)
        self.use = np.flatnonzero(scale > 0)
        self.mean, self.scale = stats.feature_mean[self.use], scale[self.use]
        self.owner = [names[i] for i in self.use]
        absent = stats.feature_missing
        self.absent = np.flatnonzero(np.minimum(absent, stats.finite) >= MIN_COUNT)
        self.owner += [names[i] for i in self.absent]
        self.levels: list[tuple[int, np.ndarray]] = []
        for column, (name, counts) in enumerate(zip(schema.strings, stats.counts, strict=True)):
            top = np.argsort(-counts, kind="stable")[:MAX_LEVELS]
            enough = (counts[top] >= MIN_COUNT) & (counts.sum() - counts[top] >= MIN_COUNT)
            self.levels.append((column, top[enough]))
            self.owner += [name] * int(enough.sum())

    def __call__(self, block: Block) -> np.ndarray:
        raw = block.numeric.astype(np.float64)
        scaled = np.nan_to_num((raw[:, self.use] - self.mean) / self.scale, nan=0.0)
        parts = [scaled, np.isnan(raw[:, self.absent])]
        parts += [block.codes[:, c, None] == level[None, :] for c, level in self.levels]
        return np.concatenate(parts, axis=1, dtype=np.float64)


def check_balance(blocks: Iterable[Block], schema: Schema, stats: TrialStats) -> Balance:
    """Checks the balance of features between arms in one pass.

    Where propensities vary within an arm the design itself depends on the features: means are then
    weighted by 1/propensity, and the joint test does not apply.
    """
    design = _Design(schema, stats)
    k, d = len(stats.rows), len(design.owner)
    total, first, second = np.zeros(k), np.zeros((k, d)), np.zeros((k, d))
    square, cross, outer = 0.0, np.zeros(d), np.zeros((d, d))
    low, high = np.full(k, np.inf), np.full(k, -np.inf)
    for block in blocks:
        x = design(block)
        w = np.ones(len(block)) if block.weight is None else block.weight.astype(np.float64)
        inverse = w / block.propensity if schema.propensity_source == "column" else w
        for arm in range(k):
            rows = block.treatment == arm
            if not rows.any():
                continue
            weight, here = inverse[rows], x[rows]
            total[arm] += weight.sum()
            first[arm] += weight @ here
            second[arm] += weight @ here**2
            low[arm] = min(low[arm], block.propensity[rows].min())
            high[arm] = max(high[arm], block.propensity[rows].max())
        weighted = x * (w * w)[:, None]
        square += float((w * w).sum())
        cross += weighted.sum(0)
        outer += weighted.T @ x
    mean = first / total[:, None]
    variance = np.maximum(second / total[:, None] - mean**2, 0.0)
    differences = dict.fromkeys(schema.kinds, 0.0)
    for a in range(k):
        for b in range(a):
            pooled = np.sqrt((variance[a] + variance[b]) / 2)
            gap = np.abs(mean[a] - mean[b])
            # No spread in either arm: any difference at all is complete separation.
            smd = np.where(
                gap > 0, gap / np.where(pooled > 0, pooled, np.where(gap > 0, 1e-12, 1.0)), 0.0
            )
            for name, value in zip(design.owner, smd, strict=True):
                differences[name] = max(differences[name], float(value))
    if d == 0 or (high > low * (1 + 1e-5)).any():
        return Balance(differences, math.nan, 0, math.nan)
    share = stats.shares
    # `first` and `total` hold w (or w over a constant per arm); turn means into sums of w.
    grand = share @ mean
    scores = stats.w[:, None] * (mean - grand)
    moment = (
        outer - np.outer(grand, cross) - np.outer(cross, grand) + square * np.outer(grand, grand)
    )
    spread = np.sqrt(np.maximum(np.diag(moment), 1e-300))
    values, vectors = np.linalg.eigh(moment / np.outer(spread, spread))
    keep = values > 1e-7 * d
    projected = (scores / spread) @ vectors[:, keep]
    statistic = float((projected**2 / values[keep] / share[:, None]).sum())
    degrees = int(keep.sum()) * (k - 1)
    return Balance(differences, statistic, degrees, chi_square_tail(statistic, degrees))
