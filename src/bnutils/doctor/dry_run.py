"""One training step, looked at and undone: which batch normalization layers would learn?

Flags do not tell. `fit` keeps the decision it made when it traced its train function, whatever
`trainable` says since. So the step is taken as `fit` would take it, and everything is put back.
"""

from __future__ import annotations

import inspect
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from keras import tree
from keras.src.backend.common import global_state
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR
from tensorflow.python.eager import context
from tensorflow.python.framework import auto_control_deps_utils

from bnutils._keras import keras, tf
from bnutils.doctor.graph import batch_norms, layer_paths

__all__ = ["DryRun", "LayerStep", "build", "dry_run", "optimizers"]

_ROWS = 8  # of the data that are given
_DRAWN_ROWS = 2  # the fewest that have a variance
_LENGTHS = (32, 96, 224)  # tried in this order where the model leaves a length open


@dataclass(frozen=True)
class LayerStep:
    """What one training step changes in one batch normalization layer.

    Attributes:
        layer: the layer.
        path: its path in the model, such as "base/block1/bn".
        statistics_moved: whether its moving statistics change.
        gamma_moved: whether the step trains gamma; None if the layer has none.
        beta_moved: whether the step trains beta; None if the layer has none.
    """

    layer: keras.layers.BatchNormalization
    path: str
    statistics_moved: bool
    gamma_moved: bool | None
    beta_moved: bool | None

    @property
    def learns(self) -> bool:
        """Whether anything in the layer changes."""
        return bool(self.statistics_moved or self.gamma_moved or self.beta_moved)


@dataclass(frozen=True)
class DryRun:
    """What one training step would change in the batch normalization layers of a model.

    Attributes:
        layers: one record per layer, in the order of `batch_norms`.
        how: which step was taken, in words.
        traced: whether it is the step that `fit` had traced, with the flags of that day.
    """

    layers: tuple[LayerStep, ...]
    how: str
    traced: bool

    @property
    def learning(self) -> tuple[LayerStep, ...]:
        """The records of the layers in which something changes."""
        return tuple(step for step in self.layers if step.learns)


def dry_run(model: keras.Model, x: Any = None, y: Any = None) -> DryRun:
    """Find out what the next training step would change in each batch normalization layer.

    The step is the one that the next `fit` would take:

    - If `fit` has already run, its traced train function runs. It still holds the `trainable`
      flags of the day it was traced. With several traces (`fit` and `train_on_batch`, say), all
      of them run, and a layer counts as learning if one of them teaches it.
    - If the model is compiled and nothing is traced yet, its own `train_step` runs, with an
      optimizer that notes what it is asked to train instead of training it.
    - If the model is not compiled, or no target is known for its loss, the gradient of
      mean(output**2) with `training=True` stands in; `how` says so.

    gamma and beta count as moved when the step hands them to the optimizer with a gradient, or its
    graph writes to them. A learning rate of 0 in a warm-up, a gradient that happens to be 0 or an
    update that waits for more gradients does not hide them. The moving statistics count as moved
    when their values change.

    Afterwards weights, optimizer, metrics, random states and compilation are what they were, bit
    for bit, after an exception too. A model that is not built yet stays built, as after a call.
    Random numbers from `tf.random.normal` and the like, which keep their state out of reach, and
    counters that a custom `train_step` keeps inside other objects are the exceptions.

    Args:
        model: a Keras model, compiled or not.
        x: inputs as `fit` takes them: an array, or a list or dict of arrays. The first 8 rows are
            used. None draws inputs at random from the input shapes of the model; so does a traced
            step that was traced for data of another form.
        y: targets for `x`. None takes random ones of the form that the loss accepts.

    Returns:
        A `DryRun`.

    Raises:
        ValueError: if inputs are needed and cannot be drawn (the model is not built, or takes
            strings), if the rows of `x` and `y` differ in number, or if the model rejects the
            drawn inputs. What the model raises on inputs that were given passes through.

    Example:
        >>> from keras import Input, Sequential, layers
        >>> model = Sequential([Input((4,)), layers.BatchNormalization(name="bn")])
        >>> model.compile("adam", "mse")
        >>> dry_run(model).learning[0].path
        'bn'
        >>> model.get_layer("bn").trainable = False
        >>> dry_run(model).learning
        ()
    """
    given = x is not None and y is not None
    x, y = _first_rows(x, y)
    with _quiet(), model.distribute_strategy.scope():
        build(model, x)
        traces = _traces(model)
        with _restored(model, traces):
            try:
                return _run_traces(model, traces, x, y) if traces else _run_anew(model, x, y)
            except Exception as error:
                if given or isinstance(error, _NothingToDrawError):
                    raise
                drawn = "inputs x and targets y" if x is None else "targets y"
                raise ValueError(
                    f"expected {drawn}, since {model.name!r} does not take the random ones that "
                    f"were drawn for it ({type(error).__name__}: {error})"
                ) from error


