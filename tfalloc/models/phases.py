"""The course of `fit`: phases of training, when each ends, and which weights are kept.

A warm start trains two-stage first and through the allocation from there. Both are epochs of one
Keras training, so that callbacks and History see one run: at the end of a phase the best weights
come back, the optimizer starts afresh and the training step is traced anew with another loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfalloc._warn import warn
from tfalloc.models.objective import Objective

DEFAULT_PATIENCE = 5
GIVEN = "given"  # of warm_start
# Below these the goal of a batch is mostly noise. Q is a mean over matched rows: with r responders
# among them its relative standard error is some 1 / sqrt(r), 32 % for 10, where the policies that
# training tells apart differ by a tenth. The price that meets the budget hangs on the mean cost of
# n matched rows, known to 1 / sqrt(n) of its spread, 10 % for 100.
FEWEST_MATCHED = 100
FEWEST_RESPONDERS = 10


class Best:
    """The best epoch so far by one metric: the larger the better if it is a goal.

    Args:
      monitor: name of a metric in the logs of an epoch.
    """

    def __init__(self, monitor: str):
        self.monitor = monitor
        self.sign = 1.0 if "goal" in monitor else -1.0
        self.value, self.waited = -math.inf, 0
        self.weights: list[Any] | None = None
        self.logs: dict[str, float] = {}
        self.influence: Any = None  # of each validation row on the goal
        self.to_beat: tuple[float, Any] | None = None  # a goal and its influence

    def get_state(self) -> dict[str, Any]:
        """What `set_state` takes."""
        kept = ("value", "waited", "weights", "logs", "influence", "to_beat")
        return {name: getattr(self, name) for name in kept}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a kept state."""
        for name, value in state.items():
            setattr(self, name, value)

    def offer(self, logs: dict[str, float], model: keras.Model) -> None:
        """Takes in an epoch; `waited` counts those since the best, NaN is never better."""
        if self.monitor not in logs:
            return  # no validation in this epoch
        value = self.sign * logs[self.monitor]
        if not math.isfinite(logs.get("val_loss", 0.0)):
            value = math.nan  # predictions that are no numbers have the goal of the cheapest arm
        self.waited += 1
        influence = getattr(model, "goal_influence", None)
        better = value > self.value and self._beats_the_start(value, influence)
        if better or self.weights is None:
            self.value = -math.inf if math.isnan(value) else value
            self.weights, self.logs, self.waited = model.get_weights(), dict(logs), 0
            self.influence = influence

    def _beats_the_start(self, value: float, influence: Any) -> bool:
        """By more than a standard error: else the luckiest of many epochs always wins."""
        if self.to_beat is None or influence is None:
            return True
        base, reference = self.to_beat
        return value - base > float(np.sqrt(np.sum((influence - reference) ** 2)))

    def start_from(self, other: Best) -> None:
        """Starts from the best epoch by another metric: what follows has to beat it by this one."""
        if self.monitor in other.logs:
            value = self.sign * other.logs[self.monitor]
            self.value = -math.inf if math.isnan(value) else value
            self.weights, self.logs, self.influence = other.weights, other.logs, other.influence
            if self.monitor == "val_goal" and self.influence is not None:
                self.to_beat = self.value, self.influence


