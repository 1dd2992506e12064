"""Check a gradient against differences of the function itself.

Central differences, `(f(x + h) - f(x - h)) / 2h`, err by O(h^2) plus rounding of the order of
machine epsilon / h. In float32 that rounding alone is 1e-2 at any useful step, so every function
here asks for float64.

Example:
    >>> import numpy as np
    >>> from bnutils import gradcheck
    >>> x = np.array([1.0, 2.0])
    >>> witness = gradcheck.numerical_gradient(lambda x: (x**3).sum(), x)
    >>> gradcheck.relative_error(3 * x**2, witness) < 1e-6
    True
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["directional_error", "numerical_gradient", "relative_error"]


def numerical_gradient(
    f: Callable[[NDArray[np.float64]], float], x: ArrayLike, step: float = 1e-6
) -> NDArray[np.float64]:
    """Gradient of a scalar function by central differences, one element at a time.

    Costs two calls of `f` for each element of `x`: meant for small arrays.

    Args:
        f: function of one array that returns a number.
        x: float64 array of any shape; left unchanged.
        step: distance of the two points from `x`, in the units of `x`; above 0.

    Returns:
        Array of the shape of `x`.

    Raises:
        ValueError: `x` is not float64, `step` is not positive, or `f` returns no number.

    Example:
        >>> numerical_gradient(lambda x: (x**3).sum(), np.array([1.0, 2.0])).round(6)
        array([ 3., 12.])
    """
    x = _float64(x, "x")
    _require_positive(step)
    gradient = np.empty_like(x)
    point = x.copy()
    for i in np.ndindex(x.shape):
        point[i] = x[i] + step
        above = _value(f, point)
        point[i] = x[i] - step
        gradient[i] = (above - _value(f, point)) / (2 * step)
        point[i] = x[i]
    return gradient


def directional_error(
    f: Callable[[NDArray[np.float64]], float],
    x: ArrayLike,
    gradient: ArrayLike,
    rng: np.random.Generator,
    step: float = 1e-6,
) -> float:
    """Relative error of a gradient along one random direction.

    The slope of `f` along a direction `v` of unit length must be the inner product of the
    gradient with `v`. Two calls of `f` check a gradient of any size: a wrong element goes
    unseen only if `v` happens to be orthogonal to the error.

    Args:
        f: function of one array that returns a number.
        x: float64 array of any shape; left unchanged.
        gradient: what to check, of the shape of `x`.
        rng: `np.random.Generator` that draws the direction.
        step: distance of the two points from `x`, in the units of `x`; above 0.

    Returns:
        `relative_error` of the two slopes.

    Raises:
        ValueError: `x` or `gradient` is not float64, their shapes differ, `step` is not positive,
            or `f` returns no number.

    Example:
        >>> x = np.linspace(0, 1, 1000)
        >>> error = directional_error(lambda x: np.sin(x).sum(), x, np.cos(x),
        ...                           np.random.default_rng(0))
        >>> bool(error < 1e-6)
        True
    """
    x = _float64(x, "x")
    gradient = _float64(gradient, "gradient")
    _require_positive(step)
    if gradient.shape != x.shape:
        raise ValueError(f"expected gradient in the shape of x, {x.shape}, got {gradient.shape}")
    direction = rng.standard_normal(x.shape)
    direction /= np.linalg.norm(direction)
    above, below = _value(f, x + step * direction), _value(f, x - step * direction)
    return relative_error(np.vdot(gradient, direction), (above - below) / (2 * step))


def relative_error(a: ArrayLike, b: ArrayLike) -> float:
    """Largest difference of two arrays, in units of their largest value.

    Args:
        a: array or number.
        b: array or number of the same shape.

    Returns:
        `max|a - b| / max(|a|, |b|)` as a float; 0 where both are zero throughout.

    Raises:
        ValueError: the shapes differ, or there is no number in them.

    Example:
        >>> relative_error([1.0, 2.0], [1.0, 2.5])
        0.2
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"expected a and b of one shape, got {a.shape} and {b.shape}")
    if not a.size:
        raise ValueError(f"expected a and b with at least one number, got the shape {a.shape}")
    size = max(np.abs(a).max(), np.abs(b).max())
    return float(np.abs(a - b).max() / size) if size else 0.0


def _value(f: Callable[[NDArray[np.float64]], float], x: NDArray[np.float64]) -> float:
    value = f(x)
    if np.ndim(value):
        raise ValueError(
            "expected f to return one number, such as a sum or a loss, got an array of shape "
            f"{np.shape(value)}"
        )
    return value


def _float64(array: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(array)
    if array.dtype != np.float64:
        raise ValueError(
            f"expected {name} of float64, got {array.dtype}; convert it: {name}.astype(float) "
            "(differences of lower precision are lost in rounding)"
        )
    return array


def _require_positive(step: float) -> None:
    if not step > 0:
        raise ValueError(f"expected step above 0, got {step}")
