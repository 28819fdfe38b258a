"""`Shared`: what several runs of one seed have in common, trained once and paid for by each."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


class Shared:
    """Keeps objects by name, with the seconds that each took by itself.

    A run between `begin` and `seconds` counts its own time, and that of the kept objects which it
    used but did not make: it is what the run would have taken alone. Objects may use others.

    Example:
      >>> shared = Shared()
      >>> for _ in range(2):  # the second run makes nothing, and counts the same
      ...     shared.begin()
      ...     kept = shared("slow", lambda: time.sleep(0.05) or "made")
      ...     print(kept, 0.05 <= shared.seconds() < 1.0)
      made True
      made True
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Any, dict[str, float]]] = {}
        self.begin()

    def begin(self) -> None:
        """Starts the clock of a run."""
        self._start = time.perf_counter()
        self._used: dict[str, float] = {}  # names and own seconds, of the run or of an object
        self._nested = 0.0  # seconds of what was made inside the object that is being made
        self._made: set[str] = set()

    def __call__(self, name: str, make: Callable[[], Any]) -> Any:
        """The object of a name; `make` is called unless it is kept.

        Args:
          name: of the object; whoever asks for it again gets the same one, and must not change it.
          make: without arguments; it may ask for other objects.
        """
        if name not in self._kept:
            used, nested = self._used, self._nested
            self._used, self._nested = {}, 0.0
            start = time.perf_counter()
            made = make()
            took = time.perf_counter() - start
            self._kept[name] = made, {**self._used, name: took - self._nested}
            self._used, self._nested = used, nested + took
            self._made.add(name)
        kept, parts = self._kept[name]
        self._used.update(parts)
        return kept

    def seconds(self) -> float:
        """Of the run since `begin`, objects that earlier runs made included."""
        reused = sum(own for name, own in self._used.items() if name not in self._made)
        return time.perf_counter() - self._start + reused
