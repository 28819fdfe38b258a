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
from tfalloc.models.heads import links
from tfalloc.models.heads.families import Arms
from tfalloc.models.heads.setup import Setup


class Independent:
    """Raw outputs to both outcomes of all arms, each arm for itself."""

    def __init__(self, setup: Setup):
        self.setup = setup
        self.sizes = {
            f"{name}{part}": setup.num_treatments
            for name, family in setup.families().items()
            for part in _parts(family)
        }

    def constants(self) -> dict[str, tuple[int, float]]:
        """name -> (length, initial value) of what `start` sets."""
        k = self.setup.num_treatments
        made: dict[str, tuple[int, float]] = {}
        for name, family in self.setup.families().items():
            if family != "on_response":
                made[f"{name}_location"], made[f"{name}_scale"] = (k, 0.0), (k, 1.0)
            if family == "hurdle":
                made[f"{name}_odds"] = (k, 0.0)
        return made

    def start(self, moments: dict[str, ArmMoments]) -> dict[str, np.ndarray]:
        """Constants at which raw = 0 predicts the means of the arms."""
        values: dict[str, np.ndarray] = {}
        for name, family in self.setup.families().items():
            if family == "on_response":
                continue
            location, scale = self._start(family, moments[name])
            values[f"{name}_location"], values[f"{name}_scale"] = location, scale
            if family == "hurdle":
                values[f"{name}_odds"] = links.log_odds(moments[name].positive_share)
        return values

    def _start(self, family: str, moments: ArmMoments) -> tuple[np.ndarray, np.ndarray]:
        means = np.asarray(moments.mean, np.float64)
        if family == "constant":
            return means, np.ones_like(means)
        if not self.setup.monotone:
            if family == "hurdle":
                means = moments.positive_mean
            return links.start_level(family, means, moments.variance)
        means = links.isotonic(means)
        location, scale = links.start_level(family, means[:1], moments.variance)
        natural = links.log_odds(means) if family == "binary" else means
        usual = 1.0 if family == "binary" else max(moments.variance, 1e-12) ** 0.5
        step = max(natural[-1] - natural[0], 0.1 * usual) / max(len(means) - 1, 1)
        steps = links.start_rise(np.diff(natural), step)
        return np.append(location, steps[0]), np.append(scale, steps[1])

    def arms(self, raw: dict[str, Any], constants: dict[str, Any]) -> dict[str, Arms]:
        """Predictions of both outcomes, [batch, K]."""
        made: dict[str, Arms] = {}
        for name, family in self.setup.families().items():
            if family == "on_response":
                made[name] = Arms(self.setup.amounts() * made["response"].mean)
            else:
                made[name] = self._arms(name, family, raw, constants)
        return made

    def _arms(self, name: str, family: str, raw: dict[str, Any], constants: dict[str, Any]) -> Arms:
        location, scale = constants[f"{name}_location"], constants[f"{name}_scale"]
        if family == "constant":
            return Arms(location + tf.zeros_like(raw["response"]))
        if self.setup.monotone:
            first = links.level(family, raw[name][:, :1], location[:1], scale[:1])
            steps = links.rise(raw[name][:, 1:], location[1:], scale[1:])
            mean = links.climb(first, steps)
        else:
            mean = links.level(family, raw[name], location, scale)
        if family == "binary":
            return Arms(tf.sigmoid(mean), mean)
        if family != "hurdle":
            return Arms(mean)
        odds = constants[f"{name}_odds"] + raw[f"{name}_odds"]
        return Arms(mean if self.setup.monotone else tf.sigmoid(odds) * mean, odds)


def _parts(family: str) -> tuple[str, ...]:
    return {"constant": (), "on_response": (), "hurdle": ("", "_odds")}.get(family, ("",))
