"""Runs that are killed and started again end as if they had not been."""

import csv
import errno
import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models.conftest import make_model, make_trial
from tfalloc.data import RCTData
from tfalloc.gradients import Integrated
from tfalloc.models import AllocationModel, Checkpoint
from tfalloc.models import resume as resume_module

pytestmark = pytest.mark.slow

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

    def on_train_batch_begin(self, batch, logs=None):
        self.happen("batch begin")

    def on_train_batch_end(self, batch, logs=None):
        self.happen("batch end")

    def on_epoch_begin(self, epoch, logs=None):
        self.happen("epoch begin")

    def on_epoch_end(self, epoch, logs=None):
        self.happen("epoch end")

    def get_state(self):
        return None

    def set_state(self, state):
        pass


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


def run(data, make, kill=None, directory=None, every_steps=1, **options):
    """A process: builds its model, trains, is killed or not; returns (model, History) or None."""
    model = make()
    callbacks = [*options.pop("callbacks", []), *([kill] if kill else [])]
    settings = {"batch_size": 300, "epochs": EPOCHS, "verbose": 0, "warm_start": True}
    keep = None if directory is None else Checkpoint(directory, every_steps=every_steps)
    try:
        history = model.fit(data, **{**settings, **options}, callbacks=callbacks, resume_from=keep)
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
        [*model.variables, *model.optimizer.variables],
        [*other.variables, *other.optimizer.variables],
        strict=True,
    ):
        np.testing.assert_array_equal(np.array(a), np.array(b), err_msg=a.path)


@pytest.fixture(scope="module")
def data():
    return make_trial()


def make(**options):
    # Tracing the graphs of both phases would take most of the time of these tests.
    options = {"run_eagerly": True, **options}
    return make_model(optimizer=keras.optimizers.Adam(0.03), **options)


@pytest.fixture(scope="module")
def whole(data):
    return run(data, make)


class TestKilled:
    @pytest.mark.parametrize(
        ("event", "count", "every_steps"),
        [
            ("batch end", 1, 1),
            ("batch begin", STEPS + 2, 2),
            ("batch end", STEPS * EPOCHS, 1),  # before validation, at the end of the first phase
            ("epoch end", EPOCHS, 1),  # after validation
            ("epoch begin", EPOCHS + 1, 1),  # the second phase has begun
            ("epoch begin", EPOCHS + 1, 4),
            ("batch end", STEPS * EPOCHS + 2, 1),
            ("epoch end", 2 * EPOCHS, 2),
        ],
    )
    def test_anywhere(self, event, count, every_steps, data, whole, tmp_path):
        options = {"directory": tmp_path, "every_steps": every_steps}
        assert run(data, make, KillAt(event, count), **options) is None
        assert_same(run(data, make, **options), whole)

    def test_again_and_again(self, data, whole, tmp_path):
        for count in (1, 3, 4):
            assert run(data, make, KillAt("batch end", count), directory=tmp_path) is None
        assert_same(run(data, make, directory=tmp_path), whole)

    def test_during_validation(self, data, whole, tmp_path, monkeypatch):
        evaluate, calls = AllocationModel.evaluate, []

        def killed(model, *arguments, **options):
            calls.append(1)
            if len(calls) == 3:
                raise KilledError
            return evaluate(model, *arguments, **options)

        monkeypatch.setattr(AllocationModel, "evaluate", killed)
        assert run(data, make, directory=tmp_path) is None
        assert_same(run(data, make, directory=tmp_path), whole)

    def test_between_the_models_last_step_and_its_end(self, data, whole, tmp_path):
        class KillAtEnd(keras.callbacks.Callback):
            def on_train_end(self, logs=None):
                raise KilledError

        killed = run(data, make, directory=tmp_path, callbacks=[KillAtEnd()])
        assert killed is None
        assert_same(run(data, make, directory=tmp_path), whole)

    def test_compiled_and_several_steps_at_once(self, tmp_path):
        data, options = make_trial(4000), {"warm_start": False}
        compiled = {"steps_per_execution": 2, "run_eagerly": False, "jit_compile": True}

        def each():
            return make(**compiled)

        whole = run(data, each, **options)
        assert run(data, each, KillAt("batch end", 3), directory=tmp_path, **options) is None
        assert_same(run(data, each, directory=tmp_path, **options), whole)

    def test_dropout_and_loss_scaling(self, data, tmp_path):
        def each():
            keras.utils.set_random_seed(3)
            backbone = keras.Sequential([keras.Input((3,)), keras.layers.Dense(8, "relu")])
            backbone.add(keras.layers.Dropout(0.5))
            model = AllocationModel(2, backbone=backbone, seed=0)
            optimizer = keras.optimizers.LossScaleOptimizer(
                keras.optimizers.Adam(0.03, use_ema=True), dynamic_growth_steps=2
            )
            model.compile(
                optimizer, goal_weight=1.0, budget=0.3, gradient=Integrated(), run_eagerly=True
            )
            return model

        whole = run(data, each)
        assert run(data, each, KillAt("batch end", 5), directory=tmp_path) is None
        assert_same(run(data, each, directory=tmp_path), whole)

    def test_within_one_process(self, data, whole, tmp_path):
        model = make()
        options = {"batch_size": 300, "epochs": EPOCHS, "verbose": 0, "warm_start": True}
        keep = Checkpoint(tmp_path, every_steps=1)
        with pytest.raises(KilledError):
            model.fit(data, **options, callbacks=KillAt("batch end", 4), resume_from=keep)
        assert_same((model, model.fit(data, **options, resume_from=keep)), whole)


