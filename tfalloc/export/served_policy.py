"""`ServedPolicy`: an exported policy, read back as a server would, and its answers checked."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfalloc.data import FeatureSchema
from tfalloc.export.metadata import read_policy
from tfalloc.export.signatures import BUDGET

# What `allocate_for_budget` answers for every user.
ANSWERS = {
    "treatment": np.int32,
    "response": np.float32,
    "cost": np.float32,
    "alpha": np.float32,
    "clamped": np.bool_,
}


class ServedPolicy:
    """An exported policy, read back with plain TensorFlow.

    A SavedModel is code: load only what you trust.

    Args:
      directory: what `save` wrote.

    Attributes:
      policy: what it says about itself, `metadata.Policy`.

    Raises:
      ValueError: the directory is no export of this package, or it is damaged.
    """

    def __init__(self, directory: str | os.PathLike[str]):
        self._directory = os.fspath(directory)
        self.policy = read_policy(directory)
        try:
            self._loaded = tf.saved_model.load(self._directory)
            self._ask = self._loaded.signatures["allocate_for_budget"]
        # TensorFlow raises protobuf, op and key errors, whatever the damage happens to hit.
        except Exception as error:
            raise self._damaged("cannot be loaded", error) from error

    @property
    def schema(self) -> FeatureSchema:
        """The features that users must have; missing values are refused."""
        features = self.policy.features
        if self.policy.is_matrix:
            return FeatureSchema.of_matrix(features[0].shape[0])
        return FeatureSchema(kinds={feature.name: feature.kind for feature in features})

    def allocate_for_budget(self, features: Any, budget: float) -> dict[str, npt.NDArray[Any]]:
        """Asks the signature of that name for some users, all at one budget.

        Args:
          features: columns {name: [n]} or a matrix, as `FeatureSchema.columns` makes them.
          budget: cost per user.

        Returns:
          treatment, response, cost, alpha, clamped, [n] each.

        Raises:
          ValueError: it does not answer, or answers what no export of this package would.
        """
        named = {self.policy.features[0].name: features} if self.policy.is_matrix else features
        size = len(next(iter(named.values())))
        arguments = {
            feature.input: tf.constant(
                named[feature.name], tf.string if feature.kind == "string" else tf.float32
            )
            for feature in self.policy.features
        }
        try:
            found = self._ask(**{BUDGET: tf.fill([size], np.float32(budget))}, **arguments)
            answers = {name: np.asarray(found[name]) for name in ANSWERS}
        except Exception as error:
            raise self._damaged("does not answer", error) from error
        for name, dtype in ANSWERS.items():
            if answers[name].shape != (size,) or answers[name].dtype != dtype:
                raise self._damaged(
                    f"answers {name!r} of shape {answers[name].shape}, {answers[name].dtype}, to "
                    f"{size} users"
                )
        for name in ("response", "cost", "alpha"):
            if not np.isfinite(answers[name]).all():
                raise self._damaged(f"answers a {name} that is NaN or infinite")
        arms = len(self.policy.treatment_names)
        wrong = (answers["treatment"] < 0) | (answers["treatment"] >= arms)
        if wrong.any():
            arm = int(answers["treatment"][wrong][0])
            raise self._damaged(f"answers treatment {arm}, and has {arms} treatments")
        return answers

    def _damaged(self, what: str, error: Exception | None = None) -> ValueError:
        reason = ""
        if error is not None:
            reason = f" ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        return ValueError(
            f"the SavedModel {self._directory} {what}{reason}; it is damaged or not an export of "
            "`tfalloc export`: export again."
        )
