"""The common look of the figures: axes, colours, labels that keep apart, files in one piece."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tfalloc import _files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, distinct under the common kinds of colour blindness; yellow left out,
# which white paper swallows.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
INK = "#333333"
FAINT = "#D9D9D9"
SMALL, MEDIUM, LARGE = 10, 11, 12.5
# The least distance between two labels, as a share of the height of the axes.
LABEL_GAP = 0.058


def styled_axes(ax: Axes | None) -> Axes:
    """Axes to draw on, in the common style."""
    if ax is None:
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError(
                "plots need matplotlib, which is not installed: pip install tfalloc[plots]"
            ) from error
        ax = Figure(figsize=(7.2, 4.4), dpi=160, layout="constrained").add_subplot()
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color("#888888")
    ax.tick_params(labelsize=SMALL, color="#888888", labelcolor=INK)
    ax.grid(axis="y", color=FAINT, linewidth=0.7)
    ax.set_axisbelow(True)
    return ax


def percent_axis(axis: Any) -> None:
    """Writes shares as percent, without idle decimals."""
    # matplotlib's PercentFormatter writes 34.0% where 34% will do.
    axis.set_major_formatter(lambda share, _: f"{round(100.0 * share, 6):g}%")


def write_title(axes: Axes, title: str | None, budget: float | None = None) -> None:
    """Writes a title, if there is one, with space below it for the name of a marked budget."""
    if title:
        pad = 10.0 if budget is None else 24.0
        axes.set_title(plain_text(title), fontsize=LARGE, loc="left", color=INK, pad=pad)


def name_budget(axes: Axes, budget: float) -> None:
    """Names the marked budget above the axes, where no curve can run through the words."""
    axes.annotate(
        f"budget {budget:g}",
        (budget, 1.0),
        xycoords=axes.get_xaxis_transform(),
        xytext=(0, 4),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=SMALL,
        color=INK,
    )


def label_ends(axes: Axes, labels: list[tuple[str, str, float, float]]) -> None:
    """Names each line at its right end, in its colour; labels that would touch are pushed apart.

    A dotted leader joins a line that ends early, or a label that was moved.

    Args:
      labels: name, colour and end point (cost, response) of each line.
    """
    if not labels:
        return
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    labels = sorted(labels, key=lambda label: label[3])
    ends = np.array(
        [[(x - left) / (right - left), (y - low) / (high - low)] for _, _, x, y in labels]
    )
    places = spread(ends[:, 1], LABEL_GAP)
    for (name, colour, _, _), (x, y), place in zip(labels, ends.tolist(), places, strict=True):
        axes.plot(
            [x, 1.015],
            [y, place],
            ":",
            color=colour,
            linewidth=1,
            alpha=0.8,
            transform=axes.transAxes,
            clip_on=False,
            label="_leader",
        )
        axes.annotate(
            plain_text(name),
            (1.015, place),
            xycoords="axes fraction",
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=SMALL,
            color=colour,
            annotation_clip=False,
        )


def spread(places: npt.NDArray[np.float64], gap: float) -> npt.NDArray[np.float64]:
    """Moves ascending places apart to at least `gap`, each group about its own mean.

    Example:
      >>> spread(np.array([0.5, 0.5, 0.9]), 0.1).round(2).tolist()
      [0.45, 0.55, 0.9]
    """
    # Least squares under y[i+1] >= y[i] + gap: monotone regression of y[i] - i gap, by pooling.
    blocks: list[tuple[float, int]] = []
    for mean in places - gap * np.arange(places.size):
        size = 1
        while blocks and blocks[-1][0] > mean:
            other, count = blocks.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        blocks.append((float(mean), size))
    pooled = [mean for mean, size in blocks for _ in range(size)]
    return np.array(pooled) + gap * np.arange(places.size)


def finish(axes: Axes, path: str | os.PathLike[str] | None) -> Figure:
    """The figure of the axes; written to a file, whole or not at all, if there is a path."""
    figure: Any = axes.figure
    if path is not None:
        with _files.new_file(path, overwrite=True) as file:
            _lay_out(figure)
            figure.savefig(file, format=file.suffix[1:] or "png")
    return figure


def plain_text(text: object) -> str:
    """A label that is drawn as it is: dollars are no formula, and no legend leaves it out.

    Example:
      >>> print(plain_text("5 to 10 $"), plain_text("_none"))
      5 to 10 \\$  _none
    """
    # Matplotlib skips labels that begin with "_".
    label = str(text).replace("$", r"\$")
    return f" {label}" if label.startswith("_") else label


def _lay_out(figure: Figure) -> None:
    """Lays the figure out until its axes stay where they are.

    The layout makes room for the labels of the axes as they were; at their next size there may be
    other, longer ones.
    """
    places: list[tuple[float, ...]] = []
    for _ in range(5):
        figure.draw_without_rendering()
        before, places = places, [axes.get_position().bounds for axes in figure.axes]
        if places == before:
            return
