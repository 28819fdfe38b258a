"""From raw outputs to predictions, and the loss that fits them: one `Head` for each outcome.

    family        prediction                                     loss on the received arm
    binary        sigmoid(raw + logit(rate of the arm))          cross entropy
    nonnegative   mean of the arm * softplus(raw) / softplus(0)  squared error / second moment
    real          mean of the arm + spread * raw                 squared error / variance
    constant      mean of the arm                                0 (a cost known in advance)

At raw = 0 every family predicts the arm's mean in the trial. Squared errors are divided by the
outcome's scale, so that a loss has no unit, whether costs are counted in cents or in euros.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

FAMILIES = ("binary", "nonnegative", "real", "constant")
_SOFTPLUS_ZERO = float(np.log(2.0))


@keras.saving.register_keras_serializable(package="tfalloc")
class Head(keras.layers.Layer):
    """Link and loss of one outcome for all arms.

    Args:
      family: "binary", "nonnegative", "real" or "constant".
      num_treatments: K.
    """

    def __init__(self, family: str, num_treatments: int, **kwargs: Any):
        super().__init__(**kwargs)
        if family not in FAMILIES:
            raise ValueError(f"head {family!r} is not known; expected one of {FAMILIES}.")
        self.family, self.num_treatments = family, num_treatments
        self.location = self.add_weight(
            shape=(num_treatments,), initializer="zeros", trainable=False, name="location"
        )
        self.scale = self.add_weight(
            shape=(num_treatments,), initializer="ones", trainable=False, name="scale"
        )
        self.loss_scale = self.add_weight(
            shape=(), initializer="ones", trainable=False, name="loss_scale"
        )
        self.built = True

    def start_from(self, means: np.ndarray, second_moment: float, variance: float) -> None:
        """Lets training start from the trial's arm means.

        Args:
          means: [K], mean outcome of each arm.
          second_moment: mean of the squared outcome over the trial.
          variance: of the outcome over the trial.
        """
        means = np.asarray(means, np.float64)
        if self.family == "binary":
            rate = np.clip(means, 1e-6, 1 - 1e-6)
            self.location.assign(np.log(rate) - np.log1p(-rate))
        elif self.family == "nonnegative":
            self.scale.assign(means / _SOFTPLUS_ZERO)
            self.loss_scale.assign(max(second_moment, 1e-12))
        else:
            self.location.assign(means)
            self.scale.assign(np.full_like(means, max(variance, 1e-12) ** 0.5))
            self.loss_scale.assign(max(variance, 1e-12))

    def call(self, raw: Any) -> Any:
        """Predictions [batch, K] from raw outputs [batch, K]."""
        raw = tf.cast(raw, tf.float32)
        if self.family == "binary":
            return tf.sigmoid(raw + self.location)
        if self.family == "nonnegative":
            return self.scale * tf.nn.softplus(raw)
        if self.family == "real":
            return self.location + self.scale * raw
        return self.location + tf.zeros_like(raw)

    def errors(self, raw: Any, treatment: Any, outcome: Any) -> Any:
        """Loss of each row [batch]: raw [batch, K], treatment [batch], outcome [batch]."""
        outcome = tf.cast(outcome, tf.float32)
        if self.family == "constant":
            return tf.zeros_like(outcome)
        if self.family == "binary":
            logits = _received(tf.cast(raw, tf.float32) + self.location, treatment)
            return tf.nn.sigmoid_cross_entropy_with_logits(labels=outcome, logits=logits)
        return (_received(self.call(raw), treatment) - outcome) ** 2 / self.loss_scale

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        config = {"family": self.family, "num_treatments": self.num_treatments}
        return {**super().get_config(), **config}


def _received(matrix: tf.Tensor, treatment: tf.Tensor) -> tf.Tensor:
    # A masked sum, not a gather: its derivative is a masked broadcast, which XLA fuses.
    mask = tf.one_hot(treatment, matrix.shape[1], dtype=matrix.dtype)
    return tf.reduce_sum(matrix * mask, axis=1)
