"""Outcome at the budget against the weight of the goal: Fig. 3 of Yan et al. 2023."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pandas as pd

from tfalloc.evaluation.figure_style import (
    MEDIUM,
    PALETTE,
    finish,
    label_ends,
    styled_axes,
    write_title,
)
from tfalloc.tuning.results import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = {"val_goal": "response", "val_goal_low": "response_low", "val_goal_high": "response_high"}
DIFFERENCE = ["difference", "difference_low", "difference_high"]


def lambda_curve(study: Study) -> pd.DataFrame:
    """The complete trials of a study in the order of their goal_weight.

    It is the curve of goal_weight alone if nothing else was searched.

    Args:
      study: of `tuning.study`.

    Returns:
      One row per trial: trial, goal_weight, control, response (per user at the budget) with
      response_low and response_high, and the paired difference to the two-stage control with
      difference_low and difference_high (NaN for the control).
    """
    table = study.trials[study.trials.state == "COMPLETE"].rename(columns=COLUMNS)
    columns = ["trial", "goal_weight", "control", *COLUMNS.values(), *DIFFERENCE]
    table = table.reset_index()[columns]
    return table.sort_values(["goal_weight", "trial"], ignore_index=True)


def plot_lambda_curve(
    curve: pd.DataFrame,
    *,
    paired: bool = False,
    ax: Axes | None = None,
    path: str | os.PathLike[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Response per user against goal_weight (logarithmic, 0 at the left), with intervals.

    Args:
      curve: of `lambda_curve`.
      paired: whether to draw differences to the two-stage control, whose intervals are narrower
        because rows that both policies treat alike cancel.
      ax: axes to draw on; None: a new figure.
      path: file to write (.png, .pdf, .svg); it appears complete or not at all.
      title: text above the axes.

    Returns:
      The figure; the control is a line with a band (of width 0 if paired).

    Raises:
      ImportError: matplotlib is not installed.
      ValueError: the table is empty, or not one of `lambda_curve`.

    Example:
      >>> import pandas as pd
      >>> curve = pd.DataFrame({"goal_weight": [0.0, 1.0], "control": [True, False]})
      >>> curve = curve.assign(response=0.2, response_low=0.1, response_high=0.3)
      >>> plot_lambda_curve(curve).axes[0].get_xlabel()
      'Weight of the goal'
    """
    names = DIFFERENCE if paired else list(COLUMNS.values())
    absent = [name for name in ("goal_weight", "control", *names) if name not in curve.columns]
    if absent or curve.empty:
        raise ValueError(
            f"curve has {len(curve)} rows and columns {list(curve.columns)}; expected the result "
            "of lambda_curve, of a study with a complete trial."
        )
    axes = styled_axes(ax)
    others, control = curve[~curve.control].dropna(subset=names), curve[curve.control]
    blue, orange = PALETTE[:2]
    value, low, high = (others[name].to_numpy(float) for name in names)
    axes.errorbar(
        others["goal_weight"].to_numpy(float),
        value,
        yerr=[(value - low).tolist(), (high - value).tolist()],  # arrays of one point warn
        fmt="o",
        color=blue,
        markersize=5,
        linewidth=1.2,
        capsize=2,
    )
    positive = others["goal_weight"][others["goal_weight"] > 0]
    _weight_axis(axes, positive)
    right = float(positive.max()) * 1.3 if len(positive) else 1.0
    if len(control):
        level, bottom, top = (0.0 if paired else float(control[name].iloc[0]) for name in names)
        axes.axhline(level, color=orange, linewidth=1.6, zorder=1)
        axes.axhspan(bottom, top, color=orange, alpha=0.14, linewidth=0, zorder=0.5)
        label_ends(axes, [("two-stage", orange, right, level)])
    axes.set_xlabel("Weight of the goal", fontsize=MEDIUM)
    kind = "Response per user: difference to two-stage" if paired else "Response per user"
    axes.set_ylabel(kind, fontsize=MEDIUM)
    write_title(axes, title)
    return finish(axes, path)


def _weight_axis(axes: Axes, positive: Any) -> None:
    """Logarithmic above the smallest weight, linear from there down to 0 at the left."""
    least, most = (positive.min(), positive.max()) if len(positive) else (0.1, 1.0)
    axes.set_xscale("symlog", linthresh=float(least), linscale=0.6)
    axes.set_xlim(-0.25 * float(least), 1.3 * float(most))
    axes.xaxis.set_major_formatter(lambda weight, _: f"{weight:g}")
