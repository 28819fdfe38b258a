"""Algorithm 1, Eq. 5, 6 and Eq. 8 in plain Python: slow, obvious, sharing no code with tfalloc."""

from __future__ import annotations

import itertools
import math


def assigned(v_row, c_row, alpha):
    """argmax_j v_j - alpha c_j by pairwise comparison of differences; the first index wins ties."""
    best = 0
    for k in range(1, len(v_row)):
        # k replaces best only if strictly better (best comes first).
        if v_row[k] - v_row[best] > alpha * (c_row[k] - c_row[best]):
            best = k
    return best


def matched_sums(v, c, t, y, z, w, alpha, budget):
    """Sums over S of (w (z - budget), w, w y), and |S|."""
    rows = [i for i in range(len(t)) if assigned(v[i], c[i], alpha) == t[i]]
    excess = math.fsum(w[i] * (z[i] - budget) for i in rows)
    weight = math.fsum(w[i] for i in rows)
    value = math.fsum(w[i] * y[i] for i in rows)
    return excess, weight, value, len(rows)


def solve(v, c, t, y, z, w, budget, alpha_max, iterations, tolerance=0.0):
    """Algorithm 1 to the letter. Returns (Q, alpha, cost, matched, converged)."""
    low, high = 0.0, alpha_max
    for _ in range(iterations):
        alpha = (low + high) / 2
        excess, weight, value, matched = matched_sums(v, c, t, y, z, w, alpha, budget)
        if matched and abs(excess) <= tolerance * weight:
            return value / weight, alpha, excess / weight + budget, matched, True
        if excess > 0:
            low = alpha
        else:
            high = alpha
    if not matched:
        return math.nan, alpha, math.nan, 0, False
    return value / weight, alpha, excess / weight + budget, matched, False


def nary(v, c, t, y, z, w, budget, alpha_max, rounds, num_points, tolerance=0.0):
    """n points a round; the bracket ends at the first one not above the budget.

    Returns (Q, alpha, cost, matched, converged), as `solve`.
    """
    low, high = 0.0, alpha_max
    for _ in range(rounds):
        for n in range(1, num_points + 1):
            alpha = low + (high - low) * (n / (num_points + 1))
            excess, weight, value, matched = matched_sums(v, c, t, y, z, w, alpha, budget)
            if matched and abs(excess) <= tolerance * weight:
                return value / weight, alpha, excess / weight + budget, matched, True
            if not excess > 0:
                break
        else:
            n = num_points + 1
        step = (high - low) / (num_points + 1)
        low, high = low + step * (n - 1), low + step * n
    if not matched:
        return math.nan, alpha, math.nan, 0, False
    return value / weight, alpha, excess / weight + budget, matched, False


def horvitz_thompson(v, c, t, y, z, w, budget, alpha_max, iterations):
    """Algorithm 1 on sums over S divided by the number of all rows. As `solve`."""
    low, high, rows = 0.0, alpha_max, len(t)
    for _ in range(iterations):
        alpha = (low + high) / 2
        cost, _, value, matched = matched_sums(v, c, t, y, z, w, alpha, 0.0)
        if matched and cost == rows * budget:
            return value / rows if matched else math.nan, alpha, budget, matched, True
        if cost > rows * budget:
            low = alpha
        else:
            high = alpha
    if not matched:
        return math.nan, alpha, math.nan, 0, False
    return value / rows, alpha, cost / rows, matched, False


def finite_difference(v, c, t, y, z, w, budget, alpha_max, iterations, h, h_cost, tolerance=0.0):
    """Eq. 8 by brute force: two runs of Algorithm 1 for every entry of v and of c."""

    def q(v_, c_):
        return solve(v_, c_, t, y, z, w, budget, alpha_max, iterations, tolerance)[0]

    def shifted(matrix, i, j, by):
        copy = [list(row) for row in matrix]
        copy[i][j] += by
        return copy

    def difference(up, down, step):
        d = (up - down) / (2 * step)
        return 0.0 if math.isnan(d) else d

    n, k = len(v), len(v[0]) if len(v) else 0
    dv = [[0.0] * k for _ in range(n)]
    dc = [[0.0] * k for _ in range(n)]
    for i in range(n):
        for j in range(k):
            dv[i][j] = difference(q(shifted(v, i, j, h), c), q(shifted(v, i, j, -h), c), h)
            dc[i][j] = difference(
                q(v, shifted(c, i, j, h_cost)), q(v, shifted(c, i, j, -h_cost)), h_cost
            )
    return dv, dc


def path(v, c, t, y, z, w, budget):
    """Smallest alpha above which C never exceeds the budget, by trying every breakpoint.

    Returns (alpha, V just above alpha, feasible, crossings of the budget on alpha >= 0).
    """
    points = {0.0}
    for i in range(len(t)):
        for k in range(len(v[i])):
            extra = c[i][k] - c[i][t[i]]
            if extra != 0:
                points.add((v[i][k] - v[i][t[i]]) / extra)
    points = sorted(p for p in points if p >= 0)
    probes = []  # (alpha at which to look, alpha to report): every point, every gap between two
    for here, after in zip(points, [*points[1:], points[-1] + 1.0]):
        probes += [(here, here), (here + (after - here) / 2, here)]
    excess = [matched_sums(v, c, t, y, z, w, look, budget)[0] for look, _ in probes]
    # A point that is not dyadic is a rounded quotient: ties there are decided by the interval
    # ends, not by evaluating the predicate at the rounded number.
    above = [e > 0 for e in excess]
    for n in range(0, len(probes), 2):
        if not float(probes[n][0] * 2**20).is_integer():
            rows = [
                i for i in range(len(t)) if _matched_at_quotient(v[i], c[i], t[i], probes[n][0])
            ]
            above[n] = math.fsum(w[i] * (z[i] - budget) for i in rows) > 0
    crossings = sum(a != b for a, b in itertools.pairwise(above))
    if above[-1]:
        return math.inf, math.nan, False, crossings
    last = max((n for n, a in enumerate(above) if a), default=-1)
    if last < 0:
        look, report = probes[0]
    else:
        look, report = probes[last + 1 if last % 2 == 0 else last + 2]
    _, weight, value, matched = matched_sums(v, c, t, y, z, w, look, budget)
    return report, value / weight if matched else math.nan, True, crossings


def _matched_at_quotient(v_row, c_row, t, alpha):
    for k in range(len(v_row)):
        if k == t:
            continue
        gain, extra = v_row[k] - v_row[t], c_row[k] - c_row[t]
        quotient = gain / extra if extra else None
        if extra > 0:
            won = alpha > quotient or (alpha == quotient and t < k)
        elif extra < 0:
            won = alpha < quotient or (alpha == quotient and t < k)
        else:
            won = gain < 0 or (gain == 0 and t < k)
        if not won:
            return False
    return True
