"""Table 1 of Yan et al. 2023: AUCC on Criteo Uplift v2.1, or on a simulation of it.

70 % of the rows to train, 30 % to evaluate; a visit is the cost, a conversion the response. AUCC
with 200 thresholds, by the score of `evaluation.aucc_score`. Networks as published:

    "paper's" 512-256-128-64, Adam 1e-4, 10 epochs, batches of 10,000, nothing stopped early;
              through the allocation with goal_weight 200 in the scale of Eq. 11, budget uniform on
              (.039, .047), FD with 4,000 entries and a step of 3e-4, NES with 2,000 directions of
              deviation .001; 20 runs
    "small"   16 units, Adam 3e-3, stopped by the validation loss on a tenth of the training rows

Table 1 compares small networks with the paper's: "TSM-SL, paper's net" (goal_weight 0) is the
control that it lacks, and what the others are compared with here, paired by seed. The package's
own methods join the table by `studies/criteo.py`.

With the file, seeds are re-initialisations on one split, as published. Without it each seed has
a trial of its own from `datasets.criteo_like`, whose true AUCC is known on fresh users: intervals
then allow for the trial too.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from tfalloc import datasets, gradients
from tfalloc.baselines import DFCL, DRP, DirectRank
from tfalloc.data import RCTData
from tfalloc.datasets import Simulation
from tfalloc.evaluation import aucc, aucc_score
from tfalloc.models import AllocationModel
from tfalloc.reproduce import criteo_report
from tfalloc.reproduce.criteo_report import CONTROL
from tfalloc.reproduce.figures import require_matplotlib
from tfalloc.reproduce.runs import Runs
from tfalloc.reproduce.truth import true_aucc

BUDGETS = (0.039, 0.047)
GOAL_WEIGHT = 200.0
ENTRIES = 4_000  # differentiated in a step by FD
STEP, SIGMA = 3e-4, 1e-3  # of FD and of NES
SPLIT = [0.7, 0.3]
BATCH = 10_000  # rows a step, of the small networks and the paper's
SMALL_RATE, PATIENCE = 3e-3, 5
FRESH = 1_000_000  # seeds of users to evaluate on; those of trials are 0, 1, 2, ...


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all runs of the study have in common.

    Attributes:
      rows: of a simulated trial; without a meaning for the file.
      epochs: of the paper's network.
      learning_rate: of the paper's network.
      small_epochs: of the small networks, at most.
      directions: N' of NES.
      fresh: users on whom the true AUCC of a simulation is taken.
      jit: whether XLA compiles the training steps.
    """

    rows: int = 1_000_000
    epochs: int = 10
    learning_rate: float = 1e-4
    small_epochs: int = 30
    directions: int = 2_000
    fresh: int = 200_000
    jit: bool = True


FAST = Settings(
    rows=30_000,
    epochs=1,
    learning_rate=1e-3,
    small_epochs=2,
    directions=20,
    fresh=20_000,
    jit=False,
)


class Method(NamedTuple):
    """A row of the table.

    Attributes:
      fit: (settings, trial, seed) -> a trained model, and the seconds that it took.
      net: "small", "paper's" or "ours".
      arguments: kept beside its runs, and compared with those of runs made before.
    """

    fit: Callable[[Settings, RCTData, int], tuple[Any, float]]
    net: str
    arguments: dict[str, Any]


def _small(make: Callable[[int], Any]) -> Method:
    """A network of 16 units, stopped by its validation loss."""

    def fit(settings: Settings, trial: RCTData, seed: int) -> tuple[Any, float]:
        start = time.perf_counter()
        model = make(seed)
        model.compile(keras.optimizers.Adam(SMALL_RATE), jit_compile=settings.jit)
        rows, validation = trial.split([0.9, 0.1], 0)
        fixed = {"epochs": settings.small_epochs, "early_stopping": PATIENCE, "batch_size": BATCH}
        model.fit(rows, validation_data=validation, verbose=0, **fixed)
        return model, time.perf_counter() - start

    arguments = {"learning_rate": SMALL_RATE, "early_stopping": PATIENCE, "batch_size": BATCH}
    return Method(fit, "small", arguments)


def _paper(
    arguments: dict[str, Any],
    objective: Callable[[Settings], dict[str, Any]] = lambda settings: {},
    make: Callable[[int], Any] = lambda seed: AllocationModel(2, "paper", seed=seed),
) -> Method:
    """The paper's network for the paper's number of epochs."""

    def fit(settings: Settings, trial: RCTData, seed: int) -> tuple[Any, float]:
        start = time.perf_counter()
        model = make(seed)
        optimizer = keras.optimizers.Adam(settings.learning_rate)
        model.compile(optimizer, jit_compile=settings.jit, **objective(settings))
        fixed = {"validation_split": 0.0, "early_stopping": False, "batch_size": BATCH}
        model.fit(trial, epochs=settings.epochs, verbose=0, **fixed)
        return model, time.perf_counter() - start

    return Method(fit, "paper's", {**arguments, "batch_size": BATCH})


_GOAL = {"goal_weight": GOAL_WEIGHT, "budget": BUDGETS}


def _nes(settings: Settings) -> dict[str, Any]:
    gradient = gradients.NES(sigma=SIGMA, num_directions=settings.directions)
    return {**_GOAL, "goal_scale": "paper", "gradient": gradient}


