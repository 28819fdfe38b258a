"""Small trained models and their exports, shared by the tests of `tfalloc.export`."""

import numpy as np
import pytest
import tensorflow as tf

from tfalloc import export
from tfalloc.data import RCTData
from tfalloc.models import AllocationModel


def make_trial(rows=3000, arms=3, seed=0, strings=True, matrix=False):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3)).astype(np.float32)
    t = rng.choice(arms, rows, p=np.arange(arms, 0, -1) / np.arange(arms, 0, -1).sum())
    place = rng.choice(["town", "land", "é"], rows)
    rate = 1 / (1 + np.exp(2 - x[:, 0] - 0.6 * t * (x[:, 1] > 0) - (place == "town")))
    y = (rng.random(rows) < rate).astype(float)
    z = t * rng.random(rows) * np.exp(0.3 * x[:, 2])
    features = x if matrix else {f"x{i}": x[:, i] for i in range(3)}
    if strings and not matrix:
        features["place"] = place
    return RCTData(features, t, y, z)


def trained(data, epochs=3):
    model = AllocationModel(data.num_treatments, backbone="small", seed=1)
    model.compile(goal_weight=0.0, jit_compile=False)
    model.fit(data, batch_size=200, epochs=epochs, verbose=0)
    return model


def arguments(data, rows=None):
    """Inputs of the signatures for the first rows of a trial."""
    columns = {"features": data.features} if data.is_matrix else data.features
    return {
        name: tf.constant(
            list(column[:rows]) if column.dtype == object else column[:rows],
            tf.string if column.dtype == object else tf.float32,
        )
        for name, column in columns.items()
    }


class Exported:
    """A trial, a model, and its exports for both calibrations."""

    def __init__(self, directory):
        self.data = make_trial()
        self.model = trained(self.data)
        self.predicted = self.model.predict(self.data, verbose=0)
        self.path = {c: directory / c for c in ("predicted", "trial")}
        for calibration, path in self.path.items():
            export.save(self.model, path, population=self.data, calibration=calibration)
        self.loaded = {c: tf.saved_model.load(str(path)) for c, path in self.path.items()}
        self.arguments = arguments(self.data)

    def call(self, name, calibration="predicted", **policy):
        rows = len(self.data)
        policy = {k: tf.constant(np.broadcast_to(v, rows), tf.float32) for k, v in policy.items()}
        outputs = self.loaded[calibration].signatures[name](**self.arguments, **policy)
        return {key: value.numpy() for key, value in outputs.items()}


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    return Exported(tmp_path_factory.mktemp("exports"))
