"""`assets.extra/policy.json`: what a person or a client needs to know beside the SavedModel."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfalloc.export.budget_table import BudgetTable
from tfalloc.export.served_features import Inputs

FILE = os.path.join("assets.extra", "policy.json")
FORMAT = 1


def describe(
    inputs: Inputs,
    table: BudgetTable,
    *,
    treatment_names: list[str],
    fallback: int,
    calibration: str,
    budgets: tuple[float, float] | None,
    population_rows: int,
    trial_rows: int | None,
) -> dict[str, Any]:
    """Builds the contents of the file.

    Args:
      inputs: of the model.
      table: budget to alpha.
      treatment_names: [K], label of each treatment.
      fallback: arm for rows without finite predictions.
      calibration: "predicted" or "trial".
      budgets: range asked for.
      population_rows: rows that the table was fitted on.
      trial_rows: rows of the trial, if it was used.
    """
    return {
        "format": FORMAT,
        "treatment_names": treatment_names,
        "fallback_treatment": fallback,
        "is_matrix": inputs.is_matrix,
        "features": [
            {
                "name": feature.column,
                "input": feature.argument,
                "kind": feature.kind,
                "shape": list(feature.shape),
            }
            for feature in inputs.features
        ],
        "budget_unit": "cost per user",
        "calibration": calibration,
        "budgets": None if budgets is None else [float(budget) for budget in budgets],
        "population_rows": population_rows,
        "trial_rows": trial_rows,
        "least_budget": float(table.cost[0]),
        "most_budget": float(table.cost[-1]),
        "max_underspend": table.max_underspend,
        "table": {"alpha": table.alpha.tolist(), "cost": table.cost.tolist()},
        "versions": {
            "tfalloc": _version("tfalloc"),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "python": platform.python_version(),
        },
    }


def write(directory: str | os.PathLike[str], contents: dict[str, Any]) -> None:
    """Writes the file into a SavedModel's directory."""
    path = Path(directory) / FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(contents, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def load_table(path: str | os.PathLike[str]) -> BudgetTable:
    """Reads the budget table of an exported model.

    Args:
      path: directory that `save` wrote.

    Returns:
      `BudgetTable`; `.lookup(budget)` answers as `allocate_for_budget` does.

    Raises:
      ValueError: if the directory is not an export of this package, or its table is damaged.
    """
    file = Path(path) / FILE
    try:
        contents = json.loads(file.read_text(encoding="utf-8"))
        table = BudgetTable(*(np.asarray(contents["table"][x], float) for x in BudgetTable._fields))
    except OSError as error:
        raise ValueError(
            f"{os.fspath(path)!r} has no {FILE}; expected a directory written by "
            "tfalloc.export.save."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{os.fspath(file)!r} is damaged ({error}); expected the file as written by "
            "tfalloc.export.save: export again."
        ) from error
    if table.alpha.ndim != 1 or table.alpha.shape != table.cost.shape or not table.alpha.size:
        raise ValueError(
            f"{os.fspath(file)!r} is damaged: its table has {table.alpha.shape} prices and "
            f"{table.cost.shape} costs; expected one of each for every knot: export again."
        )
    return table


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return None
