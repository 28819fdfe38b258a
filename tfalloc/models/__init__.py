"""Keras models trained through the allocation."""

from tfalloc.models.allocation_model import AllocationModel

__all__ = ["AllocationModel"]
