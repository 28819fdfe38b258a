"""The synthetic trial of Yan et al. 2023, Section 4.1 (arXiv:2302.04477).

N = 10,000 users without features, K = 4 arms, all equally likely. Arm j = 1 .. K costs j, and

    v_1 ~ U[0, .1],   v_j = v_(j-1) + k_(j-1)

with k_1 >= .. >= k_(K-1), K - 1 draws of U[0, .2] in descending order, is the probability of a
response, drawn for each user alone. So v is concave in j.

The paper's Section 4.3 gives its matrices five columns. With K = 5 by the same procedure, the value
of the paper's start is nearer to what it reports and that of the truth is further away
(docs/results/synthetic).
"""

from __future__ import annotations

import numpy as np

from tfalloc.data import RCTData
from tfalloc.datasets.simulations import Simulation, check_rows, generator, received

NUM_TREATMENTS = 4


def synthetic(
    num_rows: int = 10_000, seed: int = 0, num_treatments: int = NUM_TREATMENTS
) -> Simulation:
    """Simulates the paper's trial, whose equations head this module.

    Args:
      num_rows: N, at least 50 so that every arm has rows.
      seed: the same seed gives the same data.
      num_treatments: K, 4 in the paper's text.

    Returns:
      A `Simulation` without features: `data` has treatment, response and cost only.

    Raises:
      ValueError: `num_rows` or `num_treatments` is too small.

    Example:
      >>> simulation = synthetic(num_rows=1000, seed=1)
      >>> simulation.true_response.shape, simulation.true_cost[0].tolist()
      ((1000, 4), [1.0, 2.0, 3.0, 4.0])
      >>> simulation.data.feature_names
      []
    """
    check_rows(num_rows, 50)
    if num_treatments != int(num_treatments) or num_treatments < 2:
        raise ValueError(f"num_treatments={num_treatments!r}; expected an integer of at least 2.")
    rng = generator("Yan 2023", seed)
    response = concave(rng, num_rows, num_treatments)
    cost = np.tile(np.arange(1, num_treatments + 1, dtype="f4"), (num_rows, 1))
    treatment = rng.integers(0, num_treatments, num_rows, "i4")
    outcome = rng.random(num_rows) < received(response, treatment)
    names = [str(j) for j in range(1, num_treatments + 1)]
    data = RCTData(
        np.zeros((num_rows, 0), np.float32),
        treatment,
        outcome.astype("f4"),
        received(cost, treatment),
        propensity=dict.fromkeys(names, 1 / num_treatments),
        treatment_names=names,
    )
    return Simulation(data, response.astype("f4"), cost)


def synthetic_start(
    num_rows: int = 10_000, seed: int = 0, num_treatments: int = NUM_TREATMENTS
) -> np.ndarray:
    """The start of the paper's ascent, Section 4.3: v drawn anew by the procedure of the truth.

    Args:
      num_rows: N.
      seed: of the trial that the start belongs to; it shares no draw with the trial.
      num_treatments: K.

    Returns:
      Predicted responses [N, K], float32.

    Example:
      >>> v = synthetic_start(1000, seed=1)
      >>> bool((np.diff(v, axis=1) >= 0).all()), v.shape
      (True, (1000, 4))
    """
    check_rows(num_rows, 50)
    return concave(generator("Yan 2023", seed, 1), num_rows, num_treatments).astype("f4")


def concave(rng: np.random.Generator, num_rows: int, num_treatments: int) -> np.ndarray:
    """Draws v [N, K] as the head of this module says, in float64."""
    first = rng.uniform(0.0, 0.1, (num_rows, 1))
    steps = -np.sort(-rng.uniform(0.0, 0.2, (num_rows, num_treatments - 1)), axis=1)
    return first + np.concatenate([np.zeros_like(first), np.cumsum(steps, axis=1)], axis=1)
