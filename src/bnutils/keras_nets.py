"""The book's networks in Keras. Needs TensorFlow, and starts it without its greeting on stderr."""

from __future__ import annotations

import numpy as np

from bnutils import network
from bnutils._keras import keras
from bnutils.network.norm_layers import BatchRenormLayer, GhostBatchNormLayer, GroupNormLayer
from bnutils.norm import BatchNorm

__all__ = ["twin"]


def twin(net: network.Network, run: int = 0) -> keras.Sequential:
    """Build the Keras model that computes what one run of a network computes.

    Args:
        net: a `bnutils.network.Network`, dense or convolutional.
        run: which of its runs, counted from 0.

    Returns:
        An uncompiled `keras.Sequential` with the same layers, layer names, weights, moving
        statistics and dtype. It shares nothing with `net`.

    Raises:
        ValueError: if `net` has no such run, or a kind of layer that Keras does not have.

    Example:
        >>> net = network.mlp([5, 8, 3], seeds=[0, 1], norm=network.BatchNorm())
        >>> [layer.name for layer in twin(net, run=1).layers]
        ['dense_1', 'bn_1', 'relu_1', 'dense_2']
    """
    if not 0 <= run < net.runs:
        raise ValueError(f"expected run to be from 0 to {net.runs - 1}, got {run}")
    dtype = str(net.dtype)
    model = keras.Sequential([keras.Input(net.input_shape, dtype=dtype)])
    for name, layer in zip(net.names, net.layers, strict=True):
        kind, options = _in_keras(layer, run)
        model.add(kind(**options, name=name, dtype=dtype))
        model.layers[-1].set_weights(_weights(layer, run))
    return model


def _in_keras(layer: object, run: int) -> tuple[type, dict]:
    """The class that computes what a layer computes, and its arguments."""
    kinds = keras.layers
    match layer:
        case network.Dense():
            bias = layer.bias is not None
            return kinds.Dense, {"units": layer.kernel.shape[-1], "use_bias": bias}
        case network.Conv2D():
            return kinds.Conv2D, {
                "filters": layer.kernel.shape[-1],
                "kernel_size": layer.windows.size,
                "strides": layer.windows.strides,
                "padding": layer.windows.padding,
                "use_bias": layer.bias is not None,
            }
        case network.MaxPool2D() | network.AveragePool2D():
            largest = isinstance(layer, network.MaxPool2D)
            return kinds.MaxPooling2D if largest else kinds.AveragePooling2D, {
                "pool_size": layer.windows.size,
                "strides": layer.windows.strides,
                "padding": layer.windows.padding,
            }
        case network.GlobalAveragePool2D():
            return kinds.GlobalAveragePooling2D, {}
        case network.Flatten():
            return kinds.Flatten, {}
        case network.Activation():
            return kinds.Activation, {"activation": layer.name}
        case network.Dropout():
            return kinds.Dropout, {"rate": float(layer.rate[run])}
        case GroupNormLayer():
            return kinds.GroupNormalization, {"groups": layer.groups, "epsilon": layer.epsilon}
        case BatchNorm() if not isinstance(layer, (GhostBatchNormLayer, BatchRenormLayer)):
            same = ("momentum", "epsilon", "center", "scale")
            return kinds.BatchNormalization, {name: getattr(layer, name) for name in same}
    raise ValueError(f"expected layers that Keras has, got {type(layer).__name__}")


def _weights(layer: object, run: int) -> list[np.ndarray]:
    """The arrays of one run, in the order of Keras."""
    names = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
    arrays = [(name, getattr(layer, name, None)) for name in names]
    return [a[run].ravel() if name == "bias" else a[run] for name, a in arrays if a is not None]
