"""Training that goes on after a kill to the same weights and History: `fit(resume_from=…)`.

A state is that of the end of an epoch: every variable (weights, optimizer, running means, random
seeds) and what callbacks know. What else an epoch depends on is a function of these: data order of
(seed, epoch, step), random budgets of (seed, optimizer step).

`KeepState` has the hooks of Keras' `BackupAndRestore`, which by itself would not give the same run
again: its file of weights lacks the random state of dropout, nothing of callbacks is kept (best
weights, epochs waited, History, phase of a warm start), and a kill between its two files leaves the
weights of one epoch beside the number of another.
"""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfalloc._warn import warn
from tfalloc.data import RCTData
from tfalloc.models import _keras
from tfalloc.models._state_files import OtherRunError, States


class Run:
    """A run of `fit` that is kept in a directory, at its beginning, in its course or finished.

    Args:
      directory: where its states are, or will be.
      model: compiled and built.
      callbacks: the user's and ours.
      settings: arguments of `fit`, `initial_epoch` among them.
      train: rows to train on.
      valid: rows to validate on.

    Attributes:
      first_epoch: from which training goes on.
      finished: whether there is nothing left to train.
      callbacks: those that keep the run and let it go on.

    Raises:
      ValueError: the directory is of another run or damaged, or a dataset that ends is read in
        epochs of another length.
    """

    def __init__(
        self,
        directory: Any,
        model: Any,
        callbacks: list[Any],
        settings: dict[str, Any],
        train: Any,
        valid: Any,
    ):
        verbose = settings.pop("verbose", "auto")
        steps = settings.get("steps_per_epoch")
        if isinstance(train, tf.data.Dataset) and steps:
            batches = int(train.cardinality())
            if 0 <= batches != steps:
                raise ValueError(
                    f"resume_from with steps_per_epoch={steps!r} and a dataset of {batches} "
                    "batches: epochs would begin anywhere in it; pass dataset.repeat()."
                )
        everything = {
            "model": _asked_for(model),
            "compile": model.compile_settings,
            "fit": settings,
            "data": train,
            "validation_data": valid,
            "variables": [list(each.shape) for each in _variables(model)],
        }
        self._model, self._history = model, keras.callbacks.History()
        states = States(directory, _flat(described(everything)))
        self._state = states.newest
        self.first_epoch = self._state["epoch"] if self._state else settings["initial_epoch"]
        self.finished = self._state is not None and self._state["finished"]
        kept = [*callbacks, self._history]
        if self._state and not self.finished:
            _reopen_logs(kept, self._state["callbacks"])
            if verbose:
                print(f"resuming at epoch {self.first_epoch + 1}")
        self.callbacks = [*kept, KeepState(states, kept)]

    def result(self) -> keras.callbacks.History:
        """Gives the model back what a finished run ended with."""
        self._model.history = self._history
        self._history.on_train_begin()
        _restore(self._model, [self._history], self._state)
        return self._history


