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
      positive: label of the response that counts as 1.
      cluster: column of what was randomised together, such as a household.
      na: fields of a CSV file that mean a missing value, beside the empty one.
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
    positive: str | None = None
    cluster: str | None = None
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
            "features": self.features,
            "exclude": self.exclude or (),
            "treatments": self.treatments,
            "propensity": self.propensity,
            "sample_weight": self.weight,
            "missing": self.missing,
            "positive": self.positive,
            "cluster": self.cluster,
        }
        if is_csv(path):
            return RCTData.from_csv(path, na=self.na or (), **arguments)
        return RCTData.from_parquet(path, **arguments)

    def resolved(self, data: RCTData) -> Columns:
        """These columns with what was found in the data written out."""
        return dataclasses.replace(
            self,
            features=data.feature_names,
            exclude=None,
            treatments=data.treatment_names,
            positive=data.positive or self.positive,
        )
