"""Batch statistics of several devices: merged exactly, and what it costs to share them.

A batch that is split over devices has a mean and a variance in each part. `merge` gives those of
the whole batch. To share them, as sums and sums of squares, the devices call all-reduce, which
leaves each with the sum of what all had; a `Link` says how long that takes.

Example:
    >>> x = np.array([[0.0], [2], [4], [5], [6], [7]])
    >>> parts = [x[:2], x[2:]]
    >>> merged = merge([2, 4], [part.mean(0) for part in parts], [part.var(0) for part in parts])
    >>> print(*merged, x.mean(0), x.var(0))
    [6.] [4.] [5.66666667] [4.] [5.66666667]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["ALGORITHMS", "Link", "merge"]

#: How an all-reduce can go about it.
ALGORITHMS = ("ring", "doubling", "halving")
Algorithm = Literal["ring", "doubling", "halving"]


def merge(
    counts: ArrayLike, means: ArrayLike, variances: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count, mean and variance of all values, from those of the parts, of whatever sizes.

    The variance of all is the mean of the variances plus the variance of the means, where each
    part counts with its share of the values. Exact: T. F. Chan, G. H. Golub and R. J. LeVeque,
    "Algorithms for Computing the Sample Variance: Analysis and Recommendations", The American
    Statistician, 1983.

    Args:
        counts: how many values each part has, [parts] or [parts, features]. Where it is 0, mean and
            variance don't matter and may be NaN, as those of no values are.
        means: [parts, features].
        variances: biased, as `numpy.var` gives them, [parts, features].

    Returns:
        Three arrays [features] float64: the sum of the counts, the mean, the biased variance.

    Raises:
        ValueError: the shapes differ, a count or a variance is negative, a number is not finite, or
            a feature has no values at all.

    Example:
        >>> count, mean, variance = merge([1, 3], [[0.0], [4.0]], [[0.0], [2.0]])
        >>> float(mean[0]), float(variance[0])  # of 0 and, say, 4 - sqrt(3), 4, 4 + sqrt(3)
        (3.0, 4.5)
    """
    means, variances = (np.asarray(each, np.float64) for each in (means, variances))
    counts = np.asarray(counts, np.float64)
    if counts.ndim == 1:
        counts = counts[:, None]
    if means.ndim != 2 or variances.shape != means.shape:
        raise ValueError(
            "expected means and variances of one shape [parts, features], "
            f"got {means.shape} and {variances.shape}"
        )
    if counts.ndim != 2 or counts.shape not in {means.shape, (len(means), 1)}:
        raise ValueError(
            f"expected counts as ({len(means)},) or {means.shape}, got {counts.shape}: one for "
            "each part, or one for each feature of each part"
        )
    counts = np.broadcast_to(counts, means.shape)
    means, variances = (np.where(counts == 0, 0, each) for each in (means, variances))
    for name, values in (("counts", counts), ("means", means), ("variances", variances)):
        if not np.isfinite(values).all():
            raise ValueError(f"expected finite {name}, got {values[~np.isfinite(values)][0]}")
        if name != "means" and (values < 0).any():
            raise ValueError(f"expected {name} of 0 or more, got {values.min():g}")
    total = counts.sum(axis=0)
    if not total.all():
        raise ValueError("expected values in at least one part, got a feature with a count of 0")
    share = counts / total
    mean = (share * means).sum(axis=0)
    return total, mean, (share * (variances + (means - mean) ** 2)).sum(axis=0)


