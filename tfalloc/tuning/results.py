"""`Study`: what the trials of a search brought, against the two-stage control on the same rows.

The best of many trials on one set of rows looks better than it is: its lead is the largest of many
noisy leads. Hence p-values are multiplied by the number of trials compared (Bonferroni) before the
best is called better, and a claim needs rows that took no part in the choice: `Study.confirm`.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from tfalloc._warn import warn
from tfalloc.data import RCTData
from tfalloc.evaluation import compare, predict_trial

LEVEL = 0.05
# What reading a file that was cut off or is another one may raise.
DAMAGED = (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
OUTCOME = {
    "response": "val_goal",
    "response_low": "val_goal_low",
    "response_high": "val_goal_high",
    "difference": "difference",
    "difference_low": "difference_low",
    "difference_high": "difference_high",
    "p_value": "p_value",
}


@dataclass(frozen=True)
class Study:
    """Trials of a search and what to make of them.

    Attributes:
      trials: one row per trial, index "trial": state ("COMPLETE", "FAIL", "PRUNED"), control,
        goal_weight, the parameters searched, val_goal (response per user at the budget on the
        validation rows, by `evaluation.policy_outcome`: exactly at the budget, where `fit` logs the
        step below) with its 95 % interval val_goal_low and val_goal_high, which allows for the
        estimated shadow price; difference to the control, paired by row, with its interval and
        p_value (`evaluation.compare`); seconds, and why a trial failed. Intervals hold the trained
        model fixed: another seed gives another model.
      control: number of the two-stage control; None if it failed.
      best_two_stage: number of the best trial with goal_weight 0.
      best: number of the trial with the largest val_goal; None if none is complete.
      budget: cost per user at which trials are compared.
      folder: where the models are; `sqlite:///FOLDER/study.db` is Optuna's study "tfalloc".
      holdout: `confirm` on the holdout rows; None without any.
    """

    trials: pd.DataFrame
    control: int | None
    best_two_stage: int | None
    best: int | None
    budget: float
    folder: Path
    holdout: pd.DataFrame | None = None

    def model(self, number: int | None = None) -> Any:
        """The trained model of a trial; None: of the best.

        Raises:
          ValueError: if that trial has no model.
        """
        number = self.best if number is None else number
        if number is None or not model_file(self.folder, number).exists():
            complete = self.trials.index[self.trials.state == "COMPLETE"].tolist()
            raise ValueError(f"trial {number} has no model; expected one of {complete}.")
        file = model_file(self.folder, number)
        try:
            return keras.saving.load_model(file)
        except DAMAGED as error:
            raise _unreadable(file, error) from error

    def confirm(self, data: RCTData) -> pd.DataFrame:
        """The best against the two-stage control on fresh rows, without the luck of the choice.

        Args:
          data: rows that took no part in the search.

        Returns:
          `evaluation.compare` of "two-stage" (the control), "tuned two-stage" (if another) and
          "best" (if neither), with a column "trial".

        Raises:
          ValueError: if the control or all trials failed, or as `compare`.
        """
        if self.control is None:
            raise ValueError("the two-stage control failed: there is nothing to compare with.")
        numbers: dict[str, int] = {"two-stage": self.control}
        for name, number in (("tuned two-stage", self.best_two_stage), ("best", self.best)):
            if number is not None and number not in numbers.values():
                numbers[name] = number
        models = {name: self.model(number) for name, number in numbers.items()}
        pairs, outcomes = predict_trial(models, data)
        table = compare(pairs, outcomes, budget=self.budget, reference="two-stage")
        table.insert(0, "trial", list(numbers.values()))
        return table


def model_file(folder: Path, number: int) -> Path:
    """Where the model of a trial is saved."""
    return folder / f"trial_{number}.keras"


def predictions_file(folder: Path, number: int) -> Path:
    """Where its predictions for the validation rows are saved."""
    return folder / f"trial_{number}.npz"


def _unreadable(file: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{file} is missing or damaged ({type(error).__name__}); restore it, or run the search in "
        "another folder."
    )


class _Predictions(Mapping[int, tuple[np.ndarray, np.ndarray]]):
    """{trial: (response, cost)} read when asked for: those of all trials may not fit in memory."""

    def __init__(self, folder: Path, numbers: list[int]):
        self.folder, self.numbers = folder, numbers

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        if number not in self.numbers:
            raise KeyError(number)
        file = predictions_file(self.folder, number)
        try:
            with open(file, "rb") as stream, np.load(stream) as arrays:
                return arrays["response"], arrays["cost"]
        except DAMAGED as error:
            raise _unreadable(file, error) from error

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


def summarise(
    trials: list[Any],
    folder: Path,
    rows: RCTData,
    budget: float,
    fresh: RCTData | None,
) -> Study:
    """The `Study` of Optuna's records.

    Args:
      trials: `optuna.trial.FrozenTrial`s.
      folder: of models and predictions.
      rows: validation rows.
      budget: cost per user.
      fresh: holdout rows, or None.
    """
    table = pd.DataFrame([_row(trial) for trial in trials]).set_index("trial")
    complete = table.index[table.state == "COMPLETE"].tolist()
    two_stage = [n for n in complete if table.control[n]]
    control = two_stage[0] if two_stage else None
    if complete:
        outcomes = compare(
            _Predictions(folder, complete),  # type: ignore[arg-type]
            rows,
            budget=budget,
            reference=complete[0] if control is None else control,  # type: ignore[arg-type]
        )[list(OUTCOME)].rename(columns=OUTCOME)
        if control is None:
            outcomes.loc[:, "difference":] = np.nan  # type: ignore[misc]
        table = table.join(outcomes)
    else:
        table[list(OUTCOME.values())] = np.nan
    table = table[[c for c in table if c not in ("seconds", "failure")] + ["seconds", "failure"]]
    plain = [n for n in complete if table.goal_weight[n] == 0.0]
    best = int(table.val_goal.idxmax()) if complete else None
    result = Study(
        trials=table,
        control=control,
        best_two_stage=int(table.val_goal[plain].idxmax()) if plain else None,
        best=best,
        budget=budget,
        folder=folder,
    )
    _warn_of_noise(result)
    if fresh is None or control is None:
        return result
    return replace(result, holdout=result.confirm(fresh))


def _row(trial: Any) -> dict[str, Any]:
    known = trial.user_attrs
    return {
        "trial": trial.number,
        "state": trial.state.name,
        "control": bool(known.get("control", False)),
        "goal_weight": known.get("goal_weight", np.nan),
        **{name: value for name, value in trial.params.items() if name != "goal_weight"},
        "seconds": trial.duration.total_seconds() if trial.duration else np.nan,
        "failure": known.get("failure", ""),
    }


def _warn_of_noise(result: Study) -> None:
    """Says so unless the best is better than the control beyond the luck of the choice."""
    table, best = result.trials, result.best
    if best is None or result.control is None:
        what = "no trial is complete" if best is None else "the two-stage control failed"
        reasons = [reason for reason in table.failure if reason][:1]
        warn(f"{what}: {' '.join(reasons)}; see trials.failure.")
        return
    compared = int((table.state == "COMPLETE").sum()) - 1
    p_value = min(1.0, table.p_value[best] * compared)
    advice = "confirm it on fresh rows: holdout= or Study.confirm."
    if best == result.control:
        warn(f"none of {compared} other complete trials is better than the two-stage control.")
    elif not p_value < LEVEL:
        lead, low, high = table.loc[best, ["difference", "difference_low", "difference_high"]]
        warn(
            f"the best of {compared} trials, trial {best}, is within noise of the two-stage "
            f"control: difference {lead:.3g}, 95 % interval ({low:.3g}, {high:.3g}), p-value "
            f"{p_value:.2g} after correction for the choice among {compared}; {advice}"
        )
    elif table.goal_weight[best] == 0.0:
        warn(f"the best trial, {best}, is two-stage itself; {advice}")
