"""Progress of a study: a bar on terminals, a line for each finished run everywhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

PIPE_WIDTH = 120  # columns where Rich would assume 80


class StudyProgress:
    """Says which run is under way, and how long the others will take, on stderr.

    Args:
      title: name of the study.
      total: number of runs to do; with 0 nothing is said.
    """

    def __init__(self, title: str, total: int):
        self._title, self._total, self._done = title, total, 0
        terminal = sys.stderr.isatty()
        self._console = Console(
            stderr=True, highlight=False, width=None if terminal else PIPE_WIDTH
        )
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} runs"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not (terminal and total),
        )
        self._task = self._bar.add_task(title, total=total or 1)
        self._started = time.monotonic()
        self._run = ""

    def __enter__(self) -> StudyProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def starts(self, run: str) -> None:
        """Names the run under way."""
        self._run = run
        self._bar.update(self._task, description=f"{self._title}: {run}")

    def finished(self, remark: str = "") -> None:
        """Moves on, and prints the run's line.

        Args:
          remark: what else there is to say of the run.
        """
        self._done += 1
        self._bar.update(self._task, completed=self._done)
        spent = time.monotonic() - self._started
        left = spent / self._done * (self._total - self._done)
        self._bar.console.print(
            f"{self._title}: {self._run} ({self._done}/{self._total})  {spent:.0f} s, "
            f"about {left:.0f} s left" + (f"; {remark}" if remark else ""),
            markup=False,
            soft_wrap=True,
        )
