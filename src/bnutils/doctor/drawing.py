"""Inputs and targets for a training step, drawn at random where none are given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bnutils._keras import accepts, given_losses, keras, one_replica, takes_training, tf

__all__ = [
    "NothingToDrawError",
    "call",
    "draw_inputs",
    "draw_like",
    "draws",
    "inputs_of",
    "with_target",
]

tree = keras.tree
_ROWS = 2  # the fewest that have a variance
_LENGTHS = (32, 96, 224)  # tried in this order where the model leaves a length open


class NothingToDrawError(ValueError):
    """Inputs have to be given."""


def call(model: keras.Model, x: Any, training: bool) -> Any:
    """Call a model, whether its `call` has an argument `training` or not."""
    return model(x, training=training) if takes_training(model) else model(x)


def inputs_of(model: keras.Model) -> Any:
    """Give the structure of Keras tensors that a model takes.

    Raises:
        NothingToDrawError: if the shapes of its inputs are not known.
    """
    if getattr(model, "inputs", None):
        # A Sequential model that was read from a file has inputs, but no `input` yet.
        return model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    config = model.get_build_config() or {}
    if "input_shape" not in config:
        raise NothingToDrawError(
            f"expected inputs x, since the input shapes of {model.name!r} are not known"
        )
    return tree.map_shape_structure(
        lambda shape: keras.KerasTensor((None, *shape[1:])), config["input_shape"]
    )


def draws(inputs: Any, rows: int = _ROWS, below: int = 2) -> Iterator[Any]:
    """Draw inputs, again and again with greater lengths where they leave some open.

    Args:
        inputs: a structure of Keras tensors.
        rows: rows to draw, where the inputs leave them open.
        below: the end of the range of whole numbers.

    Raises:
        NothingToDrawError: if an input is a string.
    """
    is_open = any(None in tensor.shape[1:] for tensor in tree.flatten(inputs))
    for length in _LENGTHS if is_open else _LENGTHS[:1]:
        rng = np.random.default_rng(0)
        yield tree.map_structure(
            lambda t, length=length, rng=rng: _drawn(
                _closed(t.shape, length, rows), t.dtype, rng, below
            ),
            inputs,
        )


def draw_inputs(model: keras.Model) -> Any:
    """Draw two rows for a model: as small as it takes them, where it leaves a length open.

    Raises:
        NothingToDrawError: if the shapes of its inputs are not known, or it takes strings.
    """
    found = draws(inputs_of(model))
    x = next(found)
    for longer in found:
        try:
            model.compute_output_spec(
                tree.map_structure(lambda t: keras.KerasTensor(t.shape, t.dtype.name), x)
            )
        except Exception:
            x = longer  # than what is too short for this model
        else:
            break
    return x


def draw_like(form: Any, given: Any = None, rows: int = _ROWS, fixed: bool = True) -> Any:
    """Bring data into the form of a traced step; what is missing or has another form is drawn.

    Args:
        form: a structure of `TensorSpec`, as a trace has it.
        given: a structure of tensors; None draws all.
        rows: rows to draw, where the form leaves them open.
        fixed: whether to keep to a number of rows that the form fixes. A large batch takes long.
    """
    specs, leaves = tree.flatten(form), tree.flatten(given)
    if len(leaves) != len(specs) or not all(map(_fits, leaves, specs)):
        leaves = [None] * len(specs)
    values, rng = [], np.random.default_rng(0)
    for leaf, spec in zip(leaves, map(one_replica, specs), strict=True):
        if spec is None:
            value = None
        elif leaf is None:
            shape = spec.shape if fixed else (None, *spec.shape[1:])
            value = _drawn(_closed(shape, _LENGTHS[0], rows), spec.dtype.name, rng)
        else:
            picked = np.arange(spec.shape[0] or rows) % leaf.shape[0]  # repeated: a fixed batch
            value = tf.cast(tf.gather(leaf, picked), spec.dtype)
        values.append(value)
    return tree.pack_sequence_as(form, values)


def _fits(leaf: tf.Tensor | None, spec: tf.TypeSpec | None) -> bool:
    spec = one_replica(spec)
    if leaf is None or spec is None:
        return leaf is spec
    text = leaf.dtype == tf.string, spec.dtype == tf.string
    return text[0] == text[1] and spec.shape[1:].is_compatible_with(leaf.shape[1:])


def _closed(shape: Sequence[int | None], length: int, rows: int = _ROWS) -> tuple[int, ...]:
    return (shape[0] or rows, *(length if n is None else n for n in shape[1:]))


def _drawn(shape: Sequence[int], dtype: str, rng: np.random.Generator, below: int = 2) -> tf.Tensor:
    """Standard normal numbers; 0 and 1, or more, where whole numbers or truth values are due."""
    if dtype == "string":
        raise NothingToDrawError("expected inputs x and targets y, since the model takes strings")
    floating = tf.as_dtype(dtype).is_floating
    return tf.cast(rng.normal(size=shape) if floating else rng.integers(below, size=shape), dtype)


def with_target(model: keras.Model, x: Any) -> Iterator[tuple]:
    """Guess data `(x,)` or `(x, y)` for a training step, the likeliest first."""
    steps = ("train_step", "compute_loss")
    custom = any(getattr(type(model), name) is not getattr(keras.Model, name) for name in steps)
    losses = given_losses(model)
    if losses is None:
        yield (x,)
        if not custom:
            return
    outputs = _outputs(model, x)
    target = None if losses is None else _target(model, losses, outputs)
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
            rows, rng = tree.flatten(x)[0].shape[0], np.random.default_rng(0)
            return tree.map_structure(lambda t: _drawn((rows, *t.shape[1:]), t.dtype, rng), outputs)
    return tf.function(lambda x: call(model, x, training=False))(x)


def _target(model: keras.Model, losses: Any, outputs: Any) -> Any:
    """A target that the compiled losses accept, or None."""
    flat = tree.flatten(outputs)
    if isinstance(losses, dict):
        names = sorted(outputs) if isinstance(outputs, dict) else model.output_names
        losses = [losses.get(name) for name in names]
    elif not isinstance(losses, list | tuple):
        losses = [losses] * len(flat)
    if len(losses) != len(flat):
        return None
    targets = []
    for loss, output in zip(losses, flat, strict=True):
        suitable = (form(output) for form in _FORMS if accepts(loss, form(output), output))
        targets.append(next(suitable, None))
    return None if any(t is None for t in targets) else tree.pack_sequence_as(outputs, targets)


# Numbers in [0, 1] are right for regression, probabilities and one-hot classes, the label 0 for any
# number of classes.
_FORMS = (
    lambda output: tf.cast(np.random.default_rng(0).uniform(size=output.shape), output.dtype),
    lambda output: tf.zeros(output.shape[:-1], "int32"),
    lambda output: tf.zeros((*output.shape[:-1], 1), "int32"),
)
