"""Doubly robust training: no row is spoken of by a model that has seen it."""

import numpy as np
import pytest
import tensorflow as tf

import tfalloc
from tfalloc import gradients
from tfalloc.models.cross_fitting import CrossFitted, cross_fit, fold_of


def test_folds_are_even_and_the_same_compiled():
    matrix = tf.random.stateless_normal((20_000, 6), (1, 2))
    folds = fold_of(matrix, 4).numpy()
    counts = np.bincount(folds, minlength=4)
    assert np.all(np.abs(counts - 5_000) < 4 * np.sqrt(5_000))
    compiled = tf.function(lambda x: fold_of(x, 4), jit_compile=True)(matrix)
    np.testing.assert_array_equal(compiled, folds)
    # A row's fold is its own affair: not its neighbours', nor its place's.
    np.testing.assert_array_equal(fold_of(matrix[100:300], 4), folds[100:300])
    swapped = fold_of(tf.reverse(matrix, [1]), 4).numpy()
    assert 0.7 < np.mean(swapped != folds) < 0.8


class _Constant:
    """Speaks of every row with its own number, and notes the rows it was shown."""

    def __init__(self, number=None, log=None):
        self.number, self.log, self.seed = number, log, 0

    def two_stage_copy(self, seed):
        return _Constant(seed - 1, self.log)

    def fit(self, data, **options):
        for matrix, _, weight in data:
            self.log[self.number].append(matrix.numpy()[weight.numpy() > 0])

    def outcomes_of(self, matrix):
        column = tf.fill((tf.shape(matrix)[0], 2), float(self.number))
        return {"response": column, "cost": 10.0 * column}


def test_no_row_is_spoken_of_by_a_model_that_has_seen_it():
    matrix = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    log = {0: [], 1: [], 2: []}
    data = tf.data.Dataset.from_tensor_slices((matrix, {"y": matrix[:, 0]})).batch(100)
    found = cross_fit(_Constant(log=log), data, num_folds=3)
    response, cost = (x.numpy() for x in found(tf.constant(matrix)))
    np.testing.assert_array_equal(cost, 10 * response)
    seen = {k: {row.tobytes() for part in parts for row in part} for k, parts in log.items()}
    for row, speaker in zip(matrix, response[:, 0].astype(int), strict=True):
        assert row.tobytes() not in seen[speaker]
        assert all(row.tobytes() in rows for k, rows in seen.items() if k != speaker)


def compiled(gradient):
    model = tfalloc.AllocationModel(2, backbone="small", seed=0)
    model.compile(goal_weight=0.3, budget=0.5, gradient=gradient, run_eagerly=True)
    return model


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(1)
    n = 4_000
    x = rng.normal(size=(n, 2)).astype(np.float32)
    t = rng.integers(0, 2, n)
    y = (rng.random(n) < 0.3 + 0.3 * t * (x[:, 0] > 0)).astype(float)
    return tfalloc.RCTData(x, t, y, t * rng.uniform(0.5, 1.5, n))


@pytest.mark.parametrize("gradient", [gradients.Smoothed(), gradients.Integrated()])
def test_training_with_doubly_robust_outcomes(data, gradient):
    options = {"batch_size": 1_000, "epochs": 2, "verbose": 0}
    model, plain = compiled(gradient), compiled(gradient)
    model.fit(data, doubly_robust=True, **options)
    plain.fit(data, **options)
    assert isinstance(model._outcome_model, CrossFitted)
    pairs = list(zip(model.get_weights(), plain.get_weights(), strict=True))
    assert all(np.all(np.isfinite(a)) for a, _ in pairs)
    assert any(np.any(a != b) for a, b in pairs)
    # The copies are no part of the model: not trained with it, not saved with it.
    assert len(model.trainable_weights) == len(plain.trainable_weights)
    again = compiled(gradient)
    again.fit(data, doubly_robust=True, **options)
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_next_fit_is_plain_again(data, monkeypatch):
    model = compiled(gradients.Smoothed())
    options = {"batch_size": 1_000, "epochs": 1, "verbose": 0}
    model.fit(data, doubly_robust=True, **options)

    def called(*_):
        raise AssertionError("a plain fit asks no model of outcomes")

    monkeypatch.setattr(CrossFitted, "__call__", called)
    with pytest.raises(AssertionError, match="asks no model"):
        model.fit(data, doubly_robust=True, **options)
    model.fit(data, **options)


def test_gradients_without_use_for_a_model_are_refused(data):
    with pytest.raises(ValueError, match=r"gradients\.Smoothed"):
        compiled(gradients.FiniteDifference()).fit(data, doubly_robust=True, verbose=0)
