"""Rules on the statistics: those that layers keep against those that the data show."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from bnutils.doctor.probe import Moments
from bnutils.doctor.rules.case import BN, Case, values
from bnutils.doctor.rules.gaps import Gaps, gaps, moving, moving_gaps, noise
from bnutils.doctor.rules.modes import LEVELS
from bnutils.doctor.rules.outliers import outliers
from bnutils.doctor.rules.ranges import drowns
from bnutils.doctor.rules.registry import Finding, rule
from bnutils.doctor.rules.runs import SIGMAS, pooled
from bnutils.doctor.words import count, listing, short

# Distances of means are in standard deviations of the data, spreads are ratios of variances.
FAR, VERY_FAR = 0.5, 1.0
WIDE, VERY_WIDE = 2.0, 4.0
#: A bias of the variance that all channels share: they scale the outputs by a fifth, all alike.
EVEN = 1.4
#: A frozen layer whose inputs vary five times as much as those of its training, or a fifth: data of
#: another domain are within that, data of another scale (0 to 255, 0 to 1, standardized) are not.
GROSS = 25.0
OLD = 0.05  # of the moving statistics that is from before training
MANY = 0.75  # of the channels with a tiny variance
LIKE_TRAINING = (
    "If these rows are like those of training, call recalibrate(model, x_train){more}; if they are "
    "of another kind (one class, another sensor, no events), the model may be sound: audit it with "
    "rows like those of training, with their targets, and compiled (now: {unknown})."
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
        if layer not in case.moments or case.fresh(layer) or not _measurable(case, layer):
            continue
        if not layer.trainable:
            yield from _frozen(case, layer)
            continue
        seen = [pooled(case.moments[layer])]
        if case.noisy_inputs(layer):  # statistics are right if they are those with dropout
            seen.append(pooled(case.runs.training_moments[layer]))
        errors = noise(case, layer)
        found = [_stale(moving_gaps(layer, moments), errors) for moments in seen]
        level, evidence = min(found, key=lambda each: LEVELS.index(each[0]))
        if level:
            yield _weighed(case, layer, level, f"{evidence} ({case.rows:,} rows used.)")


def _measurable(case: Case, layer: BN) -> bool:
    """Whether there is a distance to speak of: other rules tell of what cannot be statistics."""
    mean, variance = moving(layer)
    moments = pooled(case.moments[layer])
    parts = mean, variance, moments.mean, moments.variance
    finite = all(np.all(np.isfinite(part)) for part in parts)
    return finite and np.all(variance >= 0) and _order(case, layer) is None


def _weighed(case: Case, layer: BN, level: str, evidence: str) -> Finding:
    """What far statistics mean: for the model, or only for these rows."""
    old = case.old_share(layer)
    early = old > OLD
    if early:
        evidence += (
            f" After {count(case.updates, 'update')} at momentum {layer.momentum:g} the values "
            f"from before still weigh {old:.0%}."
        )
    more = ", or train longer or with a lower momentum" if early else ""
    if case.averages_weights:
        evidence += (
            " The optimizer averages the weights (use_ema), and the statistics are those of the "
            "weights that it averaged."
        )
    why = "Inference normalizes with these statistics, training with those of the batch."
    if case.modes.sound:
        return Finding(
            "note",
            case.path(layer),
            evidence,
            "On the targets given, inference does as well as batch mode: this distance does no "
            "harm.",
            "Nothing to mend.",
        )
    modes = case.modes
    if modes.harm and not modes.curable:
        repair = "See modes-disagree: the statistics of all rows would do no better."
    elif modes.harm or early or case.averages_weights:
        repair = f"Call recalibrate(model, x_train){more}."
    else:
        # Nobody has said what is right: the model may be wrong, or the rows.
        level = "warning"
        repair = LIKE_TRAINING.format(more=more, unknown=modes.why_unknown)
    extreme = outliers(case, [layer])
    if extreme:
        evidence, repair = f"{evidence} {extreme.evidence}", f"{extreme.repair} {repair}"
    if drowns(case, layer):
        repair = f"Mend large-offset first; these statistics will be others then. {repair}"
    return Finding(level, case.path(layer), evidence, why, repair)


def _frozen(case: Case, layer: BN) -> Iterator[Finding]:
    """A frozen layer keeps the statistics of other data on purpose, but of inputs like these."""
    found = moving_gaps(layer, pooled(case.moments[layer]))
    level, evidence = _stale(found, noise(case, layer))
    if not level:
        return
    factor = float(np.exp(-np.median(found.spread)))
    gross = max(factor, 1 / factor) > GROSS
    if gross:
        evidence += (
            f" The inputs of this layer vary {short(np.sqrt(max(factor, 1 / factor)))} times as "
            f"{'much' if factor > 1 else 'little'} as those that it was trained on."
        )
    yield Finding(
        "warning" if gross else "note",
        case.path(layer),
        f"{evidence} ({case.rows:,} rows used.)",
        "The layer is frozen, so this is what it was trained on elsewhere"
        + (", and no other kind of pictures or tables, but another scale." if gross else "."),
        "Check how inputs are scaled: preprocess_input left out or called twice, or a division by "
        "255 in front of a model that has a Rescaling layer of its own. Then train on with inputs "
        "as the frozen layers know them."
        if gross
        else "Check that inputs are scaled as they were there; if so, nothing to mend.",
    )


def _stale(found: Gaps, errors: Gaps) -> tuple[str, str]:
    """(level or "", evidence) for one layer."""
    shift, ratio = np.abs(found.shift), np.abs(found.spread)
    margin = SIGMAS * errors.shift, SIGMAS * errors.spread
    far = shift > FAR + margin[0]
    wide = ratio > np.log(WIDE) + margin[1]
    very = (shift > VERY_FAR + margin[0]) | (ratio > np.log(VERY_WIDE) + margin[1])
    level = "error" if np.mean(very) >= 0.5 else "warning" if np.mean(far | wide) >= 0.25 else ""
    parts = []
    if np.any(far):
        parts.append(
            f"the moving mean is {short(np.median(shift[far]))} sd from the mean of the data in "
            f"{int(np.sum(far))} of {count(far.size, 'channel')} (median of these; the farthest "
            f"{short(shift.max())})"
        )
    if np.any(wide):
        parts.append(
            f"the moving variance is {_factor(np.median(found.spread[wide]))} in "
            f"{int(np.sum(wide))} of {count(wide.size, 'channel')}"
        )
    even = float(np.mean(found.spread))
    alike = np.mean(np.sign(found.spread) == np.sign(even))
    if abs(even) > np.log(EVEN) + margin[1] and alike >= 0.9 and not level:
        level = "warning"
        parts = [
            f"the moving variance is {_factor(even)} on average, to the same side in {alike:.0%} "
            f"of {count(far.size, 'channel')}: too even to be chance"
        ]
    sentence = " and ".join(parts)
    return level, f"{sentence[:1].upper()}{sentence[1:]}."


def _factor(log: float) -> str:
    side = "large" if log > 0 else "small"
    return f"too {side} by a factor of {short(np.exp(abs(log)))}"


NAMES = ("gamma", "beta", "moving_mean", "moving_variance")
FEWEST = 6  # channels, below which an order is found by chance
FITS = 0.8  # of what differs between channels must be explained


@rule("weights-order", levels="error warning", chapter="04_keras")
def weights_order(case: Case) -> Iterator[Finding]:
    """Arrays of a layer that fit if they are read in another order than Keras's."""
    for layer in case.layers:
        arrays = _arrays(layer)
        if arrays is None:
            continue
        order = _order(case, layer)
        if order is not None:
            yield _reordered(case, layer, order)
        elif layer not in case.moments or not _fits(case, layer, arrays, (2, 3)):
            yield from _suspect(case, layer, arrays)
        else:
            yield from _swapped(case, layer, arrays)


