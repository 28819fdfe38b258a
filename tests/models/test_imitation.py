"""Imitation: the network comes to predict what a teacher does, and training goes on from there."""

import numpy as np
import pytest
import tensorflow as tf

from tests.models.trials import trial
from tfalloc.datasets import produce_coin
from tfalloc.gradients import Integrated
from tfalloc.models import AllocationModel
from tfalloc.models.imitation import _shuffled


def truth(simulation):
    return {"response": simulation.true_response, "cost": simulation.true_cost}


def agreement(found, wanted):
    """Correlation of the uplifts over the first arm."""
    rises = [(x[:, 1:] - x[:, :1]).ravel() for x in (found, wanted)]
    return np.corrcoef(*rises)[0, 1]


def assert_same_weights(a, b):
    for mine, theirs in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.fixture(scope="module")
def coins():
    return produce_coin(5_000, seed=0, num_treatments=5)


@pytest.fixture(scope="module")
def small():
    """A trial, and made-up predictions that its features explain."""
    data = trial("binary", "nonnegative", rows=600)
    logit = data.features[:, :1] + np.linspace(-1, 1, 5)
    rates = 1 / (1 + np.exp(-logit))
    return data, {"response": rates, "cost": 0.2 * rates + 0.1 * np.arange(5)}


def test_the_truth_is_imitated_on_fresh_users(coins):
    fresh = produce_coin(2_000, seed=1, num_treatments=5)
    model = AllocationModel(5, backbone=(64,), seed=0, heads="marginal", monotone=True)
    model.compile(jit_compile=False)
    model.adapt(coins.data)
    start = model.predict(fresh.data, verbose=0)
    history = model.imitate(coins.data, truth(coins), epochs=10, verbose=0).history
    found = model.predict(fresh.data, verbose=0)
    assert len(history["loss"]) == 10 and history["loss"][-1] < history["loss"][0]
    for name, wanted in truth(fresh).items():
        assert agreement(found[name], wanted) > 0.95
        assert agreement(found[name], wanted) > agreement(start[name], wanted) + 0.3 * (
            name == "response"
        )
        assert np.mean(found[name]) == pytest.approx(np.mean(wanted), rel=0.05)


def test_the_loss_is_the_mean_over_rows_and_arms_of_the_teacher_s(small):
    data, predictions = small
    model = AllocationModel(5, backbone="small", seed=0)  # not compiled: by XLA
    model.adapt(data)
    weight = np.linspace(0.0, 2.0, len(data))
    # One batch, so that the order of the rows does not matter.
    raw = model.network(model.preprocessor(data.features), training=True)
    found = model._predictions(raw)
    v, wanted = np.float64(found["response"]), predictions["response"]
    entropy = -wanted * np.log(v) - (1 - wanted) * np.log1p(-v)
    square = (np.float64(found["cost"]) - predictions["cost"]) ** 2
    square /= data.arm_moments("cost").second_moment
    history = model.imitate(
        data, predictions, epochs=1, batch_size=600, sample_weight=weight, verbose=0
    ).history
    for name, rows in (("response", entropy), ("cost", square)):
        expected = np.average(rows.mean(1), weights=weight)
        assert history[f"{name}_loss"][0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("response", "cost", "options"),
    [
        ("real", "constant", {"heads": "marginal"}),
        ("binary", "on_response", {"cost_amounts": [1.0, 2.0, 3.0, 4.0, 5.0]}),
    ],
)
def test_kinds_of_heads(response, cost, options):
    data = trial(response, cost, amounts=options.get("cost_amounts"))
    model = AllocationModel(5, "small", response_head=response, cost_head=cost, **options)
    model.compile(jit_compile=False)
    x = data.features[:, :1]
    rates = data.arm_moments("response").mean + 0.08 * np.tanh(x)  # about the trial's own
    predictions = {"response": rates, "cost": 0.15 * np.arange(5) * (1 + 0.3 * np.tanh(x))}
    if cost in ("constant", "on_response"):
        del predictions["cost"]
    model.imitate(data, predictions, epochs=8, learning_rate=0.01, verbose=0)
    found = model.predict(data, verbose=0)
    error = np.sqrt(np.mean((found["response"] - rates) ** 2))
    assert error < 0.5 * rates.std(0).mean()
    if cost == "on_response":
        np.testing.assert_allclose(found["cost"], found["response"] * np.arange(1, 6), rtol=1e-5)