class KeepState(keras.callbacks.Callback):
    """Keeps the state of a run at the end of epochs, and puts the last one back at its start.

    It must be the last of the callbacks, so that it sees what they know after an epoch. The first
    epoch is kept, later ones so that writing takes at most 1 % of the time.

    Args:
      states: of the run, opened.
      callbacks: the user's and ours, `History` among them.
    """

    def __init__(self, states: States, callbacks: list[Any]):
        super().__init__()
        self._states, self._callbacks = states, callbacks
        self._epochs, self._broken = 0, False

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Puts the last state back."""
        if self._states.newest:
            _restore(self.model, self._callbacks, self._states.newest)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Keeps the state if it is time, unless training is about to end."""
        self._epochs = epoch + 1
        self._check_finite(epoch)
        # A run that is about to end has to end in the same way if its last epoch is repeated.
        ends = self.model.stop_training or self._epochs >= self.params["epochs"]
        if not ends and self._states.due():
            self._save(finished=False)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Keeps the result, by which a finished run is known."""
        if not self._broken:
            self._save(finished=True)

    def _save(self, *, finished: bool) -> None:
        self._states.save(
            {
                "epoch": self._epochs,
                "finished": finished,
                "variables": [np.array(each) for each in _variables(self.model)],
                "callbacks": _states_of(self._callbacks),
            }
        )

    def _check_finite(self, epoch: int) -> None:
        """Ends training if a weight is not finite: no later step would mend it."""
        weights = self.model.trainable_variables
        if not all(np.isfinite(np.array(each)).all() for each in weights):
            self._broken = self.model.stop_training = True
            warn(
                f"weights are not finite after epoch {epoch + 1}: training ends. The last good "
                f"state stays in {self._states.directory}, which resumes to the same end: start "
                "afresh with a smaller learning rate or goal_weight."
            )


def _restore(model: Any, callbacks: list[Any], state: Any) -> None:
    """Puts a state back into a model and callbacks."""
    for variable, value in zip(_variables(model), state["variables"], strict=True):
        variable.assign(value)
    _restore_states(callbacks, state["callbacks"])


def _asked_for(model: Any) -> dict[str, Any]:
    """What was asked of the network; its preprocessing follows from the data."""
    left_out = ("name", "preprocessor", "dtype")
    config = {name: x for name, x in model.get_config().items() if name not in left_out}
    return {**config, "dtype": model.dtype_policy.name}


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


__all__ = ["KeepState", "OtherRunError", "Run", "described"]


# What callbacks know ------------------------------------------------------------------------------

# What Keras sets at the start of every run.
_OF_THE_RUN = {"params", "_params", "verbose", "validation_data"}
_NUMBERS = (bool, int, float, np.ndarray, np.generic, type(None))


def _states_of(callbacks: list[Any]) -> dict[str, Any]:
    """State of every callback, by class name and how many of that class came before."""
    return {
        key: _state(callback)
        for key, callback in _keyed(callbacks)
        if not isinstance(callback, keras.callbacks.ProgbarLogger)
    }


def _restore_states(callbacks: list[Any], states: dict[str, Any]) -> None:
    """Puts states back; a callback without one stays as it is, so loggers may be added."""
    for key, callback in _keyed(callbacks):
        if key in states:
            _restore_state(callback, states[key])


def _reopen_logs(callbacks: list[Any], states: dict[str, Any]) -> None:
    """Before `on_train_begin`: lets CSV logs go on where the state was kept.

    Rows that were written after it will be written again, so they are cut off; and a log that
    starts its file anew would lose what came before.
    """
    for key, callback in _keyed(callbacks):
        if isinstance(callback, keras.callbacks.CSVLogger) and key in states:
            callback.append = True
            if os.path.exists(callback.filename):
                size = os.path.getsize(callback.filename)
                os.truncate(callback.filename, min(size, states[key]["size"]))


def _keyed(callbacks: list[Any]) -> list[tuple[str, Any]]:
    seen: dict[str, int] = {}
    keyed = []
    for callback in callbacks:
        name = type(callback).__name__
        seen[name] = seen.get(name, -1) + 1
        keyed.append((f"{name}:{seen[name]}", callback))
    return keyed


def _state(callback: Any) -> Any:
    if hasattr(callback, "get_state") and hasattr(callback, "set_state"):
        return callback.get_state()
    if isinstance(callback, keras.callbacks.CSVLogger):
        exists = os.path.exists(callback.filename)
        return {
            "keys": callback.keys,
            "size": os.path.getsize(callback.filename) if exists else 0,
            "append": callback.append,
        }
    numbers = {name: value for name, value in _attributes(callback).items() if _is_plain(value)}
    return {"numbers": numbers, "knows_direction": _keras.knows_direction(callback)}


def _restore_state(callback: Any, state: Any) -> None:
    if hasattr(callback, "get_state") and hasattr(callback, "set_state"):
        callback.set_state(state)
    elif isinstance(callback, keras.callbacks.CSVLogger):
        callback.keys, callback.append = state["keys"], state["append"]
    else:
        # Whether less is better is found out late by Keras, which then changes numbers as well.
        if state["knows_direction"] and not _keras.knows_direction(callback):
            _keras.find_direction(callback)
        now = _attributes(callback)
        for name, value in state["numbers"].items():
            if name in now and _is_plain(now[name]):
                setattr(callback, name, value)


def _attributes(callback: Any) -> dict[str, Any]:
    return {name: x for name, x in vars(callback).items() if name not in _OF_THE_RUN}


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, (str, int)) and _is_plain(x) for key, x in value.items())
    # Arrays of objects cannot be written; subclasses of numbers (enumerations) would change.
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biufV"
    return isinstance(value, np.generic) or type(value) in _NUMBERS


# Settings -----------------------------------------------------------------------------------------

# Keras numbers names by what was built before in the process, and refers to layers by them.
_NAMES = {
    "name",
    "build_config",
    "input_layers",
    "output_layers",
    "inbound_nodes",
    "shared_object_id",
}


def described(value: Any) -> Any:
    """A setting in JSON's types: numbers and strings, objects by class and attributes.

    Functions are known by their name only, other objects than configurations by their class and
    plain attributes.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [described(item) for item in value]
    if isinstance(value, dict):
        return {str(k): described(x) for k, x in value.items() if k not in _NAMES}
    if isinstance(value, (np.ndarray, np.generic, tf.Tensor)):
        return described(np.asarray(value).tolist())
    if isinstance(value, RCTData):
        return {"rows": len(value), "fingerprint": value.fingerprint()}
    if isinstance(value, tf.data.Dataset):
        return {"dataset": str(value.element_spec), "batches": int(value.cardinality())}
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    kind = type(value)
    try:
        attributes = value.get_config()
    except (AttributeError, NotImplementedError):
        attributes = {
            name: each
            for name, each in getattr(value, "__dict__", {}).items()
            if isinstance(each, (bool, int, float, str, tuple)) or each is None
        }
    return {"class": f"{kind.__module__}.{kind.__qualname__}", **described(attributes)}


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts to one with dotted names, so that what differs can be named.

    Example:
      >>> _flat({"fit": {"epochs": 3, "shuffle": True}})
      {'fit.epochs': 3, 'fit.shuffle': True}
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            found.update(_flat(value, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = value
    return found
