"""`study`: trials of settings, each trained and compared on the same validation rows.

Optuna proposes settings, keeps the record and lets a killed study continue. Rows have three uses:

    training     `fit` learns from them and keeps some for early stopping
    validation   no training saw them: trials are compared on them, paired by row
    holdout      no trial saw them: the best is confirmed on them, once

so that a trial's interval is honest; only the choice of the best among many is not, see `Study`.
"""

from __future__ import annotations

import contextlib
import functools
import math
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfalloc.data import RCTData
from tfalloc.evaluation import policy_outcome, predict
from tfalloc.models.schedules import check_budget
from tfalloc.tuning.results import Study, model_file, predictions_file, summarise
from tfalloc.tuning.space import Prepared, check_fixed, default_space, merge, prepare

NAME, DATABASE = "tfalloc", "study.db"


def study(
    data: RCTData,
    *,
    budget: float | tuple[float, float],
    trials: int = 40,
    storage: str | Path | None = None,
    space: Callable[[Any], Mapping[str, Any]] | None = None,
    first: Sequence[Mapping[str, Any]] = (),
    validation: float | RCTData = 0.25,
    holdout: float | RCTData | None = None,
    sampler: Any = None,
    pruner: Any = None,
    seed: int = 0,
    **settings: Any,
) -> Study:
    """Searches settings of `AllocationModel` for the most response at a budget.

    The first trial is the control: two-stage training (goal_weight 0) with `settings` and the
    defaults of the package otherwise. A trial whose loss becomes NaN, that runs out of memory, or
    whose policy cannot keep the budget is recorded as failed and the search goes on.

    Args:
      data: the trial, in memory.
      budget: cost per user; a number, or a range (low, high) to train on, in whose middle trials
        are compared.
      trials: how many in all, failed ones and those of earlier calls included.
      storage: folder that holds the study (SQLite) and each trial's model; the same folder, data
        and seed continue a study, in this process or in several at once. None: a temporary one,
        gone with the result.
      space: maps an `optuna.Trial` to the settings that are searched; None: `default_space`
        without those of `settings`.
      first: parameters of the space to try right after the control, such as a grid.
      validation: rows to compare trials on, or the share of `data` to set apart for that.
      holdout: rows to confirm the best on, or a share of `data`; None: not confirmed.
      sampler: an Optuna sampler; None: `TPESampler`, its draws a function of seed and trial number.
      pruner: an Optuna pruner, told each epoch's val_goal of the rows for early stopping; None:
        none, for that is noisy. The control is never pruned.
      seed: seeds the division of rows, the sampler and each model.
      **settings: of every trial: learning_rate, weight_decay, and arguments of `AllocationModel`
        (backbone, heads, …), `compile` (gradient, goal_scale, …) and `fit` (epochs, batch_size,
        warm_start, …).

    Returns:
      A `Study`; it warns if its best is within noise of two-stage.

    Raises:
      ImportError: Optuna is not installed.
      ValueError: an argument is out of range or not known, or the folder has a study of other rows.

    Example:
      >>> import tfalloc, warnings
      >>> data = tfalloc.datasets.five_arms(3_000, seed=0).data
      >>> def weights(trial):
      ...     return {"goal_weight": trial.suggest_float("goal_weight", 0.1, 10, log=True)}
      >>> with warnings.catch_warnings():
      ...     warnings.simplefilter("ignore")  # so few rows decide nothing
      ...     result = tfalloc.tuning.study(
      ...         data, budget=2.0, trials=2, space=weights, backbone="small", epochs=1
      ...     )
      >>> result.trials.state.tolist(), float(result.trials.goal_weight[0])
      (['COMPLETE', 'COMPLETE'], 0.0)

    Source: the search over lambda is Fig. 3 of Yan et al. 2023.
    """
    require_optuna()
    if not isinstance(data, RCTData):
        raise ValueError(f"data is a {type(data).__name__}; expected RCTData, in memory.")
    if isinstance(trials, bool) or not isinstance(trials, (int, np.integer)) or trials < 1:
        raise ValueError(f"trials={trials!r}: expected an integer of at least 1.")
    check_fixed(settings)
    budget, validation_budget = _budgets(budget)
    train, rows, fresh = _divide(data, validation, holdout, seed)
    draw = space or functools.partial(default_space, fixed=settings)
    make = functools.partial(
        prepare,
        num_treatments=data.num_treatments,
        budget=budget,
        validation_budget=validation_budget,
        seed=seed,
    )
    # Settings that clash are refused now, and not when the control has been trained.
    make(merge(draw(_probe(seed)), settings))
    for parameters in first:
        _check_drawn(parameters, draw, seed)
    folder = Path(tempfile.mkdtemp(prefix="tfalloc-")) if storage is None else _folder(storage)
    objective = _Objective(train, rows, validation_budget, folder, draw, settings, make)
    try:
        with _record(folder, sampler, pruner) as record:
            _check_same(record, folder, rows, validation_budget, seed)
            _enqueue(record, first)
            _run(record, objective, trials, None if sampler is not None else seed)
            done = record.get_trials(deepcopy=False)
    except BaseException:
        if storage is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    result = summarise(done, folder, rows, validation_budget, fresh)
    if storage is None:
        weakref.finalize(result, shutil.rmtree, folder, ignore_errors=True)
    return result


