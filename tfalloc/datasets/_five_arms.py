"""A small trial of five arms with features, for examples and tests.

Arm j costs j for certain, all arms are equally likely. With eight independent standard normals u,

    a = sigmoid(-2.6 + .5 u0 + .4 u1 u2)                       response without incentive
    g = G (1 - a) sigmoid(1.2 u3 + .8 u4 - .8 1{u5 > 0})       most that incentives add
    r = exp(-.6 + .7 u6 + .4 u0)                               how soon they saturate
    v_j = a + g (1 - exp(-r j)) / (1 - exp(-4 r))              j = 0 .. 4

v increases in j and is concave; users differ in level, size and shape; u7 is noise. G makes the
exact allocation of the population at a budget of 2.0 per user worth .2123.
"""

from __future__ import annotations

import numpy as np

from tfalloc.datasets._simulation import (
    Draw,
    Simulation,
    check_rows,
    generator,
    received,
    sigmoid,
)

NUM_TREATMENTS = 5
_G = 0.38427


def five_arms(num_rows: int = 10_000, seed: int = 0) -> Simulation:
    """Simulates the five-arm trial whose equations head this module.

    Args:
      num_rows: N, at least 50 so that every arm has rows.
      seed: the same seed gives the same data.

    Returns:
      A `Simulation` with features u0 … u7, cost j for arm j, and binary response.

    Raises:
      ValueError: `num_rows` is too small.

    Example:
      >>> simulation = five_arms(num_rows=1000, seed=1)
      >>> simulation.true_response.shape, simulation.true_cost[0].tolist()
      ((1000, 5), [0.0, 1.0, 2.0, 3.0, 4.0])
    """
    check_rows(num_rows, 50)
    rng = generator("synthetic", seed)  # its name once; another one would give other rows
    u = rng.standard_normal((num_rows, 8), "f4")
    response = true_response(u)
    cost = np.tile(np.arange(NUM_TREATMENTS, dtype="f4"), (num_rows, 1))
    treatment = rng.integers(0, NUM_TREATMENTS, num_rows, "i4")
    outcome = rng.random(num_rows) < received(response, treatment)
    drawn = Draw(
        {f"u{j}": u[:, j] for j in range(8)},
        treatment,
        outcome.astype("f4"),
        treatment.astype("f4"),
        response.astype("f4"),
        cost,
    )
    names = [str(j) for j in range(NUM_TREATMENTS)]
    return drawn.simulation(names, np.full(NUM_TREATMENTS, 1 / NUM_TREATMENTS))


def true_response(u: np.ndarray) -> np.ndarray:
    """Returns v_gt [N, 5] for features u [N, 8]."""
    a = sigmoid(-2.6 + 0.5 * u[:, 0] + 0.4 * u[:, 1] * u[:, 2])
    g = _G * (1 - a) * sigmoid(1.2 * u[:, 3] + 0.8 * u[:, 4] - 0.8 * (u[:, 5] > 0))
    r = np.exp(-0.6 + 0.7 * u[:, 6] + 0.4 * u[:, 0])[:, None]
    arm = np.arange(NUM_TREATMENTS)
    return a[:, None] + g[:, None] * (-np.expm1(-r * arm)) / (-np.expm1(-4 * r))
