"""`Columns`: which column of a file is what, and the trial that they make of it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfalloc.data import RCTData


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which column is what. A run keeps it, so that other files are read in the same way.

    Attributes:
      treatment: column of the arm received.
      response: column of the reward.
      cost: column of the cost per user, or assumed costs {treatment: cost}.
      features: feature columns; None: all without another role.
      exclude: columns that are no features, such as what comes after treatment.
      treatments: labels of the treatments, in order; None: by the data.
      propensity: column of the probability of the treatment received, or {treatment: probability};
        None: the observed shares.
      weight: column of row weights; None: all rows count the same.
      missing: "error" refuses missing features, "indicator" imputes and marks them.
      na: fields of a CSV that mean a missing value, beside the empty one.
    """

    treatment: str
    response: str
    cost: str | dict[str, float]
    features: list[str] | None = None
    exclude: list[str] | None = None
    treatments: list[str] | None = None
    propensity: str | dict[str, float] | None = None
    weight: str | None = None
    missing: str = "error"
    na: list[str] | None = None

    def read(self, path: str) -> RCTData:
        """Reads and validates a trial from CSV or Parquet, by suffix.

        Args:
          path: a CSV file, or Parquet as a file, directory or pattern.

        Raises:
          ValueError, FileNotFoundError: as `RCTData.from_csv` and `RCTData.from_parquet`.
        """
        from tfalloc._files import is_csv
        from tfalloc.data import RCTData

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
        if is_csv(path):
            return RCTData.from_csv(path, na=self.na or (), **arguments)
        return RCTData.from_parquet(path, **arguments)

    def resolved(self, data: RCTData) -> Columns:
        """These columns with what was found in the data written out."""
        return dataclasses.replace(
            self, features=data.feature_names, exclude=None, treatments=data.treatment_names
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
