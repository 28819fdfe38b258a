"""`DRP`: the ratio of uplifts as the optimum of a convex loss.

With one score s_j(x) for each upgrade from arm j to j+1, antiderivatives A and B, and E_t the mean
over the rows of arm t,

    L = sum_t E_t[ z (A(s_{t-1}) - A(s_t)) - y (B(s_{t-1}) - B(s_t)) ],     A, B = 0 off 0..K-2

Collecting the terms of s_j gives, in expectation at x, tau_z A(s_j) - tau_y B(s_j) with the
marginal uplifts tau of cost and response from j to j+1: where tau_z > 0 its optimum has

    A'(s) / B'(s) = tau_y / tau_z

    "drp"    A = softplus, B = s         A'/B' = sigmoid(s) = q     Zhou et al. 2023, binary
    "dpm"    A = q^2 / 2,  B = q         A'/B' = q                  their several-treatment form

(DPM is written with q^2, which makes the optimum half the ratio; and as a mean over rows weighted
by N / (K N_t), which is L / K.) Responses are divided by `max_price`, so that q stays below 1.

In finite samples the loss is unbounded below where the estimated tau_z is negative: a large network
finds such places, so training stops early.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfalloc.baselines.direct import DirectModel, arm_means

LOSSES = ("drp", "dpm")


@keras.saving.register_keras_serializable(package="tfalloc")
class DRP(DirectModel):
    """Direct ROI prediction: learns the ratio of uplifts of each upgrade, its shadow price.

    Args:
      num_treatments: K, arms in the order of their mean cost in the trial.
      backbone: as in `AllocationModel`; "small" (16 units) by default.
      loss: "drp" or "dpm"; None: "drp" for two arms and "dpm" for more, as published.
      max_price: bound of the ratios learned, response per unit of cost; None: 10 times the largest
        ratio of mean uplifts between neighbouring arms. Users above it are treated alike.
      bins: as in `AllocationModel`.
      linear: as in `AllocationModel`.
      preprocessor: as in `AllocationModel`.
      num_features: as in `AllocationModel`.
      seed: seeds the initial weights and the shuffling of rows.

    `compile`, `fit`, `evaluate`, `predict`, `save` as in `AllocationModel`; `fit` compiles by
    itself if you did not. Training stops early by `val_loss`, or by `val_goal`, the outcome of the
    policy on the validation rows, after `compile(budget=…)`. In the logs response_loss and
    cost_loss are the parts of the loss that contain y and z.

    `predict` gives the arms' mean costs for every user, and responses that rise by ratio times
    marginal cost, so that the allocation upgrades exactly those above the shadow price.

    Raises:
      ValueError: an argument is out of range; by `fit`, arms not in the order of their cost, or
        none that raises the response.

    Example:
      >>> import tfalloc
      >>> data = tfalloc.datasets.criteo_like(5_000).data
      >>> model = tfalloc.baselines.DRP()
      >>> history = model.fit(data, epochs=1, verbose=0)
      >>> model.score(data).shape
      (5000,)

    Source: Zhou et al. 2023, "Direct heterogeneous causal learning for resource allocation
    problems in marketing".
    """

    def __init__(
        self,
        num_treatments: int = 2,
        backbone: str | Sequence[int] | keras.Model | None = "small",
        *,
        loss: str | None = None,
        **kwargs: Any,
    ):
        if loss not in (None, *LOSSES):
            raise ValueError(f"loss={loss!r} is not known; expected one of {LOSSES} or None.")
        super().__init__(num_treatments, backbone, **kwargs)
        self.ratio_loss = loss or ("drp" if num_treatments == 2 else "dpm")

    def _arm_losses(
        self,
        scores: tf.Tensor,
        weight: tf.Tensor,
        response: tf.Tensor,
        cost: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        share, present = arm_means(weight)
        if self.ratio_loss == "drp":
            spending, gaining = tf.nn.softplus(scores), scores
        else:
            gaining = tf.sigmoid(scores)
            spending = 0.5 * gaining**2
        # An upgrade of which the batch lacks an arm would be pulled to one side without bound.
        known = tf.cast(present[1:] & present[:-1], tf.float32)

        def mean_of(outcome: tf.Tensor, curve: tf.Tensor) -> tf.Tensor:
            padded = tf.pad(curve * known, [[0, 0], [1, 1]])
            steps = tf.reduce_sum(share * (padded[:, :-1] - padded[:, 1:]), axis=1)
            return tf.reduce_sum(outcome * steps)

        return -mean_of(response, gaining), mean_of(cost, spending)

    def get_config(self) -> dict[str, Any]:
        """What `from_config` needs, network included if there is one."""
        return {**super().get_config(), "loss": self.ratio_loss}
