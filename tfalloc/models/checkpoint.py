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

import numpy as np

from tfalloc._version import __version__
from tfalloc._warn import warn

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
      >>> data = tfalloc.datasets.synthetic(2_000, seed=0).data
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