@dataclass(frozen=True)
class _Objective:
    """What Optuna calls for each trial: trains it, saves it, returns its response per user.

    Attributes:
      train: rows that `fit` is given.
      rows: validation rows.
      budget: cost per user at which trials are compared.
      folder: of models and predictions.
      draw: maps an Optuna trial to the settings searched.
      fixed: settings of every trial.
      make: maps settings to `Prepared`.
    """

    train: RCTData
    rows: RCTData
    budget: float
    folder: Path
    draw: Callable[[Any], Mapping[str, Any]]
    fixed: Mapping[str, Any]
    make: Callable[[Mapping[str, Any]], Prepared]

    def __call__(self, trial: Any) -> float:
        control = bool(trial.user_attrs.get("control"))
        searched = {"goal_weight": 0.0} if control else self.draw(trial)
        settings = merge(searched, self.fixed)
        trial.set_user_attr("goal_weight", float(settings.get("goal_weight", 0.0)))
        model, options = self.make(settings)
        watch = [keras.callbacks.TerminateOnNaN(), _Report(trial, prune=not control)]
        try:
            history = model.fit(self.train, callbacks=watch, verbose=0, **options)
        except (tf.errors.ResourceExhaustedError, tf.errors.InvalidArgumentError) as error:
            # Outside XLA the goal's tables refuse the positions that NaN predictions give.
            return _failed(trial, f"training ended with {type(error).__name__}")
        if not math.isfinite(history.history["loss"][-1]):
            return _failed(trial, f"the loss became NaN in epoch {len(history.epoch)}")
        pair = predict(model, self.rows)
        if not all(np.isfinite(each).all() for each in pair):
            return _failed(trial, "a prediction is not finite")
        outcome = policy_outcome(*pair, self.rows, budget=self.budget)
        if not outcome.feasible or not math.isfinite(outcome.response):
            return _failed(trial, f"its cheapest assignment costs {outcome.cost:.4g} per user")
        model.save(model_file(self.folder, trial.number))
        np.savez(predictions_file(self.folder, trial.number), **pair._asdict())
        return outcome.response


def _failed(trial: Any, reason: str) -> float:
    trial.set_user_attr("failure", reason)
    return math.nan  # Optuna records the trial as failed


@contextlib.contextmanager
def _record(folder: Path, sampler: Any, pruner: Any) -> Iterator[Any]:
    """Optuna's study in the folder's database, new or continued."""
    optuna = require_optuna()
    from sqlalchemy.exc import SQLAlchemyError

    file, database = folder / DATABASE, None
    try:
        try:
            database = optuna.storages.RDBStorage(f"sqlite:///{file}")
            record = optuna.create_study(
                storage=database,
                study_name=NAME,
                direction="maximize",
                load_if_exists=True,
                sampler=sampler,
                pruner=pruner or optuna.pruners.NopPruner(),
            )
            record.get_trials(deepcopy=False)
        except (SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError) as error:
            raise ValueError(
                f"{file} cannot be read as a study ({type(error).__name__}): it is damaged, or of "
                "another program or version; name another folder."
            ) from error
        yield record
    finally:
        if database is not None:
            database.remove_session()
            database.engine.dispose()


def _run(record: Any, objective: Callable[[Any], float], trials: int, seed: int | None) -> None:
    """Runs trials until so many are finished; seed None: the record has a sampler of the caller."""
    optuna = require_optuna()
    while sum(trial.state.is_finished() for trial in record.get_trials(deepcopy=False)) < trials:
        if seed is not None:
            # By number, so that a continued study does not repeat its first draws.
            number = len(record.get_trials(deepcopy=False))
            draws = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
            record.sampler = optuna.samplers.TPESampler(seed=draws)
        record.optimize(objective, n_trials=1, gc_after_trial=True)


