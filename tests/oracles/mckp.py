"""Independent answers to the knapsack: enumeration and SciPy's HiGHS, nothing from tfalloc."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import scipy.optimize
import scipy.sparse

Floats = npt.NDArray[np.float64]


def best_by_enumeration(value: Floats, cost: Floats, budget: float) -> float:
    """Returns the best mean value over all K^N allocations with mean cost <= budget.

    Costs are dyadic, budgets need not be: one that is meant to pay exactly may round below.
    """
    n, k = value.shape
    rows = np.arange(n)
    best = -np.inf
    for arms in itertools.product(range(k), repeat=n):
        if cost[rows, arms].sum() <= budget * n + 1e-9:
            best = max(best, float(value[rows, arms].sum()))
    return best / n


def _problem(value: Floats, cost: Floats, budget: float) -> tuple[Floats, object, object]:
    n, k = value.shape
    one_arm = scipy.sparse.kron(scipy.sparse.eye(n), np.ones((1, k)), format="csr")
    spend = scipy.sparse.csr_matrix(cost.reshape(1, -1) / n)
    return -value.reshape(-1) / n, one_arm, spend


def relaxed_optimum(value: Floats, cost: Floats, budget: float) -> float:
    """Returns the optimum of the relaxed problem by scipy.optimize.linprog (HiGHS)."""
    objective, one_arm, spend = _problem(value, cost, budget)
    found = scipy.optimize.linprog(
        objective,
        A_ub=spend,
        b_ub=[budget],
        A_eq=one_arm,
        b_eq=np.ones(value.shape[0]),
        bounds=(0, 1),
        method="highs",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    assert found.status == 0, found.message
    return -float(found.fun)


def integer_optimum(value: Floats, cost: Floats, budget: float) -> float:
    """Returns the optimum of the integer problem by scipy.optimize.milp (HiGHS)."""
    objective, one_arm, spend = _problem(value, cost, budget)
    found = scipy.optimize.milp(
        objective,
        integrality=np.ones(value.size),
        bounds=scipy.optimize.Bounds(0, 1),
        constraints=[
            scipy.optimize.LinearConstraint(one_arm, 1, 1),
            scipy.optimize.LinearConstraint(spend, -np.inf, budget),
        ],
        options={"mip_rel_gap": 0.0},
    )
    assert found.status == 0, found.message
    return -float(found.fun)


def dual_value(value: Floats, cost: Floats, budget: float, alpha: float) -> float:
    """Returns alpha budget + mean_i max_j (value_ij - alpha cost_ij), a bound for alpha >= 0."""
    return alpha * budget + float((value - alpha * cost).max(axis=1).mean())


def argmax_outcome(value: Floats, cost: Floats, alpha: float) -> tuple[float, float]:
    """Returns mean cost and value of x_i(alpha) = argmax_j value_ij - alpha cost_ij."""
    arm = (value - alpha * cost).argmax(axis=1)
    rows = np.arange(value.shape[0])
    return float(cost[rows, arm].mean()), float(value[rows, arm].mean())


def swept_curve(value: Floats, cost: Floats) -> tuple[Floats, Floats]:
    """Returns cost and value of the argmax for every alpha at which it could change.

    All pairwise slopes of all rows are candidates; between two neighbours the choice is constant,
    so one alpha inside each gap (and one above and one below all) visits every choice.
    """
    slopes: set[float] = {0.0}
    for v, c in zip(value, cost):
        for a, b in itertools.combinations(range(v.size), 2):
            if c[a] != c[b]:
                slope = float((v[b] - v[a]) / (c[b] - c[a]))
                if slope > 0:
                    slopes.add(slope)
    ends = sorted(slopes, reverse=True)
    alphas = [ends[0] * 2 + 1, *((high + low) / 2 for high, low in itertools.pairwise(ends))]
    points = [argmax_outcome(value, cost, alpha) for alpha in alphas]
    costs, values = (np.array(x) for x in zip(*points))
    return costs, values


def upgrade_prices(value: Floats, cost: Floats) -> Floats:
    """Up to which alpha one user is given more than arm j, by trying every alpha: [K-1].

    The argmax is taken in rational numbers once between any two neighbours of the alphas at which
    two arms are worth the same (and below and above them all, and on either side of 0).
    """
    v, c = ([Fraction(x) for x in row] for row in (value, cost))
    arms = range(len(v))
    pairs = [(a, b) for a, b in itertools.combinations(arms, 2) if c[a] != c[b]]
    ties = sorted({Fraction(0), *((v[a] - v[b]) / (c[a] - c[b]) for a, b in pairs)})
    looks = [ties[0] - 1, *((a + b) / 2 for a, b in itertools.pairwise(ties)), ties[-1] + 1]
    # Equal arms tie everywhere: the later one counts as dearer by nothing.
    held = [
        max(arms, key=lambda j: (v[j] - alpha * c[j], -j if alpha > 0 else j)) for alpha in looks
    ]
    zero, prices = ties.index(0), []
    for j in arms[:-1]:
        if held[zero + 1] > j:  # up from 0, to the first alpha at which the upgrade is undone
            end = next((n for n in range(zero + 1, len(held)) if held[n] <= j), None)
            prices.append(np.inf if end is None else float(ties[end - 1]))
        else:  # down from 0, to the first alpha at which there would be one
            end = next((n for n in range(zero, -1, -1) if held[n] > j), None)
            prices.append(-np.inf if end is None else float(ties[end]))
    return np.array(prices)
