"""Any data that a Keras model takes, as batches that can be gone through again and again.

The doctor looks at the same data several times, and at models of every kind. `batches` gives it
one way to do so for arrays, `tf.data`, `keras.utils.PyDataset` and generators.
"""

from __future__ import annotations

import itertools
import math
import operator
import pickle
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from bnutils._keras import keras, tf

__all__ = ["Batches", "batches"]

_Spec = tuple[str, tuple[int | None, ...]]  # name and shape of an input


def batches(data: Any, batch_size: int | None = None, model: keras.Model | None = None) -> Batches:
    """Make batches of any data, to be gone through as often as wanted.

    Args:
        data: one of

            - arrays: one array (NumPy, memory-mapped, TensorFlow, pandas); a list or a dict of
              arrays for a model with several inputs; or a tuple `(x,)`, `(x, y)` or
              `(x, y, sample_weight)` of these. A tuple always means this, as in Keras;
            - a batched, finite `tf.data.Dataset`;
            - a finite `keras.utils.PyDataset`;
            - a generator or another iterator of batches. It must end. What it yields is kept in
              a temporary file on disk, since it can be drawn only once;
            - a callable without arguments that returns an iterable of batches, or any object
              that gives batches each time it is iterated over.

            A batch is an array, a dict or a list of arrays, or a tuple `(x,)`, `(x, y)` or
            `(x, y, sample_weight)`. From a PyDataset a list counts as a tuple, as in Keras.
            Sample weights are left out: Keras does not weigh batch statistics by them either.
        batch_size: rows in a batch, for arrays; 32 if it is None. Other data come in batches
            already, and keep them.
        model: the model the data are for. If its inputs are known, the number of the inputs
            and their shapes are checked in each batch.

    Returns:
        A `Batches`.

    Raises:
        ValueError: if the data are none of the above, empty, infinite, not numbers or text, or
            if their arrays differ in rows. What can only be seen in a batch is raised when that
            batch comes.

    Example:
        >>> data = batches((np.arange(10.0).reshape(5, 2), np.arange(5)), batch_size=2)
        >>> [x.shape for x, y in data], data.rows
        ([(2, 2), (2, 2), (1, 2)], 5)
    """
    if batch_size is not None:
        batch_size = _positive_integer(batch_size)
    if isinstance(data, Batches):
        return data
    if isinstance(data, tf.data.Dataset):
        return _from_dataset(data, model)
    if isinstance(data, keras.utils.PyDataset):
        return _from_pydataset(data, model)
    if isinstance(data, Iterator):
        return Batches(_Spool(data), model=model)
    if isinstance(data, str | bytes | set | frozenset | None):
        raise ValueError(
            "expected arrays, a tf.data.Dataset, a PyDataset, a generator or a callable, "
            f"got {data!r}"
        )
    if isinstance(data, list | tuple | dict) or hasattr(data, "shape"):
        return _from_arrays(data, 32 if batch_size is None else batch_size, model)
    if callable(data):
        return Batches(data, model=model)
    if isinstance(data, Iterable):
        return Batches(lambda: data, model=model)
    raise ValueError(
        "expected arrays, a tf.data.Dataset, a PyDataset, a generator or a callable, "
        f"got a {type(data).__name__}"
    )


