"""Table and figures of the synthetic study: Fig. 2 as in the paper, and what is true beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tfalloc._files import write_file
from tfalloc.reproduce import figures, tables
from tfalloc.reproduce.runs import Runs

# Section 4.4 of Yan et al. 2023, one trial.
PAPER = {"q_truth": 0.2123, "q_start": 0.1996, "q_end": 0.2141}
EXACT = 0  # stands for all finite differences in place of N'


def write(folder: Path, runs: Runs) -> None:
    """Writes table.md, figure.png (the paper's panels) and truth.png (ours) of the runs."""
    write_file(folder / "table.md", _table(runs))
    with figures.drawing(folder / "figure.png"):
        panels = figures.panels(2, 2)
        _draw_truth_curve(panels[0], runs)
        _draw_cosine(panels[1], runs.frame(method="cosine"))
        _draw_curves(panels[2:], runs)
        figures.write(panels, folder / "figure.png")
    with figures.drawing(folder / "truth.png"):
        panels = figures.panels(1, 2, height=4.2)
        _draw_ascent(panels[0], runs)
        _draw_sampling(panels[1], runs)
        figures.write(panels, folder / "truth.png")


def named(directions: int) -> str:
    """What an ascent goes along."""
    return "all finite differences" if directions == EXACT else f"NES, N' = {directions:,}"


def _ascents(runs: Runs, seed: int | None = None) -> dict[int, pd.DataFrame]:
    """{N': its runs}, N' ascending and the exact gradient last."""
    frame = runs.frame(method="ascent", **({} if seed is None else {"seed": seed}))
    numbers = sorted(frame.directions.unique(), key=lambda number: (number == EXACT, number))
    return {int(number): frame[frame.directions == number] for number in numbers}


def _table(runs: Runs) -> str:
    size = runs.settings
    sample = runs.frame(method="sample")
    arms = [int(number) for number in sample.arms.unique()]
    first = sample[(sample.arms == arms[0]) & (sample.seed == 0)]
    one: list[list[Any]] = [
        ["v_gt", PAPER["q_truth"], first.q_truth.item(), first.true_truth.item()],
        ["start", PAPER["q_start"], first.q_start.item(), first.true_start.item()],
    ]
    for directions, found in _ascents(runs, seed=0).items():
        end, true = found.q_end.item(), found.true_end.item()
        paper = None if directions == EXACT else PAPER["q_end"]
        one.append([f"after {size['steps']} steps, {named(directions)}", paper, end, true])
    cosine = runs.frame(method="cosine").iloc[0]
    parts = [
        "# Synthetic trial: climbing Q on the predictions themselves (Fig. 2)",
        f"`datasets.synthetic`: {size['rows']:,} users, K = {arms[0]}, budget {size['budget']:g} "
        f"per user; Adam {size['learning_rate']:g}, {size['steps']} steps. Ours, because it is not "
        f"told: sigma {size['sigma']:g}, h {size['step']:g}, and N'. True value: of the same users "
        "under the same predictions, by their true responses, at the same true cost.",
        "The paper's four panels, of the first trial (seed 0):",
        tables.markdown(["v", "Q, paper", "Q, here", "true value"], one),
        f"Cosine of NES with all {cosine.entries:,} finite differences ({cosine.nonzero:,} of them "
        "not 0), at the start:",
        tables.markdown(
            ["N'", *[f"{number:,}" for number in cosine.directions]],
            [["cosine", *[f"{x:.3f}" for x in cosine.cosine]]],
        ),
        "## Beyond the paper: several trials, and the truth",
        *_readings(sample, arms),
        *_gains(runs),
        *tables.refusals(runs.refused),
        tables.made_by(runs.provenance, runs.seconds),
    ]
    return "\n\n".join(parts) + "\n"


def _readings(sample: pd.DataFrame, arms: list[int]) -> list[str]:
    """Q of v_gt and of the start by both numbers of arms, with the paper's place among them."""
    rows: list[list[Any]] = []
    for number in arms:
        own = sample[sample.arms == number]
        for shown, name in (("v_gt", "truth"), ("start", "start")):
            q, paper = own[f"q_{name}"], PAPER[f"q_{name}"]
            away = (paper - q.mean()) / q.std() if len(q) > 1 else np.nan
            true = own[f"true_{name}"].mean()
            far = "-" if away != away else f"{away:+.1f} sd"
            rows.append([f"K = {number}, {shown}", paper, _spread(q), f"{true:.4f}", far])
    columns = ["", "paper, one trial", "Q, mean ± sd of one trial", "true value", "paper is at"]
    return [
        f"Q of the true responses and of the start (trials: {sample.seed.nunique()}):",
        tables.markdown(columns, rows),
        "The start is drawn independently of the truth, so that its assignment is worth less than "
        "one arm for everyone: arm 2 costs 2.0 too, and is worth .05 + .15 = .2000 in expectation "
        "with K = 4, .05 + .16 = .2100 with K = 5. The paper's text says K = 4, and then has "
        "matrices of 10,000 x 5.",
    ]


def _gains(runs: Runs) -> list[str]:
    rows: list[list[Any]] = []
    for directions, found in _ascents(runs).items():
        own, true = found.q_end - found.q_start, found.true_end - found.true_start
        rows.append(
            [
                named(directions),
                len(found),
                tables.difference(tables.paired_difference(found.q_end, found.q_start), 4),
                tables.difference(tables.paired_difference(found.true_end, found.true_start), 4),
                f"{true.mean() / own.mean():.0%}" if own.mean() > 0 else "-",
                f"{found.moved.mean():.3f}",
                f"{found.seconds.mean():.0f}",
            ]
        )
    columns = ["gradient", "trials", "gain of Q on the trial", "gain in truth", "true share"]
    columns += ["mean change of v", "seconds"]
    gain = PAPER["q_end"] - PAPER["q_start"]
    return [
        f"What the steps gain (the paper: {gain:+.4f} on its trial), mean over trials with 95 % "
        "intervals:",
        tables.markdown(columns, rows),
    ]


def _spread(values: pd.Series) -> str:
    return tables.spread(values.mean(), values.std())


def _draw_truth_curve(axes: Any, runs: Runs) -> None:
    curves = runs.frame(method="curves").iloc[0]
    axes.plot(curves.arm_cost, curves.arm_response, "o-", color=figures.INK, label="trial, by arm")
    label = "v_gt, by expected outcome"
    _draw_curve(axes, curves.truth, figures.RED, label, ":", linewidth=2.4)
    _mark_budget(axes, runs, PAPER["q_truth"], "q_truth")
    figures.name(axes, "a  Trial and true responses", "cost per user", "response per user")
    figures.legend(axes)


def _draw_cosine(axes: Any, found: pd.DataFrame) -> None:
    one = found.iloc[0]
    axes.plot(one.directions, one.cosine, "o-", color=figures.PALETTE[0], label="NES, at the start")
    axes.set_xscale("log", base=2)
    axes.set_xticks(one.directions, [f"{number:,}" for number in one.directions], fontsize=8)
    axes.set_ylim(bottom=0)
    title = "b  NES against every finite difference"
    figures.name(axes, title, "directions N'", "cosine similarity")
    figures.legend(axes)


def _draw_curves(panels: list[Any], runs: Runs) -> None:
    """The start and the ends on the same scale."""
    curves = runs.frame(method="curves").iloc[0]
    start, end = panels
    _draw_curve(start, curves.start, figures.PALETTE[0], "start")
    _mark_budget(start, runs, PAPER["q_start"], "q_start")
    ascents = _ascents(runs, seed=0)
    for (directions, found), color in zip(ascents.items(), figures.PALETTE, strict=False):
        _draw_curve(end, found.curve.item(), color, named(directions))
    _mark_budget(end, runs, PAPER["q_end"], None)
    low = min(axes.get_ylim()[0] for axes in panels)
    high = max(axes.get_ylim()[1] for axes in panels)
    steps = runs.settings["steps"]
    for axes, title in ((start, "c  The start"), (end, f"d  After {steps} steps of Adam")):
        axes.set_ylim(low, high)
        figures.name(axes, title, "cost per user", "response per user")
        figures.legend(axes)


def _draw_curve(
    axes: Any, pairs: Any, color: str, label: str, style: str = "-", **how: Any
) -> None:
    cost, response = np.transpose(pairs)
    axes.plot(cost, response, style, color=color, label=label, **{"linewidth": 1.6, **how})


def _mark_budget(axes: Any, runs: Runs, paper: float, name: str | None) -> None:
    """A line at the budget, the paper's Q on it, and that of this trial."""
    budget = runs.settings["budget"]
    axes.axvline(budget, color="#888888", linewidth=0.8, linestyle="--")
    label = f"paper: Q = {paper:.4f}"
    axes.plot(budget, paper, "*", color=figures.INK, markersize=11, label=label, zorder=5)
    if name is not None:
        sample = runs.frame(method="sample", seed=0)
        q = sample[name].iloc[0]
        style = {"color": figures.INK, "markerfacecolor": "white", "markersize": 7, "zorder": 5}
        axes.plot(budget, q, "s", label=f"here: Q = {q:.4f}", **style)


def _draw_ascent(axes: Any, runs: Runs) -> None:
    by = {number: found for number, found in _ascents(runs).items() if found.seed.nunique() > 1}
    by = by or _ascents(runs)
    for (directions, found), color in zip(by.items(), figures.PALETTE, strict=False):
        q, true = np.array(found.q.tolist()), np.array(found.true.tolist())
        steps, marks = np.arange(q.shape[1]), found.true_steps.iloc[0]
        shown = "FD" if directions == EXACT else f"NES {directions:,}"
        gained = q - q[:, :1]
        figures.band(axes, steps, gained, color=color, label=f"{shown}, on the trial")
        gained = true - true[:, :1]
        figures.band(axes, marks, gained, color=color, style="--", label=f"{shown}, in truth")
    rise = PAPER["q_end"] - PAPER["q_start"]
    axes.plot(runs.settings["steps"], rise, "*", color=figures.INK, markersize=11, label="paper")
    count = runs.frame(method="sample").seed.nunique()
    title = (
        f"What the steps gain, mean of {count} trials ± 1 sd"
        if count > 1
        else "What the steps gain"
    )
    figures.name(axes, title, "step of Adam", "change in response per user")
    figures.legend(axes)


def _draw_sampling(axes: Any, runs: Runs) -> None:
    """Q of every trial, of v_gt and of the start, for each number of arms; the paper's lines."""
    sample = runs.frame(method="sample")
    labels = []
    for place, number in enumerate(sample.arms.unique()):
        own = sample[sample.arms == number]
        for (shown, name), color, shift in (
            (("v_gt", "truth"), figures.RED, 0),
            (("start", "start"), figures.PALETTE[0], 1),
        ):
            x = 2 * place + shift
            labels.append(f"{shown}\nK = {number}")
            spread = np.linspace(-0.22, 0.22, len(own)) if len(own) > 1 else np.zeros(1)
            axes.plot(x + spread, own[f"q_{name}"], "o", color=color, alpha=0.5, markersize=4)
            true = own[f"true_{name}"].mean()
            truth = "true value" if not x else None
            axes.plot([x - 0.3, x + 0.3], [true, true], "-", color=figures.INK, label=truth)
            paper = "paper, one trial" if not x else None
            axes.plot(x, PAPER[f"q_{name}"], "*", color=figures.INK, markersize=11, label=paper)
    axes.set_xticks(range(len(labels)), labels)
    figures.name(axes, "Q of each trial", "", "response per user")
    figures.legend(axes)
