"""Spend a marketing budget on the right users.

`tfalloc` learns, from a randomised trial, who should get which coupon, reward or discount so that
a fixed budget brings the most response, and trains its predictions *through* that allocation.

    data       RCTData: a validated trial          datasets   simulations with known truth, trials
    mckp       exact budgeted assignment           outcome    what a policy would have brought
    gradients  of the outcome by predictions       models     AllocationModel, a keras.Model
    baselines  what to compare it with             evaluation intervals, curves, comparisons
    export     SavedModel for serving              tuning     search for settings
    training   by a recipe, to a directory      scale      allocation of users from files
    reproduce  published experiments

Modules load when first used, so that `import tfalloc` costs nothing beyond its dependencies.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tfalloc import _keras_names
from tfalloc._backend import require_tensorflow
from tfalloc._version import __version__

# Before TensorFlow loads: notes on CPU features and absent GPUs are not worth a line each; warnings
# and errors stay. A setting of the user's own wins.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")

_keras_names.register()

_MODULES = (
    "baselines",
    "data",
    "datasets",
    "evaluation",
    "export",
    "gradients",
    "mckp",
    "models",
    "outcome",
    "reproduce",
    "scale",
    "training",
    "tuning",
)
_NAMES = {"RCTData": "data", "AllocationModel": "models"}
_ON_KERAS = {
    "baselines",
    "data",
    "datasets",
    "evaluation",
    "export",
    "models",
    "reproduce",
    "scale",
    "training",
    "tuning",
}

__all__ = [
    "AllocationModel",
    "RCTData",
    "__version__",
    "baselines",
    "data",
    "datasets",
    "evaluation",
    "export",
    "gradients",
    "mckp",
    "models",
    "outcome",
    "reproduce",
    "scale",
    "training",
    "tuning",
]

if TYPE_CHECKING:
    from tfalloc import (
        baselines,
        data,
        datasets,
        evaluation,
        export,
        gradients,
        mckp,
        models,
        outcome,
        reproduce,
        scale,
        training,
        tuning,
    )
    from tfalloc.data import RCTData
    from tfalloc.models import AllocationModel


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return _module(name)
    if name in _NAMES:
        value = getattr(_module(_NAMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'tfalloc' has no attribute {name!r}")


def _module(name: str) -> ModuleType:
    if name in _ON_KERAS:
        require_tensorflow()
    return importlib.import_module(f"tfalloc.{name}")


def __dir__() -> list[str]:
    return sorted(__all__)
