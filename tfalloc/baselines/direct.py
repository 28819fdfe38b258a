"""`DirectModel`: learns up to which shadow price an upgrade pays; `DRP`, `DirectRank` bring losses.

Network, preprocessing, `fit`, `evaluate`, `predict` and files are those of `AllocationModel`. Only
the heads differ, one score q_j(x) for each upgrade from arm j to j+1, and so does the loss. The
rule at shadow price alpha is the largest j with q_{j-1} >= alpha (arm 0 if there is none). With

    q'_j = max over k >= j of q_k                     never increasing in j
    c_j  = mean cost of arm j in the trial            the same for every user
    v_j  = mean response of arm 0 + sum over k < j of q'_k (c_{k+1} - c_k)

the user's points (c_j, v_j) are concave with slopes q'_j, so argmax_j v_j - alpha c_j takes every
upgrade with q'_j > alpha: it stops at the largest j with q_{j-1} > alpha, which is the rule (but
for users whose q is alpha exactly). So `mckp` and `evaluation` take these predictions as any
others. Levels of v mean little, and budgets should be met by the trial's costs, as `evaluation`
meets them: the learned q say nothing of how a user's cost differs from the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfalloc.baselines.scores import Scored
from tfalloc.data import ArmMoments, RCTData
from tfalloc.models import AllocationModel, replicas

_INSIDE = 0.02  # training starts at least this far from 0 and 1


@keras.saving.register_keras_serializable(package="tfalloc")
class Upgrades(keras.layers.Layer):
    """Prices of upgrades as predictions of response and cost; known parts come from the trial.

    Args:
      num_treatments: K, arms in the order of their cost.
      squash: "sigmoid", q = max_price sigmoid(s), s starting at the trial's mean ratios; or "tanh",
        q = (1 + tanh(s)) / 2 times max_price, from s = 0.
      max_price: largest shadow price q of an upgrade, response per unit of cost; None: `headroom`
        times the largest ratio of mean uplifts between neighbouring arms.
      headroom: see `max_price`.

    Input raw scores [batch, K-1], near 0 at first; output {"response": [batch, K], "cost":
    [batch, K]}, float32.
    """

    def __init__(
        self,
        num_treatments: int,
        squash: str = "sigmoid",
        max_price: float | None = None,
        headroom: float = 10.0,
        **kwargs: Any,
    ):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.num_treatments, self.squash = num_treatments, squash
        self.max_price, self.headroom = max_price, headroom
        self.num_outputs = num_treatments - 1
        shapes = {
            "is_started": (),
            "highest_alpha": (),
            "first_response": (),
            "mean_cost": (num_treatments,),
            "start": (num_treatments - 1,),
        }
        self._known = {
            name: self.add_weight(shape=shape, initializer="zeros", trainable=False, name=name)
            for name, shape in shapes.items()
        }
        self.built = True

    def start_from(self, response_moments: ArmMoments, cost_moments: ArmMoments) -> None:
        """Takes what is known from the trial.

        Args:
          response_moments: `RCTData.arm_moments("response")`.
          cost_moments: `RCTData.arm_moments("cost")`, rising from arm to arm.
        """
        ratios = np.diff(response_moments.mean) / np.diff(cost_moments.mean)
        highest = self.max_price or self.headroom * max(ratios.max(), 0.0)
        if not highest > 0.0:
            raise ValueError(
                "no treatment raises the mean response of the one before it (largest ratio of "
                f"uplifts {ratios.max():.3g}); expected one that does: take more rows if this may "
                "be noise, or tell DRP the largest shadow price, max_price=."
            )
        share = np.clip(ratios / highest, _INSIDE, 1 - _INSIDE)
        known = {
            "is_started": 1.0,
            "highest_alpha": highest,
            "first_response": response_moments.mean[0],
            "mean_cost": cost_moments.mean,
            "start": np.log(share / (1 - share)) if self.squash == "sigmoid" else 0 * share,
        }
        for name, value in known.items():
            self._known[name].assign(np.asarray(value, np.float32))

    @property
    def started(self) -> bool:
        """Whether `start_from` was called, here or before saving."""
        return bool(self._known["is_started"].numpy())

    def known(self, name: str) -> tf.Tensor:
        """One of highest_alpha [], first_response [], mean_cost [K], as a tensor."""
        return tf.convert_to_tensor(self._known[name])

    def scores(self, raw: Any) -> tf.Tensor:
        """s, [batch, K-1], from the network's raw outputs."""
        return tf.cast(raw, tf.float32) + self.known("start")

    def shares(self, scores: tf.Tensor) -> tf.Tensor:
        """q / max_price in (0, 1), [batch, K-1]."""
        if self.squash == "tanh":
            return 0.5 + 0.5 * tf.tanh(scores)
        return tf.sigmoid(scores)

    def call(self, raw: Any) -> dict[str, Any]:
        """{"response": [batch, K], "cost": [batch, K]} from [batch, K-1]."""
        alphas = self.known("highest_alpha") * self.shares(self.scores(raw))
        columns = tf.unstack(alphas, axis=1)
        for j in reversed(range(len(columns) - 1)):
            columns[j] = tf.maximum(columns[j], columns[j + 1])
        cost = self.known("mean_cost")
        gains = tf.cumsum(tf.stack(columns, axis=1) * (cost[1:] - cost[:-1]), axis=1)
        response = self.known("first_response") + tf.pad(gains, [[0, 0], [1, 0]])
        return {"response": response, "cost": tf.zeros_like(response) + cost}

    def compute_output_shape(self, input_shape: Any) -> dict[str, tuple[Any, ...]]:
        """(batch, K) of both outcomes."""
        return dict.fromkeys(("response", "cost"), (*input_shape[:-1], self.num_treatments))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        config = {
            "num_treatments": self.num_treatments,
            "squash": self.squash,
            "max_price": self.max_price,
            "headroom": self.headroom,
        }
        return {**super().get_config(), **config}


