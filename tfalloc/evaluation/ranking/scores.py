"""The score by which a model of responses and costs ranks users: the price that each is worth."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tfalloc.evaluation.trial_rows import Floats, as_predictions

# Rows scored at a time: K (K - 1) / 2 pairs of arms are compared in cache.
BLOCK_ROWS = 16_384


def aucc_score(pred_response: npt.ArrayLike, pred_cost: npt.ArrayLike) -> Floats:
    """The largest alpha at which the policy still gives the user arm j or a later one.

        x(alpha) = argmax_j v_j - alpha c_j,      score_j = sup { alpha : x(alpha) >= j }

    For two arms with a positive marginal cost c_1 - c_0 that is the ratio of predicted uplifts
    (v_1 - v_0) / (c_1 - c_0). Its sign is looked at before dividing:

        more response, no more cost   +inf: worth any price, ranks first
        less response, more cost      the negative ratio
        less response, less cost      the same with |cost|: never worth it at alpha = 0, ranks among
                                      the last, whereas the plain ratio would be positive
        less response, same cost      -inf
        no difference                 0

    Several arms must be numbered from cheap to dear. For users whose predicted costs rise with the
    arm, the arm assigned at any alpha >= 0 is the number of scores above alpha, so the order of
    pooled scores is the order in which the exact allocation spends a growing budget.

    Args:
      pred_response: [rows, num_treatments], predicted response.
      pred_cost: [rows, num_treatments], predicted cost, any common unit.

    Returns:
      [rows] for two arms, [rows, num_treatments - 1] for more: response per unit of cost.

    Raises:
      ValueError: shapes differ, an entry is not finite, or there is only one arm.

    Example:
      >>> response = [[0.1, 0.3], [0.1, 0.2], [0.3, 0.1], [0.3, 0.1]]
      >>> cost = [[0.0, 1.0], [1.0, 0.5], [0.0, 1.0], [1.0, 0.0]]
      >>> aucc_score(response, cost).round(3).tolist()
      [0.2, inf, -0.2, -0.2]

    Source: Yan et al. 2023, Eq. 4.
    """
    value, price = as_predictions(pred_response, pred_cost)
    n, arms = value.shape
    if arms < 2:
        raise ValueError(f"predictions have {arms} column; expected one for each of two or more.")
    score = np.full((arms - 1, n), -np.inf)
    for first in range(0, n, BLOCK_ROWS):
        block = slice(first, first + BLOCK_ROWS)
        v = np.ascontiguousarray(value[block].T, np.float64)
        c = np.ascontiguousarray(price[block].T, np.float64)
        for k in range(1, arms):
            # Arm k is assigned rather than any of the arms below j up to the least of these.
            worth = np.full(v.shape[1], np.inf)
            for below in range(k):
                np.minimum(worth, _worth(v[k] - v[below], c[k] - c[below]), out=worth)
                np.maximum(score[below, block], worth, out=score[below, block])
    return score[0] if arms == 2 else np.ascontiguousarray(score.T)


def _worth(gain: npt.NDArray[Any], spend: npt.NDArray[Any]) -> Floats:
    """The largest alpha at which gain - alpha spend is positive, or a negative number."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = gain / np.abs(spend)
    ratio = np.where((gain == 0.0) & (spend == 0.0), 0.0, ratio)
    return np.where((gain >= 0.0) & (spend < 0.0), np.inf, ratio)
