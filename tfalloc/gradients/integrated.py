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
from typing import Any, NamedTuple

import tensorflow as tf

from tfalloc.gradients.alpha_range import AlphaRange, alphas_of_budgets, highest_alpha
from tfalloc.gradients.base import GoalGradient, Gradient
from tfalloc.outcome.batch import Tensor, TrialBatch, as_batch, as_float64
from tfalloc.outcome.estimators import Estimator
from tfalloc.outcome.expected import outcome_of
from tfalloc.outcome.intervals import received, rivals

WEIGHTS = ("uniform", "drp", "budget")
_GAP = 0.01  # default of min_cost_gap, in mean spreads of predicted cost


class IntegratedObjective(NamedTuple):
    """J and its gradient; float64 constants for automatic differentiation.

    Attributes:
      objective: scalar, J; response per user times the mass of omega.
      d_response: [batch, num_treatments], dJ/dv.
      d_cost: [batch, num_treatments], dJ/dc.
      prices: [2], the range (low, high) over which J integrates, response per unit of cost.
    """

    objective: tf.Tensor
    d_response: tf.Tensor
    d_cost: tf.Tensor
    prices: tf.Tensor


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
        trial: TrialBatch,
        budget: tf.Tensor,
        seed: Tensor | None,
        *,
        baseline: tuple[Tensor, Tensor] | None = None,
    ) -> GoalGradient:
        hard = outcome_of(Estimator(trial), budget)
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
            trial = as_batch(pred_response, pred_cost, treatment, response, cost, propensity)
            return integrate(trial, self._prices(trial, budget), self.min_cost_gap, baseline)

    def _prices(self, trial: TrialBatch, budget: Tensor) -> AlphaRange:
        drp = self.weight == "drp"
        if self.prices is not None:
            low, high = (tf.constant(x, tf.float64) for x in self.prices)
            return AlphaRange(low, high, drp)
        if self.weight != "budget":
            return AlphaRange(
                tf.zeros((), tf.float64), highest_alpha(trial.pred_response, trial.pred_cost), drp
            )
        if self.budgets is None:
            middle = as_float64(budget)
            budgets = middle * (1.0 - self.spread), middle * (1.0 + self.spread)
        else:
            budgets = tuple(tf.constant(x, tf.float64) for x in self.budgets)
        return AlphaRange(*alphas_of_budgets(trial, budgets), drp)


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
        trial = as_batch(pred_response, pred_cost, treatment, response, cost, propensity)
        return integrate(trial, AlphaRange(low, high, weight == "drp"), min_cost_gap, baseline)


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


def integrate(
    trial: TrialBatch,
    prices: AlphaRange,
    min_cost_gap: float | None,
    baseline: tuple[Tensor, Tensor] | None,
) -> IntegratedObjective:
    """J and its gradient on one batch; see `Integrated` for the arguments."""
    v, c, arm = trial.pred_response, trial.pred_cost, trial.treatment
    arms = tf.shape(v)[1]
    y, z = trial.response, trial.cost
    if baseline is not None:
        y, z = (x - _row(b, x) for x, b in zip((y, z), baseline, strict=True))
    # The mean of 1 / propensity is K in expectation.
    share = trial.weight * tf.math.divide_no_nan(
        tf.cast(arms, tf.float64), tf.reduce_sum(trial.weight)
    )

    own_response, own_cost = received(v, arm), received(c, arm)
    versus = rivals(own_response, own_cost, v, c, arm)
    extra = c - own_cost[:, tf.newaxis]
    if min_cost_gap is None:
        spread = tf.reduce_max(c, axis=1) - tf.reduce_min(c, axis=1)
        gap = _GAP * tf.reduce_mean(spread)
    else:
        gap = tf.constant(min_cost_gap, tf.float64)
    guarded = tf.abs(extra) < gap
    safe = tf.where(guarded, tf.where(extra < 0.0, -gap, gap), extra)
    safe = tf.where(safe == 0.0, tf.ones_like(safe), safe)
    quotient = (v - own_response[:, tf.newaxis]) / safe
    infinity = tf.constant(math.inf, tf.float64)
    lowers = tf.where(versus.dearer, quotient, -infinity)
    uppers = tf.where(versus.cheaper, quotient, infinity)
    lower, upper = tf.reduce_max(lowers, axis=1), tf.reduce_min(uppers, axis=1)
    lo, hi = prices.clip(lower), prices.clip(upper)
    matched = (lo < hi) & ~tf.reduce_any(versus.beaten, axis=1)

    lo0, lo1 = prices.antiderivatives(lo)
    hi0, hi1 = prices.antiderivatives(hi)
    each = share * (y * (hi0 - lo0) - z * (hi1 - lo1))
    objective = tf.reduce_sum(tf.where(matched, each, tf.zeros_like(each)))

    def through(end: tf.Tensor, inside: tf.Tensor, rival: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """dJ/dend, carried to the entries of the two arms that meet there, [B, K] each."""
        slope = share * (y - end * z) * prices.density(end)
        slope = tf.where(matched & inside, slope, tf.zeros_like(slope))
        meets = tf.one_hot(rival, arms, dtype=tf.float64)
        at_rival = meets * (slope[:, tf.newaxis] / safe)
        at_rival_cost = tf.where(guarded, tf.zeros_like(at_rival), -end[:, tf.newaxis] * at_rival)
        own = tf.one_hot(arm, arms, dtype=tf.float64)
        d_response, d_cost = (
            x - own * tf.reduce_sum(x, axis=1, keepdims=True) for x in (at_rival, at_rival_cost)
        )
        return d_response, d_cost

    hi_response, hi_cost = through(hi, hi == upper, tf.argmin(uppers, axis=1))
    lo_response, lo_cost = through(lo, lo == lower, tf.argmax(lowers, axis=1))
    ends = tf.stack([prices.low, prices.high])
    found = objective, hi_response - lo_response, hi_cost - lo_cost, ends
    return IntegratedObjective(*(tf.stop_gradient(x) for x in found))


def _row(baseline: Tensor, like: tf.Tensor) -> tf.Tensor:
    column = as_float64(baseline)
    if column.shape.rank != 1 or not column.shape.is_compatible_with(like.shape):
        raise ValueError(
            f"baseline must be two columns of shape [batch] = {like.shape}; "
            f"received {column.shape}."
        )
    return column
