"""Simulated trials with known truth, and loaders of public ones."""

from __future__ import annotations

from tfalloc.datasets._criteo_like import criteo_like as criteo_like
from tfalloc.datasets._criteo_like import criteo_like_parquet as criteo_like_parquet
from tfalloc.datasets._criteo_outcomes import criteo_outcomes as criteo_outcomes
from tfalloc.datasets._five_arms import five_arms as five_arms
from tfalloc.datasets._produce_coin import produce_coin as produce_coin
from tfalloc.datasets._real import criteo as criteo
from tfalloc.datasets._real import hillstrom as hillstrom
from tfalloc.datasets._simulation import Simulation as Simulation
from tfalloc.datasets._well_specified import well_specified as well_specified

__all__ = [
    "Simulation",
    "criteo",
    "criteo_like",
    "criteo_like_parquet",
    "criteo_outcomes",
    "five_arms",
    "hillstrom",
    "produce_coin",
    "well_specified",
]
