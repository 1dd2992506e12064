"""Any data that a Keras model takes, as batches that can be gone through again and again.

The doctor looks at the same data several times, and at models of every kind. `batches` gives it
one way to do so for arrays, `tf.data`, `keras.utils.PyDataset` and generators. Data that do not
suit the model are refused here, before anything is run.
"""

from __future__ import annotations

import copy
import itertools
import math
import operator
import pickle
import random
import tempfile
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bnutils._keras import keras, tf
from bnutils.doctor.blocks import Blocks, blocks_of, is_of_dask
from bnutils.doctor.words import count, first_line, listing

__all__ = ["Batches", "Sample", "batches", "described"]

#: A stream of batches is gone through for a sample as long as it has fewer than so many times the
#: rows wanted, and takes fewer seconds: at most about what an audit takes itself.
SCAN_ROWS, SCAN_SECONDS = 64, 3.0


class _Spec(NamedTuple):
    """What is known of an input of a model."""

    name: str  # by which a dict of data has it
    shape: tuple[int | None, ...]
    dtype: str


def batches(data: Any, batch_size: int | None = None, model: keras.Model | None = None) -> Batches:
    """Make batches of any data, to be gone through as often as wanted.

    Args:
        data: one of

            - arrays: one array (NumPy, memory-mapped, TensorFlow, PyTorch, pandas); a list or a
              dict of arrays for a model with several inputs; or a tuple `(x,)`, `(x, y)` or
              `(x, y, sample_weight)` of these. A tuple always means this, as in Keras;
            - a batched, finite `tf.data.Dataset`;
            - a finite `keras.utils.PyDataset`, or a PyTorch `DataLoader`;
            - collections of Dask: what stands above with Dask arrays or Dask tables in the place of
              arrays, whose chunks or partitions are blocks of rows; a list of `Delayed`, each of
              which gives a block of rows in one of the forms above, such as `(x, y)`; or a bag
              whose items are batches. One block at a time is computed and held;
            - a generator or another iterator of batches. It must end. What it yields is kept in
              a temporary file on disk, since it can be drawn only once;
            - a callable without arguments that returns an iterable of batches, or any object
              that gives batches each time it is iterated over.

            A batch is an array, a dict or a list of arrays, or a tuple `(x,)`, `(x, y)` or
            `(x, y, sample_weight)`. From a PyDataset or a DataLoader a list counts as a tuple, as
            in Keras. Sample weights are left out: Keras does not weigh batch statistics by them;
            `weighted` tells that there were some.
        batch_size: rows in a batch, for arrays and blocks of Dask; 32 if it is None, as in `fit`.
            Other data come in batches already, and keep them.
        model: the model the data are for. If its inputs are known, their number, shapes and
            dtypes are checked in each batch.

    Returns:
        A `Batches`.

    Raises:
        ValueError: if the data are none of the above, empty, infinite, masked, not numbers or
            text, or if their arrays differ in rows. What can only be seen in a batch is raised
            when that batch comes.

    Example:
        >>> data = batches((np.arange(10.0).reshape(5, 2), np.arange(5)), batch_size=2)
        >>> [x.shape for x, y in data], data.rows
        ([(2, 2), (2, 2), (1, 2)], 5)
    """
    if batch_size is not None:
        batch_size = positive_integer(batch_size)
    if isinstance(data, Batches):
        return data if model is None else data.suited(model)
    if isinstance(data, tf.data.Dataset):
        return _from_dataset(data, model)
    if isinstance(data, keras.utils.PyDataset):
        return _from_pydataset(data, model)
    if isinstance(data, tf.distribute.DistributedDataset | tf.distribute.DistributedIterator):
        raise ValueError(
            f"expected data of one process, got a {type(data).__name__}, which is dealt out to "
            "replicas: give the tf.data.Dataset that it was made from"
        )
    if isinstance(data, Iterator):
        return Batches(_Spool(data), model=model)
    if is_of_dask(data):
        return _from_blocks(blocks_of(data), data, batch_size or 32, model)
    if isinstance(data, str | bytes | set | frozenset | None):
        raise ValueError(
            "expected arrays, a tf.data.Dataset, a PyDataset, a generator or a callable, "
            f"got {data!r}"
        )
    if isinstance(data, list | tuple | dict) or hasattr(data, "shape"):
        return _from_arrays(data, 32 if batch_size is None else batch_size, model)
    if _is_torch(data) and isinstance(data, Iterable):
        return Batches(lambda: map(_list_as_tuple, data), model=model)
    if callable(data):
        return Batches(lambda: _returned(data), model=model)
    if isinstance(data, Iterable):
        return Batches(lambda: data, model=model)
    raise ValueError(
        "expected arrays, a tf.data.Dataset, a PyDataset, a generator or a callable, "
        f"got a {type(data).__name__}"
    )


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows of data, in the batches in which `fit` gets them.

    Attributes:
        x: the rows, as the model takes them: an array, or a dict, list or tuple of arrays.
        y: their targets likewise, or None.
        sizes: how many rows each batch of training has, in the order of the rows. Rows beyond
            their sum fill no batch.
        shuffled: whether `fit` draws the rows of a batch from all over, as it does with arrays.
            Other data come in batches already.
        the_first: whether these rows are the beginning of longer data, not drawn from all over.
        weighted: whether sample weights came with them.
    """

    x: Any
    y: Any
    sizes: tuple[int, ...]
    shuffled: bool
    the_first: bool = False
    weighted: bool = False

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(keras.tree.flatten(self.x)[0])


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
        weighted: whether sample weights came with the batches that were seen, and were left out.
        blocks: the blocks of Dask that the batches are rows of; None for other data.
    """

    blocks: Blocks | None = None

    def __init__(
        self,
        source: Callable[[], Iterable],
        *,
        rows: int | None = None,
        batch_size: int | None = None,
        steps: int | None = None,
        model: keras.Model | None = None,
        pick: Callable[[np.ndarray], Any] | None = None,
        fetch: Callable[[int], Any] | None = None,
        weighted: bool = False,
        where: Callable[[int], str] = "batch {}".format,
    ) -> None:
        """Take a callable that returns an iterable of batches; see `batches`.

        Args:
            source: the callable.
            rows: see `Batches`.
            batch_size: see `Batches`.
            steps: see `Batches`.
            model: see `batches`.
            pick: gives the rows of these numbers, in ascending order, if rows can be picked.
            fetch: gives the batch of this number, if batches can be picked.
            weighted: see `Batches`.
            where: what errors call the batch of this number, counted from 1.
        """
        self._source = lambda: _leaving_random_streams(source)
        self._pick = pick
        self._fetch = fetch
        self._specs = _input_specs(model)
        self.rows = rows
        self.batch_size = batch_size
        self.steps = steps
        self.weighted = weighted
        self.where = where

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Go through all batches.

        Raises:
            ValueError: if there is no batch, if a batch is not what `batches` describes, or if
                this pass ends after another number of rows than the one before.
        """
        rows = steps = 0
        with closing(self._source()) as source:
            for number, batch in enumerate(source, start=1):
                self.weighted = self.weighted or _weighted(batch)
                x, y, size = _checked_batch(batch, self._specs, self.where(number))
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

    def unchecked(self) -> Any:
        """Give the first batch as it comes: a `train_step` of one's own may take any structure."""
        iterator = self._source()
        try:
            return next(iterator, None)
        finally:
            iterator.close()

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

    def suited(self, model: keras.Model) -> Batches:
        """Give the same data, held against the inputs of a model."""
        other = copy.copy(self)
        other._specs = _input_specs(model)
        return other

    def sample(self, rows: int, batch_size: int | None = None) -> Sample:
        """Draw rows from all over the data, always the same ones.

        Of arrays any rows are drawn, of a PyDataset whole batches. Other data are gone through
        once; if they are long (`SCAN_ROWS`, `SCAN_SECONDS`) their beginning has to do. Of batches
        of several shapes those of the commonest one are taken.

        Args:
            rows: about so many rows, at least one batch.
            batch_size: rows in a batch of training, for arrays; those of this object if None.

        Returns:
            A `Sample`, all of it NumPy arrays.

        Raises:
            ValueError: as iterating does.
        """
        if self._pick is not None:
            return self._picked(rows, batch_size or self.batch_size)
        if self._fetch is not None:
            found, the_first = self._fetched(rows), False
        else:
            found, the_first = self._scanned(rows)
        forms = [_form(batch) for batch in found]
        common = Counter(forms).most_common(1)[0][0]
        found = [batch for batch, form in zip(found, forms, strict=True) if form == common]
        found = _limited(found, rows)
        sizes = tuple(_rows(batch) for batch in found)
        # The last batch of all may be a small rest, of which fit gets one in each epoch.
        full = tuple(size for size in sizes if size == max(sizes)) if len(sizes) > 1 else sizes
        order = sorted(range(len(sizes)), key=lambda number: sizes[number] != max(sizes))
        x, y = mapped(lambda *leaves: np.concatenate(leaves), *[found[number] for number in order])
        return Sample(x, y, full, shuffled=False, the_first=the_first, weighted=self.weighted)

    def _picked(self, rows: int, batch_size: int) -> Sample:
        order = np.random.default_rng(0).permutation(self.rows)[:rows]
        ascending = np.sort(order)
        where = "these rows" if self.blocks else self.where(1)
        x, y, _ = _checked_batch(self._pick(ascending), self._specs, where)
        places = np.searchsorted(ascending, order)
        x, y = mapped(lambda leaf: np.asarray(leaf)[places], (x, y))
        size = min(batch_size, len(order))
        return Sample(x, y, (size,) * (len(order) // size), shuffled=True, weighted=self.weighted)

    def _fetched(self, rows: int) -> list[tuple[Any, Any]]:
        size = _rows(self.first())
        wanted = min(self.steps, max(1, math.ceil(rows / size)))
        places = np.unique(np.linspace(0, self.steps - 1, wanted).round().astype(int))
        fetched = _leaving_random_streams(lambda: (self._fetch(int(place)) for place in places))
        found = []
        for place, batch in zip(places, fetched, strict=True):
            x, y, size = _checked_batch(batch, self._specs, self.where(int(place) + 1))
            if size:
                found.append(mapped(np.asarray, (x, y)))
        return found

    def _scanned(self, rows: int) -> tuple[list[tuple[Any, Any]], bool]:
        """Batches evenly spaced over a stream, or else its first ones, and which it is."""
        begin, first, kept, every, seen = time.monotonic(), [], [], 1, 0
        stream = iter(self)
        for number, batch in enumerate(stream):
            size = _rows(batch)
            wanted = max(1, math.ceil(rows / size))
            total = self.rows or (self.steps or 0) * size
            if len(first) < wanted:
                first.append(mapped(np.asarray, batch))
            elif max(seen, total) > SCAN_ROWS * rows or time.monotonic() - begin > SCAN_SECONDS:
                stream.close()
                return first, True
            seen += size
            if number % every == 0:
                kept.append(first[-1] if number < wanted else mapped(np.asarray, batch))
            if len(kept) >= 2 * wanted + 2:
                kept, every = kept[::2], 2 * every
        number = min(len(kept), max(1, math.ceil(rows / _rows(kept[0]))))
        places = np.unique(np.linspace(0, len(kept) - 1, number).round().astype(int))
        return [kept[place] for place in places], False


def _returned(source: Callable[[], Any]) -> Iterable:
    """What a user's callable returns."""
    found = source()
    try:
        return iter(found)
    except TypeError:
        raise ValueError(
            f"expected a callable that returns an iterable of batches, got {found!r} from it"
        ) from None


def _leaving_random_streams(source: Callable[[], Iterable]) -> Iterator:
    """Go through a user's data, and leave what it may draw from for augmentation as it was.

    An audit in the middle of training must not change what training draws next.
    """
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield from source()
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


def mapped(function: Callable, *batches: Any) -> Any:
    """Apply a function to the arrays of batches (x, y), and leave None where there is no y."""
    return keras.tree.map_structure(
        lambda *leaves: None if leaves[0] is None else function(*leaves), *batches
    )


def _rows(batch: tuple[Any, Any]) -> int:
    return len(keras.tree.flatten(batch[0])[0])


def _form(batch: tuple[Any, Any]) -> tuple:
    """The shapes of a batch but for its rows: batches of one form can be put together."""
    leaves = [leaf for leaf in keras.tree.flatten(batch) if leaf is not None]
    return tuple(leaf.shape[1:] for leaf in leaves)


def _limited(found: list[tuple[Any, Any]], rows: int) -> list[tuple[Any, Any]]:
    """Of one batch that is larger than wanted, rows from all over it; more batches as they are."""
    size = _rows(found[0])
    if len(found) > 1 or size <= rows:
        return found
    chosen = np.linspace(0, size - 1, rows).round().astype(int)
    return [mapped(lambda leaf: leaf[chosen], found[0])]


def _from_arrays(data: Any, batch_size: int, model: keras.Model | None) -> Batches:
    parts = tuple(_as_arrays(part) for part in _parts(data))
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

    def pick(chosen: slice | np.ndarray) -> tuple:
        def of(leaf: Any) -> Any:
            if tf.is_tensor(leaf) and not isinstance(chosen, slice):
                return tf.gather(leaf, chosen)
            return getattr(leaf, "iloc", leaf)[chosen]

        return tuple(keras.tree.map_structure(of, part) for part in parts)

    def source() -> Iterator[tuple]:
        for start in range(0, rows, batch_size):
            yield pick(slice(start, start + batch_size))

    steps = math.ceil(rows / batch_size)
    return Batches(
        source,
        rows=rows,
        batch_size=batch_size,
        steps=steps,
        model=model,
        pick=pick,
        weighted=_weighted(data),
    )


def _from_blocks(blocks: Blocks, data: Any, batch_size: int, model: keras.Model | None) -> Batches:
    block_of = []  # the number of the block from which each batch comes

    def source() -> Iterator[tuple]:
        block_of.clear()
        for number, block in enumerate(blocks.computed()):
            name = blocks.name(number)
            inside = batches_of_block(block, blocks.holds_batches, batch_size, None, name)
            for x, y in inside or ():
                found.weighted = found.weighted or inside.weighted
                block_of.append(number)
                yield (x,) if y is None else (x, y)

    known = blocks.rows is not None
    found = Batches(
        source,
        rows=sum(blocks.rows) if known else None,
        batch_size=batch_size,
        steps=sum(math.ceil(rows / batch_size) for rows in blocks.rows) if known else None,
        model=model,
        pick=blocks.rows_at if known else None,
        weighted=_weighted(data),
        where=lambda number: blocks.name(block_of[number - 1]),
    )
    found.blocks = blocks
    return found


def batches_of_block(
    block: Any, holds_batches: bool, batch_size: int, model: keras.Model | None, name: str
) -> Batches | None:
    """Make batches of a block of rows.

    Args:
        block: data as `batches` takes them, or an iterable of batches.
        holds_batches: which of the two.
        batch_size: rows in a batch.
        model: see `batches`.
        name: what errors call it.

    Returns:
        The batches; None if the block has no rows.

    Raises:
        ValueError: if the block is not such data.
    """
    if holds_batches:
        items = [batch for batch in block if not _has_no_rows(batch)]
        if not items:
            return None
        found = Batches(lambda: items, model=model)
    elif _has_no_rows(block):
        return None
    else:
        try:
            found = batches(block, batch_size, model)
        except ValueError as error:
            raise ValueError(f"{error}, in {name}") from error
    found.where = lambda number: name
    return found


def _has_no_rows(batch: Any) -> bool:
    leaves = keras.tree.flatten(batch[:1] if isinstance(batch, tuple) else batch)
    return all(getattr(leaf, "shape", (1,))[:1] == (0,) for leaf in leaves)


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

    def fetch(number: int) -> Any:
        return _list_as_tuple(data[number])

    return Batches(lambda: map(fetch, range(steps)), steps=steps, model=model, fetch=fetch)


def _list_as_tuple(batch: Any) -> Any:
    return tuple(batch) if isinstance(batch, list) else batch


def _is_torch(data: Any) -> bool:
    """Whether this comes from PyTorch, which need not be installed."""
    return any(base.__module__.partition(".")[0] == "torch" for base in type(data).__mro__)


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


def positive_integer(value: Any, name: str = "batch_size") -> int:
    """A number of rows as an `int`, from any type of whole number.

    Args:
        value: the number.
        name: what it is, for the error.

    Raises:
        ValueError: if it is no whole number from 1 on.
    """
    try:
        number = 0 if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"expected {name} to be a positive integer, got {value!r}")
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


def _weighted(batch: Any) -> bool:
    """Whether sample weights come with a batch, or with all data."""
    return isinstance(batch, tuple) and len(batch) == 3 and batch[2] is not None


def _as_arrays(part: Any) -> Any:
    """Turn lists of numbers into arrays; keep lists and dicts of arrays."""
    if isinstance(part, list | tuple) and not any(_is_arrays(item) for item in part):
        return _to_numpy(part)
    return keras.tree.map_structure(
        lambda leaf: _dense(leaf) if hasattr(leaf, "shape") else _to_numpy(leaf), part
    )


def _is_arrays(item: Any) -> bool:
    return (hasattr(item, "shape") and len(item.shape) > 0) or isinstance(item, dict)


def _dense(leaf: Any, where: str = "") -> Any:
    """The same array, or a ValueError if it is ragged or sparse."""
    if isinstance(leaf, tf.RaggedTensor | tf.SparseTensor):
        how = "to_tensor() or tf.sparse.to_dense"
    elif hasattr(leaf, "nnz") and hasattr(leaf, "toarray"):  # of SciPy
        how = "toarray()"
    else:
        return leaf
    raise ValueError(f"expected dense arrays, got a {type(leaf).__name__}{where}: use {how} first")


def _to_numpy(leaf: Any) -> np.ndarray | None:
    if leaf is None:
        return None
    if isinstance(leaf, np.ma.MaskedArray):
        raise ValueError(
            "expected arrays without a mask, got a numpy.ma.MaskedArray: leave its rows out "
            "(x[~mask.any(axis=1)]) or fill its values in (x.filled(value)) first"
        )
    try:
        return np.asarray(leaf)
    except Exception as error:  # whatever a foreign array type raises
        raise ValueError(
            f"expected arrays of numbers or text, got a {type(leaf).__name__} that NumPy cannot "
            f"read: {first_line(error)}"
        ) from error


def _input_specs(model: keras.Model | None) -> list[_Spec] | None:
    """What is known of each input of a model; None where nothing is."""
    inputs = getattr(model, "inputs", None)
    if not inputs:
        return None
    structure = getattr(model, "input", None)  # a Sequential model has none before its first call
    keys = structure if isinstance(structure, dict) else {}
    names = {id(tensor): str(key) for key, tensor in keys.items()}
    return [
        _Spec(names.get(id(tensor), tensor.name), tuple(tensor.shape), tensor.dtype)
        for tensor in keras.tree.flatten(inputs)
    ]


def _checked_batch(batch: Any, specs: list[_Spec] | None, where: str) -> tuple[Any, Any, int]:
    """The `(x, y, rows)` of one batch, with every leaf an array or a tensor."""
    parts = tuple(
        keras.tree.map_structure(lambda leaf: _checked_leaf(leaf, where), part)
        for part in _parts(batch)
    )
    sizes = {leaf.shape[0] for part in parts for leaf in keras.tree.flatten(part)}
    if len(sizes) != 1:
        raise ValueError(
            f"expected as many rows in each array of a batch, got {sorted(sizes)} in {where}"
        )
    x = parts[0]
    if specs is not None:
        _check_inputs(x, specs, where)
    return x, parts[1] if len(parts) == 2 else None, sizes.pop()


def _checked_leaf(leaf: Any, where: str) -> np.ndarray | tf.Tensor:
    leaf = _dense(leaf, f" in {where}")
    if not tf.is_tensor(leaf):
        leaf = _to_numpy(leaf)
        if leaf is None or leaf.dtype.kind in "cmM" or leaf.dtype.names:
            got = "None" if leaf is None else f"{leaf.dtype}"
            raise ValueError(f"expected real numbers or text, got {got} in {where}")
        if leaf.dtype.kind == "O":
            leaf = _from_objects(leaf, where)
        elif leaf.dtype.kind == "f" and leaf.dtype.itemsize > 8:  # fit takes it, TensorFlow not
            leaf = leaf.astype("float64")
    elif leaf.dtype.is_complex:
        raise ValueError(f"expected real numbers or text, got {leaf.dtype.name} in {where}")
    if len(leaf.shape) == 0:
        raise ValueError(f"expected a batch of examples, got a single value in {where}")
    return leaf


def _from_objects(leaf: np.ndarray, where: str) -> tf.Tensor:
    """Numbers or text that lie in an array of Python objects, as from a table of mixed columns."""
    try:
        return tf.convert_to_tensor(leaf)
    except (ValueError, TypeError) as error:
        types = Counter(type(value).__name__ for value in leaf.flat)
        names = ", ".join(name for name, _ in types.most_common(3))
        raise ValueError(
            f"expected arrays of numbers or text, got objects in {where} ({names}): make "
            "one array of one dtype of them"
        ) from error


def _check_inputs(x: Any, specs: list[_Spec], where: str) -> None:
    if isinstance(x, dict) and not any(
        isinstance(part, dict | list | tuple) for part in x.values()
    ):
        names = [spec.name for spec in specs]
        if not set(names) <= set(x):
            raise ValueError(
                f"expected {count(len(names), 'input')} by name ({', '.join(names)}), got "
                f"{listing(map(repr, x))} in {where}"
            )
        found = [x[name] for name in names]  # Keras drops the keys it does not know
    else:
        found = keras.tree.flatten(x)
        if len(found) != len(specs):
            raise ValueError(
                f"expected {count(len(specs), 'input')} ({', '.join(each.name for each in specs)}),"
                f" got {len(found)} in {where}"
            )
    for leaf, spec in zip(found, specs, strict=True):
        got = tuple(leaf.shape)
        if not _fits(got, spec.shape):
            raise ValueError(
                f"expected batches of shape {spec.shape} for input {spec.name!r}, "
                f"got {got} in {where}{_hint(got, spec.shape)}"
            )
        _check_dtype(leaf, spec, where)


def described(part: Any) -> str:
    """Tell what the arrays in a part of a batch are: their dtypes, and shapes but for the rows."""
    return listing(
        f"{'text' if leaf.dtype.kind in 'OSU' else leaf.dtype} of shape {(None, *leaf.shape[1:])}"
        for leaf in (np.asarray(leaf) for leaf in keras.tree.flatten(part) if leaf is not None)
    )


def _fits(got: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    # Keras takes [batch] for [batch, 1] and the reverse.
    if len(got) != len(shape):
        return (*got, 1) == (got[0], *shape[1:]) or got == (got[0], *shape[1:], 1)
    return all(want in (None, have) for want, have in zip(shape[1:], got[1:], strict=True))


def _hint(got: tuple[int, ...], shape: tuple[int | None, ...]) -> str:
    """What may have gone wrong with a shape."""
    if len(got) < len(shape):
        return ": are these single examples, not batches?"
    if len(got) == len(shape) > 2:
        if _fits((got[0], *got[2:], got[1]), shape):
            return ": are their channels first? Move them with numpy.moveaxis(x, 1, -1)"
        if _fits((got[0], got[-1], *got[1:-1]), shape):
            return ": are their channels last? Move them with numpy.moveaxis(x, -1, 1)"
    return ""


def _check_dtype(leaf: Any, spec: _Spec, where: str) -> None:
    """Refuse what the input cannot hold: text for numbers, fractions for whole numbers."""
    dtype = tf.as_dtype(leaf.dtype)
    start = f"for input {spec.name!r} ({spec.dtype}), got"
    if (dtype == tf.string) != (spec.dtype == "string"):
        wanted, came = ("text", dtype.name) if dtype != tf.string else ("numbers", "text")
        raise ValueError(f"expected {wanted} {start} {came} in {where}")
    if dtype.is_floating and "int" in spec.dtype:
        values = np.asarray(leaf, "float64")
        broken = values[values != np.round(values)]  # NaN too
        if broken.size:
            raise ValueError(
                f"expected whole numbers {start} {dtype.name} such as {broken.flat[0]:g} in {where}"
            )
