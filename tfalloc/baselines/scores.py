"""What all models are asked for here: predictions, and the score of each upgrade that follows."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfalloc.mckp import upgrade_prices


def predictions(model: Any, x: Any) -> dict[str, np.ndarray]:
    """What a model predicts, {"response": [N, K], "cost": [N, K]}, without a progress bar."""
    found: dict[str, np.ndarray] = model.predict(
        x, **({"verbose": 0} if isinstance(model, keras.Model) else {})
    )
    return found


class Scored:
    """Adds `score` to a model that has `predict`."""

    def score(self, x: Any) -> np.ndarray:
        """The shadow price up to which each user gets each upgrade, [N] if K = 2, else [N, K-1].

        See `upgrade_prices`; arms are taken in the order of their index.
        """
        predicted = predictions(self, x)
        return upgrade_prices(predicted["response"], predicted["cost"])
