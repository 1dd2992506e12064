"""From runs to evidence: studies, records, comparisons, intervals and claims."""

from bnutils._extras import extra

with extra("book"):
    from bnutils.evidence.claims import CLAIM_MIME, Claim, Finding, Hypothesis
    from bnutils.evidence.comparison import Comparison
    from bnutils.evidence.correction import holm
    from bnutils.evidence.intervals import (
        Interval,
        exact,
        expected_half_width,
        interval,
        paired_difference,
        paired_ratio,
        steps_to,
    )
    from bnutils.evidence.record import provenance
    from bnutils.evidence.study import Study, Tolerance

__all__ = [
    "CLAIM_MIME",
    "Claim",
    "Comparison",
    "Finding",
    "Hypothesis",
    "Interval",
    "Study",
    "Tolerance",
    "exact",
    "expected_half_width",
    "holm",
    "interval",
    "paired_difference",
    "paired_ratio",
    "provenance",
    "steps_to",
]
