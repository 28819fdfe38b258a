"""`TwoStage`: response and cost by any learners, and the knapsack after them.

    v_j(x) = E[y | x, t = j],   c_j(x) = E[z | x, t = j]

The trial is randomised, so a regression within arms, or on the arm, estimates what an arm would
bring. This is the control that training through the allocation has to beat. `per_arm_logistic`,
`spline_logistic` and `gradient_boosting` are ready to use, by scikit-learn.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tfalloc.baselines.learners import (
    Mean,
    SplineArms,
    check_design,
    check_learner,
    require_sklearn,
)
from tfalloc.baselines.scores import Scored
from tfalloc.data import RCTData
from tfalloc.data.preprocessing import build_preprocessor
from tfalloc.models.heads import HeadSettings, check_amounts, check_trial, choose_cost_head
from tfalloc.models.matrix_batches import as_batches, joined

ON_RESPONSE = "on_response"
BATCH_ROWS = 65_536  # rows that are prepared, and given the columns of an arm, at a time


class TwoStage(Scored):
    """Predicts response and cost of every treatment by learners in scikit-learn's style.

    Args:
      response: learner of the response: an estimator with `fit` and `predict_proba` (for a 0/1
        response) or `predict`; or a pair of them (for 0/1 outcomes, for others). Copied.
      cost: likewise; "on_response", cost = amount of the arm times predicted response; None: the
        learner of the response. Whatever is given, a cost that is constant within every arm is
        taken as known, not learned.
      per: "arm", one learner for each arm (T-learner); "single", one learner on the features and
        the arm as one-hot (S-learner); "ordered", likewise, with a column for each step of cost
        in place of one for each arm, which suits trees if a dearer arm does more of the same;
        "spline", one learner on the features times a spline of the arms' mean costs, for many
        arms in the order of their cost; or a `SplineArms(…)`.
      cost_amounts: [K], cost of a response in each arm, with "on_response".

    Features are prepared as for `AllocationModel`: numbers standardised, strings one-hot, missing
    values imputed and marked if the trial allows them.

    Raises:
      ValueError: an argument is not known, or does not go with another.

    Example:
      >>> from sklearn.linear_model import LogisticRegression, Ridge
      >>> import tfalloc
      >>> data = tfalloc.datasets.produce_coin(2_000, num_treatments=3).data
      >>> model = tfalloc.baselines.TwoStage(LogisticRegression(), Ridge()).fit(data)
      >>> predicted = model.predict(data)
      >>> predicted["response"].shape, model.score(data).shape
      ((2000, 3), (2000, 2))
      >>> tfalloc.mckp.solve(predicted["response"], predicted["cost"], budget=1.0).treatment.shape
      (2000,)

    Source: Künzel et al. 2019, "Metalearners for estimating heterogeneous treatment effects".
    """

    def __init__(
        self,
        response: Any,
        cost: Any = None,
        *,
        per: Any = "arm",
        cost_amounts: npt.ArrayLike | None = None,
    ):
        check_learner(response, "response")
        if isinstance(cost, str) and cost != ON_RESPONSE:
            raise ValueError(
                f"cost={cost!r} is not known; expected a learner, {ON_RESPONSE!r} or None."
            )
        if (cost_amounts is not None) != isinstance(cost, str):
            raise ValueError(
                f"cost={cost!r} with cost_amounts={cost_amounts!r}; expected cost_amounts=[cost of "
                f"a response in each arm] together with cost={ON_RESPONSE!r}, and neither alone."
            )
        if cost is not None and not isinstance(cost, str):
            check_learner(cost, "cost")
        self.response, self.cost = response, cost
        self.design = check_design(per)
        self.cost_amounts = None if cost_amounts is None else check_amounts(cost_amounts)
        self.preprocessor: Any = None

    def fit(self, data: RCTData, *, validation_data: Any = None) -> TwoStage:
        """Fits both outcomes to a trial, weighing rows by its `sample_weight`.

        Args:
          data: the training rows; brought into memory if they are streamed.
          validation_data: not needed; taken because every baseline takes it.

        Returns:
          self.

        Raises:
          ValueError: a learner does not fit an outcome (see `TwoStage`), an arm has no rows, or
            costs are not `cost_amounts` times responses.
        """
        if not isinstance(data, RCTData):
            raise ValueError(
                f"data is a {type(data).__name__}; expected RCTData: RCTData(features, treatment, "
                "response, cost), or RCTData.from_frame(…)."
            )
        cost_head = ON_RESPONSE if self.cost_amounts is not None else choose_cost_head(data)
        self._check(data, cost_head)
        self.num_treatments, self.treatment_names = data.num_treatments, data.treatment_names
        preprocessor = build_preprocessor(data)
        matrix, targets, *weight = joined(as_batches(data, preprocessor, BATCH_ROWS))
        arm, sample_weight = targets["treatment"], weight[0] if weight else None
        counts = np.bincount(arm, minlength=self.num_treatments)
        if not counts.all():
            missing = data.treatment_names[int(np.argmin(counts))]
            raise ValueError(
                f"treatment {missing!r} has no rows in data; expected rows of every arm: fit on "
                "rows that have them, or leave the arm out of the trial."
            )
        mean_cost = data.arm_moments("cost").mean
        if self.design is not None:
            self.design.fit(mean_cost if self.cost_amounts is None else self.cost_amounts)

        def learn(name: str, learner: Any, binary: bool) -> _ArmMeans:
            make = functools.partial(Mean, learner, name, binary)
            return self._learn(make, matrix, arm, targets[name], sample_weight)

        self._response = learn("response", self.response, data.response_kind == "binary")
        self._cost: Any = None
        self._known_cost = mean_cost if cost_head == "constant" else None
        if cost_head not in ("constant", ON_RESPONSE):
            learner = self.response if self.cost is None else self.cost
            self._cost = learn("cost", learner, cost_head == "binary")
        self.preprocessor = preprocessor
        return self

    def _check(self, data: RCTData, cost_head: str) -> None:
        names, amounts = data.treatment_names, None
        if self.cost_amounts is not None:
            amounts = tuple(self.cost_amounts.tolist())
            if len(amounts) != len(names):
                raise ValueError(
                    f"cost_amounts has {len(amounts)} entries; expected one for each of the "
                    f"{len(names)} treatments {names}."
                )
        check_trial(
            data,
            HeadSettings(
                len(names), "independent", data.response_kind, cost_head, cost_amounts=amounts
            ),
        )

    def _learn(
        self,
        make: Callable[[], Mean],
        matrix: np.ndarray,
        arm: np.ndarray,
        outcome: np.ndarray,
        weight: np.ndarray | None,
    ) -> _ArmMeans:
        """Fits one outcome; returns the function from features [N, D] to its means [N, K]."""
        if self.design is not None:
            mean = make().fit(self.design(matrix, arm), outcome, weight)
            return _ArmMeans(self.design, [mean] * self.num_treatments)
        means = []
        for own in (arm == k for k in range(self.num_treatments)):
            own_weight = None if weight is None else weight[own]
            means.append(make().fit(matrix[own], outcome[own], own_weight))
        return _ArmMeans(_features_only, means)

    def predict(self, x: Any) -> dict[str, np.ndarray]:
        """Predictions for raw features (or `RCTData`, or a dataset).

        Args:
          x: a data frame, a dict of columns, a matrix [N, F], `RCTData`, or a dataset whose first
            component is features.

        Returns:
          {"response": [N, K], "cost": [N, K]}, float64; per user, costs at least 0.

        Raises:
          ValueError: `fit` was not called.
        """
        if self.preprocessor is None:
            raise ValueError("the model is not fitted yet; call fit(data) with RCTData first.")
        matrix = joined(as_batches(x, self.preprocessor, BATCH_ROWS, targets=False))
        response = self._response(matrix)
        if self._known_cost is not None:
            cost = np.tile(self._known_cost, (len(matrix), 1))
        elif self._cost is None:
            cost = np.maximum(response, 0.0) * self.cost_amounts
        else:
            cost = np.maximum(self._cost(matrix), 0.0)  # regressions may fall below 0
        return {"response": response, "cost": cost}


class _ArmMeans:
    """Features [N, D] to the mean of an outcome under every arm, [N, K]."""

    def __init__(self, design: Any, means: list[Mean]):
        self.design, self.means = design, means

    def __call__(self, matrix: np.ndarray) -> np.ndarray:
        found = np.empty((len(matrix), len(self.means)))
        for start in range(0, len(matrix), BATCH_ROWS):
            part = matrix[start : start + BATCH_ROWS]
            for arm, mean in enumerate(self.means):
                columns = self.design(part, np.full(len(part), arm))
                found[start : start + BATCH_ROWS, arm] = mean.predict(columns)
        return found


def _features_only(matrix: np.ndarray, arm: np.ndarray) -> np.ndarray:
    return matrix


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
      seed: seeds the choice of rows that early stopping keeps, and binning.
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
    if not isinstance(C, (int, float, np.number)) or not 0.0 < C < np.inf:
        raise ValueError(f"C={C!r}: expected a finite number above 0.")
    from sklearn.linear_model import LogisticRegression, Ridge

    return LogisticRegression(C=C, max_iter=max_iter, tol=tol), Ridge(alpha=1.0 / C)


def _two_stage(learner: Any, per: Any, cost_amounts: npt.ArrayLike | None) -> TwoStage:
    cost = None if cost_amounts is None else ON_RESPONSE
    return TwoStage(learner, cost, per=per, cost_amounts=cost_amounts)
