"""What models achieve on rows that they have not seen, beside policies that look at nobody."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from tfalloc.data import RCTData
from tfalloc.evaluation import Predictions, compare, predict_trial
from tfalloc.training.run import CHEAPEST, SAME_MIX, THIS_MODEL, Mix


def evaluate(model: Any, data: RCTData, budgets: list[float], mix: Mix) -> pd.DataFrame:
    """Outcomes of a model's policy at some budgets, beside those of two that look at nobody.

    Args:
      model: an `AllocationModel`.
      data: rows of a trial that the model has not seen, in memory or streamed.
      budgets: cost per user.
      mix: of the training rows; a run keeps it.

    Returns:
      One row per policy and budget, as `outcomes_at` gives them.

    Raises:
      ValueError: as `tfalloc.evaluation.compare`.

    Example:
      >>> import tfalloc
      >>> data = tfalloc.datasets.five_arms(2_000, seed=0).data
      >>> model = tfalloc.AllocationModel(num_treatments=5, backbone="small", seed=0)
      >>> model.compile(goal_weight=0.0)
      >>> _ = model.fit(data, epochs=1, verbose=0)
      >>> mix = tfalloc.training.Mix.of(data)
      >>> list(tfalloc.training.evaluate(model, data, [2.0], mix).model)
      ['this model', 'same mix for everyone', 'cheapest for everyone']
    """
    predictions, outcomes = predict(model, {THIS_MODEL: model.get_weights()}, data)
    return outcomes_at(with_baselines(predictions, mix, len(data)), outcomes, budgets)


def predict(
    model: Any, weights: dict[str, Any], data: RCTData
) -> tuple[dict[str, Predictions], dict[str, Any]]:
    """Predictions of one model with several sets of weights, and the trial's outcomes.

    Args:
      model: an `AllocationModel`; the last of the weights stay in it.
      weights: {name: what `get_weights` gives}.
      data: the rows, in memory or streamed.

    Returns:
      As `tfalloc.evaluation.predict_trial`; outcomes have "cluster", if the trial has clusters.
    """
    predictions: dict[str, Predictions] = {}
    outcomes: dict[str, Any] = {}
    for name, each in weights.items():
        model.set_weights(each)
        found, outcomes = predict_trial({name: model}, data)
        predictions.update(found)
    return predictions, outcomes


def with_baselines(
    predictions: dict[str, Predictions], mix: Mix, rows: int
) -> dict[str, Predictions]:
    """Adds two policies that look at nobody.

    The same mix: every user has the arms' mean outcomes in the training rows, so that the budget
    is spent on users at random. The cheapest: what happens if nothing is spent beyond it.

    Args:
      predictions: of other policies.
      mix: of the training rows: chosen on the rows that judge, it would look too good.
      rows: how many users there are.
    """
    response, cost = np.array(mix.response), np.array(mix.cost)
    cheapest = (cost == cost.min()).astype(np.float64)
    same = [np.tile(x, (rows, 1)) for x in (response, cost, cheapest, 0 * cost)]
    return {**predictions, SAME_MIX: Predictions(*same[:2]), CHEAPEST: Predictions(*same[2:])}


def outcomes_at(
    predictions: dict[str, Predictions], outcomes: Any, budgets: list[float]
) -> pd.DataFrame:
    """Outcomes of all policies at all budgets; columns budget, model, then as `compare`.

    Differences are to `SAME_MIX`, paired by row: what targeting adds at the same cost.
    """
    tables = []
    for budget in budgets:
        table = compare(predictions, outcomes, budget=budget, reference=SAME_MIX).reset_index()
        # Giving everybody one arm spends what it spends: it is no policy at this budget.
        table.loc[table.model == CHEAPEST, ["difference", "difference_low", "difference_high"]] = (
            np.nan
        )
        table["budget"] = budget
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def gain_over(
    predictions: dict[str, Predictions], outcomes: Any, budget: float, reference: str
) -> dict[str, float]:
    """`THIS_MODEL` minus a reference at a budget, with interval and p-value."""
    both = {reference: predictions[reference], THIS_MODEL: predictions[THIS_MODEL]}
    row = compare(both, outcomes, budget=budget, reference=reference).loc[THIS_MODEL]
    wanted = ("difference", "difference_low", "difference_high", "difference_stderr", "p_value")
    return {name: float(row[name]) for name in wanted}
