"""Common entry of `outcome` and `gradients`: one trial batch as tensors of one dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfalloc.mckp.within_budget import FLOAT64_ROUNDING, rounding

Tensor = Any  # NumPy arrays and tensors are both welcome wherever this stands.


class TrialBatch(NamedTuple):
    """A batch of trial rows beside the predictions made for it, all float64 but `treatment`.

    Attributes:
      pred_response: [B, K] predicted response of every arm (v).
      pred_cost: [B, K] predicted cost of every arm (c).
      treatment: [B] int32, the arm received in the trial.
      response: [B] observed response (y).
      cost: [B] observed cost (z).
      weight: [B] 1 / propensity of the received arm; ones if no propensity was given.
      rounding: Python float, what `cost` may be off by, as a share (`mckp.within_budget`).
    """

    pred_response: tf.Tensor
    pred_cost: tf.Tensor
    treatment: tf.Tensor
    response: tf.Tensor
    cost: tf.Tensor
    weight: tf.Tensor
    rounding: float = FLOAT64_ROUNDING


def as_float64(x: Tensor) -> tf.Tensor:
    """Converts to float64. TensorFlow alone would round Python numbers to float32 first."""
    if tf.is_tensor(x):
        return tf.cast(x, tf.float64)
    return tf.constant(np.asarray(x, np.float64))


def as_budget(budget: Tensor) -> tf.Tensor:
    """Converts a cost per user to a float64 scalar.

    Raises:
      ValueError: if it is not one number, or known not to be finite.
    """
    try:
        amount = as_float64(budget)
    except (TypeError, ValueError):
        raise ValueError(f"budget={budget!r}: expected one number, cost per user.") from None
    if amount.shape.rank not in (0, None):
        raise ValueError(
            f"budget has shape {amount.shape}, expected one number, cost per user: call once for "
            "each budget."
        )
    known = tf.get_static_value(amount)
    if known is not None and not np.isfinite(known):
        raise ValueError(
            f"budget={budget!r}: expected a finite cost per user; for an unlimited budget pass one "
            "above the cost of the dearest assignment."
        )
    return amount


def as_predictions(
    pred_response: Tensor, pred_cost: Tensor, treatment: Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Converts predictions to float64 [B, K] and the received arm to int32 [B].

    Decisions compare `v_t - v_k` with `alpha (c_t - c_k)`. In float32 these differences lose the
    digits that decide near-ties, hence float64 whatever the dtype of the input.

    Raises:
      ValueError: if ranks or static shapes do not fit together.
    """
    v = as_float64(pred_response)
    c = as_float64(pred_cost)
    arm = tf.cast(tf.convert_to_tensor(treatment), tf.int32)
    if v.shape.rank != 2 or c.shape.rank != 2:
        raise ValueError(
            "pred_response and pred_cost must have shape [batch, num_treatments]; received "
            f"{v.shape} and {c.shape}."
        )
    if not v.shape.is_compatible_with(c.shape):
        raise ValueError(
            "pred_response and pred_cost must have the same shape [batch, num_treatments]; "
            f"received {v.shape} and {c.shape}."
        )
    _check_rows("treatment", arm, v.shape)
    arms = v.shape[1]
    _check_values(
        "treatment", arm, lambda x: (x >= 0) & (x < arms), f"integers in [0, num_treatments={arms})"
    )
    return v, c, arm


def as_batch(
    pred_response: Tensor,
    pred_cost: Tensor,
    treatment: Tensor,
    response: Tensor,
    cost: Tensor,
    propensity: Tensor | None = None,
) -> TrialBatch:
    """Converts one batch of a trial; see `TrialBatch`.

    Raises:
      ValueError: if ranks or static shapes do not fit together; outside of graphs, where looking
        costs little, also if an outcome is not finite or a propensity not above 0.
    """
    v, c, arm = as_predictions(pred_response, pred_cost, treatment)
    y = as_float64(response)
    z = as_float64(cost)
    _check_rows("response", y, v.shape)
    _check_rows("cost", z, v.shape)
    if propensity is None:
        weight = tf.ones_like(y)
    else:
        share = as_float64(propensity)
        _check_rows("propensity", share, v.shape)
        weight = 1.0 / share
        # Above 1 is welcome: sample weights may be folded into propensities.
        _check_values("propensity", share, lambda x: x > 0.0, "numbers above 0")
    for name, outcome in (("response", y), ("cost", z)):
        _check_values(name, outcome, np.isfinite, "finite numbers")
    return TrialBatch(v, c, arm, y, z, weight, rounding(cost))


def as_outcome_model(
    outcome_model: tuple[Tensor, Tensor], shape: tf.TensorShape
) -> tuple[tf.Tensor, tf.Tensor]:
    """Converts the (response, cost) that a model expects of every row under every arm.

    Raises:
      ValueError: if these are not two matrices of the shape of the predictions.
    """
    try:
        response, cost = outcome_model
    except (TypeError, ValueError):
        raise ValueError(
            "outcome_model must be a pair (response, cost) of matrices [batch, num_treatments]; "
            f"received {type(outcome_model).__name__}."
        ) from None
    models = as_float64(response), as_float64(cost)
    for name, model in zip(("response", "cost"), models, strict=True):
        if model.shape.rank != 2 or not model.shape.is_compatible_with(shape):
            raise ValueError(
                f"outcome_model's {name} must have the shape of the predictions, "
                f"[batch, num_treatments] = {shape}; received {model.shape}."
            )
    return models


def _check_rows(name: str, rows: tf.Tensor, shape: tf.TensorShape) -> None:
    if rows.shape.rank != 1 or not rows.shape[:1].is_compatible_with(shape[:1]):
        raise ValueError(
            f"{name} must have shape [batch] = [{shape[0]}], one entry for each row of the "
            f"predictions; received {rows.shape}."
        )


def _check_values(name: str, rows: tf.Tensor, good: Callable[[Any], Any], expected: str) -> None:
    if not tf.executing_eagerly():
        return
    values = rows.numpy()
    bad = np.flatnonzero(~good(values))
    if bad.size:
        raise ValueError(
            f"{name}[{bad[0]}] is {values[bad[0]]} ({bad.size} such rows), expected {expected}: "
            "correct or drop the rows."
        )
