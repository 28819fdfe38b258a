"""The course of `fit`: early stopping, warm start, warnings, Keras' callbacks, frozen backbones."""

import csv
import importlib.util
import itertools

import keras
import numpy as np
import pytest

from tests.models.conftest import Pull
from tfalloc.gradients import Integrated, Smoothed
from tfalloc.models import AllocationModel
from tfalloc.models.phases import Best


def fit(model, data, **options):
    return model.fit(data, **{"batch_size": 300, "epochs": 3, "verbose": 0, **options}).history


def judged(model, data, **options):
    """What validation inside `fit` sees at the end."""
    valid = data.split([0.8, 0.2], model.seed)[1]
    return model.evaluate(valid, return_dict=True, **options)


class WithoutWeights:
    def get_weights(self):
        return []


class TestEarlyStopping:
    @pytest.mark.parametrize(
        ("options", "metric", "pick"),
        [
            ({}, "goal", max),
            ({"goal_weight": 0.0}, "goal", max),
            ({"goal_weight": 0.0, "budget": None, "validation_budgets": None}, "loss", min),
        ],
        ids=["goal", "two-stage with a budget", "without a budget"],
    )
    def test_the_best_by_default(self, options, metric, pick, model_of, trial_of_two_arms):
        model = model_of(optimizer=keras.optimizers.Adam(0.03), **options)
        history = fit(model, trial_of_two_arms, epochs=30, early_stopping=2)
        values = history[f"val_{metric}"]
        assert len(values) < 30 and values.index(pick(values)) == len(values) - 3
        assert judged(model, trial_of_two_arms)[metric] == pytest.approx(pick(values), rel=1e-5)

    def test_monitor_of_one_s_own(self, model_of, trial_of_two_arms):
        model = model_of(optimizer=keras.optimizers.Adam(0.03), validation_budgets=(0.2, 0.3))
        history = fit(model, trial_of_two_arms, epochs=5, monitor="val_goal@0.2")
        best = max(history["val_goal@0.2"])
        assert judged(model, trial_of_two_arms, budget=0.2)["goal"] == pytest.approx(best)

    def test_a_monitor_that_nothing_gives(self, model_of, trial_of_two_arms):
        with pytest.warns(UserWarning, match="no epoch had 'val_gaol'"):
            fit(model_of(), trial_of_two_arms, epochs=1, monitor="val_gaol")

    def test_nan_is_never_better_and_never_stays(self):
        best = Best("val_goal")
        waited = []
        for value in (np.nan, np.nan, 0.1, np.nan, 0.2):
            best.offer({"val_goal": value}, WithoutWeights())
            waited.append(best.waited)
        assert best.value == 0.2 and waited == [0, 1, 0, 1, 0]

    def test_predictions_that_are_no_numbers_are_never_better(self):
        best = Best("val_goal")
        best.offer({"val_goal": 0.1, "val_loss": 0.5}, WithoutWeights())
        best.offer({"val_goal": 0.2, "val_loss": np.nan}, WithoutWeights())
        assert best.value == 0.1 and best.waited == 1

    def test_off(self, model_of, trial_of_two_arms):
        model = model_of(optimizer=keras.optimizers.Adam(0.03))
        history = fit(model, trial_of_two_arms, epochs=8, early_stopping=False)
        assert len(history["val_goal"]) == 8
        assert judged(model, trial_of_two_arms)["goal"] == pytest.approx(history["val_goal"][-1])


