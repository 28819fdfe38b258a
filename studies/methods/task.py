"""What a method of the study is given: a simulation's trial, budgets, settings, shared objects."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfalloc import datasets
from tfalloc.data import RCTData
from tfalloc.datasets import Simulation

FRESH = 1_000_000  # seeds of users to evaluate on are those of trials and this
# First seeds of trials: of those that choose hyper-parameters, and of those that are reported.
# Some below the latter were looked at while the methods, and what is searched, were thought out.
TUNING_SEED, REPORTED_SEED = 101, 300
COINS = 30  # arms of produce_coin


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all runs of the study have in common.

    Attributes:
      rows: of a trial; None: those of the simulation in `SIMULATIONS`. A file has its own.
      fresh: users to evaluate on. A file has its own.
      epochs: of networks, at most.
      trees: of boosting, for each arm (and outcome) or single model, at most.
      jit: whether XLA compiles the training steps.
    """

    rows: int | None = None
    fresh: int = 100_000
    epochs: int = 30
    trees: int = 1_000
    jit: bool = True


FAST = Settings(rows=3_000, fresh=2_000, epochs=1, trees=3, jit=False)


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A simulation, and what is asked of it.

    Attributes:
      trial: (rows, seed, file) -> the trial to learn from.
      fresh: (users, seed, file) -> users to evaluate on.
      budgets: lowest and highest cost per user.
      rows: of a trial unless the settings say; None: the simulation's rows are those of a file.
      fast: sizes for a try.
      cost_amounts: what a response costs in each arm, if that is all that costs.
    """

    trial: Callable[[int, int, Any], Simulation]
    fresh: Callable[[int, int, Any], Simulation]
    budgets: tuple[float, float]
    rows: int | None = 100_000
    cost_amounts: tuple[float, ...] | None = None
    fast: Settings = FAST

    @property
    def from_file(self) -> bool:
        """Whether the rows are those of a file."""
        return self.rows is None


def _drawn(draw: Callable[[int, int], Simulation], **other: Any) -> Scenario:
    """A scenario without a file: users to evaluate on are drawn as the trial is."""
    return Scenario(
        lambda rows, seed, _: draw(rows, seed),
        lambda users, seed, _: draw(users, FRESH + seed),
        **other,
    )


SIMULATIONS: dict[str, Scenario] = {
    "criteo_like": _drawn(
        lambda rows, seed: datasets.criteo_like(rows, seed=seed),
        budgets=(0.0404, 0.0466),
        rows=200_000,  # conversions are rare
        fast=dataclasses.replace(FAST, rows=30_000, fresh=20_000),
    ),
    "produce_coin": _drawn(
        lambda rows, seed: datasets.produce_coin(rows, seed, COINS),
        budgets=(0.3, 1.9),
        cost_amounts=tuple(np.linspace(0.0, 29.0, COINS).tolist()),
    ),
    "criteo_outcomes": Scenario(
        lambda _, seed, file: datasets.criteo_outcomes(file, seed, part=0),
        lambda _, seed, file: datasets.criteo_outcomes(file, seed, part=1),
        budgets=(0.05, 0.4),
        rows=None,
    ),
    "well_specified": _drawn(datasets.well_specified, budgets=(0.1, 0.7)),
}


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


@dataclasses.dataclass(frozen=True)
class Task:
    """What a method is to solve; one object serves all methods of a seed.

    Attributes:
      simulation: name, among `SIMULATIONS`.
      trial: rows to learn from, validation included.
      budgets: lowest and highest cost per user that it is evaluated at.
      cost_amounts: [K], cost of a response in each arm, if that is all that costs.
      settings: of the study.
      tuned: hyper-parameters, {method: {argument: value}}.
      shared: `task.shared(name, make)` keeps what other methods of the seed need too; see `Shared`.
    """

    simulation: str
    trial: RCTData
    budgets: tuple[float, float]
    cost_amounts: tuple[float, ...] | None
    settings: Settings
    tuned: Mapping[str, Mapping[str, Any]]
    shared: Shared = dataclasses.field(default_factory=Shared, compare=False, repr=False)

    @property
    def num_treatments(self) -> int:
        """K."""
        return self.trial.num_treatments


def fast(simulation: str) -> Settings:
    """Sizes for a try of a simulation, in a minute or two."""
    return SIMULATIONS[simulation].fast if simulation in SIMULATIONS else FAST


def checked(simulation: str, data: str | os.PathLike[str] | None) -> Scenario:
    """The scenario of a name, with a file if and only if it needs one.

    Raises:
      ValueError: the name is not known, or a file is missing or not needed.
      FileNotFoundError: nothing at `data`.
    """
    if simulation not in SIMULATIONS:
        raise ValueError(
            f"simulation={simulation!r} is not known; expected one of {list(SIMULATIONS)}."
        )
    scenario = SIMULATIONS[simulation]
    if scenario.from_file and data is None:
        raise ValueError(
            f"simulation={simulation!r} needs data (--data): a file of Criteo Uplift, for its "
            "features."
        )
    if data is not None and not scenario.from_file:
        raise ValueError(
            f"data={os.fspath(data)!r} with simulation={simulation!r}, which draws its own rows; "
            "leave it out."
        )
    if data is not None:
        os.stat(data)  # an error now rather than after the first progress bar
    return scenario
