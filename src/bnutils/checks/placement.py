"""The exercise that asks for a Keras model with batch normalization in the right places.

Every hidden layer is to be a linear layer without bias, then batch normalization, then the
activation. Each known mistake is a model, and a question asked of the graph of the learner's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bnutils.checks.engine import RAISED, Mistake, Outcome, named, raised, returned_nothing

if TYPE_CHECKING:
    from bnutils._keras import keras
    from bnutils.doctor.graph import Call, Graph

__all__ = ["PLACEMENT"]


def _model(stack: Callable, shape: tuple[int, ...] = (4,)) -> Callable:
    """A function that builds the layers that `stack(keras.layers)` lists."""

    def build() -> keras.Model:
        from bnutils._keras import keras

        return keras.Sequential([keras.Input(shape), *stack(keras.layers)])

    return build


def _block(k: ModuleType, **dense: Any) -> list:
    return [k.Dense(8, use_bias=False, **dense), k.BatchNormalization(), k.Activation("relu")]


def _right(k: ModuleType) -> list:
    return [*_block(k), *_block(k), k.Dense(1)]


def _shared() -> keras.Model:
    from bnutils._keras import keras

    bn, x = keras.layers.BatchNormalization(), keras.Input((4,))
    inputs = x
    for _ in range(2):
        x = keras.layers.Activation("relu")(bn(keras.layers.Dense(8, use_bias=False)(x)))
    return keras.Model(inputs, keras.layers.Dense(1)(x))


def _pinned() -> keras.Model:
    from bnutils._keras import keras

    inputs = keras.Input((4,))
    x = keras.layers.Dense(8, use_bias=False)(inputs)
    x = keras.layers.Activation("relu")(keras.layers.BatchNormalization()(x, training=True))
    return keras.Model(inputs, keras.layers.Dense(1)(x))


@dataclass(frozen=True)
class Placement:
    """The exercise.

    Attributes:
        right: builds a right model.
        mistakes: the known mistakes by name; each builds a wrong model.
    """

    right: Callable
    mistakes: dict[str, Mistake]

    def check(self, build: Callable) -> Outcome:
        """Tell whether the model that `build()` returns is right, or what is wrong with it."""
        from bnutils._keras import keras, same_draws

        if not callable(build) or isinstance(build, keras.Model):
            return named(
                "not-a-function",
                "A function that builds the model is asked for. Give its name without calling it.",
            )
        with same_draws():
            return self._checked(build)

    def _checked(self, build: Callable) -> Outcome:
        from bnutils._keras import keras
        from bnutils.doctor.graph import walk

        try:
            model = build()
        except RAISED as error:  # whatever a learner's function raises is told
            return named("raises", raised(error, build))
        if model is None:
            return returned_nothing(build)
        if not isinstance(model, keras.Model):
            kind = type(model).__name__
            return named("not-a-model", f"It should return a Keras model, and returned a {kind}.")
        graph = walk(model)
        if graph.unwalked:
            return named(
                "cannot-be-read",
                "The layers of this model cannot be followed. Start it with keras.Input, and use "
                "the functional style or Sequential.",
            )
        found = next((name for name, is_so in _questions(graph) if is_so()), None)
        return named(found, self.mistakes[found].message) if found else Outcome(True)


def _questions(graph: Graph) -> list[tuple[str, Callable[[], bool]]]:
    """Pairs of a mistake's name and a function that tells whether the graph has it, in order."""
    from bnutils.doctor.rules import flow

    weighted = [call for call in graph.calls if flow.has_weights(call)]
    norms = [call for call in graph.calls if flow.is_bn(call)]

    def everything(call: Call) -> bool:
        return True

    def ahead(call: Call) -> Iterator[Call]:
        return flow.downstream(graph, call.outputs[0], everything)

    def behind(call: Call) -> Iterator[Call]:
        return flow.upstream(graph, call.inputs[0], everything)

    def before(call: Call) -> Call | None:
        made = graph.producer(call.inputs[0])
        while made is not None and flow.keeps_shape(made):
            made = graph.producer(made.inputs[0])
        return made

    def bends(call: Call | None) -> bool:
        return call is not None and not flow.is_bn(call) and flow.activation(call) != "linear"

    def unbent(call: Call) -> bool:
        """Whether a normalized signal reaches the next linear layer without an activation."""
        following = flow.downstream(
            graph, call.outputs[0], lambda each: flow.keeps_shape(each) or flow.passes(each)
        )
        return any(map(flow.has_weights, following))

    def axis_differs(call: Call) -> bool:
        made = before(call)
        kept = None if made is None else flow.channel_axis(made)
        return kept is not None and kept != flow.parameter_axis(call.layer)

    hidden = [call for call in weighted if any(map(flow.has_weights, ahead(call)))]
    normalized = {before(call) for call in norms}
    return [
        ("missing", lambda: not norms),
        ("shared", lambda: len({call.layer for call in norms}) < len(norms)),
        ("training-pinned", lambda: any(call.training is not None for call in norms)),
        ("on-the-input", lambda: any(not any(map(flow.has_weights, behind(c))) for c in norms)),
        ("on-the-output", lambda: any(not any(map(flow.has_weights, ahead(c))) for c in norms)),
        (
            "activation-inside",
            lambda: any(bends(before(c)) and flow.has_weights(before(c)) for c in norms),
        ),
        ("after-the-activation", lambda: any(bends(before(c)) for c in norms)),
        ("twice", lambda: any(flow.is_bn(before(c)) for c in norms if before(c) is not None)),
        ("wrong-axis", lambda: any(map(axis_differs, norms))),
        ("bias-kept", lambda: any(_has_bias(before(c)) for c in norms)),
        ("missing-in-a-layer", lambda: any(call not in normalized for call in hidden)),
        ("no-activation", lambda: any(map(unbent, norms))),
    ]


