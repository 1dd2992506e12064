"""Batch normalization in plain NumPy: the forward pass, its gradient, inference and the layer.

The mathematics is that of S. Ioffe and C. Szegedy, "Batch Normalization: Accelerating Deep
Network Training by Reducing Internal Covariate Shift", ICML 2015, arXiv:1502.03167: Algorithm 1
(training), Algorithm 2 (inference) and the gradient of section 3, in closed form. Names, defaults
and the biased variance are those of ``keras.layers.BatchNormalization``.

``axis`` names the axis, or axes, that keep their own statistics; all others are averaged over.
A *channel* is one position along the kept axes: one feature, one feature map, or one feature of
one run. Parameters have the shape of the kept axes, in the order in which they stand in ``x``::

    x [batch, features]                    axis=-1
    x [batch, height, width, channels]     axis=-1
    x [batch, channels, height, width]     axis=1
    x [runs, batch, features]              axis=(0, -1)

float32 input gives float32 output, float64 gives float64. No function changes its arguments.
"""

from __future__ import annotations

import math
import operator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

__all__ = [
    "BatchNorm",
    "Cache",
    "batch_norm",
    "batch_norm_grad",
    "batch_norm_inference",
    "standardize",
]


def standardize(x, axis, epsilon=0.0):
    """Subtract the mean and divide by the standard deviation, both taken over ``axis``.

    Args:
        x: float32 or float64 array of any shape.
        axis: The axis, or axes, to average over.
        epsilon: Added to the variance, in the units of ``x`` squared; at least 0.

    Returns:
        ``(x_hat, mean, variance)``: ``x_hat = (x - mean) / sqrt(variance + epsilon)`` has the shape
        of ``x``; mean and biased variance have length 1 along ``axis``.

    Raises:
        ValueError: If ``x`` is empty, not float32 or float64, or not finite throughout; if
            ``axis`` is empty, out of range or repeated; if ``epsilon`` is negative; or if
            ``epsilon`` is 0 and some variance is 0.

    Example:
        >>> x_hat, mean, variance = standardize(np.array([[1.0, 10.0], [3.0, 30.0]]), axis=0)
        >>> x_hat
        array([[-1., -1.],
               [ 1.,  1.]])
        >>> mean, variance
        (array([[ 2., 20.]]), array([[  1., 100.]]))
    """
    x, layout = _checked(x, _layout_over, axis)
    centered, mean, variance = _moments(x, layout)
    inverse_std = _inverse_std(variance, epsilon, x, layout)
    centered *= layout.spread(inverse_std)
    return (
        layout.unfold(centered),
        mean.reshape(layout.keepdims),
        variance.reshape(layout.keepdims),
    )


def batch_norm(x, gamma, beta, axis=-1, epsilon=1e-3):
    """Normalize each channel by the statistics of this batch, then scale and shift it.

    Algorithm 1 of arXiv:1502.03167: ``y = gamma * x_hat + beta``.

    Args:
        x: float32 or float64 array with at least two values in each channel.
        gamma: Scale, in the shape of the kept axes; None for no scale.
        beta: Shift, in the shape of the kept axes; None for no shift.
        axis: The axis, or axes, that keep their own statistics.
        epsilon: Added to the variance, in the units of ``x`` squared; at least 0.

    Returns:
        ``(y, cache)``: ``y`` like ``x``, and what ``batch_norm_grad`` needs.

    Raises:
        ValueError: If ``x`` is empty, not float32 or float64, or not finite throughout, or has
            one value in each channel; if ``axis`` is out of range, repeated, or leaves nothing to
            average over; if ``gamma`` or ``beta`` has the wrong shape; if ``epsilon`` is negative;
            or if ``epsilon`` is 0 and some variance is 0.

    Example:
        >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
        >>> gamma, beta = np.array([1.0, 2.0]), np.array([0.0, 5.0])
        >>> y, cache = batch_norm(x, gamma, beta, epsilon=0)
        >>> y
        array([[-1.,  3.],
               [ 1.,  7.]])
        >>> cache.mean, cache.variance
        (array([ 2., 20.]), array([  1., 100.]))
    """
    x, layout = _checked(x, _layout_keeping, axis)
    if layout.count < 2:
        raise ValueError(
            f"x of shape {layout.shape} has one value in each channel (axis={axis}): it would be "
            "its own mean, so the output would be beta and the gradient zero whatever x is; "
            "training needs at least two"
        )
    gamma = layout.row(gamma, "gamma")
    beta = layout.row(beta, "beta")

    centered, mean, variance = _moments(x, layout)
    inverse_std = _inverse_std(variance, epsilon, x, layout)
    scale = layout.spread(inverse_std if gamma is None else gamma * inverse_std)
    y = centered * scale
    if beta is not None:
        y += layout.spread(beta)
    return layout.unfold(y), Cache(centered, mean, variance, inverse_std, scale, layout)