class Phases(keras.callbacks.Callback):
    """Ends phases when validation no longer improves, and keeps the best weights of all of them.

    The best epoch of the two-stage phase of a warm start is that of the least `val_loss`, which it
    trains: the goal of a validation set is noisy, and the best of many epochs by it is a lucky one.
    Its weights are then kept unless an epoch through the allocation beats them by `monitor`; if
    that is the goal, by more than a standard error of the difference on the same rows.

    Args:
      through_allocation: for each phase, whether it differentiates the goal.
      epochs: at most, of each phase.
      monitor: name of the metric that decides what is kept, and when the last phase ends.
      patience: epochs of a phase without a better value before it ends; None: all epochs.
      keep_best: whether the weights of the best epoch are restored, else the last are kept.
      validate_start: evaluates the weights that the model starts with, which the last phase has to
        beat as it has to beat the best of a two-stage phase; None: they do not count.
    """

    def __init__(
        self,
        through_allocation: list[bool],
        epochs: int,
        monitor: str,
        patience: int | None,
        keep_best: bool,
        validate_start: Callable[[], dict[str, float]] | None = None,
    ):
        super().__init__()
        self.through_allocation, self.epochs, self.keep_best = through_allocation, epochs, keep_best
        self.validate_start = validate_start
        self.patience = math.inf if patience is None else patience
        self.phase, self.phase_epochs = 0, 0
        self.final = Best(monitor)
        self.current = self.final if self._is_last else Best("val_loss")
        self.fresh_optimizer: Any = None

    @property
    def _is_last(self) -> bool:
        return self.phase + 1 == len(self.through_allocation)

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Enters the first phase."""
        if not self._is_last:
            optimizer = self.model.optimizer
            self.fresh_optimizer = type(optimizer).from_config(optimizer.get_config())
            self.fresh_optimizer.build(self.model.trainable_variables)
        if self.validate_start is not None:
            given = Best(self.final.monitor)
            logs = {f"val_{name}": value for name, value in self.validate_start().items()}
            given.offer(logs, self.model)
            self.final.start_from(given)
        self.model.train_through_allocation(self.through_allocation[self.phase])

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Notes the best, and ends the phase if it is over."""
        self.phase_epochs += 1
        if self.keep_best:
            self.current.offer(logs or {}, self.model)
        over = self.current.waited >= self.patience or self.phase_epochs >= self.epochs
        if self.model.stop_training or not over:
            return
        if self._is_last:
            self.model.stop_training = True
            return
        self._restore(self.current)
        self._restart_optimizer()
        self.phase, self.phase_epochs = self.phase + 1, 0
        self.final.start_from(self.current)
        self.current = self.final
        self.model.train_through_allocation(self.through_allocation[self.phase])

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Brings the best weights back."""
        if self.keep_best and self.current.weights is None:
            warn(
                f"no epoch had {self.current.monitor!r}: the last weights are kept; the logs have "
                f"{sorted(logs or {})}."
            )
        self._restore(self.final if self.final.weights else self.current)

    def get_state(self) -> dict[str, Any]:
        """What `set_state` takes."""
        return {
            "phase": self.phase,
            "phase_epochs": self.phase_epochs,
            "final": self.final.get_state(),
            "current": self.current.get_state(),
            # A learning rate that was cut is the optimizer's by now, also in a second call of fit.
            "fresh": [np.array(x) for x in self._fresh_scalars()],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a kept state."""
        self.phase, self.phase_epochs = state["phase"], state["phase_epochs"]
        self.current = self.final if self._is_last else Best("val_loss")
        self.current.set_state(state["current"])
        self.final.set_state(state["final"])
        for variable, value in zip(self._fresh_scalars(), state["fresh"], strict=True):
            variable.assign(value)
        self.model.train_through_allocation(self.through_allocation[self.phase])

    def _fresh_scalars(self) -> list[Any]:
        variables = self.fresh_optimizer.variables if self.fresh_optimizer else []
        return [variable for variable in variables if not variable.shape]

    def _restore(self, best: Best) -> None:
        if best.weights is not None:
            self.model.set_weights(best.weights)

    def _restart_optimizer(self) -> None:
        """In place: callbacks may hold the optimizer, and the learning rate may have been cut."""
        fresh = self.fresh_optimizer.variables
        for variable, start in zip(self.model.optimizer.variables, fresh, strict=True):
            variable.assign(start)


