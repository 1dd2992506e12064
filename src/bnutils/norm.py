"""Batch normalization in plain NumPy: the forward pass, its gradient, inference and the layer.

The mathematics is that of S. Ioffe and C. Szegedy, "Batch Normalization: Accelerating Deep
Network Training by Reducing Internal Covariate Shift", ICML 2015, arXiv:1502.03167: Algorithm 1
(training), Algorithm 2 (inference) and the gradient of section 3, in closed form. Names, defaults
and the biased variance are those of `keras.layers.BatchNormalization`.

`axis` of batch normalization names the axis, or axes, that keep their own statistics; all others
are averaged over. A *channel* is one position along the kept axes: one feature, one feature map, or
one feature of one run. Parameters have the shape of the kept axes, in their order in `x`::

    x [batch, features]                    axis=-1
    x [batch, height, width, channels]     axis=-1
    x [batch, channels, height, width]     axis=1
    x [runs, batch, features]              axis=(0, -1)

float32 input gives float32 output, float64 gives float64. No function changes its arguments.

Example:
    >>> import numpy as np
    >>> from bnutils import norm
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> y, cache = norm.batch_norm(x, gamma=np.ones(2), beta=np.zeros(2), epsilon=0)
    >>> y
    array([[-1., -1.],
           [ 1.,  1.]])
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Sequence
from functools import lru_cache
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "BatchNorm",
    "Cache",
    "batch_norm",
    "batch_norm_grad",
    "batch_norm_inference",
    "standardize",
]

Floats = NDArray[np.floating[Any]]
Axis = int | Sequence[int]
Shape = tuple[int, ...]

# What is not finite becomes an error that says where, not a warning on the way to it.
_quiet = np.errstate(over="ignore", invalid="ignore")


def standardize(x: ArrayLike, axis: Axis, epsilon: float = 0.0) -> tuple[Floats, Floats, Floats]:
    """Subtract the mean and divide by the standard deviation, both taken over `axis`.

    Args:
        x: float32 or float64 array of any shape.
        axis: the axis, or axes, to average over.
        epsilon: added to the variance, in the units of `x` squared; at least 0.

    Returns:
        `(x_hat, mean, variance)`: `x_hat = (x - mean) / sqrt(variance + epsilon)` has the shape
        of `x`; mean and biased variance have length 1 along `axis`.

    Raises:
        ValueError: `x` is empty, not float32 or float64, or not finite throughout; `axis` is
            empty, out of range or repeated; `epsilon` is negative; or `epsilon` is 0 and so is
            some variance.

    Example:
        >>> x_hat, mean, variance = standardize(np.array([[1.0, 10.0], [3.0, 30.0]]), axis=0)
        >>> x_hat
        array([[-1., -1.],
               [ 1.,  1.]])
        >>> mean, variance
        (array([[ 2., 20.]]), array([[  1., 100.]]))
    """
    x, layout = _array_and_layout(x, axis, keep=False)
    x_hat, mean, variance, _ = _standardize(x, layout, epsilon)
    return layout.unfold(x_hat), mean.reshape(layout.keepdims), variance.reshape(layout.keepdims)


@_quiet
def _standardize(x: Floats, layout: _Layout, epsilon: float) -> tuple[Floats, ...]:
    """`x_hat`, and for each channel the mean, the variance and `1 / sqrt(variance + epsilon)`."""
    mean, centered = layout.center(x)  # centered = x - mean
    variance = layout.mean(centered, centered)
    _require_finite(variance, x, "x")
    inverse_sd = _inverse_sd(variance, epsilon)
    x_hat = centered  # from here on, in place
    x_hat *= layout.spread(inverse_sd)
    return x_hat, mean, variance, inverse_sd


def batch_norm(
    x: ArrayLike,
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    axis: Axis = -1,
    epsilon: float = 1e-3,
) -> tuple[Floats, Cache]:
    """Normalize each channel by the statistics of this batch, then scale and shift it.

    Algorithm 1 of arXiv:1502.03167: `standardize`, then `y = gamma * x_hat + beta`.

    Args:
        x: float32 or float64 array with at least two values in each channel.
        gamma: scale, in the shape of the kept axes; None for no scale.
        beta: shift, in the shape of the kept axes; None for no shift.
        axis: the axis, or axes, that keep their own statistics.
        epsilon: added to the variance, in the units of `x` squared; at least 0.

    Returns:
        `(y, cache)`: `y` like `x`, and what `batch_norm_grad` needs.

    Raises:
        ValueError: as `standardize`; `axis` leaves nothing to average over; `x` has one value in
            each channel; or `gamma` or `beta` has the wrong shape or is not finite.

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
    x, layout = _array_and_layout(x, axis, keep=True)
    gamma, beta = layout.row(gamma, "gamma", 1), layout.row(beta, "beta", 0)
    if layout.count < 2:
        raise ValueError(
            "expected at least two values in each channel for training, got x of the shape "
            f"{x.shape}, which has one value in each channel (axis={axis}): it would be its own "
            "mean, so the output would be beta and the gradient zero whatever x is"
        )
    x_hat, mean, variance, inverse_sd = _standardize(x, layout, epsilon)
    y = x_hat * layout.spread(gamma)
    y += layout.spread(beta)
    mean, variance = mean.reshape(layout.kept), variance.reshape(layout.kept)
    return layout.unfold(y), Cache(x_hat, mean, variance, gamma * inverse_sd, layout)


