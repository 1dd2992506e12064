"""From runs to evidence: intervals, comparisons and claims."""

from bnutils.evidence.claims import CLAIM_MIME, Claim, Finding
from bnutils.evidence.intervals import (
    Interval,
    best_setting,
    exact,
    interval,
    paired_difference,
    paired_ratio,
    steps_to,
)

__all__ = [
    "CLAIM_MIME",
    "Claim",
    "Finding",
    "Interval",
    "best_setting",
    "exact",
    "interval",
    "paired_difference",
    "paired_ratio",
    "steps_to",
]
