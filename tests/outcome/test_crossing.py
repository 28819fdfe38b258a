"""The two searches for the smallest alpha above which the cost never exceeds the budget agree."""

import numpy as np
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles.trials import believable_trial
from tfalloc import outcome
from tfalloc.outcome.crossing import first_within, last_above, most_from_here_on

costs = st.lists(st.integers(0, 4) | st.just(np.nan), min_size=1, max_size=9)


@given(costs, st.integers(-1, 4))
def test_no_later_interval_is_above_the_budget(cost, budget):
    first = first_within(cost, budget)
    assert not np.any(np.asarray(cost[first:]) > budget)
    assert first == 0 or cost[first - 1] > budget
    # The majorant says the same of every budget.
    majorant = most_from_here_on(cost)
    assert np.all(majorant[1:] <= majorant[:-1])
    assert first == np.count_nonzero(majorant > budget)


def test_tensorflow_and_numpy_find_the_same_alpha():
    trial = believable_trial(np.random.default_rng(0), rows=300, arms=3)
    line = outcome.curve(*trial.tensors())
    last, entry = last_above(tf.stack([line.cost > b for b in np.linspace(-0.1, 2, 50)], axis=1))
    alphas = line.alpha.numpy()
    for n, budget in enumerate(np.linspace(-0.1, 2, 50)):
        # NumPy looks at the open intervals only: every second entry.
        between = first_within(line.cost.numpy()[1::2], budget)
        if between == alphas.size // 2:
            assert int(last[n]) == alphas.size - 1
        else:
            assert alphas[int(entry[n])] == alphas[1::2][between]
    path = outcome.expected_outcome(*trial.tensors(), budget=0.3, method="path")
    assert float(path.alpha) == alphas[1::2][first_within(line.cost.numpy()[1::2], 0.3)]
    crossings = np.diff((line.cost.numpy() > 0.3).astype(int))
    assert int(path.num_crossings) == np.count_nonzero(crossings) > 1
