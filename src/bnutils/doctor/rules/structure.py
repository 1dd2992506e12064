"""Rules that need the graph of the model alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bnutils._keras import graph_inputs, keras, takes_training, tf
from bnutils.doctor import kinds
from bnutils.doctor.graph import Call, Tensor
from bnutils.doctor.rules import flow
from bnutils.doctor.rules.alone import own_call
from bnutils.doctor.rules.case import BN, Case
from bnutils.doctor.rules.registry import Finding, freeze, rule
from bnutils.doctor.words import count, listing, short

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
        if not case.follows_batch(call):
            continue  # a frozen layer is a fixed scale and a fixed shift
        if not any(flow.has_weights(each) for each in _behind(case, call)):
            continue  # it normalizes the inputs: there is no head
        head = _head(case, call)
        if head is None:
            continue
        function, output = head
        where = case.path(call.layer)
        losses = sorted(case.losses & set(_HEAD_LOSSES))
        if function in kinds.PROBABILITY:
            yield Finding(
                "warning",
                where,
                f"{where} stands straight before the {function} of the output: nothing but its own "
                f"{_parameters(call.layer)} sets the scale of the {function}.",
                "In training, batch normalization keeps the mean and the spread of each score over "
                "the batch at what beta and gamma say, whatever the examples, and adds the noise "
                "of the batch to the scores.",
                f"Take {where} out, or put it before the last layer with weights.",
            )
        elif losses or output.shape[1:] == (1,):
            loss = f" under the loss {listing(losses)}" if losses else ""
            last = f"stands straight before the {function} of" if function else "is the last before"
            yield Finding(
                "warning",
                where,
                f"{where} {last} an output of shape {_shape(output)}{loss}: over each batch of "
                "training what it gives has mean beta and spread gamma.",
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
    return flow.upstream(case.graph, call.inputs[0])


def _head(case: Case, call: Call) -> tuple[str, Tensor] | None:
    """Follow a BN forward; (the function on the way or "", the output) if it is the end."""
    tensor, function = call.outputs[0], ""
    while True:
        if case.graph.is_output(tensor):
            return function, tensor
        readers = case.graph.consumers(tensor)
        if len(readers) != 1 or flow.merges(readers[0]) or flow.has_weights(readers[0]):
            return None
        reader = readers[0]
        applied = flow.activation(reader)
        if applied in kinds.SQUASHING | kinds.PROBABILITY:
            function = applied
        elif applied != "linear":
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
        if made is None or not kinds.kind(made.layer).linear or flow.activation(made) != "linear":
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
            "the gradient of the loss is zero.",
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
            f"keeps {count(layer.moving_mean.shape[0], 'set')} of statistics where {source.path} "
            f"keeps {count(shape[right], 'channel')} on axis {right}.",
            "Every position gets statistics of its own and all channels share them: that is not "
            "what the layer is for, and it fixes the size of the input.",
            f"Build it as BatchNormalization(axis={right}) and train it anew.",
        )


def _channels(case: Case, call: Call) -> Call | None:
    """The nearest call, behind or else ahead, that says on which axis the channels are."""

    def open_way(each: Call) -> bool:
        merging = flow.merges(each) and flow.activation(each) == "linear"
        elementwise = flow.activation(each) not in ("", "linear") and not flow.has_weights(each)
        return flow.channel_axis(each) is None and (
            flow.keeps_shape(each) or flow.normalizes(each) or merging or elementwise
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
            freeze(case, layers, ignored),
        )


# Modes and masks


@rule("always-training", levels="error warning", chapter="06_training_and_inference")
def always_training(case: Case) -> Iterator[Finding]:
    """BN that is told training=True in its call, and so follows the batch at inference too."""
    fixed = [
        layer
        for layer in case.layers
        if layer.trainable and any(call.training for call in case.graph.of(layer))
    ]
    clinging = [layer for layer in case.layers if case.alone(layer).clings]
    # What a `call` of the user's own does with training, as its default too, shows when it runs.
    runs = case.runs and (case.graph.followed or case.graph.unwalked)
    if not (fixed or clinging or runs):
        return
    in_predict, in_call = (_follows_batch(case, fixed, training) for training in (False, None))
    in_predict = [layer for layer in case.layers if layer in clinging or layer in in_predict]
    follows = list(dict.fromkeys([*in_predict, *in_call]))
    for parent, layers in case.by_parent(follows).items():
        own = sorted({own_call(layer) for layer in layers if layer in clinging})
        mend = "Leave training=True out of the call, and out of the defaults of call"
        if own:
            told = f"made by {listing(own)} to follow the batch"
            mend = f"Let {listing(own)} hand on the training that it is given"
        else:
            told = "called with training=True" if layers[0] in fixed else "made to follow the batch"
        one = len(layers) == 1
        predicted = [layer for layer in layers if layer in in_predict]
        alone = [layer for layer in predicted if case.positions(layer) == 1]
        if predicted:
            overwritten = not own or any(case.alone(layer).overwrites for layer in layers)
            does = "predict and evaluate normalize by the batch at hand" + (
                " and overwrite the moving statistics" if overwritten else ""
            )
            why = "What the model says of a row depends on the rows beside it and on earlier calls."
        else:
            does = "m(x) normalizes by the batch at hand and overwrites the moving statistics"
            why = (
                "What m(x) says of a row depends on the rows beside it and on earlier calls; "
                f"predict and evaluate pass training=False, which Keras {keras.__version__} lets "
                "override the argument, and say something else."
            )
        if alone:
            why += f" For a row by itself {case.path(alone[0])} gives beta whatever the input."
        yield Finding(
            "error" if alone else "warning",
            case.path(layers[0]) if one else parent,
            f"{listing(map(case.path, layers))} {'is' if one else 'are'} {told}, whatever the "
            f"model is told: {does}"
            f"{_one_by_one(case, False if predicted else None)}.",
            why,
            f"{mend}, build the model anew and load its weights: fit passes it by itself. Or use "
            "the model as it is, with "
            f"the statistics that it has. {freeze(case, layers, follows)} If inference is to "
            "follow the batch on purpose (pix2pix, adaptation at test time), keep it, and never "
            "ask for rows one by one.",
        )


def _call(model: keras.Model, x: Any, training: bool | None) -> list:
    x = keras.tree.map_structure(tf.convert_to_tensor, x)
    takes = training is not None and takes_training(model)
    return keras.tree.flatten(model(x, training=training) if takes else model(x))


def _follows_batch(case: Case, fixed: list[BN], training: bool | None) -> list[BN]:
    """The layers that a call of the model with this argument lets follow the batch."""
    if case.runs is None:
        overridden = training is False and not _recorded_training_wins()
        return [
            layer
            for layer in fixed
            if any(
                call.training and not (call.recorded and overridden)
                for call in case.graph.of(layer)
            )
        ]
    with keras.StatelessScope() as scope:
        _call(case.model, _rows(case, slice(0, TRIED)), training)
    return [
        layer
        for layer in case.layers
        if layer.trainable and scope.get_current_value(layer.moving_mean) is not None
    ]


TRIED = 8  # rows that are asked for one by one


def _rows(case: Case, rows: slice) -> Any:
    return keras.tree.map_structure(lambda leaf: leaf[rows], case.runs.sample.x)


def _one_by_one(case: Case, training: bool | None) -> str:
    """How far answers for single rows are from those in a batch, in words; "" if none can be had.

    An output that has no row for each row of the inputs cannot be compared.
    """
    if case.runs is None:
        return ""
    rows = min(TRIED, case.rows)
    with keras.StatelessScope():
        whole = _call(case.model, _rows(case, slice(0, rows)), training)
        single = [_call(case.model, _rows(case, slice(i, i + 1)), training) for i in range(rows)]
    far = []
    for together, *alone in zip(whole, *single, strict=True):
        together, alone = np.asarray(together, "float64"), np.concatenate(alone)
        if together.shape == alone.shape:
            gap = np.sqrt(np.mean((alone - together) ** 2))
            far.append(gap / (together.std(axis=0).mean() + 1e-12))
    if not far:
        return ""
    return (
        f"; the outputs for {count(rows, 'row')} one by one are {short(max(far))} sd away from "
        "those in one batch"
    )


def _recorded_training_wins() -> bool:
    """Ask the installed Keras whether training=True in a recorded graph holds in predict."""
    layer = BN(name="asked_bn")
    inputs = keras.Input((1,), name="asked_input")
    model = keras.Model(inputs, layer(inputs, training=True), name="asked")
    model(np.array([[1.0], [3.0]], "float32"), training=False)
    return bool(np.any(layer.moving_mean.numpy()))


@rule("lost-mask", levels="warning note", chapter="05_inputs_and_outputs")
def lost_mask(case: Case) -> Iterator[Finding]:
    """Padding that was masked and reaches BN unmasked, since a layer between lost the mask."""
    _, lost = flow.masks(case.graph)
    for call in case.bn_calls:
        given = len(call.inputs) > 1  # the mask, by hand
        if call.inputs[0] not in lost or given or not case.learns(call.layer):
            continue
        maker, loser = lost[call.inputs[0]]
        where = case.path(call.layer)
        share = _padded(case, maker)
        if share == 0:
            continue
        told = "" if share is None else f" ({share:.0%} of the positions are padding)"
        yield Finding(
            "warning" if share is not None and share > LITTLE_PADDING else "note",
            where,
            f"The mask of {maker.path} ends at {loser.path} ({type(loser.layer).__name__}), so "
            f"{where} takes padded positions into its mean and variance{told}.",
            "The statistics then depend on how long the rows are padded, and rows that are padded "
            "otherwise are normalized by statistics that are not theirs.",
            f"Give the mask by hand, {call.layer.name}(x, mask=mask), or put {where} before "
            f"{loser.path}; LayerNormalization takes each position by itself.",
        )


LITTLE_PADDING = 0.05  # of the positions: zeros move mean and variance by about as much


def _padded(case: Case, maker: Call) -> float | None:
    """The share of positions that a layer masks in the data; None if it cannot be seen."""
    if case.runs is None or maker.inputs[0] not in case.graph.inputs:
        return None
    given = graph_inputs(case.model, case.runs.sample.x)
    mask = maker.layer.compute_mask(given[case.graph.inputs.index(maker.inputs[0])])
    return float(np.mean(~np.asarray(mask)))
