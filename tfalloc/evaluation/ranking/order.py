"""Rows in the order of a score, ties in one group: what every rank metric is computed from.

For K arms a score has K - 1 columns, one for the upgrade from each arm to the next. The problem is
pooled over neighbouring arms: a row that received arm t stands once as a treated row of the upgrade
t - 1 to t and once as a control row of the upgrade t to t + 1. Two arms: every row stands once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tfalloc.evaluation.trial_rows import Floats, Rows, as_floats, as_rows, column

Ints = npt.NDArray[np.intp]

# What rounding of float32 predictions does to scores, relative to their size: to differences that
# were taken in float32, where most digits cancel, and to what was computed from them in float64.
NEAR_TIE = {"float32": 2.0**-19, "float64": 2.0**-22}
# Scores that lie as densely as that are one group only over so short a stretch.
STRETCH = 16.0


def as_scores(score: npt.ArrayLike) -> Floats:
    """Returns a score as [N, K - 1].

    Raises:
      ValueError: it has another shape, or an entry is NaN; infinite scores are first or last.
    """
    scores = as_floats("score", score)
    if scores.ndim == 1:
        scores = scores[:, np.newaxis]
    if scores.ndim != 2 or 0 in scores.shape:
        raise ValueError(
            f"score has shape {np.shape(score)}; expected [rows] for two arms, or [rows, arms - 1]."
        )
    if np.isnan(scores).any():
        row = int(np.flatnonzero(np.isnan(scores).any(axis=1))[0])
        raise ValueError(f"score is NaN, first in row {row}; expected numbers, or infinities.")
    return scores


def scored_rows(scores: Floats, data: Any, cluster: Any = None, *, costs: bool = True) -> Rows:
    """The trial's rows, as many as there are scores and with one arm more than columns.

    Args:
      scores: [N, K - 1].
      data, cluster, costs: as for `as_rows`.

    Raises:
      ValueError: rows or arms do not fit, an arm has no rows, or as `as_rows`.
    """
    arms = scores.shape[1] + 1
    received = int(column(data, "treatment", required=True).max(initial=0)) + 1
    if received > arms:
        raise ValueError(
            f"score has {arms - 1} columns and data {received} arms; expected [rows, "
            f"{received - 1}], one score for each upgrade to the next arm (see aucc_score)."
        )
    rows = as_rows(data, arms, cluster=cluster, costs=costs)
    if scores.shape[0] != rows.treatment.size:
        raise ValueError(
            f"score has {scores.shape[0]} rows and data {rows.treatment.size}; expected one score "
            "for each row: predict on the features of the same data."
        )
    empty = np.flatnonzero(rows.arm_weights == 0.0)
    if empty.size:
        raise ValueError(
            f"no row received arm {rows.names[empty[0]]!r}; expected rows of every arm: a score is "
            "judged by comparing them."
        )
    return rows


def tie_groups(keys: Floats) -> Ints:
    """Numbers the groups of scores that are equal up to float32 rounding.

    Differences and ratios of float32 predictions that are equal on paper differ by some 1e-7, which
    would rank users by noise. Neighbours at most `NEAR_TIE` apart, relative to their size, are one
    group; where scores lie so densely that this would join very many, groups are as wide as that.

    Args:
      keys: [M], scores in descending order.

    Returns:
      [M], ascending from 0.

    Example:
      >>> tie_groups(np.array([np.inf, 0.3, 0.1 + 2e-8, 0.1, -0.2])).tolist()
      [0, 1, 2, 2, 3]
    """
    if not keys.size:
        return np.empty(0, np.intp)
    near, keys = NEAR_TIE[keys.dtype.name], keys.astype(np.float64)
    finite = np.isfinite(keys)
    size = np.abs(np.where(finite, keys, 0.0))
    # Near 0 the rounding is that of the usual score.
    size = np.maximum(size, np.median(size[finite]) if finite.any() else 0.0)
    with np.errstate(invalid="ignore"):  # inf less inf is no number: they are one group
        chain = np.cumsum(np.append(False, keys[:-1] - keys[1:] > near * size[:-1]))
        starts = np.flatnonzero(np.append(True, chain[1:] != chain[:-1])[: keys.size])
        ends = np.append(starts[1:], keys.size) - 1
        wide = (keys[starts] - keys[ends] > STRETCH * near * size[starts])[chain]
    # In a wide chain a grid of about that relative width, whatever rows there are.
    step = near * np.exp2(np.ceil(np.log2(np.where(size > 0.0, size, 1.0))))
    cell = np.floor(np.where(finite & wide, keys, 0.0) / step)
    return np.cumsum(np.append(False, (chain[1:] != chain[:-1]) | (cell[1:] != cell[:-1])))


class Ranking:
    """Pseudo-rows sorted by descending score.

    Args:
      scores: [N, K - 1].
      treatment: [N], arm received.
      kept: [N], whether a row adds anything to the sums; None: all do. The others count in `size`.

    Attributes:
      row: [M], row of each kept pseudo-row, in order.
      treated: [M], whether it is the treated side of its upgrade.
      start: [G], where each group of scores that tie begins in `row`.
      size: [G], pseudo-rows of each group, kept or not.
    """

    def __init__(
        self,
        scores: Floats,
        treatment: npt.NDArray[np.int32],
        kept: npt.NDArray[np.bool_] | None = None,
    ):
        if scores.shape[1] == 1:
            row = np.arange(treatment.size)
            treated, keys = treatment == 1, scores[:, 0]
        else:
            sides = []
            for j in range(scores.shape[1]):
                for arm in (j, j + 1):
                    found = np.flatnonzero(treatment == arm)
                    sides.append((found, np.full(found.size, arm > j), scores[found, j]))
            row, treated, keys = (np.concatenate(x) for x in zip(*sides, strict=True))
        order = np.argsort(-keys, kind="stable")
        keys = keys[order]
        group = tie_groups(keys)
        size = np.bincount(group)
        if kept is not None:
            place = kept[row[order]]
            order, group = order[place], group[place]
        self.row, self.treated = row[order], treated[order]
        self.start = np.flatnonzero(np.append(True, group[1:] != group[:-1])[: group.size])
        self.size = size[group[self.start]]

    def coarser(self, max_groups: int) -> Ranking:
        """The same order in at most some `max_groups` groups, neighbours being pooled."""
        if self.start.size <= max_groups:
            return self
        _, first = np.unique(self.start // -(-self.row.size // max_groups), return_index=True)
        pooled = object.__new__(Ranking)
        pooled.row, pooled.treated = self.row, self.treated
        pooled.start, pooled.size = self.start[first], np.add.reduceat(self.size, first)
        return pooled

    def sums(self, x: Floats) -> Floats:
        """Sums within groups, [..., M] -> [..., G]."""
        if self.start.size == x.shape[-1]:
            return x
        return np.add.reduceat(x, self.start, axis=-1)
