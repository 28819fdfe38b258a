"""Trials in, batches out: `RCTData` and its preprocessing."""

from __future__ import annotations

from tfalloc.data.moments import ArmMoments as ArmMoments
from tfalloc.data.preprocessing import build_preprocessor as build_preprocessor
from tfalloc.data.summary import ArmSummary as ArmSummary
from tfalloc.data.summary import TrialSummary as TrialSummary
from tfalloc.data.trial import RCTData as RCTData

__all__ = ["ArmMoments", "ArmSummary", "RCTData", "TrialSummary", "build_preprocessor"]
