"""`Heads`: links, starts, losses, orders; every outcome in both kinds of heads."""

import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.interpolate import BSpline
from scipy.optimize import minimize

from tests.models.trials import RISING, trial
from tfalloc.data import RCTData
from tfalloc.models.heads import Heads, check_loss, choose_cost_head
from tfalloc.models.heads.distributions import Arms, Scales, isotonic, row_loss
from tfalloc.models.heads.spline import spline_basis

RESPONSES = ("binary", "nonnegative", "hurdle", "real")
COSTS = ("binary", "nonnegative", "hurdle", "constant", "on_response")
KINDS = [
    (arrangement, monotone, response, cost)
    for arrangement, monotone, response, cost in itertools.product(
        ("independent", "marginal", "spline"), (False, True), RESPONSES, COSTS
    )
    if not (monotone and arrangement == "spline")
    if cost != "on_response" or (response != "real" and (monotone or arrangement != "marginal"))
]
AMOUNTS = [0.0, 1.0, 2.0, 4.0, 5.0]


def make(arrangement, monotone, response, cost):
    amounts = AMOUNTS if cost == "on_response" else None
    return Heads(5, response, cost, arrangement, monotone, amounts)


def started(kind, rates=RISING, rows=6000):
    heads, data = make(*kind), trial(kind[2], kind[3], rates, rows=rows, amounts=AMOUNTS)
    heads.start_from(data.arm_moments("response"), data.arm_moments("cost"))
    return heads, data


# Where they start -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_raw_zero_predicts_the_arm_means_also_when_loaded(kind):
    heads, data = started(kind)
    predicted = heads(np.zeros((2, heads.num_outputs)))
    for name in ("response", "cost"):
        means = data.arm_moments(name).mean
        assert predicted[name].shape == (2, 5) and predicted[name].dtype == tf.float32
        np.testing.assert_allclose(predicted[name][0], means, rtol=0.02, atol=0.01 * np.ptp(means))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(heads))
    assert not again.started and again.num_outputs == heads.num_outputs
    again.set_weights(heads.get_weights())
    assert again.started
    raw = np.random.default_rng(3).normal(size=(30, heads.num_outputs)).astype("f4")
    np.testing.assert_array_equal(again(raw)["response"], heads(raw)["response"])


@pytest.mark.parametrize("kind", [k for k in KINDS if k[1]], ids=str)
def test_monotone_heads_start_at_isotonic_rates(kind):
    heads, data = started(kind, rates=[0.3, 0.2, 0.45, 0.4, 0.6])
    means = data.arm_moments("response").mean
    assert np.any(np.diff(means) < 0)
    expected = isotonic(means)
    predicted = heads(np.zeros((1, heads.num_outputs)))["response"][0]
    assert np.all(np.diff(predicted) > 0)
    np.testing.assert_allclose(predicted, expected, rtol=0.02, atol=0.02 * np.ptp(expected))


@given(arrays(np.float64, st.integers(1, 12), elements=st.floats(-5, 5)))
@settings(max_examples=50)
def test_isotonic_is_the_nearest_increasing_sequence(means):
    projected = isotonic(means)
    assert np.all(np.diff(projected) >= -1e-12)
    # Nearest point of a convex cone: orthogonal to it, and no worse towards any of its edges.
    residual = means - projected
    assert abs(residual @ projected) < 1e-9
    edges = np.tril(np.ones((len(means), len(means)))).T  # upper steps 1{j >= k}
    assert np.all(edges @ residual <= 1e-9)


def test_arms_without_any_response_start_and_learn_from_zero():
    for kind in (
        ("independent", False, "hurdle", "hurdle"),
        ("marginal", True, "hurdle", "hurdle"),
    ):
        heads, _ = started(kind, rates=[0.0, 0.2, 0.3, 0.4, 0.5])
        raw = tf.Variable(tf.zeros((4, heads.num_outputs)))
        with tf.GradientTape() as tape:
            rows = heads.errors(raw, [0, 0, 1, 4], [0.0, 3.0, 0.0, 2.0], [0.0, 0.0, 2.0, 1.0])
            loss = tf.add_n([tf.reduce_sum(x) for x in rows.values()])
        assert np.isfinite(loss) and np.all(np.isfinite(tape.gradient(loss, raw)))


