"""NES: single values equal Algorithm 1, the mean equals the gradient of the smoothed objective."""

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
import tensorflow as tf

from tests.oracles import algorithm1
from tests.oracles.trials import SmallTrial, believable_trial, random_trial
from tfalloc.gradients import NES, FiniteDifference, antithetic_normals, nes
from tfalloc.outcome import expected_outcome
from tfalloc.outcome.algorithm1 import make_grid
from tfalloc.outcome.batch import as_batch
from tfalloc.outcome.fixed_point import exact_terms


def directions(shape, first, number, seed=(1, 2)):
    return antithetic_normals.Stream(tf.constant(shape), tf.constant(seed)).directions(
        tf.constant(first), tf.constant(number)
    )


def problem_of(trial, budget, alpha_max, iterations, tolerance=0.0):
    data = as_batch(*trial.tensors(), propensity=tf.constant(1 / trial.w))
    terms = exact_terms(data, tf.constant(budget, tf.float64))
    grid = make_grid(tf.constant(alpha_max, tf.float64), iterations)
    return nes._Problem(data, terms, grid, tolerance)


# --- the values of Q ---------------------------------------------------------------------------


@pytest.mark.parametrize("dyadic", [True, False])
def test_every_value_is_that_of_algorithm_1_on_the_perturbed_predictions(dyadic):
    """Dyadic noise on dyadic trials makes ties, equal costs and exact hits of the budget."""
    rng = np.random.default_rng(int(dyadic))
    empty = converged = 0
    for _ in range(15):
        trial = random_trial(rng, dyadic=dyadic)
        rows, arms = trial.v.shape
        alpha_max, iterations = float(rng.choice([0.5, 1.0, 2.0])), int(rng.integers(1, 12))
        budget, tolerance = float(rng.choice([0.0, 0.25, 0.5])), float(rng.choice([0.0, 0.125]))
        problem = problem_of(trial, budget, alpha_max, iterations, tolerance)
        if dyadic:
            e, d = rng.integers(-2, 3, (2, 3, arms, rows)).astype(np.float32)
        else:
            e, d = (x.numpy() for x in directions((arms, rows), 0, 3))
        signs = np.array([1.0, -1.0])[:, None, None]
        q, run = problem.solve(
            nes._Noise(tf.constant(e), tf.constant(signs / 8)),
            nes._Noise(tf.constant(d), tf.constant(signs / 4)),
        )
        alpha = problem.grid.alpha(run.tick).numpy()
        for s, n in itertools.product(range(2), range(3)):
            v = trial.v + signs[s] / 8 * problem.restore(tf.constant(e[n])).numpy()
            c = trial.c + signs[s] / 4 * problem.restore(tf.constant(d[n])).numpy()
            value, price, _, matched, hit = algorithm1.solve(
                v.tolist(), c.tolist(), *trial.lists()[2:], budget, alpha_max, iterations, tolerance
            )
            assert alpha[s, n] == price
            np.testing.assert_allclose(q[s, n], value, rtol=0, atol=1e-12)
            empty, converged = empty + (matched == 0), converged + hit
    if dyadic:
        assert empty and converged


def test_values_and_alphas_equal_expected_outcome():
    trial = believable_trial(np.random.default_rng(2), rows=200, arms=4)
    problem = problem_of(trial, 0.25, 2.0, 18)
    e, d = directions((4, 200), 0, 6)
    signs = tf.constant([1.0, -1.0], tf.float64)[:, None, None]
    q, run = problem.solve(nes._Noise(e, 0.02 * signs), nes._Noise(d, 0.01 * signs))
    alpha = problem.grid.alpha(run.tick)
    assert len(np.unique(alpha)) > 6
    for s, n in itertools.product(range(2), range(6)):
        sign = signs[s, 0, 0]
        expected = expected_outcome(
            trial.v + 0.02 * sign * problem.restore(tf.cast(e[n], tf.float64)),
            trial.c + 0.01 * sign * problem.restore(tf.cast(d[n], tf.float64)),
            *trial.tensors()[2:],
            budget=0.25,
            alpha_max=2.0,
        )
        assert float(alpha[s, n]) == float(expected.alpha)
        np.testing.assert_allclose(q[s, n], expected.response, rtol=1e-14)


