"""Moments measured on a Dask cluster, where the blocks of the data are.

A worker gets a copy of the model once. For each block it gives back a count, a mean and a variance
for each channel, never rows. These are merged in the order of the blocks, so that it does not
matter how many workers there are, or which is done first. Each level of layers needs the statistics
of the one before: it begins when all blocks are through that. Between two levels the activations
that are still needed stay with the workers, if there is room. What a worker that dies has held is
computed anew, from its blocks on; other blocks are not touched.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bnutils._keras import keras, mask_of, tf, with_mask
from bnutils.doctor.batches import Batches, batches_of_block, mapped
from bnutils.doctor.before_after import rows_of
from bnutils.doctor.blocks import Blocks
from bnutils.doctor.files import strings_in
from bnutils.doctor.graph import BN
from bnutils.doctor.layerwise import PROOF_ROWS, Walk, agree, joined, sane
from bnutils.doctor.moments import Moments, check_finite
from bnutils.doctor.probe import Probe, build
from bnutils.doctor.subject import Subject
from bnutils.doctor.words import cause

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["Crew", "Found"]

#: From so many blocks, at most, rows are fetched to compare the model before and after.
SAMPLED_BLOCKS = 32


@dataclass(frozen=True, eq=False)
class Found:
    """What the data gave.

    Attributes:
        moments: the moments of each layer, by its path.
        calls: how often one forward pass calls it.
        rows: the rows of each block.
        weighted: whether sample weights came with the data, and were left out.
    """

    moments: dict[str, Moments] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)
    weighted: bool = False


@dataclass(frozen=True, eq=False)
class _Job:
    """What is the same for all blocks.

    Attributes:
        model: the bytes of a .keras file.
        objects: the user's own classes and functions in it, pickled.
        token: by which a worker knows the copy that it has made.
        x: rows on which the copy is held against the model.
        outputs: what the model makes of them.
        layers: the paths of the layers to measure.
        rounds: pairs of paths (layers measured in a round, those that normalize by the batch); None
            if the graph is walked.
        batch_size: rows in a batch.
        holds_batches: see `Blocks`.
    """

    model: bytes
    objects: bytes
    token: str
    x: Any
    outputs: Any
    layers: tuple[str, ...]
    rounds: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] | None
    batch_size: int
    holds_batches: bool


# In this process


class Crew:
    """The workers of a cluster, with a job.

    Used as a context: at its end nothing of it is left on the cluster.

    Attributes:
        row_bytes: bytes of a row of x.
    """

    def __init__(
        self,
        client: Client,
        subject: Subject,
        data: Batches,
        first: Any,
        layers: Sequence[BN],
        walk: Walk | None,
        rounds: Sequence[tuple[list[BN], list[BN]]] | None,
    ) -> None:
        """Pack what the workers need; nothing is sent yet.

        Args:
            client: of the cluster.
            subject: the model.
            data: batches from blocks of Dask.
            first: x of the first batch.
            layers: the layers to measure.
            walk: the model's graph; None if it cannot be walked.
            rounds: in which order to measure from the inputs on; None to walk the graph.

        Raises:
            ValueError: if the model cannot be copied.
        """
        self._client = client
        self._blocks: Blocks = data.blocks
        self._batch_size = data.batch_size
        self._walk = walk
        self._levels = None if rounds is not None else walk.levels(layers)
        inputs = keras.tree.flatten(getattr(subject.model, "inputs", None) or ())
        self._fixed_rows = any(tensor.shape[0] is not None for tensor in inputs)
        few = first if self._fixed_rows else rows_of(first, slice(PROOF_ROWS))
        few = mapped(np.asarray, few)
        leaves = keras.tree.flatten(few)
        self.row_bytes = max(1, sum(leaf.nbytes for leaf in leaves) // len(leaves[0]))
        model, objects = _packed(subject)
        self._job = _Job(
            model,
            objects,
            hashlib.sha256(model + objects).hexdigest(),
            few,
            (walk or Probe(subject)).outputs(few, sane(subject.layers)),
            tuple(map(subject.path, layers)),
            rounds
            and tuple(tuple(tuple(map(subject.path, each)) for each in pair) for pair in rounds),
            data.batch_size,
            self._blocks.holds_batches,
        )

    def __enter__(self) -> Crew:
        """Send the job; a task that gives it can be done again where a worker has died."""
        self._sent = self._client.submit(_same, self._job, pure=False)
        return self

    def __exit__(self, *error: object) -> None:
        """Let the workers forget the job, and what of it is still to do."""
        self._client.cancel([self._sent], force=True)
        self._client.run(_forget, self._job.token, on_error="ignore")

    @property
    def turns(self) -> int:
        """How often the blocks are gone through, or what is kept of them."""
        return len(self._job.rounds or self._levels[:-1])

    @property
    def walked(self) -> bool:
        """Whether the workers go along the model's graph."""
        return self._levels is not None

    def measure(self, memory: int, progress: Any) -> tuple[Found, int]:
        """Measure all layers.

        Args:
            memory: bytes of activations that each worker keeps between two levels.
            progress: a tqdm bar; its unit is a block.

        Returns:
            What was found, and how often the data were gone through.

        Raises:
            ValueError: if values are not finite, or a block is not what it should be.
        """
        found, known, held, passes = Found(), {}, None, 0
        progress.total = self.turns * len(self._blocks.parts)
        for turn in range(self.turns):
            keep = turn + 1 < self.turns and self._has_room(memory, found.rows)
            passes += held is None
            futures = self._begun(turn, known, held, keep)
            parts = [self._client.submit(itemgetter(0), each, pure=False) for each in futures]
            merged = Found()
            for each in self._results(parts, range(len(parts)), progress):
                merged = _merged(merged, each)
            found.moments.update(merged.moments)
            found.calls.update(merged.calls)
            found = Found(found.moments, found.calls, merged.rows, merged.weighted)
            known = {path: (each.mean, each.variance) for path, each in found.moments.items()}
            held = futures if keep else None
        return found, passes

    def rows(self, wanted: int, sizes: Sequence[int]) -> Iterator[tuple[Any, Any]]:
        """Fetch rows from all over the data, in pieces (x, y).

        Args:
            wanted: about so many rows.
            sizes: the rows of each block.
        """
        import dask

        sizes = np.array(sizes)
        total, used = sizes.sum(), np.flatnonzero(sizes)
        if len(used) > SAMPLED_BLOCKS:
            spread = _spread(total, SAMPLED_BLOCKS)
            used = np.unique(np.searchsorted(np.cumsum(sizes), spread, side="right"))
        ends = np.cumsum(sizes[used])
        places = _spread(ends[-1], wanted)
        block_of = np.searchsorted(ends, places, side="right")
        tasks, numbers = [], []
        for index in np.unique(block_of):
            number = int(used[index])
            inside = places[block_of == index] - (ends[index] - sizes[number])
            name = self._blocks.name(number)
            task = dask.delayed(_picked, pure=False)(
                self._sent, name, self._blocks.parts[number], inside, self._fixed_rows
            )
            tasks.append(task)
            numbers.append(number)
        for pieces in self._results(self._client.compute(tasks), numbers):
            yield from pieces

    def _has_room(self, memory: int, sizes: Sequence[int]) -> bool:
        """Whether the workers can keep what the next levels need."""
        rows = sum(sizes or self._blocks.rows or ())
        if self._levels is None or not rows:
            return False
        workers = max(1, len(self._client.nthreads()))
        return rows * self._walk.kept_row_bytes(self._levels) <= memory * workers

    def _begun(
        self, turn: int, known: Mapping, held: list[Future] | None, keep: bool
    ) -> list[Future]:
        import dask

        known = self._client.submit(_same, known, pure=False)
        names = map(self._blocks.name, range(len(self._blocks.parts)))
        if held is None:
            task = dask.delayed(_turn, pure=False)
            parts = zip(names, self._blocks.parts, strict=True)
            return self._client.compute(
                [task(self._sent, turn, known, name, part, None, keep) for name, part in parts]
            )
        return [
            self._client.submit(_turn, self._sent, turn, known, name, None, each, keep, pure=False)
            for name, each in zip(names, held, strict=True)
        ]

    def _results(
        self, futures: list[Future], numbers: Sequence[int], progress: Any = None
    ) -> list[Any]:
        """Wait for what blocks of these numbers give, in their order whichever is done first."""
        from distributed import KilledWorker, as_completed

        number_of = {future.key: number for future, number in zip(futures, numbers, strict=True)}
        results = {}
        for done in as_completed(futures, with_results=True, raise_errors=False).batches():
            for future, result in done:
                number = number_of[future.key]
                if future.status == "finished":
                    results[number] = result
                    if progress is not None:
                        progress.update()
                    continue
                name = self._blocks.name(number)
                try:
                    future.result()
                except KilledWorker as error:
                    raise ValueError(
                        "expected workers that live through a block, got several that ended at "
                        f"{name}: give smaller blocks, or workers with more memory"
                    ) from error
                except Exception as error:
                    if name not in str(error):
                        error.add_note(f"while {name} was computed")
                    raise
        return [results[number] for number in numbers]


