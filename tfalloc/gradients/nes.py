"""Natural evolution strategies: the gradient of a Gaussian-smoothed expected outcome (Eq. 9, 10).

Q(v, c) is piecewise constant. Averaged over Gaussian perturbations of its arguments it is smooth,
and its gradient needs values of Q only:

    S(v, c) = E Q(v + sigma e, c + tau d),      e, d ~ N(0, 1) for each entry, tau = sigma_cost
    dS/dv   = E Q(v + sigma e, c + tau d) e / sigma,      dS/dc = E Q(...) d / tau

(substitute u = v + sigma e and differentiate the density). Directions come in pairs (e, d) and
(-e, -d), which leaves the expectation and cancels all of Q that the pair has in common:

    dS/dv ~ mean over pairs of (Q+ - Q-) / (2 sigma) e,   dS/dc ~ mean of (Q+ - Q-) / (2 tau) d

Q is Algorithm 1. Instead of an argmax over all users and arms at each midpoint of each perturbed
problem, one pass turns a perturbed problem into match intervals on ticks, and a midpoint is then a
masked sum of exact integers over rows. Two choices keep the pass short (a third, cheap normals, is
in `antithetic_normals`):

1. The received arm is moved to the front, so that there is nothing to gather inside the loop; the
   rows lie innermost, so that K = 2 fills vector registers as K = 30 does. Entries of a direction
   are independent, so it does not matter which entry of (v, c) each is given to first.
2. Whether S is empty matters only at midpoints where the cost meets the budget: weights are summed
   there only.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import tensorflow as tf

from tfalloc.gradients.antithetic_normals import estimate
from tfalloc.gradients.base import GoalGradient, Gradient
from tfalloc.outcome.algorithm1 import (
    Bisection,
    Grid,
    TickIntervals,
    bisect,
    check_search,
    search_grid,
)
from tfalloc.outcome.batch import Tensor, TrialBatch
from tfalloc.outcome.fixed_point import Terms, exact_terms, ratio
from tfalloc.outcome.intervals import Rivals, intervals_of


class NES(Gradient):
    """The gradient of Q smoothed by Gaussian noise, estimated with antithetic pairs (Eq. 9, 10).

    Args:
      sigma: standard deviation of the noise on predicted responses, in units of response.
      sigma_cost: that of predicted costs, in units of cost; None: the same number as `sigma`.
      num_directions: perturbed problems N' that are solved, even: N' / 2 random directions, each
        taken forwards and backwards.
      joint: True perturbs v and c in the same N' problems, which gives both gradients; False
        solves N' problems for v (c as predicted) and another N' for c (v as predicted): twice
        the time, each gradient smoothed in its own argument only.
      alpha_max: largest shadow price of Algorithm 1, rounded up to a power of two; None: the
        smallest power of two from which on the matched cost of the unperturbed problem is not
        above the budget.
      max_iterations: halvings I of Algorithm 1, at most 52.
      tolerance: Algorithm 1 stops when |C - budget| is at most this, in cost per user.

    Calling it gives a `GoalGradient` whose `goal` and `alpha` are those of the unperturbed problem.
    Pairs of which one problem matches no row contribute 0. Memory does not grow with N'.

    Every entry carries noise of some std(Q+ - Q-) / (sigma sqrt(2 N')), whether or not it matters:
    the estimate points uphill over many rows and batches, not entry by entry.

    Raises:
      ValueError: if an argument is out of its range.

    Example:
      >>> import tfalloc
      >>> gradient = tfalloc.gradients.NES(sigma=0.05, num_directions=200, alpha_max=1.0)
      >>> v = [[0.10, 0.30], [0.20, 0.25], [0.10, 0.15]]
      >>> c = [[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]
      >>> trial = [1, 1, 0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]
      >>> result = gradient(v, c, *trial, budget=0.5, seed=(1, 2))
      >>> result.d_response.shape
      TensorShape([3, 2])

    Source: Yan et al. 2023, Eq. 9, 10 and Algorithm 1; Wierstra et al. 2014, "Natural evolution
    strategies", section 3; Salimans et al. 2017, "Evolution strategies as a scalable alternative
    to reinforcement learning", section 2.1 (antithetic pairs).
    """

    def __init__(
        self,
        *,
        sigma: float = 1e-3,
        num_directions: int = 2000,
        sigma_cost: float | None = None,
        joint: bool = True,
        alpha_max: float | None = None,
        max_iterations: int = 18,
        tolerance: float = 0.0,
    ):
        self.sigma = sigma
        self.sigma_cost = sigma if sigma_cost is None else sigma_cost
        for name in ("sigma", "sigma_cost"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise ValueError(
                    f"{name}={getattr(self, name)!r}: smoothing needs a finite deviation above 0."
                )
        if num_directions < 2 or num_directions % 2:
            raise ValueError(
                f"num_directions={num_directions!r}: expected an even number, for pairs +e and -e."
            )
        check_search(alpha_max, max_iterations, tolerance)
        self.num_directions = num_directions
        self.joint = joint
        self.alpha_max = alpha_max
        self.max_iterations = max_iterations
        self.tolerance = float(tolerance)

    def _differentiate(
        self, trial: TrialBatch, budget: tf.Tensor, seed: Tensor | None
    ) -> GoalGradient:
        if seed is None:
            raise ValueError("NES draws directions at random: pass seed=(a, b), two integers.")
        terms = exact_terms(trial, budget)
        rows = intervals_of(trial.pred_response, trial.pred_cost, trial.treatment)
        grid = search_grid(trial, rows, terms, self.alpha_max, self.max_iterations)
        problem = _Problem(trial, terms, grid, self.tolerance)
        still = _Noise(tf.zeros_like(problem.pred_response), tf.zeros((), tf.float64))
        goal, run = problem.solve(still, still)
        d_response, d_cost = estimate(
            functools.partial(self._half_differences, problem),
            tf.shape(problem.pred_response),
            self.num_directions // 2,
            seed,
        )
        return GoalGradient(
            goal,
            problem.restore(d_response) / self.sigma,
            problem.restore(d_cost) / self.sigma_cost,
            grid.alpha(run.tick),
        )

    def _half_differences(
        self, problem: _Problem, e: tf.Tensor, d: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        if self.joint:
            half = problem.half_difference(e, self.sigma, d, self.sigma_cost)
            return half, half
        return (
            problem.half_difference(e, self.sigma, d, 0.0),
            problem.half_difference(e, 0.0, d, self.sigma_cost),
        )


class _Noise(NamedTuple):
    """Noise on predictions: [..., K, B] standard normals, and scales that broadcast to [..., B]."""

    normals: tf.Tensor
    scale: tf.Tensor

    def added_to(self, predictions: tf.Tensor, k: tf.Tensor | int) -> tf.Tensor:
        """Row k of [K, B] predictions with its noise, [..., B] float64."""
        return predictions[k] + self.scale * tf.cast(self.normals[..., k, :], tf.float64)


class _Problem:
    """The unperturbed problem, the received arm moved to the front and rows moved innermost.

    Attributes:
      pred_response: [K, B] float64; row 0 is the received arm, the others follow in their order.
      pred_cost: [K, B] float64, likewise.
      wins_tie: [K, B], whether argmax prefers the received arm to the one in that position.
    """

    def __init__(self, trial: TrialBatch, terms: Terms, grid: Grid, tolerance: float):
        arms = tf.range(tf.shape(trial.pred_response)[1])[:, tf.newaxis]
        received = trial.treatment[tf.newaxis, :]
        # Position p holds the received arm (p = 0), arm p - 1 before it, or arm p after it.
        self._arm_at = tf.where(arms == 0, received, arms - tf.cast(arms <= received, tf.int32))
        self._position_of = tf.where(arms == received, 0, arms + tf.cast(arms < received, tf.int32))
        self.pred_response = _take(tf.transpose(trial.pred_response), self._arm_at)
        self.pred_cost = _take(tf.transpose(trial.pred_cost), self._arm_at)
        self.wins_tie = received < self._arm_at
        self.terms, self.grid, self.tolerance = terms, grid, tolerance

    def restore(self, entries: tf.Tensor) -> tf.Tensor:
        """Brings [K, B] entries back to [B, K], every arm in its own column."""
        return tf.transpose(_take(entries, self._position_of))

    def half_difference(
        self, e: tf.Tensor, sigma: float, d: tf.Tensor, sigma_cost: float
    ) -> tf.Tensor:
        """(Q+ - Q-) / 2 of antithetic pairs, [pairs] float64; 0 where one matches no row.

        Q+ and Q- are taken at (v, c) + and - (sigma e, sigma_cost d), e and d [pairs, K, B].
        """
        up_and_down = tf.constant([1.0, -1.0], tf.float64)[:, tf.newaxis, tf.newaxis]
        q, _ = self.solve(_Noise(e, sigma * up_and_down), _Noise(d, sigma_cost * up_and_down))
        half = (q[0] - q[1]) / 2.0
        return tf.where(tf.math.is_nan(half), tf.zeros_like(half), half)

    def solve(self, on_response: _Noise, on_cost: _Noise) -> tuple[tf.Tensor, Bisection]:
        """Q of perturbed problems by Algorithm 1: a scalar, or one for each sign and pair."""
        rows = self._intervals(on_response, on_cost)
        terms = self.terms

        def total(term: tf.Tensor, member: tf.Tensor) -> tf.Tensor:
            return tf.reduce_sum(tf.where(member, term, tf.zeros_like(term)), axis=-1)

        heaviest = tf.reduce_sum(terms.weight)

        def sums(tick: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            member = rows.contain(tick[..., tf.newaxis])
            excess = total(terms.excess, member)
            weight = tf.cond(
                tf.reduce_any(terms.close(excess, heaviest, self.tolerance)),
                lambda: total(terms.weight, member),
                lambda: tf.zeros_like(excess),  # too far from the budget to stop, whatever S is
            )
            return excess, weight

        like = tf.zeros(tf.shape(rows.after)[:-1], self.grid.dtype)
        run = bisect(sums, self.grid, terms, tolerance=self.tolerance, like=like)
        member = rows.contain(run.tick[..., tf.newaxis])
        response, weight = total(terms.response, member), total(terms.weight, member)
        return ratio(response, terms.response_unit, weight, terms.weight_unit), run

    def _intervals(self, on_response: _Noise, on_cost: _Noise) -> TickIntervals:
        """Ticks at which each row is matched, [..., B]: `Grid.intervals` in this layout.

        One rival at a time: what is kept is a row's interval, not a bound for each rival (nor the
        perturbed predictions), and the inner loops run along rows.
        """
        own_response, own_cost = (
            on_response.added_to(self.pred_response, 0),
            on_cost.added_to(self.pred_cost, 0),
        )

        def body(k, after, until):
            gain = on_response.added_to(self.pred_response, k) - own_response
            extra = on_cost.added_to(self.pred_cost, k) - own_cost
            equal, wins_tie = extra == 0.0, self.wins_tie[k]
            bound = self.grid.bounds(
                Rivals(
                    quotient=gain / tf.where(equal, tf.ones_like(extra), extra),
                    dearer=extra > 0.0,
                    cheaper=extra < 0.0,
                    wins_tie=wins_tie,
                    beaten=equal & ((gain > 0.0) | ((gain == 0.0) & ~wins_tie)),
                )
            )
            return k + 1, tf.maximum(after, bound.after), tf.minimum(until, bound.until)

        never = tf.zeros_like(own_response + own_cost, self.grid.dtype)
        _, after, until = tf.while_loop(
            lambda k, *_: k < tf.shape(self.pred_response)[0],
            body,
            (1, never, never + (self.grid.size - 1)),
            parallel_iterations=1,
        )
        return TickIntervals(after, until)


def _take(matrix: tf.Tensor, row: tf.Tensor) -> tf.Tensor:
    """matrix[row[p, i], i] for [K, B] each."""
    return tf.transpose(tf.gather(tf.transpose(matrix), tf.transpose(row), axis=1, batch_dims=1))
