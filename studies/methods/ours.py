"""The package's own methods of the study: what each step of the recipe adds.

    averaged                   the mean of a few learners: networks of our shape with different
                               seeds, and where trees do well, boosting on random features
    imitated                   one network that predicts what they predict on average
    imitated, two-stage        that network, trained on for a few epochs by its prediction losses
    imitated, smoothed         the same epochs, through the allocation: `gradients.Smoothed`
    imitated, differences      the same epochs, through the allocation: `FiniteDifference`

The last three start from the same weights and differ in nothing but the objective, so that their
differences are what training through the allocation is worth. Nothing is chosen by validation rows
after imitation: the learners that were averaged have seen them. The network alone, without
averaging and imitation, is the control "our network, goal_weight 0".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from studies.methods.controls import (
    CONTROLS,
    Method,
    arguments,
    boosting,
    known,
    our_network,
    shape,
    train,
)
from studies.methods.settings import OUR_NETWORK, RECIPE
from studies.methods.task import Task
from tfalloc import baselines, gradients
from tfalloc.baselines.scores import predictions
from tfalloc.models import AllocationModel

IMITATION = 50  # index of the imitating network's seed, beyond those of the members
RANDOM_FEATURES = 0.4  # share of the features that a split of averaged trees chooses from


def _averaged(task: Task, seed: int) -> Any:
    networks, boostings, regressions = arguments(task, RECIPE)["team"]

    def trees(index: int) -> Any:
        options = {**arguments(task, "boosting, single"), "max_features": RANDOM_FEATURES}
        options["seed"] = 100 * seed + index
        return task.shared(f"trees {options}", lambda: boosting(task, options))

    def regression() -> Any:
        name = "logistic" if task.num_treatments == 2 else "spline logistic"
        return task.shared(f"{name} {seed}", lambda: CONTROLS[name](task, seed))

    members = [our_network(task, seed, index) for index in range(networks)]
    members += [trees(index) for index in range(boostings)]
    members += [regression() for _ in range(regressions)]
    return baselines.Average(members)  # of learners that are fitted already


def _imitated(task: Task, seed: int) -> Any:
    given = {x: arguments(task, RECIPE)[x] for x in ("team", "student", "imitation_epochs")}
    return task.shared(f"imitated {seed} {given}", lambda: _imitate(task, seed, **given))


def _imitate(
    task: Task, seed: int, team: list[int], student: Any, imitation_epochs: int
) -> AllocationModel:
    teacher = task.shared(f"averaged {seed} {team}", lambda: _averaged(task, seed))
    made = shape(arguments(task, OUR_NETWORK))
    made["backbone"] = student or made["backbone"]
    own = 100 * seed + IMITATION
    model = AllocationModel(task.num_treatments, seed=own, **made, **known(task))
    model.compile(jit_compile=task.settings.jit)
    epochs = min(imitation_epochs, task.settings.epochs)
    model.imitate(task.trial, teacher.predict(task.trial), epochs=epochs, verbose=0)
    return model


def _continued(task: Task, seed: int, gradient: Any) -> AllocationModel:
    """The imitating network after some more epochs; without a gradient they are two-stage."""
    given, start = arguments(task, RECIPE), _imitated(task, seed)
    model = AllocationModel.from_config(start.get_config())
    model.set_weights(start.get_weights())
    objective: dict[str, Any] = {}
    if gradient is not None:
        made = gradient(_usual_step(start, task))
        weight = given["goal_weight"]
        objective = {"goal_weight": weight, "budget": task.budgets, "gradient": made}
    fixed = {"early_stopping": False, "validation_split": 0.0}
    fixed["epochs"] = min(given["epochs"], task.settings.epochs)
    rate, size = given["learning_rate"], given["batch_size"]
    return train(task, model, learning_rate=rate, batch_size=size, objective=objective, **fixed)


def _usual_step(model: AllocationModel, task: Task) -> float:
    """Mean change of predicted response between neighbouring arms: the scale of decisions."""
    response = predictions(model, task.trial)["response"]
    return float(np.abs(np.diff(response, axis=1)).mean())


def _two_stage(task: Task, seed: int) -> Any:
    return _continued(task, seed, None)


def _smoothed(task: Task, seed: int) -> Any:
    return _continued(task, seed, lambda step: gradients.Smoothed(temperature=step, mu="alpha"))


def _differences(task: Task, seed: int) -> Any:
    return _continued(task, seed, lambda step: gradients.FiniteDifference())


OURS: dict[str, Method] = {
    "averaged": _averaged,
    "imitated": _imitated,
    "imitated, two-stage": _two_stage,
    "imitated, smoothed": _smoothed,
    "imitated, differences": _differences,
}

# They start from the same weights, and differ by the objective alone.
LAST_STEPS = ("imitated, two-stage", "imitated, smoothed", "imitated, differences")