def _arrays(layer: BN) -> list[np.ndarray] | None:
    """The four arrays of a layer, if it has all of them, and channels enough to tell."""
    if layer.gamma is None or layer.beta is None or layer.gamma.shape[0] < FEWEST:
        return None
    arrays = [values(getattr(layer, name)).astype("float64") for name in NAMES]
    return arrays if np.all(np.isfinite(arrays)) else None


def _order(case: Case, layer: BN) -> tuple[int, int] | None:
    """Where the mean and the variance of the data stand, if not in their own places."""
    arrays = _arrays(layer)
    if arrays is None or layer not in case.moments or _fits(case, layer, arrays, (2, 3)):
        return None
    pairs = [pair for pair in itertools.permutations(range(4), 2) if pair != (2, 3)]
    found = [pair for pair in pairs if _fits(case, layer, arrays, pair)]
    return found[0] if len(found) == 1 else None


def _fits(case: Case, layer: BN, arrays: list[np.ndarray], pair: tuple[int, int]) -> bool:
    """Whether two arrays are the mean and the variance of the data, channel by channel."""
    mean, variance = arrays[pair[0]], arrays[pair[1]]
    moments = pooled(case.moments[layer])
    if np.any(variance < 0) or not np.all(np.isfinite(moments.variance)):
        return False
    found = gaps(layer, mean, variance, moments)
    close = (np.abs(found.shift) < FAR) & (np.abs(found.spread) < np.log(WIDE))
    if np.mean(close) < MANY:
        return False
    if pair == (2, 3):
        return True
    # Any standardized data fit a beta of 0 and a gamma of 1: the channels must differ, and follow.
    scale = np.sqrt(moments.variance + layer.epsilon)
    followed = _explained(mean / scale, moments.mean / scale)
    return (
        followed > FITS and _explained(np.log(variance + layer.epsilon), 2 * np.log(scale)) > FITS
    )


