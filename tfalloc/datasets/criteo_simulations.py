"""Simulations after Criteo Uplift: its marginals with a known truth, and truth on its features."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pandas as pd

from tfalloc._files import new_file
from tfalloc.data.columns import require_columns
from tfalloc.data.tables import open_table
from tfalloc.datasets.public_trials import CRITEO_FEATURES
from tfalloc.datasets.simulations import (
    Draw,
    Simulation,
    check_rows,
    generator,
    received,
    sigmoid,
)

SHARES = np.array([0.15, 0.85])
CHUNK_ROWS = 1_000_000
ROW_GROUP = 125_000

# Share of rows at the mode, mode, and scale of what lies beyond, after Criteo Uplift v2.1.
_CUT = np.array(
    [-0.631, 2.226, 0.055, 0.904, 1.706, 1.607, -0.631, 1.607, 0.055, 0.820, 1.706, 2.197], "f4"
)
_MODE = np.array(
    [12.616, 10.060, 8.214, 4.680, 10.281, 4.115, 0.294, 4.834, 3.972, 13.190, 5.300, -0.169], "f4"
)
_SCALE = np.array([5.5, 1.6, 0.6, -2.2, 2.1, -2.1, -4.5, 9.0, -0.10, 14.0, 1.2, -0.18], "f4")
# Loadings of the twelve latent normals on three common factors.
_LOADING = np.array(
    [
        [-0.3, 0.2, -0.7, 0.4, 0.6, 0.4, 0.3, 0.3, 0.7, 0.8, 0.5, 0.5],
        [0.1, 0.5, 0.1, 0.5, 0.1, 0.7, 0.5, 0.7, 0.1, 0.1, 0.1, 0.1],
        [-0.4, 0.1, 0.1, 0.1, 0.6, 0.1, 0.1, 0.1, 0.2, 0.1, 0.6, 0.6],
    ],
    "f4",
)
_A, _B, _C, _D = -4.24266, -0.90141, -3.73295, -2.66150


def draw(num_rows: int, seed: int, stream: int = 0) -> Draw:
    """Draws one chunk of rows with features as columns f0 … f11."""
    rng = generator("criteo", seed, stream)
    latent = rng.standard_normal((num_rows, 3), "f4") @ _LOADING
    latent += rng.standard_normal((num_rows, 12), "f4") * np.sqrt(1 - (_LOADING**2).sum(0))
    x = np.ascontiguousarray(np.maximum(latent - _CUT, 0).T)
    features = {f"f{j}": _MODE[j] + _SCALE[j] * x[j] for j in range(12)}
    response, cost = expectations(x)
    treatment = (rng.random(num_rows, "f4") < SHARES[1]).astype(np.int32)
    visit_probability = received(cost, treatment)
    # One uniform decides both: a conversion (below r) is inside a visit (below p).
    uniform = rng.random(num_rows, "f8")
    visit = uniform < visit_probability
    conversion = uniform < received(response, treatment)
    return Draw(
        features,
        treatment,
        conversion.astype("f4"),
        visit.astype("f4"),
        response.astype("f4"),
        cost.astype("f4"),
    )


def expectations(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns expected (response [N, 2], cost [N, 2]) for hinged latents x [12, N]."""
    p0, tau_c_shape, rho_shape, q_shape = _shapes(x)
    tau_c = np.exp(_B) * tau_c_shape
    tau_r = np.minimum(np.exp(_C) * rho_shape, 0.95) * tau_c
    r0 = p0 * np.minimum(np.exp(_D) * q_shape, 0.8)
    return np.stack([r0, r0 + tau_r], 1), np.stack([p0, p0 + tau_c], 1)


