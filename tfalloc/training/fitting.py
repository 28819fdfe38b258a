"""`fit`: one model by one recipe, the same for a run, its two-stage comparison and the demo."""

from __future__ import annotations

import io
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from tfalloc import _files, gradients
from tfalloc.data import RCTData
from tfalloc.models import AllocationModel
from tfalloc.models.resume import OtherRunError
from tfalloc.training.recipe import Recipe, RecipeError


def fit(
    data: RCTData,
    recipe: Recipe,
    *,
    keep: Path | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    say: Callable[[str], None] | None = None,
) -> tuple[AllocationModel, pd.DataFrame]:
    """Trains a model; the same data, recipe and seed give the same weights.

    Args:
      data: training rows, validation share included.
      recipe: how.
      keep: directory from which a killed run goes on; None: it does not.
      callbacks: of Keras, such as a progress bar.
      say: called with a line about anything unusual; None: a Python warning.

    Returns:
      The model with its best weights, and its history, one row per epoch. If the loss stopped being
      finite, those of the best epoch before, which a line says.

    Raises:
      ValueError: the data do not fit the recipe, or the loss was never finite.

    Example:
      >>> import tfalloc
      >>> data = tfalloc.datasets.five_arms(2_000, seed=0).data
      >>> recipe = tfalloc.training.Recipe(budget=2.0, backbone="small", epochs=1, goal_weight=0.0)
      >>> model, history = tfalloc.training.fit(data, recipe)
      >>> len(history)
      1
    """
    say = say or warnings.warn
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
                callbacks=[*callbacks, keras.callbacks.TerminateOnNaN()],
                verbose=0,
                resume_from=keep,
            )
    except OtherRunError as error:
        raise ValueError(
            f"{error.directory} has a run that was not finished, and {error.difference}: pass "
            "--restart to start afresh, or what that run had to go on with it."
        ) from error
    for warning in said:
        say(str(warning.message))
    frame = pd.DataFrame(history.history)
    frame.insert(0, "epoch", np.arange(1, len(frame) + 1))
    # XLA and plain graphs notice at different times: by the loss, or by the weights after a step.
    broken = ~np.isfinite(frame[["loss", "val_loss"]]).all(axis=1)
    if broken.iloc[-1]:
        _check_something_good(model, broken, keep)
        say(
            f"the loss stopped being finite in epoch {len(frame)}; the model is that of epoch "
            f"{best_epoch(frame)['epoch']:.0f}. A smaller --learning-rate or --goal-weight may do "
            "better."
        )
    return model, frame


class TwoStageWeights(keras.callbacks.Callback):
    """Keeps the weights that a warm start hands from its two-stage phase on to the allocation's.

    They are those at the beginning of the first epoch of phase 2, and on disk before it, so that a
    run that goes on in another process has them too.

    Args:
      file: where.
    """

    def __init__(self, file: Path):
        super().__init__()
        self.file = file

    def get_state(self) -> dict[str, Any]:
        """Nothing: all is in the file."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing."""

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Keeps the weights until an epoch of phase 2 is over."""
        if 2 in self.model.history.history.get("phase", []):
            return
        content = io.BytesIO()
        np.savez(content, *self.model.get_weights())
        _files.write_file(self.file, content.getvalue())

    def weights(self) -> list[Any]:
        """What it kept."""
        with np.load(self.file) as kept:
            return [kept[name] for name in kept.files]


def _check_something_good(model: AllocationModel, broken: pd.Series, keep: Path | None) -> None:
    if not broken.all() and all(np.isfinite(each).all() for each in model.get_weights()):
        return
    if keep is not None:
        # Resuming would end in the same way, and other settings need a fresh start.
        shutil.rmtree(keep, ignore_errors=True)
    raise ValueError(
        "training diverged: the loss is not finite; pass a smaller --learning-rate or "
        "--goal-weight."
    )


def best_epoch(history: pd.DataFrame) -> pd.Series:
    """The epoch whose weights the model has, as `AllocationModel.fit` chooses it.

    Args:
      history: as `fit` returns it.
    """
    history = history[np.isfinite(history["val_loss"])]  # a NaN loss ends training
    if "goal" not in history:
        return history.loc[history["val_loss"].idxmin()]
    if "phase" not in history:
        return history.loc[history["val_goal"].idxmax()]
    first = history[history["phase"] == 1]
    candidates = [first["val_loss"].idxmin(), *history.index[history["phase"] == 2]]
    return history.loc[history.loc[candidates, "val_goal"].idxmax()]


def gradient_names() -> dict[str, str]:
    """Name of every gradient in a recipe -> class name: "finite-difference", …"""
    classes = [
        name for name in gradients.__all__ if name[0].isupper() and not name.endswith("Gradient")
    ]
    spelled = {"FiniteDifference": "finite-difference"}
    return {spelled.get(name, name.lower()): name for name in classes}


def make_gradients(names: str) -> list[Any]:
    """Gradients with their default settings, "integrated,finite-difference".

    Args:
      names: with commas between.

    Raises:
      RecipeError: a name is not known.
    """
    known = gradient_names()
    chosen = [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in known:
            raise RecipeError("gradient", name, f"one of {', '.join(sorted(known))}")
    return [getattr(gradients, known[name])() for name in chosen]
