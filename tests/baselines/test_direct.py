"""DRP and Direct Rank: their optima against ratios of uplifts, their rule against argmax."""

import numpy as np
import pytest
import tensorflow as tf

from tests.baselines.trials import known_trial
from tfalloc import baselines
from tfalloc.baselines.direct import Upgrades
from tfalloc.data import RCTData


def batch(arms, rows=60, seed=0):
    rng = np.random.default_rng(seed)
    t = rng.choice(arms, rows, p=np.arange(1, arms + 1) / (arms * (arms + 1) / 2))
    y, z = rng.random(rows) + 0.3 * t, rng.random(rows) + 1.0 * t
    return t, y.astype(np.float32), z.astype(np.float32), rng.uniform(0.5, 2, rows)


def parts(model, scores, t, y, z, weight=None):
    """The loss on a batch for given scores, [batch, K-1]."""
    received = np.eye(model.num_treatments, dtype=np.float32)[t]
    weight = np.ones(len(t)) if weight is None else weight
    weighed = tf.constant(received * weight[:, None], tf.float32)
    found = model._arm_losses(tf.convert_to_tensor(scores), weighed, y, z)
    return sum(found)


@pytest.mark.parametrize("arms", [2, 4])
@pytest.mark.parametrize("loss", ["drp", "dpm"])
def test_optimum_is_the_ratio_of_weighted_uplifts(loss, arms):
    model = baselines.DRP(arms, loss=loss)
    t, y, z, weight = batch(arms)
    means = [[np.average(x[t == j], weights=weight[t == j]) for j in range(arms)] for x in (y, z)]
    ratio = np.diff(means[0]) / np.diff(means[1])
    assert np.all((ratio > 0) & (ratio < 1))
    best = np.log(ratio / (1 - ratio)).astype(np.float32)

    def slope(scores):
        scores = tf.Variable(scores)
        with tf.GradientTape() as tape:
            value = parts(model, tf.tile(scores[None], [len(t), 1]), t, y, z, weight)
        return tape.gradient(value, scores).numpy()

    np.testing.assert_allclose(slope(best), 0, atol=1e-6)
    assert np.all(slope(best + 0.2) > 1e-3) and np.all(slope(best - 0.2) < -1e-3)


def test_drp_is_the_published_loss():
    t, y, z, _ = batch(2)
    s = np.random.default_rng(1).normal(size=(len(t), 1)).astype(np.float32)
    softplus = np.log1p(np.exp(s[:, 0]))

    def uplift(x):
        return x[t == 1].mean() - x[t == 0].mean()

    expected = -(uplift(y * s[:, 0]) - uplift(z * softplus))
    np.testing.assert_allclose(parts(baselines.DRP(), s, t, y, z), expected, rtol=1e-5)


def test_dpm_is_the_published_loss():
    t, y, z, _ = batch(4)
    s = np.random.default_rng(1).normal(size=(len(t), 3)).astype(np.float32)
    q = np.pad(1 / (1 + np.exp(-s)), [(0, 0), (1, 1)])  # 0 off the upgrades
    before, after = q[np.arange(len(t)), t], q[np.arange(len(t)), t + 1]
    weight = len(t) / (4 * np.bincount(t)[t])
    # With responses doubled the published optimum, half the ratio, is the ratio.
    each = z * (before**2 - after**2) - 2 * y * (before - after)
    ours = parts(baselines.DRP(4), s, t, y, z)
    np.testing.assert_allclose(2 * ours / 4, np.mean(weight * each), rtol=1e-5)


def test_direct_rank_is_the_published_loss():
    t, y, z, _ = batch(2, rows=200)
    s = np.random.default_rng(1).normal(size=(200, 1)).astype(np.float32)
    p = np.exp(np.tanh(s[:, 0]))
    p /= np.where(t == 1, p[t == 1].sum(), p[t == 0].sum())
    ratio = np.sum((2 * t - 1) * p * z) / np.sum((2 * t - 1) * p * y)
    # Responses arrive in half their mean, costs in theirs; uplifts here are far from 0.
    np.testing.assert_allclose(parts(baselines.DirectRank(), s, t, 3 * y, 6 * z), ratio, rtol=1e-3)