def test_goal_and_alpha_are_those_of_the_unperturbed_problem():
    trial = believable_trial(np.random.default_rng(3), rows=150, arms=3)
    result = NES(num_directions=2)(*trial.tensors(), 0.25, seed=(0, 0))
    exact = FiniteDifference()(*trial.tensors(), 0.25)
    assert float(result.goal) == float(exact.goal)
    assert float(result.alpha) == float(exact.alpha)


@pytest.mark.parametrize("arms", [1, 2, 5])
def test_received_arm_goes_to_the_front_and_back(arms):
    trial = random_trial(np.random.default_rng(4), dyadic=False, rows=20, arms=arms)
    problem = problem_of(trial, 0.5, 1.0, 4)
    np.testing.assert_array_equal(problem.pred_response[0], trial.v[np.arange(20), trial.t])
    np.testing.assert_array_equal(problem.restore(problem.pred_response), trial.v)
    np.testing.assert_array_equal(problem.restore(problem.pred_cost), trial.c)


# --- the directions ----------------------------------------------------------------------------


def test_quantiles_are_a_standard_normal():
    levels = antithetic_normals.normal_quantiles().astype(np.float64)
    assert levels.mean() == 0.0
    assert abs(np.mean(levels**2) - 1.0) < 1e-7
    assert abs(np.mean(levels**4) - 3.0) < 0.01
    ranks = np.arange(100, levels.size - 100, 997)
    exact = [NormalDist().inv_cdf((k + 0.5) / levels.size) for k in ranks]
    np.testing.assert_allclose(levels[ranks], exact, atol=1e-3)
    assert np.all(np.diff(levels) > 0)


@pytest.mark.parametrize("shape", [(2, 8), (3, 5), (1, 1)])
def test_pair_n_is_the_same_in_any_chunk_and_under_xla(shape):
    e, d = directions(shape, 0, 9)
    for first, number in ((0, 4), (4, 5), (8, 1)):
        part = directions(shape, first, number)
        np.testing.assert_array_equal(part[0], e[first : first + number])
        np.testing.assert_array_equal(part[1], d[first : first + number])

    # The seed is an argument: a constant one would be folded before XLA sees it.
    @tf.function(jit_compile=True)
    def compiled(seed):
        return antithetic_normals.Stream(tf.constant(shape), seed).directions(
            tf.constant(0), tf.constant(9)
        )

    for eager, xla in zip((e, d), compiled(tf.constant([1, 2])), strict=True):
        np.testing.assert_array_equal(eager, xla)


def test_entries_are_independent_standard_normals():
    e, d = (x.numpy().reshape(20_000, 12) for x in directions((3, 4), 0, 20_000))
    both = np.concatenate([e, d], axis=1)
    correlation = both.T @ both / len(both)
    standard_error = np.sqrt((1 + np.eye(24)) / len(both))
    z = (correlation - np.eye(24)) / standard_error
    assert np.max(np.abs(z)) < 4.2  # 300 distinct entries: P(exceeded) < 1 %
    assert np.max(np.abs(both.mean(axis=0))) < 4 / math.sqrt(len(both))


# --- the estimator -----------------------------------------------------------------------------


def linear(a, b):
    """Q(v, c) = <a, v> + <b, c>, whose half differences are those of the noise alone."""

    def half_differences(e, d):
        half = tf.tensordot(tf.cast(e, tf.float64), a, 2) + tf.tensordot(
            tf.cast(d, tf.float64), b, 2
        )
        return half, half

    return half_differences


def test_unbiased_on_a_linear_objective():
    """The estimate of entry j has variance (|a|^2 + |b|^2 + a_j^2) / pairs."""
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((2, 3, 20))
    pairs = 4000
    estimates = antithetic_normals.estimate(linear(a, b), tf.constant([3, 20]), pairs, (6, 7))
    z = []
    for estimate, truth in zip(estimates, (a, b), strict=True):
        variance = (np.sum(a**2) + np.sum(b**2) + truth**2) / pairs
        z.append((estimate.numpy() - truth) / np.sqrt(variance))
    z = np.ravel(z)
    assert abs(z.mean()) < 3 / math.sqrt(z.size)
    assert abs(np.mean(z**2) - 1) < 3 * math.sqrt(2 / z.size)
    # The part along the truth, which is what an optimiser climbs by.
    along = sum(np.sum(x * y) for x, y in zip(estimates, (a, b), strict=True))
    square = np.sum(a**2) + np.sum(b**2)
    assert abs(along / square - 1) < 3 * math.sqrt(2 / pairs)


