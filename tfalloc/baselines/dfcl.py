"""`DFCL`: prediction losses and a decision loss at fixed shadow prices, and its gradients.

    loss = L_response + L_cost - weight * mean over lambda of J(lambda)

At a shadow price lambda, user i has scores m_j = v_j - lambda c_j and is assigned argmax_j m_j. The
trial estimates the net value of these decisions from the rows that received what they are assigned:

    J(lambda) = (1/N) sum_i w_i (y_i - lambda z_i) 1{argmax_j m_ij = t_i},      w = 1 / propensity

J is piecewise constant. Two ways to a gradient, each a mean over a grid of lambdas:

    PL, MER   the indicator becomes softmax_j(m_ij / tau)[t_i], tau = 1 for PL:
              dJ/dm_ik = (w_i / N) (y_i - lambda z_i) p_t (1{k = t} - p_k) / tau
    IFD       the least change of the received arm's score that flips the decision is the gap
              g_i = |m_it - max_{k != t} m_ik|, and a flip to t adds (w_i / N) (y_i - lambda z_i):
              dJ/dm_it = (w_i / N) (y_i - lambda z_i) / g_i

and dm/dv = 1, dm/dc = -lambda. No budget enters: the grid stands for all budgets. `DFCL` is
`AllocationModel` with another gradient: its network, heads, training and files.

Source: Zhou et al. 2024, "Decision focused causal learning for direct counterfactual marketing
optimization".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfalloc.baselines.direct import KerasBaseline
from tfalloc.gradients import GoalGradient
from tfalloc.gradients.alpha_range import highest_alpha
from tfalloc.gradients.base import Gradient
from tfalloc.models import AllocationModel
from tfalloc.models.matrix_batches import as_trial_data
from tfalloc.outcome import expected_outcome
from tfalloc.outcome.batch import Tensor, TrialBatch

LOSSES = ("pl", "mer", "ifd")
MER_TEMPERATURE = 3.0
_GAP = 0.1  # default of min_gap, in mean gaps of the batch


class DecisionGradient(Gradient):
    """The mean over shadow prices of a decision's gradient; a subclass defines `_at_alpha`.

    Args:
      prices: the grid of lambda, response per unit of cost; None: `num_prices` midpoints between 0
        and the price above which a hundredth of the batch's predicted spend is left.
      num_prices: see `prices`.

    Calling it gives a `GoalGradient`: `goal` and `alpha` are those of Algorithm 1 at `budget`, as
    everywhere; the gradient is that of J and does not depend on the budget. `seed` is not needed.

    Raises:
      ValueError: prices are empty, negative or not finite.
    """

    def __init__(self, *, prices: Sequence[float] | None = None, num_prices: int = 8):
        if not isinstance(num_prices, (int, np.integer)) or num_prices < 1:
            raise ValueError(f"num_prices={num_prices!r}: expected an integer of at least 1.")
        self.num_prices = int(num_prices)
        self.prices = None if prices is None else tuple(float(x) for x in prices)
        if self.prices is not None and (
            not self.prices or not all(0.0 <= x < math.inf for x in self.prices)
        ):
            raise ValueError(
                f"prices={prices!r}: expected at least one finite response per unit of cost, none "
                "negative."
            )

    def _differentiate(
        self, trial: TrialBatch, budget: tf.Tensor, seed: Tensor | None
    ) -> GoalGradient:
        hard = expected_outcome(*trial[:5], 1.0 / trial.weight, budget=budget)
        alphas = self._grid(trial)
        arms = tf.cast(tf.shape(trial.pred_response)[1], tf.float64)
        # The mean of 1 / propensity is K in expectation.
        share = trial.weight * tf.math.divide_no_nan(arms, tf.reduce_sum(trial.weight))
        received = tf.one_hot(trial.treatment, tf.shape(trial.pred_response)[1], dtype=tf.float64)

        def add_alpha(index: Any, d_response: tf.Tensor, d_cost: tf.Tensor) -> tuple[Any, ...]:
            alpha = alphas[index]
            score = trial.pred_response - alpha * trial.pred_cost
            net = share * (trial.response - alpha * trial.cost)
            pull = self._at_alpha(score, received, net)
            return index + 1, d_response + pull, d_cost - alpha * pull

        # A loop, so that memory is that of one [batch, K] however many alphas there are.
        zero = tf.zeros_like(trial.pred_response)
        count = alphas.shape[0]
        _, d_response, d_cost = tf.while_loop(
            lambda index, *_: index < count, add_alpha, (0, zero, zero)
        )
        return GoalGradient(hard.response, d_response / count, d_cost / count, hard.alpha)

    def _grid(self, trial: TrialBatch) -> tf.Tensor:
        if self.prices is not None:
            return tf.constant(self.prices, tf.float64)
        middles = [(index + 0.5) / self.num_prices for index in range(self.num_prices)]
        return tf.constant(middles, tf.float64) * highest_alpha(
            trial.pred_response, trial.pred_cost
        )

    def _at_alpha(self, score: tf.Tensor, received: tf.Tensor, net: tf.Tensor) -> tf.Tensor:
        """dJ/dm at one alpha, [batch, K].

        Args:
          score: [batch, K], m.
          received: [batch, K], one-hot.
          net: [batch], (w_i / N) (y_i - lambda z_i), with weights of mean K.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        prices = None if self.prices is None else list(self.prices)
        return {"prices": prices, "num_prices": self.num_prices}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> DecisionGradient:
        """The inverse of `get_config`."""
        return cls(**config)


