"""Problems for the knapsack tests: dyadic grids, whose sums and comparisons are exact."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

Floats = npt.NDArray[np.float64]


@st.composite
def dyadic(draw: st.DrawFn, max_rows: int = 6, max_arms: int = 5) -> tuple[Floats, Floats]:
    """Draws (value, cost) on a coarse grid of quarters: ties, duplicates, dominated arms."""
    n, k = draw(st.integers(1, max_rows)), draw(st.integers(1, max_arms))
    grid = st.lists(st.integers(-4, 8), min_size=n * k, max_size=n * k)
    value, cost = (np.array(draw(grid), float).reshape(n, k) / 4 for _ in range(2))
    return value, cost


def smooth(seed: int, n: int, k: int) -> tuple[Floats, Floats]:
    """Continuous problem: increasing costs, diminishing and noisy returns."""
    rng = np.random.default_rng(seed)
    cost = np.cumsum(rng.random((n, k)), axis=1)
    value = np.sqrt(cost) * rng.random((n, 1)) + 0.1 * rng.standard_normal((n, k))
    return value, cost
