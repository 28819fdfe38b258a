"""The controls of the study of methods: two stages of several kinds, and direct methods.

Each is a function (task, seed) -> a fitted model. Its hyper-parameters are those of `TUNED` for
the simulation; they are to be chosen on seeds that the study does not report.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from tfalloc import baselines
from tfalloc.models import AllocationModel
from tfalloc.reproduce.methods_task import Task

Method = Callable[[Task, int], Any]

PATIENCE = 5  # epochs without a better validation loss
RECIPE = "recipe"  # what the package's own methods have in common
OUR_NETWORK = "our network, goal_weight 0"
_PER_ARM = {"learning_rate": 0.1, "max_iter": 80, "max_leaf_nodes": 8, "min_samples_leaf": 100}
_SINGLE = {"learning_rate": 0.05, "max_iter": 200, "max_leaf_nodes": 16, "min_samples_leaf": 200}


_COMMON: dict[str, dict[str, Any]] = {
    "logistic": {"C": 1.0},
    "spline logistic": {"C": 0.01, "num_knots": 5},
    "boosting, per arm": _PER_ARM,
    "boosting, single": _SINGLE,
    "DRP": {
        "backbone": (32,),
        "learning_rate": 3e-3,
        "batch_size": 10_000,
        "monitor": "val_goal",
    },
    "DFCL-IFD": {
        "backbone": (32,),
        "learning_rate": 3e-3,
        "batch_size": 1_000,
        "weight": 0.03,
        "monitor": "val_goal",
    },
    "network, goal_weight 0": {"backbone": (32,), "learning_rate": 3e-3, "batch_size": 1_000},
}


# Of the package's own methods. The network's shape says what is known of the simulation: arms are
# ordered and more cannot hurt; 30 doses form a curve.
_TABLE: dict[str, Any] = {
    "shape": {"backbone": (64,), "bins": 16, "linear": True, "monotone": True},
    "student": {},
    "weight_decay": 0.1,
    "networks": 3,
    "boostings": 2,
    "boosting": {**_SINGLE, "max_features": 0.4},
    "logistics": 0,
    "imitation_epochs": 8,
    "goal_weight": 0.3,
    "epochs": 5,
    "learning_rate": 3e-4,
    "batch_size": 10_000,
}
_PLAIN: dict[str, Any] = {"backbone": (32,), "bins": 16, "linear": True}
_COINS: dict[str, Any] = {
    **_TABLE,
    "shape": {"backbone": (16,), "heads": "spline", "linear": True},
    "student": {"backbone": (32,)},
    "weight_decay": 0.01,
    "networks": 4,
    "boostings": 0,
    "goal_weight": 1.0,
}
_LINEAR: dict[str, Any] = {
    **_TABLE,
    "shape": {"backbone": (32,), "linear": True},
    "imitation_epochs": 20,
    "networks": 0,
    "boostings": 0,
    "logistics": 1,
}


def _but(name: str) -> dict[str, dict[str, Any]]:
    return {method: given for method, given in _COMMON.items() if method != name}


# {simulation: {method: {argument: value}}}; a control that is not there does not go with the
# simulation. Two arms leave a spline over arms nothing to smooth. DRP wants arms in the order of
# their mean cost in the trial, which 30 neighbours are not in by chance.
TUNED: dict[str, dict[str, dict[str, Any]]] = {
    "criteo_like": {
        **_but("spline logistic"),
        "DFCL-IFD": {**_COMMON["DFCL-IFD"], "weight": 0.1, "batch_size": 10_000},
        RECIPE: _TABLE,
    },
    "produce_coin": {**_but("DRP"), RECIPE: _COINS},
    "criteo_outcomes": {**_COMMON, RECIPE: _TABLE},
    "well_specified": {**_COMMON, RECIPE: _LINEAR},
    # Real trials of a few arms, of which nothing is known.
    "trial": {**_COMMON, RECIPE: {**_TABLE, "shape": _PLAIN}},
}


def arguments(task: Task, method: str) -> dict[str, Any]:
    """The hyper-parameters of a method on the task's simulation."""
    return dict(TUNED[task.simulation][method])


