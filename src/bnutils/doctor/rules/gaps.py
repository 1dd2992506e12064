"""How far the moving statistics of a layer are from those of the data, and how sure that is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bnutils.doctor.probe import Moments
from bnutils.doctor.rules.case import BN, Case, values
from bnutils.doctor.rules.runs import pooled

__all__ = ["Gaps", "gaps", "moving", "moving_gaps", "noise"]


class Gaps(NamedTuple):
    """Two sets of statistics of one layer compared, per channel.

    Attributes:
        shift: distance of the means, in standard deviations `sqrt(variance + epsilon)`.
        spread: log of the ratio of the variances, epsilon added to both.
    """

    shift: np.ndarray
    spread: np.ndarray


def gaps(layer: BN, mean: np.ndarray, variance: np.ndarray, moments: Moments) -> Gaps:
    """A mean and a variance held against moments of the data, in units of the data."""
    scale = moments.variance + layer.epsilon
    return Gaps(
        (mean - moments.mean) / np.sqrt(scale),
        np.log(np.maximum(variance + layer.epsilon, 1e-30) / scale),
    )


def moving(layer: BN) -> tuple[np.ndarray, np.ndarray]:
    """The moving mean and variance, in float64."""
    return tuple(
        values(variable).astype("float64")
        for variable in (layer.moving_mean, layer.moving_variance)
    )


def moving_gaps(layer: BN, moments: Moments) -> Gaps:
    """The moving statistics held against moments of the data."""
    return gaps(layer, *moving(layer), moments)


def noise(case: Case, layer: BN, number: int | None = None) -> Gaps:
    """The standard errors of both distances; `number` picks one call of the layer."""

    def of(moments: dict) -> Moments:
        return pooled(moments[layer]) if number is None else moments[layer][number]

    full = of(case.moments)
    parts = [of(part.moments) for part in case.runs.parts]
    found = [gaps(layer, part.mean, part.variance, full) for part in parts]
    return Gaps(*(case.runs.noise(each) for each in zip(*found, strict=True)))
