"""`allocate`: users in, one treatment for each of them within the budget out.

A run's model is solved exactly for these users, by the knapsack of `mckp`. A SavedModel answers
each user alone, at the shadow price that its budget table holds, as it would when serving.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tfalloc import _files
from tfalloc.data import FeatureSchema, feature_chunks
from tfalloc.evaluation import predict_chunks
from tfalloc.export import ServedPolicy
from tfalloc.mckp import solve
from tfalloc.scale.plan import CHUNK_ROWS, Plan, output_suffix
from tfalloc.training import Run

Progress = Callable[[int], None]

OUTPUT_COLUMNS = ("treatment", "treatment_index", "response", "cost", "alpha", "clamped")


def allocate(
    model: str | os.PathLike[str] | Run,
    users: Any,
    *,
    budget: float | None = None,
    total_budget: float | None = None,
    id_column: str | None = None,
    cluster: str | None = None,
    missing: str | None = None,
    na: Sequence[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Plan:
    """Gives every user a treatment so that predicted spend stays within the budget.

    Args:
      model: directory of a run (or an open `training.Run`), or of a SavedModel that `export` wrote.
      users: path of their features, CSV or Parquet, read in chunks; or a data frame, or whatever
        else `data.feature_chunks` takes.
      budget: cost per user; or
      total_budget: cost of all users together.
      id_column: column that names a user, copied byte for byte; None: the row number. Beware of
        spreadsheets: they run cells that begin with "=".
      cluster: column of users who get one treatment together, such as a household or store; only
        with a run. The budget is still that of users.
      missing: "error" or "indicator"; None: as trained.
      na: fields of a CSV that mean a missing value, beside the empty one; None: as trained.
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
      >>> trial = tfalloc.datasets.five_arms(2_000, seed=0)
      >>> recipe = tfalloc.training.Recipe(budget=2.0, backbone="small", epochs=1, goal_weight=0.0)
      >>> _ = tfalloc.training.train(trial.data, recipe, folder / "run")
      >>> trial.data.frame().to_csv(folder / "users.csv", index=False)
      >>> plan = allocate(folder / "run", str(folder / "users.csv"), budget=2.0)
      >>> plan.num_users, plan.cost <= 2.0, plan.value <= plan.upper_bound
      (2000, True, True)
    """
    check_budgets(budget, total_budget)
    if id_column in OUTPUT_COLUMNS:
        raise ValueError(
            f"id column {id_column!r} has the name of a column of the plan, which are "
            f"{', '.join(OUTPUT_COLUMNS)}: rename it."
        )
    if output is not None:
        output_suffix(output)
        _files.check_free(output, overwrite=overwrite, directory=False)
        _files.require_writable(output)
    asked = _Asked(users, id_column, cluster, missing, na, budget, total_budget, progress)
    if not isinstance(model, Run) and (Path(model) / "saved_model.pb").is_file():
        plan = _by_saved_model(Path(model), asked)
    else:
        plan = _by_run(model if isinstance(model, Run) else Run.read(model), asked)
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
            "expected exactly one of budget (--budget, cost per user) and total_budget "
            "(--total-budget, cost of all users)."
        )
    for name, amount in (("budget", budget), ("total_budget", total_budget)):
        if amount is not None and (not math.isfinite(amount) or amount < 0):
            raise ValueError(f"{name}={amount}: expected a finite cost that is not negative.")


@dataclasses.dataclass(frozen=True)
class _Asked:
    """The arguments of `allocate` that say who the users are and what may be spent."""

    users: Any
    id_column: str | None
    cluster: str | None
    missing: str | None
    na: Sequence[str] | None
    budget: float | None
    total_budget: float | None
    progress: Progress | None

    def chunks(self, schema: FeatureSchema) -> Iterator[tuple[Any, Any]]:
        return feature_chunks(
            self.users, schema, id_column=self.id_column, rows=CHUNK_ROWS, na=self.na or ()
        )

    def per_user(self, rows: int) -> float:
        return float(self.total_budget or 0.0) / rows if self.budget is None else float(self.budget)

    @property
    def id_name(self) -> str:
        return self.id_column if self.id_column is not None else "row"


def _by_run(run: Run, asked: _Asked) -> Plan:
    """Predicts with a run's model and solves the knapsack over exactly these users."""
    model, columns = run.model(), run.config.columns
    if model.preprocessor is None:
        schema = FeatureSchema.of_matrix(model.num_features)
    else:
        schema = FeatureSchema.of_model(model.preprocessor)
    if missing := asked.missing or (columns and columns.missing):
        schema = dataclasses.replace(schema, missing=missing)
    na = asked.na if asked.na is not None else columns.na if columns else None
    users = predict_chunks(
        model,
        asked.users,
        schema=schema,
        batch_size=CHUNK_ROWS,
        id_column=asked.id_column,
        na=na or (),
    )
    found = ((names, predictions._asdict()) for names, predictions in users)
    ids, predicted = _collect(found, asked.progress)
    value, cost = predicted["response"], predicted["cost"]
    if asked.cluster is None:
        best = solve(value, cost, budget=asked.budget, total_budget=asked.total_budget)
        treatment, upper_bound = best.treatment, best.upper_bound
    else:
        wanted = dataclasses.replace(asked, id_column=asked.cluster, na=na)
        clusters = [names for names, _ in wanted.chunks(schema)]
        member = _members(asked.cluster, np.concatenate(clusters))
        best = solve(
            _sums(value, member),
            _sums(cost, member),
            total_budget=asked.per_user(len(ids)) * len(ids),
        )
        treatment = best.treatment[member]
        upper_bound = best.upper_bound * len(best.treatment) / len(ids)  # from clusters to users
    given = treatment[:, None]
    return Plan(
        ids=ids,
        id_name=asked.id_name,
        names=list(run.config.data.treatments),
        treatment=treatment,
        response=np.take_along_axis(value, given, axis=1)[:, 0],
        cost_of=np.take_along_axis(cost, given, axis=1)[:, 0],
        budget=asked.per_user(len(given)),
        alpha=best.alpha,
        upper_bound=upper_bound,
    )