@pytest.mark.parametrize("arms", [7, 10, 30, 101])
def test_spline_basis_is_scipys(arms):
    knots = np.concatenate([np.zeros(3), np.linspace(0, 1, 4), np.ones(3)])
    expected = BSpline.design_matrix(np.linspace(0, 1, arms), knots, 3).toarray()
    np.testing.assert_allclose(spline_basis(arms), expected, atol=1e-12)


def test_spline_heads_of_many_arms_start_at_smoothed_rates():
    true_rates = 0.1 + 0.5 * np.sin(np.linspace(0, 1.4, 20))
    for response in ("binary", "nonnegative", "hurdle", "real"):
        data = trial(response, "nonnegative", true_rates, rows=4_000)
        heads = Heads(20, response, "nonnegative", "spline")
        parts = {"hurdle": 2}.get(response, 1) + 1
        assert heads.num_outputs == 6 * parts
        heads.start_from(data.arm_moments("response"), data.arm_moments("cost"))
        found = heads(np.zeros((1, heads.num_outputs)))["response"][0].numpy()
        means = data.arm_moments("response").mean
        # Nearer to the curve behind the rates than 200 rows an arm are: it is shared by all arms.
        assert np.abs(np.diff(found, 2)).max() < 0.3 * np.abs(np.diff(means, 2)).max()
        assert np.corrcoef(found, true_rates)[0, 1] > 0.97
        raw = np.random.default_rng(0).normal(size=(1, heads.num_outputs))
        assert np.all(np.isfinite(heads(raw)["response"]))


def test_spline_heads_refuse_monotone():
    with pytest.raises(ValueError, match="heads='spline' with monotone=True"):
        Heads(10, "binary", "binary", "spline", monotone=True)


# What always holds ----------------------------------------------------------------------------

ordered = functools.cache(lambda kind: started(kind)[0])


@given(st.sampled_from([kind for kind in KINDS if kind[1]]), st.integers(0, 2**31))
@settings(max_examples=60)
def test_monotone_whatever_the_raw_outputs(kind, seed):
    heads = ordered(kind)
    size = np.repeat([[0.1], [1.0], [10.0], [100.0]], 8, axis=0)
    raw = size * np.random.default_rng(seed).normal(size=(32, heads.num_outputs))
    for name, prediction in heads(raw).items():
        prediction = np.asarray(prediction, np.float64)
        assert np.all(np.isfinite(prediction)), (heads.get_config(), name)
        # A later arm adds to a sum in float32.
        slack = 1e-6 * np.abs(prediction).max(axis=1, keepdims=True)
        assert np.all(np.diff(prediction) >= -slack), (heads.get_config(), name)


@pytest.mark.parametrize("monotone", [False, True])
@pytest.mark.parametrize("cost", ["binary", "nonnegative", "hurdle", "constant"])
def test_upgrade_prices_are_the_returns(cost, monotone):
    heads, _ = started(("marginal", monotone, "binary", cost))
    raw = np.random.default_rng(0).normal(size=(50, heads.num_outputs)).astype("f4")
    predicted = {name: np.asarray(x, np.float64) for name, x in heads(raw).items()}
    price = np.diff(predicted["response"]) / np.diff(predicted["cost"])
    constants = {name: np.asarray(x) for name, x in heads._constants.items()}
    output = raw[:, 1:5] * (1 if monotone else constants["return_scale"])
    output = output + constants["return_location"]
    if monotone:
        output = constants["return_scale"] * (np.logaddexp(0, output) + 1e-4)
    np.testing.assert_allclose(price, output, rtol=2e-3, atol=1e-4)
    assert np.all(np.diff(predicted["cost"]) > 0)


