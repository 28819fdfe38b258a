"""Trainings that must not depend on the number of devices; as a program, on two logical CPUs.

python -m tests.models.replica_trainings prints {name: what the training gave} as JSON.
"""

import json
import sys
import traceback

import keras
import numpy as np
import tensorflow as tf

from tests.models.conftest import make_trial
from tfalloc.data import RCTData
from tfalloc.gradients import FiniteDifference, Integrated, Smoothed
from tfalloc.models import AllocationModel

DEVICES = ("CPU:0", "CPU:1")


def skewed_trial(rows=603):
    """Unequal propensities and weights, in an order in which halves of a batch differ much."""
    rng = np.random.default_rng(3)
    x = np.sort(rng.normal(size=(rows, 3)), axis=0).astype("f4")
    t = (rng.random(rows) < 0.3).astype(int)
    y = (rng.random(rows) < 0.2 + 0.3 * t * (x[:, 1] > 0)).astype(float)
    return RCTData(
        x,
        t,
        y,
        t * rng.uniform(0.5, 1.5, rows),
        propensity=np.where(t, 0.3, 0.7),
        sample_weight=np.linspace(0.5, 3.0, rows),
    )


def regularised_backbone():
    start = keras.initializers.HeNormal(0)
    return keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(8, "relu", kernel_initializer=start, kernel_regularizer="l2"),
            keras.layers.BatchNormalization(
                synchronized=tf.distribute.get_strategy().num_replicas_in_sync > 1
            ),
        ]
    )


def several_gradients(strategy):
    """Of a regularised backbone, several steps at once, in both phases of a warm start."""
    gradient = [(1.0, Smoothed(temperature=0.1)), (0.5, Integrated())]
    options = {"gradient": gradient, "steps_per_execution": 2}
    return train(strategy, make_trial(400), options, regularised_backbone, warm_start=True)


def compiled(strategy):
    return train(strategy, make_trial(400), {"gradient": Integrated(), "jit_compile": True})


def finite_differences_on_paper_scale(strategy):
    """Not compiled: differently rounded predictions may move an entry from 0 to 1 / (n h)."""
    options = {"gradient": FiniteDifference(), "goal_scale": "paper", "goal_weight": 0.002}
    return train(strategy, make_trial(600), options)


def weighted_with_odd_batches(strategy):
    options = {"gradient": Integrated()}
    return train(strategy, skewed_trial(), options, batch_size=201, warm_start=True, shuffle=False)


def doubly_robust_with_a_last_batch_of_one_row(strategy):
    data = skewed_trial(401)
    batches = data.batches(200, shuffle=False)
    options = {"gradient": [Smoothed(temperature=0.1), Integrated()]}
    return train(strategy, data, options, fit_on=batches, doubly_robust=True)


TRAININGS = {
    training.__name__: training
    for training in (
        several_gradients,
        compiled,
        finite_differences_on_paper_scale,
        weighted_with_odd_batches,
        doubly_robust_with_a_last_batch_of_one_row,
    )
}


def train(strategy, data, options, backbone=None, fit_on=None, epochs=1, batch_size=200, **fit):
    """Everything that a training leaves behind, as lists."""
    settings = {"goal_weight": 1.0, "budget": (0.2, 0.4), "jit_compile": False, **options}
    with strategy.scope():
        model = AllocationModel(2, backbone=backbone() if backbone else "small", seed=1)
        # Plain descent: Adam turns rounding of gradients near 0 into whole steps.
        model.compile(keras.optimizers.SGD(0.05, momentum=0.5), **settings)
    if fit_on is None:
        fit = {"validation_data": data, "batch_size": batch_size, **fit}
    else:
        fit = {"validation_data": data, **fit}
    history = model.fit(data if fit_on is None else fit_on, epochs=epochs, verbose=0, **fit).history
    norms = [v.numpy().tolist() for v in model._norms.variables]
    predictions = model.predict(data.take(range(101)), batch_size=50, verbose=0)
    return {
        "history": history,
        "weights": [w.tolist() for w in model.get_weights()],
        "norms": norms,
        "predictions": {name: x.tolist() for name, x in predictions.items()},
    }


def main():
    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = [tf.config.LogicalDeviceConfiguration()] * len(DEVICES)
    tf.config.set_logical_device_configuration(cpu, logical)
    strategy = tf.distribute.MirroredStrategy(DEVICES)
    results = {}
    for name, training in TRAININGS.items():
        try:
            results[name] = training(strategy)
        except Exception:
            results[name] = {"error": traceback.format_exc()}
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
