"""Freeze batch normalization so that Keras obeys, and prove it; and undo it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from bnutils._keras import keras
from bnutils.doctor.dry_run import LayerStep, build, dry_run, optimizers
from bnutils.doctor.graph import batch_norms, layer_paths

__all__ = ["freeze_bn", "unfreeze_bn"]

# What unfreeze_bn needs to know. It lives as long as the model and is never saved with it.
_flags_before: WeakKeyDictionary = WeakKeyDictionary()  # model -> {BN layer: its flags}
_slots_before: WeakKeyDictionary = WeakKeyDictionary()  # optimizer -> state of frozen variables


def freeze_bn(model: keras.Model, x: Any = None, y: Any = None) -> keras.Model:
    """Freeze every batch normalization layer of a model, and prove that none learns any more.

    Each layer, however deep, gets `trainable=False`: then Keras normalizes with the moving
    statistics in `fit` too, and leaves statistics, gamma and beta alone. `training=False`, which
    Keras up to 3.15 does not obey in Functional models, is not needed. The flags of all other
    layers stay as they are.

    A compiled model stays compiled, with the same optimizer, loss and metrics. Only the traced
    train function is dropped, which holds the old flags, so that the next `fit` traces a new one.
    The optimizer keeps its learning rate, iterations and the state of every other variable, bit
    for bit; the state of the frozen ones is set aside for `unfreeze_bn`. A dry run of one training
    step is the proof.

    Args:
        model: a Keras model, compiled or not.
        x: inputs for the dry run, as for `dry_run`. None draws them.
        y: targets for the dry run. None draws them.

    Returns:
        The same model.

    Raises:
        ValueError: if the model has no batch normalization layer, or the dry run needs `x` or `y`.
        RuntimeError: if a layer still learns. The message names it and says what to do.
            Whatever is raised, the model is left as it was.

    Example:
        >>> from keras import Input, Sequential, layers
        >>> model = Sequential([Input((4,)), layers.BatchNormalization(), layers.Dense(1)])
        >>> model.compile("adam", "mse")
        >>> [v.name for v in freeze_bn(model).trainable_variables]
        ['kernel', 'bias']
        >>> [v.name for v in unfreeze_bn(model).trainable_variables]
        ['gamma', 'beta', 'kernel', 'bias']
    """
    layers = _layers(model, x)
    flags = {layer: _flags(layer) for layer in layers}
    with _put_back_on_failure(model):
        for layer in layers:
            layer.trainable = False
        _forget_trace(model)
        _steer(model)
        learning = dry_run(model, x, y).learning
        if learning:
            raise RuntimeError(_still_learning(learning))
    known = _flags_before.setdefault(model, WeakKeyDictionary())
    for layer in layers:
        # A second call must not take the frozen state for the one to go back to.
        if layer not in known or flags[layer][layer][0]:
            known[layer] = flags[layer]
    return model


def unfreeze_bn(model: keras.Model, x: Any = None, y: Any = None) -> keras.Model:
    """Undo `freeze_bn`, and prove that batch normalization learns again.

    Each layer gets back the `trainable` that it had before `freeze_bn`; one that was frozen then
    stays frozen. This is remembered with the model in memory, not in its file: of a model that was
    saved and loaded since, or frozen in another way, all batch normalization layers become
    trainable.

    As in `freeze_bn`, the model stays compiled, and an optimizer that was built while the layers
    were frozen learns to know their gamma and beta: its state for them is what was set aside, or
    else starts afresh. Everything else in it is kept, bit for bit.

    Args:
        model: a Keras model, compiled or not.
        x: inputs for the dry run, as for `dry_run`. None draws them.
        y: targets for the dry run. None draws them.

    Returns:
        The same model.

    Raises:
        ValueError: if the model has no batch normalization layer, or the dry run needs `x` or `y`.
        RuntimeError: if a layer that is trainable again does not learn, or an optimizer cannot be
            taught new variables. Whatever is raised, the model is left as it was.

    Example:
        See `freeze_bn`.
    """
    layers = _layers(model, x)
    known = _flags_before.get(model, {})
    with _put_back_on_failure(model):
        for layer in layers:
            if layer in known:
                _set_flags(known[layer])
            else:
                layer.trainable = True
        _forget_trace(model)
        _steer(model)
        idle = [
            step.path
            for step in dry_run(model, x, y).layers
            if step.layer.trainable and step.layer.built and not step.learns
        ]
        if idle:
            raise RuntimeError(
                f"{_names(idle)} does not learn although trainable is True again: look for a call "
                "with training=False in a subclass, or a train_step that leaves its gamma and beta "
                "out. The model is as it was"
            )
    _flags_before.pop(model, None)
    return model


def _layers(model: keras.Model, x: Any) -> list[keras.layers.BatchNormalization]:
    """The batch normalization layers of a model, built; a model without one is an error."""
    build(model, x)
    layers = batch_norms(model)
    if not layers:
        raise ValueError(
            f"expected a model with BatchNormalization layers, got {model.name!r} without one"
        )
    return layers


def _still_learning(learning: Sequence[LayerStep]) -> str:
    statistics = [step.path for step in learning if step.statistics_moved]
    trained = [step.path for step in learning if step.gamma_moved or step.beta_moved]
    parts = ["Keras did not freeze batch normalization, and the model is as it was."]
    if statistics:
        parts.append(
            f"The moving statistics of {_names(statistics)} still move with trainable=False: its "
            "own call updates them whatever trainable says. Let it ask `training and "
            "self.trainable`, as keras.layers.BatchNormalization does, or use that layer."
        )
    if trained:
        parts.append(
            f"gamma or beta of {_names(trained)} is still trained: a custom train_step hands it to "
            "the optimizer. Let it use model.trainable_variables."
        )
    return " ".join(parts)


def _names(paths: Iterable[str]) -> str:
    return ", ".join(map(repr, paths))


# The flags


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


def _forget_trace(model: keras.Model) -> None:
    """Let the next `fit` trace a new train function, which obeys the flags of now."""
    model.train_function = None
    if model.compiled:
        # compile() notes the flags here. Not through setattr, which would track the layers anew.
        state = {part: part.trainable for part in [model, *layer_paths(model)]}
        vars(model)["_compiled_trainable_state"] = state


@contextmanager
def _put_back_on_failure(model: keras.Model) -> Iterator[None]:
    flags = [_flags(layer) for layer in batch_norms(model)]
    compiled = {
        name: vars(model)[name]
        for name in ("train_function", "_compiled_trainable_state")
        if name in vars(model)
    }
    parts = [part for _, optimizer in optimizers(model) for part in _chain(optimizer)]
    undo = [_undo(part) for part in parts]
    slots = dict(_slots_before)
    try:
        yield
    except BaseException:
        for each in flags:
            _set_flags(each)
        vars(model).update(compiled)
        for put_back in undo:
            put_back()
        for _, optimizer in optimizers(model):
            _slots_before.pop(optimizer, None)
            if optimizer in slots:
                _slots_before[optimizer] = slots[optimizer]
        raise


# The optimizer


def _chain(optimizer: keras.optimizers.Optimizer) -> list:
    """An optimizer and those that it wraps, such as the one inside a LossScaleOptimizer."""
    inner = getattr(optimizer, "inner_optimizer", None)
    return [optimizer] if inner is None else [optimizer, *_chain(inner)]


def _undo(optimizer: keras.optimizers.Optimizer) -> Callable[[], None]:
    """A function that puts back the variables an optimizer knows, the same objects as before."""
    attributes = dict(vars(optimizer))
    # What is changed in place: the list of all variables, and TensorFlow's own books.
    contents = {
        name: type(value)(value) if name != "_variables" else list(value)
        for name, value in attributes.items()
        if name == "_variables" or type(value) in (list, dict, set)
    }
    tracked = set(optimizer._tracker.stored_ids["variables"])

    def put_back() -> None:
        vars(optimizer).update(attributes)
        for name in vars(optimizer).keys() - attributes.keys():
            del vars(optimizer)[name]
        for name, content in contents.items():
            container = attributes[name]
            container.clear()
            (container.extend if isinstance(container, list) else container.update)(content)
        optimizer._tracker.stored_ids["variables"] = tracked

    return put_back


def _steer(model: keras.Model) -> None:
    """Let the optimizer of a model know the variables that are trainable now, and no frozen BN.

    Keras takes a frozen variable in a built optimizer, but then the optimizer's state is lost when
    the model is saved and loaded, and with `use_ema` the averages go to the wrong variables. A
    variable that was frozen when the optimizer was built it refuses.
    """
    layers = batch_norms(model)
    own = [v for layer in layers for v in (layer.gamma, layer.beta) if v is not None]
    frozen = {id(v) for v in own if not v.trainable}
    built = [optimizer for _, optimizer in optimizers(model) if optimizer.built]
    if getattr(model, "optimizer", None) not in built:
        missing = {id(v) for v in own} - frozen
        missing -= {id(v) for optimizer in built for v in optimizer._trainable_variables}
        if built and missing:
            names = [v.path for v in own if id(v) in missing]
            raise RuntimeError(
                f"{_names(names)} cannot be trained: none of the optimizers that this model keeps "
                "knows it. Compile the model anew with fresh optimizers. The model is as it was"
            )
        return
    known = model.optimizer._trainable_variables
    wanted = {id(v) for v in [*known, *model.trainable_variables]} - frozen
    inside = {id(v) for v in model.variables}
    # The order in which load_model builds an optimizer.
    variables = [v for v in model.variables if id(v) in wanted]
    variables += [v for v in known if id(v) not in inside]
    if [id(v) for v in variables] != [id(v) for v in known]:
        with model.distribute_strategy.scope():
            _rebuild(model.optimizer, variables)


def _rebuild(optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable]) -> None:
    """Build an optimizer anew, in place, for other variables, and carry its state over."""
    chain = _chain(optimizer)
    known = optimizer._trainable_variables
    before = [_slots(part) for part in chain]
    if None in before:
        if optimizer.use_ema or not {id(v) for v in variables} <= {id(v) for v in known}:
            raise RuntimeError(
                f"{type(optimizer).__name__} keeps its state in a form that cannot be carried "
                "over: compile the model with a fresh optimizer. The model is as it was"
            )
        return
    aside = _slots_before.setdefault(optimizer, {})
    for part, (lists, singles) in zip(chain, before, strict=True):
        for slot in [*singles.values(), *(s for slots in lists.values() for s in slots)]:
            if slot is not None:
                part._untrack_variable(slot)
        part._trainable_variables_indices = {}
        part.built = False
    with keras.name_scope(optimizer.name, caller=optimizer):  # as its first step does
        optimizer.build(variables)
    for depth, (part, (lists, singles)) in enumerate(zip(chain, before, strict=True)):
        for name, old in singles.items():
            getattr(part, name).assign(old)
        for name, slots in lists.items():
            aside |= {(depth, name, id(v)): slot for v, slot in zip(known, slots, strict=True)}
            for variable, slot in zip(variables, getattr(part, name), strict=True):
                old = aside.pop((depth, name, id(variable)), None)
                if old is not None:
                    slot.assign(old)
                elif name == "_model_variables_moving_average":
                    slot.assign(variable)  # an average that starts at 0 would pull there


def _slots(optimizer: keras.optimizers.Optimizer) -> tuple[dict, dict] | None:
    """The state of an optimizer, per variable and single; None if there is more to it."""
    attributes = vars(optimizer)
    lists = {
        name: value
        for name, value in attributes.items()
        if name not in ("_variables", "_trainable_variables")
        and isinstance(value, list)
        and len(value) == len(optimizer._trainable_variables)
        and all(slot is None or isinstance(slot, keras.Variable) for slot in value)
    }
    fixed = ("_iterations", "_learning_rate")
    kept = [attributes[name] for name in fixed]
    singles = {
        name: value
        for name, value in attributes.items()
        if isinstance(value, keras.Variable) and name not in fixed
    }
    found = {id(v) for v in [*kept, *singles.values(), *(s for v in lists.values() for s in v)]}
    return (lists, singles) if {id(v) for v in optimizer._variables} <= found else None
