"""Runs that are killed and started again end as if they had not been."""

import csv
import errno
import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models.conftest import Pull, make_model, make_trial
from tfalloc.data import RCTData
from tfalloc.gradients import Integrated
from tfalloc.models import AllocationModel, _state_files
from tfalloc.models._state_files import States

STEPS, EPOCHS = 3, 2  # of 300 rows; a warm start has twice the epochs


class KilledError(Exception):
    """Stands for SIGKILL: nothing of fit runs after it."""


class KillAt(keras.callbacks.Callback):
    """Ends the process at the n-th event of one kind, counted from its start."""

    def __init__(self, event, count):
        super().__init__()
        self._event, self._left = event, [count]

    def happen(self, event):
        if event == self._event:
            self._left[0] -= 1
            if self._left[0] == 0:
                raise KilledError

    def on_train_batch_end(self, batch, logs=None):
        self.happen("batch end")

    def on_epoch_begin(self, epoch, logs=None):
        self.happen("epoch begin")

    def on_epoch_end(self, epoch, logs=None):
        self.happen("epoch end")

    def on_train_end(self, logs=None):
        self.happen("train end")

    def get_state(self):
        return None

    def set_state(self, state):
        pass


def run(data, make, kill=None, directory=None, **options):
    """A process: builds its model, trains, is killed or not; returns (model, History) or None."""
    model = make()
    callbacks = [*options.pop("callbacks", []), *([kill] if kill else [])]
    settings = {"batch_size": 300, "epochs": EPOCHS, "verbose": 0, "warm_start": True}
    settings = {**settings, **options, "callbacks": callbacks, "resume_from": directory}
    try:
        history = model.fit(data, **settings)
    except KilledError:
        return None
    return model, history


def assert_same(one, two):
    (model, history), (other, others) = one, two
    assert history.epoch == others.epoch
    assert list(history.history) == list(others.history)
    for name, values in history.history.items():
        np.testing.assert_array_equal(values, others.history[name], err_msg=name)
    for a, b in zip(
        [*model.variables, *model.optimizer.variables, *model._norms.variables],
        [*other.variables, *other.optimizer.variables, *other._norms.variables],
        strict=True,
    ):
        np.testing.assert_array_equal(np.array(a), np.array(b), err_msg=a.path)


@pytest.fixture(scope="module")
def data():
    return make_trial()


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch):
    """However long writing takes beside an epoch of a small model."""
    monkeypatch.setattr(_state_files, "SHARE", np.inf)


def make(**options):
    return make_model(optimizer=keras.optimizers.SGD(0.1, momentum=0.5), **options)


@pytest.fixture(scope="module")
def whole(data):
    return run(data, make)


