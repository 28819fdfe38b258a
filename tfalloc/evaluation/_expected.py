"""What a frozen model of outcomes expects under the arms that a policy assigns, at every price.

The doubly robust estimate counts *every* row under its assigned arm. That arm changes at the
upgrades of the row's hull (`mckp.hull`), so the model's sums along the whole path

    sum_i s_i m_{i, x_i(alpha)},      s the sample weights,

are the sum at alpha = 0, and a change at the price of each upgrade.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tfalloc.evaluation._rows import Floats, Rows
from tfalloc.mckp.hull import climb


class Expected:
    """The model's expectations along the path of one policy.

    Args:
      value: [N, K], predicted response, by which the policy assigns.
      price: [N, K], predicted cost.
      rows: the trial, with the model's expectations.

    Attributes:
      steps: upgrades of all rows, with their prices.
      dearest: sums of expected response and cost over rows at alpha = 0.
      changes: what passing each upgrade's price, from below, adds to these sums, [steps] each.
    """

    def __init__(self, value: npt.NDArray[Any], price: npt.NDArray[Any], rows: Rows):
        done = climb(value, price)
        self._models, self._cheapest = rows.models, done.treatment.astype(np.intp)
        self.steps = done.steps
        self._after = done.steps.treatment.astype(np.intp)
        weight = rows.sample_weight
        row, before, moved = done.steps.row, done.steps.before, weight[done.steps.row]
        self.changes = [
            moved * (model[row, before].astype(np.float64) - model[row, self._after])
            for model in self._models
        ]
        self.dearest = [float(weight @ x) for x in self._of(self._arms(self.steps.price > 0.0))]

    def at(self, alpha: float, dearer_share: float) -> tuple[Floats, ...]:
        """Expected response and cost of each row, [N] each, under the policy at alpha.

        Args:
          alpha: shadow price.
          dearer_share: share of users for whom ties at alpha go to the dearer arm.
        """
        above = self._of(self._arms(self.steps.price > alpha))
        if dearer_share == 0.0:
            return above
        below = self._of(self._arms(self.steps.price >= alpha))
        return tuple(
            (1.0 - dearer_share) * high + dearer_share * low
            for high, low in zip(above, below, strict=True)
        )

    def _arms(self, taken: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
        """[N], the arm that each row holds after these upgrades."""
        arm = self._cheapest.copy()
        # Steps go from cheap to dear within a row and NumPy assigns in order: the last one stays.
        arm[self.steps.row[taken]] = self._after[taken]
        return arm

    def _of(self, arm: npt.NDArray[np.intp]) -> tuple[Floats, ...]:
        everyone = np.arange(arm.size)
        return tuple(model[everyone, arm].astype(np.float64) for model in self._models)
