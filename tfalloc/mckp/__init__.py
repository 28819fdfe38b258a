"""The assignment: choose one treatment per user under a budget (Eq. 2 to 4 of Yan et al. 2023).

A multiple-choice knapsack. `path` gives the exact curve of every budget at once, `solve` the
allocation at one budget with a certificate of how far it can be from the best.

NumPy only. Arrays or eager tensors in, NumPy arrays out; all arithmetic in float64.
"""

from __future__ import annotations

from tfalloc.mckp.path import MCKPPath, path
from tfalloc.mckp.solve import Allocation, solve

__all__ = ["Allocation", "MCKPPath", "path", "solve"]
