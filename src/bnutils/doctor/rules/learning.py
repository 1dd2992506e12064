"""Rules that look at what one training step changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bnutils._keras import keras, replicas, traced_steps, written_by
from bnutils.doctor.dry_run import LayerStep, WeightStep, dry_run
from bnutils.doctor.rules import flow
from bnutils.doctor.rules.alone import own_call
from bnutils.doctor.rules.case import BN, Case
from bnutils.doctor.rules.registry import Finding, freeze, rule
from bnutils.doctor.words import count, listing


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
    for path, names, layers in case.places(by_layer):
        yield path, names, [by_layer[layer] for layer in layers]


_KEPT = "fit keeps the function that it traced before the flag was changed."
_STOP = "compile the model again."
_LEARN = "compile the model again, with a new optimizer: the old one knows the weights of then."


def _asked(purpose: str, repair: str) -> str:
    """The repair, for one of two things that a GAN and a fine-tuned model have in common."""
    return (
        f"If they are meant to {purpose} for another model only, as the discriminator of a GAN is "
        "frozen in the combined model and learns by itself: keep it so. If they are meant to "
        f"{purpose} here: {repair}"
    )


@rule(
    "stale-compile", levels="error warning", chapter="09_fine_tuning", needs=("compiled", "dry run")
)
def stale_compile(case: Case) -> Iterator[Finding]:
    """`trainable` was changed after `fit` had fixed what it trains."""
    if not case.dry.traced:
        return
    frozen = _Changes(case.dry.disobeyed)
    frozen.add(step for step in case.dry.learning if not step.layer.trainable)
    # All of a model frozen after its training is how a GAN has its discriminator.
    whole = not case.model.trainable_weights
    for path, names, layers in case.places(frozen.layers):
        yield Finding(
            "warning" if whole else "error",
            "" if whole else path,
            f"{names}: trainable=False, yet the next step of fit changes {frozen.of(layers)}.",
            _KEPT,
            _asked("stand still", _STOP) if whole else _STOP.capitalize(),
        )
    asleep = _asleep(case)
    for path, names, layers in case.places(asleep.layers):
        last = not any(_learner_behind(case, layer) for layer in layers)
        yield Finding(
            "warning" if last else "error",
            path,
            f"{names}: trainable=True, yet the next step of fit does not change "
            f"{asleep.of(layers)}.",
            _KEPT,
            _asked("learn", _LEARN) if last else _LEARN.capitalize(),
        )


class _Changes:
    """Which variables of which layers a step changes, or leaves alone, against their flags."""

    def __init__(self, weights: Iterable[WeightStep]) -> None:
        self._names = {}
        for step in weights:
            self._names.setdefault(step.layer, set()).add(step.variable.name)

    def add(self, steps: Iterable[LayerStep]) -> None:
        for step in steps:
            self._names.setdefault(step.layer, set()).add("moving statistics")

    @property
    def layers(self) -> list[keras.Layer]:
        return list(self._names)

    def of(self, layers: Iterable[keras.Layer]) -> str:
        return listing(sorted({name for layer in layers for name in self._names[layer]}), shown=4)


def _asleep(case: Case) -> _Changes:
    """What the traced step leaves alone, and a step traced now would change."""
    still = [
        step
        for step in case.dry.layers
        if step.layer in case.learners and not step.statistics_written
    ]
    if not still and not case.dry.left_out:
        return _Changes(())
    anew = dry_run(case.subject, case.few, anew=True)
    moved = {step.layer for step in anew.layers if step.statistics_written}
    found = _Changes(w for w in case.dry.left_out if id(w.variable) in anew.trained)
    found.add(step for step in still if step.layer in moved)
    return found


def _learner_behind(case: Case, layer: keras.Layer) -> bool:
    """Whether fit trains something between a layer and the output.

    A base is followed by a head that learns; the discriminator in a GAN is the end of it.
    """
    return any(
        id(variable) in case.dry.trained
        for call in case.graph.of(layer)
        for tensor in call.outputs
        for each in flow.downstream(case.graph, tensor)
        for variable in getattr(each.layer, "weights", ())
    )


@rule("stale-compile", levels="error", chapter="09_fine_tuning")
def stale_inference(case: Case) -> Iterator[Finding]:
    """The layer was frozen after `predict` or `evaluate` had fixed that it follows the batch."""
    functions = {"predict": "predict_function", "evaluate": "test_function"}
    stale = {}
    for name, function in functions.items():
        written = {id for trace in traced_steps(case.model, function) for id in written_by(trace)}
        for layer in case.layers if written else ():
            parts = (*replicas(layer.moving_mean), *replicas(layer.moving_variance))
            if not layer.trainable and any(id(part.handle) in written for part in parts):
                stale.setdefault(layer, []).append(name)
    for path, names, layers in case.places(stale):
        which = sorted({name for layer in layers for name in stale[layer]})
        keep = listing(which) + (" keeps" if len(which) == 1 else " keep")
        yield Finding(
            "error",
            path,
            f"{names}: trainable=False, yet {listing(which)} would still normalize by the batch "
            "and overwrite the moving statistics.",
            f"{keep} what was traced before the flag was changed.",
            "Compile the model again, or call freeze_bn(model), which drops what was traced.",
        )


@rule(
    "nothing-trains", levels="warning note", chapter="09_fine_tuning", needs=("compiled", "dry run")
)
def nothing_trains(case: Case) -> Iterator[Finding]:
    """A compiled model in which no weight would train and no statistic would move."""
    if case.model.trainable_weights or case.dry.learning or case.dry.trained:
        return
    fitted = case.dry.traced  # many a frozen model is compiled for evaluate alone
    yield Finding(
        "warning" if fitted else "note",
        "",
        f"The model is compiled{' and fit has run' if fitted else ''}, yet all its "
        f"{count(len(case.dry.weights), 'trainable weight')} are frozen, and a training step "
        "changes no moving statistic either.",
        f"fit {'runs and changes' if fitted else 'would run and change'} nothing.",
        "If it is to train, set trainable = True on what is to learn and compile the model again. "
        "If it is only evaluated, nothing to mend.",
    )


@rule(
    "frozen-but-learning", levels="error warning note", chapter="09_fine_tuning", needs=("dry run",)
)
def frozen_but_learning(case: Case) -> Iterator[Finding]:
    """BN learns although it is frozen, or although all around it is."""
    frozen = [each for each in case.dry.learning if not each.layer.trainable]
    for path, names, steps in _grouped(case, [] if case.dry.traced else frozen):
        types = listing(sorted({type(step.layer).__name__ for step in steps}))
        yield Finding(
            "error",
            path,
            f"{names}: trainable=False, yet a training step changes {_changed(steps)}.",
            "A frozen layer should stay as it is.",
            f"Let {types} ask self.trainable before it follows the batch, as BatchNormalization "
            "does.",
        )
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
    suspects = _amid_frozen(case, [step for step in awake if step not in alone])
    found = [step.layer for step in (*alone, *suspects)]
    for path, names, steps in _grouped(case, alone):
        yield Finding(
            "warning",
            path,
            f"gamma and beta of {names} are frozen, yet a training step moves their moving "
            "statistics.",
            "Freezing weights does not freeze statistics: only the layer's own trainable=False "
            "does.",
            freeze(case, [step.layer for step in steps], found),
        )
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
            f"{freeze(case, [step.layer for step in steps], found)} If you adapt batch "
            "normalization on purpose, leave it.",
        )


def _parameters_frozen(layer: BN) -> bool:
    own = [variable for variable in (layer.gamma, layer.beta) if variable is not None]
    return bool(own) and not any(variable.trainable for variable in own)


def _leaves(case: Case) -> list:
    """The layers of the model that hold weights themselves."""
    return list(dict.fromkeys(holder for holder, _ in case.subject.weights))


def _frozen(layer: keras.Layer) -> bool:
    return bool(layer.weights) and not layer.trainable_weights


def _amid_frozen(case: Case, steps: list[LayerStep]) -> list:
    """The steps of layers whose neighbors, or all else in their nested model, are frozen."""
    amid = []
    for step in steps:
        before, after = case.neighbors(step.layer)
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
        before, _ = case.neighbors(step.layer)
        kin = [each for each in amid if case.path(each.layer).rpartition("/")[0] == parent]
        if kin and before and all(map(_frozen, before)):
            amid.append(step)
    return amid


@rule(
    "frozen-but-learning", levels="warning", chapter="06_training_and_inference", needs=("dry run",)
)
def moved_by_others(case: Case) -> Iterator[Finding]:
    """A part that the step only calls, as a teacher, whose statistics move all the same."""
    if case.dry.step == "forward" or not case.dry.trained:
        return  # the flags alone say what would train
    expressions = {case.path(part): each for each, part in case.subject.parts.items()}
    for part, steps in _only_called(case).items():
        name = expressions.get(part, part)
        yield Finding(
            "warning",
            part,
            f"A training step trains no weight of {name}, yet it moves the moving statistics of "
            f"{count(len(steps), 'layer')} in it ({listing(step.path for step in steps)}).",
            f"It calls {name} with training=True while others learn: the weights stay and the "
            "statistics follow these data.",
            f"If {name} is to stay as it is, as a teacher, call it with training=False in the "
            "step, or freeze it (trainable = False, then compile the model again); if its "
            "statistics have drifted, recalibrate it on its own data. If another step trains it, "
            "as in a GAN, or something outside the step sets its weights, nothing to mend.",
        )


def _only_called(case: Case) -> dict[str, list[LayerStep]]:
    """The outermost parts of which a step trains nothing, with the layers whose statistics move."""
    found = {}
    for step in case.dry.layers:
        if not (step.statistics_moved and step.layer.trainable):
            continue
        names = step.path.split("/")
        for depth in range(1, len(names)):
            part = "/".join(names[:depth])
            inside = [each for each in case.dry.weights if f"{each.path}/".startswith(f"{part}/")]
            if inside and all(each.trainable and not _set(each) for each in inside):
                found.setdefault(part, []).append(step)
                break
    return found


def _set(step: WeightStep) -> bool:
    return step.trained or step.assigned


@rule("never-updated", levels="error note", chapter="06_training_and_inference", needs=("dry run",))
def forgotten_training(case: Case) -> Iterator[Finding]:
    """The step trains gamma or beta but calls the layer in inference mode."""
    own_step = type(case.model).train_step is not keras.Model.train_step
    fixed = []
    for step in case.dry.layers:
        trained = step.gamma_moved or step.beta_moved
        if not trained or step.statistics_written:
            continue
        if not case.alone(step.layer).learns:
            fixed.append(step)
        elif step.layer in case.learners and case.graph.of(step.layer):
            yield Finding(
                "error",
                step.path,
                f"A training step trains {_changed([step])} of {step.path} but leaves its "
                f"moving statistics as they are ({case.dry.how}).",
                "The step calls the layer without training=True, so batch normalization trains in "
                "inference mode and never sees the data.",
                f"{'Call self(x, training=True) in train_step' if own_step else _HAND_ON}, and "
                "train again.",
            )
    new = [step for step in fixed if not (case.fresh(step.layer) and case.trained(step.layer))]
    for path, names, steps in _grouped(case, new):
        own = listing(sorted({own_call(step.layer) for step in steps}))
        yield Finding(
            "note",
            path,
            f"A training step trains {_changed(steps)} of {names}, whose own call ({own}) leaves "
            "the moving statistics as they are.",
            "The layer is in inference mode in training too. With statistics that fit, that is a "
            "way to fine-tune; with those of a new layer it normalizes nothing.",
            "Nothing to mend if the statistics come with loaded weights; to train from scratch, "
            "let it hand training on.",
        )


_HAND_ON = "Let every call that leads to it take the argument training and hand it on"
