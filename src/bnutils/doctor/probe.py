"""What reaches each batch normalization layer of a model, measured without changing the model.

The model's own forward pass is traced once into a TensorFlow graph, with a hook on the `call` of
every batch normalization layer. The hook sees the input, so nested, subclassed, shared and wrapped
layers are found as the model calls them. Nothing is ever assigned: the statistics by which a layer
normalizes are fed into the graph, in a `keras.StatelessScope`, and of the graph only what is asked
for is run.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from bnutils._keras import global_seeds, keras, takes_training, tf
from bnutils.doctor.graph import layer_paths
from bnutils.doctor.moments import Moments, channel_moments
from bnutils.doctor.restoring import restored, swap
from bnutils.doctor.subject import Subject

__all__ = [
    "Probe",
    "Seen",
    "Unreached",
    "as_value_error",
    "build",
    "dense",
]

Mode = Literal["inference", "batch", "training"]
MODES = get_args(Mode)
#: Operations that TensorFlow calls stateful, and that change nothing: they read, or draw numbers.
EFFECTLESS = {"Placeholder", "VarHandleOp", "ReadVariableOp", "RandomUniform"}
#: What layers are to normalize by: (mean, variance) for each, arrays [channels].
Statistics = Mapping[keras.layers.BatchNormalization, tuple[Any, Any]]


@dataclass(frozen=True, eq=False)
class Seen:
    """One call of a batch normalization layer on one batch.

    Attributes:
        layer: the layer.
        call: which call of that layer in one forward pass, counted from 0.
        moments: the moments of its input, masked positions left out.
    """

    layer: keras.layers.BatchNormalization
    call: int
    moments: Moments


@dataclass(frozen=True, eq=False)
class Unreached:
    """A batch normalization layer whose input could not be seen.

    Attributes:
        layer: the layer.
        path: its path in the model.
        reason: why, in words that follow the path.
        called: False if the model does not call the layer at all.
    """

    layer: keras.layers.BatchNormalization
    path: str
    reason: str
    called: bool


class Probe:
    """Runs a model on batches and measures the input of every batch normalization layer.

    No variable of the model changes: no weight, no moving statistic, no random state, no metric.
    The graph is kept: batches of the same shape but for the number of rows share one, a batch with
    another length of time or size of image is traced anew. Only what is asked for is computed.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization()])
        >>> probe = Probe(Subject(model), "batch")
        >>> seen, outputs = probe.run(np.array([[1.0, 10.0], [3.0, 30.0]]))
        >>> seen[0].moments.mean, seen[0].moments.variance
        (array([ 2., 20.]), array([  1., 100.]))
        >>> outputs.round(2)
        array([[-1., -1.],
               [ 1.,  1.]], dtype=float32)
    """

    def __init__(
        self,
        subject: Subject,
        mode: Mode = "inference",
        by_batch: Iterable[keras.Layer] = (),
    ) -> None:
        """Prepare; nothing is run yet.

        Args:
            subject: the model. If it is not built yet, the first batch builds it.
            mode: what the layers do.

                - "inference": what `predict` does;
                - "batch": as "inference", except that batch normalization layers that are not
                  frozen normalize by the statistics of this batch, as in `fit`. Dropout is off;
                - "training": what `fit` does. Dropout is on.
            by_batch: layers that normalize by the statistics of the batch whatever the mode says,
                frozen ones too, and without the correction of batch renormalization.

        Raises:
            ValueError: if the mode is none of these.
        """
        if mode not in MODES:
            raise ValueError(f"expected a mode of {MODES}, got {mode!r}")
        self._subject = subject
        self._mode = mode
        self._by_batch = frozenset(map(id, by_batch))
        self._traces = {}

    def moments(
        self,
        x: Any,
        layers: Iterable[keras.Layer] | None = None,
        statistics: Statistics | None = None,
    ) -> tuple[Seen, ...]:
        """Measure what reaches batch normalization layers in one batch.

        Args:
            x: one batch, as the model takes it: an array, or a dict or list of arrays.
            layers: the layers to look at; all by default. What only others need is not computed.
            statistics: a dict from layers to (mean, variance), arrays [channels]: what those
                layers are to normalize by, in the place of their moving statistics.

        Returns:
            One `Seen` for each call of these layers, in the order of the calls.

        Raises:
            ValueError: if the model cannot be called on `x`.
        """
        trace = self._trace(x)
        wanted = None if layers is None else {id(layer) for layer in layers}
        picked = tuple(
            number
            for number, captured in enumerate(trace.captured)
            if wanted is None or id(captured.layer) in wanted
        )
        return trace.run(x, statistics, picked, outputs=False)[0]

    def run(self, x: Any, statistics: Statistics | None = None) -> tuple[tuple[Seen, ...], Any]:
        """Measure every layer and compute the model's outputs, in one run.

        Args:
            x: one batch; see `moments`.
            statistics: as for `moments`.

        Returns:
            `(seen, outputs)`: one `Seen` for each call, and NumPy arrays in the model's own
            structure.

        Raises:
            ValueError: if the model cannot be called on `x`.
        """
        trace = self._trace(x)
        return trace.run(x, statistics, tuple(range(len(trace.captured))), outputs=True)

    def outputs(self, x: Any, statistics: Statistics | None = None) -> Any:
        """Compute the model's outputs alone; see `run`."""
        return self._trace(x).run(x, statistics, (), outputs=True)[1]

    def unreached(self, x: Any) -> tuple[Unreached, ...]:
        """The layers whose input cannot be seen when the model is called on this batch."""
        return self._trace(x).unreached

    def upstream(self, x: Any) -> dict:
        """Tell which layers feed which.

        Returns:
            For each layer that is seen, the list of the layers whose output one of its calls
            depends on, directly or through others. A layer that is called on what came out of
            itself is in its own list.
        """
        trace = self._trace(x)
        found = {}
        for index, captured in enumerate(trace.captured):
            layers = found.setdefault(captured.layer, {})
            layers.update(
                (other.layer, None)
                for number, other in enumerate(trace.captured)
                if trace.upstream[index] >> number & 1
            )
        return {layer: list(layers) for layer, layers in found.items()}

    def _trace(self, x: Any) -> _Trace:
        x = keras.tree.map_structure(tf.convert_to_tensor, x)
        leaves = keras.tree.flatten(x)
        specs = [tf.TensorSpec((None, *leaf.shape[1:]), leaf.dtype) for leaf in leaves]
        key = repr(keras.tree.map_structure(lambda leaf: None, x)), tuple(specs)
        if key not in self._traces:
            build(self._subject, x)
            with as_value_error():
                self._traces[key] = self._traced(x, specs)
        return self._traces[key]

    def _traced(self, x: Any, specs: list[tf.TensorSpec]) -> _Trace:
        trace = _Trace(self._subject, self._mode, self._by_batch, x, specs)
        if trace.unseen:
            # A tf.function inside the model hides its layers. As plain Python it may not.
            eagerly = tf.config.functions_run_eagerly()
            tf.config.run_functions_eagerly(True)
            try:
                inlined = _Trace(self._subject, self._mode, self._by_batch, x, specs)
            except (TypeError, ValueError, AttributeError, tf.errors.OpError):
                return trace  # it is not plain Python: keep what can be seen
            finally:
                tf.config.run_functions_eagerly(eagerly)
            if len(inlined.unseen) < len(trace.unseen):
                return inlined
        return trace


