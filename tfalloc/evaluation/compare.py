"""Models side by side on the same trial: outcomes at equal cost and paired differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tfalloc.evaluation.influence import standard_error
from tfalloc.evaluation.policy import Evaluator, PolicyOutcome, quantile
from tfalloc.evaluation.trial_rows import (
    check_budget,
    check_confidence,
    outcomes_of,
    predictions_and_rows,
)


def compare(
    models: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]],
    data: Any,
    *,
    budget: float,
    reference: str | None = None,
    estimator: str = "hajek",
    outcome_model: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    cluster: Any = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Each model's outcome at one budget, and its difference to a reference, paired by row.

        difference = V_model - V_reference,   stderr^2 = sum_i (psi_model,i - psi_reference,i)^2

    with the influences psi of `policy_outcome`. Rows that both policies match alike cancel, so the
    difference is known better, often several times, than either response.

    Args:
      models: {name: (pred_response, pred_cost)}, each [rows, num_treatments].
      data: trial rows, as for `policy_outcome`; the same for all models.
      budget: observed cost per user.
      reference: name of the model to compare with; None: the first.
      estimator, outcome_model, cluster: as for `policy_outcome`; the same for all models.
      confidence: level of the intervals.

    Returns:
      One row per model, in the given order, index "model": the fields of `PolicyOutcome`, then
      difference, difference_low, difference_high, difference_stderr and p_value (two-sided, of no
      difference; not corrected for several comparisons). The reference, and models for which the
      budget is infeasible, have NaN there: those spend another budget. A model for which the budget
      does not bind (`alpha` 0) spends less, as its `cost` says, and is compared as it is: what it
      does with that budget.

    Raises:
      ValueError: as `policy_outcome`, no model is given, or the reference is not among them.

    Example:
      >>> import numpy as np
      >>> from tfalloc.evaluation import compare
      >>> rng = np.random.default_rng(0)
      >>> t, x = rng.integers(0, 2, 2000), rng.random(2000)
      >>> trial = {"treatment": t, "response": rng.random(2000) < x * t, "cost": t}
      >>> cost = np.tile([0.0, 1.0], (2000, 1))
      >>> good, blind = np.stack([0 * x, x], 1), np.stack([0 * x, 1 - x], 1)
      >>> table = compare({"blind": (blind, cost), "good": (good, cost)}, trial, budget=0.5)
      >>> bool(table.p_value["good"] < 0.001), bool(table.difference["good"] > 0.2)
      (True, True)
    """
    if not models:
        raise ValueError("models is empty; expected {name: (pred_response, pred_cost)}.")
    target = check_budget(budget)
    check_confidence(confidence)
    first = next(iter(models)) if reference is None else reference
    if first not in models:
        raise ValueError(
            f"reference={reference!r} is not among the models {list(models)}; expected one of them."
        )
    data = outcomes_of(data, cluster)  # read once for all models
    options = {
        "estimator": estimator,
        "outcome_model": outcome_model,
        "cluster": cluster,
        "known_costs": True,
    }
    outcomes: dict[str, PolicyOutcome] = {}
    differences: dict[str, dict[str, float]] = {}
    base, base_psi = None, np.empty(0)
    # The reference goes first, so that only its influences are kept and not those of all models.
    for name in [first, *(name for name in models if name != first)]:
        try:
            pair = models[name]
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise ValueError(
                    f"{type(pair).__name__} is no pair; expected (pred_response, pred_cost), each "
                    "[rows, num_treatments]."
                )
            both = predictions_and_rows(*pair, data, **options)
        except (TypeError, ValueError) as error:
            raise ValueError(f"model {name!r}: {error}") from error
        outcome, psi, _ = Evaluator(*both).at(target, confidence)
        outcomes[name] = outcome
        if base is None:
            base, base_psi = outcome, psi
            differences[name] = difference_columns(np.nan, np.nan, confidence)
        elif base.feasible and outcome.feasible:
            stderr = standard_error(psi - base_psi, both[1])
            gain = outcome.response - base.response
            differences[name] = difference_columns(gain, stderr, confidence)
        else:
            differences[name] = difference_columns(np.nan, np.nan, confidence)
    columns = [field.name for field in fields(PolicyOutcome)]
    return pd.DataFrame(
        [{c: getattr(outcomes[name], c) for c in columns} | differences[name] for name in models],
        index=pd.Index(list(models), name="model"),
    )


def difference_columns(estimate: float, stderr: float, confidence: float) -> dict[str, float]:
    """The columns of a paired difference: estimate, interval, standard error and p-value."""
    margin = quantile(confidence) * stderr
    if stderr > 0.0:
        p_value = 2.0 * NormalDist().cdf(-abs(estimate) / stderr)
    else:  # equal policies, or nothing to compare
        p_value = float("nan") if np.isnan(stderr) else float(estimate == 0.0)
    return {
        "difference": estimate,
        "difference_low": estimate - margin,
        "difference_high": estimate + margin,
        "difference_stderr": stderr,
        "p_value": p_value,
    }