def _explained(one: np.ndarray, two: np.ndarray) -> float:
    spread = np.sum((two - np.median(two)) ** 2)
    return 1 - np.sum((one - two) ** 2) / spread if spread > 0 else 0.0


def _reordered(case: Case, layer: BN, pair: tuple[int, int]) -> Finding:
    rest = iter(("gamma", "beta"))
    roles = [
        "moving_mean" if n == pair[0] else "moving_variance" if n == pair[1] else next(rest)
        for n in range(4)
    ]
    back = [roles.index(name) for name in NAMES]
    letters = "abcd"
    return Finding(
        "error",
        case.path(layer),
        f"{NAMES[pair[0]]} fits the mean and {NAMES[pair[1]]} the variance of the data, channel "
        f"by channel, and moving_mean and moving_variance do not ({case.rows:,} rows used): the "
        f"arrays stand in the order {', '.join(roles)}.",
        "get_weights and set_weights go by the order gamma, beta, moving_mean, moving_variance; "
        "the shapes are alike, so nothing complains.",
        f"Put them in order: {', '.join(letters)} = layer.get_weights(); layer.set_weights(["
        f"{', '.join(letters[n] for n in back)}])."
        + (
            " To recalibrate would leave gamma and beta wrong."
            if back[:2] != [0, 1]
            else " Or call recalibrate(model, x_train): gamma and beta are in their places."
        ),
    )


def _suspect(case: Case, layer: BN, arrays: list[np.ndarray]) -> Iterator[Finding]:
    """A negative moving variance, and another array that could be one."""
    negative = arrays[3] < 0
    able = [
        name
        for name, array in zip(NAMES[:3], arrays[:3], strict=True)
        if np.all(array >= 0) and np.ptp(array) > 0
    ]
    if np.any(negative) and able:
        yield Finding(
            "warning",
            case.path(layer),
            f"moving_variance is negative in {int(np.sum(negative))} of "
            f"{count(negative.size, 'channel')}, and {listing(able)} nowhere: one of them may be "
            "the variance, in another order than Keras's.",
            "No training makes a variance negative; arrays given in the order of another library "
            "or file do.",
            "If weights were set by hand or converted, give them as layer.set_weights([gamma, "
            "beta, moving_mean, moving_variance]); audit with data tells which is which. If not, "
            "call recalibrate(model, x_train).",
        )


