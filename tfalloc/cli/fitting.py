"""One training run, the same for `train`, its two-stage comparison and `demo`."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import numpy as np
import pandas as pd

from tfalloc.cli.parse import Budget
from tfalloc.cli.progress import EpochProgress
from tfalloc.data import RCTData
from tfalloc.models import AllocationModel


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is trained; `goal_weight=0` is the two-stage baseline."""

    budget: Budget
    goal_weight: float = 1.0
    gradient: str = "finite-difference"
    backbone: str = "paper"
    response_head: str | None = None
    cost_head: str | None = None
    batch_size: int | None = None
    epochs: int = 20
    learning_rate: float = 1e-3
    validation_share: float = 0.2
    patience: int = 5
    seed: int = 0
    jit: bool = True

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

    classes = [n for n in gradients.__all__ if n != "GoalGradient" and n[0].isupper()]
    spelled = {"FiniteDifference": "finite-difference"}
    return {spelled.get(name, name.lower()): name for name in classes}


def make_gradient(name: str) -> Any:
    """A gradient with its default settings.

    Raises:
      ValueError: the name is not known.
    """
    from tfalloc import gradients

    known = gradient_names()
    if name not in known:
        raise ValueError(f"--gradient {name}: expected one of {', '.join(sorted(known))}.")
    return getattr(gradients, known[name])()


def fit(data: RCTData, recipe: Recipe, title: str) -> tuple[AllocationModel, pd.DataFrame]:
    """Trains a model; the same data, recipe and seed give the same weights.

    Args:
      data: training rows, validation share included.
      recipe: how.
      title: shown beside the progress bar.

    Returns:
      The model with its best weights, and its history, one row per epoch.

    Raises:
      ValueError: the data do not fit the recipe, or the loss stopped being finite.
    """
    keras.utils.set_random_seed(recipe.seed)
    model = AllocationModel(
        data.num_treatments,
        backbone=recipe.backbone,
        response_head=recipe.response_head,
        cost_head=recipe.cost_head,
        seed=recipe.seed,
    )
    model.compile(
        keras.optimizers.Adam(recipe.learning_rate),
        goal_weight=recipe.goal_weight,
        budget=recipe.budget,
        gradient=make_gradient(recipe.gradient),
        jit_compile=recipe.jit,
    )
    rows = int(len(data) * (1 - recipe.validation_share))
    batch_size = recipe.batch_size or min(10_000, max(1, rows // 10))
    progress = EpochProgress(title, steps=max(rows // batch_size, 1))
    try:
        history = model.fit(
            data,
            batch_size=recipe.batch_size,
            epochs=recipe.epochs,
            validation_split=recipe.validation_share,
            early_stopping=recipe.patience or False,
            callbacks=[progress, keras.callbacks.TerminateOnNaN()],
            verbose=0,
        )
    finally:
        progress.close()
    frame = pd.DataFrame(history.history)
    frame.insert(0, "epoch", np.arange(1, len(frame) + 1))
    if not len(frame) or not np.isfinite(frame["loss"].iloc[-1]):
        raise ValueError(
            "training diverged: the loss is not finite; pass a smaller --learning-rate or "
            "--goal-weight."
        )
    return model, frame


def best_epoch(history: pd.DataFrame) -> pd.Series:
    """The epoch whose weights the model has: the least val_loss, or the last."""
    column = history.get("val_loss")
    if column is None or not column.notna().any():
        return history.iloc[-1]
    return history.loc[column.idxmin()]
