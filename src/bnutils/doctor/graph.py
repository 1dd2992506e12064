"""Walks a Keras model: which layer is called on what, in which order, through every nesting.

Functional and Sequential models carry their graph with them. A subclassed model or layer does
not; its `call` is followed once with symbolic tensors, in a scope that keeps every variable as it
is, and the traces of that call are removed. What cannot be followed is listed, not guessed.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from keras import tree

from bnutils._keras import (
    OneCall,
    RecordedGraph,
    built_shapes,
    children,
    keras,
    maker,
    recorded_graph,
    recorded_inputs,
    shorten_records,
    takes_training,
)
from bnutils.doctor import kinds
from bnutils.doctor.words import cause

__all__ = [
    "BN",
    "Call",
    "Graph",
    "Tensor",
    "Unwalked",
    "batch_norms",
    "joined",
    "layer_paths",
    "walk",
]

BN = keras.layers.BatchNormalization


@dataclass(frozen=True, eq=False)
class Tensor:
    """A value that flows through the model. Two tensors are equal only if they are the same.

    Attributes:
        shape: its shape; an unknown length is None.
        dtype: its dtype, as a string.
    """

    shape: tuple[int | None, ...]
    dtype: str


_Arguments = tuple[tuple, dict]  # of a call, as (args, kwargs)
_Tensors = dict[int, Tensor]  # by the id of the Keras tensor


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer, or of a Keras operation such as an addition.

    Attributes:
        layer: the `keras.Layer` or `keras.Operation` that is called.
        path: the names from the model's own layers down to this one, joined by "/".
        inputs: the tensors that it reads, in the order of its arguments.
        outputs: the tensors that it makes.
        training: True or False if this call, or one around it, was given that value of
            `training` when the model was built; None if it follows the caller.
        recorded: whether `training` stands in the recorded graph of a Functional model. Keras up
            to 3.15 lets `fit` override it there. Inside the `call` of a subclass it is obeyed.
        wrappers: class names of the wrappers in which the layer acts, outermost first.
    """

    layer: Any
    path: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    training: bool | None
    recorded: bool
    wrappers: tuple[str, ...]
    _arguments: _Arguments = field(repr=False)
    _tensors: _Tensors = field(repr=False)

    def arguments(self, values: dict[Tensor, Any]) -> _Arguments:
        """Give the arguments of this call with other values in the place of its tensors.

        Args:
            values: what stands for each tensor in `inputs`.

        Returns:
            `(args, kwargs)`, ready for `layer(*args, **kwargs)`.
        """
        args, kwargs = self._arguments

        def put(value: Any) -> Any:
            return values[self._tensors[id(value)]] if _symbolic(value) else value

        return tree.map_structure(put, args), tree.map_structure(put, kwargs)


@dataclass(frozen=True)
class Unwalked:
    """A part of the model that holds batch normalization and could not be walked.

    Attributes:
        path: which part; "" is the model itself.
        reason: why, in a sentence.
    """

    path: str
    reason: str


