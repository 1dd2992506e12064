"""Whether a weight still has the value that its layer began with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bnutils._keras import keras, tf
from bnutils.doctor import kinds

__all__ = ["is_initial", "retouched", "values"]

_FIXED = (keras.initializers.Zeros, keras.initializers.Ones, keras.initializers.Constant)
_RANDOM = (
    keras.initializers.VarianceScaling,
    keras.initializers.RandomUniform,
    keras.initializers.RandomNormal,
    keras.initializers.TruncatedNormal,
    keras.initializers.Orthogonal,
)
_FEWEST = 100  # values, of which a spread can be told
#: The spread of a kernel is another than that of its initializer if it differs by so much, and by
#: so many standard errors: there are hundreds of kernels, and none may differ by chance.
_OTHER, _SIGMAS = 0.05, 5.0
#: Of n values drawn up to a bound, the largest comes as near to it as this number over n, but once
#: in 10^8 times: uniform values lie as dense there as anywhere, those of a truncated normal less.
_NEAR = {"uniform": 20.0, "truncated_normal": 90.0}
_ROUNDED = 0.01  # of the bound, in half precision


def values(variable: keras.Variable) -> np.ndarray:
    """The values of a Keras variable, of one replica if there are several."""
    return tf.convert_to_tensor(variable).numpy()


def is_initial(variable: keras.Variable, initializer: Any) -> bool | None:
    """Whether a variable has exactly its initial value; None if that value is random."""
    if not isinstance(initializer, _FIXED):
        return None
    first = initializer(variable.shape, dtype=variable.dtype)
    return bool(np.array_equal(np.asarray(first), values(variable)))


def retouched(layer: keras.Layer) -> bool:
    """Whether a dense layer or a convolution surely has other weights than a new one.

    A bias that has left its initial value tells, and a kernel of another spread than the one its
    initializer gives, or with values that are out of its reach. False where nothing is sure.
    """
    return kinds.kind(layer).linear and any(
        is_initial(variable, initializer) is False or _not_drawn(variable, initializer)
        for variable, initializer in _initialized(layer)
    )


def _initialized(layer: keras.Layer) -> Iterator[tuple[keras.Variable, Any]]:
    """The weights of a layer, each with its initializer."""
    for variable in layer.weights:
        name = variable.name
        for start in (name, name.removesuffix("_kernel"), "depthwise"):
            initializer = getattr(layer, f"{start}_initializer", None)
            if initializer is not None:
                yield variable, initializer
                break


def _not_drawn(variable: keras.Variable, initializer: Any) -> bool:
    """Whether the values of a kernel are none that a random initializer has drawn."""
    held = values(variable).astype("float64")
    if not isinstance(initializer, _RANDOM) or held.size < _FEWEST:
        return False
    with keras.StatelessScope():  # a generator of seeds that it shares goes on as it was
        drawn = np.asarray(initializer(variable.shape, dtype="float32"), "float64")
    (one, error), (two, other) = map(_spread, (held, drawn))
    if abs(one - two) > max(_OTHER, _SIGMAS * float(np.hypot(error, other))):
        return True
    near = _NEAR.get(_distribution(initializer), np.inf) / held.size
    middle, half = (drawn.max() + drawn.min()) / 2, (drawn.max() - drawn.min()) / 2
    return bool(np.abs(held - middle).max() > half * (1 + near + _ROUNDED))


def _distribution(initializer: Any) -> str:
    if isinstance(initializer, keras.initializers.VarianceScaling):
        return initializer.distribution
    if isinstance(initializer, keras.initializers.TruncatedNormal):
        return "truncated_normal"
    return "uniform" if isinstance(initializer, keras.initializers.RandomUniform) else ""


def _spread(kernel: np.ndarray) -> tuple[float, float]:
    """The log of the standard deviation, and its standard error."""
    square = (kernel - kernel.mean()) ** 2
    variance = float(square.mean())
    if not variance > 0:
        return np.nan, 0.0
    return 0.5 * float(np.log(variance)), float(square.std() / variance / 2 / kernel.size**0.5)
