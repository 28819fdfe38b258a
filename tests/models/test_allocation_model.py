"""`AllocationModel` as Keras users meet it: fit, evaluate, predict, save, load, repeat."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models.conftest import Pull
from tfalloc.data import RCTData
from tfalloc.gradients import FiniteDifference
from tfalloc.models import AllocationModel


def trial(rows=2000, arms=2, seed=0, strings=False, cost="random"):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 4)).astype(np.float32)
    t = rng.integers(0, arms, rows)
    rate = 1 / (1 + np.exp(2 - x[:, 0] - 0.8 * t * (x[:, 1] > 0)))
    y = (rng.random(rows) < rate).astype(float)
    z = {"random": rng.random(rows) * t, "fixed": 0.5 * t, "binary": (rng.random(rows) < 0.3 * t)}[
        cost
    ]
    features = {f"x{i}": x[:, i] for i in range(4)}
    if strings:
        features["place"] = np.where(x[:, 2] > 0, "town", "land")
    return RCTData(features, t, y, z.astype(float))


def small_model(arms=2, seed=1, **compile_options):
    model = AllocationModel(arms, backbone="small", seed=seed)
    options = {"goal_weight": 1.0, "budget": (0.1, 0.2), "gradient": Pull()}
    # Tracing takes longer than a few steps; one fixture is compiled as users' models are.
    model.compile(**{**options, "jit_compile": False, "run_eagerly": True, **compile_options})
    return model


def with_backbone(backbone):
    return AllocationModel(2, backbone=backbone).adapt(trial())


@pytest.fixture(scope="module")
def fitted():
    data = trial(strings=True)
    gradient = FiniteDifference(step=0.01)
    model = small_model(gradient=gradient, jit_compile="auto", run_eagerly=False)
    history = model.fit(data, batch_size=400, epochs=2, verbose=0)
    return model, data, history


def test_fit_reports_losses_goal_and_validation(fitted):
    history = fitted[2].history
    for name in ("loss", "response_loss", "cost_loss", "goal", "alpha"):
        assert len(history[name]) == 2 and np.all(np.isfinite(history[name]))
    for name in (
        "val_loss",
        "val_response_loss",
        "val_goal",
        "val_cost",
        "val_alpha",
        "val_matched",
    ):
        assert np.all(np.isfinite(history[name]))


def test_predictions_and_call_agree(fitted):
    model, data, _ = fitted
    predicted = model.predict(data, verbose=0)
    assert predicted["response"].shape == predicted["cost"].shape == (len(data), 2)
    assert np.all((predicted["response"] > 0) & (predicted["response"] < 1))
    assert np.all(predicted["cost"] >= 0)
    some = {name: tf.constant(column[:5]) for name, column in data.features.items()}
    np.testing.assert_allclose(model(some)["cost"], predicted["cost"][:5], rtol=1e-4, atol=1e-6)
    frame = data.frame().head(5)[list(data.features)]
    np.testing.assert_allclose(
        model.predict(frame, verbose=0)["response"], predicted["response"][:5], rtol=1e-4
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: {k: v for k, v in x.items() if k != "x1"}, r"features lack \['x1'\]"),
        (lambda x: np.zeros((5, 5)), r"one array of shape \(5, 5\); expected columns by name"),
        (lambda x: {**x, "place": x["x0"]}, "feature 'place' is numbers .*expected text"),
        (lambda x: {**x, "x0": x["place"]}, "feature 'x0' is text .*expected numbers"),
        (lambda x: {**x, "x0": x["x0"][:3]}, "different lengths: .*'x0': 3"),
        (lambda x: {k: v[:0] for k, v in x.items()}, "no rows of features"),
        (lambda x: {**x, "x2": x["x2"] * np.inf}, "'x2' has 2000 infinite value"),
    ],
)
def test_features_to_predict_for_are_checked(change, message, fitted):
    model, data, _ = fitted
    with pytest.raises(ValueError, match=message):
        model.predict(change(dict(data.features)), verbose=0)


def test_missing_features_are_imputed_where_training_did():
    x = np.random.default_rng(0).normal(size=(2000, 2)).astype(np.float32)
    x[::7, 0] = np.nan
    arm = np.arange(2000) % 2
    y = np.random.default_rng(1).integers(0, 2, 2000)
    model = AllocationModel(2, backbone="small", seed=1)
    model.adapt(RCTData({"a": x[:, 0], "b": x[:, 1]}, arm, y, 1.0 * arm, missing="indicator"))
    model.predict({"a": x[:, 0], "b": x[:, 1]}, verbose=0)
    with pytest.raises(ValueError, match="'a' has 1 infinite value"):
        model.predict({"a": [np.inf], "b": [0.0]}, verbose=0)


def test_save_and_load_gives_the_same_model_and_goes_on_training(fitted, tmp_path):
    model, data, _ = fitted
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    before, after = model.predict(data, verbose=0), loaded.predict(data, verbose=0)
    np.testing.assert_array_equal(before["response"], after["response"])
    np.testing.assert_array_equal(before["cost"], after["cost"])
    assert model.evaluate(data, return_dict=True) == loaded.evaluate(data, return_dict=True)
    assert loaded._objective.budget == (0.1, 0.2)
    assert loaded._objective.gradients[0][1].step == 0.01
    assert int(loaded.optimizer.iterations) == int(model.optimizer.iterations)
    loaded.fit(data, batch_size=400, epochs=1, verbose=0)


def test_same_seed_gives_the_same_weights():
    def weights(seed):
        model = small_model(seed=seed)
        model.fit(trial(), batch_size=400, epochs=2, verbose=0)
        return [np.asarray(w) for w in model.weights]

    one, two, other = weights(3), weights(3), weights(4)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(np.any(a != b) for a, b in zip(one, other, strict=True))


def test_xla_and_plain_graph_train_alike():
    def losses(jit_compile):
        model = small_model(jit_compile=jit_compile, goal_weight=0.0, run_eagerly=False)
        return model.fit(trial(), batch_size=400, epochs=2, verbose=0).history["loss"]

    np.testing.assert_allclose(losses(True), losses(False), rtol=1e-4)


def test_training_starts_at_the_arm_rates():
    data = trial(rows=4000, arms=3)
    model = AllocationModel(3)
    model.adapt(data)
    predicted = model.predict(data, verbose=0)
    for k in range(3):
        rows = data.treatment == k
        assert abs(predicted["response"][:, k].mean() - data.response[rows].mean()) < 0.02
        assert abs(predicted["cost"][:, k].mean() - data.cost[rows].mean()) < 0.06


def test_costs_known_in_advance_are_not_learned():
    model = small_model(goal_weight=0.0)
    model.fit(trial(cost="fixed"), batch_size=400, epochs=1, verbose=0)
    assert model.outcome_heads.settings.cost_head == "constant"
    np.testing.assert_allclose(
        model.predict(trial(rows=20, cost="fixed"), verbose=0)["cost"],
        np.tile([[0.0, 0.5]], (20, 1)),
        rtol=1e-6,
    )


def test_binary_costs_get_cross_entropy():
    model = small_model(goal_weight=0.0)
    model.adapt(trial(cost="binary"))
    assert model.outcome_heads.settings.cost_head == "binary"


def test_early_stopping_keeps_the_best_weights():
    data = trial(rows=1500)
    options = {"goal_weight": 0.0, "optimizer": keras.optimizers.Adam(0.05)}
    model = small_model(**options, run_eagerly=False)
    history = model.fit(
        data, batch_size=100, epochs=60, early_stopping=2, monitor="val_loss", verbose=0
    ).history
    assert len(history["val_loss"]) < 60
    valid = data.split([0.8, 0.2], model.seed)[1]
    best = model.evaluate(valid, return_dict=True)["loss"]
    np.testing.assert_allclose(best, min(history["val_loss"]), rtol=1e-5)


def test_evaluation_does_not_depend_on_the_batch_size(fitted):
    model, data, _ = fitted
    one = model.evaluate(data, return_dict=True, batch_size=10_000)
    two = model.evaluate(data, return_dict=True, batch_size=333)
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-5)


def test_dataset_and_arrays_are_accepted():
    data = trial()
    batches = data.batches(400, shuffle=True, drop_remainder=True)
    model = small_model()
    history = model.fit(batches, epochs=1, validation_data=data, verbose=0).history
    assert np.isfinite(history["val_goal"][0])
    y = {"treatment": data.treatment, "response": data.response, "cost": data.cost}
    matrix = np.stack([data.features[f"x{i}"] for i in range(4)], axis=1)
    model = small_model()
    model.fit(matrix, y, batch_size=400, epochs=1, verbose=0)
    assert model.predict(matrix[:7], verbose=0)["cost"].shape == (7, 2)


def test_any_keras_model_as_backbone(tmp_path):
    backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "tanh")])
    model = AllocationModel(2, backbone=backbone)
    model.compile(goal_weight=1.0, budget=0.2, gradient=Pull(), run_eagerly=True)
    data = trial()
    model.fit(data, batch_size=400, epochs=1, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(
        loaded.predict(data, verbose=0)["cost"], model.predict(data, verbose=0)["cost"]
    )


@pytest.mark.parametrize(
    ("arguments", "bins", "linear"),
    [
        ({}, 16, True),
        ({"backbone": "encoded"}, 16, True),
        ({"bins": None}, None, True),
        ({"bins": 4, "linear": False}, 4, False),
        ({"backbone": "paper"}, None, False),
        ({"backbone": (16,), "bins": 16, "linear": True}, 16, True),
    ],
)
def test_the_default_encodes_features_beside_a_linear_path(arguments, bins, linear):
    model = AllocationModel(2, seed=3, **arguments)
    model.adapt(trial())
    names = {layer.name for layer in model.network.layers}
    assert (model.bins, model.linear) == (bins, linear)
    assert ("encoding" in names, "linear" in names) == (bins is not None, linear)
    again = AllocationModel.from_config(model.get_config())
    assert (again.bins, again.linear) == (bins, linear)


def test_widths_as_backbone(tmp_path):
    model = AllocationModel(2, backbone=(12, 6), seed=3)
    model.compile(run_eagerly=True)
    model.fit(trial(), batch_size=400, epochs=1, verbose=0)
    widths = [
        layer.units for layer in model.network.layers if isinstance(layer, keras.layers.Dense)
    ]
    assert widths == [12, 6]
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(
        loaded.predict(trial(), verbose=0)["cost"], model.predict(trial(), verbose=0)["cost"]
    )


def test_schedule_and_budget_callable():
    model = small_model(
        goal_weight=lambda step: tf.minimum(1.0, tf.cast(step, tf.float32) / 5),
        budget=lambda step: 0.1 + 0.01 * tf.cast(step % 2, tf.float32),
    )
    history = model.fit(trial(), batch_size=400, epochs=1, verbose=0).history
    assert np.isfinite(history["val_goal"][0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: AllocationModel(0), "expected at least 1"),
        (lambda: AllocationModel(2, heads="twin"), "heads='twin' is not known"),
        (lambda: AllocationModel(2, cost_head="cubic"), "cost_head='cubic' is not known"),
        (lambda: AllocationModel(2, response_head="cubic"), "response_head='cubic' is not known"),
        (lambda: AllocationModel("2"), "num_treatments='2': expected at least 1, an integer"),
        (lambda: AllocationModel(2, seed=None), "seed=None: expected at least 0, an integer"),
        (lambda: AllocationModel(2).compile(loss="mse"), "loss='mse': the losses and metrics of"),
        (lambda: AllocationModel(2).compile(metrics=["auc"]), "metrics=.* are its own"),
        (lambda: small_model().fit(trial(), batch_size=0), "batch_size=0: expected at least 1"),
        (lambda: small_model().fit(trial(), validation_split=1.0), "validation_split=1.0: expec"),
        (lambda: with_backbone(16), "backbone=16 is not known"),
        (lambda: with_backbone(keras.layers.Dense(4)), "is not known.*or a Keras model"),
        (
            lambda: with_backbone(keras.Sequential([keras.layers.Dense(4)])),
            r"has no shapes yet: begin it with keras.Input\(\(4,\)\)",
        ),
        (
            lambda: with_backbone(
                keras.Sequential([keras.Input((4,)), keras.layers.Reshape((4, 1))])
            ),
            r"to \(None, 4, 1\); expected one matrix to one matrix",
        ),
        (
            lambda: with_backbone(keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])),
            "backbone takes 3 features, but the data have 4",
        ),
        (lambda: AllocationModel(2).compile(goal_weight=1.0), "needs a budget"),
        (lambda: AllocationModel(2).compile(goal_weight=-1.0, budget=1.0), "not negative"),
        (lambda: AllocationModel(2).compile(budget=(2.0, 1.0)), "low <= high"),
        (lambda: AllocationModel(2).compile(budget=float("nan")), "finite cost per user"),
        (lambda: AllocationModel(2).fit(trial()), "compile the model first"),
        (lambda: AllocationModel(2).predict(np.ones((2, 2))), "has no network yet"),
        (lambda: small_model(arms=3).fit(trial()), "num_treatments=3"),
        (
            lambda: AllocationModel(2, backbone="huge").adapt(trial()),
            "backbone='huge' is not known",
        ),
        (
            lambda: AllocationModel(2, backbone=(8, 0)).adapt(trial()),
            r"backbone=\(8, 0\) is not known",
        ),
        (lambda: small_model().fit(np.ones((4, 1)), {"treatment": [0, 1, 0, 1]}), "must be a dict"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# What goes in ---------------------------------------------------------------------------


def test_columns_are_taken_by_name_on_every_way(fitted):
    model, data, _ = fitted
    rows = data.frame()
    own = rows[list(data.features)]
    other = own.assign(zz=np.arange(len(own)) * 1.0)[["zz", *reversed(own.columns)]]
    expected = model.predict(data, verbose=0)
    targets = {name: rows[name].to_numpy() for name in ("treatment", "response", "cost")}
    ways = {
        "predict": model.predict(other, verbose=0),
        "predict_on_batch": model.predict_on_batch(other),
        "dict": model.predict(dict(other.items()), verbose=0),
        "dataset": model.predict(
            tf.data.Dataset.from_tensor_slices({k: v.to_numpy() for k, v in other.items()}).batch(
                10_000
            ),
            verbose=0,
        ),
    }
    for way, predicted in ways.items():
        for name in ("response", "cost"):
            np.testing.assert_array_equal(predicted[name], expected[name], err_msg=way)
    for name, called in model(other).items():
        np.testing.assert_allclose(called, expected[name], rtol=1e-5)
    np.testing.assert_array_equal(model(other)["cost"], model(own)["cost"])
    one = model.evaluate(data, return_dict=True)
    assert one == model.evaluate(other, targets, return_dict=True)
    targets["propensity"] = np.bincount(data.treatment)[data.treatment] / len(data)
    assert one == pytest.approx(model.test_on_batch(other, targets, return_dict=True), rel=1e-5)


def test_weights_alone_carry_all_that_predictions_need(fitted, tmp_path):
    model, data, _ = fitted
    model.save_weights(tmp_path / "m.weights.h5")
    other = trial(rows=900, seed=5, strings=True)
    shifted = {k: 3 * v - 1 if v.dtype.kind == "f" else v for k, v in other.features.items()}
    place = np.where(other.features["place"] == "town", "land", "town")  # the order of categories
    other = RCTData({**shifted, "place": place}, other.treatment, other.response, 2 * other.cost)
    fresh = small_model(seed=7, run_eagerly=False)
    fresh.adapt(other)
    fresh.optimizer.build(fresh.trainable_variables)
    fresh.load_weights(tmp_path / "m.weights.h5")
    expected, found = model.predict(data, verbose=0), fresh.predict(data, verbose=0)
    np.testing.assert_array_equal(found["response"], expected["response"])
    np.testing.assert_array_equal(found["cost"], expected["cost"])


def test_single_batches_of_raw_rows():
    data = trial(rows=600, strings=True)
    names = ("treatment", "response", "cost")
    y = {name: getattr(data, name)[:200] for name in names}
    y["propensity"] = np.full(200, 0.5)
    x = {name: column[:200] for name, column in data.features.items()}
    weight = np.linspace(1, 2, 200)
    model = small_model()
    with pytest.raises(ValueError, match=r"call adapt\(data\) or fit first"):
        model.train_on_batch(x, y)
    model.adapt(data)
    model.train_on_batch(x, y, sample_weight=weight)
    logs = model.train_on_batch(x, y, sample_weight=weight, return_dict=True)
    again = small_model()
    again.adapt(data)
    batches = tf.data.Dataset.from_tensors((x, y, weight.astype("f4"))).repeat(2)
    history = again.fit(batches, epochs=1, verbose=0).history
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert set(logs) == {name for name in history if not name.startswith("val_")}
    found = model.test_on_batch(x, y, sample_weight=weight, return_dict=True)
    assert found == model.evaluate(RCTData(x, **y, sample_weight=weight), return_dict=True)
    np.testing.assert_array_equal(
        model.predict_on_batch(x)["cost"], model.predict(x, verbose=0)["cost"]
    )
    with pytest.raises(ValueError, match="y must be a dict with"):
        model.train_on_batch(x)
    with pytest.raises(ValueError, match="class_weight: there are no classes"):
        model.train_on_batch(x, y, class_weight={0: 2.0})


def test_evaluation_by_steps_tells_callbacks(fitted):
    model, data, _ = fitted

    class Watch(keras.callbacks.Callback):
        seen = []

        def on_test_begin(self, logs=None):
            self.seen.append("begin")

        def on_test_end(self, logs=None):
            self.seen.append(logs)

    batches = data.batches(500, shuffle=False)
    logs = model.evaluate(batches, steps=2, callbacks=[Watch()], return_dict=True)
    assert Watch.seen == ["begin", logs]
    assert logs == model.evaluate(data.take(range(1000)), batch_size=500, return_dict=True)


WEIGHTS = np.ones(2000)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, d: m.fit(d, sample_weight=WEIGHTS), r"RCTData\(…, sample_weight=\)"),
        (lambda m, d: m.fit(d, d.response), "y=… beside RCTData has no use"),
        (lambda m, d: m.evaluate(d, sample_weight=WEIGHTS), "sample_weight=… beside RCTData"),
        (lambda m, d: m.fit(d.batches(9), sample_weight=WEIGHTS), "as a third component"),
        (lambda m, d: m.evaluate(d.batches(9), sample_weight=WEIGHTS), "as a third component"),
        (lambda m, d: m.fit(d.batches(9), validation_split=0.2), "cannot be split"),
        (lambda m, d: m.fit(d.batches(9), batch_size=9), "a dataset brings its own batches"),
        (lambda m, d: m.fit(d, validation_split=0.1, validation_data=d), "pass one of them"),
        (lambda m, d: m.fit(d, class_weight={0: 1}), "there are no classes"),
    ],
)
def test_arguments_without_a_use_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(small_model(), trial())


def test_arguments_that_do_not_exist_are_refused(fitted):
    model, data, _ = fitted
    for call in (model.fit, model.evaluate):
        with pytest.raises(TypeError, match="no argument 'sample_weights'"):
            call(data, sample_weights=WEIGHTS)
