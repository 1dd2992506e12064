"""Folds batch normalization into the linear layers around it, for inference.

At inference batch normalization is `y = scale x + shift` for each channel, with
`scale = gamma / sqrt(moving_variance + epsilon)` and `shift = beta - moving_mean scale` (Ioffe &
Szegedy 2015, algorithm 2, line 11). A linear layer just before or after it can take that over.
"""

from __future__ import annotations

import inspect
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from keras import tree

from bnutils._keras import keras
from bnutils.doctor.graph import Call, Graph, Tensor, batch_norms, layer_paths, walk
from bnutils.doctor.results import Table

__all__ = ["FoldPlan", "fold", "fold_plan"]

_layers = keras.layers
_DENSE = (_layers.Dense, _layers.EinsumDense)
_CONV = (_layers.Conv1D, _layers.Conv2D, _layers.Conv3D)
_DEPTHWISE = (_layers.DepthwiseConv1D, _layers.DepthwiseConv2D)
_SEPARABLE = (_layers.SeparableConv1D, _layers.SeparableConv2D)
_TRANSPOSED = (_layers.Conv1DTranspose, _layers.Conv2DTranspose, _layers.Conv3DTranspose)
_LINEAR = (*_DENSE, *_CONV, *_DEPTHWISE, *_SEPARABLE, *_TRANSPOSED)
_IDENTITY_AT_INFERENCE = (
    _layers.ActivityRegularization,
    _layers.AlphaDropout,
    _layers.Dropout,
    _layers.GaussianDropout,
    _layers.GaussianNoise,
    _layers.Identity,
    _layers.SpatialDropout1D,
    _layers.SpatialDropout2D,
    _layers.SpatialDropout3D,
)
_LAST_DIGIT = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 2**-23, "float64": 2**-52}
_TOLERANCE = 1e-4  # of the proof, in units of the largest output


@dataclass(frozen=True)
class FoldPlan:
    """What becomes of every batch normalization layer of a model.

    Attributes:
        folded: pairs (path of the layer, path of the layer that takes it over).
        left: pairs (path of the layer, why it stays).
        error: after `fold`, the largest difference between the outputs of the two models on a
            random batch, in units of the largest output; None if it was not measured.
    """

    folded: tuple[tuple[str, str], ...]
    left: tuple[tuple[str, str], ...]
    error: float | None = None

    @property
    def _headline(self) -> str:
        total = len(self.folded) + len(self.left)
        if not total:
            return "There is no batch normalization to fold."
        text = f"{len(self.folded)} of {total} batch normalization layers fold."
        if self.error is not None:
            text += f" Outputs differ by {self.error:.1e} of the largest"
            text += ", as rounding makes them." if self.error > _TOLERANCE else "."
        return text

    @property
    def _rows(self) -> list[tuple[str, str, str]]:
        return [
            *((path, "folded", f"into {into}") for path, into in self.folded),
            *((path, "left", reason) for path, reason in self.left),
        ]

    def __str__(self) -> str:
        """A table as plain text, 80 columns wide."""
        if not self._rows:
            return self._headline
        return f"{self._headline}\n\n{Table(('layer', '', 'where, or why not'), self._rows)}"

    def _repr_html_(self) -> str:
        table = (
            Table(("layer", "", "where, or why not"), self._rows)._repr_html_()
            if self._rows
            else ""
        )
        return f"<section><p>{self._headline}</p>\n{table}</section>"


class _FoldError(Exception):
    """Carries the reason, as half a sentence."""


