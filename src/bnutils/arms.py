"""A fair comparison: several networks that differ in one thing, over seeds and settings.

An *arm* of a comparison is one kind of network, such as one with batch normalization (BN) and one
without. All arms train on the same data from the same seeds, so runs with the same seed start from
the same weights and see the same mini-batches. Each arm then gets the setting that was best for it
on the validation part.

Example:
    >>> from bnutils import data, network
    >>> runs = network.grid(seed=range(5), learning_rate=[0.1, 1.0])
    >>> arms = compare(
    ...     data.digits(), {"no BN": {}, "BN": {"norm": network.BatchNorm()}}, runs,
    ...     hidden=[32], steps=20, batch_size=50,
    ... )
    >>> arms["BN"].test.shape, arms["BN"].at_best(arms["BN"].test).shape
    ((5, 2), (5,))
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnutils import network
from bnutils.data import Dataset, Part
from bnutils.evidence import best_setting
from bnutils.network.training import Record, check_fit
from bnutils.progress import bar

__all__ = ["Arm", "compare"]

_OPTIONS = tuple(inspect.signature(network.mlp).parameters)[2:]  # without widths and seeds


@dataclass(frozen=True, eq=False)
class Arm:
    """One trained arm of a comparison.

    The first name of `runs` is "seed"; the others are the settings. An array over runs has one axis
    for each name.

    Args:
        name: what it is called in figures.
        runs: the grid of seeds and settings.
        net: the trained network of all runs.
        history: what was recorded while it trained.
        validation: the final score on the validation part, of shape [seeds, settings...]:
            accuracy for classification, the root of the mean squared error for regression.
        test: the same on the test part.
        maximize: whether a larger score is a better one.
    """

    name: str
    runs: network.Grid
    net: network.Network
    history: network.History
    validation: np.ndarray
    test: np.ndarray
    maximize: bool

    @property
    def best(self) -> tuple[int, ...]:
        """Index of the setting with the best final validation score."""
        return best_setting(self.validation, maximize=self.maximize)

    def at_best(self, values: np.ndarray) -> np.ndarray:
        """What belongs to the best setting.

        Args:
            values: array of shape [seeds, settings..., ...].

        Returns:
            Array of shape [seeds, ...].
        """
        return values[(slice(None), *self.best)]

    def recorded(self, name: str) -> np.ndarray:
        """What was recorded under a name, of shape [seeds, settings..., records, ...]."""
        return self.runs.reshape(self.history[name])


def compare(
    dataset: Dataset,
    arms: Mapping[str, Mapping[str, Any]],
    runs: network.Grid,
    *,
    hidden: Sequence[int],
    steps: int,
    batch_size: int,
    optimizer: Callable[..., network.Optimizer] = network.SGD,
    every: int | None = None,
    record: Mapping[str, Record] | None = None,
    after_step: Callable[[network.Network, int], object] | None = None,
    progress: bool | None = None,
    **options: Any,
) -> dict[str, Arm]:
    """Train every arm on the same data, from the same seeds, over the same settings.

    The loss follows from the task: softmax cross-entropy for classes, mean squared error for
    regression. All arms and options are checked before the first one trains.

    Args:
        dataset: the data.
        arms: for each name, the options of `network.mlp` that set this arm apart.
        runs: a grid whose first name is "seed". "learning_rate" goes to the optimizer, any other
            name is an option of `network.mlp`, one value for each run.
        hidden: widths of the hidden layers. Inputs and outputs follow from the data.
        steps: updates to make.
        batch_size: rows in a mini-batch.
        optimizer: `network.SGD`, `network.Adam`, or another function of the learning rates.
        every: how many steps apart the scores "validation" and "test", and what `record` asks for,
            are recorded; only before and after training if None.
        record: more to record: functions of the network that return an array [runs, ...].
        after_step: called as after_step(net, step) after each update of each arm.
        progress: whether to show a progress bar; None shows one where somebody watches.
        **options: options of `network.mlp` that all arms share.

    Returns:
        An `Arm` for each name.

    Raises:
        ValueError: if "seed" is not the first name of the grid, it has no learning rates, or
            something does not fit; a note names the arm.
        TypeError: if an option is not one of `network.mlp`.
    """
    if runs.names[:1] != ("seed",) or "learning_rate" not in runs.names:
        raise ValueError(
            f"expected a grid with seed first and learning_rate among its names, got {runs.names}"
        )
    classes = dataset.task == "classification"
    widths = [dataset.n_features, *hidden, dataset.n_classes if classes else 1]
    loss = network.softmax_cross_entropy if classes else network.squared_error
    per_run = {n: getattr(runs, n) for n in runs.names if n not in ("seed", "learning_rate")}

    def score(part: Part) -> Record:
        if classes:
            return lambda net: network.accuracy(net, part.x, part.y)
        return lambda net: np.sqrt(network.evaluate(net, part.x, part.y, loss))

    scores = {"validation": score(dataset.validation), "test": score(dataset.test)}
    training = {
        "loss": loss,
        "steps": steps,
        "batch_size": batch_size,
        "every": every,
        "record": {**(scores if every else {}), **(record or {})},
    }
    x, y = dataset.train.x, dataset.train.y
    ready = {}
    for name, own in arms.items():
        try:
            settings = {**options, **per_run, **own}
            _check_options(settings)
            net = network.mlp(widths, seeds=runs.seed, **settings)
            rule = _rule(optimizer, runs.learning_rate)
            check_fit(net, x, y, optimizer=rule, after_step=after_step, **training)
        except (TypeError, ValueError) as error:
            error.add_note(f"This is about the arm {name!r}; nothing has been trained.")
            raise
        ready[name] = net, rule

    trained = {}
    with bar(steps * len(ready), unit="step", show=progress) as shown:

        def step_made(net: network.Network, step: int) -> None:
            shown.update()
            if after_step is not None:
                after_step(net, step)

        for name, (net, rule) in ready.items():
            history = network.fit(
                net, x, y, optimizer=rule, after_step=step_made, progress=False, **training
            )
            final = {part: runs.reshape(scores[part](net)) for part in scores}
            trained[name] = Arm(name, runs, net, history, **final, maximize=classes)
    return trained


def _check_options(settings: Mapping[str, Any]) -> None:
    """Raise TypeError for an option that `network.mlp` does not have."""
    for option, value in settings.items():
        if option in _OPTIONS:
            continue
        if option in ("seed", "seeds", "learning_rate"):
            name = option.removesuffix("s")
            example = value if np.ndim(value) else [value]
            raise TypeError(
                f"{option} belongs to the grid: network.grid(..., {name}={example}, ...)"
            )
        close = difflib.get_close_matches(option, _OPTIONS, 1, 0.8)
        close = close or [known for known in ("norm",) if known in option]
        close = close or difflib.get_close_matches(option, _OPTIONS, 1, 0.5)
        meant = f"did you mean {close[0]!r}? " if close else ""
        raise TypeError(
            f"expected options of network.mlp, got {option!r}: {meant}There are "
            f"{', '.join(_OPTIONS)}"
        )


def _rule(optimizer: Callable[..., network.Optimizer], rates: np.ndarray) -> network.Optimizer:
    """Make the optimizer of an arm."""
    if isinstance(optimizer, network.Optimizer):
        raise ValueError(
            f"expected a kind of optimizer, such as network.{type(optimizer).__name__}, got one "
            "that is made already: the learning rates come from the grid"
        )
    if not callable(optimizer):
        raise ValueError(
            f"expected a kind of optimizer, got {optimizer!r}: pass network.SGD or network.Adam"
        )
    return optimizer(rates)
