"""How models are compiled and trained: losses, metrics, optimizers, traced steps."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any

from keras.src.trainers.compile_utils import CompileLoss, CompileMetrics
from tensorflow.python.framework import auto_control_deps_utils
from tensorflow.python.ops import gen_nn_ops

from bnutils._keras import keras, tf

__all__ = [
    "STEP_FUNCTIONS",
    "accepts",
    "cheap_kernel_gradient",
    "collected_losses",
    "fresh_scores",
    "given_losses",
    "made_to_train",
    "metrics_of",
    "note_flags",
    "one_replica",
    "plain_functions",
    "prepare_step",
    "replicas",
    "takes_training",
    "trace_anew",
    "traced_form",
    "traced_steps",
    "written_by",
]

# Models and layers


def takes_training(operation: keras.Operation) -> bool:
    """Whether the `call` of a model, a layer or an operation has an argument `training`."""
    return getattr(operation, "_call_has_training_arg", False)  # that of a layer


def made_to_train(layer: keras.Layer) -> list[keras.Variable]:
    """List the variables of a layer itself that were made to be trained, frozen now or not."""
    return list(layer._trainable_variables)


def replicas(variable: keras.Variable | tf.Variable) -> tuple[tf.Variable, ...]:
    """Give the TensorFlow variables behind a variable: one, or one for each replica."""
    variable = variable.value if isinstance(variable, keras.Variable) else variable
    return tuple(getattr(variable, "values", (variable,)))


def metrics_of(model: keras.Model) -> list[keras.Metric]:
    """List all metrics of a model, those too that its own `metrics` leaves out."""
    return [*model.metrics, *model._metrics]


def collected_losses(layer: keras.Layer) -> Callable[[], None]:
    """Give a function that puts back what `add_loss` has collected in a layer until now."""
    losses, ids = list(layer._losses), set(layer._loss_ids)

    def put_back() -> None:
        layer._clear_losses()
        layer._losses.extend(losses)
        layer._loss_ids.update(ids)

    return put_back


# Compilation


def note_flags(model: keras.Model) -> None:
    """Let Keras take the flags of now for those of the day on which the model was compiled.

    Not through setattr, which would track the layers anew.
    """
    if model.compiled:
        state = {layer: layer.trainable for layer in model._flatten_layers()}
        vars(model)["_compiled_trainable_state"] = state


def given_losses(model: keras.Model) -> Any:
    """Give the losses as they were given to `compile`; None if there are none."""
    loss = getattr(model, "_compile_loss", None)
    return None if loss is None else loss._user_loss


def fresh_scores(model: keras.Model) -> tuple[Callable | None, keras.Metric | None]:
    """Make new the loss and the metrics with which a model was compiled.

    The model's own metrics count what has been seen so far, and are built by their first use.

    Returns:
        `(loss, metrics)`: a function of (y, outputs) that gives the weighted loss of all outputs,
        and a metric that holds all metrics; None for what the model was not compiled with.
    """

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


def accepts(loss: Any, y: Any, outputs: Any) -> bool:
    """Whether a loss, as given to `compile`, can be computed for these targets and outputs."""
    try:
        CompileLoss(loss)(y, outputs)
    except Exception:  # whatever a loss raises on a target of another form
        return False
    return True


def prepare_step(model: keras.Model, data: Any, eagerly: bool) -> None:
    """Give a model a new train function, loss and metrics, as if it were compiled anew.

    Loss and metrics fix their form on the first target they see: that must be the user's. They
    are built on `data`, as `fit` does it before its first step.
    """
    vars(model).update(_compile_metrics=None, _compile_loss=fresh_scores(model)[0])
    vars(model).update(_jit_compile=False, _run_eagerly=eagerly)
    model._maybe_symbolic_build(data_batch=data)
    model.make_train_function(force=True)


# What `fit`, `evaluate` and `predict` have traced

#: What `fit`, `evaluate` and `predict` call, and keep.
STEP_FUNCTIONS = ("train_function", "test_function", "predict_function")


@functools.lru_cache(maxsize=1024)
def _traced_methods(kind: type) -> tuple[str, ...]:
    names = {name: None for each in kind.__mro__ for name in vars(each)}
    return tuple(name for name in names if _is_traced(inspect.getattr_static(kind, name)))


def _is_traced(value: Any) -> bool:
    return isinstance(value, tf.types.experimental.GenericFunction)


def _traced_attributes(layer: keras.Layer) -> list[str]:
    return [n for n, v in vars(layer).items() if _is_traced(v) and n not in STEP_FUNCTIONS]


def plain_functions(layer: keras.Layer) -> dict[str, Callable]:
    """Give the Python functions behind the `tf.function`s among a layer's methods and attributes.

    What a `tf.function` has traced once it keeps, whatever changes in the layer.
    """
    methods = {
        name: inspect.getattr_static(type(layer), name).python_function.__get__(layer)
        for name in _traced_methods(type(layer))
    }
    return methods | {n: vars(layer)[n].python_function for n in _traced_attributes(layer)}


def trace_anew(layer: keras.Layer) -> Callable[[], None]:
    """Let the `tf.function`s of a layer forget what they traced; give a function that undoes it."""
    attributes = {name: vars(layer)[name] for name in _traced_attributes(layer)}
    for name, value in attributes.items():
        vars(layer)[name] = value._clone(value.python_function)
    # A method keeps one function for each object.
    methods = [inspect.getattr_static(type(layer), n) for n in _traced_methods(type(layer))]
    kept = [(cache, cache.pop(layer, None)) for cache in (m._descriptor_cache for m in methods)]

    def put_back() -> None:
        vars(layer).update(attributes)
        for cache, value in kept:
            cache.pop(layer, None)
            if value is not None:
                cache[layer] = value

    return put_back


def traced_steps(model: keras.Model, function: str = "train_function") -> list:
    """List the graphs that a model keeps, one for each form of the data.

    Args:
        model: the model.
        function: "train_function" of `fit`, "test_function" of `evaluate` or "predict_function".
    """
    step = getattr(model, function)
    if inspect.isfunction(step):
        step = inspect.getclosurevars(step).nonlocals.get("one_step_on_data")
        step = getattr(step, "__wrapped__", None)
    if not hasattr(step, "_list_all_concrete_functions"):
        return []  # run_eagerly: nothing is fixed
    # The first call leaves two graphs of one form; the later one is the one in use.
    traces = {str(traced_form(trace)): trace for trace in step._list_all_concrete_functions()}
    return list(traces.values())


def traced_form(trace: Any) -> Any:
    """Give the structure of `TensorSpec` that a traced step takes as its data."""
    (data,), _ = trace.structured_input_signature
    return data


def one_replica(spec: Any) -> Any:
    """Give the spec of what one replica gets; what is not distributed is given back."""
    return spec._value_specs[0] if hasattr(spec, "_value_specs") else spec


def written_by(trace: Any) -> set[int]:
    """Give the ids of the handles of the variables that a graph assigns to, in any branch."""
    read_only = auto_control_deps_utils.get_read_only_resource_input_indices_graph(trace.graph)
    inputs = {id(tensor): index for index, tensor in enumerate(trace.graph.inputs)}
    return {
        id(handle)
        for handle, inside in trace.graph.captures
        if handle.dtype == tf.resource and inputs[id(inside)] not in read_only
    }


def cheap_kernel_gradient() -> tuple[Any, str, Callable]:
    """Give a stand-in for the gradient of a 2-D convolution's kernel: zeros, in this thread.

    For a step of which nobody reads the values of the gradients. TensorFlow 2.21 with oneDNN
    aborts the process in that operation for some shapes (1 x 1, stride 2, "same"). What is traced
    into a graph may outlive the step, and so keeps the true gradient.

    Returns:
        The module and the name where it has to stand, and the stand-in itself.
    """
    true, thread = gen_nn_ops.conv2d_backprop_filter, threading.get_ident()

    @functools.wraps(true)
    def gradient(x: tf.Tensor, filter_sizes: tf.Tensor, *args: Any, **kwargs: Any) -> tf.Tensor:
        if threading.get_ident() == thread and tf.executing_eagerly():
            return tf.zeros(filter_sizes, x.dtype)
        return true(x, filter_sizes, *args, **kwargs)

    return gen_nn_ops, "conv2d_backprop_filter", gradient
