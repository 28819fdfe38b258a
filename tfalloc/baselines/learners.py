"""Estimators in scikit-learn's style: fitted on one outcome, and how a single one sees the arm.

`Mean` copies an estimator, fits it on one outcome and asks it for the mean. A single one for all
arms takes the columns of the arm beside, or in place of, the features. With features x and arm t of
K,

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


def require_sklearn(wanted_by: str) -> None:
    """Raises ImportError, one line that names the extra, unless scikit-learn is installed."""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise ImportError(
            f"{wanted_by} needs scikit-learn: pip install 'tfalloc[baselines]'."
        ) from None


def check_learner(learner: Any, name: str) -> None:
    """Refuses what cannot be fitted; a pair is (for 0/1 outcomes, for others).

    Raises:
      ValueError: a learner has no `fit`, or neither `predict` nor `predict_proba`, or predicts
        classes without their probabilities.
    """
    for each in learner if isinstance(learner, tuple) else (learner,):
        usable = hasattr(each, "predict") or hasattr(each, "predict_proba")
        if isinstance(each, type) or not (usable and hasattr(each, "fit")):
            raise ValueError(
                f"{name}={each!r}: expected an estimator with fit and predict or predict_proba, "
                "such as sklearn.linear_model.LogisticRegression(), made and not its class."
            )
        if not hasattr(each, "predict_proba") and _is_classifier(each):
            raise ValueError(
                f"{name}={type(each).__name__} predicts classes without probabilities; expected "
                "one with predict_proba: wrap it in sklearn.calibration.CalibratedClassifierCV."
            )
    if isinstance(learner, tuple) and len(learner) != 2:
        raise ValueError(
            f"{name} is a tuple of {len(learner)}; expected one learner, or a pair (for 0/1 "
            "outcomes, for other outcomes)."
        )


# Matrix products of some BLAS raise the flag of an invalid operation now and then although all
# numbers are finite (NumPy's issue 24067). Features are checked before, predictions afterwards.
BLAS: dict[str, Any] = {"invalid": "ignore"}


class Mean:
    """The mean of one outcome given a matrix of features.

    Args:
      learner: an estimator, or a pair (for 0/1 outcomes, for others); it is copied, never fitted
        itself.
      name: of the outcome, for messages.
      binary: whether the outcome is 0 or 1 in the whole trial.

    Raises:
      ValueError: by `fit`, a classifier for an outcome that is not 0/1, or weights for an
        estimator that takes none; by `predict`, means that are not finite.
    """

    def __init__(self, learner: Any, name: str, binary: bool):
        chosen = learner[0 if binary else 1] if isinstance(learner, tuple) else learner
        if hasattr(chosen, "predict_proba") and not binary:
            raise ValueError(
                f"{name}={type(chosen).__name__} predicts probabilities, but the {name} of this "
                f"trial is not 0 or 1; pass a regressor as {name}=."
            )
        self.name, self.learner = name, _copy(chosen)
        self.constant: float | None = None
        self.range = (0.0, 1.0) if binary else (-np.inf, np.inf)

    def fit(self, matrix: Any, outcome: np.ndarray, weight: np.ndarray | None) -> Mean:
        """Fits to rows: [N, D], [N], [N] or None."""
        if np.ptp(outcome) == 0.0:  # nothing to learn, and classifiers refuse a single class
            self.constant = float(outcome[0])
            return self
        options = {} if weight is None else {_weight_argument(self.learner): weight}
        target = outcome.astype(np.int64) if hasattr(self.learner, "predict_proba") else outcome
        try:
            with np.errstate(**BLAS):
                self.learner.fit(matrix, target, **options)
        except TypeError as error:
            if weight is None or "sample_weight" not in str(error):
                raise
            raise ValueError(
                f"{self.name}={type(self.learner).__name__} takes no sample_weight, but the trial "
                "has row weights; expected a learner whose fit does."
            ) from error
        return self

    def predict(self, matrix: Any) -> np.ndarray:
        """Means, [N] float64; within [0, 1] for a 0/1 outcome."""
        if self.constant is not None:
            return np.full(matrix.shape[0], self.constant)
        with np.errstate(**BLAS):
            if hasattr(self.learner, "predict_proba"):
                found = np.asarray(self.learner.predict_proba(matrix), np.float64)[:, 1]
            else:
                found = np.asarray(self.learner.predict(matrix), np.float64).reshape(-1)
        if not np.isfinite(found).all():
            row = int(np.argmin(np.isfinite(found)))
            raise ValueError(
                f"{self.name}={type(self.learner).__name__} predicts {found[row]} for row {row}; "
                "expected finite means: scale its input, or pass another learner."
            )
        return np.clip(found, *self.range)


def _is_classifier(learner: Any) -> bool:
    try:  # scikit-learn's is_classifier, without its warning about learners that are not its own
        return bool(learner.__sklearn_tags__().estimator_type == "classifier")
    except (AttributeError, TypeError):  # scikit-learn < 1.6, or another library's learner
        return getattr(learner, "_estimator_type", None) == "classifier"


def _copy(learner: Any) -> Any:
    try:
        from sklearn.base import clone

        return clone(learner)
    except (ImportError, TypeError):  # no scikit-learn, or no estimator of its kind
        return copy.deepcopy(learner)


def _weight_argument(learner: Any) -> str:
    steps = getattr(learner, "steps", None)  # a scikit-learn Pipeline hands on by its steps' names
    return f"{steps[-1][0]}__sample_weight" if steps else "sample_weight"


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
        whole = all(isinstance(x, (int, np.integer)) for x in (num_knots, degree))
        if not whole or num_knots < 2 or degree < 1:
            raise ValueError(
                f"num_knots={num_knots!r}, degree={degree!r}; expected integers, at least 2 and 1."
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
