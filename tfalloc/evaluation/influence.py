"""How far each row moves the estimate: influence functions at equal cost.

With m_i the match of row i with the policy at alpha, the weighted means over matched rows,

    V = sum w m y / sum w m,      C = sum w m z / sum w m,

move by w_i m_i (y_i - V) / sum w m and w_i m_i (z_i - C) / sum w m when row i is reweighted. But
alpha is not fixed: it solves C(alpha) = budget. By the implicit function theorem V then moves by

    psi_i = w_i m_i [ (y_i - V) - mu (z_i - C) ] / sum w m,      mu = (dV/dalpha) / (dC/dalpha),

and Var V = sum psi^2. That alpha makes rows enter and leave S adds only terms of order 1/N. Where
the budget does not bind alpha stays at 0, and mu = 0.

Doubly robust, with M_i what a frozen model expects of row i under its assigned arm,

    V = sum s M / sum s + R,      R = sum w m (y - M_t) / sum w m,

and the influence of row i is s_i (M_i - mean of M) / sum s + w_i m_i (y_i - M_it - R) / sum w m.
Rows of one cluster are not independent: their influences are added before they are squared.

Bands that hold at all budgets at once come from the largest of many correlated t statistics.
The estimates at M budgets are sums of influences psi_m,i of the same rows. Multiply rows (or
clusters) by independent standard normal g_i: the multiplier bootstrap

    T = max_m | sum_i g_i psi_m,i | / stderr_m

has, in the limit, the distribution of the largest error in units of its standard error, so its
quantile takes the place of 1.96. Given the data the M sums are jointly normal, and their covariance
is the Gram matrix of the influences: M x M numbers instead of as many draws as there are rows.

Source: Belloni, Chernozhukov, Fernandez-Val, Hansen, "Program Evaluation and Causal Inference with
High-Dimensional Data", Econometrica 2017, section 5; Chernozhukov, Chetverikov, Kato 2013.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tfalloc.evaluation.policy_path import Path
from tfalloc.evaluation.trial_rows import Floats, Rows

# Points of the path that enter the regression for mu.
GRID_POINTS = 400

# Half-widths of the window for mu, as shares of all events; the last one takes in the whole path.
WINDOWS = (0.04, 0.08, 0.16, 0.32, 0.64, 2.0)
# A window is wide enough if the change of C across it is so many standard errors of what the rows
# that come and go there add to C,
SIGNAL = 8.0
# and mu so many of its own. But mu may be 0: beyond WIDE, better noisy than of another place.
MU_SIGNAL = 4.0
WIDE = 0.3

# The 95 % quantile of T is then off by less than 1 %.
NUM_DRAWS = 20_000


class Slopes:
    """mu = dV/dC along a path, at any of its points.

    V and C are both regressed on the clock of events (locally linear, triangular kernel) and mu
    is the ratio of slopes. Regressing V on C itself would not do: both move with the same rows,
    whose y and z are correlated, so that over a short stretch the slope is that of the noise. The
    clock is free of noise: an instrument. The window grows until the fall of C is clear.

    Args:
      path: of `make_path`.
      inflation: variance of a mean of clustered rows over that of independent ones.
    """

    def __init__(self, path: Path, inflation: float = 1.0):
        self._inflation = inflation
        denominator = path.denominator
        usable = np.flatnonzero(np.isfinite(denominator))
        targets = np.linspace(path.events[0], path.events[-1], GRID_POINTS)
        points = np.unique(np.searchsorted(path.events[usable], targets))
        self._points = usable[points[points < usable.size]]
        self._path = path

    def at(self, index: int) -> float:
        """Returns mu where the path steps from interval index - 1 to index.

        Args:
          index: number of an interval of the path, at least 1.

        Returns:
          Response per unit of cost; 0 if the cost never changes.
        """
        events = self._path.events
        step = np.array([index - 1, index])
        mu, clear, _ = self._slope(step, np.ones(2))
        if clear:  # one big step of many users: the policy is a mixture of its two ends
            return mu
        centre, span = events[step].mean(), events[-1] - events[0]
        clock = events[self._points]
        for share in WINDOWS:
            kernel = np.maximum(1.0 - np.abs(clock - centre) / (share * span), 0.0)
            inside = np.flatnonzero(kernel)
            if inside.size < 3 and share < WINDOWS[-1]:
                continue
            if inside.size < 2:
                break
            mu, clear, precise = self._slope(self._points[inside], kernel[inside])
            if clear and (precise or share > WIDE):
                break
        return mu

    def _slope(self, points: npt.NDArray[np.intp], kernel: Floats) -> tuple[float, bool, bool]:
        """Ratio of the slopes of V and C on the clock; whether C's is clear, and mu precise."""
        path, kernel = self._path, kernel / kernel.sum()
        denominator = path.total if path.divides_by_total else path.weight[points]
        with np.errstate(divide="ignore", invalid="ignore"):
            matched_cost = path.spend[points] / denominator
            matched_response = path.response[points] / denominator
        cost = matched_cost + path.expected_spend[points] / path.total
        response = matched_response + path.expected_response[points] / path.total
        events = path.events[points]
        lever = kernel * (events - kernel @ events)
        fall, rise = float(lever @ cost), float(lever @ response)
        if not np.isfinite(fall) or fall == 0.0:
            return 0.0, False, False
        mu = rise / fall
        change = abs(fall) / float(lever @ events) * float(events[-1] - events[0])
        # Standard errors of the changes, from one end of the window to the other, of C and of
        # V - mu C: root of the sum of w^2 (a y + b z - level)^2 over the rows that come or go.
        ones, z, zz, y, yy, yz = (path.noise[points[-1]] - path.noise[points[0]]).tolist()
        v, c = 0.0, 0.0
        if not path.divides_by_total:
            v, c = float(kernel @ matched_response), float(kernel @ matched_cost)
        level = v - mu * c
        noise_c = zz - 2.0 * c * z + c * c * ones
        noise_v = yy - 2.0 * mu * yz + mu * mu * zz - 2.0 * level * (y - mu * z) + level**2 * ones
        scale = path.total if path.divides_by_total else float(kernel @ path.weight[points])
        change = (change * scale) ** 2 / self._inflation
        return (
            mu,
            change > SIGNAL**2 * noise_c,
            mu * mu * change > MU_SIGNAL**2 * noise_v,
        )


