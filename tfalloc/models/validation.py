"""Losses and the expected outcome of a model over a whole set, in one pass over its batches."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfalloc.outcome import expected_outcome


def whole_set_outcome(
    model: Any, batches: tf.data.Dataset, budget: float | None
) -> dict[str, float]:
    """Prediction losses, and the goal at a budget by the exact curve (method "path").

    Args:
      model: an `AllocationModel` with a network.
      batches: (matrix, targets[, sample_weight]).
      budget: cost per user; None: losses only.

    Returns:
      response_loss, cost_loss; with a budget also goal, cost, alpha and matched.
    """

    sums, total = {"response_loss": 0.0, "cost_loss": 0.0}, 0.0
    kept: list[tuple[np.ndarray, ...]] = []
    for batch in batches:
        matrix, targets, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        predictions, losses = model._evaluate_batch(matrix, targets, sample_weight)
        rows = float(matrix.shape[0] if sample_weight is None else tf.reduce_sum(sample_weight))
        for name in sums:
            sums[name] += rows * float(losses[name])
        total += rows
        if budget is not None:
            share = targets.get("propensity")
            share = tf.ones_like(targets["cost"]) if share is None else share
            if sample_weight is not None:
                share = share / sample_weight
            columns = (
                predictions["response"],
                predictions["cost"],
                targets["treatment"],
                targets["response"],
                targets["cost"],
                share,
            )
            kept.append(tuple(np.asarray(column) for column in columns))
    if not total:
        raise ValueError("the data set to evaluate is empty (0 batches).")
    logs = {name: value / total for name, value in sums.items()}
    if budget is not None:
        v, c, t, y, z, p = (np.concatenate(parts) for parts in zip(*kept, strict=True))
        outcome = expected_outcome(v, c, t, y, z, p, budget=budget, method="path")
        logs["goal"] = float(outcome.response)
        logs["cost"] = float(outcome.cost)
        logs["alpha"] = float(outcome.alpha)
        logs["matched"] = float(outcome.num_matched)
    return logs
