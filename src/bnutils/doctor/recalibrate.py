"""Moving statistics recomputed from data, with the weights as they are.

What batch normalization needs at inference are the mean and the variance of the whole population
under the final weights. The moving averages of training only follow them. Y. Wu and J. Johnson,
"Rethinking 'Batch' in BatchNorm", arXiv:2105.07576, section 3, compute them afterwards and call
that precise batch normalization.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from tqdm import tqdm

from bnutils._keras import keras
from bnutils.doctor.batches import batches
from bnutils.doctor.graph import batch_norms, layer_paths
from bnutils.doctor.probe import Moments, Probe, Unreached
from bnutils.doctor.results import Table

__all__ = ["Moved", "Recalibration", "recalibrate"]

Method = Literal["layerwise", "one-pass"]
METHODS = get_args(Method)
_BN = keras.layers.BatchNormalization


@dataclass(frozen=True)
class Moved:
    """How far the statistics of one layer moved.

    Channels are compared in units of the layer's new standard deviation,
    `sqrt(variance + epsilon)`: what the layer divides by.

    Attributes:
        path: the layer's path in the model.
        channels: its number of channels.
        values: the values each channel's statistics come from; the least over the channels.
        calls: how often one forward pass calls the layer. The values of all calls are pooled.
        mean_shift_max: the largest distance between old and new mean, in standard deviations.
        mean_shift_median: the median distance.
        variance_ratio: old variance over new, epsilon added to both, in the channel where it is
            farthest from 1. Below 1 the old variance was too small.
    """

    path: str
    channels: int
    values: int
    calls: int
    mean_shift_max: float
    mean_shift_median: float
    variance_ratio: float


@dataclass(frozen=True, repr=False)
class Recalibration:
    """What `recalibrate` did. Printed, or shown in a notebook, it is a table.

    Attributes:
        method: "layerwise" or "one-pass".
        rows: the rows of data.
        passes: how often the data were gone through.
        moved: one `Moved` for each layer, in the order of the model.
        untouched: paths of the layers that the model never calls, and that were left alone.
    """

    method: str
    rows: int
    passes: int
    moved: tuple[Moved, ...]
    untouched: tuple[str, ...] = ()

    def to_dict(self) -> dict:
        """Everything as plain JSON data; a number that is not finite becomes None."""
        data = asdict(self)
        for moved in data["moved"]:
            for name, value in moved.items():
                if isinstance(value, float) and not np.isfinite(value):
                    moved[name] = None
        return data

    def to_json(self, indent: int | None = 2) -> str:
        """`to_dict` as a JSON text.

        Args:
            indent: spaces per level; None for one line.
        """
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def __str__(self) -> str:
        """A table in plain text, at most 80 columns wide."""
        return "\n".join([self._headline, str(Table(self._heads, self._rows)), *self._footnotes])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        lines = [f"<p>{line}</p>" for line in map(html.escape, [self._headline, *self._footnotes])]
        return "\n".join([lines[0], Table(self._heads, self._rows)._repr_html_(), *lines[1:]])

    _heads = ("layer", "values", "mean (max)", "mean (median)", "variance")

    @property
    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                moved.path,
                f"{moved.values:,}",
                f"{moved.mean_shift_max:.3g}",
                f"{moved.mean_shift_median:.3g}",
                f"{moved.variance_ratio:.3g}",
            )
            for moved in self.moved
        ]

    @property
    def _headline(self) -> str:
        passes = f"{self.passes} pass{'es' if self.passes > 1 else ''}"
        return f"Recalibrated ({self.method}) on {self.rows:,} rows, in {passes}."

    @property
    def _footnotes(self) -> list[str]:
        lines = [
            "Values: per channel. Mean: distance from old to new, in standard deviations.",
            "Variance: old over new, in the channel where it is farthest from 1.",
        ]
        if self.untouched:
            names = ", ".join(self.untouched)
            lines.append(f"Left alone, since the model never calls them: {names}.")
        return lines


def recalibrate(
    model: keras.Model,
    data: Any,
    *,
    batch_size: int = 256,
    method: Method = "layerwise",
    progress: bool | None = None,
) -> Recalibration:
    """Set the moving statistics of every batch normalization layer to those of the data.

    Weights, optimizer, random state and metrics stay as they are. Frozen layers are recalibrated
    too. Moments are merged by count, so that the result does not depend on `batch_size` but for
    the rounding of float32, a smaller last batch included. Masked positions do not count. The
    variance is the biased one, as in Keras and in `numpy.var`. At any time one batch is in memory.

    - "layerwise" measures each layer with every layer before it already recalibrated and
      normalizing by its new statistics: what the layer meets at inference. It goes through the
      data once for each level of layers in the model's graph, and each time only as deep as that
      level. If the data come in random order or are augmented at random, each pass sees others.
    - "one-pass" lets every layer normalize by the statistics of each batch, as in training with
      dropout off, and goes through the data once. A layer behind another then sees something
      slightly different from what it meets at inference; the larger the batches, the less.

    A layer that one forward pass calls several times pools the values of all its calls. If
    layers are called on what came out of themselves (a block that is applied twice, an unrolled
    RNN), no order puts each after all that it depends on: such layers are measured together,
    with the statistics of the batch flowing between them.

    Args:
        model: a Keras model. If it is not built yet, it is built by a call on the first batch.
        data: what the model takes, in any form that `bnutils.doctor.batches.batches` describes.
            Targets and sample weights are not used. Take the training data, as the model meets
            them at inference: not augmented.
        batch_size: rows at a time, for arrays.
        method: "layerwise" or "one-pass".
        progress: whether to show a progress bar; by default on a terminal only.

    Returns:
        A `Recalibration`: how far the statistics of each layer moved.

    Raises:
        ValueError: if an argument or the data are not what they should be; if the model has no
            batch normalization layer, calls none, or hides one in an inner graph, where its input
            cannot be seen; if a statistic is not finite, or comes from fewer than 2 values.
            Whatever is raised, all statistics are then those from before.

    Example:
        >>> bn = keras.layers.BatchNormalization(name="bn")
        >>> model = keras.Sequential([keras.Input((2,)), bn])
        >>> print(recalibrate(model, np.array([[0.0, 5.0], [8.0, 5.0], [4.0, 8.0]])))
        Recalibrated (layerwise) on 3 rows, in 1 pass.
        layer  values  mean (max)  mean (median)  variance
        bn     3       4.24        2.73           0.0938
        Values: per channel. Mean: distance from old to new, in standard deviations.
        Variance: old over new, in the channel where it is farthest from 1.
        >>> bn.moving_mean.value.numpy()
        array([4., 6.], dtype=float32)
    """
    if method not in METHODS:
        raise ValueError(f"expected a method of {METHODS}, got {method!r}")
    if not isinstance(model, keras.Model):
        raise ValueError(f"expected a Keras model, got a {type(model).__name__}")
    if model.built and not batch_norms(model):
        raise ValueError(f"expected a model with batch normalization, {model.name!r} has none")
    data = batches(data, batch_size=batch_size, model=model)
    first, _ = data.first()
    look = Probe(model)
    untouched = _check_reach(look.unreached(first))
    upstream = look.upstream(first)
    paths = {layer: path for layer, path in layer_paths(model).items() if layer in upstream}
    if not paths:
        raise ValueError(
            "expected a model that calls batch normalization layers, "
            f"{model.name!r} has {len(batch_norms(model))} and calls none"
        )
    rounds = [(list(paths), list(paths))] if method == "one-pass" else _levels(upstream)

    pooled, calls = {}, {}
    total = None if data.steps is None else data.steps * len(rounds)
    disable = None if progress is None else not progress
    with tqdm(total=total, desc="recalibrate", unit="batch", disable=disable) as bar:
        for layers, by_batch in rounds:
            eye = Probe(model, by_batch=by_batch) if by_batch else look
            known = {layer: (seen.mean, seen.variance) for layer, seen in pooled.items()}
            for number, (x, _) in enumerate(data, start=1):
                for seen in eye.moments(x, layers, known):
                    layer, moments = seen.layer, seen.moments
                    _check_finite(moments.mean + moments.variance, paths[layer], number)
                    pooled[layer] = pooled[layer].merged(moments) if layer in pooled else moments
                    calls[layer] = max(calls.get(layer, 0), seen.call + 1)
                bar.update()
            for layer in layers:
                _check_count(pooled[layer].count.min(), paths[layer])

    new = [pair for layer in paths for pair in _new_values(layer, pooled[layer], paths[layer])]
    moved = tuple(_moved(layer, pooled[layer], path, calls[layer]) for layer, path in paths.items())
    with _all_or_none([variable for variable, _ in new]):
        for variable, value in new:
            variable.assign(value)
    return Recalibration(method, data.rows, len(rounds), moved, untouched)


def _levels(upstream: Mapping[_BN, list[_BN]]) -> list[tuple[list[_BN], list[_BN]]]:
    """Put layers in the order in which they can be measured.

    Args:
        upstream: for each layer the layers whose output reaches it; see `Probe.upstream`.

    Returns:
        A list of rounds `(layers, cyclic)`. What the layers of a round depend on is in earlier
        rounds, but for the cyclic ones, which depend on themselves or on each other.
    """
    reach = {layer: set(layers) for layer, layers in upstream.items()}
    for middle in reach:
        for layer in reach:
            if middle in reach[layer]:
                reach[layer] |= reach[middle]
    depth = {}
    # What a layer depends on reaches fewer layers, or the same ones if it is part of a cycle.
    for layer in sorted(reach, key=lambda layer: (len(reach[layer]), layer not in reach[layer])):
        before = [depth[other] for other in reach[layer] if layer not in reach[other]]
        depth[layer] = max(before, default=-1) + 1
    rounds = []
    for level in range(max(depth.values()) + 1):
        layers = [layer for layer in reach if depth[layer] == level]
        rounds.append((layers, [layer for layer in layers if layer in reach[layer]]))
    return rounds


def _check_reach(unreached: Iterable[Unreached]) -> tuple[str, ...]:
    """Refuse layers that are called out of sight; give the paths of those never called."""
    hidden = [layer for layer in unreached if layer.called]
    if hidden:
        names = ", ".join(repr(layer.path) for layer in hidden)
        raise ValueError(
            f"expected batch normalization whose input can be seen, but {names} "
            f"{hidden[0].reason}: unroll the loop to recalibrate"
        )
    return tuple(layer.path for layer in unreached)


def _check_finite(values: np.ndarray, path: str, number: int) -> None:
    if not np.isfinite(values).all():
        channels = np.flatnonzero(~np.isfinite(values))
        raise ValueError(
            f"expected finite values in front of {path!r}, got others in batch {number}, in "
            f"{len(channels)} of {len(values)} channels: look at the data and the weights"
        )


def _check_count(count: float, path: str) -> None:
    if count < 2:
        raise ValueError(
            f"expected at least 2 values per channel in front of {path!r}, got {count:.0f}"
        )


def _new_values(
    layer: _BN, moments: Moments, path: str
) -> Iterator[tuple[keras.Variable, np.ndarray]]:
    """The variables of a layer that hold statistics, with what they are to become."""
    std = np.sqrt(moments.variance + layer.epsilon)
    pairs = [(layer.moving_mean, moments.mean), (layer.moving_variance, moments.variance)]
    if layer.renorm:
        # Keras keeps sqrt(variance + epsilon) here, and uses the renorm pair in training.
        pairs += [
            (layer.moving_stddev, std),
            (layer.renorm_mean, moments.mean),
            (layer.renorm_stddev, std),
        ]
    for variable, value in pairs:
        cast = keras.ops.cast(value, variable.dtype).numpy()
        if not np.isfinite(cast.astype("float64")).all():
            raise ValueError(
                f"expected statistics of {path!r} that fit into {variable.dtype}, "
                f"got values up to {np.abs(value).max():.3g}"
            )
        yield variable, cast


def _moved(layer: _BN, moments: Moments, path: str, calls: int) -> Moved:
    old_mean = layer.moving_mean.value.numpy().astype("float64")
    old_variance = layer.moving_variance.value.numpy().astype("float64")
    variance = moments.variance + layer.epsilon
    shift = np.abs(old_mean - moments.mean) / np.sqrt(variance)
    ratio = (old_variance + layer.epsilon) / variance
    with np.errstate(divide="ignore", invalid="ignore"):  # the old variance may be anything
        distance = np.abs(np.log(ratio))
    return Moved(
        path=path,
        channels=len(variance),
        values=int(moments.count.min()),
        calls=calls,
        mean_shift_max=float(shift.max()),
        mean_shift_median=float(np.median(shift)),
        variance_ratio=float(ratio[np.argmax(distance)]),
    )


@contextmanager
def _all_or_none(variables: list[keras.Variable]) -> Iterator[None]:
    """Put every variable back, bit for bit, if what happens inside is not finished."""
    before = [variable.value.numpy() for variable in variables]
    try:
        yield
    except BaseException:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        raise
