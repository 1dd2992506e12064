"""Training: mini-batches, update rule, and what is recorded on the way."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike

from bnutils.network.builders import check_seeds
from bnutils.network.losses import Loss, check_loss
from bnutils.network.model import Network
from bnutils.network.norm_layers import GhostBatchNormLayer
from bnutils.network.optimizers import Optimizer, check_optimizer
from bnutils.progress import bar

__all__ = ["History", "Record", "fit"]

Record = Callable[[Network], np.ndarray]


class History:
    """What `fit` recorded.

    `history["loss"]` is the mini-batch loss [runs, steps]; `history[name]` is what the record
    function of that name returned, [runs, times, ...].

    Attributes:
        steps: array [times], the number of steps taken when the record functions were called.
        names: "loss" and the names of the record functions.
    """

    def __init__(self, steps: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        """Keep the times and a dict from names to arrays."""
        self.steps = steps
        self._values = values
        self.names = tuple(values)

    def __getitem__(self, name: str) -> np.ndarray:
        """Look a record up by its name."""
        if name not in self._values:
            raise KeyError(f"expected one of {self.names}, got {name!r}")
        return self._values[name]

    @property
    def diverged(self) -> np.ndarray:
        """Whether the loss of each run was ever not a finite number, array [runs]."""
        return ~np.isfinite(self["loss"]).all(axis=1)


def fit(
    net: Network,
    x: ArrayLike,
    y: ArrayLike,
    *,
    loss: Loss,
    optimizer: Optimizer,
    steps: int,
    batch_size: int,
    seeds: ArrayLike | None = None,
    every: int | None = None,
    record: Mapping[str, Record] | None = None,
    after_step: Callable[[Network, int], object] | None = None,
    progress: bool | None = None,
) -> History:
    """Train every run of a network.

    Mini-batches walk through a permutation of the rows, then through the next. What is left of a
    permutation that does not fill a batch is dropped, so every batch has `batch_size` rows and BN
    never meets a smaller one; the dropped rows come back with the next permutation. The order is
    drawn from `np.random.default_rng([seed, 1])`, anew in each call.

    A run that diverges turns into NaN and stays so, without a warning and without touching others.

    Args:
        net: a `Network`, changed in place.
        x: array [rows, ...], shared by all runs, or [runs, rows, ...].
        y: targets [rows, ...], shared by all runs, or [runs, rows, ...].
        loss: `softmax_cross_entropy`, `sigmoid_cross_entropy` or `squared_error`.
        optimizer: an `SGD` or `Adam`, new, or the one that has trained this network before.
        steps: how many updates to make.
        batch_size: rows in each mini-batch.
        seeds: sequence [runs] of integers for the order of the rows; by default those of `net`.
            Runs with the same seed see the same mini-batches.
        every: how many steps apart the record functions are called. They are always called before
            the first step and after the last.
        record: dict from names to functions of the network that return an array [runs, ...].
        after_step: called as after_step(net, step) after each update, with the number of updates
            made so far in this call. It may change the network.
        progress: whether to show a progress bar. None shows one for long work that somebody
            watches, see `bnutils.progress`.

    Returns:
        A `History`.

    Raises:
        ValueError: if an argument does not fit the others, before anything is changed.
    """
    x, y = net.check_input(x), np.asarray(y)
    record = record or {}
    _check_fit(
        net,
        x,
        y,
        loss=loss,
        optimizer=optimizer,
        steps=steps,
        batch_size=batch_size,
        seeds=seeds,
        every=every,
        record=record,
        after_step=after_step,
    )
    optimizer.build(net.weights, net.columns)

    shared = net.is_shared(x)
    rows = len(x) if shared else x.shape[1]
    unique, which = np.unique(net.seeds if seeds is None else seeds, return_inverse=True)
    orders = [_batches(seed, rows, batch_size) for seed in unique]
    losses = np.empty((net.runs, steps), net.dtype)
    times = [*range(0, steps, every or steps), steps]
    records = {name: [] for name in record}

    def take_records() -> None:
        for name, values in records.items():
            value = np.asarray(record[name](net))
            if value.shape[:1] != (net.runs,):
                raise ValueError(
                    f"expected {name!r} to return an array with a first axis of {net.runs} runs, "
                    f"got the shape {value.shape}"
                )
            values.append(value)

    with bar(steps, unit="step", show=progress) as shown:
        for start, stop in itertools.pairwise(times):
            take_records()
            for step in range(start, stop):
                batch = np.stack([next(order) for order in orders])[which]
                # Where all runs see the same batch, the first layer reads it only once.
                seen = batch[0] if shared and len(unique) == 1 else batch
                output = net(_rows(x, seen, shared), training=True)
                losses[:, step], d_output = loss(output, _rows(y, batch, len(y) == rows))
                net.backward(d_output)
                with np.errstate(all="ignore"):
                    optimizer.step(net.weights, net.gradients)
                if after_step is not None:
                    after_step(net, step + 1)
                shown.update()
        take_records()
    stacked = {name: np.stack(values, axis=1) for name, values in records.items()}
    return History(np.array(times), {"loss": losses, **stacked})


def _check_fit(
    net: Network,
    x: ArrayLike,
    y: ArrayLike,
    *,
    loss: Loss,
    optimizer: Optimizer,
    steps: int,
    batch_size: int,
    seeds: ArrayLike | None,
    every: int | None,
    record: Mapping[str, Record],
    after_step: Callable[[Network, int], object] | None,
) -> None:
    """Refuse whatever would fail, or mislead, in the middle of training; changes nothing."""
    check_loss(loss)
    check_optimizer(optimizer)
    optimizer.check(net.weights)
    x, y = net.check_input(x), np.asarray(y)
    rows = len(x) if net.is_shared(x) else x.shape[1]
    if y.shape[:1] != (rows,) and y.shape[:2] != (net.runs, rows):
        raise ValueError(
            f"expected y of the shape [{rows}, ...] or [{net.runs}, {rows}, ...], got {y.shape}"
        )
    if seeds is not None and len(check_seeds(seeds)) != net.runs:
        raise ValueError(f"expected {net.runs} seeds, one for each run, got {len(seeds)}")
    for name, count in (("steps", steps), ("batch_size", batch_size)):
        if not isinstance(count, Integral):
            raise ValueError(f"expected {name}, a whole number, got {count!r}")
    if steps < 1:
        raise ValueError(f"expected at least one step, got {steps}")
    if not 1 <= batch_size <= rows:
        raise ValueError(f"expected batch_size from 1 to {rows} rows, got {batch_size}")
    if batch_size == 1:
        try:
            net.activations(x[:1] if net.is_shared(x) else x[:, :1], training=True)
        except ValueError as error:
            raise ValueError(
                "expected batch_size of 2 or more, got 1: with one row BN returns beta for any "
                "input"
            ) from error
    for layer in net.layers:
        if isinstance(layer, GhostBatchNormLayer) and batch_size % layer.size:
            raise ValueError(
                f"expected batch_size to be a multiple of {layer.size}, the size of a ghost "
                f"batch, got {batch_size}"
            )
    if every is not None and every < 1:
        raise ValueError(f"expected every to be None or at least 1, got {every}")
    for name, function in record.items():
        if name == "loss":
            raise ValueError("'loss' is always recorded, choose another name")
        if not callable(function):
            raise ValueError(f"expected record[{name!r}] to be a function, got {function!r}")
    if after_step is not None and not callable(after_step):
        raise ValueError(f"expected after_step to be a function, got {after_step!r}")
    dry = loss(np.zeros((1 if len(y) == rows else net.runs, rows, net.outputs), net.dtype), y)
    if not (isinstance(dry, tuple) and len(dry) == 2):
        raise ValueError("expected loss to return the loss of each run and its gradient, a pair")
    if not np.isfinite(dry[0]).all():
        raise ValueError("expected y to be finite, got NaN or infinity in it")


def _batches(seed: int, rows: int, batch_size: int) -> Iterator[np.ndarray]:
    """Yield the rows of one mini-batch after the other, for ever, from whole permutations."""
    rng = np.random.default_rng([int(seed), 1])
    while True:
        order = rng.permutation(rows)
        for start in range(0, rows - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


def _rows(a: np.ndarray, batch: np.ndarray, shared: bool) -> np.ndarray:
    """Pick rows, [runs, batch], from an array [rows, ...] that runs share, or [runs, rows, ...]."""
    return a.take(batch, axis=0) if shared else a[np.arange(len(a))[:, None], batch]