@dataclass
class _Kernel:
    """A kernel in float64, with the axes of its input and output channels."""

    value: np.ndarray
    inputs: int
    outputs: int
    groups: int = 1
    depthwise: bool = False

    def of_inputs(self, vector: np.ndarray) -> np.ndarray:
        """Shape one number for each input channel so that it broadcasts with the kernel."""
        if self.groups > 1:
            by_group = vector.reshape(self.groups, -1).T
            return np.repeat(by_group, self.value.shape[-1] // self.groups, axis=1)
        return _along(vector, self.inputs, self.value.ndim)

    def of_outputs(self, vector: np.ndarray) -> np.ndarray:
        """The same for each output channel."""
        if self.depthwise:
            return vector.reshape(self.value.shape[-2:])
        return _along(vector, self.outputs, self.value.ndim)

    def response(self, constant: np.ndarray) -> np.ndarray:
        """The output, away from any border, to an input that is constant in each channel."""
        product = self.value * self.of_inputs(constant)
        kept = {-2, -1} if self.depthwise else {self.outputs}
        kept = {axis % product.ndim for axis in kept}
        return product.sum(axis=tuple(set(range(product.ndim)) - kept)).ravel()


def _along(vector: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    shape = [1] * ndim
    shape[axis] = -1
    return vector.reshape(shape)


@dataclass
class _Linear:
    """A linear layer as kernels that follow each other, and a bias.

    `inputs` and `outputs` are the channel axes of what the layer reads and makes.
    """

    kernels: list[_Kernel]
    bias: np.ndarray
    inputs: int
    outputs: int
    changes: dict[str, Any]  # of the layer's config

    def then(self, scale: np.ndarray, shift: np.ndarray) -> _Linear:
        """The layer followed by `scale y + shift`."""
        *first, last = self.kernels
        last = replace(last, value=last.value * last.of_outputs(scale))
        return replace(self, kernels=[*first, last], bias=self.bias * scale + shift)

    def after(self, scale: np.ndarray, shift: np.ndarray) -> _Linear:
        """The layer on `scale x + shift`."""
        response = shift
        for kernel in self.kernels:
            response = kernel.response(response)
        first, *others = self.kernels
        first = replace(first, value=first.value * first.of_inputs(scale))
        return replace(self, kernels=[first, *others], bias=self.bias + response)

    def limit(self) -> float:
        """The largest weight."""
        return max(np.abs(values).max() for values in [*self._kernel_values(), self.bias])

    def _kernel_values(self) -> list[np.ndarray]:
        return [kernel.value for kernel in self.kernels]

    def assign_to(self, layer: keras.Layer) -> None:
        """Write the weights into a built layer."""
        *kernels, bias = layer.weights
        for variable, value in zip(kernels, self._kernel_values(), strict=True):
            variable.assign(value)
        bias.assign(self.bias.reshape(bias.shape))


@dataclass(frozen=True)
class _Affine:
    """An affine map; `scale` and `shift` broadcast with one example.

    `axis` is the axis, the batch counted, along which they vary; None if there are several.
    """

    scale: np.ndarray
    shift: np.ndarray
    axis: int | None


def _array(weight: Any) -> np.ndarray:
    return keras.ops.convert_to_tensor(weight).numpy().astype(np.float64)


def _linear(call: Call, axis: int | None, forwards: bool) -> _Linear:
    """Read a layer. `axis` is the axis of the affine map; it matters to `EinsumDense` alone."""
    layer = call.layer
    ranks = len(call.inputs[0].shape), len(call.outputs[0].shape)
    changes = {"use_bias": True, "lora_rank": None, "lora_alpha": None}
    channels = 1 if getattr(layer, "data_format", "") == "channels_first" else -1
    if type(layer) is _layers.EinsumDense:
        changes.pop("use_bias")
        kernel, axes, changes["bias_axes"] = _einsum(layer, ranks, axis, forwards)
        kernels = [kernel]
    elif type(layer) in _SEPARABLE:
        kernels = [
            _Kernel(_array(layer.depthwise_kernel), -2, -1, depthwise=True),
            _Kernel(_array(layer.pointwise_kernel), -2, -1),
        ]
        axes = channels, channels
    elif type(layer) in _TRANSPOSED:
        kernels, axes = [_Kernel(_array(layer.kernel), -1, -2)], (channels, channels)
    else:
        depthwise = type(layer) in _DEPTHWISE
        groups = getattr(layer, "groups", 1)
        kernels = [_Kernel(_array(layer.kernel), -2, -1, groups, depthwise)]
        axes = channels, channels
    size = call.outputs[0].shape[axes[1]]
    bias = np.zeros(size) if layer.bias is None else _array(layer.bias).ravel()
    return _Linear(kernels, bias, axes[0] % ranks[0], axes[1] % ranks[1], changes)


def _einsum(
    layer: keras.layers.EinsumDense, ranks: tuple[int, int], axis: int | None, forwards: bool
) -> tuple[_Kernel, tuple[int, int], str]:
    """The kernel of an EinsumDense layer, its channel axes, and the axes of the new bias."""
    operands, made = layer.equation.split("->")
    read, kernel = operands.split(",")

    def position(spec: str, label: str, rank: int) -> int:
        letters = spec.replace(".", "")
        return letters.index(label) + (rank - len(letters) if spec[0] == "." else 0)

    def label_at(spec: str, rank: int) -> str | None:
        for label in spec.replace(".", ""):
            if position(spec, label, rank) == axis:
                return label
        return None

    label = label_at(read if forwards else made, ranks[not forwards])
    if label is None or label not in kernel or (forwards and (len(kernel) != 2 or label in made)):
        raise _FoldError(f"{layer.name} has the equation {layer.equation}")
    out = kernel.replace(label, "") if forwards else label
    if out not in made or layer.bias_axes not in (None, "", out):
        raise _FoldError(f"{layer.name} has the equation {layer.equation}")
    # Only a kernel of two axes is ever folded forwards; otherwise the axis of the inputs is moot.
    other = kernel.replace(out, "")[:1]
    axes = position(read, other, ranks[0]) if other in read else 0, position(made, out, ranks[1])
    found = _Kernel(_array(layer.kernel), kernel.index(other or out), kernel.index(out))
    return found, axes, out


def _affine(bn: keras.layers.BatchNormalization, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift of a layer at inference, each [channels], in float64."""
    ones, zeros = np.ones(bn.moving_mean.shape), np.zeros(bn.moving_mean.shape)
    values = {
        "gamma": _array(bn.gamma) if bn.scale else ones,
        "beta": _array(bn.beta) if bn.center else zeros,
        "moving mean": _array(bn.moving_mean),
        "moving variance": _array(bn.moving_variance),
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


def _is_linear(activation: Callable | None) -> bool:
    return activation in (None, keras.activations.linear)


def _pads(layer: keras.Layer) -> bool:
    """Whether some output position may meet fewer inputs than others."""
    if type(layer) in _DENSE or (max(layer.kernel_size) == 1 and max(layer.strides) == 1):
        return False
    if type(layer) in _TRANSPOSED:
        return True
    return layer.padding != "valid" and max(layer.kernel_size) > 1


@dataclass
class _Planner:
    graph: Graph
    folded: dict[Call, Call] = field(default_factory=dict)
    linear: dict[Call, _Linear] = field(default_factory=dict)  # as folded so far

    def passes(self, call: Call) -> bool:
        """Whether a call leaves its input as it is at inference."""
        layer = call.layer
        if type(layer) is _layers.Activation:
            return _is_linear(layer.activation)
        silent = type(layer) in _IDENTITY_AT_INFERENCE and not call.training
        return silent or call in self.folded

    def single(self, tensor: Tensor, of: str) -> None:
        """Refuse a tensor that is read at several places."""
        if self.graph.is_output(tensor):
            raise _FoldError(f"{of} is an output of the model")
        readers = self.graph.consumers(tensor)
        if len(readers) != 1:
            raise _FoldError(f"{of} is read by {len(readers)} layers")

    def before(self, bn: Call, affine: _Affine) -> tuple[Call, _Linear]:
        """Fold a layer into the one that it reads."""
        tensor = bn.inputs[0]
        while True:
            call = self.graph.producer(tensor)
            if call is None:
                raise _FoldError("it reads an input of the model")
            self.single(tensor, f"the output of {call.layer.name}")
            if not self.passes(call):
                if not _keeps_order(call):
                    break
                affine = _reshaped(call, affine, call.outputs[0], call.inputs[0])
            tensor = call.inputs[0]
        self.check(call)
        if not _is_linear(call.layer.activation):
            name = getattr(call.layer.activation, "__name__", "unknown")
            raise _FoldError(f"{call.layer.name} before it has the activation {name}")
        linear = self.linear.get(call, _linear(call, affine.axis, False))
        return call, linear.then(*_per_channel(call, affine, linear.outputs, tensor))

    def after(self, bn: Call, affine: _Affine) -> tuple[Call, _Linear]:
        """Fold a layer into the one that reads it."""
        tensor, of = bn.outputs[0], "its output"
        while True:
            self.single(tensor, of)
            (call,) = self.graph.consumers(tensor)
            if not self.passes(call):
                if not _keeps_order(call):
                    break
                affine = _reshaped(call, affine, call.inputs[0], call.outputs[0])
            tensor, of = call.outputs[0], f"the output of {call.layer.name}"
        self.check(call)
        if _pads(call.layer) and affine.shift.any():
            raise _FoldError(
                f"{call.layer.name} after it pads with zeros, which would have to be shifted too"
            )
        linear = self.linear.get(call, _linear(call, affine.axis, True))
        return call, linear.after(*_per_channel(call, affine, linear.inputs, tensor))

    def check(self, call: Call) -> None:
        """Refuse a layer that cannot take over an affine map."""
        layer, kind = call.layer, type(call.layer).__name__
        if type(layer) not in _LINEAR:
            article = "an" if kind[0] in "AEIOU" else "a"
            raise _FoldError(f"{layer.name} is {article} {kind}, not a linear layer known here")
        times = len(self.graph.of(layer))
        if times > 1:
            raise _FoldError(f"{layer.name} is called {times} times")
        if getattr(layer, "quantization_mode", None) or layer.compute_dtype not in _LAST_DIGIT:
            raise _FoldError(f"{layer.name} is quantized")

    def refusal(self, bn: Call) -> str | None:
        """Why a call of batch normalization stays, whatever is around it."""
        layer, (given, made) = bn.layer, (bn.inputs[0], bn.outputs[0])
        times = len(self.graph.of(layer))
        if times > 1:
            return f"it is called {times} times"
        if bn.training:
            return "it was called with training=True, so it uses the statistics of each batch"
        if type(layer).call is not _layers.BatchNormalization.call:
            return f"{type(layer).__name__} has a call of its own"
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
        affine = _Affine(*(_along(part, axis - 1, rank - 1) for part in (scale, shift)), axis)
        try:
            target, linear = direction(bn, affine)
            _check_range(target.layer, linear)
        except _FoldError as reason:
            return str(reason)
        self.folded[bn] = target
        self.linear[target] = linear
        return None


def _keeps_order(call: Call) -> bool:
    layer = call.layer
    if type(layer) is _layers.Flatten:
        return layer.data_format == "channels_last"
    return type(layer) is _layers.Reshape


def _reshaped(call: Call, affine: _Affine, given: Tensor, wanted: Tensor) -> _Affine:
    """Carry an affine map through a layer that only reshapes."""
    if None in given.shape[1:] or None in wanted.shape[1:]:
        raise _FoldError(f"{call.layer.name} reshapes an unknown length")
    parts = affine.scale, affine.shift
    full = [np.broadcast_to(part, given.shape[1:]).reshape(wanted.shape[1:]) for part in parts]
    return _Affine(*full, None)


def _per_channel(call: Call, affine: _Affine, axis: int, tensor: Tensor) -> list[np.ndarray]:
    """An affine map as vectors [channels], if it is the same at every position."""
    vectors = []
    for part in (affine.scale, affine.shift):
        moved = np.moveaxis(part, axis - 1, -1)
        moved = moved.reshape(-1, moved.shape[-1])
        if (moved != moved[0]).any():
            raise _FoldError(f"its axis is not the channel axis of {call.layer.name}")
        vectors.append(np.broadcast_to(moved[0], (tensor.shape[axis],)))
    return vectors


def _check_range(layer: keras.Layer, linear: _Linear) -> None:
    dtype = {"float16": np.float16, "float64": np.float64}.get(layer.compute_dtype, np.float32)
    if not linear.limit() < np.finfo(dtype).max:
        raise _FoldError(f"the weights of {layer.name} would overflow {layer.compute_dtype}")


def _plan(model: keras.Model) -> tuple[_Planner, FoldPlan]:
    graph = walk(model, through_wrappers=False)
    whole = [part.reason for part in graph.unwalked if not part.path]
    if whole:
        raise ValueError(f"expected a model that can be walked, got {model.name}: {whole[0]}")
    planner = _Planner(graph)
    norms = set(batch_norms(model))
    calls = [call for call in graph.calls if call.layer in norms]
    reasons = {call: [planner.refusal(call)] for call in calls}
    allowed = [call for call in calls if reasons[call] == [None]]
    # In each direction, what is next to the linear layer comes first.
    for call in allowed:
        reasons[call] = [planner.fold(call, planner.before)]
    for call in reversed(allowed):
        if call not in planner.folded:
            reasons[call].append(planner.fold(call, planner.after))
    left = {
        call.layer: (call.path, "; ".join(dict.fromkeys(reasons[call])))
        for call in calls
        if call not in planner.folded
    }
    for bn, path in layer_paths(model).items():
        if bn in norms and not graph.of(bn):
            left[bn] = path, _why_hidden(graph, bn, path)
    folded = tuple((bn.path, planner.folded[bn].path) for bn in calls if bn in planner.folded)
    return planner, FoldPlan(folded, tuple(left.values()))


def _why_hidden(graph: Graph, bn: keras.layers.BatchNormalization, path: str) -> str:
    """Why the walk did not meet a layer."""
    for part in graph.unwalked:
        if path == part.path or path.startswith(f"{part.path}/"):
            return f"{part.path}: {part.reason}"
    for call in graph.calls:
        if isinstance(call.layer, keras.Layer) and bn in layer_paths(call.layer):
            return f"it acts inside {call.path}, a {type(call.layer).__name__}"
    return "the model does not use it"


def fold_plan(model: keras.Model) -> FoldPlan:
    """Say which batch normalization layers `fold` would fold, and why it would leave the others.

    Args:
        model: a built Keras model.

    Returns:
        The plan; it prints as a table.

    Raises:
        ValueError: as `fold`.
    """
    return _plan(model)[1]


def fold(model: keras.Model, *, prove: bool = True) -> keras.Model:
    """Make a model for inference in which batch normalization has vanished into linear layers.

    Into the layer before it, batch normalization folds exactly if that is a Dense, EinsumDense,
    convolution, depthwise, separable or transposed convolution without an activation, and nothing
    else reads the layer's output. Into the layer after it, it folds exactly if that layer does not
    pad with zeros. Layers that do nothing at inference (dropout, noise) and layers that only
    reshape may stand between.

    The new model is functional, with nested models laid flat. It is not compiled. Layers that took
    something over have no regularizer or constraint: these spoke of other weights. The new model
    is not for training, and weights that a custom `call` uses directly become constants.

    Args:
        model: a built Keras model; it is not changed. A subclassed model works as far as its
            `call` runs on symbolic tensors.
        prove: whether to compare both models on a random batch of two.

    Returns:
        The new model. Its attribute `fold_plan` tells what was folded, and what was left and why.

    Raises:
        ValueError: if the model cannot be walked, if a layer cannot be made again from its config,
            or if a batch normalization layer has a weight that is not finite or a negative
            variance.
        RuntimeError: if the outputs of the two models differ by more than rounding.

    Example:
        >>> inputs = keras.Input((3,))
        >>> x = keras.layers.Dense(2, use_bias=False, name="dense")(inputs)
        >>> model = keras.Model(inputs, keras.layers.BatchNormalization(name="bn")(x))
        >>> fold(model).fold_plan.folded
        (('bn', 'dense'),)
    """
    planner, plan = _plan(model)
    folded = _rebuild(model, planner)
    if prove:
        plan = replace(plan, error=_proof(model, folded))
    # Keras would track what it sees assigned, and lock it.
    object.__setattr__(folded, "fold_plan", plan)
    return folded


def _rebuild(model: keras.Model, planner: _Planner) -> keras.Model:
    graph = planner.graph
    inputs = _new_inputs(graph)
    values = dict(zip(graph.inputs, inputs, strict=True))
    kept = [call for call in graph.calls if call not in planner.folded]
    names = _names(kept, {value.name for value in inputs})
    copies = {}
    for call in graph.calls:
        if call in planner.folded:
            values[call.outputs[0]] = values[call.inputs[0]]
            continue
        first = call.layer not in copies
        linear = planner.linear.get(call)
        if first:
            copies[call.layer] = _copy(call, names[call.layer], linear)
        layer = copies[call.layer]
        args, kwargs = _arguments(call, values)
        values.update(zip(call.outputs, tree.flatten(layer(*args, **kwargs)), strict=True))
        if linear is not None:
            linear.assign_to(layer)
        elif first and isinstance(layer, keras.Layer):
            _copy_state(call.layer, layer)
    outputs = [values[tensor] for tensor in graph.outputs]
    if len(outputs) > 1:
        outputs = _named(outputs, getattr(model, "output_names", None))
    return keras.Model(
        tree.pack_sequence_as(graph.input_structure, inputs),
        tree.pack_sequence_as(graph.output_structure, outputs),
        name=model.name,
    )


def _new_inputs(graph: Graph) -> list:
    return [
        keras.Input(
            batch_shape=value.shape,
            dtype=value.dtype,
            sparse=value.sparse,
            # A dictionary of inputs must have their names as its keys.
            name=value.name if value.name else str(path[-1]),
        )
        for path, value in tree.flatten_with_path(graph.input_structure)
    ]


def _names(calls: list[Call], taken: set[str]) -> dict[Any, str]:
    """A name for each layer: its own where no other has it, else its path."""
    paths = {}
    for call in calls:
        paths.setdefault(call.layer, call.path)
    counts = Counter([*taken, *(layer.name for layer in paths)])
    names = {layer: layer.name for layer in paths if counts[layer.name] == 1}
    taken = {*taken, *names.values()}
    for layer in [layer for layer in paths if layer not in names]:
        stem = name = paths[layer].replace("/", "_")
        number = 1
        while name in taken:
            number += 1
            name = f"{stem}_{number}"
        names[layer] = name
        taken.add(name)
    return names


def _copy(call: Call, name: str, linear: _Linear | None) -> Any:
    """The same layer without its weights, ready to take folded ones if it gets any."""
    layer = call.layer
    try:
        config = layer.get_config()
        changes = {"name": name}
        if linear is not None:
            penalties = [key for key in config if key.endswith(("_regularizer", "_constraint"))]
            changes |= dict.fromkeys(penalties) | linear.changes
        config |= {key: value for key, value in changes.items() if key in config}
        parts = layer_paths(layer) if isinstance(layer, keras.Layer) else ()
        classes = {type(part).__name__: type(part) for part in parts}
        if type(layer) is _layers.Lambda:
            # From its config the function would come back without the names of its module.
            shape = layer._output_shape
            return _layers.Lambda(
                layer.function,
                shape,
                layer.mask,
                layer.arguments,
                name=name,
                dtype=layer.dtype_policy,
            )
        with keras.saving.custom_object_scope(classes):
            return type(layer).from_config(config)
    except Exception as error:
        # A custom layer may fail in any way here.
        raise ValueError(
            f"expected layers that can be made again from their config, but {call.path} "
            f"({type(layer).__name__}) cannot: {error}"
        ) from error


def _copy_state(old: keras.Layer, new: keras.Layer) -> None:
    for source, target in zip([old, *layer_paths(old)], [new, *layer_paths(new)], strict=True):
        store = {}
        source.save_own_variables(store)
        target.load_own_variables(store)
        if hasattr(source, "save_assets"):  # the vocabulary of a preprocessing layer
            with tempfile.TemporaryDirectory() as folder:
                source.save_assets(folder)
                target.load_assets(folder)


def _arguments(call: Call, values: dict[Tensor, Any]) -> tuple[tuple, dict]:
    def constant(value: Any) -> Any:
        if isinstance(value, keras.Variable):
            return keras.ops.convert_to_tensor(value)
        return value

    args, kwargs = tree.map_structure(constant, call.arguments(values))
    signature = inspect.signature(call.layer.call)
    fixed = call.training is not None and "training" in signature.parameters
    if fixed and "training" not in signature.bind_partial(*args, **kwargs).arguments:
        kwargs["training"] = call.training
    return args, kwargs


def _named(outputs: list, names: list[str] | None) -> list:
    """Several outputs under the names that they had: losses are given by them."""
    if names is None:
        return outputs
    return [
        output
        if output._keras_history.operation.name == name
        else _layers.Identity(name=name, dtype=output.dtype)(output)
        for output, name in zip(outputs, names, strict=True)
    ]


def _proof(model: keras.Model, folded: keras.Model) -> float | None:
    """Compare two models on random inputs; None if that cannot be done."""
    rng = np.random.default_rng(0)
    words = [part.input_dim for part in layer_paths(model) if type(part) is _layers.Embedding]

    def draw(value: keras.KerasTensor) -> np.ndarray:
        shape = [length or (32 if place else 2) for place, length in enumerate(value.shape)]
        if "float" in value.dtype:
            return rng.normal(size=shape).astype(np.float64 if "64" in value.dtype else np.float32)
        return rng.integers(min(words, default=2), size=shape)

    def run(which: keras.Model, inputs: Any) -> list[np.ndarray]:
        # Nothing is assigned, not even the state of a stateful recurrent layer.
        with keras.StatelessScope():
            outputs = tree.flatten(which(inputs, training=False))
        return [_array(output) for output in outputs]

    structure = folded.input
    if any(value.dtype == "string" or value.sparse for value in tree.flatten(structure)):
        return None
    inputs = tree.map_structure(draw, structure)
    try:
        before = run(model, inputs)
    except Exception:
        return None  # an unknown length that does not suit the model
    after = run(folded, inputs)
    if not all(np.isfinite(output).all() for output in before):
        return None
    error = _largest_difference(before, after)
    if error > _TOLERANCE:  # infinite where only the folded model is not finite
        # Some models, far from their data, let the last digit of a weight grow to this size. Then
        # another model that differs from the first in the last digits alone is as far from it.
        twin = _rebuild(model, _Planner(walk(model, through_wrappers=False)))
        for part in twin.layers:
            digit = _LAST_DIGIT.get(part.compute_dtype, 0)
            for weight in part.weights:
                if "float" in weight.dtype:
                    weight.assign(_array(weight) * (1 + digit * rng.choice([-1, 1], weight.shape)))
        if not error <= 100 * _largest_difference(before, run(twin, inputs)):
            raise RuntimeError(
                f"expected the folded model to give the outputs of {model.name}, but they differ "
                f"by {error:.1e} of the largest output"
            )
    return error


def _largest_difference(before: list[np.ndarray], after: list[np.ndarray]) -> float:
    tiny = np.finfo(np.float64).tiny
    return max(
        float(np.nan_to_num(np.abs(a - b), nan=np.inf).max(initial=0))
        / max(np.abs(a).max(initial=0), tiny)
        for a, b in zip(before, after, strict=True)
    )