@dataclass(frozen=True, eq=False)
class _Captured:
    """One call of a layer, as tensors in the graph."""

    layer: Any
    call: int
    moments: tuple  # count, mean, variance
    output: Any


class _Trace:
    """The graph of one forward pass on one form of batch, with hooks on what is to be seen."""

    def __init__(
        self,
        subject: Subject,
        mode: Mode,
        by_batch: frozenset[int],
        x: Any,
        specs: list[tf.TensorSpec],
    ) -> None:
        self.captured = []
        self.outputs = None
        self.unseen = set()  # ids of layers that were called where no hook sees what comes in
        self._mode = mode
        self._by_batch = by_batch
        self._pruned = {}
        self._layers = [layer for layer in subject.layers if layer.built]
        self._graph = None
        variables = [v for bn in self._layers for v in (bn.moving_mean, bn.moving_variance)]
        self._specs = [
            *specs,
            *[tf.TensorSpec(variable.shape, variable.dtype) for variable in variables],
        ]

        def forward(*tensors: tf.Tensor) -> list[tf.Tensor]:
            self._graph = tf.compat.v1.get_default_graph()
            inputs = keras.tree.pack_sequence_as(x, tensors[: len(specs)])
            feeds = zip(variables, tensors[len(specs) :], strict=True)
            # The same seeds each time: how often the model was called before must not matter.
            seeds = [(seed.state, tf.zeros_like(seed.state.value)) for seed in _seeds(subject)]
            with keras.StatelessScope(state_mapping=[*feeds, *seeds]):
                outputs = subject.model(inputs, training=mode != "inference")
            self.outputs = keras.tree.map_structure(
                lambda leaf: tf.identity(leaf) if tf.is_tensor(leaf) else leaf,
                keras.tree.map_structure(dense, outputs),
            )
            return self._fetches(range(len(self.captured)), outputs=True)

        with restored() as undo:
            for layer, call in self._hooks(subject).items():
                swap(undo, layer, "call", call)
            self._function = tf.compat.v1.wrap_function(forward, self._specs)
        self._feeds = list(self._function.graph.inputs[: len(self._specs)])
        self.upstream = self._dependencies()
        self.unreached = tuple(self._unreached(subject))

    def run(
        self, x: Any, statistics: Statistics | None, picked: tuple[int, ...], outputs: bool
    ) -> tuple[tuple[Seen, ...], Any]:
        """Run what is asked for: some captured calls, by number, and the outputs or not.

        Returns:
            `(seen, outputs)`: a tuple of `Seen`, and the outputs or None.
        """
        fed = []
        for layer in self._layers:
            variables = layer.moving_mean, layer.moving_variance
            given = (statistics or {}).get(layer, [variable.value for variable in variables])
            fed += [
                tf.identity(tf.cast(value, variable.dtype))
                for value, variable in zip(given, variables, strict=True)
            ]
        with as_value_error():
            tensors = [tf.convert_to_tensor(leaf) for leaf in keras.tree.flatten(x)]
            fetched = self._function_for(picked, outputs)(*tensors, *fed)
        values = iter([tensor.numpy() for tensor in fetched])
        seen = tuple(
            Seen(captured.layer, captured.call, Moments(next(values), next(values), next(values)))
            for captured in (self.captured[number] for number in picked)
        )
        if not outputs:
            return seen, None
        return seen, keras.tree.map_structure(
            lambda leaf: next(values) if tf.is_tensor(leaf) else leaf, self.outputs
        )

    def _fetches(self, picked: Iterable[int], outputs: bool) -> list[tf.Tensor]:
        fetches = [tensor for number in picked for tensor in self.captured[number].moments]
        if outputs:
            fetches += [leaf for leaf in keras.tree.flatten(self.outputs) if tf.is_tensor(leaf)]
        return fetches

    def _function_for(self, picked: tuple[int, ...], outputs: bool) -> Callable:
        """The part of the graph that computes this and nothing more."""
        if len(picked) == len(self.captured) and self._is_pure():
            return self._function  # the outputs come last, and cost nothing more
        key = picked, outputs
        if key not in self._pruned:
            if len(self._pruned) == 2:  # a deep model has as many as it has layers
                del self._pruned[next(iter(self._pruned))]
            self._pruned[key] = self._function.prune(
                self._feeds,
                self._fetches(picked, outputs),
                input_signature=(tuple(self._specs), {}),
            )
        return self._pruned[key]

    @functools.cache  # noqa: B019 (a trace lives as long as its probe)
    def _is_pure(self) -> bool:
        """Whether the whole graph can be run: TensorFlow runs every operation that has effects."""
        return not any(
            op.op_def.is_stateful and op.type not in EFFECTLESS
            for op in self._graph.get_operations()
        )

    def _hooks(self, subject: Subject) -> dict[keras.Layer, Callable]:
        hooks = {layer: self._seeing(layer) for layer in self._layers}
        if self._mode == "batch":
            # The model is called in training mode, so that each batch normalization layer gets
            # the `training` that it gets in `fit`. All layers with noise are turned back.
            for layer in subject.paths:
                if takes_training(layer) and layer not in hooks and not layer_paths(layer):
                    hooks[layer] = _in_inference(layer.call)
        return hooks

    def _seeing(self, layer: keras.layers.BatchNormalization) -> Callable:
        """The hook on a batch normalization layer."""
        original = layer.call
        signature = inspect.signature(original)

        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> tf.Tensor:
            bound = signature.bind(*args, **kwargs)
            inputs = next(iter(bound.arguments.values()))
            training = bound.arguments.get("training") and layer.trainable
            mask = bound.arguments.get("mask")
            if "training" in signature.parameters:
                bound.arguments["training"] = False  # by the given statistics, and no update
            if tf.compat.v1.get_default_graph() is not self._graph:
                self.unseen.add(id(layer))
                return original(*bound.args, **bound.kwargs)
            moments = channel_moments(inputs, mask, layer.axis)
            given = layer.moving_mean.value, layer.moving_variance.value
            if id(layer) in self._by_batch:
                _normalize_by(layer, moments[1:])
            elif training:
                _normalize_by(layer, _renormalized(layer, *moments[1:]))
            output = tf.identity(original(*bound.args, **bound.kwargs))
            _normalize_by(layer, given)
            number = sum(seen.layer is layer for seen in self.captured)
            self.captured.append(_Captured(layer, number, moments, output))
            return output

        return call

    def _dependencies(self) -> list[int]:
        """For each captured call, the captured calls it depends on, as the bits of an integer."""
        outputs = {seen.output.op: 1 << number for number, seen in enumerate(self.captured)}
        loop = 1 << len(self.captured)
        bits = {}
        for op in self._graph.get_operations():  # in order of creation: inputs come first
            found = outputs.get(op, 0)
            if op.type == "PlaceholderWithDefault":
                found |= loop  # the loop variable of tf.vectorized_map
            for tensor in op.inputs:
                found |= bits.get(tensor.op, 0)
            bits[op] = found
        upstream = []
        for seen in self.captured:
            found = bits[seen.moments[1].op]
            if found & loop:
                self.unseen.add(id(seen.layer))
            upstream.append(found & ~loop)
        return upstream

    def _unreached(self, subject: Subject) -> Iterator[Unreached]:
        seen = {id(captured.layer) for captured in self.captured}
        for layer in subject.layers:
            if id(layer) in self.unseen:
                reason = (
                    "is called inside a graph of its own (an RNN that is not unrolled, "
                    "tf.while_loop, tf.map_fn, tf.vectorized_map), where its input cannot be seen"
                )
                yield Unreached(layer, subject.path(layer), reason, called=True)
            elif id(layer) not in seen:
                reason = "is never called when the model is called"
                yield Unreached(layer, subject.path(layer), reason, called=False)


