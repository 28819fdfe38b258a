"""Gradients of the expected outcome of a budgeted assignment with respect to its predictions."""

from tfalloc.gradients.base import GoalGradient, Gradient
from tfalloc.gradients.finite_difference import FiniteDifference
from tfalloc.gradients.integrated import Integrated, integrated_objective
from tfalloc.gradients.nes import NES
from tfalloc.gradients.smoothed import Smoothed

__all__ = [
    "NES",
    "FiniteDifference",
    "GoalGradient",
    "Gradient",
    "Integrated",
    "Smoothed",
    "integrated_objective",
]
