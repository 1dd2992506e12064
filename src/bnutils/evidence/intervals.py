"""Means over replicates with their confidence intervals, paired differences and ratios.

Both arms of a comparison share seeds, initial weights and mini-batch order, so they are compared
seed by seed.

Example:
    >>> without_bn = [412.0, 380.0, 401.0, 365.0, 377.0]  # steps to 80 % accuracy, seeds 0 to 4
    >>> with_bn = [58.0, 61.0, 50.0, 55.0, 57.0]
    >>> speed_up = paired_ratio(without_bn, with_bn)
    >>> f"{speed_up:.1f}"
    '6.9 [6.1, 7.8]'
"""

import math
import sys
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

__all__ = [
    "Interval",
    "exact",
    "expected_half_width",
    "interval",
    "paired_difference",
    "paired_ratio",
    "steps_to",
]


@dataclass(frozen=True)
class Interval:
    """A mean over replicates with its confidence interval, or several of them in arrays.

    Format codes apply to every number: `f"{effect:.3f}"` is `'0.920 ± 0.006'`, or
    `'6.9 [6.1, 7.8]'` where the two sides differ in length, as for a ratio.

    Args:
        mean: the mean (for a ratio, the geometric mean): a number or an array.
        low: lower end, of the same shape; minus infinity where one replicate tells nothing.
        high: upper end, of the same shape.
        n: number of replicates.
        confidence: confidence level; 1 for a quantity without randomness.
        scale: "linear", or "log" for a ratio, whose logarithm has the mean in the middle.
        standard_error: of the mean, on that scale; None for a quantity without randomness.
        degrees: degrees of freedom of Student's distribution; None likewise.
        method: how the interval was made, in words.

    Raises:
        ValueError: not numbers with `low <= mean <= high` of one shape, a mean that is not finite,
            no replicates, or a confidence outside (0, 1].
    """

    mean: float | NDArray[np.float64]
    low: float | NDArray[np.float64]
    high: float | NDArray[np.float64]
    n: int
    confidence: float = 0.95
    scale: Literal["linear", "log"] = "linear"
    standard_error: float | NDArray[np.float64] | None = None
    degrees: int | None = None
    method: str = ""

    def __post_init__(self) -> None:
        """Check the numbers."""
        object.__setattr__(self, "mean", _plain(_finite(self.mean, "mean")))
        for name in ("low", "high"):
            object.__setattr__(self, name, _plain(_numbers(getattr(self, name), name)))
        if len({np.shape(end) for end in self._ends}) > 1 or not (
            np.all(self.low <= self.mean) and np.all(self.mean <= self.high)
        ):
            raise ValueError(
                "expected low <= mean <= high, of one shape, "
                f"got {self.low}, {self.mean} and {self.high}"
            )
        if not is_count(self.n, at_least=1):
            raise ValueError(f"expected n, a whole number of replicates from 1 on, got {self.n!r}")
        if not isinstance(self.confidence, Real) or not 0 < self.confidence <= 1:
            raise ValueError(f"expected a confidence in (0, 1], got {self.confidence!r}")
        if self.scale not in ("linear", "log"):
            raise ValueError(f"expected the scale 'linear' or 'log', got {self.scale!r}")

    @property
    def is_exact(self) -> bool:
        """Whether it is a quantity without randomness."""
        return self.confidence == 1

    @property
    def half_width(self) -> float | NDArray[np.float64]:
        """Half the length of the interval."""
        return (self.high - self.low) / 2

    def __getitem__(self, index: Any) -> "Interval":
        """One or some of several intervals, indexed as the array of means is."""
        parts = {name: np.asarray(getattr(self, name))[index] for name in ("mean", "low", "high")}
        if self.standard_error is not None:
            parts["standard_error"] = _plain(np.asarray(self.standard_error)[index])
        return replace(self, **parts)

    def __format__(self, spec: str) -> str:
        """Mean and half width, or mean and both ends, each number formatted with `spec`.

        Raises:
            ValueError: it holds several intervals: index it first.
        """
        if np.ndim(self.mean):
            raise ValueError(
                f"these are intervals of shape {np.shape(self.mean)}: index one to format it"
            )
        mean = format(self.mean, spec)
        if self.is_exact:
            return mean
        if self.n == 1:
            return f"{mean} (one run: no interval)"
        if self.scale == "linear":
            return f"{mean} ± {self.half_width:{spec}}"
        return f"{mean} [{self.low:{spec}}, {self.high:{spec}}]"

    def __str__(self) -> str:
        """With three significant digits."""
        return format(self, ".3g")

    @property
    def _ends(self) -> tuple[Any, Any, Any]:
        return self.mean, self.low, self.high


