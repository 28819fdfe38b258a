"""`train`: a trial in, one directory with a model and all that is known of it out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import pandas as pd

from tfalloc import _files
from tfalloc._warn import warn as python_warning
from tfalloc.data import RCTData
from tfalloc.evaluation import outcome_curve
from tfalloc.models import AllocationModel
from tfalloc.training import held_out
from tfalloc.training import run as run_files
from tfalloc.training.columns import Columns
from tfalloc.training.fitting import TwoStageWeights, best_epoch, fit
from tfalloc.training.plots import write_plots
from tfalloc.training.recipe import Recipe
from tfalloc.training.run import SAME_MIX, THIS_MODEL, TWO_STAGE, Run, resumable_directory


@dataclasses.dataclass(frozen=True)
class Watcher:
    """Who is told how training goes; by default Python's warnings.

    Attributes:
      note: called with a line about what is going on.
      warn: called with a line about trouble that stops nothing.
      callbacks: called with a model's name and the steps of its epochs, gives Keras callbacks.
      trained: called with a model's name when its training is over.
    """

    note: Callable[[str], None] = python_warning
    warn: Callable[[str], None] = python_warning
    callbacks: Callable[[str, int], Sequence[keras.callbacks.Callback]] = lambda name, steps: ()
    trained: Callable[[str], None] = lambda name: None


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """What `train` returns.

    Attributes:
      run: the directory that it left.
      outcomes: one row per policy and budget, on the held-out rows.
      versus_two_stage: this model minus the two-stage one at each budget; empty if not asked for.
      held_out_rows: how many rows that is.
    """

    run: Run
    outcomes: pd.DataFrame
    versus_two_stage: list[dict[str, float]]
    held_out_rows: int


def train(
    data: RCTData,
    recipe: Recipe,
    output: str | os.PathLike[str],
    *,
    columns: Columns | None = None,
    path: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    restart: bool = False,
    watcher: Watcher | None = None,
) -> TrainedRun:
    """Trains on a trial, evaluates on rows that the model has not seen, leaves a run's directory.

    A run that was killed goes on where it stopped when the same call is made again: until it is
    done, its state is in `output`.partial.

    Args:
      data: the trial, in memory or streamed.
      recipe: how.
      output: directory to leave.
      columns: what the columns of its file are, for the run to remember.
      path: of that file.
      overwrite: whether an earlier output of that name is replaced.
      restart: start afresh instead of where a killed run stopped.
      watcher: who is told how it goes.

    Raises:
      ValueError: the output may not be written, the budget is infeasible, the data do not fit the
        recipe, or training diverged.

    Example:
      >>> import tempfile, tfalloc
      >>> data = tfalloc.datasets.five_arms(2_000, seed=0).data
      >>> recipe = tfalloc.training.Recipe(budget=2.0, backbone="small", epochs=1, goal_weight=0.0)
      >>> trained = tfalloc.training.train(data, recipe, tempfile.mkdtemp() + "/run")
      >>> trained.run.model().num_treatments
      5
    """
    watcher = watcher or Watcher()
    check_budget(data, recipe, watcher.warn)
    config = run_files.Config(
        command="train",
        data=run_files.TrialRecord(
            path=None if path is None else os.path.abspath(path),
            rows=len(data),
            feature_kinds=data.feature_kinds,
            treatments=data.treatment_names,
            fingerprint=data.fingerprint(),
        ),
        columns=None if columns is None else columns.resolved(data),
        options=recipe,
        versions=_files.versions(),
    )
    parts = data.split([1 - recipe.test_share, recipe.test_share], recipe.seed)
    config = dataclasses.replace(config, mix=run_files.Mix.of(parts[0]))
    work = resumable_directory(output, overwrite=overwrite, restart=restart, say=watcher.note)
    with work as (fresh, kept):
        model, histories, weights = _fit_all(parts[0], recipe, kept, watcher)
        model.save(fresh / run_files.MODEL)
        histories[THIS_MODEL].to_csv(fresh / run_files.HISTORY, index=False)
        _files.write_json(fresh / run_files.CONFIG, dataclasses.asdict(config))
        judged = _judge(fresh, model, weights, parts, config, watcher)
        metrics = {**_facts(parts, histories[THIS_MODEL]), **judged.metrics()}
        _files.write_json(fresh / run_files.METRICS, metrics)
        write_plots(
            fresh / run_files.PLOTS,
            judged.curves,
            histories,
            mix_of=THIS_MODEL,
            budget=recipe.budget_points[0],
            binary=data.response_kind == "binary",
            warn=watcher.warn,
        )
    outcomes = pd.DataFrame() if judged.outcomes is None else judged.outcomes
    return TrainedRun(Run(Path(output), config), outcomes, judged.versus, len(parts[1]))


def _fit_all(
    rows: RCTData, recipe: Recipe, kept: Path, watcher: Watcher
) -> tuple[AllocationModel, dict[str, pd.DataFrame], dict[str, Any]]:
    """The model, with histories and weights of it and of the two-stage one, if that is wanted."""

    def trained(name: str, recipe: Recipe, *more: Any) -> tuple[AllocationModel, pd.DataFrame]:
        return watched_fit(rows, recipe, name, watcher, kept / name.replace(" ", "-"), more)

    handed_on = TwoStageWeights(kept / "two-stage.weights")
    model, history = trained(THIS_MODEL, recipe, handed_on)
    histories, weights = {THIS_MODEL: history}, {THIS_MODEL: model.get_weights()}
    if not recipe.compare_two_stage:
        return model, histories, weights
    if "phase" in history:
        # The first phase of a warm start is two-stage training, with this seed: it has been.
        histories[TWO_STAGE] = history[history["phase"] == 1]
        ended_early = 2 not in set(history["phase"])
        weights[TWO_STAGE] = weights[THIS_MODEL] if ended_early else handed_on.weights()
    elif recipe.goal_weight == 0:
        histories[TWO_STAGE], weights[TWO_STAGE] = history, weights[THIS_MODEL]
    else:
        two_stage, histories[TWO_STAGE] = trained(TWO_STAGE, recipe.two_stage())
        weights[TWO_STAGE] = two_stage.get_weights()
    return model, histories, weights


@dataclasses.dataclass
class _Judged:
    """What held-out rows say; nothing but the error if they cannot say anything."""

    curves: dict[str, pd.DataFrame] = dataclasses.field(default_factory=dict)
    outcomes: pd.DataFrame | None = None
    versus: list[dict[str, float]] = dataclasses.field(default_factory=list)
    error: str | None = None

    def metrics(self) -> dict[str, Any]:
        if self.outcomes is None:
            return {"outcomes": [], "error": self.error}
        found: dict[str, Any] = {"outcomes": self.outcomes.to_dict("records")}
        return {**found, "versus_two_stage": self.versus} if self.versus else found


def _judge(
    folder: Path,
    model: AllocationModel,
    weights: dict[str, Any],
    parts: tuple[RCTData, ...],
    config: run_files.Config,
    watcher: Watcher,
) -> _Judged:
    """Evaluates on the held-out rows; the model is saved whatever they say."""
    points, unseen = config.options.budget_points, parts[1]
    try:
        predictions, outcomes = held_out.predict(model, weights, unseen)
        everyone = held_out.with_baselines(
            predictions, config.mix or run_files.Mix.of(parts[0]), len(unseen)
        )
        table = held_out.outcomes_at(everyone, outcomes, points)
        versus: list[dict[str, float]] = []
        if TWO_STAGE in weights:
            for budget in points:
                difference = held_out.gain_over(everyone, outcomes, budget, TWO_STAGE)
                versus.append({"budget": budget, **difference})
        shown = {**predictions, SAME_MIX: everyone[SAME_MIX]}
        curves = {name: outcome_curve(*pair, outcomes) for name, pair in shown.items()}
    except ValueError as error:
        watcher.warn(f"no evaluation, for the held-out rows do not allow it: {error}")
        return _Judged(error=str(error))
    curves[THIS_MODEL].to_csv(folder / run_files.CURVE, index=False)
    return _Judged(curves, table, versus)


def _facts(parts: tuple[RCTData, ...], history: pd.DataFrame) -> dict[str, Any]:
    best = best_epoch(history)
    return {
        "held_out_rows": len(parts[1]),
        "training_rows": len(parts[0]),
        "epochs_run": len(history),
        "best_epoch": int(best["epoch"]),
        "validation": {name: float(best[name]) for name in best.index if name != "epoch"},
    }


def watched_fit(
    rows: RCTData,
    recipe: Recipe,
    name: str,
    watcher: Watcher,
    keep: Path | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> tuple[AllocationModel, pd.DataFrame]:
    """As `fit`, with somebody watching."""

    def say(text: str) -> None:
        watcher.note(f"{name}: {text}")

    try:
        callbacks = [*watcher.callbacks(name, recipe.steps_per_epoch(len(rows))), *callbacks]
        return fit(rows, recipe, keep=keep, callbacks=callbacks, say=say)
    finally:
        watcher.trained(name)


def check_budget(data: RCTData, recipe: Recipe, warn: Callable[[str], None]) -> None:
    """Compares a recipe's budget with what the arms cost, before any work is done.

    Raises:
      ValueError: it is below the mean cost of the cheapest arm.
    """
    low, high = min(recipe.budget_points), max(recipe.budget_points)
    arms = data.describe().arms
    cheapest, dearest = min(arms, key=lambda a: a.cost), max(arms, key=lambda a: a.cost)
    if low < cheapest.cost * (1 - 1e-6):
        raise ValueError(
            f"budget {low:g} per user is infeasible: giving everyone the cheapest treatment "
            f"({cheapest.name!r}) costs {cheapest.cost:.6g} per user in this trial; pass at least "
            "that."
        )
    if high > dearest.cost:
        warn(
            f"budget {high:g} per user does not bind: giving everyone the dearest treatment "
            f"({dearest.name!r}) costs {dearest.cost:.6g} per user in this trial."
        )
