"""Simulated trials with known truth, and loaders of public ones."""

from __future__ import annotations

from tfalloc.datasets.criteo_simulations import criteo_like as criteo_like
from tfalloc.datasets.criteo_simulations import criteo_like_parquet as criteo_like_parquet
from tfalloc.datasets.criteo_simulations import criteo_outcomes as criteo_outcomes
from tfalloc.datasets.public_trials import criteo as criteo
from tfalloc.datasets.public_trials import hillstrom as hillstrom
from tfalloc.datasets.simulations import Simulation as Simulation
from tfalloc.datasets.simulations import five_arms as five_arms
from tfalloc.datasets.simulations import produce_coin as produce_coin
from tfalloc.datasets.simulations import well_specified as well_specified
from tfalloc.datasets.synthetic_trial import synthetic as synthetic
from tfalloc.datasets.synthetic_trial import synthetic_start as synthetic_start

__all__ = [
    "Simulation",
    "criteo",
    "criteo_like",
    "criteo_like_parquet",
    "criteo_outcomes",
    "five_arms",
    "hillstrom",
    "produce_coin",
    "synthetic",
    "synthetic_start",
    "well_specified",
]
