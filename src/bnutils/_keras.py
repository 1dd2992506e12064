"""Keras on TensorFlow, started without TensorFlow's greeting on stderr. Import keras from here."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any, NamedTuple


@contextmanager
def _silent_stderr() -> Iterator[None]:
    screen = os.dup(2)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)


# TensorFlow's first messages come before it reads any setting, straight to file descriptor 2.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with _silent_stderr():
    import keras
    import tensorflow as tf

if (backend := keras.backend.backend()) in ("jax", "numpy", "openvino", "torch"):
    raise ImportError(
        f"expected Keras to run on TensorFlow, but its backend is {backend!r}: "
        "set KERAS_BACKEND=tensorflow before keras is imported"
    )

# Private names of Keras and TensorFlow may change with any version. They stand in this file alone,
# each in a function that says what it is for.

from keras.src.backend.common import global_state  # noqa: E402
from keras.src.models.functional import Functional  # noqa: E402
from keras.src.utils.tracking import Tracker  # noqa: E402
from tensorflow.python.eager import context  # noqa: E402
from tensorflow.python.framework import ops  # noqa: E402

__all__ = ["decays", "keras", "operation_class", "scopes", "tf"]


# The state of the process


def scopes() -> Callable[[], None]:
    """Give a function that leaves every scope of Keras and TensorFlow that is entered from now on.

    An exception that an interrupt raises while such a scope is being left keeps it open: in a
    `StatelessScope` no assignment works any more. Everything here belongs to this thread.
    """
    names = vars(global_state.GLOBAL_STATE_TRACKER)
    names_then = dict(names)
    mode = context.context()._thread_local_data
    mode_then = {name: getattr(mode, name) for name in ("is_eager", "scope_name", "device_name")}
    stacks = [
        names.get("name_scope_stack", []),
        context.context().context_switches.stack,
        ops._default_graph_stack.stack,
    ]
    stacks_then = [list(stack) for stack in stacks]

    def leave() -> None:
        for name in names.keys() - names_then.keys():
            del names[name]
        names.update(names_then)
        for name, value in mode_then.items():
            setattr(mode, name, value)
        for stack, then in zip(stacks, stacks_then, strict=True):
            stack[:] = then

    return leave


def operation_class(name: str) -> type:
    """The class behind a function of `keras.ops`, which a recorded graph holds: `Relu`, `Add`.

    Keras publishes the functions alone.
    """
    from keras.src.ops import core, nn, numpy

    return next(getattr(module, name) for module in (numpy, nn, core) if hasattr(module, name))


# What a model makes of data


def graph_inputs(model: keras.Model, x: object) -> list:
    """Make of a batch what a model's `__call__` makes of it: tensors, in the order of its inputs.

    They get the dtypes and ranks of the recorded inputs, and dicts their order.
    """
    if model._convert_input_args:

        def convert(leaf: object) -> tf.Tensor:
            return model.dtype_policy.convert_input(leaf, model.autocast, model.input_dtype)

        x = keras.tree.map_structure(convert, x)
    graph = getattr(model, "_functional", None) or model
    return (
        graph._standardize_inputs(x)
        if hasattr(graph, "_standardize_inputs")
        else (keras.tree.flatten(x))
    )


def mask_of(tensor: object) -> object:
    """Give the mask that Keras has attached to a tensor, or None."""
    return getattr(tensor, "_keras_mask", None)


def with_mask(tensor: tf.Tensor, mask: object) -> tf.Tensor:
    """Attach a mask to a tensor, as Keras does; layers find it there."""
    if mask is not None:
        tensor._keras_mask = mask
    return tensor


def fresh_scores(model: keras.Model) -> tuple[Callable | None, keras.Metric | None]:
    """Make new the loss and the metrics with which a model was compiled.

    The model's own metrics count what has been seen so far, and are built by their first use.

    Returns:
        `(loss, metrics)`: a function of (y, outputs) that gives the weighted loss of all outputs,
        and a metric that holds all metrics; None for what the model was not compiled with.
    """
    from keras.src.trainers.compile_utils import CompileLoss, CompileMetrics

    def fresh(metric: object) -> object:
        if isinstance(metric, keras.Metric):
            return type(metric).from_config(metric.get_config())
        return metric

    names = getattr(model, "output_names", None)
    loss, metrics = getattr(model, "_compile_loss", None), getattr(model, "_compile_metrics", None)
    if loss is not None:
        loss = CompileLoss(loss._user_loss, loss._user_loss_weights, output_names=names)
    if metrics is not None:
        given = metrics._user_metrics, metrics._user_weighted_metrics
        metrics = CompileMetrics(*keras.tree.map_structure(fresh, given), output_names=names)
    return loss, metrics


# How models and layers are made up


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
            new.__dict__[name] = [] if recorded else copy(part)
        return new

    def copy(value: Any) -> Any:
        kind = type(value)
        if id(value) in made:
            return made[id(value)][0]
        if kind in (Functional, keras.Sequential):
            return keep(value, keras.models.clone_model(value, clone_function=copy))
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


# What an optimizer does


def decays(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> bool:
    """Whether the weight decay of an optimizer acts on a variable.

    An optimizer remembers what it was asked; it must not remember that we asked, since
    `exclude_from_weight_decay` may come later.
    """
    memory = "_exclude_from_weight_decay_cache"
    before = vars(optimizer).pop(memory, None)
    try:
        return optimizer._use_weight_decay(variable)
    finally:
        vars(optimizer).pop(memory, None)
        if before is not None:
            vars(optimizer)[memory] = before
