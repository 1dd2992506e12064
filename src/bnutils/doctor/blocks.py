"""Row blocks of Dask collections: data of which no machine need hold more than a few blocks.

Nothing here imports Dask before data of Dask are there.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bnutils._keras import keras
from bnutils.doctor.words import listing

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Blocks", "blocks_of", "current_client", "is_of_dask"]


@dataclass(frozen=True, eq=False)
class Blocks:
    """The row blocks of Dask collections that lie beside each other, such as x and y.

    Attributes:
        parts: for each block what computes it: `Delayed` in any structure of tuples, dicts, lists.
        rows: the rows of each block, if they are known before the blocks are computed.
        holds_batches: whether a block is an iterable of whole batches, as in a bag.
    """

    parts: tuple[Any, ...]
    rows: tuple[int, ...] | None
    holds_batches: bool = False

    def name(self, number: int) -> str:
        """What errors call a block, by its index in the collection."""
        return f"block {number} of 0 to {len(self.parts) - 1}"

    def computed(self) -> Iterator[Any]:
        """Compute the blocks where Dask computes, one after the other."""
        import dask

        # For bags and Delayed Dask would start processes anew for each block.
        scheduler = dask.config.get("scheduler", None) or "threads"
        for number, part in enumerate(self.parts):
            try:
                (block,) = dask.compute(part, scheduler=scheduler)
            except Exception as error:
                error.add_note(f"while {self.name(number)} was computed")
                raise
            yield block

    def rows_at(self, places: np.ndarray) -> Any:
        """Compute the rows of these numbers, which ascend; sizes must be known."""
        import dask

        ends = np.cumsum(self.rows)
        block_of = np.searchsorted(ends, places, side="right")
        picked = []
        for number in np.unique(block_of):
            inside = places[block_of == number] - (ends[number] - self.rows[number])
            picked.append(dask.delayed(_taken, pure=False)(self.parts[number], inside))
        found = dask.compute(*picked)
        return keras.tree.map_structure(lambda *leaves: np.concatenate(leaves), *found)


def _taken(block: Any, places: np.ndarray) -> Any:
    return keras.tree.map_structure(lambda leaf: np.asarray(leaf)[places], block)


def is_of_dask(data: Any) -> bool:
    """Whether data are a collection of Dask, or a structure that holds one."""
    if isinstance(data, dict):
        return any(map(is_of_dask, data.values()))
    if isinstance(data, tuple | list):
        # Nested lists may be millions of numbers: the first of them tells.
        nested = data[:1] if data and isinstance(data[0], list) else data
        return any(map(is_of_dask, nested))
    return hasattr(data, "__dask_graph__") and _is_a(data, "")


def _is_a(data: Any, module: str) -> bool:
    """Whether a class of data stems from a part of Dask, such as "bag"."""
    names = [base.__module__.split(".") for base in type(data).__mro__]
    return any(name[0] == "dask" and module in ("", *name[1:2]) for name in names)


def _is_delayed(data: Any) -> bool:
    return _is_a(data, "delayed")


def blocks_of(data: Any) -> Blocks:
    """Split data of Dask into blocks of rows.

    Args:
        data: what `batches` takes of Dask.

    Raises:
        ValueError: if it is not of that form, or if blocks do not belong together.
    """
    if _is_a(data, "bag"):
        return Blocks(tuple(data.to_delayed()), None, holds_batches=True)
    columns = []
    structure = _with_columns(data, columns)
    sizes = next((column.rows for column in columns if column.rows is not None), None)
    columns = [column.aligned(sizes) for column in columns]
    counts = {len(column.blocks) for column in columns}
    if len(counts) != 1:
        raise ValueError(
            "expected collections with as many blocks of rows each, got "
            f"{listing(str(len(column.blocks)) for column in columns)}: give them the same "
            "chunks or partitions"
        )
    known = sizes if all(column.rows is not None for column in columns) else None
    number_of = range(counts.pop())
    parts = tuple(_filled(structure, iter([c.blocks[n] for c in columns])) for n in number_of)
    if not parts or sum(known or (1,)) == 0:
        raise ValueError("expected at least one row of data, got none")
    return Blocks(parts, known)


@dataclass(frozen=True, eq=False)
class _Column:
    """One array of all rows.

    Attributes:
        blocks: its blocks, `Delayed` or plain.
        rows: the rows of each, if known.
        whole: the array itself, if it can be cut into other blocks.
    """

    blocks: list
    rows: tuple[int, ...] | None
    whole: Any = None

    def aligned(self, sizes: tuple[int, ...] | None) -> _Column:
        """The same array in blocks of so many rows."""
        if self.blocks and (self.whole is None or self.rows == sizes):
            return self
        if sizes is None:
            raise ValueError(
                f"expected all arrays to be of Dask, got a {type(self.whole).__name__} beside "
                "blocks whose numbers of rows are not known: call compute_chunk_sizes() first"
            )
        rows = self.whole.shape[0] if self.rows is None else sum(self.rows)
        if rows != sum(sizes):
            raise ValueError(
                f"expected arrays with as many rows each, got {sum(sizes):,} and {rows:,}"
            )
        if self.rows is not None:
            return _column(self.whole.rechunk({0: sizes}))
        ends = list(itertools.accumulate(sizes))
        return replace(
            self,
            blocks=[self.whole[end - size : end] for end, size in zip(ends, sizes, strict=True)],
            rows=sizes,
        )


class _Place:
    """Where a column stands in a structure."""


def _with_columns(part: Any, columns: list[_Column]) -> Any:
    """The structure of data, a `_Place` for each of its arrays, which are added to `columns`."""
    if isinstance(part, dict):
        return {key: _with_columns(each, columns) for key, each in part.items()}
    blocks = isinstance(part, list) and bool(part) and all(map(_is_delayed, part))
    if isinstance(part, tuple | list) and not blocks:
        return type(part)([_with_columns(each, columns) for each in part])
    if part is None:
        return None
    columns.append(_column(part))
    return _Place()


def _column(part: Any) -> _Column:
    if isinstance(part, list):
        return _Column(part, None)
    if _is_delayed(part):
        return _Column([part], None)
    if _is_a(part, "array"):
        if not part.ndim:
            raise ValueError("expected Dask arrays with one row for each example, got one value")
        if any(len(sizes) > 1 for sizes in part.chunks[1:]):
            part = part.rechunk(dict.fromkeys(range(1, part.ndim), -1))
        rows = None if any(map(math.isnan, part.chunks[0])) else part.chunks[0]
        blocks = list(part.to_delayed().reshape(-1))
        return _Column(blocks, rows, None if rows is None else part)
    if _is_a(part, "bag"):
        raise ValueError(
            "expected a bag by itself, whose items are batches, such as (x, y): it cannot stand "
            "beside other data"
        )
    if hasattr(part, "to_delayed") and getattr(part, "npartitions", None):  # of a table
        return _Column(list(part.to_delayed()), None)
    if is_of_dask(part):
        raise ValueError(
            f"expected an array, a table, a bag or Delayed blocks of Dask, got {part!r}"
        )
    return _Column([], None, part if hasattr(part, "shape") else np.asarray(part))


def _filled(structure: Any, blocks: Iterator) -> Any:
    if isinstance(structure, dict):
        return {key: _filled(each, blocks) for key, each in structure.items()}
    if isinstance(structure, tuple | list):
        return type(structure)([_filled(each, blocks) for each in structure])
    return None if structure is None else next(blocks)


def current_client() -> Client | None:
    """The client of the cluster on which Dask computes now; None if it computes here.

    Raises:
        ValueError: if it is a client for coroutines.
    """
    if "distributed" not in sys.modules:
        return None
    import dask
    from distributed import Client, default_client

    scheduler = dask.config.get("scheduler", None)
    if isinstance(scheduler, str) and scheduler not in ("dask.distributed", "distributed"):
        return None
    try:
        client = scheduler if isinstance(scheduler, Client) else default_client()
    except ValueError:  # there is none
        return None
    if client.asynchronous:
        raise ValueError(
            "expected a client that waits for its results, got one with asynchronous=True"
        )
    return client
