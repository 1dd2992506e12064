"""A sample of the data run through the model in every way that matters, each at most once."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnutils._keras import keras, tf
from bnutils.doctor.batches import Sample, mapped
from bnutils.doctor.graph import BN
from bnutils.doctor.probe import Moments, Probe, Seen, dense
from bnutils.doctor.subject import Subject

__all__ = ["SIGMAS", "Run", "Runs", "pooled"]
#: Of many batches of training so many are run: each costs a call, and the noise of a mean over
#: them is a tenth of that of one.
MOST_BATCHES = 100
#: The rows are split into so many parts to tell the noise, of so many rows at least if there are.
PARTS, PART_ROWS = 8, 32
#: An outlier lies so many times as far from the medians as the row in the middle, and outliers are
#: at most this share of the rows; of each row so many positions are looked at.
OUTLYING, FEW_ROWS, POSITIONS = 5.0, 0.05, 256
#: What is measured counts if it is larger by so many standard errors: by chance, one in 700 is.
SIGMAS = 3.0


@dataclass(frozen=True, eq=False)
class Run:
    """What came of some rows.

    Attributes:
        rows: the numbers of the rows in the sample, in the order of the outputs.
        outputs: the model's outputs, NumPy arrays in its own structure.
        batches: for each batch, the moments of the calls of each layer.
    """

    rows: np.ndarray
    outputs: Any
    batches: tuple[dict[BN, list[Moments]], ...] = ()

    @property
    def moments(self) -> dict[BN, list[Moments]]:
        """For each layer the moments of its calls, over all batches."""
        return {
            layer: [
                pooled(call) for call in zip(*(batch[layer] for batch in self.batches), strict=True)
            ]
            for layer in self.batches[0]
        }


def pooled(parts: Iterable[Moments]) -> Moments:
    """The moments of all values together."""
    return functools.reduce(Moments.merged, parts)


class Runs:
    """The model on a sample. Dropout and other noise are off, but for `training_moments`.

    Attributes:
        sample: the rows.
    """

    def __init__(self, subject: Subject, sample: Sample, learners: Iterable[BN]) -> None:
        """Prepare; nothing is run yet.

        Args:
            subject: the model.
            sample: the rows.
            learners: the layers that `fit` lets follow the batch.
        """
        self.sample = sample
        self._model = subject.model
        self._subject = subject
        self._learners = tuple(learners)
        self._all = np.arange(sample.rows)

    @functools.cached_property
    def probe(self) -> Probe:
        """The model with batch normalization by the batch."""
        return Probe(self._subject, "batch")

    @functools.cached_property
    def inference(self) -> Run:
        """As in `predict`: by the moving statistics."""
        return Run(self._all, self._called({}))

    @functools.cached_property
    def pooled(self) -> Run:
        """With all rows as one batch: what recalibration gives."""
        run = self._batched([self._all])
        shared = [layer for layer in self._learners if len(run.moments.get(layer, ())) > 1]
        if not shared:
            return run
        # Recalibrated, all calls of a layer share one set of statistics.
        statistics = {
            layer: pooled(run.moments[layer]) for layer in self._learners if layer in run.moments
        }
        return Run(run.rows, self._called(statistics), run.batches)

    @functools.cached_property
    def parts(self) -> tuple[Run, ...]:
        """As `pooled`, for parts of the rows drawn at random, each by itself.

        How far they are from all rows tells how far all rows are from the population: see `noise`.
        """
        number = self._parts
        order = np.random.default_rng(1).permutation(self._all)
        parts = np.array_split(order, number)
        # Two parts mirror each other: one says it all.
        return tuple(self._batched([np.sort(part)]) for part in parts[: 1 if number == 2 else None])

    @property
    def _parts(self) -> int:
        return max(2, min(PARTS, self.sample.rows // PART_ROWS))

    def noise(self, gaps: Iterable[np.ndarray]) -> float:
        """The standard error of a quantity, from its gaps between each of `parts` and all rows.

        The mean of one of k parts of n values is off that of all by (k - 1) / n variances, and the
        mean of all is off the truth by 1 / n of one.

        Args:
            gaps: for each of `parts` an array of gaps, of quantities of one unit.
        """
        squares = np.mean([np.mean(gap**2) for gap in gaps])
        return float(np.sqrt(squares / (self._parts - 1)))

    @functools.cached_property
    def training(self) -> Run:
        """As in `fit`: each batch by itself, in the batches of training."""
        return self._batched(self._split(self._all))

    @functools.cached_property
    def distances(self) -> np.ndarray:
        """How far each row of the inputs lies from the medians; 1 for the row in the middle."""
        squares = np.zeros(self.sample.rows)
        for leaf in keras.tree.flatten(self.sample.x):
            if leaf.dtype.kind == "f" or leaf.dtype == np.uint8:  # other integers are names
                squares += _squares(leaf)
        middle = np.median(squares)
        return np.sqrt(squares / middle) if middle > 0 else np.ones(len(squares))

    @functools.cached_property
    def outliers(self) -> np.ndarray:
        """The numbers of the few rows that lie far from all others; often there are none."""
        found = np.flatnonzero(~(self.distances < OUTLYING))
        return found if len(found) <= FEW_ROWS * self.sample.rows else found[:0]

    @functools.cached_property
    def without_outliers(self) -> Run:
        """As `pooled`, without `outliers`."""
        return self._batched([np.delete(self._all, self.outliers)])

    @functools.cached_property
    def mixed(self) -> Run:
        """The same with the rows dealt out to the batches at random."""
        if self.sample.shuffled:
            return self.training
        rows = np.concatenate(self._split(self._all))
        return self._batched(self._split(np.random.default_rng(2).permutation(rows)))

    @functools.cached_property
    def training_moments(self) -> dict[BN, list[Moments]]:
        """The moments of `pooled` as they are in `fit`, with dropout on."""
        return _by_layer(Probe(self._subject, "training").moments(self.sample.x))

    def targets(self, run: Run) -> Any:
        """The targets of the rows of a run; None if there are none."""
        y = self.sample.y
        return None if y is None else mapped(lambda leaf: leaf[run.rows], y)

    def _split(self, rows: np.ndarray) -> list[np.ndarray]:
        ends = np.cumsum(self.sample.sizes)[:MOST_BATCHES]
        return np.split(rows[: ends[-1]], ends[:-1])

    def _batched(self, batches: list[np.ndarray]) -> Run:
        outputs, seen = [], []
        for rows in batches:
            whole = len(rows) == self.sample.rows and len(batches) == 1
            x = self.sample.x
            x = x if whole else keras.tree.map_structure(lambda leaf, rows=rows: leaf[rows], x)
            found, output = self.probe.run(x)
            outputs.append(output)
            seen.append(_by_layer(found))
        rows = np.concatenate(batches)
        if len(outputs) == 1:
            return Run(rows, outputs[0], tuple(seen))

        def joined(*leaves: Any) -> Any:
            """All rows; of an output that has none, and is compared with nothing, the first."""
            by_row = all(
                np.shape(leaf)[:1] == batch.shape
                for leaf, batch in zip(leaves, batches, strict=True)
            )
            return np.concatenate(leaves) if by_row else leaves[0]

        return Run(rows, keras.tree.map_structure(joined, *outputs), tuple(seen))

    def _called(self, statistics: dict[BN, Moments]) -> Any:
        """The outputs of the model itself, some layers with other statistics."""
        given = []
        for layer, moments in statistics.items():
            given.append((layer.moving_mean, moments.mean))
            given.append((layer.moving_variance, moments.variance))
        mapping = [(variable, tf.cast(value, variable.dtype)) for variable, value in given]
        x = keras.tree.map_structure(tf.convert_to_tensor, self.sample.x)
        with keras.StatelessScope(state_mapping=mapping):
            outputs = self._model(x, training=False)
        return keras.tree.map_structure(lambda leaf: np.asarray(dense(leaf)), outputs)


def _by_layer(seen: Iterable[Seen]) -> dict[BN, list[Moments]]:
    found = {}
    for one in seen:
        found.setdefault(one.layer, []).append(one.moments)
    return found


def _squares(leaf: np.ndarray) -> np.ndarray:
    """For each row the mean square of its distances from the median of each feature.

    In units of the median distance: the outliers themselves must not set the measure.
    """
    features = leaf.shape[-1] if leaf.ndim > 1 else 1
    values = leaf.reshape(len(leaf), -1, features)
    values = values[:, :: max(1, values.shape[1] // POSITIONS)].astype("float64")
    off = np.abs(values - np.median(values, axis=(0, 1)))
    unit = np.median(off, axis=(0, 1))
    unit = np.where(unit > 0, unit, off.mean(axis=(0, 1)))
    return (
        np.mean((off[..., unit > 0] / unit[unit > 0]) ** 2, axis=(1, 2)) if any(unit > 0) else 0.0
    )