def test_upgrade_prices_with_costs_on_response():
    heads, _ = started(("marginal", True, "binary", "on_response"))
    raw = np.random.default_rng(0).normal(size=(50, heads.num_outputs)).astype("f4")
    v, c = (np.asarray(x, np.float64) for x in heads(raw).values())
    np.testing.assert_allclose(c, np.asarray(AMOUNTS) * v, rtol=1e-6)
    constants = {name: np.asarray(x) for name, x in heads._constants.items()}
    q = np.logaddexp(0, raw[:, 1:] + constants["return_location"]) + 1e-4
    q = q * constants["return_scale"]
    price = np.diff(v) / np.diff(c)
    np.testing.assert_allclose(price, q / (1 + q) / np.asarray(AMOUNTS)[1:], rtol=1e-3)


# Losses ---------------------------------------------------------------------------------------

LOSSES = [
    ("binary", "cross_entropy"),
    ("nonnegative", "squared_error"),
    ("nonnegative", "poisson"),
    ("hurdle", "gamma"),
    ("hurdle", "lognormal"),
    ("real", "squared_error"),
]


@pytest.mark.parametrize("arrangement", ["independent", "marginal"])
@pytest.mark.parametrize(("head", "loss"), LOSSES)
def test_gradients_equal_numeric_ones(head, loss, arrangement):
    heads, data = started((arrangement, False, head, "nonnegative"))
    heads.use_losses(response_loss=loss)
    some = slice(0, 40)
    targets = (data.treatment[some], data.response[some], data.cost[some])
    rng = np.random.default_rng(1)
    raw = tf.Variable(rng.normal(size=(40, heads.num_outputs)).astype("f4"))
    along = rng.normal(size=raw.shape).astype("f4")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(heads.errors(raw, *targets)["response"])
    slope = float(np.sum(tape.gradient(loss, raw) * along, dtype=np.float64))

    def at(step):
        rows = heads.errors(raw + step * along, *targets)["response"]
        return np.sum(rows, dtype=np.float64)

    h = 2e-3
    assert slope == pytest.approx((at(h) - at(-h)) / (2 * h), rel=2e-2, abs=2e-2)


@pytest.mark.parametrize("loss", ["cross_entropy", "poisson", "squared_error", "gamma"])
def test_the_mean_minimises_every_loss(loss):
    rng = np.random.default_rng(2)
    y = np.where(rng.random(20_000) < 0.3, 1.0, 0.0)
    if loss != "cross_entropy":
        y = y * rng.lognormal(1.0, 1.0, y.size)
    y = y.astype("f4")
    scales = Scales(square=np.float32(np.mean(y**2)), mean=np.float32(y.mean()), low=1e-3)
    share = np.log(0.3 / 0.7) if loss == "gamma" else None

    def total(x):
        logit = None if share is None else np.full_like(y, x[1])
        mean = np.full_like(y, np.exp(x[0]))
        return float(np.mean(row_loss(loss, Arms(mean, logit), y, scales, None), dtype="f8"))

    best = minimize(total, [np.log(0.5), 0.0], method="Nelder-Mead").x
    assert np.exp(best[0]) == pytest.approx(y.mean(), rel=5e-3)
    if share is not None:
        assert 1 / (1 + np.exp(-best[1])) == pytest.approx(np.mean(y > 0), rel=5e-3)


