"""Table and figure of the synthetic study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tfalloc.reproduce import figures, tables
from tfalloc.reproduce.files import write_text
from tfalloc.reproduce.runs import Runs

# Section 4.1 and Fig. 2 of Yan et al. 2023.
PAPER = {"q_truth": 0.2123, "q_start": 0.1996, "q_end": 0.2141}
SHOWN = {"NES": "NES", "FiniteDifference": "finite differences"}
SHORT = {"NES": "NES", "FiniteDifference": "FD"}  # for legends


def write(folder: Path, runs: Runs) -> None:
    """Writes table.md and figure.png of the runs."""
    write_text(folder / "table.md", _table(runs))
    _figure(folder / "figure.png", runs)


def _table(runs: Runs) -> str:
    sample = runs.frame(method="sample")
    size = runs.settings
    rows: list[list[Any]] = [
        ["Q(v_gt)", PAPER["q_truth"], _spread(sample.q_truth), _spread(sample.true_truth)],
        ["Q(start)", PAPER["q_start"], _spread(sample.q_start), _spread(sample.true_start)],
    ]
    gains: list[list[Any]] = []
    for method, shown in SHOWN.items():
        found = runs.frame(method=method)
        paper = PAPER["q_end"] if method == "NES" else None
        end = f"Q after {size['steps']} steps, {shown}"
        rows.append([end, paper, _spread(found.q_end), _spread(found.true_end)])
        own, true = found.q_end - found.q_start, found.true_end - found.true_start
        gains.append(
            [
                shown,
                PAPER["q_end"] - PAPER["q_start"] if method == "NES" else None,
                tables.difference(tables.paired_difference(found.q_end, found.q_start), 5),
                tables.difference(tables.paired_difference(found.true_end, found.true_start), 5),
                f"{1 - true.mean() / own.mean():.0%}" if own.mean() > 0 else "-",
                f"{found.seconds.mean():.1f}",
            ]
        )
    cosines = runs.frame(method="cosine")
    numbers = cosines.directions.iloc[0]
    mean = np.mean(cosines.cosine.tolist(), axis=0)
    sd = sample.q_truth.std()
    parts = [
        "# Synthetic trial: climbing Q on the predictions themselves",
        f"{size['rows']:,} users a trial, five arms, budget {size['budget']:g} per user, "
        f"{len(sample)} trials; Adam {size['learning_rate']:g}, sigma {size['sigma']:g}, N' = "
        f"{size['directions']:,} a step. Mean ± standard deviation of one trial. True value: of "
        "the same users under the same predictions, by their true responses, at the same cost.",
        tables.markdown(["", "paper", "Q on the trial", "true value"], rows),
        "Gains of the ascent, mean over trials with 95 % intervals:",
        tables.markdown(
            ["gradient", "paper", "on the trial", "in truth", "overfitting", "seconds"], gains
        ),
        f"One Q(v_gt) has a standard deviation of {tables.number(sd, 2)} between trials "
        f"({tables.number(sample.q_truth_stderr.mean(), 2)} by its own standard error), beside "
        "which the paper's .2141 and .2123 are one number.",
        "Cosine of NES with all finite differences, at the start:",
        tables.markdown(
            ["N'", *[f"{number:,}" for number in numbers]],
            [["cosine", *[f"{x:.3f}" for x in mean]]],
        ),
        "The paper's formulas for v_gt, its start and its learning rate are not known to us: the "
        "simulation, the noise of the start and Adam's rate are ours "
        "(`tfalloc/reproduce/synthetic.py`). The scale of the uplift and the size of the noise "
        "were set so that the true values of v_gt and the start are about the paper's: that these "
        "two agree shows nothing. What the steps gain was not set.",
        *tables.refusals(runs.refused),
        tables.made_by(runs.makers, runs.seconds),
    ]
    return "\n\n".join(parts) + "\n"


def _spread(values: pd.Series) -> str:
    return tables.spread(values.mean(), values.std())


def _figure(path: Path, runs: Runs) -> None:
    climb, cosine, gain, sampling = figures.panels(2, 2)
    _draw_ascent(climb, runs)
    _draw_cosine(cosine, runs.frame(method="cosine"))
    _draw_gains(gain, runs)
    _draw_sampling(sampling, runs.frame(method="sample"))
    figures.write([climb], path)


def _draw_ascent(axes: Any, runs: Runs) -> None:
    # In truth both lines lie on one another: the first shows by its marks.
    styles = zip(SHORT.items(), figures.PALETTE, ("o--", "--"), strict=False)
    for (method, shown), color, style in styles:
        found = runs.frame(method=method)
        q, true = np.array(found.q.tolist()), np.array(found.true.tolist())
        steps, marks = np.arange(q.shape[1]), found.true_steps.iloc[0]
        label = f"{shown}, on the trial"
        figures.band(axes, steps, q - q[:, :1], color=color, label=label)
        label = f"{shown}, in truth"
        figures.band(axes, marks, true - true[:, :1], color=color, style=style, label=label)
    rise = PAPER["q_end"] - PAPER["q_start"]
    axes.plot(runs.settings["steps"], rise, "*", color=figures.INK, markersize=11, label="paper")
    figures.name(axes, "What the steps gain", "step of Adam", "change in response")
    figures.legend(axes)


def _draw_cosine(axes: Any, found: pd.DataFrame) -> None:
    numbers = found.directions.iloc[0]
    figures.band(axes, numbers, found.cosine.tolist(), color=figures.PALETTE[0], label="NES")
    axes.plot(numbers, np.mean(found.cosine.tolist(), axis=0), "o", color=figures.PALETTE[0])
    axes.set_xscale("log", base=2)
    axes.set_xticks(numbers, [f"{number:,}" for number in numbers])
    axes.set_ylim(bottom=0)
    figures.name(axes, "NES against every finite difference", "directions N'", "cosine")


def _draw_gains(axes: Any, runs: Runs) -> None:
    for (method, shown), color in zip(SHOWN.items(), figures.PALETTE, strict=False):
        found = runs.frame(method=method)
        own, true = found.q_end - found.q_start, found.true_end - found.true_start
        axes.plot(own, true, "o", color=color, alpha=0.75, markersize=6, label=shown)
    left, right = axes.get_xlim()
    ends = np.array([min(left, 0.0), right])
    axes.plot(ends, ends, ":", color=figures.INK, linewidth=1.2, label="no overfitting")
    axes.axhline(0.0, color="#888888", linewidth=0.8)
    figures.name(axes, "Gain of each trial", "on the trial", "in truth")
    figures.legend(axes)


def _draw_sampling(axes: Any, sample: pd.DataFrame) -> None:
    ordered = np.sort(sample.q_truth.to_numpy())
    axes.plot(ordered, np.arange(1, len(ordered) + 1), "o", color=figures.PALETTE[0], markersize=6)
    mean, sd = sample.true_truth.mean(), sample.q_truth.std()
    axes.axvline(mean, color=figures.INK, linewidth=1.4, label=f"truth {mean:.4f}")
    if sd == sd:
        axes.axvspan(mean - sd, mean + sd, color=figures.PALETTE[0], alpha=0.14, linewidth=0)
    marks = (("start", PAPER["q_start"]), ("Q(v_gt)", PAPER["q_truth"]), ("end", PAPER["q_end"]))
    for (shown, value), color in zip(marks, figures.PALETTE[1:], strict=False):
        label = f"paper: {shown} {value:.4f}"
        axes.axvline(value, color=color, linestyle="--", linewidth=1.4, label=label)
    axes.yaxis.get_major_locator().set_params(integer=True)
    title = "Q of the true responses, each trial ± 1 sd"
    figures.name(axes, title, "response per user", "trials, in order")
    figures.legend(axes)
