"""`allocate`: users in, one treatment for each of them within the budget out.

A run's model is solved exactly for these users, by the knapsack of `mckp`. A SavedModel answers
each user alone, at the shadow price that its budget table holds, as it would when serving.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfalloc import _files
from tfalloc.data import FeatureSchema, feature_chunks
from tfalloc.mckp import solve
from tfalloc.scale.plan import Plan, output_suffix
from tfalloc.training import Run

Progress = Callable[[int], None]


def allocate(
    model: str | os.PathLike[str] | Run,
    users: str,
    *,
    budget: float | None = None,
    total_budget: float | None = None,
    id_column: str | None = None,
    missing: str | None = None,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Plan:
    """Gives every user a treatment so that predicted spend stays within the budget.

    Args:
      model: directory of a run (or an open `training.Run`), or of a SavedModel that `export` wrote.
      users: path of their features, CSV or Parquet; read in chunks.
      budget: cost per user; or
      total_budget: cost of all users together.
      id_column: column that names a user; None: the row number.
      missing: "error" or "indicator"; None: as trained.
      output: file to write the plan to, .csv or .parquet; None: none is written.
      overwrite: whether an earlier file of that name is replaced.
      progress: called with the number of users that have been predicted.

    Returns:
      `Plan`; with the run of a model, it has the upper bound of any allocation.

    Raises:
      ValueError: bad users, a damaged model, an infeasible budget (with the least feasible one), or
        an output that may not be written.

    Example:
      >>> import tempfile, tfalloc
      >>> from pathlib import Path
      >>> folder = Path(tempfile.mkdtemp())
      >>> trial = tfalloc.datasets.synthetic(2_000, seed=0)
      >>> recipe = tfalloc.training.Recipe(budget=2.0, backbone="small", epochs=1, goal_weight=0.0)
      >>> _ = tfalloc.training.train(trial.data, recipe, folder / "run")
      >>> trial.data.frame().to_csv(folder / "users.csv", index=False)
      >>> plan = allocate(folder / "run", str(folder / "users.csv"), budget=2.0)
      >>> plan.num_users, plan.cost <= 2.0, plan.value <= plan.upper_bound
      (2000, True, True)
    """
    check_budgets(budget, total_budget)
    if output is not None:
        output_suffix(output)
        _files.check_free(output, overwrite=overwrite, directory=False)
    users_of: Any = {"id_column": id_column, "missing": missing, "progress": progress}
    amounts: Any = {"budget": budget, "total_budget": total_budget}
    if not isinstance(model, Run) and (Path(model) / "saved_model.pb").is_file():
        plan = _by_saved_model(Path(model), users, **users_of, **amounts)
    else:
        run = model if isinstance(model, Run) else Run.read(model)
        plan = _by_run(run, users, **users_of, **amounts)
    if output is not None:
        plan.write(output, overwrite=overwrite)
    return plan


def check_budgets(budget: float | None, total_budget: float | None) -> None:
    """Refuses none or two budgets, and what is no cost.

    Raises:
      ValueError: with what was expected.
    """
    if (budget is None) == (total_budget is None):
        raise ValueError(
            "expected exactly one of --budget (cost per user) and --total-budget (all users)."
        )
    for name, amount in (("--budget", budget), ("--total-budget", total_budget)):
        if amount is not None and (not math.isfinite(amount) or amount < 0):
            raise ValueError(f"{name} {amount}: expected a finite cost that is not negative.")


def _by_run(
    run: Run,
    path: str,
    *,
    id_column: str | None,
    missing: str | None,
    progress: Progress | None,
    budget: float | None,
    total_budget: float | None,
) -> Plan:
    """Predicts with a run's model and solves the knapsack over exactly these users."""
    missing = missing or run.columns.missing
    schema = FeatureSchema(kinds=run.config.data.feature_kinds, missing=missing)
    model = run.model()
    predict = tf.function(lambda features: model(features, training=False), reduce_retracing=True)
    users = feature_chunks(path, schema, id_column=id_column)
    ids, predicted = _collect(users, lambda columns: predict(_tensors(columns)), progress)
    value, cost = predicted["response"], predicted["cost"]
    best = solve(value, cost, budget=budget, total_budget=total_budget)
    given = best.treatment[:, None]
    return Plan(
        ids=ids,
        id_name=_id_name(id_column),
        names=list(run.config.data.treatments),
        treatment=best.treatment,
        response=np.take_along_axis(value, given, axis=1)[:, 0],
        cost_of=np.take_along_axis(cost, given, axis=1)[:, 0],
        budget=_per_user(budget, total_budget, len(given)),
        alpha=best.alpha,
        upper_bound=best.upper_bound,
    )


