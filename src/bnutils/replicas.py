"""Batch statistics of several devices: merged exactly, and what it costs to share them.

A batch that is split over devices has a mean and a variance in each part. `merge` gives those of
the whole batch. To share them, the devices call all-reduce, which leaves each with the sum of what
all had; a `Link` says how long that takes.

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
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["WAYS", "Link", "merge"]

#: How an all-reduce can go about it.
WAYS = ("ring", "doubling")
Way = Literal["ring", "doubling"]


def merge(
    counts: ArrayLike, means: ArrayLike, variances: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count, mean and variance of all values, from those of the parts, of whatever sizes.

    The variance of all is the mean of the variances plus the variance of the means, where each
    part counts with its share of the values. Exact: T. F. Chan, G. H. Golub and R. J. LeVeque,
    "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", COMPSTAT 1982.

    Args:
        counts: how many values each part has, [parts] or [parts, features].
        means: [parts, features].
        variances: biased, as `numpy.var` gives them, [parts, features].

    Returns:
        Three arrays [features] float64: the sum of the counts, the mean, the biased variance.

    Raises:
        ValueError: the shapes differ, a count or a variance is negative, a value is not finite, or
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
        >>> round(link.all_reduce(4096, devices=8) * 1e6)  # microseconds
        147
        >>> round(link.all_reduce(4096, devices=8, way="doubling") * 1e6)
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

    def all_reduce(self, size: float, devices: int, way: Way = "ring") -> float:
        """Seconds until every device has the sum of what all had.

        Args:
            size: bytes on each device.
            devices: how many.
            way: "ring": parts of the numbers travel around a ring, once to be summed and once to
                be handed out. Nothing is sent twice, but the messages are many. "doubling": in
                each round a device swaps all its numbers with one that is twice as far away.

        Returns:
            The seconds; 0 for one device.

        Raises:
            ValueError: a size below 0, a number of devices below 1, or an unknown way.
        """
        if not size >= 0:
            raise ValueError(f"expected size in bytes, 0 or more, got {size!r}")
        if devices != int(devices) or devices < 1:
            raise ValueError(f"expected devices as a whole number from 1, got {devices!r}")
        if way not in WAYS:
            raise ValueError(f"expected way as one of {', '.join(WAYS)}, got {way!r}")
        devices = int(devices)
        if way == "ring":
            rounds, sent = 2 * (devices - 1), 2 * (devices - 1) / devices * size
        else:
            rounds = devices.bit_length() - 1
            if devices > 1 << rounds:  # the others send theirs first, and get the sum in the end
                rounds += 2
            sent = rounds * size
        return rounds * self.latency + sent / self.bandwidth

    @classmethod
    def between(cls, sizes: Sequence[float], seconds: Sequence[float]) -> Link:
        """The link between two devices, from two all-reduces that were measured.

        Both ways are one between two devices but for how often a number is sent; TensorFlow goes
        around the ring.

        Args:
            sizes: bytes of a short and of a long message.
            seconds: what each took.

        Returns:
            The link.

        Raises:
            ValueError: not two sizes and two times, or the longer message took no longer.

        Example:
            >>> link = Link(latency=1e-4, bandwidth=1e9)
            >>> times = [link.all_reduce(size, devices=2) for size in (8, 4e6)]
            >>> Link.between([8, 4e6], times)
            Link(latency=0.0001, bandwidth=1000000000.0)
        """
        (short, long), (soon, late) = sizes, seconds
        if not (long > short and late > soon):
            raise ValueError(
                "expected a short message and a longer one that took longer, got "
                f"{short:g} and {long:g} bytes in {soon:g} and {late:g} s"
            )
        bandwidth = (long - short) / (late - soon)
        return cls(max(0.0, (soon - short / bandwidth) / 2), bandwidth)
