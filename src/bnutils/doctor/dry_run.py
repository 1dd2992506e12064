"""One training step, looked at and undone: what would `fit` train, and which BN would learn?

Flags do not tell. `fit` keeps the decision it made when it traced its train function, whatever
`trainable` says since. So the step is taken as `fit` would take it, and everything is put back.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np

from bnutils._keras import (
    cheap_kernel_gradient,
    keras,
    made_to_train,
    one_replica,
    plain_functions,
    prepare_step,
    replicas,
    tf,
    traced_form,
    traced_steps,
    written_by,
)
from bnutils.doctor.batches import batches, described
from bnutils.doctor.drawing import NothingToDrawError, call, draw_inputs, draw_like, with_target
from bnutils.doctor.restoring import put_back_attributes, put_back_values, restored, swap
from bnutils.doctor.subject import Subject, statistics_of
from bnutils.doctor.words import cause

__all__ = ["DryRun", "LayerStep", "WeightStep", "dry_run"]

tree = keras.tree
#: What Keras and TensorFlow raise on data that do not suit.
_UNSUITED = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    NotImplementedError,
    tf.errors.InvalidArgumentError,
    tf.errors.UnimplementedError,
)
_ROWS = 8  # of the data that are given: a large model needs seconds for more


@dataclass(frozen=True)
class LayerStep:
    """What one training step changes in one batch normalization layer.

    Attributes:
        layer: the layer.
        path: its path in the model, such as "base/block1/bn".
        statistics_moved: whether its moving statistics change.
        statistics_written: whether they are assigned to, with the same value or another: those
            that are NaN, or have a momentum of 1, are written but do not move.
        gamma_moved: whether the step trains gamma; None if the layer has none.
        beta_moved: whether the step trains beta; None if the layer has none.
    """

    layer: keras.layers.BatchNormalization
    path: str
    statistics_moved: bool
    statistics_written: bool
    gamma_moved: bool | None
    beta_moved: bool | None

    @property
    def learns(self) -> bool:
        """Whether anything in the layer changes."""
        return bool(self.statistics_moved or self.gamma_moved or self.beta_moved)


@dataclass(frozen=True)
class WeightStep:
    """What one training step does to one weight that was made to be trained.

    Attributes:
        layer: the innermost layer that holds it.
        path: the path of that layer.
        variable: the weight.
        trainable: whether the flags of now let the model train it.
        trained: whether the step trains it. In a traced step the flags of the day of tracing
            decide.
        connected: False if the step hands it to the optimizer without a gradient, since the loss
            does not depend on it; None where that cannot be seen: only in a "train_step".
        assigned: whether the step assigns to it itself, as to the average of other weights.
    """

    layer: keras.Layer
    path: str
    variable: keras.Variable
    trainable: bool
    trained: bool
    connected: bool | None
    assigned: bool


@dataclass(frozen=True)
class DryRun:
    """What one training step would change in a model.

    Attributes:
        step: which step was taken: "traced", the one that `fit` had traced, with the flags of that
            day; "train_step" of the compiled model; or "forward", a call in training mode that
            stands in for it: then the flags tell what would train.
        reason: why "forward" stands in; None for the others.
        layers: one record for each batch normalization layer, in the order of the model.
        weights: one record for each weight of the model that was made to be trained.
        learning_rate: that of the model's own optimizer now; None if there is none to ask.
        inference: paths of the batch normalization layers to which `predict` or `evaluate` would
            assign; None if that was not asked for, or could not be tried.
        inference_failure: why it could not be tried.
    """

    step: Literal["traced", "train_step", "forward"]
    reason: str | None
    layers: tuple[LayerStep, ...]
    weights: tuple[WeightStep, ...]
    learning_rate: float | None
    inference: tuple[str, ...] | None = None
    inference_failure: str | None = None

    @property
    def how(self) -> str:
        """Which step was taken, in words."""
        return {
            "traced": "train_step of the compiled model, as fit has traced it",
            "train_step": "train_step of the compiled model",
            "forward": f"a call in training mode, since {self.reason}",
        }[self.step]

    @property
    def traced(self) -> bool:
        """Whether it is the step that `fit` had traced."""
        return self.step == "traced"

    @property
    def learning(self) -> tuple[LayerStep, ...]:
        """The records of the batch normalization layers in which something changes."""
        return tuple(step for step in self.layers if step.learns)

    @cached_property
    def trained(self) -> frozenset[int]:
        """The ids of the weights that the step trains."""
        return frozenset(id(step.variable) for step in self.weights if step.trained)

    @property
    def disobeyed(self) -> tuple[WeightStep, ...]:
        """The weights that the flags of now freeze, and that the step trains all the same."""
        return tuple(step for step in self.weights if step.trained and not step.trainable)

    @property
    def left_out(self) -> tuple[WeightStep, ...]:
        """The weights that the flags of now let train, and that the step does not train."""
        return tuple(step for step in self.weights if step.trainable and not step.trained)


def dry_run(
    subject: Subject, data: Any = None, *, anew: bool = False, inference: bool = False
) -> DryRun:
    """Find out what the next training step would change in a model.

    The step is the one that the next `fit` would take:

    - If `fit` has already run, its traced train function runs. It still holds the `trainable`
      flags of the day it was traced. With several traces (`fit` and `train_on_batch`, say), all
      of them run, and what one of them changes counts as changed.
    - If the model is compiled and nothing is traced yet, its own `train_step` runs, with an
      optimizer that notes what it is asked to train instead of training it. That is what a model
      without a `call` needs, too.
    - If the model is not compiled, or no target is known for its loss, a call with
      `training=True` stands in, and the flags tell what would train.

    A weight counts as trained when the step hands it to the optimizer with a gradient, or its
    graph writes to it. A learning rate of 0 in a warm-up, a gradient that happens to be 0 or an
    update that waits for more gradients does not hide it. The moving statistics count as moved
    when their values change.

    Afterwards weights, optimizer, metrics, random states and compilation are what they were, bit
    for bit, after an exception too. A model that is not built yet stays built, as after a call.
    Random numbers from `tf.random.normal` and the like, which keep their state out of reach, and
    counters that a custom `train_step` keeps inside other objects are the exceptions.

    Args:
        subject: the model, compiled or not.
        data: inputs, or `(x, y)`, in any form that `bnutils.doctor.batches.batches` takes. The
            first 8 rows of the first batch are used. None draws inputs at random in the form of
            what is traced or from the input shapes of the model, and targets of the form that the
            loss accepts; so does a traced step that was traced for data of another form.
        anew: take the step that `fit` would take if it traced it now.
        inference: look at `predict` and `evaluate` too.

    Returns:
        A `DryRun`.

    Raises:
        ValueError: if inputs are needed and cannot be drawn (the model is not built, or takes
            strings), if the data are not what they should be, if the model rejects them or
            those that were drawn, or if it has no `call` and its `train_step` cannot be tried.
            Other errors of a model on data that were given pass through.

    Example:
        >>> from keras import Input, Sequential, layers
        >>> model = Sequential([Input((4,)), layers.BatchNormalization(name="bn")])
        >>> model.compile("adam", "mse")
        >>> dry_run(Subject(model)).learning[0].path
        'bn'
        >>> model.get_layer("bn").trainable = False
        >>> dry_run(Subject(model)).learning
        ()
    """
    model = subject.model
    x, y = _few_rows(data, subject)
    with restored() as undo:
        _hush(undo)
        swap(undo, *cheap_kernel_gradient())
        with model.distribute_strategy.scope():
            try:
                if subject.has_call:
                    _build(subject, x)
                return _Trial(subject, x, y, anew, undo).run(inference)
            except NothingToDrawError as error:
                raise ValueError(str(error)) from error.__cause__
            except Exception as error:
                if not subject.has_call:
                    raise ValueError(str(_no_step(subject, cause(error)))) from error
                if x is None:
                    raise ValueError(
                        f"expected inputs x and targets y, since {model.name!r} does not take the "
                        f"random ones that were drawn for it ({cause(error)})"
                    ) from error
                if not isinstance(error, _UNSUITED):
                    raise
                targets = "" if y is None else f" and targets, {described(y)}"
                raise ValueError(
                    f"expected data that a training step of {model.name!r} takes, got inputs, "
                    f"{described(x)}{targets}: {cause(error)}"
                ) from error


def _no_step(subject: Subject, reason: str) -> NothingToDrawError:
    """What to say of a model without `call` whose training step cannot be tried."""
    parts = " or ".join(subject.parts)
    instead = f". Or give {parts}, and compile the model anew afterwards" if parts else ""
    return NothingToDrawError(
        f"expected a compiled model and data as fit gets them, since {subject.model.name!r} has no "
        f"call method and its train_step has to be tried ({reason}){instead}"
    )


def _hush(undo: Callable) -> None:
    """Keep back what Keras and TensorFlow would remark in `fit`; this is not `fit`."""
    logger = tf.get_logger()
    undo(logger.setLevel, logger.level)
    logger.setLevel("ERROR")
    filters = ExitStack()
    undo(filters.close)
    filters.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore")


def _few_rows(data: Any, subject: Subject) -> tuple[Any, Any]:
    """Cut inputs and targets to a few rows, in the dtypes in which `fit` hands them on."""

    def cut(leaf: Any) -> tf.Tensor | None:
        if leaf is None:
            return None
        leaf = leaf[:_ROWS]
        if isinstance(leaf, np.ndarray):
            leaf = leaf.astype(keras.config.floatx()) if leaf.dtype.kind == "f" else leaf
        return tf.convert_to_tensor(leaf)

    if data is None:
        return None, None
    found = batches(data, model=subject.model)
    if subject.has_call or found.rows is not None:  # these are arrays
        return tuple(tree.map_structure(cut, part) for part in found.first())
    return tree.map_structure(cut, found.unchecked()), None


def _build(subject: Subject, x: Any = None) -> None:
    """Create the variables of a model, as its first call would, without computing anything.

    Args:
        subject: the model; one that is built is left alone.
        x: a batch of inputs.

    Raises:
        ValueError: if the model is not built and `x` is None.
    """
    if subject.built:
        return
    model = subject.model
    if x is None and not model.built:
        raise NothingToDrawError(
            f"expected inputs x, since {model.name!r} is not built and its input shapes are not "
            "known"
        )
    x = draw_inputs(model) if x is None else x
    tf.function(lambda x: call(model, x, training=False)).get_concrete_function(x)
    subject.forget()


class _Recorder(keras.optimizers.Optimizer):
    """An optimizer that tells which variables it is to train, and leaves them alone."""

    def __init__(self, tell: Callable[[Any, bool], None]) -> None:
        super().__init__(learning_rate=0.0, name="recorder")
        self.tell = tell

    def apply(self, grads: Sequence, trainable_variables: Sequence | None = None) -> None:
        """Note the variables, and whether each comes with a gradient."""
        variables = (
            self._trainable_variables if trainable_variables is None else trainable_variables
        )
        for gradient, variable in zip(grads, variables, strict=True):
            self.tell(variable, gradient is not None)


class _Trial:
    """One training step on a model, in a context that puts everything back."""

    def __init__(self, subject: Subject, x: Any, y: Any, anew: bool, undo: Callable) -> None:
        self.subject = subject
        self.model = subject.model
        self.x, self.y = x, y
        self.data = None  # of the step that was taken, as train_step gets it
        self.handed = {}  # id of a variable -> the variable, and whether it came with a gradient
        self.rate = _learning_rate(self.model)
        traces = traced_steps(self.model)
        self.forms = list(map(traced_form, traces))
        self.traces = [] if anew else traces
        optimizers = list(subject.optimizers())
        put_back_attributes(undo, subject)
        for layer in subject.holders:
            for name, function in plain_functions(layer).items():
                swap(undo, layer, name, function)
        for holder, name, _ in optimizers:
            swap(undo, holder, name, self._recording(vars(holder)[name]))
        if not subject.built:  # it has no call
            data = next(self._data())
            tf.function(self.model.train_step).get_concrete_function(data)
            subject.forget()
        kept = [*(each for _, _, each in optimizers), *traces]
        self.before = put_back_values(undo, subject, kept)
        self.assigned = _assigned(undo, [v for _, v in subject.weights])

    def run(self, inference: bool) -> DryRun:
        """Take the step, and look at inference too if that is asked for."""
        if self.traces:
            run = self._run_traces()
        elif self.model.compiled:
            run = self._run_train_step()
        else:
            run = self._run_forward("the model is not compiled")
        return replace(run, **self._inference()) if inference else run

    def _report(self, step: str, take: Callable[[], tuple], reason: str | None = None) -> DryRun:
        """Take a step and compare.

        Args:
            step: see `DryRun`.
            take: takes it, and returns functions of a variable: does the step train it, does the
                loss depend on it, does the step assign to it?
            reason: see `DryRun`.
        """
        subject = self.subject
        trains, connected, assigns = take()
        trainable = set(map(id, self.model.trainable_variables))
        made = {id(v) for each in subject.holders for v in made_to_train(each)}
        layers = tuple(
            LayerStep(
                layer,
                subject.path(layer),
                any(map(self._moved, statistics_of(layer))),
                any(assigns(v) or self._moved(v) for v in statistics_of(layer)),
                None if layer.gamma is None else trains(layer.gamma),
                None if layer.beta is None else trains(layer.beta),
            )
            for layer in subject.layers
        )
        weights = tuple(
            WeightStep(
                layer,
                subject.path(layer),
                variable,
                id(variable) in trainable,
                trains(variable),
                connected(variable),
                assigns(variable),
            )
            for layer, variable in subject.weights
            if id(variable) in made
        )
        return DryRun(step, reason, layers, weights, self.rate)

    def _data(self) -> Iterator[Any]:
        """Data for a step that is traced for the occasion, the likeliest first."""
        pack = keras.utils.pack_x_y_sample_weight
        if self.y is not None:
            yield pack(self.x, self.y)
        elif self.x is not None and not self.subject.has_call:
            yield self.x
        elif self.x is None and self.forms:
            yield from (self._in_form(form, fixed=not self.subject.has_call) for form in self.forms)
        if self.y is None and self.subject.has_call:
            x = draw_inputs(self.model) if self.x is None else self.x
            yield from (pack(*data) for data in with_target(self.model, x))
        elif self.x is None and not self.forms:
            raise _no_step(self.subject, "no data were given")

    def _in_form(self, form: Any, fixed: bool = True) -> Any:
        """The given data in the form of a traced step; drawn ones, if they have another."""
        rows = 2 if self.x is None else tree.flatten(self.x)[0].shape[0]
        as_it_comes = self.y is None and not self.subject.has_call
        if isinstance(form, tuple) and len(form) <= 3 and not as_it_comes:
            given = (self.x, self.y, None)[: len(form)]
            pairs = zip(form, given, strict=True)
            return tuple(draw_like(part, each, rows, fixed) for part, each in pairs)
        return draw_like(form, self.x, rows, fixed)

    def _run_traces(self) -> DryRun:
        """Take the steps that `fit` has traced."""
        if self.x is None and getattr(self.model, "inputs", None):
            self.x = draw_inputs(self.model)
        strategy = self.model.distribute_strategy

        def spread(value: Any, spec: Any) -> Any:
            """The same rows for each replica."""
            if one_replica(spec) is spec:
                return value
            return strategy.experimental_distribute_values_from_function(lambda _: value)

        def take() -> tuple:
            written = set()
            for trace, form in zip(self.traces, self.forms, strict=True):
                self.data = self._in_form(form)
                values = map(spread, tree.flatten(self.data), tree.flatten(form))
                trace(tree.pack_sequence_as(form, list(values)))
                written |= written_by(trace)

            def assigns(variable: keras.Variable) -> bool:
                return any(id(part.handle) in written for part in replicas(variable))

            return assigns, lambda variable: None, assigns

        return self._report("traced", take)

    def _run_train_step(self) -> DryRun:
        """Take a step with a fresh train function; optimizers, loss and metrics stay aside."""

        def take(data: Any) -> tuple:
            def run(eagerly: bool) -> None:
                prepare_step(self.model, data, eagerly)
                self.model.train_function(iter([data]))

            self.data = data
            return self._taken(run)

        for data in self._data():
            try:
                return self._report("train_step", partial(take, data))
            except Exception:
                if self.y is not None or not self.subject.has_call:
                    raise
                self._rewind()  # a target of another form may suit this train_step
        return self._run_forward("no target was given and none is known for its loss")

    def _run_forward(self, reason: str) -> DryRun:
        """Only call the model in training mode. A gradient that nobody needs can be expensive."""
        model = self.model
        if not self.subject.has_call:
            raise _no_step(self.subject, reason)
        x = draw_inputs(model) if self.x is None else self.x
        self.data = keras.utils.pack_x_y_sample_weight(x)

        def forward(x: Any) -> None:
            call(model, x, True)
            for variable in model.trainable_variables:
                self._note(variable, None)

        def run(eagerly: bool) -> None:
            take = partial(model.distribute_strategy.run, forward, (x,))
            take() if eagerly else tf.function(take)()

        return self._report("forward", lambda: self._taken(run), reason)

    def _recording(self, held: Any) -> Any:
        """Recorders in the place of the optimizers in an attribute."""
        if isinstance(held, dict):
            return {key: self._recording(each) for key, each in held.items()}
        if isinstance(held, list | tuple):
            return [self._recording(each) for each in held]
        return _Recorder(self._note) if isinstance(held, keras.optimizers.Optimizer) else held

    def _note(self, variable: Any, connected: bool | None) -> None:
        before = self.handed.get(id(variable), (variable, False))[1]
        self.handed[id(variable)] = variable, before or connected

    def _taken(self, run: Callable[[bool], None]) -> tuple:
        """Run a step and tell what it handed to the optimizers; see `_report`.

        It runs eagerly, since tracing a graph for one step takes far longer than the step; as a
        graph, as `fit` has it, where that fails or several devices share the step.
        """
        eagerly = self.model.distribute_strategy.num_replicas_in_sync == 1
        try:
            run(eagerly)
        except Exception:
            if not eagerly:
                raise
            self._rewind()
            run(False)

        def connected(variable: keras.Variable) -> bool | None:
            for each in (variable, variable.value):
                if id(each) in self.handed:
                    return self.handed[id(each)][1]
            return None

        def assigns(variable: keras.Variable) -> bool:
            return id(variable) in self.assigned

        def trains(variable: keras.Variable) -> bool:
            handed = any(id(each) in self.handed for each in (variable, variable.value))
            # What moves was trained by an optimizer that is kept out of sight, and not replaced.
            return (handed and connected(variable) is not False) or self._moved(variable)

        return trains, connected, assigns

    def _moved(self, variable: keras.Variable) -> bool:
        """Whether a variable has another value than before the step."""
        pairs = [self.before[id(part)] for part in replicas(variable) if id(part) in self.before]
        return any(part.numpy().tobytes() != value.numpy().tobytes() for part, value in pairs)

    def _rewind(self) -> None:
        """Undo a try that failed on its way."""
        self.handed.clear()
        self.assigned.clear()
        for part, value in self.before.values():
            part.assign(value)

    def _inference(self) -> dict:
        """Which layers `predict` and `evaluate` assign to, by their steps; fields of `DryRun`."""
        model, steps = self.model, []
        if self.subject.has_call:
            x = keras.utils.unpack_x_y_sample_weight(self.data)[0]
            steps.append((model.predict_step, keras.utils.pack_x_y_sample_weight(x)))
        if model.compiled and (steps or type(model).test_step is not keras.Model.test_step):
            steps.append((model.test_step, self.data))
        if not steps:
            return {"inference_failure": "it has no call method and no test_step"}
        self.assigned.clear()
        try:
            for step, data in steps:
                model.distribute_strategy.run(step, (data,))
        except Exception as error:
            return {"inference_failure": cause(error)}
        moved = [
            self.subject.path(layer)
            for layer in self.subject.layers
            if any(id(variable) in self.assigned for variable in statistics_of(layer))
        ]
        return {"inference": tuple(moved)}


def _assigned(undo: Callable, variables: Iterable[keras.Variable]) -> set[int]:
    """A set in which the ids of those variables appear that Python code assigns to from now on."""
    found = set()

    def noting(variable: keras.Variable) -> Callable:
        assign = variable.assign

        def noted(value: Any) -> Any:
            found.add(id(variable))
            return assign(value)

        return noted

    for variable in variables:
        swap(undo, variable, "assign", noting(variable))
    return found


def _learning_rate(model: keras.Model) -> float | None:
    try:
        return float(model.optimizer.learning_rate)
    except (AttributeError, TypeError, ValueError):
        return None