def mean_and_influence(
    x: Floats, members: Floats, rows: Rows, expected: Floats | None = None
) -> tuple[float, Floats]:
    """A weighted mean over matched rows and the influence of every row on it.

    Hajek: mean = sum w m x / sum w m, influence w m (x - mean) / sum w m. Horvitz-Thompson:
    mean = sum w m x / N, influence (w m x - s mean) / N with sample weights s.

    Args:
      x: [N], an outcome.
      members: [N], match with the policy, in [0, 1].
      rows: the trial.
      expected: [N], what a model expects of each row under the arm that it is assigned; x is then
        what it did not expect. None: there is no model.

    Returns:
      The mean, NaN if nothing is matched, and influences [N].
    """
    found = np.flatnonzero(members)  # of many arms few rows are matched
    influence = np.zeros(x.size)
    if not found.size:
        return np.nan, np.full(x.size, np.nan)
    w, outcome = rows.weight[found] * members[found], x[found]
    if rows.estimator == "ht":
        total = float(rows.sample_weight.sum())
        mean = float(w @ outcome) / total
        influence[found] = w * outcome / total
        influence -= rows.sample_weight * (mean / total)
    else:
        matched = float(w.sum())
        mean = float(w @ outcome) / matched
        influence[found] = w * (outcome - mean) / matched
    if expected is not None:
        share = rows.sample_weight / rows.sample_weight.sum()
        model_mean = float(share @ expected)
        mean += model_mean
        influence += share * (expected - model_mean)
    return mean, influence


