"""Each layer measured behind those already measured, in one walk along the graph of a model.

The calls of a model are sorted into levels: a layer that is measured at the end of one level
normalizes by what was measured at the beginning of the next. All batches go through one level,
then through the next; between two levels only the activations that later levels still need are
kept, in memory, and past a limit in temporary files. So each call is made once for each batch,
however deep the model is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from bnutils._keras import (
    OneCall,
    graph_inputs,
    keras,
    mask_of,
    recorded_graph,
    takes_training,
    tf,
)
from bnutils.doctor.activations import Store, bytes_of
from bnutils.doctor.batches import Batches
from bnutils.doctor.before_after import BeforeAfter, rows_of
from bnutils.doctor.graph import BN, Call, Graph, Tensor, walk
from bnutils.doctor.moments import Moments, channel_moments, check_finite
from bnutils.doctor.order import Level, levels_of
from bnutils.doctor.probe import Statistics, as_value_error
from bnutils.doctor.restoring import restored
from bnutils.doctor.subject import Subject

__all__ = ["Walk", "agree", "joined", "sane"]


#: Bytes of the largest activation of a batch up to which batches are joined: fewer and larger
#: ones spend less time in Python, but beyond this they only take more memory.
BATCH_BYTES = 2**27
#: Rows on which the walk is held against the model: the fewest that can be mixed up.
PROOF_ROWS = 2
#: What the batches are called that were joined into one, and how many rows each has.
Sizes = list[tuple[str, int]]


class Walk:
    """A model whose graph is known, run call by call as at inference.

    Attributes:
        layers: the batch normalization layers that it calls, in the order of the model.
        row_bytes: bytes of all activations that one row makes.
        tensors: all that flows, the inputs first; in a copy of the model in the same order.
    """

    def __init__(self, subject: Subject, graph: Graph) -> None:
        """Take a model and its graph; see `Walk.of`."""
        self._subject = subject
        self._graph = graph
        self._whole = levels_of(graph, ())[0]
        #: What each call is told of training at inference: a recorded graph overrides its own.
        self._training = {
            call: bool(call.training) and not call.recorded
            for call in graph.calls
            if takes_training(call.layer)
        }
        self._fixed_rows = any(tensor.shape[0] is not None for tensor in graph.inputs)
        self._largest = self.row_bytes = 1.0  # bytes of one row
        made = (tensor for call in graph.calls for tensor in call.outputs)
        self.tensors = tuple(dict.fromkeys((*graph.inputs, *made)))
        self._row_bytes_of = {}
        called = {call.layer for call in graph.calls if isinstance(call.layer, BN)}
        self.layers = [layer for layer in subject.layers if layer in called]

    @classmethod
    def of(cls, subject: Subject, x: Any) -> Walk | None:
        """Walk a model, and prove on some rows that the walk gives what the model gives.

        Args:
            subject: a built model.
            x: a batch.

        Returns:
            None if the model has a part that cannot be walked, or normalizes by the batch at
            inference, or if the outputs do not agree.
        """
        if subject.plain_variables:
            return None  # a call may assign to it, and nothing would put it back
        graph = walk(subject.model, x)
        if graph.unwalked or not graph.calls:
            return None
        known = {*graph.inputs, *(tensor for call in graph.calls for tensor in call.outputs)}
        for call in graph.calls:
            by_batch = call.training and not call.recorded and isinstance(call.layer, BN)
            if call.wrappers or by_batch or not known.issuperset(call.inputs):
                return None
        found = cls(subject, graph)
        try:
            return found if found._is_plain() or found._is_proven(x) else None
        except Exception:  # whatever a foreign layer raises here, the other way will tell
            return None

    def calls(self, layer: BN) -> int:
        """How often one forward pass calls a layer."""
        return len(self._graph.of(layer))

    def outputs(self, x: Any, statistics: Statistics | None = None) -> Any:
        """Compute what the model gives at inference.

        Args:
            x: a batch.
            statistics: what layers are to normalize by, in the place of their moving statistics.

        Returns:
            NumPy arrays in the model's own structure.
        """
        with _at_inference(_feeds(statistics or {})):
            env = self._given(x)
            self._run(self._whole, env)
            return self._packed(env)

    def measure(
        self,
        data: Batches,
        layers: Iterable[BN],
        *,
        memory: int,
        sample: BeforeAfter,
        progress: Any,
    ) -> dict[BN, Moments] | None:
        """Measure layers, each behind those before it normalizing by what was measured.

        Args:
            data: the data; they are gone through once.
            layers: the layers to measure. All others stay as they are.
            memory: bytes of activations that are kept in memory; others go to temporary files.
            sample: takes outputs before and after.
            progress: a tqdm bar; its unit is a call on a batch.

        Returns:
            The moments of each layer, over all its calls; None if a layer is called on what came
            out of itself.

        Raises:
            ValueError: if values are not finite.
            NoRoomError: if the disk is too small.
        """
        levels = levels_of(self._graph, layers)
        if levels is None:
            return None
        pooled, sizes, sampled, known = {}, [], {}, []
        with Store(memory) as store:
            for depth, level in enumerate(levels):
                final = depth == len(levels) - 1
                if depth == 0:
                    entries = self._first_level(data, sample, sizes, sampled)
                else:
                    numbers = sampled if final else range(len(sizes))
                    entries = ((number, store.load(level.loads, number)) for number in numbers)
                for number, env in entries:
                    with _at_inference(known):
                        self._run(level, env)
                        self._measure(level, env, sizes[number], pooled)
                        kept = level.keeps.items()
                        keep = [tensor for tensor, all_ in kept if all_ or number in sampled]
                        if final:
                            sample.after(rows_of(self._packed(env), sampled[number]))
                        store.save({tensor: env[tensor] for tensor in keep}, number)
                    if depth == 0:
                        progress.total = _total(levels, data, sizes, sampled)
                    progress.update(len(level.calls))
                store.drop(level.loads)
                ready = dict.fromkeys(call.layer for call in level.measured)
                known += _feeds(
                    {each: (pooled[each].mean, pooled[each].variance) for each in ready}
                )
        return pooled

    # Level after level, for whoever keeps the activations in between

    def levels(self, layers: Iterable[BN]) -> list[Level] | None:
        """The levels in which layers are measured; see `levels_of`."""
        return levels_of(self._graph, layers)

    def kept_row_bytes(self, levels: Sequence[Level]) -> float:
        """Bytes of a row that wait for later levels, where they are the most."""
        waiting, most = set(), 0.0
        for level in levels[:-1]:
            waiting = _still_needed(level, waiting)
            most = max(most, sum(self._row_bytes_of.get(tensor, 0.0) for tensor in waiting))
        return most

    def begun(self, x: Any) -> dict[Tensor, Any]:
        """What the first level needs of a batch."""
        with _at_inference(()):
            return self._given(x)

    def advance(
        self,
        levels: Sequence[Level],
        depth: int,
        values: dict[Tensor, Any],
        sizes: Sizes,
        statistics: Statistics,
        pooled: dict[BN, Moments] | None,
    ) -> dict[Tensor, Any]:
        """Take a batch through one level.

        Args:
            levels: all levels.
            depth: the number of this one.
            values: what the level before has left.
            sizes: see `Sizes`.
            statistics: what the layers of earlier levels normalize by.
            pooled: gets what is measured; None if that is known.

        Returns:
            What later levels need.

        Raises:
            ValueError: if values are not finite.
        """
        level, env = levels[depth], dict(values)
        with _at_inference(_feeds(statistics)):
            self._run(level, env)
            if pooled is not None:
                self._measure(level, env, sizes, pooled)
            kept = _still_needed(level, values if depth else ())
            return {tensor: env.get(tensor, values.get(tensor)) for tensor in kept}

    def _measure(self, level: Level, env: dict[Tensor, Any], sizes: Sizes, pooled: dict) -> None:
        """Add what a level measures in one batch to what is pooled."""
        for call in level.measured:
            moments = self._measured(call, env, sizes)
            seen = pooled.get(call.layer)
            pooled[call.layer] = moments if seen is None else seen.merged(moments)

    def _first_level(
        self, data: Batches, sample: BeforeAfter, sizes: list, sampled: dict[int, slice]
    ) -> Iterator[tuple[int, dict]]:
        """Give the inputs of each batch, and let the sample have what comes out as it is."""
        for number, (x, y, batches) in enumerate(self.joined(data)):
            sizes.append(batches)
            rows = sample.pick(sum(size for _, size in batches))
            if rows is not None:
                sampled[number] = rows
                sample.before(rows_of(y, rows), self.outputs(rows_of(x, rows)))
            with _at_inference(()):
                env = self._given(x)
            yield number, env

    def joined(self, data: Batches) -> Iterator[tuple[Any, Any, Sizes]]:
        """Join small batches; each comes with the names and sizes of those it is made of."""
        limit = 0 if self._fixed_rows else BATCH_BYTES / self._largest
        parts, batches = [], []
        for number, (x, y) in enumerate(data, start=1):
            size = int(keras.tree.flatten(x)[0].shape[0])
            rows = sum(size for _, size in batches)
            if parts and (rows + size > limit or not _alike(parts[0], (x, y))):
                yield *_concatenated(parts), batches
                parts, batches = [], []
            parts.append((x, y))
            batches.append((data.where(number), size))
        yield *_concatenated(parts), batches

    def _given(self, x: Any) -> dict[Tensor, Any]:
        inputs = graph_inputs(self._subject.model, x)
        return dict(zip(self._graph.inputs, inputs, strict=True))

    def _packed(self, env: dict[Tensor, Any]) -> Any:
        flat = [np.asarray(env[tensor]) for tensor in self._graph.outputs]
        packed = keras.tree.pack_sequence_as(self._graph.output_structure, flat)
        return packed[0] if isinstance(packed, list | tuple) and len(packed) == 1 else packed

    def _run(self, level: Level, env: dict[Tensor, Any], watch: Callable | None = None) -> None:
        for call, unneeded in zip(level.calls, level.unneeded, strict=True):
            args, kwargs = call.arguments(env)
            if call in self._training:
                kwargs["training"] = self._training[call]
            made = keras.tree.flatten(call.layer(*args, **kwargs))
            if watch is not None:
                watch(call, made)
            env.update(zip(call.outputs, made, strict=True))
            for tensor in unneeded:
                del env[tensor]

    def _measured(self, call: Call, env: dict[Tensor, Any], batches: Sizes) -> Moments:
        """The moments of what a call of a layer is given, in its dtype and with its mask."""
        layer = call.layer
        args, kwargs = call.arguments(env)
        given = args[0] if args else next(iter(kwargs.values()))
        mask = kwargs.get("mask", mask_of(given) if len(args) < 3 else args[2])
        x = layer.dtype_policy.convert_input(given, layer.autocast, layer.input_dtype)
        if mask is None:
            found = _compiled_moments(len(x.shape), x.dtype, layer.axis)(x)
        else:
            found = channel_moments(x, mask, layer.axis)
        moments = Moments(*(each.numpy() for each in found))
        check_finite(moments, self._subject.path(layer), lambda: _where(x, batches))
        return moments

    def _is_plain(self) -> bool:
        """Whether the graph is one of Keras that is not nested, so that a walk is what it does."""
        flat = all("/" not in call.path and call.training is None for call in self._graph.calls)
        if not flat or recorded_graph(self._subject.model) is None:
            return False
        for tensor in self.tensors:
            if None in tensor.shape[1:]:
                return False
            self._count(tensor, math.prod(tensor.shape[1:]) * tf.as_dtype(tensor.dtype).size)
        return True

    def _count(self, tensor: Tensor, size: float) -> None:
        self._row_bytes_of[tensor] = size
        self._largest = max(self._largest, size)
        self.row_bytes += size

    def _is_proven(self, x: Any) -> bool:
        """Whether some rows come out as from the model itself, and how large a row becomes.

        Masks reach a layer inside a nested model by ways that the walk does not go.
        """
        few = x if self._fixed_rows else rows_of(x, slice(PROOF_ROWS))
        statistics = sane(self.layers)
        self._largest = self.row_bytes = 1.0
        masked = nested = False

        def watch(call: Call, made: list) -> None:
            nonlocal masked, nested
            masked |= any(mask_of(tensor) is not None for tensor in made)
            nested |= "/" in call.path
            for tensor, value in zip(call.outputs, made, strict=True):
                self._count(tensor, bytes_of(value) / max(1, value.shape[0]))

        feeds = _feeds(statistics)
        with _at_inference(feeds):
            env = self._given(few)
            for tensor, value in env.items():
                self._row_bytes_of[tensor] = bytes_of(value) / max(1, value.shape[0])
            masked |= any(mask_of(leaf) is not None for leaf in keras.tree.flatten(x))
            self._run(self._whole, env, watch)
            mine = self._packed(env)
        with _at_inference(feeds):  # again from the same random state
            its = self._subject.model(few, training=False)
        return not (masked and nested) and agree(mine, its)


def _feeds(statistics: Statistics) -> list[tuple[keras.Variable, tf.Tensor]]:
    """What moving statistics are to be taken for."""
    return [
        (variable, tf.cast(value, variable.dtype))
        for layer, pair in statistics.items()
        for variable, value in zip((layer.moving_mean, layer.moving_variance), pair, strict=True)
    ]


@contextmanager
def _at_inference(feeds: Sequence[tuple[keras.Variable, tf.Tensor]]) -> Iterator[None]:
    """Let variables have given values, and nothing be assigned; interrupts wait."""
    stateless = keras.StatelessScope(state_mapping=feeds)
    with as_value_error(), restored(), stateless, OneCall(training=False):
        yield


def _still_needed(level: Level, waiting: Iterable[Tensor]) -> set[Tensor]:
    """What waits for measurements after a level, of what waited before it and what it makes."""
    made = {tensor for tensor, measured_later in level.keeps.items() if measured_later}
    return made | {tensor for tensor in waiting if not level.loads.get(tensor, False)}


@functools.cache
def _compiled_moments(rank: int, dtype: tf.DType, axis: int) -> Callable:
    signature = [tf.TensorSpec([None] * rank, dtype)]

    def moments(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return channel_moments(x, None, axis)

    return tf.function(moments, input_signature=signature, autograph=False)


def sane(layers: Iterable[BN]) -> dict[BN, tuple[np.ndarray, np.ndarray]]:
    """Statistics by which outputs can be compared: those of the layers, or of new ones."""
    return {layer: _sane(layer) for layer in layers}


def _sane(layer: BN) -> tuple[np.ndarray, np.ndarray]:
    mean, variance = np.asarray(layer.moving_mean), np.asarray(layer.moving_variance)
    sane = np.isfinite(mean) & np.isfinite(variance) & (variance > -layer.epsilon)
    return np.where(sane, mean, 0), np.where(sane, variance, 1)


def agree(mine: Any, its: Any) -> bool:
    """Whether two models, or two ways to run one, give the same outputs but for rounding."""
    keras.tree.assert_same_structure(mine, its)
    for one, two in zip(keras.tree.flatten(mine), keras.tree.flatten(its), strict=True):
        two = np.asarray(two)
        if one.dtype != two.dtype or one.shape != two.shape:
            return False
        if one.dtype.kind in "OSUb":
            if not np.array_equal(one, two):
                return False
            continue
        one, two = one.astype("float64"), two.astype("float64")
        tolerance = 1e-4 * np.max(np.abs(two), initial=0, where=np.isfinite(two))
        if not np.allclose(one, two, rtol=1e-4, atol=tolerance, equal_nan=True):
            return False
    return True


def _where(x: tf.Tensor, batches: Sizes) -> str:
    """Tell in which batch an activation is not finite first."""
    sizes = [size for _, size in batches]
    if len(batches) > 1 and x.shape[0] == sum(sizes):
        bad = ~np.isfinite(np.asarray(x, "float64")).reshape(len(x), -1).all(1)
        if bad.any():
            index = np.searchsorted(np.cumsum(sizes), np.argmax(bad), side="right")
            return batches[index][0]
    first, last = batches[0][0], batches[-1][0]
    return first if first == last else f"{first} to {last}"


def _total(levels: list[Level], data: Batches, sizes: list, sampled: dict) -> int | None:
    """Calls in all, as far as they can be told."""
    done = [size for batch in sizes for _, size in batch]
    rows = data.rows
    if rows is None and data.steps is not None:
        rows = data.steps * sum(done) / len(done)
    if rows is None:
        return None
    count = max(len(sizes), math.ceil(rows / (sum(done) / len(sizes))))
    inner = sum(len(level.calls) for level in levels[:-1])
    return count * inner + len(sampled) * len(levels[-1].calls)


def _alike(one: Any, other: Any) -> bool:
    """Whether two batches can be joined."""
    first, second = keras.tree.flatten(one), keras.tree.flatten(other)
    return len(first) == len(second) and all(
        a is b is None
        or (
            type(a) is type(b)
            and a.dtype == b.dtype
            and a.shape[1:] == b.shape[1:]
            and (tf.is_tensor(a) or a.dtype.kind in "fiub")
        )
        for a, b in zip(first, second, strict=True)
    )


def joined(parts: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
    """Join the batches (x, y) that stand beside each other and can be joined."""
    group = []
    for part in parts:
        if group and not _alike(group[0], part):
            yield _concatenated(group)
            group = []
        group.append(part)
    if group:
        yield _concatenated(group)


def _concatenated(parts: list[tuple[Any, Any]]) -> tuple[Any, Any]:
    if len(parts) == 1:
        return parts[0]

    def join(*leaves: Any) -> Any:
        if leaves[0] is None:
            return None
        return tf.concat(leaves, 0) if tf.is_tensor(leaves[0]) else np.concatenate(leaves)

    return keras.tree.map_structure(join, *parts)
