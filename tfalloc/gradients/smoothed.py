"""The gradient of a smoothed expected outcome, in closed form.

Noise on the predictions makes "row i is matched" a probability p_i that is smooth in v
and c (`_noisy_choice`):

    n = sum_i w_i p_i,     V = sum_i w_i p_i y_i / n,     C = sum_i w_i p_i z_i / n

The shadow price alpha is held implicitly by C(alpha) = budget. Differentiating that equation gives
d alpha = - dC / (dC/dalpha), with dC taken at fixed alpha. Inserted into dQ = dV + (dV/dalpha)
d alpha, it leaves a Lagrangian whose multiplier mu is the exchange rate of the two outcomes:

    dQ = sum_i (w_i / n) [ (y_i - V) - mu (z_i - C) ] dp_i,     mu = (dV/dalpha) / (dC/dalpha)

One O(BK) pass, and no sampling noise of its own. Where the budget does not bind, alpha = mu = 0.

Doubly robust. With the outcomes m_ij that a frozen model expects of row i under arm j:

    V = (1/N) sum_ij p_ij m_ij + sum_i w_i p_it (y_i - m_it) / n,     C likewise
    dV = (1/N) sum_ij m_ij dp_ij + sum_i (w_i / n) [ (y_i - m_it) - R ] dp_it

where R is the second term of V. Consistent if the propensities *or* the model are right; m = 0 is
the estimator above. The model must not have seen these rows (cross-fitting), and must not be the
heads in training: the objective would reward their optimism.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import tensorflow as tf

from tfalloc.gradients._noisy_choice import (
    Choice,
    gaussian_choice,
    softmax_choice,
    softmax_received,
)
from tfalloc.gradients.base import GoalGradient, Gradient
from tfalloc.outcome.algorithm1 import check_search, typical_alpha
from tfalloc.outcome.batch import (
    Tensor,
    TrialBatch,
    as_batch,
    as_budget,
    as_float64,
    as_outcome_model,
)
from tfalloc.outcome.estimators import Estimator
from tfalloc.outcome.expected import ExpectedOutcome, outcome_of
from tfalloc.outcome.intervals import received

KINDS = ("softmax", "gaussian")
# Of C(alpha) = budget, relative to the largest cost, before the last Newton step, which doubles
# the digits.
_PRECISION = 1e-6
_REACH = 4.0  # a search without an upper end grows by at most this factor a step


class SmoothedOutcome(NamedTuple):
    """The smoothed outcome of the budgeted assignment and its derivatives; float64 constants.

    Attributes:
      response: scalar, V, response per user.
      cost: scalar, C, cost per user.
      alpha: scalar, solves C(alpha) = budget; 0 where the budget does not bind.
      mu: scalar, response per unit of cost: what one more unit of budget is worth.
      d_response: [batch, num_treatments], dV/dv along C = budget.
      d_cost: [batch, num_treatments], dV/dc along C = budget.
    """

    response: tf.Tensor
    cost: tf.Tensor
    alpha: tf.Tensor
    mu: tf.Tensor
    d_response: tf.Tensor
    d_cost: tf.Tensor


class Smoothed(Gradient):
    """Gradient of Q with every match replaced by its probability under noise.

    Args:
      temperature: scale of the noise on predicted responses, in units of response. Smaller is less
        biased and noisier: only rows within a few temperatures of a tie contribute.
      kind: "softmax" of (v - alpha c) / temperature; or "gaussian", independent normal noise of
        standard deviation `temperature` on v and `temperature_cost` on c, which is what `NES`
        converges to as the batch and the number of directions grow.
      temperature_cost: standard deviation of the noise on predicted costs, in units of cost
        ("gaussian" only); None: the same number as `temperature`.
      mu: "empirical", the ratio of slopes: exact for the batch, but of either sign where few rows
        are near a tie or outcomes are rare; "alpha", the shadow price, its limit for a calibrated
        model as the temperature falls; or a number, such as a running mean over steps. 0 in any
        case where the budget does not bind.
      num_nodes: quadrature nodes ("gaussian" with more than two arms only).
      newton_steps: most steps of the search for alpha; some 4 suffice where C falls steadily.
      alpha_max: largest shadow price of Algorithm 1, where the search starts; None: see
        `expected_outcome`.

    Calling it gives a `GoalGradient`: `goal` and `alpha` are those of Algorithm 1 without noise;
    the gradient is taken at the shadow price that solves the smooth C. It is 0 if no price meets
    the budget. `outcome` gives the smoothed V and C. `seed` is not needed. The call also takes

      mu: scalar, replaces the constructor's `mu` at this call.
      outcome_model: (response, cost) expected of every row under every arm, each
        [batch, num_treatments], from a frozen, cross-fitted model: the doubly robust variant.

    Raises:
      ValueError: if an argument is out of its range.

    Example:
      >>> import tfalloc
      >>> gradient = tfalloc.gradients.Smoothed(temperature=0.05)
      >>> v = [[0.10, 0.30], [0.20, 0.25], [0.10, 0.15]]
      >>> c = [[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]
      >>> result = gradient(v, c, [1, 1, 0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0], budget=0.5)
      >>> bool(result.d_response[0, 1] > 0), bool(result.d_response[1, 1] < 0)
      (True, True)

    Source: implicit differentiation of Yan et al. 2023, Eq. 3 to 6, under the noise of Eq. 9.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.01,
        kind: str = "softmax",
        temperature_cost: float | None = None,
        mu: str | float = "empirical",
        num_nodes: int = 32,
        newton_steps: int = 16,
        alpha_max: float | None = None,
    ):
        self.temperature = temperature
        self.temperature_cost = temperature if temperature_cost is None else temperature_cost
        for name in ("temperature", "temperature_cost"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected a number above 0.")
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} is not known; expected one of {KINDS}.")
        if mu not in ("empirical", "alpha") and (isinstance(mu, str) or not math.isfinite(mu)):
            raise ValueError(
                f"mu={mu!r}: expected 'empirical', 'alpha' or a finite response per unit of cost."
            )
        if not 2 <= num_nodes <= 1024:
            raise ValueError(f"num_nodes={num_nodes!r}: expected 2 to 1024 quadrature nodes.")
        if newton_steps < 1:
            raise ValueError(f"newton_steps={newton_steps!r}: expected at least 1 step.")
        check_search(alpha_max, 1, 0.0)
        self.kind = kind
        self.mu = mu
        self.num_nodes = num_nodes
        self.newton_steps = newton_steps
        self.alpha_max = alpha_max

    def extra(self, outcome_model: tuple[Tensor, Tensor]) -> dict[str, Any]:
        """The doubly robust variant."""
        return {"outcome_model": outcome_model}

    def _differentiate(
        self,
        trial: TrialBatch,
        budget: tf.Tensor,
        seed: Tensor | None,
        *,
        mu: Tensor | None = None,
        outcome_model: tuple[Tensor, Tensor] | None = None,
    ) -> GoalGradient:
        hard = self._hard(trial, budget)
        smooth = self._outcome(trial, budget, hard.alpha, mu, outcome_model)
        return GoalGradient(hard.response, smooth.d_response, smooth.d_cost, hard.alpha)

    def outcome(
        self,
        pred_response: Tensor,
        pred_cost: Tensor,
        treatment: Tensor,
        response: Tensor,
        cost: Tensor,
        budget: Tensor,
        propensity: Tensor | None = None,
        *,
        mu: Tensor | None = None,
        outcome_model: tuple[Tensor, Tensor] | None = None,
    ) -> SmoothedOutcome:
        """The smoothed V, C, alpha and mu on one batch; arguments as in the call."""
        with tf.name_scope("smoothed_outcome"):
            trial = as_batch(pred_response, pred_cost, treatment, response, cost, propensity)
            start = self._hard(trial, as_budget(budget)).alpha
            result = self._outcome(trial, budget, start, mu, outcome_model)
            return SmoothedOutcome(*(tf.stop_gradient(x) for x in result))

    def _hard(self, trial: TrialBatch, budget: tf.Tensor) -> ExpectedOutcome:
        return outcome_of(Estimator(trial), budget, alpha_max=self.alpha_max)

    def _outcome(
        self,
        trial: TrialBatch,
        budget: Tensor,
        start: tf.Tensor,
        mu: Tensor | None,
        outcome_model: tuple[Tensor, Tensor] | None,
    ) -> SmoothedOutcome:
        budget = as_float64(budget)
        noise = Noise(self.kind, self.temperature, self.temperature_cost, self.num_nodes)
        at = SmoothOutcome(trial, noise, outcome_model)
        binds = at.cost(tf.zeros((), tf.float64))[0] > budget
        alpha, feasible = search(at, trial, budget, start, self.newton_steps)
        alpha = tf.where(binds, alpha, tf.zeros_like(alpha))
        here = at(alpha)
        if mu is not None or not isinstance(self.mu, str):
            rate = as_float64(self.mu if mu is None else mu)
        elif self.mu == "alpha":
            rate = alpha
        else:
            rate = tf.math.divide_no_nan(here.response_slope, here.cost_slope)
        rate = tf.where(binds, rate, tf.zeros_like(rate))
        d_score = here.d_response - rate * here.d_cost
        d_score = tf.where(binds & ~feasible, tf.zeros_like(d_score), d_score)
        return SmoothedOutcome(here.response, here.cost, alpha, rate, d_score, -alpha * d_score)


