"""What training through the allocation is compared with: two stages, and direct methods.

All have `fit(data, validation_data=…)`, `predict(x)` -> {"response": [N, K], "cost": [N, K]}, which
`mckp` and `evaluation` take, and `score(x)`, the shadow price up to which each upgrade is taken.
"""

from tfalloc._backend import require_tensorflow

require_tensorflow()

from tfalloc.baselines.average import Average  # noqa: E402
from tfalloc.baselines.dfcl import (  # noqa: E402
    DFCL,
    ImprovedFiniteDifference,
    PolicyLearning,
)
from tfalloc.baselines.direct_rank import DirectRank  # noqa: E402
from tfalloc.baselines.drp import DRP  # noqa: E402
from tfalloc.baselines.learners import SplineArms  # noqa: E402
from tfalloc.baselines.two_stage import (  # noqa: E402
    TwoStage,
    gradient_boosting,
    per_arm_logistic,
    spline_logistic,
)
from tfalloc.mckp import upgrade_prices  # noqa: E402

__all__ = [
    "DFCL",
    "DRP",
    "Average",
    "DirectRank",
    "ImprovedFiniteDifference",
    "PolicyLearning",
    "SplineArms",
    "TwoStage",
    "gradient_boosting",
    "per_arm_logistic",
    "spline_logistic",
    "upgrade_prices",
]
