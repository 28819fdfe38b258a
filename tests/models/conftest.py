"""A small trial whose best treatment depends on one feature, and a small model for it."""

import numpy as np
import pytest

from tfalloc.data import RCTData
from tfalloc.gradients import Integrated
from tfalloc.models import AllocationModel


def make_trial(rows=1200, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3)).astype(np.float32)
    t = rng.integers(0, 2, rows)
    y = (rng.random(rows) < 0.2 + 0.3 * t * (x[:, 1] > 0)).astype(float)
    return RCTData({f"x{i}": x[:, i] for i in range(3)}, t, y, t * rng.uniform(0.5, 1.5, rows))


def make_model(seed=1, **options):
    model = AllocationModel(2, backbone="small", seed=seed)
    settings = {
        "goal_weight": 1.0,
        "budget": (0.2, 0.4),
        "gradient": Integrated(),
        "jit_compile": False,
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
