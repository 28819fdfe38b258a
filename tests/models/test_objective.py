"""What is optimised: the scale of the goal, schedules, sums of gradients, budgets, storing them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models.conftest import Pull, make_model
from tfalloc.data import RCTData
from tfalloc.gradients import FiniteDifference, GoalGradient, Integrated, Smoothed
from tfalloc.models import AllocationModel, WarmUp
from tfalloc.models.objective import RATE, RunningNorms, surrogate
from tfalloc.models.schedules import draw_budget, validation_budgets_of


@keras.saving.register_keras_serializable(package="tests")
class Constant:
    """A gradient known in advance: d on v, twice d on c."""

    def __init__(self, size):
        self.size = size

    def __call__(self, v, c, treatment, response, cost, budget, propensity=None, seed=None):
        ones = tf.where(tf.range(tf.shape(v)[1]) == 0, -self.size, self.size) * tf.ones_like(v)
        return GoalGradient(tf.constant(0.5), ones, 2.0 * ones, tf.constant(0.1))

    def get_config(self):
        return {"size": self.size}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def one_step(model, data):
    """Change of all weights by one step on all rows, plain gradient descent."""
    model.adapt(data)
    before = [w.numpy() for w in model.trainable_weights]
    batches = data.batches(len(data), shuffle=False)
    model.fit(batches, epochs=1, verbose=0)
    return [w.numpy() - b for w, b in zip(model.trainable_weights, before, strict=True)]


def sgd_step(model_of, data, **options):
    return one_step(model_of(optimizer=keras.optimizers.SGD(1.0), **options), data)


def raw_gradient_norms(model, data, size):
    """|| d losses / d raw || and || d surrogate / d raw ||, each by its own tape."""
    features, targets = next(iter(data.batches(len(data), shuffle=False)))
    raw = model.network(model.preprocessor(features), training=True)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(raw)
        losses = tf.add_n(list(model._prediction_losses(raw, targets, None).values()))
        out = model._predictions(raw)
        sign = tf.constant([-size, size])
        goal = tf.reduce_sum(sign * out["response"]) + 2.0 * tf.reduce_sum(sign * out["cost"])
    return [
        float(tf.linalg.global_norm(tf.nest.flatten(tape.gradient(y, raw)))) for y in (losses, goal)
    ]


class TestScale:
    @pytest.mark.parametrize("size", [1e-6, 1e6])
    def test_normalized_pulls_as_hard_as_the_losses_whatever_the_gradient_s_size(
        self, size, model_of, trial_of_two_arms
    ):
        data = trial_of_two_arms
        step = {
            weight: sgd_step(model_of, data, gradient=Constant(size), goal_weight=weight)
            for weight in (0.0, 1.0)
        }
        paper = sgd_step(
            model_of, data, gradient=Constant(1.0), goal_weight=1.0, goal_scale="paper"
        )
        model = model_of()
        model.adapt(data)
        losses, goal = raw_gradient_norms(model, data, 1.0)
        # At the first step the running average is the batch: normalized = paper * losses / goal.
        for zero, one, written in zip(step[0.0], step[1.0], paper, strict=True):
            np.testing.assert_allclose(
                one - zero, (written - zero) * losses / goal, rtol=2e-3, atol=1e-6
            )

    def test_several_gradients_are_normalised_each_by_itself(self, model_of, trial_of_two_arms):
        data = trial_of_two_arms
        zero, one, three, sums = (
            sgd_step(model_of, data, **options)
            for options in (
                {"goal_weight": 0.0},
                {"gradient": Constant(1.0)},
                {"gradient": [(3.0, Constant(1.0))]},
                {"gradient": [(0.5, Constant(1e4)), (2.5, Constant(1e-4))]},
            )
        )
        for start, single, triple, total in zip(zero, one, three, sums, strict=True):
            np.testing.assert_allclose(triple - start, 3 * (single - start), rtol=1e-3, atol=1e-6)
            np.testing.assert_allclose(total, triple, rtol=1e-3, atol=1e-6)

    def test_running_norms(self):
        norms = RunningNorms(2)
        pairs = [(3.0, 1.0), (5.0, 0.0), (1.0, 100.0)]
        for p, q in pairs:
            norms.update_state([tf.constant([p, 0.0])], [[tf.constant([0.0, q])], [tf.zeros(2)]])
        rates = (1 - RATE) * RATE ** np.arange(3)[::-1]
        p2, q2 = (rates @ np.array(column) ** 2 for column in zip(*pairs, strict=True))
        np.testing.assert_allclose(norms.result(), [np.sqrt(p2 / q2), 0.0], rtol=1e-5)
        # One batch of an outlying norm pulls at most 1 / sqrt(1 - RATE) times as hard as losses.
        norms = RunningNorms(1)
        for _ in range(500):
            norms.update_state([tf.ones(1)], [[tf.ones(1)]])
        norms.update_state([tf.ones(1)], [[tf.constant([1e6])]])
        assert 9.0 < float(norms.result()[0]) * 1e6 <= 10.01

    def test_saved_with_the_model(self, model_of, trial_of_two_arms, tmp_path):
        model = model_of(gradient=[Integrated(), (0.5, Smoothed(mu="alpha"))])
        model.fit(trial_of_two_arms, batch_size=300, epochs=1, verbose=0)
        model.save(tmp_path / "m.keras")
        loaded = keras.saving.load_model(tmp_path / "m.keras")
        assert float(loaded._norms.steps) == float(model._norms.steps) > 0
        np.testing.assert_array_equal(loaded._norms.squares, model._norms.squares)
        assert len(loaded.weights) == len(model.weights)


class TestSchedules:
    @pytest.mark.parametrize(
        "schedule",
        [WarmUp(0.5, 7), keras.optimizers.schedules.CosineDecay(0.3, 100)],
        ids=["WarmUp", "CosineDecay"],
    )
    def test_survive_saving(self, schedule, model_of, trial_of_two_arms, tmp_path):
        model = model_of(goal_weight=schedule)
        model.fit(trial_of_two_arms, batch_size=300, epochs=1, verbose=0)
        model.save(tmp_path / "m.keras")
        loaded = keras.saving.load_model(tmp_path / "m.keras")
        kept = loaded._objective.goal_weight
        assert type(kept) is type(schedule) and kept.get_config() == schedule.get_config()

    def test_weight_of_the_step_is_used(self, model_of, trial_of_two_arms):
        # At step 0 a warm-up weighs nothing: the first step is that of two-stage training.
        zero = sgd_step(model_of, trial_of_two_arms, goal_weight=0.0)
        warm = sgd_step(model_of, trial_of_two_arms, goal_weight=WarmUp(1.0, 3))
        for a, b in zip(zero, warm, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)

    def test_a_function_without_a_name_cannot_be_stored_and_says_so(self, model_of):
        model = model_of(goal_weight=lambda step: 0.1)
        with pytest.warns(UserWarning, match="goal_weight=.* cannot be stored"):
            assert model.get_compile_config()["goal_weight"] == 0.0

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: WarmUp(-1.0, 5), "not negative"),
            (lambda: WarmUp(1.0, 0), "expected at least 1"),
            (lambda: WarmUp("much", 5), "goal_weight='much'"),
        ],
    )
    def test_messages(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()


def test_gradients_and_budgets_survive_saving(model_of, trial_of_two_arms, tmp_path):
    model = model_of(
        gradient=[(0.5, Integrated(weight="drp")), (1.0, FiniteDifference(step=0.01)), Constant(2)],
        goal_scale="paper",
        validation_budgets=[0.3, 0.1],
    )
    model.adapt(trial_of_two_arms)
    model.save(tmp_path / "m.keras")
    kept = keras.saving.load_model(tmp_path / "m.keras")._objective
    assert [weight for weight, _ in kept.gradients] == [0.5, 1.0, 1.0]
    assert kept.gradients[0][1].weight == "drp" and kept.gradients[1][1].step == 0.01
    assert isinstance(kept.gradients[2][1], Constant) and kept.gradients[2][1].size == 2
    assert kept.goal_scale == "paper" and kept.validation_budgets == (0.1, 0.3)
    assert kept.budget == (0.2, 0.4)


def test_validation_budgets_of():
    assert validation_budgets_of(None) == ()
    assert validation_budgets_of(0.3) == (0.3,)
    assert validation_budgets_of((0.2, 0.2)) == (0.2,)
    np.testing.assert_allclose(validation_budgets_of((0.0, 1.0)), [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(validation_budgets_of(lambda step: 0.5 + 0.0 * float(step)), [0.5])


def test_weight_decay_is_the_default_optimizer_s(model_of):
    assert model_of(weight_decay=0.01).optimizer.weight_decay == 0.01
    with pytest.raises(ValueError, match="weight_decay=0.01 belongs to the default optimizer"):
        model_of(optimizer=keras.optimizers.Adam(), weight_decay=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"goal_scale": "loud"}, "goal_scale='loud' is not known"),
        ({"gradient": []}, "at least one gradient"),
        ({"gradient": "nes"}, "expected one of tfalloc.gradients"),
        ({"gradient": [(-1.0, Integrated())]}, "weights above 0"),
        ({"budget": (1, 2, 3)}, "expected one cost per user, a range"),
        ({"budget": "much"}, "finite cost per user"),
        ({"validation_budgets": []}, "finite cost per user"),
        ({"validation_budgets": [0.1, -1]}, "not negative"),
    ],
)
def test_messages(options, message):
    with pytest.raises(ValueError, match=message):
        AllocationModel(2).compile(**{"goal_weight": 1.0, "budget": 1.0, **options})


# The paper's details ----------------------------------------------------------------------


def test_the_surrogate_has_the_gradient_of_the_objective(trial_of_two_arms):
    """Eq. 11 and the sentence after it (line 879): dL_S/dtheta = dL_R/dtheta, numerically."""
    data = trial_of_two_arms
    gradient = Integrated(prices=(0.0, 1.0), min_cost_gap=1e-6)
    model = make_model(
        optimizer=keras.optimizers.SGD(1.0), gradient=gradient, goal_weight=3.0,
        goal_scale="paper", budget=0.3,
    )  # fmt: skip
    model.adapt(data)
    # Away from the start, where all rows are predicted alike and sit at one price.
    rng = np.random.default_rng(0)
    start = [w.numpy() + rng.normal(0, 0.3, w.shape).astype("f4") for w in model.trainable_weights]

    def put(weights):
        for variable, value in zip(model.trainable_weights, weights, strict=True):
            variable.assign(value)

    features, targets = next(iter(data.batches(len(data), shuffle=False)))
    matrix = model.preprocessor(features)

    def objective(weights):
        """L_1 and J, with batch statistics as in training."""
        put(weights)
        raw = model.network(matrix, training=True)
        losses = sum(float(x) for x in model._prediction_losses(raw, targets, None).values())
        v, c = (model._predictions(raw)[name] for name in ("response", "cost"))
        trial = (targets[name] for name in ("treatment", "response", "cost"))
        goal = gradient.objective(v, c, *trial, budget=0.3, propensity=targets.get("propensity"))
        return np.array([losses, float(goal.objective)])

    put(start)
    model.train_on_batch(features, targets)
    minus = [w.numpy() - s for w, s in zip(model.trainable_weights, start, strict=True)]
    step, shares = 1e-3, []
    for _ in range(3):
        way = [rng.normal(size=w.shape).astype("f4") for w in start]
        slope = -sum(float(np.sum(a * b)) for a, b in zip(minus, way, strict=True))
        up, down = (
            objective([w + sign * step * d for w, d in zip(start, way, strict=True)])
            for sign in (1, -1)
        )
        losses, goal = (up - down) / (2 * step)
        assert slope == pytest.approx(losses - 3.0 * goal, rel=0.03, abs=0.02)
        shares.append(abs(3.0 * goal) / abs(losses))
    assert max(shares) > 0.2  # the goal is no small part of it


def test_the_surrogate_is_linear_in_the_predictions():
    v, c = tf.Variable([[0.1, 0.2]]), tf.Variable([[0.3, 0.4]])
    goal = GoalGradient(
        tf.constant(0.5), tf.constant([[1.0, -2.0]]), tf.constant([[3.0, 4.0]]), 0.0
    )
    with tf.GradientTape() as tape:
        value = surrogate(v, c, goal)
    dv, dc = tape.gradient(value, [v, c])
    np.testing.assert_array_equal(dv, goal.d_response)
    np.testing.assert_array_equal(dc, goal.d_cost)


class Note(Pull):
    """Notes the budget of every step."""

    def __init__(self):
        super().__init__()
        self.budgets = []

    def __call__(self, v, c, treatment, response, cost, budget, **more):
        self.budgets.append(float(budget))
        return super().__call__(v, c, treatment, response, cost, budget, **more)


def test_every_step_draws_its_budget_anew(trial_of_two_arms):
    """Lines 1100 and 1119: per-capita budgets uniform on a range, one for each step."""

    def budgets(seed, epochs):
        gradient = Note()
        model = make_model(seed=seed, gradient=gradient, budget=(1.0, 1.5))
        batches = trial_of_two_arms.batches(300, shuffle=False)
        model.fit(batches, epochs=epochs, verbose=0)
        return gradient.budgets

    drawn = budgets(1, 2)
    assert len(drawn) == len(set(drawn)) == 8
    assert drawn == [float(draw_budget((1.0, 1.5), 1, tf.constant(step))) for step in range(8)]
    assert budgets(1, 1) == drawn[:4] and not set(budgets(2, 1)) & set(drawn)


@pytest.mark.parametrize("kind", ["binary", "nonnegative"])
def test_the_cost_loss_follows_the_kind_of_cost_label(kind):
    """Eq. 1 and lines 255 to 260: cross entropy for a categorical cost, else a regression loss."""
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(600, 2)).astype("f4"), rng.integers(0, 2, 600)
    z = (rng.random(600) < 0.2 + 0.3 * t) * 1.0 if kind == "binary" else rng.random(600) * (1 + t)
    data = RCTData(x, t, (rng.random(600) < 0.3) * 1.0, z)
    model = make_model(goal_weight=0.0)
    model.adapt(data)
    cost = model.predict(data, verbose=0)["cost"][np.arange(600), t].astype(float)
    if kind == "binary":
        expected = -np.mean(z * np.log(cost) + (1 - z) * np.log(1 - cost))
    else:  # in units of the mean square, so that costs in cents train as costs in euros do
        expected = np.mean((cost - z) ** 2) / np.mean(z**2)
    assert model.evaluate(data, return_dict=True)["cost_loss"] == pytest.approx(expected, rel=1e-3)


def test_budgets_are_uniform_on_their_range_and_alike_with_xla():
    draw = lambda step: draw_budget((0.2, 0.6), 7, step)  # noqa: E731
    steps = tf.range(4000)
    plain = tf.map_fn(draw, steps, fn_output_signature=tf.float32).numpy()
    compiled = tf.function(draw, jit_compile=True)
    assert np.all((plain >= 0.2) & (plain <= 0.6))
    # 4 standard errors of the mean and of the share below a quarter
    assert abs(plain.mean() - 0.4) < 4 * 0.4 / np.sqrt(12 * 4000)
    assert abs(np.mean(plain < 0.3) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4000)
    for step in (0, 1, 17):
        assert float(compiled(tf.constant(step))) == pytest.approx(plain[step], rel=1e-6)
