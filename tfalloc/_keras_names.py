"""Saved models load where only `import tfalloc` was said: Keras is told our classes by name.

`keras.models.load_model` finds a class by its registered name, which a decorator gives when the
class's module is imported; but `import tfalloc` imports none of them, to cost nothing. So when
Keras is imported, before or after, every name gets a stand-in that imports its module when it is
asked for; the decorators then put the classes themselves in the place of the stand-ins.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from typing import Any

CLASSES = {
    "tfalloc.baselines": (
        "DFCL",
        "DRP",
        "DirectRank",
        "ImprovedFiniteDifference",
        "PolicyLearning",
        "Upgrades",
    ),
    "tfalloc.data.preprocessing": ("Categories", "Numbers", "Preprocessor"),
    "tfalloc.models": ("AllocationModel", "Heads", "ParallelHeads", "PiecewiseLinear", "WarmUp"),
}


def register() -> None:
    """Tells Keras the names now, or as soon as it is imported."""
    if "keras" in sys.modules:
        _add_stand_ins()
    else:
        sys.meta_path.insert(0, _AfterKeras())


def _add_stand_ins() -> None:
    known = sys.modules["keras"].saving.get_custom_objects()
    for module, names in CLASSES.items():
        for name in names:
            known.setdefault(f"tfalloc>{name}", _stand_in(module, name))


def _stand_in(module: str, name: str) -> type:
    def from_config(cls: type, config: dict[str, Any], **options: Any) -> Any:
        importlib.import_module(module)
        actual = sys.modules["keras"].saving.get_custom_objects()[f"tfalloc>{name}"]
        if actual is cls:
            raise ImportError(f"{module} has no class {name} of this version of tfalloc.")
        return actual.from_config(config, **options)

    return type(name, (), {"from_config": classmethod(from_config), "__module__": module})


class _AfterKeras(importlib.abc.MetaPathFinder):
    """Finds `keras` as usual, and adds the names when it has been executed.

    It stays until then: libraries that only ask whether there is a Keras find the module as well.
    """

    def __init__(self) -> None:
        self.asking = False

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != "keras" or self.asking:
            return None
        self.asking = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self.asking = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                execute(module)
                sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]
                _add_stand_ins()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