class TestWarmStart:
    @pytest.mark.parametrize("goal_weight", [1.0, 60.0])
    def test_never_worse_than_two_stage_on_validation(
        self, goal_weight, model_of, trial_of_two_arms
    ):
        # Also weights that do harm: the result must come from the first phase then.
        model = model_of(gradient=Integrated(), goal_weight=goal_weight)
        history = fit(model, trial_of_two_arms, warm_start=True)
        result = judged(model, trial_of_two_arms)["goal"]
        phases = np.array(history["phase"])
        goals = np.array(history["val_goal"])
        assert sorted(set(phases)) == [1, 2]
        two_stage = goals[phases == 1][np.argmin(np.array(history["val_loss"])[phases == 1])]
        assert result >= two_stage - 1e-9
        better = goals[phases == 2][goals[phases == 2] > two_stage]
        assert any(result == pytest.approx(goal) for goal in (two_stage, *better))

    def test_the_first_phase_is_two_stage_training(self, model_of, trial_of_two_arms):
        warm = fit(model_of(), trial_of_two_arms, warm_start=True)
        two = fit(model_of(goal_weight=0.0), trial_of_two_arms)
        assert warm["val_loss"][:3] == two["val_loss"]
        assert np.all(np.isnan(warm["goal"][:3])) and np.all(np.isfinite(warm["goal"][3:]))
        assert len({len(column) for column in warm.values()}) == 1

    def test_the_second_phase_starts_from_the_best_with_a_fresh_optimizer(
        self, model_of, trial_of_two_arms
    ):
        class Watch(keras.callbacks.Callback):
            def __init__(self):
                super().__init__()
                self.started, self.rates = [], []

            def on_epoch_begin(self, epoch, logs=None):
                loss = judged(self.model, trial_of_two_arms)["loss"]
                self.started.append((int(self.model.optimizer.iterations), loss))
                self.rates.append(float(self.model.optimizer.learning_rate))
                if epoch == 1:
                    self.model.optimizer.learning_rate = 1e-5

        watch = Watch()
        model = model_of(optimizer=keras.optimizers.Adam(0.02))
        history = fit(model, trial_of_two_arms, epochs=3, warm_start=True, callbacks=watch)
        assert [iterations for iterations, _ in watch.started] == [0, 3, 6, 0, 3, 6]
        assert watch.started[3][1] == pytest.approx(min(history["val_loss"][:3]), rel=1e-5)
        assert watch.rates[3] == pytest.approx(0.02)
        assert history.keys() >= {"phase", "val_goal"}

    def test_the_model_trains_through_the_allocation_afterwards(self, model_of, trial_of_two_arms):
        model = model_of()
        fit(model, trial_of_two_arms, epochs=1, warm_start=True)
        again = fit(model, trial_of_two_arms, epochs=1)
        assert np.isfinite(again["goal"][0]) and "phase" not in again

    def test_without_validation_both_phases_run_in_full(self, model_of, trial_of_two_arms):
        history = fit(model_of(), trial_of_two_arms, warm_start=True, validation_split=0.0)
        assert history["phase"] == [1, 1, 1, 2, 2, 2]

    @pytest.mark.parametrize(
        ("compiled", "options", "message"),
        [
            ({"goal_weight": 0.0}, {}, "goal_weight above 0"),
            ({}, {"callbacks": [keras.callbacks.EarlyStopping()]}, "ends both phases itself"),
            ({}, {"early_stopping": -1}, "early_stopping=-1"),
            ({}, {"callbacks": keras.callbacks.BackupAndRestore("kept")}, "not the phase.*resume"),
        ],
    )
    def test_messages(self, compiled, options, message, model_of, trial_of_two_arms):
        with pytest.raises(ValueError, match=message):
            fit(model_of(**compiled), trial_of_two_arms, warm_start=True, **options)


