"""DFCL's decision losses against brute force, autodiff and closed sums; its training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.baselines.trials import known_trial
from tfalloc import baselines
from tfalloc.baselines import ImprovedFiniteDifference, PolicyLearning

PRICES = (0.0, 0.2, 0.5, 1.1)


def batch(rows=40, arms=3, seed=0):
    rng = np.random.default_rng(seed)
    value = rng.random((rows, arms))
    cost = np.cumsum(rng.random((rows, arms)), axis=1)
    t = rng.integers(0, arms, rows)
    y, z = rng.integers(0, 2, rows).astype(float), rng.random(rows) * (1 + t)
    return value, cost, t, y, z, rng.uniform(0.2, 0.6, rows)


def net_value(value, cost, t, y, z, propensity, price, choose):
    """J at one price; weights have mean K as in the loss."""
    weight = 1 / propensity
    weight *= value.shape[1] / weight.sum()
    chance = choose(value - price * cost)[np.arange(len(t)), t]
    return np.sum(weight * (y - price * z) * chance)


def decided(score):
    return np.eye(score.shape[1])[np.argmax(score, axis=1)]


def test_ifd_is_the_finite_difference_that_flips_each_decision():
    value, cost, *trial = batch()
    t, y, z, propensity = trial
    gradient = ImprovedFiniteDifference(prices=PRICES, min_gap=0.0)
    found = gradient(value, cost, t, y, z, 0.5, propensity=propensity)
    expected = {"response": np.zeros_like(value), "cost": np.zeros_like(cost)}
    for price in PRICES:
        before = net_value(value, cost, *trial, price, decided)
        for i, arm in enumerate(t):
            score = value[i] - price * cost[i]
            gap = np.delete(score, arm).max() - score[arm]  # > 0: another arm is assigned
            for name, step in (("response", gap), ("cost", -gap / price if price else None)):
                if step is None:  # at price 0 no cost changes a decision
                    continue
                moved = {"response": value.copy(), "cost": cost.copy()}
                moved[name][i, arm] += step * (1 + 1e-9)
                after = net_value(moved["response"], moved["cost"], *trial, price, decided)
                expected[name][i, arm] += (after - before) / step / len(PRICES)
    assert np.any(expected["response"] < 0) and np.any(expected["response"] > 0)
    np.testing.assert_allclose(found.d_response, expected["response"], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(found.d_cost, expected["cost"], rtol=1e-6, atol=1e-12)


def test_ifd_at_a_tie_is_bounded():
    arguments = [[0.5, 0.5]], [[0.0, 0.0]], [1], [1.0], [0.0], 1.0
    assert np.all(np.isfinite(ImprovedFiniteDifference(prices=[1.0])(*arguments).d_response))
    bounded = ImprovedFiniteDifference(prices=[1.0], min_gap=0.1)(*arguments).d_response
    np.testing.assert_allclose(bounded, [[0.0, 2.0 / 0.1]], rtol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0, 0.1])
def test_policy_learning_is_the_derivative_of_its_sum(temperature):
    value, cost, *trial = batch()
    t, y, z, propensity = trial
    gradient = PolicyLearning(prices=PRICES, temperature=temperature)
    found = gradient(value, cost, t, y, z, 0.5, propensity=propensity)

    v, c = tf.Variable(value), tf.Variable(cost)
    with tf.GradientTape() as tape:
        total = 0.0
        weight = tf.constant(3 / propensity / np.sum(1 / propensity))
        for price in PRICES:
            chance = tf.nn.softmax((v - price * c) / temperature)
            own = tf.gather(chance, t, batch_dims=1)
            total += tf.reduce_sum(weight * (y - price * z) * own) / len(PRICES)
    for found_d, expected in zip(found[1:3], tape.gradient(total, [v, c]), strict=True):
        np.testing.assert_allclose(found_d, expected, rtol=1e-9, atol=1e-14)

    def soft(score):
        odds = np.exp(score / temperature)
        return odds / odds.sum(axis=1, keepdims=True)

    for i, j in [(0, t[0]), (3, (t[3] + 1) % 3)]:
        step = np.zeros_like(value)
        step[i, j] = 1e-6
        up, down = (
            np.mean([net_value(value + s, cost, *trial, price, soft) for price in PRICES])
            for s in (step, -step)
        )
        np.testing.assert_allclose(found.d_response[i, j], (up - down) / 2e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("gradient", "jit_compile"),
    [(PolicyLearning(temperature=0.1), False), (ImprovedFiniteDifference(), True)],
)
def test_gradients_keep_the_contract(gradient, jit_compile):
    value, cost, t, y, z, propensity = batch(rows=300)
    columns = [tf.constant(x, tf.float32) for x in (value, cost)]
    rest = [tf.constant(t), *(tf.constant(x, tf.float32) for x in (y, z))]
    one = gradient(*columns, *rest, 0.7, propensity=propensity)
    assert {x.dtype for x in one} == {tf.float32} and one.d_cost.shape == (300, 3)
    assert np.any(one.d_response) and np.all(np.isfinite(one.d_cost))
    assert 0 < float(one.goal) < 1 and float(one.alpha) > 0
    arguments = [*columns, *rest, tf.constant(propensity, tf.float32)]
    spec = [tf.TensorSpec([None, *x.shape[1:]], x.dtype) for x in arguments]
    compiled = tf.function(
        lambda *a: gradient(*a[:5], 0.7, propensity=a[5]),
        input_signature=spec,
        jit_compile=jit_compile,
    )
    for plain, fast in zip(one, compiled(*arguments), strict=True):
        np.testing.assert_allclose(plain, fast, rtol=1e-4, atol=1e-6)
    two = compiled(*arguments[:5], arguments[5] / 2)
    np.testing.assert_allclose(one.d_response, two.d_response, rtol=1e-4, atol=1e-6)
    net = {price: net_value(value, cost, t, y, z, propensity, price, decided) for price in (0, 0.3)}
    for _ in range(8):
        moved = compiled(*columns, *arguments[2:])
        columns[0] += 0.05 * tf.sign(moved.d_response)
        columns[1] += 0.05 * tf.sign(moved.d_cost)
    for price, before in net.items():
        after = net_value(*(x.numpy() for x in columns), t, y, z, propensity, price, decided)
        assert after > before + 0.01


def test_training_ranks_users_by_their_true_ratio():
    known = known_trial(8000, seed=2)
    model = baselines.DFCL(2, "small", weight=0.1, heads="marginal")
    model.compile(keras.optimizers.Adam(0.01), budget=0.45, jit_compile=False)
    logs = model.fit(known.data, batch_size=2000, epochs=4, monitor="val_loss", verbose=0).history
    assert np.all(np.isfinite(logs["goal"]))
    score = model.score(known.data)
    truth = np.diff(known.response, axis=1) / np.diff(known.cost, axis=1)
    assert np.corrcoef(score, truth[:, 0])[0, 1] > 0.7


def test_without_compile_validation_judges_between_the_arms_costs():
    known = known_trial(1000)
    model = baselines.DFCL(2, "small", weight=0.0)
    model._compile_for(known.data, None)  # what `fit` does by itself
    low, high = known.data.arm_moments("cost").mean
    middle = (0.75 * low + 0.25 * high, 0.25 * low + 0.75 * high)
    settings = model.get_compile_config()
    assert settings["budget"] == pytest.approx(middle) and settings["goal_weight"] == 0.0


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="loss='hinge' is not known"):
        baselines.DFCL(2, loss="hinge")
    with pytest.raises(ValueError, match="none negative"):
        baselines.DFCL(2, prices=[-1.0])
    with pytest.raises(ValueError, match="at least one finite"):
        baselines.DFCL(2, prices=[])
    with pytest.raises(ValueError, match="temperature=0"):
        baselines.DFCL(2, loss="mer", temperature=0)
    with pytest.raises(ValueError, match="temperature=2.0 with loss='pl'.*for loss='mer' only"):
        baselines.DFCL(2, loss="pl", temperature=2.0)
    with pytest.raises(ValueError, match="min_gap=0.1 with loss='mer'.*for loss='ifd' only"):
        baselines.DFCL(2, loss="mer", min_gap=0.1)
    with pytest.raises(ValueError, match="min_gap=-1"):
        baselines.DFCL(2, min_gap=-1)
    with pytest.raises(ValueError, match="num_prices=0"):
        PolicyLearning(num_prices=0)
    with pytest.raises(ValueError, match="num_prices=2.5"):
        PolicyLearning(num_prices=2.5)
    with pytest.raises(ValueError, match="needs a budget"):
        baselines.DFCL(2).compile()