class _NothingToDrawError(ValueError):
    """Inputs have to be given."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what Keras and TensorFlow would remark in `fit`; this is not `fit`."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _first_rows(x: Any, y: Any) -> tuple[Any, Any]:
    """Cut inputs and targets to a few rows, in the dtypes in which `fit` hands them on."""

    def cut(leaf: Any) -> tf.Tensor | None:
        if leaf is None:
            return None
        leaf = leaf if tf.is_tensor(leaf) else np.asarray(leaf)
        if not len(leaf.shape):
            raise ValueError(f"expected arrays with a row for each example, got {leaf!r}")
        leaf = leaf[:_ROWS]
        if isinstance(leaf, np.ndarray):
            leaf = leaf.astype(keras.config.floatx()) if leaf.dtype.kind == "f" else leaf
            leaf = tf.convert_to_tensor(leaf)
        return leaf

    x, y = (tree.map_structure(cut, part) for part in (x, y))
    rows = {leaf.shape[0] for leaf in tree.flatten((x, y)) if leaf is not None}
    if len(rows) > 1 or 0 in rows:
        raise ValueError(f"expected x and y with one row for each example, got {sorted(rows)} rows")
    return x, y


def build(model: keras.Model, x: Any = None) -> None:
    """Create the variables of a model, as its first call would, without computing anything.

    Args:
        model: a Keras model; one that is built is left alone.
        x: a batch of inputs.

    Raises:
        ValueError: if the model is not built and `x` is None.
    """
    if not model.built or not all(layer.built for layer in batch_norms(model)):
        if x is None and not model.built:
            raise ValueError(
                f"expected inputs x, since {model.name!r} is not built and its input shapes are "
                "not known"
            )
        x = _draw_inputs(model) if x is None else x
        tf.function(lambda x: _call(model, x, training=False)).get_concrete_function(x)


def _call(model: keras.Model, x: Any, training: bool) -> Any:
    return model(x, training=training) if model._call_has_training_arg else model(x)


# What a step may change, and how it is put back


@contextmanager
def _restored(model: keras.Model, traces: list) -> Iterator[None]:
    """Put everything back that a training step changes, whatever happens inside."""
    layers = [model, *layer_paths(model)]
    values = [(part, tf.identity(part)) for part in _state(layers, traces)]
    attributes = dict(vars(model))
    steered = [(layer, name, value) for layer in layers for name, value in optimizers(layer)]
    losses = [(layer, list(layer._losses), set(layer._loss_ids)) for layer in layers]
    seeds = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    eager = context.context()._rng  # behind tf.random.normal and the like, after set_seed
    drawn = None if eager is None else eager.getstate()
    try:
        yield
    finally:
        # Not through setattr, which would track what is only put back.
        vars(model).update(attributes)
        for name in vars(model).keys() - attributes.keys():
            del vars(model)[name]
        for layer, name, value in steered:
            vars(layer)[name] = value
        for layer, tensors, ids in losses:
            layer._clear_losses()
            layer._losses.extend(tensors)
            layer._loss_ids.update(ids)
        global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, seeds)
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
        if eager is not None:
            eager.setstate(drawn)
        for part, value in values:
            part.assign(value)


def _state(layers: list[keras.Layer], traces: list) -> list[tf.Variable]:
    """Every TensorFlow variable that a training step may write to."""
    model = layers[0]
    variables = [*model.variables]
    for metric in [*model.metrics, *model._metrics]:
        variables += metric.variables
    for layer in layers:
        for _, optimizer in optimizers(layer):
            variables += optimizer.variables
        for value in vars(layer).values():
            value = value.state if isinstance(value, tf.random.Generator) else value
            variables += [value] if isinstance(value, tf.Variable) else []
    for trace in traces:
        variables += trace.variables
    seeds = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    variables += [seeds.state] if seeds is not None else []
    parts = {id(part): part for variable in variables for part in _parts(variable)}
    return list(parts.values())


def optimizers(layer: keras.Layer) -> list[tuple[str, keras.optimizers.Optimizer]]:
    """List the optimizers that a model or layer holds, with the names of the attributes."""
    return [
        (name, value)
        for name, value in vars(layer).items()
        if isinstance(value, keras.optimizers.Optimizer)
    ]


def _parts(variable: keras.Variable | tf.Variable) -> tuple[tf.Variable, ...]:
    """The TensorFlow variables behind a variable: one, or one for each replica."""
    variable = variable.value if isinstance(variable, keras.Variable) else variable
    return tuple(getattr(variable, "values", (variable,)))


def _bits(variables: Iterable[keras.Variable | tf.Variable]) -> list[bytes]:
    return [part.numpy().tobytes() for variable in variables for part in _parts(variable)]


def _report(
    model: keras.Model, step: Callable[[], Callable], how: str, traced: bool = False
) -> DryRun:
    """Take a step and compare. `step` returns a function: does the step train a variable?"""
    layers = batch_norms(model)
    paths = layer_paths(model)
    statistics = [
        [v for v in layer.weights if v is not layer.gamma and v is not layer.beta]
        for layer in layers
    ]
    before = [_bits(variables) for variables in statistics]
    trains = step()
    return DryRun(
        tuple(
            LayerStep(
                layer,
                paths[layer],
                _bits(variables) != old,
                None if layer.gamma is None else trains(layer.gamma),
                None if layer.beta is None else trains(layer.beta),
            )
            for layer, variables, old in zip(layers, statistics, before, strict=True)
        ),
        how,
        traced,
    )


# The step that `fit` has already traced


def _traces(model: keras.Model) -> list:
    """The traced steps in the train function of a model, one for each form of the data."""
    if not inspect.isfunction(model.train_function):
        return []
    step = inspect.getclosurevars(model.train_function).nonlocals.get("one_step_on_data")
    step = getattr(step, "__wrapped__", None)
    if not hasattr(step, "_list_all_concrete_functions"):
        return []  # run_eagerly: nothing is fixed
    # The first call leaves two traces of one form; the later one is the one in use.
    traces = {str(_data_spec(trace)): trace for trace in step._list_all_concrete_functions()}
    return list(traces.values())


def _data_spec(trace: Any) -> Any:
    (data,), _ = trace.structured_input_signature
    return data


def _run_traces(model: keras.Model, traces: list, x: Any, y: Any) -> DryRun:
    if x is None and getattr(model, "inputs", None):
        x = _draw_inputs(model)

    def step() -> Callable:
        written = set()
        for trace in traces:
            _run_trace(model, trace, x, y)
            written |= _written(trace)
        return lambda variable: any(id(part.handle) in written for part in _parts(variable))

    how = "train_step of the compiled model, as fit has traced it"
    return _report(model, step, how, traced=True)


def _run_trace(model: keras.Model, trace: Any, x: Any, y: Any) -> None:
    spec = _data_spec(trace)
    rows = _DRAWN_ROWS if x is None else tree.flatten(x)[0].shape[0]
    if isinstance(spec, tuple) and len(spec) <= 3:
        data = tuple(map(partial(_fitted, model, rows), (x, y, None), spec))
    else:
        data = _fitted(model, rows, x, spec)
    trace(data)


def _fitted(model: keras.Model, rows: int, given: Any, spec: Any) -> Any:
    """Bring data into the traced form; what is missing or has another form is drawn."""
    specs, leaves = tree.flatten(spec), tree.flatten(given)
    if len(leaves) != len(specs) or not all(map(_fits, leaves, specs)):
        leaves = [None] * len(specs)
    values = []
    for leaf, part in zip(leaves, specs, strict=True):
        # With several replicas each gets the same rows.
        inner = part._value_specs[0] if hasattr(part, "_value_specs") else part
        if inner is None:
            value = None
        elif leaf is None:
            value = _drawn(_closed(inner.shape, _LENGTHS[0], rows), inner.dtype.name)
        else:
            picked = np.arange(inner.shape[0] or rows) % rows  # repeated to fill a fixed batch
            value = tf.cast(tf.gather(leaf, picked), inner.dtype)
        if inner is not part:
            strategy = model.distribute_strategy
            value = strategy.experimental_distribute_values_from_function(
                lambda _, value=value: value
            )
        values.append(value)
    return tree.pack_sequence_as(spec, values)


def _fits(leaf: tf.Tensor | None, spec: tf.TypeSpec | None) -> bool:
    spec = spec._value_specs[0] if hasattr(spec, "_value_specs") else spec
    if leaf is None or spec is None:
        return leaf is spec
    text = leaf.dtype == tf.string, spec.dtype == tf.string
    return text[0] == text[1] and spec.shape[1:].is_compatible_with(leaf.shape[1:])


def _written(trace: Any) -> set[int]:
    """The ids of the handles of the variables that a graph assigns to, in any branch."""
    read_only = auto_control_deps_utils.get_read_only_resource_input_indices_graph(trace.graph)
    inputs = {id(tensor): index for index, tensor in enumerate(trace.graph.inputs)}
    return {
        id(handle)
        for handle, inside in trace.graph.captures
        if handle.dtype == tf.resource and inputs[id(inside)] not in read_only
    }


# A step that is traced for the occasion


class _Recorder(keras.optimizers.Optimizer):
    """An optimizer that tells which variables it is to train, and leaves them alone."""

    def __init__(self, tell: Callable[[Any], None]) -> None:
        super().__init__(learning_rate=0.0, name="recorder")
        self.tell = tell

    def apply(self, grads: Sequence, trainable_variables: Sequence | None = None) -> None:
        """Note the variables that come with a gradient."""
        variables = (
            self._trainable_variables if trainable_variables is None else trainable_variables
        )
        for gradient, variable in zip(grads, variables, strict=True):
            if gradient is not None:
                self.tell(variable)


def _run_anew(model: keras.Model, x: Any, y: Any) -> DryRun:
    x = _draw_inputs(model) if x is None else x
    if not model.compiled:
        return _run_gradient(model, x, "since the model is not compiled")
    how = "train_step of the compiled model"
    if y is not None:
        return _report(model, lambda: _train_step(model, (x, y)), how)
    for data in _with_target(model, x):
        try:
            return _report(model, lambda data=data: _train_step(model, data), how)
        except Exception:
            continue  # a target of another form may suit this train_step
    return _run_gradient(model, x, "since no target was given and none is known for its loss")


def _train_step(model: keras.Model, data: tuple) -> Callable:
    """Run a fresh train function on a model whose optimizers, loss and metrics stay aside.

    It runs eagerly, since tracing a graph for one step takes far longer than the step; as a graph,
    as `fit` has it, where that fails or several devices share the step.
    """
    trained = []
    for layer in [model, *layer_paths(model)]:
        for name, _ in optimizers(layer):
            vars(layer)[name] = _Recorder(trained.append)
    data = keras.utils.pack_x_y_sample_weight(*data)

    def run(eagerly: bool) -> None:
        trained.clear()
        # Loss and metrics fix their form on the first target they see: that must be the user's.
        vars(model).update(_compile_metrics=None, _compile_loss=_fresh_loss(model))
        vars(model).update(_jit_compile=False, _run_eagerly=eagerly)
        model._maybe_symbolic_build(data_batch=data)
        model.make_train_function(force=True)
        model.train_function(iter([data]))

    _eagerly_if_it_works(model, run)
    return lambda variable: any(v is variable or v is variable.value for v in trained)


def _eagerly_if_it_works(model: keras.Model, run: Callable[[bool], None]) -> None:
    """Call `run` with True, and with False if that raises something or devices share the work."""
    if model.distribute_strategy.num_replicas_in_sync == 1:
        try:
            return run(True)
        except Exception:
            pass
    return run(False)


def _fresh_loss(model: keras.Model) -> Any:
    loss = model._compile_loss
    if loss is None:
        return None
    weights = loss._user_loss_weights
    return type(loss)(loss._user_loss, weights, output_names=loss.output_names)


def _run_gradient(model: keras.Model, x: Any, reason: str) -> DryRun:
    def step() -> Callable:
        trained = []

        def gradient(x: Any) -> None:
            variables = model.trainable_variables
            with tf.GradientTape() as tape:
                outputs = [tf.cast(y, tf.float32) for y in tree.flatten(_call(model, x, True))]
                loss = tf.add_n([tf.reduce_mean(y**2) for y in outputs])
            gradients = tape.gradient(loss, variables)
            trained.extend(v for v, g in zip(variables, gradients, strict=True) if g is not None)

        def run(eagerly: bool) -> None:
            trained.clear()
            take = partial(model.distribute_strategy.run, gradient, (x,))
            take() if eagerly else tf.function(take)()

        _eagerly_if_it_works(model, run)
        return lambda variable: any(v is variable for v in trained)

    return _report(model, step, f"a gradient step on mean(output**2), {reason}")


# Inputs and targets drawn at random


def _draw_inputs(model: keras.Model) -> Any:
    if getattr(model, "inputs", None):
        inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    else:
        config = model.get_build_config() or {}
        if "input_shape" not in config:
            raise _NothingToDrawError(
                f"expected inputs x, since the input shapes of {model.name!r} are not known"
            )
        inputs = tree.map_shape_structure(
            lambda shape: keras.KerasTensor((None, *shape[1:])), config["input_shape"]
        )
    for length in _LENGTHS:
        closed = tree.map_structure(
            lambda t, length=length: keras.KerasTensor(_closed(t.shape, length), t.dtype), inputs
        )
        if length == _LENGTHS[-1] or not any(None in t.shape[1:] for t in tree.flatten(inputs)):
            break
        try:
            model.compute_output_spec(closed)
            break
        except Exception:
            continue  # too short for this model
    return tree.map_structure(lambda t: _drawn(t.shape, t.dtype), closed)


def _closed(shape: Sequence[int | None], length: int, rows: int = _DRAWN_ROWS) -> tuple[int, ...]:
    return (shape[0] or rows, *(length if n is None else n for n in shape[1:]))


def _drawn(shape: Sequence[int], dtype: str) -> tf.Tensor:
    """Standard normal numbers; 0 and 1 where whole numbers or truth values are due."""
    if dtype == "string":
        raise _NothingToDrawError("expected inputs x and targets y, since the model takes strings")
    rng = np.random.default_rng(0)
    floating = tf.as_dtype(dtype).is_floating
    return tf.cast(rng.normal(size=shape) if floating else rng.integers(2, size=shape), dtype)


def _with_target(model: keras.Model, x: Any) -> Iterator[tuple]:
    """Guess data for a training step, the likeliest first."""
    steps = ("train_step", "compute_loss")
    custom = any(getattr(type(model), name) is not getattr(keras.Model, name) for name in steps)
    if model._compile_loss is None:
        yield (x,)
    if model._compile_loss is None and not custom:
        return
    outputs = _outputs(model, x)
    target = None if model._compile_loss is None else _target(model, outputs)
    if target is not None:
        yield x, target
    if custom:
        yield from ((x, tree.map_structure(form, outputs)) for form in _FORMS)
        yield (x,)


def _outputs(model: keras.Model, x: Any) -> Any:
    """Outputs of the right shapes; the model runs only if its shapes are not known before."""
    if getattr(model, "inputs", None):
        outputs = model.outputs[0] if isinstance(model, keras.Sequential) else model.output
        if not any(None in t.shape[1:] for t in tree.flatten(outputs)):
            rows = tree.flatten(x)[0].shape[0]
            return tree.map_structure(lambda t: _drawn((rows, *t.shape[1:]), t.dtype), outputs)
    return tf.function(lambda x: _call(model, x, training=False))(x)


def _target(model: keras.Model, outputs: Any) -> Any:
    """A target that the compiled loss accepts, or None."""
    compiled = model._compile_loss
    flat, losses = tree.flatten(outputs), compiled._user_loss
    if isinstance(losses, dict):
        names = sorted(outputs) if isinstance(outputs, dict) else model.output_names
        losses = [losses.get(name) for name in names]
    elif not isinstance(losses, list | tuple):
        losses = [losses] * len(flat)
    if len(losses) != len(flat):
        return None
    targets = []
    for loss, output in zip(losses, flat, strict=True):
        suitable = (form(output) for form in _FORMS if _accepts(type(compiled), loss, form, output))
        targets.append(next(suitable, None))
    return None if any(t is None for t in targets) else tree.pack_sequence_as(outputs, targets)


def _accepts(compile_loss: Callable, loss: Any, form: Callable, output: tf.Tensor) -> bool:
    try:
        compile_loss(loss)(form(output), output)
    except Exception:
        return False
    return True


# Numbers in [0, 1] are right for regression, probabilities and one-hot classes, the label 0 for any
# number of classes.
_FORMS = (
    lambda output: tf.cast(np.random.default_rng(0).uniform(size=output.shape), output.dtype),
    lambda output: tf.zeros(output.shape[:-1], "int32"),
    lambda output: tf.zeros((*output.shape[:-1], 1), "int32"),
)
