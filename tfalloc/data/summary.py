"""What a trial looks like: arms, outcomes, and whether the randomisation holds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tfalloc.data.balance import Balance, chi_square_tail
from tfalloc.data.moments import TrialStats
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
