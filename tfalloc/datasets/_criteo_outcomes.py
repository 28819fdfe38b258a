"""Outcomes simulated on the real features of Criteo Uplift: truth is known, features are not made.

Let x_j in (-1, 1) be feature j's rank among all rows of the file, ties at their mean rank, scaled
by 2 rank - 1. Four arms, drawn with equal probability, offer a voucher worth d = (0, .5, 1, 2):

    A = 1{x0 > .1, |x6| < .6, x8 < .4}       reacts to any voucher
    B = 1{x2 > .3} xor 1{x6 > .2}            reacts to a large one only
    C = 1{x9 > .5 or x3 < -.5}               redeems vouchers and buys no more than before
    v_0 = sigmoid(-2.9 + .9 x9 + .6 x0 - .6 x8 + .5 x0 x6)
    v_j = v_0 + (1 - v_0) (.05 A a_j + .07 B b_j + .004 j)
    p_j = (.10 + .35 C + .15 (1 + x10) / 2) g_j + .3 v_j
    a = (0, 1, 1.1, 1.2),  b = (0, 0, .2, 1),  g = (0, .6, .8, 1)

v is the response (a purchase), p the probability of redemption (p_0 = 0), and cost is d times
redemption. Redemption and purchase are independent given features and arm. Steps in the features
and a response that rises late in the arm's order are what a model linear in either cannot follow.
"""

from __future__ import annotations

import os

import numpy as np

from tfalloc.datasets._real import CRITEO_FEATURES
from tfalloc.datasets._simulation import Draw, Simulation, generator, received, sigmoid

VOUCHERS = np.array([0.0, 0.5, 1.0, 2.0])
_A = np.array([0.0, 1.0, 1.1, 1.2])
_B = np.array([0.0, 0.0, 0.2, 1.0])
_REDEEMED = np.array([0.0, 0.6, 0.8, 1.0])


def criteo_outcomes(
    path: str | os.PathLike[str], seed: int = 0, *, part: int | None = None
) -> Simulation:
    """Simulates a trial on the rows of a file of Criteo Uplift; equations head this module.

    Args:
      path: Parquet, or CSV (also .gz), with columns f0 … f11; others are not read.
      seed: the same seed gives the same data.
      part: 0 or 1: one random half of the rows, to learn from, or the other, to judge on; None:
        all of them. Halves depend on the seed.

    Returns:
      A `Simulation` with features f0 … f11 and four treatments.

    Raises:
      FileNotFoundError: nothing at `path`.
      ValueError: a column is missing, or `part` is another.

    Example:
      >>> import numpy as np, pandas as pd, tempfile, os
      >>> path = os.path.join(tempfile.mkdtemp(), "criteo.csv")
      >>> table = np.random.default_rng(0).normal(size=(400, 12))
      >>> pd.DataFrame(table, columns=[f"f{j}" for j in range(12)]).to_csv(path, index=False)
      >>> criteo_outcomes(path, part=0).data.treatment_names
      ['0', '0.5', '1', '2']
    """
    if part not in (None, 0, 1):
        raise ValueError(f"part={part!r}; expected 0, 1 or None (all rows).")
    table = _read(path)
    ranks = table.rank(method="average").to_numpy("f8")
    x = (2.0 * (ranks - 0.5) / len(table) - 1.0).T
    response, cost = expectations(x)
    rng = generator("outcomes", seed)
    treatment = rng.integers(0, len(VOUCHERS), len(table), "i4")
    buys = rng.random(len(table)) < received(response, treatment)
    spend = VOUCHERS[treatment]
    probability = received(cost, treatment) / np.where(spend > 0, spend, 1.0)
    redeems = rng.random(len(table)) < probability
    rows = np.arange(len(table))
    if part is not None:
        rows = np.flatnonzero((rng.random(len(table)) < 0.5) == bool(part))
    drawn = Draw(
        {name: table[name].to_numpy("f4")[rows] for name in CRITEO_FEATURES},
        treatment[rows],
        buys[rows].astype("f4"),
        (spend * redeems)[rows].astype("f4"),
        response[rows].astype("f4"),
        cost[rows].astype("f4"),
    )
    return drawn.simulation([f"{value:g}" for value in VOUCHERS], np.full(len(VOUCHERS), 0.25))


def expectations(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns expected (response [N, 4], cost [N, 4]) for scaled ranks x [12, N]."""
    a = (x[0] > 0.1) & (np.abs(x[6]) < 0.6) & (x[8] < 0.4)
    b = (x[2] > 0.3) ^ (x[6] > 0.2)
    c = (x[9] > 0.5) | (x[3] < -0.5)
    base = sigmoid(-2.9 + 0.9 * x[9] + 0.6 * x[0] - 0.6 * x[8] + 0.5 * x[0] * x[6])
    gain = 0.05 * np.outer(a, _A) + 0.07 * np.outer(b, _B) + 0.004 * np.arange(len(VOUCHERS))
    response = base[:, None] + (1.0 - base[:, None]) * gain
    habit = 0.10 + 0.35 * c + 0.15 * (1.0 + x[10]) / 2.0
    redeemed = np.outer(habit, _REDEEMED) + 0.3 * response * (VOUCHERS > 0)
    return response, VOUCHERS * redeemed


def _read(path: str | os.PathLike[str]):  # type: ignore[no-untyped-def]  # a pandas.DataFrame
    import pandas as pd

    if not os.path.exists(path):
        raise FileNotFoundError(f"no file at {os.fspath(path)}; expected one of Criteo Uplift.")
    try:
        if ".csv" in os.path.basename(os.fspath(path)):
            return pd.read_csv(path, usecols=CRITEO_FEATURES)
        return pd.read_parquet(path, columns=CRITEO_FEATURES)
    except (ValueError, KeyError, OSError) as error:
        reason = str(error).splitlines()[0][:160]
        raise ValueError(
            f"{os.fspath(path)} is not a file of Criteo Uplift ({reason}); expected columns f0 … "
            "f11 in Parquet or CSV."
        ) from error
