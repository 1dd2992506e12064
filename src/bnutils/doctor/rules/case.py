"""What the rules know of the model under audit, each thing worked out at most once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from bnutils._keras import keras, tf
from bnutils.doctor.batches import Batches, batches
from bnutils.doctor.dry_run import DryRun, dry_run
from bnutils.doctor.graph import Call, walk
from bnutils.doctor.probe import Moments, Probe, Seen
from bnutils.doctor.rules import flow
from bnutils.doctor.subject import Subject

__all__ = ["BN", "Case", "values"]


BN = keras.layers.BatchNormalization


def values(variable: keras.Variable) -> np.ndarray:
    """The values of a Keras variable, of one replica if there are several."""
    return tf.convert_to_tensor(variable).numpy()


ROWS = 1024  # of the data, at most
LEAST_ROWS = 8  # fewer say nothing of a population
WORK = 3.2e10  # multiplications in one forward pass over the rows: a second or two
VALUES = 5e7  # numbers in the largest tensor of one forward pass over the rows: 200 MB


class Case:
    """A model under audit.

    Attributes:
        subject: the model, with its layers and their paths.
        model: the Keras model itself.
        batch_size: rows in a batch of training, or None.
        train_size: rows in the training set, or None.
        graph: the calls of the model.
        layers: its batch normalization layers.
        bn_calls: their calls in the graph, in order.
        rows: how many rows of the data are used; None without data.
        x: those rows, as the model takes them.
        y: their targets, or None.
        large: whether the model is so large that few rows must do.
    """

    def __init__(
        self,
        subject: Subject,
        data: Any = None,
        *,
        batch_size: int | None = None,
        train_size: int | None = None,
    ) -> None:
        """Take the model and the data in.

        Args:
            subject: the model.
            data: see `bnutils.doctor.audit`.
            batch_size: see `bnutils.doctor.audit`.
            train_size: see `bnutils.doctor.audit`.

        Raises:
            ValueError: if an argument is not what it should be.
        """
        for name, value in (("batch_size", batch_size), ("train_size", train_size)):
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"expected {name} to be a positive integer, got {value!r}")
        self.subject = subject
        self.model = model = subject.model
        self.train_size = train_size
        self.batch_size = batch_size
        self.layers = subject.layers
        self.rows = self.x = self.y = None
        self.large = False
        source = None if data is None else batches(data, model=model)
        first = None if source is None else source.first()[0]
        self.graph = walk(model, first)
        self.bn_calls = [
            call for call in self.graph.calls if any(call.layer is bn for bn in self.layers)
        ]
        if source is not None and self.layers:
            self._draw(data, source, keras.tree.flatten(first)[0].shape)

    def _draw(self, data: Any, source: Batches, shape: Sequence[int]) -> None:
        """Take rows: from all over the data if they are arrays, from their start if not."""
        arrays = hasattr(data, "shape") or isinstance(data, list | tuple | dict)
        if not arrays and self.batch_size is None:
            self.batch_size = int(shape[0])  # data that come in batches come as they are for fit
        work, largest = self._load(shape)
        wanted = max(LEAST_ROWS, min(ROWS, int(min(WORK / work, VALUES / largest))))
        self.large = wanted == LEAST_ROWS
        step = 1
        if arrays:
            source = batches(data, -(-source.rows // 16), model=self.model)
            step = max(1, source.rows // wanted)
        parts, self.rows = [], 0
        for batch in source:
            parts.append(_mapped(lambda leaf: np.asarray(leaf[::step]), batch))
            self.rows += len(keras.tree.flatten(parts[-1][0])[0])
            if not arrays and self.rows >= wanted:
                break
        # Half of the rows is compared with all: their order must not follow that of the data.
        order = np.random.default_rng(0).permutation(self.rows)[:wanted]
        self.rows = len(order)
        self.x, self.y = _mapped(lambda *leaves: np.concatenate(leaves)[order], *parts)

    def _load(self, shape: Sequence[int]) -> tuple[float, float]:
        """Multiplications, and numbers in the largest tensor, for one row of inputs."""
        work, largest = 1, float(np.prod(shape[1:]))
        for call in self.graph.calls:
            for tensor in call.outputs:
                # A length that the model leaves open is taken as an eighth of that of the data.
                sizes = [
                    size or max(1, length // 8)
                    for size, length in zip(
                        tensor.shape[1:], [*shape[1:], *[1] * len(tensor.shape)], strict=False
                    )
                ]
                numbers = float(np.prod(sizes))
                largest = max(largest, numbers)
                if flow.has_weights(call) and sizes:
                    channels = sizes[flow.channel_axis(call) or -1]
                    kernel = sum(np.prod(shape) for shape in _kernels(call.layer))
                    work += kernel * numbers / channels
        return work, largest

    # Names

    def path(self, layer: keras.Layer) -> str:
        """The path of a layer in the model."""
        return self.subject.path(layer)

    def by_parent(self, layers: Iterable[keras.Layer]) -> dict[str, list]:
        """Layers grouped by the path of what holds them; "" is the model itself."""
        groups = {}
        for layer in layers:
            groups.setdefault(self.path(layer).rpartition("/")[0], []).append(layer)
        return groups

    # What is known without running the model

    def follows_batch(self, call: Call) -> bool:
        """Whether `fit` lets this call of a batch normalization layer follow the batch."""
        fixed = call.training is False
        obeyed = fixed and (not call.recorded or self.keras_obeys_recorded_training)
        return call.layer.trainable and not obeyed

    @property
    def learners(self) -> list:
        """The layers that `fit` lets follow the batch."""
        return [layer for layer in self.layers if self.learns(layer)]

    @property
    def keras_obeys_recorded_training(self) -> bool:
        """Whether the installed Keras obeys `training=False` in the graph of a model."""
        return _obeys_recorded_training()

    @property
    def optimizer(self) -> keras.optimizers.Optimizer | None:
        """The optimizer of a compiled model, out of its loss scaling; None if there is none."""
        optimizer = self.model.optimizer if self.model.compiled else None
        return getattr(optimizer, "inner_optimizer", optimizer)

    @functools.cached_property
    def updates(self) -> int | None:
        """How many updates of the moving statistics the optimizer's counter stands for."""
        optimizer = self.optimizer
        if optimizer is None:
            return None
        return int(values(optimizer.iterations)) * (optimizer.gradient_accumulation_steps or 1)

    @property
    def losses(self) -> set[str]:
        """The class names of the losses of a compiled model that are Keras's own."""
        if not self.model.compiled:
            return set()
        names = {
            name.lower(): name
            for name in dir(keras.losses)
            if isinstance(getattr(keras.losses, name), type)
        }
        found = set()
        for loss in keras.tree.flatten(self.model.loss):
            if isinstance(loss, str):
                loss = keras.losses.get(loss)
            name = getattr(loss, "__name__", type(loss).__name__)
            found.add(names.get(name.replace("_", "").lower()))
        return found - {None}

    def positions(self, layer: BN) -> int | None:
        """Values that one row gives each channel; None if neither model nor data tell."""
        calls = self.graph.of(layer)
        sizes = list(calls[0].inputs[0].shape) if calls else [None, None]
        del sizes[flow.parameter_axis(layer)]
        if None not in sizes[1:]:
            return int(np.prod(sizes[1:]))
        if layer in self.moments:
            return int(self.moments[layer][0].count.min() / self.rows)
        return None

    def dropout_before(self, layer: BN) -> list[Call]:
        """The calls of dropout whose noise reaches a layer with its variance not yet reset."""
        bounded = flow.PROBABILITY | {"tanh", "hard_tanh", "softsign"}

        def open_way(call: Call) -> bool:
            return not flow.normalizes(call) and flow.activation(call) not in bounded

        found = {}
        for call in self.graph.of(layer):
            for each in flow.upstream(self.graph, call.inputs[0], open_way):
                if flow.is_dropout(each):
                    found[each] = None
        return list(found)

    def has_bn_before(self, layer: BN) -> bool:
        """Whether another batch normalization layer stands between the inputs and a layer."""
        return any(
            flow.is_bn(each)
            for call in self.graph.of(layer)
            for each in flow.upstream(self.graph, call.inputs[0], lambda each: True)
        )

    def learns(self, layer: BN) -> bool:
        """Whether `fit` lets the layer follow the batch."""
        calls = self.graph.of(layer)
        return layer.trainable and (not calls or any(map(self.follows_batch, calls)))

    def fresh(self, layer: BN) -> bool:
        """Whether the moving statistics are exactly those of a new layer."""
        pairs = (
            (layer.moving_mean, layer.moving_mean_initializer),
            (layer.moving_variance, layer.moving_variance_initializer),
        )
        return all(_initial(variable, initializer) for variable, initializer in pairs)

    def trained(self, layer: BN) -> bool:
        """Whether gamma or beta of a layer are not those of a new layer."""
        return any(
            variable is not None and _initial(variable, initializer) is False
            for variable, initializer in (
                (layer.gamma, layer.gamma_initializer),
                (layer.beta, layer.beta_initializer),
            )
        )

    # What running the model shows

    @functools.cached_property
    def _tried(self) -> tuple[DryRun | None, str | None]:
        try:
            few = None if self.rows is None else _mapped(self._first, (self.x, self.y))
            return dry_run(self.model, *(few or ())), None
        except Exception as error:  # whatever a foreign train_step raises
            first = (str(error).splitlines() or [""])[0]
            return None, f"no training step could be tried: {type(error).__name__}: {first}"

    def _first(self, leaf: Any) -> Any:
        """As many rows as a training step should have: of a large model, very few."""
        return leaf[: 2 if self.large else LEAST_ROWS]

    @property
    def dry(self) -> DryRun:
        """What one training step would change."""
        return self._tried[0]

    @property
    def dry_failure(self) -> str | None:
        """Why no training step could be tried; None if one was."""
        return self._tried[1]

    @functools.cached_property
    def _by_batch(self) -> Probe:
        return Probe(self.model, "batch")

    @property
    def unreached(self) -> tuple:
        """The layers whose inputs the data do not show, with the reason."""
        if self.rows is None or not self.subject.built:
            return ()
        return self._by_batch.unreached(self.x)

    @functools.cached_property
    def half(self) -> Any:
        """Half of the rows: how far they are from all tells how far all are from the truth."""
        return keras.tree.map_structure(lambda leaf: leaf[: self.rows // 2], self.x)

    @functools.cached_property
    def moments(self) -> dict:
        """For each layer the moments of its calls, with dropout off and BN by the batch.

        Empty without data.
        """
        return {} if self.rows is None else _by_layer(self._by_batch.moments(self.x))

    @functools.cached_property
    def half_moments(self) -> dict:
        """The same for half of the rows by itself."""
        return _by_layer(self._by_batch.moments(self.half))

    def noisy_inputs(self, layer: BN) -> bool:
        """Whether what reaches a layer in `fit` is changed at random on its way."""
        noise = keras.layers.Dropout | keras.layers.GaussianNoise | keras.layers.GaussianDropout
        return any(
            isinstance(each.layer, noise) or flow.is_dropout(each)
            for call in self.graph.of(layer)
            for each in flow.upstream(self.graph, call.inputs[0], lambda each: True)
        )

    @functools.cached_property
    def training_moments(self) -> dict:
        """The same as in `fit`, with dropout on."""
        return _by_layer(Probe(self.model, "training").moments(self.x))

    @functools.cached_property
    def outputs(self) -> list[np.ndarray]:
        """The model's outputs at inference."""
        return self._outputs(self.x, {})

    @functools.cached_property
    def batch_outputs(self) -> list[np.ndarray]:
        """The same with the statistics of these rows in the place of the moving ones."""
        return self._outputs(self.x, self.moments)

    @functools.cached_property
    def half_outputs(self) -> list[np.ndarray]:
        """The same for half of the rows, with the statistics of that half."""
        return self._outputs(self.half, self.half_moments)

    def _outputs(self, x: Any, moments: dict[BN, list[Moments]]) -> list[np.ndarray]:
        given = []
        for layer in filter(self.learns, moments):
            pooled = functools.reduce(Moments.merged, moments[layer])
            given.append((layer.moving_mean, pooled.mean))
            given.append((layer.moving_variance, pooled.variance))
        mapping = [(variable, tf.cast(value, variable.dtype)) for variable, value in given]
        with keras.StatelessScope(state_mapping=mapping):
            outputs = self.model(keras.tree.map_structure(tf.convert_to_tensor, x), training=False)
        return [np.asarray(leaf) for leaf in keras.tree.flatten(outputs)]


def _mapped(function: Callable, *batches: Any) -> Any:
    """Apply a function to the arrays of batches (x, y), and leave None where there is no y."""
    return keras.tree.map_structure(
        lambda *leaves: None if leaves[0] is None else function(*leaves), *batches
    )


def _by_layer(seen: Iterable[Seen]) -> dict:
    found = {}
    for one in seen:
        found.setdefault(one.layer, []).append(one.moments)
    return found


def _kernels(layer: keras.Layer) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in layer.weights if len(weight.shape) > 1]


def _initial(variable: keras.Variable, initializer: Any) -> bool | None:
    """Whether a variable has exactly its initial value; None if that value is random."""
    if not isinstance(
        initializer,
        keras.initializers.Zeros | keras.initializers.Ones | keras.initializers.Constant,
    ):
        return None
    first = initializer(variable.shape, dtype=variable.dtype)
    return bool(np.array_equal(np.asarray(first), values(variable)))


@functools.cache
def _obeys_recorded_training() -> bool:
    """Ask the installed Keras, with three tiny models, in each of which BN is told to stand still.

    A call with `training=True` is what `fit` makes.
    """
    x = np.array([[1.0], [3.0]], "float32")

    def moved(build: Callable) -> bool:
        bn = keras.layers.BatchNormalization(name="asked_bn")
        inputs = keras.Input((1,), name="asked_input")
        model = keras.Model(inputs, build(bn)(inputs, training=False), name="asked")
        model(x, training=True)
        return bool(np.any(bn.moving_mean.numpy()))

    def functional(bn: BN) -> keras.Model:
        inputs = keras.Input((1,), name="asked_inner_input")
        return keras.Model(inputs, bn(inputs), name="asked_inner")

    def sequential(bn: BN) -> keras.Model:
        return keras.Sequential([keras.Input((1,), name="asked_input"), bn], name="asked_inner")

    return not any(moved(build) for build in (lambda bn: bn, functional, sequential))
