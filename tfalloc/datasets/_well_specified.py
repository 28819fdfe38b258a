"""A trial in which a logistic regression per arm is the truth: two stages cannot be beaten.

With standard normals x0 … x7, three arms, d = (0, 1, 2), drawn with equal probability:

    v_j = sigmoid(-2.4 + .5 x0 - .4 x1 + .2 x4 + d_j (.25 + .30 x2 - .25 x3 + .15 x0))   response
    p_j = sigmoid(-1.2 + .4 x4 + .3 x5 + .2 d_j (1 + x2))                                use
    cost = d_j times use

Response and use are independent given features and arm. Both logits are linear in x within each
arm, so maximum likelihood is efficient, and predictions need no help from the objective.
"""

from __future__ import annotations

import numpy as np

from tfalloc.datasets._simulation import (
    Draw,
    Simulation,
    check_rows,
    generator,
    received,
    sigmoid,
)

DOSES = np.array([0.0, 1.0, 2.0])


def well_specified(num_rows: int = 100_000, seed: int = 0) -> Simulation:
    """Simulates the trial whose equations head this module.

    Args:
      num_rows: N, at least 60.
      seed: the same seed gives the same data.

    Returns:
      A `Simulation` with features x0 … x7 and three treatments; x6 and x7 are noise.

    Raises:
      ValueError: `num_rows` is too small.

    Example:
      >>> well_specified(num_rows=1000).true_cost.shape
      (1000, 3)
    """
    check_rows(num_rows, 60)
    rng = generator("wellspec", seed)
    x = rng.standard_normal((8, num_rows), "f4")
    response, use = expectations(x)
    treatment = rng.integers(0, len(DOSES), num_rows, "i4")
    responded = rng.random(num_rows) < received(response, treatment)
    used = rng.random(num_rows) < received(use, treatment)
    drawn = Draw(
        {f"x{j}": x[j] for j in range(8)},
        treatment,
        responded.astype("f4"),
        (DOSES[treatment] * used).astype("f4"),
        response.astype("f4"),
        (DOSES * use).astype("f4"),
    )
    return drawn.simulation([f"{dose:g}" for dose in DOSES], np.full(3, 1 / 3))


def expectations(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns expected response and probability of use, both [N, 3], for x [8, N]."""
    x = x.astype("f8")
    effect = 0.25 + 0.30 * x[2] - 0.25 * x[3] + 0.15 * x[0]
    base = -2.4 + 0.5 * x[0] - 0.4 * x[1] + 0.2 * x[4]
    response = sigmoid(base[:, None] + np.outer(effect, DOSES))
    use = sigmoid((-1.2 + 0.4 * x[4] + 0.3 * x[5])[:, None] + 0.2 * np.outer(1.0 + x[2], DOSES))
    return response, use