class TestData:
    def test_streamed(self, tmp_path):
        frame = make_trial().frame()
        frame.to_parquet(tmp_path / "t.parquet", row_group_size=100, index=False)
        data = RCTData.from_parquet(
            tmp_path / "t.parquet", treatment="treatment", response="response", cost="cost",
            features=["x0", "x1", "x2"], in_memory=False,
        )  # fmt: skip
        whole = run(data, make)
        kill, directory = KillAt("batch end", 8), tmp_path / "kept"
        assert run(data, make, kill, directory=directory) is None
        assert_same(run(data, make, directory=directory), whole)

    def test_a_file_that_goes_missing(self, tmp_path):
        path = tmp_path / "t.parquet"
        make_trial(3000).frame().to_parquet(path, row_group_size=100, index=False)
        data = RCTData.from_parquet(
            path, treatment="treatment", response="response", cost="cost",
            features=["x0", "x1", "x2"], in_memory=False,
        )  # fmt: skip

        class Remove(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                if epoch == 1:
                    path.unlink(missing_ok=True)

        with pytest.raises(FileNotFoundError, match=r"is gone: '.*t\.parquet'"):
            run(data, make, directory=tmp_path / "kept", epochs=9, callbacks=[Remove()])
        assert len(list((tmp_path / "kept").glob("state-*.npz"))) == 2

    @pytest.mark.parametrize("known", [True, False])
    # Keras' way to say that it did not know how many there are.
    @pytest.mark.filterwarnings("ignore:Your input ran out of data")
    def test_a_dataset_of_one_s_own(self, known, tmp_path):
        train, valid = make_trial().split([0.8, 0.2], 1)
        batches = train.batches(300, drop_remainder=True)
        if not known:
            batches = batches.filter(lambda *_: True)
        options = {"validation_data": valid, "batch_size": None}
        whole = run(batches, make, **options)
        kill = KillAt("batch end", 5)
        assert run(batches, make, kill, directory=tmp_path, **options) is None
        assert_same(run(batches, make, directory=tmp_path, **options), whole)


class TestCallbacks:
    def callbacks(self, folder):
        return [
            Counts(),
            keras.callbacks.ReduceLROnPlateau("val_goal", mode="max", patience=1, min_delta=1.0),
            keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True),
            keras.callbacks.ModelCheckpoint(
                folder / "best.keras", "val_loss", mode="min", save_best_only=True
            ),
            keras.callbacks.CSVLogger(folder / "log.csv"),
        ]

    @pytest.mark.parametrize(
        ("event", "count"), [("batch end", 5), ("epoch end", 3), ("epoch begin", 4)]
    )
    def test_of_keras_and_of_anybody(self, event, count, data, tmp_path):
        options = {"epochs": 9, "warm_start": False}
        results, rows, counts = [], [], []
        for name, kills in (("whole", []), ("killed", [KillAt(event, count)])):
            folder = tmp_path / name
            folder.mkdir()
            for kill in [*kills, None]:
                callbacks = self.callbacks(folder)
                result = run(data, make, kill, folder / "kept", callbacks=callbacks, **options)
                callbacks[-1].csv_file.close()  # as the end of a process does
            results.append(result)
            counts.append(
                {
                    k: v
                    for k, v in vars(callbacks[0]).items()
                    if k in ("batches", "epochs", "losses")
                }
            )
            rows.append(list(csv.DictReader((folder / "log.csv").read_text().splitlines())))
        assert_same(*results)
        assert counts[0] == counts[1] and counts[0]["batches"] == STEPS * len(rows[0])
        assert rows[0] == rows[1] and len(rows[0]) < 9  # stopped early, after its rate was cut
        rates = results[0][1].history["learning_rate"]
        assert rates[-1] < rates[0]
        best = [
            keras.saving.load_model(tmp_path / name / "best.keras").get_weights()
            for name in ("whole", "killed")
        ]
        for a, b in zip(*best, strict=True):
            np.testing.assert_array_equal(a, b)

    def test_a_state_of_their_own(self, data, tmp_path):
        class Words(keras.callbacks.Callback):
            def __init__(self):
                super().__init__()
                self.words = ()

            def on_epoch_end(self, epoch, logs=None):
                self.words = (*self.words, f"epoch {epoch}")

            def get_state(self):
                return {"words": self.words}

            def set_state(self, state):
                self.words = state["words"]

        run(data, make, KillAt("batch end", 8), tmp_path, callbacks=[Words()])
        words = Words()
        run(data, make, None, tmp_path, callbacks=[words])
        assert words.words == tuple(f"epoch {epoch}" for epoch in range(2 * EPOCHS))