def test_it_is_the_sum_over_antithetic_directions():
    """Eq. 10 and the order of Section 3.4.2, delta_i = -delta_{N'-i+1}, each Q by Algorithm 1."""
    trial = random_trial(np.random.default_rng(6), dyadic=False, rows=8, arms=3)
    sigma, number = 0.1, 12
    problem = problem_of(trial, 0.5, 2.0, 8)
    result = NES(sigma=sigma, num_directions=number, joint=False, alpha_max=2.0, max_iterations=8)(
        *trial.tensors(), 0.5, propensity=1 / trial.w, seed=(1, 2)
    )
    for drawn, found, moves in zip(
        directions((3, 8), 0, number // 2), (result.d_response, result.d_cost), (0, 1), strict=True
    ):
        half = [problem.restore(tf.cast(x, tf.float64)).numpy() for x in drawn]
        delta = [*half, *(-x for x in reversed(half))]
        assert all(np.all(delta[i] == -delta[number - 1 - i]) for i in range(number))
        total = np.zeros((8, 3))
        for each in delta:
            predictions = [trial.v, trial.c]
            predictions[moves] = predictions[moves] + sigma * each
            rows = [x.tolist() for x in predictions] + list(trial.lists()[2:])
            total += each * algorithm1.solve(*rows, 0.5, 2.0, 8)[0]
        assert np.any(total)
        np.testing.assert_allclose(found, total / (sigma * number), rtol=1e-9, atol=1e-12)


def test_a_constant_objective_has_a_gradient_of_exactly_zero():
    """Independent directions would leave Q times their mean; pairs leave nothing."""
    trial = believable_trial(np.random.default_rng(8), rows=50, arms=3)
    trial.y[:] = 1.0
    result = NES(sigma=0.1, num_directions=100)(*trial.tensors(), 0.25, seed=(1, 2))
    assert float(result.goal) == 1.0
    assert not np.any(result.d_response) and not np.any(result.d_cost)


@pytest.mark.parametrize("chunk", [7, 64])
def test_chunks_do_not_matter(chunk):
    trial = believable_trial(np.random.default_rng(9), rows=40, arms=3)
    problem = problem_of(trial, 0.25, 2.0, 10)
    gradient = NES(sigma=0.05)

    def estimate(chunk):
        return antithetic_normals.estimate(
            lambda e, d: gradient._half_differences(problem, e, d),
            tf.constant([3, 40]),
            60,
            (3, 4),
            chunk=chunk,
        )

    for one, other in zip(estimate(None), estimate(chunk), strict=True):
        assert np.any(one)
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("arms", [2, 30])
def test_memory_does_not_grow_with_the_number_of_directions(arms):
    """How many directions are held at once: what depends on their number is how often it loops."""

    class Held(Exception):
        pass

    def stop(e, d):
        raise Held(tuple(e.shape), tuple(d.shape))

    def held(pairs):
        with pytest.raises(Held) as caught:
            antithetic_normals.estimate(stop, tf.constant([arms, 10_000]), pairs, (1, 2))
        return caught.value.args

    assert held(100) == held(1_000) == held(1_000_000)
    assert max(np.prod(shape) for shape in held(1_000_000)) <= 300_000


def probit_trial():
    """At the one price .5 row 0 is always matched, rows 1 and 2 by the toss of the noise."""
    v = np.array([[0.1, 5.0], [0.2, 0.63], [0.3, 0.69]])
    c = np.array([[0.0, 0.8], [0.0, 0.8], [0.0, 0.8]])
    t, y, w = np.array([1, 1, 0]), np.array([0.3, 1.0, 0.0]), np.ones(3)
    return SmallTrial(v, c, t, y, np.zeros(3), w, False)


@pytest.mark.parametrize("joint", [True, False])
def test_closed_form_of_one_halving(joint):
    """With I = 1 alpha is .5 whatever the noise, and each row is matched with a probit p_i:

    dQ/dv_ij = d p_i/dv_ij [ E(Q | i in S) - E(Q | i not in S) ]
    """
    trial, alpha, sigma, tau = probit_trial(), 0.5, 0.05, 0.1
    y = trial.y

    def truth(on_value, on_price):
        spread = math.sqrt(2 * on_value**2 + 2 * (alpha * on_price) ** 2)
        margin = trial.v[:, 1] - trial.v[:, 0] - alpha * (trial.c[:, 1] - trial.c[:, 0])
        p = [NormalDist().cdf(m * s / spread) for m, s in zip(margin, (1, 1, -1), strict=True)]
        dq = np.zeros(3)
        for i, other in ((1, 2), (2, 1)):
            for present, weight in ((1, p[other]), (0, 1 - p[other])):
                inside = (y[0] + y[i] + present * y[other]) / (2 + present)
                outside = (y[0] + present * y[other]) / (1 + present)
                dq[i] += weight * (inside - outside)
        slope = [NormalDist().pdf(m / spread) / spread for m in margin]
        d_margin = dq * slope * np.array([1, 1, -1])
        return d_margin[:, None] * np.array([-1.0, 1.0])

    if joint:
        expected = truth(sigma, tau), -alpha * truth(sigma, tau)
    else:
        expected = truth(sigma, 0.0), -alpha * truth(0.0, tau)
    gradient = NES(
        sigma=sigma,
        sigma_cost=tau,
        num_directions=4000,
        joint=joint,
        alpha_max=1.0,
        max_iterations=1,
    )
    runs = [gradient(*trial.tensors(), 0.5, seed=(n, 1)) for n in range(25)]
    for name, exact in zip(("d_response", "d_cost"), expected, strict=True):
        assert_mean_is(np.array([getattr(run, name) for run in runs]), exact)
        assert np.max(np.abs(exact)) > 0.3


def assert_mean_is(samples, truth, truth_error=0.0):
    """Each entry within 3 standard errors; also that these are small enough to tell."""
    error = np.sqrt(samples.var(axis=0, ddof=1) / len(samples) + truth_error**2)
    np.testing.assert_array_less(np.abs(samples.mean(axis=0) - truth), 3 * error + 1e-12)
    assert np.max(error) < 0.2 * np.max(np.abs(truth))


def test_smoothed_truth_by_brute_force():
    """Against Monte Carlo with plain Algorithm 1 and NumPy's normals, no pairs: Eq. 10 itself."""
    # Row 0 is always matched, so that Q is never undefined.
    v = np.array([[0.1, 0.4, 5.0], [0.2, 0.35, 0.3], [0.1, 0.3, 0.45]])
    c = np.array([[0.0, 0.5, 0.9], [0.1, 0.4, 0.7], [0.0, 0.6, 1.0]])
    t, y, z = np.array([2, 1, 0]), np.array([1.0, 0.5, 0.0]), np.array([0.9, 0.4, 0.0])
    trial = SmallTrial(v, c, t, y, z, np.array([1.0, 2.0, 1.5]), False)
    sigma, budget, alpha_max, iterations = 0.1, 0.4, 2.0, 5
    rng = np.random.default_rng(10)
    samples = []
    for _ in range(6_000):
        e, d = rng.standard_normal((2, 3, 3))
        q = algorithm1.solve(
            (v + sigma * e).tolist(),
            (c + sigma * d).tolist(),
            *trial.lists()[2:],
            budget,
            alpha_max,
            iterations,
        )[0]
        assert not math.isnan(q)
        # A constant baseline keeps the expectation and halves the noise.
        samples.append((q - 0.5) * np.stack([e, d]) / sigma)
    samples = np.array(samples)
    truth, error = samples.mean(axis=0), samples.std(axis=0) / math.sqrt(len(samples))
    gradient = NES(sigma=sigma, num_directions=4000, alpha_max=alpha_max, max_iterations=iterations)
    runs = [
        gradient(*trial.tensors(), budget, propensity=1 / trial.w, seed=(n, 2)) for n in range(20)
    ]
    assert_mean_is(np.array([[r.d_response, r.d_cost] for r in runs]), truth, error)


def test_more_directions_point_closer_to_finite_differences():
    """Fig. 2b: the cosine with Eq. 8 at a step of the size of sigma rises with N'."""
    trial = believable_trial(np.random.default_rng(11), rows=300, arms=2)
    exact = FiniteDifference(step=0.05, alpha_max=2.0)(*trial.tensors(), 0.25)
    direction = np.concatenate([np.ravel(exact.d_response), np.ravel(exact.d_cost)])

    def cosine(num_directions):
        gradient = tf.function(NES(sigma=0.05, num_directions=num_directions, alpha_max=2.0))
        cosines = []
        for n in range(3):
            result = gradient(*trial.tensors(), 0.25, seed=tf.constant([n, 3]))
            estimate = np.concatenate([np.ravel(result.d_response), np.ravel(result.d_cost)])
            cosines.append(
                estimate @ direction / np.linalg.norm(estimate) / np.linalg.norm(direction)
            )
        return np.mean(cosines)

    cosines = [cosine(n) for n in (100, 1000, 8000)]
    assert cosines[0] < cosines[1] < cosines[2]
    assert cosines[2] > 2 * cosines[0]


# --- the edges ---------------------------------------------------------------------------------


@pytest.mark.parametrize("joint", [True, False])
def test_same_seed_same_digits_compiled_or_not(joint):
    """The seed is an argument of the compiled function, as it is in training."""
    trial = believable_trial(np.random.default_rng(12), rows=60, arms=3)
    gradient = NES(sigma=0.05, num_directions=40, joint=joint)
    args = trial.tensors()
    eager = gradient(*args, 0.25, seed=(5, 6))
    for jit_compile in (True,) if joint else (False,):
        call = tf.function(
            lambda seed, *a: gradient(*a, 0.25, seed=seed),
            jit_compile=jit_compile,
            input_signature=[tf.TensorSpec([2], tf.int32)]
            + [tf.TensorSpec([None, *a.shape[1:]], a.dtype) for a in args],
        )
        for one, other in zip(eager, call(tf.constant([5, 6]), *args), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)
    other = gradient(*args, 0.25, seed=(5, 7))
    assert not np.array_equal(eager.d_response, other.d_response)


def test_float32_predictions_give_the_same_gradient():
    trial = believable_trial(np.random.default_rng(13), rows=60, arms=3)
    trial.v, trial.c = trial.v.astype(np.float32), trial.c.astype(np.float32)
    gradient = NES(sigma=0.05, num_directions=40)
    single = gradient(*trial.tensors(), 0.25, seed=(5, 6))
    double = gradient(
        trial.v.astype(np.float64),
        trial.c.astype(np.float64),
        *trial.tensors()[2:],
        0.25,
        seed=(5, 6),
    )
    for one, other in zip(single, double, strict=True):
        assert one.dtype == tf.float32
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_an_empty_matched_set_contributes_nothing():
    v, c = np.array([[0.1, 0.9]] * 3), np.array([[0.0, 0.1]] * 3)
    result = NES(alpha_max=1.0, num_directions=20)(
        v, c, [0, 0, 0], np.ones(3), np.zeros(3), 1.0, seed=(1, 2)
    )
    assert math.isnan(float(result.goal))
    assert not np.any(result.d_response) and not np.any(result.d_cost)


def test_a_pair_counts_only_if_both_its_problems_match_rows():
    """One row at its point of indifference: exactly one problem of each pair matches it."""
    v, c = np.array([[0.5, 0.5]]), np.array([[0.0, 0.0]])
    result = NES(alpha_max=1.0, num_directions=20)(v, c, [0], [1.0], [0.0], 1.0, seed=(1, 2))
    assert not np.any(result.d_response) and not np.any(result.d_cost)


def test_a_single_arm_has_no_gradient():
    result = NES(num_directions=4)([[0.1]], [[0.5]], [0], [1.0], [0.5], 1.0, seed=(1, 2))
    assert float(result.goal) == 1.0
    assert result.d_response.shape == (1, 1) and not np.any(result.d_response)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sigma": 0.0}, "sigma=0.0: smoothing needs"),
        ({"sigma_cost": -1.0}, "sigma_cost=-1.0: smoothing needs"),
        ({"sigma": math.nan}, "finite deviation above 0"),
        ({"num_directions": 0}, "expected an even number"),
        ({"num_directions": 7}, "expected an even number"),
        ({"alpha_max": math.inf}, "positive, finite shadow price"),
        ({"max_iterations": 53}, "expected 1 to 52 halvings"),
        ({"tolerance": -0.1}, "not negative"),
    ],
)
def test_messages(arguments, message):
    with pytest.raises(ValueError, match=message):
        NES(**arguments)


def test_needs_a_seed():
    with pytest.raises(ValueError, match=r"pass seed=\(a, b\)"):
        NES()([[0.1, 0.2]], [[0.0, 1.0]], [0], [1.0], [0.0], 0.5)
