"""Rules that look at what happens to data: at the inputs of the layers and at the outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import reduce

import numpy as np

from bnutils._keras import keras
from bnutils.doctor.probe import Moments
from bnutils.doctor.rules.case import BN, Case, values
from bnutils.doctor.rules.registry import Finding, rule
from bnutils.doctor.words import count, listing, short

# Distances of means are in standard deviations of the data, spreads are ratios of variances.
FAR, VERY_FAR = 0.5, 1.0
WIDE, VERY_WIDE = 2.0, 4.0
MANY = 0.75  # of the channels with a tiny variance
SIGMAS = 3.0  # a distance must be larger by so many standard errors


def _pooled(parts: Iterable[Moments]) -> Moments:
    return reduce(Moments.merged, parts)


def _gaps(
    layer: BN, mean: np.ndarray, variance: np.ndarray, moments: Moments
) -> tuple[np.ndarray, np.ndarray]:
    """Distance of means in sd of the data, and log of the ratio of variances, per channel."""
    scale = moments.variance + layer.epsilon
    return (
        (mean - moments.mean) / np.sqrt(scale),
        np.log(np.maximum(variance + layer.epsilon, 1e-30) / scale),
    )


def _noise(case: Case, layer: BN, number: int | None = None) -> tuple[float, float]:
    """Standard errors of both distances: as far as half of the rows are from all of them."""
    half, full = (
        _pooled(seen[layer]) if number is None else seen[layer][number]
        for seen in (case.half_moments, case.moments)
    )
    mean, spread = _gaps(layer, half.mean, half.variance, full)
    return tuple(float(np.sqrt(np.mean(gap**2))) for gap in (mean, spread))


def _moving(layer: BN) -> tuple[np.ndarray, np.ndarray]:
    return tuple(
        values(variable).astype("float64")
        for variable in (layer.moving_mean, layer.moving_variance)
    )


@rule(
    "stale-statistics",
    levels="error warning note",
    chapter="06_training_and_inference",
    needs=("data",),
)
def stale_statistics(case: Case) -> Iterator[Finding]:
    """Moving statistics far from those of the data."""
    for layer in case.layers:
        if layer not in case.moments or case.fresh(layer):
            continue
        mean, variance = _moving(layer)
        if not np.all(np.isfinite(mean) & np.isfinite(variance)):
            continue  # another rule's
        seen = [_pooled(case.moments[layer])]
        if case.noisy_inputs(layer):  # statistics are right if they are those with dropout
            seen.append(_pooled(case.training_moments[layer]))
        noise = _noise(case, layer)
        finding = [_stale(layer, *_gaps(layer, mean, variance, moments), noise) for moments in seen]
        level, evidence = min(finding, key=lambda each: LEVELS.index(each[0]))
        if not level:
            continue
        where = case.path(layer)
        old = layer.momentum ** (case.updates or 0)
        if case.updates and old > 0.05:
            evidence += (
                f" After {count(case.updates, 'update')} at momentum {layer.momentum:g} the values "
                f"from before still weigh {old:.0%}."
            )
        if layer.trainable:
            repair = "Call recalibrate(model, x_train)"
            if case.updates and old > 0.05:
                repair += ", or train longer or with a lower momentum"
            why = "Inference normalizes with these statistics, training with those of the batch."
        else:
            level, why = "note", "The layer is frozen, so this is what it was trained on elsewhere."
            repair = "Check that inputs are scaled as they were there; if so, nothing to mend"
        yield Finding(level, where, f"{evidence} ({case.rows:,} rows used.)", why, repair + ".")


LEVELS = ("", "warning", "error")


def _stale(
    layer: BN, shift: np.ndarray, spread: np.ndarray, noise: tuple[float, float]
) -> tuple[str, str]:
    """(level or "", evidence) for one layer."""
    margin = [SIGMAS * each for each in noise]
    shift, ratio = np.abs(shift), np.abs(spread)
    far = shift > FAR + margin[0]
    wide = ratio > np.log(WIDE) + margin[1]
    very = (shift > VERY_FAR + margin[0]) | (ratio > np.log(VERY_WIDE) + margin[1])
    share = np.mean(far | wide)
    level = "error" if np.mean(very) >= 0.5 else "warning" if share >= 0.25 else ""
    parts = []
    if np.any(far):
        parts.append(
            f"the moving mean is {short(np.median(shift[far]))} sd from the mean of the data in "
            f"{int(np.sum(far))} of {count(far.size, 'channel')} (median of these; the farthest "
            f"{short(shift.max())})"
        )
    if np.any(wide):
        factor = np.exp(np.median(spread[wide]))
        side = "large" if factor > 1 else "small"
        parts.append(
            f"the moving variance is too {side} by a factor of {short(max(factor, 1 / factor))} in "
            f"{int(np.sum(wide))} of {count(wide.size, 'channel')}"
        )
    sentence = " and ".join(parts)
    return level, f"{sentence[:1].upper()}{sentence[1:]}."


@rule("vanishing-variance", levels="warning note", chapter="06_training_and_inference")
def vanishing_variance(case: Case) -> Iterator[Finding]:
    """Channels whose variance is below epsilon, which then are hardly normalized."""
    for layer in case.layers:
        if layer in case.moments:
            variance = _pooled(case.moments[layer]).variance
            source = f"in {count(case.rows, 'row')} of the data"
        elif not case.fresh(layer):
            variance = _moving(layer)[1]
            source = "by its moving variance"
        else:
            continue
        low = (variance < layer.epsilon) & (variance >= 0)
        if not np.any(low):
            continue
        constant = variance < 1e-6 * layer.epsilon
        spread = float(np.sqrt(np.median(variance[low] / (variance[low] + layer.epsilon))))
        where = case.path(layer)
        # Behind another normalization the weights set the scale, and training can raise it: so do
        # depthwise convolutions start. Inputs of a tiny scale, or dead ones, stay as they are.
        tiny = variance < layer.epsilon / 10 if not case.has_bn_before(layer) else constant
        many = np.mean(tiny) >= MANY
        yield Finding(
            "warning" if many else "note",
            where,
            f"{int(np.sum(low))} of {count(low.size, 'channel')} vary less than epsilon "
            f"({layer.epsilon:g}) {source}, {int(np.sum(constant))} not at all; such a channel "
            f"leaves with a spread of {short(spread)} (median) times gamma, not 1.",
            "Epsilon then outweighs the variance, and the layer hardly normalizes."
            if many
            else "A few silent channels are common, after relu above all, and do no harm.",
            "Scale the inputs, look for dead activations before the layer, or build it with a "
            "smaller epsilon."
            if many
            else "Nothing to mend.",
        )


@rule("shared-bn", levels="warning note", chapter="06_training_and_inference")
def shared_bn(case: Case) -> Iterator[Finding]:
    """One layer called several times: one set of statistics for all its inputs."""
    for layer in case.layers:
        calls = len(case.graph.of(layer))
        seen = (case.moments or {}).get(layer, [])
        calls = max(calls, len(seen))
        if calls < 2:
            continue
        where = case.path(layer)
        start = f"{where} is called {calls} times in one pass and keeps one set of statistics"
        level = "note"
        if len(seen) > 1:
            shift, ratio, far = _apart(case, layer, seen)
            start += (
                f"; the inputs of two of its calls differ by {short(shift)} sd in the mean and by "
                f"a factor of {short(ratio)} in the variance (over channels, {case.rows:,} rows)"
            )
            level = "warning" if far and case.learns(layer) else "note"
        yield Finding(
            level,
            where,
            f"{start}.",
            "Each call is normalized by its own batch in training, and by a mix of all of them at "
            "inference."
            if level == "warning"
            else "That is sound as long as the calls see inputs alike.",
            "Give each input a batch normalization layer of its own, or use LayerNormalization."
            if level == "warning"
            else "Nothing to mend if the inputs are alike.",
        )


def _apart(case: Case, layer: BN, seen: list[Moments]) -> tuple[float, float, bool]:
    """The two calls that differ most: (rms distance of means, ratio of variances, too far)."""
    worst = (0.0, 1.0, False)
    for i, one in enumerate(seen):
        for j, two in enumerate(seen[:i]):
            both = _pooled([one, two])
            within = Moments(both.count, two.mean, (one.variance + two.variance) / 2)
            shift = np.sqrt(np.mean(_gaps(layer, one.mean, one.variance, within)[0] ** 2))
            ratio = np.exp(np.sqrt(np.mean(_gaps(layer, one.mean, one.variance, two)[1] ** 2)))
            noise = np.max([_noise(case, layer, number) for number in (i, j)], axis=0) * 2**0.5
            far = shift > FAR + SIGMAS * noise[0] or ratio > WIDE * np.exp(SIGMAS * noise[1])
            worst = max(worst, (float(shift), float(ratio), bool(far)), key=lambda w: (w[2], w[0]))
    return worst


@rule("dropout-before-bn", levels="warning note", chapter="06_training_and_inference")
def dropout_before_bn(case: Case) -> Iterator[Finding]:
    """Dropout raises the variance that BN sees in training; at inference it is gone."""
    for layer in case.layers:
        drops = case.dropout_before(layer)
        if not drops or not case.learns(layer):
            continue
        where = case.path(layer)
        names = listing(
            f"{type(call.layer).__name__} {call.path} (rate {call.layer.rate:g})" for call in drops
        )
        evidence = f"{names} {'acts' if len(drops) == 1 else 'act'} before {where}"
        level = "note"
        if case.moments and layer in case.moments:
            off = _pooled(case.moments[layer]).variance + layer.epsilon
            on = _pooled(case.training_moments[layer]).variance + layer.epsilon
            ratio = float(np.exp(np.median(np.log(on / off))))
            noise = _noise(case, layer)[1] * 2**0.5 / np.sqrt(len(off))
            shifted = abs(np.log(ratio)) > np.log(1.2) + SIGMAS * noise
            level = "warning" if shifted else "note"
            evidence += (
                f": its inputs have {ratio:.2f} times the variance with dropout on that they have "
                f"with it off (median over {count(len(off), 'channel')}, {case.rows:,} rows)"
            )
        yield Finding(
            level,
            where,
            f"{evidence}.",
            "The moving variance is that of training; at inference dropout is off and the inputs "
            "vary by another amount (Li et al. 2019).",
            "Move dropout behind the last batch normalization, or call recalibrate(model, x_train),"
            " which measures with dropout off, and compare."
            if level == "warning"
            else "Nothing to mend while the two variances are alike.",
        )


# What comes out


@rule(
    "modes-disagree", levels="error warning", chapter="06_training_and_inference", needs=("data",)
)
def modes_disagree(case: Case) -> Iterator[Finding]:
    """Training and inference mode of BN give different outputs for the same rows."""
    learners = [layer for layer in case.layers if case.learns(layer)]
    if not learners or any(case.fresh(layer) for layer in learners):
        return  # of a model that is not trained no agreement is expected
    outputs, by_batch = case.outputs, case.batch_outputs
    rows = f"{case.rows:,} rows used, dropout off"
    score = _score(case)
    if score is not None and len(outputs) == 1:
        level, evidence = score(outputs[0], by_batch[0])
    else:
        level, evidence = "", ""
        for one, two, half in zip(outputs, by_batch, case.half_outputs, strict=True):
            found = _disagreement(case, one, two, half)
            if LEVELS.index(found[0]) >= LEVELS.index(level):
                level, evidence = found
    if level:
        yield Finding(
            level,
            "",
            f"{evidence} ({rows}).",
            "fit shows you the one mode, evaluate and predict use the other.",
            "Call recalibrate(model, x_train) and look again.",
        )


def _disagreement(
    case: Case, inference: np.ndarray, batch: np.ndarray, half: np.ndarray
) -> tuple[str, str]:
    """(level or "", evidence) for outputs whose targets are not known."""
    classes = inference.ndim == 2 and inference.shape[1] > 1 and _scores_of_classes(case, batch)
    if classes:
        pick = [np.argmax(each, axis=-1) for each in (inference, batch, half)]
        kept = len(pick[2])
        share = float(np.mean(pick[0] != pick[1]))
        noise = float(np.mean(pick[2] != pick[1][:kept]))
        limits = 0.1, 0.3
        evidence = (
            f"With the moving statistics the model picks another class than with those of the "
            f"batch for {share:.0%} of the rows"
        )
    else:
        spread = np.sqrt(np.mean((batch - batch.mean(axis=0)) ** 2)) + 1e-12
        share = float(np.sqrt(np.mean((inference - batch) ** 2)) / spread)
        noise = float(np.sqrt(np.mean((half - batch[: len(half)]) ** 2)) / spread)
        limits = 0.5, 1.0
        evidence = (
            f"Outputs with the moving statistics differ from those with the statistics of the "
            f"batch by {short(share)} of their own standard deviation"
        )
    if not np.isfinite(share):
        return "error", "Outputs at inference are not finite"
    beyond = [share > max(limit, SIGMAS * noise) for limit in limits]
    return "error" if beyond[1] else "warning" if beyond[0] else "", evidence


def _scores_of_classes(case: Case, outputs: np.ndarray) -> bool:
    named = any("Crossentropy" in name for name in case.losses)
    return named or bool(np.all(outputs >= 0) and np.allclose(outputs.sum(axis=-1), 1, atol=1e-3))


def _score(case: Case) -> Callable[[np.ndarray, np.ndarray], tuple[str, str]] | None:
    """A function (inference, batch) -> (level, evidence) if the compiled loss can judge."""
    losses = keras.tree.flatten(case.model.loss) if case.model.compiled else []
    if case.y is None or len(losses) != 1 or len(keras.tree.flatten(case.y)) != 1:
        return None
    loss = losses[0]
    name = next(iter(case.losses), "")
    y = np.asarray(keras.tree.flatten(case.y)[0])
    if not name:
        return None

    def per_row(outputs: np.ndarray) -> np.ndarray:
        given = y[..., None] if y.ndim == outputs.ndim - 1 and outputs.shape[-1] == 1 else y
        function = keras.losses.get(loss)
        lost = getattr(function, "call", function)(given, outputs)
        return np.asarray(lost, "float64").reshape(len(y), -1).mean(axis=1)

    def right(outputs: np.ndarray) -> np.ndarray:
        if name == "BinaryCrossentropy":
            limit = 0.0 if getattr(loss, "from_logits", False) else 0.5
            return ((outputs > limit) == (y.reshape(outputs.shape) > 0.5)).reshape(len(y), -1)
        wanted = np.argmax(y, axis=-1) if name.startswith("Categorical") else y
        picked = np.argmax(outputs, axis=-1)
        return (picked == wanted.reshape(picked.shape)).reshape(len(y), -1)

    def judge(inference: np.ndarray, batch: np.ndarray) -> tuple[str, str]:
        lost = per_row(inference) - per_row(batch)
        before, after = per_row(batch).mean(), per_row(inference).mean()
        numbers = (
            f"loss {after:.3g} with the moving statistics, {before:.3g} with those of the batch"
        )
        if not np.isfinite(after):
            return "error", f"Loss at inference is {after}"
        sure = lost.mean() > SIGMAS * lost.std() / np.sqrt(len(lost)) + 1e-12
        if "Crossentropy" in name and "Focal" not in name:
            hits = [right(each).mean(axis=1) for each in (inference, batch)]
            drop = hits[1] - hits[0]
            clear = drop.mean() > 2 * drop.std() / np.sqrt(len(drop))
            evidence = (
                f"Accuracy {hits[0].mean():.1%} with the moving statistics, {hits[1].mean():.1%} "
                f"with those of the batch; {numbers}"
            )
            if clear and drop.mean() > 0.1:
                return "error", evidence
            if clear and drop.mean() > 0.03:
                return "warning", evidence
            worse = sure and after > 1.5 * before + 0.1
            return "warning" if worse else "", numbers.capitalize()
        relevant = sure and lost.mean() > 0.02 * _loss_of_the_mean(per_row, y, batch)
        if relevant and after > 2 * before:
            return "error", numbers.capitalize()
        return "warning" if relevant and after > 1.25 * before else "", numbers.capitalize()

    return judge


def _loss_of_the_mean(
    per_row: Callable[[np.ndarray], np.ndarray], y: np.ndarray, outputs: np.ndarray
) -> float:
    """The loss of the best constant prediction: the scale on which a loss is small."""
    constant = np.broadcast_to(np.mean(y, axis=0), (len(y), *np.shape(y)[1:]))
    return per_row(constant.reshape(outputs.shape).astype(outputs.dtype)).mean()
