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

What counts is added up as integers (`fixed_point`), so that a mask at one midpoint and a sweep over
all shadow prices give the same digits: `BranchTest` says whether C is above the budget, `Outcomes`
what V and C are, and their standard errors.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfalloc.outcome.algorithm1 import default_alpha_max
from tfalloc.outcome.batch import Tensor, TrialBatch, as_outcome_model
from tfalloc.outcome.fixed_point import Terms, exact_terms, ratio, to_fixed_point
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

    trial: TrialBatch
    models: tuple[tf.Tensor, ...] = ()
    divides_by_rows: bool = False

    @property
    def num_rows(self) -> tf.Tensor:
        return tf.cast(tf.size(self.trial.weight), tf.float64)

    def intervals(self) -> MatchIntervals:
        """The prices at which each term counts."""
        v, c, arm, *_ = self.trial
        if not self.models:
            return intervals_of(v, c, arm)
        # One arm after the other: all at once would need B K^2 numbers.
        everyone = tf.ones_like(arm)
        each = tf.map_fn(
            lambda arm: intervals_of(v, c, arm * everyone),
            tf.range(tf.shape(v)[1]),
            fn_output_signature=MatchIntervals(tf.float64, tf.float64, tf.bool, tf.bool),
        )
        return MatchIntervals(*(tf.reshape(x, [-1]) for x in each))

    def _received(self) -> tf.Tensor:
        """[K, B], whether the row received the arm."""
        arms = tf.range(tf.shape(self.trial.pred_response)[1])
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
        return tf.reshape(matched, tf.reverse(tf.shape(self.trial.pred_response), [0]))


