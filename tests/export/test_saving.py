"""`save`: what it accepts and refuses, and that it leaves all or nothing."""

import json
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tests.export.conftest import arguments, make_trial
from tfalloc import export
from tfalloc.data import RCTData
from tfalloc.export import saving
from tfalloc.models import AllocationModel


def tree(directory):
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*"))


def adapted(columns):
    rng = np.random.default_rng(0)
    arm = rng.integers(0, 2, 100)
    data = RCTData({n: rng.normal(size=100) for n in columns}, arm, rng.integers(0, 2, 100), arm)
    model = AllocationModel(2, backbone="small")
    model.adapt(data)
    return model, data


def test_a_file_of_users_gives_the_same_table(exported, tmp_path):
    """Other kinds of rows go through `evaluation.predict`, which is tested on all of them."""
    frame = pd.DataFrame({**exported.data.features, "other": 1})
    frame.to_parquet(tmp_path / "users.parquet")
    export.save(exported.model, tmp_path / "m", population=str(tmp_path / "users.parquet"))
    one = export.load_table(tmp_path / "m")
    two = export.load_table(exported.path["predicted"])
    np.testing.assert_allclose(one.cost, two.cost, rtol=1e-6)


def test_a_model_read_from_a_file_and_a_streamed_weighted_population(exported, tmp_path):
    frame = exported.data.frame().assign(weight=np.linspace(0.5, 2.0, len(exported.data)))
    frame.drop(columns="propensity").to_parquet(tmp_path / "trial.parquet")
    roles = {"treatment": "treatment", "response": "response", "cost": "cost"}
    population = RCTData.from_parquet(
        tmp_path / "trial.parquet", in_memory=False, sample_weight="weight", **roles
    )
    exported.model.save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    export.save(model, tmp_path / "m", population=population)
    table = export.load_table(tmp_path / "m")
    v, c = (exported.predicted[name].astype(np.float64) for name in ("response", "cost"))
    for budget in np.linspace(table.cost[0], table.cost[-1], 20):
        arms = np.argmax(v - table.lookup(budget)[0] * c, axis=1)
        spent = np.average(c[np.arange(len(c)), arms], weights=frame["weight"])
        assert budget - table.max_underspend - 1e-6 <= spent <= budget + 1e-6
    export.save(model, tmp_path / "m", population=population, calibration="trial", overwrite=True)


def test_metadata(exported):
    contents = json.loads((exported.path["trial"] / "assets.extra/policy.json").read_text())
    assert contents["treatment_names"] == ["0", "1", "2"]
    assert contents["calibration"] == "trial" and contents["budget_unit"] == "cost per user"
    kinds = {feature["name"]: feature["kind"] for feature in contents["features"]}
    assert kinds == {"x0": "numeric", "x1": "numeric", "x2": "numeric", "place": "string"}
    assert contents["population_rows"] == contents["trial_rows"] == len(exported.data)
    assert contents["least_budget"] < contents["most_budget"]
    assert contents["versions"]["tensorflow"] == tf.__version__
    assert str(exported.path["trial"].parent) not in json.dumps(contents)


@pytest.mark.parametrize("name", ["policy_alpha", "policy_budget", "policy budget"])
def test_collisions_are_refused(tmp_path, name):
    model, data = adapted(["x", name])
    with pytest.raises(ValueError, match="name of a policy input"):
        export.save(model, tmp_path / "m", population=data)
    assert tree(tmp_path) == []


def test_names_that_become_equal_are_refused(tmp_path):
    model, data = adapted(["a b", "a_b"])
    with pytest.raises(ValueError, match="would both be served as 'a_b'"):
        export.save(model, tmp_path / "m", population=data)


