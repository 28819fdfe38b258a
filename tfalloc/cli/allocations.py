"""Allocations of a file of users, by exact knapsack or by a SavedModel's signature."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf

from tfalloc.cli import console, run
from tfalloc.cli.users import CHUNK_ROWS, Users
from tfalloc.mckp import solve


@dataclasses.dataclass
class Plan:
    """An allocation with its predictions.

    Attributes:
      ids: [N], of the users.
      id_name: name of their column.
      names: K labels of the treatments.
      treatment: [N] int32.
      response: [N], predicted, of the treatment given.
      cost_of: [N], likewise.
      budget: cost per user that was asked for.
      alpha: shadow price.
      upper_bound: response per user that no allocation exceeds; None if not known.
      extra: further columns to write.
    """

    ids: Any
    id_name: str
    names: list[str]
    treatment: npt.NDArray[np.int32]
    response: npt.NDArray[Any]
    cost_of: npt.NDArray[Any]
    budget: float
    alpha: float
    upper_bound: float | None = None
    extra: dict[str, npt.NDArray[Any]] = dataclasses.field(default_factory=dict)

    @property
    def num_users(self) -> int:
        """N."""
        return len(self.treatment)

    @property
    def value(self) -> float:
        """Predicted response per user."""
        return float(self.response.mean(dtype=np.float64))

    @property
    def cost(self) -> float:
        """Predicted cost per user."""
        return float(self.cost_of.mean(dtype=np.float64))

    def mix(self) -> list[tuple[str, int, float, float]]:
        """(label, users, mean predicted response, mean predicted cost) of every treatment."""
        rows = []
        for arm, name in enumerate(self.names):
            given = self.treatment == arm
            count = int(given.sum())
            means = [
                float(x[given].mean()) if count else np.nan for x in (self.response, self.cost_of)
            ]
            rows.append((name, count, means[0], means[1]))
        return rows

    def frames(self) -> Iterator[pd.DataFrame]:
        """The rows to write, in chunks."""
        labels = np.array(self.names, object)
        for first in range(0, self.num_users, CHUNK_ROWS):
            part = slice(first, first + CHUNK_ROWS)
            columns = {
                self.id_name: self.ids[part],
                "treatment": labels[self.treatment[part]],
                "treatment_index": self.treatment[part],
                "response": self.response[part],
                "cost": self.cost_of[part],
                **{name: column[part] for name, column in self.extra.items()},
            }
            yield pd.DataFrame(columns)


def by_run(
    directory: Path,
    config: dict[str, Any],
    data: str,
    id_column: str | None,
    missing: str | None,
    *,
    budget: float | None,
    total_budget: float | None,
) -> Plan:
    """Predicts with a run's model and solves the knapsack over exactly these users.

    Raises:
      ValueError: bad users, or an infeasible budget (with the least feasible one).
    """
    users = Users(
        data, config["data"]["feature_kinds"], missing or config["columns"]["missing"], id_column
    )
    model = run.load_model(directory)
    predict = tf.function(lambda features: model(features, training=False), reduce_retracing=True)
    ids, predicted = _collect(users, lambda columns: predict(_tensors(columns)))
    value, cost = predicted["response"], predicted["cost"]
    console.note("solving …")
    best = solve(value, cost, budget=budget, total_budget=total_budget)
    given = best.treatment[:, None]
    return Plan(
        ids=ids,
        id_name=_id_name(id_column),
        names=list(config["data"]["treatments"]),
        treatment=best.treatment,
        response=np.take_along_axis(value, given, axis=1)[:, 0],
        cost_of=np.take_along_axis(cost, given, axis=1)[:, 0],
        budget=_per_user(budget, total_budget, len(given)),
        alpha=best.alpha,
        upper_bound=best.upper_bound,
    )


def by_saved_model(
    directory: Path,
    data: str,
    id_column: str | None,
    missing: str | None,
    *,
    budget: float | None,
    total_budget: float | None,
) -> Plan:
    """Asks a SavedModel's `allocate_for_budget` for every user, as a server would.

    Raises:
      ValueError: not an export of this package, bad users, or a budget below its table.
    """
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
    users = Users(data, kinds, missing or "error", id_column)
    if budget is None:
        # A budget of everybody needs their number before the first of them is asked about.
        number = sum(len(ids) for ids, _ in users.chunks())
        per_user = _per_user(None, total_budget, number)
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

    ids, answers = _collect(users, ask)
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


def _collect(users: Users, ask: Any) -> tuple[Any, dict[str, npt.NDArray[Any]]]:
    """Answers for all users, chunk by chunk."""
    ids: list[Any] = []
    parts: dict[str, list[Any]] = {}
    with console.err().status("predicting …") as status:
        done = 0
        for names, columns in users.chunks():
            ids.append(names)
            for name, answer in ask(columns).items():
                parts.setdefault(name, []).append(answer.numpy())
            done += len(names)
            status.update(f"predicting … {done:,} users")
    joined = pd.concat(ids, ignore_index=True) if hasattr(ids[0], "iloc") else np.concatenate(ids)
    return joined, {name: np.concatenate(part) for name, part in parts.items()}


def _tensors(columns: dict[str, npt.NDArray[Any]]) -> dict[str, tf.Tensor]:
    return {
        name: tf.constant(x, tf.string if x.dtype == object else tf.float32)
        for name, x in columns.items()
    }


def _per_user(budget: float | None, total_budget: float | None, rows: int) -> float:
    return float(budget) if budget is not None else float(total_budget or 0.0) / rows


def _id_name(id_column: str | None) -> str:
    return id_column if id_column is not None else "row"
