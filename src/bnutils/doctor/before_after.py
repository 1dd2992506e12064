"""The rows on which a model is compared before and after something changes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bnutils._keras import keras
from bnutils.doctor.batches import Batches, described
from bnutils.doctor.outcomes import Comparison, Pair, Scores
from bnutils.doctor.words import cause

__all__ = ["BeforeAfter", "rows_of"]

#: Rows on which the model is compared before and after, and bytes of outputs.
COMPARED_ROWS, COMPARED_BYTES = 1024, 2**28
#: With so many bytes of activations a forward pass takes its time: then a quarter of the rows is
#: compared, but not less than `LEAST_COMPARED`.
HEAVY_BYTES, LEAST_COMPARED = 2**28, 32
#: Up to so many batches rows are picked out of each; of more, whole batches are taken.
FEW_BATCHES = 8


def rows_of(part: Any, rows: slice) -> Any:
    """Some rows of the arrays in a structure; what has no rows stays as it is."""
    return keras.tree.map_structure(
        lambda leaf: leaf[rows] if len(getattr(leaf, "shape", ())) else leaf, part
    )


class BeforeAfter:
    """The outputs of a sample of the rows, by two states of a model."""

    def __init__(self, model: keras.Model, data: Batches, row_bytes: float) -> None:
        """Prepare to take rows of data, each of which makes activations of so many bytes."""
        self._model = model
        self._data = data
        self._row_bytes = row_bytes
        inputs = keras.tree.flatten(getattr(model, "inputs", None) or ())
        self._fixed_rows = any(tensor.shape[0] is not None for tensor in inputs)
        self._before = []  # (y, outputs)
        self._after = []
        self._seen = self._picked = self._rows = self._bytes = 0
        self._gap = 0.0  # rows from the start of one batch that is taken to that of the next
        self._stride = 1
        self._wanted = COMPARED_ROWS
        self._from_start = True
        self._rowless = False  # an output does not belong to rows, so none can be compared

    def pick(self, rows: int) -> slice | None:
        """Choose rows: a few of each batch if there are few batches, whole batches if many."""
        if not self._seen:
            self._plan(rows)
        due = self._seen >= self._picked * self._gap
        self._seen += rows
        if not due or self._rows >= self._wanted or self._bytes >= COMPARED_BYTES:
            return None
        self._picked += 1
        self._rows += math.ceil(rows / self._stride)
        return slice(None, None, self._stride)

    def _plan(self, rows: int) -> None:
        total = self._data.rows or (self._data.steps or 0) * rows
        if not total:
            return  # it is not known: the first rows are taken
        self._from_start = False
        self._wanted = self.wanted(total)
        step = max(1.0, total / self._wanted)
        if total <= FEW_BATCHES * rows and not self._fixed_rows:
            self._stride = math.ceil(step)
        else:
            self._gap = rows * step

    def wanted(self, total: int) -> int:
        """How many of all rows to compare."""
        if total * self._row_bytes <= HEAVY_BYTES:
            return COMPARED_ROWS
        return min(COMPARED_ROWS, max(LEAST_COMPARED, total // 4))

    def take(self, rows: int) -> None:
        """Count rows that were chosen elsewhere, from all over the data."""
        self._rows += rows
        self._from_start = False

    def hold(self, part: Any) -> None:
        """Count what is held in memory for the comparison."""
        self._bytes += sum(np.asarray(leaf).nbytes for leaf in keras.tree.flatten(part))

    def before(self, y: Any, outputs: Any) -> None:
        """Take the targets of the rows that were picked, and what the model makes of them.

        Raises:
            ValueError: if the compiled loss cannot be computed of these targets.
        """
        leaves = keras.tree.flatten(outputs)
        self._rowless = any(leaf is not None and np.ndim(leaf) == 0 for leaf in leaves)
        if not self._before and y is not None and not self._rowless:
            _check_targets(self._model, y, outputs)
        self.hold(outputs)
        self._before.append((y, outputs))

    def after(self, outputs: Any) -> None:
        """Take the outputs that come in the place of those."""
        self._after.append(outputs)

    def comparison(self) -> Comparison | None:
        """Compare what was taken; None if an output of the model has no rows."""
        if self._rowless:
            return None
        pairs = [
            Pair(y, before, after)
            for (y, before), after in zip(self._before, self._after, strict=True)
        ]
        whole = self._rows == self._data.rows
        first = not whole and (self._from_start or self._bytes >= COMPARED_BYTES)
        return Comparison.of(
            self._model,
            pairs,
            rows=self._rows,
            whole=whole,
            first=first,
            weighted=self._data.weighted,
        )


def _check_targets(model: keras.Model, y: Any, outputs: Any) -> None:
    """Refuse targets on which `fit` would fail too; a `train_step` of one's own may take any."""
    scores = Scores(model)
    if not scores.has_loss or type(model).train_step is not keras.Model.train_step:
        return
    try:
        scores.losses(y, outputs, chunks=1)
    except Exception as error:  # whatever a loss raises
        raise ValueError(
            f"expected targets that the compiled loss takes, got {described(y)}: {cause(error)}; "
            "leave them out to recalibrate without a comparison"
        ) from error
