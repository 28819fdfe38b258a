"""`DFCL`: prediction losses and a decision loss at fixed shadow prices.

    loss = L_response + L_cost - weight * mean over lambda of J(lambda)

with J and its gradients in `decisions`. It is `AllocationModel` with another gradient: its network,
heads, training and files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tfalloc.baselines.decisions import DecisionGradient, ImprovedFiniteDifference, PolicyLearning
from tfalloc.baselines.direct import Scored
from tfalloc.models import AllocationModel
from tfalloc.models.matrix_batches import as_trial_data

LOSSES = ("pl", "mer", "ifd")


@keras.saving.register_keras_serializable(package="tfalloc")
class DFCL(Scored, AllocationModel):
    """Decision-focused causal learning: predictions trained for the decisions at fixed prices.

    Args:
      num_treatments: K.
      backbone: as in `AllocationModel`.
      loss: "pl" (the decision as a softmax), "mer" (the same at `temperature`) or "ifd" (the least
        change of the received arm that flips the decision).
      weight: of the decision loss beside the prediction losses, which are means over rows as it is.
      prices: grid of lambda, response per unit of cost; None: 8 between 0 and the price above which
        hardly any spend is predicted.
      temperature: of "mer", response per user; the authors' 3.
      min_gap: of "ifd", see `ImprovedFiniteDifference`.
      **options: as `AllocationModel`: heads, monotone, response_head, cost_head, cost_amounts,
        preprocessor, num_features, seed.

    `compile(budget=…)` says at which budgets validation judges, and is not used in training; `fit`
    compiles by itself if you did not, with the middle half between the costs of the cheapest and
    the dearest arm in the trial.

    Raises:
      ValueError: an argument is not known or out of range.

    Example:
      >>> import tfalloc
      >>> data = tfalloc.datasets.five_arms(2_000, seed=0).data
      >>> model = tfalloc.baselines.DFCL(5, "small", loss="pl")
      >>> history = model.fit(data, batch_size=1_000, epochs=1, verbose=0)
      >>> model.score(data).shape
      (2000, 4)

    Source: Zhou et al. 2024, "Decision focused causal learning for direct counterfactual marketing
    optimization".
    """

    def __init__(
        self,
        num_treatments: int,
        backbone: str | Sequence[int] | keras.Model | None = None,
        *,
        loss: str = "ifd",
        weight: float = 1.0,
        prices: Sequence[float] | None = None,
        temperature: float = 3.0,
        min_gap: float | None = None,
        **options: Any,
    ):
        if loss not in LOSSES:
            raise ValueError(f"loss={loss!r} is not known; expected one of {LOSSES}.")
        super().__init__(num_treatments, backbone, **options)
        self.decision_loss, self.weight, self.temperature = loss, weight, temperature
        self.prices = None if prices is None else tuple(prices)
        self.min_gap = min_gap
        self.decision_gradient()  # refuses settings out of range now

    def decision_gradient(self) -> DecisionGradient:
        """The gradient that `compile` uses; also one of its own for `AllocationModel`."""
        if self.decision_loss == "ifd":
            return ImprovedFiniteDifference(prices=self.prices, min_gap=self.min_gap)
        temperature = 1.0 if self.decision_loss == "pl" else self.temperature
        return PolicyLearning(prices=self.prices, temperature=temperature)

    def compile(self, optimizer: Any = None, **options: Any) -> None:
        """As `AllocationModel.compile`, but goal_weight, goal_scale and gradient are DFCL's.

        Args:
          optimizer: Keras optimizer; None: Adam(1e-3).
          **options: as there. `budget` is needed unless the weight is 0. A goal_weight, goal_scale
            or gradient that is given here replaces what the constructor's arguments say.

        Raises:
          ValueError: as there.
        """
        own = {
            "goal_weight": self.weight,
            "goal_scale": "paper",
            "gradient": self.decision_gradient(),
        }
        super().compile(optimizer, **{**own, **options})

    def _compile_for(self, x: Any, y: Any) -> None:
        cost = as_trial_data(x, y).arm_moments("cost").mean
        low, high = float(cost.min()), float(cost.max())
        quarter = 0.25 * (high - low)
        self.compile(budget=(low + quarter, high - quarter))

    def get_config(self) -> dict[str, Any]:
        """What `from_config` needs, network included if there is one."""
        return {
            **super().get_config(),
            "loss": self.decision_loss,
            "weight": self.weight,
            "prices": None if self.prices is None else list(self.prices),
            "temperature": self.temperature,
            "min_gap": self.min_gap,
        }