def check_order(data: RCTData) -> None:
    """Refuses arms that are not in the order of their mean cost.

    Raises:
      ValueError: naming the first pair that is not.
    """
    cost, names = data.arm_moments("cost").mean, data.treatment_names
    wrong = np.flatnonzero(np.diff(cost) <= 0)
    if len(wrong):
        k = int(wrong[0])
        raise ValueError(
            "upgrades need arms in the order of their mean cost in the trial, but treatment "
            f"{k} ({names[k]!r}) costs {cost[k]:.6g} and treatment {k + 1} ({names[k + 1]!r}) "
            f"{cost[k + 1]:.6g}; reorder them (treatments=[labels in order]), or merge arms of "
            "equal cost."
        )


class KerasBaseline(Scored):
    """Adds to a Keras model what all baselines have: `fit` without `compile`, and `score`."""

    def fit(self, x: Any, y: Any = None, **options: Any) -> Any:
        """As `AllocationModel.fit`; compiles with the defaults if `compile` was not called."""
        if self._objective is None:  # type: ignore[attr-defined]
            self._compile_for(x, y)
        return super().fit(x, y, **options)  # type: ignore[misc]

    def _compile_for(self, x: Any, y: Any) -> None:
        """Compiles with the defaults, which may depend on the rows to be fitted."""
        self.compile()  # type: ignore[attr-defined]


class DirectModel(KerasBaseline, AllocationModel):
    """Learns the shadow price of every upgrade by a loss of its own; see `DRP` and `DirectRank`.

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
        if self.num_treatments < 2:
            raise ValueError(f"num_treatments={num_treatments!r}: expected at least 2 arms.")
        self.max_price = max_price
        if preprocessor is not None:
            num_features = preprocessor.output_shape[-1]
        if num_features is not None:
            self._assemble(num_features, self._head_of)

    def _choose_heads(self, data: Any) -> dict[str, Any]:
        """Those given, as no loss depends on them; refuses arms not in the order of their cost."""
        check_order(data)
        return self._head_of

    def _make_heads(self, head_of: dict[str, Any]) -> Any:
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
        received = tf.one_hot(arm, self.num_treatments) * weight[:, tf.newaxis]
        # Responses in mean costs: with costs in their mean, the optimum is the share of max_price.
        cost = heads.known("mean_cost")
        unit = (cost[-1] - cost[0]) / (self.num_treatments - 1)
        response_part, cost_part = self._arm_losses(
            heads.scores(raw),
            received,
            tf.cast(targets["response"], tf.float32) / (unit * heads.known("highest_alpha")),
            tf.cast(targets["cost"], tf.float32) / unit,
        )
        # Over several replicas the loss is the mean of theirs, each of its own rows.
        parts = {"response_loss": response_part, "cost_loss": cost_part}
        return {name: part / replicas.count() for name, part in parts.items()}

    def _arm_losses(
        self,
        scores: tf.Tensor,
        weight: tf.Tensor,
        response: tf.Tensor,
        cost: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Both parts of the loss, scalars.

        Args:
          scores: [batch, K-1], s.
          weight: [batch, K], what a row counts in the mean of its arm; 0 in other arms.
          response: [batch], in units in which the ratio of uplifts is a share of max_price.
          cost: [batch], in mean marginal costs.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """What `from_config` needs, network included if there is one."""
        config = super().get_config()
        chosen = ("heads", "response_head", "cost_head", "monotone", "cost_amounts")
        kept = {name: value for name, value in config.items() if name not in chosen}
        return {**kept, "max_price": self.max_price}


def arm_means(weight: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Each row's share in the mean of its arm, [batch, K], and whether arms have rows, [K].

    An arm without rows has shares of 0.

    Args:
      weight: [batch, K], 0 off the received arm.
    """
    totals = tf.reduce_sum(weight, axis=0)
    return tf.math.divide_no_nan(weight, totals), totals > 0.0