def batch_norm_grad(dy, cache):
    """Gradient of a loss with respect to ``x``, ``gamma`` and ``beta``, given that of ``y``.

    The equations of section 3 of arXiv:1502.03167, simplified. All means are over the batch::

        dbeta  = sum(dy)
        dgamma = sum(dy * x_hat)
        dx     = gamma / sqrt(variance + epsilon) * (dy - mean(dy) - x_hat * mean(dy * x_hat))

    Args:
        dy: Gradient with respect to ``y``, of its shape.
        cache: What ``batch_norm`` returned beside ``y``.

    Returns:
        ``(dx, dgamma, dbeta)``, in the dtype of ``x``: ``dx`` like ``x``, the others in the shape
        of the kept axes (also where ``gamma`` or ``beta`` was None).

    Raises:
        ValueError: If ``dy`` has the wrong shape, is not float32 or float64, or is not finite
            throughout.

    Example:
        >>> x = np.array([[1.0], [2.0], [6.0]])
        >>> y, cache = batch_norm(x, np.ones(1), np.zeros(1))
        >>> dx, dgamma, dbeta = batch_norm_grad(np.array([[1.0], [0.0], [0.0]]), cache)
        >>> dx.round(4), dgamma.round(4), dbeta
        (array([[ 0.1764],
               [-0.2204],
               [ 0.044 ]]), array([-0.9257]), array([1.]))
    """
    dy = _floats(dy, "dy")
    layout = cache.layout
    if dy.shape != layout.shape:
        raise ValueError(f"dy must have the shape of x, {layout.shape}, got {dy.shape}")
    dy = layout.fold(dy)
    if dy.dtype != cache.centered.dtype:
        dy = dy.astype(cache.centered.dtype)

    dgamma, dbeta = _channel_gradients(dy, cache)
    # x_hat = centered * inverse_std is never formed: its factor goes into that of each channel.
    dx = cache.centered * layout.spread(dgamma / layout.size * cache.inverse_std)
    np.subtract(dy, dx, out=dx)
    dx -= layout.spread(dbeta / layout.size)
    dx *= cache.scale
    return layout.unfold(dx), dgamma.reshape(layout.kept), dbeta.reshape(layout.kept)


