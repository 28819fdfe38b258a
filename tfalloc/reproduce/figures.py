"""What the figures of the studies share: panels in the look of `tfalloc.evaluation`."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from tfalloc.evaluation.figure_style import INK as INK
from tfalloc.evaluation.figure_style import LARGE, MEDIUM, SMALL, finish, styled_axes
from tfalloc.evaluation.figure_style import PALETTE as PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RED = "#C1272D"


def require_matplotlib() -> None:
    """Asks for matplotlib before hours of work, not after.

    Raises:
      ValueError: it is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("the figure needs matplotlib: pip install tfalloc[plots].")


@contextmanager
def drawing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Makes of a figure that fails a warning: the runs and the table are there without it."""
    try:
        yield
    except Exception as error:
        warnings.warn(f"{path} was not drawn ({type(error).__name__}: {error}).", stacklevel=3)


def panels(rows: int, columns: int, *, width: float = 5.4, height: float = 3.7) -> list[Axes]:
    """Axes of a new figure, row by row.

    Args:
      rows: of panels.
      columns: of panels.
      width: of a panel, inches.
      height: of a panel, inches.
    """
    require_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    figure = Figure(figsize=(width * columns, height * rows), dpi=140, layout=layout)
    axes = figure.subplots(rows, columns, squeeze=False)
    return [styled_axes(ax) for ax in axes.ravel()]


def name(axes: Axes, title: str, x: str, y: str) -> None:
    """Title and labels of a panel."""
    axes.set_title(title, fontsize=LARGE, loc="left", color=INK, pad=10)
    axes.set_xlabel(x, fontsize=MEDIUM, color=INK)
    axes.set_ylabel(y, fontsize=MEDIUM, color=INK)


def band(axes: Axes, x: Any, runs: Any, *, color: str, style: str = "-", label: str) -> None:
    """Mean over runs, and one standard deviation of a run either way.

    Args:
      axes: the panel.
      x: [points].
      runs: [seeds, points].
      color: of line and band.
      style: of the line.
      label: in the legend.
    """
    runs = np.asarray(runs, np.float64)
    mean = runs.mean(axis=0)
    axes.plot(x, mean, style, color=color, linewidth=1.8, label=label)
    if len(runs) > 1:
        sd = runs.std(axis=0, ddof=1)
        axes.fill_between(x, mean - sd, mean + sd, color=color, alpha=0.14, linewidth=0)


def legend(axes: Axes, columns: int = 2) -> None:
    """A legend below the panel, where it hides nothing."""
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.17),
        ncols=columns,
        frameon=False,
        fontsize=SMALL,
        labelcolor=INK,
    )


def write(axes: list[Axes], path: str | os.PathLike[str]) -> None:
    """Writes the figure, whole or not at all."""
    finish(axes[0], path)
