"""The assignment: choose one treatment per user under a budget (Eq. 2 to 4 of Yan et al. 2023).

A multiple-choice knapsack. `path` gives the exact curve of every budget at once, `solve` the
allocation at one budget with a certificate of how far it can be from the best; `upgrade_prices`
ranks users by the shadow price up to which each is worth an upgrade.

NumPy only. Arrays or eager tensors in, NumPy arrays out; all arithmetic in float64.
"""

from __future__ import annotations

from tfalloc.mckp.path import MCKPPath, path
from tfalloc.mckp.solve import Allocation, solve
from tfalloc.mckp.upgrade_prices import upgrade_prices

__all__ = ["Allocation", "MCKPPath", "path", "solve", "upgrade_prices"]
