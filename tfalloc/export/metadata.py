"""`assets.extra/policy.json`: what a person or a client needs to know beside the SavedModel."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from tfalloc import _files
from tfalloc.export.budget_table import BudgetTable

FILE = os.path.join("assets.extra", "policy.json")
FORMAT: Literal[1] = 1


@dataclass(frozen=True)
class FeatureRecord:
    """One input of the signatures.

    Attributes:
      name: the feature column.
      input: what the signatures call it.
      kind: of its values.
      shape: without the batch dimension.
    """

    name: str
    input: str
    kind: Literal["numeric", "string"]
    shape: list[int]


@dataclass(frozen=True)
class TableRecord:
    """Knots of the budget table, as in `BudgetTable`."""

    alpha: list[float]
    cost: list[float]

    def __post_init__(self) -> None:
        table = np.array([self.alpha, self.cost]) if len(self.alpha) == len(self.cost) else None
        if table is None or not table.size:
            raise ValueError(
                f"has {len(self.alpha)} alphas and {len(self.cost)} costs; expected one of each "
                "for every knot"
            )
        steps = np.diff(table, axis=1)
        if not np.isfinite(table).all() or (steps[0] > 0).any() or (steps[1] < 0).any():
            raise ValueError("expected finite alphas that never rise and costs that never fall")
        if table[0, -1] < 0:
            raise ValueError(f"ends with alpha {table[0, -1]:g}; expected none below 0")


@dataclass(frozen=True)
class Policy:
    """What an export says about itself.

    Attributes:
      format: version of this file.
      treatment_names: [K], label of each treatment.
      fallback_treatment: arm for rows without finite predictions.
      is_matrix: whether features are one matrix.
      features: inputs of the signatures.
      budget_unit: of budgets.
      calibration: where costs are from.
      budgets: range in which the table was asked to be fine.
      population_rows: rows that the table was fitted on.
      trial_rows: rows of the trial, if it was used.
      least_budget, most_budget: range of the table, cost per user.
      max_underspend: most that a budget in this range may leave unspent.
      table: budget to alpha.
      versions: of packages.
    """

    format: Literal[1]
    treatment_names: list[str]
    fallback_treatment: int
    is_matrix: bool
    features: list[FeatureRecord]
    budget_unit: str
    calibration: str
    budgets: tuple[float, float] | None
    population_rows: int
    trial_rows: int | None
    least_budget: float
    most_budget: float
    max_underspend: float
    table: TableRecord
    versions: Mapping[str, str | None]

    def __post_init__(self) -> None:
        names = self.treatment_names
        if not names or len(set(names)) < len(names):
            raise ValueError(f"treatment_names are {names}; expected different labels")
        if not 0 <= self.fallback_treatment < len(names):
            raise ValueError(
                f"fallback_treatment is {self.fallback_treatment}; expected one of {len(names)}"
            )
        if not self.features or (self.is_matrix and len(self.features[0].shape) != 1):
            raise ValueError("features: expected at least one, or one of shape [F] for a matrix")
        if self.calibration not in ("predicted", "trial"):
            raise ValueError(f"calibration is {self.calibration!r}; expected predicted or trial")
        if not np.isfinite([self.least_budget, self.most_budget]).all():
            raise ValueError("least_budget, most_budget: expected finite costs per user")


def write_policy(directory: str | os.PathLike[str], policy: Policy) -> None:
    """Writes the file into a SavedModel's directory."""
    _files.write_json(Path(directory) / FILE, asdict(policy), indent=1)


def read_policy(directory: str | os.PathLike[str]) -> Policy:
    """Reads the file, checked.

    Args:
      directory: what `save` wrote.

    Raises:
      ValueError: the directory is not an export of this package, or the file is damaged: an entry
        is absent, of another type or outside its range.
    """
    file = Path(directory) / FILE
    try:
        text = file.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{os.fspath(directory)!r} has no {FILE} ({error.strerror}); expected a directory "
            "written by tfalloc.export.save or `tfalloc export`."
        ) from error
    try:
        return _files.parse_json(text, Policy)
    except ValueError as error:
        raise ValueError(
            f"{os.fspath(file)!r} is damaged ({error}); expected the file as tfalloc.export.save "
            "wrote it: export again."
        ) from error


def load_table(path: str | os.PathLike[str]) -> BudgetTable:
    """Reads the budget table of an exported model.

    Args:
      path: directory that `save` wrote.

    Returns:
      `BudgetTable`; `.lookup(budget)` answers as `allocate_for_budget` does.

    Raises:
      ValueError: as `read_policy`.
    """
    table = read_policy(path).table
    return BudgetTable(np.array(table.alpha), np.array(table.cost))
