"""Rules on what layers, optimizer and batches are set to, and on the values that variables hold."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from bnutils._keras import decays, keras, replicas, tf
from bnutils.doctor.rules import flow
from bnutils.doctor.rules.alone import own_call
from bnutils.doctor.rules.case import BN, LEAST_ROWS, Case, momentum_of, setting, values
from bnutils.doctor.rules.gaps import moving_gaps
from bnutils.doctor.rules.registry import Finding, rule
from bnutils.doctor.rules.runs import pooled
from bnutils.doctor.subject import statistics_of
from bnutils.doctor.words import count, listing, short

SMALL = 8  # values per channel below which the statistics of a batch are mostly noise
MOST = 0.5  # of the moving statistics: more than all batches together
FEW_BATCHES = 0.5  # a momentum below it gives the last batch more weight than all before
LEAST_OF_PYTORCH = 1e-3  # no momentum of PyTorch is smaller: it would average over 1,000 batches
HUGE = 1e6  # a variance; its square root is 1,000, and squares of such values leave float16
APART = 0.5  # in sd, as for stale statistics: replicas so far apart predict other things
APART_RATIO = 2.0  # of variances
HARDLY_APART = 0.01  # in sd, or as a share of a variance: more than rounding


def _recalibrate(layers: Iterable[BN], case: Case) -> str:
    """The call that estimates the statistics of some layers anew; frozen ones must be named."""
    layers = list(layers)
    plain = all(layer.trainable for layer in layers)
    named = "" if plain else f", layers={[case.path(layer) for layer in layers]!r}"
    return f"recalibrate(model, x_train{named})"


# Momentum


@rule("bad-momentum", levels="error", chapter="04_keras")
def bad_momentum(case: Case) -> Iterator[Finding]:
    """A momentum with which a moving average cannot work."""
    for layer in case.learners:
        names = ["momentum", *(["renorm_momentum"] if layer.renorm else [])]
        for name in names:
            momentum = setting(getattr(layer, name))
            stuck = 0.9 < momentum < 1.1 and np.float32(momentum) == 1
            if not stuck and 0 <= momentum < 1:
                continue
            where = case.path(layer)
            if stuck:
                does = "its moving statistics never change"
            elif math.isfinite(momentum):
                does = f"each update weighs the batch by {1 - momentum:g} and the old value by "
                does += f"{momentum:g}"
            else:
                does = "no update can weigh old and new by it"
            yield Finding(
                "error",
                where,
                f"{where} has {name}={_shown(getattr(layer, name))}: {does}.",
                "Training normalizes by the batch, inference by what the layer started with."
                if stuck
                else "A moving average needs weights from 0 to 1; with others it overshoots, and "
                "beyond -1 and 1 it grows without bound.",
                "Build it with a momentum from 0.9 to 0.999 and train again"
                + (
                    ". If the statistics are to stay as they are, freeze the layer instead "
                    "(trainable=False)."
                    if stuck
                    else "."
                ),
            )


def _shown(given: Any) -> str:
    """A setting as a number, or whatever else it is, in few characters."""
    value = setting(given)
    return textwrap.shorten(repr(given), 40) if math.isnan(value) else f"{value:g}"


@rule("pytorch-momentum", levels="warning", chapter="04_keras")
def pytorch_momentum(case: Case) -> Iterator[Finding]:
    """A momentum that would be usual in PyTorch, where it weighs the new batch, not the old."""
    for layer in case.learners:
        momentum = momentum_of(layer)
        if not momentum < FEW_BATCHES:
            continue
        where = case.path(layer)
        if momentum < LEAST_OF_PYTORCH:
            follows = "the last batch alone"
            build = "Build it with momentum=0.99, the default of Keras (0.9 for short training)"
        else:
            follows = "the last few batches"
            build = f"If {momentum:g} comes from PyTorch, build it with momentum={1 - momentum:g}"
        yield Finding(
            "warning",
            where,
            f"{where} has momentum {momentum:g}: each update replaces "
            f"{100 * (1 - momentum):.3g}% of the moving statistics.",
            "In Keras momentum is the weight of the old value, in PyTorch that of the new one; at "
            f"this setting inference follows {follows}.",
            f"{build}, then {_recalibrate([layer], case)}. If inference is to follow the last "
            "batches, as in some meta-learning, keep it.",
        )


# Values


def _not_finite(variable: keras.Variable) -> int:
    """How many values are NaN or infinite."""
    if not keras.backend.is_float_dtype(variable.dtype):
        return 0
    return int(np.sum(~np.isfinite(values(variable))))


def _broken(case: Case) -> dict[str, list[tuple[keras.Variable, int]]]:
    """The weights with values that are NaN or infinite, by the path of their layer."""
    found = {}
    for layer, variable in case.subject.weights:
        if wrong := _not_finite(variable):
            found.setdefault(case.path(layer), []).append((variable, wrong))
    return found


def _statistics(case: Case) -> set[int]:
    """The ids of all variables that recalibrating a layer writes."""
    return {id(v) for layer in case.layers for v in statistics_of(layer)}


def _amounts(variables: Iterable[tuple[keras.Variable, int]]) -> str:
    parts = [f"{v.name} ({wrong:,} of {math.prod(v.shape):,})" for v, wrong in variables]
    return listing(parts, shown=6)


@rule("not-finite", levels="error", chapter="06_training_and_inference")
def not_finite(case: Case) -> Iterator[Finding]:
    """NaN or infinity in a weight of the model that is no part of batch normalization."""
    normalizers = {case.path(layer) for layer in case.layers}
    for path, variables in _broken(case).items():
        if path not in normalizers:
            yield Finding(
                "error",
                path,
                f"Weights of {path or 'the model'} are NaN or infinite: {_amounts(variables)}.",
                "What is computed with such a value is NaN or infinite too.",
                _go_back(case),
            )


def _go_back(case: Case) -> str:
    """What to do about weights that are not finite, which no statistics can mend."""
    return (
        "Go back to a checkpoint from before, or train anew, and look for the step that did it (a "
        "batch with NaN, a learning rate that is too high, a conversion). recalibrate cannot help."
    )


@rule("bad-variance", levels="error warning", chapter="06_training_and_inference")
def bad_variance(case: Case) -> Iterator[Finding]:
    """Values of a layer that are not numbers, variances below zero, or variances that blow up."""
    broken = _broken(case)
    statistics = _statistics(case)
    lost = any(id(v) not in statistics for variables in broken.values() for v, _ in variables)
    behind_weights = {
        call.layer
        for call in case.bn_calls
        if any(map(flow.has_weights, flow.upstream(case.graph, call.inputs[0])))
    }
    for layer in case.layers:
        where = case.path(layer)
        again = f"Call {_recalibrate([layer], case)}"
        epsilon = setting(layer.epsilon)
        if not 0 <= epsilon < math.inf:
            yield Finding(
                "error",
                where,
                f"{where} has epsilon={_shown(layer.epsilon)}.",
                "It is added to the variance before the square root is taken: the root of what is "
                "negative then is NaN, and by infinity or NaN no output tells anything.",
                "Set layer.epsilon to that of the training; the default of Keras is 0.001.",
            )
        if where in broken:
            yield Finding(
                "error",
                where,
                f"Variables of {where} are NaN or infinite: {_amounts(broken[where])}.",
                "What is computed with such a value is NaN or infinite, or, behind an infinite "
                "variance, the same for every input.",
                _go_back(case)
                if lost
                else f"{again}: moving statistics alone are hit. Then look for the batch that did "
                "it.",
            )
        variance = values(layer.moving_variance).astype("float64")
        variance = variance[np.isfinite(variance)]
        if np.any(variance < 0):
            # A rounding error below zero does nothing next to epsilon.
            matters = variance.min() < -0.01 * epsilon
            yield Finding(
                "error" if matters else "warning",
                where,
                f"The moving variance of {where} is negative in {int(np.sum(variance < 0))} of "
                f"{count(variance.size, 'channel')}; the lowest is {variance.min():.3g}.",
                f"A variance cannot be negative; below -epsilon (-{layer.epsilon:g}) its square "
                "root is NaN.",
                "If the arrays were set by hand or converted, check their order first (gamma, "
                "beta, moving_mean, moving_variance). Otherwise "
                f"{again[0].lower()}{again[1:]}, and find what wrote the value.",
            )
        if layer in behind_weights and np.any(variance > HUGE):
            yield Finding(
                "warning",
                where,
                f"The moving variance of {where} is above {HUGE:g} in "
                f"{int(np.sum(variance > HUGE))} of {count(variance.size, 'channel')}; the highest "
                f"is {variance.max():.3g}.",
                "A standard deviation above 1,000 inside a network means inputs that were never "
                "scaled, activations that explode, or statistics that one bad batch has spoiled; "
                "half precision ends at 65,504.",
                f"{again} and look again. If the variance stays, scale the inputs or lower the "
                "learning rate, and train again.",
            )


@rule("never-updated", levels="error warning note", chapter="06_training_and_inference")
def never_updated(case: Case) -> Iterator[Finding]:
    """Moving statistics that are exactly those of a new layer."""
    untrained, amid = [], {}
    for layer in case.layers:
        if not case.fresh(layer):
            continue
        signs = []
        if case.trained(layer):
            signs.append("its gamma or beta have been trained")
        if case.updates:
            signs.append(f"the optimizer has made {count(case.updates, 'update')}")
        where = case.path(layer)
        if signs:
            yield Finding(
                "warning" if not layer.trainable and not case.trained(layer) else "error",
                where,
                f"The moving statistics of {where} are exactly the initial ones, though "
                f"{' and '.join(signs)}.",
                *_without_statistics(case, [layer]),
            )
        elif (around := case.amid_trained(layer)) and not (_measured(case) and case.modes.sound):
            amid[layer] = around
        else:
            untrained.append(layer)
    yield from _amid_trained(case, amid)
    if untrained:
        one = len(untrained) == 1
        yield Finding(
            "note",
            case.path(untrained[0]) if one else "",
            f"{len(untrained)} of {count(len(case.layers), 'batch normalization layer')} "
            f"({listing(map(case.path, untrained))}) "
            f"{'has its' if one else 'have their'} initial moving statistics.",
            "Before training that is as it should be; after training it would be wrong.",
            f"Nothing to do before training; after it, {_recalibrate(untrained, case)}.",
        )


def _amid_trained(case: Case, amid: dict[BN, list[keras.Layer]]) -> Iterator[Finding]:
    """New layers between trained ones: only they can have been put there on purpose."""
    harm = bool(amid) and _measured(case) and case.modes.harm
    shown = f" {case.modes.numbers()} ({case.rows:,} rows used)." if harm else ""
    meant = "" if harm else " If it was put into a trained model on purpose, train on with it."
    alike = {}
    for layer in amid:
        alike.setdefault((layer.trainable, case.learns(layer)), []).append(layer)
    for path, names, layers in itertools.chain.from_iterable(map(case.places, alike.values())):
        around = dict.fromkeys(case.path(each) for layer in layers for each in amid[layer])
        why, repair = _without_statistics(case, layers)
        yield Finding(
            "error" if harm else "warning",
            path,
            f"The moving statistics of {names} are exactly the initial ones, though the weights "
            f"before and after ({listing(around)}) have been trained.{shown}",
            why,
            repair + meant,
        )


def _measured(case: Case) -> bool:
    """Whether there are data enough to compare the two modes."""
    return (case.rows or 0) >= LEAST_ROWS and case.modes.finite


def _without_statistics(case: Case, layers: list[BN]) -> tuple[str, str]:
    """Why a trained model has layers with initial statistics, and what to do about it."""
    again = f"call {_recalibrate(layers, case)}"
    lost = (
        "If the weights come from a file or another model, the statistics did not come with them "
        "(a load by name, a copy or an average of the trainable weights only): load or copy all "
        f"of model.weights. If only the statistics were lost, {again}."
    )
    layer = layers[0]
    if not layer.trainable:
        return (
            "A frozen layer with these statistics neither learns nor normalizes.",
            f"Load the weights that belong to it, with the statistics, or {again}.",
        )
    if case.learns(layer):
        return (
            "Inference normalizes with statistics that no data ever reached.",
            f"{lost} If the training loop called the model without training=True, train again with "
            "it: these weights fit a network that does not normalize.",
        )
    by_itself = not case.alone(layer).learns
    why = own_call(layer) if by_itself else "A call with training=False"
    mend = f"let {why} hand training on" if by_itself else "leave training=False out of the call"
    return (
        f"{why} keeps it in inference mode in training too, so it normalizes in neither mode: with "
        "these statistics it is a scale and a shift.",
        f"If it is meant to keep the statistics of other weights, load those. If it is meant to "
        f"normalize, {mend} and train again: these weights fit a network that does not normalize, "
        "and other statistics would spoil it.",
    )


@rule("few-updates", levels="warning", chapter="06_training_and_inference")
def few_updates(case: Case) -> Iterator[Finding]:
    """So few updates that what was there before weighs more than all batches together."""
    shares = {
        layer: share
        for layer in case.learners
        if not case.fresh(layer)
        and (share := _share_of_the_start(case, layer)) > MOST
        and not _fits(case, layer)
    }
    if shares:
        momenta = listing(sorted({f"{layer.momentum:g}" for layer in shares}))
        yield Finding(
            "warning",
            case.path(next(iter(shares))) if len(shares) == 1 else "",
            f"The optimizer has made {count(case.updates, 'update')}: at momentum {momenta} the "
            f"values from before them still weigh {max(shares.values()):.0%} in the moving "
            f"statistics of {count(len(shares), 'layer')} ({listing(map(case.path, shares))}).",
            "If training began with them, inference normalizes by statistics that are mostly the "
            "initial 0 and 1, whatever fit has shown.",
            "Call recalibrate(model, x_train), or train longer or with a lower momentum. If the "
            f"statistics came with loaded weights, or have been recalibrated since, {LEAST_ROWS} "
            "rows of the training data or more, audit(model, x_train), show whether they fit.",
        )


def _share_of_the_start(case: Case, layer: BN) -> float:
    """How much the initial values can still weigh in the moving statistics of a layer."""
    if not momentum_of(layer) < 1:
        return 0.0
    share = case.old_share(layer) ** max(1, len(case.graph.of(layer)))
    # No batch lowers a variance faster: one below that share did not begin with a 1.
    from_one = isinstance(layer.moving_variance_initializer, keras.initializers.Ones)
    lowest = float(values(layer.moving_variance).min())
    return 0.0 if from_one and lowest < 0.99 * share else share


def _fits(case: Case, layer: BN) -> bool:
    """Whether data have been given that tell of the statistics, or a few rows that they suit."""
    if layer not in case.moments:
        return False
    found = moving_gaps(layer, pooled(case.moments[layer]))
    near = (np.abs(found.shift) < APART) & (np.abs(found.spread) < np.log(APART_RATIO))
    return case.rows >= LEAST_ROWS or bool(np.mean(near) > 0.5)


# Batches


def _values(case: Case, layer: BN, rows: int | None) -> int | None:
    """Values per channel of which a layer takes the statistics in a batch of so many rows.

    A layer that is not synchronized sees the rows of its own replica. None if it is not known.
    """
    positions = case.positions(layer)
    if rows is None or positions is None:
        return None
    return max(1, rows // _shares(case, layer)) * positions


def _shares(case: Case, layer: BN) -> int:
    """Into how many parts a layer takes a batch, each with statistics of its own."""
    replicas = case.model.distribute_strategy.num_replicas_in_sync
    together = replicas < 2 or (layer.synchronized and layer not in _masked(case))
    return 1 if together else replicas


def _masked(case: Case) -> set[BN]:
    """The layers that are given a mask: Keras never synchronizes those."""
    held, _ = flow.masks(case.graph)
    return {call.layer for call in case.bn_calls if len(call.inputs) > 1 or call.inputs[0] in held}


def _few(case: Case, layers: Iterable[BN]) -> dict[BN, int]:
    """The layers that get fewer than SMALL values per channel in a batch, with the number."""
    numbers = {layer: _values(case, layer, case.batch_size) for layer in layers}
    return {layer: n for layer, n in numbers.items() if n is not None and n < SMALL}


@rule(
    "batch-of-one",
    levels="error warning",
    chapter="06_training_and_inference",
    needs=("batch_size",),
)
def batch_of_one(case: Case) -> Iterator[Finding]:
    """So few values per channel that the statistics of a batch say nothing."""
    for layer, number in _few(case, case.learners).items():
        if layer.renorm and number > 2:
            continue  # made for it: it puts the noise of the batch right by the moving statistics
        where = case.path(layer)
        if layer.renorm:
            why = (
                "Batch renormalization puts the outputs right by its moving statistics, but the "
                f"gradient goes through {'one value' if number == 1 else 'two values'}, which "
                f"normalized {'is 0' if number == 1 else 'are +1 and -1'} whatever the input: "
                f"{'none' if number == 1 else 'next to none'} reaches the layers before it."
            )
        elif number == 1:
            why = (
                "The mean of one value is that value: the output is beta whatever the input, and "
                "no gradient passes."
            )
        else:
            why = "The statistics of so few values are mostly noise" + (
                ": every output is +1 or -1 before gamma." if number == 2 else "."
            )
        parts = _shares(case, layer)
        share = f" on each of {parts} replicas" if parts > 1 else ""
        yield Finding(
            "error" if number == 1 else "warning",
            where,
            f"A batch of {case.batch_size} gives {where} {count(number, 'value')} per channel"
            f"{share} ({count(case.positions(layer), 'position')} in each row).",
            why,
            ("Build with BatchNormalization(synchronized=True), or use " if parts > 1 else "Use ")
            + "larger batches, or GroupNormalization or LayerNormalization in its place.",
        )


@rule(
    "partial-batch",
    levels="warning note",
    chapter="06_training_and_inference",
    needs=("batch_size", "train_size"),
)
def partial_batch(case: Case) -> Iterator[Finding]:
    """A last batch so small that its statistics spoil the moving average."""
    rest = case.train_size % case.batch_size
    if not rest or case.train_size < case.batch_size:
        return
    steps = -(-case.train_size // case.batch_size)
    for layer in case.learners:
        number, full = (_values(case, layer, rows) for rows in (rest, case.batch_size))
        if number is None or number >= min(SMALL, full / 4) or not momentum_of(layer) < 1:
            continue
        where = case.path(layer)
        weight = (1 - layer.momentum) / (1 - layer.momentum**steps)
        lost = weight / number  # the variance of n values is too low by 1/n on average
        yield Finding(
            "warning" if number == 1 or lost > 0.1 else "note",
            where,
            f"{case.train_size:,} rows in batches of {case.batch_size:,} leave a last batch of "
            f"{rest}: {count(number, 'value')} per channel for {where}, with a weight of "
            f"{weight:.1%} in its moving statistics at the end of each epoch; that alone makes the "
            f"moving variance at least {lost:.1%} too small on average.",
            "The moving average weighs every batch alike, however few rows it has"
            + (", and a single value passes no gradient." if number == 1 else "."),
            "Drop the rest (drop_remainder=True), choose another batch_size, or "
            "recalibrate(model, x_train) in the end.",
        )


# Precision


@rule("half-precision-variables", levels="warning", chapter="04_keras")
def half_precision_variables(case: Case) -> Iterator[Finding]:
    """Moving statistics kept in 16 bits: small updates are rounded away."""
    half = [
        layer
        for layer in case.layers
        if layer.moving_mean.dtype in ("float16", "bfloat16")
        and layer.trainable
        and momentum_of(layer) < 1
    ]
    for parent, layers in case.by_parent(half).items():
        dtype = layers[0].moving_mean.dtype
        momentum = max(layer.momentum for layer in layers)
        stall = _spacing(dtype) / 2 / (1 - momentum)
        ends = " A variance above 65,504 becomes infinite." if dtype == "float16" else ""
        yield Finding(
            "warning",
            case.path(layers[0]) if len(layers) == 1 else parent,
            f"{listing(map(case.path, layers))} "
            f"{'keeps its' if len(layers) == 1 else 'keep their'} variables in {dtype}: at "
            f"momentum {momentum:g} a moving average stops up to {stall:.0%} short of its goal, "
            f"since smaller updates are rounded away.{ends}",
            "A moving average needs many small updates, and 16 bits cannot hold them.",
            f"Use the policy {'mixed_' + dtype!r}, which keeps variables in float32, or give these "
            "layers dtype='float32'.",
        )


def _spacing(dtype: str) -> float:
    """The distance from 1 to the next number."""
    one = tf.constant(1.0, dtype)
    bits = tf.bitcast(one, tf.uint16) + tf.constant(1, tf.uint16)
    return float(tf.cast(tf.bitcast(bits, dtype), "float32") - 1.0)


# The optimizer and the strategy


@rule(
    "gradient-accumulation", levels="warning note", chapter="11_many_devices", needs=("compiled",)
)
def gradient_accumulation(case: Case) -> Iterator[Finding]:
    """Gradients of several small batches are put together, their statistics are not."""
    steps = case.optimizer.gradient_accumulation_steps
    if not steps or not case.learners:
        return
    few = _few(case, case.learners)
    size = f"{case.batch_size:,} rows" if case.batch_size else "one small batch"
    parts = max(_shares(case, layer) for layer in case.learners)
    if parts > 1:
        size += f", of which each of {parts} replicas takes its part"
    total = f"{case.batch_size * steps:,} rows" if case.batch_size else f"{steps} of them"
    least = f", down to {count(min(few.values()), 'value')} per channel" if few else ""
    yield Finding(
        "warning" if few else "note",
        "",
        f"The optimizer averages the gradients of {steps} batches: a step sees {total}, batch "
        f"normalization normalizes by {size}{least}.",
        "Accumulation makes the batch larger for the gradient alone."
        + (" In Keras 3.15 `fit` fails with it on several replicas." if parts > 1 else ""),
        "Use larger batches if memory allows, or GroupNormalization."
        if few
        else "Nothing to mend if the batch by itself is large enough.",
    )


@rule("averaged-weights", levels="note", chapter="06_training_and_inference", needs=("compiled",))
def averaged_weights(case: Case) -> Iterator[Finding]:
    """The optimizer puts averages in the place of the weights; the statistics are of the steps."""
    if not case.averages_weights or not case.learners:
        return
    optimizer = case.optimizer
    how = (
        f"use_ema=True, ema_momentum={optimizer.ema_momentum:g}"
        if optimizer.use_ema
        else type(optimizer).__name__
    )
    yield Finding(
        "note",
        "",
        f"The optimizer averages the weights over its steps ({how}); the moving statistics of "
        f"{count(len(case.learners), 'layer')} ({listing(map(case.path, case.learners))}) are "
        "those of the weights of each step, not of the average.",
        "Once the averages are in place (at the end of fit, or by SwapEMAWeights) the activations "
        "are others than those that the moving statistics describe.",
        "After training, with the averages in place, call recalibrate(model, x_train).",
    )


@rule("replica-batch", levels="error warning note", chapter="11_many_devices")
def replica_batch(case: Case) -> Iterator[Finding]:
    """Each replica normalizes by its own part of the batch, and keeps statistics of its own."""
    replicas = case.model.distribute_strategy.num_replicas_in_sync
    if replicas < 2:
        return
    local = [layer for layer in case.learners if _shares(case, layer) > 1]
    if local:
        yield from _without_rows(case, replicas, local)
        yield _trained_apart(case, local)
    others = [layer for layer in case.layers if layer not in local]
    shift, ratio, where = _farthest(case, others)
    if _differ(shift, ratio):
        apart = [each for each in others if _differ(*_apart(each))]
        yield Finding(
            "warning" if shift > APART or ratio > APART_RATIO else "note",
            where,
            f"The model runs on {replicas} replicas.{_told(shift, ratio, where)}",
            "Of the rows that evaluate and predict are given, each replica normalizes its part by "
            "statistics of its own; a saved file holds those of the first.",
            f"{_recalibrate(apart, case)} gives all replicas the same statistics.",
        )


def _without_rows(case: Case, replicas: int, local: list[BN]) -> Iterator[Finding]:
    """Batches of which a replica gets no row, and takes the mean of nothing."""
    masked = _masked(case)  # there Keras divides by a little more than the number of values
    plain = [case.path(layer) for layer in local if layer not in masked]
    if not plain or not case.batch_size:
        return
    rest = (case.train_size or 0) % case.batch_size
    whole = f"Of each batch of {count(case.batch_size, 'row')}"
    last = f"{case.train_size or 0:,} rows in batches of {case.batch_size:,}: of the last {rest}"
    for rows, which in ((case.batch_size, whole), (rest, last)):
        # TensorFlow deals a batch out in pieces of equal size; the last ones may be empty.
        empty = rows and replicas - math.ceil(rows / math.ceil(rows / replicas))
        if empty:
            yield Finding(
                "error",
                "",
                f"{which}, {empty} of {replicas} replicas {'gets' if empty == 1 else 'get'} none, "
                f"and {listing(plain)} {'is' if len(plain) == 1 else 'are'} not synchronized.",
                "The mean of no rows is NaN. Gradients are summed over the replicas: that step "
                "makes gamma NaN on all of them, the next one every weight.",
                "Choose a batch_size that leaves no such rest, or drop the rest "
                "(drop_remainder=True), or build with BatchNormalization(synchronized=True).",
            )
            return


def _trained_apart(case: Case, local: list[BN]) -> Finding:
    """Layers that follow the rows of their own replica alone."""
    replicas = case.model.distribute_strategy.num_replicas_in_sync
    plain = [layer for layer in local if not layer.synchronized]
    masked = [layer for layer in local if layer.synchronized]
    reasons = []
    if plain:
        are = "is" if len(plain) == 1 else "are"
        reasons.append(f"{listing(map(case.path, plain))} {are} not synchronized")
    if masked:
        are, gets = ("is", "it gets") if len(masked) == 1 else ("are", "they get")
        reasons.append(
            f"{listing(map(case.path, masked))} {are} synchronized to no effect, since {gets} a "
            f"mask, with which Keras {keras.__version__} counts on each replica by itself"
        )
    share = f"{case.batch_size / replicas:g} of {case.batch_size}" if case.batch_size else "its own"
    shift, ratio, where = _farthest(case, local)
    told = _told(shift, ratio, where) if shift or ratio > 1 else ""
    far = shift > APART or ratio > APART_RATIO
    mends = []
    if plain:
        mends.append("Build with BatchNormalization(synchronized=True)")
    if masked:
        mends.append(
            "Use LayerNormalization behind the mask, which takes each position by itself"
            if not plain
            else "use LayerNormalization behind a mask"
        )
    return Finding(
        "warning" if _few(case, local) or far else "note",
        "",
        f"The model trains on {replicas} replicas, and {' and '.join(reasons)}: each replica "
        f"normalizes by {share} rows.{told}",
        "The batch of batch normalization is what one replica sees, not what fit is given. Each "
        "replica keeps statistics of its own; a saved file holds those of the first.",
        f"{', '.join(mends)}, or give each replica more rows; recalibrate(model, x_train) then "
        "gives all replicas the same statistics.",
    )


def _differ(shift: float, ratio: float) -> bool:
    """Whether replicas are farther apart than rounding brings them."""
    return shift > HARDLY_APART or ratio > 1 + HARDLY_APART


def _farthest(case: Case, layers: Iterable[BN]) -> tuple[float, float, str]:
    """How far the replicas are apart in some layers, and in which the most."""
    return max(((*_apart(layer), case.path(layer)) for layer in layers), default=(0.0, 1.0, ""))


def _told(shift: float, ratio: float, where: str) -> str:
    return (
        f" Their moving statistics differ by up to {short(shift)} sd in the mean and by a "
        f"factor of {short(ratio)} in the variance ({where})."
    )


def _apart(layer: BN) -> tuple[float, float]:
    """How far the replicas are from the first: (in its sd, ratio of variances), the farthest."""
    means, variances = (
        np.array([copy.numpy() for copy in replicas(variable)])
        for variable in (layer.moving_mean, layer.moving_variance)
    )
    scale = np.maximum(variances, 0) + layer.epsilon
    with np.errstate(invalid="ignore"):
        shift = np.abs(means - means[0]) / np.sqrt(scale[0])
        ratio = np.exp(np.abs(np.log(scale / scale[0])))
    return float(np.nan_to_num(shift).max()), float(np.nan_to_num(ratio, nan=1.0).max())


@rule("decayed-gamma-beta", levels="note", chapter="12_audit")
def decayed_gamma_beta(case: Case) -> Iterator[Finding]:
    """Weight decay, or a penalty, on gamma and beta."""
    decay = getattr(case.optimizer, "weight_decay", None)
    for how, layers in (
        ("A regularizer", _regularized(case)),
        (f"weight_decay={decay} of the optimizer", _decayed(case) if decay else []),
    ):
        if layers:
            yield Finding(
                "note",
                case.path(layers[0]) if len(layers) == 1 else "",
                f"{how} acts on gamma or beta of {count(len(layers), 'layer')} "
                f"({listing(map(case.path, layers))}).",
                "What pulls gamma to 0 pulls it away from 1, where it starts: a small gamma "
                "silences its channel, and weights behind it can grow to undo that.",
                "Usual recipes leave them out: optimizer.exclude_from_weight_decay("
                'var_names=["gamma", "beta"]) before training, no gamma_regularizer and no '
                "beta_regularizer.",
            )


def _regularized(case: Case) -> list[BN]:
    return [
        layer
        for layer in case.layers
        if layer.trainable
        and (
            (layer.scale and layer.gamma_regularizer is not None)
            or (layer.center and layer.beta_regularizer is not None)
        )
    ]


def _decayed(case: Case) -> list[BN]:
    return [
        layer
        for layer in case.layers
        if layer.trainable and any(decays(case.optimizer, v) for v in layer.trainable_weights)
    ]