def test_existing_paths(tmp_path):
    model, data = adapted(["x"])
    target = tmp_path / "deep" / "m"
    export.save(model, target, population=data, treatment_names=["none", "mail"])
    assert tree(tmp_path / "deep")[0] == "m" and len(list((tmp_path / "deep").iterdir())) == 1
    assert os.stat(target).st_mode & 0o055
    before = (target / "saved_model.pb").read_bytes()
    with pytest.raises(ValueError, match="exists; pass overwrite=True"):
        export.save(model, target, population=data)
    assert (target / "saved_model.pb").read_bytes() == before
    export.save(model, target, population=data, overwrite=True, treatment_names=["a", "b"])
    contents = json.loads((target / "assets.extra/policy.json").read_text())
    assert contents["treatment_names"] == ["a", "b"]
    assert len(list((tmp_path / "deep").iterdir())) == 1
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(ValueError, match="tfalloc did not write"):
        export.save(model, tmp_path / "other", population=data, overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failing_export_leaves_things_as_they_were(tmp_path, monkeypatch, overwrite):
    model, data = adapted(["x"])
    target = tmp_path / "deep" / "m"
    if overwrite:
        export.save(model, target, population=data)
    before = tree(tmp_path)

    def fail(*_):
        raise RuntimeError("disk on fire")

    monkeypatch.setattr(saving, "_verify", fail)
    with pytest.raises(RuntimeError, match="disk on fire"):
        export.save(model, target, population=data, overwrite=overwrite)
    assert tree(tmp_path) == before
    if overwrite:
        assert tf.saved_model.load(str(target)).signatures


def test_a_model_that_answers_differently_is_not_exported(tmp_path, monkeypatch):
    model, data = adapted(["x"])
    write = saving.Server.save

    def tampered(self, directory):
        floats = [v for v in self.model_variables if "float" in str(v.dtype)]
        for variable in floats:
            variable.assign_add(tf.ones(variable.shape, variable.dtype))
        write(self, directory)
        for variable in floats:
            variable.assign_sub(tf.ones(variable.shape, variable.dtype))

    monkeypatch.setattr(saving.Server, "save", tampered)
    with pytest.raises(RuntimeError, match="does not answer like the model in memory"):
        export.save(model, tmp_path / "m", population=data)
    assert tree(tmp_path) == []


def test_messages(exported, tmp_path):
    model, data = exported.model, exported.data
    columns = data.features
    empty = {name: column[:0] for name, column in columns.items()}
    gaps = {**columns, "x0": np.where(np.arange(len(data)) == 3, np.nan, columns["x0"])}
    cases = [
        ({"calibration": "guess"}, "calibration='guess' is not known"),
        ({"population": columns, "calibration": "trial"}, "expected trial=RCTData"),
        ({"trial": data}, "does not use it"),
        ({"trial": columns, "calibration": "trial"}, "trial is a dict"),
        ({"trial": make_trial(arms=2), "calibration": "trial"}, "has 2 treatments, but the model"),
        ({"treatment_names": ["a", "b"]}, "expected 3 different labels"),
        ({"population": {"x0": columns["x0"]}}, "column 'x1'"),
        ({"population": columns["x0"]}, "expected columns by name"),
        ({"population": make_trial(matrix=True)}, "are one matrix, but the model takes"),
        ({"population": {**columns, "x0": columns["x0"][:3]}}, "different lengths"),
        ({"population": {**columns, "x0": columns["place"]}}, "expected numbers"),
        ({"population": {**columns, "place": columns["x0"]}}, "expected text"),
        ({"population": empty}, "is empty"),
        ({"population": gaps}, "has 1 NaN value"),
        ({"population": tmp_path / "absent.csv"}, "absent.csv"),
        ({"budgets": (-2.0, -1.0)}, "are infeasible"),
        ({"path": "gs://bucket/model"}, "is remote"),
        ({"path": Path("gs://bucket/model")}, "is remote"),
        ({"model": AllocationModel(2)}, "has no network yet"),
        ({"model": object()}, "object does not declare its inputs"),
    ]
    for changed, message in cases:
        chosen = {"model": model, "path": tmp_path / "m", "population": data, **changed}
        with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
            export.save(chosen.pop("model"), chosen.pop("path"), **chosen)
        assert "\n" not in str(caught.value)
    assert tree(tmp_path) == []


def test_other_directories_are_no_policies(tmp_path):
    with pytest.raises(ValueError, match="expected a directory written by"):
        export.load_table(tmp_path)


def damage(change):
    """A change of policy.json as a function of the folder."""

    def apply(folder):
        file = folder / "assets.extra" / "policy.json"
        contents = json.loads(file.read_text())
        change(contents)
        file.write_text(json.dumps(contents))

    return apply


def put(*path, value):
    def change(contents):
        *parents, last = path
        for name in parents:
            contents = contents[name]
        contents[last] = value

    return damage(change)


DAMAGE = {
    "no JSON": lambda f: (f / "assets.extra/policy.json").write_text('{"table": '),
    "a list": lambda f: (f / "assets.extra/policy.json").write_text("[]"),
    "binary": lambda f: (f / "assets.extra/policy.json").write_bytes(b"\xff\x00"),
    "other format": put("format", value=7),
    "no labels": put("treatment_names", value=[]),
    "labels twice": put("treatment_names", value=["a", "a", "b"]),
    "labels are numbers": put("treatment_names", value=[1, 2, 3]),
    "fallback of another arm": put("fallback_treatment", value=7),
    "no features": put("features", value=[]),
    "feature of no kind": put("features", 0, "kind", value="date"),
    "feature without input": damage(lambda c: c["features"][0].pop("input")),
    "other calibration": put("calibration", value="guess"),
    "budget is text": put("least_budget", value="0.1"),
    "budget is no number": put("least_budget", value=float("nan")),
    "budget of 401 digits": put("most_budget", value=10**400),
    "table is short": damage(lambda c: c["table"]["alpha"].pop()),
    "table is empty": put("table", value={"alpha": [], "cost": []}),
    "table rises": damage(lambda c: c["table"]["alpha"].reverse()),
    "table is text": put("table", "cost", 0, value="x"),
    **{
        f"no {key}": damage(lambda c, key=key: c.pop(key))
        for key in ("format", "treatment_names", "is_matrix", "features", "table", "versions")
    },
}


@pytest.fixture(scope="module")
def policy_folder(exported, tmp_path_factory):
    """A copy of an export; each test puts its policy.json back."""
    folder = tmp_path_factory.mktemp("damaged") / "m"
    shutil.copytree(exported.path["predicted"], folder)
    return folder


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE)
def test_damaged_metadata_is_one_line(policy_folder, change):
    file = policy_folder / "assets.extra" / "policy.json"
    before = file.read_bytes()
    try:
        change(policy_folder)
        for read in (export.read_policy, export.load_table, export.ServedPolicy):
            with pytest.raises(ValueError, match="policy.json' is damaged") as caught:
                read(policy_folder)
            assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    finally:
        file.write_bytes(before)


