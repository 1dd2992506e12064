"""Rules on what layers, optimizer and batches are set to, and on the values that variables hold."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from bnutils._keras import tf
from bnutils.doctor.rules import flow
from bnutils.doctor.rules.case import BN, Case, values
from bnutils.doctor.rules.registry import Finding, rule
from bnutils.doctor.words import count, listing

SMALL = 8  # values per channel below which the statistics of a batch are mostly noise


@rule("pytorch-momentum", levels="warning", chapter="04_keras")
def pytorch_momentum(case: Case) -> Iterator[Finding]:
    """A momentum that would be usual in PyTorch, where it weighs the new batch, not the old."""
    for layer in case.layers:
        if layer.momentum >= 0.5:
            continue
        where = case.path(layer)
        yield Finding(
            "warning",
            where,
            f"{where} has momentum {layer.momentum:g}: each update replaces "
            f"{1 - layer.momentum:.0%} of the moving statistics.",
            "In Keras momentum is the weight of the old value, in PyTorch that of the new one; at "
            "this setting inference follows the last batch or two.",
            f"Build it with momentum={1 - layer.momentum:g}, then recalibrate(model, x_train).",
        )


@rule("bad-variance", levels="error warning", chapter="06_training_and_inference")
def bad_variance(case: Case) -> Iterator[Finding]:
    """Values that are not numbers, variances below zero, or variances that blow up."""
    behind_weights = {
        call.layer
        for call in case.bn_calls
        if any(map(flow.has_weights, flow.upstream(case.graph, call.inputs[0], lambda each: True)))
    }
    for layer in case.layers:
        where = case.path(layer)
        for variable in layer.weights:
            wrong = int(np.sum(~np.isfinite(values(variable).astype("float64"))))
            if wrong:
                yield Finding(
                    "error",
                    where,
                    f"{variable.name} of {where} is not finite in {wrong} of "
                    f"{count(variable.shape[0], 'channel')}.",
                    "One such value makes every output that passes it NaN.",
                    "Go back to a checkpoint from before; then look for the batch that did it. If "
                    "only moving statistics are hit, recalibrate(model, x_train) mends them.",
                )
        variance = values(layer.moving_variance).astype("float64")
        if np.any(variance < 0):
            yield Finding(
                "error",
                where,
                f"The moving variance of {where} is negative in {int(np.sum(variance < 0))} of "
                f"{count(variance.size, 'channel')}; the lowest is {variance.min():.3g}.",
                "A variance cannot be negative, and its square root is NaN below -epsilon.",
                "Call recalibrate(model, x_train); then find what wrote the value (a conversion, "
                "an average of weights).",
            )
        huge = variance[np.isfinite(variance)] > 1e6
        if layer in behind_weights and np.any(huge):
            yield Finding(
                "warning",
                where,
                f"The moving variance of {where} is above 1e6 in {int(np.sum(huge))} of "
                f"{count(variance.size, 'channel')}; the highest is {np.nanmax(variance):.3g}.",
                "A standard deviation above 1,000 inside a network means inputs that were never "
                "scaled, or activations that explode; half precision ends at 65,504.",
                "Scale the inputs, or lower the learning rate; if the weights are sound, call "
                "recalibrate(model, x_train).",
            )


@rule("never-updated", levels="error warning note", chapter="06_training_and_inference")
def never_updated(case: Case) -> Iterator[Finding]:
    """Moving statistics that are exactly those of a new layer."""
    untrained = []
    for layer in case.layers:
        if not case.fresh(layer):
            continue
        signs = []
        if case.trained(layer):
            signs.append("its gamma or beta have been trained")
        if case.updates:
            signs.append(f"the optimizer has made {count(case.updates, 'update')}")
        if not signs:
            untrained.append(layer)
            continue
        where = case.path(layer)
        frozen = not layer.trainable
        yield Finding(
            "warning" if frozen and not case.trained(layer) else "error",
            where,
            f"The moving statistics of {where} are exactly the initial ones, though "
            f"{' and '.join(signs)}.",
            "It is frozen, so it neither learns nor normalizes."
            if frozen
            else "Inference normalizes with statistics that no data ever reached.",
            "Load the weights that belong to it, or call recalibrate(model, x_train)."
            if frozen
            else "If the training loop called the model without training=True, train again with "
            "it: these weights fit a network that does not normalize. If only the statistics were "
            "lost, call recalibrate(model, x_train).",
        )
    if untrained:
        one = len(untrained) == 1
        yield Finding(
            "note",
            case.path(untrained[0]) if one else "",
            f"{len(untrained)} of {count(len(case.layers), 'batch normalization layer')} "
            f"({listing(map(case.path, untrained))}) "
            f"{'has its' if one else 'have their'} initial moving statistics.",
            "Before training that is as it should be; after training it would be wrong.",
            "Nothing to do before training; after it, recalibrate(model, x_train).",
        )


@rule(
    "batch-of-one",
    levels="error warning",
    chapter="06_training_and_inference",
    needs=("batch_size",),
)
def batch_of_one(case: Case) -> Iterator[Finding]:
    """So few values per channel that the statistics of a batch say nothing."""
    for layer in case.learners:
        positions = case.positions(layer)
        if positions is None or case.batch_size * positions >= SMALL:
            continue
        number = case.batch_size * positions
        where = case.path(layer)
        yield Finding(
            "error" if number == 1 else "warning",
            where,
            f"A batch of {case.batch_size} gives {where} {count(number, 'value')} per channel "
            f"({count(positions, 'position')} in each row).",
            "The mean of one value is that value: the output is beta whatever the input, and no "
            "gradient passes."
            if number == 1
            else "The statistics of so few values are mostly noise"
            + (": every output is +1 or -1 before gamma." if number == 2 else "."),
            "Use larger batches, or GroupNormalization or LayerNormalization in its place.",
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
    hit = {}
    for layer in case.learners:
        positions = case.positions(layer)
        if positions is not None and rest * positions < min(SMALL, case.batch_size * positions / 4):
            weight = (1 - layer.momentum) / (1 - layer.momentum**steps)
            hit[layer] = rest * positions, weight
    for layer, (number, weight) in hit.items():
        where = case.path(layer)
        lost = weight / number  # the variance of n values is too low by 1/n on average
        yield Finding(
            "warning" if number == 1 or lost > 0.1 else "note",
            where,
            f"{case.train_size:,} rows in batches of {case.batch_size:,} leave a last batch of "
            f"{rest}: {count(number, 'value')} per channel for {where}, with a weight of "
            f"{weight:.1%} in its moving statistics at the end of each epoch; that alone makes the "
            f"moving variance {lost:.1%} too small.",
            "The moving average weighs every batch alike, however few rows it has"
            + (", and a single value passes no gradient." if number == 1 else "."),
            "Drop the rest (drop_remainder=True), choose another batch_size, or "
            "recalibrate(model, x_train) in the end.",
        )


@rule("half-precision-variables", levels="warning", chapter="04_keras")
def half_precision_variables(case: Case) -> Iterator[Finding]:
    """Moving statistics kept in 16 bits: small updates are rounded away."""
    half = [
        layer
        for layer in case.layers
        if layer.moving_mean.dtype in ("float16", "bfloat16") and layer.trainable
    ]
    for parent, layers in case.by_parent(half).items():
        dtype = layers[0].moving_mean.dtype
        momentum = max(layer.momentum for layer in layers)
        step = float(_spacing(dtype))
        stall = step / 2 / (1 - momentum) if momentum < 1 else math.inf
        smallest = min(layer.epsilon for layer in layers)
        tiny = "" if smallest >= 6.1e-5 else f" Epsilon {smallest:g} is below what float16 holds."
        yield Finding(
            "warning",
            case.path(layers[0]) if len(layers) == 1 else parent,
            f"{listing(map(case.path, layers))} "
            f"{'keeps its' if len(layers) == 1 else 'keep their'} variables in {dtype}: at "
            f"momentum {momentum:g} a moving average stops up to {stall:.0%} short of its goal, "
            f"since smaller updates are rounded away.{tiny if dtype == 'float16' else ''}",
            "A moving average needs many small updates, and 16 bits cannot hold them.",
            f"Use the policy {'mixed_' + dtype!r}, which keeps variables in float32, or give these "
            "layers dtype='float32'.",
        )


def _spacing(dtype: str) -> tf.Tensor:
    one = tf.constant(1.0, dtype)
    bits = tf.bitcast(one, tf.uint16) + tf.constant(1, tf.uint16)
    return tf.cast(tf.bitcast(bits, dtype), "float32") - 1.0


@rule("gradient-accumulation", levels="warning note", chapter="12_audit", needs=("compiled",))
def gradient_accumulation(case: Case) -> Iterator[Finding]:
    """Gradients of several small batches are summed up, their statistics are not."""
    steps = case.optimizer.gradient_accumulation_steps
    if not steps or not case.learners:
        return
    small = {
        layer: case.batch_size * positions
        for layer in case.learners
        if case.batch_size
        and (positions := case.positions(layer)) is not None
        and case.batch_size * positions < SMALL
    }
    size = f"{case.batch_size:,} rows" if case.batch_size else "one small batch"
    total = f"{case.batch_size * steps:,} rows" if case.batch_size else f"{steps} of them"
    least = f", down to {count(min(small.values()), 'value')} per channel" if small else ""
    yield Finding(
        "warning" if small else "note",
        "",
        f"The optimizer sums the gradients of {steps} batches: a step sees {total}, batch "
        f"normalization normalizes by {size}{least}.",
        "Accumulation makes the batch larger for the gradient alone.",
        "Use larger batches if memory allows, or GroupNormalization."
        if small
        else "Nothing to mend if the batch by itself is large enough.",
    )


@rule("replica-batch", levels="warning note", chapter="12_audit")
def replica_batch(case: Case) -> Iterator[Finding]:
    """Each replica normalizes by its own part of the batch."""
    replicas = case.model.distribute_strategy.num_replicas_in_sync
    local = [layer for layer in case.learners if not layer.synchronized]
    if replicas < 2 or not local:
        return
    share = case.batch_size / replicas if case.batch_size else None
    small = [
        layer
        for layer in local
        if share and (positions := case.positions(layer)) is not None and share * positions < SMALL
    ]
    rows = f"{share:g} of {case.batch_size} rows" if share else "its own rows"
    yield Finding(
        "warning" if small else "note",
        "",
        f"The model trains on {replicas} replicas, and {listing(map(case.path, local))} "
        f"{'is' if len(local) == 1 else 'are'} not synchronized: each replica normalizes by "
        f"{rows}.",
        "The batch of batch normalization is what one replica sees, not what fit is given.",
        "Build with BatchNormalization(synchronized=True), or give each replica more rows.",
    )


@rule("decayed-gamma-beta", levels="note", chapter="12_audit")
def decayed_gamma_beta(case: Case) -> Iterator[Finding]:
    """Weight decay, or a penalty, on gamma and beta."""
    for how, layers in (
        ("a regularizer", _regularized(case)),
        (f"weight_decay={_decay(case)} of the optimizer", _decayed(case)),
    ):
        if layers:
            yield Finding(
                "note",
                case.path(layers[0]) if len(layers) == 1 else "",
                f"{how} pulls gamma and beta of {count(len(layers), 'layer')} "
                f"({listing(map(case.path, layers))}) to zero.",
                "gamma starts at 1, not 0: a small gamma silences its channel, and the weights "
                "before it can undo the penalty.",
                "Usual recipes leave them out: optimizer.exclude_from_weight_decay("
                'var_names=["gamma", "beta"]) before training, no gamma_regularizer.',
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


def _decay(case: Case) -> float | None:
    return getattr(case.optimizer, "weight_decay", None)


def _decayed(case: Case) -> list[BN]:
    optimizer = case.optimizer
    if not _decay(case):
        return []
    # The optimizer remembers what it was asked: it must not remember that an audit asked.
    memory = "_exclude_from_weight_decay_cache"
    before = vars(optimizer).get(memory)
    vars(optimizer)[memory] = {}
    try:
        return [
            layer
            for layer in case.layers
            if layer.trainable and any(map(optimizer._use_weight_decay, layer.trainable_weights))
        ]
    finally:
        del vars(optimizer)[memory]
        if before is not None:
            vars(optimizer)[memory] = before