def test_direct_rank_never_rewards_a_lower_response():
    t, y, z, _ = batch(2, rows=200)
    y = y - 1.0 * t.astype(np.float32)  # this batch shows a negative uplift
    y_lower = y - 0.01 * t.astype(np.float32)
    s = np.zeros((200, 1), np.float32)
    model = baselines.DirectRank()
    assert 0 < parts(model, s, t, y, z) < parts(model, s, t, y_lower, z)


def test_a_batch_of_few_responses_does_not_outweigh_all_others():
    """Of rare responses most batches of a trial show uplifts far from the mean, also below 0."""
    t, y, z, _ = batch(2, rows=200)
    model = baselines.DirectRank()

    def slope(lifted):
        scores = tf.Variable(np.zeros((200, 1), np.float32))
        with tf.GradientTape() as tape:
            value = parts(model, scores, t, y + lifted * t.astype(np.float32), z)
        return np.abs(tape.gradient(value, scores)).sum()

    usual, against = slope(0.2), slope(-5.0)
    assert np.isfinite(against) and against < 1e3 * usual


@pytest.mark.parametrize("loss", ["drp", "dpm"])
def test_a_batch_without_an_arm_teaches_its_upgrades_nothing(loss):
    t, y, z, _ = batch(4)
    there = t != 2
    scores = tf.Variable(np.zeros((there.sum(), 3), np.float32))
    with tf.GradientTape() as tape:
        value = parts(baselines.DRP(4, loss=loss), scores, t[there], y[there], z[there])
    slope = tape.gradient(value, scores).numpy()
    assert np.isfinite(value) and np.any(slope[:, 0]) and not np.any(slope[:, 1:])


def test_predictions_decide_by_the_rule():
    heads = Upgrades(4, max_price=2.0)
    data = known_trial(arms=4).data
    heads.start_from(data.arm_moments("response"), data.arm_moments("cost"))
    raw = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32) * 2
    q = 2.0 * heads.shares(heads.scores(raw)).numpy()
    assert np.any(np.diff(q, axis=1) > 0)
    found = heads(raw)
    value, cost = (np.asarray(found[name], np.float64) for name in ("response", "cost"))
    np.testing.assert_allclose(cost[0], data.arm_moments("cost").mean, rtol=1e-6)
    for alpha in np.linspace(0, 2, 41):
        rule = np.max(np.where(q >= alpha, [1, 2, 3], 0), axis=1)
        clear = np.min(np.abs(q - alpha), axis=1) > 1e-5  # off ties
        assert clear.sum() > 450
        chosen = np.argmax(value - alpha * cost, axis=1)
        np.testing.assert_array_equal(chosen[clear], rule[clear])
    expected = np.maximum.accumulate(q[:, ::-1], axis=1)[:, ::-1]
    np.testing.assert_allclose(baselines.upgrade_prices(value, cost), expected, atol=1e-5)


@pytest.fixture(scope="module")
def known():
    return known_trial(12_000, seed=1, shares=(0.3, 0.7))


def true_ratio(known):
    return np.diff(known.response, axis=1) / np.diff(known.cost, axis=1)


@pytest.mark.parametrize("model", [baselines.DRP(), baselines.DirectRank()])
def test_training_finds_the_true_ratio(model, known):
    import keras

    model.compile(keras.optimizers.Adam(0.01), budget=0.4, jit_compile=False)
    logs = model.fit(known.data, batch_size=2000, epochs=8, monitor="val_loss", verbose=0).history
    assert np.all(np.isfinite(logs["val_goal"]))
    score, truth = model.score(known.data), true_ratio(known)[:, 0]
    rank = np.corrcoef(np.argsort(np.argsort(score)), np.argsort(np.argsort(truth)))[0, 1]
    if isinstance(model, baselines.DirectRank):
        assert rank > 0.8
    else:
        assert rank > 0.9
        assert np.sqrt(np.mean((score - truth) ** 2)) < 0.4 * truth.std()


