"""The served computations as a `tf.Module`: predict, allocate at a price, allocate for a budget.

    allocate:              treatment = argmax_j v_j - policy_alpha c_j
    allocate_for_budget:   the same at alpha(policy_budget) of the budget table

Everything is [batch], so that a server may batch requests of different prices and budgets. The
module holds variables and look-up tables but no Keras object: it loads with plain TensorFlow.

What is not a sensible request spends as little as it can: a price that is negative or not finite
becomes the table's largest, a budget that is NaN counts as below the range, and a row with features
or predictions that are not finite is predicted NaN and gets the arm that is cheapest on average.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfalloc.data import FeatureSchema
from tfalloc.export.budget_table import ROUNDING, BudgetTable
from tfalloc.export.served_features import Inputs

ALPHA, BUDGET = "policy_alpha", "policy_budget"

Outputs = dict[str, tf.Tensor]


class Server(tf.Module):
    """What is saved. `serve` is traced at once, the others by `add_policy`.

    Args:
      model: Keras model from raw features to {"response", "cost"}, [batch, K] each.
      inputs: of the model.

    Raises:
      ValueError: if the model returns something else.
    """

    def __init__(self, model: Any, inputs: Inputs):
        super().__init__(name="tfalloc")
        specs = {feature.argument: feature.spec for feature in inputs.features}

        @tf.function(autograph=False)
        def serve(**features: tf.Tensor) -> Outputs:
            return _predict(model, inputs.pack(features))

        self._specs, self._inputs = specs, inputs
        self.serve = serve
        self.endpoints = {"serve": serve.get_concrete_function(**specs)}
        self.num_treatments = int(self.endpoints["serve"].structured_outputs["cost"].shape[1])
        self._own_resources(model)

    def __call__(self, features: Any) -> Outputs:
        """Predicts with the function that will be served, so that rounding is the same.

        Args:
          features: columns by name, or the matrix.
        """
        return self.serve(**self._inputs.arguments(features))

    @property
    def schema(self) -> FeatureSchema:
        """The features that it takes, for `evaluation.predict`."""
        return self._inputs.schema

    def _own_resources(self, model: Any) -> None:
        """Tracks what the graph uses: variables that it captured, and look-up tables."""
        self.model_variables = list(self.endpoints["serve"].graph.variables)
        # Graphs do not list the tables that they capture.
        found = tf.train.TrackableView(model).descendants()
        tables = [item for item in found if isinstance(item, _TABLES)]
        self.model_tables = tables

    def add_policy(self, table: BudgetTable, fallback: int) -> None:
        """Traces `allocate` and `allocate_for_budget`.

        Args:
          table: budget to alpha.
          fallback: arm for rows without finite predictions.
        """
        serve = self.serve
        prices = np.asarray(table.alpha, np.float32)
        thresholds, dearest = table.thresholds, float(table.cost[-1])
        ceiling = dearest + ROUNDING * abs(dearest)

        @tf.function(autograph=False)
        def allocate(policy_alpha: tf.Tensor, **features: tf.Tensor) -> Outputs:
            sound = tf.math.is_finite(policy_alpha) & (policy_alpha >= 0.0)
            alpha = tf.where(sound, policy_alpha, tf.constant(prices[0]))
            return choose(serve(**features), alpha, fallback)

        @tf.function(autograph=False)
        def allocate_for_budget(policy_budget: tf.Tensor, **features: tf.Tensor) -> Outputs:
            amount = tf.cast(policy_budget, tf.float64)
            amount = tf.where(tf.math.is_nan(amount), tf.constant(-np.inf, tf.float64), amount)
            index = tf.searchsorted(tf.constant(thresholds, tf.float64), amount, side="right") - 1
            clamped = (index < 0) | (amount > tf.constant(ceiling, tf.float64))
            alpha = tf.gather(tf.constant(prices), tf.maximum(index, 0))
            chosen = choose(serve(**features), alpha, fallback)
            return {**chosen, "alpha": alpha, "clamped": clamped}

        self.allocate, self.allocate_for_budget = allocate, allocate_for_budget
        for name, function, extra in (
            ("allocate", allocate, ALPHA),
            ("allocate_for_budget", allocate_for_budget, BUDGET),
        ):
            spec = tf.TensorSpec([None], tf.float32, name=extra)
            traced = function.get_concrete_function(**{extra: spec}, **self._specs)
            self.endpoints[name] = traced

    def save(self, directory: str) -> None:
        """Writes the SavedModel; `serve` is also the default signature."""
        signatures = {"serving_default": self.endpoints["serve"], **self.endpoints}
        tf.saved_model.save(self, directory, signatures=signatures)


def choose(predicted: Outputs, alpha: tf.Tensor, fallback: int) -> Outputs:
    """argmax_j v_j - alpha c_j in float64, the first arm at a tie (Yan et al. 2023, Eq. 4).

    Args:
      predicted: "response" and "cost", [batch, K].
      alpha: [batch], response per unit of cost, finite and >= 0.
      fallback: arm for rows with a prediction that is not finite.

    Returns:
      "treatment" int32 [batch]; "response" and "cost" [batch] of that arm.

    Example:
      >>> import tensorflow as tf
      >>> both = {"response": tf.constant([[0.1, 0.3]]), "cost": tf.constant([[0.0, 1.0]])}
      >>> choose(both, tf.constant([0.1]), 0)["treatment"].numpy()
      array([1], dtype=int32)
    """
    value = tf.cast(predicted["response"], tf.float64)
    price = tf.cast(predicted["cost"], tf.float64)
    # In float64 the product of two float32 numbers is exact, and v - alpha c is rounded once.
    worth = value - tf.cast(alpha, tf.float64)[:, tf.newaxis] * price
    best = tf.reduce_max(worth, axis=1, keepdims=True)
    # Not tf.argmax: it does not promise which of several maxima it returns.
    arms = tf.range(value.shape[1], dtype=tf.int32)
    first = tf.reduce_min(tf.where(worth == best, arms, value.shape[1] - 1), axis=1)
    finite = tf.reduce_all(tf.math.is_finite(value) & tf.math.is_finite(price), axis=1)
    treatment = tf.where(finite, first, tf.constant(fallback, tf.int32))
    return {
        "treatment": treatment,
        "response": tf.gather(predicted["response"], treatment, axis=1, batch_dims=1),
        "cost": tf.gather(predicted["cost"], treatment, axis=1, batch_dims=1),
    }


def _predict(model: Any, features: Any) -> Outputs:
    predicted = model(features, training=False)
    if not isinstance(predicted, dict) or not {"response", "cost"} <= set(predicted):
        raise ValueError(
            f"the model returns {type(predicted).__name__}; expected a dict with 'response' and "
            "'cost', [batch, treatments] each: pass an AllocationModel."
        )
    response = tf.cast(predicted["response"], tf.float32)
    cost = tf.cast(predicted["cost"], tf.float32)
    known = response.shape.rank == cost.shape.rank == 2 and response.shape[1] is not None
    if not known or response.shape[1] != cost.shape[1]:
        raise ValueError(
            f"the model returns 'response' {response.shape} and 'cost' {cost.shape}; expected "
            "[batch, treatments] for both with a fixed number of treatments."
        )
    sound = _sound_rows(model, features)
    if sound is not None:
        nan = tf.constant(np.nan, tf.float32)
        response = tf.where(sound, response, nan)
        cost = tf.where(sound, cost, nan)
    return {"response": response, "cost": cost}


def _sound_rows(model: Any, features: Any) -> tf.Tensor | None:
    """[batch, 1] bool, rows whose preprocessed features are finite; None if that cannot be told.

    Predictions do not tell: max(NaN, 0), a ReLU, is 0 on some machines, and the prediction then
    looks as good as any. A preprocessor that imputes missing values leaves none.
    """
    preprocessor = getattr(model, "preprocessor", None)
    matrix = features if preprocessor is None else preprocessor(features)
    if not isinstance(matrix, tf.Tensor) or not matrix.dtype.is_floating or matrix.shape.rank != 2:
        return None
    return tf.reduce_all(tf.math.is_finite(matrix), axis=1, keepdims=True)


_TABLES = (
    tf.lookup.StaticHashTable,
    tf.lookup.StaticVocabularyTable,
    tf.lookup.experimental.MutableHashTable,
    tf.lookup.experimental.DenseHashTable,
)
