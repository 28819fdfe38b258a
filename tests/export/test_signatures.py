"""The SavedModel as a client meets it: names, types, values, and no need of tfalloc or keras."""

import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.export.conftest import arguments, make_trial, trained
from tfalloc import export
from tfalloc.data import RCTData
from tfalloc.export.signatures import choose
from tfalloc.models import AllocationModel

FEATURES = {"x0": tf.float32, "x1": tf.float32, "x2": tf.float32, "place": tf.string}
CHOSEN = {"treatment": (tf.int32, 1), "response": (tf.float32, 1), "cost": (tf.float32, 1)}
PREDICTED = {"response": (tf.float32, 2), "cost": (tf.float32, 2)}


@pytest.mark.parametrize(
    ("name", "extra", "outputs"),
    [
        ("serving_default", {}, PREDICTED),
        ("serve", {}, PREDICTED),
        ("allocate", {"policy_alpha": tf.float32}, CHOSEN),
        (
            "allocate_for_budget",
            {"policy_budget": tf.float32},
            {**CHOSEN, "alpha": (tf.float32, 1), "clamped": (tf.bool, 1)},
        ),
    ],
)
def test_contract(exported, name, extra, outputs):
    signature = exported.loaded["predicted"].signatures[name]
    positional, inputs = signature.structured_input_signature
    assert not positional
    assert {key: spec.dtype for key, spec in inputs.items()} == {**FEATURES, **extra}
    assert all(spec.shape.as_list() == [None] for spec in inputs.values())
    described = signature.structured_outputs
    assert {key: (spec.dtype, spec.shape.rank) for key, spec in described.items()} == outputs
    for rows in (0, 1, 7):
        policy = {key: tf.fill([rows], 0.1) for key in extra}
        answer = signature(**arguments(exported.data, rows), **policy)
        for key, (dtype, rank) in outputs.items():
            assert answer[key].dtype == dtype
            assert answer[key].shape.as_list() == [rows, 3][:rank]


def test_serve_equals_predict(exported):
    answer = exported.call("serving_default")
    for name in ("response", "cost"):
        np.testing.assert_allclose(answer[name], exported.predicted[name], rtol=1e-5, atol=1e-7)


def test_allocate_is_the_argmax_at_each_rows_own_price(exported):
    served = exported.call("serve")
    v, c = (served[name].astype(np.float64) for name in ("response", "cost"))
    alpha = np.random.default_rng(0).gamma(1.0, 0.1, len(v)).astype(np.float32)
    wanted = np.argmax(v - alpha[:, None].astype(np.float64) * c, axis=1)
    answer = exported.call("allocate", policy_alpha=alpha)
    np.testing.assert_array_equal(answer["treatment"], wanted)
    assert len(np.unique(wanted)) == 3
    for name in ("response", "cost"):
        np.testing.assert_array_equal(answer[name], served[name][np.arange(len(v)), wanted])


def test_ties_go_to_the_first_arm_and_nan_to_the_fallback():
    both = {
        "response": tf.constant([[0.25, 0.5, 0.5], [0.25, 0.5, 0.5], [0.0, np.nan, 1.0]]),
        "cost": tf.constant([[0.0, 0.5, 0.5], [0.0, 0.25, 0.25], [0.0, 1.0, 2.0]]),
    }
    answer = choose(both, tf.constant([0.5, 0.5, 0.0]), fallback=2)
    assert answer["treatment"].numpy().tolist() == [0, 1, 2]


def test_rows_may_have_different_budgets(exported):
    budget = np.where(np.arange(len(exported.data)) % 2, 0.1, 0.4)
    mixed = exported.call("allocate_for_budget", policy_budget=budget)
    for amount in (0.1, 0.4):
        alone = exported.call("allocate_for_budget", policy_budget=amount)
        for name in mixed:
            np.testing.assert_array_equal(
                mixed[name][budget == amount], alone[name][budget == amount]
            )


def test_served_alpha_reproduces_the_allocation(exported):
    by_budget = exported.call("allocate_for_budget", policy_budget=0.2)
    by_price = exported.call("allocate", policy_alpha=by_budget["alpha"])
    np.testing.assert_array_equal(by_budget["treatment"], by_price["treatment"])


def test_senseless_policies_spend_least(exported):
    cheapest = exported.call("serve")["cost"].min(axis=1)
    for alpha in (np.nan, np.inf, -np.inf, -1.0):
        answer = exported.call("allocate", policy_alpha=alpha)
        np.testing.assert_array_equal(answer["cost"], cheapest)
    for budget in (np.nan, -np.inf, -1.0):
        answer = exported.call("allocate_for_budget", policy_budget=budget)
        np.testing.assert_array_equal(answer["cost"], cheapest)
        assert answer["clamped"].all()
    unlimited = exported.call("allocate_for_budget", policy_budget=np.inf)
    assert unlimited["clamped"].all() and not unlimited["alpha"].any()
    by_value = exported.call("serve")["response"].argmax(axis=1)
    np.testing.assert_array_equal(unlimited["treatment"], by_value)


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_rows_without_features_get_the_arm_that_is_cheapest_on_average(exported, rows):
    sent = arguments(exported.data, rows)
    absent = np.arange(rows) % 2 == 0
    sent["x0"] = tf.constant(np.where(absent, np.nan, 0.0), tf.float32)
    signature = exported.loaded["predicted"].signatures["allocate"]
    answer = signature(**sent, policy_alpha=tf.zeros([rows]))
    cheapest = exported.predicted["cost"].mean(axis=0).argmin()
    assert np.all(answer["treatment"].numpy()[absent] == cheapest)
    np.testing.assert_array_equal(np.isnan(answer["cost"]), absent)


