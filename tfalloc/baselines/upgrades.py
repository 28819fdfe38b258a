"""`Upgrades`: from one score per upgrade to predictions that decide as the method's rule does.

A direct method learns q_j(x), the price up to which a user is upgraded from arm j to j+1. Its rule
at price alpha is the largest j with q_{j-1} >= alpha (arm 0 if there is none). With

    q'_j = max over k >= j of q_k                     never increasing in j
    c_j  = mean cost of arm j in the trial            the same for every user
    v_j  = mean response of arm 0 + sum over k < j of q'_k (c_{k+1} - c_k)

the user's points (c_j, v_j) are concave with slopes q'_j, so argmax_j v_j - alpha c_j takes every
upgrade with q'_j > alpha: it stops at the largest j with q_{j-1} > alpha, which is the rule (but
for users whose price is alpha exactly). So `mckp` and `evaluation` take these predictions as any
others. Levels of v mean little, and budgets should be met by the trial's costs, as `evaluation`
meets them: the learned prices say nothing of how a user's cost differs from the mean.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfalloc.data import ArmMoments, RCTData

_INSIDE = 0.02  # training starts at least this far from 0 and 1


@keras.saving.register_keras_serializable(package="tfalloc")
class Upgrades(keras.layers.Layer):
    """Prices of upgrades as predictions of response and cost; known parts come from the trial.

    Args:
      num_treatments: K, arms in the order of their cost.
      squash: "sigmoid", q = max_price sigmoid(s), s starting at the trial's mean prices; or "tanh",
        q = (1 + tanh(s)) / 2 times max_price, from s = 0.
      max_price: largest price q of an upgrade, response per unit of cost; None: `headroom` times
        the largest ratio of mean uplifts between neighbouring arms.
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
            "price": (),
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
        price = self.max_price or self.headroom * max(ratios.max(), 0.0)
        if not price > 0.0:
            raise ValueError(
                "no treatment raises the mean response of the one before it (largest ratio of "
                f"uplifts {ratios.max():.3g}); expected one that does: take more rows if this may "
                "be noise, or tell DRP the largest price of an upgrade, max_price=."
            )
        share = np.clip(ratios / price, _INSIDE, 1 - _INSIDE)
        known = {
            "is_started": 1.0,
            "price": price,
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
        """One of price [], first_response [], mean_cost [K], as a tensor."""
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
        prices = self.known("price") * self.shares(self.scores(raw))
        columns = tf.unstack(prices, axis=1)
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