class TestKilled:
    @pytest.mark.parametrize(
        ("event", "count"),
        [
            ("batch end", 1),  # nothing is kept yet
            ("batch end", STEPS + 2),
            ("epoch end", EPOCHS),  # after validation, before the first phase ends
            ("epoch begin", EPOCHS + 1),  # the second phase has begun
            ("epoch end", 2 * EPOCHS),
            ("train end", 1),  # between the last step and the end
        ],
    )
    def test_anywhere(self, event, count, data, whole, tmp_path):
        assert run(data, make, KillAt(event, count), tmp_path) is None
        assert_same(run(data, make, None, tmp_path), whole)

    def test_again_and_again_also_during_validation(self, data, whole, tmp_path, monkeypatch):
        evaluate, calls = AllocationModel.evaluate, []

        def killed(model, *arguments, **options):
            calls.append(1)
            if len(calls) == 2:
                raise KilledError
            return evaluate(model, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(AllocationModel, "evaluate", killed)
            assert run(data, make, None, tmp_path) is None
        assert run(data, make, KillAt("batch end", STEPS + 1), tmp_path) is None
        assert_same(run(data, make, None, tmp_path), whole)

    def test_compiled_and_several_steps_at_once(self, tmp_path):
        # Epochs that are shorter than the rows go on within them.
        data, options = make_trial(2000), {"epochs": 3, "warm_start": False, "steps_per_epoch": 3}

        def each():
            return make(steps_per_execution=2, run_eagerly=False, jit_compile=True)

        whole = run(data, each, **options)
        assert run(data, each, KillAt("batch end", 5), tmp_path, **options) is None
        assert_same(run(data, each, None, tmp_path, **options), whole)

    def test_dropout_and_loss_scaling(self, data, tmp_path):
        def each():
            keras.utils.set_random_seed(3)
            backbone = keras.Sequential([keras.Input((3,)), keras.layers.Dense(8, "relu")])
            backbone.add(keras.layers.Dropout(0.5))
            model = AllocationModel(2, backbone=backbone, seed=0)
            optimizer = keras.optimizers.LossScaleOptimizer(
                keras.optimizers.Adam(0.03, use_ema=True), dynamic_growth_steps=2
            )
            model.compile(optimizer, goal_weight=1.0, budget=0.3, gradient=Pull(), run_eagerly=True)
            return model

        whole = run(data, each)
        assert run(data, each, KillAt("batch end", 5), tmp_path) is None
        assert_same(run(data, each, None, tmp_path), whole)

    def test_within_one_process(self, data, whole, tmp_path):
        model = make()
        options = {"batch_size": 300, "epochs": EPOCHS, "verbose": 0, "warm_start": True}
        with pytest.raises(KilledError):
            model.fit(data, **options, callbacks=KillAt("batch end", 4), resume_from=tmp_path)
        assert_same((model, model.fit(data, **options, resume_from=tmp_path)), whole)


class TestData:
    def test_streamed(self, data, tmp_path):
        path = tmp_path / "t.parquet"
        data.frame().to_parquet(path, row_group_size=100, index=False)
        streamed = RCTData.from_parquet(
            path, treatment="treatment", response="response", cost="cost",
            features=["x0", "x1", "x2"], in_memory=False,
        )  # fmt: skip
        whole, kept = run(streamed, make), tmp_path / "kept"
        assert run(streamed, make, KillAt("batch end", 8), kept) is None
        assert_same(run(streamed, make, None, kept), whole)

        class Remove(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                path.unlink(missing_ok=True)

        lost = {"epochs": 40, "callbacks": [Remove()]}
        with pytest.raises(FileNotFoundError, match=r"is gone: '.*t\.parquet'"):
            run(streamed, make, None, tmp_path / "lost", **lost)
        assert (tmp_path / "lost" / "run.json").exists()

    @pytest.mark.parametrize("kind", ["known", "unknown", "endless"])
    # Keras' way to say that it did not know how many there are.
    @pytest.mark.filterwarnings("ignore:Your input ran out of data")
    def test_a_dataset_of_one_s_own(self, kind, data, tmp_path):
        train, valid = data.split([0.8, 0.2], 1)
        batches = train.batches(300, drop_remainder=True)
        options = {"validation_data": valid, "batch_size": None}
        if kind == "unknown":
            batches = batches.filter(lambda *_: True)
        elif kind == "endless":
            batches, options["steps_per_epoch"] = batches.repeat(), 2

        def each():
            model = make()
            model.adapt(train)
            return model

        whole = run(batches, each, **options)
        assert run(batches, each, KillAt("batch end", 5), tmp_path, **options) is None
        assert_same(run(batches, each, None, tmp_path, **options), whole)

    def test_a_dataset_that_ends_within_an_epoch_is_refused(self, data, tmp_path):
        with pytest.raises(ValueError, match=r"steps_per_epoch=2 and a dataset of 4.*repeat\(\)"):
            run(data.batches(300), make, None, tmp_path, batch_size=None, steps_per_epoch=2)


class Counts(keras.callbacks.Callback):
    """Anybody's callback, without a protocol."""

    def __init__(self):
        super().__init__()
        self.batches, self.epochs, self.losses, self.name = 0, [], {}, "mine"

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append(epoch)

    def on_epoch_end(self, epoch, logs=None):
        self.losses[epoch] = logs["loss"]


class Words(keras.callbacks.Callback):
    """A callback with a state of its own."""

    def __init__(self):
        super().__init__()
        self.words = ()

    def on_epoch_end(self, epoch, logs=None):
        self.words = (*self.words, f"epoch {epoch}")

    def get_state(self):
        return {"words": self.words}

    def set_state(self, state):
        self.words = state["words"]


def test_callbacks_of_keras_and_of_anybody(data, tmp_path):
    def callbacks(folder):
        return [
            Counts(),
            Words(),
            keras.callbacks.ReduceLROnPlateau("val_goal", mode="max", patience=1, min_delta=1.0),
            keras.callbacks.EarlyStopping(
                "val_loss", patience=3, min_delta=0.02, restore_best_weights=True
            ),
            keras.callbacks.ModelCheckpoint(
                folder / "best.keras", "val_loss", mode="min", save_best_only=True
            ),
            keras.callbacks.CSVLogger(folder / "log.csv"),
        ]

    results, rows, known = [], [], []
    kills = [KillAt("batch end", 5), KillAt("epoch end", 2), KillAt("epoch begin", 2)]
    for name, killed in (("whole", []), ("killed", kills)):
        folder = tmp_path / name
        folder.mkdir()
        for kill in [*killed, None]:
            used = callbacks(folder)
            options = {"epochs": 9, "warm_start": False, "callbacks": used}
            result = run(data, make, kill, folder / "kept", **options)
            assert (result is None) == (kill is not None)
            used[-1].csv_file.close()  # as the end of a process does
        results.append(result)
        known.append([used[0].batches, used[0].epochs, used[0].losses, used[1].words])
        rows.append(list(csv.DictReader((folder / "log.csv").read_text().splitlines())))
    assert_same(*results)
    assert known[0] == known[1] and known[0][0] == STEPS * len(rows[0])
    assert rows[0] == rows[1] and len(rows[0]) < 9  # stopped early, after its rate was cut
    rates = results[0][1].history["learning_rate"]
    assert rates[-1] < rates[0]
    best = [
        keras.saving.load_model(tmp_path / name / "best.keras").get_weights()
        for name in ("whole", "killed")
    ]
    for a, b in zip(*best, strict=True):
        np.testing.assert_array_equal(a, b)


class TestFiles:
    def test_a_finished_run_is_not_run_again(self, data, whole, tmp_path):
        run(data, make, None, tmp_path)
        assert len(os.listdir(tmp_path)) == 3  # the last two states, nothing temporary
        assert json.loads((tmp_path / "run.json").read_text())["format"] == 2
        assert_same(run(data, make, KillAt("epoch begin", 1), tmp_path), whole)

    @pytest.mark.parametrize("damage", ["truncated", "empty", "flipped"])
    def test_a_damaged_state_gives_way_to_the_one_before(self, damage, tmp_path):
        settings, weights = {"seed": 1}, np.arange(999.0)
        states = States(tmp_path, settings)
        for epoch in (1, 2):
            states.save({"epoch": epoch, "weights": weights})
        newest = max(tmp_path.glob("state-*.npz"))
        content = bytearray(newest.read_bytes())
        content[len(content) // 2] ^= 255
        damaged = {"truncated": content[:999], "empty": b"", "flipped": content}[damage]
        newest.write_bytes(bytes(damaged))
        with pytest.warns(UserWarning, match="is damaged"):
            kept = States(tmp_path, settings).newest
        assert kept["epoch"] == 1 and np.array_equal(kept["weights"], weights)

    def test_other_data_settings_or_formats_are_refused(self, data, tmp_path):
        assert run(data, make, KillAt("batch end", STEPS + 1), tmp_path) is None
        kept = sorted(os.listdir(tmp_path))
        changes = [
            ("fit.batch_size", {"batch_size": 200}, {}),
            ("fit.epochs", {"epochs": 5}, {}),
            ("fit.warm_start", {"warm_start": False}, {}),
            ("data.fingerprint", {"data": make_trial(seed=1)}, {}),
            ("compile.optimizer.learning_rate", {}, {"optimizer": keras.optimizers.SGD(0.2)}),
            ("compile.goal_weight", {}, {"goal_weight": 2.0}),
            ("compile.gradients", {}, {"gradient": Integrated(weight="drp")}),
            ("model.seed", {}, {"seed": 7}),
        ]
        for named, change, compiled in changes:
            plain = keras.optimizers.SGD(0.1, momentum=0.5)  # an optimizer is one model's
            made = make_model(**{"optimizer": plain, **compiled})
            rows = change.pop("data", data)
            with pytest.raises(ValueError, match=rf"cannot resume .* {named}=.* start afresh"):
                run(rows, lambda made=made: made, None, tmp_path, **change)
        assert sorted(os.listdir(tmp_path)) == kept
        content = json.loads((tmp_path / "run.json").read_text())
        (tmp_path / "run.json").write_text(json.dumps({**content, "format": 99}))
        with pytest.raises(ValueError, match="format 99"):
            States(tmp_path, content["settings"])

    def test_a_full_disk_does_not_end_training(self, data, whole, tmp_path, monkeypatch):
        replace, calls = os.replace, []

        def full(source, target):
            calls.append(target)
            if 3 <= len(calls) <= 4:  # after the settings and the first epoch's state
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", full)
            with pytest.warns(UserWarning, match="No space left on device") as said:
                assert run(data, make, KillAt("batch end", 3 * STEPS + 1), tmp_path) is None
        assert sum("No space left" in str(each.message) for each in said) == 1
        assert len(os.listdir(tmp_path)) == 2
        assert_same(run(data, make, None, tmp_path), whole)

    def test_a_kill_within_a_write_leaves_the_last_good_state(
        self, data, whole, tmp_path, monkeypatch
    ):
        replace, calls = os.replace, []

        def killed(source, target):
            calls.append(target)
            if len(calls) == 4:
                raise KilledError
            replace(source, target)

        monkeypatch.setattr(os, "replace", killed)
        assert run(data, make, None, tmp_path) is None
        assert_same(run(data, make, None, tmp_path), whole)

    def test_a_directory_that_cannot_be_written(self, data, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ValueError, match="cannot write"):
            run(data, make, None, tmp_path / "file" / "kept")

    def test_writing_takes_a_small_share_of_the_time(self, tmp_path, monkeypatch):
        monkeypatch.setattr(_state_files, "SHARE", 0.01)
        now = [0.0]
        monkeypatch.setattr(_state_files.time, "monotonic", lambda: now[0])
        write = _state_files.write_file

        def slow(*arguments):
            write(*arguments)
            now[0] += 2.0

        monkeypatch.setattr(_state_files, "write_file", slow)
        states = States(tmp_path, {})
        assert states.due()
        states.save({"epoch": 1})
        now[0] += 199.0
        assert not states.due()
        now[0] += 2.0
        assert states.due()

    def test_trees_of_any_kind_come_back(self, tmp_path):
        half = np.array([1.5, -2.0]).astype(tf.bfloat16.as_numpy_dtype)
        state = {
            "x": half,
            "same": [half, np.float32(3), np.zeros((0, 2), np.int64)],
            3: ({}, (), [], None, True, float("nan"), -float("inf"), 0.1, "text"),
        }
        states = States(tmp_path, {"a": (1, 2)})
        assert states.newest is None
        states.save(state)
        kept = States(tmp_path, {"a": [1, 2]}).newest
        assert repr(kept) == repr({**state, "same": [half, np.array(3, "f4"), state["same"][2]]})
        assert kept["x"].dtype == half.dtype and kept["x"].tolist() == [1.5, -2.0]


def test_weights_that_are_not_finite_end_training(data, tmp_path):
    class Spoil(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if int(self.model.optimizer.iterations) == 7:
                self.model.trainable_variables[0].assign(self.model.trainable_variables[0] * np.nan)

    with pytest.warns(UserWarning, match="weights are not finite after epoch 3: training ends"):
        model, history = run(
            data, make, None, tmp_path, epochs=9, warm_start=False, callbacks=[Spoil()]
        )
    assert len(history.epoch) == 3
    assert all(np.isfinite(weights).all() for weights in model.get_weights())  # the best epoch's
    [state] = [States(tmp_path, json.loads((tmp_path / "run.json").read_text())["settings"]).newest]
    assert state["epoch"] == 2 and not state["finished"]
