"""`scale.allocate`: from Python what the command does, and what it refuses."""

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tests.workspace import make_frame
from tfalloc import mckp, scale
from tfalloc.scale.allocate import OUTPUT_COLUMNS
from tfalloc.training import Run


@pytest.fixture(scope="module")
def users():
    return make_frame(400, seed=5)[["x", "noise", "city"]]


def test_a_frame_and_a_file_get_the_same_plan(workspace, users, tmp_path):
    users = users.assign(user=[f"{i:05d}" for i in range(len(users))])
    users.to_csv(tmp_path / "users.csv", index=False)
    run = Run.read(workspace.run)
    done = []
    plans = [
        scale.allocate(run, users, budget=0.4, id_column="user", progress=done.append),
        scale.allocate(workspace.run, tmp_path / "users.csv", total_budget=160, id_column="user"),
    ]
    for plan in plans:
        assert list(plan.ids) == list(users.user)
        assert plan.cost <= 0.4 * (1 + 1e-6) and plan.value <= plan.upper_bound
        assert sum(count for _, count, _, _ in plan.mix()) == plan.num_users == 400
    assert (plans[0].treatment == plans[1].treatment).all() and done == [400]
    predicted = run.model().predict(users)
    best = mckp.solve(predicted["response"], predicted["cost"], budget=0.4)
    assert (plans[0].treatment == best.treatment).all()


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_ids_come_out_byte_for_byte(workspace, users, tmp_path, suffix):
    ids = ["007", "1e5", "12345678901234567890123", "NA", "", " a", '=1+"x"', "ü,z"] * 50
    users = users.assign(user=ids)
    users.to_csv(tmp_path / "users.csv", index=False)
    output = tmp_path / f"plan.{suffix}"
    scale.allocate(
        workspace.run, str(tmp_path / "users.csv"), budget=0.4, id_column="user", output=output
    )
    if suffix == "csv":
        plan = pd.read_csv(output, dtype=str, keep_default_na=False)
    else:
        plan = pd.read_parquet(output)
    assert plan.user.tolist() == ids


@pytest.mark.parametrize("name", OUTPUT_COLUMNS)
def test_an_id_column_keeps_its_name(workspace, users, name):
    with pytest.raises(ValueError, match="rename it"):
        scale.allocate(workspace.run, users.assign(**{name: 1}), budget=0.4, id_column=name)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"treatment": [7, 0]}, "answers treatment 7, and has 2 treatments"),
        ({"cost": [np.nan, 0.0]}, "cost that is NaN"),
        ({"response": [1.0]}, "'response'"),
        ({"alpha": None}, "alpha"),
    ],
)
def test_what_a_saved_model_answers_is_looked_at(workspace, users, monkeypatch, answer, expected):
    honest = {"treatment": [0, 1], "response": [0.1, 0.2], "cost": [0.0, 0.1],
              "alpha": [1.0, 1.0], "clamped": [False, False]}  # fmt: skip
    given = {n: tf.constant(a) for n, a in {**honest, **answer}.items() if a is not None}

    class Loaded:
        signatures = {"allocate_for_budget": staticmethod(lambda **_: given)}

    monkeypatch.setattr(tf.saved_model, "load", lambda path: Loaded)
    with pytest.raises(ValueError, match=expected):
        scale.allocate(workspace.saved_model, users.head(2), budget=0.4)


def test_amounts(workspace, users):
    for amounts in ({}, {"budget": 1.0, "total_budget": 1.0}):
        with pytest.raises(ValueError, match="exactly one"):
            scale.allocate(workspace.run, users, **amounts)
    with pytest.raises(ValueError, match="budget=nan: expected a finite"):
        scale.allocate(workspace.run, users, budget=np.nan)


def test_a_cluster_gets_one_treatment(workspace, users):
    run = Run.read(workspace.run)
    alone = scale.allocate(run, users, budget=0.4)
    each = scale.allocate(run, users.assign(home=np.arange(400)), budget=0.4, cluster="home")
    assert (each.treatment == alone.treatment).all()
    assert each.upper_bound == pytest.approx(alone.upper_bound)
    users = users.assign(home=[f"h{i // 3}" for i in range(400)])
    plan = scale.allocate(run, users, total_budget=160, cluster="home")
    assert (users.assign(arm=plan.treatment).groupby("home").arm.nunique() == 1).all()
    assert 0.35 < plan.cost <= 0.4 * (1 + 1e-6) and plan.budget == 0.4
    assert plan.value <= plan.upper_bound < alone.upper_bound
    # The bound is that of clusters: their sums, by the solver itself.
    predicted = run.model().predict(users)
    sums = [users[[]].assign(home=users.home, **{str(k): x[:, k] for k in range(2)})
            .groupby("home", sort=False).sum() for x in predicted.values()]  # fmt: skip
    best = mckp.solve(*(x.to_numpy(float) for x in sums), total_budget=160)
    assert plan.upper_bound == pytest.approx(best.upper_bound * len(sums[0]) / 400, rel=1e-6)
    homeless = users.home.where(np.arange(400) != 5, "")
    with pytest.raises(ValueError, match="no id in row 5"):
        scale.allocate(run, users.assign(home=homeless), budget=0.4, cluster="home")
    with pytest.raises(ValueError, match="expected the directory of a run"):
        scale.allocate(workspace.saved_model, users, budget=0.4, cluster="home")
