"""Two-stage controls that are ready to use, by scikit-learn: each is a `TwoStage` to `fit`."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from tfalloc.baselines.designs import SplineArms
from tfalloc.baselines.learners import require_sklearn
from tfalloc.baselines.two_stage import ON_RESPONSE, TwoStage


def per_arm_logistic(
    C: float = 1.0,
    *,
    cost_amounts: npt.ArrayLike | None = None,
    max_iter: int = 1000,
    tol: float = 1e-6,
) -> TwoStage:
    """One logistic regression for each arm and each 0/1 outcome; ridge regression for others.

    Args:
      C: inverse strength of the L2 penalty on the coefficients of standardised features, beside the
        sum of all rows' losses (scikit-learn's C).
      cost_amounts: [K], cost of a response in each arm, if that is all that costs.
      max_iter: most iterations of L-BFGS.
      tol: gradient of the mean loss at which it stops; rare outcomes have small gradients.

    Returns:
      An unfitted `TwoStage`.

    Raises:
      ImportError: scikit-learn is not installed.

    Example:
      >>> import tfalloc
      >>> data = tfalloc.datasets.criteo_like(5_000).data
      >>> tfalloc.baselines.per_arm_logistic().fit(data).predict(data)["cost"].shape
      (5000, 2)
    """
    require_sklearn("per_arm_logistic")
    return _two_stage(_linear(C, max_iter, tol), "arm", cost_amounts)


def spline_logistic(
    C: float = 1.0,
    *,
    num_knots: int = 5,
    degree: int = 3,
    positions: npt.ArrayLike | None = None,
    cost_amounts: npt.ArrayLike | None = None,
    max_iter: int = 1000,
    tol: float = 1e-6,
) -> TwoStage:
    """One logistic regression for all arms, its coefficients splines of the arm's cost.

    For many arms in the order of their cost (coins, discounts): neighbours lend each other rows.
    Outcomes that are not 0/1 get a ridge regression.

    Args:
      C: as in `per_arm_logistic`.
      num_knots: as in `SplineArms`.
      degree: as in `SplineArms`.
      positions: [K], where on the spline each arm is; None: `cost_amounts`, else its mean cost.
      cost_amounts: as in `per_arm_logistic`.
      max_iter: as in `per_arm_logistic`.
      tol: as in `per_arm_logistic`.

    Returns:
      An unfitted `TwoStage`.

    Raises:
      ValueError: as `SplineArms`.
      ImportError: scikit-learn is not installed.
    """
    require_sklearn("spline_logistic")
    return _two_stage(
        _linear(C, max_iter, tol), SplineArms(num_knots, degree, positions), cost_amounts
    )


def gradient_boosting(
    *,
    per: str = "arm",
    cost_amounts: npt.ArrayLike | None = None,
    learning_rate: float = 0.1,
    max_iter: int = 100,
    max_leaf_nodes: int | None = 31,
    min_samples_leaf: int = 20,
    l2_regularization: float = 0.0,
    seed: int = 0,
    **options: Any,
) -> TwoStage:
    """Histogram gradient boosting, one for each arm and outcome; regression trees if not 0/1.

    Args:
      per: as in `TwoStage`.
      cost_amounts: as in `per_arm_logistic`.
      learning_rate: shrinkage of each tree.
      max_iter: number of trees.
      max_leaf_nodes: of a tree; None: no limit.
      min_samples_leaf: rows of a leaf.
      l2_regularization: of leaf values.
      seed: of the rows that early stopping keeps, and of binning.
      **options: as `sklearn.ensemble.HistGradientBoostingClassifier`, for example early_stopping.

    Returns:
      An unfitted `TwoStage`.

    Raises:
      ImportError: scikit-learn is not installed.
    """
    require_sklearn("gradient_boosting")
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    settings = {
        "learning_rate": learning_rate,
        "max_iter": max_iter,
        "max_leaf_nodes": max_leaf_nodes,
        "min_samples_leaf": min_samples_leaf,
        "l2_regularization": l2_regularization,
        "random_state": seed,
        **options,
    }
    learners = (
        HistGradientBoostingClassifier(**settings),
        HistGradientBoostingRegressor(**settings),
    )
    return _two_stage(learners, per, cost_amounts)


def _linear(C: float, max_iter: int, tol: float) -> tuple[Any, Any]:
    from sklearn.linear_model import LogisticRegression, Ridge

    return LogisticRegression(C=C, max_iter=max_iter, tol=tol), Ridge(alpha=1.0 / C)


def _two_stage(learner: Any, per: Any, cost_amounts: npt.ArrayLike | None) -> TwoStage:
    cost = None if cost_amounts is None else ON_RESPONSE
    return TwoStage(learner, cost, per=per, cost_amounts=cost_amounts)
