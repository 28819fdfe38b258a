"""Published experiments, run again: from one command to runs, a table and a figure."""

from __future__ import annotations

from tfalloc.reproduce.report import Difference as Difference
from tfalloc.reproduce.report import comparison as comparison
from tfalloc.reproduce.report import markdown as markdown
from tfalloc.reproduce.report import paired_difference as paired_difference
from tfalloc.reproduce.runs import Runs as Runs

__all__ = [
    "Difference",
    "Runs",
    "comparison",
    "markdown",
    "paired_difference",
]
