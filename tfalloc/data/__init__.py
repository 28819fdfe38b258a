"""Trials in, batches out: `RCTData`, its preprocessing, and the features of other users."""

from __future__ import annotations

from tfalloc.data.chunks import feature_chunks as feature_chunks
from tfalloc.data.features import FeatureSchema as FeatureSchema
from tfalloc.data.moments import ArmMoments as ArmMoments
from tfalloc.data.preprocessing import build_preprocessor as build_preprocessor
from tfalloc.data.summary import ArmSummary as ArmSummary
from tfalloc.data.summary import TrialSummary as TrialSummary
from tfalloc.data.trial import RCTData as RCTData

__all__ = [
    "ArmMoments",
    "ArmSummary",
    "FeatureSchema",
    "RCTData",
    "TrialSummary",
    "build_preprocessor",
    "feature_chunks",
]