def test_closed_forms():
    scales = Scales(square=8.0, mean=2.0, low=0.01, high=0.99)
    y = np.array([0.0, 1.0, 3.0], "f4")
    mean, logit = np.array([0.5, 0.8, 2.0], "f4"), np.array([0.3, -0.2, 1.0], "f4")
    p = 1 / (1 + np.exp(-logit))

    def value(loss, logit=None, y=y):
        return np.asarray(row_loss(loss, Arms(mean, logit), y, scales, np.float32(0.4)))

    np.testing.assert_allclose(value("squared_error"), (mean - y) ** 2 / 8, rtol=1e-5)
    np.testing.assert_allclose(value("poisson"), (mean - y * np.log(mean / 2)) / 4, rtol=1e-5)
    inside = np.array([0.5, 0.8, 0.99])
    y01 = np.array([0.0, 1.0, 1.0], "f4")
    penalty = np.array([0, 0, 0.01 * (2 - 0.99) / 0.01])
    np.testing.assert_allclose(
        value("cross_entropy", y=y01),
        -np.log(np.where(y01 > 0, inside, 1 - inside)) + penalty,
        rtol=1e-4,
    )
    entropy, q = -np.log(np.where(y > 0, p, 1 - p)), mean / p
    with np.errstate(divide="ignore"):
        gamma = np.where(y > 0, y / q - np.log(y / q) - 1, 0)
        s = np.exp(0.4)
        error = (np.log(y) - np.log(q) + s**2 / 2) / s
        normal = np.where(y > 0, error**2 / 2 + 0.4, 0)
    np.testing.assert_allclose(value("gamma", logit), entropy + gamma, rtol=1e-4)
    np.testing.assert_allclose(value("lognormal", logit), entropy + normal, rtol=1e-4)


@pytest.mark.parametrize("loss", ["cross_entropy", "poisson", "gamma"])
def test_means_out_of_range_are_pulled_back(loss):
    scales = Scales(square=0.2, mean=0.2, low=0.002, high=0.99)
    mean = tf.Variable([-0.3, 1.4])
    logit = tf.zeros(2) if loss == "gamma" else None
    with tf.GradientTape() as tape:
        rows = row_loss(loss, Arms(mean, logit), tf.constant([0.0, 1.0]), scales, None)
    below, above = np.asarray(tape.gradient(rows, mean))
    assert below == pytest.approx(-0.01 / 0.002)
    if loss == "cross_entropy":
        assert above == pytest.approx(0.01 / 0.01, rel=1e-4)


# A third of those without probabilities, each kind of heads with each head of an outcome.
UNITLESS = [k for k in KINDS if k[2] != "binary" and k[3] != "binary"][::3]


@pytest.mark.parametrize("kind", UNITLESS, ids=str)
def test_a_model_has_no_unit(kind):
    """Outcomes in other units start and train alike: floors are relative."""
    data = trial(kind[2], kind[3], rows=600, amounts=AMOUNTS)
    raw = np.random.default_rng(0).normal(size=(100, make(*kind).num_outputs))
    raw = tf.constant(raw, tf.float32)

    def found(loss, response_unit, cost_unit):
        y, z = data.response * response_unit, data.cost * cost_unit
        here = RCTData(data.features, data.treatment, y, z)
        amounts = None
        if kind[3] == "on_response":
            amounts = np.array(AMOUNTS) * cost_unit / response_unit
        heads = Heads(5, kind[2], kind[3], kind[0], kind[1], amounts)
        heads.use_losses(response_loss=loss)
        heads.start_from(here.arm_moments("response"), here.arm_moments("cost"))
        with tf.GradientTape() as tape:
            tape.watch(raw)
            rows = heads.errors(raw, here.treatment[:100], y[:100], z[:100])
            total = tf.add_n([tf.reduce_sum(x) for x in rows.values()])
        predicted = heads(raw)
        return [
            predicted["response"] / response_unit,
            predicted["cost"] / cost_unit,
            rows["response"],
            rows["cost"],
            tape.gradient(total, raw),
        ]

    for loss in {"nonnegative": [None, "poisson"], "hurdle": [None, "lognormal"]}.get(
        kind[2], [None]
    ):
        usual = found(loss, 1.0, 1.0)
        for units in ((2.0**-20, 2.0**20), (2.0**20, 2.0**-20)):
            for one, other in zip(usual, found(loss, *units), strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5, err_msg=str(units))


