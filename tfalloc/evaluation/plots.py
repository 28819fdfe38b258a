"""Figures of outcome curves, treatment mix and calibration; matplotlib is imported on use.

Figures are made with `matplotlib.figure.Figure`, never through pyplot: no window, no global
state, safe on a server and in threads.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tfalloc.evaluation.figure_style import (
    DASHES,
    INK,
    MEDIUM,
    PALETTE,
    SMALL,
    finish,
    label_ends,
    name_budget,
    percent_axis,
    plain_text,
    styled_axes,
    write_title,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Up to so many arms get a colour of their own; more share a sequential scale.
MAX_NAMED_ARMS = 6
CALIBRATION_COLUMNS = (
    *("outcome", "treatment", "predicted", "observed", "observed_low", "observed_high"),
    *("slope", "slope_stderr"),
)


def plot_outcome_curves(
    curves: Mapping[str, pd.DataFrame],
    *,
    truth: Mapping[str, pd.DataFrame] | pd.DataFrame | None = None,
    budget: float | None = None,
    ax: Axes | None = None,
    path: str | os.PathLike[str] | None = None,
    percent: bool = False,
    title: str | None = None,
) -> Figure:
    """Response per user against cost per user, one line with a band for each model.

    Args:
      curves: {name: `outcome_curve` table}; at most some seven stay readable.
      truth: `true_curve` tables {name: table}, or one such as the oracle's, drawn as thin dashed
        lines: in the colour of the model of that name, else in grey.
      budget: cost per user to mark.
      ax: axes to draw on; None: a new figure.
      path: file to write (.png, .pdf, .svg); it appears complete or not at all.
      percent: whether responses are probabilities, to be shown in percent.
      title: text above the axes.

    Returns:
      The figure.

    Raises:
      ImportError: matplotlib is not installed.
      ValueError: no curve is given, or one lacks the columns.

    Example:
      >>> import pandas as pd
      >>> line = pd.DataFrame({"cost": [0.0, 1.0], "response": [0.1, 0.2]})
      >>> figure = plot_outcome_curves({"model": line}, budget=0.5)
      >>> figure.axes[0].get_xlabel()
      'Cost per user'
    """
    if not curves:
        raise ValueError("curves is empty; expected {name: outcome_curve(...)}.")
    truths = {"truth": truth} if isinstance(truth, pd.DataFrame) else dict(truth or {})
    for name, table in [*curves.items(), *truths.items()]:
        _require(table, ("cost", "response"), f"curve {name!r}")
    axes = styled_axes(ax)
    colours = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(curves)}
    labels: list[tuple[str, str, float, float]] = []
    for i, (name, table) in enumerate(curves.items()):
        table = table.sort_values("cost").dropna(subset=["cost", "response"])
        cost, colour = table["cost"].to_numpy(), colours[name]
        if {"response_low", "response_high"} <= set(table.columns):
            axes.fill_between(
                cost,
                table["response_low"].to_numpy(),
                table["response_high"].to_numpy(),
                color=colour,
                alpha=0.14,
                linewidth=0,
            )
        style = DASHES[i // len(PALETTE) % len(DASHES)]
        axes.plot(
            cost,
            table["response"].to_numpy(),
            style,
            color=colour,
            linewidth=2,
            label=plain_text(name),
        )
        if len(table):
            labels.append((name, colour, float(cost[-1]), float(table["response"].iloc[-1])))
    for name, table in truths.items():
        table = table.sort_values("cost")
        axes.plot(
            table["cost"].to_numpy(),
            table["response"].to_numpy(),
            linestyle=(0, (4, 2)),
            color=colours.get(name, "#777777"),
            linewidth=1.2,
            label=plain_text(f"{name} (truth)" if name in colours else name),
        )
        if name not in colours and len(table):
            last = table.iloc[-1]
            labels.append((name, "#666666", float(last["cost"]), float(last["response"])))
    if budget is not None:
        axes.axvline(budget, color=INK, linewidth=1, linestyle=(0, (1, 2)), zorder=0.5)
    axes.set_xlabel("Cost per user", fontsize=MEDIUM)
    axes.set_ylabel("Response per user", fontsize=MEDIUM)
    if percent:
        percent_axis(axes.yaxis)
    axes.margins(x=0.01)
    if budget is not None:
        name_budget(axes, budget)
    write_title(axes, title, budget)
    label_ends(axes, labels)
    if not colours.keys().isdisjoint(truths):
        # Outcome curves rise, so the lower right corner is free.
        axes.text(
            0.99,
            0.03,
            "dashed: truth",
            transform=axes.transAxes,
            ha="right",
            fontsize=SMALL,
            color="#666666",
        )
    return finish(axes, path)


def plot_treatment_mix(
    curve: pd.DataFrame,
    *,
    budget: float | None = None,
    ax: Axes | None = None,
    path: str | os.PathLike[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Share of users given each treatment against the budget, stacked.

    Args:
      curve: an `outcome_curve` table.
      budget: cost per user to mark.
      ax: axes to draw on; None: a new figure.
      path: file to write (.png, .pdf, .svg); it appears complete or not at all.
      title: text above the axes.

    Returns:
      The figure.

    Raises:
      ImportError: matplotlib is not installed.
      ValueError: the table has no "budget" or no "share_..." columns.

    Example:
      >>> import pandas as pd
      >>> mix = pd.DataFrame(
      ...     {"budget": [0.0, 1.0], "share_none": [1.0, 0.0], "share_coupon": [0.0, 1.0]}
      ... )
      >>> plot_treatment_mix(mix).axes[0].get_ylabel()
      'Share of users'
    """
    _require(curve, ("budget",), "curve")
    names = [column for column in curve.columns if str(column).startswith("share_")]
    if not names:
        raise ValueError(
            f"curve has columns {list(curve.columns)}; expected 'share_...' columns: pass the "
            "result of outcome_curve."
        )
    curve = curve.sort_values("budget")
    shares = curve[names].to_numpy(dtype=float).T
    axes = styled_axes(ax)
    colours = _arm_colours(len(names))
    axes.stackplot(
        curve["budget"].to_numpy(), shares, colors=colours, edgecolor="white", linewidth=0.6
    )
    axes.set_ylim(0, 1)
    axes.margins(x=0)
    axes.grid(False)
    percent_axis(axes.yaxis)
    axes.set_xlabel("Budget per user", fontsize=MEDIUM)
    axes.set_ylabel("Share of users", fontsize=MEDIUM)
    if budget is not None:
        axes.axvline(budget, color=INK, linewidth=1.2, linestyle=(0, (1, 2)))
        name_budget(axes, budget)
    write_title(axes, title, budget)
    arms = [plain_text(name.removeprefix("share_")) for name in names]
    _legend_of_arms(axes, arms, colours)
    return finish(axes, path)


