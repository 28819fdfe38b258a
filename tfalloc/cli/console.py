"""Where things are printed: results on stdout, progress and warnings on stderr."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 120
"""Columns of a table that goes to a file or a pipe, where Rich would assume 80."""


def out() -> Console:
    """Results. Made anew each time, so that a redirected stdout is respected."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def err() -> Console:
    """Progress, notes and warnings."""
    return Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else PIPE_WIDTH)


def note(text: str) -> None:
    """Prints a line about what is going on."""
    err().print(text, style="dim", markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """Prints a warning."""
    err().print(f"warning: {text}", style="yellow", markup=False, soft_wrap=True)


def table(title: str, columns: list[str], rows: list[list[str]], caption: str | None = None) -> Any:
    """A table with its first column to the left and numbers to the right.

    Everything is `Text`, because Rich would take brackets in labels and paths for markup.
    """
    made = Table(
        title=Text(title, "bold"),
        title_justify="left",
        caption=None if caption is None else Text(caption, "dim"),
        caption_justify="left",
    )
    for number, column in enumerate(columns):
        made.add_column(
            column, justify="left" if number == 0 else "right", no_wrap=number > 0, overflow="fold"
        )
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def number(value: float, digits: int = 4) -> str:
    """A number for a table; a dash for NaN.

    >>> number(0.0123456), number(float("nan"))
    ('0.01235', '-')
    """
    return "-" if value != value else f"{value:.{digits}g}"


def interval(low: float, high: float, digits: int = 4) -> str:
    """An interval for a table.

    >>> interval(0.1, 0.2)
    '0.1 … 0.2'
    """
    return "-" if low != low else f"{low:.{digits}g} … {high:.{digits}g}"
