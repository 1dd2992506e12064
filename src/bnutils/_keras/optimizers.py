"""What an optimizer keeps, and how it can be told of other variables."""

from __future__ import annotations

from collections.abc import Callable

from bnutils._keras import keras

__all__ = ["decays", "known_variables", "optimizer_attributes", "rebuild_optimizer"]


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


def known_variables(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """List the variables that an optimizer was built to train."""
    return list(getattr(optimizer, "_trainable_variables", ()))


def _chain(optimizer: keras.optimizers.Optimizer) -> list:
    """An optimizer and those that it wraps, such as the one inside a LossScaleOptimizer."""
    inner = getattr(optimizer, "inner_optimizer", None)
    return [optimizer] if inner is None else [optimizer, *_chain(inner)]


def optimizer_attributes(optimizer: keras.optimizers.Optimizer) -> Callable[[], None]:
    """Give a function that puts back which variables an optimizer knows, the same objects.

    Those too of optimizers that it wraps.
    """
    inner = [optimizer_attributes(part) for part in _chain(optimizer)[1:]]
    attributes = dict(vars(optimizer))
    # What is changed in place: the list of all variables, and TensorFlow's own lists.
    contents = {
        name: type(value)(value) if name != "_variables" else list(value)
        for name, value in attributes.items()
        if name == "_variables" or type(value) in (list, dict, set)
    }
    tracked = set(optimizer._tracker.stored_ids["variables"])

    def put_back() -> None:
        for each in inner:
            each()
        vars(optimizer).update(attributes)
        for name in vars(optimizer).keys() - attributes.keys():
            del vars(optimizer)[name]
        for name, content in contents.items():
            container = attributes[name]
            container.clear()
            (container.extend if isinstance(container, list) else container.update)(content)
        optimizer._tracker.stored_ids["variables"] = set(tracked)

    return put_back


def rebuild_optimizer(
    optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable], aside: dict
) -> None:
    """Build an optimizer anew, in place, for other variables, and carry its state over.

    Args:
        optimizer: a built optimizer.
        variables: those that it is to train.
        aside: what it remembered of variables that it once trained; what it remembers of those
            that it no longer trains is put there.

    Raises:
        RuntimeError: if it keeps its state in a form that is not known here.
    """
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
