"""Chapter 8: regularization, dropout, weight decay."""

from __future__ import annotations

from collections.abc import Callable

from bnutils.evidence import Claim, Hypothesis, Study

HYPOTHESES: dict[str, Hypothesis] = {}

STUDIES: tuple[Study, ...] = ()

CLAIMS: dict[str, Callable[[], Claim]] = {}