def _spread(total: int, wanted: int) -> np.ndarray:
    """Numbers below a total, evenly spaced, each once."""
    return np.unique(np.linspace(0, total - 1, wanted).round().astype(int))


def _merged(one: Found, other: Found) -> Found:
    moments = dict(one.moments)
    for path, new in other.moments.items():
        moments[path] = moments[path].merged(new) if path in moments else new
    calls = {path: max(one.calls.get(path, 0), other.calls.get(path, 0)) for path in moments}
    return Found(moments, calls, [*one.rows, *other.rows], one.weighted or other.weighted)


def _packed(subject: Subject) -> tuple[bytes, bytes]:
    """The bytes of a model's file, and of the user's own classes and functions that it names."""
    import cloudpickle

    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.keras")
            subject.model.save(path)
            model = path.read_bytes()
            with zipfile.ZipFile(path) as archive:
                named = set(strings_in(json.loads(archive.read("config.json"))))
        registered = keras.saving.get_custom_objects()
        objects = {name: each for name, each in registered.items() if name in named}
        for holder in subject.holders:
            kind = type(holder)
            if not kind.__module__.startswith("keras."):
                objects |= {keras.saving.get_registered_name(kind): kind, kind.__name__: kind}
        return model, cloudpickle.dumps(objects)
    except Exception as error:  # whatever the parts of a model raise
        raise ValueError(
            f"expected a model that Keras can save, to send it to the workers, got {cause(error)}"
        ) from error


