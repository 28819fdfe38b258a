"""Warnings name the line of the user's own file, whatever lies between."""

import warnings

import keras
import numpy as np
import pytest

from tfalloc import evaluation
from tfalloc._warn import warn


def files_of(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    # The package's own are plain UserWarnings; libraries have theirs, of other kinds.
    ours = {each.filename for each in caught if each.category is UserWarning}
    assert ours
    return ours


def test_called_from_outside():
    with pytest.warns(UserWarning, match="of this") as caught:
        warn("of this")
    assert caught[0].filename == __file__


def test_through_a_callback_of_keras():
    inside = {"warn": warn, "__name__": "tfalloc.models.phases"}
    exec("def on_epoch_end(self, epoch, logs=None): warn('of a callback')", inside)
    callback = type("Ours", (keras.callbacks.Callback,), {"on_epoch_end": inside["on_epoch_end"]})
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(loss="mse", run_eagerly=True)
    x = np.ones((4, 1))
    assert files_of(lambda: model.fit(x, x, verbose=0, callbacks=[callback()])) == {__file__}


RNG = np.random.default_rng(0)
V, C = RNG.random((2, 400, 2))
T = np.arange(400) // 5 % 2
DATA = {"treatment": T, "response": RNG.random(400) < 0.2 + 0.4 * T, "cost": 1.0 * T}
SCORE = V[:, 1] - V[:, 0]
FEW = {"cluster": np.arange(400) % 5}


@pytest.mark.parametrize(
    "call",
    [
        lambda: evaluation.policy_outcome(V, C, DATA, budget=0.3, **FEW),
        lambda: evaluation.outcome_curve(V, C, DATA, num_points=3, **FEW),
        lambda: evaluation.compare({"a": (V, C), "b": (C, V)}, DATA, budget=0.3, **FEW),
        lambda: evaluation.calibration(V, C, DATA, num_bins=2, **FEW),
        lambda: evaluation.qini(SCORE, DATA, num_bootstrap=20, **FEW),
        lambda: evaluation.aucc(SCORE, DATA, num_thresholds=10, num_bootstrap=20, **FEW),
    ],
)
def test_evaluation_at_any_depth(call):
    assert files_of(call) == {__file__}
