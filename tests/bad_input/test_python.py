"""The table of bad calls from Python: what is called, and what the one line must say.

None of them trains anything: bad input is refused before any work.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import tfalloc
from tfalloc import baselines, datasets, evaluation, export, gradients, mckp, outcome, scale, tuning
from tfalloc.training import Recipe

N = 40
ARM = np.arange(N) % 2
BOUGHT = (np.arange(N) // 2 % 2).astype(float)
SPENT = 0.5 * ARM
X = np.linspace(-1.0, 1.0, 2 * N).reshape(N, 2)
V, C = np.stack([BOUGHT, BOUGHT + 0.1], 1), np.tile([0.0, 0.5], (N, 1))
ROWS = {"treatment": ARM, "response": BOUGHT, "cost": SPENT}
FRAME = pd.DataFrame({"x": X[:, 0], "arm": ARM, "bought": BOUGHT, "spent": SPENT})


def trial(**other: Any) -> Any:
    return tfalloc.RCTData(**{"features": X, **ROWS, **other})


def frame(change: dict[str, Any] | None = None, **other: Any) -> Any:
    columns = {"treatment": "arm", "response": "bought", "cost": "spent"}
    return tfalloc.RCTData.from_frame(FRAME.assign(**change or {}), **{**columns, **other})


def put(values: np.ndarray, value: float) -> np.ndarray:
    values = np.array(values, float)
    values[3] = value
    return values


def solve(**other: Any) -> Any:
    given = {"value": V, "cost": C, "budget": 0.2, **other}
    return mckp.solve(given.pop("value"), given.pop("cost"), **given)


def expected(**other: Any) -> Any:
    given = {"v": V, "c": C, **ROWS, "budget": 0.2, **other}
    columns = [given.pop(name) for name in ("v", "c", "treatment", "response", "cost")]
    return outcome.expected_outcome(*columns, **given)


def model(**other: Any) -> Any:
    return tfalloc.AllocationModel(**{"num_treatments": 2, "backbone": "small", **other})


def compiled(**other: Any) -> Any:
    made = model()
    made.compile(**{"goal_weight": 0.1, "budget": 0.2, **other})
    return made


def policy(**other: Any) -> Any:
    return evaluation.policy_outcome(V, C, ROWS, **{"budget": 0.2, **other})


Call = Callable[[], object]

TABLE: dict[str, tuple[str, Call]] = {
    # A trial.
    "lengths differ": ("39", lambda: trial(response=BOUGHT[1:])),
    "treatment below 0": ("-1", lambda: trial(treatment=put(ARM, -1))),
    "treatment is half": ("0.5", lambda: trial(treatment=put(ARM, 0.5))),
    "treatment of 2^40": ("renumber", lambda: trial(treatment=put(ARM, 2**40))),
    "no row of an arm": ("no rows", lambda: trial(num_treatments=3)),
    "cost below 0": ("cost", lambda: trial(cost=put(SPENT, -1))),
    "infinite response": ("response", lambda: trial(response=put(BOUGHT, np.inf))),
    "infinite feature": ("infinite", lambda: trial(features=put(X, np.inf))),
    "propensity of 0": ("propensity", lambda: trial(propensity=put(SPENT + 0.5, 0))),
    "weights below 0": ("weight", lambda: trial(sample_weight=put(SPENT + 1, -1))),
    "missing is bogus": ("bogus", lambda: trial(missing="bogus")),
    "shares of 2": ("sum to 1", lambda: trial().split([1.0, 1.0])),
    "batches of 0": ("batch_size", lambda: trial().batches(0)),
    "role without a column": ("cost=None", lambda: frame(cost=None)),
    "unknown column": ("'spend'", lambda: frame(cost="spend")),
    "date as a feature": ("when", lambda: frame({"when": pd.Timestamp("2020-01-01")})),
    "lists as a feature": ("tags", lambda: frame({"tags": [["a"]] * N})),
    "empty frame": (
        "empty",
        lambda: tfalloc.RCTData.from_frame(
            FRAME.head(0), treatment="arm", response="bought", cost="spent"
        ),
    ),
    "column twice": (
        "'x'",
        lambda: tfalloc.RCTData.from_frame(
            pd.concat([FRAME, FRAME[["x"]]], axis=1),
            treatment="arm",
            response="bought",
            cost="spent",
        ),
    ),
    "three labels as a response": (
        "bought",
        lambda: frame({"bought": ["yes", "no", "maybe", "no"] * (N // 4)}),
    ),
    "absent Criteo": ("absent.csv", lambda: datasets.criteo("absent.csv")),
    # Numerics.
    "no budget": ("budget", lambda: solve(budget=None)),
    "two budgets": ("total_budget", lambda: solve(total_budget=1.0)),
    "budget is NaN": ("nan", lambda: solve(budget=float("nan"))),
    "budget is infeasible": ("infeasible", lambda: solve(budget=-0.1)),
    "NaN value": ("value", lambda: solve(value=put(V, np.nan))),
    "shapes differ": ("shape", lambda: solve(cost=C[:, :1])),
    "values of one dimension": ("value", lambda: solve(value=V[:, 0])),
    "unknown method": ("'newton'", lambda: expected(method="newton")),
    "unknown estimator": ("'mean'", lambda: expected(estimator="mean")),
    "outcome at NaN": ("budget", lambda: expected(budget=float("nan"))),
    "no iterations": ("max_iterations", lambda: expected(max_iterations=0)),
    "step of 0": ("step", lambda: gradients.FiniteDifference(step=0.0)),
    "sigma of 0": ("sigma", lambda: gradients.NES(sigma=0.0)),
    "no directions": ("num_directions", lambda: gradients.NES(num_directions=0)),
    "temperature of 0": ("temperature", lambda: gradients.Smoothed(temperature=0.0)),
    "unknown kind": ("'hard'", lambda: gradients.Smoothed(kind="hard")),
    "unknown weight": ("'odd'", lambda: gradients.Integrated(weight="odd")),
    # A model.
    "no treatments": ("num_treatments", lambda: model(num_treatments=0)),
    "unknown heads": ("'many'", lambda: model(heads="many")),
    "unknown backbone": ("'huge'", lambda: model(backbone="huge", num_features=2).adapt(trial())),
    "one bin": ("bins", lambda: model(bins=1)),
    "monotone spline": ("spline", lambda: model(heads="spline", monotone=True)),
    "amounts are absent": ("cost_amounts", lambda: model(cost_head="on_response")),
    "seed below 0": ("seed", lambda: model(seed=-1)),
    "goal weight below 0": ("goal_weight", lambda: compiled(goal_weight=-1.0)),
    "budgets upside down": ("budget", lambda: compiled(budget=(2.0, 1.0))),
    "goal without a budget": ("budget", lambda: compiled(budget=None)),
    "unknown scale": ("'odd'", lambda: compiled(goal_scale="odd")),
    "fit without compile": ("compile", lambda: model().fit(trial(), verbose=0)),
    "weights beside a trial": (
        "sample_weight",
        lambda: compiled().fit(trial(), sample_weight=np.ones(N), verbose=0),
    ),
    "a dataset is split": (
        "validation_split",
        lambda: compiled().fit(trial().batches(10), validation_split=0.5, verbose=0),
    ),
    "predict before fit": ("fit", lambda: model().predict(X)),
    # Baselines and evaluation.
    "DirectRank of three arms": ("num_treatments", lambda: baselines.DirectRank(3)),
    "loss of DRP": ("'odd'", lambda: baselines.DRP(2, loss="odd")),
    "loss of DFCL": ("'odd'", lambda: baselines.DFCL(2, loss="odd")),
    "no member": ("members", lambda: baselines.Average([])),
    "policy at infinity": ("budget", lambda: policy(budget=float("inf"))),
    "estimator of a policy": ("'mean'", lambda: policy(estimator="mean")),
    "confidence of 2": ("confidence", lambda: policy(confidence=2.0)),
    "no model to compare": ("models", lambda: evaluation.compare({}, ROWS, budget=0.2)),
    "scores of other rows": ("39", lambda: evaluation.qini(BOUGHT[1:], ROWS)),
    "bins of calibration": ("num_bins", lambda: evaluation.calibration(V, C, ROWS, num_bins=0)),
    # Products.
    "export to a bucket": (
        "remote",
        lambda: export.save(compiled(), "gs://nowhere/policy", population=trial()),
    ),
    "export before fit": ("fit", lambda: export.save(compiled(), "s", population=trial())),
    "allocate by nothing": (
        "absent",
        lambda: scale.allocate("absent", "users.csv", budget=1.0, output="plan.csv"),
    ),
    "recipe of no epochs": ("epochs", lambda: Recipe(budget=0.2, epochs=0)),
    "study of no trials": ("trials", lambda: tuning.study(trial(), trials=0, budget=0.2)),
}


@pytest.mark.parametrize("name", TABLE)
def test_is_refused(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    says, call = TABLE[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kinds = (ValueError, FileNotFoundError, tf.errors.InvalidArgumentError)
        with pytest.raises(kinds) as caught:
            call()
    text = str(caught.value)
    assert says in text, text
    assert isinstance(caught.value, tf.errors.OpError) or "\n" not in text.strip(), text
    assert list(tmp_path.iterdir()) == []
