"""Training by a recipe: from a trial to a run's directory with a model and all that is known of it.

What needs TensorFlow loads when first used: the command describes its options by `Recipe` alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tfalloc.training.columns import Columns as Columns
from tfalloc.training.recipe import Recipe as Recipe
from tfalloc.training.run import Mix as Mix
from tfalloc.training.run import Run as Run

_ON_KERAS = {
    "TrainedRun": "pipeline",
    "Watcher": "pipeline",
    "evaluate": "held_out",
    "fit": "fitting",
    "train": "pipeline",
}

__all__ = ["Columns", "Mix", "Recipe", "Run", "TrainedRun", "Watcher", "evaluate", "fit", "train"]

if TYPE_CHECKING:
    from tfalloc.training.fitting import fit
    from tfalloc.training.held_out import evaluate
    from tfalloc.training.pipeline import TrainedRun, Watcher, train


def __getattr__(name: str) -> Any:
    if name not in _ON_KERAS:
        raise AttributeError(f"module 'tfalloc.training' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"tfalloc.training.{_ON_KERAS[name]}"), name)
    globals()[name] = value
    return value
