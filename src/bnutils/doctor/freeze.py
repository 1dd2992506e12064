"""Freeze batch normalization so that Keras obeys, and prove it; and undo it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from weakref import WeakKeyDictionary

from bnutils._keras import (
    STEP_FUNCTIONS,
    keras,
    known_variables,
    note_flags,
    optimizer_attributes,
    rebuild_optimizer,
    trace_anew,
)
from bnutils.doctor.dry_run import DryRun, LayerStep, dry_run
from bnutils.doctor.graph import layer_paths
from bnutils.doctor.restoring import LOCK, restored
from bnutils.doctor.results import NOT_PLAIN, Result, Skipped, skipped_lines
from bnutils.doctor.subject import Subject
from bnutils.doctor.words import count, listing

__all__ = ["Freezing", "freeze_bn", "unfreeze_bn"]

# What unfreeze_bn needs to know. It lives as long as the model and is never saved with it.
_flags_before: WeakKeyDictionary = WeakKeyDictionary()  # model -> {BN layer: its flags}
_slots_before: WeakKeyDictionary = WeakKeyDictionary()  # optimizer -> state of frozen variables


@dataclass(frozen=True, repr=False)
class Freezing(Result):
    """What `freeze_bn` or `unfreeze_bn` did, and how it was proved.

    Attributes:
        model: the model that was given, changed in place.
        name: its name.
        action: "freeze" or "unfreeze".
        frozen: paths of the batch normalization layers that say trainable=False now.
        learned_before: paths of those in which the next step of `fit` would have changed
            something before.
        learning: paths of those in which it changes something now.
        step: which step was taken as proof; see `DryRun`.
        how: the same in words.
        inference: whether `predict` and `evaluate` were tried too, and left the statistics still.
        other_weights_training: how many weights outside of batch normalization the step trains.
        retraced: paths of the models whose `fit`, `evaluate` or `predict` had traced its step, and
            will trace it anew, with the flags of now; "" is the model itself.
        skipped: what was left undone, and why.
    """

    model: keras.Model = field(metadata=NOT_PLAIN)
    name: str
    action: Literal["freeze", "unfreeze"]
    frozen: tuple[str, ...]
    learned_before: tuple[str, ...]
    learning: tuple[str, ...]
    step: str
    how: str
    inference: bool
    other_weights_training: int
    retraced: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()

    def _shown(self) -> Iterator[str]:
        if self.action == "freeze":
            layers = count(len(self.frozen), "batch normalization layer")
            learned = len(self.learned_before)
            yield f"Froze {layers} of {self.name}: {learned} learned before, none does now."
        else:
            layers = count(len(self.learning), "batch normalization layer")
            yield f"{layers} of {self.name} can learn now: {listing(self.learning)}."
        also = "; predict and evaluate leave the statistics alone too" if self.inference else ""
        yield f"Tried: {self.how}{also}."
        if not self.other_weights_training:
            yield "Outside of batch normalization nothing trains."
        if self.retraced:
            names = listing(path or "the model" for path in self.retraced)
            yield f"Traced anew, with the flags of now: fit, evaluate and predict of {names}."
        yield f"To go back: {'unfreeze_bn' if self.action == 'freeze' else 'freeze_bn'}(model)."
        yield from skipped_lines(self.skipped)


def freeze_bn(model: keras.Model, data: Any = None) -> Freezing:
    """Freeze every batch normalization layer of a model, and prove that none learns any more.

    Each layer, however deep, gets `trainable=False`: then Keras normalizes with the moving
    statistics in `fit` too, and leaves statistics, gamma and beta alone. `training=False`, which
    Keras up to 3.15 does not obey in Functional models, is not needed, and a `training=True` that
    is fixed in a call does no harm any more. The flags of all other layers stay as they are.

    A compiled model stays compiled, with the same optimizer, loss and metrics. Only the traced
    functions of `fit`, `evaluate` and `predict` are dropped, which hold the old flags, those of
    models inside it too, so that they are traced anew. The optimizer keeps its learning rate,
    iterations and the state of every other variable, bit for bit; the state of the frozen ones is
    set aside for `unfreeze_bn`. A training step, an evaluation and a prediction, all undone, are
    the proof. Out of reach is what holds the model from outside: another model around it that has
    been trained, or a `tf.function` of your own, goes on with the flags of the day it was traced.

    Args:
        model: a Keras model, compiled or not. One without a `call` of its own, that is trained by
            its `train_step`, must be compiled.
        data: inputs, or `(x, y)`, for the proof, in any form that
            `bnutils.doctor.batches.batches` takes; a few rows are used. None draws them.

    Returns:
        A `Freezing`; its `model` is the model that was given.

    Raises:
        ValueError: if the model has no batch normalization layer, the data are not what they
            should be, or the proof needs data that cannot be drawn.
        RuntimeError: if a layer still learns. The message names it and says what to do.
            Whatever is raised, the model is left as it was.

    Example:
        >>> from keras import Input, Sequential, layers
        >>> bn = layers.BatchNormalization(name="bn")
        >>> model = Sequential([Input((4,)), bn, layers.Dense(1)])
        >>> model.compile("adam", "mse")
        >>> freeze_bn(model).learning
        ()
        >>> [v.name for v in model.trainable_variables]
        ['kernel', 'bias']
        >>> unfreeze_bn(model).learning
        ('bn',)
    """
    with LOCK, restored(keep=True) as undo:
        subject, before = _examined(model, data)
        _note(undo, subject)
        flags = {layer: _flags(layer) for layer in subject.layers}
        for layer in subject.layers:
            layer.trainable = False
        now = dry_run(subject, data, anew=True, inference=True)
        learning = [step for step in now.layers if step.learns or step.statistics_written]
        if learning or now.inference:
            raise RuntimeError(_still_learning(learning, now.inference or ()))
        retraced = _drop_traces(undo, subject)
        known = _flags_before.setdefault(model, WeakKeyDictionary())
        for layer in subject.layers:
            # A second call must not take the frozen state for the one to go back to.
            if layer not in known or flags[layer][layer][0]:
                known[layer] = flags[layer]
        return _freezing("freeze", subject, before, now, retraced)


def unfreeze_bn(model: keras.Model, data: Any = None) -> Freezing:
    """Undo `freeze_bn`, and prove that batch normalization learns again.

    Each layer gets back the `trainable` that it had before `freeze_bn`; one that was frozen then
    stays frozen. This is remembered with the model in memory, not in its file: of a model that was
    saved and loaded since, or frozen in another way, all batch normalization layers become
    trainable.

    As in `freeze_bn`, the model stays compiled, and an optimizer that was built while the layers
    were frozen learns to know their gamma and beta: its state for them is what was set aside, or
    else starts afresh. Everything else in it is kept, bit for bit.

    Args:
        model: as for `freeze_bn`.
        data: as for `freeze_bn`.

    Returns:
        A `Freezing`; its `skipped` names the layers that were frozen before `freeze_bn` too.

    Raises:
        ValueError: as `freeze_bn`.
        RuntimeError: if a layer that is trainable again does not learn, or an optimizer cannot be
            taught new variables. Whatever is raised, the model is left as it was.

    Example:
        See `freeze_bn`.
    """
    with LOCK, restored(keep=True) as undo:
        subject, before = _examined(model, data)
        _note(undo, subject)
        known = _flags_before.get(model, {})
        for layer in subject.layers:
            if layer in known:
                _set_flags(known[layer])
            else:
                layer.trainable = True
        now = dry_run(subject, data, anew=True)
        idle = [
            step.path
            for step in now.layers
            if step.layer.trainable and step.layer.built and not step.learns
        ]
        if idle:
            raise RuntimeError(
                f"{listing(map(repr, idle))} does not learn although trainable is True again: look "
                "for a call with training=False in a subclass, or a train_step that leaves its "
                "gamma and beta out. The model is as it was"
            )
        retraced = _drop_traces(undo, subject)
        _flags_before.pop(model, None)
        return _freezing("unfreeze", subject, before, now, retraced)


def _examined(model: keras.Model, data: Any) -> tuple[Subject, DryRun]:
    """The model, built, and what its next training step would change; nothing is changed."""
    subject = Subject(model)
    subject.require_batch_norm()
    before = dry_run(subject, data)
    subject.require_batch_norm()  # it may have been built just now
    return subject, before


def _freezing(
    action: Literal["freeze", "unfreeze"],
    subject: Subject,
    before: DryRun,
    now: DryRun,
    retraced: tuple[str, ...],
) -> Freezing:
    own = {id(v) for layer in subject.layers for v in layer.weights}
    skipped = []
    if now.inference_failure is not None:
        reason = f"not tried: {now.inference_failure}"
        skipped.append(Skipped("predict and evaluate", reason))
    if action == "unfreeze":
        reason = "frozen before freeze_bn too"
        skipped += [Skipped(step.path, reason) for step in now.layers if not step.layer.trainable]
    return Freezing(
        model=subject.model,
        name=subject.model.name,
        action=action,
        frozen=tuple(step.path for step in now.layers if not step.layer.trainable),
        learned_before=tuple(step.path for step in before.learning),
        learning=tuple(step.path for step in now.learning),
        step=now.step,
        how=now.how,
        inference=now.inference == (),
        other_weights_training=len(now.trained - own),
        retraced=retraced,
        skipped=tuple(skipped),
    )


def _still_learning(learning: Sequence[LayerStep], inference: Sequence[str]) -> str:
    statistics = {step.path: None for step in learning if step.statistics_written}
    statistics |= dict.fromkeys(inference)
    trained = [step.path for step in learning if step.gamma_moved or step.beta_moved]
    parts = ["Keras did not freeze batch normalization, and the model is as it was."]
    if statistics:
        parts.append(
            f"The moving statistics of {listing(map(repr, statistics))} still move with "
            "trainable=False: its own call updates them whatever trainable says. Let it ask "
            "`training and self.trainable`, as keras.layers.BatchNormalization does, or use that "
            "layer."
        )
    if trained:
        parts.append(
            f"gamma or beta of {listing(map(repr, trained))} is still trained: a custom train_step "
            "hands it to the optimizer. Let it use model.trainable_variables."
        )
    return " ".join(parts)


# The flags, and what holds them


def _flags(layer: keras.Layer) -> dict:
    """The `trainable` of a layer, of its sublayers, and of their variables."""
    return {
        part: (part.trainable, [(v, v.trainable) for v in part.variables])
        for part in [layer, *layer_paths(layer)]
    }


def _set_flags(flags: dict) -> None:
    for part, (trainable, _) in flags.items():
        part.trainable = trainable  # also sets everything below, which comes later
    for _, variables in flags.values():
        for variable, trainable in variables:
            variable.trainable = trainable


def _models(subject: Subject) -> list[keras.Model]:
    """The model and those inside it, each of which may be compiled and traced by itself."""
    return [each for each in subject.holders if isinstance(each, keras.Model)]


def _drop_traces(undo: Callable, subject: Subject) -> tuple[str, ...]:
    """Let `fit`, `evaluate` and `predict` trace anew, and the optimizers follow the flags.

    Returns:
        The paths of the models that had traced something.
    """
    retraced = []
    for layer in subject.holders:
        undo(trace_anew(layer))
    for model in _models(subject):
        for name in STEP_FUNCTIONS:
            if getattr(model, name) is not None:
                # A new one, since a `fit` that is under way calls what stands here.
                setattr(model, name, None)
                getattr(model, f"make_{name}")()
                retraced.append(subject.path(model))
        note_flags(model)
        _update_optimizer(Subject(model))
    return tuple(dict.fromkeys(retraced))


def _note(undo: Callable, subject: Subject) -> None:
    """Ask that everything is put back that freezing changes."""
    for layer in subject.layers:
        undo(_set_flags, _flags(layer))
    for model in _models(subject):
        kept = {
            name: vars(model).get(name) for name in (*STEP_FUNCTIONS, "_compiled_trainable_state")
        }
        undo(vars(model).update, {name: v for name, v in kept.items() if name in vars(model)})
    undo(_remember, _flags_before, subject.model, _copy(_flags_before.get(subject.model)))
    for _, _, optimizer in subject.optimizers():
        undo(_remember, _slots_before, optimizer, _copy(_slots_before.get(optimizer)))
        undo(optimizer_attributes(optimizer))


def _copy(memory: Any) -> Any:
    return None if memory is None else memory.copy()


def _remember(memory: WeakKeyDictionary, key: Any, value: Any) -> None:
    memory.pop(key, None)
    if value is not None:
        memory[key] = value


def _update_optimizer(subject: Subject) -> None:
    """Let the optimizer of a model know the variables that are trainable now, and no frozen BN.

    Keras takes a frozen variable in a built optimizer, but then the optimizer's state is lost when
    the model is saved and loaded, and with `use_ema` the averages go to the wrong variables. A
    variable that was frozen when the optimizer was built it refuses.
    """
    model = subject.model
    own = [v for layer in subject.layers for v in (layer.gamma, layer.beta) if v is not None]
    frozen = {id(v) for v in own if not v.trainable}
    kept = [optimizer for holder, _, optimizer in subject.optimizers() if holder is model]
    built = [optimizer for optimizer in kept if optimizer.built]
    if getattr(model, "optimizer", None) not in built:
        missing = {id(v) for v in own} - frozen
        missing -= {id(v) for optimizer in built for v in known_variables(optimizer)}
        if built and missing:
            names = [repr(v.path) for v in own if id(v) in missing]
            raise RuntimeError(
                f"{listing(names)} cannot be trained: none of the optimizers that this model keeps "
                "knows it. Compile the model anew with fresh optimizers. The model is as it was"
            )
        return
    known = known_variables(model.optimizer)
    wanted = {id(v) for v in [*known, *model.trainable_variables]} - frozen
    inside = {id(v) for v in model.variables}
    # The order in which load_model builds an optimizer.
    variables = [v for v in model.variables if id(v) in wanted]
    variables += [v for v in known if id(v) not in inside]
    if [id(v) for v in variables] != [id(v) for v in known]:
        with model.distribute_strategy.scope():
            rebuild_optimizer(
                model.optimizer, variables, _slots_before.setdefault(model.optimizer, {})
            )