def test_training_several_arms():
    import keras

    known = known_trial(12_000, arms=3, cost="binary")
    model = baselines.DRP(3)
    model.compile(keras.optimizers.Adam(0.01), jit_compile=False)
    model.fit(known.data, batch_size=2000, epochs=10, verbose=0)
    score, truth = model.score(known.data), true_ratio(known)
    for j in range(2):
        assert np.corrcoef(score[:, j], truth[:, j])[0, 1] > 0.8
        assert abs(score[:, j].mean() / truth[:, j].mean() - 1) < 0.3


def test_the_network_has_bins_and_a_linear_path_if_asked():
    from tfalloc.models.networks import encoding_of

    data = known_trial(500).data
    plain, model = baselines.DRP(), baselines.DRP(backbone="encoded", bins=4, seed=1)
    for each in (plain, model):
        each.adapt(data)
    assert encoding_of(plain.network) is None and not plain.linear
    assert encoding_of(model.network).fitted and model.linear


def test_frozen_layers_and_precision_are_kept():
    model = baselines.DRP(3, "small", num_features=3, dtype="mixed_bfloat16")
    model.network.get_layer("trunk_0").trainable = False
    again = baselines.DRP.from_config(model.get_config())
    assert again.dtype_policy.name == "mixed_bfloat16"
    assert [x.name for x in again.network.layers if not x.trainable] == ["trunk_0"]


@pytest.mark.parametrize("kind", [baselines.DRP, baselines.DirectRank])
def test_losses_have_no_unit(kind):
    data = known_trial(500).data
    model = kind(num_features=3)
    raw = np.random.default_rng(0).normal(size=(500, 1)).astype(np.float32)
    found = []
    for response_unit, cost_unit in ((1.0, 1.0), (2.0**-20, 2.0**20), (2.0**20, 1.0)):
        y, z = data.response * response_unit, data.cost * cost_unit
        here = RCTData(data.features, data.treatment, y, z)
        moments = (here.arm_moments(name) for name in ("response", "cost"))
        model.outcome_heads.start_from(*moments)
        targets = {"treatment": data.treatment, "response": y, "cost": z}
        losses = model._prediction_losses(raw, targets, None)
        predicted = model.outcome_heads(raw)
        found.append(
            [*losses.values(), predicted["response"] / response_unit, predicted["cost"] / cost_unit]
        )
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-5)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="heads='spline': DRP has one score"):
        baselines.DRP(heads="spline")
    with pytest.raises(ValueError, match="at least 2 arms"):
        baselines.DRP(1)
    with pytest.raises(ValueError, match="loss='mse' is not known"):
        baselines.DRP(loss="mse")
    with pytest.raises(ValueError, match="max_price=0"):
        baselines.DRP(max_price=0)
    with pytest.raises(ValueError, match="use DRP for more"):
        baselines.DirectRank(3)
    with pytest.raises(ValueError, match="max_price=2.0: Direct Rank learns an order"):
        baselines.DirectRank(max_price=2.0)
    with pytest.raises(ValueError, match="has a loss of its own"):
        baselines.DRP().compile(response_loss="poisson")
    data = known_trial(500).data
    with pytest.raises(ValueError, match="num_treatments=3"):
        baselines.DRP(3).fit(data)
    turned = RCTData(data.features, 1 - data.treatment, data.response, data.cost)
    with pytest.raises(ValueError, match="order of their mean cost"):
        baselines.DRP().fit(turned)
    useless = RCTData(data.features, data.treatment, np.zeros(500), data.cost)
    with pytest.raises(ValueError, match="no treatment raises"):
        baselines.DirectRank().fit(useless)