class TestFiles:
    def test_a_finished_run_is_not_run_again(self, data, whole, tmp_path):
        run(data, make, directory=tmp_path)
        assert_same(run(data, make, KillAt("epoch begin", 1), tmp_path), whole)

    def test_only_the_last_two_and_nothing_temporary(self, data, tmp_path):
        run(data, make, directory=tmp_path)
        assert len(os.listdir(tmp_path)) == 3
        assert json.loads((tmp_path / "run.json").read_text())["format"] == 1

    @pytest.mark.parametrize("damage", ["truncated", "empty", "flipped"])
    def test_a_damaged_state_gives_way_to_the_one_before(self, damage, data, whole, tmp_path):
        run(data, make, KillAt("batch end", 8), tmp_path)
        newest = max(tmp_path.glob("state-*.npz"))
        content = bytearray(newest.read_bytes())
        content[len(content) // 2] ^= 255
        damaged = {"truncated": content[:999], "empty": b"", "flipped": content}[damage]
        newest.write_bytes(bytes(damaged))
        with pytest.warns(UserWarning, match="is damaged"):
            resumed = run(data, make, directory=tmp_path)
        assert_same(resumed, whole)

    @pytest.mark.parametrize(
        ("named", "change"),
        [
            ("fit.batch_size", {"batch_size": 200}),
            ("fit.epochs", {"epochs": 5}),
            ("fit.warm_start", {"warm_start": False}),
            ("data.fingerprint", {"data": make_trial(seed=1)}),
            ("compile.optimizer.learning_rate", {"optimizer": keras.optimizers.Adam(0.01)}),
            ("compile.goal_weight", {"goal_weight": 2.0}),
            ("compile.gradients", {"gradient": Integrated(weight="drp")}),
            ("model.seed", {"seed": 7}),
        ],
    )
    def test_other_data_or_settings_are_refused(self, named, change, data, tmp_path):
        run(data, make, KillAt("batch end", 2), tmp_path)
        kept = sorted(os.listdir(tmp_path))
        compiled = {
            name: change.pop(name)
            for name in ("optimizer", "goal_weight", "gradient", "seed")
            if name in change
        }
        compiled = {"optimizer": keras.optimizers.Adam(0.03), "run_eagerly": True, **compiled}
        with pytest.raises(ValueError, match=rf"cannot resume .* {named}=.* start afresh"):
            run(change.pop("data", data), lambda: make_model(**compiled), None, tmp_path, **change)
        assert sorted(os.listdir(tmp_path)) == kept

    def test_another_format_is_refused(self, data, tmp_path):
        run(data, make, KillAt("batch end", 2), tmp_path)
        content = json.loads((tmp_path / "run.json").read_text())
        (tmp_path / "run.json").write_text(json.dumps({**content, "format": 99}))
        with pytest.raises(ValueError, match="format 99"):
            run(data, make, directory=tmp_path)

    def test_a_full_disk_does_not_end_training(self, data, whole, tmp_path, monkeypatch):
        write, calls = resume_module._write_whole, []

        def full(path, content):
            calls.append(path)
            if 5 <= len(calls) <= 8:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write(path, content)

        monkeypatch.setattr(resume_module, "_write_whole", full)
        kill = KillAt("batch end", 8)
        with pytest.warns(UserWarning, match="No space left on device") as said:
            assert run(data, make, kill, tmp_path) is None
        assert sum("No space left" in str(each.message) for each in said) == 1
        assert len(list(tmp_path.glob("state-*.npz"))) == 2
        assert_same(run(data, make, directory=tmp_path), whole)

    def test_a_kill_within_a_write_leaves_the_last_good_state(
        self, data, whole, tmp_path, monkeypatch
    ):
        replace, calls = os.replace, []

        def killed(source, target):
            calls.append(target)
            if len(calls) == 6:
                raise KilledError
            replace(source, target)

        monkeypatch.setattr(os, "replace", killed)
        assert run(data, make, directory=tmp_path) is None
        assert_same(run(data, make, directory=tmp_path), whole)
        assert len(os.listdir(tmp_path)) == 3

    def test_a_directory_that_cannot_be_written(self, data, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ValueError, match="cannot write checkpoints"):
            run(data, make, directory=tmp_path / "file" / "kept")

    @pytest.mark.parametrize("interval", [{"every_steps": 0}, {"every_seconds": float("nan")}])
    def test_intervals_out_of_range(self, interval):
        with pytest.raises(ValueError, match=f"{next(iter(interval))}=.*expected"):
            Checkpoint("kept", **interval)

    def test_trees_of_any_kind_come_back(self, tmp_path):
        half = np.array([1.5, -2.0]).astype(tf.bfloat16.as_numpy_dtype)
        state = {
            "x": half,
            "same": [half, np.float32(3), np.zeros((0, 2), np.int64)],
            3: ({}, (), [], None, True, float("nan"), -float("inf"), 0.1, "text"),
        }
        keep = Checkpoint(tmp_path)
        assert keep.open({"a": (1, 2)}) is None
        keep.save(state, 1)
        kept = Checkpoint(tmp_path).open({"a": [1, 2]})
        assert repr(kept) == repr({**state, "same": [half, np.array(3, "f4"), state["same"][2]]})
        assert kept["x"].dtype == half.dtype and kept["x"].tolist() == [1.5, -2.0]


def test_weights_that_are_not_finite_end_training(data, tmp_path):
    class Spoil(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if int(self.model.optimizer.iterations) == 7:
                self.model.trainable_variables[0].assign(self.model.trainable_variables[0] * np.nan)

    with pytest.warns(UserWarning, match="weights are not finite after epoch 2, step 2"):
        model, history = run(
            data, make, None, tmp_path, epochs=9, warm_start=False, callbacks=[Spoil()]
        )
    assert len(history.epoch) == 3
    assert all(np.isfinite(weights).all() for weights in model.get_weights())  # the best epoch's
    keep = max(tmp_path.glob("state-*.npz"))
    assert not resume_module._unpack(keep)["finished"]
