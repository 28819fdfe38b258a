"""Heads inside `AllocationModel`: they start at rates, find the truth, save, and refuse."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models.trials import trial
from tfalloc import datasets
from tfalloc.data import RCTData
from tfalloc.gradients import Integrated
from tfalloc.models import AllocationModel
from tfalloc.models.heads.distributions import isotonic


def model_of(arms=5, compiled=None, **arguments):
    model = AllocationModel(arms, backbone="small", seed=1, **arguments)
    model.compile(keras.optimizers.Adam(3e-3), **{"jit_compile": False, **(compiled or {})})
    return model


def errors(predicted, truth):
    """Root mean squared error as a part of the truth's standard deviation within arms."""
    return np.sqrt(np.mean((predicted - truth) ** 2)) / np.sqrt(np.mean(truth.var(axis=0)))


@pytest.mark.parametrize(
    ("heads", "monotone", "response", "cost"),
    [("independent", False, "binary", "nonnegative"), ("marginal", True, "hurdle", "hurdle")],
)
def test_a_new_model_predicts_the_arm_means(heads, monotone, response, cost):
    data = trial(response, cost)
    model = AllocationModel(
        5, heads=heads, monotone=monotone, response_head=response, cost_head=cost
    )
    model.adapt(data)
    predicted = model.predict(data, verbose=0)
    for name in ("response", "cost"):
        means = data.arm_moments(name).mean
        found = predicted[name].mean(axis=0)
        np.testing.assert_allclose(found, means, rtol=0.02, atol=0.01 * np.ptp(means))


@pytest.mark.parametrize("heads", ["independent", "marginal"])
def test_thirty_arms_trace_no_more_than_two(heads):
    def operations(arms):
        model = AllocationModel(
            arms, "small", heads, "binary", "nonnegative", num_features=3, seed=0
        )

        @tf.function
        def gradients(x, t, y, z):
            with tf.GradientTape() as tape:
                raw = model.network(x, training=True)
                losses = model._prediction_losses(
                    raw, {"treatment": t, "response": y, "cost": z}, None
                )
                loss = tf.add_n(list(losses.values()))
            return tape.gradient(loss, model.trainable_variables), model._predictions(raw)

        floats = tf.TensorSpec([None])
        graph = gradients.get_concrete_function(
            tf.TensorSpec([None, 3]), tf.TensorSpec([None], tf.int32), floats, floats
        ).graph
        return len(graph.get_operations())

    assert operations(30) == operations(2)


def test_coins_are_learned():
    """20,000 rows of 6 arms: predictions of both outcomes come near their truth."""
    simulation = datasets.produce_coin(20_000, seed=3, num_treatments=6)
    model = model_of(
        6,
        heads="marginal",
        monotone=True,
        cost_head="on_response",
        cost_amounts=[float(x) for x in simulation.data.treatment_names],
    )
    model.optimizer.learning_rate = 0.006
    model.fit(simulation.data, batch_size=1000, epochs=11, verbose=0)
    predicted = model.predict(simulation.data, verbose=0)
    for name, truth in (("response", simulation.true_response), ("cost", simulation.true_cost)):
        # Arms: as near as the trial's own noise allows, 4 standard errors of an arm's mean …
        moments = simulation.data.arm_moments(name)
        allowed = 4 * np.sqrt(moments.arm_variance / (20_000 / 6)) + 1e-6
        gap = np.abs(predicted[name].mean(axis=0) - truth.mean(axis=0))
        assert np.all(gap < allowed), gap / allowed
        # … and users told apart: the true arm means have an error of 1.
        assert errors(predicted[name], truth) < 0.9


