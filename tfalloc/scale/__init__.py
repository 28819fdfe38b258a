"""Allocation of users from files, larger than memory where they are, with a certificate."""

from tfalloc.scale.allocate import allocate as allocate
from tfalloc.scale.plan import Plan as Plan

__all__ = ["Plan", "allocate"]
