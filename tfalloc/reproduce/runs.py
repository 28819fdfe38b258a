"""`Runs`: the runs of a study in one file that outlives the process.

    {"settings": {...}, "makers": [{"command", versions ...}],
     "runs": [{"key": {"method": ..., "seed": ...}, "figures": {...}, "seconds": ..., "maker": 0}]}

"maker" is the place of a run's command and versions in the list "makers", its provenance.

A study of many trainings takes hours and will be interrupted. The file is rewritten after every
run, whole or not at all; a study that is started again with the same settings does what is missing,
and more seeds extend it. With other settings it refuses, because a table must not mix them.

Several processes may work on one file: each takes up what the others have done. A run whose method
refuses its data (a ValueError) stands there with its "error" in place of figures; the others go on,
and the next start tries it again.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tfalloc._files import alone_in, plain, require_writable, versions
from tfalloc._files import write_file as write_file

Key = Mapping[str, Any]
# How every file of ours begins. It is the mark by which a directory is known to be a study's.
_BEGINNING = '{"settings": {'


class Runs:
    """The runs of one study, kept in a JSON file.

    Args:
      path: the file; it is created by the first run.
      settings: what all runs have in common, in JSON's types: rows, epochs, learning rate. What
        only says how many runs there are (seeds, methods) belongs to the keys.
      products: names of the files that the study writes beside it.
      command: what was typed, to be kept beside the runs it made; None: nothing is.
      restart: throw earlier runs away, once there is one to take their place.

    Raises:
      ValueError: the file holds runs with other settings, is damaged, or is no study's; or there
        are `products` without it, which are somebody else's then.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp()) / "runs.json"
      >>> keys = [{"method": "coin", "seed": seed} for seed in range(2)]
      >>> for _ in range(2):  # the second time nothing is left to do
      ...     runs = Runs(path, {"sides": 2})
      ...     runs.complete(keys, lambda method, seed: {"heads": seed % 2}, "tossing")
      >>> runs.frame()[["seed", "heads"]].values.tolist()
      [[0, 0], [1, 1]]
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        settings: Mapping[str, Any],
        *,
        products: Sequence[str] = (),
        command: str | None = None,
        restart: bool = False,
    ):
        self.path = Path(path)
        self.settings = plain(settings)
        self._provenance: list[dict[str, Any]] = []
        self._runs: dict[str, dict[str, Any]] = {}
        self._refuse_foreign(products)
        # What a restart throws away, with the first run that it brings; until then, it is on disk.
        self._discarded = self._text() if restart else None
        self._waiting: list[tuple[Key, Mapping[str, Any], float]] = []
        self._load()
        self._own: dict[str, Any] = {} if command is None else {"command": command}
        self._own |= versions()
        self._own |= {"machine": platform.machine(), "cores": os.cpu_count()}

    @classmethod
    def kept(cls, path: str | os.PathLike[str]) -> Runs:
        """The runs of a file, with its own settings.

        Args:
          path: of runs.json.

        Raises:
          FileNotFoundError: there is none.
          ValueError: the file is damaged.
        """
        return cls(path, _read(Path(path), Path(path).read_text("utf-8"))[0])

    def _text(self) -> str | None:
        return self.path.read_text("utf-8", "replace") if self.path.exists() else None

    def _refuse_foreign(self, products: Sequence[str]) -> None:
        """Refuses to write where somebody else's files are."""
        folder = self.path.parent
        text = self._text()
        theirs = [name for name in products if os.path.lexists(folder / name)] if not text else []
        if text and not text.startswith(_BEGINNING):
            theirs = [self.path.name]
        if theirs:
            raise ValueError(
                f"{folder / theirs[0]} is no study's of tfalloc and would be overwritten; expected "
                f"a new directory or one with the {self.path.name} of a study: give another output."
            )

    def _load(self) -> None:
        """Takes up what is on disk, which other processes may have written."""
        text = self._text()
        if text is None or text == self._discarded:
            return
        settings, provenance, runs = _read(self.path, text)
        names = dict.fromkeys([*settings, *self.settings])
        changed = [n for n in names if settings.get(n) != self.settings.get(n)]
        count = sum("figures" in run for run in runs.values())
        if changed and count:
            was = ", ".join(f"{name}={settings.get(name)!r}" for name in changed)
            now = ", ".join(f"{name}={self.settings.get(name)!r}" for name in changed)
            raise ValueError(
                f"{self.path} holds {count} runs with {was}, now {now}; expected the same "
                "settings to go on: give them, another output, or --restart (restart=True)."
            )
        # Refusals alone, of other settings, are in nobody's way.
        self._provenance, self._runs = ([], {}) if changed or not runs else (provenance, runs)

    def __len__(self) -> int:
        return sum("figures" in run for run in self._runs.values())

    def __contains__(self, key: object) -> bool:
        return isinstance(key, Mapping) and "figures" in self._runs.get(_name(key), {})

    def figures(self, key: Key) -> dict[str, Any]:
        """What a run brought.

        Args:
          key: of the run.

        Raises:
          KeyError: there is no such run.
        """
        return dict(self._runs[_name(key)]["figures"])

    def add(self, key: Key, figures: Mapping[str, Any], seconds: float) -> None:
        """Keeps a run, on disk too, in place of an earlier one of that key.

        Args:
          key: what identifies it, such as {"method": "NES", "seed": 3}.
          figures: what came out, in JSON's types or NumPy's; NaN is kept as null.
          seconds: that it took.
        """
        self._keep(key, {"figures": figures}, seconds)

    def _keep(self, key: Key, result: Mapping[str, Any], seconds: float) -> None:
        with alone_in(self.path.parent):
            self._load()
            self._waiting.append((key, result, seconds))
            if "error" in result and self._discarded is not None and not self._runs:
                return  # a refusal takes the place of no earlier run
            self._discarded = None  # from here on the file is this study's
            if self._own not in self._provenance:
                self._provenance.append(self._own)
            maker = self._provenance.index(self._own)
            for key, result, seconds in self._waiting:
                if "error" in result and key in self:
                    continue  # another process has brought it
                run = {"key": key, **result, "seconds": round(seconds, 3), "maker": maker}
                self._runs[_name(key)] = plain(run)
            self._waiting = []
            self._write()

    def complete(
        self,
        keys: Iterable[Key],
        work: Callable[..., Mapping[str, Any]],
        title: str,
        *,
        prepare: Callable[..., Any] | None = None,
    ) -> None:
        """Does the runs that are missing, one after the other; one that is refused stops no other.

        Args:
          keys: of the runs that there should be.
          work: called as `work(**key)`, gives the figures; a figure "seconds" replaces the time
            that the call took, where it did more than the run itself. Its ValueError is kept in
            place of figures.
          title: name of the study, for the line that each run prints on stderr.
          prepare: called as `work` is, with the first key that is missing, for what all runs stand
            on, such as the rows. Its ValueError is no run's: it ends the study before any is made.

        Raises:
          ValueError: the file cannot be written or nothing can be prepared, and no run is made
            then; or there are only runs that were refused: the last one's message.
        """
        missing = [dict(key) for key in keys if key not in self]
        refusal: ValueError | None = None
        if missing:
            require_writable(self.path)
            if prepare is not None:
                prepare(**missing[0])
        began = time.monotonic()
        for done, key in enumerate(missing, 1):
            self._load()
            remark = "by another process"
            if key not in self:
                start = time.perf_counter()
                try:
                    figures = dict(work(**key))
                except ValueError as error:
                    refusal, remark = error, f"refused: {error}"
                    self._keep(key, {"error": str(error)}, time.perf_counter() - start)
                else:
                    remark, took = "", time.perf_counter() - start
                    self.add(key, figures, figures.pop("seconds", took))
            spent = time.monotonic() - began
            print(
                f"{title}: {' '.join(str(part) for part in key.values())} ({done}/{len(missing)})  "
                f"{spent:.0f} s, about {spent / done * (len(missing) - done):.0f} s left"
                + (f"; {remark}" if remark else ""),
                file=sys.stderr,
                flush=True,
            )
        if refusal is not None and not len(self):
            raise refusal

    def frame(self, **where: Any) -> pd.DataFrame:
        """The runs as a table, in the order in which they were first made.

        Args:
          **where: parts of the key that the runs must have.

        Returns:
          One row per run: parts of the key, figures (null is NaN), seconds. Refused ones are not
          among them.
        """
        rows = [
            {**run["key"], **_numbers(run["figures"]), "seconds": run["seconds"]}
            for run in self._runs.values()
            if "figures" in run
            and all(run["key"].get(name) == value for name, value in where.items())
        ]
        return pd.DataFrame(rows)

    @property
    def refused(self) -> list[tuple[dict[str, Any], str]]:
        """Keys of the runs that were refused, and why."""
        runs = self._runs.values()
        return [(dict(run["key"]), run["error"]) for run in runs if "error" in run]

    def check_arguments(self, arguments: Mapping[str, Any], **where: Any) -> None:
        """Refuses to go on beside runs that were made with other arguments.

        Args:
          arguments: of the method now; compared with the figure "arguments" of runs, as far as
            that goes, for earlier versions may have kept fewer.
          **where: parts of the key that the runs must have.

        Raises:
          ValueError: they differ.
        """
        now = plain(arguments)
        for run in self._runs.values():
            before = run.get("figures", {}).get("arguments", {})
            own = all(run["key"].get(name) == value for name, value in where.items())
            if own and any(value != now.get(name) for name, value in before.items()):
                named = ", ".join(f"{name} {value!r}" for name, value in where.items())
                raise ValueError(
                    f"{self.path} holds runs of {named} with {before}, now {now}; expected the "
                    "same: give another output, or --restart (restart=True)."
                )

    @property
    def seconds(self) -> float:
        """Of all runs together, refused ones too."""
        return float(sum(run["seconds"] for run in self._runs.values()))

    @property
    def provenance(self) -> list[dict[str, Any]]:
        """Command, versions and machine behind the runs; one entry unless these changed."""
        return [dict(each) for each in self._provenance]

    def _write(self) -> None:
        runs = ",\n  ".join(json.dumps(run, ensure_ascii=False) for run in self._runs.values())
        head = ",\n ".join(
            f"{json.dumps(name)}: {json.dumps(part, ensure_ascii=False)}"
            for name, part in (("settings", self.settings), ("makers", self._provenance))
        )
        write_file(self.path, f'{{{head},\n "runs": [\n  {runs}\n ]}}\n')


def _read(
    path: Path, text: str
) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Settings, provenance and runs by the name of their key."""
    try:
        kept = json.loads(text)
        makers, runs = kept["makers"], {_name(run["key"]): run for run in kept["runs"]}
        for run in runs.values():
            makers[run["maker"]]["tfalloc"]  # there is one, with versions
            result = run["figures"] if "figures" in run else {"error": run["error"]}
            if not isinstance(result, dict) or not isinstance(run["seconds"], (int, float)):
                raise ValueError(f"run {run['key']} has no figures")
        return dict(kept["settings"]), list(makers), runs
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"cannot read {path} ({type(error).__name__}: {error}); expected the runs of a study: "
            "it is damaged, pass --restart (restart=True) or another output."
        ) from error


def _numbers(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures with NaN for the null that JSON has in its place."""
    return {name: math.nan if value is None else value for name, value in figures.items()}


def _name(key: Key) -> str:
    """The same for keys that are equal, whatever the order of their parts; 1.0 is 1."""
    parts = plain(key).items()
    whole = {x: int(y) if isinstance(y, float) and y.is_integer() else y for x, y in parts}
    return json.dumps(whole, sort_keys=True)
