"""The hard sigmoid: `0.2 x + 0.5` between 0 and 1 in Keras 2, `x / 6 + 0.5` in Keras 3."""

import numpy as np

from bnutils._keras import keras
from bnutils.doctor.keras2.words import Config, serialized

__all__ = ["steep_activation", "steepen_hard_sigmoids"]

_STEEPER = 1.2
# Cells: how many parts a kernel has, and which of them are gates.
_CELLS = {"LSTMCell": (4, [0, 1, 3]), "ConvLSTMCell": (4, [0, 1, 3]), "GRUCell": (3, [0, 1])}
_ONE_KERNEL = (
    *("Dense", "EinsumDense", "Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D", "DepthwiseConv2D"),
    *("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose", "SimpleRNNCell"),
    *("SeparableConv1D", "SeparableConv2D"),
)


def steep_activation(inner: Config) -> Config:
    """A layer that is nothing but the hard sigmoid, as two that make the same of their input."""
    steeper = serialized("keras.layers", "Rescaling", {"scale": _STEEPER, "offset": 0.0})
    activation = serialized(
        "keras.layers", "Activation", {"activation": "hard_sigmoid", "name": "activation"}
    )
    return serialized(
        "keras", "Sequential", {"name": inner.get("name"), "layers": [steeper, activation]}
    )


def steepen_hard_sigmoids(layers: dict[keras.Layer, str]) -> list[tuple[str, str]]:
    """Let every hard sigmoid give what that of Keras 2 gave, by larger weights in front of it.

    Args:
        layers: all layers of the model, nested, wrapped and cells too, and their paths.

    Returns:
        Pairs (layer, what is different now).

    Raises:
        ValueError: if a layer uses it in another way than that.
    """
    hard, changes = keras.activations.hard_sigmoid, []
    for layer, path in layers.items():
        name = type(layer).__name__
        gates = getattr(layer, "recurrent_activation", None) is hard
        whole = getattr(layer, "activation", None) is hard and name != "Activation"
        if isinstance(layer, keras.layers.RNN) or not (gates or whole):
            continue
        if (gates and (whole or name not in _CELLS)) or (whole and name not in _ONE_KERNEL):
            raise ValueError(
                f"its layer {path!r}, a {name}, uses the hard sigmoid of Keras 2; that of "
                "Keras 3 is another function"
            )
        for variable in layer.weights:
            factor = np.full(variable.shape[-1], _STEEPER)
            if gates:
                parts, steeper = _CELLS[name]
                factor = np.ones((parts, variable.shape[-1] // parts))
                factor[steeper] = _STEEPER
            if variable.name != "depthwise_kernel":  # the pointwise kernel after it is multiplied
                variable.assign(variable * factor.ravel())
        changes.append(
            (
                path,
                "weights in front of the hard sigmoid times 1.2: that of Keras 3 is less steep",
            )
        )
    return changes