def _same(value: Any) -> Any:
    return value


# On a worker


class _Copy:
    """The model on a worker."""

    def __init__(self, job: _Job) -> None:
        self.subject = Subject(_unpacked(job))
        build(self.subject, job.x)
        self.layers = {self.subject.path(layer): layer for layer in self.subject.layers}
        self.walk = Walk.of(self.subject, job.x) if job.rounds is None else None
        self.levels = None
        complete = set(job.layers) <= set(self.layers)
        if complete and self.walk is not None:
            self.levels = self.walk.levels([self.layers[path] for path in job.layers])
        if not complete or (job.rounds is None and self.levels is None):
            raise ValueError(_OTHER.format("with other layers"))
        outputs = (self.walk or Probe(self.subject)).outputs(job.x, sane(self.subject.layers))
        if not agree(job.outputs, outputs):
            raise ValueError(_OTHER.format("with other outputs"))
        self._probe = None, None

    def probe(self, job: _Job, turn: int) -> Probe:
        """What measures in one round; only that of the latest round is kept."""
        if self._probe[0] != (job.rounds, turn):
            by_batch = [self.layers[path] for path in job.rounds[turn][1]]
            self._probe = (job.rounds, turn), Probe(self.subject, by_batch=by_batch)
        return self._probe[1]


_OTHER = (
    "expected a model that Keras saves and loads as it is, got a copy {} on a worker: let its "
    "get_config tell all that it is made of"
)
_copies = {}
# Not the LOCK of the doctor: a worker may be a thread of the process that waits for it.
_one_at_a_time = threading.RLock()


def _unpacked(job: _Job) -> keras.Model:
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.keras")
            path.write_bytes(job.model)
            return keras.saving.load_model(
                path, custom_objects=pickle.loads(job.objects), compile=False, safe_mode=False
            )
    except Exception as error:  # whatever the parts of a model raise
        raise ValueError(
            f"expected a model that a worker can load, got {cause(error)}: can it import all that "
            "the model is made of, and does each get_config give what __init__ takes?"
        ) from error


def _copy(job: _Job) -> _Copy:
    key = job.token, job.layers, job.rounds is None
    if key not in _copies:
        _copies.clear()
        _copies[key] = _Copy(job)
    return _copies[key]


