"""What "within the budget" means, once for the whole package.

A cost is a mean (or a total) of many numbers, each of which was rounded when it was stored, and the
budget is another rounded number. So a cost that the user would call *equal* to the budget may come
out a little above it: 0.1 in float32 is 0.1000000015. A cost is within the budget if

    cost <= budget + rounding |budget|

with `rounding` the relative error of what the costs are stored in:

    float64, integers    1e-12    sums of a million terms in float64 are good to some 1e-13
    float32              2^-23    half a unit in the last place for the costs, half for the budget

A budget of 0 has no allowance: it buys what is free and nothing else. Where the cheapest assignment
is not free, or costs are negative, `mckp` adds the size of that assignment to |budget|.
"""

from __future__ import annotations

from typing import Any

FLOAT64_ROUNDING = 1e-12
FLOAT32_ROUNDING = 2.0**-23


def rounding(costs: Any) -> float:
    """Returns the relative error that a sum of costs may have.

    Args:
      costs: an array or a tensor, as the user gave it; what has no dtype counts as float64.

    Example:
      >>> import numpy as np
      >>> rounding(np.float32([0.1])) == 2.0**-23, rounding([0.1])
      (True, 1e-12)
    """
    dtype = getattr(costs, "dtype", None)
    name = getattr(dtype, "name", str(dtype))
    return FLOAT32_ROUNDING if name == "float32" else FLOAT64_ROUNDING
