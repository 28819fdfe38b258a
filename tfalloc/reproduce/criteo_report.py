"""Table and figure of the Criteo study."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tfalloc._files import write_file
from tfalloc.reproduce import figures, tables
from tfalloc.reproduce.runs import Runs

CONTROL = "TSM-SL, paper's net"
# (mean, standard deviation) of AUCC on Criteo Uplift v2.1: Table 1 of Yan et al. 2023, and Zhou et
# al. 2024 for DFCL.
PAPER = {
    "TSM-SL": (0.7561, 0.0113),
    "Direct Rank": (0.7562, 0.0131),
    "DRP": (0.7739, 0.0002),
    "DFCL-IFD": (0.7859, 0.0021),
    "NES": (0.7849, 0.0167),
    "FD": (0.7904, 0.0096),
}


def write(folder: Path, runs: Runs, nets: Mapping[str, str]) -> None:
    """Writes table.md and figure.png of the runs.

    Args:
      folder: where to.
      runs: with at least one of the control.
      nets: {method: its network}, in the order of the table; methods that `runs` has besides come
        last, as the package's own.

    Raises:
      ValueError: there is no run of the control.
    """
    if not len(runs.frame(method=CONTROL)):
        why = next((error for key, error in runs.refused if key["method"] == CONTROL), "not run")
        raise ValueError(f"{CONTROL}, with which the others are compared, has no run: {why}")
    place = {name: index for index, name in enumerate(nets)}
    frame = runs.frame()
    frame = frame.sort_values(
        "method", key=lambda names: names.map(place).fillna(len(place)), kind="stable"
    )
    write_file(folder / "table.md", _table(runs, frame, nets))
    with figures.drawing(folder / "figure.png"):
        (axes,) = figures.panels(1, 1, width=8.0, height=4.6)
        _draw(axes, runs, frame)
        figures.write([axes], folder / "figure.png")


def _table(runs: Runs, frame: pd.DataFrame, nets: Mapping[str, str]) -> str:
    size = runs.settings
    simulated = "data" not in size
    estimated = tables.comparison(frame, "aucc", reference=CONTROL).to_dict("records")
    columns = ["method", "net", "published", "AUCC", "against the control"]
    rows: list[list[Any]] = []
    for found in estimated:
        method = found["method"]
        published = tables.spread(*PAPER[method]) if method in PAPER else "-"
        net = nets.get(method, "ours")
        own = tables.spread(found["mean"], found["sd"])
        rows.append([method, net, published, own, tables.difference(found)])
    if simulated:
        columns += ["true AUCC", "true, against the control"]
        truth = tables.comparison(frame, "true_aucc", reference=CONTROL).to_dict("records")
        for row, found in zip(rows, truth, strict=True):
            row += [tables.spread(found["mean"], found["sd"]), tables.difference(found)]
    columns.append("seconds")
    for row in rows:
        row.append(f"{frame.seconds[frame.method == row[0]].mean():.0f}")
    count = frame.seed.nunique()
    of_method = frame.method.value_counts()
    if (of_method != count).any():  # a mean of one seed must not pass for one of twenty
        columns.append("seeds")
        for row in rows:
            row.append(int(of_method[row[0]]))
    seeds = f"{count} seeds" if count > 1 else "1 seed"
    own = ", each with a trial of its own" if count > 1 else ""
    where = (
        f"`datasets.criteo_like`, {size['rows']:,} rows a trial, {seeds}{own}; "
        f"AUCC on 30 % of the rows, true AUCC on {size['fresh']:,} fresh users"
        if simulated
        else f"{size['data']} ({size['bytes']:,} bytes), {seeds} on one split"
    )
    parts = [
        "# Table 1: AUCC" + (" on a simulation of Criteo Uplift" if simulated else ""),
        f"{where}. The paper's net: {size['epochs']} epochs, Adam {size['learning_rate']:g}; "
        f"small nets and ours at most {size['small_epochs']} epochs. Mean ± standard deviation "
        f"over seeds; differences to {CONTROL} (goal_weight 0) paired by seed, with 95 % intervals "
        "of Student's t, not corrected for the number of methods. Ours are told that the treatment "
        "cannot hurt (`monotone=True`)"
        + (", which is true of the simulation" if simulated else "")
        + "; the small nets and the paper's are not.",
        tables.markdown(columns, rows),
        "Published figures are from Criteo Uplift v2.1 (13,979,592 rows); "
        + (
            "the simulation has its marginals but another truth, so its levels do not compare."
            if simulated
            else "DFCL's are from Zhou et al. 2024, the others from Yan et al. 2023. Seeds are "
            "initial weights on one split: intervals and p-values do not allow for other rows."
        ),
        *tables.refusals(runs.refused),
        tables.made_by(runs.provenance, runs.seconds),
    ]
    return "\n\n".join(parts) + "\n"


def _draw(axes: Any, runs: Runs, frame: pd.DataFrame) -> None:
    methods = frame.method.drop_duplicates().tolist()[::-1]
    drawn = [("aucc", "on the test rows", 0.12), ("true_aucc", "in truth", -0.12)]
    for (column, label, shift), color in zip(drawn, figures.PALETTE, strict=False):
        if column not in frame:
            continue
        for place, method in enumerate(methods):
            values = frame[column][frame.method == method].dropna()
            named = label if place == 0 else None
            style = {"color": color, "alpha": 0.4, "markersize": 4}
            axes.plot(values, np.full(len(values), place + shift), "o", **style)
            style = {"color": color, "markersize": 13, "markeredgewidth": 2}
            axes.plot(values.mean(), place + shift, "|", label=named, **style)
    for place, method in enumerate(methods):
        if method in PAPER:
            mean, sd = PAPER[method]
            label = "published, other data" if "data" not in runs.settings else "published"
            first = not any(name in PAPER for name in methods[:place])
            axes.errorbar(
                mean,
                place + 0.3,
                xerr=sd,
                fmt="*",
                color=figures.INK,
                capsize=2,
                label=label if first else None,
            )
    axes.set_yticks(range(len(methods)), methods)
    axes.grid(axis="y", visible=False)
    axes.axvline(0.5, color="#888888", linewidth=0.8)
    figures.name(axes, "Area under the cost curve, each seed and mean", "AUCC (random: .5)", "")
    figures.legend(axes, columns=3)
