"""A few rows far from all others, which then carry the statistics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from bnutils.doctor.rules.case import BN, Case
from bnutils.doctor.rules.runs import pooled
from bnutils.doctor.words import count, short

__all__ = ["Outliers", "outliers"]

CARRIED = 2.0  # times the variance of the other rows


class Outliers(NamedTuple):
    """What to say of them.

    Attributes:
        evidence: in a sentence.
        repair: in a sentence.
    """

    evidence: str
    repair: str


def outliers(case: Case, layers: Iterable[BN]) -> Outliers | None:
    """The outliers in the data, if without them the variance in front of a layer is another.

    Args:
        case: the model under audit, with data.
        layers: the layers; the one that they weigh most in is named.
    """
    number = len(case.runs.outliers)
    if not number:
        return None
    others = case.runs.without_outliers.moments
    factors = {}
    for layer in layers:
        if layer in others:
            whole, rest = (pooled(each[layer]).variance for each in (case.moments, others))
            factors[layer] = float(np.median((whole + layer.epsilon) / (rest + layer.epsilon)))
    layer = max(factors, key=factors.get, default=None)
    if layer is None or not factors[layer] > CARRIED:
        return None
    one = number == 1
    return Outliers(
        f"{number:,} of {count(case.rows, 'row')} {'is an outlier' if one else 'are outliers'}, up "
        f"to {short(case.runs.distances.max())} times as far from the medians of the inputs as a "
        f"row in the middle: without {'it' if one else 'them'} the variance in front of "
        f"{case.path(layer)} is smaller by a factor of {short(factors[layer])}.",
        "Look at these rows first: if they are errors (another unit, a recording left unscaled), "
        "mend them or leave them out, and do the following without them.",
    )
