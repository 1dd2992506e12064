"""Rules that look at what one training step changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bnutils._keras import keras
from bnutils.doctor.dry_run import LayerStep
from bnutils.doctor.graph import Call, layer_paths
from bnutils.doctor.rules import flow
from bnutils.doctor.rules.case import BN, Case
from bnutils.doctor.rules.registry import FREEZE, Finding, rule
from bnutils.doctor.words import count, listing

_KEPT = "fit keeps the function that it traced before the flag was changed."


def _changed(steps: Iterable[LayerStep]) -> str:
    """What a step changes, in words."""
    parts = (
        ("moving statistics", any(step.statistics_moved for step in steps)),
        ("gamma", any(step.gamma_moved for step in steps)),
        ("beta", any(step.beta_moved for step in steps)),
    )
    return listing(name for name, moved in parts if moved)


def _grouped(case: Case, steps: Iterable[LayerStep]) -> Iterator[tuple[str, str, list[LayerStep]]]:
    """(path, names, steps) for all steps of layers that stand in one place."""
    by_layer = {step.layer: step for step in steps}
    for parent, layers in case.by_parent(by_layer).items():
        names = f"{count(len(layers), 'layer')} ({listing(map(case.path, layers))})"
        path = case.path(layers[0]) if len(layers) == 1 else parent
        yield path, names, [by_layer[layer] for layer in layers]


def _disobeyed(case: Case, step: str, why: str) -> Iterator[Finding]:
    """Layers that say trainable=False and learn all the same."""
    frozen = [each for each in case.dry.learning if not each.layer.trainable]
    for path, names, steps in _grouped(case, frozen):
        yield Finding(
            "error",
            path,
            f"{names} say trainable=False, yet {step} changes their {_changed(steps)}.",
            why,
            FREEZE,
        )


@rule("stale-compile", levels="error", chapter="09_fine_tuning", needs=("compiled", "dry run"))
def stale_compile(case: Case) -> Iterator[Finding]:
    """`trainable` was changed after `fit` had fixed what it trains."""
    if not case.dry.traced:
        return
    yield from _disobeyed(case, "the next step of fit", _KEPT)
    asleep = [
        step
        for step in case.dry.layers
        if step.layer in case.learners and not step.learns and step.layer.trainable_weights
    ]
    for path, names, _ in _grouped(case, asleep):
        yield Finding(
            "error",
            path,
            f"{names} say trainable=True, yet the next step of fit changes nothing in them.",
            _KEPT,
            "Compile the model again.",
        )


@rule(
    "frozen-but-learning", levels="error warning note", chapter="09_fine_tuning", needs=("dry run",)
)
def frozen_but_learning(case: Case) -> Iterator[Finding]:
    """BN learns although it is frozen, or although all around it is."""
    if not case.dry.traced:
        yield from _disobeyed(case, "a training step", "A frozen layer should stay as it is.")
    recorded = {call.layer for call in case.bn_calls if call.training is False and call.recorded}
    awake = [
        step
        for step in case.dry.learning
        if step.layer.trainable and step.layer not in recorded  # those have a rule of their own
    ]
    alone = [
        step
        for step in awake
        if step.statistics_moved and step.layer.weights and _parameters_frozen(step.layer)
    ]
    for path, names, _ in _grouped(case, alone):
        yield Finding(
            "warning",
            path,
            f"gamma and beta of {names} are frozen, yet a training step moves their moving "
            "statistics.",
            "Freezing weights does not freeze statistics: only the layer's own trainable=False "
            "does.",
            FREEZE,
        )
    suspects = _amid_frozen(case, [step for step in awake if step not in alone])
    others = [
        layer
        for layer in _leaves(case)
        if layer.trainable_weights and not any(layer is bn for bn in case.layers)
    ]
    for path, names, steps in _grouped(case, suspects):
        yield Finding(
            "warning" if others else "note",
            path,
            f"All weights around {names} are frozen, yet a training step changes the "
            f"{_changed(steps)} of {'this layer' if len(steps) == 1 else 'these layers'}.",
            "Frozen weights with drifting batch normalization are no longer the pretrained "
            "function."
            if others
            else "Nothing but batch normalization trains here; that can be a method.",
            FREEZE + " If you adapt batch normalization on purpose, leave it.",
        )


def _parameters_frozen(layer: BN) -> bool:
    own = [variable for variable in (layer.gamma, layer.beta) if variable is not None]
    return bool(own) and not any(variable.trainable for variable in own)


def _leaves(case: Case) -> list:
    """The layers of the model that hold weights themselves."""
    return [layer for layer in layer_paths(case.model) if layer.weights and not layer._layers]


def _frozen(layer: keras.Layer) -> bool:
    return bool(layer.weights) and not layer.trainable_weights


def _amid_frozen(case: Case, steps: list[LayerStep]) -> list:
    """The steps of layers whose neighbors, or all else in their nested model, are frozen."""
    amid = []
    for step in steps:
        before, after = _neighbors(case, step.layer)
        if before and after and all(map(_frozen, before + after)):
            amid.append(step)
    others = [layer for layer in _leaves(case) if not any(layer is bn for bn in case.layers)]
    for step in steps:
        if step in amid:
            continue
        parent = case.path(step.layer).rpartition("/")[0]
        inside = [each for each in others if case.path(each).startswith(f"{parent}/")]
        if parent and inside and all(map(_frozen, inside)):
            amid.append(step)
            continue
        # The last layer of a frozen base has the trainable head behind it.
        before, _ = _neighbors(case, step.layer)
        kin = [each for each in amid if case.path(each.layer).rpartition("/")[0] == parent]
        if kin and before and all(map(_frozen, before)):
            amid.append(step)
    return amid


def _neighbors(case: Case, layer: BN) -> tuple[list, list]:
    """The nearest layers with weights before and after a layer."""

    def open_way(call: Call) -> bool:
        return not flow.has_weights(call)

    before, after = [], []
    for call in case.graph.of(layer):
        behind = flow.upstream(case.graph, call.inputs[0], open_way)
        before += [each.layer for each in behind if flow.has_weights(each)]
        ahead = flow.downstream(case.graph, call.outputs[0], open_way)
        after += [each.layer for each in ahead if flow.has_weights(each)]
    return before, after


@rule("never-updated", levels="error", chapter="06_training_and_inference", needs=("dry run",))
def forgotten_training(case: Case) -> Iterator[Finding]:
    """The step trains gamma or beta but calls the layer in inference mode."""
    for step in case.dry.layers:
        if (step.gamma_moved or step.beta_moved) and not step.statistics_moved:
            calls = case.graph.of(step.layer)
            if step.layer in case.learners and calls and step.layer.momentum < 1:
                yield Finding(
                    "error",
                    step.path,
                    f"A training step trains {_changed([step])} of {step.path} but leaves its "
                    f"moving statistics as they are ({case.dry.how}).",
                    "The step calls the model without training=True, so batch normalization "
                    "trains in inference mode and never sees the data.",
                    "Call self(x, training=True) in train_step, and train again.",
                )