@keras.saving.register_keras_serializable(package="tfalloc")
class PolicyLearning(DecisionGradient):
    """PL, and MER at another temperature: the decision as a softmax of scores.

    Args:
      temperature: tau, response per user; 1 is PL, any other MER. Far above the differences of
        scores the gradient pulls alike at all rows, far below it at few.
      **grid: `prices`, `num_prices`, see `DecisionGradient`.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> gradient = PolicyLearning(prices=[0.1])
      >>> found = gradient([[0.1, 0.3]], [[0.0, 1.0]], [1], [1.0], [1.0], budget=1.0)
      >>> found.d_response.numpy().astype("f8").round(3).tolist()
      [[-0.449, 0.449]]

    Source: Zhou et al. 2024, "Decision focused causal learning for direct counterfactual marketing
    optimization".
    """

    def __init__(self, *, temperature: float = 1.0, **grid: Any):
        super().__init__(**grid)
        if not 0.0 < temperature < math.inf:
            raise ValueError(f"temperature={temperature!r}: expected a number above 0.")
        self.temperature = temperature

    def _at_alpha(self, score: tf.Tensor, received: tf.Tensor, net: tf.Tensor) -> tf.Tensor:
        chance = tf.nn.softmax(score / self.temperature, axis=1)
        own = tf.reduce_sum(chance * received, axis=1)
        return (net * own / self.temperature)[:, tf.newaxis] * (received - chance)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "temperature": self.temperature}


@keras.saving.register_keras_serializable(package="tfalloc")
class ImprovedFiniteDifference(DecisionGradient):
    """IFD: what flipping a user's decision would change, over the change of score that flips it.

    Args:
      min_gap: gaps count as at least this, in response per user: the quotient has no bound at a
        tie. None: a tenth of the batch's mean gap at that alpha.
      **grid: `prices`, `num_prices`, see `DecisionGradient`.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> gradient = ImprovedFiniteDifference(prices=[0.1], min_gap=0.0)
      >>> found = gradient([[0.1, 0.3]], [[0.0, 1.0]], [1], [1.0], [1.0], budget=1.0)
      >>> found.d_response.numpy().astype("f8").round(3).tolist()
      [[0.0, 18.0]]

    Source: Zhou et al. 2024, as `PolicyLearning`.
    """

    def __init__(self, *, min_gap: float | None = None, **grid: Any):
        super().__init__(**grid)
        if min_gap is not None and not 0.0 <= min_gap < math.inf:
            raise ValueError(
                f"min_gap={min_gap!r}: expected a response that is not negative, or None."
            )
        self.min_gap = min_gap

    def _at_alpha(self, score: tf.Tensor, received: tf.Tensor, net: tf.Tensor) -> tf.Tensor:
        own = tf.reduce_sum(score * received, axis=1)
        others = tf.where(received > 0.0, score.dtype.min, score)
        gap = tf.abs(own - tf.reduce_max(others, axis=1))
        if self.min_gap is None:
            least = _GAP * tf.reduce_mean(gap)
        else:
            least = tf.constant(self.min_gap, tf.float64)
        return received * tf.math.divide_no_nan(net, tf.maximum(gap, least))[:, tf.newaxis]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "min_gap": self.min_gap}


