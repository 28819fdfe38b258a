"""The controls of the study of methods: two stages of several kinds, and direct methods.

Each is a function (task, seed) -> a fitted model. Its hyper-parameters are those of the task
(`settings.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from studies.methods.settings import KNOWN, OUR_NETWORK
from studies.methods.task import Task
from tfalloc import baselines
from tfalloc.models import AllocationModel

Method = Callable[[Task, int], Any]

PATIENCE = 5  # epochs without a better validation loss


def arguments(task: Task, method: str) -> dict[str, Any]:
    """The hyper-parameters of a method on the task's simulation."""
    return dict(task.tuned[method])


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
      weight_decay: decoupled, of Adam; 0: none.
      objective: further arguments of `compile`.
      **options: of `fit`: monitor, warm_start and the like.

    Returns:
      The model.
    """
    optimizer = keras.optimizers.Adam(learning_rate, weight_decay=weight_decay or None)
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


def boosting(task: Task, options: dict[str, Any]) -> Any:
    """Gradient boosting, fitted; options as of `baselines.gradient_boosting`."""
    # scikit-learn's own choice is to stop early with many rows, by a loss that hides uplifts.
    options = {"early_stopping": False, **options}
    options["max_iter"] = min(options["max_iter"], task.settings.trees)
    model = baselines.gradient_boosting(cost_amounts=task.cost_amounts, **options)
    return model.fit(task.trial)


def _boosting(method: str) -> Method:
    return lambda task, seed: boosting(task, {"seed": seed, **arguments(task, method)})


def _network_of(task: Task, seed: int, given: dict[str, Any], **known: Any) -> AllocationModel:
    """A network by its prediction losses, with the arguments of a space."""
    model = AllocationModel(task.num_treatments, seed=seed, **shape(given), **known)
    return train(task, model, monitor="val_loss", **given)


def shape(given: dict[str, Any]) -> dict[str, Any]:
    """Takes out of the arguments of a network those that make it."""
    return {name: given.pop(name) for name in ("backbone", "bins", "linear")}


def known(task: Task) -> dict[str, Any]:
    """Arguments of `AllocationModel` that say what is known of the simulation."""
    return {**KNOWN[task.simulation], **on_response(task)}


def our_network(task: Task, seed: int, index: int = 0) -> AllocationModel:
    """A network of our shape by its prediction losses; other indices, other weights and rows."""
    given, own = arguments(task, OUR_NETWORK), 100 * seed + index

    def fit() -> AllocationModel:
        return _network_of(task, own, dict(given), **known(task))

    return task.shared(f"network {own} {given}", fit)


def _drp(task: Task, seed: int) -> Any:
    given = arguments(task, "DRP")
    model = baselines.DRP(task.num_treatments, given.pop("backbone"), seed=seed)
    return train(task, model, objective={"budget": task.budgets}, **given)


def _dfcl(task: Task, seed: int) -> Any:
    given = arguments(task, "DFCL-IFD")
    made = {name: given.pop(name) for name in ("backbone", "weight")}
    options = {"loss": "ifd", "seed": seed, **on_response(task)}
    model = baselines.DFCL(task.num_treatments, **made, **options)
    return train(task, model, objective={"budget": task.budgets}, **given)


def _network(task: Task, seed: int) -> Any:
    given = arguments(task, "network, goal_weight 0")
    return _network_of(task, seed, given, **on_response(task))


CONTROLS: dict[str, Method] = {
    "logistic": _logistic,
    "spline logistic": _spline,
    "boosting, per arm": _boosting("boosting, per arm"),
    "boosting, single": _boosting("boosting, single"),
    "DRP": _drp,
    "DFCL-IFD": _dfcl,
    "network, goal_weight 0": _network,
    OUR_NETWORK: our_network,
}