class TestWarmStartFromGivenWeights:
    @pytest.mark.parametrize("goal_weight", [1.0, 60.0])
    def test_they_are_kept_unless_beaten_by_a_standard_error(
        self, goal_weight, model_of, trial_of_two_arms
    ):
        model = model_of(goal_weight=0.0)
        fit(model, trial_of_two_arms, epochs=8)
        before, start = model.get_weights(), judged(model, trial_of_two_arms)["goal"]
        options = {"budget": 0.3, "gradient": Integrated(), "run_eagerly": True}
        model.compile(keras.optimizers.Adam(0.02), goal_weight=goal_weight, **options)
        history = fit(model, trial_of_two_arms, warm_start="given")
        assert "phase" not in history and len(history["val_goal"]) == 3
        result = judged(model, trial_of_two_arms)["goal"]
        kept = all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
        assert kept or result == pytest.approx(max(history["val_goal"]))
        assert result >= judged_at_start(model, before, trial_of_two_arms) - 1e-9
        assert kept or result > start

    def test_weights_that_nothing_beats_stay(self, model_of, trial_of_two_arms):
        model = model_of(optimizer=keras.optimizers.Adam(0.02))
        fit(model, trial_of_two_arms, epochs=5)
        before = model.get_weights()
        options = {"budget": 0.3, "gradient": Pull(), "run_eagerly": True}
        model.compile(keras.optimizers.SGD(0.0), goal_weight=1.0, **options)
        fit(model, trial_of_two_arms, epochs=1, warm_start="given")
        trained = {id(x) for x in model.trainable_weights}
        for variable, weight in zip(model.weights, before, strict=True):
            if id(variable) in trained:
                np.testing.assert_array_equal(variable, weight)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "none yet: fit, load or imitate"),
            ({"validation_split": 0.0}, "pass validation_data or a validation_split"),
            ({"warm_start": "start"}, "warm_start='start': expected True, False or 'given'"),
            ({"callbacks": [keras.callbacks.EarlyStopping()]}, "ends training itself"),
        ],
    )
    def test_messages(self, options, message, model_of, trial_of_two_arms):
        with pytest.raises(ValueError, match=message):
            fit(model_of(), trial_of_two_arms, **{"warm_start": "given", **options})


def judged_at_start(model, weights, data):
    """The goal on validation rows that other weights reach."""
    after = model.get_weights()
    model.set_weights(weights)
    goal = judged(model, data)["goal"]
    model.set_weights(after)
    return goal


def test_small_batches_are_said_once(model_of, trial_of_two_arms):
    with pytest.warns(UserWarning, match="rests on .* matched rows") as caught:
        fit(model_of(), trial_of_two_arms, batch_size=40, epochs=2)
    assert sum("matched rows" in str(each.message) for each in caught) == 1


def test_matched_counts_the_batch(model_of, trial_of_two_arms):
    model = model_of(optimizer=keras.optimizers.SGD(0.0), budget=0.3, gradient=Smoothed())
    model.adapt(trial_of_two_arms)
    batch = trial_of_two_arms.batches(len(trial_of_two_arms), shuffle=False)
    # Predictions in training mode normalise by the batch; without learning they can be had again.
    history = model.fit(batch, epochs=1, verbose=0).history
    features, targets = next(iter(batch))
    out = model._predictions(model.network(model.preprocessor(features), training=True))
    score = np.asarray(out["response"]) - history["alpha"][0] * np.asarray(out["cost"])
    matched = score.argmax(1) == targets["treatment"].numpy()
    assert abs(history["matched"][0] - matched.sum()) <= 2  # ties to float32
    assert abs(history["matched_responders"][0] - targets["response"].numpy()[matched].sum()) <= 2


