"""A trial with known truth, its features partly strings, whose arms are in the order of cost."""

from typing import NamedTuple

import numpy as np

from tfalloc.data import RCTData


class Known(NamedTuple):
    data: RCTData
    response: np.ndarray  # [N, K], true means
    cost: np.ndarray


def known_trial(rows=6000, arms=2, seed=0, *, cost="random", shares=None, weighted=False):
    """Uplift of the response depends on x0 and the place, that of the cost on x1."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 2)).astype(np.float32)
    town = rng.random(rows) < 0.5
    shares = np.full(arms, 1 / arms) if shares is None else np.asarray(shares)
    t = rng.choice(arms, rows, p=shares)
    dose = np.arange(arms) / (arms - 1)
    gain = 0.05 + 0.3 / (1 + np.exp(-2 * x[:, 0])) + 0.1 * town
    response = 0.1 + gain[:, None] * np.sqrt(dose)
    if cost == "fixed":
        price = np.tile(0.5 * np.arange(arms), (rows, 1))
        z = price[np.arange(rows), t]
    elif cost == "on_response":
        price = 2.0 * np.arange(arms) * response
    else:
        price = 0.1 + (0.6 + 0.3 * np.tanh(x[:, 1]))[:, None] * dose
        z = price[np.arange(rows), t] * rng.uniform(0.5, 1.5, rows)
        if cost == "binary":
            price = np.minimum(price, 1.0)
            z = rng.random(rows) < price[np.arange(rows), t]
    y = rng.random(rows) < response[np.arange(rows), t]
    if cost == "on_response":
        z = 2.0 * t * y
    features = {"x0": x[:, 0], "x1": x[:, 1], "place": np.where(town, "town", "land")}
    weight = rng.integers(1, 3, rows) if weighted else None
    data = RCTData(features, t, y, z, sample_weight=weight, num_treatments=arms)
    return Known(data, response, price)