def batch_norm_grad(dy: ArrayLike, cache: Cache) -> tuple[Floats, Floats, Floats]:
    """Gradient of a loss with respect to `x`, `gamma` and `beta`, given that of `y`.

    The equations of section 3 of arXiv:1502.03167, simplified. All means are over the batch::

        dbeta  = sum(dy)
        dgamma = sum(dy * x_hat)
        dx     = gamma / sqrt(variance + epsilon) * (dy - mean(dy) - x_hat * mean(dy * x_hat))

    Args:
        dy: gradient with respect to `y`, of its shape.
        cache: what `batch_norm` returned beside `y`.

    Returns:
        `(dx, dgamma, dbeta)`, in the dtype of `x`: `dx` like `x`, the others in the shape of the
        kept axes (also where `gamma` or `beta` was None).

    Raises:
        ValueError: `dy` has the wrong shape, is not float32 or float64, or is not finite
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
    dy, layout, x_hat = _floats(dy, "dy"), cache.layout, cache.x_hat
    if dy.shape != layout.shape:
        raise ValueError(f"expected dy in the shape of x, {layout.shape}, got {dy.shape}")
    dy = layout.fold(np.asarray(dy, layout.dtype))
    dgamma, dbeta = _gradient_sums(dy, x_hat, layout)

    # scale * (dy - mean(dy) - x_hat * mean(dy * x_hat)), in one new array
    dx = x_hat * layout.spread(dgamma / layout.count)
    np.subtract(dy, dx, out=dx)
    dx -= layout.spread(dbeta / layout.count)
    dx *= layout.spread(cache.scale)
    return layout.unfold(dx), dgamma.reshape(layout.kept), dbeta.reshape(layout.kept)


@_quiet
def batch_norm_inference(
    x: ArrayLike,
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    moving_mean: ArrayLike,
    moving_variance: ArrayLike,
    axis: Axis = -1,
    epsilon: float = 1e-3,
) -> Floats:
    """Normalize by given statistics: one multiplication and one addition for each value.

    Algorithm 2 of arXiv:1502.03167: `y = scale * x + shift`, with
    `scale = gamma / sqrt(moving_variance + epsilon)` and `shift = beta - scale * moving_mean`.

    Args:
        x: float32 or float64 array.
        gamma: scale, in the shape of the kept axes; None for no scale.
        beta: shift, in the shape of the kept axes; None for no shift.
        moving_mean: mean, in the shape of the kept axes.
        moving_variance: variance, in the shape of the kept axes; at least 0.
        axis: the axis, or axes, that keep their own statistics.
        epsilon: added to the variance, in the units of `x` squared; at least 0.

    Returns:
        `y`, like `x`.

    Raises:
        ValueError: `x` is empty, not float32 or float64, or not finite throughout; `axis` is out
            of range, repeated, or leaves nothing to average over; a parameter has the wrong shape
            or is not finite; `epsilon` or some variance is negative; or both are 0.

    Example:
        >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
        >>> batch_norm_inference(x, None, None, moving_mean=[1.0, 10.0],
        ...                      moving_variance=[4.0, 25.0], epsilon=0)
        array([[0., 0.],
               [1., 4.]])
    """
    x, layout = _array_and_layout(x, axis, keep=True)
    gamma, beta = layout.row(gamma, "gamma", 1), layout.row(beta, "beta", 0)
    mean = layout.row(moving_mean, "moving_mean")
    variance = layout.row(moving_variance, "moving_variance", least=0)

    scale = gamma * _inverse_sd(variance, epsilon)
    shift = beta - scale * mean
    y = layout.fold(x) * layout.spread(scale)
    y += layout.spread(shift)
    _require_finite(layout.total(y), x, "x")
    return layout.unfold(y)


class BatchNorm:
    """The layer: `batch_norm` with its parameters and moving statistics.

    Names, defaults, initial values and the update rule are those of
    `keras.layers.BatchNormalization`. Each training call does::

        moving_mean     = momentum * moving_mean     + (1 - momentum) * mean
        moving_variance = momentum * moving_variance + (1 - momentum) * variance

    with the biased variance of the batch, starting from 0 and 1. The arrays are None until the
    first training call makes them; any of them may be assigned.

    Args:
        axis: the axis, or axes, that keep their own statistics.
        momentum: weight of the past in the moving statistics, from 0 to 1. It is 1 minus what
            PyTorch calls momentum; a weight above 0 and under 0.5 is allowed, with a warning.
        epsilon: added to the variance, in the units of the input squared; at least 0.
        center: whether there is a `beta`.
        scale: whether there is a `gamma`.

    Attributes:
        gamma: scale, in the shape of the kept axes; starts at 1; None without `scale`.
        beta: shift, in the shape of the kept axes; starts at 0; None without `center`.
        moving_mean: mean used at inference, in the shape of the kept axes.
        moving_variance: variance used at inference, in the shape of the kept axes.
        dgamma: gradient with respect to `gamma`, set by `backward`.
        dbeta: gradient with respect to `beta`, set by `backward`.

    Raises:
        ValueError: `momentum` lies outside [0, 1], or
            `epsilon` is negative.

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

    def __init__(
        self,
        axis: Axis = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
    ) -> None:
        """Set up the layer; its arrays come with the first training call."""
        self.axis = axis
        self.momentum = _number(momentum, "momentum", most=1)
        self.epsilon = _number(epsilon, "epsilon")
        self.center = center
        self.scale = scale
        self.gamma: Floats | None = None
        self.beta: Floats | None = None
        self.moving_mean: Floats | None = None
        self.moving_variance: Floats | None = None
        self.dgamma: Floats | None = None
        self.dbeta: Floats | None = None
        self._cache: Cache | None = None
        if 0 < self.momentum < 0.5:
            warnings.warn(
                f"momentum={self.momentum} is the weight of the past, as in Keras, so the moving "
                "statistics are little more than those of the last batch. PyTorch's momentum is "
                f"the weight of the new batch: its {self.momentum} is "
                f"momentum={1 - self.momentum:g} here",
                stacklevel=2,
            )

    def __call__(self, x: ArrayLike, training: bool = False) -> Floats:
        """Normalize `x` by its own statistics (training) or by the moving ones.

        Args:
            x: float32 or float64 array.
            training: whether to use, and to learn from, the statistics of this batch.

        Returns:
            `y`, like `x`.

        Raises:
            ValueError: as `batch_norm` and `batch_norm_inference`; also at inference if there are
                no statistics yet. The layer is then as it was before the call.
        """
        x, layout = _array_and_layout(x, self.axis, keep=True)

        def parameter(name: str, default: float, least: float | None = None) -> Floats:
            return layout.row(getattr(self, name), name, default, least).reshape(layout.kept)

        gamma = parameter("gamma", 1) if self.scale else None
        beta = parameter("beta", 0) if self.center else None
        if not training:
            if self.moving_mean is None or self.moving_variance is None:
                raise ValueError(
                    "expected moving statistics for inference, got none yet: call the layer with "
                    "training=True, or assign moving_mean and moving_variance"
                )
            moving = self.moving_mean, self.moving_variance
            return batch_norm_inference(x, gamma, beta, *moving, self.axis, self.epsilon)

        moving_mean = parameter("moving_mean", 0)
        moving_variance = parameter("moving_variance", 1, least=0)
        old = _number(self.momentum, "momentum", most=1)
        y, cache = batch_norm(x, gamma, beta, self.axis, self.epsilon)
        self.gamma, self.beta, self._cache = gamma, beta, cache
        self.moving_mean = old * moving_mean + (1 - old) * cache.mean
        self.moving_variance = old * moving_variance + (1 - old) * cache.variance
        return y

    def backward(self, dy: ArrayLike) -> Floats:
        """Gradient of the last training call; sets `dgamma` and `dbeta`.

        Args:
            dy: gradient with respect to the output of that call, of its shape.

        Returns:
            Gradient with respect to the input of that call.

        Raises:
            ValueError: as `batch_norm_grad`; also if there was no training call.
        """
        if self._cache is None:
            raise ValueError("expected a call with training=True before backward, got none")
        dx, dgamma, dbeta = batch_norm_grad(dy, self._cache)
        self.dgamma = dgamma if self.scale else None
        self.dbeta = dbeta if self.center else None
        return dx


