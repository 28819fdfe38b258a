"""What a training run depends on, in JSON's types: two runs with equal settings are equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfalloc.data import RCTData

# Keras numbers names by what was built before in the process, and refers to layers by them.
_NAMES = {
    "name",
    "build_config",
    "input_layers",
    "output_layers",
    "inbound_nodes",
    "shared_object_id",
}


def described(value: Any) -> Any:
    """A setting in JSON's types: numbers and strings, objects by class and attributes.

    Functions are known by their name only, other objects than configurations by their class and
    plain attributes.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [described(item) for item in value]
    if isinstance(value, dict):
        return {str(k): described(x) for k, x in value.items() if k not in _NAMES}
    if isinstance(value, (np.ndarray, np.generic, tf.Tensor)):
        return described(np.asarray(value).tolist())
    if isinstance(value, RCTData):
        return {"rows": len(value), "fingerprint": value.fingerprint()}
    if isinstance(value, tf.data.Dataset):
        return {"dataset": str(value.element_spec), "batches": int(value.cardinality())}
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    kind = type(value)
    try:
        attributes = value.get_config()
    except (AttributeError, NotImplementedError):
        attributes = {
            name: each
            for name, each in getattr(value, "__dict__", {}).items()
            if isinstance(each, (bool, int, float, str, tuple)) or each is None
        }
    return {"class": f"{kind.__module__}.{kind.__qualname__}", **described(attributes)}


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts to one with dotted names, so that what differs can be named.

    Example:
      >>> flat({"fit": {"epochs": 3, "shuffle": True}})
      {'fit.epochs': 3, 'fit.shuffle': True}
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            found.update(flat(value, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = value
    return found
