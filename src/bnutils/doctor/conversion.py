"""Model files written anew for Keras 3, with the proof that it is the same model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from bnutils._keras import keras, same_draws
from bnutils._writing import Signals, replace
from bnutils.doctor.differences import largest_difference, numbers
from bnutils.doctor.drawing import draws, inputs_of
from bnutils.doctor.files import SHOWN, open_model
from bnutils.doctor.results import Result, Skipped, Table, grouped_lines, skipped_lines
from bnutils.doctor.words import in_a_line

__all__ = ["Conversion", "convert"]

TOLERANCE = 1e-5  # of a conversion, in units of the largest output; the same model, so rounding
ROWS = 4  # random examples on which the outputs are compared


@dataclass(frozen=True, kw_only=True, repr=False)
class Conversion(Result):
    """A model file that was written anew, and the proof that it is the same model.

    Attributes:
        path: the file that was read.
        written_by: what wrote it.
        output: the new file.
        weights: how many numbers it holds; each is equal in both.
        rows: random examples on which the outputs were compared; 0 if they could not be.
        difference: the largest difference between the outputs, in units of the largest output.
        changes: pairs (layer, what is different from the file that was read).
        skipped: what was left out or not compared, and why.
    """

    path: str
    written_by: str
    output: str
    weights: int
    rows: int
    difference: float | None
    changes: tuple[tuple[str, str], ...] = ()
    skipped: tuple[Skipped, ...] = ()

    def _shown(self) -> Iterator[str | Table]:
        yield f"{self.path}, written by {self.written_by}, is now {self.output}, of Keras 3."
        if self.difference is None:
            yield f"Read back, its {self.weights:,} weights are equal."
        else:
            yield (
                f"Read back, its {self.weights:,} weights are equal; on {self.rows} random "
                f"examples the outputs differ by at most {self.difference:.1e} of the largest."
            )
        yield from grouped_lines(self.changes, "Changed", SHOWN)
        yield from skipped_lines(self.skipped, "Left out")


def convert(
    path: str | Path,
    output: str | Path,
    *,
    trust: bool = False,
    modules: Iterable[ModuleType] = (),
    signals: Signals | None = None,
) -> Conversion:
    """Write a model file anew as a .keras file of Keras 3, and prove that it is the same model.

    The new file is read back before it takes its place: weights must be equal, and outputs on
    random examples too.

    Args:
        path: a file that `open_model` takes.
        output: the new file; its name ends in .keras.
        trust: as for `open_model`.
        modules: as for `open_model`.
        signals: the shell's, which wait until the new file is there or cleared away.

    Returns:
        A `Conversion`.

    Raises:
        ValueError: as `open_model` does; or if the name does not end in .keras, or is that of the
            file that is read.
        OSError: if the new file cannot be written.
        RuntimeError: if the proof fails. Whatever is raised, no file has changed.

    Example:
        >>> import tempfile, warnings
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization()])
        >>> with warnings.catch_warnings(action="ignore"), tempfile.TemporaryDirectory() as folder:
        ...     model.save(Path(folder, "old.h5"))
        ...     converted = convert(Path(folder, "old.h5"), Path(folder, "new.keras"))
        >>> converted.weights, converted.difference
        (12, 0.0)
    """
    output, modules = Path(output), tuple(modules)
    if output.suffix != ".keras":
        raise ValueError(f"expected an output that ends in .keras, got {output}")
    if output.exists() and Path(path).exists() and output.samefile(path):
        raise ValueError(f"expected an output that is not the file that is read, got {output}")
    opened = open_model(path, trust=trust, modules=modules)
    proof = {}

    def write(path: Path) -> None:
        opened.model.save(path)
        again = open_model(path, trust=trust, modules=modules)
        with same_draws():
            proof.update(_compared(opened.model, again.model))

    replace(output, write, signals or Signals())
    return Conversion(
        path=opened.path,
        written_by=opened.written_by,
        output=str(output),
        changes=opened.changes,
        **{**proof, "skipped": (*opened.skipped, *proof["skipped"])},
    )


def _compared(model: keras.Model, again: keras.Model) -> dict[str, Any]:
    """Weights and outputs of two models that should be one and the same.

    Raises:
        RuntimeError: if they are not.
    """
    first, second = model.get_weights(), again.get_weights()
    for old, new in zip(first, second, strict=True):
        if not np.array_equal(old, new, equal_nan=old.dtype.kind == "f"):
            raise RuntimeError("a weight of the new file is not that of the old one")
    made = {"weights": sum(old.size for old in first), "rows": 0, "difference": None}
    try:
        x = _random_inputs(model)
        outputs = [
            [numbers(output) for output in keras.tree.flatten(each(x, training=False))]
            for each in (model, again)
        ]
    except Exception as error:
        reason = f"not compared, no random example suits the model: {in_a_line(error)}"
        return {**made, "skipped": (Skipped("outputs", reason),)}
    difference = largest_difference(*outputs)
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f"the outputs of the new file differ by {difference:.1e} of the largest, more than "
            f"{TOLERANCE:.0e}"
        )
    return {**made, "rows": ROWS, "difference": difference, "skipped": ()}


def _random_inputs(model: keras.Model) -> Any:
    """Random examples in the structure of the model's inputs, of a size that the model takes."""
    inputs = inputs_of(model)
    if any(tensor.dtype == "string" for tensor in keras.tree.flatten(inputs)):
        raise ValueError("an input takes text")
    failure = None
    for x in draws(inputs, ROWS):
        try:
            model(x, training=False)
        except Exception as error:
            failure = error
        else:
            return x
    raise failure
