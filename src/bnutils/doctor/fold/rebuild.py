"""The model for inference: functional, of copies of the layers, without what has been folded."""

from __future__ import annotations

import inspect
from collections import Counter
from typing import Any

from keras import tree

from bnutils._keras import duplicate, keras, maker
from bnutils.doctor import kinds
from bnutils.doctor.fold.kernels import Linear
from bnutils.doctor.fold.plan import Plan
from bnutils.doctor.graph import Call, Graph, Tensor
from bnutils.doctor.words import cause

__all__ = ["Copies", "concrete_arguments", "copies", "rebuild"]

#: For each layer or operation that stays, its copy.
Copies = dict[keras.Operation, keras.Operation]


def copies(plan: Plan) -> Copies:
    """Copy every layer that stays.

    A layer is copied as it is, attribute by attribute: a config may not tell all. A layer that
    takes something over is built anew; it is one of Keras's own.

    Raises:
        ValueError: a layer that cannot be copied.
    """
    kept = [call for call in plan.graph.calls if call not in plan.folded]
    names = _names(kept, {name for name, _ in _named_inputs(plan.graph)})
    made = {}
    for call in kept:
        layer = call.layer
        if layer in made:
            continue
        try:
            if call in plan.linear:
                made[layer] = _with_bias(layer, plan.linear[call])
            else:
                made[layer] = duplicate(layer)
        except Exception as error:
            # A foreign layer may hold anything.
            raise ValueError(
                f"expected layers that can be copied, but {call.path} ({type(layer).__name__}) "
                f"cannot: {cause(error)}"
            ) from error
        made[layer].name = names[layer]
    return made


def _with_bias(layer: keras.Layer, linear: Linear) -> keras.Layer:
    """A new linear layer like another one, for weights that took something over."""
    known = kinds.keras_class(layer)  # a subclass that computes in the same way needs no more
    config = known.get_config(layer) | {"dtype": layer.dtype_policy, "autocast": layer.autocast}
    for key in config:
        if key.endswith(("_regularizer", "_constraint")):
            config[key] = None  # it spoke of other weights
        elif key == "activation" or key.endswith("_initializer"):
            config[key] = getattr(layer, key)  # not every function finds back from a config
    changes = {key: value for key, value in linear.changes.items() if key in config}
    return known(**{**config, **changes})


def rebuild(model: keras.Model, plan: Plan, layers: Copies) -> keras.Model:
    """Connect the copies as the model does.

    Args:
        model: the model.
        plan: what folds.
        layers: what `copies` gave.

    Raises:
        ValueError: a copy that cannot be called on symbolic tensors.
    """
    graph = plan.graph
    inputs = _new_inputs(graph)
    values = dict(zip(graph.inputs, inputs, strict=True))
    for call in graph.calls:
        if call in plan.folded:
            values[call.outputs[0]] = values[call.inputs[0]]
            continue
        layer = layers[call.layer]
        args, kwargs = _symbolic_arguments(call, values)
        try:
            outputs = tree.flatten(layer(*args, **kwargs))
        except Exception as error:
            # A foreign `call` may do anything.
            raise ValueError(
                f"expected layers that can be called on symbolic tensors, but {call.path} "
                f"({type(layer).__name__}) cannot: {cause(error)}"
            ) from error
        values.update(zip(call.outputs, outputs, strict=True))
        if call in plan.linear:
            plan.linear[call].assign_to(layer)
    outputs = [values[tensor] for tensor in graph.outputs]
    if len(outputs) > 1:
        outputs = _named(outputs, getattr(model, "output_names", None))
    return keras.Model(
        tree.pack_sequence_as(graph.input_structure, inputs),
        tree.pack_sequence_as(graph.output_structure, outputs),
        name=model.name,
    )


def _new_inputs(graph: Graph) -> list:
    return [
        keras.Input(batch_shape=value.shape, dtype=value.dtype, sparse=value.sparse, name=name)
        for name, value in _named_inputs(graph)
    ]


def _named_inputs(graph: Graph) -> list[tuple[str, keras.KerasTensor]]:
    """The inputs by name: in a dictionary their keys, which Keras asks for."""
    return [
        (path[-1] if path and isinstance(path[-1], str) else value.name, value)
        for path, value in tree.flatten_with_path(graph.input_structure)
    ]


def _names(calls: list[Call], taken: set[str]) -> dict[Any, str]:
    """A name for each layer: its own where no other has it, else its path."""
    paths = {}
    for call in calls:
        paths.setdefault(call.layer, call.path)
    counts = Counter([*taken, *(layer.name for layer in paths)])
    names = {layer: layer.name for layer in paths if counts[layer.name] == 1}
    taken = {*taken, *names.values()}
    for layer in [layer for layer in paths if layer not in names]:
        stem = name = paths[layer].replace("/", "_")
        number = 1
        while name in taken:
            number += 1
            name = f"{stem}_{number}"
        names[layer] = name
        taken.add(name)
    return names


def concrete_arguments(call: Call, values: dict[Tensor, Any]) -> tuple[tuple, dict]:
    """The arguments of a call, with other values for its tensors and for variables theirs."""

    def constant(value: Any) -> Any:
        if isinstance(value, keras.Variable):
            return keras.ops.convert_to_tensor(value)
        return value

    return tree.map_structure(constant, call.arguments(values))


def _symbolic_arguments(call: Call, values: dict[Tensor, Any]) -> tuple[tuple, dict]:
    args, kwargs = concrete_arguments(call, values)
    signature = inspect.signature(call.layer.call)
    by_place = "training" in signature.bind_partial(*args).arguments
    if call.training is not None and "training" in signature.parameters and not by_place:
        # The part around it may have been told something else than what stands in the call.
        kwargs["training"] = call.training
    return args, kwargs


def _named(outputs: list, names: list[str] | None) -> list:
    """Several outputs under the names that they had: losses are given by them."""
    if names is None:
        return outputs
    return [
        output
        if maker(output)[0].name == name
        else keras.layers.Identity(name=name, dtype=output.dtype)(output)
        for output, name in zip(outputs, names, strict=True)
    ]
