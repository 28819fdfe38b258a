"""From predictions to prices: up to which shadow price a user is upgraded to an arm.

User i is assigned argmax_k v_k - alpha c_k. With arms in the order of their cost, an arm above j
is chosen at alpha if some k > j beats every l <= j, that is while alpha is at most

    price_j = max over k > j of  min over l <= j of  (v_k - v_l) / (c_k - c_l)

K = 2 leaves (v_1 - v_0) / (c_1 - c_0), the ratio of uplifts. Where c_k <= c_l there is no such
bound: k is then better at every price if v_k > v_l (or equal and cheaper), and otherwise an
upgrade that saves money rather than spends it, which no budget pays for: "two negative uplifts"
must not rank first although their ratio is positive.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def upgrade_prices(
    pred_response: npt.ArrayLike, pred_cost: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """The largest shadow price at which each user is still given more than arm j.

    Args:
      pred_response: [N, K], predicted response.
      pred_cost: [N, K], predicted cost per user; arms in the order of their cost.

    Returns:
      [N, K-1], response per unit of cost, never increasing along a row; [N] if K = 2. +inf where
      the upgrade saves cost without losing response, -inf where it brings none at any price.

    Raises:
      ValueError: shapes differ, there are fewer than two arms, or an entry is not finite.

    Example:
      >>> upgrade_prices([[0.0, 0.5], [0.0, 0.5], [0.5, 0.0]], [[0, 2], [2, 1], [2, 1]]).tolist()
      [0.25, inf, -inf]
      >>> upgrade_prices([[0.0, 0.1, 0.5]], [[0.0, 1.0, 2.0]]).tolist()
      [[0.25, 0.25]]
    """
    value, price = np.asarray(pred_response, np.float64), np.asarray(pred_cost, np.float64)
    if value.shape != price.shape or value.ndim != 2 or value.shape[1] < 2:
        raise ValueError(
            f"pred_response has shape {value.shape} and pred_cost {price.shape}; expected the same "
            "shape [rows, num_treatments] with at least two treatments."
        )
    wrong = ~(np.isfinite(value) & np.isfinite(price)).all(axis=1)
    if wrong.any():
        raise ValueError(
            f"predictions have a NaN or infinite entry, first in row {int(np.argmax(wrong))}; "
            "expected finite numbers."
        )
    arms = value.shape[1]
    best = np.full((len(value), arms - 1), -np.inf)
    for k in range(1, arms):
        gain, extra = value[:, [k]] - value[:, :k], price[:, [k]] - price[:, :k]
        better = (gain > 0) | ((gain == 0) & (extra < 0))
        slope = np.where(better, np.inf, -np.inf)
        np.divide(gain, extra, out=slope, where=extra > 0)
        np.maximum(best[:, :k], np.minimum.accumulate(slope, axis=1), out=best[:, :k])
    return best[:, 0] if arms == 2 else best
