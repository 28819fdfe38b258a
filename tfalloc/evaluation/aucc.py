"""The area under the cost curve: how well a score ranks users by response per unit of cost.

Rows sorted by score, descending, arm sizes N_t of the whole set: for a prefix k

    dC(k) = sum_{i<=k, treated} cost_i / N_T - sum_{i<=k, control} cost_i / N_C
    dR(k) = the same with response

and AUCC is the area under the curve (dC(k) / dC(n), dR(k) / dR(n)): .5 for a random score.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tfalloc.evaluation._checks import check_confidence
from tfalloc.evaluation._cost_curve import CostCurves, uplift_of
from tfalloc.evaluation._ranking import as_scores
from tfalloc.evaluation._resampling import as_num_bootstrap
from tfalloc.evaluation._rows import Floats
from tfalloc.evaluation.compare import paired_difference
from tfalloc.evaluation.rank_metric import RankMetric, interval


def aucc(
    score: npt.ArrayLike,
    data: Any,
    *,
    num_thresholds: int = 200,
    method: str = "paper",
    num_bootstrap: int = 0,
    cluster: Any = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> RankMetric:
    """Area under the cost curve, response uplift against cost uplift, of a ranking of users.

        "paper"      q = num_thresholds equal steps of dC(n) / q; dR_k is dR at the first prefix at
                     which dC reaches step k, dR_0 = 0, dR_q = dR(n):
                     AUCC = sum_{k=0..q} dR_k / (dR(n) (q + 1))
        "trapezoid"  sum_k (dC(k) - dC(k-1)) (dR(k) + dR(k-1)) / (2 dC(n) dR(n))

    **q is part of the number**: compare only figures of the same q and method. AUCC is not bounded
    by 1, is no amount of anything, and weighs all budgets alike; `compare` says what a policy
    brings at *your* budget. Rows of equal score count as if in random order, by a straight line
    through m of them in m steps, so the result does not depend on the order of rows.

    Several arms (MT-AUCC): the upgrades from each arm to the next are pooled in one ranking. A row
    that received arm t is a treated row of the upgrade t - 1 to t, with the score of that upgrade,
    and a control row of t to t + 1; its outcomes are divided by N_t. Arms go from cheap to dear.

    Args:
      score: [rows], higher ranks first; [rows, num_treatments - 1] for several arms; `aucc_score`
        makes one of predictions. Infinite scores are allowed.
      data: trial rows, as for `policy_outcome`. With sample weights s or propensities p a row
        counts s / p times, also in N_t.
      num_thresholds: q of "paper", at least 2; and points of `curve`.
      method: "paper" or "trapezoid".
      num_bootstrap: replicates for interval and standard error; 0: none. 200 do.
      cluster: as for `policy_outcome`: whole clusters are drawn.
      confidence: level of the interval.
      seed: of the bootstrap.

    Returns:
      `RankMetric`, with the curve's columns threshold (share of dC(n)), response (share of dR(n))
      and random. In a replicate neighbouring scores beyond 16,384 groups are pooled.

    Raises:
      ValueError: input does not fit; the arms' costs differ by nothing or the wrong way, or their
        responses do: there is no curve then.

    Warns:
      UserWarning: the data are too small for the thresholds, or for dC(n) or dR(n) to be told from
        0 by four standard errors.

    Example:
      >>> import numpy as np
      >>> from tfalloc.evaluation import aucc
      >>> rng = np.random.default_rng(0)
      >>> worth, arm = rng.random(20_000), rng.integers(0, 2, 20_000)
      >>> trial = {"treatment": arm, "cost": arm, "response": rng.random(20_000) < worth * arm}
      >>> bool(abs(aucc(worth, trial).value - 2 / 3) < 0.02)  # the integral of 2 s - s^2
      True

    Source: Du, Lee, Ghaffarizadeh, "Improve User Retention with Causal Learning", 2019; several
    arms: Zhou et al., "Direct Heterogeneous Causal Learning for Resource Allocation", 2023.
    """
    curves = CostCurves(data, num_thresholds, method, cluster)
    check_confidence(confidence)
    replicates = as_num_bootstrap(num_bootstrap)
    scores = as_scores(score)
    rows = curves.rows_of(scores)
    value, points = curves.estimate(scores, rows)
    found = curves.replicates([scores], rows, replicates, seed)[0]
    share = np.linspace(0.0, 1.0, points.size)
    return RankMetric(
        value=value,
        **interval(value, found, confidence),
        random=0.5,
        response_uplift=uplift_of(rows.response, rows)[0],
        cost_uplift=uplift_of(rows.cost, rows)[0],
        curve=pd.DataFrame({"threshold": share, "response": points, "random": share}),
        confidence=confidence,
        num_bootstrap=replicates,
    )


def compare_aucc(
    scores: Mapping[str, npt.ArrayLike],
    data: Any,
    *,
    reference: str | None = None,
    num_thresholds: int = 200,
    method: str = "paper",
    num_bootstrap: int = 200,
    cluster: Any = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """AUCC of several scores on the same rows, and paired differences to a reference.

    All scores are judged on the same bootstrap replicates, so what they share cancels: on millions
    of rows the difference of two AUCCs is known several times better than either.

    Args:
      scores: {name: score}, each as for `aucc`.
      data: trial rows; the same for all.
      reference: name of the score to compare with; None: the first.
      num_thresholds, method, cluster, confidence, seed: as for `aucc`.
      num_bootstrap: replicates, at least 20.

    Returns:
      One row per score, in the given order, index "model": aucc, low, high, stderr, difference,
      difference_low, difference_high, difference_stderr, p_value (two-sided, normal, of no
      difference; not corrected for several comparisons). The reference has NaN differences.

    Raises:
      ValueError: as `aucc`, no score is given, or the reference is not among them.

    Example:
      >>> import numpy as np
      >>> from tfalloc.evaluation import compare_aucc
      >>> rng = np.random.default_rng(0)
      >>> worth, arm = rng.random(5_000), rng.integers(0, 2, 5_000)
      >>> trial = {"treatment": arm, "cost": arm, "response": rng.random(5_000) < worth * arm}
      >>> table = compare_aucc({"noise": rng.random(5_000), "good": worth}, trial)
      >>> bool(table.p_value["good"] < 0.001)
      True
    """
    if not scores:
        raise ValueError("scores is empty; expected {name: score}.")
    first = next(iter(scores)) if reference is None else reference
    if first not in scores:
        raise ValueError(
            f"reference={reference!r} is not among the scores {list(scores)}; expected one of them."
        )
    check_confidence(confidence)
    replicates = as_num_bootstrap(num_bootstrap, least=20)
    curves = CostCurves(data, num_thresholds, method, cluster)
    columns: list[Floats] = []
    values = []
    for name, given in scores.items():
        try:
            columns.append(as_scores(given))
            rows = curves.rows_of(columns[-1])
            values.append(curves.estimate(columns[-1], rows)[0])
        except ValueError as error:
            raise ValueError(f"score {name!r}: {error}") from error
    found = curves.replicates(columns, rows, replicates, seed)
    base = list(scores).index(first)
    table = []
    for i, value in enumerate(values):
        gap = value - values[base] if i != base else np.nan
        spread = interval(gap, found[i] - found[base], confidence)["stderr"]
        table.append(
            {"aucc": value}
            | interval(value, found[i], confidence)
            | paired_difference(gap, spread if i != base else np.nan, confidence)
        )
    return pd.DataFrame(table, index=pd.Index(list(scores), name="model"))
