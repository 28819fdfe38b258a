"""Coins paid on response: many arms, a response that is not concave in them.

Arm j of K offers coins_j = 29 j / (K - 1), all arms equally likely. With standard normals
u0 … u7 and a platform s in {android .6, ios .3, web .1},

    a   = sigmoid(-4 + .5 u0 + .3 u1 u2 + .4 1{s = ios})            response without coins
    b   = .175 (1 - a) sigmoid(.9 u3 - .7 1{s = web} + .6 1{u4 > .5}) most that coins add
    m   = log 10 + .45 u5 - .3 u0                                   threshold, in log coins
    k   = 2 + exp(.8 + .4 u6)                                       steepness
    v_j = a + b sigmoid(k (log(1 + coins_j) - m))                   true response

a sigmoid in log coins: below a user's threshold more coins do nothing, so v is increasing and not
concave. u7 is noise. Coins are spent only on response: cost = coins x response, and its
expectation is coins_j v_j. A user given a middle arm (about 14 coins) spends about 1.2.
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

MOST_COINS = 29.0
PLATFORMS = np.array(["android", "ios", "web"], object)


def produce_coin(num_rows: int = 100_000, seed: int = 0, num_treatments: int = 30) -> Simulation:
    """Simulates the trial of coin rewards whose equations head this module.

    Args:
      num_rows: N, at least 20 per arm so that every arm has rows.
      seed: the same seed gives the same data.
      num_treatments: K, at least 2.

    Returns:
      A `Simulation` with features u0 … u7 and the string "platform"; cost in coins per user.

    Raises:
      ValueError: `num_rows` or `num_treatments` is too small.

    Example:
      >>> simulation = produce_coin(num_rows=2000, num_treatments=3)
      >>> simulation.data.treatment_names
      ['0', '14.5', '29']
    """
    if num_treatments != int(num_treatments) or num_treatments < 2:
        raise ValueError(f"num_treatments={num_treatments!r}; expected an integer of at least 2.")
    check_rows(num_rows, 20 * num_treatments)
    rng = generator("produce", seed)
    u = rng.standard_normal((num_rows, 8), "f4")
    platform = np.searchsorted([0.6, 0.9], rng.random(num_rows), side="right")
    coins = MOST_COINS * np.arange(num_treatments) / (num_treatments - 1)
    response = true_response(u, platform, coins)
    treatment = rng.integers(0, num_treatments, num_rows, "i4")
    outcome = (rng.random(num_rows) < received(response, treatment)).astype("f4")
    drawn = Draw(
        {**{f"u{j}": u[:, j] for j in range(8)}, "platform": PLATFORMS[platform]},
        treatment,
        outcome,
        (coins[treatment] * outcome).astype("f4"),
        response.astype("f4"),
        (coins * response).astype("f4"),
    )
    names = [f"{value:.6g}" for value in coins]
    return drawn.simulation(names, np.full(num_treatments, 1 / num_treatments))


def true_response(u: np.ndarray, platform: np.ndarray, coins: np.ndarray) -> np.ndarray:
    """Returns v [N, K] for features u [N, 8], platform index [N] and coins [K]."""
    a = sigmoid(-4 + 0.5 * u[:, 0] + 0.3 * u[:, 1] * u[:, 2] + 0.4 * (platform == 1))
    b = 0.175 * (1 - a) * sigmoid(0.9 * u[:, 3] - 0.7 * (platform == 2) + 0.6 * (u[:, 4] > 0.5))
    m = np.log(10) + 0.45 * u[:, 5] - 0.3 * u[:, 0]
    k = 2 + np.exp(0.8 + 0.4 * u[:, 6])
    reached = sigmoid(k[:, None] * (np.log1p(coins)[None, :] - m[:, None]))
    return a[:, None] + b[:, None] * reached