class TestKerasCallbacks:
    def test_early_stopping_and_checkpoint_on_the_goal(self, model_of, trial_of_two_arms, tmp_path):
        path = tmp_path / "best.keras"
        stop = keras.callbacks.EarlyStopping("val_goal", patience=1, mode="max")
        keep = keras.callbacks.ModelCheckpoint(path, "val_goal", mode="max", save_best_only=True)
        model = model_of(optimizer=keras.optimizers.Adam(0.03))
        history = fit(model, trial_of_two_arms, epochs=12, callbacks=[stop, keep])
        best = max(history["val_goal"])
        assert len(history["val_goal"]) == history["val_goal"].index(best) + 2
        loaded = keras.saving.load_model(path)
        assert judged(loaded, trial_of_two_arms)["goal"] == pytest.approx(best, rel=1e-6)

    def test_goals_that_cannot_be_had_do_not_break_them(
        self, model_of, trial_of_two_arms, tmp_path
    ):
        keep = keras.callbacks.ModelCheckpoint(
            tmp_path / "best.keras", "val_goal", mode="max", save_best_only=True
        )
        stop = keras.callbacks.EarlyStopping("val_goal", patience=1, mode="max")
        model = model_of(goal_weight=0.0, validation_budgets=[0.0])
        history = fit(model, trial_of_two_arms, callbacks=[stop, keep])
        assert np.all(np.isfinite(history["val_goal"])) and (tmp_path / "best.keras").exists()

    def test_logs_of_both_phases(self, model_of, trial_of_two_arms, tmp_path):
        log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
        logs, board = [log], importlib.util.find_spec("tensorboard")
        if board:
            logs.append(keras.callbacks.TensorBoard(tmp_path / "board"))
        model = model_of(validation_budgets=(0.3, 0.4))
        history = fit(model, trial_of_two_arms, epochs=2, warm_start=True, callbacks=logs)
        rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
        assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
        assert [float(row["phase"]) for row in rows] == [1, 1, 2, 2]
        assert float(rows[3]["val_goal@0.3"]) == pytest.approx(history["val_goal@0.3"][3])
        assert float(rows[3]["goal"]) == pytest.approx(history["goal"][3])
        if not board:
            return
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(tmp_path / "board" / "validation"))
        events.Reload()
        tags = events.Tags()["tensors"]
        assert "epoch_goal" in tags and any("0.3" in tag for tag in tags)

    def test_terminate_on_nan(self, model_of, trial_of_two_arms):
        model = model_of(optimizer=keras.optimizers.SGD(1e30), goal_weight=0.0, budget=None)
        history = fit(
            model, trial_of_two_arms, epochs=9, callbacks=[keras.callbacks.TerminateOnNaN()]
        )
        assert len(history["loss"]) < 9

    def test_reduce_learning_rate(self, model_of, trial_of_two_arms):
        reduce = keras.callbacks.ReduceLROnPlateau(
            "val_goal", mode="max", patience=1, min_delta=1.0
        )
        model = model_of(optimizer=keras.optimizers.Adam(0.01))
        history = fit(model, trial_of_two_arms, callbacks=[reduce], early_stopping=False)
        assert history["learning_rate"][-1] == pytest.approx(0.001)

    def test_backup_and_restore(self, model_of, trial_of_two_arms, tmp_path):
        class Interrupt(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                if epoch == 2:
                    raise KeyboardInterrupt

        def backup():
            return keras.callbacks.BackupAndRestore(str(tmp_path))

        model = model_of()
        with pytest.raises(KeyboardInterrupt):
            fit(model, trial_of_two_arms, epochs=4, callbacks=[backup(), Interrupt()])
        resumed = model_of()
        resumed.adapt(trial_of_two_arms)  # the back-up has weights only
        history = fit(resumed, trial_of_two_arms, epochs=4, callbacks=[backup()])
        assert len(history["loss"]) == 2
        assert int(resumed.optimizer.iterations) == 4 * 3


def test_loaded_models_continue(model_of, trial_of_two_arms, tmp_path):
    model = model_of(optimizer=keras.optimizers.Adam(0.01))
    fit(model, trial_of_two_arms, epochs=2)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    one, two = (fit(each, trial_of_two_arms, epochs=1) for each in (model, loaded))
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)
    assert one["val_goal"] == pytest.approx(two["val_goal"], rel=1e-5)
    one, two = ({**m.get_config(), "preprocessor": None} for m in (model, loaded))
    assert one == two


