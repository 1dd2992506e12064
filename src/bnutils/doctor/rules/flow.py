"""What the calls of a graph do to a signal: make channels, bend it, rescale it, or let it pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bnutils._keras import keras
from bnutils.doctor import kinds
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
    "masks",
    "merges",
    "normalizes",
    "parameter_axis",
    "passes",
    "upstream",
]


def is_bn(call: Call) -> bool:
    """Whether the call is one of a batch normalization layer."""
    return isinstance(call.layer, keras.layers.BatchNormalization)


def normalizes(call: Call) -> bool:
    """Whether the call gives its output a fixed scale by normalization."""
    return kinds.nearest(call.layer).role == "normalization"


def is_dropout(call: Call) -> bool:
    """Whether the call drops single values or channels, and so makes the variance larger.

    Stochastic depth drops whole examples; `AlphaDropout` is made to keep the variance.
    """
    dropped = kinds.noise(call.layer) in ("values", "channels")
    return dropped and not kinds.nearest(call.layer).keeps_variance


def has_weights(call: Call) -> bool:
    """Whether a layer with a matrix or a kernel acts: a dense layer, a convolution, a cell."""
    layer = call.layer
    if not isinstance(layer, keras.Layer) or normalizes(call):
        return False
    bends = kinds.nearest(layer).role == "activation"  # PReLU has weights, but mixes nothing
    return not bends and any(len(weight.shape) > 1 for weight in layer.weights)


def masks(graph: Graph) -> tuple[dict[Tensor, Call], dict[Tensor, tuple[Call, Call]]]:
    """Follow masks along a graph.

    Returns:
        For each tensor that has a mask, who made it; and for each whose mask was lost on the way,
        who made it and who lost it.
    """
    makers, lost = {}, {}
    for call in graph.calls:
        effect = kinds.mask(call.layer)
        held = next((makers[each] for each in call.inputs if each in makers), None)
        gone = next((lost[each] for each in call.inputs if each in lost), None)
        for tensor in call.outputs:
            if effect == "makes":
                makers[tensor] = call
            elif effect == "keeps" and held:
                makers[tensor] = held
            elif effect is None or len(tensor.shape) < 3:
                continue  # nothing is known, or there are no positions any more
            elif held and not _takes_mask(call):
                lost[tensor] = held, call
            elif gone:
                lost[tensor] = gone
    return makers, lost


def _takes_mask(call: Call) -> bool:
    """Whether a layer uses the mask up, as an average over positions does."""
    return isinstance(call.layer, keras.Layer) and call.layer.supports_masking


def merges(call: Call) -> bool:
    """Whether several signals come together."""
    return len(set(call.inputs)) > 1


def activation(call: Call) -> str:
    """The name of the function that bends the output of a call.

    Returns:
        "linear" if the output is not bent, "" if what happens to it is not known.
    """
    known = kinds.activation(call.layer)
    return "linear" if not known and (merges(call) or keeps_shape(call)) else known


def keeps_shape(call: Call) -> bool:
    """Whether each channel goes through by itself, unbent, on its own axis."""
    known = kinds.kind(call.layer)
    return known.keeps_channels or (known.role == "arithmetic" and not merges(call))


def passes(call: Call) -> bool:
    """Whether the signal goes through unbent, perhaps rearranged or averaged."""
    return keeps_shape(call) or kinds.kind(call.layer).passes


def channel_axis(call: Call) -> int | None:
    """The axis, counted from the end, on which a call keeps channels; None if it has no say."""
    return kinds.channel_axis(call.layer)


def is_convolutional(call: Call) -> bool:
    """Whether the call is one of a convolution or of a pooling layer."""
    known = kinds.nearest(call.layer)
    return known.convolution or (known.role == "pooling" and known.channels is not None)


def parameter_axis(layer: keras.layers.BatchNormalization) -> int:
    """The axis of a built batch normalization layer, counted from the end."""
    return layer.axis if layer.axis < 0 else layer.axis - layer.input_spec.ndim


def upstream(
    graph: Graph, tensor: Tensor, go_on: Callable[[Call], bool] = lambda call: True
) -> Iterator[Call]:
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


def downstream(
    graph: Graph, tensor: Tensor, go_on: Callable[[Call], bool] = lambda call: True
) -> Iterator[Call]:
    """The calls ahead of a tensor, nearest first; `go_on(call)` says whether to look beyond it."""
    waiting, seen = [tensor], set()
    while waiting:
        for call in graph.consumers(waiting.pop(0)):
            if call not in seen:
                seen.add(call)
                yield call
                if go_on(call):
                    waiting.extend(call.outputs)
