"""`heads="independent"`: every arm's response and cost from outputs of their own (the paper's).

    binary                    log odds of the arm
    nonnegative, real         mean of the arm
    hurdle                    log odds that it is positive, and its mean if it is
    constant                  known of the arm, no output
    on_response               cost = amount of the arm x response of the arm, no output

With `monotone` the outputs after the first are steps up, on the log odds (binary) or the mean, so
that no raw output can make a later arm's mean smaller.
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


class Independent:
    """Raw outputs to both outcomes of all arms, each arm for itself."""

    def __init__(self, settings: HeadSettings):
        self.settings = settings
        self.sizes = {
            f"{name}{part}": settings.num_treatments
            for name, head in settings.head_of().items()
            for part in _parts(head)
        }

    def constants(self) -> dict[str, tuple[int, float]]:
        """name -> (length, initial value) of what `start` sets."""
        k = self.settings.num_treatments
        made: dict[str, tuple[int, float]] = {}
        for name, head in self.settings.head_of().items():
            if head != "on_response":
                made[f"{name}_location"], made[f"{name}_scale"] = (k, 0.0), (k, 1.0)
            if head == "hurdle":
                made[f"{name}_odds"] = (k, 0.0)
        return made

    def start(self, moments: dict[str, ArmMoments]) -> dict[str, np.ndarray]:
        """Constants at which raw = 0 predicts the means of the arms."""
        values: dict[str, np.ndarray] = {}
        for name, head in self.settings.head_of().items():
            if head == "on_response":
                continue
            location, scale = self._start(head, moments[name])
            values[f"{name}_location"], values[f"{name}_scale"] = location, scale
            if head == "hurdle":
                values[f"{name}_odds"] = log_odds(moments[name].positive_share)
        return values

    def _start(self, head: str, moments: ArmMoments) -> tuple[np.ndarray, np.ndarray]:
        means = np.asarray(moments.mean, np.float64)
        if head == "constant":
            return means, np.ones_like(means)
        if not self.settings.monotone:
            if head == "hurdle":
                means = moments.positive_mean
            return start_level(head, means, variance(moments) ** 0.5)
        means = isotonic(means)
        location, scale = start_level(head, means[:1], variance(moments) ** 0.5)
        natural = log_odds(means) if head == "binary" else means
        usual = 1.0 if head == "binary" else variance(moments) ** 0.5
        step = max(natural[-1] - natural[0], 0.1 * usual) / max(len(means) - 1, 1)
        steps = start_rise(np.diff(natural), step)
        return np.append(location, steps[0]), np.append(scale, steps[1])

    def arms(self, raw: dict[str, Any], constants: dict[str, Any]) -> dict[str, Arms]:
        """Predictions of both outcomes, [batch, K]."""
        made: dict[str, Arms] = {}
        for name, head in self.settings.head_of().items():
            if head == "on_response":
                made[name] = Arms(self.settings.amounts() * made["response"].mean)
            else:
                made[name] = self._arms(name, head, raw, constants)
        return made

    def _arms(self, name: str, head: str, raw: dict[str, Any], constants: dict[str, Any]) -> Arms:
        location, scale = constants[f"{name}_location"], constants[f"{name}_scale"]
        if head == "constant":
            return Arms(location + tf.zeros_like(raw["response"]))
        if self.settings.monotone:
            first = level(head, raw[name][:, :1], location[:1], scale[:1])
            steps = rise(raw[name][:, 1:], location[1:], scale[1:])
            mean = climb(first, steps)
        else:
            mean = level(head, raw[name], location, scale)
        if head == "binary":
            return Arms(tf.sigmoid(mean), mean)
        if head != "hurdle":
            return Arms(mean)
        odds = constants[f"{name}_odds"] + raw[f"{name}_odds"]
        return Arms(mean if self.settings.monotone else tf.sigmoid(odds) * mean, odds)


def _parts(head: str) -> tuple[str, ...]:
    return {"constant": (), "on_response": (), "hurdle": ("", "_odds")}.get(head, ("",))
