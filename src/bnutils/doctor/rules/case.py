"""What the rules know of the model under audit, each thing worked out at most once."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Real
from typing import Any

import numpy as np

from bnutils._keras import keras
from bnutils.doctor import kinds
from bnutils.doctor.batches import Batches, batches, mapped, positive_integer
from bnutils.doctor.dry_run import DryRun, dry_run
from bnutils.doctor.graph import BN, Call, joined, walk
from bnutils.doctor.rules import flow
from bnutils.doctor.rules.alone import Alone, alone
from bnutils.doctor.rules.modes import Modes
from bnutils.doctor.rules.origin import is_initial, retouched, values
from bnutils.doctor.rules.runs import Runs
from bnutils.doctor.subject import Subject
from bnutils.doctor.words import cause, count, listing

__all__ = ["BN", "Case", "values"]


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
        runs: the model run on a sample of the data; None without data.
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
        self.subject = subject
        self._alone = {}
        self.model = model = subject.model
        self.train_size = None if train_size is None else positive_integer(train_size, "train_size")
        self.batch_size = None if batch_size is None else positive_integer(batch_size)
        self.layers = subject.layers
        self.runs = None
        self.large = False
        source = None if data is None else batches(data, model=model)
        first = None if source is None else source.first()[0]
        if subject.has_call:
            self.graph = walk(model, first)
        else:
            self.graph = joined({subject.path(part): walk(part) for part in subject.parts.values()})
        self.bn_calls = [
            call for call in self.graph.calls if any(call.layer is bn for bn in self.layers)
        ]
        self._few = None if source is None else source.first()
        if source is not None and self.layers and subject.has_call:
            self._draw(source, keras.tree.flatten(first)[0].shape)

    def _draw(self, source: Batches, shape: Sequence[int]) -> None:
        """Take a sample of the data, as large as the model allows in a second or two."""
        work, largest = self._load(shape)
        wanted = max(LEAST_ROWS, min(ROWS, int(min(WORK / work, VALUES / largest))))
        self.large = wanted == LEAST_ROWS
        sample = source.sample(wanted, self.batch_size)
        if not sample.shuffled and self.batch_size is None:
            self.batch_size = max(sample.sizes)  # data that come in batches come so for fit too
        self.runs = Runs(self.subject, sample, self.learners)

    @property
    def rows(self) -> int | None:
        """How many rows of the data are used; None without data."""
        return None if self.runs is None else self.runs.sample.rows

    @property
    def rows_are_the_first(self) -> bool:
        """Whether these are the beginning of longer data."""
        return self.runs is not None and self.runs.sample.the_first

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

    def places(self, layers: Iterable[keras.Layer]) -> Iterator[tuple[str, str, list[keras.Layer]]]:
        """(path, names, layers) for all layers that stand in one place."""
        for parent, together in self.by_parent(layers).items():
            names = f"{count(len(together), 'layer')} ({listing(map(self.path, together))})"
            yield self.path(together[0]) if len(together) == 1 else parent, names, together

    # What is known without running the model

    def follows_batch(self, call: Call) -> bool:
        """Whether `fit` lets this call of a batch normalization layer follow the batch."""
        fixed = call.training is False
        obeyed = fixed and (not call.recorded or self.keras_obeys_recorded_training)
        return call.layer.trainable and not obeyed and self.alone(call.layer).learns

    def alone(self, layer: BN) -> Alone:
        """What a layer by itself makes of the argument `training`."""
        if layer not in self._alone:
            self._alone[layer] = alone(layer)
        return self._alone[layer]

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

    def old_share(self, layer: BN) -> float:
        """How much values from before training still weigh in the moving statistics of a layer.

        By the optimizer's counter; 0 if that tells nothing.
        """
        momentum = momentum_of(layer)
        return momentum**self.updates if self.updates and 0 <= momentum <= 1 else 0.0

    @property
    def averages_weights(self) -> bool:
        """Whether the optimizer keeps an average of the weights, which takes their place."""
        # Wrappers of other packages do it too, under names such as SWA and MovingAverage.
        name = type(self.optimizer).__name__.lower()
        wrapped = any(part in name for part in ("swa", "averag", "lookahead"))
        return wrapped or bool(getattr(self.optimizer, "use_ema", False))

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
        # Without the axes of wrappers: TimeDistributed calls the layer for each step by itself.
        shape = calls[0].inputs[0].shape if calls else ()
        sizes = [None, *shape[len(shape) - layer.input_spec.ndim + 1 :]] if calls else [None, None]
        del sizes[flow.parameter_axis(layer)]
        if None not in sizes[1:]:
            return int(np.prod(sizes[1:]))
        if layer in self.moments:
            return int(self.moments[layer][0].count.min() / self.rows)
        return None

    def dropout_before(self, layer: BN) -> list[Call]:
        """The calls of dropout whose noise reaches a layer with its variance not yet reset."""

        def open_way(call: Call) -> bool:
            return not flow.normalizes(call) and flow.activation(call) not in kinds.SQUASHING

        found = {}
        for call in self.graph.of(layer):
            for each in flow.upstream(self.graph, call.inputs[0], open_way):
                if flow.is_dropout(each):
                    found[each] = None
        return list(found)

    def scaled_before(self, layer: BN) -> bool:
        """Whether weights, not the inputs, set the scale of what reaches a layer.

        So it is behind another batch normalization layer, and behind an embedding.
        """
        return any(
            flow.is_bn(each) or kinds.nearest(each.layer).role == "embedding"
            for call in self.graph.of(layer)
            for each in flow.upstream(self.graph, call.inputs[0])
        )

    def learns(self, layer: BN) -> bool:
        """Whether `fit` lets the layer follow the batch."""
        calls = self.graph.of(layer)
        if calls:
            return any(map(self.follows_batch, calls))
        return layer.trainable and self.alone(layer).learns

    def fresh(self, layer: BN) -> bool:
        """Whether the moving statistics are exactly those of a new layer."""
        pairs = (
            (layer.moving_mean, layer.moving_mean_initializer),
            (layer.moving_variance, layer.moving_variance_initializer),
        )
        return all(is_initial(variable, initializer) for variable, initializer in pairs)

    def trained(self, layer: BN) -> bool:
        """Whether gamma or beta of a layer are not those of a new layer."""
        return any(
            variable is not None and is_initial(variable, initializer) is False
            for variable, initializer in (
                (layer.gamma, layer.gamma_initializer),
                (layer.beta, layer.beta_initializer),
            )
        )

    def neighbors(self, layer: BN) -> tuple[list[keras.Layer], list[keras.Layer]]:
        """The nearest layers with a kernel before and after a layer."""

        def open_way(call: Call) -> bool:
            return not flow.has_weights(call)

        before, after = [], []
        for call in self.graph.of(layer):
            behind = flow.upstream(self.graph, call.inputs[0], open_way)
            before += [each.layer for each in behind if flow.has_weights(each)]
            ahead = flow.downstream(self.graph, call.outputs[0], open_way)
            after += [each.layer for each in ahead if flow.has_weights(each)]
        return before, after

    def amid_trained(self, layer: BN) -> list[keras.Layer]:
        """The layers around a layer if all of them, before and after, have surely been trained.

        A new head has trained layers before it alone, and a new stem behind it alone.
        """
        before, after = self.neighbors(layer)
        around = list(dict.fromkeys([*before, *after]))
        return around if before and after and all(map(retouched, around)) else []

    # What running the model shows

    @functools.cached_property
    def _tried(self) -> tuple[DryRun | None, str | None]:
        try:
            return dry_run(self.subject, self.few), None
        except Exception as error:  # whatever a foreign train_step raises
            return None, f"no training step could be tried: {cause(error)}"

    @property
    def few(self) -> Any:
        """The data for a training step, as many rows as it should have; None if there are none."""
        data = self._few if self.runs is None else (self.runs.sample.x, self.runs.sample.y)
        rows = 2 if self.large else LEAST_ROWS
        return None if data is None else mapped(lambda leaf: leaf[:rows], data)

    @property
    def dry(self) -> DryRun:
        """What one training step would change."""
        return self._tried[0]

    @property
    def dry_failure(self) -> str | None:
        """Why no training step could be tried; None if one was."""
        return self._tried[1]

    @property
    def unreached(self) -> tuple:
        """The layers whose inputs the data do not show, with the reason."""
        if self.runs is None or not self.subject.built:
            return ()
        return self.runs.probe.unreached(self.runs.sample.x)

    @property
    def moments(self) -> dict:
        """For each layer the moments of its calls, all rows in one batch; empty without data."""
        return {} if self.runs is None else self.runs.pooled.moments

    @functools.cached_property
    def modes(self) -> Modes:
        """The outputs in both modes, compared; only with data."""
        return Modes(self.model, self.runs, assumed=self.batch_size is None)

    def noisy_inputs(self, layer: BN) -> bool:
        """Whether what reaches a layer in `fit` is changed at random on its way."""
        return any(
            kinds.noise(each.layer)
            for call in self.graph.of(layer)
            for each in flow.upstream(self.graph, call.inputs[0])
        )


def _kernels(layer: keras.Layer) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in layer.weights if len(weight.shape) > 1]


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


def setting(given: Any) -> float:
    """A setting of a layer as a number; NaN if it is none, as after a config was edited."""
    try:
        return float(given) if isinstance(given, Real) else math.nan
    except OverflowError:  # a whole number
        return math.inf


def momentum_of(layer: BN) -> float:
    """The weight of the past in a layer's moving statistics; NaN where it is no such weight."""
    momentum = setting(layer.momentum)
    return momentum if 0 <= momentum <= 1 else math.nan
