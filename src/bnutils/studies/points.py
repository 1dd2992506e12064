"""Points in a plane that two small networks learn to tell apart: the race of chapter 1.

The figure on the page trains in the reader's browser, in book/_explore/nn.js. Here are the same
data, initial weights and mini-batches, from the same random numbers, so `bnutils.network` repeats
the very run that the page shows for a seed. Each seed stands for a whole replicate: its own points,
its own initial weights, its own mini-batches. Both arms share all three.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bnutils import network

__all__ = ["PRESETS", "Random", "batch_accuracy", "batches", "build", "points", "race"]

Array = NDArray[np.float64]

WIDTH = 8
TRAINING, HELD_OUT = 256, 512
_STREAMS = {"training": 1, "held-out": 2, "weights": 3, "order": 4}

DEFAULTS: dict[str, Any] = {
    "data": "circles",
    "noise": 0.05,
    "depth": 4,
    "activation": "sigmoid",
    "rate": 0.5,
    "scale": 1,
    "batch": 32,
    "order": "shuffled",
    "momentum": 0.95,
    "steps": 600,
}
"""The settings with which the figure opens."""

PRESETS: dict[str, dict[str, Any]] = {
    "stuck": {},
    "too-fast": {"activation": "tanh", "rate": 3, "steps": 300},
    "badly-started": {"activation": "relu", "depth": 6, "scale": 0.3, "rate": 0.1, "steps": 400},
    "nothing-to-fix": {"activation": "relu", "rate": 0.1, "steps": 200},
    "batch-of-two": {"activation": "relu", "rate": 0.1, "batch": 2, "steps": 1000},
    "sorted": {"activation": "relu", "rate": 0.05, "order": "sorted", "steps": 800},
    "bad-in-use": {"activation": "tanh", "rate": 0.1, "momentum": 0.999, "steps": 200},
    "half-way": {"activation": "tanh", "rate": 0.1, "momentum": 0.99, "steps": 300},
}
"""What each story of the figure changes in `DEFAULTS`."""


class Random:
    """Random numbers that JavaScript draws too (book/_explore/random.js), with 32 bits of state.

    The state counts in steps of 2^32 divided by the golden ratio; the finalizer of MurmurHash3
    makes a number of each. That is good enough for pictures, and no more than that is claimed.

    Args:
        seed: a whole number.
        stream: another number gives other draws for the same seed.

    Example:
        >>> Random(1).uniform(2).round(6)
        array([0.539592, 0.233819])
    """

    _STEP = 0x9E3779B9

    def __init__(self, seed: int, stream: int = 0) -> None:
        """Start a stream."""
        first = self._mix(np.array([seed], np.uint64) & 0xFFFFFFFF)[0]
        self._state = int(self._mix(np.array([int(first) + stream], np.uint64) & 0xFFFFFFFF)[0])

    @staticmethod
    def _mix(h: NDArray[np.uint64]) -> NDArray[np.uint64]:
        h = ((h ^ (h >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
        h = ((h ^ (h >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
        return h ^ (h >> 16)

    def uniform(self, count: int) -> Array:
        """Draw numbers from 0 to below 1."""
        steps = np.arange(1, count + 1, dtype=np.uint64) * self._STEP
        self._state, start = (self._state + count * self._STEP) & 0xFFFFFFFF, self._state
        return self._mix((steps + start) & 0xFFFFFFFF) / 2**32

    def normal(self, count: int) -> Array:
        """Draw from the normal distribution (Box and Muller)."""
        u, v = self.uniform(2 * count).reshape(-1, 2).T
        return np.sqrt(-2 * np.log(1 - u)) * np.cos(2 * np.pi * v)

    def shuffle(self, order: NDArray[np.int64]) -> None:
        """Bring the entries of an array into a random order, in place (Fisher and Yates)."""
        last = np.arange(len(order) - 1, 0, -1)
        for i, j in zip(last, (self.uniform(len(last)) * (last + 1)).astype(int), strict=True):
            order[i], order[j] = order[j], order[i]


def points(name: str, noise: float, seed: int, part: str) -> tuple[Array, NDArray[np.int64]]:
    """Draw points of two classes, which take turns.

    Args:
        name: "circles", "moons", "xor" or "spiral".
        noise: standard deviation of what is added to each coordinate.
        seed: of the draw.
        part: "training" or "held-out".

    Returns:
        Points [rows, 2] and their classes, 0 and 1.

    Raises:
        KeyError: there is no such data set or part.
    """
    rows = {"training": TRAINING, "held-out": HELD_OUT}[part]
    random = Random(seed, _STREAMS[part])
    y = np.arange(rows) % 2
    a, b = random.uniform(2 * rows).reshape(-1, 2).T
    x = _SHAPES[name](y, a, b)
    return x + noise * random.normal(2 * rows).reshape(-1, 2), y


def _circles(y: NDArray[np.int64], a: Array, b: Array) -> Array:
    radius, angle = 1 - 0.5 * y, 2 * np.pi * a
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _moons(y: NDArray[np.int64], a: Array, b: Array) -> Array:
    side, angle = 1 - 2 * y, np.pi * a
    return 0.8 * np.stack([side * (np.cos(angle) - 0.5), side * (np.sin(angle) - 0.25)], axis=1)


def _xor(y: NDArray[np.int64], a: Array, b: Array) -> Array:
    right, up = np.where(a < 0.5, -1, 1), np.where(a < 0.5, 1, -1) * (1 - 2 * y)
    across = np.abs(2 * a - 1)
    return np.stack([right * (0.1 + across), up * (0.1 + b)], axis=1)


def _spiral(y: NDArray[np.int64], a: Array, b: Array) -> Array:
    radius, angle = 0.15 + a, 1.5 * np.pi * a + np.pi * y
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


_SHAPES = {"circles": _circles, "moons": _moons, "xor": _xor, "spiral": _spiral}


@lru_cache(maxsize=32)
def batches(seed: int, batch: int, order: str, steps: int) -> NDArray[np.int64]:
    """Rows of the training points that make each mini-batch.

    Args:
        seed: of the draw.
        batch: examples in a mini-batch, a power of two from 2 to 64.
        order: "shuffled", or "sorted": one class in each batch, the other in the next.
        steps: number of batches.

    Returns:
        Array [steps, batch].
    """
    random, epochs = Random(seed, _STREAMS["order"]), []
    for _ in range(-(-steps * batch // TRAINING)):
        rows = np.arange(TRAINING)
        random.shuffle(rows)
        if order == "sorted":
            classes = [rows[rows % 2 == label].reshape(-1, batch) for label in (0, 1)]
            rows = np.stack(classes, axis=1)
        epochs.append(rows.reshape(-1, batch))
    return np.concatenate(epochs)[:steps]


def build(
    arm: str,
    seeds: Sequence[int],
    *,
    activation: str,
    depth: int,
    scale: ArrayLike,
    momentum: float,
) -> network.Network:
    """The network of an arm before its first step.

    Args:
        arm: "with" BN before each activation, or "without".
        seeds: one for each run.
        activation: "sigmoid", "tanh" or "relu".
        depth: number of hidden layers of 8 units.
        scale: of the initial weights, in multiples of sqrt(1 / inputs), or of sqrt(2 / inputs)
            for ReLU: one number, or one for each run.
        momentum: weight of the past in BN's moving statistics.

    Returns:
        A network in float64.
    """
    net = network.mlp(
        [2, *[WIDTH] * depth, 1],
        seeds=seeds,
        activation=activation,
        norm=network.BatchNorm(momentum=momentum) if arm == "with" else None,
        dtype=np.float64,
    )
    power = 2 if activation == "relu" else 1
    kernels = [layer.kernel for layer in net.layers if isinstance(layer, network.Dense)]
    draws = {seed: Random(seed, _STREAMS["weights"]) for seed in set(seeds)}
    for kernel in kernels:
        _, inputs, units = kernel.shape
        normals = {seed: draw.normal(inputs * units) for seed, draw in draws.items()}
        kernel[...] = np.stack([normals[seed].reshape(inputs, units) for seed in seeds])
        kernel *= np.reshape(scale, (-1, 1, 1)) * np.sqrt(power / inputs)
    return net


def batch_accuracy(net: network.Network, batch: Array, x: Array, y: NDArray[np.int64]) -> Array:
    """Accuracy of each run where BN normalizes by the statistics of one mini-batch."""
    moving = [(layer, layer.moving_mean, layer.moving_variance) for layer in net.batch_norms]
    net.recalibrate(batch)
    accuracy = network.accuracy(net, x, y)
    for layer, mean, variance in moving:
        layer.moving_mean, layer.moving_variance = mean, variance
    return accuracy


def race(
    arm: str,
    seeds: Sequence[int],
    *,
    rate: ArrayLike = DEFAULTS["rate"],
    scale: ArrayLike = DEFAULTS["scale"],
    data: str = DEFAULTS["data"],
    noise: float = DEFAULTS["noise"],
    depth: int = DEFAULTS["depth"],
    activation: str = DEFAULTS["activation"],
    batch: int = DEFAULTS["batch"],
    order: str = DEFAULTS["order"],
    momentum: float = DEFAULTS["momentum"],
    steps: int = DEFAULTS["steps"],
    every: int = 20,
) -> tuple[NDArray[np.int64], Array, Array]:
    """Train one arm, and watch its accuracy on held-out points.

    Args:
        arm: "with" or "without" BN.
        seeds: one for each run; runs that share a seed share data, weights and batches.
        rate: learning rate of plain gradient descent, one, or one for each run.
        scale: of the initial weights, one, or one for each run.
        data: "circles", "moons", "xor" or "spiral".
        noise: of the points.
        depth: number of hidden layers.
        activation: "sigmoid", "tanh" or "relu".
        batch: examples in a mini-batch.
        order: "shuffled" or "sorted".
        momentum: weight of the past in BN's moving statistics.
        steps: number of updates.
        every: steps between two looks at the accuracy.

    Returns:
        The steps [times], from 0; the accuracies [runs, times] as in use, with the moving
        statistics; and those with the statistics of the latest mini-batch (before the first step:
        the first).
    """
    seeds = [int(seed) for seed in seeds]
    net = build(arm, seeds, activation=activation, depth=depth, scale=scale, momentum=momentum)
    parts = {}
    for part in ("training", "held-out"):
        drawn = {seed: points(data, noise, seed, part) for seed in set(seeds)}
        parts[part] = [np.stack([drawn[seed][i] for seed in seeds]) for i in (0, 1)]
    x, y = parts["training"]
    rows = {seed: batches(seed, batch, order, steps) for seed in set(seeds)}
    rows = np.stack([rows[seed] for seed in seeds], axis=1)
    optimizer, runs = network.SGD(rate), np.arange(len(seeds))[:, None]
    times = [*range(0, steps, every), steps]
    in_use, as_in_training = [], []
    for step in range(steps + 1):
        if step in times:
            in_use.append(network.accuracy(net, *parts["held-out"]))
            latest = x[runs, rows[max(step - 1, 0)]]
            as_in_training.append(batch_accuracy(net, latest, *parts["held-out"]))
        if step < steps:
            logits = net(x[runs, rows[step]], training=True)
            _, gradient = network.sigmoid_cross_entropy(logits, y[runs, rows[step]])
            net.backward(gradient)
            with np.errstate(all="ignore"):  # a run may diverge; its accuracy will tell
                optimizer.step(net.weights, net.gradients)
    return np.array(times), np.stack(in_use, axis=1), np.stack(as_in_training, axis=1)