class TestTransfer:
    def test_a_frozen_trunk_stays_as_it_was(self, trial_of_two_arms, tmp_path):
        trunk = keras.Sequential(
            [keras.Input((3,)), keras.layers.Dense(8, "relu"), keras.layers.BatchNormalization()]
        )
        trunk.layers[1].moving_mean.assign(np.linspace(-1, 1, 8))
        trunk.trainable = False
        before = [np.array(w) for w in trunk.weights]
        model = AllocationModel(2, backbone=trunk, seed=0)
        model.compile(goal_weight=1.0, budget=0.3, gradient=Pull(), run_eagerly=True)
        fit(model, trial_of_two_arms, warm_start=True, early_stopping=False)
        for old, new in zip(before, trunk.weights, strict=True):
            np.testing.assert_array_equal(old, new)  # moving averages too: inference mode
        x = np.random.default_rng(0).normal(2.0, 3.0, (50, 3)).astype(np.float32)
        np.testing.assert_array_equal(trunk(x, training=True), trunk(x, training=False))
        model.save(tmp_path / "m.keras")
        loaded = keras.saving.load_model(tmp_path / "m.keras")
        assert len(loaded.trainable_weights) == len(model.trainable_weights)

    def test_the_trunk_of_a_trained_model_is_taken_over(self, model_of, trial_of_two_arms):
        trained = keras.Sequential([keras.Input((3,)), keras.layers.Dense(8, "relu")])
        kernel = np.array(trained.weights[0])
        model = AllocationModel(2, backbone=trained)
        model.compile(goal_weight=1.0, budget=0.3, gradient=Pull(), run_eagerly=True)
        model.adapt(trial_of_two_arms)
        assert any(w.shape == kernel.shape and np.all(w == kernel) for w in model.get_weights())
        fit(model, trial_of_two_arms, epochs=1)
        assert np.any(trained.weights[0] != kernel)

    def test_a_trunk_frozen_after_training_stays_so_when_loaded(
        self, model_of, trial_of_two_arms, tmp_path
    ):
        model = model_of()
        fit(model, trial_of_two_arms, epochs=1)
        model.network.get_layer("trunk_0").trainable = False
        with pytest.raises(ValueError, match="10 weights, but 8 .* call compile again"):
            fit(model, trial_of_two_arms, epochs=1)
        model.compile(goal_weight=1.0, budget=0.3, gradient=Pull(), run_eagerly=True)
        kernel = np.array(model.network.get_layer("trunk_0").kernel)
        fit(model, trial_of_two_arms, epochs=1, warm_start=True)
        model.save(tmp_path / "m.keras")
        loaded = keras.saving.load_model(tmp_path / "m.keras")
        assert len(loaded.trainable_weights) == len(model.trainable_weights) == 8
        fit(loaded, trial_of_two_arms, epochs=1)
        np.testing.assert_array_equal(loaded.network.get_layer("trunk_0").kernel, kernel)

    def test_copies_have_what_a_frozen_trunk_knows(self, model_of, trial_of_two_arms):
        trunk = keras.Sequential([keras.Input((3,)), keras.layers.Dense(8, "relu")])
        trunk.trainable = False
        model = AllocationModel(2, backbone=trunk, seed=0)
        model.compile(goal_weight=1.0, budget=0.3, gradient=Pull(), run_eagerly=True)
        model.adapt(trial_of_two_arms)
        copy = model.two_stage_copy(7)
        kernels = [each.network.layers[1].get_weights()[0] for each in (model, copy)]
        np.testing.assert_array_equal(*kernels)
        assert not copy.network.layers[1].trainable_weights
        heads = [each.network.get_layer("heads").get_weights()[0] for each in (model, copy)]
        assert np.any(heads[0] != heads[1])


