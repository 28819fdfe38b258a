"""How a single learner sees the arm: the columns it gets beside, or in place of, the features.

With features x and arm t of K,

    OneHotArms    [x, e_t]                     the S-learner; interactions are the learner's work
    OrderedArms   [x, 1(r_t >= 1), …]          likewise; one split of a tree parts cheap from dear
    SplineArms    (1, x) times S(p_t)          every coefficient is a smooth function of the arm

where e_t is the t-th unit vector, r_t the arm's rank by cost (0 the cheapest) and S a B-spline
basis on the arms' positions p: a linear learner then fits sum_m S_m(p) (a_m + b_m x), K curves in
far fewer than K (D + 1) coefficients.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import numpy.typing as npt

from tfalloc.baselines.learners import require_sklearn


class OneHotArms:
    """Features and one column for each arm."""

    def fit(self, mean_cost: np.ndarray) -> OneHotArms:
        """Learns the number of arms from their mean costs, [K]."""
        self.columns = np.eye(len(mean_cost), dtype=np.float32)
        return self

    def __call__(self, matrix: np.ndarray, arm: np.ndarray) -> np.ndarray:
        """[N, D + M] from features [N, D] and arms [N], whose columns are [K, M]."""
        return np.concatenate([matrix, self.columns[arm]], axis=1)


class OrderedArms(OneHotArms):
    """Features and one column for each step of cost: whether the arm is at or above it."""

    def fit(self, mean_cost: np.ndarray) -> OrderedArms:
        """Learns the order of the arms from their mean costs, [K]; of equals, by index."""
        rank = np.argsort(np.argsort(mean_cost, kind="stable"))
        self.columns = (rank[:, None] >= np.arange(1, len(rank))).astype(np.float32)
        return self


class SplineArms:
    """Features, and one, times a spline basis at the arm's position.

    Args:
      num_knots: knots of the spline, at least 2; fewer where there are not as many arms.
      degree: of its polynomials; at most K - 1.
      positions: [K], distinct, such as the coins of each arm; None: the arm's mean cost in the
        trial.

    Raises:
      ValueError: `num_knots` or `degree` is too small; by `fit`, positions of another number or
        not distinct.
      ImportError: scikit-learn is not installed.
    """

    def __init__(self, num_knots: int = 5, degree: int = 3, positions: npt.ArrayLike | None = None):
        if num_knots < 2 or degree < 1:
            raise ValueError(
                f"num_knots={num_knots!r}, degree={degree!r}; expected at least 2 and 1."
            )
        require_sklearn("SplineArms")
        self.num_knots, self.degree, self.positions = num_knots, degree, positions

    def fit(self, mean_cost: np.ndarray) -> SplineArms:
        """Sets the basis [K, M], M <= K, from the arms' positions or mean costs, [K]."""
        from sklearn.preprocessing import SplineTransformer

        num_arms = len(mean_cost)
        given = mean_cost if self.positions is None else self.positions
        place = np.asarray(given, np.float64)
        if place.shape != (num_arms,) or len(np.unique(place)) < num_arms:
            raise ValueError(
                f"the arms have positions {place.tolist()}; expected {num_arms} distinct numbers: "
                "pass positions= (the default, mean costs, may be equal)."
            )
        degree = min(self.degree, num_arms - 1)
        # A basis has num_knots + degree - 1 columns; more than arms would tell no more.
        knots = min(self.num_knots, num_arms - degree + 1)
        spline = SplineTransformer(n_knots=max(2, knots), degree=degree)
        self.basis = spline.fit_transform(place[:, None]).astype(np.float32)
        return self

    def __call__(self, matrix: np.ndarray, arm: np.ndarray) -> np.ndarray:
        """[N, M (D + 1)] from features [N, D] and arms [N]."""
        rows, width = matrix.shape
        basis = self.basis[arm]
        columns = np.empty((rows, basis.shape[1], width + 1), np.float32)
        columns[:, :, 0] = basis
        np.multiply(basis[:, :, None], matrix[:, None, :], out=columns[:, :, 1:])
        return columns.reshape(rows, -1)


DESIGNS: dict[str, Any] = {
    "single": OneHotArms,
    "ordered": OrderedArms,
    "spline": SplineArms,
}


def check_design(per: Any) -> Any:
    """None for "arm", else a design.

    Raises:
      ValueError: it is not known.
    """
    if isinstance(per, str) and per in ("arm", *DESIGNS):
        return None if per == "arm" else DESIGNS[per]()
    if not isinstance(per, type) and hasattr(per, "fit") and callable(per):
        return copy.copy(per)  # fitted to one trial; the caller's may serve another
    raise ValueError(
        f"per={per!r} is not known; expected one of {('arm', *DESIGNS)}, or a SplineArms(…)."
    )
