"""Losses and the expected outcome of a model over a whole set, in one pass over its batches."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfalloc.outcome import ExpectedOutcome, expected_outcome, match_intervals

# Predictions and outcomes of a set by name, NumPy arrays as `expected_outcome` takes them.
Rows = dict[str, Any]


class WholeSet(NamedTuple):
    """What a whole set says of a model.

    Attributes:
      logs: losses and goals by name.
      influence: [rows], each row's influence on the mean goal; None without budgets. The standard
        error of the difference of two models on the same rows is the root of the sum of the
        squared differences.
    """

    logs: dict[str, float]
    influence: np.ndarray | None


def whole_set_outcome(model: Any, batches: tf.data.Dataset, budgets: tuple[float, ...]) -> WholeSet:
    """Prediction losses, and the goal at each budget by the exact curve (method "path").

    Args:
      model: an `AllocationModel` with a network.
      batches: (matrix, targets[, sample_weight]).
      budgets: costs per user; empty: losses only.

    Returns:
      Logs of loss, response_loss, cost_loss; with budgets also what `goals` gives.

    Raises:
      ValueError: if there are no batches.
    """
    forward = _compiled(model)
    sums, total = {"response_loss": 0.0, "cost_loss": 0.0}, 0.0
    kept: list[Rows] = []
    for batch in batches:
        matrix, targets, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        predictions, losses = forward(matrix, targets, sample_weight)
        count = float(matrix.shape[0] if sample_weight is None else tf.reduce_sum(sample_weight))
        for name in sums:
            sums[name] += count * float(losses[name])
        total += count
        if budgets:
            share = targets.get("propensity")
            share = tf.ones_like(targets["cost"]) if share is None else share
            if sample_weight is not None:
                share = tf.cast(share, tf.float32) / tf.cast(sample_weight, tf.float32)
            columns = {
                "pred_response": predictions["response"],
                "pred_cost": predictions["cost"],
                **{name: targets[name] for name in ("treatment", "response", "cost")},
                "propensity": share,
            }
            kept.append({name: np.asarray(column) for name, column in columns.items()})
    if not total:
        raise ValueError("the data set to evaluate is empty (0 batches).")
    logs = {name: value / total for name, value in sums.items()}
    logs = {"loss": sum(logs.values()), **logs}
    if not budgets:
        return WholeSet(logs, None)
    rows = {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
    whole = goals(rows, budgets)
    return whole._replace(logs={**logs, **whole.logs})


def _compiled(model: Any) -> Any:
    """(predictions, losses) of a preprocessed batch, compiled once for a model."""
    if model._forward is None:

        @tf.function(reduce_retracing=True)
        def forward(matrix: Any, targets: Any, sample_weight: Any) -> Any:
            raw = model.network(matrix, training=False)
            losses = model._prediction_losses(raw, targets, sample_weight)
            return model._predictions(raw), losses

        model._forward = forward
    return model._forward


def goals(rows: Rows, budgets: tuple[float, ...]) -> WholeSet:
    """The expected outcome at each budget.

    A policy of which these rows do not show that it keeps a budget has no outcome there. Its goal
    then counts as the mean response under the cheapest arm, what can be had without a policy: a
    NaN would stay "the best" of `EarlyStopping` and `ModelCheckpoint` for good, for nothing is
    larger than it, and leaving the budget out would reward models for not keeping it.

    Args:
      rows: predictions and outcomes.
      budgets: costs per user, ascending.

    Returns:
      Logs of goal (mean over budgets, response per user), cost (mean, per user; NaN if a budget
      could not be kept), alpha (mean; likewise), matched (mean number of rows); with several
      budgets also goal@b for each.
    """
    at = {b: expected_outcome(**rows, budget=b, method="path") for b in budgets}
    known = {b: bool(q.converged) and int(q.num_matched) > 0 for b, q in at.items()}
    floor = 0.0 if all(known.values()) else _cheapest_arm_response(rows)
    response = {b: float(q.response) if known[b] else floor for b, q in at.items()}
    logs = {
        "goal": float(np.mean(list(response.values()))),
        "cost": float(np.mean([float(q.cost) if known[b] else np.nan for b, q in at.items()])),
        "alpha": float(np.mean([float(q.alpha) if known[b] else np.nan for b, q in at.items()])),
        "matched": float(np.mean([int(q.num_matched) for q in at.values()])),
    }
    if len(budgets) > 1:
        logs.update({f"goal@{b:g}": value for b, value in response.items()})
    influences = [_influence(rows, q) for b, q in at.items() if known[b]]
    influence = np.sum([*influences, np.zeros(len(rows["treatment"]))], axis=0) / len(budgets)
    return WholeSet(logs, influence)


def _influence(rows: Rows, at: ExpectedOutcome) -> np.ndarray:
    """Influence of each row on V at a budget, [rows].

    A row with more cost than the mean makes the price rise until the budget is kept, which takes
    alpha times the excess away from the response (alpha is what a unit of budget brings).
    """
    intervals = match_intervals(rows["pred_response"], rows["pred_cost"], rows["treatment"])
    alpha = float(at.alpha)
    lower, upper = intervals.lower.numpy(), intervals.upper.numpy()
    weight = ((lower <= alpha) & (alpha < upper)) / rows["propensity"].astype(np.float64)
    residual = rows["response"] - float(at.response) - alpha * (rows["cost"] - float(at.cost))
    return weight * residual / max(weight.sum(), np.finfo(np.float64).tiny)


def _cheapest_arm_response(rows: Rows) -> float:
    weight = 1.0 / rows["propensity"].astype(np.float64)
    arms = rows["pred_cost"].shape[1]
    size = np.bincount(rows["treatment"], weight, arms)
    safe = np.maximum(size, np.finfo(np.float64).tiny)
    cost = np.bincount(rows["treatment"], weight * rows["cost"], arms) / safe
    response = np.bincount(rows["treatment"], weight * rows["response"], arms) / safe
    return float(response[np.argmin(np.where(size > 0, cost, np.inf))])
