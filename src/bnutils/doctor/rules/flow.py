"""What the calls of a graph do to a signal: make channels, bend it, rescale it, or let it pass."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from bnutils._keras import keras
from bnutils.doctor.graph import Call, Graph, Tensor

__all__ = [
    "activation",
    "channel_axis",
    "downstream",
    "has_weights",
    "is_bn",
    "is_convolutional",
    "is_dropout",
    "keeps_shape",
    "merges",
    "normalizes",
    "parameter_axis",
    "passes",
    "upstream",
]

layers = keras.layers

RELU_LIKE = frozenset(
    [
        "relu",
        "relu6",
        "leaky_relu",
        "elu",
        "selu",
        "celu",
        "gelu",
        "silu",
        "swish",
        "mish",
        "hard_silu",
        "hard_swish",
        "softplus",
        "p_relu",
        "squareplus",
    ]
)
PROBABILITY = frozenset(
    ["softmax", "sigmoid", "hard_sigmoid", "log_softmax", "log_sigmoid", "sparsemax"]
)

_CONVOLUTIONS = (
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
)
_POOLING = tuple(
    getattr(layers, f"{kind}Pooling{rank}D") for kind in ("Max", "Average") for rank in (1, 2, 3)
)
_FEATURES_LAST = (layers.Dense, layers.Embedding, layers.RNN, layers.Bidirectional)
_DROPOUT = (
    layers.Dropout,
    layers.GaussianDropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
)
_NORMALIZATION = (
    layers.BatchNormalization,
    layers.LayerNormalization,
    layers.GroupNormalization,
    layers.RMSNormalization,
    layers.UnitNormalization,
)
# Layers and operations, by class name, that neither bend the signal nor move its channels ...
_KEEP_SHAPE = re.compile(
    r"(Alpha|Gaussian|Spatial)?Dropout\d?D?|GaussianNoise|ActivityRegularization|Identity|Masking"
    r"|(ZeroPadding|Cropping|UpSampling|MaxPooling|AveragePooling)\dD|Rescaling|Cast|Pad"
)
# ... and those that only rearrange or average it.
_REARRANGE = re.compile(
    r"Flatten|Reshape|Permute|RepeatVector|Global(Max|Average)Pooling\dD|Transpose|Squeeze"
    r"|ExpandDims|GetItem|Mean|Max"
)
_ARITHMETIC = re.compile(r"Add|Subtract|Multiply|Divide|TrueDivide|Negative")


def is_bn(call: Call) -> bool:
    """Whether the call is one of a batch normalization layer."""
    return isinstance(call.layer, layers.BatchNormalization)


def normalizes(call: Call) -> bool:
    """Whether the call gives its output a fixed scale by normalization."""
    return isinstance(call.layer, _NORMALIZATION)


def is_dropout(call: Call) -> bool:
    """Whether the call drops single values or channels. Stochastic depth drops whole examples."""
    layer = call.layer
    if not isinstance(layer, _DROPOUT) or not layer.rate:
        return False
    shape = getattr(layer, "noise_shape", None)
    return not (shape is not None and len(shape) > 1 and all(size == 1 for size in shape[1:]))


def has_weights(call: Call) -> bool:
    """Whether a layer with a matrix or a kernel acts: a dense layer, a convolution, a cell."""
    layer = call.layer
    if not isinstance(layer, keras.Layer) or isinstance(layer, layers.PReLU) or normalizes(call):
        return False
    return any(len(weight.shape) > 1 for weight in layer.weights)


def merges(call: Call) -> bool:
    """Whether several signals come together."""
    return len(set(call.inputs)) > 1


def activation(call: Call) -> str:
    """The name of the function that bends the output of a call.

    Returns:
        "linear" if the output is not bent, "" if what happens to it is not known.
    """
    layer = call.layer
    name = type(layer).__name__
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=U)(?=6)", "_", name).lower().replace("u_6", "u6")
    snake = {"re_lu": "relu", "leaky_re_lu": "leaky_relu", "pre_lu": "p_relu"}.get(snake, snake)
    if hasattr(layer, "activation"):
        function = layer.activation
        return "linear" if function is None else getattr(function, "__name__", "")
    if snake in RELU_LIKE | PROBABILITY | {"tanh", "hard_tanh", "softsign", "exponential"}:
        return snake
    plain = has_weights(call) and isinstance(layer, (*_CONVOLUTIONS, *_FEATURES_LAST))
    if plain or is_bn(call) or passes(call) or merges(call):
        return "linear"
    return ""


def keeps_shape(call: Call) -> bool:
    """Whether each channel goes through by itself, unbent, on its own axis."""
    return bool(_KEEP_SHAPE.fullmatch(type(call.layer).__name__)) or (
        bool(_ARITHMETIC.fullmatch(type(call.layer).__name__)) and not merges(call)
    )


def passes(call: Call) -> bool:
    """Whether the signal goes through unbent, perhaps rearranged or averaged."""
    return keeps_shape(call) or bool(_REARRANGE.fullmatch(type(call.layer).__name__))


def channel_axis(call: Call) -> int | None:
    """The axis, counted from the end, on which a call keeps channels; None if it has no say."""
    layer = call.layer
    if isinstance(layer, (*_CONVOLUTIONS, *_POOLING)):
        rank = int(re.search(r"(\d)D", _known_name(layer)).group(1))
        return -1 if layer.data_format == "channels_last" else -(rank + 1)
    if isinstance(layer, _FEATURES_LAST):
        return -1
    return None


def is_convolutional(call: Call) -> bool:
    """Whether the call is one of a convolution or of a pooling layer."""
    return isinstance(call.layer, (*_CONVOLUTIONS, *_POOLING))


def _known_name(layer: keras.Layer) -> str:
    """The name of the Keras class that a layer is, or derives from."""
    known = (*_CONVOLUTIONS, *_POOLING)
    return next(parent.__name__ for parent in type(layer).__mro__ if parent in known)


def parameter_axis(layer: keras.layers.BatchNormalization) -> int:
    """The axis of a built batch normalization layer, counted from the end."""
    return layer.axis if layer.axis < 0 else layer.axis - layer.input_spec.ndim


def upstream(graph: Graph, tensor: Tensor, go_on: Callable[[Call], bool]) -> Iterator[Call]:
    """The calls behind a tensor, nearest first; `go_on(call)` says whether to look behind it."""
    waiting, seen = [tensor], set()
    while waiting:
        call = graph.producer(waiting.pop(0))
        if call is None or call in seen:
            continue
        seen.add(call)
        yield call
        if go_on(call):
            waiting.extend(call.inputs)


def downstream(graph: Graph, tensor: Tensor, go_on: Callable[[Call], bool]) -> Iterator[Call]:
    """The calls ahead of a tensor, nearest first; `go_on(call)` says whether to look beyond it."""
    waiting, seen = [tensor], set()
    while waiting:
        for call in graph.consumers(waiting.pop(0)):
            if call not in seen:
                seen.add(call)
                yield call
                if go_on(call):
                    waiting.extend(call.outputs)
