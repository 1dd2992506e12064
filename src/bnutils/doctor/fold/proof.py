"""The proof that a folded model gives the outputs of the model that it came from.

Each layer of the new model is held against the layer, or the layers, that it stands for, on what
they are given in the first model: a copy must be equal, a layer that took something over equal
up to rounding. So a fault has a name, and one layer's rounding does not hide another's fault.
Then both models are compared as wholes. How far rounding can go is measured on the first model:
by how much its outputs move when the last digits of its own weights do.
"""

from __future__ import annotations

import warnings
from collections import ChainMap
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from keras import tree

from bnutils._keras import OneCall, graph_inputs, keras, mask_of, takes_training, with_mask
from bnutils.doctor import kinds
from bnutils.doctor.differences import (
    difference,
    largest,
    largest_difference,
    numbers,
    values,
)
from bnutils.doctor.drawing import draws
from bnutils.doctor.fold.plan import LAST_DIGIT, Plan
from bnutils.doctor.fold.rebuild import Copies, concrete_arguments
from bnutils.doctor.graph import Call, Tensor
from bnutils.doctor.subject import Subject
from bnutils.doctor.words import cause

__all__ = ["Proof", "prove"]

#: A difference of the outputs below this, in units of the largest one, is taken for rounding in
#: float32 without a further look: some hundred layers, each with some digits of 1.2e-7.
TOLERANCE = 1e-4
#: Two runs of the same layer on the same numbers may differ by so many last digits: processors
#: add up in an order of their own.
DIGITS = 100
#: And a folded model may be so many times farther away than the first one is from itself when the
#: last digits of its weights change by one.
TIMES = 100
ROWS = 8  # of the data, at most


class Proof(NamedTuple):
    """What came out.

    Attributes:
        error: the largest difference of the outputs, in units of the largest; None if they could
            not be compared.
        reason: why not.
    """

    error: float | None
    reason: str | None = None


def prove(
    subject: Subject, plan: Plan, copies: Copies, folded: keras.Model, rows: Any = None
) -> Proof:
    """Compare a folded model with the model that it came from.

    Args:
        subject: the model.
        plan: what was folded.
        copies: the copies of the layers that stayed.
        folded: the folded model.
        rows: a batch of inputs; drawn at random if it is None.

    Raises:
        RuntimeError: if they differ by more than rounding explains.
        ValueError: if the model cannot be called on `rows`.
    """
    failure = "it reads text, or sparse tensors"
    for inputs in [rows] if rows is not None else _drawn(subject, folded.input):
        try:
            outputs = _outputs(subject.model, inputs)
        except Exception as error:  # a foreign `call` may raise anything
            failure = cause(error)
            continue
        return _Comparison(subject, plan, copies, inputs, outputs).with_model(folded)
    if rows is None:
        return Proof(None, f"the model cannot be run on random inputs: {failure}")
    raise ValueError(f"expected data that {subject.model.name} can be called on, got: {failure}")


