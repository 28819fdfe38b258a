"""Table and figure of the campaign."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from tfalloc._files import write_file
from tfalloc.reproduce import figures, tables
from tfalloc.reproduce.runs import Runs

# The online test of Yan et al. 2023, end-to-end against two-stage.
PAPER = {"cost": -0.00369, "response": 0.0124}
GROUPS = {"two_stage": "two-stage", "end_to_end": "end-to-end"}
CALIBRATIONS = {"predicted": "predicted costs", "trial": "a second trial"}


class Relative(NamedTuple):
    """end-to-end / two-stage - 1, with the standard error of two independent samples' ratio."""

    difference: float
    stderr: float


def relative(online: pd.Series, outcome: str) -> Relative:
    """The relative difference of two groups' means, by the delta method.

        r = b / a - 1,   stderr(r) = (b / a) sqrt((stderr(a) / a)^2 + (stderr(b) / b)^2)

    Args:
      online: figures of an online run.
      outcome: "response" or "cost".
    """
    a, b = (online[f"{name}_{outcome}"] for name in GROUPS)
    errors = (online[f"{name}_{outcome}_stderr"] / online[f"{name}_{outcome}"] for name in GROUPS)
    return Relative(b / a - 1.0, b / a * math.hypot(*errors))


def best_weight(runs: Runs, seeds: int) -> float:
    """The goal_weight above 0 with the best mean estimate over the first seeds.

    Raises:
      ValueError: none has one on every seed.
    """
    offline = _offline(runs, seeds)
    by = offline[offline.goal_weight > 0].pivot(
        index="seed", columns="goal_weight", values="estimate"
    )
    means = by.mean(skipna=False).dropna()
    if means.empty:
        raise ValueError(
            "no goal_weight above 0 led to a policy that keeps the budget on every seed; expected "
            "one for the online test: train for more epochs or on more rows."
        )
    return float(means.idxmax())


def write(folder: Path, runs: Runs, seeds: int, weight: float, chosen: bool) -> None:
    """Writes table.md and figure.png of the first `seeds` seeds.

    Args:
      folder: where to.
      runs: offline ones, and online ones of `weight`.
      seeds: how many.
      weight: goal_weight of the online test.
      chosen: whether it is the best by the estimate, or was given.
    """
    offline = _offline(runs, seeds)
    online = {}
    for calibration in CALIBRATIONS:
        found = runs.frame(part="online", calibration=calibration, goal_weight=weight)
        found = found[found.seed < seeds] if len(found) else found
        if len(found):  # else all were refused, as the table says
            online[calibration] = found
    write_file(folder / "table.md", _table(runs, offline, online, weight, chosen))
    with figures.drawing(folder / "figure.png"):
        curve, test = figures.panels(1, 2, height=4.2)
        _draw_curve(curve, offline, weight, _how(chosen))
        _draw_test(test, online)
        figures.write([curve], folder / "figure.png")


def _offline(runs: Runs, seeds: int) -> pd.DataFrame:
    offline = runs.frame(part="offline")
    return offline[offline.seed < seeds]


def _table(
    runs: Runs, offline: pd.DataFrame, online: dict[str, pd.DataFrame], weight: float, chosen: bool
) -> str:
    size = runs.settings
    means = tables.comparison(offline, "response", reference=0, by="goal_weight")
    estimates = tables.comparison(offline, "estimate", reference=0, by="goal_weight")
    curve = [
        [
            f"{true.goal_weight:g}",
            tables.spread(true.mean, true.sd, 5),
            tables.difference(true._asdict(), 5),
            tables.spread(estimate.mean, estimate.sd, 5),
        ]
        for true, estimate in zip(
            means.itertuples(index=False),
            estimates.itertuples(index=False),
            strict=True,
        )
    ]
    test = [
        [outcome, CALIBRATIONS[calibration], *_compared(found, outcome)]
        for calibration, found in online.items()
        for outcome in ("cost", "response")
    ]
    count = offline.seed.nunique()
    parts = [
        "# Coins for produced videos: weight of the goal, and an online test",
        f"{size['num_treatments']} arms, {size['rows']:,} rows a trial, {size['epochs']} epochs in "
        f"batches of {min(10_000, size['rows'] // 10):,}, "
        f'`heads="{size["heads"]}"`, {count} seeds. Response per user at a cost of '
        f"{size['budget']:g} coins per user: {tables.number(offline.mix.mean(), 5)} for everyone "
        f"alike, {tables.number(offline.oracle.mean(), 5)} for perfect targeting.",
        "Offline, mean ± standard deviation over seeds on "
        f"{size['fresh']:,} fresh users; differences to goal_weight 0, paired by seed, with 95 % "
        "intervals that allow for the one comparison only:",
        *_published(size),
        tables.markdown(
            ["goal_weight", "true response", "difference", "estimate from a trial"], curve
        ),
        f"Online: two groups of {size['users']:,} fresh users under the exported models, "
        f"goal_weight 0 and {weight:g} ({_how(chosen)}), both told to spend "
        f"{size['budget']:g} per user:",
        tables.markdown(
            [
                *("", "budget kept by", "paper"),
                *(f"{group}, seed 0" for group in GROUPS.values()),
                "difference, seed 0",
                *(f"{group}, mean" for group in GROUPS.values()),
                "difference, mean over seeds",
            ],
            test,
        ),
        "Groups of seed 0 with 95 % intervals, as a test shows them. The interval of their "
        "difference is that of one test with these models; that of the mean over seeds allows for "
        "other trials and initial weights too. Kept by predicted costs, spend differs as these are "
        "off; kept by a second trial, by that trial's error. The campaign is a simulation: the "
        "paper's data are not public.",
        f"{offline.seconds.mean():.0f} s a training and its judgement, on average.",
        *tables.refusals(runs.refused),
        tables.made_by(runs.provenance, runs.seconds),
    ]
    return "\n\n".join(parts) + "\n"