def _swapped(case: Case, layer: BN, arrays: list[np.ndarray]) -> Iterator[Finding]:
    """Statistics that fit, but a gamma like a beta and a beta like a gamma."""
    gamma, beta = arrays[:2]
    like_beta = np.mean(gamma < 0) >= 0.2
    like_gamma = np.all(beta > 0) and 0.3 < np.median(beta) < 3
    if like_beta and like_gamma:
        yield Finding(
            "warning",
            case.path(layer),
            f"gamma is negative in {int(np.sum(gamma < 0))} of {count(gamma.size, 'channel')}, "
            f"beta nowhere (median {short(np.median(beta))}): as if the two had been swapped.",
            "Training starts from a gamma of 1 and a beta of 0 and seldom goes so far from both.",
            "If weights were set by hand or converted, give them as layer.set_weights([gamma, "
            "beta, moving_mean, moving_variance]) and compare. If they come from training, nothing "
            "to mend.",
        )


@rule("vanishing-variance", levels="warning note", chapter="06_training_and_inference")
def vanishing_variance(case: Case) -> Iterator[Finding]:
    """Channels whose variance is below epsilon, which then are hardly normalized."""
    for layer in case.layers:
        if layer in case.moments:
            variance = pooled(case.moments[layer]).variance
            source = f"in {count(case.rows, 'row')} of the data"
        elif not case.fresh(layer):
            variance = moving(layer)[1]
            source = "by its moving variance"
        else:
            continue
        low = (variance < layer.epsilon) & (variance >= 0)
        if not np.any(low):
            continue
        constant = variance < 1e-6 * layer.epsilon
        spread = float(np.sqrt(np.median(variance[low] / (variance[low] + layer.epsilon))))
        where = case.path(layer)
        # Behind another normalization, or an embedding, the weights set the scale, and training
        # can raise it: so do depthwise convolutions start. Inputs of a tiny scale, or dead ones,
        # stay as they are.
        tiny = variance < layer.epsilon / 10 if not case.scaled_before(layer) else constant
        many = np.mean(tiny) >= MANY
        if many:
            why = "Epsilon then outweighs the variance, and the layer hardly normalizes."
            repair = (
                "Scale the inputs, look for dead activations before the layer, or build it with a "
                "smaller epsilon."
            )
            if layer in case.moments:
                repair = (
                    "If these rows are scaled as for training (some models divide by 255 "
                    f"themselves): {repair[0].lower()}{repair[1:]}"
                )
        elif np.mean(low) >= MANY:
            why = (
                "Epsilon outweighs the variance there, so that the layer normalizes in part, and "
                "by how much hangs on epsilon."
            )
            repair = (
                "If the weights come from another library, set layer.epsilon to the one that they "
                "were trained with (PyTorch: 1e-05) and compile the model again. If the model was "
                "trained with this epsilon, leave it: the weights fit it."
            )
        else:
            why = "A few silent channels are common, after relu above all, and do no harm."
            repair = "Nothing to mend."
        yield Finding(
            "warning" if many else "note",
            where,
            f"{int(np.sum(low))} of {count(low.size, 'channel')} vary less than epsilon "
            f"({layer.epsilon:g}) {source}, {int(np.sum(constant))} not at all; such a channel "
            f"leaves with a spread of {short(spread)} (median) times gamma, not 1.",
            why,
            repair,
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
            both = pooled([one, two])
            within = Moments(both.count, two.mean, (one.variance + two.variance) / 2)
            shift = np.sqrt(np.mean(gaps(layer, one.mean, one.variance, within)[0] ** 2))
            ratio = np.exp(np.sqrt(np.mean(gaps(layer, one.mean, one.variance, two)[1] ** 2)))
            errors = np.max([noise(case, layer, number) for number in (i, j)], axis=0) * 2**0.5
            far = shift > FAR + SIGMAS * errors[0] or ratio > WIDE * np.exp(SIGMAS * errors[1])
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
            off = pooled(case.moments[layer]).variance + layer.epsilon
            on = pooled(case.runs.training_moments[layer]).variance + layer.epsilon
            ratio = float(np.exp(np.median(np.log(on / off))))
            error = noise(case, layer).spread * 2**0.5 / np.sqrt(len(off))
            shifted = abs(np.log(ratio)) > np.log(1.2) + SIGMAS * error
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