@pytest.mark.parametrize("unit", [2.0**-20, 1.0, 2.0**20])
def test_the_kind_of_cost_has_no_unit(unit):
    data = trial("binary", "nonnegative", rows=600)
    for cost, expected in ((data.cost, "nonnegative"), (0.3 * data.treatment, "constant")):
        scaled = RCTData(data.features, data.treatment, data.response, cost * unit)
        assert choose_cost_head(scaled) == expected


def test_the_loss_of_costs_follows_their_kind():
    """Yan et al. 2023, below Eq. 1: cross entropy for 0/1 costs, a regression loss for others."""
    for cost, expected in (("binary", "cross_entropy"), ("nonnegative", "squared_error")):
        data = trial("binary", cost, rows=600)
        heads = Heads(5, "binary", choose_cost_head(data))
        assert heads.use_losses() == {"response": "cross_entropy", "cost": expected}


# The layer ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        ("independent", False, "hurdle", "binary"),
        ("marginal", True, "nonnegative", "on_response"),
        ("spline", False, "real", "constant"),
    ],
    ids=str,
)
def test_same_with_xla(kind):
    heads, data = started(kind)
    raw = np.random.default_rng(3).normal(size=(30, heads.num_outputs)).astype("f4")
    targets = (data.treatment[:30], data.response[:30], data.cost[:30])
    compiled = tf.function(lambda x: (heads(x), heads.errors(x, *targets)), jit_compile=True)(raw)
    plain = (heads(raw), heads.errors(raw, *targets))
    for one, two in zip(tf.nest.flatten(compiled), tf.nest.flatten(plain), strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-4, atol=1e-5)


def test_half_precision_is_left_at_the_door():
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        heads, _ = started(("marginal", False, "binary", "nonnegative"))
        assert heads(tf.zeros((3, heads.num_outputs), tf.float16))["cost"].dtype == tf.float32
    finally:
        keras.mixed_precision.set_dtype_policy(before)


def test_spread_is_trained_with_the_lognormal_loss_only():
    heads = Heads(3, "hurdle", "nonnegative")
    assert not heads.trainable_variables
    heads.use_losses(response_loss="lognormal")
    assert [v.name for v in heads.trainable_variables] == ["response_log_spread"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Heads(2, "cubic", "binary"), "response_head='cubic' is not known"),
        (lambda: Heads(2, "constant", "binary"), "response_head='constant' is not known"),
        (lambda: Heads(2, "binary", "real"), "cost_head='real' is not known"),
        (lambda: Heads(2, "binary", "binary", "twin"), "heads='twin' is not known"),
        (lambda: Heads(1, "binary", "binary", "marginal"), "expected at least 2 arms"),
        (lambda: Heads(2, "binary", "on_response"), "needs cost_amounts"),
        (lambda: Heads(2, "binary", "binary", cost_amounts=[0, 1]), "leave them out"),
        (lambda: Heads(2, "real", "on_response", cost_amounts=[0, 1]), "less than nothing"),
        (lambda: Heads(2, "binary", "on_response", cost_amounts=[0, 1, 2]), "expected 2 finite"),
        (lambda: Heads(2, "binary", "on_response", cost_amounts=3), "cost_amounts=3: expected 2"),
        (lambda: Heads(2, "binary", "binary", monotone="no"), "monotone='no': expected True or"),
        (lambda: Heads(2, "binary", "on_response", cost_amounts=[-1, 1]), "not negative"),
        (
            lambda: Heads(2, "binary", "on_response", "marginal", cost_amounts=[0, 1]),
            "needs monotone=True",
        ),
        (
            lambda: Heads(2, "binary", "on_response", monotone=True, cost_amounts=[1, 0]),
            "increasing amounts",
        ),
        (lambda: check_loss("binary", "gamma", "cost_loss"), "cost_loss='gamma' does not fit a 'b"),
        (lambda: check_loss("constant", "gamma"), "it has none: leave it out"),
        (lambda: check_loss(None, "hinge"), "loss='hinge' is not known"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
