"""Keras models trained through the allocation."""

from tfalloc._backend import require_tensorflow

require_tensorflow()

from tfalloc.models.allocation_model import AllocationModel  # noqa: E402
from tfalloc.models.schedules import WarmUp  # noqa: E402

__all__ = ["AllocationModel", "WarmUp"]