class TestExecution:
    def weights(self, model, data, **options):
        fit(model, data, epochs=1, early_stopping=False, **options)
        return model.get_weights()

    def test_xla_plain_graph_and_eager_train_alike(self, model_of, trial_of_two_arms):
        modes = {
            "graph": {"run_eagerly": False},
            "eager": {},
            "three steps at once, xla": {
                "run_eagerly": False, "steps_per_execution": 3, "jit_compile": True,
            },
        }  # fmt: skip
        trained = {
            name: self.weights(
                model_of(gradient=[Integrated(), (0.5, Smoothed(mu="alpha"))], **options),
                trial_of_two_arms,
            )
            for name, options in modes.items()
        }
        for one, two in itertools.pairwise(trained.values()):
            for a, b in zip(one, two, strict=True):
                np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)

    @pytest.mark.parametrize(
        ("policy", "jit_compile"), [("mixed_float16", False), ("mixed_bfloat16", True)]
    )
    def test_mixed_precision(self, policy, jit_compile, model_of, trial_of_two_arms):
        data = trial_of_two_arms
        plain = self.weights(model_of(), data)
        before = keras.mixed_precision.dtype_policy()
        keras.mixed_precision.set_dtype_policy(policy)
        try:
            model = model_of(jit_compile=jit_compile, run_eagerly=False)
            scaled = type(model.optimizer).__name__ == "LossScaleOptimizer"
            assert scaled == (policy == "mixed_float16")
            mixed = self.weights(model, data)
            predicted = model.predict(data, verbose=0)
        finally:
            keras.mixed_precision.set_dtype_policy(before)
        assert {column.dtype for column in predicted.values()} == {np.dtype("float32")}
        counter = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        assert int(counter.iterations) == 3  # no step was skipped for infinite gradients
        for a, b in zip(plain, mixed, strict=True):
            np.testing.assert_allclose(a, b, atol=0.03)

    def test_what_was_compiled_is_loaded(self, trial_of_two_arms, tmp_path):
        model = AllocationModel(2, backbone="small", seed=1, dtype="mixed_bfloat16")
        model.compile(goal_weight=0.0, jit_compile=False, steps_per_execution=3)
        fit(model, trial_of_two_arms, epochs=1)
        trunk = model.network.get_layer("trunk_0")
        assert trunk.compute_dtype == model.network.get_layer("heads").norm.compute_dtype
        assert trunk.compute_dtype == "bfloat16"
        model.save(tmp_path / "m.keras")
        loaded = keras.saving.load_model(tmp_path / "m.keras")
        assert loaded.network.get_layer("trunk_0").compute_dtype == "bfloat16"
        assert loaded.steps_per_execution == 3
        one, two = (each.predict(trial_of_two_arms, verbose=0) for each in (model, loaded))
        np.testing.assert_array_equal(one["response"], two["response"])

    def test_summary(self, model_of, trial_of_two_arms):
        model, lines = model_of(), []
        model.adapt(trial_of_two_arms)
        model.summary(print_fn=lines.append)
        assert "outcome_heads" in "\n".join(lines)


class TestKeepingTwoStage:
    """What the two-stage phase hands on gives way to evidence, not to luck."""

    class Model:
        def __init__(self, weights, influence):
            self.weights, self.goal_influence = weights, np.asarray(influence, float)

        def get_weights(self):
            return self.weights

    def best(self):
        two_stage, final = Best("val_loss"), Best("val_goal")
        logs = {"val_loss": 1.0, "val_goal": 0.30}
        two_stage.offer(logs, self.Model("two-stage", [0.1, -0.1, 0.0]))
        final.start_from(two_stage)
        return final

    def test_luck_is_not_kept(self):
        final = self.best()
        # The standard error of the paired difference is sqrt(.1^2 + .1^2) = .14.
        final.offer({"val_goal": 0.40}, self.Model("epoch", [0.0, 0.0, 0.0]))
        assert final.weights == "two-stage" and final.value == 0.30 and final.waited == 1

    def test_evidence_is(self):
        final = self.best()
        final.offer({"val_goal": 0.45}, self.Model("epoch", [0.0, 0.0, 0.0]))
        assert final.weights == "epoch" and final.waited == 0
        # The same gain from rows that both policies treat alike is more certain.
        final = self.best()
        final.offer({"val_goal": 0.40}, self.Model("epoch", [0.1, -0.1, 0.05]))
        assert final.weights == "epoch"

    def test_state_goes_with_it(self):
        final, again = self.best(), self.best()
        again.to_beat = None
        again.set_state(final.get_state())
        again.offer({"val_goal": 0.40}, self.Model("epoch", [0.0, 0.0, 0.0]))
        assert again.weights == "two-stage"
