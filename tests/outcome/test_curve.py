"""The outcome curve against the argmax, at and between all breakpoints."""

import math

import numpy as np

from tests.oracles import algorithm1
from tests.oracles.trials import compiled, random_trial
from tfalloc import outcome


def test_curve_equals_argmax_at_and_between_breakpoints():
    rng = np.random.default_rng(3)
    curve = compiled(lambda *a: outcome.curve(*a[:6]))
    for case in range(60):
        trial = random_trial(rng, dyadic=case % 2 == 0)
        alphas, response, _, num_matched = (x.numpy() for x in curve(trial, 0.0))
        last = int(np.sum(np.isfinite(alphas)))
        assert np.all(np.diff(alphas[:last]) >= 0)
        assert np.all(alphas[0:last:2] == alphas[1:last:2])
        for s in range(0, last, 2):
            after = alphas[s + 2] if s + 2 < last else alphas[s] + 1.0
            between = alphas[s] + (after - alphas[s]) / 2
            for entry, alpha in ((s, alphas[s]), (s + 1, between)):
                if not trial.dyadic and entry == s and s > 0:
                    continue  # a rounded quotient is not exactly where the two arms tie
                if trial.dyadic and entry == s and not trial.is_dyadic(alpha):
                    continue
                _, weight, value, matched = algorithm1.matched_sums(*trial.lists(), alpha, 0.0)
                assert int(num_matched[entry]) == matched
                if matched:
                    np.testing.assert_allclose(response[entry], value / weight, atol=1e-12)
                else:
                    assert math.isnan(response[entry])
