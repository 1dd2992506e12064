"""Folds batch normalization into the linear layers around it, for inference.

At inference batch normalization is `y = scale x + shift` for each channel, with
`scale = gamma / sqrt(moving_variance + epsilon)` and `shift = beta - moving_mean scale` (Ioffe &
Szegedy 2015, algorithm 2, line 11). A linear layer just before or after it can take that over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bnutils._keras import keras, tf
from bnutils.doctor.batches import batches
from bnutils.doctor.fold import proof
from bnutils.doctor.fold.plan import plan
from bnutils.doctor.fold.rebuild import copies, rebuild
from bnutils.doctor.restoring import LOCK, restored
from bnutils.doctor.results import NOT_PLAIN, Result, Skipped, Table, skipped_lines
from bnutils.doctor.subject import Subject
from bnutils.doctor.words import count

__all__ = ["Folded", "Folding", "fold", "fold_plan"]


class Folded(NamedTuple):
    """A batch normalization layer that went into another one.

    Attributes:
        layer: its path.
        into: the path of the linear layer that took it over.
    """

    layer: str
    into: str


@dataclass(frozen=True, repr=False)
class Folding(Result):
    """What became of every batch normalization layer. Printed, it is a table.

    Attributes:
        model: the folded model; None from `fold_plan`.
        folded: the layers that fold, each with the path of the layer that takes it over.
        skipped: the layers that stay, and why; what was not proved, and why.
        error: the largest difference between the outputs of the two models on the rows that were
            tried, in units of the largest output; None if it was not measured.
    """

    model: keras.Model | None = field(metadata=NOT_PLAIN)
    folded: tuple[Folded, ...]
    skipped: tuple[Skipped, ...]
    error: float | None = None

    @property
    def left(self) -> tuple[Skipped, ...]:
        """The batch normalization layers that stay, and saved models that may hold some."""
        return tuple(each for each in self.skipped if each.kind != "proof")

    def _shown(self) -> Iterator[str | Table]:
        done = len(self.folded)
        total = done + sum(each.kind == "part" for each in self.skipped)
        if total:
            verb = "folded" if self.model is not None else "folds" if done == 1 else "fold"
            yield f"{done} of {count(total, 'batch normalization layer')} {verb}."
        else:
            yield "There is no batch normalization to fold."
        if self.error is not None:
            yield f"Outputs differ by {self.error:.1e} of the largest" + (
                ", no more than the last digits of the model's own weights make of them."
                if self.error > proof.TOLERANCE
                else "."
            )
        yield Table(
            ("layer", "", "where, or why not"),
            [
                *((each.layer, "folded", f"into {each.into}") for each in self.folded),
                *((each.what, "left", each.reason) for each in self.left),
            ],
        )
        yield from skipped_lines(
            [each for each in self.skipped if each.kind == "proof"], "Not compared"
        )


def fold_plan(model: keras.Model) -> Folding:
    """Say which batch normalization layers `fold` would fold, and why it would leave the others.

    Args:
        model: a built Keras model.

    Returns:
        What `fold` would give, without the model. It prints as a table.

    Raises:
        ValueError: as `fold`.

    Example:
        >>> bn = keras.layers.BatchNormalization(name="bn")
        >>> print(fold_plan(keras.Sequential([keras.Input((3,)), bn, keras.layers.ReLU()])))
        0 of 1 batch normalization layer fold.
        layer        where, or why not
        bn     left  it reads an input of the model; ...
    """
    with LOCK, restored():
        return _fold(Subject(model), None, make=False, prove=False)


def fold(model: keras.Model, data: Any = None, *, prove: bool = True) -> Folding:
    """Make a model for inference in which batch normalization has vanished into linear layers.

    Into the layer before it, batch normalization folds exactly if that is a Dense, EinsumDense,
    convolution, depthwise, separable or transposed convolution without an activation, and nothing
    else reads the layer's output. Into the layer after it, it folds exactly if that layer does not
    pad with zeros. Layers that do nothing at inference (dropout, noise) and layers that only
    reshape may stand between.

    The new model is functional, with nested models laid flat. It is not compiled. Layers that took
    something over are new, without regularizer or constraint: these spoke of other weights. All
    others are copies, attribute by attribute, with their weights, states and seeds. The new model
    is not for training, and weights that a custom `call` uses directly become constants.

    The proof runs both models on a few rows. Each layer of the new model is compared with what it
    stands for in the old one, on the same inputs: copies have to be equal, and folded layers
    equal up to rounding. Then the outputs of both are compared.

    Args:
        model: a built Keras model; it is not changed. A subclassed model works as far as its
            `call` runs on symbolic tensors.
        data: rows to compare the two models on, in any form that
            `bnutils.doctor.batches.batches` describes: the first 8 are used. Drawn at random if it
            is None.
        prove: whether to compare the two models.

    Returns:
        A `Folding`; its `model` is the new one.

    Raises:
        ValueError: if the model has no `call` (the message names the parts that do), cannot be
            walked, tells a layer `training=True` in its own `call`, or holds a layer that cannot
            be copied; if a batch normalization layer has a weight that is not finite or a negative
            variance; if the data do not suit the model.
        RuntimeError: if a layer, or the model, differs from what it stands for by more than
            rounding.

    Example:
        >>> inputs = keras.Input((3,))
        >>> x = keras.layers.Dense(2, use_bias=False, name="dense")(inputs)
        >>> model = keras.Model(inputs, keras.layers.BatchNormalization(name="bn")(x))
        >>> folding = fold(model)
        >>> folding.folded
        (Folded(layer='bn', into='dense'),)
        >>> [layer.name for layer in folding.model.layers[1:]]
        ['dense']
    """
    with LOCK, restored() as undo:
        subject = Subject(model)
        for variable in subject.plain_variables:  # what assigns to them is not held back
            undo(variable.assign, tf.identity(variable))
        return _fold(subject, data, make=True, prove=prove)


def _fold(subject: Subject, data: Any, *, make: bool, prove: bool) -> Folding:
    subject.require_call("fold" if make else "fold_plan", with_data=False)
    rows = None if data is None else _first_rows(data, subject.model)
    what = plan(subject, rows)
    layers = copies(what)
    folded = tuple(
        Folded(call.path, what.folded[call].path)
        for call in what.graph.calls
        if call in what.folded
    )
    if not make:
        return Folding(None, folded, what.skipped)
    new = rebuild(subject.model, what, layers)
    if not prove:
        return Folding(new, folded, what.skipped)
    error, reason = proof.prove(subject, what, layers, new, rows)
    skipped = what.skipped
    if reason is not None:
        skipped += (Skipped("outputs", reason, kind="proof", needs="data"),)
    return Folding(new, folded, skipped, error)


def _first_rows(data: Any, model: keras.Model) -> Any:
    x, _ = batches(data, proof.ROWS, model).first()
    return keras.tree.map_structure(lambda leaf: leaf[: proof.ROWS], x)