@dataclass(frozen=True)
class Link:
    """What joins two devices, in two numbers, and how long an all-reduce over such links takes.

    A message of n bytes takes `latency + n / bandwidth`. So it is assumed that all links are
    alike, that each device sends and receives one message at a time and none is in another's way,
    that all devices arrive at once, and that adding numbers costs nothing beside sending them.

    Source: R. Thakur, R. Rabenseifner and W. Gropp, "Optimization of Collective Communication
    Operations in MPICH", International Journal of High Performance Computing Applications, 2005.

    Args:
        latency: seconds that any message takes, however short.
        bandwidth: bytes a second.

    Raises:
        ValueError: the latency is negative, or the bandwidth not positive.

    Example:
        >>> link = Link(latency=1e-5, bandwidth=1e9)
        >>> for algorithm in ALGORITHMS:  # microseconds
        ...     print(algorithm, round(link.all_reduce(4096, devices=8, algorithm=algorithm) * 1e6))
        ring 147
        doubling 42
        halving 67
        >>> round(link.all_reduce(4096, devices=8) * 1e6)
        42
    """

    latency: float
    bandwidth: float

    def __post_init__(self) -> None:
        """Check the fields."""
        if not (self.latency >= 0 and math.isfinite(self.latency)):
            raise ValueError(f"expected latency in seconds, 0 or more, got {self.latency!r}")
        if not self.bandwidth > 0:
            raise ValueError(
                f"expected bandwidth in bytes a second, above 0, got {self.bandwidth!r}"
            )

    def all_reduce(
        self, size: float, devices: int, algorithm: Algorithm | Literal["best"] = "best"
    ) -> float:
        """Seconds until every device has the sum of what all had.

        Args:
            size: bytes on each device.
            devices: how many.
            algorithm: "ring": parts of the numbers travel around a ring, once to be summed and
                once to be handed out. Nothing is sent twice, but the messages are many.
                "doubling": in each round a device swaps all its numbers with one that is twice as
                far away. The messages are few, but long. "halving" (Rabenseifner's algorithm): in
                each round it swaps half of what it still sums, then the sums come back in as many
                rounds. "best": the fastest of the three.

        Returns:
            The seconds; 0 for one device.

        Raises:
            ValueError: a size below 0, a number of devices below 1, or an unknown algorithm.
        """
        if not 0 <= size < math.inf:
            raise ValueError(f"expected size in bytes, 0 or more, got {size!r}")
        known = [*ALGORITHMS, "best"]
        if algorithm not in known:
            raise ValueError(f"expected algorithm as one of {', '.join(known)}, got {algorithm!r}")
        if algorithm == "best":
            return min(self.all_reduce(size, devices, each) for each in ALGORITHMS)
        rounds, times = _rounds(algorithm, devices)
        return rounds * self.latency + times * size / self.bandwidth

    @classmethod
    def fitted(
        cls, sizes: Sequence[float], seconds: Sequence[float], devices: int, algorithm: Algorithm
    ) -> Link:
        """The link that explains the times of two all-reduces.

        Args:
            sizes: bytes of a short and of a long message.
            seconds: what each took.
            devices: how many shared them.
            algorithm: how they did.

        Returns:
            The link.

        Raises:
            ValueError: the longer message took no longer, or so much longer that the short one
                would have a latency below 0; a single device; or an unknown algorithm.

        Example:
            >>> link = Link(latency=1e-4, bandwidth=1e9)
            >>> times = [link.all_reduce(size, devices=4, algorithm="ring") for size in (8, 4e6)]
            >>> found = Link.fitted([8, 4e6], times, devices=4, algorithm="ring")
            >>> print(f"{found.latency:.1e} {found.bandwidth:.1e}")
            1.0e-04 1.0e+09
        """
        if algorithm not in ALGORITHMS:
            raise ValueError(
                f"expected algorithm as one of {', '.join(ALGORITHMS)}, got {algorithm!r}"
            )
        rounds, times = _rounds(algorithm, devices)
        if not rounds:
            raise ValueError("expected two devices or more, got 1, which has nothing to send")
        (short, long), (soon, late) = sizes, seconds
        given = f"{short:g} and {long:g} bytes in {soon:g} and {late:g} s"
        if not (long > short and late > soon):
            raise ValueError(
                f"expected a short message and a longer one that took longer, got {given}"
            )
        slope = (late - soon) / (long - short)
        start = soon - slope * short
        if start < -1e-9 * late:  # else it is what rounding leaves of 0
            raise ValueError(
                f"expected times that grow no faster than the sizes, got {given}: the latency "
                "would be below 0; measure a shorter message"
            )
        return cls(max(0.0, start / rounds), times / slope)


def _rounds(algorithm: Algorithm, devices: int) -> tuple[int, float]:
    """Messages in a row of an all-reduce, and how many times its size they have together."""
    if not isinstance(devices, Integral) or devices < 1:
        raise ValueError(f"expected devices as a whole number from 1, got {devices!r}")
    devices = int(devices)
    if algorithm == "ring":
        return 2 * (devices - 1), 2 * (devices - 1) / devices
    doublings = devices.bit_length() - 1
    paired = 1 << doublings
    more = 2 * (devices > paired)  # the others send theirs first, and get the sum in the end
    if algorithm == "doubling":
        return doublings + more, doublings + more
    return 2 * doublings + more, 2 * (paired - 1) / paired + more
