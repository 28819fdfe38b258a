"""Simulated trials with known truth, and loaders of public ones."""

from __future__ import annotations

from tfalloc.datasets._criteo_like import criteo_like as criteo_like
from tfalloc.datasets._criteo_like import criteo_like_parquet as criteo_like_parquet
from tfalloc.datasets._produce_coin import produce_coin as produce_coin
from tfalloc.datasets._real import criteo as criteo
from tfalloc.datasets._real import hillstrom as hillstrom
from tfalloc.datasets._simulation import Simulation as Simulation
from tfalloc.datasets._synthetic import synthetic as synthetic

__all__ = [
    "Simulation",
    "criteo",
    "criteo_like",
    "criteo_like_parquet",
    "hillstrom",
    "produce_coin",
    "synthetic",
]
