"""The layers that `bnutils.network.norms` describes, beside BN itself: `bnutils.norm.BatchNorm`.

Arrays are [runs, batch, units] or [runs, batch, rows, columns, units]. Each run has parameters and
moving statistics of its own, [runs, units].
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np

from bnutils.norm import BatchNorm, batch_norm, batch_norm_grad

__all__ = [
    "BatchRenormLayer",
    "GhostBatchNormLayer",
    "GroupNormLayer",
    "InferenceBatchNormLayer",
    "Layer",
]


class Layer(Protocol):
    """What a network needs of a layer."""

    def __call__(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Compute the output; training prepares `backward`."""

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """Compute the gradient of the input from that of the output."""


class GroupNormLayer:
    """Group normalization: statistics over one example, group by group of its units.

    An example never meets the others of its batch, so training and inference are the same and
    nothing is remembered.

    Args:
        gamma: array [runs, units], which the layer keeps and does not copy.
        beta: array [runs, units], likewise.
        groups: the number of groups of neighboring units; it divides the units.
        epsilon: added to the variance.

    Attributes:
        dgamma: gradient of gamma, after `backward`.
        dbeta: gradient of beta, after `backward`.
    """

    def __init__(
        self, gamma: np.ndarray, beta: np.ndarray, groups: int, epsilon: float = 1e-3
    ) -> None:
        """Make a layer of its parameters."""
        self.gamma, self.beta, self.groups, self.epsilon = gamma, beta, groups, epsilon
        self.dgamma = self.dbeta = self._kept = None

    def __call__(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Apply the layer; training prepares `backward`."""
        x_hat, cache = batch_norm(self._columns(x), None, None, epsilon=self.epsilon)
        x_hat = self._undo(x_hat, x.shape)
        self._kept = (x_hat, cache) if training else None
        y = x_hat * _spread(self.gamma, x)
        y += _spread(self.beta, x)
        return y

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """Set dgamma and dbeta, and return the gradient of the input."""
        x_hat, cache = self._kept
        flat = len(dy), -1, dy.shape[-1]
        self.dgamma = np.einsum("rbu,rbu->ru", dy.reshape(flat), x_hat.reshape(flat))
        self.dbeta = dy.reshape(flat).sum(axis=1)
        dx, _, _ = batch_norm_grad(self._columns(dy * _spread(self.gamma, dy)), cache)
        return self._undo(dx, dy.shape)

    def _columns(self, a: np.ndarray) -> np.ndarray:
        """Make each group of each example a column: many short rows would be slow."""
        split = self._split(a.shape)
        columns = a.reshape(split).transpose(1, 3, 0, 2)
        return np.ascontiguousarray(columns).reshape(split[1] * split[3], -1)

    def _undo(self, columns: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Undo `_columns`."""
        examples, places, groups, units = self._split(shape)
        return columns.reshape(places, units, examples, groups).transpose(2, 0, 3, 1).reshape(shape)

    def _split(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Examples, places, groups, and units in a group."""
        units = shape[-1]
        return shape[0] * shape[1], math.prod(shape[2:-1]), self.groups, units // self.groups


class GhostBatchNormLayer(BatchNorm):
    """BN in which sub-batches of each training batch have statistics of their own.

    The gradient is that of the whole batch. The moving statistics follow the mean and variance of
    the whole batch, merged from those of the ghost batches.

    Args:
        size: rows in a ghost batch, which follow each other.
        **options: of `bnutils.norm.BatchNorm`.
    """

    def __init__(self, size: int, **options: Any) -> None:
        """Set up the layer; its arrays are assigned before the first call."""
        super().__init__(**options)
        self.size = size

    def __call__(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Normalize each ghost batch by itself (training), or all rows by the moving statistics.

        Args:
            x: array [runs, batch, ..., units].
            training: as for `bnutils.norm.BatchNorm`.

        Raises:
            ValueError: as for `bnutils.norm.BatchNorm`; in training also if a ghost batch would be
                incomplete.
        """
        if not training:
            return super().__call__(x)
        rows = x.shape[1]
        if rows % self.size:
            raise ValueError(f"expected rows in ghost batches of {self.size}, got {rows} rows")
        ghosts = rows // self.size
        gamma, beta = (
            None if p is None else np.repeat(p[:, None], ghosts, axis=1)
            for p in (self.gamma, self.beta)
        )
        y, self._cache = batch_norm(
            self._apart(x), gamma, beta, axis=(1, 2, 3), epsilon=self.epsilon
        )
        means, variances = self._cache.mean, self._cache.variance  # [runs, ghosts, units]
        new = 1 - self.momentum
        self.moving_mean = self.momentum * self.moving_mean + new * means.mean(axis=1)
        merged = variances.mean(axis=1) + means.var(axis=1)
        self.moving_variance = self.momentum * self.moving_variance + new * merged
        return np.moveaxis(y, 0, 2).reshape(x.shape)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """Set dgamma and dbeta, and return the gradient of the input."""
        dx, dgamma, dbeta = batch_norm_grad(self._apart(dy), self._cache)
        self.dgamma, self.dbeta = dgamma.sum(axis=1), dbeta.sum(axis=1)
        return np.moveaxis(dx, 0, 2).reshape(dy.shape)

    def _apart(self, a: np.ndarray) -> np.ndarray:
        """Turn [runs, batch, ..., units] into [size and places, runs, ghosts, units]."""
        ghosts = a.shape[1] // self.size
        return np.moveaxis(a.reshape(len(a), ghosts, -1, a.shape[-1]), 2, 0)


class BatchRenormLayer(BatchNorm):
    """Batch renormalization: BN with its training output moved toward that of inference.

    Ioffe 2017, arXiv:1702.03275, Algorithm 1::

        y = gamma * (x_hat * r + d) + beta
        r = sd / moving_sd,  d = (mean - moving_mean) / moving_sd

    where sd is sqrt(variance + epsilon). The gradient takes r and d as constants. Keras keeps a
    moving average of sd; this layer keeps that of the variance, as BN does.

    Args:
        r_max: r is limited to the range from 1 / r_max to r_max.
        d_max: d is limited to the range from -d_max to d_max.
        **options: of `bnutils.norm.BatchNorm`.
    """

    def __init__(self, r_max: float, d_max: float, **options: Any) -> None:
        """Set up the layer; its arrays are assigned before the first call."""
        super().__init__(**options)
        self.r_max, self.d_max = r_max, d_max
        self._r = self._d = None

    def __call__(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Apply the layer to an array [runs, batch, ..., units], as `BatchNorm` does."""
        if not training:
            return super().__call__(x)
        moving_mean, moving_variance = self.moving_mean, self.moving_variance
        y = super().__call__(x, training=True)
        moving_sd = np.sqrt(moving_variance + self.epsilon)
        sd = np.sqrt(self._cache.variance + self.epsilon)
        self._r = np.clip(sd / moving_sd, 1 / self.r_max, self.r_max)
        self._d = np.clip((self._cache.mean - moving_mean) / moving_sd, -self.d_max, self.d_max)
        y *= _spread(self._r, y)
        shift = self._d if self.gamma is None else self.gamma * self._d
        if self.beta is not None:
            shift = shift + self.beta * (1 - self._r)
        y += _spread(shift, y)
        return y

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """Set dgamma and dbeta, and return the gradient of the input."""
        dx, dgamma, dbeta = batch_norm_grad(dy, self._cache)
        dx *= _spread(self._r, dx)
        self.dgamma, self.dbeta = self._r * dgamma + self._d * dbeta, dbeta
        return dx


class InferenceBatchNormLayer(BatchNorm):
    """BN in inference mode, in training too: the moving statistics normalize, and stay.

    The layer is then a scale and a shift for each channel, and examples of a batch don't meet.

    Args:
        **options: of `bnutils.norm.BatchNorm`.
    """

    def __init__(self, **options: Any) -> None:
        """Set up the layer; its arrays are assigned before the first call."""
        super().__init__(**options)
        self._x = None

    def __call__(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Apply the layer to an array [runs, batch, ..., units]; training prepares `backward`."""
        self._x = x if training else None
        return super().__call__(x)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """Set dgamma and dbeta, and return the gradient of the input."""
        inverse_sd = 1 / np.sqrt(self.moving_variance + self.epsilon)
        flat = len(dy), -1, dy.shape[-1]
        dbeta = dy.reshape(flat).sum(axis=1)
        products = np.einsum("rbu,rbu->ru", dy.reshape(flat), self._x.reshape(flat))
        if self.scale:
            self.dgamma = (products - self.moving_mean * dbeta) * inverse_sd
        if self.center:
            self.dbeta = dbeta
        scale = inverse_sd if self.gamma is None else self.gamma * inverse_sd
        return dy * _spread(scale, dy)


def _spread(parameter: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Give a parameter [runs, units] the axes that it lacks to meet an array [runs, ..., units]."""
    return parameter.reshape(len(parameter), *(1,) * (a.ndim - 2), -1)
