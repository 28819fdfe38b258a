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
_PER_ARM = {"learning_rate": 0.1, "max_iter": 80, "max_leaf_nodes": 8, "min_samples_leaf": 100}
_SINGLE = {"learning_rate": 0.05, "max_iter": 200, "max_leaf_nodes": 16, "min_samples_leaf": 200}


_COMMON: dict[str, dict[str, Any]] = {
    "logistic": {"C": 1.0},
    "spline logistic": {"C": 1.0, "num_knots": 5},
    "boosting, per arm": _PER_ARM,
    "boosting, single": _SINGLE,
    "DRP": {"backbone": (16,), "learning_rate": 3e-3, "batch_size": 10_000},
    "DFCL-IFD": {"backbone": (32,), "learning_rate": 3e-3, "batch_size": 10_000, "weight": 1.0},
    "network, goal_weight 0": {"backbone": (32,), "learning_rate": 3e-3, "batch_size": 1_000},
}


def _but(name: str) -> dict[str, dict[str, Any]]:
    return {method: given for method, given in _COMMON.items() if method != name}


# {simulation: {method: {argument: value}}}; a control that is not there does not go with the
# simulation. Two arms leave a spline over arms nothing to smooth. DRP wants arms in the order of
# their mean cost in the trial, which 30 neighbours are not in by chance.
TUNED: dict[str, dict[str, dict[str, Any]]] = {
    "criteo_like": {**_but("spline logistic")},
    "produce_coin": {**_but("DRP")},
    "criteo_outcomes": {**_COMMON},
    "well_specified": {**_COMMON},
}


def arguments(task: Task, method: str) -> dict[str, Any]:
    """The hyper-parameters of a method on the task's simulation; none are kept: {}."""
    return dict(TUNED[task.simulation].get(method, {}))


def train(
    task: Task,
    model: Any,
    *,
    learning_rate: float,
    batch_size: int,
    objective: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Compiles a Keras model with Adam and fits it, stopped by a tenth of the trial's rows.

    Args:
      task: whose trial is learned from; its settings say how long.
      model: `AllocationModel` or a baseline like it, unfitted.
      learning_rate: of Adam.
      batch_size: rows a step; at most a tenth of the rows.
      objective: further arguments of `compile`.
      **options: of `fit`: monitor, warm_start and the like.

    Returns:
      The model.
    """
    optimizer = keras.optimizers.Adam(learning_rate)
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


def _boosting(per: str, method: str) -> Method:
    def fit(task: Task, seed: int) -> Any:
        # scikit-learn's own choice is to stop early with many rows, by a loss that hides uplifts.
        options = {"early_stopping": False, "seed": seed, **arguments(task, method)}
        options["max_iter"] = min(options["max_iter"], task.settings.trees)
        model = baselines.gradient_boosting(per=per, cost_amounts=task.cost_amounts, **options)
        return model.fit(task.trial)

    return fit


def _drp(task: Task, seed: int) -> Any:
    given = arguments(task, "DRP")
    model = baselines.DRP(task.num_treatments, given.pop("backbone"), seed=seed)
    return train(task, model, monitor="val_loss", **given)


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
}