class Cache(NamedTuple):
    """What `batch_norm` keeps for `batch_norm_grad`.

    Attributes:
        x_hat: the standardized `x`, as `layout` lays it out.
        mean: mean of the batch, in the shape of the kept axes.
        variance: biased variance of the batch, in the shape of the kept axes.
        scale: `gamma / sqrt(variance + epsilon)`, laid out likewise.
        layout: how arrays are laid out; `layout.unfold(x_hat)` has the shape of `x`.
    """

    x_hat: Floats
    mean: Floats
    variance: Floats
    scale: Floats
    layout: _Layout


# ---- Below this line: speed, precision and checks ------------------------------------------------


class _Layout:
    """How arrays of one shape are laid out for arithmetic, and the few operations on them.

    The kept axes before the last reduced one become one axis `lead`, those after it one axis
    `trail`, and the reduced ones `count`: a view where the kept axes come last, else a copy. NumPy
    is slow where a short row meets every row of an array, so some `folds` entries of the batch lie
    side by side: an array is `[lead, count / folds, folds, trail]`, and a statistic or parameter is
    a row `[lead, 1, 1, trail]`. Either of the first two axes is left out where its length is 1.
    """

    def __init__(self, shape: Shape, dtype: np.dtype, kept: Shape) -> None:
        reduced = tuple(a for a in range(len(shape)) if a not in kept)
        before = tuple(a for a in kept if a < reduced[-1])
        order = before + reduced + kept[len(before) :]
        sizes = [math.prod(shape[a] for a in axes) for axes in (before, reduced, kept)]
        lead, count, trail = sizes[0], sizes[1], sizes[2] // sizes[0]
        self.shape, self.dtype, self.count = shape, dtype, count
        self.kept = tuple(shape[a] for a in kept)
        self.keepdims = tuple(n if a in kept else 1 for a, n in enumerate(shape))
        self._order = order if order != tuple(range(len(shape))) else None
        self._ordered = tuple(shape[a] for a in order)
        self._inverse = tuple(order.index(a) for a in range(len(shape)))

        folds = _folds(count, trail, math.prod(shape))
        first, rows = (lead,) if lead > 1 else (), (count // folds,) if folds < count else ()
        self._array = (*first, *rows, folds, trail)
        self._row = (*first, *(1 for _ in rows), 1, trail)
        self._start = (..., *(slice(1) for _ in rows), slice(1), slice(None))
        self._repeats = np.zeros(folds, np.intp)
        self._long, self._short = (*first, *rows, folds * trail), (*first, folds, trail)
        self._rows = np.ones(rows, dtype) if rows else None
        self._ones = np.ones(folds, dtype)
        self._weights = self._ones / count

    def fold(self, x: Floats) -> Floats:
        """Lay out an array of shape `shape`."""
        return (x if self._order is None else x.transpose(self._order)).reshape(self._array)

    def unfold(self, y: Floats) -> Floats:
        """Undo `fold`."""
        y = y.reshape(self._ordered)
        return y if self._order is None else y.transpose(self._inverse)

    def spread(self, row: Floats) -> Floats:
        """Repeat a row until it can meet an array that is laid out."""
        return row.take(self._repeats, axis=-2)

    def total(self, a: Floats, b: Floats | None = None) -> Floats:
        """Sum of `a`, or of `a * b`, over the batch, as a row."""
        return self._sum(self._ones, a, b)

    def mean(self, a: Floats, b: Floats | None = None) -> Floats:
        """Mean of `a`, or of `a * b`, over the batch, as a row."""
        return self._sum(self._weights, a, b)

    def _sum(self, weights: Floats, a: Floats, b: Floats | None) -> Floats:
        # A product with ones is faster than adding up.
        if self._rows is None:
            a = a if b is None else a * b
        elif b is None:
            a = (self._rows @ a.reshape(self._long)).reshape(self._short)
        else:
            a = np.einsum("...rft,...rft->...ft", a, b)
        return (weights.dot(a) if a.ndim == 2 else weights @ a).reshape(self._row)

    def center(self, x: Floats) -> tuple[Floats, Floats]:
        """Mean of each channel, as a row, and `x - mean`, laid out.

        Far from zero, sums are coarse. So the first entry of the batch is subtracted before the
        mean is taken: what is left is about as large as the data are wide, and of a constant
        channel nothing is left.
        """
        x = self.fold(x)
        start = x[self._start]
        centered = x - self.spread(start)
        rest = self.mean(centered)
        centered -= self.spread(rest)
        return start + rest, centered

    def row(
        self,
        values: ArrayLike | None,
        name: str,
        default: float | None = None,
        least: float | None = None,
    ) -> Floats:
        """A parameter as a row, checked; or a new one where it is None and has a default."""
        if values is None and default is not None:
            return np.full(self._row, default, self.dtype)
        values = _unmasked(values, name)
        if values.dtype.kind not in "fiu":
            raise ValueError(f"expected real numbers in {name}, got {values.dtype}")
        if values.shape != self.kept:
            raise ValueError(
                f"expected {name} in the shape of the kept axes, {self.kept}, got {values.shape}"
            )
        given = values
        if values.dtype != self.dtype:
            with np.errstate(over="ignore"):
                values = values.astype(self.dtype)
        if not math.isfinite(np.vdot(values, values)):
            _require_finite(values, given, name)
        if least is not None and values.min() < least:
            raise ValueError(f"expected {name} to be at least {least}, got {values.min()}")
        return values.reshape(self._row)


def _folds(count: int, trail: int, size: int) -> int:
    """How many batch entries to lay side by side: a divisor of `count`.

    All of them in a small array. Else as many as fill NumPy's buffer, since shorter rows are copied
    into it when they meet an array; or as many as make a row that is not short.
    """
    if size < 2**14:
        return count
    for columns in (np.getbufsize(), 256) if trail > 1 else ():
        least = -(-columns // trail)
        for folds in range(least, min(4 * least, count // 8) + 1):
            if count % folds == 0:
                return folds
    return 1


@_quiet
def _gradient_sums(dy: Floats, x_hat: Floats, layout: _Layout) -> tuple[Floats, Floats]:
    """`sum(dy * x_hat)` and `sum(dy)` of each channel."""
    dgamma = layout.total(dy, x_hat)
    _require_finite(dgamma, dy, "dy", layout)
    return dgamma, layout.total(dy)


def _array_and_layout(x: ArrayLike, axis: Axis, keep: bool) -> tuple[Floats, _Layout]:
    """`x` as an array, and its layout where `axis` is kept, or averaged over."""
    x = _floats(x, "x")
    try:
        if type(axis) is not int and np.asarray(axis).dtype == bool:  # 0 and 1 to an old NumPy
            raise TypeError
        axes = axis if type(axis) is int else tuple(map(operator.index, np.atleast_1d(axis)))
    except (TypeError, ValueError):
        raise ValueError(f"expected axis, a whole number or a few of them, got {axis!r}") from None
    return x, _layout(x.shape, x.dtype, axes, keep)


@lru_cache(maxsize=256)
def _layout(shape: Shape, dtype: np.dtype, axis: int | Shape, keep: bool) -> _Layout:
    rank, got = len(shape), f"got axis={axis} for x of shape {shape}"
    axes = (axis,) if isinstance(axis, int) else axis
    if not rank or 0 in shape:
        raise ValueError(f"expected x with an axis and at least one value, got the shape {shape}")
    if any(not -rank <= a < rank for a in axes):
        raise ValueError(
            f"expected axis from {-rank} to {rank - 1}, {got}, which is out of range: axis is a "
            "position in the shape, not the number of features"
        )
    named = tuple(sorted({a % rank for a in axes}))
    others = tuple(a for a in range(rank) if a not in named)
    if len(named) < len(axes):
        raise ValueError(f"expected every axis once, {got}")
    if not named or (keep and not others):
        what = "keep at least one axis and leave at least one" if keep else "name at least one axis"
        raise ValueError(f"expected axis to {what} to average over, {got}")
    return _Layout(shape, dtype, named if keep else others)


def _unmasked(x: ArrayLike, name: str) -> NDArray:
    if type(x) is not np.ndarray and isinstance(x, np.ma.MaskedArray):
        raise ValueError(f"expected {name} without a mask, got one: leave out what it hides")
    try:
        return np.asarray(x)
    except ValueError:  # rows of different lengths
        raise ValueError(f"expected {name}, an array of numbers, got {x!r}") from None


def _floats(x: ArrayLike, name: str) -> Floats:
    x = _unmasked(x, name)
    if x.dtype.char not in "fd":
        mend = f"; convert it: {name}.astype(float)" if x.dtype.kind in "biuf" else ""
        raise ValueError(f"expected {name} of float32 or float64, got {x.dtype}{mend}")
    return x


def _number(value: float, name: str, most: float = math.inf) -> float:
    try:
        number = float(value) if isinstance(value, (float, Real)) else -1.0
    except OverflowError:  # a whole number or a fraction
        number = math.inf
    if not (0 <= number <= most and number < math.inf):
        upper = "on" if most == math.inf else f"to {most}"
        raise ValueError(f"expected {name}, a number from 0 {upper}, got {value!r}")
    return number


_TINY = float(np.finfo(np.float32).tiny)  # smaller numbers lose digits in float32, and then vanish


def _inverse_sd(variance: Floats, epsilon: float) -> Floats:
    """`1 / sqrt(variance + epsilon)`, where that can be computed."""
    epsilon = _number(epsilon, "epsilon")
    variance = variance + epsilon
    if epsilon < _TINY and (flat := variance < np.finfo(variance.dtype).tiny).any():
        raise ValueError(
            f"expected channels that vary, or a larger epsilon, got epsilon={epsilon:g} and a "
            f"variance of 0, or too near 0 for {variance.dtype}, in {flat.sum()} of {flat.size} "
            "channels: normalizing would divide by 0"
        )
    return np.reciprocal(np.sqrt(variance))


def _require_finite(sums: Floats, values: Floats, name: str, layout: _Layout | None = None) -> None:
    """Tell from sums over `values` whether all are finite; only if not, look at each."""
    if math.isfinite(np.vdot(sums, sums)) or np.isfinite(sums).all():
        return
    values = values if layout is None else layout.unfold(values)
    bad = np.argwhere(~np.isfinite(values))
    if not len(bad):
        raise ValueError(
            f"expected sums that fit {sums.dtype}, got an overflow, with {name} up to "
            f"{np.abs(values).max():.2g}: {name} or a parameter is too large"
        )
    raise ValueError(
        f"expected finite numbers in {name}, got {len(bad)} of {values.size} that are not, "
        f"the first at index {tuple(bad[0].tolist())}"
    )