def train(
    task: Task,
    model: Any,
    *,
    learning_rate: float,
    batch_size: int,
    weight_decay: float | None = None,
    objective: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Compiles a Keras model with Adam and fits it, stopped by a tenth of the trial's rows.

    Args:
      task: whose trial is learned from; its settings say how long.
      model: `AllocationModel` or a baseline like it, unfitted.
      learning_rate: of Adam.
      batch_size: rows a step; at most a tenth of the rows.
      weight_decay: decoupled, of Adam.
      objective: further arguments of `compile`.
      **options: of `fit`: monitor, warm_start and the like.

    Returns:
      The model.
    """
    optimizer = keras.optimizers.Adam(learning_rate, weight_decay=weight_decay)
    model.compile(optimizer, jit_compile=task.settings.jit, **(objective or {}))
    fixed = {"validation_split": 0.1, "early_stopping": PATIENCE, "verbose": 0}
    size = min(batch_size, len(task.trial) // 10)
    model.fit(task.trial, batch_size=size, **{"epochs": task.settings.epochs, **fixed, **options})
    return model


def on_response(task: Task) -> dict[str, Any]:
    """Arguments of `AllocationModel` for the task's costs: known if only responses cost."""
    if task.cost_amounts is None:
        return {}
    return {"cost_head": "on_response", "cost_amounts": task.cost_amounts}


def _logistic(task: Task, seed: int) -> Any:
    model = baselines.per_arm_logistic(
        cost_amounts=task.cost_amounts, **arguments(task, "logistic")
    )
    return model.fit(task.trial)


def _spline(task: Task, seed: int) -> Any:
    model = baselines.spline_logistic(
        cost_amounts=task.cost_amounts, **arguments(task, "spline logistic")
    )
    return model.fit(task.trial)


def boosting(task: Task, per: str, options: dict[str, Any]) -> Any:
    """Gradient boosting, fitted; options as of `baselines.gradient_boosting`."""
    # scikit-learn's own choice is to stop early with many rows, by a loss that hides uplifts.
    options = {"early_stopping": False, **options}
    options["max_iter"] = min(options["max_iter"], task.settings.trees)
    model = baselines.gradient_boosting(per=per, cost_amounts=task.cost_amounts, **options)
    return model.fit(task.trial)


def _boosting(per: str, method: str) -> Method:
    return lambda task, seed: boosting(task, per, {"seed": seed, **arguments(task, method)})


def our_network(task: Task, seed: int, index: int = 0) -> AllocationModel:
    """A network of our shape by its prediction losses; other indices, other weights and rows."""

    def fit() -> AllocationModel:
        given = arguments(task, RECIPE)
        shape = {**given["shape"], "seed": 100 * seed + index, **on_response(task)}
        model = AllocationModel(task.num_treatments, **shape)
        options = {"weight_decay": given["weight_decay"], "monitor": "val_loss"}
        return train(task, model, learning_rate=3e-3, batch_size=1_000, **options)

    return task.shared(f"network {seed} {index}", fit)


def _drp(task: Task, seed: int) -> Any:
    given = arguments(task, "DRP")
    model = baselines.DRP(task.num_treatments, given.pop("backbone"), seed=seed)
    return train(task, model, objective={"budget": task.budgets}, **given)


def _dfcl(task: Task, seed: int) -> Any:
    given = arguments(task, "DFCL-IFD")
    shape = {name: given.pop(name) for name in ("backbone", "weight")}
    options = {"loss": "ifd", "seed": seed, **on_response(task)}
    model = baselines.DFCL(task.num_treatments, **shape, **options)
    return train(task, model, objective={"budget": task.budgets}, **given)


def _network(task: Task, seed: int) -> Any:
    given = arguments(task, "network, goal_weight 0")
    shape = {"backbone": given.pop("backbone"), "seed": seed, **on_response(task)}
    model = AllocationModel(task.num_treatments, **shape)
    return train(task, model, monitor="val_loss", **given)


CONTROLS: dict[str, Method] = {
    "logistic": _logistic,
    "spline logistic": _spline,
    "boosting, per arm": _boosting("arm", "boosting, per arm"),
    "boosting, single": _boosting("single", "boosting, single"),
    "DRP": _drp,
    "DFCL-IFD": _dfcl,
    "network, goal_weight 0": _network,
    OUR_NETWORK: our_network,
}
