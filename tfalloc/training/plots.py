"""The pictures of a run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tfalloc.training.fitting import best_epoch


def write_plots(
    folder: Path,
    curves: Mapping[str, pd.DataFrame],
    histories: Mapping[str, pd.DataFrame],
    *,
    mix_of: str,
    budget: float,
    binary: bool,
    truth: Any = None,
    warn: Callable[[str], None],
) -> None:
    """Writes outcome_curve.png, treatment_mix.png and training.png, as far as that works.

    The model matters more than its pictures: whatever goes wrong is a warning.

    Args:
      folder: where; made if it does not exist.
      curves: {name: `outcome_curve` table}; without any, only the training is drawn.
      histories: {name: one row per epoch}.
      mix_of: name of the curve whose mix of treatments is shown.
      budget: cost per user to mark.
      binary: whether responses are probabilities.
      truth: `true_curve` tables, in a simulation.
      warn: called with a line for what could not be drawn.
    """
    folder.mkdir(exist_ok=True)
    if importlib.util.find_spec("matplotlib") is None:
        warn("no plots, because matplotlib is not installed: pip install tfalloc[plots]")
        return
    from tfalloc.evaluation.plots import plot_outcome_curves, plot_treatment_mix

    def outcome_curve(path: Path) -> None:
        plot_outcome_curves(
            curves,
            truth=truth,
            budget=budget,
            percent=binary,
            title="Response bought by the budget (held-out rows, 95 % bands)",
            path=path,
        )

    def treatment_mix(path: Path) -> None:
        plot_treatment_mix(curves[mix_of], budget=budget, title="Who gets what", path=path)

    def training(path: Path) -> None:
        plot_training(histories, path)

    for draw in (outcome_curve, treatment_mix, training) if curves else (training,):
        path = folder / f"{draw.__name__}.png"
        try:
            draw(path)
        except Exception as error:  # Matplotlib raises anything, for one on a label's text
            warn(f"no {path.name} ({type(error).__name__}: {' '.join(str(error).split())[:200]})")


def plot_training(histories: Mapping[str, pd.DataFrame], path: Path) -> None:
    """Prediction loss and goal by epoch: training dashed, validation solid, kept epoch marked."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from tfalloc.evaluation.plots import PALETTE

    panels = {
        "prediction loss": {name: _prediction_loss(h) for name, h in histories.items()},
        "response per user at the budget": {
            name: (h.get("goal"), h.get("val_goal")) for name, h in histories.items()
        },
    }
    figure = Figure(figsize=(9.2, 3.6), dpi=160, layout="constrained")
    for number, (title, lines) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), number + 1)
        for colour, (name, (training, validation)) in zip(PALETTE, lines.items(), strict=False):
            epochs = histories[name]["epoch"]
            marker = "." if len(epochs) == 1 else None
            if training is not None:
                label = f"{name}, training"
                axes.plot(
                    epochs, training, "--", color=colour, linewidth=1, marker=marker, label=label
                )
            if validation is not None:
                label = f"{name}, validation"
                axes.plot(epochs, validation, color=colour, linewidth=2, marker=marker, label=label)
                best = best_epoch(histories[name])
                axes.plot(best["epoch"], validation[best.name], "o", color=colour)
        axes.set_xlabel("Epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(title.capitalize(), fontsize=11, loc="left")
        axes.grid(axis="y", color="#D9D9D9", linewidth=0.7)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.legend(frameon=False, fontsize=8.5)
    figure.savefig(path)


def _prediction_loss(history: pd.DataFrame) -> tuple[Any, Any]:
    """Response and cost loss, training and validation: unlike the loss, comparable of models."""
    sums = []
    for prefix in ("", "val_"):
        parts = [f"{prefix}response_loss", f"{prefix}cost_loss"]
        sums.append(history[parts].sum(axis=1) if set(parts) <= set(history.columns) else None)
    return sums[0], sums[1]
