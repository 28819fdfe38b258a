"""Export for serving: a SavedModel that predicts, allocates at a price, and keeps to a budget."""

from __future__ import annotations

from tfalloc.export.budget_table import BudgetTable as BudgetTable
from tfalloc.export.metadata import load_table as load_table
from tfalloc.export.metadata import read_policy as read_policy
from tfalloc.export.saving import save as save
from tfalloc.export.served_policy import ServedPolicy as ServedPolicy

__all__ = ["BudgetTable", "ServedPolicy", "load_table", "read_policy", "save"]