def revenue(rows=20_000, seed=0):
    """Log-normal revenue in two arms: (data, P(y > 0), mean revenue), [rows, 2] each."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 2)).astype("f4")
    arm = rng.integers(0, 2, rows)
    p = 1 / (1 + np.exp(1 - x[:, :1] - np.array([[0.0, 0.5]])))
    mean = np.exp(1 + 0.5 * x[:, 1:] + np.array([[0.0, 0.3]]))
    row = np.arange(rows)
    noise = rng.lognormal(-0.5 * 0.8**2, 0.8, rows)  # mean 1
    y = (rng.random(rows) < p[row, arm]) * mean[row, arm] * noise
    return RCTData(x, arm, y, 1.0 * arm), p, p * mean


@pytest.mark.parametrize(("heads", "loss"), [("independent", "gamma"), ("marginal", "lognormal")])
def test_hurdle_recovers_mean_and_share_under_lognormal_revenue(heads, loss):
    data, share, mean = revenue()
    model = model_of(2, {"response_loss": loss}, heads=heads, response_head="hurdle")
    model.optimizer.learning_rate = 0.02
    model.fit(data, batch_size=1000, epochs=10, verbose=0)
    predicted = model.predict(data, verbose=0)["response"]
    np.testing.assert_allclose(predicted.mean(axis=0), mean.mean(axis=0), rtol=0.08)
    assert errors(predicted, mean) < 0.3
    arms = model.outcome_heads._arms(model.network(model.preprocessor(data.features)))
    found = 1 / (1 + np.exp(-np.asarray(arms["response"].logit)))
    assert errors(found, share) < 0.3
    if loss == "lognormal":
        spread = np.exp(model.outcome_heads._log_spread["response"])
        np.testing.assert_allclose(spread, 0.8, rtol=0.1)


def test_training_in_half_precision_saving_and_loading(tmp_path):
    data = trial("hurdle", "nonnegative", rows=2_000)
    model = AllocationModel(
        5,
        backbone="small",
        heads="marginal",
        monotone=True,
        response_head="hurdle",
        dtype="mixed_float16",
    )
    losses = {"response_loss": "lognormal", "cost_loss": "poisson"}
    model.compile(
        goal_weight=1.0, budget=(0.3, 0.4), gradient=Integrated(), jit_compile=False, **losses
    )
    history = model.fit(data, batch_size=500, epochs=1, verbose=0).history
    assert np.isfinite(history["loss"][0]) and np.isfinite(history["goal"][0])
    assert model.network.get_layer("trunk_0").compute_dtype == "float16"
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    one, two = model(data.features), loaded(data.features)
    for name, predicted in one.items():
        assert predicted.dtype == np.float32
        np.testing.assert_array_equal(predicted, two[name])
    assert loaded._outcome_losses == losses
    assert loaded.outcome_heads.started and loaded.monotone and loaded.heads == "marginal"


def test_plain_graph_and_xla_train_alike_a_model_that_was_built_without_data():
    data = trial("binary", "nonnegative", rows=2_000)
    given = {"num_features": 3, "response_head": "binary", "cost_head": "nonnegative"}

    def losses(jit_compile):
        model = model_of(heads="marginal", compiled={"jit_compile": jit_compile}, **given)
        assert not model.outcome_heads.started
        history = model.fit(data, batch_size=500, epochs=1, validation_split=0.0, verbose=0)
        predicted = np.mean(model(data.features)["response"], axis=0)
        np.testing.assert_allclose(predicted, data.arm_moments("response").mean, rtol=0.1)
        return history.history["loss"]

    np.testing.assert_allclose(losses(True), losses(False), rtol=1e-4)


def reversed_arms():
    data = trial("binary", "nonnegative", rows=1_000)
    names = ["a", "b", "c", "d", "e"]
    return RCTData(
        data.features, 4 - data.treatment, data.response, data.cost, treatment_names=names
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: model_of(heads="marginal").fit(reversed_arms()),
            r"treatment 3 \('d'\) costs .* and treatment 4 \('e'\).*"
            r"treatments=\['e', 'd', 'c', 'b', 'a'\]",
        ),
        (
            lambda: model_of(heads="marginal").fit(
                RCTData(np.zeros((500, 1)), np.arange(500) % 5, np.ones(500), np.ones(500))
            ),
            "arms of equal cost have no price",
        ),
        (
            lambda: model_of(response_head="binary").fit(trial("hurdle", "constant")),
            "response_head='binary' needs a response of 0 or 1",
        ),
        (
            lambda: model_of(response_head="hurdle").fit(trial("real", "constant")),
            "response_head='hurdle' needs a response that is never negative",
        ),
        (
            lambda: model_of(cost_head="on_response", cost_amounts=range(5)).fit(
                trial("real", "constant")
            ),
            "on_response' needs a response that is never negative",
        ),
        (
            lambda: model_of(cost_head="on_response", cost_amounts=[0, 100, 200, 300, 400]).fit(
                trial("binary", "on_response", amounts=[0.0, 1.0, 2.0, 3.0, 4.0])
            ),
            r"treatment 4 \('4'\) costs .* its amount 400",
        ),
        (
            lambda: model_of(compiled={"response_loss": "gamma"}).fit(trial("binary", "constant")),
            "response_loss='gamma' does not fit a 'binary' head",
        ),
        (
            lambda: AllocationModel(2, cost_head="constant").compile(cost_loss="poisson"),
            "cost_loss='poisson' does not fit",
        ),
        (lambda: AllocationModel(2).compile(cost_loss="hinge"), "cost_loss='hinge' is not known"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_refused_trial_leaves_the_model_as_it_was():
    model = model_of(heads="marginal")
    with pytest.raises(ValueError, match="order of their mean cost"):
        model.fit(reversed_arms())
    data = trial("binary", "nonnegative")
    model.adapt(data)
    assert np.all(np.diff(model(data.features)["cost"]) > 0)


def doses(costs, rows=9_000, seed=0):
    """Arms in turn; noisy costs with the given means."""
    rng = np.random.default_rng(seed)
    arm = np.arange(rows) % len(costs)
    cost = rng.gamma(1.0, np.asarray(costs)[arm])
    response = rng.random(rows) < 0.2 + 0.3 * arm / len(costs)
    return RCTData(rng.normal(size=(rows, 3)).astype("f4"), arm, response, cost)


@pytest.mark.parametrize("monotone", [False, True])
def test_noise_may_turn_neighbours_around(monotone):
    data = doses(np.linspace(1.0, 2.0, 30))
    means = data.arm_moments("cost").mean
    assert np.sum(np.diff(means) < 0) > 3
    model = model_of(30, heads="marginal", monotone=monotone)
    model.adapt(data)
    found = model(data.features[:100])
    assert np.all(np.diff(found["cost"]) > 0) and np.all(np.isfinite(found["response"]))
    np.testing.assert_allclose(np.mean(found["cost"], axis=0), isotonic(means), rtol=0.1)


def test_many_small_steps_down_are_not_noise():
    data = doses(np.linspace(2.0, 1.0, 30))
    with pytest.raises(ValueError, match="order of their mean cost"):
        model_of(30, heads="marginal").adapt(data)