def _forget(token: str) -> None:
    with _one_at_a_time:
        for key in [key for key in _copies if key[0] == token]:
            del _copies[key]


def _turn(
    job: _Job, turn: int, known: Mapping, name: str, block: Any, held: Any, keep: bool
) -> tuple[Found, list | None]:
    """Measure what one turn measures, in one block.

    Args:
        job: the job.
        turn: the number of the level or round.
        known: the statistics measured before, by path.
        name: what errors call the block.
        block: the block; None if `held` is given.
        held: what this gave for the turn before.
        keep: whether to give what the next turn needs.

    Returns:
        What was found, and what is kept.
    """
    with _one_at_a_time:
        copy = _copy(job)
        known = {copy.layers[path]: pair for path, pair in known.items()}
        data = None
        if held is None:
            data = batches_of_block(
                block, job.holds_batches, job.batch_size, copy.subject.model, name
            )
            if data is None:
                return Found(rows=[0]), []
        if job.rounds is None:
            return _walked(copy, turn, known, data, held, keep)
        return _in_round(copy, job, turn, known, data, name), None


def _walked(
    copy: _Copy, turn: int, known: Mapping, data: Batches | None, held: Any, keep: bool
) -> tuple[Found, list | None]:
    walk, pooled, kept = copy.walk, {}, []
    if held is None:
        parts, depths = ((sizes, walk.begun(x)) for x, _, sizes in walk.joined(data)), range(turn)
    else:
        parts, depths = ((sizes, _loaded(walk, saved)) for sizes, saved in held[1]), ()
    rows = 0
    for sizes, values in parts:
        rows += sum(size for _, size in sizes)
        for depth in depths:
            values = walk.advance(copy.levels, depth, values, sizes, known, None)
        values = walk.advance(copy.levels, turn, values, sizes, known, pooled)
        if keep:
            kept.append((sizes, _saved(walk, values)))
    moments = {copy.subject.path(layer): each for layer, each in pooled.items()}
    weighted = held[0].weighted if data is None else data.weighted
    return Found(moments, {}, [rows], weighted), kept if keep else None


def _saved(walk: Walk, values: Mapping) -> dict[int, tuple[np.ndarray, np.ndarray | None]]:
    """Activations as any worker can read them: another has made tensors of its own."""
    number_of = {tensor: number for number, tensor in enumerate(walk.tensors)}
    masks = {tensor: mask_of(value) for tensor, value in values.items()}
    return {
        number_of[tensor]: (
            np.asarray(value),
            None if masks[tensor] is None else np.asarray(masks[tensor]),
        )
        for tensor, value in values.items()
    }


def _loaded(walk: Walk, saved: Mapping) -> dict:
    return {
        walk.tensors[number]: with_mask(
            tf.convert_to_tensor(value), None if mask is None else tf.convert_to_tensor(mask)
        )
        for number, (value, mask) in saved.items()
    }


def _in_round(copy: _Copy, job: _Job, turn: int, known: Mapping, data: Batches, name: str) -> Found:
    layers = [copy.layers[path] for path in job.rounds[turn][0]]
    moments, calls = {}, {}
    probe = copy.probe(job, turn)
    for x, _ in data:
        for seen in probe.moments(x, layers, known):
            path = copy.subject.path(seen.layer)
            check_finite(seen.moments, path, lambda: name)
            moments[path] = moments[path].merged(seen.moments) if path in moments else seen.moments
            calls[path] = max(calls.get(path, 0), seen.call + 1)
    return Found(moments, calls, [data.rows], data.weighted)


def _picked(
    job: _Job, name: str, block: Any, places: np.ndarray, whole_batches: bool
) -> list[tuple[Any, Any]]:
    """Rows of a block, in as few pieces as can be."""
    pieces, start = [], 0
    for x, y in batches_of_block(block, job.holds_batches, job.batch_size, None, name):
        end = start + len(keras.tree.flatten(x)[0])
        inside = places[(places >= start) & (places < end)] - start
        start = end
        if len(inside):
            rows = slice(None) if whole_batches else inside
            pieces.append(mapped(lambda leaf, rows=rows: np.asarray(leaf)[rows], (x, y)))
    return pieces if whole_batches else list(joined(pieces))
