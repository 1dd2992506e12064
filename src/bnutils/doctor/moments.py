"""Mean and variance of the values in each channel, of one batch or of many together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bnutils._keras import tf

__all__ = ["Moments", "channel_moments", "check_finite"]


@dataclass(frozen=True, eq=False)
class Moments:
    """How many values each channel had, their mean and their biased variance.

    Attributes:
        count: [channels] float64.
        mean: [channels] float64; 0 where there was no value.
        variance: [channels] float64, as `numpy.var`; 0 where there was no value.
    """

    count: np.ndarray
    mean: np.ndarray
    variance: np.ndarray

    def merged(self, other: Moments) -> Moments:
        """The moments of both sets of values together.

        Exact for any sizes: T. F. Chan, G. H. Golub and R. J. LeVeque, "Updating Formulae and a
        Pairwise Algorithm for Computing Sample Variances", COMPSTAT 1982, equation 2.1.

        Example:
            >>> one, two = np.array([1.0]), np.array([2.0])
            >>> Moments(one, 3 * one, 0 * one).merged(Moments(two, 6 * one, 0 * one))
            Moments(count=array([3.]), mean=array([5.]), variance=array([2.]))
        """
        count = self.count + other.count
        share = np.divide(other.count, count, out=np.zeros_like(count), where=count > 0)
        gap = other.mean - self.mean
        variance = self.variance + share * (other.variance - self.variance)
        return Moments(count, self.mean + share * gap, variance + share * (1 - share) * gap * gap)


def check_finite(moments: Moments, path: str, batch: Callable[[], str]) -> None:
    """Refuse moments that are not finite.

    Args:
        moments: what was measured.
        path: in front of which layer.
        batch: tells in which batch, such as "batch 3".

    Raises:
        ValueError: if a mean or a variance is not finite.
    """
    finite = np.isfinite(moments.mean + moments.variance)
    if not finite.all():
        raise ValueError(
            f"expected finite values in front of {path!r}, got others in {batch()}, in "
            f"{np.sum(~finite)} of {len(finite)} channels: look at the data and the weights"
        )


def channel_moments(
    x: tf.Tensor, mask: tf.Tensor | None, axis: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Count, mean and biased variance of each channel, each [channels] float64.

    A first mean in float32 is only a shift; what it misses is put right by the mean of the
    shifted values. Sums are made in float64, over images after a first sum in float32 along one
    side: exact enough, and no copy of an image in float64 is needed.
    """
    x = tf.cast(x, tf.float64 if x.dtype == tf.float64 else tf.float32)
    axis %= len(x.shape)
    axes = [other for other in range(len(x.shape)) if other != axis]

    def total(values: tf.Tensor) -> tf.Tensor:
        if len(axes) > 2:
            values = tf.reduce_sum(values, axes[-1], keepdims=True)
        return tf.reduce_sum(tf.cast(values, tf.float64), axes)

    if mask is None:
        shift = tf.math.divide_no_nan(tf.reduce_sum(x, axes, keepdims=True), _rows(x, axes))
        shifted = x - shift
        count = tf.ones([tf.shape(x)[axis]], tf.float64) * tf.cast(_rows(x, axes), tf.float64)
    else:
        # A mask has no last axis, whatever the axis of the channels: as in Keras.
        valid = tf.broadcast_to(tf.cast(mask, tf.bool)[..., tf.newaxis], tf.shape(x))
        weight = tf.cast(valid, x.dtype)
        total_weight = tf.reduce_sum(weight, axes, keepdims=True)
        shift = tf.reduce_sum(tf.where(valid, x, 0), axes, keepdims=True)
        shift = tf.math.divide_no_nan(shift, total_weight)
        shifted = tf.where(valid, x - shift, 0)
        count = total(weight)
    correction = tf.math.divide_no_nan(total(shifted), count)
    squares = tf.math.divide_no_nan(total(tf.square(shifted)), count)
    mean = tf.cast(tf.reshape(shift, [-1]), tf.float64) + correction
    return count, mean, tf.maximum(squares - tf.square(correction), 0)


def _rows(x: tf.Tensor, axes: list[int]) -> tf.Tensor:
    return tf.cast(tf.reduce_prod(tf.gather(tf.shape(x), axes)), x.dtype)
