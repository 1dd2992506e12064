"""What stands for `norm=`: small descriptions of a normalization, which no network changes.

A description may be used for many layers and many networks. Two with the same numbers are equal,
and `repr` shows them all. The layers that they make are in `bnutils.network.norm_layers`.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from bnutils.network import norm_layers
from bnutils.norm import BatchNorm as BatchNormLayer

__all__ = [
    "BatchNorm",
    "BatchRenorm",
    "GhostBatchNorm",
    "GroupNorm",
    "InferenceBatchNorm",
    "LayerNorm",
    "Norm",
]


class Norm:
    """What all normalizations have in common. A normalization of your own derives from it.

    Attributes:
        prefix: begins the name of the layer: "bn" as in "bn_1".
        removes_bias: whether the layer takes any bias of the layer before it away again.
    """

    prefix: ClassVar[str] = "norm"
    removes_bias: ClassVar[bool] = False

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Refuse a place where this normalization can't stand, before anything is built.

        Args:
            name: what is normalized there, such as "dense_1".
            shape: shape of one example there: (units,) or (rows, columns, channels).

        Raises:
            ValueError: if it can't.
        """

    def build(self, runs: int, units: int, dtype: np.dtype) -> norm_layers.Layer:
        """Make a layer for arrays [runs, batch, units] or [runs, batch, rows, columns, units]."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class _OfBatches(Norm):
    """The options of batch normalization."""

    momentum: float = 0.99
    epsilon: float = 1e-3
    center: bool = True
    scale: bool = True

    prefix: ClassVar[str] = "bn"
    removes_bias: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.momentum <= 1:
            units = ": no number of units is needed" if self.momentum > 1 else ""
            raise ValueError(f"expected momentum from 0 to 1, got {self.momentum!r}{units}")
        _require_epsilon(self.epsilon)
        if 0 < self.momentum < 0.5:
            warnings.warn(
                f"momentum={self.momentum:g} forgets nearly everything at each step: momentum is "
                f"Keras's here, 1 - PyTorch's; did you mean {1 - self.momentum:g}?",
                UserWarning,
                stacklevel=3,
            )
        self._check_own()

    def _check_own(self) -> None:
        """Check the fields that BN does not have."""

    def build(self, runs: int, units: int, dtype: np.dtype) -> BatchNormLayer:
        options = {"epsilon": self.epsilon, "center": self.center, "scale": self.scale}
        layer = self._layer(axis=(0, -1), **options)
        layer.momentum = self.momentum
        if self.scale:
            layer.gamma = np.ones((runs, units), dtype)
        if self.center:
            layer.beta = np.zeros((runs, units), dtype)
        layer.moving_mean = np.zeros((runs, units), dtype)
        layer.moving_variance = np.ones((runs, units), dtype)
        return layer

    def _layer(self, **options: Any) -> BatchNormLayer:
        return BatchNormLayer(**options)


@dataclass(frozen=True)
class BatchNorm(_OfBatches):
    """Batch normalization (BN), as `bnutils.norm.BatchNorm` computes it in each run.

    Args:
        momentum: weight of the past in the moving statistics, from 0 to 1, as in Keras.
        epsilon: added to the variance.
        center: whether there is a `beta`.
        scale: whether there is a `gamma`.

    Raises:
        ValueError: if momentum lies outside [0, 1] or epsilon is negative.

    Warns:
        UserWarning: if momentum is above 0 and below 0.5: PyTorch's momentum is 1 - Keras's.

    Example:
        >>> BatchNorm(momentum=0.9)
        BatchNorm(momentum=0.9, epsilon=0.001, center=True, scale=True)
    """

    momentum: float = 0.99


@dataclass(frozen=True)
class GhostBatchNorm(_OfBatches):
    """BN in which sub-batches of each training batch have statistics of their own.

    Hoffer, Hubara and Soudry 2017, arXiv:1705.08741, call them ghost batches.

    Args:
        size: rows in a ghost batch, at least 2.
        momentum, epsilon, center, scale: as for `BatchNorm`, by name.

    Raises:
        ValueError: as for `BatchNorm`, or if `size` is under 2.
    """

    size: int

    def _check_own(self) -> None:
        if self.size < 2:
            raise ValueError(f"expected ghost batches of 2 or more rows, got size={self.size!r}")

    def _layer(self, **options: Any) -> BatchNormLayer:
        return norm_layers.GhostBatchNormLayer(self.size, **options)


@dataclass(frozen=True)
class InferenceBatchNorm(_OfBatches):
    """BN in inference mode: it normalizes by its moving statistics in training, too.

    They start at mean 0 and variance 1 and stay, until `Network.recalibrate` or an assignment
    changes them. That is `training=False` in Keras; gamma and beta still learn.

    Args:
        momentum, epsilon, center, scale: as for `BatchNorm`; momentum has no effect.

    Raises:
        ValueError: as for `BatchNorm`.
    """

    def _layer(self, **options: Any) -> BatchNormLayer:
        return norm_layers.InferenceBatchNormLayer(**options)


@dataclass(frozen=True)
class BatchRenorm(_OfBatches):
    """Batch renormalization: BN with its training output moved toward that of inference.

    Ioffe 2017, arXiv:1702.03275, Algorithm 1. Without limits (infinity), training computes what
    inference with the moving statistics before the step does.

    Args:
        r_max: the scale r is limited to the range from 1 / r_max to r_max; at least 1.
        d_max: the shift d is limited to the range from -d_max to d_max; at least 0.
        momentum, epsilon, center, scale: as for `BatchNorm`, by name.

    Raises:
        ValueError: as for `BatchNorm`, or if a limit is too small.
    """

    r_max: float
    d_max: float

    def _check_own(self) -> None:
        if not (self.r_max >= 1 and self.d_max >= 0):
            raise ValueError(
                f"expected r_max >= 1 and d_max >= 0, got r_max={self.r_max!r} and "
                f"d_max={self.d_max!r}"
            )

    def _layer(self, **options: Any) -> BatchNormLayer:
        return norm_layers.BatchRenormLayer(self.r_max, self.d_max, **options)


@dataclass(frozen=True)
class GroupNorm(Norm):
    """Group normalization: statistics over each example alone, group by group of its units.

    Wu and He 2018, arXiv:1803.08494. In a convolution a group takes all places of its channels.

    Args:
        groups: the number of groups of neighboring units; it divides the units.
        epsilon: added to the variance.

    Raises:
        ValueError: if there is no group or epsilon is negative.
    """

    groups: int
    epsilon: float = 1e-3

    prefix: ClassVar[str] = "gn"

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.groups < 1:
            raise ValueError(f"expected one group or more, got groups={self.groups!r}")
        _require_epsilon(self.epsilon)

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Refuse units that the groups don't divide, as `Norm.check` says."""
        units = shape[-1]
        if units % self.groups:
            fitting = [g for g in range(1, units + 1) if not units % g and units > g]
            raise ValueError(
                f"expected groups that divide the {units} units of {name}, got {self}: "
                f"{', '.join(map(str, fitting)) or 'none'} would fit"
            )
        if math.prod(shape) < 2 * self.groups:
            raise ValueError(
                f"expected groups of two or more values, got {self} for {name} of the shape "
                f"{shape}: a single value would be its own mean, and the output beta"
            )

    def build(self, runs: int, units: int, dtype: np.dtype) -> norm_layers.GroupNormLayer:
        """Make a layer, as `Norm.build` says."""
        gamma, beta = np.ones((runs, units), dtype), np.zeros((runs, units), dtype)
        return norm_layers.GroupNormLayer(gamma, beta, self.groups, self.epsilon)


@dataclass(frozen=True)
class LayerNorm(GroupNorm):
    """Layer normalization: group normalization with one group.

    Ba, Kiros and Hinton 2016, arXiv:1607.06450. In a convolution the statistics are over all places
    and all channels of an example.

    Args:
        epsilon: added to the variance.
    """

    groups: ClassVar[int] = 1
    epsilon: float = 1e-3

    prefix: ClassVar[str] = "ln"


def _require_epsilon(epsilon: float) -> None:
    if not epsilon >= 0:
        raise ValueError(f"expected epsilon of 0 or more, got {epsilon!r}")