def test_two_arms_on_the_paper_s_backbone():
    simulation = produce_coin(1_000, seed=2, num_treatments=2)
    model = AllocationModel(2, backbone="paper", seed=0)
    model.compile(jit_compile=False)
    model.imitate(simulation.data, truth(simulation), epochs=4, verbose=0)
    found = model.predict(simulation.data, verbose=0)
    assert agreement(found["response"], simulation.true_response) > 0.9


def test_the_seed_decides(small):
    def imitated(seed):
        model = AllocationModel(5, backbone="small", seed=0)
        model.compile(jit_compile=False)
        model.imitate(*small, epochs=1, seed=seed, verbose=0)
        return model

    assert_same_weights(imitated(None), imitated(0))
    rows = (np.arange(6),)
    orders = [[x.numpy().tolist() for (x,) in _shuffled(rows, 3, seed).take(8)] for seed in (0, 1)]
    assert orders[0] != orders[1]
    for order in orders:  # whole epochs, each in another order
        epochs = [sorted(one + two) for one, two in zip(order[::2], order[1::2], strict=True)]
        assert epochs == 4 * [list(range(6))] and len({str(x) for x in order[::2]}) > 1


def test_training_goes_on_from_there(small):
    data, predictions = small
    model = AllocationModel(5, backbone="small", seed=0)
    model.compile(goal_weight=0.3, budget=0.4, gradient=Integrated(), jit_compile=False)
    model.imitate(data, predictions, epochs=5, verbose=0)
    assert int(model.optimizer.iterations) == 0
    before = model.predict(data, verbose=0)["response"]
    model.optimizer.learning_rate = 1e-7
    history = model.fit(data, batch_size=600, epochs=1, validation_split=0.0, verbose=0)
    assert np.isfinite(history.history["goal"][0])
    assert int(model.optimizer.iterations) == 1
    # What little moves is the average of batch normalisation.
    assert agreement(model.predict(data, verbose=0)["response"], before) > 0.98


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"response": np.zeros((600, 4))}, r"shape \(600, 4\); expected \(600, 5\)"),
            ({"response": np.full((600, 5), 1.2)}, r"\[0, 0\] is 1.2 .3000 such"),
            ({"cost": np.full((600, 5), -0.1)}, r"in \[0, inf\] for cost_head='nonnegative'"),
            ({"cost": np.full((600, 5), np.nan)}, r"'cost'\]\[0, 0\] is nan"),
        ],
    )
    def test_predictions(self, change, message, small):
        data, predictions = small
        with pytest.raises(ValueError, match=message):
            AllocationModel(5, "small").imitate(data, {**predictions, **change}, verbose=0)

    def test_rounding_is_relative(self):
        data = trial("binary", "nonnegative", rows=600, unit=2.0**-20)
        predictions = {"response": np.full((600, 5), 0.5), "cost": np.full((600, 5), 1e-6)}
        predictions["cost"][7, 2] = -5e-7
        with pytest.raises(ValueError, match=r"'cost'\]\[7, 2\] is -5e-07 \(1 such"):
            AllocationModel(5, "small").imitate(data, predictions, verbose=0)

    def test_a_missing_outcome(self, small):
        with pytest.raises(ValueError, match=r"received \['response'\]; expected"):
            AllocationModel(5, "small").imitate(small[0], {"response": small[1]["response"]})

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"epochs": 0}, "epochs=0"),
            ({"epochs": 2.5}, "epochs=2.5"),
            ({"learning_rate": 0.0}, "learning_rate=0.0"),
            ({"learning_rate": np.nan}, "learning_rate=nan"),
            ({"sample_weight": np.zeros(600)}, "sum 0; expected"),
            ({"sample_weight": np.ones(5)}, r"sample_weight has shape \(5,\)"),
        ],
    )
    def test_arguments(self, options, message, small):
        with pytest.raises(ValueError, match=message):
            AllocationModel(5, "small").imitate(*small, **options)

    def test_models_and_rows(self, small):
        data, predictions = small
        hurdle = AllocationModel(5, "small", cost_head="hurdle")
        with pytest.raises(ValueError, match="cost_head='hurdle' cannot imitate"):
            hurdle.imitate(data, predictions)
        with pytest.raises(ValueError, match=r"call adapt\(data\) first"):
            AllocationModel(5, "small").imitate(data.features, predictions)
        model = AllocationModel(5, "small")
        model.adapt(data)
        with pytest.raises(ValueError, match="need not come in the order"):
            model.imitate(tf.data.Dataset.from_tensors(data.features), predictions)