class _Report(keras.callbacks.Callback):
    """Tells Optuna each epoch's val_goal, and ends a trial that its pruner gives up."""

    def __init__(self, trial: Any, prune: bool):
        super().__init__()
        self.trial, self.prune = trial, prune

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Reports."""
        value = (logs or {}).get("val_goal", math.nan)
        if math.isfinite(value):
            self.trial.report(float(value), epoch)
            if self.prune and self.trial.should_prune():
                raise require_optuna().TrialPruned


def require_optuna() -> Any:
    """The module, or an ImportError of one line that names the extra."""
    try:
        import optuna
    except ImportError as error:
        raise ImportError(
            "tuning needs Optuna, which is not installed: pip install tfalloc[tuning]"
        ) from error
    return optuna


def _probe(seed: int, parameters: Mapping[str, Any] | None = None) -> Any:
    """A trial of no study, to draw from a space once; with the given parameters."""
    optuna = require_optuna()
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
        if parameters is not None:
            study.enqueue_trial(dict(parameters))
        return study.ask()
    finally:
        optuna.logging.set_verbosity(level)


def _check_drawn(parameters: Mapping[str, Any], draw: Any, seed: int) -> None:
    """Refuses parameters of `first` that the space would ignore, whatever else is drawn."""
    for other in range(10):
        trial = _probe(seed + other, parameters)
        draw(trial)
        unused = [name for name in parameters if name not in trial.params]
        if unused:
            raise ValueError(
                f"first={dict(parameters)!r}: the space may not draw {unused[0]!r}, here it drew "
                f"{sorted(trial.params)}; mend the name, or give what it depends on as well."
            )


def _folder(storage: str | Path) -> Path:
    """The folder of a study, new or of this module."""
    folder = Path(storage)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"storage={str(folder)!r} is a file; expected a folder, new or a study's.")
    folder.mkdir(parents=True, exist_ok=True)
    foreign = [] if (folder / DATABASE).exists() else sorted(folder.glob("trial_*"))
    if foreign:
        raise ValueError(
            f"storage={str(folder)!r} holds {foreign[0].name} but no study; expected an empty or "
            "new folder, since trials would replace it."
        )
    return folder


def _budgets(budget: Any) -> tuple[Any, float]:
    checked = check_budget(budget)
    if checked is None or callable(checked):
        raise ValueError(
            f"budget={budget!r}: expected one cost per user, or a range (low, high), so that "
            "trials are compared at the same one."
        )
    return checked, float(np.mean(checked))


def _divide(data: RCTData, validation: Any, holdout: Any, seed: int) -> tuple[Any, Any, Any]:
    """Rows for training, validation and holdout (or None)."""
    shares = [0.0 if isinstance(x, RCTData) else float(x or 0.0) for x in (validation, holdout)]
    if (
        min(shares) < 0.0
        or sum(shares) >= 1.0
        or not (shares[0] or isinstance(validation, RCTData))
    ):
        raise ValueError(
            f"validation={validation!r} and holdout={holdout!r}: expected RCTData, or shares of "
            "the data that leave some for training."
        )
    parts = iter(data.split([1.0 - sum(shares), *(share for share in shares if share)], seed))
    train = next(parts)
    rows, fresh = (next(parts) if s else x for s, x in zip(shares, (validation, holdout)))
    _ = rows.treatment  # streamed rows are refused here, before any training
    return train, rows, fresh


def _check_same(record: Any, folder: Path, rows: RCTData, budget: float, seed: int) -> None:
    """Pairs only make sense on the same rows: refuses to continue a study of others."""
    now = {
        "seed": seed,
        "budget": budget,
        "validation rows": len(rows),
        "validation response": float(rows.response.sum(dtype=np.float64)),
        "validation cost": float(rows.cost.sum(dtype=np.float64)),
    }
    before = record.user_attrs.get("rows")
    if before is None:
        record.set_user_attr("rows", now)
    elif before != now:
        before = before if isinstance(before, dict) else {}
        changed = next(name for name in now if before.get(name) != now[name])
        raise ValueError(
            f"storage={str(folder)!r} holds a study with {changed} {before.get(changed)}, not "
            f"{now[changed]}; continue it with the same data, budget and seed, or name another "
            "folder."
        )


def _enqueue(record: Any, first: Sequence[Mapping[str, Any]]) -> None:
    """The control, unless there is one; a killed one is left running for ever and done anew."""
    known = record.get_trials(deepcopy=False)
    if not any(
        trial.user_attrs.get("control") and trial.state.name != "RUNNING" for trial in known
    ):
        record.enqueue_trial({}, user_attrs={"control": True})
    for parameters in first:
        record.enqueue_trial(dict(parameters), skip_if_exists=True)
