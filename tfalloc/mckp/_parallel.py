"""Runs NumPy work on slices of rows in threads: NumPy releases the interpreter lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

# Beyond this memory bandwidth, not arithmetic, is what more threads would wait for.
MAX_WORKERS = 16


def num_workers() -> int:
    """Number of threads: the cores that this process may use."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    return max(1, min(cores, MAX_WORKERS))


def run(work: Callable[[Task], Result], tasks: Iterable[Task]) -> list[Result]:
    """Returns `[work(task) for task in tasks]`, computed in threads; the first error is raised."""
    todo = list(tasks)
    workers = min(num_workers(), len(todo))
    if workers <= 1:
        return [work(task) for task in todo]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, todo))
