"""How models and layers are made up, and what they make of data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import MethodType
from typing import Any, NamedTuple

from keras.src.backend.common import global_state
from keras.src.layers.layer import CallContext
from keras.src.models.functional import Functional
from keras.src.utils.tracking import Tracker

from bnutils._keras import keras, tf

__all__ = [
    "OneCall",
    "RecordedGraph",
    "built_shapes",
    "children",
    "duplicate",
    "graph_inputs",
    "maker",
    "mask_of",
    "operation_class",
    "recorded_graph",
    "recorded_inputs",
    "shorten_records",
    "with_mask",
]


class RecordedGraph(NamedTuple):
    """What a Functional or a built Sequential model records of its layers.

    Attributes:
        inputs: its inputs, Keras tensors.
        outputs: its outputs, Keras tensors.
        input_structure: the structure in which it takes its inputs.
        output_structure: the structure in which it gives its outputs.
        nodes: the calls of its layers in a runnable order. A node has an `operation`, `arguments`
            with `args` and `kwargs`, `input_tensors` and `outputs`.
    """

    inputs: list
    outputs: list
    input_structure: Any
    output_structure: Any
    nodes: list


def recorded_graph(layer: keras.Layer) -> RecordedGraph | None:
    """Give the graph that a model carries, unless the model's own `call` does something else."""
    graph = None
    if isinstance(layer, keras.Sequential) and type(layer).call is keras.Sequential.call:
        graph = layer._functional
    elif isinstance(layer, Functional) and type(layer).call is Functional.call:
        graph = layer
    if graph is None:
        return None
    levels = sorted(graph._nodes_by_depth, reverse=True)
    nodes = [node for level in levels for node in graph._nodes_by_depth[level]]
    return RecordedGraph(
        graph._inputs,
        graph._outputs,
        graph._inputs_struct,
        graph._outputs_struct,
        [node for node in nodes if not node.is_input],
    )


def children(layer: keras.Layer) -> list[keras.Layer]:
    """List the layers that a layer or a model holds, in its own order."""
    return [child for child in layer._layers if isinstance(child, keras.Layer)]


def recorded_inputs(model: keras.Model) -> Any:
    """Give the structure of Keras tensors that a Functional model takes; None for other models.

    Also for a subclass with a `call` of its own around the recorded graph.
    """
    return model._inputs_struct if isinstance(model, Functional) else None


def built_shapes(model: keras.Model) -> dict:
    """Give the shapes that a model was built on, by the names of the arguments of its `build`."""
    return model._build_shapes_dict or {}


def maker(tensor: keras.KerasTensor) -> tuple[keras.Operation, Any]:
    """Give the operation that made a Keras tensor, and the node of that call; None for an input."""
    operation, index, _ = tensor._keras_history
    return operation, None if operation is None else operation._inbound_nodes[index]


