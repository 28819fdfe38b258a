"""Training progress: a bar for the running epoch, and a line for each finished one."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tfalloc.cli import console
from tfalloc.training import Watcher

SHOWN = ("loss", "val_loss", "goal", "val_goal")


class EpochProgress(keras.callbacks.Callback):
    """Shows epoch, losses, goal and the time that the remaining epochs will take at most.

    Lines of finished epochs stay, so that a log file has them too; the bar only lives on
    terminals. On an exception in `fit` call `close`, since Keras then calls nothing.

    Args:
      title: name of the model in training.
      steps: batches an epoch, where the data set does not know.
    """

    def __init__(self, title: str, steps: int | None = None):
        super().__init__()
        self._title, self._steps = title, steps
        self._console = console.err()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[loss]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task: Any = None
        self._started = 0.0
        self._epochs: int | None = None
        self._position = (0, 0)  # (epoch, step) that comes next

    @property
    def shown(self) -> bool:
        """Whether there was any training."""
        return self._task is not None

    def get_state(self) -> dict[str, Any]:
        """Time spent and position, for a run that goes on in another process."""
        return {"spent": time.monotonic() - self._started, "position": self._position}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self._started = time.monotonic() - state["spent"]
        self._position = epoch, step = state["position"]
        self._bar.update(self._task, completed=step)
        self._bar.console.print(
            f"{self._title}: resuming at epoch {epoch + 1}, step {step}",
            markup=False,
            soft_wrap=True,
        )

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Starts the bar."""
        self._epochs = self.params.get("epochs")
        self._steps = self.params.get("steps") or self._steps
        self._started = time.monotonic()
        self._bar.start()
        self._task = self._bar.add_task(self._title, total=self._steps or 1, loss="compiling …")

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Resets the bar."""
        self._position = (epoch, 0)
        name = f"{self._title}: epoch {epoch + 1}/{self._epochs}"
        self._bar.reset(self._task, description=name, total=self._steps or 1)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Moves the bar."""
        self._position = (self._position[0], batch + 1)
        if not self._bar.disable:  # reading a loss waits for the device: not for a log file
            loss = f"loss {float((logs or {}).get('loss', float('nan'))):.5f}"
            self._bar.update(self._task, completed=batch + 1, loss=loss)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Prints the epoch's line."""
        self._position = (epoch + 1, 0)
        spent = time.monotonic() - self._started
        left = spent / (epoch + 1) * max((self._epochs or 0) - epoch - 1, 0)
        shown = {name: float(x) for name, x in (logs or {}).items() if name in SHOWN}
        if math.isnan(shown.get("goal", 0.0)):
            del shown["goal"]  # the two-stage phase of a warm start has none
        values = "  ".join(f"{name} {shown[name]:.5f}" for name in SHOWN if name in shown)
        self._bar.console.print(
            f"{self._title}: epoch {epoch + 1}/{self._epochs}  {values}  "
            f"{spent:.0f} s, at most {left:.0f} s left",
            markup=False,
            soft_wrap=True,
        )

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Ends the bar."""
        self.close()

    def close(self) -> None:
        """Gives the terminal back."""
        self._bar.stop()


@contextmanager
def watcher() -> Iterator[Watcher]:
    """Shows training on stderr; the terminal is given back whatever happens."""
    bars: list[EpochProgress] = []

    def callbacks(name: str, steps: int) -> list[EpochProgress]:
        bars.append(EpochProgress(name, steps))
        return bars[-1:]

    def trained(name: str) -> None:
        bars[-1].close()
        if not bars[-1].shown:
            console.note(f"{name}: trained already")

    try:
        yield Watcher(note=console.note, warn=console.warn, callbacks=callbacks, trained=trained)
    finally:
        for bar in bars:
            bar.close()
