"""`heads="marginal"`: what the allocation compares is what the network outputs.

For arms in the order of their cost,

    response_0, cost_0                         of the cheapest arm, as independent heads
    marginal_cost_k > 0, return_k              of the step from arm k - 1 to arm k
    cost_j     = cost_0     + sum over k <= j of marginal_cost_k
    response_j = response_0 + sum over k <= j of return_k marginal_cost_k

so return_k is the shadow price below which a user is upgraded. It is signed, or positive with
`monotone`; nothing makes returns diminish. The difference of two independent heads would carry the
noise of both instead. Means of signed returns may leave an outcome's range, by little: losses pull
them back, and predictions are left as they are, since clipping would change the returns.

Constant costs leave only the returns to learn. With cost = amount_j response_j ("on_response") the
step k at return r needs v_k - v_{k-1} = r (a_k v_k - a_{k-1} v_{k-1}), and one output q > 0 gives

    return_k = q / ((1 + q) a_k),      v_k = v_{k-1} (1 + q (1 - a_{k-1} / a_k)).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfalloc.data import ArmMoments
from tfalloc.models.heads.checks import HeadSettings
from tfalloc.models.heads.distributions import (
    Arms,
    climb,
    isotonic,
    level,
    log_odds,
    rise,
    start_level,
    start_rise,
    variance,
)


class Marginal:
    """Raw outputs to both outcomes of all arms, step by step from the cheapest."""

    def __init__(self, settings: HeadSettings):
        self.settings = settings
        k = settings.num_treatments
        self.sizes = {"response": 1, "return": k - 1}
        if settings.learns("cost"):
            self.sizes |= {"cost": 1, "marginal_cost": k - 1}
        self.sizes |= {
            f"{name}_odds": k for name, head in settings.head_of().items() if head == "hurdle"
        }

    def constants(self) -> dict[str, tuple[int, float]]:
        """name -> (length, initial value) of what `start` sets."""
        sizes = dict(self.sizes)
        if self.settings.cost_head == "constant":
            sizes["cost"] = self.settings.num_treatments
        made: dict[str, tuple[int, float]] = {}
        for name, size in sizes.items():
            made[f"{name}_location"] = (size, 0.0)
            if not name.endswith("_odds"):
                made[f"{name}_scale"] = (size, 1.0)
        return made

    def start(self, moments: dict[str, ArmMoments]) -> dict[str, np.ndarray]:
        """Constants at which raw = 0 predicts the means of the arms."""
        settings = self.settings
        response, cost = (np.asarray(moments[x].mean, np.float64) for x in ("response", "cost"))
        if settings.learns("cost"):
            cost = _rising(cost)
        if settings.monotone:
            response = isotonic(response)
        if settings.cost_head == "on_response":
            response = np.maximum(response, 1e-3 * response.max())  # no growth starts from 0
        usual = {name: variance(known) ** 0.5 for name, known in moments.items()}
        parts = {"response": start_level(settings.response_head, response[:1], usual["response"])}
        if settings.cost_head == "on_response":
            parts["return"] = _start_growth(response, np.asarray(settings.cost_amounts, np.float64))
        else:
            parts["return"] = _start_returns(response, cost, usual["response"], settings.monotone)
        if settings.cost_head == "constant":
            parts["cost"] = cost, np.ones_like(cost)
        elif settings.learns("cost"):
            parts["cost"] = start_level(settings.cost_head, cost[:1], usual["cost"])
            parts["marginal_cost"] = start_rise(np.diff(cost), 0.0)
        values = {}
        for name, (location, scale) in parts.items():
            values[f"{name}_location"], values[f"{name}_scale"] = location, scale
        for name, head in settings.head_of().items():
            if head == "hurdle":
                values[f"{name}_odds_location"] = log_odds(moments[name].positive_share)
        return values

    def arms(self, raw: dict[str, Any], constants: dict[str, Any]) -> dict[str, Arms]:
        """Predictions of both outcomes, [batch, K]."""
        settings = self.settings

        def first(name: str, head: str) -> Any:
            x = level(head, raw[name], constants[f"{name}_location"], constants[f"{name}_scale"])
            return tf.sigmoid(x) if head == "binary" else x

        def steps(name: str) -> Any:
            location, scale = constants[f"{name}_location"], constants[f"{name}_scale"]
            if name == "return" and not settings.monotone:
                return location + scale * raw[name]
            return rise(raw[name], location, scale)

        start, returns = first("response", settings.response_head), steps("return")
        if settings.cost_head == "on_response":
            amounts = settings.amounts()
            # A running product, by logarithms: the derivative of cumprod divides by its factors.
            growth = tf.math.log1p(returns * (1 - amounts[:-1] / amounts[1:]))
            response = start * tf.exp(climb(tf.zeros_like(start), growth))
            cost = amounts * response
        else:
            if settings.cost_head == "constant":
                table = constants["cost_location"]
                cost = table + tf.zeros_like(start)
                upgrades = table[1:] - table[:-1]
            else:
                upgrades = steps("marginal_cost")
                cost = climb(first("cost", settings.cost_head), upgrades)
            response = climb(start, returns * upgrades)
        return {
            name: Arms(
                mean,
                constants[f"{name}_odds_location"] + raw[f"{name}_odds"]
                if settings.head_of()[name] == "hurdle"
                else None,
            )
            for name, mean in (("response", response), ("cost", cost))
        }


def _rising(cost: np.ndarray) -> np.ndarray:
    """Costs that rise: neighbours in the wrong order, by noise, start at almost the same."""
    fitted = isotonic(cost)
    steps = np.diff(fitted)
    usual = float(steps.mean()) or 1e-12 * fitted[-1] or 1.0
    steps[steps <= 0] = 0.1 * usual
    return np.concatenate([fitted[:1], fitted[0] + np.cumsum(steps)])


def _start_returns(
    response: np.ndarray, cost: np.ndarray, spread: float, monotone: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(location, scale) of the returns; raw outputs of 1 are worth a usual return everywhere.

    A step's own return in the trial is too noisy for a scale where steps are small.
    """
    steps, total = np.diff(cost), cost[-1] - cost[0]
    returns = np.diff(response) / steps
    usual = max(np.sqrt(np.sum(steps * returns**2) / total), 0.1 * spread / total)
    return start_rise(returns, usual) if monotone else (returns, np.full_like(returns, usual))


def _start_growth(response: np.ndarray, amounts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(location, scale) of q for costs on response."""
    growth = np.divide(
        np.diff(response), response[:-1], out=np.zeros(len(response) - 1), where=response[:-1] > 0
    ) / (1 - amounts[:-1] / amounts[1:])
    # The least steps together then start with less than LEAST_STEP of the response.
    return start_rise(growth, 1 / len(growth))
