"""The doubly robust estimate against rational arithmetic, and against a simulation's truth."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import tensorflow as tf

from tests.oracles import doubly_robust as oracle
from tests.oracles.trials import compiled, random_trial
from tfalloc import outcome
from tfalloc.outcome.batch import as_batch
from tfalloc.outcome.estimators import BranchTest, make_estimator

BUDGETS = [-0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 3.0]


def random_model(rng, trial):
    shape = trial.v.shape
    if trial.dyadic:
        return rng.integers(0, 9, shape) / 8, rng.integers(0, 5, shape) / 4
    return rng.random(shape), rng.random(shape)


def random_problem(rng, case):
    trial = random_trial(rng, dyadic=case % 3 > 0)
    model = random_model(rng, trial)
    rows, plain_model = trial.lists(), tuple(m.tolist() for m in model)
    budget = float(rng.choice(BUDGETS))
    if rng.random() < 0.5:  # exactly what the policy costs at some price, where that is dyadic
        arms = oracle.arms_at(rows, float(rng.integers(1, 8)) / 4)
        _, cost, _ = oracle.outcome(rows, plain_model, arms)
        budget = float(cost) if cost is not None and float(cost) == cost else budget
    return trial, model, budget, rows, plain_model


def solver(**options):
    """One graph for all small trials."""
    graph = compiled(
        lambda *a: outcome.expected_outcome(
            *a[:6], budget=a[6], estimator="doubly_robust", outcome_model=a[7:], **options
        ),
        "response",
        "cost",
    )
    return lambda trial, model, budget: graph(trial, budget, *model)


def assert_close(result, exact):
    if exact is None:
        assert math.isnan(float(result))
    else:
        assert abs(float(result) - float(exact)) < 1e-12


@pytest.mark.parametrize("tolerance", [0.0, 0.1])
def test_bisection_is_algorithm_1_to_the_letter(tolerance):
    rng = np.random.default_rng(1)
    function = solver(alpha_max=2.0, max_iterations=8, tolerance=tolerance)
    solved = stopped = 0
    for case in range(120):
        trial, model, budget, rows, plain_model = random_problem(rng, case)
        value, cost, matched, alpha, converged = oracle.solve(
            rows, plain_model, budget, 2.0, 8, tolerance
        )
        result = function(trial, model, budget)
        assert float(result.alpha) == alpha
        assert int(result.num_matched) == matched
        assert bool(result.converged) == converged
        assert_close(result.response, value)
        assert_close(result.cost, cost)
        solved += matched > 0
        stopped += converged
    assert solved > 70 and stopped >= 7


def test_path_equals_brute_force_over_all_breakpoints():
    rng = np.random.default_rng(2)
    function = solver(method="path")
    solved = infeasible = several = 0
    for case in range(120):
        trial, model, budget, rows, plain_model = random_problem(rng, case)
        alpha, value, matched, feasible, crossings = oracle.path(rows, plain_model, budget)
        result = function(trial, model, budget)
        assert bool(result.converged) == (feasible and matched > 0)
        assert int(result.num_crossings) == crossings
        infeasible += not feasible
        several += crossings > 1
        if feasible:
            np.testing.assert_allclose(result.alpha, alpha, rtol=1e-12)
            assert int(result.num_matched) == matched
            assert_close(result.response, value)
            solved += matched > 0
    assert solved > 45 and infeasible > 9 and several >= 2


def test_nary_equals_plain_python():
    num_points = 3
    rng = np.random.default_rng(3)
    function = solver(method="nary", num_points=num_points, alpha_max=2.0, max_iterations=8)
    for case in range(60):
        trial, model, budget, rows, plain_model = random_problem(rng, case)
        rounds = math.ceil(8 / math.log2(num_points + 1))
        value, cost, alpha = oracle.nary(rows, plain_model, budget, 2.0, rounds, num_points)
        result = function(trial, model, budget)
        assert float(result.alpha) == alpha
        assert_close(result.response, value)
        assert_close(result.cost, cost)


def test_default_alpha_max():
    rng = np.random.default_rng(4)

    def alpha_max(v, c, t, y, z, propensity, budget, *model):
        by = make_estimator(
            "doubly_robust",
            as_batch(v, c, t, y, z, propensity),
            propensity=propensity,
            outcome_model=model,
        )
        return BranchTest(by, budget).alpha_max(by.intervals())

    alpha_max = compiled(alpha_max, "response", "cost")
    tops = []
    for case in range(100):
        trial, model, budget, rows, plain_model = random_problem(rng, case)
        top = oracle.default_alpha_max(rows, plain_model, budget)
        if top is not None:
            assert float(alpha_max(trial, budget, *model)) == top
            tops.append(top)
    assert len(tops) > 40 and len(set(tops)) >= 4


def test_curve_at_and_between_all_breakpoints():
    rng = np.random.default_rng(5)
    curve = compiled(lambda *a: outcome.curve(*a[:6], outcome_model=a[7:]), "response", "cost")
    for case in range(30):
        trial, model, _, rows, plain_model = random_problem(rng, case)
        line = outcome.OutcomeCurve(*(x.numpy() for x in curve(trial, 0.0, *model)))
        alphas = line.alpha
        assert alphas.shape == (4 * trial.v.size + 2,)
        for look, breakpoint_ in oracle.probes(rows):
            at = np.flatnonzero(alphas[::2] <= breakpoint_)[-1] * 2
            entry = at if look == alphas[at] else at + 1
            value, cost, matched = oracle.outcome(rows, plain_model, oracle.arms_at(rows, look))
            assert int(line.num_matched[entry]) == matched
            assert_close(line.response[entry], value)
            assert_close(line.cost[entry], cost)


@pytest.mark.parametrize("method", ["bisection", "nary", "path"])
def test_a_model_of_nothing_is_hajek_to_the_last_digit(method):
    rng = np.random.default_rng(6)
    function = solver(method=method)
    hajek_of = compiled(lambda *a: outcome.expected_outcome(*a[:6], budget=a[6], method=method))
    for case in range(16):
        trial = random_trial(rng, dyadic=case % 2 == 0)
        budget = float(rng.choice(BUDGETS))
        nothing = np.zeros_like(trial.v)
        q = function(trial, (nothing, nothing), budget)
        hajek = hajek_of(trial, budget)
        for name, a, b in zip(q._fields, q, hajek):
            if name.endswith("stderr"):  # a sum of floats, in any order
                np.testing.assert_allclose(a, b, rtol=1e-14)
            else:
                np.testing.assert_array_equal(a, b, err_msg=name)


def test_the_curve_without_a_model_is_hajeks():
    rng = np.random.default_rng(7)
    trial = random_trial(rng, dyadic=True, rows=13, arms=4)
    nothing = np.zeros_like(trial.v)
    line = outcome.curve(*trial.tensors(), 1 / trial.w, outcome_model=(nothing, nothing))
    hajek = outcome.curve(*trial.tensors(), 1 / trial.w)
    for alpha in np.unique(hajek.alpha[np.isfinite(hajek.alpha)]):
        for offset in (0, 1):
            a = np.flatnonzero(line.alpha[::2] <= alpha)[-1] * 2 + offset
            b = np.flatnonzero(hajek.alpha[::2] <= alpha)[-1] * 2 + offset
            if float(line.alpha[a]) == alpha:
                np.testing.assert_array_equal(line.response[a], hajek.response[b])
                np.testing.assert_array_equal(line.num_matched[a], hajek.num_matched[b])


@dataclass
class Simulation:
    """Arm 1 is assigned where .1 + .5 u > .3 at price 0, and was received by 85 %."""

    v: np.ndarray
    c: np.ndarray
    t: np.ndarray
    y: np.ndarray
    z: np.ndarray
    p: np.ndarray
    response = 0.39  # int_0^.4 .3 du + int_.4^1 (.1 + .5 u) du
    cost = 0.72  # int_.4^1 (.5 + u) du

    @property
    def truth(self):
        return self.v, self.c

    def estimate(self, propensity, **kwargs):
        """A budget that does not bind holds alpha, and so the policy, fixed."""
        rows = (self.v, self.c, self.t, self.y, self.z)
        return outcome.expected_outcome(*rows, propensity, budget=100.0, method="path", **kwargs)


def simulate(rng, rows):
    u = rng.random(rows)
    v = np.stack([np.full(rows, 0.3), 0.1 + 0.5 * u], axis=1)
    c = np.stack([np.zeros(rows), 0.5 + u], axis=1)
    t = (rng.random(rows) < 0.85).astype(int)
    n = np.arange(rows)
    y = (rng.random(rows) < v[n, t]).astype(float)
    z = c[n, t] * rng.choice([0.5, 1.5], rows)
    return Simulation(v, c, t, y, z, np.where(t == 1, 0.85, 0.15))


def errors(q, data):
    """Errors of V and C in standard errors."""
    return np.array(
        [
            (float(q.response) - data.response) / float(q.response_stderr),
            (float(q.cost) - data.cost) / float(q.cost_stderr),
        ]
    )


def test_consistent_if_propensities_or_model_are_right():
    data = simulate(np.random.default_rng(8), 50_000)
    dr = {"estimator": "doubly_robust"}
    wrong = 0.5 - data.v, 2.0 - data.c
    assert np.all(np.abs(errors(data.estimate(data.p, outcome_model=wrong, **dr), data)) < 3)
    assert np.all(np.abs(errors(data.estimate(None, outcome_model=data.truth, **dr), data)) < 3)
    assert np.all(np.abs(errors(data.estimate(data.p, outcome_model=data.truth, **dr), data)) < 3)
    # Neither right, and no model: the test would notice.
    assert np.all(np.abs(errors(data.estimate(None, outcome_model=wrong, **dr), data)) > 5)
    assert np.all(np.abs(errors(data.estimate(None), data)) > 5)


def test_a_good_model_is_less_noisy_than_none():
    data = simulate(np.random.default_rng(9), 20_000)
    hajek = data.estimate(data.p)
    q = data.estimate(data.p, estimator="doubly_robust", outcome_model=data.truth)
    assert float(q.response_stderr) < float(hajek.response_stderr)
    assert float(q.cost_stderr) < 0.9 * float(hajek.cost_stderr)


@pytest.mark.parametrize("quality", ["right", "inflated"])
def test_intervals_cover(quality):
    """An inflated model makes the two terms of V depend on each other."""
    rng = np.random.default_rng(10)
    repeats = 300
    estimate = tf.function(
        lambda *rows, model: outcome.expected_outcome(
            *rows, budget=100.0, method="path", estimator="doubly_robust", outcome_model=model
        )
    )
    scale = 1.0 if quality == "right" else 2.0
    values, stderrs = [], []
    for _ in range(repeats):
        data = simulate(rng, 600)
        rows = (tf.constant(x) for x in (data.v, data.c, data.t, data.y, data.z, data.p))
        q = estimate(*rows, model=tuple(tf.constant(scale * m) for m in data.truth))
        values.append((float(q.response), float(q.cost)))
        stderrs.append((float(q.response_stderr), float(q.cost_stderr)))
    values, stderrs = np.array(values), np.array(stderrs)
    truth = np.array([data.response, data.cost])
    coverage = np.mean(np.abs(values - truth) < 1.96 * stderrs, axis=0)
    # Binomial(300, .95): 3 standard errors are .038.
    assert np.all(np.abs(coverage - 0.95) < 0.038)
    np.testing.assert_allclose(np.mean(stderrs, axis=0) / np.std(values, axis=0), 1.0, atol=0.125)


@pytest.mark.parametrize(
    ("method", "dtype"),
    [("bisection", tf.float64), ("nary", tf.float64), ("path", tf.float32)],
)
def test_eager_graph_and_xla_agree_with_unknown_batch(method, dtype):
    rng = np.random.default_rng(11)
    trial = random_trial(rng, dyadic=True, rows=40, arms=3)
    trial.z[:] = np.minimum(trial.z, trial.t / 2)  # so that a price meets the budget
    t = tf.cast(trial.t, tf.int32)
    v, c, _, y, z = (tf.cast(x, dtype) for x in trial.tensors())
    model = [tf.cast(m, dtype) for m in random_model(rng, trial)]
    args = [v, c, t, y, z, *model]
    spec = [tf.TensorSpec([None, *a.shape[1:]], a.dtype) for a in args]

    def call(v, c, t, y, z, m_response, m_cost):
        model = m_response, m_cost
        q = outcome.expected_outcome(
            v, c, t, y, z, budget=1.0, method=method, estimator="doubly_robust", outcome_model=model
        )
        line = outcome.curve(v, c, t, y, z, outcome_model=model) if method == "path" else ()
        return *q, *line

    eager = call(*args)
    assert np.isfinite(float(eager[0]))
    graph = tf.function(call, input_signature=spec, jit_compile=method == "bisection")(*args)
    for a, b in zip(eager, graph):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("method", ["bisection", "nary", "path"])
def test_no_rows_one_arm_and_nothing_matched(method):
    def solve(v, c, t, y, z, model):
        return outcome.expected_outcome(
            v, c, t, y, z, budget=1.0, method=method, estimator="doubly_robust", outcome_model=model
        )

    none, flat = np.zeros((0, 2)), np.zeros(0)
    q = solve(none, none, np.zeros(0, int), flat, flat, (none, none))
    assert int(q.num_matched) == 0 and math.isnan(float(q.response))

    one = np.array([[0.5], [0.25]])
    q = solve(one, one, [0, 0], [1.0, 0.0], [1.0, 0.5], (one, one))
    assert (float(q.response), float(q.cost), int(q.num_matched)) == (0.5, 0.75, 2)

    v, c = np.array([[0.1, 0.9]] * 3), np.array([[0.0, 0.0]] * 3)
    q = solve(v, c, [0, 0, 0], np.ones(3), np.zeros(3), (v, c))
    assert int(q.num_matched) == 0 and math.isnan(float(q.response))
    assert math.isnan(float(q.cost)) and math.isnan(float(q.response_stderr))


def test_messages():
    m = np.ones((2, 2))
    good = (m, m, [0, 1], [0.0, 1.0], [0.0, 1.0])

    def solve(estimator, model):
        outcome.expected_outcome(*good, budget=1.0, estimator=estimator, outcome_model=model)

    with pytest.raises(
        ValueError, match="'doubly_robust' needs outcome_model=\\(response, cost\\)"
    ):
        solve("doubly_robust", None)
    for estimator in ("hajek", "matched", "ht"):
        with pytest.raises(ValueError, match=f"not used by estimator='{estimator}'"):
            solve(estimator, (m, m))
    with pytest.raises(ValueError, match=r"outcome_model's cost .* received \(2, 3\)"):
        solve("doubly_robust", (m, np.ones((2, 3))))
    with pytest.raises(ValueError, match=r"outcome_model's response .* received \(2,\)"):
        solve("doubly_robust", (np.ones(2), m))
    for pair in (3.0, (m,), (m, m, m)):
        with pytest.raises(ValueError, match="must be a pair"):
            outcome.curve(*good, outcome_model=pair)
