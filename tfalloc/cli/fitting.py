"""One training run, the same for `train`, its two-stage comparison and `demo`."""

from __future__ import annotations

import dataclasses
import math
import shutil
import warnings
from typing import Any

import keras
import numpy as np
import pandas as pd

from tfalloc.cli import console
from tfalloc.cli.parse import Budget, parse_list
from tfalloc.cli.progress import EpochProgress
from tfalloc.data import RCTData
from tfalloc.models import AllocationModel, Checkpoint
from tfalloc.models.objective import SCALES as GOAL_SCALES
from tfalloc.models.resume import OtherRunError


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is trained; `two_stage` gives the baseline."""

    budget: Budget
    goal_weight: float = 0.1
    goal_scale: str = "normalized"
    gradient: str = "finite-difference"
    warm_start: bool = True
    backbone: str = "encoded"
    response_head: str | None = None
    cost_head: str | None = None
    heads: str = "independent"
    monotone: bool = False
    cost_amounts: tuple[float, ...] | None = None
    batch_size: int | None = None
    epochs: int = 20
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    validation_share: float = 0.2
    patience: int = 5
    seed: int = 0
    jit: bool = True

    def two_stage(self) -> Recipe:
        """The same without the allocation in the loss."""
        return dataclasses.replace(self, goal_weight=0.0, warm_start=False)

    def check(self) -> None:
        """Refuses values out of range, before any data are read.

        Raises:
          ValueError: the option, its value and what was expected.
        """
        positive = {"--batch-size": self.batch_size, "--epochs": self.epochs}
        for option, number in positive.items():
            if number is not None and number < 1:
                raise ValueError(f"{option} {number}: expected at least 1.")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"--learning-rate {self.learning_rate}: expected a number above 0.")
        if not (math.isfinite(self.goal_weight) and self.goal_weight >= 0):
            raise ValueError(f"--goal-weight {self.goal_weight}: expected a number from 0.")
        if self.goal_scale not in GOAL_SCALES:
            raise ValueError(
                f"--goal-scale {self.goal_scale}: expected one of {', '.join(GOAL_SCALES)}."
            )
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"--weight-decay {self.weight_decay}: expected a number from 0.")
        if not 0 < self.validation_share < 1:
            raise ValueError(
                f"--validation-share {self.validation_share}: expected a share between 0 and 1."
            )
        if self.patience < 0:
            raise ValueError(f"--patience {self.patience}: expected 0 (never stop early) or more.")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"--seed {self.seed}: expected an integer from 0 to 2^31 - 1.")


def gradient_names() -> dict[str, str]:
    """Command-line name of every gradient -> class name: "finite-difference", …"""
    from tfalloc import gradients

    classes = [
        name for name in gradients.__all__ if name[0].isupper() and not name.endswith("Gradient")
    ]
    spelled = {"FiniteDifference": "finite-difference"}
    return {spelled.get(name, name.lower()): name for name in classes}


def make_gradients(names: str) -> list[Any]:
    """Gradients with their default settings, "integrated,finite-difference".

    Raises:
      ValueError: a name is not known.
    """
    from tfalloc import gradients

    known = gradient_names()
    chosen = parse_list(names) or []
    for name in chosen:
        if name not in known:
            raise ValueError(f"--gradient {name}: expected one of {', '.join(sorted(known))}.")
    return [getattr(gradients, known[name])() for name in chosen]


def fit(
    data: RCTData, recipe: Recipe, title: str, checkpoint: Checkpoint | None = None
) -> tuple[AllocationModel, pd.DataFrame]:
    """Trains a model; the same data, recipe and seed give the same weights.

    Args:
      data: training rows, validation share included.
      recipe: how.
      title: shown beside the progress bar.
      checkpoint: where a killed run goes on; None: it does not.

    Returns:
      The model with its best weights, and its history, one row per epoch. If the loss stopped being
      finite, those of the best epoch before, which a line on stderr says.

    Raises:
      ValueError: the data do not fit the recipe, or the loss was never finite.
    """
    keras.utils.set_random_seed(recipe.seed)
    model = AllocationModel(
        data.num_treatments,
        backbone=recipe.backbone,
        response_head=recipe.response_head,
        cost_head=recipe.cost_head,
        heads=recipe.heads,
        monotone=recipe.monotone,
        cost_amounts=recipe.cost_amounts,
        seed=recipe.seed,
    )
    model.compile(
        keras.optimizers.Adam(recipe.learning_rate, weight_decay=recipe.weight_decay or None),
        goal_weight=recipe.goal_weight,
        goal_scale=recipe.goal_scale,
        budget=recipe.budget,
        gradient=make_gradients(recipe.gradient),
        jit_compile=recipe.jit,
    )
    rows = int(len(data) * (1 - recipe.validation_share))
    batch_size = recipe.batch_size or min(10_000, max(1, rows // 10))
    progress = EpochProgress(title, steps=max(rows // batch_size, 1))
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)
            history = model.fit(
                data,
                batch_size=recipe.batch_size,
                epochs=recipe.epochs,
                validation_split=recipe.validation_share,
                warm_start=recipe.warm_start and recipe.goal_weight > 0,
                # The best epoch is kept also where nothing stops early.
                early_stopping=recipe.patience or recipe.epochs,
                monitor="val_goal" if recipe.goal_weight else "val_loss",
                callbacks=[progress, keras.callbacks.TerminateOnNaN()],
                verbose=0,
                resume_from=checkpoint,
            )
    except OtherRunError as error:
        raise ValueError(
            f"{error.directory} has a run that was not finished, and {error.difference}: pass "
            "--restart to start afresh, or what that run had to go on with it."
        ) from error
    finally:
        progress.close()
    if not progress.shown:
        console.note(f"{title}: trained already")
    for warning in said:
        console.note(f"{title}: {warning.message}")
    frame = pd.DataFrame(history.history)
    frame.insert(0, "epoch", np.arange(1, len(frame) + 1))
    # XLA and plain graphs notice at different times: by the loss, or by the weights after a step.
    broken = ~np.isfinite(frame[["loss", "val_loss"]]).all(axis=1)
    if broken.iloc[-1]:
        _check_something_good(model, broken, checkpoint)
        console.note(
            f"{title}: the loss stopped being finite in epoch {len(frame)}; the model is that of "
            f"epoch {best_epoch(frame)['epoch']:.0f}. A smaller --learning-rate or --goal-weight "
            "may do better."
        )
    return model, frame


def _check_something_good(
    model: AllocationModel, broken: pd.Series, checkpoint: Checkpoint | None
) -> None:
    if not broken.all() and all(np.isfinite(each).all() for each in model.get_weights()):
        return
    if checkpoint is not None:
        # Resuming would end in the same way, and other settings need a fresh start.
        shutil.rmtree(checkpoint.directory, ignore_errors=True)
    raise ValueError(
        "training diverged: the loss is not finite; pass a smaller --learning-rate or "
        "--goal-weight."
    )


def best_epoch(history: pd.DataFrame) -> pd.Series:
    """The epoch whose weights the model has, as `AllocationModel.fit` chooses it."""
    history = history[np.isfinite(history["val_loss"])]  # a NaN loss ends training
    if "goal" not in history:
        return history.loc[history["val_loss"].idxmin()]
    if "phase" not in history:
        return history.loc[history["val_goal"].idxmax()]
    first = history[history["phase"] == 1]
    candidates = [first["val_loss"].idxmin(), *history.index[history["phase"] == 2]]
    return history.loc[history.loc[candidates, "val_goal"].idxmax()]