def interval(
    values: ArrayLike, confidence: float = 0.95, axis: int = 0, overlap: float = 0.0
) -> Interval:
    """The mean over replicates and its Student-t confidence interval.

    mean ± t · s · √(1/n + overlap), where s is the standard deviation with n - 1 and t the quantile
    of Student's distribution with n - 1 degrees of freedom.

    A replicate is a whole experiment: its own seed, its own draw of the data and, in a
    `Comparison`, its own choice of the settings. So the interval covers all of these. Where the
    draws are new splits of one pool of data, their training and test parts overlap, and n of them
    tell less than n independent ones. `overlap`, the test size over the training size, corrects
    for that (Nadeau and Bengio 2003, section 3, the corrected resampled t-test).

    Args:
        values: one value per replicate, of shape [replicates], or [replicates, ...] for several
            intervals at once.
        confidence: confidence level, between 0 and 1.
        axis: the axis of the replicates.
        overlap: test examples divided by training examples where every replicate splits the same
            pool anew; 0 where replicates are independent.

    Returns:
        An `Interval` of numbers for one-dimensional `values`, otherwise of arrays of shape [...].
        One replicate has an interval without ends: it says that nothing can be concluded.

    Raises:
        ValueError: no replicates, a confidence outside (0, 1), a negative overlap, or a value that
            is NaN or infinite. A failed run is never left out in silence: decide what it counts
            for, put that value in its place, and say so.

    Example:
        >>> f"{interval([0.91, 0.92, 0.93]):.3f}"
        '0.920 ± 0.025'
        >>> f"{interval([0.91, 0.92, 0.93], overlap=0.125):.3f}"
        '0.920 ± 0.029'
        >>> f"{interval([0.91]):.2f}"
        '0.91 (one run: no interval)'
    """
    values = _finite(values, "values")
    if values.ndim == 0 or values.size == 0:
        raise ValueError(f"expected values [replicates, ...], got the shape {values.shape}")
    whole = isinstance(axis, Integral) and not isinstance(axis, bool)
    if not whole or not -values.ndim <= axis < values.ndim:
        raise ValueError(
            f"expected axis, a whole number from {-values.ndim} to {values.ndim - 1} for values of "
            f"shape {values.shape}, got {axis!r}"
        )
    if not isinstance(confidence, Real) or not 0 < confidence < 1:
        raise ValueError(f"expected a confidence between 0 and 1, got {confidence!r}")
    if not isinstance(overlap, Real) or not 0 <= overlap <= sys.float_info.max:
        raise ValueError(f"expected an overlap of 0 or more, got {overlap!r}")
    confidence, overlap = float(confidence), float(overlap)
    n = values.shape[axis]
    with np.errstate(over="ignore", invalid="ignore"):
        mean, sd = values.mean(axis=axis), values.std(axis=axis, ddof=min(1, n - 1))
    if not (np.isfinite(mean).all() and np.isfinite(sd).all()):
        raise ValueError(
            "expected values whose sums and squares fit float64, got up to "
            f"{np.abs(values).max():.2g}: divide them by a common factor"
        )
    if n == 1:
        ends = np.full_like(mean, np.inf)
        return Interval(mean, -ends, ends, 1, confidence, method="one replicate: no interval")
    half_width = expected_half_width(sd, n, confidence, overlap)
    method = f"Student's t over {n} replicates"
    if overlap:
        method += f", corrected for splits of one pool (test/training {overlap:.3g})"
    return Interval(
        mean,
        mean - half_width,
        mean + half_width,
        n,
        confidence,
        standard_error=_plain(sd * math.sqrt(1 / n + overlap)),
        degrees=n - 1,
        method=method,
    )


def expected_half_width(
    sd: ArrayLike, n: int, confidence: float = 0.95, overlap: float = 0.0
) -> float | NDArray[np.float64]:
    """Half the width that `interval` has, or will have: before running, what the data can carry.

    A margin below it can hardly be decided.

    Args:
        sd: standard deviation of the replicates. For the difference of two accuracies p on N test
            examples, the examples alone give up to sqrt(2 p (1 - p) / N).
        n: number of replicates, two or more.
        confidence: confidence level, between 0 and 1.
        overlap: as for `interval`.

    Returns:
        A number, or an array of the shape of `sd`.

    Example:
        >>> sd = (2 * 0.93 * 0.07 / 500) ** 0.5  # two accuracies near 93 %, 500 test images
        >>> f"{expected_half_width(sd, n=20, overlap=500 / 4000):.3f}"
        '0.014'
    """
    width = stdtrit(n - 1, (1 + confidence) / 2) * math.sqrt(1 / n + overlap)
    return width * np.asarray(sd, dtype=float)


def exact(value: float) -> Interval:
    """A quantity without randomness, such as a count of parameters, as an `Interval`.

    Args:
        value: the number.

    Raises:
        ValueError: the number is NaN or infinite.

    Example:
        >>> f"{exact(3841):,.0f}"
        '3,841'
    """
    return Interval(value, value, value, n=1, confidence=1.0, method="exact")


