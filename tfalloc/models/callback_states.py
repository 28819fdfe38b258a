"""What callbacks know of a training run, taken out and put back.

A callback with `get_state()` and `set_state(state)` says itself what that is. Of any other, Keras'
own among them, it is the attributes that are numbers, arrays or containers of them: the best value
so far, epochs waited, best weights, the History.
"""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np

# What Keras sets at the start of every run.
_OF_THE_RUN = {"params", "_params", "verbose", "validation_data"}
_NUMBERS = (bool, int, float, np.ndarray, np.generic, type(None))


def states_of(callbacks: list[Any]) -> dict[str, Any]:
    """State of every callback, by class name and how many of that class came before."""
    return {
        key: _state(callback)
        for key, callback in _keyed(callbacks)
        if not isinstance(callback, keras.callbacks.ProgbarLogger)
    }


def restore_states(callbacks: list[Any], states: dict[str, Any]) -> None:
    """Puts states back; a callback without one stays as it is, so loggers may be added."""
    for key, callback in _keyed(callbacks):
        if key in states:
            _restore(callback, states[key])


def reopen_logs(callbacks: list[Any], states: dict[str, Any]) -> None:
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
    # A copy: the state is written after this, and containers such as History's go on growing.
    return {"numbers": _copy(numbers), "knows_direction": _knows_direction(callback)}


def _restore(callback: Any, state: Any) -> None:
    if hasattr(callback, "get_state") and hasattr(callback, "set_state"):
        callback.set_state(state)
    elif isinstance(callback, keras.callbacks.CSVLogger):
        callback.keys, callback.append = state["keys"], state["append"]
    else:
        # Whether less is better is found out late by Keras, which then changes numbers as well.
        if state["knows_direction"] and not _knows_direction(callback):
            callback._set_monitor_op()
        now = _attributes(callback)
        for name, value in state["numbers"].items():
            if name in now and _is_plain(now[name]):
                setattr(callback, name, value)


def _knows_direction(callback: Any) -> bool:
    return getattr(callback, "monitor_op", True) is not None


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


def _copy(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_copy(item) for item in value)
    return {key: _copy(x) for key, x in value.items()} if isinstance(value, dict) else value