class EpochLogs(keras.callbacks.Callback):
    """Makes an epoch's logs plain numbers, and labels them with the phase of a warm start.

    Keras 3.6 leaves tensors among them where a training step does not report every metric, as in a
    two-stage phase; nothing could store these.

    Args:
      phases: of the warm start; None without one.
    """

    def __init__(self, phases: Phases | None):
        super().__init__()
        self.phases = phases

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Changes the logs in place: callbacks after this one get the same dict."""
        if logs is None:
            return
        logs.update({name: float(value) for name, value in logs.items()})
        if self.phases is not None:
            logs["phase"] = self.phases.phase + 1


class WarnOfFewMatches(keras.callbacks.Callback):
    """Says once, after the first epoch with a goal, that batches are too small to estimate it."""

    def __init__(self) -> None:
        super().__init__()
        self.done = False

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Looks at the mean counts of the epoch."""
        logs = logs or {}
        matched = float(logs.get("matched", math.nan))
        if self.done or math.isnan(matched):
            return
        self.done = True
        responders = float(logs["matched_responders"])
        if matched < FEWEST_MATCHED or responders < FEWEST_RESPONDERS:
            warn(
                f"the expected outcome of a batch rests on {matched:.1f} matched rows, "
                f"{responders:.1f} of them with a response; below {FEWEST_MATCHED} or "
                f"{FEWEST_RESPONDERS} it is mostly noise: use a larger batch_size."
            )


def count(warm_start: bool | str) -> int:
    """Number of phases."""
    return 2 if warm_start is True else 1


def plan(
    callbacks: Any,
    objective: Objective,
    *,
    warm_start: bool | str,
    epochs: int,
    early_stopping: bool | int,
    monitor: str | None,
    validate: Callable[[], dict[str, float]] | None,
) -> list[Any]:
    """The callbacks of a training, the user's and ours.

    Args:
      callbacks: the user's: None, one or several.
      objective: what the model was compiled with.
      warm_start: as in `fit`.
      epochs: at most, of each phase.
      early_stopping: as in `fit`.
      monitor: as in `fit`.
      validate: evaluates the model as it is on the validation rows; None without any.

    Returns:
      First `EpochLogs`, so that the user's callbacks see what it writes; last what may put weights
      back, so that they see the weights of their epoch.

    Raises:
      ValueError: if what is asked for does not go together.
    """
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = callbacks.callbacks
    elif isinstance(callbacks, keras.callbacks.Callback):
        callbacks = [callbacks]
    callbacks = list(callbacks or [])
    own = any(isinstance(each, keras.callbacks.EarlyStopping) for each in callbacks)
    if warm_start not in (True, False, GIVEN):
        raise ValueError(f"warm_start={warm_start!r}: expected True, False or {GIVEN!r}.")
    if warm_start and not objective.through_allocation:
        raise ValueError(
            f"warm_start={warm_start!r} trains through the allocation from a two-stage model: "
            "compile with a goal_weight above 0 and a budget."
        )
    if warm_start == GIVEN and validate is None:
        raise ValueError(
            f"warm_start={GIVEN!r} keeps the weights that the model has unless an epoch beats "
            "them on validation rows: pass validation_data or a validation_split."
        )
    if warm_start and own:
        what = "both phases" if warm_start is True else "training"
        raise ValueError(
            f"warm_start={warm_start!r} ends {what} itself: pass early_stopping=patience and "
            "monitor= instead of an EarlyStopping callback."
        )
    if warm_start and any(isinstance(each, keras.callbacks.BackupAndRestore) for each in callbacks):
        raise ValueError(
            f"warm_start={warm_start!r} with BackupAndRestore: that brings weights back, not the "
            "phase, and two-stage training would begin again; pass resume_from=directory instead."
        )
    if early_stopping is not True and early_stopping < 0:
        raise ValueError(f"early_stopping={early_stopping!r}: expected True, False or a patience.")
    if monitor is None:
        monitor = "val_goal" if objective.validation_budgets else "val_loss"
    stops = bool(early_stopping) and validate is not None and not own
    patience = DEFAULT_PATIENCE if early_stopping is True else int(early_stopping)
    phases = Phases(
        [False, True] if warm_start is True else [objective.through_allocation],
        epochs,
        monitor,
        patience if stops else None,
        keep_best=stops or bool(warm_start and validate),
        validate_start=validate if warm_start == GIVEN else None,
    )
    watch = [WarnOfFewMatches()] if objective.through_allocation else []
    return [EpochLogs(phases if warm_start is True else None), *callbacks, *watch, phases]