def _finite_difference(settings: Settings) -> dict[str, Any]:
    gradient = gradients.FiniteDifference(step=STEP, num_entries=ENTRIES)
    return {**_GOAL, "goal_scale": "paper", "gradient": gradient}


METHODS: dict[str, Method] = {
    CONTROL: _paper({"goal_weight": 0.0}),
    "TSM-SL": _small(lambda seed: AllocationModel(2, "small", seed=seed)),
    "Direct Rank": _small(lambda seed: DirectRank(seed=seed)),
    "DRP": _small(lambda seed: DRP(seed=seed)),
    "DFCL-IFD": _paper(
        {"loss": "ifd", "budget": BUDGETS},
        lambda settings: {"budget": BUDGETS},
        lambda seed: DFCL(2, "paper", loss="ifd", seed=seed),
    ),
    "NES": _paper(_GOAL, _nes),
    "FD": _paper({**_GOAL, "num_entries": ENTRIES}, _finite_difference),
}


def study(
    output: str | os.PathLike[str],
    *,
    seeds: int = 20,
    settings: Settings | None = None,
    data: str | os.PathLike[str] | None = None,
    methods: Sequence[str] | None = None,
    more: Mapping[str, Method] | None = None,
    restart: bool = False,
    command: str | None = None,
) -> Runs:
    """Runs what is missing of the study, and writes its table and figure.

    Args:
      output: directory for runs.json, table.md and figure.png.
      seeds: repetitions of each method.
      settings: sizes; None: the paper's.
      data: Criteo's official file, as for `datasets.criteo`; None: the simulation.
      methods: names among `METHODS` and `more`; None: all. The control is always among them.
      more: methods besides `METHODS`.
      restart: whether to throw earlier runs away.
      command: kept beside the runs.

    Returns:
      The runs, one for each method and seed.

    Raises:
      FileNotFoundError: nothing at `data`.
      ValueError: `seeds` is below 1, a method is not known, the settings are not those of the runs
        kept, or matplotlib is not installed.
    """
    settings = settings or Settings()
    if seeds < 1:
        raise ValueError(f"seeds={seeds!r}: expected at least 1.")
    every = {**METHODS, **(more or {})}
    unknown = [name for name in methods or () if name not in every]
    if unknown:
        raise ValueError(f"methods={unknown!r} are not known; expected some of {list(every)}.")
    require_matplotlib()
    kept = dataclasses.asdict(settings)
    if data is not None:
        # Its name and size, for the same file may lie elsewhere.
        kept |= {"data": os.path.basename(os.fspath(data)), "bytes": os.path.getsize(data)}
        del kept["rows"], kept["fresh"]
    folder = Path(output)
    runs = Runs(
        folder / "runs.json",
        kept,
        products=("table.md", "figure.png"),
        command=command,
        restart=restart,
    )
    chosen = [name for name in every if name in {CONTROL, *(methods or every)}]
    keys = [{"method": name, "seed": seed} for seed in range(seeds) for name in chosen]
    for name in chosen:
        runs.check_arguments(every[name].arguments, method=name)
    protocol = Protocol(settings, data, every)
    runs.complete(keys, protocol.run, "criteo", prepare=protocol.prepare)
    criteo_report.write(folder, runs, {name: method.net for name, method in every.items()})
    return runs


class Protocol:
    """Does the runs: split, training, AUCC."""

    def __init__(
        self,
        settings: Settings,
        data: str | os.PathLike[str] | None,
        methods: Mapping[str, Method] = METHODS,
    ):
        self.settings, self.data, self.methods = settings, data, methods
        # The methods of a seed see the same rows, one after the other.
        self._parts = functools.lru_cache(1)(self._split)
        self._fresh = functools.lru_cache(1)(self._draw_fresh)

    def prepare(self, *, seed: int, **_: Any) -> None:
        """Has the rows of a seed at hand; a file that does not hold them is refused here."""
        self._parts(0 if self.data else seed)

    def run(self, method: str, seed: int) -> dict[str, Any]:
        """The figures of one run; its seconds are those of the training."""
        train, test = self._parts(0 if self.data else seed)
        model, seconds = self.methods[method].fit(self.settings, train, seed)
        found: dict[str, Any] = {"aucc": estimated_aucc(scores(model, test), test)}
        found |= {"arguments": self.methods[method].arguments, "seconds": seconds}
        if self.data is None:
            fresh = self._fresh(seed)
            found["true_aucc"] = true_aucc(scores(model, fresh.data), fresh)
        return found

    def _split(self, seed: int) -> tuple[RCTData, ...]:
        keras.utils.clear_session()  # graphs of the models of seeds that are gone
        if self.data is None:
            whole = datasets.criteo_like(self.settings.rows, seed=seed).data
        else:
            whole = datasets.criteo(self.data)
        return whole.split(SPLIT, 0)

    def _draw_fresh(self, seed: int) -> Simulation:
        return datasets.criteo_like(self.settings.fresh, seed=FRESH + seed)


def scores(model: Any, rows: RCTData) -> np.ndarray:
    """The score by which a model ranks users, [rows]."""
    predicted = model.predict(rows, batch_size=50_000, verbose=0)
    return aucc_score(predicted["response"], predicted["cost"])


def estimated_aucc(score: np.ndarray, test: RCTData) -> float:
    """AUCC on trial rows; NaN where they are too few to show a positive uplift."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the table says how many rows there are
        try:
            return float(aucc(score, test).value)
        except ValueError:
            return math.nan
