"""A simulated population in which every arm's true outcome is known, and trials drawn from it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class World(NamedTuple):
    """[N, K] each: true response and cost, and two fixed models' imperfect predictions."""

    response: np.ndarray
    cost: np.ndarray
    good: tuple[np.ndarray, np.ndarray]
    bad: tuple[np.ndarray, np.ndarray]


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def make_world(seed=0, size=50_000):
    """Two arms: the second costs more and is worth more, by amounts that differ between users."""
    rng = np.random.default_rng(seed)
    a, b, c = rng.normal(size=(3, size))
    cost = np.stack([sigmoid(-1.5 + a), sigmoid(-0.3 + a + 0.3 * b)], axis=1)
    gain = 0.6 * sigmoid(c - 0.5)
    response = np.stack([0.1 * sigmoid(a), 0.1 * sigmoid(a) + gain], axis=1)
    pred_cost = np.stack([cost[:, 0], cost[:, 0] + np.abs(cost[:, 1] - cost[:, 0]) + 0.01], axis=1)
    models = []
    for noise in (0.3, 0.9):
        factor = np.exp(noise * rng.normal(size=size))
        models.append((np.stack([response[:, 0], response[:, 0] + gain * factor], 1), pred_cost))
    return World(response, cost, *models)


def draw(world, rng, rows, treated=0.85):
    """An 85/15 trial of users drawn with replacement, so that the world is the population.

    Returns the users drawn and the trial's columns.
    """
    user = rng.integers(0, len(world.cost), rows)
    arm = (rng.random(rows) < treated).astype(int)
    return user, {
        "treatment": arm,
        "response": (rng.random(rows) < world.response[user, arm]).astype(float),
        "cost": (rng.random(rows) < world.cost[user, arm]).astype(float),
        "propensity": np.where(arm == 1, treated, 1.0 - treated),
    }


def random_rows(rng, rows, arms):
    """Predictions and a small unstructured trial of several arms, without ties."""
    value, price = rng.random((rows, arms)), rng.random((rows, arms))
    share = rng.dirichlet(np.full(arms, 5.0))
    arm = np.concatenate([np.arange(arms), rng.choice(arms, rows - arms, p=share)])
    chosen = np.arange(rows), arm
    return (
        value,
        price,
        {
            "treatment": arm,
            "response": (rng.random(rows) < value[chosen]).astype(float),
            "cost": price[chosen] * rng.choice([0.5, 1.5], rows),
            "propensity": share[arm],
        },
    )
