"""Table and figure of the study of methods."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tfalloc.reproduce import figures, tables
from tfalloc.reproduce.runs import Runs, write_file

# (after, before, what the step is): a method and the one that it builds on, or is to replace.
STEPS = (
    (
        "our network, goal_weight 0",
        "network, goal_weight 0",
        "our network instead of a plain one",
    ),
    ("averaged", "our network, goal_weight 0", "the team's mean instead of our network"),
    ("averaged", "boosting, single", "the team's mean instead of one boosting"),
    ("imitated", "averaged", "one network that imitates the team's mean"),
    ("imitated, two-stage", "imitated", "more epochs, prediction losses only"),
    ("imitated, smoothed", "imitated, two-stage", "objective: `Smoothed`"),
    ("imitated, differences", "imitated, two-stage", "objective: `FiniteDifference`"),
)


def write(folder: Path, runs: Runs, order: Sequence[str], controls: Collection[str]) -> None:
    """Writes table.md and figure.png of the runs.

    Args:
      folder: where to.
      runs: with at least one control.
      order: of methods, in each of the groups; methods of `runs` that are not in it come last.
      controls: names of methods that are controls.
    """
    found = compared(runs.frame(), order, controls)
    write_file(folder / "table.md", _table(runs, found))
    height = 1.6 + 0.34 * len(found)
    with figures.drawing(folder / "figure.png"):
        (axes,) = figures.panels(1, 1, width=8.4, height=height)
        _draw(axes, runs, found)
        figures.write([axes], folder / "figure.png")


def compared(frame: pd.DataFrame, order: Sequence[str], controls: Collection[str]) -> pd.DataFrame:
    """Every method's share, and its difference to the best control.

    That is the one with the largest mean share over the seeds that all controls have, so that none
    is ahead by easier seeds; over its own where there is no such seed. A control with less than
    half the seeds of another, such as one that most trials refuse, is not asked.

    Args:
      frame: `Runs.frame`.
      order: as in `write`.
      controls: as in `write`.

    Returns:
      As `tables.comparison`, controls first, with columns control and best, booleans, and seconds,
      the mean of a training.

    Example:
      >>> runs = {"method": ["a", "b", "new"], "seed": 0, "share": [0.3, 0.5, 0.6], "seconds": 1.0}
      >>> found = compared(pd.DataFrame(runs), ["a", "b", "new"], ["a", "b"])
      >>> found[["method", "control", "best", "difference"]].round(3)
        method  control   best  difference
      0      a     True  False        -0.2
      1      b     True   True         NaN
      2    new    False  False         0.1
    """
    wide = frame[frame.method.isin(list(controls))].pivot(
        index="seed", columns="method", values="share"
    )
    seeds = wide.notna().sum()
    wide = wide.loc[:, seeds >= seeds.max() / 2]
    reference = tables.largest(wide)
    found = tables.comparison(frame, "share", reference=reference)
    found["control"] = found.method.isin(list(controls))
    found["best"] = found.method == reference
    found["seconds"] = frame.groupby("method").seconds.mean()[found.method].to_numpy()
    place = {name: index for index, name in enumerate(order)}
    found["place"] = found.method.map(place).fillna(len(place))
    found = found.sort_values(["control", "place"], ascending=[False, True], kind="stable")
    return found.drop(columns="place").reset_index(drop=True)


def _table(runs: Runs, found: pd.DataFrame) -> str:
    frame = runs.frame()
    best = found.method[found.best].item()
    relative = _relative_responses(frame, best)
    columns = ["method", "seeds", "share", f"against {best}", "response per user", "seconds"]
    rows: list[list[Any]] = []
    for title, control in (("controls", True), ("ours", False)):
        group = found[found.control == control].to_dict("records")
        rows += [[f"*{title}*", *[""] * (len(columns) - 1)]] if group else []
        for each in group:
            own = tables.spread(each["mean"], each["sd"], digits=3)
            difference = "best control" if each["best"] else tables.difference(each, digits=3)
            shown = f"**{best}**" if each["best"] else each["method"]
            response = "best control" if each["best"] else relative[each["method"]]
            rows.append([shown, each["count"], own, difference, response, f"{each['seconds']:.1f}"])
    parts = [
        f"# Methods on {runs.settings['simulation']}",
        _setting(runs, frame),
        _meaning(frame, best),
        tables.markdown(columns, rows),
        *_steps(frame),
        *tables.refusals(runs.refused),
        tables.made_by(runs.provenance, runs.seconds),
    ]
    return "\n\n".join(parts) + "\n"


def _relative_responses(frame: pd.DataFrame, best: str) -> dict[str, str]:
    """Each method's response per user against the best control's, in percent, for the table."""
    wide = frame.pivot(index="seed", columns="method", values="response")
    shown = {}
    for name in wide.columns:
        found = tables.paired_difference(wide[name] / wide[best] - 1.0, np.zeros(len(wide)))
        known = found.mean == found.mean
        shown[name] = tables.percent(found.mean, found.low, found.high) if known else "-"
    return shown


def step_differences(frame: pd.DataFrame) -> list[tables.Difference | None]:
    """What each of `STEPS` adds, paired by seed; None where one of its ends was not run."""
    wide = frame.pivot(index="seed", columns="method", values="share")
    return [
        tables.paired_difference(wide[after], wide[before])
        if after in wide and before in wide
        else None
        for after, before, _ in STEPS
    ]


def _steps(frame: pd.DataFrame) -> list[str]:
    rows = [
        [what, f"{after} - {before}", str(found.count), tables.difference(found, digits=3)]
        for (after, before, what), found in zip(STEPS, step_differences(frame), strict=True)
        if found is not None
    ]
    if not rows:
        return []
    columns = ["step", "difference of", "pairs", "share"]
    what = (
        "What each step adds, paired by seed. Our network differs from the plain one by heads that "
        "are told what is known of the arms, if anything is, and by settings searched anew; "
        "the ends of an objective's row differ by nothing else."
    )
    return [what, tables.markdown(columns, rows)]


def _setting(runs: Runs, frame: pd.DataFrame) -> str:
    size = runs.settings
    rows = (
        f"one half of the rows of {size['data']} ({size['bytes']:,} bytes) to learn from, the "
        "other to judge"
        if "data" in size
        else f"{size['rows']:,} rows a trial, judged on {size['fresh']:,} fresh users"
    )
    first, last, count = frame.seed.min(), frame.seed.max(), frame.seed.nunique()
    seeds = f"{count} seeds from {first} to {last}" if count > 1 else f"seed {first}"
    budgets = ", ".join(f"{budget:.4g}" for budget in frame.budgets.iloc[0])
    return (
        f"`datasets.{size['simulation']}`, {rows}; {seeds}, each with data and weights of its own; "
        f"budgets {budgets} per user. Networks train at most {size['epochs']} epochs."
    )


def _meaning(frame: pd.DataFrame, best: str) -> str:
    control = frame[frame.method == best]
    mix, reached, oracle = (control[name].mean() for name in ("mix", "response", "oracle"))
    return (
        "share: of what perfect targeting adds to the best mix of arms for everyone alike, mean "
        f"over budgets; mean ± standard deviation over seeds. The best control is {best}, chosen "
        "by its mean share on these very seeds, which favours it. Differences to it are paired by "
        "seed, with 95 % intervals of Student's t, not corrected for the number of methods. "
        f"Responses per user: {mix:.5f} by the mix, {reached:.5f} by the best control, "
        f"{oracle:.5f} by perfect targeting: oracle - best control = {oracle - reached:.5f}. "
        "In percent: the response per user at equal true cost against that of the best control. "
        "Seconds are those of one training, all that it builds on included."
    )


def _draw(axes: Any, runs: Runs, found: pd.DataFrame) -> None:
    best = found.method[found.best].item()
    frame = runs.frame()
    wide = frame.pivot(index="seed", columns="method", values="share")
    places = range(len(found) - 1, -1, -1)
    named: set[str] = set()
    # Where one method is far off, the others' differences are too small to read from the axis.
    right = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 8}
    for place, each in zip(places, found.to_dict("records"), strict=True):
        said = "best control" if each["best"] else tables.difference(each, 3).split(",")[0]
        axes.text(1.01, place, said, **right)
        label = "control" if each["control"] else "ours"
        color = figures.PALETTE[0 if each["control"] else 1]
        if each["best"]:
            axes.plot(0.0, place, "D", color=color, markersize=6)
            continue
        single = (wide[each["method"]] - wide[best]).dropna()
        style = {"color": color, "alpha": 0.35, "markersize": 4, "markeredgewidth": 0}
        axes.plot(single, [place - 0.22] * len(single), "o", **style)
        low, high = each["difference_low"], each["difference_high"]
        if low == low:
            axes.plot([low, high], [place, place], "-", color=color, linewidth=2.4)
        shown = None if label in named else label
        axes.plot(each["difference"], place, "o", color=color, markersize=7, label=shown)
        named.add(label)
    axes.axvline(0.0, color="#888888", linewidth=0.9, zorder=0)
    axes.set_yticks(list(places), found.method)
    axes.set_ylim(-0.6, len(found) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="#D9D9D9", linewidth=0.7)
    title = f'{runs.settings["simulation"]}: against the best control, "{best}"'
    x = "difference of shares of perfect targeting: mean, 95 % interval; below, each seed"
    figures.name(axes, title, x, "")
    if named:
        # Below the axis and its label, whatever the height of the figure.
        height = axes.figure.get_size_inches()[1]
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.62 / (height - 1.2)),
            ncols=2,
            frameon=False,
            labelcolor=figures.INK,
        )