def shorten_records(layers: Iterable[keras.Layer]) -> Callable[[], None]:
    """Give a function that makes layers forget the symbolic calls made from now on."""
    lengths = [(layer, len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in layers]

    def forget() -> None:
        for layer, inbound, outbound in lengths:
            del layer._inbound_nodes[inbound:]
            del layer._outbound_nodes[outbound:]

    return forget


def duplicate(layer: keras.Operation) -> keras.Operation:
    """Copy a layer or an operation as it is now: every setting, every weight, every seed.

    A copy from the config would lose what the config does not tell. Layers inside, variables and
    the collections that hold them are copied, anything else is shared. The copy knows nothing of
    the calls of the original.
    """
    made = {}  # by id, with the original: its id must not be given to another meanwhile

    def keep(value: Any, new: Any) -> Any:
        made[id(value)] = new, value
        return new

    def fill(new: Any, value: Any) -> Any:
        for name, part in getattr(value, "__dict__", {}).items():
            recorded = name in ("_inbound_nodes", "_outbound_nodes")
            # A layer wraps two methods of its own when it comes into being.
            wrapped = name in ("build", "quantize") and isinstance(value, keras.Layer)
            if not (wrapped and name in new.__dict__):
                new.__dict__[name] = [] if recorded else copy(part)
        return new

    def copy(value: Any) -> Any:
        kind = type(value)
        if id(value) in made:
            return made[id(value)][0]
        if kind in (Functional, keras.Sequential):
            return keep(value, keras.models.clone_model(value, clone_function=copy))
        if isinstance(value, keras.Layer):
            return fill(keep(value, keras.Layer.__new__(kind)), value)
        if isinstance(value, keras.Operation | keras.Variable | keras.random.SeedGenerator):
            return fill(keep(value, object.__new__(kind)), value)
        if isinstance(value, Tracker):
            new = fill(keep(value, object.__new__(kind)), value)
            stores = {name: store for name, (_, store) in new.config.items()}
            new.stored_ids = {name: {id(each) for each in stores[name]} for name in stores}
            return new
        if isinstance(value, tf.Variable):  # of one replica, if there are several
            new = tf.Variable(tf.convert_to_tensor(value), value.trainable, shape=value.shape)
            return keep(value, new)
        if isinstance(value, MethodType):
            return MethodType(value.__func__, copy(value.__self__))
        if isinstance(value, tuple):
            parts = [copy(part) for part in value]
            return kind(*parts) if hasattr(value, "_fields") else kind(parts)
        # The collections of Keras watch their own methods: they are filled as plain ones.
        if isinstance(value, list):
            new = keep(value, kind.__new__(kind))
            list.extend(new, [copy(part) for part in value])
            return fill(new, value)
        if isinstance(value, set):
            new = keep(value, kind.__new__(kind))
            set.update(new, {copy(part) for part in value})
            return fill(new, value)
        if isinstance(value, dict):
            new = keep(value, kind.__new__(kind))
            for key, part in value.items():
                dict.__setitem__(new, key, copy(part))
            return fill(new, value)
        return value

    return copy(layer)


def operation_class(name: str) -> type:
    """The class behind a function of `keras.ops`, which a recorded graph holds: `Relu`, `Add`.

    Keras publishes the functions alone.
    """
    from keras.src.ops import core, nn, numpy

    return next(getattr(module, name) for module in (numpy, nn, core) if hasattr(module, name))


def graph_inputs(model: keras.Model, x: object) -> list:
    """Make of a batch what a model's `__call__` makes of it: tensors, in the order of its inputs.

    They get the dtypes and ranks of the recorded inputs, and dicts their order.
    """
    if model._convert_input_args:

        def convert(leaf: object) -> tf.Tensor:
            return model.dtype_policy.convert_input(leaf, model.autocast, model.input_dtype)

        x = keras.tree.map_structure(convert, x)
    if recorded_graph(model) is None:
        return keras.tree.flatten(x)
    return (getattr(model, "_functional", None) or model)._standardize_inputs(x)


class OneCall:
    """Layers that are called inside take it for parts of one call of a model.

    What a layer tells those inside it holds for the layers after it too, as in Keras: a context
    that is entered again goes on where it was left.

    Args:
        training: what the model is told.
    """

    def __init__(self, training: Any) -> None:
        """Begin a call."""
        self._context = CallContext(entry_layer=None)
        self._context.set_value("training", training)
        self._outer = None

    def __enter__(self) -> None:
        """Hide the call that goes on outside."""
        self._outer = global_state.get_global_attribute("current_call_ctx")
        global_state.set_global_attribute("current_call_ctx", self._context)

    def __exit__(self, *error: object) -> None:
        """Go back to it."""
        global_state.set_global_attribute("current_call_ctx", self._outer)


def mask_of(tensor: object) -> object:
    """Give the mask that Keras has attached to a tensor, or None."""
    return getattr(tensor, "_keras_mask", None)


def with_mask(tensor: tf.Tensor, mask: object) -> tf.Tensor:
    """Attach a mask to a tensor, as Keras does; layers find it there."""
    if mask is not None:
        tensor._keras_mask = mask
    return tensor
