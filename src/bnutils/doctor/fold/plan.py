"""Which batch normalization layers fold into which linear layers, and why the others stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bnutils._keras import keras
from bnutils.doctor import kinds
from bnutils.doctor.fold.kernels import Affine, CannotFoldError, Linear, along, array, pads, read
from bnutils.doctor.graph import Call, Graph, Tensor, layer_paths, walk
from bnutils.doctor.results import Skipped
from bnutils.doctor.subject import Subject

__all__ = ["LAST_DIGIT", "Plan", "plan"]

LAST_DIGIT = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 2**-23, "float64": 2**-52}


@dataclass
class Plan:
    """What becomes of every batch normalization layer of a model.

    Attributes:
        graph: the calls of the model.
        folded: for each call of batch normalization that folds, the call that takes it over.
        linear: for each of these, its new weights.
        between: the tensors that will have other values: those between the two.
        skipped: the layers that stay, with the reason, and what cannot be looked into.
    """

    graph: Graph
    folded: dict[Call, Call] = field(default_factory=dict)
    linear: dict[Call, Linear] = field(default_factory=dict)
    between: set[Tensor] = field(default_factory=set)
    skipped: tuple[Skipped, ...] = ()


def plan(subject: Subject, inputs: Any = None) -> Plan:
    """Plan the folding of a model.

    Args:
        subject: the model.
        inputs: an example of what it is called on; see `bnutils.doctor.graph.walk`.

    Raises:
        ValueError: see `bnutils.doctor.fold`.
    """
    graph, kept_whole = _walked(subject, inputs)
    planner = _Planner(graph)
    norms = set(subject.layers)
    calls = [call for call in graph.calls if call.layer in norms]
    reasons = {call: [planner.refusal(call)] for call in calls}
    allowed = [call for call in calls if reasons[call] == [None]]
    # In each direction, what is next to the linear layer comes first.
    for call in allowed:
        reasons[call] = [planner.fold(call, planner.before)]
    for call in reversed(allowed):
        if call not in planner.plan.folded:
            reasons[call].append(planner.fold(call, planner.after))
    left = {
        call.layer: Skipped(call.path, "; ".join(dict.fromkeys(reasons[call])))
        for call in calls
        if call not in planner.plan.folded
    }
    for layer, path in subject.paths.items():
        if layer in norms and not graph.of(layer):
            left[layer] = Skipped(path, _why_hidden(graph, layer, path, kept_whole))
        elif isinstance(layer, keras.layers.TFSMLayer):
            reason = "it is a TFSMLayer: a SavedModel, whose inside nobody can see or fold"
            left[layer] = Skipped(path, reason, kind="unseen")
    planner.plan.skipped = tuple(left.values())
    return planner.plan


def _walked(subject: Subject, inputs: Any) -> tuple[Graph, dict[str, str]]:
    """The graph of a model, and the parts that were not taken apart, with the reason.

    A layer that the `call` of a part tells `training=True` obeys. In the functional model that
    is to come it would not, so that the part has to stay what it is.
    """
    model, kept_whole, reasons = subject.model, [], {}
    while True:
        graph = walk(model, inputs, through_wrappers=False, whole=kept_whole)
        whole = [part.reason for part in graph.unwalked if not part.path]
        if whole:
            raise ValueError(f"expected a model that can be walked, got {model.name}: {whole[0]}")
        told = [
            call
            for call in graph.calls
            if call.training and not call.recorded and _minds_training(call.layer)
        ]
        if not told:
            return graph, reasons
        call = told[0]
        path = max((p for p in graph.followed if _is_inside(call.path, p)), key=len)
        part = graph.followed[path]
        what = call.path.removeprefix(f"{path}/")
        if not path:
            raise ValueError(
                f"expected a model whose call leaves `training` to its caller, but the call of "
                f"{type(model).__name__} gives training=True to {what}, at inference too; the "
                "functional model that fold makes could not. If the layer shall act at inference "
                "(Monte Carlo dropout), write that into a layer of its own, whose call does "
                "`return super().call(inputs, training=True)`; if not, leave training=True out"
            )
        kept_whole.append(part)
        reasons[path] = f"the call of {path} gives training=True to {what}, at inference too"


def _is_inside(path: str, part: str) -> bool:
    return not part or path.startswith(f"{part}/")


def _minds_training(layer: keras.Operation) -> bool:
    """Whether `training=True` changes what a layer does."""
    if not isinstance(layer, keras.Layer):
        return False
    known = kinds.kind(layer)
    if isinstance(layer, keras.layers.BatchNormalization):
        return layer.trainable
    if known.noise:
        return kinds.noise(layer) is not None
    if known.role in ("attention", "recurrent"):
        config = layer.get_config()
        return bool(config.get("dropout") or config.get("recurrent_dropout"))
    return known.role in ("unknown", "wrapper", "foreign")


def _why_hidden(
    graph: Graph, bn: keras.layers.BatchNormalization, path: str, kept_whole: dict[str, str]
) -> str:
    """Why the walk did not meet a layer."""
    for part, reason in kept_whole.items():
        if _is_inside(path, part):
            return reason
    for part in graph.unwalked:
        if path == part.path or _is_inside(path, part.path):
            return f"{part.path}: {part.reason}"
    for call in graph.calls:
        if isinstance(call.layer, keras.Layer) and bn in layer_paths(call.layer):
            return f"it acts inside {call.path}, a {type(call.layer).__name__}"
    return "the model does not use it"


def _affine(bn: keras.layers.BatchNormalization, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift of a layer at inference, each [channels], in float64."""
    ones, zeros = np.ones(bn.moving_mean.shape), np.zeros(bn.moving_mean.shape)
    values = {
        "gamma": array(bn.gamma) if bn.scale else ones,
        "beta": array(bn.beta) if bn.center else zeros,
        "moving mean": array(bn.moving_mean),
        "moving variance": array(bn.moving_variance),
    }
    for name, value in values.items():
        if not np.isfinite(value).all():
            raise ValueError(f"expected finite numbers as {name} of {path}, got {value}")
    gamma, beta, mean, variance = values.values()
    if (variance < 0).any():
        raise ValueError(
            f"expected a moving variance of {path} that is nowhere negative, got {variance.min()}"
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = gamma / np.sqrt(variance + bn.epsilon)
        return scale, beta - mean * scale


class _Planner:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.plan = Plan(graph)

    def refusal(self, bn: Call) -> str | None:
        """Why a call of batch normalization stays, whatever is around it."""
        layer, (given, made) = bn.layer, (bn.inputs[0], bn.outputs[0])
        times = len(self.graph.of(layer))
        if times > 1:
            return f"it is called {times} times"
        if bn.training:
            return "it was called with training=True, so it uses the statistics of each batch"
        if kinds.kind(layer).role == "unknown":
            return f"{type(layer).__name__} computes in its own way"
        if given.dtype != made.dtype:
            return f"it makes {made.dtype} out of {given.dtype}"
        if layer.axis % len(given.shape) == 0:
            return "its axis is the one of the batch"
        return None

    def fold(self, bn: Call, direction: Callable) -> str | None:
        """Fold one call of batch normalization before or after, or say why not."""
        rank = len(bn.inputs[0].shape)
        axis = bn.layer.axis % rank
        scale, shift = _affine(bn.layer, bn.path)
        if not np.isfinite(scale).all():
            return "its moving variance plus epsilon is zero"
        affine = Affine(*(along(part, axis - 1, rank - 1) for part in (scale, shift)), axis)
        try:
            target, linear, between = direction(bn, affine)
            _check_range(target.layer, linear)
        except CannotFoldError as reason:
            return str(reason)
        self.plan.folded[bn] = target
        self.plan.linear[target] = linear
        self.plan.between.update(between)
        return None

    def before(self, bn: Call, affine: Affine) -> tuple[Call, Linear, list[Tensor]]:
        """Fold a layer into the one that it reads."""
        tensor, between = bn.inputs[0], []
        while True:
            call = self.graph.producer(tensor)
            if call is None:
                raise CannotFoldError("it reads an input of the model")
            self.check_single(tensor, f"the output of {call.layer.name}")
            between.append(tensor)
            if not self.passes(call):
                if not _keeps_order(call):
                    break
                affine = _reshaped(call, affine, call.outputs[0], call.inputs[0])
            tensor = call.inputs[0]
        self.check_linear(call)
        name = kinds.activation(call.layer)
        if name != "linear":
            raise CannotFoldError(
                f"{call.layer.name} before it has the activation {name or 'unknown'}"
            )
        linear = self.plan.linear.get(call) or read(call, affine.axis, False)
        return call, linear.then(*_per_channel(call, affine, linear.outputs, tensor)), between

    def after(self, bn: Call, affine: Affine) -> tuple[Call, Linear, list[Tensor]]:
        """Fold a layer into the one that reads it."""
        tensor, of, between = bn.outputs[0], "its output", []
        while True:
            self.check_single(tensor, of)
            between.append(tensor)
            (call,) = self.graph.consumers(tensor)
            if not self.passes(call):
                if not _keeps_order(call):
                    break
                affine = _reshaped(call, affine, call.inputs[0], call.outputs[0])
            tensor, of = call.outputs[0], f"the output of {call.layer.name}"
        self.check_linear(call)
        if pads(call.layer) and affine.shift.any():
            raise CannotFoldError(
                f"{call.layer.name} after it pads with zeros, which would have to be shifted too"
            )
        linear = self.plan.linear.get(call) or read(call, affine.axis, True)
        return call, linear.after(*_per_channel(call, affine, linear.inputs, tensor)), between

    def passes(self, call: Call) -> bool:
        """Whether a call leaves its input as it is at inference."""
        known = kinds.kind(call.layer)
        if known.role == "activation":
            return kinds.activation(call.layer) == "linear"
        return (known.identity and not call.training) or call in self.plan.folded

    def check_single(self, tensor: Tensor, of: str) -> None:
        """Refuse a tensor that is read at several places."""
        if self.graph.is_output(tensor):
            raise CannotFoldError(f"{of} is an output of the model")
        readers = self.graph.consumers(tensor)
        if len(readers) != 1:
            raise CannotFoldError(f"{of} is read by {len(readers)} layers")

    def check_linear(self, call: Call) -> None:
        """Refuse a layer that cannot take over an affine map."""
        layer, name = call.layer, type(call.layer).__name__
        if not kinds.kind(layer).linear:
            article = "an" if name[0] in "AEIOU" else "a"
            own = ", which computes in its own way" if kinds.nearest(layer).linear else ""
            raise CannotFoldError(
                f"{layer.name} is {article} {name}{own or ', not a linear layer known here'}"
            )
        times = len(self.graph.of(layer))
        if times > 1:
            raise CannotFoldError(f"{layer.name} is called {times} times")
        if getattr(layer, "quantization_mode", None) or layer.compute_dtype not in LAST_DIGIT:
            raise CannotFoldError(f"{layer.name} is quantized")


def _keeps_order(call: Call) -> bool:
    layer = keras.layers.Flatten, keras.layers.Reshape
    if kinds.kind(call.layer).role != "rearrangement" or not isinstance(call.layer, layer):
        return False
    return getattr(call.layer, "data_format", "channels_last") == "channels_last"


def _reshaped(call: Call, affine: Affine, given: Tensor, wanted: Tensor) -> Affine:
    """Carry an affine map through a layer that only reshapes."""
    if None in given.shape[1:] or None in wanted.shape[1:]:
        raise CannotFoldError(f"{call.layer.name} reshapes an unknown length")
    parts = affine.scale, affine.shift
    full = [np.broadcast_to(part, given.shape[1:]).reshape(wanted.shape[1:]) for part in parts]
    return Affine(*full, None)


def _per_channel(call: Call, affine: Affine, axis: int, tensor: Tensor) -> list[np.ndarray]:
    """An affine map as vectors [channels], if it is the same at every position."""
    vectors = []
    for part in (affine.scale, affine.shift):
        moved = np.moveaxis(part, axis - 1, -1)
        moved = moved.reshape(-1, moved.shape[-1])
        if (moved != moved[0]).any():
            raise CannotFoldError(f"its axis is not the channel axis of {call.layer.name}")
        vectors.append(np.broadcast_to(moved[0], (tensor.shape[axis],)))
    return vectors


def _check_range(layer: keras.Layer, linear: Linear) -> None:
    dtype = {"float16": np.float16, "float64": np.float64}.get(layer.compute_dtype, np.float32)
    if not linear.limit() < np.finfo(dtype).max:
        raise CannotFoldError(f"the weights of {layer.name} would overflow {layer.compute_dtype}")
