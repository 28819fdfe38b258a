"""What is printed where: results on stdout, progress and warnings on stderr, TensorFlow nowhere."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import pandas as pd

PIPE_WIDTH = 120
"""Columns of a table that goes to a file or a pipe, where Rich would assume 80."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leaves it to `errors`, where Rich would end the process with its own code."""
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def out() -> Console:
    """Results. Made anew each time, so that a redirected stdout is respected."""
    return _Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def err() -> Console:
    """Progress, notes and warnings."""
    return _Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else PIPE_WIDTH)


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


def outcome_table(outcomes: pd.DataFrame, title: str) -> Any:
    """Outcomes of policies, as `training.evaluate` gives them, as a table."""
    rows = []
    for _, row in outcomes.iterrows():
        rows.append(
            [
                str(row.model),
                number(row.budget),
                number(row.cost) + ("" if row.feasible else " (over)"),
                number(row.response),
                interval(row.response_low, row.response_high),
                "-" if row.difference != row.difference else f"{row.difference:+.3g}",
                interval(row.difference_low, row.difference_high, 3),
            ]
        )
    return table(
        title,
        ["policy", "budget", "cost", "response", "95 % interval", "vs. same mix", "95 % interval"],
        rows,
        caption="Per user, on rows the model has not seen; differences are paired by row.",
    )


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


def start_tensorflow(seed: int | None = None) -> None:
    """Imports TensorFlow without its C++ chatter and fixes all seeds.

    The log level must be in the environment before the import. A command's output is for people,
    so the "1" that importing this package sets is not quiet enough; another level that the user
    has chosen stays.

    Args:
      seed: of Python, NumPy and TensorFlow; None leaves them alone.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    # TensorFlow 2.21 greets on stderr at import whatever the level.
    quiet = _silent_stderr() if os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3" else nullcontext()
    with _signals_wait(), quiet:
        import keras
        import tensorflow  # noqa: F401
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    if seed is not None:
        keras.utils.set_random_seed(seed)


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Lets Ctrl-C and SIGTERM wait while modules are imported; the second of them does not wait.

    A module that is half imported fails later and elsewhere, and some swallow the exception.
    """
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(n))]
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Sends file descriptor 2 to nowhere: C++ does not know `sys.stderr`. Exceptions still rise."""
    try:
        kept = os.dup(2)
    except OSError:  # no stderr at all
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