def batch_norm_inference(x, gamma, beta, moving_mean, moving_variance, axis=-1, epsilon=1e-3):
    """Normalize by given statistics: one multiplication and one addition for each value.

    Algorithm 2 of arXiv:1502.03167: ``y = scale * x + shift``, with
    ``scale = gamma / sqrt(moving_variance + epsilon)`` and ``shift = beta - scale * moving_mean``.

    Args:
        x: float32 or float64 array.
        gamma: Scale, in the shape of the kept axes; None for no scale.
        beta: Shift, in the shape of the kept axes; None for no shift.
        moving_mean: Mean, in the shape of the kept axes.
        moving_variance: Variance, in the shape of the kept axes; at least 0.
        axis: The axis, or axes, that keep their own statistics.
        epsilon: Added to the variance, in the units of ``x`` squared; at least 0.

    Returns:
        ``y``, like ``x``.

    Raises:
        ValueError: If ``x`` is empty, not float32 or float64, or not finite throughout; if
            ``axis`` is out of range, repeated, or leaves nothing to average over; if a parameter
            has the wrong shape; if ``epsilon`` or some variance is negative; or if both are 0.

    Example:
        >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
        >>> batch_norm_inference(x, None, None, moving_mean=[1.0, 10.0],
        ...                      moving_variance=[4.0, 25.0], epsilon=0)
        array([[0., 0.],
               [1., 4.]])
    """
    x, layout = _checked(x, _layout_keeping, axis)
    gamma = layout.row(gamma, "gamma")
    beta = layout.row(beta, "beta")
    mean = layout.row(moving_mean, "moving_mean")
    variance = layout.row(moving_variance, "moving_variance")
    if not variance.min() >= 0:
        raise ValueError(f"moving_variance must not be negative, got {variance.min()}")

    scale = _inverse_std(variance, epsilon)
    if gamma is not None:
        scale *= gamma
    shift = -mean * scale
    if beta is not None:
        shift += beta
    y = _scaled_and_shifted(x, scale, shift, layout)
    return layout.unfold(y)


class BatchNorm:
    """The layer: ``batch_norm`` with its parameters and moving statistics.

    Names, defaults, initial values and the update rule are those of
    ``keras.layers.BatchNormalization``. Each training call does::

        moving_mean     = momentum * moving_mean     + (1 - momentum) * mean
        moving_variance = momentum * moving_variance + (1 - momentum) * variance

    with the biased variance of the batch, starting from 0 and 1. The arrays are None until the
    first training call makes them; any of them may be assigned.

    Args:
        axis: The axis, or axes, that keep their own statistics.
        momentum: Weight of the past in the moving statistics, from 0 to 1.
        epsilon: Added to the variance, in the units of the input squared; at least 0.
        center: Whether there is a ``beta``.
        scale: Whether there is a ``gamma``.

    Attributes:
        gamma: Scale, in the shape of the kept axes; starts at 1; None without ``scale``.
        beta: Shift, in the shape of the kept axes; starts at 0; None without ``center``.
        moving_mean: Mean used at inference, in the shape of the kept axes.
        moving_variance: Variance used at inference, in the shape of the kept axes.
        dgamma: Gradient with respect to ``gamma``, set by ``backward``.
        dbeta: Gradient with respect to ``beta``, set by ``backward``.

    Raises:
        ValueError: If ``momentum`` lies outside [0, 1] or ``epsilon`` is negative.

    Example:
        >>> layer = BatchNorm(momentum=0.9)
        >>> x = np.array([[1.0], [3.0]])
        >>> layer(x, training=True).round(2).ravel()
        array([-1.,  1.])
        >>> layer.moving_mean, layer.moving_variance
        (array([0.2]), array([1.]))
        >>> layer(x, training=False).round(2).ravel()
        array([0.8, 2.8])
    """

    def __init__(self, axis=-1, momentum=0.99, epsilon=1e-3, center=True, scale=True):
        """Set up the layer; its arrays come with the first training call."""
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must lie between 0 and 1, got {momentum}")
        _require_eps(epsilon, "epsilon")
        self.axis = axis
        self.momentum = float(momentum)
        self.epsilon = epsilon
        self.center = center
        self.scale = scale
        self.gamma = self.beta = None
        self.moving_mean = self.moving_variance = None
        self.dgamma = self.dbeta = None
        self._cache = None

    def __call__(self, x, training=False):
        """Normalize ``x`` by its own statistics (training) or by the moving ones.

        Args:
            x: float32 or float64 array.
            training: Whether to use, and to learn from, the statistics of this batch.

        Returns:
            ``y``, like ``x``.

        Raises:
            ValueError: As ``batch_norm`` and ``batch_norm_inference``; also at inference if there
                are no statistics yet. The layer is then as it was before the call.
        """
        x = _floats(x, "x")
        kept = _layout_keeping(x.shape, x.dtype, _hashable(self.axis)).kept
        gamma = _or_new(self.gamma, np.ones, kept, x.dtype) if self.scale else None
        beta = _or_new(self.beta, np.zeros, kept, x.dtype) if self.center else None
        if not training:
            if self.moving_mean is None or self.moving_variance is None:
                raise ValueError(
                    "inference needs moving statistics, and there are none yet: call the layer "
                    "with training=True, or assign moving_mean and moving_variance"
                )
            moving = self.moving_mean, self.moving_variance
            return batch_norm_inference(x, gamma, beta, *moving, self.axis, self.epsilon)

        moving_mean = _or_new(self.moving_mean, np.zeros, kept, x.dtype)
        moving_variance = _or_new(self.moving_variance, np.ones, kept, x.dtype)
        _require_shape(moving_mean, "moving_mean", kept)
        _require_shape(moving_variance, "moving_variance", kept)
        y, cache = batch_norm(x, gamma, beta, self.axis, self.epsilon)
        self.gamma, self.beta, self._cache = gamma, beta, cache
        self.moving_mean = self.momentum * moving_mean + (1 - self.momentum) * cache.mean
        self.moving_variance = (
            self.momentum * moving_variance + (1 - self.momentum) * cache.variance
        )
        return y

    def backward(self, dy):
        """Gradient of the last training call; sets ``dgamma`` and ``dbeta``.

        Args:
            dy: Gradient with respect to the output of that call, of its shape.

        Returns:
            Gradient with respect to the input of that call.

        Raises:
            ValueError: As ``batch_norm_grad``; also if there was no training call.
        """
        if self._cache is None:
            raise ValueError("backward needs a call with training=True before it")
        dx, dgamma, dbeta = batch_norm_grad(dy, self._cache)
        self.dgamma = dgamma if self.scale else None
        self.dbeta = dbeta if self.center else None
        return dx


