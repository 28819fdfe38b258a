"""Export for serving: a SavedModel that predicts, allocates at a price, and keeps to a budget."""

from __future__ import annotations

from tfalloc.export.budget_table import BudgetTable as BudgetTable
from tfalloc.export.metadata import load_table as load_table
from tfalloc.export.saving import save as save

__all__ = ["BudgetTable", "load_table", "save"]
