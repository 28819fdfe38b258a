"""Are predicted uplifts true? Predicted against observed uplift by bins of the prediction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from tfalloc.evaluation.influence import group_means, standard_error
from tfalloc.evaluation.policy import quantile
from tfalloc.evaluation.trial_rows import (
    Floats,
    Rows,
    as_count,
    check_confidence,
    predictions_and_rows,
)


def calibration(
    pred_response: npt.ArrayLike,
    pred_cost: npt.ArrayLike,
    data: Any,
    *,
    num_bins: int = 10,
    cluster: Any = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Predicted and observed uplift of response and of cost, of every arm against arm 0.

    Rows fall into bins of equal size by predicted uplift x = pred_j - pred_0 (equal predictions
    stay together). In each bin

        predicted = mean of x over all rows,      observed = mean of y in arm j - mean of y in arm 0

    with rows weighted by sample weight / propensity. The slope of calibration is that of the
    observed uplift on x, without bins: the difference of the regression slopes of y on x in the two
    arms. 1: uplifts are as different as predicted; 0: the prediction orders nobody; below 1:
    exaggerated (overfitted); its standard error is robust to unequal variances.

    Budgets are met by observed cost (`policy_outcome`), so a model may be useful with any slope
    above 0 if response and cost have the same one; but its alpha and predicted spend are then off.

    Args:
      pred_response: [rows, num_treatments], predicted response in the units of the data.
      pred_cost: [rows, num_treatments], predicted cost, likewise.
      data: trial rows that the model has not seen, as for `policy_outcome`.
      num_bins: bins, at least 1.
      cluster: as for `policy_outcome`.
      confidence: level of the intervals.

    Returns:
      One row per outcome ("response", "cost"), treatment (name of the arm, without arm 0) and bin
      (from 1, ascending prediction): num_rows of either arm, predicted, observed, observed_low,
      observed_high, observed_stderr, and slope, slope_stderr, the same for all bins. What cannot be
      estimated is NaN: uplifts in bins without rows of both arms, slopes of constant predictions.

    Raises:
      ValueError: as `policy_outcome`, there is one arm only, or `num_bins` is below 1.

    Example:
      >>> import numpy as np
      >>> from tfalloc.evaluation import calibration
      >>> rng = np.random.default_rng(0)
      >>> t, x = rng.integers(0, 2, 50_000), rng.random(50_000)
      >>> trial = {"treatment": t, "response": rng.random(50_000) < x * t, "cost": t}
      >>> cost = np.tile([0.0, 1.0], (50_000, 1))
      >>> table = calibration(np.stack([0 * x, 2 * x], 1), cost, trial)  # twice the true uplift
      >>> bool(abs(table.slope[0] - 0.5) < 3 * table.slope_stderr[0])
      True

    Source: best linear predictor of effects: Chernozhukov, Demirer, Duflo, Fernandez-Val, "Generic
    Machine Learning Inference on Heterogeneous Treatment Effects", 2018.
    """
    check_confidence(confidence)
    bins = as_count("num_bins", num_bins, 1)
    predictions, rows = predictions_and_rows(pred_response, pred_cost, data, cluster=cluster)
    arms = len(rows.names)
    if arms < 2:
        raise ValueError("predictions have 1 column; expected one for each of two or more arms.")
    table = pd.concat(
        [
            _of_arm(x, predicted, arm, rows, bins).assign(outcome=outcome)
            for outcome, predicted, x in (
                ("response", predictions.response, rows.response),
                ("cost", predictions.cost, rows.cost),
            )
            for arm in range(1, arms)
        ],
        ignore_index=True,
    )
    margin = quantile(confidence) * table["observed_stderr"]
    table["observed_low"] = table["observed"] - margin
    table["observed_high"] = table["observed"] + margin
    return table[
        [
            *("outcome", "treatment", "bin", "num_rows", "predicted", "observed"),
            *("observed_low", "observed_high", "observed_stderr", "slope", "slope_stderr"),
        ]
    ]


class _Side(NamedTuple):
    """The rows of one of the two arms compared, and the sign of what they add."""

    row: npt.NDArray[np.intp]
    sign: float


def _of_arm(
    outcome: Floats, predicted: npt.NDArray[Any], arm: int, rows: Rows, num_bins: int
) -> pd.DataFrame:
    uplift = predicted[:, arm].astype(np.float64) - predicted[:, 0]
    inner = np.unique(np.quantile(uplift, np.arange(1, num_bins) / num_bins))
    _, bins = np.unique(np.searchsorted(inner, uplift), return_inverse=True)
    count = int(bins.max()) + 1
    sides = [_Side(np.flatnonzero(rows.treatment == t), s) for t, s in ((arm, 1.0), (0, -1.0))]
    observed, influence, sizes = np.zeros(count), np.zeros(uplift.size), np.zeros(count)
    for side, (w, y, b) in _columns(sides, rows.weight, outcome, bins):
        sizes += np.bincount(b, minlength=count)
        mean, psi = group_means(y, w, b, count)
        observed += side.sign * mean
        influence[side.row] = side.sign * psi
    share = np.bincount(bins, rows.sample_weight, count)
    pair = predicted[:, [0, arm]]
    rounding = 4.0 * float(np.finfo(pair.dtype).eps * np.abs(pair).max(initial=0.0))
    slope, slope_influence = _slope(uplift, outcome, sides, rows, rounding)
    return pd.DataFrame(
        {
            "treatment": rows.names[arm],
            "bin": np.arange(1, count + 1),
            "num_rows": sizes.astype(np.int64),
            "predicted": np.bincount(bins, rows.sample_weight * uplift, count) / share,
            "observed": observed,
            "observed_stderr": [
                standard_error(np.where(bins == b, influence, 0.0), rows)
                if np.isfinite(observed[b])
                else np.nan
                for b in range(count)
            ],
            "slope": slope,
            "slope_stderr": standard_error(slope_influence, rows),
        }
    )


def _slope(
    uplift: Floats, outcome: Floats, sides: list[_Side], rows: Rows, rounding: float
) -> tuple[float, Floats]:
    """Difference of the weighted regression slopes of the outcome, and its influences [N].

    Uplifts that differ by no more than `rounding` of the predictions are all the same: NaN.
    """
    slope, influence = 0.0, np.zeros(uplift.size)
    for side, (w, x, y) in _columns(sides, rows.weight, uplift, outcome):
        if not side.row.size:
            return np.nan, np.full(uplift.size, np.nan)
        x, y = x - np.average(x, weights=w), y - np.average(y, weights=w)
        square = float(w @ (x * x))
        if square <= float(w.sum()) * rounding**2:
            return np.nan, np.full(uplift.size, np.nan)
        own = float(w @ (x * y)) / square
        slope += side.sign * own
        influence[side.row] = side.sign * w * x * (y - own * x) / square
    return slope, influence


def _columns(sides: list[_Side], *columns: Any) -> Iterator[tuple[_Side, tuple[Any, ...]]]:
    for side in sides:
        yield side, tuple(x[side.row] for x in columns)
