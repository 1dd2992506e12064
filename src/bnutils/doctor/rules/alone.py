"""What a batch normalization layer by itself makes of the argument `training`.

A subclass may have a `call` that fixes the argument, whatever the model is told; the graph of the
model does not show that.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bnutils._keras import keras
from bnutils.doctor import kinds

__all__ = ["Alone", "alone", "own_call"]

_ROWS = 4  # of random inputs, with as many positions in every axis that is open
_CLOSE = 1e-3  # of outputs of size 1, so that half precision is no difference


class Alone(NamedTuple):
    """How a layer behaves that is called by itself.

    Attributes:
        learns: whether it follows the batch, or assigns to its statistics, if told training=True.
        clings: whether it normalizes by the batch if told training=False.
        overwrites: whether it then assigns to its statistics.
    """

    learns: bool
    clings: bool
    overwrites: bool


def alone(layer: keras.layers.BatchNormalization) -> Alone:
    """Call a layer in both modes; one of Keras's own, or one that cannot be called, is known."""
    if kinds.kind(layer).role != "normalization" and layer.built:
        try:
            (follows, writes), (clings, overwrites) = (
                _called(layer, mode) for mode in (True, False)
            )
            return Alone(follows or writes, clings, overwrites)
        except Exception:  # whatever a call of the user's own raises on inputs like these
            pass
    return Alone(layer.trainable, False, False)


def _called(layer: keras.layers.BatchNormalization, training: bool) -> tuple[bool, bool]:
    """(whether a row's output depends on the rows beside it, whether statistics are assigned)."""
    shape = [_ROWS] * layer.input_spec.ndim
    for axis, size in layer.input_spec.axes.items():
        shape[axis] = size
    x = np.random.default_rng(0).normal(2.0, 3.0, shape)
    x = keras.ops.convert_to_tensor(x, layer.compute_dtype)
    with keras.StatelessScope() as scope:
        together, single = (
            np.asarray(keras.ops.cast(layer(rows, training=training)[:1], "float32"))
            for rows in (x, x[:1])
        )
    written = any(
        scope.get_current_value(variable) is not None
        for variable in (layer.moving_mean, layer.moving_variance)
    )
    return not np.allclose(together, single, _CLOSE, _CLOSE, equal_nan=True), written


def own_call(layer: keras.layers.BatchNormalization) -> str:
    """The method that decides for a layer, in words, such as "FrozenBN.call"."""
    return f"{type(layer).__name__}.call"