def _published(size: dict[str, Any]) -> list[str]:
    """What the settings have of the paper's protocol; nothing if they are our own."""
    if "test_share" not in size:
        return []
    low, high = size.get("budgets", [size["budget"]] * 2)
    return [
        f'The paper\'s protocol: `backbone="{size["backbone"]}"`, Adam {size["learning_rate"]:g}, '
        f"budget of a step uniform on ({low:g}, {high:g}); trained on {1 - size['test_share']:.0%} "
        f"of the rows (online: on all), estimates by Eq. 6 and bisection on the others."
    ]


def _how(chosen: bool) -> str:
    return "best by the estimate" if chosen else "as published"


def _compared(online: pd.DataFrame, outcome: str) -> list[str]:
    """The paper's difference; both groups and their difference, of seed 0 and over seeds."""
    found = pd.DataFrame([relative(row, outcome) for _, row in online.iterrows()])
    over = tables.paired_difference(found.difference, np.zeros(len(found)))
    first = ["-", "-", "-"]
    for _, test in online[online.seed == 0].iterrows():
        own = relative(test, outcome)
        ends = (own.difference + side * 1.96 * own.stderr for side in (-1, 1))
        groups = (_group(test, f"{name}_{outcome}") for name in GROUPS)
        first = [*groups, tables.percent(own.difference, *ends)]
    return [
        f"{PAPER[outcome]:+.3%}",
        *first,
        *(tables.spread(online[f"{name}_{outcome}"].mean(), math.nan, 5) for name in GROUPS),
        tables.percent(over.mean, over.low, over.high),
    ]


def _group(test: pd.Series, figure: str) -> str:
    mean, reach = test[figure], 1.96 * test[f"{figure}_stderr"]
    return f"{mean:.5f} ({mean - reach:.5f} … {mean + reach:.5f})"


def _draw_curve(axes: Any, offline: pd.DataFrame, weight: float, how: str) -> None:
    blue, orange, green = figures.PALETTE[:3]
    by = offline.pivot(index="seed", columns="goal_weight", values="response")
    base = by.pop(0)
    for _, line in by.iterrows():
        axes.plot(by.columns, line, "o", color=blue, markersize=4, alpha=0.45)
    axes.plot(by.columns, by.mean(), "-", color=blue, linewidth=2, label="end-to-end, mean")
    axes.axhline(base.mean(), color=orange, linewidth=1.6, label="two-stage ± 1 sd")
    if len(base) > 1:
        ends = base.mean() - base.std(), base.mean() + base.std()
        axes.axhspan(*ends, color=orange, alpha=0.14, linewidth=0)
    limits = (("perfect targeting", "oracle", "-."), ("everyone alike", "mix", ":"))
    for label, name, style in limits:
        axes.axhline(offline[name].mean(), color=figures.INK, linestyle=style, label=label)
    axes.axvline(weight, color=green, linestyle=":", linewidth=1.4, label=how)
    axes.set_xscale("log")
    title = "True response at the budget (Fig. 3)"
    figures.name(axes, title, "goal_weight, scale of Eq. 11", "response per user")
    figures.legend(axes)


def _draw_test(axes: Any, online: dict[str, pd.DataFrame]) -> None:
    blue, orange, green = figures.PALETTE[:3]
    for place, outcome in enumerate(("cost", "response")):
        sides = zip(CALIBRATIONS.items(), (-0.22, 0.22), (blue, green), strict=True)
        for (calibration, by), side, color in sides:
            if calibration not in online:
                continue
            found = [relative(row, outcome) for _, row in online[calibration].iterrows()]
            shift = np.linspace(-0.12, 0.12, len(found)) if len(found) > 1 else np.zeros(1)
            axes.errorbar(
                place + side + shift,
                [100 * each.difference for each in found],
                yerr=[196 * each.stderr for each in found],
                fmt="o",
                color=color,
                capsize=2,
                markersize=5,
                label=None if place else f"each seed, 95 %, budget kept by {by}",
            )
        label = None if place else "paper"
        axes.plot(place, 100 * PAPER[outcome], "*", color=orange, markersize=13, label=label)
    axes.axhline(0.0, color="#888888", linewidth=0.8)
    axes.set_xticks([0, 1], ["cost", "response"])
    axes.set_xlim(-0.5, 1.5)
    figures.name(axes, "Online: end-to-end against two-stage", "", "relative difference, %")
    figures.legend(axes, columns=1)
