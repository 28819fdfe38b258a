"""Every entry of the fast finite difference equals brute-force Eq. 8."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import algorithm1
from tests.oracles.trials import SmallTrial, believable_trial, compiled, random_trial
from tfalloc.gradients import FiniteDifference


def solver(**settings):
    """Compares one setting's compiled gradient with brute force: same zeros, same values."""
    gradient = FiniteDifference(**settings)
    graph = compiled(lambda *a: gradient(*a[:5], a[6], propensity=a[5]))
    alpha_max, iterations = gradient.alpha_max, gradient.max_iterations

    def check(trial, budget):
        expected = algorithm1.finite_difference(
            *trial.lists(),
            budget,
            alpha_max,
            iterations,
            gradient.step,
            gradient.step_cost,
            gradient.tolerance,
        )
        result = graph(trial, budget)
        for fast, slow in zip((result.d_response, result.d_cost), expected, strict=True):
            np.testing.assert_array_equal(fast.numpy() != 0, np.abs(slow) > 1e-9)
            # The only tolerance is the division by 2h in another order.
            np.testing.assert_allclose(fast, slow, rtol=1e-9, atol=1e-9)
        value, alpha = algorithm1.solve(
            *trial.lists(), budget, alpha_max, iterations, gradient.tolerance
        )[:2]
        np.testing.assert_allclose(result.goal, value, atol=1e-12)
        assert float(result.alpha) == alpha
        return np.count_nonzero(expected)

    return check


@pytest.mark.parametrize(
    ("dyadic", "iterations", "step", "step_cost", "tolerance"),
    [
        (True, 1, 1 / 8, 1 / 4, 0.0),
        (True, 7, 1 / 16, 1 / 4, 0.125),
        (False, 9, 0.05, 3e-4, 0.125),
        (False, 11, 3e-4, 0.1, 0.0),
    ],
)
def test_every_entry_equals_brute_force(dyadic, iterations, step, step_cost, tolerance):
    """Eq. 8 for every entry of v and c, each of its two Q solved by Algorithm 1 anew."""
    rng = np.random.default_rng(iterations)
    check = solver(
        step=step,
        step_cost=step_cost,
        alpha_max=1.0,
        max_iterations=iterations,
        tolerance=tolerance,
    )
    nonzero = 0
    for _ in range(20):
        rows, arms = int(rng.integers(1, 10)), int(rng.integers(1, 5))
        trial = random_trial(rng, dyadic=dyadic, rows=rows, arms=arms)
        nonzero += check(trial, float(rng.choice([0.0, 0.25, 0.5, 0.75])))
    assert nonzero > 3


eighths = st.integers(0, 8).map(lambda n: n / 8)


@st.composite
def dyadic_trials(draw):
    rows, arms = draw(st.integers(1, 6)), draw(st.integers(1, 4))
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


TIES = [
    solver(step=h, step_cost=h / 2, alpha_max=alpha_max, max_iterations=iterations)
    for h, alpha_max, iterations in ((1 / 8, 1.0, 6), (1 / 4, 4.0, 8))
]


@settings(max_examples=50)
@given(dyadic_trials(), eighths, st.sampled_from(TIES))
def test_every_entry_equals_brute_force_on_ties(trial, budget, check):
    check(trial, budget)


def test_larger_batch_with_several_chunks():
    """More open probes than one chunk holds: coarse steps on nearly equal rows."""
    rng = np.random.default_rng(0)
    trial = believable_trial(rng, rows=900, arms=2)
    trial.v[:] = np.array([0.1, 0.3]) + 1e-3 * rng.random((900, 2))
    trial.c[:] = np.array([0.1, 0.9]) + 1e-3 * rng.random((900, 2))
    trial.z[:] = trial.c[np.arange(900), trial.t]
    gradient = FiniteDifference(step=0.01, alpha_max=1.0, max_iterations=12)
    result = tf.function(gradient)(*trial.tensors(), 0.5)
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


def test_mask_differentiates_num_entries_and_leaves_the_others_at_zero():
    """Section 3.4.1: F' entries of v and of c, drawn anew for each seed, all others 0."""
    from tfalloc.gradients.finite_difference import _mask

    trial = believable_trial(np.random.default_rng(1), rows=300, arms=3)
    whole = FiniteDifference(step=0.02)(*trial.tensors(), 0.25)
    whole = np.stack([whole.d_response, whole.d_cost])
    masks = []
    for seed in ((1, 2), (1, 3)):
        mask = _mask(tf.constant([300, 3]), 450, seed).numpy()
        assert mask.sum(axis=(1, 2)).tolist() == [450, 450] and np.any(mask[0] != mask[1])
        part = FiniteDifference(step=0.02, num_entries=450)(*trial.tensors(), 0.25, seed=seed)
        np.testing.assert_array_equal([part.d_response, part.d_cost], np.where(mask, whole, 0.0))
        masks.append(mask)
    assert np.any(masks[0] != masks[1])
    every = FiniteDifference(step=0.02, num_entries=10**6)(*trial.tensors(), 0.25, seed=(1, 2))
    np.testing.assert_array_equal([every.d_response, every.d_cost], whole)


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


@pytest.mark.parametrize("chunk", [3])
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
