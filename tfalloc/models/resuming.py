"""Training that goes on where it was killed, to the same weights and History.

The state of training at a step is: every variable (weights, optimizer, running means, random
seeds), what callbacks know, and the position, (epoch, step). What else a step depends on is a
function of these: data order of (seed, epoch, step), random budgets of (seed, optimizer step).

Keras' training loop starts at the beginning of an epoch. To enter it in the middle, the first steps
of that epoch are empty: callbacks are not told, nothing is computed, and the data start behind.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfalloc._warn import warn
from tfalloc.models.callback_states import reopen_logs, restore_states, states_of
from tfalloc.models.checkpoint import Checkpoint
from tfalloc.models.settings import described, flat


class ResumableCallbacks(keras.callbacks.CallbackList):
    """The callbacks of a run, which keeps its state between them and starts from a kept one.

    Args:
      callbacks: the user's and ours.
      model: a `GoalModel`, compiled and built.
      checkpoint: opened.
      saved: state to start from; None: the beginning.
      consume: whether the batches of empty steps have to be taken from the data all the same.
      **params: of the run, as Keras passes them (`epochs`, `steps`, `verbose`).
    """

    def __init__(
        self,
        callbacks: list[Any],
        model: Any,
        checkpoint: Checkpoint,
        saved: dict[str, Any] | None,
        *,
        consume: bool,
        **params: Any,
    ):
        verbose = params.get("verbose")
        super().__init__(
            callbacks, add_history=True, add_progbar=verbose != 0, model=model, **params
        )
        self._async_train = False  # callbacks must have seen a step before its state is kept
        self._checkpoint, self._saved, self._consume = checkpoint, saved, consume
        self._epoch = self._steps = self._empty = 0
        self._total = saved["total_steps"] if saved else 0  # training steps taken, all epochs
        self._broken = False

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Restores a state that was kept between epochs."""
        if self._saved:
            reopen_logs(self.callbacks, self._saved["callbacks"])
        super().on_train_begin(logs)
        if self._saved and not self._saved["steps"]:
            self._restore()

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Restores a state that was kept within this epoch, and makes its first steps empty."""
        super().on_epoch_begin(epoch, logs)
        self._epoch, self._steps = epoch, 0
        if self._saved:
            saved_logs, self._empty = self._saved["logs"], self._saved["steps"]
            self._restore()  # may make another train function
            self._train_function = self.model.train_function
            self.model.train_function = lambda iterator: self._empty_step(iterator, saved_logs)

    def _empty_step(self, iterator: Any, logs: dict[str, float]) -> dict[str, float]:
        if self._consume:
            for _ in range(self.model.steps_per_execution):
                next(iterator)
        return logs

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Nothing, if the step is empty."""
        if not self._empty:
            super().on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Keeps the state if it is time."""
        self._steps += 1
        if self._empty:
            self._empty -= 1
            if not self._empty:
                self.model.train_function = self._train_function
            return
        self._total += 1
        super().on_train_batch_end(batch, logs)
        if self._checkpoint.due(self._total):
            self._keep(self._epoch, self._steps, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Keeps the state between epochs if it is time."""
        super().on_epoch_end(epoch, logs)
        if self._checkpoint.due(self._total) and epoch + 1 < self.params["epochs"]:
            self._keep(epoch + 1, 0, logs)
        else:
            self._check_finite(epoch, self._steps)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Keeps the result, by which a finished run is known."""
        self._check_finite(self._epoch, self._steps)
        super().on_train_end(logs)
        if not self._broken:
            self._write(self._epoch + 1, 0, logs, finished=True)

    def _keep(self, epoch: int, steps: int, logs: dict[str, float] | None) -> None:
        # A run that is about to end has to end in the same way if what follows is repeated.
        if self._check_finite(epoch, steps) and not self.model.stop_training:
            self._write(epoch, steps, logs, finished=False)

    def _write(
        self, epoch: int, steps: int, logs: dict[str, float] | None, *, finished: bool
    ) -> None:
        state = {
            "epoch": epoch,
            "steps": steps,
            "total_steps": self._total,
            "finished": finished,
            "logs": {name: float(value) for name, value in (logs or {}).items()},
            "variables": [np.array(each) for each in _variables(self.model)],
            "callbacks": states_of(self.callbacks),
        }
        self._checkpoint.save(state, self._total)

    def _check_finite(self, epoch: int, steps: int) -> bool:
        """Ends training if a weight is not finite: no later step would mend it."""
        weights = self.model.trainable_variables
        if not self._broken and not all(np.isfinite(np.array(each)).all() for each in weights):
            self._broken = self.model.stop_training = True
            warn(
                f"weights are not finite after epoch {epoch}, step {steps}: training ends. The "
                f"last good state stays in {self._checkpoint.directory}, which resumes to the same "
                "end: start afresh with a smaller learning rate or goal_weight."
            )
        return not self._broken

    def _restore(self) -> None:
        assert self._saved is not None
        restore(self.model, self.callbacks, self._saved)
        self._saved = None


def open_run(
    resume_from: Any, model: Any, settings: dict[str, Any]
) -> tuple[Checkpoint, dict[str, Any] | None]:
    """The checkpoint and its state, None at the beginning of a run.

    Args:
      resume_from: a directory, or a `Checkpoint`.
      model: a `GoalModel`, compiled and built.
      settings: nested dict of what else the run depends on, of any types.

    Raises:
      ValueError: as `Checkpoint.open`.
    """
    checkpoint = resume_from if isinstance(resume_from, Checkpoint) else Checkpoint(resume_from)
    shapes = [list(each.shape) for each in _variables(model)]
    return checkpoint, checkpoint.open(flat(described({**settings, "variables": shapes})))


def restore(model: Any, callbacks: list[Any], saved: dict[str, Any]) -> None:
    """Puts a state back into a model and callbacks."""
    variables = _variables(model)
    for variable, value in zip(variables, saved["variables"], strict=True):
        variable.assign(value)
    restore_states(callbacks, saved["callbacks"])


def _variables(model: Any) -> list[Any]:
    """Every variable that training changes or predictions need, each once, in a fixed order."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    everything = [
        *model.variables,
        *model.optimizer.variables,
        *(each for metric in model.training_state_metrics for each in metric.variables),
    ]
    return list({id(each): each for each in everything}.values())
