"""`Checkpoint`: the files of a training run that survive a kill at any moment.

    directory/run.json           format, and the settings of the run that the states belong to
    directory/state-00000017.npz the last two states: arrays, and a tree of JSON that names them

A state is written under a temporary name, forced to disk and renamed: a kill in the middle of a
write leaves the last good one. Nothing is pickled, so that reading a checkpoint runs no code.
"""

from __future__ import annotations

import io
import json
import math
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfalloc._version import __version__
from tfalloc._warn import warn
from tfalloc.data import RCTData

FORMAT = 1
KEPT = 2
SHARE = 0.01  # of the time, at most, that goes into writing when nothing else is asked for
RUN, TREE = "run.json", "tree"


class OtherRunError(ValueError):
    """A checkpoint belongs to a run with other data or settings.

    Attributes:
      difference: what differs, without advice.
      directory: of the checkpoint.
    """

    def __init__(self, difference: str, directory: Path):
        super().__init__(
            f"cannot resume from {directory}: {difference}. Pass what that run had; or delete the "
            "directory, or name another, to start afresh."
        )
        self.difference, self.directory = difference, directory


class Checkpoint:
    """Where and how often `fit(resume_from=…)` keeps the state of training.

    Args:
      directory: made if it does not exist; for one run only.
      every_seconds: least time between two states. Where writing is slow, states come less often,
        so that they take at most 1 % of the time.
      every_steps: training steps between two states, instead of the time.

    Raises:
      ValueError: if an interval is out of range.

    Example:
      >>> import tempfile, tfalloc
      >>> data = tfalloc.datasets.five_arms(2_000, seed=0).data
      >>> def train(directory):
      ...     model = tfalloc.AllocationModel(num_treatments=5, backbone="small", seed=0)
      ...     model.compile(goal_weight=0.1, budget=2.0)
      ...     keep = tfalloc.models.Checkpoint(directory, every_seconds=60)
      ...     history = model.fit(data, batch_size=1_000, epochs=2, resume_from=keep, verbose=0)
      ...     return history.history["loss"]
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     train(directory) == train(directory)  # the second call only reads the result
      True
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        every_seconds: float = 10.0,
        every_steps: int | None = None,
    ):
        if not (math.isfinite(every_seconds) and every_seconds >= 0):
            raise ValueError(f"every_seconds={every_seconds!r}: expected a number from 0.")
        if every_steps is not None and every_steps < 1:
            raise ValueError(f"every_steps={every_steps!r}: expected at least 1, or None.")
        self.directory = Path(directory)
        self.every_seconds, self.every_steps = every_seconds, every_steps
        self._warned = False
        self._mark(0)

    def open(self, settings: dict[str, Any]) -> dict[str, Any] | None:
        """Begins a run, or finds what an earlier one with the same settings left.

        Args:
          settings: {name: value in JSON's types}.

        Returns:
          The last good state; None: the run starts at its beginning.

        Raises:
          OtherRunError: the directory is of another run.
          ValueError: it cannot be written, or is damaged.
        """
        settings = json.loads(json.dumps(settings))  # tuples are lists from here
        run = self.directory / RUN
        if self._states():
            self._check_same(run, settings)
            state = self._newest()
        else:
            content = {"format": FORMAT, "tfalloc": __version__, "settings": settings}
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
                _write_whole(run, json.dumps(content, indent=1).encode())
            except OSError as error:
                raise ValueError(
                    f"cannot write checkpoints to {self.directory} ({error.strerror}); expected a "
                    "writable directory."
                ) from error
            state = None
        self._warned = False
        self._mark(0)
        return state

    def due(self, step: int) -> bool:
        """Whether a state should be kept at a step of training, counted over all epochs."""
        if self.every_steps is not None:
            return step - self._step >= self.every_steps
        return time.monotonic() - self._time >= max(self.every_seconds, self._spent / SHARE)

    def save(self, state: dict[str, Any], step: int) -> None:
        """Keeps a state and drops all but the last two.

        Training is worth more than its back-up: if the state cannot be written (the disk is full)
        a warning says so once, the last good state stays, and the next one is tried when due.

        Args:
          state: a tree of dicts, lists, tuples, None, booleans, numbers, strings and arrays.
          step: of training, counted over all epochs.
        """
        began = time.monotonic()
        states = self._states()
        number = 1 + (int(states[-1].stem.split("-")[1]) if states else 0)
        target = self.directory / f"state-{number:08d}.npz"
        try:
            _write_whole(target, _pack(state))
            for old in states[: 1 - KEPT]:
                old.unlink(missing_ok=True)
        except OSError as error:
            if not self._warned:
                self._warned = True
                kept = f"the last one is {states[-1].name}" if states else "there is none yet"
                warn(
                    f"cannot write a checkpoint to {self.directory} ({error.strerror or error}): "
                    f"training goes on without new ones until that works; {kept}."
                )
        self._mark(step, time.monotonic() - began)

    def _mark(self, step: int, spent: float = 0.0) -> None:
        self._step, self._time, self._spent = step, time.monotonic(), spent

    def _states(self) -> list[Path]:
        return sorted(self.directory.glob("state-*.npz"))

    def _newest(self) -> dict[str, Any] | None:
        states = self._states()
        for path in reversed(states):
            try:
                return _unpack(path)
            except (zipfile.BadZipFile, ValueError, KeyError, EOFError) as error:
                warn(f"{path} is damaged ({error}): left out.")
                path.unlink()  # it would count as one of the last two
        if states:
            raise ValueError(
                f"cannot resume from {self.directory}: no state there can be read; delete the "
                "directory to start afresh."
            )
        return None

    def _check_same(self, run: Path, settings: dict[str, Any]) -> None:
        try:
            written = json.loads(run.read_text("utf-8"))
            form, old = written["format"], dict(written["settings"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"cannot read {run}: delete {self.directory} to start afresh."
            ) from error
        if form != FORMAT:
            raise OtherRunError(
                f"it is of format {form} (tfalloc {written.get('tfalloc')}), this is {FORMAT}",
                self.directory,
            )
        for name in {**settings, **old}:  # in this order: data follow from the seed
            was, now = old.get(name), settings.get(name)
            if was != now:
                raise OtherRunError(
                    f"that run had {name}={_short(was)}, this has {_short(now)}", self.directory
                )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}…"


def _write_whole(path: Path, content: bytes) -> None:
    """Writes a file that is there as a whole or not at all, also after a loss of power."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _pack(state: Any) -> bytes:
    arrays: dict[str, np.ndarray] = {}
    names: dict[int, str] = {}  # an array in several places is stored once

    def plain(value: Any) -> Any:
        if isinstance(value, (np.ndarray, np.generic)):
            if id(value) not in names:
                names[id(value)] = f"a{len(names)}"
                arrays[names[id(value)]] = np.asarray(value)
            return {"array": [names[id(value)], value.dtype.name]}
        if isinstance(value, dict):
            return {"dict": [[plain(key), plain(item)] for key, item in value.items()]}
        if isinstance(value, tuple):
            return {"tuple": [plain(item) for item in value]}
        return [plain(item) for item in value] if isinstance(value, list) else value

    tree = json.dumps(plain(state)).encode()
    file = io.BytesIO()
    arrays[TREE] = np.frombuffer(tree, np.uint8)
    np.savez(file, **arrays)  # type: ignore[arg-type]  # whatever they are called
    return file.getvalue()


def _unpack(path: Path) -> Any:
    with open(path, "rb") as content, np.load(content, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}

    def restored(value: Any) -> Any:
        if isinstance(value, list):
            return [restored(item) for item in value]
        if not isinstance(value, dict):
            return value
        [(kind, content)] = value.items()
        if kind == "array":
            array = arrays[content[0]]
            # NumPy files do not know bfloat16: it comes back as bytes.
            return array.view(np.dtype(content[1])) if array.dtype.kind == "V" else array
        if kind == "tuple":
            return tuple(restored(item) for item in content)
        return {restored(key): restored(item) for key, item in content}

    return restored(json.loads(arrays.pop(TREE).tobytes()))


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


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts to one with dotted names, so that what differs can be named.

    Example:
      >>> flat({"fit": {"epochs": 3, "shuffle": True}})
      {'fit.epochs': 3, 'fit.shuffle': True}
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            found.update(flat(value, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = value
    return found