def _shapes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns p0 and the unscaled tau_c, rho and q0, each [N]."""
    capped = np.minimum(x, 3)
    p0 = sigmoid(
        _A
        + 1.1 * capped[9]
        + 0.8 * capped[8]
        + 0.6 * capped[4]
        + 0.5 * capped[10]
        + 0.35 * capped[6]
        - 0.25 * x[0]
    )
    responsive = sigmoid(3 * (x[6] + 0.6 * x[2] - 1.1 + 0.8 * (x[9] > 0) - 0.7 * (x[0] > 1.2)))
    tau_c = p0 * (1 - p0) * (0.15 + responsive)
    rho = np.exp(
        2.5 * ((x[2] > 0.5) & (x[0] < 0.9))
        - 1.3 * ((x[6] > 1) & (x[0] >= 0.9))
        + 0.9 * (x[8] > 0.3)
        - 0.5 * capped[3]
        + 0.6 * np.sin(2.5 * x[0])
        + 0.8 * capped[4]
    )
    q0 = 0.4 + capped[4] + 0.6 * capped[11] + 0.5 * (x[9] > 0.6)
    return p0, tau_c, rho, q0


def _chunks(num_rows: int) -> list[int]:
    """Sizes of the chunks, a function of `num_rows` alone: rows do not depend on who draws them."""
    return [min(CHUNK_ROWS, num_rows - start) for start in range(0, num_rows, CHUNK_ROWS)]


def criteo_like(num_rows: int = 100_000, seed: int = 0, features: bool = True) -> Simulation:
    """Simulates a trial with the marginals of Criteo Uplift, and a known truth.

    Let g be twelve correlated normals (three common factors: g_j = L_j . h + sqrt(1 - |L_j|^2)
    e_j). Feature j equals its mode wherever Phi(g_j) is below the share m_j of rows that have that
    mode in Criteo Uplift v2.1, and leaves it beyond: with x_j = max(g_j - Phi^-1(m_j), 0),

        f_j = mode_j + scale_j x_j                                                (ties as Criteo's)

    Everything below is a function of x only, that is, of the features. With 1{.} an indicator:

        logit p0   = a + 1.1 x9' + .8 x8' + .6 x4' + .5 x10' + .35 x6' - .25 x0   control visit
        responsive = sigmoid(3 (x6 + .6 x2 - 1.1 + .8 1{x9 > 0} - .7 1{x0 > 1.2}))
        tau_c = p0 (1 - p0) e^b (.15 + responsive)                                visit uplift
        log rho = c + 2.5 1{x2 > .5} 1{x0 < .9} - 1.3 1{x6 > 1} 1{x0 >= .9}
                  + .9 1{x8 > .3} - .5 x3' + .6 sin(2.5 x0) + .8 x4'              value for money
        tau_r = min(rho, .95) tau_c                                               conversion uplift
        r0    = p0 q0,  q0 = min(e^d (.4 + x4' + .6 x11' + .5 1{x9 > .6}), .8)    control conversion

    where a prime caps x at 3. Then visits are p0 and p0 + tau_c, conversions r0 and r0 + tau_r;
    both uplifts are positive. A conversion happens only on a visit. a, b, c and d are set so that
    control visits (.0382), treated visits (.0485), treated conversions (.00309) and control
    conversions (.00194) are those of the 13,979,592 rows of Criteo Uplift v2.1. Treatment:
    Bernoulli(.85).

    Treatment 0 (15 %) and 1 (85 %); cost is a visit (4.70 % of rows), response a conversion
    (.29 %). Uplifts are positive and heavy-tailed: a tenth of the users carry two thirds of the
    conversion uplift. Sorting by the true ratio of uplifts has an AUCC of .80 in the population;
    the best log-linear score in the features, about .69.

    Args:
      num_rows: N, at least 100.
      seed: the same seed gives the same data.
      features: False replaces f0 … f11 by one constant column "one", for work on outcomes only.

    Returns:
      A `Simulation`.

    Raises:
      ValueError: `num_rows` is too small.

    Example:
      >>> simulation = criteo_like(num_rows=1000)
      >>> simulation.data.feature_names[-1], simulation.true_cost.shape
      ('f11', (1000, 2))
    """
    check_rows(num_rows, 100)
    draws = []
    for stream, size in enumerate(_chunks(num_rows)):
        rows = draw(size, seed, stream)
        if not features:
            rows = dataclasses.replace(rows, features={"one": np.ones(size, "f4")})
        draws.append(rows)
    whole = Draw(
        {
            name: np.concatenate([rows.features[name] for rows in draws])
            for name in draws[0].features
        },
        *[
            np.concatenate([getattr(rows, name) for rows in draws])
            for name in ("treatment", "response", "cost", "true_response", "true_cost")
        ],
    )
    return whole.simulation(["0", "1"], SHARES)


def criteo_like_parquet(
    path: str | os.PathLike[str], num_rows: int = 13_979_592, seed: int = 0, *, truth: bool = False
) -> Path:
    """Writes `criteo_like` to one Parquet file with constant memory.

    Columns: f0 … f11, treatment, conversion, visit (int8), as in Criteo's own file; the rows are
    those of `criteo_like(num_rows, seed)`. The file appears under its name only when complete.

    Args:
      path: the file to write; its directory must exist. An existing file is replaced.
      num_rows: N.
      seed: the same seed gives the same rows.
      truth: also write true_response_0, true_response_1, true_cost_0, true_cost_1. Never use
        them as features.

    Returns:
      The path.

    Raises:
      ValueError: `num_rows` is too small.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_rows(num_rows, 100)
    path, writer = Path(path), None
    with new_file(path, overwrite=True) as temporary:
        try:
            for stream, size in enumerate(_chunks(num_rows)):
                rows = draw(size, seed, stream)
                columns = dict(rows.features)
                columns["treatment"] = rows.treatment.astype(np.int8)
                columns["conversion"] = rows.response.astype(np.int8)
                columns["visit"] = rows.cost.astype(np.int8)
                if truth:
                    for arm in range(2):
                        columns[f"true_response_{arm}"] = rows.true_response[:, arm]
                        columns[f"true_cost_{arm}"] = rows.true_cost[:, arm]
                table = pa.table(columns)
                writer = writer or pq.ParquetWriter(temporary, table.schema)
                writer.write_table(table, row_group_size=ROW_GROUP)
        finally:
            if writer is not None:
                writer.close()
    return path


_VOUCHERS = np.array([0.0, 0.5, 1.0, 2.0])
_ANY_GAIN = np.array([0.0, 1.0, 1.1, 1.2])
_LARGE_GAIN = np.array([0.0, 0.0, 0.2, 1.0])
_REDEEMED = np.array([0.0, 0.6, 0.8, 1.0])


def criteo_outcomes(
    path: str | os.PathLike[str], seed: int = 0, *, part: int | None = None
) -> Simulation:
    """Simulates outcomes on the real features of Criteo Uplift: truth is known, features are real.

    Let x_j in (-1, 1) be feature j's rank among all rows of the file, ties at their mean rank,
    scaled by 2 rank - 1. Four arms, drawn with equal probability, offer a voucher worth d = (0, .5,
    1, 2):

        A = 1{x0 > .1, |x6| < .6, x8 < .4}       reacts to any voucher
        B = 1{x2 > .3} xor 1{x6 > .2}            reacts to a large one only
        C = 1{x9 > .5 or x3 < -.5}               redeems vouchers and buys no more than before
        v_0 = sigmoid(-2.9 + .9 x9 + .6 x0 - .6 x8 + .5 x0 x6)
        v_j = v_0 + (1 - v_0) (.05 A a_j + .07 B b_j + .004 j)
        p_j = (.10 + .35 C + .15 (1 + x10) / 2) g_j + .3 v_j
        a = (0, 1, 1.1, 1.2),  b = (0, 0, .2, 1),  g = (0, .6, .8, 1)

    v is the response (a purchase), p the probability of redemption (p_0 = 0), and cost is d times
    redemption. Redemption and purchase are independent given features and arm. Steps in the
    features and a response that rises late in the arm's order are what a model linear in either
    cannot follow.

    Args:
      path: Parquet, or CSV (also .gz), with columns f0 … f11; others are not read.
      seed: the same seed gives the same data.
      part: 0 or 1: one random half of the rows, to learn from, or the other, to judge on; None:
        all of them. Halves depend on the seed.

    Returns:
      A `Simulation` with features f0 … f11 and four treatments.

    Raises:
      FileNotFoundError: nothing at `path`.
      ValueError: a column is missing, or `part` is another.

    Example:
      >>> import numpy as np, pandas as pd, tempfile, os
      >>> path = os.path.join(tempfile.mkdtemp(), "criteo.csv")
      >>> table = np.random.default_rng(0).normal(size=(400, 12))
      >>> pd.DataFrame(table, columns=[f"f{j}" for j in range(12)]).to_csv(path, index=False)
      >>> criteo_outcomes(path, part=0).data.treatment_names
      ['0', '0.5', '1', '2']
    """
    if part not in (None, 0, 1):
        raise ValueError(f"part={part!r}; expected 0, 1 or None (all rows).")
    table = _criteo_features(path)
    ranks = table.rank(method="average").to_numpy("f8")
    x = (2.0 * (ranks - 0.5) / len(table) - 1.0).T
    response, cost = voucher_outcomes(x)
    rng = generator("outcomes", seed)
    treatment = rng.integers(0, len(_VOUCHERS), len(table), "i4")
    buys = rng.random(len(table)) < received(response, treatment)
    spend = _VOUCHERS[treatment]
    probability = received(cost, treatment) / np.where(spend > 0, spend, 1.0)
    redeems = rng.random(len(table)) < probability
    rows = np.arange(len(table))
    if part is not None:
        rows = np.flatnonzero((rng.random(len(table)) < 0.5) == bool(part))
    drawn = Draw(
        {name: table[name].to_numpy("f4")[rows] for name in CRITEO_FEATURES},
        treatment[rows],
        buys[rows].astype("f4"),
        (spend * redeems)[rows].astype("f4"),
        response[rows].astype("f4"),
        cost[rows].astype("f4"),
    )
    return drawn.simulation([f"{value:g}" for value in _VOUCHERS], np.full(len(_VOUCHERS), 0.25))


def voucher_outcomes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns expected (response [N, 4], cost [N, 4]) for scaled ranks x [12, N]."""
    a = (x[0] > 0.1) & (np.abs(x[6]) < 0.6) & (x[8] < 0.4)
    b = (x[2] > 0.3) ^ (x[6] > 0.2)
    c = (x[9] > 0.5) | (x[3] < -0.5)
    base = sigmoid(-2.9 + 0.9 * x[9] + 0.6 * x[0] - 0.6 * x[8] + 0.5 * x[0] * x[6])
    gain = (
        0.05 * np.outer(a, _ANY_GAIN)
        + 0.07 * np.outer(b, _LARGE_GAIN)
        + 0.004 * np.arange(len(_VOUCHERS))
    )
    response = base[:, None] + (1.0 - base[:, None]) * gain
    habit = 0.10 + 0.35 * c + 0.15 * (1.0 + x[10]) / 2.0
    redeemed = np.outer(habit, _REDEEMED) + 0.3 * response * (_VOUCHERS > 0)
    return response, _VOUCHERS * redeemed


def _criteo_features(path: str | os.PathLike[str]) -> pd.DataFrame:
    if not os.path.exists(path):
        raise FileNotFoundError(f"no file at {os.fspath(path)}; expected one of Criteo Uplift.")
    try:
        table = open_table(path)
        require_columns([("feature", name) for name in CRITEO_FEATURES], table.columns)
        kinds = dict.fromkeys(CRITEO_FEATURES, "numeric")
        return pd.concat(table.chunks(CRITEO_FEATURES, kinds), ignore_index=True)
    except ValueError as error:
        reason = str(error).splitlines()[0][:160]
        raise ValueError(
            f"{os.fspath(path)} is not a file of Criteo Uplift ({reason}); expected columns f0 … "
            "f11 in Parquet or CSV."
        ) from error
