"""The estimators of V and C (Eq. 5, 6): which rows add what, and what the sums are divided by.

With S the rows whose trial treatment t is the assigned one, and x the assigned arm of every row,

    V = (1/N) sum_i m_{i,x_i} + R,     R = sum_{i in S} w_i (y_i - m_{i,t_i}) / D

and C likewise with the cost z and its model.

    estimator        w                 D                  m
    hajek            1 / propensity    sum over S of w    0
    matched          1                 sum over S of w    0
    ht               1 / propensity    N                  0
    doubly_robust    1 / propensity    sum over S of w    outcomes expected by a frozen model

The model term of `doubly_robust` counts *every* row, under the arm that it is assigned. Arm j is
assigned to row i on the very interval of prices on which the row would be matched had it received
j: with a model, the terms are those of all K B pairs of an arm and a row, and each is in or out of
the sums by the interval of its pair. Without a model only the received pairs, B of them, count.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfalloc.outcome._trial import Tensor, Trial, as_outcome_model
from tfalloc.outcome.exact import to_fixed_point
from tfalloc.outcome.intervals import MatchIntervals, intervals_of, received

ESTIMATORS = ("hajek", "matched", "ht", "doubly_robust")
RESPONSE, COST = 0, 1  # the two outcomes, in the order of every pair of them


class Estimator(NamedTuple):
    """A batch, and which of its terms count at a price: B rows or, arm by arm, K B pairs.

    Attributes:
      trial: the batch; `response` and `cost` are residuals (y - m_t, z - m_t) if there is a model.
      models: (response, cost) of every row under every arm, [B, K] each; () without a model.
      divides_by_rows: D = N instead of the matched weight.
    """

    trial: Trial
    models: tuple[tf.Tensor, ...]
    divides_by_rows: bool

    @property
    def num_rows(self) -> tf.Tensor:
        return tf.cast(tf.size(self.trial.weight), tf.float64)

    def intervals(self) -> MatchIntervals:
        """The prices at which each term counts."""
        value, price, arm, *_ = self.trial
        if not self.models:
            return intervals_of(value, price, arm)
        # One arm after the other: all at once would need B K^2 numbers.
        everyone = tf.ones_like(arm)
        each = tf.map_fn(
            lambda arm: intervals_of(value, price, arm * everyone),
            tf.range(tf.shape(value)[1]),
            fn_output_signature=MatchIntervals(tf.float64, tf.float64, tf.bool, tf.bool),
        )
        return MatchIntervals(*(tf.reshape(x, [-1]) for x in each))

    def _received(self) -> tf.Tensor:
        """[K, B], whether the row received the arm."""
        arms = tf.range(tf.shape(self.trial.value)[1])
        return arms[:, tf.newaxis] == self.trial.treatment

    def spread(self, rows: tf.Tensor) -> tf.Tensor:
        """What each row adds if it is matched, [B] int64, as terms."""
        if not self.models:
            return rows
        return tf.reshape(tf.cast(self._received(), tf.int64) * rows, [-1])

    def model_terms(self, outcome: int) -> tuple[tf.Tensor, tf.Tensor]:
        """What each pair adds to the model term N (V - R), likewise of C; and its unit."""
        return to_fixed_point(tf.reshape(tf.transpose(self.models[outcome]), [-1]))

    def matched_rows(self, matched: tf.Tensor) -> tf.Tensor:
        """The rows of S, [B] bool, from the terms that count."""
        if not self.models:
            return matched
        return tf.reduce_any(self._assigned(matched) & self._received(), axis=0)

    def assigned_model(self, matched: tf.Tensor, outcome: int) -> tf.Tensor:
        """m_{i,x_i}, [B], from the terms that count."""
        assigned = tf.cast(self._assigned(matched), tf.float64)
        return tf.reduce_sum(assigned * tf.transpose(self.models[outcome]), axis=0)

    def _assigned(self, matched: tf.Tensor) -> tf.Tensor:
        return tf.reshape(matched, tf.reverse(tf.shape(self.trial.value), [0]))


def make_estimator(
    name: str,
    trial: Trial,
    *,
    propensity: Tensor | None,
    outcome_model: tuple[Tensor, Tensor] | None,
) -> Estimator:
    """The estimator `name` of a batch.

    Args:
      name: one of `ESTIMATORS`.
      trial: the batch, weighted by 1 / propensity.
      propensity: as the user gave it; None leaves the scale of the weights open.
      outcome_model: (response, cost), [batch, num_treatments] each; "doubly_robust" only.

    Raises:
      ValueError: if the name is unknown, or `outcome_model` is missing, not wanted or of a wrong
        shape.
    """
    if name not in ESTIMATORS:
        raise ValueError(f"estimator={name!r} is not known; expected one of {ESTIMATORS}.")
    if name == "doubly_robust":
        if outcome_model is None:
            raise ValueError(
                "estimator='doubly_robust' needs outcome_model=(response, cost), expected of every "
                "row under every arm; pass them, or use estimator='hajek'."
            )
        models = as_outcome_model(outcome_model, trial.value.shape)
        residual_response, residual_cost = (
            x - received(m, trial.treatment)
            for x, m in zip((trial.response, trial.cost), models, strict=True)
        )
        residuals = trial._replace(response=residual_response, cost=residual_cost)
        return Estimator(residuals, models, divides_by_rows=False)
    if outcome_model is not None:
        raise ValueError(
            f"outcome_model is not used by estimator={name!r}; pass estimator='doubly_robust', or "
            "leave it out."
        )
    if name == "matched":
        trial = trial._replace(weight=tf.ones_like(trial.weight))
    elif name == "ht" and propensity is None:
        # Horvitz-Thompson needs the weights themselves: all arms were equally likely.
        arms = tf.cast(tf.shape(trial.value)[1], tf.float64)
        trial = trial._replace(weight=trial.weight * arms)
    return Estimator(trial, (), divides_by_rows=name == "ht")
