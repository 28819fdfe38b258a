"""Table 1 of Yan et al. 2023: AUCC on Criteo Uplift v2.1, or on a simulation of it.

70 % of the rows to train, 30 % to judge; a visit is the cost, a conversion the response. AUCC with
200 thresholds, by the score of `evaluation.aucc_score`. Networks as published:

    "paper"   512-256-128-64, Adam 1e-4, 10 epochs, batches of 10,000, nothing stopped early;
              through the allocation with goal_weight 200 in the scale of Eq. 11, budget uniform on
              (.039, .047), FD with 4,000 entries and a step of 3e-4, NES with 2,000 directions
    "small"   16 units, Adam 3e-3, stopped by the validation loss on a tenth of the training rows
    "ours"    the package's own network and recipe, as in the study of methods (`methods_ours`):
              monotone, that is told that the treatment cannot hurt, which the others are not

Table 1 compares small networks with the paper's: "TSM-SL, paper's net" (goal_weight 0) is the
control that it lacks, and what the others are compared with here, paired by seed. Ours have a
control of their own beside them, "imitated, two-stage", with the same start and another objective.

With the file, seeds are re-initialisations on one split, as published. Without it each seed has
a trial of its own from `datasets.criteo_like`, whose true AUCC is known on fresh users: intervals
then allow for the trial too.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfalloc import datasets, gradients
from tfalloc.baselines import DFCL, DRP, DirectRank
from tfalloc.data import RCTData
from tfalloc.datasets import Simulation
from tfalloc.evaluation import aucc, aucc_score
from tfalloc.models import AllocationModel
from tfalloc.reproduce import criteo_report, methods_task
from tfalloc.reproduce.criteo_report import CONTROL, NETS
from tfalloc.reproduce.figures import require_matplotlib
from tfalloc.reproduce.methods import METHODS as STUDIED
from tfalloc.reproduce.methods import arguments_of
from tfalloc.reproduce.methods_ours import LAST_STEPS
from tfalloc.reproduce.methods_settings import OUR_NETWORK, TUNED
from tfalloc.reproduce.methods_task import Task
from tfalloc.reproduce.runs import Runs

BUDGETS = (0.039, 0.047)
GOAL_WEIGHT = 200.0
ENTRIES = 4_000  # differentiated in a step by FD
BATCH = 10_000  # rows a step, of the small networks and the paper's
SMALL_RATE, PATIENCE = 3e-3, 5
FRESH = 1_000_000  # seeds of users who judge; those of trials are 0, 1, 2, ...
OURS = (OUR_NETWORK, *LAST_STEPS)  # of the study of methods


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all runs of the study have in common.

    Attributes:
      rows: of a simulated trial; without a meaning for the file.
      epochs: of the paper's network.
      learning_rate: of the paper's network.
      small_epochs: of the small networks and of ours, at most.
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

# (settings, task, seed) -> a trained model
Fit = Callable[[Settings, Task, int], Any]


def _two_stage(settings: Settings, task: Task, seed: int) -> Any:
    return _fit_small(AllocationModel(2, "small", seed=seed), settings, task)


def _direct_rank(settings: Settings, task: Task, seed: int) -> Any:
    return _fit_small(DirectRank(seed=seed), settings, task)


def _drp(settings: Settings, task: Task, seed: int) -> Any:
    return _fit_small(DRP(seed=seed), settings, task)


def _fit_small(model: Any, settings: Settings, task: Task) -> Any:
    model.compile(keras.optimizers.Adam(SMALL_RATE), jit_compile=settings.jit)
    rows, validation = task.trial.split([0.9, 0.1], 0)
    fixed = {"epochs": settings.small_epochs, "early_stopping": PATIENCE, "batch_size": BATCH}
    model.fit(rows, validation_data=validation, verbose=0, **fixed)
    return model


def _control(settings: Settings, task: Task, seed: int) -> Any:
    return _fit_paper(AllocationModel(2, "paper", seed=seed), settings, task)


def _dfcl(settings: Settings, task: Task, seed: int) -> Any:
    model = DFCL(2, "paper", loss="ifd", seed=seed)
    return _fit_paper(model, settings, task, {"budget": BUDGETS})


def _nes(settings: Settings, task: Task, seed: int) -> Any:
    return _through(gradients.NES(num_directions=settings.directions), settings, task, seed)


def _finite_difference(settings: Settings, task: Task, seed: int) -> Any:
    return _through(gradients.FiniteDifference(num_entries=ENTRIES), settings, task, seed)


def _through(gradient: Any, settings: Settings, task: Task, seed: int) -> Any:
    objective = {"goal_weight": GOAL_WEIGHT, "goal_scale": "paper", "gradient": gradient}
    objective["budget"] = BUDGETS
    return _fit_paper(AllocationModel(2, "paper", seed=seed), settings, task, objective)


def _fit_paper(
    model: Any, settings: Settings, task: Task, objective: dict[str, Any] | None = None
) -> Any:
    optimizer = keras.optimizers.Adam(settings.learning_rate)
    model.compile(optimizer, jit_compile=settings.jit, **(objective or {}))
    fixed = {"validation_split": 0.0, "early_stopping": False, "batch_size": BATCH}
    model.fit(task.trial, epochs=settings.epochs, verbose=0, **fixed)
    return model


def _as_studied(method: str) -> Fit:
    """A method of the study of methods, with the hyper-parameters that were searched there."""
    return lambda settings, task, seed: STUDIED[method](task, seed)


METHODS: dict[str, Fit] = {
    CONTROL: _control,
    "TSM-SL": _two_stage,
    "Direct Rank": _direct_rank,
    "DRP": _drp,
    "DFCL-IFD": _dfcl,
    "NES": _nes,
    "FD": _finite_difference,
    **{name: _as_studied(name) for name in OURS},
}


def study(
    output: str | os.PathLike[str],
    *,
    seeds: int = 5,
    settings: Settings | None = None,
    data: str | os.PathLike[str] | None = None,
    methods: Sequence[str] | None = None,
    restart: bool = False,
    command: str | None = None,
) -> Runs:
    """Runs what is missing of the study, and writes its table and figure.

    Args:
      output: directory for runs.json, table.md and figure.png.
      seeds: repetitions of each method.
      settings: sizes; None: the paper's.
      data: Criteo's official file, as for `datasets.criteo`; None: the simulation.
      methods: names among `METHODS`; None: all. The control is always among them.
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
    unknown = [name for name in methods or () if name not in METHODS]
    if unknown:
        raise ValueError(f"methods={unknown!r} are not known; expected some of {list(METHODS)}.")
    require_matplotlib()
    kept = dataclasses.asdict(settings)
    if data is not None:
        # Its name and size, for the same file may lie elsewhere.
        kept |= {"data": os.path.basename(os.fspath(data)), "bytes": os.path.getsize(data)}
        del kept["rows"], kept["fresh"]
    folder = Path(output)
    runs = Runs(folder / "runs.json", kept, command=command, restart=restart)
    chosen = [name for name in METHODS if name in {CONTROL, *(methods or METHODS)}]
    keys = [{"method": name, "seed": seed} for seed in range(seeds) for name in chosen]
    for name in chosen:
        runs.check_arguments(_arguments(name), method=name)
    protocol = Protocol(settings, data)
    runs.complete(keys, protocol.run, "criteo", prepare=protocol.prepare)
    criteo_report.write(folder, runs, list(METHODS))
    return runs