def _or_new(parameter, make, shape, dtype):
    return make(shape, dtype) if parameter is None else np.asarray(parameter, dtype)


class Cache(NamedTuple):
    """What ``batch_norm`` keeps for ``batch_norm_grad``, laid out as ``layout`` says.

    Attributes:
        centered: ``x - mean``.
        channel_mean: Mean of each channel.
        channel_variance: Biased variance of each channel.
        inverse_std: ``1 / sqrt(variance + epsilon)`` of each channel.
        scale: ``gamma * inverse_std``, repeated to the length of a row of ``centered``.
        layout: How arrays are folded.
    """

    centered: np.ndarray
    channel_mean: np.ndarray
    channel_variance: np.ndarray
    inverse_std: np.ndarray
    scale: np.ndarray
    layout: _Layout

    @property
    def mean(self):
        """Mean of the batch, in the shape of the kept axes."""
        return self.channel_mean.reshape(self.layout.kept)

    @property
    def variance(self):
        """Biased variance of the batch, in the shape of the kept axes."""
        return self.channel_variance.reshape(self.layout.kept)


# Values that are not finite are reported as errors, not as warnings on the way. As a decorator
# this costs half as much as in a with statement.
_quiet = np.errstate(over="ignore", invalid="ignore")


@_quiet
def _moments(x, layout):
    """Centered data, mean and biased variance of each channel, without cancellation.

    A sum in floating point is a little off, the more so the further the data are from zero. So
    ``x`` is centered twice: what is left after the first time is small, and so is its rounding.
    """
    mean = layout.mean(x)
    centered = x - layout.spread(mean)
    rest = layout.mean(centered)
    centered -= layout.spread(rest)
    variance = layout.mean(centered, centered)
    _require_finite(variance, x, "x", layout)
    return centered, mean + rest, variance


@_quiet
def _scaled_and_shifted(x, scale, shift, layout):
    y = x * layout.spread(scale)
    y += layout.spread(shift)
    _require_finite(layout.total(y), x, "x", layout)
    return y


@_quiet
def _channel_gradients(dy, cache):
    """``sum(dy * x_hat)`` and ``sum(dy)`` of each channel."""
    layout = cache.layout
    dgamma = layout.total(dy, cache.centered) * cache.inverse_std
    _require_finite(dgamma, dy, "dy", layout)
    return dgamma, layout.total(dy)


