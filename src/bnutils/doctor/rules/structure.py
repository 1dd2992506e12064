"""Rules that need the graph of the model alone."""

from __future__ import annotations

from collections.abc import Iterator

from bnutils._keras import keras
from bnutils.doctor.graph import Call, Tensor
from bnutils.doctor.rules import flow
from bnutils.doctor.rules.case import BN, Case
from bnutils.doctor.rules.registry import FREEZE, Finding, rule
from bnutils.doctor.words import count, listing

# The losses of keras.losses that are made for regression or classification. Others, such as a
# cosine similarity or a triplet loss, may well want a normalized embedding.
_HEAD_LOSSES = [
    "MeanSquaredError",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanSquaredLogarithmicError",
    "Huber",
    "LogCosh",
    "Poisson",
    "BinaryCrossentropy",
    "BinaryFocalCrossentropy",
    "CategoricalCrossentropy",
    "CategoricalFocalCrossentropy",
    "SparseCategoricalCrossentropy",
    "KLDivergence",
    "Hinge",
    "SquaredHinge",
    "CategoricalHinge",
]


@rule("output-bn", levels="warning note", chapter="05_inputs_and_outputs")
def output_bn(case: Case) -> Iterator[Finding]:
    """BN that reaches the output, or a softmax or sigmoid that does, with no weights between."""
    for call in case.bn_calls:
        if not any(flow.has_weights(each) for each in _behind(case, call)):
            continue  # it normalizes the inputs: there is no head
        head = _head(case, call)
        if head is None:
            continue
        bent, output = head
        where = case.path(call.layer)
        losses = sorted(case.losses & set(_HEAD_LOSSES))
        if bent:
            yield Finding(
                "warning",
                where,
                f"{where} stands straight before the {bent} of the output: nothing but its own "
                f"{_parameters(call.layer)} sets the scale of the {bent}.",
                "Batch normalization keeps the mean and the spread of each score at what beta and "
                "gamma say, whatever the example, and adds the noise of the batch to the scores.",
                f"Take {where} out, or put it before the last layer with weights.",
            )
        elif losses or output.shape[1:] == (1,):
            loss = f" under the loss {listing(losses)}" if losses else ""
            yield Finding(
                "warning",
                where,
                f"{where} is the last thing before an output of shape {_shape(output)}{loss}: "
                f"over each batch that output has mean beta and spread gamma.",
                "A prediction should not depend on what else is in the batch, and gamma and beta "
                "must climb to the scale of the targets.",
                f"Take {where} out; standardize the targets instead if their scale is large.",
            )
        else:
            yield Finding(
                "note",
                where,
                f"{where} gives the output of shape {_shape(output)}, with no layer with weights "
                "behind it.",
                "For an embedding or for feature maps that is usual; for predictions it is not.",
                f"If the output is a prediction, take {where} out.",
            )


def _behind(case: Case, call: Call) -> Iterator[Call]:
    return flow.upstream(case.graph, call.inputs[0], lambda each: True)


def _head(case: Case, call: Call) -> tuple[str, Tensor] | None:
    """Follow a BN forward; (softmax or sigmoid on the way or "", output) if it is the end."""
    tensor, bent = call.outputs[0], ""
    while True:
        if case.graph.is_output(tensor):
            return bent, tensor
        readers = case.graph.consumers(tensor)
        if len(readers) != 1 or flow.merges(readers[0]) or flow.has_weights(readers[0]):
            return None
        reader = readers[0]
        function = flow.activation(reader)
        if function in flow.PROBABILITY:
            bent = function
        elif function != "linear" and function != "tanh":
            return None  # relu-like: the end of a feature extractor; unknown: no claim
        tensor = reader.outputs[0]


def _parameters(layer: BN) -> str:
    names = [name for name, there in (("gamma", layer.scale), ("beta", layer.center)) if there]
    return " and ".join(names) or "normalization"


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(str(size) for size in tensor.shape)})"


@rule("dead-bias", levels="note", chapter="02_the_math")
def dead_bias(case: Case) -> Iterator[Finding]:
    """A bias that feeds BN alone: the batch mean takes it away."""
    dead = {}
    for call in case.bn_calls:
        made = case.graph.producer(call.inputs[0])
        if made is None or not flow.has_weights(made) or flow.activation(made) != "linear":
            continue
        layer = made.layer
        bias = getattr(layer, "bias", None)
        aligned = flow.channel_axis(made) == flow.parameter_axis(call.layer)
        if bias is None or not aligned or not layer.trainable or layer in dead:
            continue
        outputs = [tensor for each in case.graph.of(layer) for tensor in each.outputs]
        readers = [reader for tensor in outputs for reader in case.graph.consumers(tensor)]
        if any(case.graph.is_output(tensor) for tensor in outputs):
            continue
        if all(flow.is_bn(reader) and case.follows_batch(reader) for reader in readers):
            dead[layer] = bias.shape[0]
    for parent, layers in case.by_parent(dead).items():
        biases = sum(dead[layer] for layer in layers)
        where = listing(case.path(layer) for layer in layers)
        one = len(layers) == 1
        yield Finding(
            "note",
            case.path(layers[0]) if one else parent,
            f"{count(biases, 'bias', 'biases')} of {where} "
            f"{'feeds' if biases == 1 else 'feed'} batch normalization and nothing else: "
            "the gradient is zero.",
            "The mean of the batch takes the bias away again; beta does its work.",
            "Build with use_bias=False: fewer parameters, the same function.",
        )