class Answer(tf.Module):
    """A SavedModel that answers something else than an export does."""

    def __init__(self, **changed):
        super().__init__()
        self.changed = changed

    @tf.function(autograph=False)
    def ask(self, policy_budget, **features):
        answers = {
            "treatment": tf.zeros_like(policy_budget, tf.int32),
            "response": policy_budget,
            "cost": policy_budget,
            "alpha": policy_budget,
            "clamped": policy_budget > 0.0,
        }
        for name, change in self.changed.items():
            answers[name] = change(policy_budget)
        return {name: answer for name, answer in answers.items() if answer is not None}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"treatment": lambda b: tf.cast(b * 0 + 7, tf.int32)}, "answers treatment 7, and has 3"),
        ({"treatment": lambda b: tf.cast(b * 0 - 1, tf.int32)}, "answers treatment -1, and has 3"),
        ({"treatment": lambda b: tf.cast(b, tf.int64)}, "int64"),
        ({"cost": lambda b: tf.reduce_sum(b)}, r"answers 'cost' of shape \(\)"),
        ({"alpha": lambda b: None}, "does not answer"),
        (None, "cannot be loaded"),
    ],
)
def test_wrong_answers_are_refused(policy_folder, exported, tmp_path, changed, message):
    folder = tmp_path / "m"
    shutil.copytree(policy_folder / "assets.extra", folder / "assets.extra")
    sent = arguments(exported.data, 3)
    if changed is None:
        (folder / "saved_model.pb").write_bytes(b"damaged")
    else:
        module = Answer(**changed)
        specs = {name: tf.TensorSpec([None], x.dtype, name) for name, x in sent.items()}
        budget = tf.TensorSpec([None], tf.float32, "policy_budget")
        ask = module.ask.get_concrete_function(budget, **specs)
        tf.saved_model.save(module, str(folder), signatures={"allocate_for_budget": ask})
    features = {name: column[:3] for name, column in exported.data.features.items()}

    def answer():
        return export.ServedPolicy(folder).allocate_for_budget(features, 0.5)

    with pytest.raises(ValueError, match=message) as caught:
        answer()
    assert "\n" not in str(caught.value)


def test_marginal_heads_are_exported(tmp_path):
    data = make_trial(rows=1500)
    model = AllocationModel(3, backbone="small", heads="marginal", seed=1)
    model.compile(goal_weight=0.0, jit_compile=False)
    model.fit(data, batch_size=200, epochs=1, verbose=0)
    export.save(model, tmp_path / "m", population=data)
    served = tf.saved_model.load(str(tmp_path / "m")).signatures["serve"](**arguments(data))
    predicted = model.predict(data, verbose=0)
    for name in ("response", "cost"):
        np.testing.assert_allclose(served[name], predicted[name], rtol=1e-4, atol=1e-6)
    assert np.all(np.diff(served["cost"]) > 0)
