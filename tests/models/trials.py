"""Trials of every kind of outcome, with given arm rates."""

import functools

import numpy as np

from tfalloc.data import RCTData

RISING = (0.1, 0.2, 0.25, 0.4, 0.5)


def trial(response, cost, rates=RISING, *, rows=6000, seed=0, amounts=None, unit=1.0):
    """Arms in turn; means of response and cost rise with `rates` ("real": shifted below 0)."""
    amounts = None if amounts is None else tuple(amounts)
    return _trial(response, cost, tuple(rates), rows, seed, amounts, unit)


@functools.cache
def _trial(response, cost, rates, rows, seed, amounts, unit):
    rng = np.random.default_rng(seed)
    rates = np.asarray(rates)
    arm = np.arange(rows) % len(rates)
    happens = rng.random(rows) < rates[arm]
    y = {
        "binary": happens * 1.0,
        "nonnegative": happens * rng.integers(1, 4, rows) * unit,
        "hurdle": happens * rng.lognormal(1.0, 0.7, rows) * unit,
        "real": (rng.normal(size=rows) + 3 * rates[arm] - 1) * unit,
    }[response]
    spends = rng.random(rows) < 0.15 * arm
    z = {
        "binary": spends * 1.0,
        "nonnegative": (0.2 + spends) * rng.random(rows) * unit,
        "hurdle": spends * rng.lognormal(0.0, 0.5, rows) * unit,
        "constant": 0.5 * arm,
        "on_response": None if amounts is None else np.asarray(amounts)[arm] * y,
    }[cost]
    return RCTData(rng.normal(size=(rows, 3)).astype("f4"), arm, y, z)
