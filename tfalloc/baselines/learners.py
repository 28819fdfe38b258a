"""Estimators in scikit-learn's style: copied, fitted on one outcome, asked for its mean."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np


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
