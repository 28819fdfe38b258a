"""What is searched, and how a flat dict of settings becomes a model and its arguments of `fit`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import keras

from tfalloc.gradients import FiniteDifference, Integrated, Smoothed
from tfalloc.models import AllocationModel

OPTIMIZER = ("learning_rate", "weight_decay")
MODEL = (
    "backbone",
    "heads",
    "response_head",
    "cost_head",
    "monotone",
    "cost_amounts",
    "bins",
    "linear",
    "preprocessor",
    "seed",
)
COMPILE = ("goal_weight", "goal_scale", "gradient", "response_loss", "cost_loss", "jit_compile")
THROUGH_ALLOCATION = ("warm_start", "doubly_robust")  # arguments of fit, not for two-stage training
FIT = (
    "batch_size",
    "epochs",
    "early_stopping",
    "monitor",
    "validation_split",
    *THROUGH_ALLOCATION,
)
KNOWN = (*OPTIMIZER, *MODEL, *COMPILE, *FIT)


class Prepared(NamedTuple):
    """A compiled model, and what `fit` is to be called with."""

    model: AllocationModel
    fit: dict[str, Any]


def default_space(trial: Any, fixed: Collection[str] = ()) -> dict[str, Any]:
    """Settings of one trial: whether and how to train through the allocation, heads, network.

    Two-stage models are among them with all other settings free, so that the comparison is with
    two-stage training tuned as well. Network widths halve from layer to layer and reach from
    backbone="small" (width 16, depth 1) to "paper" (512, 4), with and without what
    backbone="encoded" has beside its 16 units, bins and a linear path.

    Args:
      trial: an `optuna.Trial`.
      fixed: names of settings that are not to be searched; `study` passes those given to it.

    Returns:
      Settings as `study` takes them.
    """
    settings: dict[str, Any] = {}

    def search(name: str, suggest: Callable[[], Any]) -> None:
        if name not in fixed:
            settings[name] = suggest()

    def widths() -> tuple[int, ...]:
        width = trial.suggest_int("width", 16, 512, log=True)
        depth = trial.suggest_int("depth", 1, 4)
        return tuple(max(8, width // 2**layer) for layer in range(depth))

    def gradient() -> Any:
        kind = trial.suggest_categorical(
            "gradient", ["finite_difference", "integrated", "smoothed"]
        )
        if kind == "finite_difference":
            return FiniteDifference()
        if kind == "integrated":
            return Integrated(weight="budget")
        return Smoothed(temperature=trial.suggest_float("temperature", 3e-3, 0.3, log=True))

    search("learning_rate", lambda: trial.suggest_float("learning_rate", 3e-4, 1e-2, log=True))
    search("weight_decay", lambda: trial.suggest_float("weight_decay", 1e-6, 0.3, log=True))
    search("backbone", widths)
    if "backbone" not in fixed:  # a fixed one comes with its own
        search("bins", lambda: trial.suggest_categorical("bins", [16, None]))
        search("linear", lambda: trial.suggest_categorical("linear", [True, False]))
    search("heads", lambda: trial.suggest_categorical("heads", ["independent", "marginal"]))
    if settings.get("heads") == "marginal":
        search("monotone", lambda: trial.suggest_categorical("monotone", [False, True]))
    settings["goal_weight"] = 0.0
    if trial.suggest_categorical("through_allocation", [True, False]):
        settings["goal_weight"] = trial.suggest_float("goal_weight", 0.03, 10.0, log=True)
        search("gradient", gradient)
    return settings


def check_fixed(settings: Mapping[str, Any]) -> None:
    """Refuses fixed settings that nothing takes, and a goal_weight that the control has not.

    Raises:
      ValueError: with the first unknown name and the known ones.
    """
    _check_names(settings)
    if "goal_weight" in settings:
        raise ValueError(
            f"goal_weight={settings['goal_weight']!r} is fixed, but the control has 0; search it, "
            "in space=, or name it in first=."
        )


def _check_names(settings: Mapping[str, Any]) -> None:
    unknown = [name for name in settings if name not in KNOWN]
    if unknown:
        raise ValueError(f"setting {unknown[0]!r} is not known; expected some of {KNOWN}.")


def merge(searched: Mapping[str, Any], fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a trial from those searched and those the same for all.

    Raises:
      ValueError: if one is in both, is not known, or goal_weight is not a number.
    """
    both = [name for name in searched if name in fixed]
    if both:
        raise ValueError(
            f"{both[0]!r} is fixed and searched at once; leave it out of the arguments of study(), "
            "or pass a space without it."
        )
    settings = {**fixed, **searched}
    _check_names(settings)
    if callable(settings.get("goal_weight")):
        raise ValueError(
            f"goal_weight={settings['goal_weight']!r}: expected a number; a schedule cannot be "
            "compared with the others."
        )
    return settings


def prepare(
    settings: Mapping[str, Any],
    num_treatments: int,
    budget: Any,
    validation_budget: float,
    seed: int,
) -> Prepared:
    """A compiled model.

    Args:
      settings: of one trial, checked.
      num_treatments: K.
      budget: of training, as `AllocationModel.compile`.
      validation_budget: cost per user at which trials are compared.
      seed: seeds the model, unless the settings have their own.
    """
    model, compiling, fit = (
        {name: settings[name] for name in names if name in settings}
        for names in (MODEL, COMPILE, FIT)
    )
    if isinstance(model.get("backbone"), keras.Model):
        # Every trial starts from the weights that were passed, not from those of the one before.
        given = model["backbone"]
        model["backbone"] = keras.models.clone_model(given)
        model["backbone"].set_weights(given.get_weights())
    made = AllocationModel(num_treatments, **{"seed": seed, **model})
    made.compile(
        keras.optimizers.Adam(
            settings.get("learning_rate", 1e-3), weight_decay=settings.get("weight_decay")
        ),
        budget=budget,
        validation_budgets=validation_budget,
        **compiling,
    )
    if not settings.get("goal_weight"):
        fit = {name: value for name, value in fit.items() if name not in THROUGH_ALLOCATION}
    return Prepared(made, fit)
