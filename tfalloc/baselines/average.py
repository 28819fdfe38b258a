"""`Average`: several models as one, by the mean of what they predict.

Models that differ by their seed, or in kind, are wrong in different places: the mean has less
variance than any of them, and the knapsack, which looks for the highest uplift, finds fewer errors
to fall for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfalloc.baselines.scores import Scored, predictions
from tfalloc.data import RCTData


class Average(Scored):
    """The mean of several models' predictions of response and cost, per user and arm.

    Args:
      members: unfitted models, each with `fit(data, validation_data=…)` and `predict`: baselines,
        Keras models such as `AllocationModel` (compiled, with seeds of their own), other `Average`.
        Levels must mean the same in all: `DRP` and `DirectRank` predict shadow prices, and go
        with their like only.

    Raises:
      ValueError: there are no members, or one has no `fit` or `predict`.

    Example:
      >>> import tfalloc
      >>> from tfalloc import baselines
      >>> data = tfalloc.datasets.well_specified(2_000).data
      >>> members = [baselines.per_arm_logistic(C) for C in (0.1, 1.0)]
      >>> model = baselines.Average(members).fit(data)
      >>> model.predict(data)["response"].shape, model.score(data).shape
      ((2000, 3), (2000, 2))
    """

    def __init__(self, members: Sequence[Any]):
        self.members = list(members)
        if not self.members:
            raise ValueError("members is empty; expected at least one model.")
        for member in self.members:
            if isinstance(member, type) or not all(hasattr(member, x) for x in ("fit", "predict")):
                raise ValueError(
                    f"members has {member!r}; expected models with fit and predict, made and not "
                    "their class."
                )

    def fit(self, data: RCTData, *, validation_data: Any = None, **options: Any) -> Average:
        """Fits one member after the other.

        Args:
          data: the training rows.
          validation_data: passed on; Keras members keep rows of `data` for it if it is None.
          **options: for Keras members only, as `AllocationModel.fit`: epochs, batch_size, verbose
            (0 unless given).

        Returns:
          self.

        Raises:
          ValueError: options without a Keras member to take them, or as the members.
        """
        if options and not any(_takes_options(member) for member in self.members):
            raise ValueError(
                f"{sorted(options)}: no member is a Keras model, which would take them; leave them "
                "out."
            )
        for member in self.members:
            quiet = {"verbose": 0, **options} if _takes_options(member) else {}
            member.fit(data, validation_data=validation_data, **quiet)
        return self

    def predict(self, x: Any) -> dict[str, np.ndarray]:
        """Mean predictions for raw features (or `RCTData`, or a dataset).

        Args:
          x: as the members take it.

        Returns:
          {"response": [N, K], "cost": [N, K]}, float64.

        Raises:
          ValueError: a member is not fitted, or predicts another shape than the first.
        """
        total: dict[str, Any] = {"response": 0.0, "cost": 0.0}
        shape: tuple[int, ...] | None = None
        for index, member in enumerate(self.members):
            found = predictions(member, x)
            shape = shape or found["response"].shape
            if found["response"].shape != shape:
                raise ValueError(
                    f"members[{index}] predicts {found['response'].shape} and members[0] {shape}; "
                    "expected the same rows and arms of all."
                )
            total = {name: part + found[name].astype(np.float64) for name, part in total.items()}
        return {name: part / len(self.members) for name, part in total.items()}


def _takes_options(member: Any) -> bool:
    if isinstance(member, Average):
        return any(_takes_options(each) for each in member.members)
    return isinstance(member, keras.Model)
