"""`save`: a trained model to a SavedModel that allocates within a budget."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfalloc import _files
from tfalloc.data import RCTData, feature_chunks
from tfalloc.evaluation import Predictions, predict, predict_trial
from tfalloc.evaluation.trial_rows import shared_values
from tfalloc.export.budget_table import (
    BudgetTable,
    estimated_policy_cost,
    fit_table,
    predicted_policy_cost,
)
from tfalloc.export.metadata import FORMAT, FeatureRecord, Policy, TableRecord, write_policy
from tfalloc.export.served_features import MATRIX, inputs_of
from tfalloc.export.signatures import ALPHA, BUDGET, Server

CALIBRATIONS = ("predicted", "trial")

# Rows predicted at a time.
BATCH_ROWS = 8192
# Rows on which the written model is compared with the one in memory.
VERIFY_ROWS = 16


def save(
    model: Any,
    path: str | os.PathLike[str],
    *,
    population: Any,
    budgets: tuple[float, float] | None = None,
    calibration: str = "predicted",
    trial: RCTData | None = None,
    treatment_names: Sequence[str] | None = None,
    na: Sequence[str] = (),
    overwrite: bool = False,
) -> None:
    """Writes a SavedModel for TensorFlow Serving or any TensorFlow runtime.

    Signatures; every input and output has one entry per user, [batch] unless noted:

        serving_default, serve    features                 response, cost   [batch, K]
        allocate                  features, policy_alpha   treatment, response, cost
        allocate_for_budget       features, policy_budget  ... and alpha, clamped

    Features are one input per column, float32 or string, or `features` [batch, F] for a matrix;
    names that TensorFlow does not allow are changed (`served_features.argument_name`). `treatment`
    is int32, response and cost are of the chosen arm, `alpha` is the float32 price used, `clamped`
    is bool.

    A policy budget is cost per user. It buys the smallest tabled alpha at which spend on the
    population, as predicted or as the trial estimates it, does not exceed it. Below the cheapest
    policy the largest alpha is used (and overspends), above the dearest useful one alpha is 0;
    both set `clamped`. A NaN budget is below the range; a negative or non-finite `policy_alpha`
    becomes the table's largest.

    Args:
      model: `AllocationModel`, or a functional Keras model to {"response", "cost"} [batch, K].
      path: directory to write; it appears only when complete and verified.
      population: rows like those to be served: `RCTData` (sample weights count), a data frame, a
        dict of columns, a matrix, or the path of a CSV or Parquet file.
      budgets: (low, high), cost per user: makes the table finer there.
      calibration: "predicted": spend is the mean predicted cost. "trial": the trial's estimate,
        right even if predicted costs are biased, but noisy; exact where every row of an arm costs
        the same.
      trial: randomised rows for calibration="trial", best not those trained on; None: the
        population, if that is `RCTData`.
      treatment_names: [K] labels; None: those of the trial or population, else "0", "1", ...
      na: fields of a CSV population that mean a missing value, beside the empty one.
      overwrite: whether an earlier export is replaced.

    Raises:
      ValueError: if the path exists, the model is not trained, a feature column has the name of a
        policy input, columns are missing, or the budgets are infeasible.
      RuntimeError: if the written model does not answer like the one in memory.

    Source: Yan et al. 2023, Eq. 4; the table is ours.
    """
    _files.check_free(path, overwrite=overwrite)
    trial = _check_calibration(calibration, trial, population)
    inputs = inputs_of(model)
    if inputs.is_matrix and isinstance(population, Mapping) and set(population) == {MATRIX}:
        population = population[MATRIX]
    server = Server(model, inputs)
    names = _names(treatment_names, trial, population, server.num_treatments)

    rows, outcomes = _predict(server, population, "population", na)
    curve = predicted_policy_cost(*rows, outcomes.get("sample_weight"))
    trial_rows = None
    if trial is not None:
        judged, weight = rows, outcomes.get("sample_weight")
        if trial is not population:
            judged, outcomes = _predict(server, trial, "trial")
        trial_rows = len(judged.cost)
        costs, shared = shared_values(outcomes["cost"], outcomes["treatment"], len(names))
        if shared.all():  # known, so that nothing is left to estimate
            curve = predicted_policy_cost(*rows, weight, costs)
        else:
            curve = estimated_policy_cost(*judged, outcomes, curve.largest_price)
    table = fit_table(curve, budgets=budgets)
    fallback = int(np.argmin(rows.cost.mean(axis=0, dtype=np.float64)))
    server.add_policy(table, fallback)

    policy = Policy(
        format=FORMAT,
        treatment_names=names,
        fallback_treatment=fallback,
        is_matrix=inputs.is_matrix,
        features=[
            FeatureRecord(x.column, x.argument, x.kind, list(x.shape)) for x in inputs.features
        ],
        budget_unit="cost per user",
        calibration=calibration,
        budgets=None if budgets is None else (float(budgets[0]), float(budgets[1])),
        population_rows=len(rows.cost),
        trial_rows=trial_rows,
        least_budget=float(table.cost[0]),
        most_budget=float(table.cost[-1]),
        max_underspend=table.max_underspend,
        table=TableRecord(table.alpha.tolist(), table.cost.tolist()),
        versions=_files.versions(),
    )
    with _files.new_directory(path, overwrite=overwrite) as directory:
        server.save(str(directory))
        write_policy(directory, policy)
        first = feature_chunks(population, inputs.schema, rows=VERIFY_ROWS, na=na)
        _verify(directory, server, inputs.arguments(next(first)[1]), table)


def _predict(
    server: Server, rows: Any, role: str, na: Sequence[str] = ()
) -> tuple[Predictions, dict[str, Any]]:
    """Predictions for rows and, of a trial, its outcomes."""
    outcomes: dict[str, Any] = {}
    if isinstance(rows, RCTData):
        found, outcomes = predict_trial({role: server}, rows, batch_size=BATCH_ROWS)
        predictions = found[role]
    else:
        predictions = predict(server, rows, batch_size=BATCH_ROWS, na=na)
    for name, values in predictions._asdict().items():
        bad = ~np.isfinite(values).all(axis=1)
        if bad.any():
            raise ValueError(
                f"the predicted {name} of {int(bad.sum())} of {len(bad)} rows of the {role} is NaN "
                f"or infinite (first: row {int(np.argmax(bad))}); expected finite predictions: "
                "fill or drop missing features, or train on data with missing='indicator'."
            )
    return predictions, outcomes


def _check_calibration(calibration: str, trial: Any, population: Any) -> RCTData | None:
    """The trial to calibrate with, or None."""
    if calibration not in CALIBRATIONS:
        raise ValueError(
            f"calibration={calibration!r} is not known; expected one of {CALIBRATIONS}."
        )
    if trial is not None and not isinstance(trial, RCTData):
        raise ValueError(
            f"trial is a {type(trial).__name__}; expected RCTData, which has treatments and "
            "outcomes beside the features."
        )
    if calibration == "predicted":
        if trial is not None:
            raise ValueError(
                "trial was passed with calibration='predicted', which does not use it; pass "
                "calibration='trial', or leave it out."
            )
        return None
    if trial is not None:
        return trial
    if isinstance(population, RCTData):
        return population
    raise ValueError(
        "calibration='trial' needs the outcomes of a trial; expected trial=RCTData: pass it, or "
        "use calibration='predicted'."
    )


def _names(given: Any, trial: RCTData | None, population: Any, num_treatments: int) -> list[str]:
    sources = [("trial", trial), ("population", population)]
    for role, source in sources:
        if isinstance(source, RCTData) and source.num_treatments != num_treatments:
            raise ValueError(
                f"the {role} has {source.num_treatments} treatments, but the model predicts "
                f"{num_treatments}; expected the trial that it was trained on, or another like it."
            )
    if given is None:
        found = [source for _, source in sources if isinstance(source, RCTData)]
        return found[0].treatment_names if found else [str(k) for k in range(num_treatments)]
    names = [given] if isinstance(given, str) else [str(name) for name in given]
    if len(names) != num_treatments or len(set(names)) != num_treatments:
        raise ValueError(
            f"treatment_names={names}; expected {num_treatments} different labels, one for each "
            "treatment of the model in order."
        )
    return names


def _verify(
    directory: Path, server: Server, arguments: dict[str, tf.Tensor], table: BudgetTable
) -> None:
    """Reloads what was written and compares every signature on a few rows, and on none."""
    loaded = tf.saved_model.load(str(directory))
    rows = int(next(iter(arguments.values())).shape[0])
    knots = np.linspace(0, table.alpha.size - 1, rows).astype(int)
    policies: dict[str, dict[str, Any]] = {
        "serving_default": {},
        "serve": {},
        "allocate": {ALPHA: tf.constant(table.alpha[knots], tf.float32)},
        "allocate_for_budget": {BUDGET: tf.constant(table.cost[knots], tf.float32)},
    }
    for name, policy in policies.items():
        signature = loaded.signatures[name]
        reference = server.endpoints["serve" if name == "serving_default" else name]
        for count in (rows, 0):
            sent = {key: value[:count] for key, value in {**arguments, **policy}.items()}
            _compare(name, signature(**sent), reference(**sent), count)


def _compare(name: str, answer: Any, wanted: Any, rows: int) -> None:
    for key, expected in wanted.items():
        given = answer.get(key)
        same = given is not None and given.dtype == expected.dtype
        if not same or not np.allclose(given, expected, rtol=1e-5, atol=1e-7):
            raise RuntimeError(
                f"the written model's signature {name!r} does not answer like the model in memory "
                f"({key!r}, {rows} rows): {given} instead of {expected}; nothing was exported."
            )