class _Comparison:
    def __init__(
        self,
        subject: Subject,
        plan: Plan,
        copies: Copies,
        inputs: Any,
        outputs: list[np.ndarray],
    ) -> None:
        self.subject = subject
        self.plan = plan
        self.copies = copies
        self.inputs = inputs
        self.outputs = outputs  # of the first model
        self._moved = None

    def with_model(self, folded: keras.Model) -> Proof:
        try:
            self.layerwise()
        except RuntimeError:
            # It may be rounding, where large numbers cancel: measured in a second round.
            self.layerwise(_last_digits_changed(self.subject, seed=0))
        error = self.explained(
            _outputs(folded, self.inputs),
            f"expected the folded model to give the outputs of {self.subject.model.name}",
        )
        if not all(np.isfinite(output).all() for output in self.outputs):
            return Proof(None, "the outputs of the model are not finite")
        return Proof(error)

    def explained(self, outputs: list[np.ndarray], expectation: str) -> float:
        """The difference of outputs from those of the model, if rounding explains it."""
        error = largest_difference(self.outputs, outputs)
        if error > TOLERANCE:  # infinite where only one of them is not finite
            if self._moved is None:
                # Some models, far from their data, let the last digit of a weight grow that large.
                changed = [_last_digits_changed(self.subject, seed) for seed in (0, 1)]
                self._moved = max(
                    largest_difference(
                        self.outputs, _outputs(self.subject.model, self.inputs, each)
                    )
                    for each in changed
                )
            if not error <= TIMES * self._moved:
                raise RuntimeError(
                    f"{expectation}, but they differ by {error:.1e} of the largest output"
                )
        return error

    def layerwise(self, changed: Iterable = ()) -> None:
        """Hold each layer against what it stands for.

        Args:
            changed: the model's weights with other last digits, as for a `StatelessScope`. They
                show how far rounding goes in the layers that took something over.
        """
        graph = self.plan.graph
        expected = dict(
            zip(graph.inputs, graph_inputs(self.subject.model, self.inputs), strict=True)
        )
        last = {tensor: call for call in graph.calls for tensor in call.inputs}
        # In each, seeds and states begin as they are in the model, and go on from call to call.
        model = _Track(expected)
        folded = _Track(ChainMap({}, expected))
        rounded = _Track(ChainMap({}, expected), changed) if changed else None

        def step(call: Call) -> None:
            masks = {tensor: mask_of(expected[tensor]) for tensor in call.inputs}
            outputs = model.run(call.layer, call)
            for tensor, mask in masks.items():  # MultiHeadAttention takes them off
                with_mask(expected[tensor], mask)
            expected.update(zip(call.outputs, outputs, strict=True))
            takes_part = (
                call in self.plan.linear
                or call in self.plan.folded
                or not self.plan.between.isdisjoint(call.inputs)
            )
            if call in self.plan.folded:
                found = [folded.values[call.inputs[0]]]
            else:
                found = folded.run(self.copies[call.layer], call)
            moved = [None] * len(found)
            if rounded and takes_part:
                moved = rounded.run(call.layer, call)
            for number, tensor in enumerate(call.outputs):
                if tensor in self.plan.between:
                    folded.values[tensor] = found[number]
                    if rounded:
                        rounded.values[tensor] = moved[number]
                else:
                    self.compare(call, outputs[number], found[number], moved[number])
            for tensor in call.inputs:
                if last[tensor] is call and not graph.is_output(tensor):
                    for track in filter(None, (model, folded, rounded)):
                        track.forget(tensor)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the first run of the model has said it all
            for call in graph.calls:
                step(call)
        self.explained(
            [numbers(expected[tensor]) for tensor in graph.outputs],
            f"expected {self.subject.model.name} to do on numbers what it does on symbolic tensors",
        )

    def compare(self, call: Call, expected: Any, found: Any, moved: Any) -> None:
        """Refuse outputs of a layer of the folded model that are not those of the model."""
        if np.array_equal(values(expected), values(found)):
            return  # as nearly always: no need for float64
        dtype = keras.backend.standardize_dtype(expected.dtype)
        expected, found = numbers(expected), numbers(found)
        error = difference(expected, found)
        scale = largest(expected)
        allowed = DIGITS * LAST_DIGIT.get(dtype, 0) * scale
        if moved is not None:
            allowed = max(allowed, TIMES * difference(expected, numbers(moved)))
        if error <= allowed:
            return
        name = f"{call.path} ({type(call.layer).__name__})"
        by = f"by {error / max(scale, np.finfo(float).tiny):.1e} of the largest"
        if call in self.plan.linear or call in self.plan.folded:
            raise RuntimeError(
                f"expected the folded model to give at {name} what {self.subject.model.name} "
                f"gives, but on the same inputs they differ {by}"
            )
        raise RuntimeError(
            f"expected a copy of {name} to give the outputs of the original, but on the same "
            f"inputs they differ {by}. A layer that draws random numbers without a seed of Keras, "
            "or that keeps what it knows outside of itself, cannot be proved right: "
            "fold(model, prove=False) folds without a proof"
        )


class _Track:
    """One way through the graph, with states and seeds of its own."""

    def __init__(self, values: Any, changed: Iterable = ()) -> None:
        self.values = values
        self._scope = keras.StatelessScope(state_mapping=changed, collect_losses=True)
        self._context = OneCall(training=False)

    def run(self, layer: keras.Operation, call: Call) -> list:
        args, kwargs = concrete_arguments(call, self.values)
        if takes_training(layer):
            kwargs["training"] = False  # as `predict` does, whatever was recorded
        try:
            with self._scope, self._context:
                return tree.flatten(layer(*args, **kwargs))
        except Exception as error:
            # A copy may miss what a foreign layer keeps outside of itself.
            raise RuntimeError(
                f"expected {call.path} ({type(layer).__name__}) and its copy to run by themselves, "
                f"but one of them raised {cause(error)}"
            ) from error

    def forget(self, tensor: Tensor) -> None:
        self.values.pop(tensor, None)


def _drawn(subject: Subject, inputs: Any) -> Iterable[Any]:
    """Random inputs, with several lengths where the model leaves them open."""
    if any(value.dtype == "string" or value.sparse for value in tree.flatten(inputs)):
        return ()
    words = [layer.input_dim for layer in subject.paths if kinds.nearest(layer).role == "embedding"]
    return draws(inputs, below=min(words, default=2))


def _outputs(model: keras.Model, inputs: Any, changed: Iterable = ()) -> list[np.ndarray]:
    # Nothing is assigned, not even the state of a stateful recurrent layer.
    with keras.StatelessScope(state_mapping=changed, collect_losses=True):
        outputs = tree.flatten(model(inputs, training=False))
    return [numbers(output) for output in outputs]


def _last_digits_changed(subject: Subject, seed: int) -> list[tuple[keras.Variable, np.ndarray]]:
    """Every weight of the model, with its last digit up or down by one, as its layer computes."""
    rng = np.random.default_rng(seed)
    changed = []
    for holder, variable in subject.weights:
        if "float" in variable.dtype:
            digit = LAST_DIGIT.get(holder.compute_dtype, 0)
            held = numbers(variable)
            changed.append((variable, held * (1 + digit * rng.choice([-1, 1], held.shape))))
    return changed
