"""The value of the induced policy over all shadow prices, and its exact gradient.

At price alpha the policy argmax(v - alpha c) is worth, per user of the trial,

    G(alpha) = (1/N) sum_i w_i 1{row i is matched at alpha} (y_i - alpha z_i)

G is a step function of v and c. Its integral over prices with a weight omega is not: row i is
matched between lo_i and hi_i (`outcome.match_intervals`), so with antiderivatives Om0, Om1

    J = integral G omega
      = (1/N) sum_i w_i [ y_i (Om0(hi_i) - Om0(lo_i)) - z_i (Om1(hi_i) - Om1(lo_i)) ]

    dJ/dhi_i = (w_i/N) (y_i - hi_i z_i) omega(hi_i),     dJ/dlo_i the same with a minus

Either end is the quotient q = (v_k - v_t) / (c_k - c_t) with one rival k, hence

    dq/dv_k = 1 / (c_k - c_t) = -dq/dv_t,     dq/dc = -q dq/dv

No smoothing and no sampling: every row speaks at its own price of indifference. At each price the
best policy maximises G, so omega says which budgets matter, not what is right. Ends outside the
prices are clipped and get no gradient, nor do rows whose interval is empty.

With two arms and w = N / N_t, J with the "drp" weight on prices (0, 1) is minus the DRP loss, up to
a constant. For any K, "uniform" is -2K times the loss of DRP's form for several arms (weighted
N / (K N_t)), whose factors are half the prices, wherever these fall from arm to arm.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from tfalloc.gradients._integral import IntegratedObjective, integrate
from tfalloc.gradients._prices import Prices, budget_prices, highest_price
from tfalloc.gradients.base import GoalGradient, Gradient
from tfalloc.outcome import expected_outcome
from tfalloc.outcome._trial import Tensor, Trial, as_float64, as_trial

WEIGHTS = ("uniform", "drp", "budget")


class Integrated(Gradient):
    """Gradient of the policy's value integrated over shadow prices.

    Args:
      weight: which prices count. "uniform": all of the range alike; "drp": 1 / (s (1 - s)), with s
        the price's position in the range; "budget": the prices of a range of budgets alike, found
        anew on each batch.
      prices: range (low, high) of shadow prices, response per unit of cost; None: from 0 to where
        a hundredth of the predicted spend is left, found anew on each batch. A negative `low`
        gives a gradient to rows whose uplift is predicted with the wrong sign.
      budgets: range (low, high), cost per user, of "budget"; None: `spread` around the call's.
      spread: half-width of the budgets of "budget", as a share of the call's budget.
      min_cost_gap: cost differences count as at least this, with their sign, in the ends of match
        intervals; in units of cost. None: a hundredth of the mean spread of a row's predicted
        costs. Rows below it get no gradient in c.

    Calling it gives a `GoalGradient`: `goal` and `alpha` are those of Algorithm 1 at `budget`, the
    gradient is that of J. `objective` gives J itself. `seed` is not needed. The call also takes

      baseline: (response, cost), each [batch], subtracted from the observed outcomes. Any function
        of a row's features (not of its treatment or outcomes) leaves the expected gradient
        unchanged. A cross-fitted mean outcome, arms weighted by 1 / propensity, makes it less
        noisy where response minus alpha times cost is large whatever the arm.

    Scale. J is a mean over rows: one row pulls at its response uplift with (w / N) (y - alpha z) /
    (|c_k - c_t| (high - low)) under "uniform", where the denominator is about the largest uplift d
    of a row. A mean cross entropy pulls at a response with (1 / N) (y - p) / (p (1 - p)). Their
    ratio is about w p (1 - p) / d, some 1 to 10: a `goal_weight` near 1 is a place to start.

    Raises:
      ValueError: if an argument is out of its range.

    Example:
      >>> import tfalloc
      >>> gradient = tfalloc.gradients.Integrated(prices=(0.0, 1.0))
      >>> v = [[0.10, 0.30], [0.20, 0.25], [0.10, 0.15]]
      >>> c = [[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]
      >>> trial = [1, 1, 0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]
      >>> gradient.objective(v, c, *trial, budget=0.5).d_response.numpy().round(3).tolist()
      [[-0.533, 0.533], [0.033, -0.033], [0.0, 0.0]]
      >>> round(float(gradient.objective(v, c, *trial, budget=0.5).objective), 4)
      0.1192

    Source: Zhou et al. 2023 (DRP) and its form for several arms, any weight, any predictions.
    """

    def __init__(
        self,
        *,
        weight: str = "uniform",
        prices: tuple[float, float] | None = None,
        budgets: tuple[float, float] | None = None,
        spread: float = 0.1,
        min_cost_gap: float | None = None,
    ):
        if weight not in WEIGHTS:
            raise ValueError(f"weight={weight!r} is not known; expected one of {WEIGHTS}.")
        if weight == "budget" and prices is not None:
            raise ValueError(f"prices={prices!r}: weight='budget' finds its prices; pass None.")
        if weight != "budget" and budgets is not None:
            raise ValueError(f"budgets={budgets!r}: only weight='budget' takes a budget range.")
        if not 0.0 < spread <= 1.0:
            raise ValueError(f"spread={spread!r}: expected a share of the budget in (0, 1].")
        _check_gap(min_cost_gap)
        self.weight = weight
        self.prices = None if prices is None else _pair("prices", prices)
        self.budgets = None if budgets is None else _pair("budgets", budgets)
        self.spread = spread
        self.min_cost_gap = min_cost_gap

    def extra(self, outcome_model: tuple[Tensor, Tensor]) -> dict[str, Any]:
        """The mean over arms as a baseline: 1 / propensity gives each arm the same weight."""
        response, cost = outcome_model
        return {"baseline": (tf.reduce_mean(response, axis=1), tf.reduce_mean(cost, axis=1))}

    def _differentiate(
        self,
        trial: Trial,
        budget: tf.Tensor,
        seed: Tensor | None,
        *,
        baseline: tuple[Tensor, Tensor] | None = None,
    ) -> GoalGradient:
        hard = expected_outcome(*trial[:5], 1.0 / trial.weight, budget=budget)
        result = integrate(trial, self._prices(trial, budget), self.min_cost_gap, baseline)
        return GoalGradient(hard.response, result.d_response, result.d_cost, hard.alpha)

    def objective(
        self,
        pred_response: Tensor,
        pred_cost: Tensor,
        treatment: Tensor,
        response: Tensor,
        cost: Tensor,
        budget: Tensor,
        propensity: Tensor | None = None,
        *,
        baseline: tuple[Tensor, Tensor] | None = None,
    ) -> IntegratedObjective:
        """J on one batch; arguments as in the call (`budget` matters to "budget" only)."""
        with tf.name_scope("integrated_objective"):
            trial = as_trial(pred_response, pred_cost, treatment, response, cost, propensity)
            return integrate(trial, self._prices(trial, budget), self.min_cost_gap, baseline)

    def _prices(self, trial: Trial, budget: Tensor) -> Prices:
        drp = self.weight == "drp"
        if self.prices is not None:
            low, high = (tf.constant(x, tf.float64) for x in self.prices)
            return Prices(low, high, drp)
        if self.weight != "budget":
            return Prices(tf.zeros((), tf.float64), highest_price(trial.value, trial.price), drp)
        if self.budgets is None:
            middle = as_float64(budget)
            budgets = middle * (1.0 - self.spread), middle * (1.0 + self.spread)
        else:
            budgets = tuple(tf.constant(x, tf.float64) for x in self.budgets)
        return Prices(*budget_prices(trial, budgets), drp)


def integrated_objective(
    pred_response: Tensor,
    pred_cost: Tensor,
    treatment: Tensor,
    response: Tensor,
    cost: Tensor,
    propensity: Tensor | None = None,
    *,
    prices: tuple[float, float],
    weight: str = "uniform",
    baseline: tuple[Tensor, Tensor] | None = None,
    min_cost_gap: float | None = None,
) -> IntegratedObjective:
    """The policy's value integrated over shadow prices, and its gradient.

    Weights 1 / propensity are scaled to the mean K that they have in expectation, so that only
    their ratios matter; equal propensities and shares N_t / N need no scaling.

    Args:
      pred_response: [batch, num_treatments], predicted response v.
      pred_cost: [batch, num_treatments], predicted cost c, per user.
      treatment: [batch], integers in [0, num_treatments).
      response: [batch], observed response.
      cost: [batch], observed cost, per user.
      propensity: [batch], probability of the received treatment; None: all the same.
      prices: range (low, high), response per unit of cost.
      weight: "uniform" (mass 1) or "drp" (1 / (s (1 - s)), s = (alpha - low) / (high - low)).
      baseline: (response, cost), each [batch]; see `Integrated`.
      min_cost_gap: see `Integrated`.

    Raises:
      ValueError: if shapes do not fit or an argument is out of its range.

    Example:
      >>> from tfalloc.gradients.integrated import integrated_objective
      >>> one = integrated_objective([[0.1, 0.3]], [[0, 1]], [1], [1.0], [0.0], prices=(0, 1))
      >>> round(float(one.objective), 3)  # matched below the price .2, with weight K = 2
      0.4
    """
    if weight not in WEIGHTS[:2]:
        raise ValueError(f"weight={weight!r} is not known; expected one of {WEIGHTS[:2]}.")
    _check_gap(min_cost_gap)
    low, high = (tf.constant(x, tf.float64) for x in _pair("prices", prices))
    with tf.name_scope("integrated_objective"):
        trial = as_trial(pred_response, pred_cost, treatment, response, cost, propensity)
        return integrate(trial, Prices(low, high, weight == "drp"), min_cost_gap, baseline)


def _pair(name: str, pair: tuple[float, float]) -> tuple[float, float]:
    try:
        low, high = (float(x) for x in pair)
    except (TypeError, ValueError):
        low = high = math.nan
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"{name}={pair!r}: expected a range (low, high), finite, low < high.")
    return low, high


def _check_gap(min_cost_gap: float | None) -> None:
    if min_cost_gap is not None and not 0.0 <= min_cost_gap < math.inf:
        raise ValueError(
            f"min_cost_gap={min_cost_gap!r}: expected a cost that is not negative, or None."
        )