@keras.saving.register_keras_serializable(package="tfalloc")
class DFCL(KerasBaseline, AllocationModel):
    """Decision-focused causal learning: predictions trained for the decisions at fixed prices.

    Args:
      num_treatments: K.
      backbone: as in `AllocationModel`.
      loss: "pl" (the decision as a softmax), "mer" (the same at `temperature`) or "ifd" (the least
        change of the received arm that flips the decision).
      weight: of the decision loss beside the prediction losses, which are means over rows as it is.
      prices: grid of lambda, response per unit of cost; None: 8 between 0 and the price above which
        hardly any spend is predicted.
      temperature: of "mer", response per user; None: the authors' 3.
      min_gap: of "ifd", see `ImprovedFiniteDifference`.
      **options: as `AllocationModel`: heads, monotone, response_head, cost_head, cost_amounts,
        preprocessor, num_features, seed.

    `compile(budget=…)` says at which budgets validation judges, and is not used in training; `fit`
    compiles by itself if you did not, with the middle half between the costs of the cheapest and
    the dearest arm in the trial.

    Raises:
      ValueError: an argument is not known or out of range.

    Example:
      >>> import tfalloc
      >>> data = tfalloc.datasets.five_arms(2_000, seed=0).data
      >>> model = tfalloc.baselines.DFCL(5, "small", loss="pl")
      >>> history = model.fit(data, batch_size=1_000, epochs=1, verbose=0)
      >>> model.score(data).shape
      (2000, 4)

    Source: Zhou et al. 2024, "Decision focused causal learning for direct counterfactual marketing
    optimization".
    """

    def __init__(
        self,
        num_treatments: int,
        backbone: str | Sequence[int] | keras.Model | None = None,
        *,
        loss: str = "ifd",
        weight: float = 1.0,
        prices: Sequence[float] | None = None,
        temperature: float | None = None,
        min_gap: float | None = None,
        **options: Any,
    ):
        if loss not in LOSSES:
            raise ValueError(f"loss={loss!r} is not known; expected one of {LOSSES}.")
        for name, value, only in (("temperature", temperature, "mer"), ("min_gap", min_gap, "ifd")):
            if value is not None and loss != only:
                raise ValueError(
                    f"{name}={value!r} with loss={loss!r}: it is of use for loss={only!r} only; "
                    "leave it out, or pass that loss."
                )
        super().__init__(num_treatments, backbone, **options)
        self.decision_loss, self.weight, self.temperature = loss, weight, temperature
        self.prices = None if prices is None else tuple(prices)
        self.min_gap = min_gap
        self.decision_gradient()  # refuses settings out of range now

    def decision_gradient(self) -> DecisionGradient:
        """The gradient that `compile` uses; also one of its own for `AllocationModel`."""
        if self.decision_loss == "ifd":
            return ImprovedFiniteDifference(prices=self.prices, min_gap=self.min_gap)
        usual = 1.0 if self.decision_loss == "pl" else MER_TEMPERATURE
        temperature = usual if self.temperature is None else self.temperature
        return PolicyLearning(prices=self.prices, temperature=temperature)

    def compile(self, optimizer: Any = None, **options: Any) -> None:
        """As `AllocationModel.compile`, but goal_weight, goal_scale and gradient are DFCL's.

        Args:
          optimizer: Keras optimizer; None: Adam(1e-3).
          **options: as there. `budget` is needed unless the weight is 0. A goal_weight, goal_scale
            or gradient that is given here replaces what the constructor's arguments say.

        Raises:
          ValueError: as there.
        """
        own = {
            "goal_weight": self.weight,
            "goal_scale": "paper",
            "gradient": self.decision_gradient(),
        }
        super().compile(optimizer, **{**own, **options})

    def _compile_for(self, x: Any, y: Any) -> None:
        cost = as_trial_data(x, y).arm_moments("cost").mean
        low, high = float(cost.min()), float(cost.max())
        quarter = 0.25 * (high - low)
        self.compile(budget=(low + quarter, high - quarter))

    def get_config(self) -> dict[str, Any]:
        """What `from_config` needs, network included if there is one."""
        return {
            **super().get_config(),
            "loss": self.decision_loss,
            "weight": self.weight,
            "prices": None if self.prices is None else list(self.prices),
            "temperature": self.temperature,
            "min_gap": self.min_gap,
        }
