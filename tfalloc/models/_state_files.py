"""The files of a training run that survive a kill at any moment.

    directory/run.json            format, and the settings of the run that the states belong to
    directory/state-00000017.npz  the last two states: arrays, and a tree of JSON that names them

A state is one file with check sums, written under a temporary name, forced to disk and renamed: a
kill in the middle of a write leaves the last good one. Nothing is pickled: reading runs no code.
"""

from __future__ import annotations

import io
import json
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from tfalloc._files import write_file
from tfalloc._version import __version__
from tfalloc._warn import warn

FORMAT = 2
KEPT = 2
SHARE = 0.01  # of the time, at most, that goes into writing
RUN, TREE = "run.json", "tree"


class OtherRunError(ValueError):
    """A directory belongs to a run with other data or settings.

    Attributes:
      difference: what differs, without advice.
      directory: where the states are.
    """

    def __init__(self, difference: str, directory: Path):
        super().__init__(
            f"cannot resume from {directory}: {difference}. Pass what that run had; or delete the "
            "directory, or name another, to start afresh."
        )
        self.difference, self.directory = difference, directory


class States:
    """The files of a run; `newest` is the last good state, None at the beginning of a run.

    Args:
      directory: made if it does not exist; for one run only.
      settings: what the run depends on, {name: value in JSON's types}.

    Raises:
      OtherRunError: the directory is of another run.
      ValueError: it cannot be written, or is damaged.
    """

    def __init__(self, directory: str | os.PathLike[str], settings: dict[str, Any]):
        self.directory = Path(directory)
        settings = json.loads(json.dumps(settings))  # tuples are lists from here
        self.newest: dict[str, Any] | None = None
        if self._paths():
            self._check_same(settings)
            self.newest = self._read_newest()
        else:
            content = {"format": FORMAT, "tfalloc": __version__, "settings": settings}
            write_file(self.directory / RUN, json.dumps(content, indent=1))
        self._warned = False
        self._written, self._spent = -np.inf, 0.0  # when, and seconds that it took

    def due(self) -> bool:
        """Whether it is time for the next state."""
        return time.monotonic() - self._written >= self._spent / SHARE

    def save(self, state: dict[str, Any]) -> None:
        """Keeps a state and drops all but the last two.

        Training is worth more than its back-up: if the state cannot be written (the disk is full)
        a warning says so once, the last good state stays, and the next one is tried when due.

        Args:
          state: a tree of dicts, lists, tuples, None, booleans, numbers, strings and arrays.
        """
        began = time.monotonic()
        paths = self._paths()
        number = 1 + (int(paths[-1].stem.split("-")[1]) if paths else 0)
        try:
            write_file(self.directory / f"state-{number:08d}.npz", _pack(state))
            for old in paths[: 1 - KEPT]:
                old.unlink(missing_ok=True)
        except (OSError, ValueError) as error:
            if not self._warned:
                self._warned = True
                kept = f"the last one is {paths[-1].name}" if paths else "there is none yet"
                warn(
                    f"cannot write a checkpoint to {self.directory} ({error}): "
                    f"training goes on without new ones until that works; {kept}."
                )
        self._written = time.monotonic()
        self._spent = self._written - began

    def _paths(self) -> list[Path]:
        return sorted(self.directory.glob("state-*.npz"))

    def _read_newest(self) -> dict[str, Any]:
        for path in reversed(self._paths()):
            try:
                return _unpack(path)
            except (zipfile.BadZipFile, ValueError, KeyError, EOFError) as error:
                warn(f"{path} is damaged ({error}): left out.")
                path.unlink()  # it would count as one of the last two
        raise ValueError(
            f"cannot resume from {self.directory}: no state there can be read; delete the "
            "directory to start afresh."
        )

    def _check_same(self, settings: dict[str, Any]) -> None:
        run = self.directory / RUN
        try:
            written = json.loads(run.read_text("utf-8"))
            form, old = written["format"], dict(written["settings"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"cannot read {run}: delete {self.directory} to start afresh."
            ) from error
        if form != FORMAT:
            version = written.get("tfalloc")
            message = f"it is of format {form} (tfalloc {version}), this is {FORMAT}"
            raise OtherRunError(message, self.directory)
        for name in {**settings, **old}:  # in this order: data follow from the seed
            was, now = old.get(name), settings.get(name)
            if was != now:
                message = f"that run had {name}={_short(was)}, this has {_short(now)}"
                raise OtherRunError(message, self.directory)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}…"


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
