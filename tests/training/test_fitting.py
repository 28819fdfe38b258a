"""Which epoch's weights `tfalloc train` leaves, also when training breaks."""

import json

import keras
import numpy as np
import pytest

from tests.workspace import COLUMNS, QUICK, invoke, make_frame
from tfalloc.data import RCTData
from tfalloc.training import Recipe, Run, fit, held_out, pipeline, train
from tfalloc.training import plots as training_plots
from tfalloc.training.fitting import best_epoch

PLAIN = [*COLUMNS, *QUICK, "--no-warm-start", "--goal-weight", 0, "--budget", 0.5]


class Spoils(keras.callbacks.TerminateOnNaN):
    """Makes a weight NaN in the second epoch, of three steps."""

    def on_train_batch_begin(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 4:
            bias = self.model.trainable_variables[-1]
            bias.assign(bias * np.nan)


def test_nan_after_a_good_epoch_leaves_its_model(workspace, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.callbacks, "TerminateOnNaN", Spoils)
    run = tmp_path / "run"
    command = ["train", workspace.trial, *PLAIN, "--epochs", 9]
    result = invoke(*command, "--output", run)
    assert result.code == 0, result.err
    said = " ".join(result.err.split())
    assert "stopped being finite in epoch 2; the model is that of epoch 1." in said
    assert "no epoch had" not in said
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["epochs_run"], metrics["best_epoch"]) == (2, 1)
    assert all(np.isfinite(each).all() for each in Run.read(run).model().get_weights())
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_nan_from_the_start_leaves_nothing(workspace, tmp_path):
    options = ["--learning-rate", 1e30, "--output", tmp_path / "run"]
    result = invoke("train", workspace.trial, *PLAIN, *options)
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith("error: training diverged")
    # Nothing to go on from: the same command would end in the same way.
    assert "the same command goes on" not in result.err and not any(tmp_path.iterdir())


@pytest.mark.parametrize(("goal_weight", "epochs"), [(0.0, 8), (0.3, 7)])  # the last is not best
def test_the_best_epoch_is_kept_where_nothing_stops_early(goal_weight, epochs):
    frame = make_frame()
    data = RCTData.from_frame(
        frame, treatment="arm", response="bought", cost="spent", features=["x", "noise"]
    )
    recipe = Recipe(
        budget=0.5,
        goal_weight=goal_weight,
        gradient="integrated",
        warm_start=False,
        backbone="small",
        batch_size=300,
        epochs=epochs,
        learning_rate=0.1,
        patience=0,
        jit=False,
    )
    model, history = fit(data, recipe)
    best = best_epoch(history)
    assert len(history) == epochs and best["epoch"] < epochs
    judged = model.evaluate(data.split([0.8, 0.2], recipe.seed)[1], return_dict=True)
    assert judged["loss"] == pytest.approx(best["val_loss"], rel=1e-5)
    assert judged["goal"] == pytest.approx(best["val_goal"], rel=1e-5)


def test_the_first_phase_of_a_warm_start_is_the_two_stage_model(tmp_path, monkeypatch):
    data = RCTData.from_frame(
        make_frame(), treatment="arm", response="bought", cost="spent", features=["x", "noise"]
    )
    recipe = Recipe(
        budget=0.5, gradient="integrated", backbone="small", batch_size=300, epochs=3, jit=False,
        learning_rate=0.03, compare_two_stage=True,
    )  # fmt: skip
    calls, kept = [], []
    monkeypatch.setattr(pipeline, "fit", lambda *a, **k: calls.append(a[1]) or fit(*a, **k))
    predict = held_out.predict
    monkeypatch.setattr(held_out, "predict", lambda *a: kept.append(a[1]) or predict(*a))
    trained = train(data, recipe, tmp_path / "run")
    assert calls == [recipe] and len(trained.versus_two_stage) == 1  # and no second training
    alone, _ = fit(data.split([0.8, 0.2], 0)[0], recipe.two_stage())
    for mine, theirs in zip(kept[0]["two-stage model"], alone.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_the_model_outlives_its_evaluation_and_its_plots(workspace, tmp_path, monkeypatch):
    def refuses(*arguments, **options):
        raise ValueError("odd $label$ of $5")

    monkeypatch.setattr(held_out, "compare", refuses)
    monkeypatch.setattr(training_plots, "plot_training", refuses)
    result = invoke("train", workspace.trial, *PLAIN, "--output", tmp_path / "run")
    assert result.code == 0, result.err
    said = " ".join(result.err.split())
    assert "no evaluation, for the held-out rows do not allow it: odd" in said
    assert "no training.png (ValueError: odd $label$ of $5)" in said
    run = Run.read(tmp_path / "run")
    assert run.model().num_treatments == 2
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["outcomes"] == [] and metrics["error"] and metrics["epochs_run"] == 2