def paired_difference(
    a: ArrayLike, b: ArrayLike, confidence: float = 0.95, axis: int = 0, overlap: float = 0.0
) -> Interval:
    """The mean difference a - b between two arms that share their replicates.

    Args:
        a: values of one arm, of shape [replicates] or [replicates, ...].
        b: values of the other, of the same shape; the same index is the same replicate.
        confidence: confidence level, between 0 and 1.
        axis: the axis of the replicates.
        overlap: as for `interval`.

    Returns:
        The `interval` of the differences.

    Raises:
        ValueError: shapes differ, or as for `interval`.

    Example:
        >>> f"{paired_difference([0.93, 0.95, 0.94], [0.91, 0.94, 0.93]):.3f}"
        '0.013 ± 0.014'
    """
    a, b = _paired(a, b)
    return interval(a - b, confidence, axis, overlap)


def paired_ratio(
    a: ArrayLike, b: ArrayLike, confidence: float = 0.95, axis: int = 0, overlap: float = 0.0
) -> Interval:
    """The geometric mean ratio a / b between two arms that share their replicates.

    The interval is that of log(a / b), transformed back, so a ratio and its inverse tell the same
    story: `paired_ratio(b, a)` has the inverse mean and ends.

    Args:
        a: positive values of one arm, of shape [replicates] or [replicates, ...].
        b: positive values of the other, of the same shape; the same index is the same replicate.
        confidence: confidence level, between 0 and 1.
        axis: the axis of the replicates.
        overlap: as for `interval`.

    Returns:
        An `Interval` on the log scale, whose sides differ in length.

    Raises:
        ValueError: shapes differ, a value is not positive and finite, or as for `interval`. A run
            that never reached its goal (see `steps_to`) has no ratio. With the last step in its
            place, `np.minimum(a, last_step)`, the result is a lower bound of the ratio, and the
            label must say so.

    Example:
        >>> f"{paired_ratio([200.0, 440.0, 300.0], [100.0, 200.0, 150.0]):.2f}"
        '2.06 [1.80, 2.37]'
    """
    a, b = _paired(a, b)
    if not ((a > 0).all() and (b > 0).all()):
        raise ValueError("expected positive values: a ratio of others has no logarithm")
    log_ratio = interval(np.log(a) - np.log(b), confidence, axis, overlap)
    mean, low, high = np.exp(log_ratio._ends)
    method = log_ratio.method.replace("over", "of the logarithm over")
    return replace(log_ratio, mean=mean, low=low, high=high, scale="log", method=method)


def steps_to(values: ArrayLike, steps: ArrayLike, threshold: float) -> NDArray[np.float64]:
    """The first recorded step at which each run is at or above a threshold.

    The answer is as fine as the recording: between two records nothing is known. For a quantity
    that falls, such as a loss, pass `-values` and `-threshold`.

    Args:
        values: what was recorded, of shape [..., records], for example [runs, records].
        steps: the step of each record, of shape [records], increasing.
        threshold: the value to reach.

    Returns:
        Steps of shape [...]; infinity for a run that never got there. NaN counts as not there.

    Raises:
        ValueError: shapes do not fit, `steps` does not increase, or the threshold is NaN.

    Example:
        >>> steps_to([[0.1, 0.7, 0.9], [0.1, 0.2, 0.3]], steps=[0, 20, 40], threshold=0.8)
        array([40., inf])
    """
    values, steps = _numbers(values, "values"), _numbers(steps, "steps")
    if steps.ndim != 1 or not steps.size or values.shape[-1:] != steps.shape:
        raise ValueError(
            "expected values of shape [..., records] and steps of shape [records], "
            f"got {values.shape} and {steps.shape}"
        )
    if not (np.diff(steps) > 0).all():
        raise ValueError("expected steps that increase")
    if math.isnan(threshold):
        raise ValueError("expected a threshold, got NaN")
    reached = values >= threshold
    return np.where(reached.any(axis=-1), steps[reached.argmax(axis=-1)], np.inf)


def _plain(value: Any) -> float | NDArray[np.float64]:
    return float(value) if np.ndim(value) == 0 else value


def _numbers(values: ArrayLike, name: str) -> NDArray[np.float64]:
    if isinstance(values, np.ma.MaskedArray):
        raise ValueError(f"expected {name} without a mask, got one: leave out what it hides")
    try:
        if np.iscomplexobj(values):
            raise TypeError
        with np.errstate(over="ignore"):  # infinite is told
            return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"expected numbers in {name}, got {values!r}") from None


def _finite(values: ArrayLike, name: str) -> NDArray[np.float64]:
    values = _numbers(values, name)
    bad = np.count_nonzero(~np.isfinite(values))
    if bad:
        raise ValueError(
            f"expected finite numbers, got {bad} NaN or infinite of {values.size} in {name}: "
            "decide what a run that failed or never got there counts for, put that value in its "
            "place (for steps, np.minimum(steps, last_step), a lower bound), and say so"
        )
    return values


def _paired(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = _finite(a, "a"), _finite(b, "b")
    if a.shape != b.shape:
        raise ValueError(
            f"expected two arms of one shape, the same seeds in each, got {a.shape} and {b.shape}"
        )
    return a, b


def is_count(value: Any, at_least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= at_least
