"""Moving statistics recomputed from data, with the weights as they are.

What batch normalization needs at inference are the mean and the variance of the whole population
under the final weights. The moving averages of training only follow them. Y. Wu and J. Johnson,
"Rethinking 'Batch' in BatchNorm", arXiv:2105.07576, section 3, compute them afterwards and call
that precise batch normalization.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from tqdm import tqdm

from bnutils._keras import keras, replicas
from bnutils.doctor.activations import NoRoomError
from bnutils.doctor.batches import Batches, batches
from bnutils.doctor.before_after import COMPARED_BYTES, BeforeAfter, rows_of
from bnutils.doctor.blocks import current_client
from bnutils.doctor.graph import BN
from bnutils.doctor.layerwise import Walk
from bnutils.doctor.moments import Moments, check_finite
from bnutils.doctor.order import rounds_of
from bnutils.doctor.outcomes import Comparison
from bnutils.doctor.probe import Probe, Unreached, build
from bnutils.doctor.restoring import LOCK, restored
from bnutils.doctor.results import NOT_PLAIN, Result, Skipped, Table, skipped_lines
from bnutils.doctor.subject import Subject
from bnutils.doctor.words import count, listing

__all__ = ["Moved", "Recalibration", "recalibrate"]

Method = Literal["layerwise", "one-pass"]
METHODS = get_args(Method)
Keep = Literal["unless-worse", "always", "never"]
KEEP = get_args(Keep)

# Bytes of activations that are kept in memory: what a laptop can spare beside a model.
MEMORY = 2**30
#: Fewer values of a channel say nothing of a population; statistics of them ruin a good model.
LEAST_VALUES = 8


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
class Recalibration(Result):
    """What `recalibrate` did. Printed, or shown in a notebook, it is a table.

    Attributes:
        method: "layerwise" or "one-pass".
        rows: the rows of data.
        passes: how often the data were gone through.
        kept: whether the model has the new statistics. If not, it is as it was.
        verdict: whether the model became "better" or "worse" on the rows that were compared,
            "mixed" or "alike"; None if there were no targets, or sample weights beside them, or no
            compiled loss and metrics.
        comparison: the model before and after: scores, and what its outputs decide; None if there
            was nothing to recalibrate, or an output that is one number for all rows.
        moved: one `Moved` for each layer, in the order of the model.
        skipped: layers that were left alone, and why.
    """

    method: str
    rows: int
    passes: int
    kept: bool
    verdict: str | None
    comparison: Comparison | None
    moved: tuple[Moved, ...]
    skipped: tuple[Skipped, ...] = ()
    _restore: Callable[[], None] = field(default=lambda: None, metadata=NOT_PLAIN)

    def undo(self) -> None:
        """Give the model the statistics back that it had before, bit for bit.

        Raises:
            ValueError: on a copy, such as one from a pickle, which knows no model.
        """
        with LOCK:
            self._restore()

    def __getstate__(self) -> dict[str, Any]:
        """Give what a copy or a pickle is made of: all but the model."""
        return {**vars(self), "_restore": _on_a_copy}

    def _shown(self) -> Iterator[str | Table]:
        if not self.moved:
            yield (
                "Nothing was recalibrated: every batch normalization layer that the model calls is "
                "frozen. What stands behind a frozen layer was trained with its statistics. If you "
                "mean these layers, name them: recalibrate(model, data, layers="
                f"[{self.skipped[0].what!r}{', ...' if self.skipped[1:] else ''}])."
            )
            yield from skipped_lines(self.skipped, "Left alone")
            return
        what = count(len(self.moved), "layer")
        passes = count(self.passes, "pass", "passes")
        if self.kept:
            yield f"Recalibrated {what} ({self.method}) on {count(self.rows, 'row')}, in {passes}."
        else:
            yield f"Measured {what} ({self.method}) on {count(self.rows, 'row')}, in {passes}."
            yield "The model was left as it was" + (
                ": on these rows it would become worse. Either they are not like those of its "
                "training, or the layers behind were trained with the old statistics. "
                'keep="always" sets the new ones all the same.'
                if self.verdict == "worse"
                else "."
            )
        broken = [
            moved.path
            for moved in self.moved
            if not np.isfinite([moved.mean_shift_max, moved.variance_ratio]).all()
        ]
        if broken:
            yield f"Before, the moving statistics of {listing(broken)} were not finite."
        if self.comparison is None:
            yield "Nothing was compared: an output of the model is one number for all rows."
        else:
            yield from self.comparison.sentences()
        yield Table(
            ("layer", "values", "mean (max)", "mean (median)", "variance"),
            [
                (
                    moved.path,
                    f"{moved.values:,}",
                    f"{moved.mean_shift_max:.3g}",
                    f"{moved.mean_shift_median:.3g}",
                    f"{moved.variance_ratio:.3g}",
                )
                for moved in self.moved
            ],
        )
        yield "Values: per channel. Mean: distance from old to new, in standard deviations."
        yield "Variance: old over new, in the channel where it is farthest from 1."
        yield from skipped_lines(self.skipped, "Left alone")


def _on_a_copy() -> None:
    raise ValueError(
        "expected the result that recalibrate gave, got a copy of it, which knows no model"
    )


def recalibrate(
    model: keras.Model,
    data: Any,
    *,
    layers: str | keras.Layer | Iterable[str | keras.Layer] | None = None,
    batch_size: int | None = None,
    method: Method = "layerwise",
    keep: Keep = "unless-worse",
    memory: int = MEMORY,
    progress: bool | None = None,
) -> Recalibration:
    """Set the moving statistics of batch normalization layers to those of the data.

    Weights, optimizer, random state and metrics stay as they are. Frozen layers are left alone
    too, unless you name them: what stands behind them was trained with their statistics. All
    layers are measured with the frozen ones normalizing by their own moving statistics.
    Masked positions do not count. The variance is the biased one, as in Keras and `numpy.var`.

    The model is compared before and after, on up to 1,024 rows from all over the data (a quarter
    of the rows at most, or 32, if they are much work): by the loss and the metrics with which it
    was compiled if there are targets, and by what its outputs decide. If it became worse with
    targets (the loss by a tenth and by three standard errors, or an accuracy by 0.02, and nothing
    else better), it is left as it was, and the result says so.

    - "layerwise" measures each layer with every layer before it already recalibrated and
      normalizing by its new statistics: what the layer meets at inference. The result does not
      depend on `batch_size` but for the rounding of float32. Where the model's graph can be
      walked, the data are gone through once, each layer is called once for each batch, and the
      activations that are still needed are kept. Elsewhere (control flow in Python, masks that
      go through nested models), and if the disk has no room for the activations, each level of
      layers starts from the data again, and goes only as deep as that level.
    - "one-pass" lets every layer normalize by the statistics of each batch, as in training with
      dropout off, and goes through the data once. A layer behind another then sees something
      slightly different from what it meets at inference; the larger the batches, the less.

    A layer that one forward pass calls several times pools the values of all its calls. If
    layers are called on what came out of themselves (a block that is applied twice, an unrolled
    RNN), no order puts each after all that it depends on: such layers are measured together,
    with the statistics of the batch flowing between them.

    A model under `tf.distribute` gets the same statistics on all replicas, those that one process
    measures on all rows, whether its layers are synchronized or not.

    Data of Dask need to fit into no one machine. Without a cluster one block at a time is computed
    here. With a current `distributed.Client` each worker gets a copy of the model, measures its
    blocks, and sends back a count, a mean and a variance for each channel; they are merged exactly,
    in the order of the blocks, so that the result does not depend on who measured what. A worker
    that dies costs the blocks it held; others measure them again. Keras must be able to save the
    model and to load it, and the workers need `bnutils` and the modules of your own layers. Each
    worker compiles its copy of the model first, so that workers on the cores of one machine gain
    little; they are for data that lie on several.

    Args:
        model: a Keras model. If it is not built yet, it is built by a call on the first batch.
        data: what the model takes, and the targets if you have them, in any form that
            `bnutils.doctor.batches.batches` describes. Take the training data, as the model meets
            them at inference: not augmented.
        layers: the layers to recalibrate, and no others: paths as in reports, such as
            "base/block1/bn", paths of parts, such as "base", which mean all batch normalization
            in them, or the layers themselves. Named layers are recalibrated even if they are
            frozen. By default all layers that are not frozen.
        batch_size: rows in a batch, for arrays; 32 if it is None.
        method: "layerwise" or "one-pass".
        keep: "unless-worse", "always", or "never", which only measures and compares.
        memory: bytes of activations that are kept in memory; what is beyond goes to temporary
            files, which are gone in the end. On a cluster, bytes for each worker: if that is not
            enough, or if the rows of the blocks are not known yet, each level of layers starts
            from the blocks again.
        progress: whether to show a progress bar; by default on a terminal only.

    Returns:
        A `Recalibration`: how far the statistics of each layer moved, and what that changed. Its
        method `undo` gives the model the old statistics back.

    Raises:
        ValueError: if an argument or the data are not what they should be; if the model cannot be
            called, has no batch normalization layer, calls none, or hides one in an inner graph,
            where its input cannot be seen; if a statistic is not finite, or comes from fewer than
            8 values. Whatever is raised, all statistics are then those from before.

    Example:
        >>> bn = keras.layers.BatchNormalization(name="bn")
        >>> model = keras.Sequential([keras.Input((2,)), bn])
        >>> done = recalibrate(model, np.tile([[0.0, 5.0], [8.0, 7.0]], (4, 1)))
        >>> bn.moving_mean.value.numpy()
        array([4., 6.], dtype=float32)
        >>> done.moved[0].mean_shift_max
        5.9...
        >>> done.undo()
        >>> bn.moving_mean.value.numpy()
        array([0., 0.], dtype=float32)
    """
    for name, value, allowed in (("method", method, METHODS), ("keep", keep, KEEP)):
        if value not in allowed:
            raise ValueError(f"expected {name} to be one of {allowed}, got {value!r}")
    if not isinstance(memory, int | np.integer) or isinstance(memory, bool) or memory < 0:
        raise ValueError(f"expected memory to be a number of bytes, got {memory!r}")
    subject = Subject(model)
    subject.require_call("recalibrate")
    subject.require_batch_norm()
    with LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Keras remarks of a model, it has told its author
        return _Work(subject, batches(data, batch_size=batch_size, model=model), layers).done(
            method, keep, memory, progress
        )


class _Work:
    """One recalibration."""

    def __init__(self, subject: Subject, data: Batches, layers: Any) -> None:
        self.subject = subject
        self.data = data
        self.client = None if data.blocks is None else current_client()
        self.first, _ = data.first()
        build(subject, self.first)
        self.probe = Probe(subject)
        self.walk = Walk.of(subject, self.first)
        if self.walk is None:
            self.upstream = self.probe.upstream(self.first)
            called, unreached = list(self.upstream), self.probe.unreached(self.first)
        else:
            called, unreached = self.walk.layers, ()
        self.layers, self.skipped = _chosen(subject, layers, called, unreached)

    def done(self, method: Method, keep: Keep, memory: int, progress: bool | None) -> Recalibration:
        if not self.layers:
            return Recalibration(method, 0, 0, False, None, None, (), self.skipped)
        disable = None if progress is None else not progress
        with tqdm(desc="recalibrate", unit="step", disable=disable) as bar:
            together = [(self.layers, self.layers)] if method == "one-pass" else None
            if self.client is not None:
                found = self.on_cluster(together, memory, bar)
            elif together:
                found = self.in_rounds(together, bar)
            else:
                found = self.walked(memory, bar) or self.in_rounds(self.rounds(), bar)
        pooled, calls, passes, sample = found
        paths = {layer: self.subject.path(layer) for layer in self.layers}
        for layer, path in paths.items():
            _check_count(pooled[layer].count.min(), path)
        new = [pair for layer, path in paths.items() for pair in _new(layer, pooled[layer], path)]
        moved = [_moved(layer, pooled[layer], path, calls[layer]) for layer, path in paths.items()]
        comparison = sample.comparison()
        verdict = None if comparison is None else comparison.verdict
        kept = keep == "always" or (keep == "unless-worse" and verdict != "worse")
        restore = _set(new) if kept else lambda: None
        return Recalibration(
            method,
            self.data.rows,
            passes,
            kept,
            verdict,
            comparison,
            tuple(moved),
            self.skipped,
            restore,
        )

    def walked(self, memory: int, bar: tqdm) -> tuple | None:
        """Measure along the graph; None if that cannot be done."""
        if self.walk is None:
            return None
        sample = BeforeAfter(self.subject.model, self.data, self.walk.row_bytes)
        try:
            pooled = self.walk.measure(
                self.data, self.layers, memory=memory, sample=sample, progress=bar
            )
        except NoRoomError:
            pooled = None
        if pooled is None:
            bar.reset()
            return None
        return pooled, {layer: self.walk.calls(layer) for layer in self.layers}, 1, sample

    def on_cluster(self, rounds: list | None, memory: int, bar: tqdm) -> tuple:
        """Measure where the blocks of the data are."""
        from bnutils.doctor.cluster import Crew

        if rounds is None and (self.walk is None or self.walk.levels(self.layers) is None):
            rounds = self.rounds()
        row_bytes = 0 if self.walk is None else self.walk.row_bytes
        sample = BeforeAfter(self.subject.model, self.data, row_bytes)
        crew = Crew(
            self.client, self.subject, self.data, self.first, self.layers, self.walk, rounds
        )
        with crew:
            found, passes = crew.measure(memory, bar)
            self.data.rows, self.data.weighted = sum(found.rows), found.weighted
            if not self.data.rows:
                raise ValueError("expected at least one row of data, got none")
            wanted = min(sample.wanted(self.data.rows), COMPARED_BYTES // crew.row_bytes)
            compared = list(crew.rows(max(1, wanted), found.rows))
        pooled = {layer: found.moments[self.subject.path(layer)] for layer in self.layers}
        known = _statistics(pooled)
        runner = self.probe if self.walk is None else self.walk
        for x, y in compared:
            sample.take(len(keras.tree.flatten(x)[0]))
            sample.before(y, runner.outputs(x))
            sample.after(runner.outputs(x, known))
        if crew.walked:
            calls = {layer: self.walk.calls(layer) for layer in self.layers}
        else:
            calls = {layer: found.calls[self.subject.path(layer)] for layer in self.layers}
        return pooled, calls, passes, sample

    def rounds(self) -> list[tuple[list[BN], list[BN]]]:
        """The layers that can be measured together, and those of them that form a cycle."""
        if self.walk is not None:
            self.upstream = self.probe.upstream(self.first)
        chosen = set(self.layers)
        return rounds_of(
            {
                layer: [other for other in self.upstream[layer] if other in chosen]
                for layer in self.layers
            }
        )

    def in_rounds(self, rounds: list, bar: tqdm) -> tuple:
        """Measure by going through all data for each round, from the inputs on."""
        pooled, calls, kept = {}, {}, []
        row_bytes = 0 if self.walk is None else self.walk.row_bytes
        sample = BeforeAfter(self.subject.model, self.data, row_bytes)
        bar.total = None if self.data.steps is None else self.data.steps * len(rounds)
        for turn, (layers, by_batch) in enumerate(rounds):
            probe = Probe(self.subject, by_batch=by_batch) if by_batch else self.probe
            known = _statistics(pooled)
            for number, (x, y) in enumerate(self.data, start=1):
                for seen in probe.moments(x, layers, known):
                    layer, moments = seen.layer, seen.moments
                    path = self.subject.path(layer)
                    check_finite(moments, path, lambda number=number: self.data.where(number))
                    pooled[layer] = pooled[layer].merged(moments) if layer in pooled else moments
                    calls[layer] = max(calls.get(layer, 0), seen.call + 1)
                rows = sample.pick(int(keras.tree.flatten(x)[0].shape[0])) if turn == 0 else None
                if rows is not None:
                    kept.append((rows_of(x, rows), rows_of(y, rows)))
                    sample.hold(kept[-1][0])
                bar.update()
        known = _statistics(pooled)
        runner = self.probe if self.walk is None else self.walk
        for x, y in kept:
            sample.before(y, runner.outputs(x))
            sample.after(runner.outputs(x, known))
        return pooled, calls, len(rounds), sample


def _chosen(
    subject: Subject,
    wanted: Any,
    called: Sequence[BN],
    unreached: Iterable[Unreached],
) -> tuple[list[BN], tuple[Skipped, ...]]:
    """The layers to recalibrate, in the order of the model, and those that are left alone.

    Args:
        subject: the model.
        wanted: what the user named; None for all that are not frozen.
        called: the layers whose inputs can be seen.
        unreached: those whose inputs cannot.
    """
    name = subject.model.name
    hidden = {each.layer: each.reason for each in unreached if each.called}
    known = set(called) | set(hidden)
    if not known:
        raise ValueError(
            "expected a model that calls batch normalization layers, "
            f"{name!r} has {len(subject.layers)} and calls none"
        )
    if wanted is None:
        frozen = [layer for layer in subject.layers if layer in known and not layer.trainable]
        chosen = [layer for layer in subject.layers if layer in known and layer.trainable]
    else:
        frozen, chosen = [], _named(subject, wanted)
    lost = [layer for layer in chosen if layer in hidden]
    if lost:
        raise ValueError(
            "expected batch normalization whose input can be seen, but "
            f"{listing([repr(subject.path(layer)) for layer in lost])} {hidden[lost[0]]}: unroll "
            "the loop to recalibrate"
        )
    idle = [layer for layer in (subject.layers if wanted is None else chosen) if layer not in known]
    chosen = [layer for layer in chosen if layer not in idle]
    if not chosen and not frozen:
        raise ValueError(
            "expected layers that the model calls, but it never calls "
            f"{listing([subject.path(layer) for layer in idle])}"
        )
    reasons = dict.fromkeys(frozen, "frozen, trainable=False: name it in `layers` to include it")
    reasons |= dict.fromkeys(idle, "the model never calls it")
    skipped = (layer for layer in subject.layers if layer in reasons)
    return chosen, tuple(Skipped(subject.path(layer), reasons[layer]) for layer in skipped)


def _named(subject: Subject, wanted: Any) -> list[BN]:
    """The layers that the user named."""
    if isinstance(wanted, str | keras.Layer):
        wanted = [wanted]
    try:
        wanted = list(wanted)
    except TypeError:
        raise ValueError(f"expected layers or their paths, got {wanted!r}") from None
    paths = {layer: subject.path(layer) for layer in subject.layers}
    found = set()
    for each in wanted:
        path = subject.paths.get(each) if isinstance(each, keras.Layer) else each
        inside = [
            layer
            for layer, other in paths.items()
            if isinstance(path, str) and f"{other}/".startswith(f"{path.rstrip('/')}/")
        ]
        if not inside:
            raise ValueError(
                f"expected layers by paths such as {listing(map(repr, paths.values()))}, got "
                f"{each if isinstance(each, str) else getattr(each, 'name', each)!r}, in which "
                "there is no batch normalization of this model"
            )
        found.update(inside)
    if not found:
        raise ValueError("expected at least one layer, got none")
    return [layer for layer in subject.layers if layer in found]


def _statistics(pooled: Mapping[BN, Moments]) -> dict[BN, tuple[np.ndarray, np.ndarray]]:
    return {layer: (seen.mean, seen.variance) for layer, seen in pooled.items()}


def _check_count(values: float, path: str) -> None:
    if values < LEAST_VALUES:
        raise ValueError(
            f"expected at least {LEAST_VALUES} values per channel in front of {path!r}, got "
            f"{values:.0f}: give more rows"
        )


def _new(layer: BN, moments: Moments, path: str) -> Iterator[tuple[keras.Variable, np.ndarray]]:
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


def _moved(layer: BN, moments: Moments, path: str, calls: int) -> Moved:
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


def _set(new: list[tuple[keras.Variable, np.ndarray]]) -> Callable[[], None]:
    """Assign all values or none; give a function that puts the old ones back."""
    old = [(part, part.numpy()) for variable, _ in new for part in replicas(variable)]
    with restored(keep=True) as undo:
        for part, value in old:
            undo(part.assign, value)
        for variable, value in new:
            variable.assign(value)

    def restore() -> None:
        with restored() as undo:
            for part, value in old:
                undo(part.assign, value)

    return restore
