"""What is registered for Keras loads in a process that has imported `tfalloc` only."""

import json
import subprocess
import sys

import keras
import numpy as np

import tfalloc
from tfalloc import AllocationModel, RCTData, baselines
from tfalloc._keras_names import CLASSES
from tfalloc.baselines.direct import Upgrades
from tfalloc.models.encoding import PiecewiseLinear
from tfalloc.models.heads import Heads
from tfalloc.models.networks import ParallelHeads
from tfalloc.models.schedules import WarmUp

SHAPE = {"num_features": 3, "seed": 0}
LOADING = """
import json, sys
import tfalloc
import importlib.util
importlib.util.find_spec("keras")  # as libraries ask whether there is one
import keras
for config in json.load(sys.stdin):
    print(type(keras.saving.deserialize_keras_object(config)).__name__)
model = keras.saving.load_model(sys.argv[1])
print(model.predict({"x": [0.5], "place": ["b"]}, verbose=0)["response"].tolist())
"""


def test_every_class_loads_in_a_fresh_process(tmp_path):
    outcomes = {"response_head": "hurdle", "cost_head": "binary"}
    made = [
        Heads(3, "hurdle", "on_response", "marginal", True, [0, 1, 2]),
        PiecewiseLinear(4),
        ParallelHeads(4, seed=0),
        Upgrades(3, max_price=2.0),
        baselines.PolicyLearning(temperature=0.1),
        baselines.ImprovedFiniteDifference(prices=[0.1, 0.2]),
        baselines.DRP(3, **SHAPE),
        baselines.DirectRank(**SHAPE),
        baselines.DFCL(2, loss="mer", temperature=2.0, **outcomes, **SHAPE),
        WarmUp(1.0, steps=10),
    ]
    rng = np.random.default_rng(0)
    columns = {
        "x": np.where(rng.random(60) < 0.1, np.nan, rng.random(60)),
        "place": ["a", "b"] * 30,
    }
    arm = np.arange(60) % 2
    data = RCTData(columns, arm, rng.integers(0, 2, 60), arm * rng.random(60), missing="indicator")
    model = AllocationModel(2, "small", bins=4, heads="spline", seed=0)
    model.adapt(data)
    model.compile(gradient=baselines.PolicyLearning(prices=[0.5]), budget=1.0, goal_weight=1.0)
    model.save(tmp_path / "model.keras")
    done = subprocess.run(
        [sys.executable, "-c", LOADING, tmp_path / "model.keras"],
        input=json.dumps([keras.saving.serialize_keras_object(x) for x in made]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *names, predicted = done.stdout.splitlines()
    assert names == [type(x).__name__ for x in made]
    expected = model.predict({"x": [0.5], "place": ["b"]}, verbose=0)["response"]
    np.testing.assert_array_equal(json.loads(predicted), expected)
    for module in tfalloc._MODULES:
        getattr(tfalloc, module)
    registered = {name for name in keras.saving.get_custom_objects() if name.startswith("tfalloc>")}
    assert registered == {f"tfalloc>{name}" for names in CLASSES.values() for name in names}
    with_model = {"AllocationModel", *CLASSES["tfalloc.data.preprocessing"]}
    assert {*names, *with_model} == {name for each in CLASSES.values() for name in each}