def test_features_that_the_preprocessor_imputes_are_not_missing(tmp_path):
    rng = np.random.default_rng(0)
    arm, x = rng.integers(0, 2, 300), rng.normal(size=300)
    x[::5] = np.nan
    data = RCTData({"x": x}, arm, rng.integers(0, 2, 300), arm, missing="indicator")
    model = AllocationModel(2, backbone="small")
    model.adapt(data)
    export.save(model, tmp_path / "m", population=data)
    signature = tf.saved_model.load(str(tmp_path / "m")).signatures["serve"]
    answer = signature(x=tf.constant([np.nan, 0.0, np.inf]))["cost"].numpy()
    np.testing.assert_array_equal(np.isnan(answer).all(axis=1), [False, False, True])


def test_loads_with_plain_tensorflow(exported, tmp_path):
    rows = 5
    sent = arguments(exported.data, rows)
    plain = {
        k: np.asarray(v.numpy(), "S" if v.dtype == tf.string else "f4") for k, v in sent.items()
    }
    np.savez(tmp_path / "in.npz", **plain)
    script = textwrap.dedent(
        '''
        import sys
        from importlib.machinery import ModuleSpec

        class Absent:
            """Found, because TensorFlow asks where keras would be, but fails to import."""

            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ("tfalloc", "keras", "tf_keras"):
                    return ModuleSpec(name, self, origin="/absent/__init__.py")

            def create_module(self, spec):
                raise ModuleNotFoundError(spec.name)

            def exec_module(self, module):
                pass

        sys.meta_path.insert(0, Absent())
        import tensorflow as tf
        import numpy as np

        sent = {k: tf.constant(v) for k, v in np.load(sys.argv[2]).items()}
        loaded = tf.saved_model.load(sys.argv[1])
        answer = loaded.signatures["allocate_for_budget"](
            policy_budget=tf.fill([5], 0.2), **sent
        )
        np.savez(sys.argv[3], **{k: v.numpy() for k, v in answer.items()})
        assert not {"tfalloc", "keras"} & set(sys.modules)
        '''
    )
    paths = [exported.path["predicted"], tmp_path / "in.npz", tmp_path / "out.npz"]
    command = [sys.executable, "-c", script, *map(str, paths)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    here = exported.loaded["predicted"].signatures["allocate_for_budget"](
        policy_budget=tf.fill([rows], 0.2), **sent
    )
    for name, value in np.load(tmp_path / "out.npz").items():
        np.testing.assert_allclose(value, here[name].numpy(), rtol=1e-6)


def test_a_matrix_is_one_input(tmp_path):
    data = make_trial(rows=600, arms=2, matrix=True)
    model = trained(data, epochs=1)
    export.save(model, tmp_path / "m", population=data.features)
    signature = tf.saved_model.load(str(tmp_path / "m")).signatures["allocate"]
    spec = signature.structured_input_signature[1]["features"]
    assert spec.shape.as_list() == [None, 3] and spec.dtype == tf.float32
    answer = signature(features=tf.constant(data.features), policy_alpha=tf.zeros([600]))
    wanted = model.predict(data, verbose=0)["response"].argmax(axis=1)
    np.testing.assert_array_equal(answer["treatment"], wanted)


def test_one_treatment_from_any_functional_model(tmp_path):
    column = keras.Input((), name="age")
    hidden = keras.layers.Dense(1, activation="sigmoid")(keras.layers.Reshape((1,))(column))
    model = keras.Model({"age": column}, {"response": hidden, "cost": 2.0 * hidden})
    export.save(model, tmp_path / "m", population={"age": np.arange(20.0)})
    loaded = tf.saved_model.load(str(tmp_path / "m"))
    answer = loaded.signatures["allocate_for_budget"](
        age=tf.constant([1.0, 2.0]), policy_budget=tf.constant([0.0, 100.0])
    )
    assert answer["treatment"].numpy().tolist() == [0, 0]
    assert answer["clamped"].numpy().tolist() == [True, True]


# What the inside calls its layers, arguments and outputs, now or in the past.
INNER = ("missing", "matrix", "impute", "standardize", "features", "numbers", "network", "model")
OUTER = ("response", "cost", "treatment", "alpha", "clamped", "serve", "allocate", "name")


def test_column_names_that_tensorflow_refuses_or_the_inside_has(tmp_path):
    names = ["days since visit", "class", "self", "_hidden", "2nd", "a/b", *INNER, *OUTER]
    rng = np.random.default_rng(0)
    rows, arm = 300, rng.integers(0, 2, 300)
    columns = {n: rng.normal(size=rows) for n in names}
    columns["missing"][::7] = np.nan
    columns["matrix"] = rng.choice(["a", "b"], rows)
    data = RCTData(columns, arm, rng.integers(0, 2, rows), arm, missing="indicator")
    model = AllocationModel(2, backbone="small")
    model.adapt(data)
    export.save(model, tmp_path / "m", population=data)
    signature = tf.saved_model.load(str(tmp_path / "m")).signatures["serve"]
    changed = ["days_since_visit", "class_", "self_", "arg__hidden", "arg_2nd", "a_b"]
    served = [*changed, *INNER, *OUTER]
    assert set(signature.structured_input_signature[1]) == set(served)
    given = arguments(data)
    sent = {s: given[n] for s, n in zip(served, names, strict=True)}
    wanted = model.predict(data, verbose=0)["response"]
    np.testing.assert_allclose(signature(**sent)["response"], wanted, rtol=1e-5)
