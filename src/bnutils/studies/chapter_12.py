"""Chapter 12: sick models, before and after the repair."""

from __future__ import annotations

from collections.abc import Callable

from bnutils.evidence import Claim, Hypothesis, Study

HYPOTHESES: dict[str, Hypothesis] = {}

STUDIES: tuple[Study, ...] = ()

CLAIMS: dict[str, Callable[[], Claim]] = {}
