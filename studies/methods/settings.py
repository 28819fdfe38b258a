"""Hyper-parameters of the study of methods: what is known, what is searched, what was chosen.

    KNOWN     of a simulation, before any data: the network's heads say so
    SPACES    of each method: the values among which a simulation's are chosen
    RECIPES   of ours: the candidates themselves
    TUNED     what `tuning.py` chose, on trials that the study does not report

Every method has the same number of candidates. The first has the usual values, the first of each
list; the others are drawn so that each value of a list is tried about equally often. Those of our
recipe are written down one by one.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import numpy as np

RECIPE = "recipe"  # what the package's own methods have in common, beyond the network
OUR_NETWORK = "our network, goal_weight 0"

Space = dict[str, list[Any]]
Arguments = dict[str, Any]

_NETWORK: Space = {
    "backbone": [[32], [16], [64], [64, 32]],
    "learning_rate": [3e-3, 1e-3],
    "batch_size": [1_000, 4_000],
    "weight_decay": [0.1, 0.01, 0.0],
}
_DIRECT: Space = {**_NETWORK, "batch_size": [10_000, 1_000], "monitor": ["val_goal", "val_loss"]}
_BOOSTING: Space = {
    "learning_rate": [0.05, 0.1, 0.02],
    "max_iter": [100, 200],
    "max_leaf_nodes": [16, 8, 31],
    "min_samples_leaf": [1_000, 200, 50],
}

SPACES: dict[str, Space] = {
    "logistic": {"C": [1.0, 0.1, 0.01, 0.001, 10.0, 1e-4]},
    "spline logistic": {"C": [1.0, 0.1, 0.01, 0.001], "num_knots": [5, 4, 8]},
    "boosting, per arm": {"per": ["arm"], **_BOOSTING},
    "boosting, single": {"per": ["ordered", "single"], **_BOOSTING, "max_features": [0.4, 1.0]},
    "DRP": _DIRECT,
    "DFCL-IFD": {**_DIRECT, "weight": [0.1, 0.03, 1.0]},
    # What no simulation's KNOWN says: the features' form. With bins a network sees thresholds.
    "network, goal_weight 0": {**_NETWORK, "bins": [None, 16], "linear": [False, True]},
    OUR_NETWORK: {**_NETWORK, "bins": [16, None], "linear": [True]},
}

# Of our recipe, whole candidates: its parts go together. A team is of networks of our shape,
# boosting on random features, and logistic regressions. A student is the imitating network's
# backbone; None: as the others'.
RECIPES: list[Arguments] = [
    {
        "team": team,
        "student": student,
        "imitation_epochs": imitation_epochs,
        "goal_weight": goal_weight,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_size": 10_000,
    }
    for team, student, imitation_epochs, goal_weight, epochs, learning_rate in [
        ([4, 4, 0], None, 10, 0.1, 10, 3e-4),
        ([1, 4, 0], None, 10, 0.1, 10, 3e-4),
        ([0, 8, 0], [64], 10, 0.03, 5, 3e-4),
        ([3, 0, 1], [64], 10, 0.1, 10, 3e-4),
        ([3, 0, 0], None, 10, 0.03, 5, 3e-4),
        # Where a regression is the truth, all that follows can only lose some of it.
        ([0, 0, 1], [64], 40, 0.03, 2, 1e-4),
    ]
]

# More cannot hurt where arms are ordered; 30 doses form a curve.
KNOWN: dict[str, Arguments] = {
    "criteo_like": {"monotone": True},
    "produce_coin": {"heads": "spline"},
    "criteo_outcomes": {"monotone": True},
    "well_specified": {},
    "trial": {},  # real ones, of which nothing is known
}

# Two arms leave a spline over arms nothing to smooth. DRP wants arms in the order of their mean
# cost in the trial, which 30 neighbours are not in by chance.
WITHOUT: dict[str, tuple[str, ...]] = {
    "criteo_like": ("spline logistic",),
    "produce_coin": ("DRP",),
}


def entries(simulation: str) -> list[str]:
    """Names of `SPACES` that go with a simulation, then the recipe."""
    return [name for name in (*SPACES, RECIPE) if name not in WITHOUT.get(simulation, ())]


def candidates(method: str, count: int) -> list[Arguments]:
    """Arguments to choose among, the usual ones first; fewer than `count` if there are no more.

    Example:
      >>> candidates("spline logistic", 3)[0]
      {'C': 1.0, 'num_knots': 5}
      >>> len(candidates("spline logistic", 100)), len(candidates("logistic", 100))
      (12, 6)
    """
    if method == RECIPE:
        return RECIPES[:count]
    space = SPACES[method]
    most = int(np.prod([len(values) for values in space.values()]))
    rng = np.random.default_rng([ord(letter) for letter in method])
    found = [{name: values[0] for name, values in space.items()}]
    while len(found) < min(count, most):
        # A Latin square: each round uses every value of a list about equally often.
        rows = count - 1
        columns = {name: _balanced(len(values), rows, rng) for name, values in space.items()}
        for row in range(rows):
            drawn = {name: space[name][column[row]] for name, column in columns.items()}
            if drawn not in found and len(found) < min(count, most):
                found.append(drawn)
    return found


def _balanced(values: int, count: int, rng: np.random.Generator) -> list[int]:
    """Indices of values, each as often as the others, the first one last: it has had its turn."""
    order = np.resize(np.roll(np.arange(values), -1), count)
    return [int(x) for x in rng.permutation(order)]


def usual(simulation: str) -> dict[str, Arguments]:
    """Arguments of all methods that go with a simulation, before anything is chosen."""
    return {name: candidates(name, 1)[0] for name in entries(simulation)}


def _tuned() -> dict[str, dict[str, Arguments]]:
    text = (resources.files("studies.methods") / "tuned.json").read_text("utf-8")
    chosen = json.loads(text)
    return {name: {**usual(name), **chosen.get(name, {})} for name in KNOWN}


# {simulation: {method or RECIPE: {argument: value}}}
TUNED = _tuned()