@dataclass(frozen=True, eq=False)
class Graph:
    """The calls of a model in an order in which they can run.

    Attributes:
        calls: every call; nested models, and composite layers that hold batch normalization, are
            taken apart.
        inputs: the model's inputs.
        outputs: the model's outputs, flattened.
        input_structure: the structure in which the model takes its inputs, of Keras tensors.
        output_structure: the structure in which it returns its outputs.
        unwalked: what could not be walked.
        followed: by path, each part whose `call` was followed; "" is the model itself.
    """

    calls: tuple[Call, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    input_structure: Any
    output_structure: Any
    unwalked: tuple[Unwalked, ...]
    followed: dict[str, keras.Layer]
    _producers: dict[Tensor, Call] = field(repr=False)
    _consumers: dict[Tensor, list[Call]] = field(repr=False)

    def of(self, layer: Any) -> tuple[Call, ...]:
        """All calls of one layer, in order."""
        return tuple(call for call in self.calls if call.layer is layer)

    def producer(self, tensor: Tensor) -> Call | None:
        """The call that makes a tensor; None for an input of the model."""
        return self._producers.get(tensor)

    def consumers(self, tensor: Tensor) -> tuple[Call, ...]:
        """The calls that read a tensor."""
        return tuple(self._consumers.get(tensor, ()))

    def is_output(self, tensor: Tensor) -> bool:
        """Whether the model returns this tensor."""
        return any(tensor is output for output in self.outputs)


def layer_paths(model: keras.Model) -> dict[keras.Layer, str]:
    """Name every layer of a model, at any depth, once.

    Returns:
        For each layer its path: the names from the model's own layers down, joined by "/".
        Layers stand in the order in which the model holds them.
    """
    paths = {}

    def visit(layer: keras.Layer, prefix: str) -> None:
        for child in children(layer):
            if child not in paths:
                paths[child] = prefix + child.name
                visit(child, f"{paths[child]}/")

    visit(model, "")
    return paths


def batch_norms(model: keras.Model) -> list[BN]:
    """List every batch normalization layer of a model, nested and wrapped ones too, each once."""
    return [layer for layer in layer_paths(model) if isinstance(layer, BN)]


def _symbolic(value: Any) -> bool:
    return isinstance(value, keras.KerasTensor)


class _Caller:
    """Stands for the `training` of whoever will call the model: as in inference, but known."""

    def __bool__(self) -> bool:
        return False


_CALLER = _Caller()


def _fixed_training(
    operation: keras.Operation, arguments: _Arguments, recorded: bool
) -> tuple[bool | None, _Arguments]:
    """The value of `training` that a call carries as a constant, and the arguments without more.

    Keras records the default in the signature of a `call` as if it had been given. In the `call`
    of a subclass that cannot happen here: `_CALLER` has been given.
    """
    args, kwargs = tree.map_structure(lambda value: None if value is _CALLER else value, arguments)
    if arguments[1].get("training") is _CALLER:
        del kwargs["training"]
    try:
        signature = inspect.signature(operation.call)
        bound = signature.bind_partial(*args, **kwargs).arguments
    except (TypeError, ValueError):
        return None, (args, kwargs)
    value = bound.get("training", bound.get("kwargs", {}).get("training"))
    default = signature.parameters.get("training")
    if value is None or _symbolic(value) or (recorded and default and value == default.default):
        return None, (args, kwargs)
    return bool(value), (args, kwargs)


@contextmanager
def _without_traces(layer: keras.Layer) -> Iterator[None]:
    """Forget the symbolic calls made inside, and apply no assignment they make."""
    forget = shorten_records([layer, *layer_paths(layer)])
    try:
        with keras.StatelessScope(collect_losses=True):
            yield
    finally:
        forget()


@dataclass(frozen=True)
class _Scope:
    """What is true of every call inside one part of the model."""

    prefix: str = ""
    training: bool | None = None
    recorded: bool = False
    functional: bool = False
    wrappers: tuple[str, ...] = ()

    def within(
        self, layer: keras.Layer, training: bool | None, wrapper: str | None = None
    ) -> _Scope:
        fixed, recorded = self.fixed(training)
        wrappers = self.wrappers if wrapper is None else (*self.wrappers, wrapper)
        return _Scope(f"{self.prefix}{layer.name}/", fixed, recorded, wrappers=wrappers)

    def fixed(self, training: bool | None) -> tuple[bool | None, bool]:
        """The `training` of a call inside, and whether it is recorded.

        A recorded graph that is itself told something tells that to all its layers, whatever is
        recorded there: the default of `Dropout.call` is, for example. In the `call` of a subclass
        the innermost constant counts.
        """
        if training is None or (self.functional and self.training is not None):
            return self.training, self.recorded
        return training, self.functional


class _Walker:
    def __init__(self, through_wrappers: bool, whole: Iterable[keras.Layer]) -> None:
        self.through_wrappers = through_wrappers
        self.whole = set(whole)
        self.followed = {}
        self.calls = []
        self.unwalked = []
        self.structure = None
        self._alive = []  # a tensor that is freed would give its id to another

    def tensor(self, symbolic: keras.KerasTensor) -> Tensor:
        self._alive.append(symbolic)
        return Tensor(tuple(symbolic.shape), str(symbolic.dtype))

    def nodes(self, nodes: Iterable, tensors: _Tensors, scope: _Scope) -> None:
        """Record the calls of a list of nodes; `tensors` maps id(KerasTensor) to Tensor."""
        for node in nodes:
            arguments = node.arguments.args, node.arguments.kwargs
            inputs = node.input_tensors
            for value in inputs:
                if id(value) not in tensors:  # a constant that no layer made
                    tensors[id(value)] = self.tensor(value)
            made = self.call(
                node.operation,
                arguments,
                [tensors[id(value)] for value in inputs],
                tensors,
                node.outputs,
                scope,
            )
            tensors.update({id(v): t for v, t in zip(node.outputs, made, strict=True)})

    def call(
        self,
        layer: keras.Operation,
        arguments: _Arguments,
        inputs: list[Tensor],
        tensors: _Tensors,
        outputs: list[keras.KerasTensor],
        scope: _Scope,
    ) -> list[Tensor]:
        training, arguments = _fixed_training(layer, arguments, scope.functional)
        holds_bn = isinstance(layer, keras.Layer) and bool(batch_norms(layer))
        if isinstance(layer, keras.Layer):
            graph = recorded_graph(layer)
            if graph is not None:
                order = _match_inputs(graph, arguments)
                given = [tensors[id(value)] for value in order]
                return self.recorded(graph, given, scope.within(layer, training))
            if holds_bn and isinstance(layer, keras.layers.TimeDistributed):
                if self.through_wrappers:
                    return self.time_distributed(layer, inputs, outputs, scope, training)
            elif holds_bn and layer not in self.whole:
                found = self.follow(layer, arguments, tensors, scope.within(layer, training))
                if found is not None:
                    return found
        made = [self.tensor(value) for value in outputs]
        self.add(layer, arguments, inputs, tensors, made, scope, training)
        return made

    def add(
        self,
        layer: keras.Operation,
        arguments: _Arguments,
        inputs: list[Tensor],
        tensors: _Tensors,
        made: list[Tensor],
        scope: _Scope,
        training: bool | None,
    ) -> None:
        fixed, recorded = scope.fixed(training)
        self.calls.append(
            Call(
                layer=layer,
                path=scope.prefix + layer.name,
                inputs=tuple(inputs),
                outputs=tuple(made),
                training=fixed,
                recorded=recorded,
                wrappers=scope.wrappers,
                _arguments=arguments,
                _tensors=tensors,
            )
        )

    def recorded(
        self, graph: RecordedGraph, given: Iterable[Tensor], scope: _Scope
    ) -> list[Tensor]:
        """Walk the graph that a Functional or Sequential model carries."""
        scope = replace(scope, functional=True)
        tensors = {id(v): t for v, t in zip(graph.inputs, given, strict=True)}
        self.nodes(graph.nodes, tensors, scope)
        return [tensors[id(value)] for value in graph.outputs]

    def follow(
        self, layer: keras.Layer, arguments: _Arguments, tensors: _Tensors, scope: _Scope
    ) -> list[Tensor] | None:
        """Run the `call` of a composite layer on symbolic tensors, and walk what it did."""
        unbuilt = [path for child, path in layer_paths(layer).items() if not child.built]
        if kinds.kind(layer).role == "recurrent" or isinstance(layer, keras.layers.Bidirectional):
            self.give_up(scope, "it calls what it holds step by step, in a graph of its own")
            return None
        if unbuilt or not layer.built:
            name = unbuilt[0] if unbuilt else layer.name
            self.give_up(scope, f"{name} is not built yet: call the model on data first")
            return None
        inner = {}

        def fresh(value: Any) -> Any:
            if not _symbolic(value):
                return value
            new = keras.KerasTensor(value.shape, value.dtype)
            inner[id(new)] = tensors[id(value)]
            self._alive.append(new)
            return new

        args, kwargs = tree.map_structure(fresh, arguments)
        try:
            returned, outputs, nodes = _call_of(layer, args, kwargs, starts=set(inner))
        except Exception as error:
            # Whatever a foreign `call` does with a symbolic tensor, it is no fault of the model.
            self.give_up(scope, f"its call cannot run on symbolic tensors ({cause(error)})")
            return None
        self._alive.extend(outputs)
        self.followed[scope.prefix.removesuffix("/")] = layer
        before = len(self.calls)
        self.nodes(nodes, inner, scope)
        self.structure = returned  # of the outermost layer in the end
        reached = {id(call.layer) for call in self.calls[before:]}
        paths = layer_paths(layer)
        for missed in [bn for bn in batch_norms(layer) if id(bn) not in reached]:
            path = scope.prefix + paths[missed]
            known = any(f"{path}/".startswith(f"{part.path}/") for part in self.unwalked)
            if not known and not self.hidden(path):
                self.unwalked.append(Unwalked(path, "its call does not reach this layer"))
        return [inner[id(value)] for value in outputs]

    def hidden(self, path: str) -> bool:
        """Whether a path leads into a layer that is one call."""
        return any(path.startswith(f"{call.path}/") for call in self.calls)

    def give_up(self, scope: _Scope, reason: str) -> None:
        self.unwalked.append(Unwalked(scope.prefix.removesuffix("/"), reason))

    def time_distributed(
        self,
        wrapper: keras.layers.TimeDistributed,
        inputs: list[Tensor],
        outputs: list[keras.KerasTensor],
        scope: _Scope,
        training: bool | None,
    ) -> list[Tensor]:
        """Walk what acts at each time step, as one call on the whole sequence."""
        inside = scope.within(wrapper, training, type(wrapper).__name__)
        layer = wrapper.layer
        graph = recorded_graph(layer)
        if graph is not None:
            return self.recorded(graph, inputs[: len(graph.inputs)], inside.within(layer, None))
        made = [self.tensor(value) for value in outputs]
        self.add(layer, ((), {}), inputs[:1], {}, made, inside, None)
        return made


def _call_of(
    layer: keras.Layer, args: tuple, kwargs: dict, starts: set[int]
) -> tuple[Any, list, list]:
    """Run a `call` on symbolic tensors, as at inference.

    Returns:
        What it returns, the same flattened, and the nodes that made it.
    """
    for training in (_CALLER, None):
        # What the call was given, the scope holds. A default in the signature does not count:
        # Keras always gives a value.
        kwargs = {**kwargs, "training": training} if takes_training(layer) else kwargs
        try:
            with _without_traces(layer), OneCall(training):
                returned = layer.call(*args, **kwargs)
                outputs = tree.flatten(returned)
                return returned, outputs, _nodes_behind(outputs, starts)
        except Exception:
            # Some do with `training` what goes with a plain truth value alone.
            if training is None:
                raise
    raise AssertionError("the second one has returned or raised")


def _match_inputs(graph: RecordedGraph, arguments: _Arguments) -> list:
    """The tensors given to a Functional model, in the order of its inputs."""
    args, kwargs = arguments
    given = args[0] if args else next(iter(kwargs.values()))
    if isinstance(given, dict) and not isinstance(graph.input_structure, dict):
        return [given[value.name] for value in graph.inputs]
    return [leaf for leaf in tree.flatten(given) if _symbolic(leaf)]


def _nodes_behind(outputs: list, starts: set[int]) -> list:
    """The nodes between the tensors `starts` (their ids) and `outputs`, in a runnable order."""
    ordered, seen = [], set()

    def visit(value: keras.KerasTensor) -> None:
        operation, node = maker(value)
        if id(value) in starts or operation is None or id(node) in seen:
            return
        seen.add(id(node))
        for parent in node.input_tensors:
            visit(parent)
        ordered.append(node)

    for value in outputs:
        if not _symbolic(value):
            raise TypeError(f"it returns {type(value).__name__}, which is not a tensor")
        if id(value) not in starts:
            visit(value)
    return ordered


def _given_inputs(model: keras.Model, inputs: Any) -> Any:
    """Symbolic arguments for a subclassed model: like `inputs`, or as it was built."""
    if inputs is not None:

        def like(value: Any) -> keras.KerasTensor:
            dtype = keras.backend.standardize_dtype(value.dtype)
            return keras.KerasTensor((None, *value.shape[1:]), dtype)

        return tree.map_structure(like, inputs)
    if recorded_inputs(model) is not None:
        return recorded_inputs(model)
    shapes = built_shapes(model)
    if len(shapes) != 1:
        return None

    def is_shape(value: Any) -> bool:
        return isinstance(value, list | tuple) and all(
            length is None or isinstance(length, int) for length in value
        )

    def tensors(shape: Any) -> Any:
        if is_shape(shape):
            return keras.KerasTensor((None, *shape[1:]), model.input_dtype)
        if isinstance(shape, dict):
            return {name: tensors(part) for name, part in shape.items()}
        return [tensors(part) for part in shape]

    return tensors(next(iter(shapes.values())))


def walk(
    model: keras.Model,
    inputs: Any = None,
    *,
    through_wrappers: bool = True,
    whole: Iterable[keras.Layer] = (),
) -> Graph:
    """Walk a model without changing it.

    Args:
        model: a built Keras model of any kind.
        inputs: an example of what the model is called on (arrays, with the batch first). A
            subclassed model that takes several inputs, or integers, needs it.
        through_wrappers: whether the layer inside a `TimeDistributed` is a call of its own. If
            not, the wrapper is.
        whole: composite layers that are not taken apart, but are one call each.

    Returns:
        The model's graph. Where the model could not be walked, `Graph.unwalked` says so.

    Raises:
        ValueError: if `model` is not a Keras model.

    Example:
        >>> inputs = keras.Input((3,))
        >>> x = keras.layers.Dense(2, name="dense")(inputs)
        >>> model = keras.Model(inputs, keras.layers.BatchNormalization(name="bn")(x))
        >>> graph = walk(model)
        >>> [call.path for call in graph.calls]
        ['dense', 'bn']
        >>> graph.producer(graph.calls[1].inputs[0]).path
        'dense'
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"expected a keras.Model, got {type(model).__name__}")
    walker = _Walker(through_wrappers, whole)
    graph = recorded_graph(model)
    starts, outputs, given = (), (), None
    if graph is not None:
        given = graph.input_structure
        starts = tuple(walker.tensor(value) for value in graph.inputs)
        outputs = walker.recorded(graph, starts, _Scope())
        walker.structure = graph.output_structure
    else:
        given = _given_inputs(model, inputs)
        if given is None:
            reason = "the shape of its inputs is not known: call it on data, or give data"
            walker.unwalked.append(Unwalked("", reason))
        else:
            flat = tree.flatten(given)
            starts = tuple(walker.tensor(value) for value in flat)
            tensors = {id(v): t for v, t in zip(flat, starts, strict=True)}
            outputs = walker.follow(model, ((given,), {}), tensors, _Scope()) or ()
    return _graph(
        calls=tuple(walker.calls),
        inputs=starts,
        outputs=tuple(outputs),
        input_structure=given,
        output_structure=walker.structure,
        unwalked=tuple(walker.unwalked),
        followed=walker.followed,
    )


def _graph(calls: tuple[Call, ...], **fields: Any) -> Graph:
    producers = {tensor: call for call in calls for tensor in call.outputs}
    consumers = {}
    for call in calls:
        for tensor in dict.fromkeys(call.inputs):
            consumers.setdefault(tensor, []).append(call)
    return Graph(calls=calls, **fields, _producers=producers, _consumers=consumers)


def joined(graphs: dict[str, Graph]) -> Graph:
    """Put the graphs of several models side by side, as the parts of one that cannot be called.

    Args:
        graphs: for each part its path in the whole, and its graph.

    Returns:
        A graph with all inputs, calls and outputs. What one part hands to another is not in it.
    """

    def inside(path: str, name: str) -> str:
        return f"{path}/{name}" if name else path

    return _graph(
        calls=tuple(
            replace(call, path=inside(path, call.path))
            for path, graph in graphs.items()
            for call in graph.calls
        ),
        inputs=tuple(tensor for graph in graphs.values() for tensor in graph.inputs),
        outputs=tuple(tensor for graph in graphs.values() for tensor in graph.outputs),
        input_structure=[graph.input_structure for graph in graphs.values()],
        output_structure=[graph.output_structure for graph in graphs.values()],
        unwalked=tuple(
            Unwalked(inside(path, part.path), part.reason)
            for path, graph in graphs.items()
            for part in graph.unwalked
        ),
        followed={
            inside(path, name): layer
            for path, graph in graphs.items()
            for name, layer in graph.followed.items()
        },
    )