def _members(column: str, ids: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Number of the cluster of every user, [N]."""
    member, names = pd.factorize(ids)
    absent = (member < 0) | (names == "")[member]
    if absent.any():
        raise ValueError(
            f"cluster {column!r} has no id in row {int(np.argmax(absent))}; expected one for each "
            "user: give those without any an id of their own."
        )
    return member


def _sums(x: npt.NDArray[Any], member: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """Sums over the users of each cluster, [N, K] -> [clusters, K]."""
    return np.stack([np.bincount(member, weights=column) for column in x.T], axis=1)


def _by_saved_model(directory: Path, asked: _Asked) -> Plan:
    """Asks a SavedModel's `allocate_for_budget` for every user, as a server would."""
    if asked.cluster is not None:
        raise ValueError(
            f"cluster={asked.cluster!r} (--cluster) with the SavedModel {directory}, which answers "
            "each user alone; expected the directory of a run."
        )
    served = ServedPolicy(directory)
    policy, schema = served.policy, served.schema
    if policy.is_matrix:
        raise ValueError(
            f"cannot use the SavedModel {directory} (its model takes one matrix, not named "
            "columns); expected one that `tfalloc export` wrote."
        )
    schema = dataclasses.replace(schema, missing=asked.missing or "error")
    rows = 1
    if asked.budget is None:
        # A budget of everybody needs their number before the first of them is asked about.
        rows = sum(len(ids) for ids, _ in asked.chunks(schema))
    budget = asked.per_user(rows)
    if budget < policy.least_budget * (1 - 1e-6):
        raise ValueError(
            f"budget {budget:g} per user is infeasible: the cheapest policy of {directory} costs "
            f"{policy.least_budget:.6g} per user; pass at least that."
        )

    users = asked.chunks(schema)
    found = ((names, served.allocate_for_budget(each, budget)) for names, each in users)
    ids, answers = _collect(found, asked.progress)
    return Plan(
        ids=ids,
        id_name=asked.id_name,
        names=policy.treatment_names,
        treatment=answers["treatment"],
        response=answers["response"],
        cost_of=answers["cost"],
        budget=budget,
        alpha=float(answers["alpha"][0]),
        extra={"alpha": answers["alpha"], "clamped": answers["clamped"]},
    )


def _collect(
    answers: Iterator[tuple[Any, Mapping[str, Any]]], progress: Progress | None
) -> tuple[Any, dict[str, npt.NDArray[Any]]]:
    """(ids, answers) of all users, from those of some after the other."""
    ids: list[Any] = []
    parts: dict[str, list[Any]] = {}
    done = 0
    for names, found in answers:
        ids.append(names)
        for name, answer in found.items():
            parts.setdefault(name, []).append(answer)
        done += len(names)
        if progress is not None:
            progress(done)
    return np.concatenate(ids), {name: np.concatenate(part) for name, part in parts.items()}
