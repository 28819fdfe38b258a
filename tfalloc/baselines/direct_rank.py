"""`DirectRank`: users in the order in which the treated bring the most response for their cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfalloc.baselines.direct import DirectModel, arm_means

# Share of the trial's mean uplift below which what a batch shows of it is bent away from 0.
_BEND = 0.1


@keras.saving.register_keras_serializable(package="tfalloc")
class DirectRank(DirectModel):
    """Direct Rank: a ranking by which the treated bring the most response for their cost.

        p_i = exp(tanh s_i) / sum over the arm of exp(tanh s_k)
        L = (sum_T p z - sum_C p z) / (sum_T p y - sum_C p y)

    over treated T and control C. The softmax runs over each arm in the batch: use large batches.
    Both differences are in units of the trial's mean uplift. Where a batch shows one that is
    negative, the ratio would reward making it worse: so the cost's passes through softplus at a
    tenth of its unit, and 1 / response goes on along its tangent from there, so that a batch with
    few responses never has a gradient beyond all others.

    Only the order of s has a meaning. `predict` makes (1 + tanh s) times the trial's mean ratio of
    uplifts of it, between 0 and twice that ratio, with the arms' mean costs: a budget then buys
    the users in their order.

    Args:
      num_treatments: 2.
      backbone: as in `AllocationModel`; "small" (16 units) by default.
      bins: as in `AllocationModel`.
      linear: as in `AllocationModel`.
      preprocessor: as in `AllocationModel`.
      num_features: as in `AllocationModel`.
      seed: seeds the initial weights and the shuffling of rows.

    In the logs response_loss is the loss and cost_loss 0, as it is no sum of the two. Everything
    else is as in `DRP`.

    Raises:
      ValueError: other than two arms; by `fit`, arms not in the order of their cost, or a
        treatment that does not raise the response.

    Example:
      >>> import tfalloc
      >>> data = tfalloc.datasets.criteo_like(5_000).data
      >>> model = tfalloc.baselines.DirectRank()
      >>> history = model.fit(data, epochs=1, verbose=0)
      >>> sorted(model.predict(data, verbose=0))
      ['cost', 'response']

    Source: Du, Lee, Ghaffarizadeh 2019, "Improve user retention with causal learning".
    """

    squash = "tanh"
    headroom = 2.0

    def __init__(
        self,
        num_treatments: int = 2,
        backbone: str | Sequence[int] | keras.Model | None = "small",
        **kwargs: Any,
    ):
        if num_treatments != 2:
            raise ValueError(
                f"num_treatments={num_treatments!r}: Direct Rank has two arms; use DRP for more."
            )
        if kwargs.get("max_price") is not None:
            raise ValueError(
                f"max_price={kwargs['max_price']!r}: Direct Rank learns an order, no levels, and "
                "its loss is in units of the mean uplifts; leave it out."
            )
        super().__init__(num_treatments, backbone, **kwargs)

    def _arm_losses(
        self,
        scores: tf.Tensor,
        weight: tf.Tensor,
        response: tf.Tensor,
        cost: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        # tanh is bounded: no maximum need be subtracted before exp.
        share, _ = arm_means(weight * tf.exp(tf.tanh(scores)))
        sides = share[:, 1] - share[:, 0]
        extra_cost = _positive(tf.reduce_sum(sides * cost))
        per_response = _inverse(self.headroom * tf.reduce_sum(sides * response))
        return extra_cost * per_response, tf.zeros(())


def _positive(uplift: tf.Tensor) -> tf.Tensor:
    return _BEND * tf.nn.softplus(uplift / _BEND)


def _inverse(uplift: tf.Tensor) -> tf.Tensor:
    """1 / u for u of at least `_BEND`, its tangent at `_BEND` below: never less for a smaller u."""
    return 1.0 / tf.maximum(uplift, _BEND) + tf.maximum(_BEND - uplift, 0.0) / _BEND**2