def _by_saved_model(
    directory: Path,
    path: str,
    *,
    id_column: str | None,
    missing: str | None,
    progress: Progress | None,
    budget: float | None,
    total_budget: float | None,
) -> Plan:
    """Asks a SavedModel's `allocate_for_budget` for every user, as a server would."""
    policy = read_policy(directory)
    try:
        loaded = tf.saved_model.load(str(directory))
        signature = loaded.signatures["allocate_for_budget"]
    # TensorFlow raises protobuf, op and key errors, whatever the damage happens to hit.
    except Exception as error:
        raise ValueError(
            f"cannot load the SavedModel {directory} ({type(error).__name__}: {str(error)[:200]}); "
            "it is damaged or not an export of `tfalloc export`: export again."
        ) from error
    kinds = {feature["name"]: feature["kind"] for feature in policy["features"]}
    inputs = {feature["name"]: feature["input"] for feature in policy["features"]}
    schema = FeatureSchema(kinds=kinds, missing=missing or "error")
    if budget is None:
        # A budget of everybody needs their number before the first of them is asked about.
        rows = sum(len(ids) for ids, _ in feature_chunks(path, schema, id_column=id_column))
        per_user = _per_user(None, total_budget, rows)
    else:
        per_user = budget
    if per_user < policy["least_budget"] * (1 - 1e-6):
        raise ValueError(
            f"budget {per_user:g} per user is infeasible: the cheapest policy of {directory} costs "
            f"{policy['least_budget']:.6g} per user; pass at least that."
        )

    def ask(columns: dict[str, npt.NDArray[Any]]) -> Any:
        size = len(next(iter(columns.values())))
        tensors = {inputs[name]: x for name, x in _tensors(columns).items()}
        return signature(policy_budget=tf.fill([size], np.float32(per_user)), **tensors)

    users = feature_chunks(path, schema, id_column=id_column)
    ids, answers = _collect(users, ask, progress)
    return Plan(
        ids=ids,
        id_name=_id_name(id_column),
        names=list(policy["treatment_names"]),
        treatment=answers["treatment"],
        response=answers["response"],
        cost_of=answers["cost"],
        budget=per_user,
        alpha=float(answers["alpha"][0]),
        extra={"alpha": answers["alpha"], "clamped": answers["clamped"]},
    )


def read_policy(directory: Path) -> dict[str, Any]:
    """Reads what an export says about itself.

    Raises:
      ValueError: the file is absent or damaged.
    """
    from tfalloc.export import metadata

    try:
        policy = json.loads((directory / metadata.FILE).read_text("utf-8"))
        if policy["is_matrix"]:
            raise ValueError("its model takes one matrix, not named columns")
        policy["least_budget"], policy["treatment_names"], policy["features"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"cannot use the SavedModel {directory} ({error}); expected one that `tfalloc export` "
            "wrote."
        ) from error
    return policy


def _collect(
    users: Iterator[tuple[Any, Any]], ask: Any, progress: Progress | None
) -> tuple[Any, dict[str, npt.NDArray[Any]]]:
    """Answers for all users, chunk by chunk."""
    ids: list[Any] = []
    parts: dict[str, list[Any]] = {}
    done = 0
    for names, columns in users:
        ids.append(names)
        for name, answer in ask(columns).items():
            parts.setdefault(name, []).append(answer.numpy())
        done += len(names)
        if progress is not None:
            progress(done)
    return np.concatenate(ids), {name: np.concatenate(part) for name, part in parts.items()}


def _tensors(columns: dict[str, npt.NDArray[Any]]) -> dict[str, tf.Tensor]:
    return {
        name: tf.constant(x, tf.string if x.dtype == object else tf.float32)
        for name, x in columns.items()
    }


def _per_user(budget: float | None, total_budget: float | None, rows: int) -> float:
    return float(budget) if budget is not None else float(total_budget or 0.0) / rows


def _id_name(id_column: str | None) -> str:
    return id_column if id_column is not None else "row"
