"""Studies: named settings, and a pure function from one block of them to labelled numbers.

Example:
    >>> def block(settings):
    ...     rng = np.random.default_rng(settings["seed"])
    ...     means = [rng.normal(size=size).mean() for size in settings["size"]]
    ...     return xr.Dataset({"mean": ("size", means)}, {"size": list(settings["size"])})
    >>> study = Study(
    ...     name="means", question="How far are means off?", block=block,
    ...     dims={"seed": range(3), "size": [10, 100]}, together=["size"],
    ...     tolerances={"mean": Tolerance(1e-12)},
    ... )
    >>> record = study.run(workers=1)
    >>> dict(record.sizes)
    {'seed': 3, 'size': 2}
    >>> dict(study.run(seed=[7], workers=1).sizes)
    {'seed': 1, 'size': 2}
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import partial
from importlib import metadata
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import xarray as xr
from threadpoolctl import threadpool_limits

from bnutils import network
from bnutils._extras import extra
from bnutils.evidence import record as records
from bnutils.progress import bar

if TYPE_CHECKING:
    from distributed import Client

    from bnutils.evidence.claims import Hypothesis

__all__ = ["Study", "Tolerance"]

Block = Callable[[Mapping[str, Any]], xr.Dataset]
PACKAGES = ("bnutils", "numpy", "scipy", "xarray", "scikit-learn", "keras", "tensorflow")


@dataclass(frozen=True)
class Tolerance:
    """How far numbers computed again may be from those on record.

    The paths of two trainings that differ in the last digit part after a while. So a curve is
    compared closely at its start, and in the mean over all else after it. A run at the edge of
    training may even succeed on one processor and fail on another: where a block has few runs,
    half of the numbers have to be close, and such a run may end as it will.

    Args:
        close: largest difference of a single number; None compares no single numbers.
        relative: what is allowed beside, as a share of the number, or mean, on record.
        steps: up to which "step" numbers are compared singly; None for all.
        mean: largest difference of the means over all that is not compared singly; None leaves it
            alone.
        typical: largest median of the differences of all that is not compared singly; None leaves
            it alone.
    """

    close: float | None = None
    relative: float = 0.0
    steps: int | None = None
    mean: float | None = None
    typical: float | None = None

    def differences(self, old: xr.DataArray, new: xr.DataArray) -> Iterator[str]:
        """Say in a sentence each what is further apart than this allows."""
        if self.steps is not None:
            here = old["step"] <= self.steps
            yield from self._singly(old.sel(step=here), new.sel(step=here))
            yield from self._together(old.sel(step=~here), new.sel(step=~here))
        elif self.close is not None:
            yield from self._singly(old, new)
        else:
            yield from self._together(old, new)

    def _singly(self, old: xr.DataArray, new: xr.DataArray) -> Iterator[str]:
        apart = _apart(old, new)
        known = np.asarray(old.values, dtype=float)
        allowed = self.close + self.relative * np.abs(np.where(np.isfinite(known), known, 0.0))
        if not (apart <= allowed).all():
            worst = (apart - allowed).max()
            yield f"{old.name}: numbers differ by {worst:.3g} more than {self} allows"

    def _together(self, old: xr.DataArray, new: xr.DataArray) -> Iterator[str]:
        if self.typical is not None and old.size:
            middle = np.median(_apart(old, new))
            if not middle <= self.typical:
                yield (
                    f"{old.name}: expected half of the numbers up to {self.typical:.3g} apart, "
                    f"got a median of {middle:.3g}"
                )
        if self.mean is not None and old.size:
            a, b = float(old.mean()), float(new.mean())
            off = abs(a - b)
            allowed = self.mean + self.relative * abs(a)
            if not off <= allowed and not np.isnan([a, b]).all():
                yield f"{old.name}: expected means up to {allowed:.3g} apart, got {off:.3g}"


def _apart(old: xr.DataArray, new: xr.DataArray) -> np.ndarray:
    """How far numbers are apart: 0 where both are NaN, or infinite alike; infinite where one is."""
    a, b = (np.asarray(part.values, dtype=float) for part in (old, new))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        return np.where(same, 0.0, np.nan_to_num(np.abs(a - b), nan=np.inf, posinf=np.inf))


@dataclass(frozen=True, kw_only=True)
class Study:
    """An experiment: its settings, and the function that computes one block of them.

    Args:
        name: what its record is called.
        question: what it measures, in a sentence.
        block: a function of a module from the settings of one block to an `xarray.Dataset`. It gets
            a dict: for each name in `together` the tuple of all its values, for the other names of
            `dims` one value, and all of `fixed`. It depends on nothing else.
        dims: the values of each setting; each becomes an axis of the record. "seed" is the axis of
            replicates.
        together: the names whose values a block takes all at once (an axis of its result). The
            result has no axis for the other names; it may have axes of its own, such as "step".
        fixed: settings that have one value.
        tolerances: for each variable of the result, how close a second computation comes.
        hypotheses: what was said before the record was made.
        revision: raised when the block computes something else.
        overlap: test examples over training examples where each seed splits one pool anew.
        changes: each change of settings after results had been seen, with its reason.
        texts: for a setting that is a text, what it may be changed to beside its own values.
    """

    name: str
    question: str
    block: Block
    dims: Mapping[str, Sequence]
    tolerances: Mapping[str, Tolerance]
    together: Sequence[str] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    hypotheses: tuple[Hypothesis, ...] = ()
    revision: int = 1
    overlap: float = 0.0
    changes: tuple[str, ...] = ()
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the names, and keep the values as tuples."""
        dims = {name: tuple(_values(name, values)) for name, values in self.dims.items()}
        object.__setattr__(self, "dims", dims)
        object.__setattr__(self, "together", tuple(self.together))
        if unknown := set(self.together) - set(dims):
            raise KeyError(f"together: expected names of dims, {list(dims)}, got {sorted(unknown)}")
        if both := set(dims) & set(self.fixed):
            raise ValueError(f"expected a setting in dims or in fixed, got both for {sorted(both)}")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that sets the numbers, the revisions of block and engine among it."""
        settings = {
            "name": self.name,
            "dims": self.dims,
            "fixed": dict(self.fixed),
            "together": self.together,
            "revision": self.revision,
            "engine": network.REVISION,
        }
        text = json.dumps(settings, sort_keys=True, default=_plain)
        return hashlib.sha256(text.encode()).hexdigest()

    def with_settings(self, **changed: Any) -> Study:
        """The same study with other settings.

        Args:
            **changed: a sequence of values for a name of `dims`, a value for a name of `fixed`.

        Raises:
            KeyError: a setting that the study does not have.
            ValueError: one value where a sequence is expected; a value of another kind than those
                of the study (a text it doesn't know, a fraction for a count, 0 or less for a size).
        """
        known = [*self.dims, *self.fixed]
        for name in changed:
            if name not in known:
                close = get_close_matches(name, [*known, "workers", "progress", "store"], 1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise KeyError(f"{name}: expected a setting of {self.name!r}, {known}{hint}")
        dims = {n: _values(n, changed.get(n, values)) for n, values in self.dims.items()}
        fixed = {n: _plain(changed.get(n, value)) for n, value in self.fixed.items()}
        for name in changed:
            known = self.dims[name] if name in dims else (self.fixed[name],)
            for value in dims[name] if name in dims else (fixed[name],):
                _check_kind(name, value, [*known, *self.texts.get(name, ())])
        return replace(self, dims=dims, fixed=fixed)

    def blocks(self) -> list[dict[str, Any]]:
        """The settings of each block, in the order of the record."""
        apart = {name: values for name, values in self.dims.items() if name not in self.together}
        whole = {name: self.dims[name] for name in self.together}
        return [
            {**dict(zip(apart, one, strict=True)), **whole, **self.fixed}
            for one in itertools.product(*apart.values())
        ]

    def run(
        self,
        *,
        workers: int | None = None,
        progress: bool | None = None,
        store: Path | None = None,
        client: Client | None = None,
        **changed: Any,
    ) -> xr.Dataset:
        """Compute the study.

        Blocks run side by side through joblib, so `joblib.parallel_config` chooses another backend,
        such as a Dask cluster. The numbers don't depend on how many workers there are.

        Args:
            workers: processes; None for one each core, but no more than there are blocks.
            progress: whether to show a bar with the time left; None shows one for long work that
                somebody watches, see `bnutils.progress`.
            store: a folder that keeps each finished block. A run that was stopped goes on from
                there.
            client: a `distributed.Client`; the blocks go to its cluster.
            **changed: other settings, as for `with_settings`.

        Returns:
            The record: an `xarray.Dataset` with an axis for each name of `dims`, and its
            provenance.

        Raises:
            KeyError, ValueError: as for `with_settings`, before anything is computed.

        Example:
            See the top of this module.
        """
        if workers is not None and (not isinstance(workers, Integral) or workers < 1):
            raise ValueError(f"workers: expected a whole number above 0, got {workers!r}")
        study = self.with_settings(**changed)
        blocks = study.blocks()
        done: dict[int, tuple[xr.Dataset, float]] = {}
        folder = None if store is None else Path(store) / study.name / study.fingerprint[:16]
        if folder is not None:
            done = dict(_stored(folder, blocks))
        left = [index for index in range(len(blocks)) if index not in done]
        with bar(len(left), unit="block", label=study.name, show=progress) as shown:
            tasks = [(index, blocks[index]) for index in left]
            for index, result, seconds in _computed(study.block, tasks, workers, client):
                done[index] = result, seconds
                if folder is not None:
                    told = {"seconds": seconds, "settings": _text(blocks[index])}
                    records.write(result.assign_attrs(told), _file(folder, index))
                shown.update()
        results = [done[index][0] for index in range(len(blocks))]
        record = study._joined(results)
        seconds = sum(seconds for _, seconds in done.values())
        history = {**study._history(seconds), "digest": records.digest(record)}
        return record.assign_attrs(provenance=json.dumps(history, default=_plain))

    def check(self, record: xr.Dataset, block: int | None = None) -> list[str]:
        """Compute one block again and compare it with a record.

        Args:
            record: a record of this study.
            block: its number; None takes the one that the fingerprint points at.

        Returns:
            What is further apart than the tolerances allow, in sentences; empty if nothing is.

        Raises:
            ValueError: the record has another fingerprint: it was made with other settings.
        """
        found = records.provenance(record)["fingerprint"]
        if found != self.fingerprint:
            raise ValueError(
                f"expected a record of {self.name!r} with the fingerprint "
                f"{self.fingerprint[:12]}, got {found[:12]}: a setting or the engine has changed; "
                f"run `make studies NAME={self.name}`"
            )
        blocks = self.blocks()
        block = int(self.fingerprint[:8], 16) % len(blocks) if block is None else block
        settings = blocks[block]
        new, _ = _compute(self.block, settings)
        where = {n: settings[n] for n in self.dims if n not in self.together}
        old = record.sel(where, drop=True)
        troubles = []
        for name, tolerance in self.tolerances.items():
            troubles += tolerance.differences(old[name], new[name].transpose(*old[name].dims))
        return [f"{where}, {trouble}" for trouble in troubles]

    def _joined(self, results: list[xr.Dataset]) -> xr.Dataset:
        """One array out of the blocks, with the axes in the order of `dims`, then the others."""
        first = results[0]
        if missing := set(self.tolerances) ^ set(map(str, first.data_vars)):
            raise KeyError(f"{self.name}: expected a tolerance for each variable, not {missing}")
        apart = [name for name in self.dims if name not in self.together]
        shape = tuple(len(self.dims[name]) for name in apart)
        variables = {}
        for name, one in first.data_vars.items():
            stacked = np.stack([r[name].transpose(*one.dims).values for r in results])
            variables[name] = ((*apart, *one.dims), stacked.reshape(shape + one.shape))
        labels = {name: list(self.dims[name]) for name in apart}
        joined = xr.Dataset(variables, {**first.coords, **labels})
        order = [*self.dims, *(d for d in joined.dims if d not in self.dims)]
        return joined.transpose(*order)

    def _history(self, seconds: float) -> dict[str, Any]:
        return {
            "study": self.name,
            "fingerprint": self.fingerprint,
            "settings": {"dims": self.dims, "fixed": dict(self.fixed), "revision": self.revision},
            "engine": network.REVISION,
            "versions": {
                "python": platform.python_version(),
                **{name: metadata.version(name) for name in PACKAGES},
            },
            "processor": _processor(),
            "date": datetime.now(UTC).date().isoformat(),
            "cpu_seconds": round(seconds, 1),
            "commit": _commit(),
            "margins": {each.name: each.digest for each in self.hypotheses},
            "overlap": self.overlap,
            "changes": list(self.changes),
        }


def _values(name: str, values: Any) -> tuple:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(
            f"{name}: expected a sequence of values, such as [{values!r}], got {values!r}"
        )
    values = tuple(_plain(value) for value in values)
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{name}: expected one value or more, each once, got {list(values)}")
    return values


def _check_kind(name: str, value: Any, known: Sequence) -> None:
    """Refuse a value that no block could make sense of, judged by the values that a study has."""
    if isinstance(known[0], (tuple, list)):
        for part in _values(name, value):
            _check_kind(name, part, known[0])
        return
    texts = [one for one in known if isinstance(one, str)]
    numbers = [one for one in known if isinstance(one, Real) and not isinstance(one, bool)]
    wanted = None
    if len(texts) == len(known):
        # A block may read a number behind a text, as in "BN + noise 4".
        if re.sub(r" \d+(\.\d+)?$", "", str(value)) not in texts:
            wanted = f"one of {list(dict.fromkeys(texts))}"
    elif len(numbers) == len(known):
        counts = all(isinstance(one, Integral) for one in numbers)
        if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
            wanted = "a number"
        elif counts and value != int(value):
            wanted = "a whole number"
        elif (counts or len(numbers) > 1) and min(numbers) > 0 >= value:
            wanted = "a number above 0"
        elif min(numbers) >= 0 > value:  # a share of 0, such as that of random labels, is one
            wanted = "a number not below 0"
    if wanted:
        raise ValueError(f"{name}: expected {wanted}, got {value!r}")


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, range):
        return list(value)
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value


def _compute(block: Block, settings: Mapping[str, Any]) -> tuple[xr.Dataset, float]:
    """One block on one thread, so that its numbers don't depend on the machine's other work."""
    start = _cpu_seconds()
    with threadpool_limits(1):
        result = block(settings).load()
    return result, _cpu_seconds() - start


def _cpu_seconds() -> float:
    """Of this process, and of those that it started and that have ended."""
    ended = os.times()
    return time.process_time() + ended.children_user + ended.children_system


def _numbered(block: Block, task: tuple[int, dict]) -> tuple[int, xr.Dataset, float]:
    index, settings = task
    return index, *_compute(block, settings)


def _computed(
    block: Block, tasks: list, workers: int | None, client: Client | None
) -> Iterator[tuple[int, xr.Dataset, float]]:
    """Finished blocks, in any order."""
    work = partial(_numbered, block)
    if client is not None:
        with extra("scale"):
            from distributed import as_completed

        # A worker that dies costs the blocks it was at; the cluster gives them to another.
        futures = client.map(work, tasks, pure=False)
        for batch in as_completed(futures, with_results=True).batches():
            yield from (result for _, result in batch)
        return
    if workers is None:
        workers = min(joblib.cpu_count(), len(tasks)) or 1
    if workers == 1:
        yield from map(work, tasks)
        return
    backend, _ = joblib.parallel.get_active_backend()
    streams = backend.supports_return_generator
    with joblib.Parallel(
        n_jobs=workers, return_as="generator_unordered" if streams else "list"
    ) as parallel:
        yield from parallel(joblib.delayed(work)(task) for task in tasks)


def _file(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.nc"


def _text(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, default=_plain)


def _stored(folder: Path, blocks: list) -> Iterator[tuple[int, tuple[xr.Dataset, float]]]:
    """The finished blocks of an earlier run; what is not whole, or not this block, is left."""
    for index, settings in enumerate(blocks):
        try:
            result = records.load(_file(folder, index))
            if result.attrs["settings"] == _text(settings):
                yield index, (result.drop_attrs(), float(result.attrs["seconds"]))
        except (FileNotFoundError, ValueError, KeyError):
            continue


def _processor() -> str:
    """The processor's name, and the widest vector instructions that NumPy uses on it."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    extensions = np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", [])
    return f"{name} ({extensions[-1]})" if extensions else name


def _commit() -> str | None:
    """The commit of the package's own checkout, with a + where code differs; None without git."""
    folder = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ".", ":!records")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
