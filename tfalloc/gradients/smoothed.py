"""The gradient of a smoothed expected outcome, in closed form.

Noise on the predictions makes "row i is matched" a probability p_i, smooth in v and c (`_choice`):

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

from tfalloc.gradients._smooth import Noise, SmoothOutcome, search
from tfalloc.gradients.base import GoalGradient, Gradient
from tfalloc.outcome import ExpectedOutcome, expected_outcome
from tfalloc.outcome._trial import Tensor, Trial, as_float64, as_trial
from tfalloc.outcome.ticks import check_search

KINDS = ("softmax", "gaussian")


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
        trial: Trial,
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
            trial = as_trial(pred_response, pred_cost, treatment, response, cost, propensity)
            start = self._hard(trial, budget).alpha
            result = self._outcome(trial, budget, start, mu, outcome_model)
            return SmoothedOutcome(*(tf.stop_gradient(x) for x in result))

    def _hard(self, trial: Trial, budget: Tensor) -> ExpectedOutcome:
        return expected_outcome(
            trial.value,
            trial.price,
            trial.treatment,
            trial.response,
            trial.cost,
            1.0 / trial.weight,
            budget=budget,
            alpha_max=self.alpha_max,
        )

    def _outcome(
        self,
        trial: Trial,
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
