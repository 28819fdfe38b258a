"""The exact sums of an estimator: is C above the budget, and what are V, C and their errors?

Which terms count at a price is `estimators`' affair; here they are added up, as integers (`exact`),
so that a mask at one midpoint and a sweep over all prices give the same digits.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfalloc.outcome.estimators import COST, RESPONSE, Estimator
from tfalloc.outcome.exact import Terms, exact_terms, ratio, to_fixed_point
from tfalloc.outcome.intervals import MatchIntervals
from tfalloc.outcome.ticks import default_alpha_max


class BranchTest:
    """Whether C is above the budget: the sign of D (C - budget), from exact sums.

    With a model the two parts of C have different denominators, N and W = sum over S of w. The test
    is then the sign of N W (C - budget) = N sum over S of w (z - m_t - budget) + W sum_i m_{i,x_i},
    in float64 from the three exact sums. Nothing is divided, so dyadic input makes no error.

    Attributes:
      columns: what each term adds to the sums of the test, int64.
      units: supplies the units of (excess, weight), the results.
    """

    def __init__(self, estimator: Estimator, budget: tf.Tensor):
        self._estimator = estimator
        rows = estimator.num_rows
        # With D = N, unmatched rows count in D too: the budget is subtracted from the sum instead.
        budget_of_row = tf.zeros_like(budget) if estimator.divides_by_rows else budget
        terms = exact_terms(estimator.trial, budget_of_row)
        self.units: Terms = terms
        self.columns = [estimator.spread(terms.excess)]
        self._offset = tf.zeros((), tf.int64)
        if estimator.divides_by_rows:
            # Far outside of the sums (below 2^60) is all that a far budget has to be.
            far = 2.0**62
            offset = tf.clip_by_value(rows * budget / terms.excess_unit, -far, far)
            self._offset = tf.cast(tf.round(offset), tf.int64)
            self._whole = tf.cast(tf.round(rows / terms.weight_unit), tf.int64)
        else:
            self.columns.append(estimator.spread(terms.weight))
        if estimator.models:
            spend, unit = estimator.model_terms(COST)
            self.columns.append(spend)
            self._exchange = unit * (terms.weight_unit / terms.excess_unit)
            self.units = terms._replace(excess_unit=terms.excess_unit / tf.maximum(rows, 1.0))

    def of(self, sums: list[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """(excess, weight): C is above the budget iff excess > 0.

        Args:
          sums: of each of `columns` over the terms that count, any common shape.
        """
        if self._estimator.divides_by_rows:
            excess = sums[0] - self._offset
            return excess, tf.zeros_like(excess) + self._whole
        if not self._estimator.models:
            return sums[0], sums[1]
        residual, weight, spend = (tf.cast(x, tf.float64) for x in sums)
        return self._estimator.num_rows * residual + spend * weight * self._exchange, sums[1]

    def over(self, matched: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(excess, weight) over the terms that count, [..., terms] bool -> [...]."""
        member = tf.cast(matched, tf.int64)
        return self.of([tf.reduce_sum(member * column, axis=-1) for column in self.columns])

    def alpha_max(self, intervals: MatchIntervals) -> tf.Tensor:
        """`ticks.default_alpha_max`, for this test."""

        def excess_at(alpha: tf.Tensor) -> tf.Tensor:
            if not self._estimator.models:
                return self.over(intervals.contains(alpha[:, tf.newaxis]))[0]
            # One price after the other: K times as many terms, and all prices at once, is too much.
            return tf.map_fn(lambda a: self.over(intervals.contains(a))[0], alpha)

        return default_alpha_max(excess_at)


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
