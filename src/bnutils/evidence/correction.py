"""One correction for all claims of a ledger, so that none is shown because there are many.

Of forty intervals at 95%, one or two miss their truth by luck. Holm's method (1979) keeps the
probability of rejecting *any* true bound below 5%, whatever the claims have to do with each other.
That the direction of every decided outcome is then right as often is proved for independent claims
(Holm 1979 tests one side each); for others it is what a simulation in the tests shows.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bnutils.evidence.claims import Claim

__all__ = ["adjust", "holm"]


def adjust(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's adjusted p-values.

    The i-th smallest of m is multiplied by m - i + 1, and is at least as large as the one before.

    Args:
        p_values: of shape [m].

    Returns:
        The adjusted ones, of shape [m], in the same order, at most 1.

    Example:
        >>> adjust([0.01, 0.04, 0.03, 0.005])
        array([0.03, 0.06, 0.06, 0.02])
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1)
    return adjusted


def holm(claims: Iterable[Claim]) -> dict[str, str]:
    """The outcome of every claim after a common correction.

    The family is the primary findings of the *measured* claims. Each has the
    one-sided p of its outcome (`Finding.p_value`); undecided ones count in the family. An outcome
    whose adjusted p is over (1 - confidence) / 2 becomes *undecided*: that is the level at which an
    interval of that confidence decides, so that a family of one changes nothing. A claim can err in
    one of two directions, so the probability of any wrong outcome is at most 1 - confidence.

    Args:
        claims: all of the ledger.

    Returns:
        Name to outcome, for all of them. What is not measured keeps its outcome.

    Raises:
        ValueError: measured claims of different confidence.

    Example:
        >>> holm([])
        {}
    """
    claims = list(claims)
    family = [claim for claim in claims if claim.kind == "measured"]
    levels = {claim.primary.effect.confidence for claim in family}
    if len(levels) > 1:
        raise ValueError(f"expected claims of one confidence, got {sorted(levels)}")
    outcomes = {claim.name: claim.outcome for claim in claims}
    adjusted = adjust([claim.primary.p_value for claim in family])
    for claim, p in zip(family, adjusted, strict=True):
        if p > (1 - claim.primary.effect.confidence) / 2:
            outcomes[claim.name] = "undecided"
    return outcomes
