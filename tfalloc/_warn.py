"""Warnings that point at the user's line, however deep in the package they arise."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

# Callbacks are called by Keras, which the package called.
_INSIDE = ("tfalloc", "keras", "tensorflow")


def warn(message: str) -> None:
    """`warnings.warn` on behalf of the nearest caller outside the package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and _is_inside(frame):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def _is_inside(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in _INSIDE
