"""Every entry of the fast finite difference equals brute-force Eq. 8."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import algorithm1
from tests.oracles.trials import SmallTrial, believable_trial, random_trial
from tfalloc.gradients import FiniteDifference


def assert_equals_brute_force(trial, budget, *, alpha_max, iterations, h, h_cost, tolerance=0.0):
    """Same zeros, same values: the only tolerance is the division by 2h in another order."""
    expected = algorithm1.finite_difference(
        *trial.lists(), budget, alpha_max, iterations, h, h_cost, tolerance
    )
    result = FiniteDifference(
        step=h,
        step_cost=h_cost,
        alpha_max=alpha_max,
        max_iterations=iterations,
        tolerance=tolerance,
    )(*trial.tensors(), budget, propensity=1 / trial.w)
    for fast, slow in zip((result.d_response, result.d_cost), expected, strict=True):
        np.testing.assert_array_equal(fast.numpy() != 0, np.abs(slow) > 1e-9)
        np.testing.assert_allclose(fast, slow, rtol=1e-9, atol=1e-9)
    value, alpha = algorithm1.solve(*trial.lists(), budget, alpha_max, iterations, tolerance)[:2]
    np.testing.assert_allclose(result.goal, value, atol=1e-12)
    assert float(result.alpha) == alpha
    return np.count_nonzero(expected)


@pytest.mark.parametrize("block", range(4))
def test_every_entry_equals_brute_force(block):
    rng = np.random.default_rng(block)
    nonzero = 0
    for case in range(60):
        trial = random_trial(rng, dyadic=case % 2 == 0)
        nonzero += assert_equals_brute_force(
            trial,
            float(rng.choice([0.0, 0.25, 0.5, 0.75])),
            alpha_max=float(rng.choice([0.5, 1.0, 2.0])),
            iterations=int(rng.integers(1, 12)),
            h=float(rng.choice([1 / 8, 1 / 16] if trial.dyadic else [3e-4, 0.05, 0.2])),
            h_cost=float(rng.choice([1 / 4, 1 / 8] if trial.dyadic else [3e-4, 0.1])),
            tolerance=float(rng.choice([0.0, 0.0, 0.125])),
        )
    assert nonzero > 30


eighths = st.integers(0, 8).map(lambda n: n / 8)


@st.composite
def dyadic_trials(draw):
    rows, arms = draw(st.integers(1, 7)), draw(st.integers(1, 4))
    matrix = st.lists(st.lists(eighths, min_size=arms, max_size=arms), min_size=rows, max_size=rows)
    column = st.lists(eighths, min_size=rows, max_size=rows)
    return SmallTrial(
        v=np.array(draw(matrix)),
        c=np.array(draw(matrix)),
        t=np.array(draw(st.lists(st.integers(0, arms - 1), min_size=rows, max_size=rows))),
        y=np.array(draw(column)),
        z=np.array(draw(column)),
        w=np.array(draw(st.lists(st.sampled_from([1.0, 2.0]), min_size=rows, max_size=rows))),
        dyadic=True,
    )


@settings(max_examples=300)
@given(dyadic_trials(), eighths, st.sampled_from([0.5, 1.0, 4.0]), st.integers(1, 8), eighths)
def test_every_entry_equals_brute_force_on_ties(trial, budget, alpha_max, iterations, h):
    h = max(h, 1 / 16)
    assert_equals_brute_force(
        trial, budget, alpha_max=alpha_max, iterations=iterations, h=h, h_cost=h / 2
    )


def test_larger_batch_with_several_chunks():
    """More open probes than one chunk holds: coarse steps on nearly equal rows."""
    rng = np.random.default_rng(0)
    trial = believable_trial(rng, rows=900, arms=2)
    trial.v[:] = np.array([0.1, 0.3]) + 1e-3 * rng.random((900, 2))
    trial.c[:] = np.array([0.1, 0.9]) + 1e-3 * rng.random((900, 2))
    trial.z[:] = trial.c[np.arange(900), trial.t]
    gradient = FiniteDifference(step=0.01, alpha_max=1.0, max_iterations=12)
    result = gradient(*trial.tensors(), 0.5)
    assert np.count_nonzero(result.d_response) > 1000
    rows = rng.choice(900, 12, replace=False)
    for i in rows:
        for j in range(2):
            q = []
            for sign in (1, -1):
                v = trial.v.copy()
                v[i, j] += sign * 0.01
                q.append(_vectorised_q(v, trial, 0.5, 1.0, 12))
            np.testing.assert_allclose(
                result.d_response[i, j], (q[0] - q[1]) / 0.02, rtol=1e-9, atol=1e-9
            )


def _vectorised_q(v, trial, budget, alpha_max, iterations):
    low, high = 0.0, alpha_max
    for _ in range(iterations):
        alpha = (low + high) / 2
        s = np.argmax(v - alpha * trial.c, axis=1) == trial.t
        if s.any() and math.fsum(trial.z[s] - budget) > 0:
            low = alpha
        else:
            high = alpha
    return np.mean(trial.y[s])


def test_mask_keeps_the_same_entries_and_zeros_elsewhere():
    rng = np.random.default_rng(1)
    trial = believable_trial(rng, rows=300, arms=3)
    full = FiniteDifference(step=0.02)(*trial.tensors(), 0.25)
    masked = FiniteDifference(step=0.02, num_entries=450)(*trial.tensors(), 0.25, seed=(1, 2))
    for whole, part in ((full.d_response, masked.d_response), (full.d_cost, masked.d_cost)):
        kept = part.numpy() != 0
        np.testing.assert_array_equal(part.numpy()[kept], whole.numpy()[kept])
        nonzero = np.count_nonzero(whole)
        # Hypergeometric: half the entries are kept; 4 standard errors.
        assert abs(kept.sum() - nonzero / 2) < 4 * 0.5 * np.sqrt(nonzero)
    every = FiniteDifference(step=0.02, num_entries=10**6)(*trial.tensors(), 0.25, seed=(1, 2))
    np.testing.assert_array_equal(every.d_cost, full.d_cost)


def test_exactly_num_entries_are_drawn():
    from tfalloc.gradients.finite_difference import _mask

    mask = _mask(tf.constant([50, 3]), 40, (3, 4)).numpy()
    v, c = mask
    assert v.sum() == 40 and c.sum() == 40
    assert np.any(v != c)
    np.testing.assert_array_equal(mask, _mask(tf.constant([50, 3]), 40, (3, 4)))


def test_empty_matched_set_gives_zero_gradient():
    v, c = np.array([[0.1, 0.9]] * 3), np.array([[0.0, 0.1]] * 3)
    result = FiniteDifference(alpha_max=1.0)(v, c, [0, 0, 0], np.ones(3), np.zeros(3), 1.0)
    assert math.isnan(float(result.goal))
    assert not np.any(result.d_response) and not np.any(result.d_cost)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": 0.0}, "needs a step above 0"),
        ({"step_cost": -1.0}, "needs a step above 0"),
        ({"num_entries": 0}, "positive number of entries"),
        ({"alpha_max": math.inf}, "positive, finite shadow price"),
        ({"max_iterations": 25}, "expected 1 to 24 halvings"),
        ({"tolerance": -0.1}, "not negative"),
    ],
)
def test_messages(arguments, message):
    with pytest.raises(ValueError, match=message):
        FiniteDifference(**arguments)


def test_mask_needs_a_seed():
    with pytest.raises(ValueError, match=r"pass seed=\(a, b\)"):
        FiniteDifference(num_entries=2)([[0.1, 0.2]], [[0.0, 1.0]], [0], [1.0], [0.0], 0.5)


def test_mask_is_the_same_with_and_without_xla_for_a_seed_that_is_a_tensor():
    from tfalloc.gradients.finite_difference import _mask

    seed = tf.constant([3, 4])
    plain = _mask(tf.constant([50, 3]), 40, seed)
    compiled = tf.function(lambda s: _mask(tf.constant([50, 3]), 40, s), jit_compile=True)(seed)
    np.testing.assert_array_equal(plain, compiled)


@pytest.mark.parametrize("chunk", [2, 3, 7])
def test_chunks_cut_between_the_two_probes_of_an_entry(chunk, monkeypatch):
    from tfalloc.gradients import finite_difference

    trial = random_trial(np.random.default_rng(8), dyadic=False, rows=150, arms=3)
    gradient = FiniteDifference(step=0.1, alpha_max=2.0)
    whole = tf.function(gradient)(*trial.tensors(), 0.4)
    assert np.count_nonzero(whole.d_response) > 3 * chunk
    monkeypatch.setattr(finite_difference, "_CHUNK", chunk)
    cut = tf.function(gradient)(*trial.tensors(), 0.4)  # as a graph: eager loops are slow
    np.testing.assert_array_equal(cut.d_response, whole.d_response)
    np.testing.assert_array_equal(cut.d_cost, whole.d_cost)