class Noise(NamedTuple):
    """Kind and scale of the noise on scores; see `Smoothed`."""

    kind: str
    scale: float
    scale_cost: float
    num_nodes: int


class Values(NamedTuple):
    """V and C at a shadow price; slopes: d/dalpha; d_*: [B, K], d/dscore at fixed alpha."""

    response: tf.Tensor
    cost: tf.Tensor
    response_slope: tf.Tensor
    cost_slope: tf.Tensor
    d_response: tf.Tensor
    d_cost: tf.Tensor


class SmoothOutcome:
    """alpha -> `Values` of one batch."""

    def __init__(
        self, trial: TrialBatch, noise: Noise, outcome_model: tuple[Tensor, Tensor] | None
    ):
        self._trial = trial
        self._noise = noise
        self._doubly_robust = outcome_model is not None
        arms = tf.shape(trial.pred_response)[1]
        # What is differentiated: the received arm's probability, then each model's mean outcome.
        sets = [tf.one_hot(trial.treatment, arms, dtype=tf.float64)]
        self._residuals = [trial.response, trial.cost]
        if outcome_model is not None:
            models = as_outcome_model(outcome_model, trial.pred_response.shape)
            sets += models
            self._residuals = [
                x - received(m, trial.treatment)
                for x, m in zip(self._residuals, models, strict=True)
            ]
        self._coefficients = tf.stack(sets)

    def __call__(self, alpha: tf.Tensor) -> Values:
        trial = self._trial
        score = trial.pred_response - alpha * trial.pred_cost
        choice, growth = self._choose(score, alpha)
        matched = trial.weight * received(choice.probability, trial.treatment)
        total = tf.reduce_sum(matched)
        motion = -trial.pred_cost - growth * score  # d score / dalpha, with the change of noise
        rows = tf.cast(tf.shape(score)[0], tf.float64)

        def estimate(outcome: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            residual = self._residuals[outcome]
            mean = tf.math.divide_no_nan(tf.reduce_sum(matched * residual), total)
            influence = tf.math.divide_no_nan(trial.weight * (residual - mean), total)
            d_score = influence[:, tf.newaxis] * choice.pulled[0]
            if self._doubly_robust:
                mean += tf.reduce_sum(choice.probability * self._coefficients[1 + outcome]) / rows
                d_score += choice.pulled[1 + outcome] / rows
            return mean, tf.reduce_sum(d_score * motion), d_score

        response, response_slope, d_response = estimate(0)
        cost, cost_slope, d_cost = estimate(1)
        return Values(response, cost, response_slope, cost_slope, d_response, d_cost)

    def cost(self, alpha: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """C and dC/dalpha alone, which is all that the search for alpha looks at."""
        if self._noise.kind != "softmax" or self._doubly_robust:
            values = self(alpha)
            return values.cost, values.cost_slope
        trial = self._trial
        extra = trial.pred_cost - received(trial.pred_cost, trial.treatment)[:, tf.newaxis]
        gain = (
            trial.pred_response
            - received(trial.pred_response, trial.treatment)[:, tf.newaxis]
            - alpha * extra
        )
        scale = tf.constant(self._noise.scale, tf.float64)
        probability, slope = softmax_received(gain, -extra, scale)
        total = tf.reduce_sum(trial.weight * probability)
        cost = tf.math.divide_no_nan(tf.reduce_sum(trial.weight * probability * trial.cost), total)
        motion = tf.reduce_sum(trial.weight * slope * (trial.cost - cost))
        return cost, tf.math.divide_no_nan(motion, total)

    def _choose(self, score: tf.Tensor, alpha: tf.Tensor) -> tuple[Choice, tf.Tensor]:
        """Also d log(scale) / dalpha: growing noise is shrinking scores, as p(m, s) = p(m/s, 1)."""
        scale = tf.constant(self._noise.scale, tf.float64)
        if self._noise.kind == "softmax":
            return softmax_choice(score, scale, self._coefficients), tf.zeros_like(alpha)
        scale_cost = tf.constant(self._noise.scale_cost, tf.float64)
        variance = scale**2 + (alpha * scale_cost) ** 2
        choice = gaussian_choice(
            score, tf.sqrt(variance), self._coefficients, self._noise.num_nodes
        )
        return choice, alpha * scale_cost**2 / variance


def search(
    at: SmoothOutcome, trial: TrialBatch, budget: tf.Tensor, start: tf.Tensor, steps: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Newton steps on C(alpha) = budget inside a bracket; (alpha, whether C reached the budget).

    C of a finite batch need not be monotone, so a Newton step is taken only where C falls and the
    step stays inside the bracket; otherwise the bracket is halved, or, without an upper end, grown.
    """
    inf = tf.constant(math.inf, tf.float64)
    tolerance = _PRECISION * (tf.abs(budget) + tf.reduce_max(tf.abs(trial.cost)))

    # The hard alpha may be next to 0 where only the smooth C exceeds the budget.
    typical = typical_alpha(trial.pred_response, trial.pred_cost)

    # low, high: C(low) > budget >= C(high), once seen; alpha: the next point to look at.
    def body(step, alpha, low, high, done):
        cost, slope = at.cost(alpha)
        excess = cost - budget
        low = tf.where(excess > 0.0, alpha, low)
        high = tf.where(excess > 0.0, high, alpha)
        top = tf.where(high < inf, high, _REACH * tf.maximum(alpha, typical))
        # From far above, climbing again is faster than halving.
        middle = tf.minimum(0.5 * (low + high), _REACH * tf.maximum(low, typical))
        newton = alpha - tf.math.divide_no_nan(excess, slope)
        good = (slope < 0.0) & (newton > low) & (newton < top)
        done = tf.abs(excess) <= tolerance
        otherwise = tf.where(done, alpha, tf.where(high < inf, middle, top))
        alpha = tf.where(good, newton, otherwise)
        return step + 1, alpha, low, high, done

    zero = tf.zeros((), tf.float64)
    _, alpha, _, high, done = tf.while_loop(
        lambda step, alpha, low, high, done: ~done,
        body,
        (0, start, zero, inf, tf.constant(False)),
        maximum_iterations=steps,
    )
    return alpha, done | (high < inf)