def _has_bias(call: Call | None) -> bool:
    return getattr(getattr(call, "layer", None), "bias", None) is not None


PLACEMENT = Placement(
    right=_model(_right),
    mistakes={
        "missing": Mistake(
            _model(lambda k: [k.Dense(8, activation="relu"), k.Dense(1)]),
            "There is no batch normalization in the model. Each hidden layer should have one.",
        ),
        "shared": Mistake(
            _shared,
            "One batch normalization layer is called in several places. Its moving statistics then "
            "mix those of different signals, and fit none at inference.",
        ),
        "training-pinned": Mistake(
            _pinned,
            "A batch normalization layer was given `training=` when the model was built. It should "
            "follow the caller: batch statistics in training, moving ones at inference.",
        ),
        "on-the-input": Mistake(
            _model(lambda k: [k.BatchNormalization(), *_right(k)]),
            "Batch normalization stands on the inputs. They do not change while the network "
            "trains, so a scaler fitted once does it without the noise of the batch.",
        ),
        "on-the-output": Mistake(
            [
                _model(lambda k: [*_right(k), k.BatchNormalization()]),
                _model(
                    lambda k: [*_right(k), k.BatchNormalization(), k.Activation("sigmoid")],
                ),
            ],
            "Batch normalization stands on the output. A prediction would depend on its batch "
            "mates, and gamma and beta alone would have to reach the scale of the targets.",
        ),
        "activation-inside": Mistake(
            _model(lambda k: [k.Dense(8, activation="relu"), k.BatchNormalization(), k.Dense(1)]),
            "The layer before batch normalization has its activation inside. The normalization "
            "then comes after the activation; give the activation a line of its own, after it.",
        ),
        "after-the-activation": Mistake(
            _model(
                lambda k: [
                    k.Dense(8),
                    k.Activation("relu"),
                    k.BatchNormalization(),
                    k.Dense(1),
                ]
            ),
            "Batch normalization comes after the activation. That can work as well, but here it is "
            "to set the scale of what enters the activation, and it saves the bias.",
        ),
        "twice": Mistake(
            _model(lambda k: [*_block(k)[:2], *_block(k)[1:], k.Dense(1)]),
            "Two batch normalization layers follow each other. The second undoes the gamma and "
            "beta of the first, and adds nothing but its own.",
        ),
        "wrong-axis": Mistake(
            _model(
                lambda k: [
                    k.Conv2D(4, 3, use_bias=False),
                    k.BatchNormalization(axis=1),
                    k.Activation("relu"),
                    k.Flatten(),
                    k.Dense(1),
                ],
                shape=(6, 6, 1),
            ),
            "The `axis` of batch normalization is not the channels of the layer before it. It "
            "would keep statistics for each row of the image.",
        ),
        "bias-kept": Mistake(
            _model(
                lambda k: [
                    k.Dense(8),
                    k.BatchNormalization(),
                    k.Activation("relu"),
                    k.Dense(1),
                ]
            ),
            "The layer before batch normalization has a bias. The mean of the batch takes it away "
            "again, and its gradient is 0; beta does its work, so use_bias=False.",
        ),
        "missing-in-a-layer": Mistake(
            _model(lambda k: [*_block(k), k.Dense(8, activation="relu"), k.Dense(1)]),
            "One hidden layer has no batch normalization. What it passes on has whatever scale its "
            "weights give it.",
        ),
        "no-activation": Mistake(
            _model(lambda k: [*_block(k)[:2], k.Dense(1)]),
            "After batch normalization there is no activation. Two linear layers in a row are one, "
            "whatever stands between them that is linear, too.",
        ),
    },
)
