"""Gradients of the expected outcome of a budgeted assignment with respect to its predictions."""

from tfalloc.gradients.base import GoalGradient
from tfalloc.gradients.finite_difference import FiniteDifference

__all__ = ["FiniteDifference", "GoalGradient"]