def group_means(
    x: Floats, weight: Floats, group: npt.NDArray[np.integer], count: int
) -> tuple[Floats, Floats]:
    """Weighted means of x within groups, and the influence of each row on that of its own group.

    Args:
      x: [N], an outcome.
      weight: [N], weights of the rows.
      group: [N], in [0, count).
      count: number of groups.

    Returns:
      Means [count], NaN of an empty group; influences [N], w (x - mean) / sum of w in the group.
    """
    total = np.bincount(group, weight, count)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(group, weight * x, count) / total
    return mean, weight * (x - mean[group]) / total[group]


def centred(influence: Floats, rows: Rows) -> Floats:
    """Removes from influences what fixed or estimated shares of the arms remove.

    Where propensities are the observed shares (estimated, or arms of fixed size), an arm that got
    more rows by chance does not count for more: psi_i - s_i G_t / sum_{t_i = t} s, with
    G_t = sum_{t_i = t} psi, s the sample weights: the projection off the scores of the shares.

    Args:
      influence: [N].
      rows: the trial.
    """
    if not rows.observed_shares:
        return influence
    sizes = np.where(rows.arm_weights > 0.0, rows.arm_weights, 1.0)
    means = rows.arm_totals(influence) / sizes
    return influence - rows.sample_weight * means[rows.treatment]


def standard_error(influence: Floats, rows: Rows) -> float:
    """Square root of sum psi^2, psi summed within clusters; influences of a mean sum to zero."""
    psi = by_cluster(influence, rows.cluster)
    return float(np.sqrt(psi @ psi))


def by_cluster(x: Floats, cluster: npt.NDArray[np.intp] | None) -> Floats:
    """Sums of x within clusters, [N] -> [number of clusters]; x itself without clusters."""
    if cluster is None:
        return x
    return np.bincount(cluster, weights=x).astype(np.float64, copy=False)


def inflation(rows: Rows) -> float:
    """How much more than independent rows clustered ones vary, in variance of the arms' means."""
    if rows.cluster is None:
        return 1.0
    sizes = np.where(rows.arm_weights > 0.0, rows.arm_weights, 1.0)
    means = rows.arm_totals(rows.sample_weight * rows.response) / sizes
    psi = rows.sample_weight * (rows.response - means[rows.treatment])
    alone = float(psi @ psi)
    return max(standard_error(psi, rows) ** 2 / alone, 1.0) if alone > 0.0 else 1.0


def standardised(influence: Floats, rows: Rows) -> npt.NDArray[np.float32]:
    """Influences of clusters (of rows, without clusters), scaled to a sum of squares of 1."""
    psi = by_cluster(influence, rows.cluster)
    scale = np.sqrt(psi @ psi)
    return (psi / scale if scale > 0.0 else 0.0 * psi).astype(np.float32)


def largest_t(influences: npt.NDArray[np.float32], confidence: float, seed: int) -> float:
    """Quantile of T: half-width of a simultaneous band, in standard errors.

    Args:
      influences: [M, N], of `standardised`; rows of NaN, where nothing is matched, are left out.
      confidence: level.
      seed: seeds the draws.

    Example:
      >>> alone = np.eye(1, dtype=np.float32)
      >>> abs(largest_t(alone, 0.95, seed=0) - 1.96) < 0.05  # one budget: a pointwise interval
      True
    """
    live = influences[np.isfinite(influences[:, 0])]
    correlation = (live @ live.T).astype(np.float64)
    # Eigenvectors, because neighbouring budgets may share all their rows: rank below M.
    values, vectors = np.linalg.eigh(correlation)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    draws = np.random.default_rng(seed).standard_normal((NUM_DRAWS, root.shape[1]))
    largest = np.abs(draws @ root.T).max(axis=1, initial=0.0)
    return float(np.quantile(largest, confidence))
