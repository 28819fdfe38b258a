"""Rows live as long as batches of them may be asked for, and no longer."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf

from tfalloc.data import RCTData
from tfalloc.models import AllocationModel

ROWS = 60_000


def make_trial(rows=ROWS):
    """A trial whose first feature is the row's number."""
    arm = np.arange(rows) % 2
    columns = {"x": np.arange(rows, dtype=np.float32)}
    return RCTData(columns, arm, np.arange(rows) % 5 == 0, 0.5 * arm)


def rows_of(batches):
    """The row numbers of (features, targets), in order."""
    return np.concatenate([features["x"] for features, _ in batches])


DERIVED = {
    "itself": lambda batches: batches,
    "mapped": lambda batches: batches.map(lambda *batch: batch).prefetch(1),
    "taken": lambda batches: batches.take(9).skip(1),
    "zipped": lambda batches: tf.data.Dataset.zip(batches, tf.data.Dataset.range(9)).map(
        lambda batch, _: batch
    ),
    "options": lambda batches: batches.with_options(tf.data.Options()),
    "distributed": lambda batches: tf.distribute.MirroredStrategy(
        ["CPU:0"]
    ).experimental_distribute_dataset(batches),
}


@pytest.mark.parametrize("derive", DERIVED.values(), ids=DERIVED)
def test_batches_outlive_the_trial_and_their_own_dataset(derive):
    expected = rows_of(derive(make_trial().batches(20_000)))
    derived = derive(make_trial().batches(20_000))
    gc.collect()
    np.testing.assert_array_equal(rows_of(derived), expected)
    iterator = iter(derived)
    del derived
    gc.collect()
    np.testing.assert_array_equal(rows_of(iterator), expected)


@pytest.mark.parametrize("consumed", [0, 1, 3])
def test_rows_go_with_the_last_who_may_ask_for_them(consumed):
    data = make_trial()
    source = weakref.ref(data._source)
    iterator = iter(data.batches(20_000, repeat=True))
    for _ in range(consumed):
        next(iterator)
    del data
    gc.collect()
    assert source() is not None
    del iterator
    gc.collect()
    assert source() is None


def test_rows_go_after_training():
    def train():
        data = make_trial()
        model = AllocationModel(2, backbone=(4,), seed=0)
        model.compile(
            goal_weight=0.0, jit_compile=False
        )  # whatever the objective, batches come the same way
        model.fit(data, batch_size=20_000, epochs=2, verbose=0)
        model.predict(data, verbose=0)
        model.evaluate(data, verbose=0)
        return model, weakref.ref(data._source), weakref.ref(data)

    model, *kept = train()
    gc.collect()
    assert [ref() for ref in kept] == [None, None]
    assert model.built
