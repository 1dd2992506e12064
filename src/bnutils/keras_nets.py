"""The book's networks in Keras. Needs TensorFlow, and starts it without its greeting on stderr."""

from bnutils._keras import keras
from bnutils.network import Activation, Dense, Dropout
from bnutils.network.norm_layers import BatchRenormLayer, GhostBatchNormLayer, GroupNormLayer

__all__ = ["twin"]


def twin(net, run=0):
    """Build the Keras model that computes what one run of a network computes.

    Args:
        net: a `bnutils.network.Network`.
        run: which of its runs, counted from 0.

    Returns:
        An uncompiled `keras.Sequential` with the same layers, layer names, weights, moving
        statistics and dtype. It shares nothing with `net`.

    Raises:
        ValueError: if `net` has no such run, or a kind of layer that Keras does not have.
    """
    if not 0 <= run < net.runs:
        raise ValueError(f"expected run to be from 0 to {net.runs - 1}, got {run}")
    dtype = str(net.dtype)
    model = keras.Sequential([keras.Input(net.input_shape, dtype=dtype)])
    for name, layer in zip(net.names, net.layers, strict=True):
        if isinstance(layer, Dense):
            units = layer.kernel.shape[-1]
            bias = layer.bias is not None
            model.add(keras.layers.Dense(units, use_bias=bias, name=name, dtype=dtype))
            weights = [layer.kernel[run], layer.bias[run, 0]] if bias else [layer.kernel[run]]
        elif isinstance(layer, Activation):
            model.add(keras.layers.Activation(layer.name, name=name, dtype=dtype))
            weights = []
        elif isinstance(layer, Dropout):
            rate = float(layer.rate[run])
            model.add(keras.layers.Dropout(rate, name=name, dtype=dtype))
            weights = []
        elif isinstance(layer, GroupNormLayer):
            model.add(
                keras.layers.GroupNormalization(
                    layer.groups, epsilon=layer.epsilon, name=name, dtype=dtype
                )
            )
            weights = [layer.gamma[run], layer.beta[run]]
        elif isinstance(layer, (GhostBatchNormLayer, BatchRenormLayer)):
            raise ValueError(f"expected layers that Keras has, got {type(layer).__name__}")
        else:
            model.add(
                keras.layers.BatchNormalization(
                    momentum=layer.momentum,
                    epsilon=layer.epsilon,
                    center=layer.center,
                    scale=layer.scale,
                    name=name,
                    dtype=dtype,
                )
            )
            arrays = layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance
            weights = [array[run] for array in arrays if array is not None]
        model.layers[-1].set_weights(weights)
    return model
