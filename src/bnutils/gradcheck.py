"""Check a gradient against differences of the function itself.

Central differences, ``(f(x + h) - f(x - h)) / 2h``, err by O(h^2) plus rounding of the order of
machine epsilon / h. In float32 that rounding alone is 1e-2 at any useful step, so every function
here asks for float64.
"""

import numpy as np

__all__ = ["directional_error", "numerical_gradient", "relative_error"]


def numerical_gradient(f, x, step=1e-6):
    """Gradient of a scalar function by central differences, one element at a time.

    Costs two calls of ``f`` for each element of ``x``: meant for small arrays.

    Args:
        f: Function of one array that returns a number.
        x: float64 array of any shape; left unchanged.
        step: Distance of the two points from ``x``, in the units of ``x``.

    Returns:
        Array of the shape of ``x``.

    Raises:
        ValueError: If ``x`` is not float64 or ``step`` is not positive.

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
        above = f(point)
        point[i] = x[i] - step
        gradient[i] = (above - f(point)) / (2 * step)
        point[i] = x[i]
    return gradient


def directional_error(f, x, gradient, rng, step=1e-6):
    """Relative error of a gradient along one random direction.

    The slope of ``f`` along a direction ``v`` of unit length must be the inner product of the
    gradient with ``v``. Two calls of ``f`` check a gradient of any size: a wrong element goes
    unseen only if ``v`` happens to be orthogonal to the error.

    Args:
        f: Function of one array that returns a number.
        x: float64 array of any shape; left unchanged.
        gradient: What to check, of the shape of ``x``.
        rng: ``np.random.Generator`` that draws the direction.
        step: Distance of the two points from ``x``, in the units of ``x``.

    Returns:
        ``relative_error`` of the two slopes.

    Raises:
        ValueError: If ``x`` or ``gradient`` is not float64, their shapes differ, or ``step`` is
            not positive.

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
        raise ValueError(f"gradient must have the shape of x, {x.shape}, got {gradient.shape}")
    direction = rng.standard_normal(x.shape)
    direction /= np.linalg.norm(direction)
    slope = (f(x + step * direction) - f(x - step * direction)) / (2 * step)
    return relative_error(np.vdot(gradient, direction), slope)


def relative_error(a, b):
    """Largest difference of two arrays, in units of their largest value.

    Args:
        a: Array or number.
        b: Array or number of the same shape.

    Returns:
        ``max|a - b| / max(|a|, |b|)`` as a float; 0 where both are zero throughout.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> relative_error([1.0, 2.0], [1.0, 2.5])
        0.2
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"a and b must have the same shape, got {a.shape} and {b.shape}")
    size = max(np.abs(a).max(), np.abs(b).max())
    return float(np.abs(a - b).max() / size) if size else 0.0


def _float64(array, name):
    array = np.asarray(array)
    if array.dtype != np.float64:
        raise ValueError(
            f"{name} must be float64, got {array.dtype}: "
            "differences of lower precision are lost in rounding"
        )
    return array


def _require_positive(step):
    if not step > 0:
        raise ValueError(f"step must be positive, got {step}")
