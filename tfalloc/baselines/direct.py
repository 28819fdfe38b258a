"""`DirectModel`: a Keras model of upgrade prices; `DRP` and `DirectRank` bring its loss.

Network, preprocessing, `fit`, `evaluate`, `predict` and files are those of `AllocationModel`. Only
the heads differ, one score for each upgrade (`upgrades`), and so does the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfalloc.baselines.prices import upgrade_prices
from tfalloc.baselines.upgrades import Upgrades, check_order
from tfalloc.models import AllocationModel, replicas


class Scored:
    """Adds to a Keras model what all baselines have: `fit` without `compile`, and `score`."""

    def fit(self, x: Any, y: Any = None, **options: Any) -> Any:
        """As `AllocationModel.fit`; compiles with the defaults if `compile` was not called."""
        if self._objective is None:  # type: ignore[attr-defined]
            self._compile_for(x, y)
        return super().fit(x, y, **options)  # type: ignore[misc]

    def _compile_for(self, x: Any, y: Any) -> None:
        """Compiles with the defaults, which may depend on the rows to be fitted."""
        self.compile()  # type: ignore[attr-defined]

    def score(self, x: Any) -> np.ndarray:
        """The price up to which each user gets each upgrade, [N] if K = 2, else [N, K-1].

        See `upgrade_prices`; arms are taken in the order of their index.
        """
        predicted = self.predict(x, verbose=0)  # type: ignore[attr-defined]
        return upgrade_prices(predicted["response"], predicted["cost"])


class DirectModel(Scored, AllocationModel):
    """Learns prices of upgrades by a loss of its own; see `DRP` and `DirectRank`.

    A subclass defines `_arm_losses`.
    """

    squash = "sigmoid"
    headroom = 10.0  # users differ from the mean, and a sigmoid is slow at its ends

    def __init__(
        self,
        num_treatments: int = 2,
        backbone: str | Sequence[int] | keras.Model | None = "small",
        *,
        max_price: float | None = None,
        bins: int | str | None = "auto",
        linear: bool | None = None,
        preprocessor: keras.Model | None = None,
        num_features: int | None = None,
        seed: int = 0,
        **kwargs: Any,
    ):
        unused = [name for name in kwargs if name not in ("name", "dtype")]
        if unused:
            raise ValueError(
                f"{unused[0]}={kwargs[unused[0]]!r}: {type(self).__name__} has one score for each "
                "upgrade and no heads to choose; leave it out."
            )
        if num_treatments < 2:
            raise ValueError(f"num_treatments={num_treatments!r}: expected at least 2 arms.")
        if max_price is not None and not 0.0 < max_price < np.inf:
            raise ValueError(
                f"max_price={max_price!r}: expected a positive response per unit of cost, or None."
            )
        shape: dict[str, Any] = {
            "bins": bins,
            "linear": linear,
            "preprocessor": preprocessor,
            "seed": seed,
        }
        super().__init__(num_treatments, backbone, **shape, **kwargs)
        self.max_price = max_price
        if preprocessor is not None:
            num_features = preprocessor.output_shape[-1]
        if num_features is not None:
            self._assemble(num_features, self._families)

    def _families_of(self, data: Any) -> dict[str, Any]:
        """Those given, as no loss depends on them; refuses arms not in the order of their cost."""
        check_order(data)
        return self._families

    def _make_heads(self, families: dict[str, Any]) -> Any:
        return Upgrades(
            self.num_treatments,
            self.squash,
            self.max_price,
            headroom=self.headroom,
            name="outcome_heads",
        )

    def _choose_losses(self, **outcome_losses: str | None) -> None:
        for name, loss in outcome_losses.items():
            if loss is not None:
                raise ValueError(
                    f"{name}={loss!r}: {type(self).__name__} has a loss of its own; leave it out."
                )

    def _prediction_losses(
        self, raw: Any, targets: dict[str, Any], sample_weight: Any
    ) -> dict[str, Any]:
        """The loss in a part of the response and a part of the cost, scalars."""
        heads, arm = self.outcome_heads, tf.cast(targets["treatment"], tf.int32)
        weight = tf.ones(tf.shape(arm), tf.float32)
        if sample_weight is not None:
            weight *= tf.cast(sample_weight, tf.float32)
        if targets.get("propensity") is not None:
            weight /= tf.cast(targets["propensity"], tf.float32)
        received = tf.one_hot(arm, self.num_treatments)
        # Responses in mean costs: with costs in their mean, the optimum is the share of max_price.
        cost = heads.known("mean_cost")
        unit = (cost[-1] - cost[0]) / (self.num_treatments - 1)
        response_part, cost_part = self._arm_losses(
            heads.scores(raw),
            received,
            received * weight[:, tf.newaxis],
            tf.cast(targets["response"], tf.float32) / (unit * heads.known("price")),
            tf.cast(targets["cost"], tf.float32) / unit,
        )
        # Over several replicas the loss is the mean of theirs, each of its own rows.
        parts = {"response_loss": response_part, "cost_loss": cost_part}
        return {name: part / replicas.count() for name, part in parts.items()}

    def _arm_losses(
        self,
        scores: tf.Tensor,
        received: tf.Tensor,
        weight: tf.Tensor,
        response: tf.Tensor,
        cost: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Both parts of the loss, scalars.

        Args:
          scores: [batch, K-1], s.
          received: [batch, K], one-hot.
          weight: [batch, K], what a row counts in the mean of its arm; 0 in other arms.
          response: [batch], in units in which the ratio of uplifts is a share of max_price.
          cost: [batch], in mean marginal costs.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """What `from_config` needs, network included if there is one."""
        config = super().get_config()
        kept = ["name", "num_treatments", "backbone", "bins", "linear", "preprocessor"]
        kept += ["num_features", "seed"]
        return {**{name: config[name] for name in kept}, "max_price": self.max_price}


def arm_means(weight: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Each row's share in the mean of its arm, [batch, K], and whether arms have rows, [K].

    An arm without rows has shares of 0.

    Args:
      weight: [batch, K], 0 off the received arm.
    """
    totals = tf.reduce_sum(weight, axis=0)
    return tf.math.divide_no_nan(weight, totals), totals > 0.0