@rule("after-activation", levels="note", chapter="04_keras")
def after_activation(case: Case) -> Iterator[Finding]:
    """BN after the activation, said once: a choice, not a fault."""
    after = {}
    for call in case.bn_calls:
        made = case.graph.producer(call.inputs[0])
        while made is not None and flow.keeps_shape(made):
            made = case.graph.producer(made.inputs[0])
        if made is not None and not flow.is_bn(made) and not flow.merges(made):
            function = flow.activation(made)
            if function not in ("", "linear"):
                after.setdefault(call.layer, function)
    if after:
        names = listing(case.path(layer) for layer in after)
        yield Finding(
            "note",
            case.path(next(iter(after))) if len(after) == 1 else "",
            f"{len(after)} of {count(len(case.layers), 'batch normalization layer')} "
            f"{'comes' if len(after) == 1 else 'come'} after an activation "
            f"({listing(sorted(set(after.values())))}): {names}.",
            "The paper puts batch normalization before the activation; both orders are in use, "
            "and neither wins always.",
            "Nothing to mend: if you try the other order, compare over several seeds.",
        )


@rule("wrong-axis", levels="error warning", chapter="04_keras")
def wrong_axis(case: Case) -> Iterator[Finding]:
    """The axis of BN is not the axis of the channels."""
    for layer in case.layers:
        calls = case.graph.of(layer)
        if not calls or layer.input_spec.ndim < 3:
            continue
        source = _channels(case, calls[0])
        if source is None or flow.channel_axis(source) == flow.parameter_axis(layer):
            continue
        shape = calls[0].inputs[0].shape
        convolution = flow.is_convolutional(source)
        kind = "a spatial axis" if convolution and len(shape) > 3 else "the time axis"
        right = flow.channel_axis(source)
        where = case.path(layer)
        yield Finding(
            "error" if convolution else "warning",
            where,
            f"{where} normalizes axis {layer.axis} of {_shape(calls[0].inputs[0])}, {kind}: it "
            f"keeps {count(_channels_of(layer), 'set', 'sets')} of statistics where {source.path} "
            f"keeps {count(shape[right], 'channel')} on axis {right}.",
            "Every position gets statistics of its own and all channels share them: that is not "
            "what the layer is for, and it fixes the size of the input.",
            f"Build it as BatchNormalization(axis={right}) and train it anew.",
        )


def _channels(case: Case, call: Call) -> Call | None:
    """The nearest call, behind or else ahead, that says on which axis the channels are."""

    def open_way(each: Call) -> bool:
        merging = flow.merges(each) and flow.activation(each) == "linear"
        bending = flow.activation(each) not in ("", "linear") and not flow.has_weights(each)
        return flow.channel_axis(each) is None and (
            flow.keeps_shape(each) or flow.normalizes(each) or merging or bending
        )

    behind = list(flow.upstream(case.graph, call.inputs[0], open_way))
    found = next((each for each in behind if flow.channel_axis(each) is not None), None)
    if found is not None or any(not open_way(each) for each in behind):
        return found
    tensor = call.outputs[0]
    while True:
        readers = case.graph.consumers(tensor)
        said = next((each for each in readers if flow.is_convolutional(each)), None)
        if said is not None or len(readers) != 1 or not open_way(readers[0]):
            return said
        tensor = readers[0].outputs[0]


def _channels_of(layer: BN) -> int:
    return layer.moving_mean.shape[0]


@rule("ignored-training-argument", levels="error", chapter="09_fine_tuning")
def ignored_training_argument(case: Case) -> Iterator[Finding]:
    """`training=False` in the recorded graph, which the installed Keras lets `fit` override."""
    ignored = [
        layer
        for layer in case.layers
        if layer.trainable
        and any(call.training is False and call.recorded for call in case.graph.of(layer))
    ]
    if not ignored or case.keras_obeys_recorded_training:
        return
    for parent, layers in case.by_parent(ignored).items():
        one = len(layers) == 1
        name = case.path(layers[0]) if one else parent
        many = f"{len(layers)} trainable batch normalization layers"
        yield Finding(
            "error",
            name,
            f"{'1 trainable batch normalization layer' if one else many} "
            f"({listing(case.path(layer) for layer in layers)}) "
            f"{'was' if one else 'were'} called with training=False when the model was built; "
            f"Keras {keras.__version__} drops that in fit, as an experiment has just shown.",
            "fit normalizes by the batch and overwrites the statistics that the call was meant to "
            "protect.",
            FREEZE,
        )
