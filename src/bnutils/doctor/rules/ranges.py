"""Rules on numbers that computers cannot hold: not finite, too large, too far from zero."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bnutils._keras import keras
from bnutils.doctor.probe import Moments
from bnutils.doctor.rules.case import BN, Case, momentum_of, values
from bnutils.doctor.rules.gaps import moving_gaps
from bnutils.doctor.rules.registry import Finding, rule
from bnutils.doctor.rules.runs import pooled
from bnutils.doctor.words import count, short

LARGEST = 65504  # in float16
#: Half a unit in the last place, of a number of size 1.
ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
#: Noise from rounding, in standard deviations of the signal: at a thirtieth it is as large as the
#: noise of batches of a thousand rows, at a quarter the signal is going under.
NOISY, VERY_NOISY = 1 / 32, 1 / 4
SHORT = 0.5  # standard deviations that the moving mean cannot go on to
MANY = 0.25  # of the channels


@rule("not-finite", levels="error", chapter="06_training_and_inference", needs=("data",))
def not_finite(case: Case) -> Iterator[Finding]:
    """NaN or infinity in the data, or on the way to a layer."""
    broken = np.zeros(case.rows, bool)
    for leaf in keras.tree.flatten(case.runs.sample.x):
        if leaf.dtype.kind == "f":
            broken |= ~np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1)
    if np.any(broken) and not case.modes.finite:
        yield Finding(
            "error",
            "",
            f"The inputs hold NaN or infinity in {int(np.sum(broken))} of "
            f"{count(case.rows, 'row')}.",
            "One such value makes the mean and the variance of its whole batch NaN, and the moving "
            "statistics with them for good.",
            "Leave such rows out or fill the values in, then look whether the moving statistics "
            "are still finite.",
        )
    elif not np.any(broken) and _sound_weights(case):
        layer, channels = next(_unfinished(case), (None, 0))
        if layer is None and not case.modes.finite:
            yield Finding(
                "error",
                "",
                "The outputs for these rows hold NaN or infinity at inference, though inputs, "
                f"weights and statistics are finite ({case.rows:,} rows used).",
                "What predict and evaluate give is of no use.",
                "Look for a division, a logarithm or an exponential at the end of the model.",
            )
        elif layer is not None and not _half(case, layer):
            yield Finding(
                "error",
                case.path(layer),
                f"What reaches {case.path(layer)} is NaN or infinite in {channels} of "
                f"{count(layer.moving_mean.shape[0], 'channel')}, though inputs and weights are "
                f"finite ({case.rows:,} rows used).",
                "One such value makes the mean and the variance of its whole batch NaN.",
                "Look for a division, a logarithm or an exponential before this layer, and for "
                "inputs of a huge scale.",
            )


@rule("half-precision-overflow", levels="error", chapter="04_keras", needs=("data",))
def half_precision_overflow(case: Case) -> Iterator[Finding]:
    """Values beyond what 16 bits hold."""
    for layer, channels in _unfinished(case) if _sound_weights(case) else ():
        if _half(case, layer):
            yield Finding(
                "error",
                case.path(layer),
                f"What reaches {case.path(layer)} in float16 is infinite or NaN in {channels} of "
                f"{count(layer.moving_mean.shape[0], 'channel')}: larger than {LARGEST:,} "
                f"({case.rows:,} rows used).",
                "The largest number of float16 is 65,504; what is beyond becomes infinite, and the "
                "statistics of its batch NaN.",
                "Scale the inputs to a spread of 1, or compute in mixed_bfloat16, which has the "
                "range of float32.",
            )
            return  # what follows is NaN because of it
    for layer in case.learners:
        if layer in case.moments and layer.moving_variance.dtype == "float16":
            variance = pooled(case.moments[layer]).variance
            if np.any(variance > LARGEST):
                yield Finding(
                    "error",
                    case.path(layer),
                    f"The variance of what reaches {case.path(layer)} is {short(variance.max())}; "
                    f"its moving variance, in float16, ends at {LARGEST:,}.",
                    "The moving variance becomes infinite, and the layer gives beta for any input.",
                    "Scale the inputs to a spread of 1, or keep the variables in float32: "
                    "keras.mixed_precision.set_dtype_policy('mixed_float16').",
                )


def _unfinished(case: Case) -> Iterator[tuple[BN, int]]:
    """The layers that get NaN or infinity, in the order of the model, with how many channels."""
    for layer, calls in case.moments.items():
        moments = pooled(calls)
        channels = int(np.sum(~np.isfinite(moments.mean + moments.variance)))
        if channels:
            yield layer, channels


def _dtype(case: Case, layer: BN) -> str:
    """The dtype of what reaches a layer."""
    calls = case.graph.of(layer)
    return calls[0].inputs[0].dtype if calls else layer.compute_dtype


def _half(case: Case, layer: BN) -> bool:
    return _dtype(case, layer) == "float16"


def _offset(layer: BN, moments: Moments) -> np.ndarray:
    """How far from zero the inputs of each channel lie, in sd; 0 where they are constant."""
    offset = np.abs(moments.mean) / np.sqrt(moments.variance + layer.epsilon)
    return np.where(moments.variance > 1e-6 * layer.epsilon, offset, 0)


def drowns(case: Case, layer: BN) -> bool:
    """Whether rounding, for a large offset, is noise that counts in what reaches a layer."""
    unit = ROUNDING.get(_dtype(case, layer), ROUNDING["float32"])
    return bool(np.mean(_offset(layer, pooled(case.moments[layer])) * unit > NOISY) >= MANY)


def _sound_weights(case: Case) -> bool:
    """Whether all weights are finite and no moving variance is negative: other rules tell."""
    return all(np.all(values(layer.moving_variance) >= 0) for layer in case.layers) and all(
        np.all(np.isfinite(values(variable)))
        for variable in case.model.variables
        if "float" in variable.dtype and variable.dtype != "bfloat16"
    )


@rule("large-offset", levels="error warning", chapter="02_the_math", needs=("data",))
def large_offset(case: Case) -> Iterator[Finding]:
    """Inputs so far from zero, for their spread, that the digits of their dtype do not suffice."""
    for layer in case.moments:
        moments = pooled(case.moments[layer])
        if not np.all(np.isfinite(moments.mean + moments.variance)):
            continue
        offset = _offset(layer, moments)
        dtype = _dtype(case, layer)
        noise = offset * ROUNDING.get(dtype, ROUNDING["float32"])
        # The moving mean stands still when its steps are lost to rounding.
        lost = offset * ROUNDING["float32"] / max(1 - momentum_of(layer), 1e-9)
        stuck = (lost > SHORT) & (np.abs(moving_gaps(layer, moments).shift) > SHORT)
        stuck &= case.learns(layer) and not case.fresh(layer)
        noisy = noise > NOISY
        if max(np.mean(noisy), np.mean(stuck)) < MANY:
            continue
        worst = float(np.median(noise[noisy | stuck]))
        stop = ""
        if np.any(stuck):
            stop = f", and its moving mean stops up to {short(np.median(lost[stuck]))} sd short"
        yield Finding(
            "error" if np.mean(noise > VERY_NOISY) >= MANY else "warning",
            case.path(layer),
            f"What reaches {case.path(layer)} lies {short(np.median(offset[noisy | stuck]))} sd "
            f"from zero in {int(np.sum(noisy | stuck))} of {count(offset.size, 'channel')}: "
            f"{dtype} rounds it by up to {short(worst)} sd"
            f"{stop} ({case.rows:,} rows used).",
            "At inference the layer computes x * a - b with two large products, and their rounding "
            "stays in what is left of the difference.",
            "Subtract the mean from the inputs before they become "
            f"{dtype}, in float64, and train again.",
        )