def make_estimator(
    name: str,
    trial: TrialBatch,
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
        models = as_outcome_model(outcome_model, trial.pred_response.shape)
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
        arms = tf.cast(tf.shape(trial.pred_response)[1], tf.float64)
        trial = trial._replace(weight=trial.weight * arms)
    return Estimator(trial, (), divides_by_rows=name == "ht")


class BranchTest:
    """Whether C is above the budget: the sign of D (C - budget), from exact sums.

    With a model the two parts of C have different denominators, N and W = sum over S of w. The test
    is then the sign of N W (C - budget) = N sum over S of w (z - m_t - budget) + W sum_i m_{i,x_i},
    in float64 from the three exact sums. Nothing is divided, so dyadic input makes no error.

    Attributes:
      columns: what each term adds to the sums of the test, int64.
      units: the units of (excess, weight), the results, and what of an excess is rounding.
    """

    def __init__(self, estimator: Estimator, budget: tf.Tensor):
        self._estimator = estimator
        rows = estimator.num_rows
        # With D = N, unmatched rows count in D too: the budget is subtracted from the sum instead.
        budget_of_row = tf.zeros_like(budget) if estimator.divides_by_rows else budget
        terms = exact_terms(estimator.trial, budget_of_row)
        self.units: Terms = terms
        self.columns = [estimator.spread(terms.excess), estimator.spread(terms.weight)]
        self._offset = tf.zeros((), tf.int64)
        if estimator.divides_by_rows:
            # Far outside of the sums (below 2^60) is all that a far budget has to be.
            far = 2.0**62
            offset = tf.clip_by_value(rows * budget / terms.excess_unit, -far, far)
            self._offset = tf.cast(tf.round(offset), tf.int64)
            self._whole = tf.cast(tf.round(rows / terms.weight_unit), tf.int64)
            slack = estimator.trial.rounding * tf.abs(budget)
            self.units = terms._replace(slack=slack)
        if estimator.models:
            spend, unit = estimator.model_terms(COST)
            self.columns.append(spend)
            self._exchange = unit * (terms.weight_unit / terms.excess_unit)
            self.units = terms._replace(excess_unit=terms.excess_unit / tf.maximum(rows, 1.0))

    def of(self, sums: list[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """(excess, weight): C is above the budget iff `units.above` says so of them.

        Args:
          sums: of each of `columns` over the terms that count, any common shape.
        """
        if self._estimator.divides_by_rows:
            # An empty S has no cost that could meet the budget.
            whole = tf.where(sums[1] > 0, self._whole, tf.zeros_like(sums[1]))
            return sums[0] - self._offset, whole
        if not self._estimator.models:
            return sums[0], sums[1]
        residual, weight, spend = (tf.cast(x, tf.float64) for x in sums)
        return self._estimator.num_rows * residual + spend * weight * self._exchange, sums[1]

    def over(self, matched: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(excess, weight) over the terms that count, [..., terms] bool -> [...]."""
        member = tf.cast(matched, tf.int64)
        return self.of([tf.reduce_sum(member * column, axis=-1) for column in self.columns])

    def alpha_max(self, intervals: MatchIntervals) -> tf.Tensor:
        """`default_alpha_max`, for this test."""

        def sums_at(alpha: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            if not self._estimator.models:
                return self.over(intervals.contains(alpha[:, tf.newaxis]))
            # One price after the other: K times as many terms, and all prices at once, is too much.
            return tf.map_fn(
                lambda a: self.over(intervals.contains(a)),
                alpha,
                fn_output_signature=(tf.float64, tf.int64),
            )

        return default_alpha_max(sums_at, self.units, self._estimator.trial)


class Mean(NamedTuple):
    """The two parts of V or C: the mean of the model under the assigned arms, and R."""

    model: tf.Tensor
    residual: tf.Tensor

    @property
    def total(self) -> tf.Tensor:
        return self.model + self.residual


class Outcomes:
    """V, C and the size of S, from exact sums; NaN where S is empty.

    Attributes:
      columns: what each term adds to the sums, int64.
    """

    def __init__(self, estimator: Estimator):
        self._estimator = estimator
        trial = estimator.trial
        rows = [
            to_fixed_point(trial.weight),
            to_fixed_point(trial.weight * trial.response),
            to_fixed_point(trial.weight * trial.cost),
        ]
        self.columns = [estimator.spread(column) for column, _ in rows]
        self.columns.append(estimator.spread(tf.ones_like(trial.weight, tf.int64)))
        self._units = [unit for _, unit in rows]
        if estimator.models:
            models = [estimator.model_terms(outcome) for outcome in (RESPONSE, COST)]
            self.columns += [column for column, _ in models]
            self._model_units = [unit for _, unit in models]

    def of(self, sums: list[tf.Tensor]) -> tuple[Mean, Mean, tf.Tensor]:
        """Response, cost and the number of matched rows, from the sums of `columns`."""
        weight, response, cost, count, *models = sums
        weight_unit, *units = self._units
        rows = self._estimator.num_rows
        if self._estimator.divides_by_rows:
            whole = tf.cast(tf.round(rows / weight_unit), tf.int64)
            weight = tf.where(count > 0, whole, tf.zeros_like(count))
        means = [
            Mean(tf.zeros((), tf.float64), ratio(total, unit, weight, weight_unit))
            for total, unit in zip((response, cost), units, strict=True)
        ]
        if models:
            means = [
                mean._replace(model=tf.cast(total, tf.float64) * unit / rows)
                for mean, total, unit in zip(means, models, self._model_units, strict=True)
            ]
        return means[RESPONSE], means[COST], count

    def over(self, matched: tf.Tensor) -> tuple[Mean, Mean, tf.Tensor]:
        """Response, cost and the number of matched rows over the terms that count, [terms] bool."""
        member = tf.cast(matched, tf.int64)
        return self.of([tf.reduce_sum(member * column) for column in self.columns])

    def stderr(self, matched: tf.Tensor, outcome: int, mean: Mean) -> tf.Tensor:
        """Standard error of V (or C) at a fixed alpha: the root of the sum of squared influences.

        The influence of row i, with S, x, w, m and R as above:

            hajek, matched   w_i 1{i in S} (y_i - R) / W                W = sum over S of w
            ht               (w_i 1{i in S} y_i - R) / N
            doubly_robust    (m_{i,x_i} - mean of m) / N + w_i 1{i in S} (y_i - m_{i,t_i} - R) / W

        The two terms of the last are added before squaring, so that their covariance counts.
        """
        estimator = self._estimator
        trial = estimator.trial
        residual = trial.cost if outcome == COST else trial.response
        weight = trial.weight * tf.cast(estimator.matched_rows(matched), tf.float64)
        rows = estimator.num_rows
        if estimator.divides_by_rows:
            influence = (weight * residual - mean.residual) / rows
        else:
            influence = weight * (residual - mean.residual) / tf.reduce_sum(weight)
        if estimator.models:
            influence += (estimator.assigned_model(matched, outcome) - mean.model) / rows
        return tf.sqrt(tf.reduce_sum(influence**2))
