"""The expected outcome of a budgeted assignment, estimated from a randomised trial."""

from tfalloc.outcome.curve import OutcomeCurve, curve
from tfalloc.outcome.expected import ExpectedOutcome, expected_outcome
from tfalloc.outcome.intervals import MatchIntervals, match_intervals

__all__ = [
    "ExpectedOutcome",
    "MatchIntervals",
    "OutcomeCurve",
    "curve",
    "expected_outcome",
    "match_intervals",
]
