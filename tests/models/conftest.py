"""A small trial whose best treatment depends on one feature, and a small model for it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfalloc.data import RCTData
from tfalloc.gradients import GoalGradient
from tfalloc.models import AllocationModel


def make_trial(rows=1200, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3)).astype(np.float32)
    t = rng.integers(0, 2, rows)
    y = (rng.random(rows) < 0.2 + 0.3 * t * (x[:, 1] > 0)).astype(float)
    return RCTData({f"x{i}": x[:, i] for i in range(3)}, t, y, t * rng.uniform(0.5, 1.5, rows))


@keras.saving.register_keras_serializable(package="tests")
class Pull:
    """A gradient that costs nothing: more response and less cost, by the budget and the seed."""

    def __init__(self, size=1.0):
        self.size = size

    def __call__(self, v, c, treatment, response, cost, budget, propensity=None, seed=(0, 0)):
        noise = tf.random.stateless_uniform(tf.shape(v), seed)
        alpha = 0.5 * budget
        pull = self.size * budget * noise / tf.cast(tf.shape(v)[0], tf.float32)
        return GoalGradient(tf.reduce_mean(response), pull, -alpha * pull, alpha)

    def get_config(self):
        return {"size": self.size}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def make_model(seed=1, **options):
    model = AllocationModel(2, backbone="small", seed=seed)
    settings = {
        "goal_weight": 1.0,
        "budget": (0.2, 0.4),
        "gradient": Pull(),
        "validation_budgets": 0.3,
        "jit_compile": False,
        "run_eagerly": True,  # tracing takes longer than these few steps
    }
    model.compile(**{**settings, **options})
    return model


@pytest.fixture(scope="session")
def trial_of_two_arms():
    return make_trial()


@pytest.fixture
def model_of():
    """Call with arguments of `compile` (and `seed`)."""
    return make_model
