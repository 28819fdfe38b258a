"""`allocate`: users in, one treatment for each of them within the budget out.

A run's model is solved exactly for these users, by the knapsack of `mckp`. A SavedModel answers
each user alone, at the shadow price that its budget table holds, as it would when serving.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfalloc import _files
from tfalloc.data import FeatureSchema, feature_chunks
from tfalloc.export import metadata
from tfalloc.mckp import solve
from tfalloc.scale.plan import Plan, output_suffix
from tfalloc.training import Run
from tfalloc.training.run import read_validated

Progress = Callable[[int], None]

OUTPUT_COLUMNS = ("treatment", "treatment_index", "response", "cost", "alpha", "clamped")


def allocate(
    model: str | os.PathLike[str] | Run,
    users: Any,
    *,
    budget: float | None = None,
    total_budget: float | None = None,
    id_column: str | None = None,
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
      >>> trial = tfalloc.datasets.synthetic(2_000, seed=0)
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
    asked = _Asked(users, id_column, missing, na, budget, total_budget, progress)
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
    missing: str | None
    na: Sequence[str] | None
    budget: float | None
    total_budget: float | None
    progress: Progress | None

    def chunks(self, schema: FeatureSchema, na: Sequence[str] | None) -> Iterator[tuple[Any, Any]]:
        na = self.na if self.na is not None else na
        return feature_chunks(self.users, schema, id_column=self.id_column, na=na or ())

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
    predict = tf.function(lambda features: model(features, training=False), reduce_retracing=True)
    users = asked.chunks(schema, columns.na if columns else None)
    ids, predicted = _collect(users, lambda c: predict(_tensors(c)), asked.progress)
    value, cost = predicted["response"], predicted["cost"]
    best = solve(value, cost, budget=asked.budget, total_budget=asked.total_budget)
    given = best.treatment[:, None]
    return Plan(
        ids=ids,
        id_name=asked.id_name,
        names=list(run.config.data.treatments),
        treatment=best.treatment,
        response=np.take_along_axis(value, given, axis=1)[:, 0],
        cost_of=np.take_along_axis(cost, given, axis=1)[:, 0],
        budget=asked.per_user(len(given)),
        alpha=best.alpha,
        upper_bound=best.upper_bound,
    )


def _by_saved_model(directory: Path, asked: _Asked) -> Plan:
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
    inputs = {feature.name: feature.input for feature in policy.features}
    kinds: dict[str, str] = {feature.name: feature.kind for feature in policy.features}
    schema = FeatureSchema(kinds=kinds, missing=asked.missing or "error")
    rows = 1
    if asked.budget is None:
        # A budget of everybody needs their number before the first of them is asked about.
        rows = sum(len(ids) for ids, _ in asked.chunks(schema, None))
    budget = asked.per_user(rows)
    if budget < policy.least_budget * (1 - 1e-6):
        raise ValueError(
            f"budget {budget:g} per user is infeasible: the cheapest policy of {directory} costs "
            f"{policy.least_budget:.6g} per user; pass at least that."
        )

    def ask(columns: dict[str, npt.NDArray[Any]]) -> Any:
        size = len(next(iter(columns.values())))
        tensors = {inputs[name]: x for name, x in _tensors(columns).items()}
        return signature(policy_budget=tf.fill([size], np.float32(budget)), **tensors)

    ids, answers = _collect(asked.chunks(schema, None), ask, asked.progress)
    _check_answers(directory, answers, len(ids), len(policy.treatment_names))
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


def _check_answers(
    directory: Path, answers: dict[str, npt.NDArray[Any]], users: int, arms: int
) -> None:
    """A SavedModel is a program, and not always ours: what it answers is looked at."""
    wanted = ("treatment", "response", "cost", "alpha", "clamped")
    wrong = [name for name in wanted if name not in answers or answers[name].shape != (users,)]
    if wrong:
        raise ValueError(
            f"the SavedModel {directory} answers without {wrong[0]!r} [users]; expected "
            f"{', '.join(wanted)} of an export of `tfalloc export`: export again."
        )
    given = answers["treatment"]
    if given.dtype.kind not in "iu" or given.min() < 0 or given.max() >= arms:
        raise ValueError(
            f"the SavedModel {directory} gives treatments from {given.min()} to {given.max()}; "
            f"expected integers from 0 to {arms - 1}, for it has {arms} treatments: export again."
        )
    for name in ("response", "cost", "alpha"):
        if not np.isfinite(answers[name]).all():
            raise ValueError(
                f"the SavedModel {directory} answers with a {name} that is NaN or infinite; "
                "expected finite numbers: export again."
            )


@dataclasses.dataclass(frozen=True)
class PolicyFeature:
    """A feature column that a SavedModel asks for.

    Attributes:
      name: of the column.
      input: of the signature's argument.
      kind: "numeric" or "string".
    """

    name: str
    input: str
    kind: Literal["numeric", "string"]


@dataclasses.dataclass(frozen=True)
class Policy:
    """What an export says about itself.

    Attributes:
      treatment_names: K labels.
      features: what it asks for.
      is_matrix: whether features are one matrix; such a model is no use with named columns.
      calibration: "predicted" or "trial".
      least_budget: cost per user of its cheapest policy.
      most_budget: of its dearest.
    """

    treatment_names: list[str]
    features: list[PolicyFeature]
    is_matrix: bool
    calibration: str
    least_budget: float
    most_budget: float

    def __post_init__(self) -> None:
        if self.is_matrix:
            raise ValueError("its model takes one matrix, not named columns")
        if not self.treatment_names or not self.features:
            raise ValueError("expected at least one treatment and one feature")


def read_policy(directory: Path) -> Policy:
    """Reads what an export says about itself.

    Raises:
      ValueError: the file is absent or damaged.
    """
    try:
        return read_validated(directory / metadata.FILE, Policy)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"cannot use the SavedModel {directory} ({error}); expected one that `tfalloc export` "
            "wrote."
        ) from error


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


def _tensors(columns: Any) -> Any:
    if not isinstance(columns, dict):
        return tf.constant(columns, tf.float32)
    return {
        name: tf.constant(x, tf.string if x.dtype == object else tf.float32)
        for name, x in columns.items()
    }
