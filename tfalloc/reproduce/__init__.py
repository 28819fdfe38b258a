"""Published experiments from one command to runs, a table and a figure.

    synthetic   Yan et al. 2023, Fig. 2: climbing the expected outcome on the predictions
    coin        their Produce-Coin campaign: weight of the goal (Fig. 3), and an online test
    criteo      their Table 1: AUCC of two-stage, direct and end-to-end methods

Each has `study(output, seeds=…, settings=…)`, a dataclass `Settings` and the small `FAST` of it;
`tfalloc reproduce` runs them. `Runs` and the functions of `tables` serve any study of several
methods over several seeds.
"""

from __future__ import annotations

from tfalloc._backend import require_tensorflow

require_tensorflow()

from tfalloc.reproduce import coin, criteo, synthetic  # noqa: E402
from tfalloc.reproduce.runs import Runs  # noqa: E402
from tfalloc.reproduce.tables import (  # noqa: E402
    Difference,
    comparison,
    markdown,
    paired_difference,
)

__all__ = [
    "Difference",
    "Runs",
    "coin",
    "comparison",
    "criteo",
    "markdown",
    "paired_difference",
    "synthetic",
]
