"""What every simulation returns, and how it draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tfalloc.data import RCTData


@dataclass(frozen=True)
class Simulation:
    """A simulated trial with its ground truth.

    Attributes:
      data: the trial.
      true_response: expected response of every user under every arm, float32 [N, K].
      true_cost: expected cost per user under every arm, float32 [N, K].
    """

    data: RCTData
    true_response: np.ndarray
    true_cost: np.ndarray

    def __len__(self) -> int:
        return len(self.true_response)


@dataclass(frozen=True)
class Draw:
    """Rows of a simulation before they become `RCTData`: columns and ground truth."""

    features: Mapping[str, np.ndarray]
    treatment: np.ndarray
    response: np.ndarray
    cost: np.ndarray
    true_response: np.ndarray
    true_cost: np.ndarray

    def simulation(self, names: list[str], shares: np.ndarray) -> Simulation:
        """Wraps the rows; propensities are those of the design, not the observed shares."""
        data = RCTData(
            dict(self.features),
            self.treatment,
            self.response,
            self.cost,
            propensity=dict(zip(names, shares.tolist(), strict=True)),
            treatment_names=names,
        )
        return Simulation(data, self.true_response, self.true_cost)


def generator(name: str, seed: int, stream: int = 0) -> np.random.Generator:
    """Returns a counter-based generator that depends on the simulation, seed and stream only."""
    salt = int.from_bytes(name.encode()[:8], "little")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, salt, stream])))


def check_rows(num_rows: int, least: int) -> None:
    """Raises ValueError unless `num_rows` is an integer of at least `least`."""
    if num_rows != int(num_rows) or num_rows < least:
        raise ValueError(f"num_rows={num_rows!r}; expected an integer of at least {least}.")


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Returns 1 / (1 + exp(-x)) without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def received(table: np.ndarray, treatment: np.ndarray) -> np.ndarray:
    """Returns table[i, treatment[i]] for each row, [N]."""
    return np.take_along_axis(table, treatment[:, None], axis=1)[:, 0]
