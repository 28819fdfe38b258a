"""The doubly robust V and C and Algorithm 1 on them, in rational numbers: no rounding anywhere.

Ties are decided by `algorithm1`; a trial is (v, c, t, y, z, w) as there, a model is
(m_response, m_cost).
"""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

from tests.oracles.algorithm1 import _matched_at_quotient, assigned


def outcome(trial, model, arms):
    """(V, C, |S|) when row i is assigned arms[i]; V and C are None where S is empty."""
    _, _, t, y, z, w = trial
    n = len(t)
    matched = [i for i in range(n) if arms[i] == t[i]]
    weight = sum(Fraction(w[i]) for i in matched)
    if not matched:
        return None, None, 0
    means = []
    for observed, m in zip((y, z), model):
        everywhere = sum(Fraction(m[i][arms[i]]) for i in range(n)) / n
        residual = sum(
            Fraction(w[i]) * (Fraction(observed[i]) - Fraction(m[i][t[i]])) for i in matched
        )
        means.append(everywhere + residual / weight)
    return means[0], means[1], len(matched)


def arms_at(trial, alpha):
    """The assigned arms at a price; a rounded quotient stands for the price at which arms tie."""
    v, c = trial[:2]
    if float(alpha * 2**20).is_integer():
        return [assigned(v[i], c[i], alpha) for i in range(len(v))]
    return [
        next(j for j in range(len(v[i])) if _matched_at_quotient(v[i], c[i], j, alpha))
        for i in range(len(v))
    ]


def solve(trial, model, budget, alpha_max, iterations, tolerance=0.0):
    """Algorithm 1. Returns (V, C, |S|, alpha, converged)."""
    low, high = 0.0, alpha_max
    for _ in range(iterations):
        alpha = (low + high) / 2
        v, c = trial[:2]
        arms = [assigned(v[i], c[i], alpha) for i in range(len(v))]
        value, cost, matched = outcome(trial, model, arms)
        if matched and abs(cost - Fraction(budget)) <= tolerance:
            return value, cost, matched, alpha, True
        if matched and cost > Fraction(budget):
            low = alpha
        else:
            high = alpha
    return value, cost, matched, alpha, False


def nary(trial, model, budget, alpha_max, rounds, num_points):
    """n points a round; the bracket ends at the first point not above the budget. (V, C, alpha)."""
    low, high = 0.0, alpha_max
    for _ in range(rounds):
        points = [low + (high - low) * ((n + 1) / (num_points + 1)) for n in range(num_points)]
        outcomes = [outcome(trial, model, arms_at(trial, alpha)) for alpha in points]
        above = [cost is not None and cost > Fraction(budget) for _, cost, _ in outcomes]
        stop = above.index(False) if False in above else num_points
        hit = next((n for n in range(num_points) if outcomes[n][1] == Fraction(budget)), None)
        inside = hit is not None and hit <= stop
        at = hit if inside else min(stop, num_points - 1)
        value, cost, _ = outcomes[at]
        if inside:
            break
        bracket = [low, *points, high]
        low, high = bracket[stop], bracket[stop + 1]
    return value, cost, points[at]


def default_alpha_max(trial, model, budget):
    """The smallest power of two from which on C is not above the budget; None: there is none.

    From 2^-32 to 2^31 times the typical alpha, mean spread of v over mean spread of c.
    """
    spread_v, spread_c = (sum(max(row) - min(row) for row in rows) for rows in trial[:2])
    typical = spread_v / spread_c if spread_v > 0 and spread_c > 0 else 1.0
    found = None
    for exponent in range(31, -33, -1):
        power = 2.0 ** (math.floor(math.log2(typical)) + exponent)
        _, cost, _ = outcome(trial, model, arms_at(trial, power))
        if cost is not None and cost > Fraction(budget):
            return found
        found = power
    return found


def probes(trial):
    """(alpha at which to look, breakpoint it belongs to): every breakpoint, every gap after one."""
    v, c = trial[:2]
    points = {0.0}
    for row_v, row_c in zip(v, c):
        for j in range(len(row_v)):
            for k in range(j):
                if row_c[j] != row_c[k]:
                    points.add((row_v[j] - row_v[k]) / (row_c[j] - row_c[k]))
    points = sorted(p for p in points if p >= 0)
    ends = [*points[1:], points[-1] + 1.0]
    return [
        pair
        for here, after in zip(points, ends)
        for pair in ((here, here), (here + (after - here) / 2, here))
    ]


def path(trial, model, budget):
    """Smallest alpha above which C never exceeds the budget, by trying every breakpoint.

    Returns (alpha, V just above alpha, |S|, feasible, crossings of the budget on alpha >= 0).
    """
    looks = probes(trial)
    outcomes = [outcome(trial, model, arms_at(trial, look)) for look, _ in looks]
    above = [cost is not None and cost > Fraction(budget) for _, cost, _ in outcomes]
    crossings = sum(a != b for a, b in pairwise(above))
    if above[-1]:
        return math.inf, None, 0, False, crossings
    last = max((n for n, a in enumerate(above) if a), default=-1)
    at = 0 if last < 0 else last + 1 if last % 2 == 0 else last + 2
    # After an open interval, the answer is the next breakpoint and what holds just above it.
    just_above = at if last < 0 or at % 2 else at + 1
    value, _, matched = outcomes[just_above]
    return looks[at][1], value, matched, True, crossings