class Batches:
    """Batches `(x, y)` that can be gone through again and again; made by `batches`.

    Iterating gives `(x, y)`: `x` is an array, or a dict, list or tuple of arrays or tensors,
    as the model takes it; `y` likewise, or None where the data have no targets. Batches
    without rows are left out.

    Attributes:
        rows: rows in all; None until it is known, after the first full pass at the latest.
        batch_size: rows of a batch, the last one perhaps excepted; None if the data came in
            batches of their own.
        steps: the number of batches; None until it is known.
    """

    def __init__(
        self,
        source: Callable[[], Iterable],
        *,
        rows: int | None = None,
        batch_size: int | None = None,
        steps: int | None = None,
        model: keras.Model | None = None,
    ) -> None:
        """Take a callable that returns an iterable of batches; see `batches`."""
        self._source = source
        self._specs = _input_specs(model)
        self.rows = rows
        self.batch_size = batch_size
        self.steps = steps

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Go through all batches.

        Raises:
            ValueError: if there is no batch, if a batch is not what `batches` describes, or if
                this pass ends after another number of rows than the one before.
        """
        rows = steps = 0
        for number, batch in enumerate(self._source(), start=1):
            x, y, size = _checked_batch(batch, self._specs, number)
            if size:
                rows += size
                steps += 1
                yield x, y
        if not rows:
            raise ValueError("expected at least one row of data, got none")
        if self.rows is not None and rows != self.rows:
            raise ValueError(
                f"expected the same data each time, but got {rows} rows now and {self.rows} before"
            )
        self.rows, self.steps = rows, steps

    def first(self) -> tuple[Any, Any]:
        """Give the first batch `(x, y)`.

        Raises:
            ValueError: if there is none, or if it is not what `batches` describes.
        """
        iterator = iter(self)
        try:
            return next(iterator)
        finally:
            iterator.close()


def _from_arrays(data: Any, batch_size: int, model: keras.Model | None) -> Batches:
    parts = _parts(data)
    parts = tuple(_as_arrays(part) for part in parts)
    leaves = [leaf for part in parts for leaf in keras.tree.flatten(part)]
    lengths = {leaf.shape[0] if len(leaf.shape) else None for leaf in leaves}
    if len(lengths) != 1 or None in lengths:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in leaves)
        raise ValueError(
            f"expected arrays with one row for each example, as many in each, got shapes {shapes}"
        )
    rows = lengths.pop()
    if not rows:
        raise ValueError("expected at least one row of data, got none")

    def source() -> Iterator[tuple]:
        for start in range(0, rows, batch_size):
            rows_now = slice(start, start + batch_size)
            yield tuple(
                keras.tree.map_structure(
                    lambda leaf, rows=rows_now: getattr(leaf, "iloc", leaf)[rows], part
                )
                for part in parts
            )

    steps = math.ceil(rows / batch_size)
    return Batches(source, rows=rows, batch_size=batch_size, steps=steps, model=model)


def _from_dataset(data: tf.data.Dataset, model: keras.Model | None) -> Batches:
    if data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "expected a data set that ends, got an infinite one: leave out repeat(), or take(n)"
        )
    shapes = [spec.shape for spec in tf.nest.flatten(data.element_spec) if hasattr(spec, "shape")]
    if any(shape.rank == 0 for shape in shapes):
        raise ValueError("expected a data set of batches, got one of single examples: use batch(n)")
    known = data.cardinality() != tf.data.UNKNOWN_CARDINALITY
    return Batches(lambda: data, steps=int(data.cardinality()) if known else None, model=model)


def _from_pydataset(data: keras.utils.PyDataset, model: keras.Model | None) -> Batches:
    steps = data.num_batches
    if steps is None:
        raise ValueError("expected a PyDataset that ends, got one without a number of batches")

    def source() -> Iterator:
        for number in range(steps):
            batch = data[number]
            yield tuple(batch) if isinstance(batch, list) else batch

    return Batches(source, steps=steps, model=model)


class _Spool:
    """What an iterator yields, kept on disk as it is drawn, so that it can be gone through again.

    The file has no name and is gone with this object.
    """

    def __init__(self, iterator: Iterator) -> None:
        self._iterator = iterator
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the object)
        weakref.finalize(self, self._file.close)
        self._starts = []
        self._failure = None

    def __call__(self) -> Iterator:
        for number in itertools.count():
            if number == len(self._starts) and not self._draw():
                return
            self._file.seek(self._starts[number])
            yield pickle.load(self._file)

    def _draw(self) -> bool:
        """Draw one more batch; False at the end."""
        if self._failure is not None:
            raise self._failure
        try:
            batch = next(self._iterator)
        except StopIteration:
            return False
        except BaseException as failure:
            # The iterator cannot be drawn again: later passes must not take the part for all.
            self._failure = failure
            raise
        start = self._file.seek(0, 2)
        pickle.dump(keras.tree.map_structure(_to_numpy, batch), self._file, protocol=5)
        self._starts.append(start)
        return True


def _positive_integer(value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"expected batch_size to be a positive integer, got {value!r}")
    return number


def _parts(batch: Any) -> tuple:
    """Split a batch, or all data, into `(x,)` or `(x, y)`; sample weights are left out."""
    if not isinstance(batch, tuple):
        return (batch,)
    if len(batch) not in (1, 2, 3):
        raise ValueError(
            "expected a tuple (x,), (x, y) or (x, y, sample_weight), got a tuple of "
            f"{len(batch)}: several inputs go into a list or a dict"
        )
    return batch[:2] if len(batch) > 1 and batch[1] is not None else batch[:1]


def _as_arrays(part: Any) -> Any:
    """Turn lists of numbers into arrays; keep lists and dicts of arrays."""
    if isinstance(part, list | tuple) and not any(_is_arrays(item) for item in part):
        return _to_numpy(part)
    return keras.tree.map_structure(
        lambda leaf: leaf if hasattr(leaf, "shape") else _to_numpy(leaf), part
    )


def _is_arrays(item: Any) -> bool:
    return (hasattr(item, "shape") and len(item.shape) > 0) or isinstance(item, dict)


def _to_numpy(leaf: Any) -> np.ndarray | None:
    if leaf is None:
        return None
    try:
        return np.asarray(leaf)
    except Exception as error:  # whatever a foreign array type raises
        raise ValueError(
            f"expected arrays of numbers or text, got a {type(leaf).__name__}"
        ) from error


def _input_specs(model: keras.Model | None) -> list[_Spec] | None:
    """The (name, shape) of each input of a model, or None where they are not known."""
    inputs = getattr(model, "inputs", None)
    if not inputs:
        return None
    return [(tensor.name, tuple(tensor.shape)) for tensor in keras.tree.flatten(inputs)]


def _checked_batch(batch: Any, specs: list[_Spec] | None, number: int) -> tuple[Any, Any, int]:
    """The `(x, y, rows)` of one batch, with every leaf an array or a tensor."""
    parts = tuple(
        keras.tree.map_structure(lambda leaf: _checked_leaf(leaf, number), part)
        for part in _parts(batch)
    )
    sizes = {leaf.shape[0] for part in parts for leaf in keras.tree.flatten(part)}
    if len(sizes) != 1:
        raise ValueError(
            f"expected as many rows in each array of a batch, got {sorted(sizes)} in batch {number}"
        )
    x = parts[0]
    if specs is not None:
        _check_inputs(x, specs, number)
    return x, parts[1] if len(parts) == 2 else None, sizes.pop()


def _checked_leaf(leaf: Any, number: int) -> np.ndarray | tf.Tensor:
    if isinstance(leaf, tf.RaggedTensor | tf.SparseTensor):
        raise ValueError(
            f"expected dense arrays, got a {type(leaf).__name__} in batch {number}: "
            "use to_tensor() or tf.sparse.to_dense first"
        )
    if not tf.is_tensor(leaf):
        leaf = _to_numpy(leaf)
        if leaf is None or leaf.dtype.kind == "c":
            raise ValueError(f"expected real numbers or text, got {leaf!r} in batch {number}")
        if leaf.dtype.kind == "O":
            try:
                leaf = tf.convert_to_tensor(leaf)
            except (ValueError, TypeError) as error:
                raise ValueError(
                    f"expected arrays of numbers or text, got objects in batch {number}"
                ) from error
    if len(leaf.shape) == 0:
        raise ValueError(f"expected a batch of examples, got a single value in batch {number}")
    return leaf


def _check_inputs(x: Any, specs: list[_Spec], number: int) -> None:
    if isinstance(x, dict) and {name for name, _ in specs} <= set(x):
        found = [(name, x[name]) for name, _ in specs]  # Keras drops the keys it does not know
    else:
        leaves = keras.tree.flatten(x)
        if len(leaves) != len(specs):
            raise ValueError(
                f"expected {len(specs)} inputs ({', '.join(name for name, _ in specs)}), "
                f"got {len(leaves)} in batch {number}"
            )
        found = [(name, leaf) for (name, _), leaf in zip(specs, leaves, strict=True)]
    for (name, leaf), (_, shape) in zip(found, specs, strict=True):
        got = tuple(leaf.shape)
        # Keras takes [batch] for [batch, 1] and the reverse.
        if len(got) == len(shape):
            fits = all(want in (None, have) for want, have in zip(shape[1:], got[1:], strict=True))
        else:
            fits = (*got, 1) == (got[0], *shape[1:]) or got == (got[0], *shape[1:], 1)
        if not fits:
            hint = ": are these single examples, not batches?" if len(got) < len(shape) else ""
            raise ValueError(
                f"expected batches of shape {shape} for input {name!r}, "
                f"got {got} in batch {number}{hint}"
            )
