"""Chapter 5: batch normalization on outputs and on inputs."""

from __future__ import annotations

from collections.abc import Callable

from bnutils.evidence import Claim, Hypothesis, Study

HYPOTHESES: dict[str, Hypothesis] = {}

STUDIES: tuple[Study, ...] = ()

CLAIMS: dict[str, Callable[[], Claim]] = {}