def build(subject: Subject, x: Any) -> None:
    """Build a model by a call on a batch, if it is not built yet.

    Raises:
        ValueError: if the model cannot be called on `x`.
    """
    if not subject.built:
        with as_value_error():
            subject.model(keras.tree.map_structure(tf.convert_to_tensor, x), training=False)
        subject.forget()


def _seeds(subject: Subject) -> Iterator[keras.random.SeedGenerator]:
    """The seed generators of all layers."""
    shared = global_seeds()
    yield from () if shared is None else (shared,)
    for holder in subject.holders:
        for value in vars(holder).values():
            if isinstance(value, keras.random.SeedGenerator):
                yield value


def _in_inference(original: Callable) -> Callable:
    """A `call` that is told `training=False`, whatever it is told."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.arguments["training"] = False
        return original(*bound.args, **bound.kwargs)

    return call


def _normalize_by(layer: keras.layers.BatchNormalization, statistics: Iterable) -> None:
    """Let a layer normalize by these statistics; inside a StatelessScope this assigns nothing."""
    for variable, value in zip((layer.moving_mean, layer.moving_variance), statistics, strict=True):
        variable.assign(tf.reshape(tf.cast(value, variable.dtype), variable.shape))


def _renormalized(
    layer: keras.layers.BatchNormalization, mean: tf.Tensor, variance: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The statistics by which `fit` normalizes a batch with this mean and variance.

    They differ from the batch's own for batch renormalization, `r * (x - mean) / std + d` with
    the r and d of Ioffe 2017, arXiv:1702.03275, equation 1, clipped. That is
    `(x - m) / s` with `s = std / r` and `m = mean - d * s`.
    """
    if not layer.renorm:
        return mean, variance
    floor = tf.sqrt(tf.cast(layer.epsilon, mean.dtype))
    std = tf.sqrt(variance + layer.epsilon)
    renorm_std = tf.maximum(tf.cast(layer.renorm_stddev.value, mean.dtype), floor)
    clip = {"rmin": 0.0, "rmax": np.inf, "dmax": np.inf}
    clip.update({name: end for name, end in layer.renorm_clipping.items() if end is not None})
    r = tf.clip_by_value(std / renorm_std, clip["rmin"], clip["rmax"])
    d = (mean - tf.cast(layer.renorm_mean.value, mean.dtype)) / renorm_std
    d = tf.clip_by_value(d, -clip["dmax"], clip["dmax"])
    scale = std / r
    return mean - d * scale, scale * scale - layer.epsilon


def dense(output: Any) -> Any:
    """An output with its zeros, if it comes without them."""
    return tf.sparse.to_dense(output) if isinstance(output, tf.SparseTensor) else output


@contextmanager
def as_value_error() -> Iterator[None]:
    """Turn what a model raises when it is called on data that do not fit into a ValueError."""
    errors = tf.errors.InvalidArgumentError, tf.errors.UnimplementedError
    try:
        yield
    except (TypeError, AttributeError, NotImplementedError, *errors) as error:
        raise ValueError(
            f"expected a model that can be called on these data, got: {error}"
        ) from error
