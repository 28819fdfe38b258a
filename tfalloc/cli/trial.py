"""The columns of a trial as options name them, and the file that they are read from."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from tfalloc.cli import console

if TYPE_CHECKING:
    from tfalloc.data import RCTData


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which column is what; the arguments of `RCTData.from_frame`, and `exclude`."""

    treatment: str
    response: str
    cost: str | dict[str, float]
    features: list[str] | None = None
    exclude: list[str] | None = None
    treatments: list[str] | None = None
    propensity: str | dict[str, float] | None = None
    weight: str | None = None
    missing: str = "error"

    def read(self, path: str) -> RCTData:
        """Reads and validates a trial from CSV or Parquet.

        Raises:
          ValueError, FileNotFoundError: as `RCTData.from_csv` and `RCTData.from_parquet`.
        """
        from tfalloc._files import is_csv
        from tfalloc.data import RCTData

        as_csv = is_csv(path)
        arguments: dict[str, Any] = {
            "treatment": self.treatment,
            "response": self.response,
            "cost": self.cost,
            "features": self._features(path),
            "treatments": self.treatments,
            "propensity": self.propensity,
            "sample_weight": self.weight,
            "missing": self.missing,
        }
        return (RCTData.from_csv if as_csv else RCTData.from_parquet)(path, **arguments)

    def resolved(self, data: RCTData) -> Columns:
        """These columns with what was found in the data written out."""
        return dataclasses.replace(
            self,
            features=data.feature_names,
            exclude=None,
            treatments=data.treatment_names,
        )

    def _features(self, path: str) -> list[str] | None:
        """The features to ask for; None: all that have no other role."""
        from tfalloc.data.columns import require_columns
        from tfalloc.data.tables import open_table

        if not self.exclude:
            return self.features
        names = open_table(path).columns
        require_columns([("excluded", name) for name in self.exclude], names)
        roles = [self.treatment, self.response, self.cost, self.propensity, self.weight]
        wanted = self.features if self.features is not None else names
        taken = [role for role in roles if isinstance(role, str)] if self.features is None else []
        return [name for name in wanted if name not in taken and name not in self.exclude]


def check_budget(data: RCTData, low: float, high: float) -> None:
    """Compares a budget (or a range) with what the arms cost, before any work is done.

    Raises:
      ValueError: it is below the mean cost of the cheapest arm.
    """
    arms = data.describe().arms
    cheapest, dearest = min(arms, key=lambda a: a.cost), max(arms, key=lambda a: a.cost)
    if low < cheapest.cost * (1 - 1e-6):
        raise ValueError(
            f"budget {low:g} per user is infeasible: giving everyone the cheapest treatment "
            f"({cheapest.name!r}) costs {cheapest.cost:.6g} per user in this trial; pass at least "
            "that."
        )
    if high > dearest.cost:
        console.warn(
            f"budget {high:g} per user does not bind: giving everyone the dearest treatment "
            f"({dearest.name!r}) costs {dearest.cost:.6g} per user in this trial."
        )
