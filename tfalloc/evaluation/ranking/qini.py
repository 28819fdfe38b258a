"""Qini coefficient and area under the uplift curve: rankings by response alone, without costs.

Rows sorted by score, descending. With N_T, N_C, Y_T, Y_C the numbers and responses of treated and
control rows among the first k rows,

    Qini curve      Q(k) = Y_T - Y_C N_T / N_C                (Radcliffe 2007)
    uplift curve    G(k) = (Y_T / N_T - Y_C / N_C) k          (cumulative gain)

over the share k / n of rows, from (0, 0); a ratio with an empty arm counts as 0, and tied rows are
one step. The random line joins (0, 0) to the end of the curve.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tfalloc.evaluation.ranking.aucc import uplift_of, warn_if_unclear
from tfalloc.evaluation.ranking.bootstrap import (
    MAX_GROUPS,
    RankMetric,
    Resampler,
    as_num_bootstrap,
    interval,
)
from tfalloc.evaluation.ranking.order import Ranking, as_scores, scored_rows
from tfalloc.evaluation.trial_rows import Floats, Rows, check_confidence, column, outcomes_of

NORMALIZATIONS = ("end", "perfect")
# Relative to the sum of responses: an end point this small is rounding.
ROUNDING = 1e-10
CURVE_POINTS = 200


def qini(
    score: npt.ArrayLike,
    data: Any,
    *,
    normalize: str = "end",
    num_bootstrap: int = 0,
    cluster: Any = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> RankMetric:
    """Qini coefficient: area between the Qini curve and its random line, two arms.

        "end"        (area under Q - Q(n) / 2) / |Q(n)|           causalml's qini_score
        "perfect"    the same area over that of the best possible ranking, in which treated
                     responders come first and control responders last
                                                                  scikit-uplift's qini_auc_score
    Areas are trapezoids over the share of rows. A random score has 0.

    Qini knows no costs: of two users with the same uplift it prefers neither, whatever they cost.
    Judge spending by `aucc`, or better by `compare`.

    Args:
      score: [rows], higher ranks first, such as a predicted uplift of response.
      data: trial rows, as for `policy_outcome`, with two arms; a cost is not needed. Rows count by
        sample weight / propensity, and by sample weight alone in the share of rows.
      normalize: "end" or "perfect"; the latter needs responses of 0 or 1.
      num_bootstrap: replicates for interval and standard error; 0: none.
      cluster: as for `policy_outcome`: whole clusters are drawn.
      confidence: level of the interval.
      seed: seeds the bootstrap.

    Returns:
      `RankMetric`, with the curve's columns share (of rows), response (Q as a share of |Q(n)|) and
      random.

    Raises:
      ValueError: input does not fit, or there is nothing to divide by.

    Warns:
      UserWarning: an interval is asked for, and the response uplift is within four standard
        errors of 0.

    Example:
      >>> from tfalloc.evaluation import qini
      >>> trial = {"treatment": [1, 0, 1, 0], "response": [1, 0, 0, 0]}
      >>> qini([4.0, 3.0, 2.0, 1.0], trial).value
      0.375

    Source: Radcliffe, "Using Control Groups to Target on Predicted Lift", 2007.
    """
    return _metric("qini", score, data, normalize, num_bootstrap, cluster, confidence, seed)


def auuc(
    score: npt.ArrayLike,
    data: Any,
    *,
    normalize: str = "end",
    num_bootstrap: int = 0,
    cluster: Any = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> RankMetric:
    """Area under the uplift curve (cumulative gain), two arms.

        "end"        area under G / |G(n)|; random: .5
                     causalml's auuc_score(normalize=True), by trapezoids instead of a plain mean
        "perfect"    (area under G - G(n) / 2) over that of the best possible ranking; random: 0
                     scikit-uplift's uplift_auc_score

    Args:
      score, data, normalize, num_bootstrap, cluster, confidence, seed: as for `qini`.

    Returns:
      `RankMetric`, with the curve's columns share (of rows), response (G as a share of |G(n)|) and
      random.

    Raises:
      ValueError: input does not fit, or there is nothing to divide by.

    Warns:
      UserWarning: an interval is asked for, and the response uplift is within four standard
        errors of 0.

    Example:
      >>> from tfalloc.evaluation import auuc
      >>> trial = {"treatment": [1, 0, 1, 0], "response": [1, 0, 0, 0]}
      >>> auuc([4.0, 3.0, 2.0, 1.0], trial).value
      0.6875

    Source: Gutierrez, Gerardy, "Causal Inference and Uplift Modelling: A Review of the Literature",
    2017.
    """
    return _metric("auuc", score, data, normalize, num_bootstrap, cluster, confidence, seed)


def _metric(
    kind: str,
    score: npt.ArrayLike,
    data: Any,
    normalize: str,
    num_bootstrap: int,
    cluster: Any,
    confidence: float,
    seed: int,
) -> RankMetric:
    if normalize not in NORMALIZATIONS:
        raise ValueError(f"normalize={normalize!r} is not known; expected one of {NORMALIZATIONS}.")
    check_confidence(confidence)
    num = as_num_bootstrap(num_bootstrap)
    scores, data = as_scores(score), outcomes_of(data, cluster)
    received = int(column(data, "treatment", required=True).max(initial=0)) + 1
    if scores.shape[1] != 1 or received > 2:
        raise ValueError(
            f"score has {scores.shape[1]} columns and data {received} arms; expected [rows]: "
            f"{kind} is defined for two arms only, use aucc for several."
        )
    rows = scored_rows(scores, data, cluster, costs=False)
    rankings = [Ranking(scores, rows.treatment)]
    if normalize == "perfect":
        rankings.append(Ranking(_perfect(kind, rows)[:, np.newaxis], rows.treatment))
    exact = [_Curve(kind, ranking, rows)() for ranking in rankings]
    share, height = exact[0]
    end = float(height[0, -1])
    if abs(end) <= ROUNDING * float(rows.weight @ np.abs(rows.response)):
        raise ValueError(
            f"the {kind} curve ends at {end:.3g}: the arms respond alike, so there is nothing to "
            "divide by; expected a response uplift other than 0, which takes more rows."
        )

    uplift, stderr = uplift_of(rows.response, rows)
    if num:
        warn_if_unclear("response uplift", uplift, stderr, kind)

    def values(curves: list[tuple[Floats, Floats]]) -> Floats:
        areas, ends = [_area(x, y) for x, y in curves], curves[0][1][:, -1]
        with np.errstate(divide="ignore", invalid="ignore"):
            if normalize == "perfect":
                return (areas[0] - ends / 2.0) / (areas[1] - ends / 2.0)
            return (areas[0] - (ends / 2.0 if kind == "qini" else 0.0)) / np.abs(ends)

    value = float(values(exact)[0])
    found: list[Floats] = [np.empty(0)]
    if num:
        resampler = Resampler(rows, None, seed)
        coarse = [_Curve(kind, ranking.coarser(MAX_GROUPS), rows) for ranking in rankings]
        for counts, _ in resampler.draws(num, rows.treatment.size):
            found.append(values([c(counts[:, resampler.unit[c.row]]) for c in coarse]))
    at = np.linspace(0.0, 1.0, CURVE_POINTS + 1)
    return RankMetric(
        value=value,
        **interval(value, np.concatenate(found), confidence),
        random=float(0.5 * np.sign(end)) if (kind, normalize) == ("auuc", "end") else 0.0,
        response_uplift=uplift,
        cost_uplift=float("nan"),
        curve=pd.DataFrame(
            {
                "share": at,
                "response": np.interp(at, share[0], height[0] / abs(end)),
                "random": np.sign(end) * at,
            }
        ),
        confidence=confidence,
        num_bootstrap=num,
    )


class _Curve:
    """The Qini or uplift curve of one ranking, under any counts of the rows.

    Args:
      kind: "qini" or "auuc".
      ranking: G groups of all rows.
      rows: the trial.
    """

    def __init__(self, kind: str, ranking: Ranking, rows: Rows):
        self._kind, self._ranking, self.row = kind, ranking, ranking.row
        w, y, s = (x[self.row] for x in (rows.weight, rows.response, rows.sample_weight))
        t = ranking.treated
        self._columns = (w * t, w * ~t, w * y * t, w * y * ~t, s)

    def __call__(self, counts: npt.NDArray[Any] | None = None) -> tuple[Floats, Floats]:
        """Share of rows and height of the curve at the groups' ends, [B, G + 1] each, from (0, 0).

        Args:
          counts: [B, N], how often each row counts, in the ranking's order; None: once.
        """

        def running(x: Floats) -> Floats:
            sums = self._ranking.sums(x[np.newaxis] if counts is None else counts * x)
            return np.pad(np.cumsum(sums, axis=1), ((0, 0), (1, 0)))

        def per(total: Floats, number: Floats) -> Floats:
            return np.divide(total, number, out=np.zeros_like(total), where=number > 0.0)

        treated, control, response, response_of_control, passed = map(running, self._columns)
        if self._kind == "qini":
            height = response - per(response_of_control, control) * treated
        else:
            height = (per(response, treated) - per(response_of_control, control)) * passed
        return passed / passed[:, -1:], height


def _area(x: Floats, y: Floats) -> Floats:
    return np.einsum("bg,bg->b", np.diff(x), 0.5 * (y[:, 1:] + y[:, :-1]))


def _perfect(kind: str, rows: Rows) -> Floats:
    """The score that the best possible ranking of these very outcomes has, [N].

    Raises:
      ValueError: responses are not 0 or 1.
    """
    y, t = rows.response, rows.treatment
    if not np.isin(y, (0.0, 1.0)).all():
        raise ValueError(
            "normalize='perfect' knows the best ranking of responses 0 and 1 only; expected those, "
            "or normalize='end'."
        )
    if kind == "qini":
        return np.where(t == 1, y, -y)
    # As scikit-uplift: treated responders and control non-responders first; the arm with the fewer
    # misfits decides which of the two, and which of the others come last.
    responders = float(rows.sample_weight @ ((y == 1.0) & (t == 0)))
    silent = float(rows.sample_weight @ ((y == 0.0) & (t == 1)))
    return 2.0 * (y == t) + (y if responders > silent else t)