def plot_calibration(
    table: pd.DataFrame,
    *,
    outcome: str = "response",
    ax: Axes | None = None,
    path: str | os.PathLike[str] | None = None,
    percent: bool = False,
    title: str | None = None,
) -> Figure:
    """Observed against predicted uplift by bins of the prediction, with intervals.

    Points on the dashed diagonal are calibrated.

    Args:
      table: a `calibration` table.
      outcome: "response" or "cost".
      ax: axes to draw on; None: a new figure.
      path: file to write (.png, .pdf, .svg); it appears complete or not at all.
      percent: whether outcomes are probabilities, to be shown in percent.
      title: text above the axes.

    Returns:
      The figure.

    Raises:
      ImportError: matplotlib is not installed.
      ValueError: the table lacks the columns, or has no rows of this outcome.

    Example:
      >>> import pandas as pd
      >>> bins = pd.DataFrame({"outcome": "response", "treatment": "1", "predicted": [0.1, 0.2]})
      >>> bins["observed"] = bins["observed_low"] = bins["observed_high"] = bins["predicted"]
      >>> bins["slope"], bins["slope_stderr"] = 1.0, 0.1
      >>> plot_calibration(bins).axes[0].get_xlabel()
      'Predicted uplift of response'
    """
    _require(table, CALIBRATION_COLUMNS, "table", "calibration")
    table = table[table["outcome"] == outcome]
    if table.empty:
        raise ValueError(
            f"outcome={outcome!r} has no rows in the table; expected 'response' or 'cost'."
        )
    axes = styled_axes(ax)
    ends = [float(f(table["predicted"])) for f in (np.min, np.max)]
    axes.plot(ends, ends, linestyle=(0, (4, 2)), color="#777777", linewidth=1.2)
    count = table["treatment"].nunique()
    many = count > MAX_NAMED_ARMS
    colours = _arm_colours(count) if many else PALETTE
    labels = []
    for i, (name, bins) in enumerate(table.groupby("treatment", sort=False)):
        slope, stderr = bins[["slope", "slope_stderr"]].iloc[0]
        # Costs that are the same for every user have no slope.
        text = name if np.isnan(slope) else f"{name}: slope {slope:.2f} ± {stderr:.2f}"
        labels.append(plain_text(text))
        x, y = bins["predicted"].to_numpy(), bins["observed"].to_numpy()
        axes.errorbar(
            x,
            y,
            yerr=np.stack([y - bins["observed_low"], bins["observed_high"] - y]),
            fmt="o",
            markersize=5,
            color=colours[i],
            elinewidth=1.2,
            label=labels[-1],
        )
    if percent:
        percent_axis(axes.xaxis)
        percent_axis(axes.yaxis)
    axes.set_xlabel(f"Predicted uplift of {outcome}", fontsize=MEDIUM)
    axes.set_ylabel(f"Observed uplift of {outcome}", fontsize=MEDIUM)
    if many:  # a line for each would fill the axes
        _legend_of_arms(axes, labels, colours)
    else:
        axes.legend(frameon=False, fontsize=SMALL, loc="upper left")
    write_title(axes, title)
    return finish(axes, path)


def _require(
    table: pd.DataFrame, columns: tuple[str, ...], what: str, source: str = "outcome_curve"
) -> None:
    absent = [column for column in columns if column not in table.columns]
    if absent:
        raise ValueError(
            f"{what} has columns {list(table.columns)}; expected {absent[0]!r} among them: pass "
            f"the result of {source}."
        )


def _arm_colours(count: int) -> list[Any]:
    """Colours of arms: grey and the palette; of many arms a scale from light to dark."""
    if count <= MAX_NAMED_ARMS:
        return ["#D0D0D0", *PALETTE][:count]
    from matplotlib import colormaps

    return [colormaps["cividis_r"](x) for x in np.linspace(0.05, 0.95, count)]


def _legend_of_arms(axes: Axes, names: list[str], colours: Sequence[Any]) -> None:
    """A legend beside the axes, in the order of the stack; of many arms only some are named."""
    from matplotlib.patches import Patch

    shown = np.unique(np.linspace(0, len(names) - 1, min(len(names), 10)).round().astype(int))
    axes.legend(
        handles=[Patch(color=colours[i], label=names[i]) for i in shown[::-1]],
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        fontsize=SMALL,
        title="Treatment" if len(shown) == len(names) else f"{len(names)} treatments",
        title_fontsize=SMALL,
        alignment="left",
    )