_TINY = float(np.finfo(np.float32).tiny)  # a smaller epsilon may be 0 in float32


def _inverse_std(variance, epsilon, x=None, layout=None):
    """``1 / sqrt(variance + epsilon)``, after a check that it is finite."""
    _require_eps(epsilon, "epsilon")
    if epsilon < _TINY and variance.dtype.type(epsilon) == 0:
        flat = variance == 0
        if x is not None:  # rounding can leave a constant channel a variance above 0
            x = x.reshape(layout.unfolded)
            flat |= x.max(axis=-2, keepdims=True) == x.min(axis=-2, keepdims=True)
        if flat.any():
            raise ValueError(
                f"epsilon is 0 and so is the variance of {flat.sum()} of {flat.size} channels: "
                "normalizing would divide by 0"
            )
    return np.reciprocal(np.sqrt(variance + float(epsilon)))


# ---- Layout: every choice of axes becomes the same two or three axes ----------------------------


class _Layout:
    """How arrays of one shape are laid out for all arithmetic, and the few operations on them.

    The kept axes before the reduced ones become one axis ``lead``, those after them one axis
    ``trail``, and the reduced ones ``count``. An array is then ``[lead, count, trail]`` and a
    statistic or parameter a row ``[lead, 1, trail]``; a ``lead`` of length 1 is left out. Where
    the kept axes come last this is a view, else a copy.

    NumPy is slow where a short row meets every row of an array: it first copies such rows into a
    buffer. So in a large array some ``folds`` batch entries lie side by side in one row as long
    as that buffer, which makes sums partial sums and so less rounded, too; and in a small array
    rows are repeated until they are as large as the array.
    """

    def __init__(self, shape, dtype, kept):
        if 0 in shape:
            raise ValueError(f"x must not be empty, got the shape {shape}")
        reduced = tuple(a for a in range(len(shape)) if a not in kept)
        before = tuple(a for a in kept if a < reduced[-1])
        after = kept[len(before) :]
        order = before + reduced + after
        lead, count, trail = (
            math.prod(shape[a] for a in axes) for axes in (before, reduced, after)
        )
        self.shape = shape
        self.kept = tuple(shape[a] for a in kept)
        self.keepdims = tuple(n if a in kept else 1 for a, n in enumerate(shape))
        self.count = count
        self.size = np.array(count, dtype)  # dividing by this is faster than by an int
        self.small = lead * count * trail < 2**14
        self.folds = 1 if self.small else _folds(count, trail)
        self._row_ones = np.ones(count // self.folds, dtype)
        self._fold_ones = np.ones(self.folds, dtype)
        self._repeats = np.zeros(count if self.small else self.folds, np.intp)

        self._permuted = order != tuple(range(len(shape)))
        self._order = order
        self._inverse = tuple(order.index(a) for a in range(len(shape)))
        self._ordered = tuple(shape[a] for a in order)
        first = (lead,) if lead > 1 else ()
        self.unfolded = (*first, count, trail)
        self._folded = (*first, count // self.folds, self.folds * trail)
        self._row = (*first, 1, trail)
        self._long_row = (*first, 1, self.folds * trail)
        self._folded_row = (*first, self.folds, trail)

    def fold(self, x):
        """Lay out an array of shape ``shape``."""
        if self._permuted:
            x = x.transpose(self._order)
        return x.reshape(self._folded)

    def unfold(self, y):
        """Undo ``fold``."""
        y = y.reshape(self._ordered)
        return y.transpose(self._inverse) if self._permuted else y

    def row(self, parameter, name):
        """Check a parameter and lay it out as a row."""
        if parameter is None:
            return None
        parameter = np.asarray(parameter, self.size.dtype)
        _require_shape(parameter, name, self.kept)
        return parameter.reshape(self._row)

    def spread(self, row):
        """Repeat a row until it can meet a folded array."""
        if self.small:
            return row.take(self._repeats, axis=-2)
        if self.folds > 1:
            return row.take(self._repeats, axis=-2).reshape(self._long_row)
        return row

    def total(self, a, b=None):
        """Sum of ``a``, or of ``a * b``, over the batch, as a row."""
        if b is None:
            partial = _sum_rows(self._row_ones, a)
        elif self.small:
            partial = _sum_rows(self._row_ones, a * b)
        else:
            partial = np.einsum("...rc,...rc->...c", a, b).reshape(self._long_row)
        if self.folds > 1:
            partial = _sum_rows(self._fold_ones, partial.reshape(self._folded_row))
        return partial

    def mean(self, a, b=None):
        """Mean of ``a``, or of ``a * b``, over the batch, as a row."""
        return self.total(a, b) / self.size


def _sum_rows(ones, a):
    """Sum over the last axis but one, kept: multiplying by ones is faster than adding up."""
    return ones.dot(a)[None] if a.ndim == 2 else (ones @ a)[:, None]


def _folds(count, trail):
    """How many batch entries to lay side by side in a row: a divisor of ``count``."""
    if trail == 1:
        return 1
    for columns in (np.getbufsize(), 256):
        least = -(-columns // trail)
        for folds in range(least, min(4 * least, count // 8) + 1):
            if count % folds == 0:
                return folds
    return 1


@lru_cache(maxsize=128)
def _layout_keeping(shape, dtype, axis):
    """Layout for channels along ``axis``."""
    kept = _axes(shape, axis, "axis")
    if not 0 < len(kept) < len(shape):
        raise ValueError(
            "axis must keep at least one axis of x and leave at least one to average over, "
            f"got axis={axis} for x of shape {shape}"
        )
    return _Layout(shape, dtype, kept)


@lru_cache(maxsize=128)
def _layout_over(shape, dtype, axes):
    """Layout for averages over ``axes``."""
    reduced = _axes(shape, axes, "axis")
    if not reduced:
        raise ValueError(f"axis must name at least one axis to average over, got {axes}")
    return _Layout(shape, dtype, tuple(a for a in range(len(shape)) if a not in reduced))


# ---- Checks -------------------------------------------------------------------------------------


_FLOATS = np.dtype(np.float32), np.dtype(np.float64)


def _checked(x, find_layout, axes):
    """``x`` laid out, and its layout."""
    x = _floats(x, "x")
    layout = find_layout(x.shape, x.dtype, _hashable(axes))
    return layout.fold(x), layout


def _floats(x, name):
    x = np.asarray(x)
    if x.dtype not in _FLOATS:
        raise ValueError(f"{name} must be float32 or float64, got {x.dtype}")
    return x


def _hashable(axis):
    return axis if isinstance(axis, (int, tuple)) else tuple(np.atleast_1d(axis).tolist())


def _axes(shape, axis, name):
    rank = len(shape)
    given = [operator.index(a) for a in (axis if isinstance(axis, tuple) else (axis,))]
    if any(not -rank <= a < rank for a in given):
        raise ValueError(f"{name}={axis} is out of range for x of shape {shape}")
    if len({a % rank for a in given}) < len(given):
        raise ValueError(f"{name}={axis} names an axis of x of shape {shape} twice")
    return tuple(sorted(a % rank for a in given))


def _require_shape(parameter, name, shape):
    if parameter.shape != shape:
        raise ValueError(
            f"{name} must have the shape of the kept axes, {shape}, got {parameter.shape}"
        )


def _require_eps(epsilon, name):
    if not epsilon >= 0:
        raise ValueError(f"{name} must not be negative, got {epsilon}")


def _require_finite(sums, folded, name, layout):
    """Tell from sums over the batch whether all values are finite; only if not, look at each."""
    if math.isfinite(np.vdot(sums, sums)) or np.isfinite(sums).all():
        return
    bad = np.argwhere(~np.isfinite(layout.unfold(folded)))
    if not len(bad):
        raise ValueError(f"{name} is too large: its sums overflow {folded.dtype}")
    raise ValueError(
        f"{name} must be finite, got {len(bad)} of {folded.size} values that are not, "
        f"the first at index {tuple(bad[0].tolist())}"
    )