def _arguments(method: str) -> dict[str, Any]:
    """Of a method, what is no setting of the study."""
    if method in OURS:
        return arguments_of(TUNED["criteo_like"], method)
    if NETS[method] == "small":
        return {"learning_rate": SMALL_RATE, "early_stopping": PATIENCE, "batch_size": BATCH}
    if method == CONTROL:
        return {"goal_weight": 0.0, "batch_size": BATCH}
    if method == "DFCL-IFD":
        return {"loss": "ifd", "budget": BUDGETS, "batch_size": BATCH}
    objective = {"goal_weight": GOAL_WEIGHT, "budget": BUDGETS, "batch_size": BATCH}
    return {**objective, "num_entries": ENTRIES} if method == "FD" else objective


class Protocol:
    """Does the runs: split, training, AUCC."""

    def __init__(self, settings: Settings, data: str | os.PathLike[str] | None):
        self.settings, self.data = settings, data
        # The methods of a seed see the same rows, one after the other.
        self._parts = functools.lru_cache(1)(self._split)
        self._task = functools.lru_cache(1)(self._draw_task)
        self._fresh = functools.lru_cache(1)(self._draw_fresh)

    def prepare(self, *, seed: int, **_: Any) -> None:
        """Has the rows of a seed at hand; a file that does not hold them is refused here."""
        self._parts(0 if self.data else seed)

    def run(self, method: str, seed: int) -> dict[str, Any]:
        """The figures of one run; its seconds are those of the training."""
        task, test = self._task(seed)
        task.shared.begin()
        model = METHODS[method](self.settings, task, seed)
        seconds = task.shared.seconds()
        found: dict[str, Any] = {"aucc": estimated_aucc(scores(model, test), test)}
        found |= {"arguments": _arguments(method), "seconds": seconds}
        if self.data is None:
            fresh = self._fresh(seed)
            found["true_aucc"] = true_aucc(scores(model, fresh.data), fresh)
        return found

    def _draw_task(self, seed: int) -> tuple[Task, RCTData]:
        """What the methods of a seed share, and the rows that judge them."""
        keras.utils.clear_session()  # graphs of the models of seeds that are gone
        train, test = self._parts(0 if self.data else seed)
        settings = methods_task.Settings(epochs=self.settings.small_epochs, jit=self.settings.jit)
        return Task("criteo_like", train, BUDGETS, None, settings, TUNED["criteo_like"]), test

    def _split(self, seed: int) -> tuple[RCTData, ...]:
        if self.data is None:
            whole = datasets.criteo_like(self.settings.rows, seed=seed).data
        else:
            whole = datasets.criteo(self.data)
        return whole.split([0.7, 0.3], 0)

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


def true_aucc(score: np.ndarray, users: Simulation) -> float:
    """AUCC with every user's true outcomes under both arms in place of a trial.

    Each user stands in both arms with expected outcomes, so that the uplift of a prefix is the sum
    of true uplifts: dC(k) = sum_{i<=k} (c_i1 - c_i0) / N, dR likewise.

    Args:
      score: [users], higher ranks first.
      users: a simulation of two arms.
    """
    both = {
        "treatment": np.repeat([0, 1], len(users)),
        "response": np.ravel(users.true_response.T),
        "cost": np.ravel(users.true_cost.T),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the noise of a trial, which this is not
        return float(aucc(np.tile(score, 2), both).value)
