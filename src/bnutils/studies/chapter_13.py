"""Chapter 13: why batch normalization works.

Each seed stands for a whole replicate: its own initial weights, its own mini-batches, and its own
split of the digits. Accuracy is measured with statistics recomputed over training images, so that
the moving averages, which are chapter 6's subject, have no part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes

from bnutils import data, network, plots
from bnutils.evidence import (
    Claim,
    Comparison,
    Finding,
    Hypothesis,
    Interval,
    Study,
    Tolerance,
    exact,
    interval,
    paired_difference,
    paired_ratio,
    provenance,
)
from bnutils.studies import load
from bnutils.studies.chapter_01 import standardized
from bnutils.studies.common import DIGITS_OVERLAP, PARTS, Settings, accuracies

ARMS = ["no BN", "BN"]
NETWORKS = {
    "ReLU": ("relu", "he"),
    "tanh": ("tanh", "lecun"),
    "linear": ("linear", "lecun"),
    "convolutional": ("relu", "he"),
}
WIDTHS = [64, 64, 64, 64, 10]
LOSS = network.softmax_cross_entropy


def build(
    kind: str,
    norm: network.Norm | None,
    seeds: Sequence[int],
    scale: float = 1.0,
    widths: Sequence[int] = WIDTHS,
    **options: Any,
) -> network.Network:
    """One of the chapter's networks, its initial weights in multiples of the usual ones."""
    activation, initializer = NETWORKS[kind]
    options |= {"seeds": seeds, "activation": activation, "initializer": initializer, "norm": norm}
    if kind == "convolutional":
        net = network.cnn((8, 8, 1), filters=[8, 16], outputs=10, **options)
    else:
        net = network.mlp(widths, **options)
    for layer in net.layers:
        if hasattr(layer, "kernel"):
            layer.kernel *= np.asarray(scale, layer.kernel.dtype)
    return net


def inputs(net: network.Network, x: np.ndarray) -> np.ndarray:
    """Images as rows of pixels, or as pictures for convolutions."""
    return x.reshape(-1, *net.input_shape)


def digits(settings: Settings) -> data.Dataset:
    """The replicate's split, its pixels raw (0 to 1) or standardized."""
    dtype = settings.get("dtype", np.float32)
    dataset = data.digits(split=settings["seed"], dtype=dtype)
    return dataset if settings["inputs"] == "raw" else standardized(dataset)


def train(
    net: network.Network,
    dataset: data.Dataset,
    optimizer: network.Optimizer,
    steps: int,
    after_step: Callable[[network.Network, int], object] | None = None,
) -> network.History:
    """Train on batches of 60 images."""
    return network.fit(
        net,
        inputs(net, dataset.train.x),
        dataset.train.y,
        loss=LOSS,
        optimizer=optimizer,
        steps=steps,
        batch_size=60,
        after_step=after_step,
    )


def recomputed(net: network.Network, dataset: data.Dataset, images: int | None = None) -> None:
    """Let BN predict with the statistics of training images; nothing here trains by them."""
    if net.batch_norms:
        net.recalibrate(inputs(net, dataset.train.x[:images]))


def scored(net: network.Network, dataset: data.Dataset) -> np.ndarray:
    """Accuracy on both parts with recomputed statistics, [runs, parts]."""
    recomputed(net, dataset)
    return accuracies(net, dataset, lambda x: inputs(net, x)).astype(np.float32)


# ------------------------------------------------------------------------------------------- races

RACERS = {"no BN": None, "BN": 0.0, "BN + noise": 0.5, "BN + twice the noise": 1.0}


def noise_size(arm: str) -> float | None:
    """The size of an arm's noise; None without BN. Any size can be asked for: "BN + noise 4"."""
    if arm in RACERS:
        return RACERS[arm]
    try:
        return float(arm.removeprefix("BN + noise "))
    except ValueError:
        raise ValueError(
            f"expected an arm, one of {list(RACERS)} or 'BN + noise 4', got {arm!r}"
        ) from None


class Noise:
    """A layer that brings drift back: in training it scales and shifts every activation at random.

    As in Santurkar et al. 2018: at each step each neuron draws a distribution, of mean and scale
    that differ from 0 and 1, and each example draws its own shift and scale from it. For a size n,
    neurons draw a mean shift from U(-n, n) and a mean scale from U(1, 1 + n/2), examples add to
    them U(-n/5, n/5) and a normal number of standard deviation n/5. Runs of one seed share their
    draws.

    Attributes:
        shift: the mean shift of each neuron at the latest training step, [runs, 1, units]; None
            before the first.
        scale: its mean scale, likewise.
    """

    def __init__(self, size: float, seeds: Sequence[int], layer: int) -> None:
        """Make a layer for runs of these seeds; `layer` tells the layers of a network apart."""
        self.size = size
        unique, self._which = np.unique(seeds, return_inverse=True)
        self._rngs = [np.random.default_rng([int(seed), 5, layer]) for seed in unique]
        self.shift = self.scale = self._scales = None

    def __call__(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Disturb an array [runs, batch, units] in training; else return it."""
        if not training:
            return x
        size, shape, units, drawn = self.size, x.shape[1:], x.shape[-1], []
        for rng in self._rngs:
            shift, scale = rng.uniform(-size, size, units), rng.uniform(1, 1 + size / 2, units)
            shifts = shift + rng.uniform(-size / 5, size / 5, shape)
            scales = scale + size / 5 * rng.standard_normal(shape)
            drawn.append((shift[None], scale[None], shifts, scales))
        each = (np.stack(part).astype(x.dtype)[self._which] for part in zip(*drawn, strict=True))
        self.shift, self.scale, shifts, self._scales = each
        return x * self._scales + shifts

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """Return the gradient of the input."""
        return dy * self._scales


class Drift(Noise):
    """A slow drift: each neuron's shift and scale glide from one random draw to the next.

    All examples are treated alike, at test time too: the drift is a part of the network as it then
    is. A draw is `period` steps from the next; the first is no disturbance.
    """

    period = 20

    def __init__(self, size: float, seeds: Sequence[int], layer: int) -> None:
        """Make a layer, as for `Noise`."""
        super().__init__(size, seeds, layer)
        self._step, self._ends = 0, ()

    def _draw(self, units: int) -> np.ndarray:
        low, high = [-self.size, 1], [self.size, 1 + self.size / 2]
        drawn = [rng.uniform(low, high, (units, 2)).T for rng in self._rngs]
        return np.stack(drawn)[self._which]

    def __call__(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Move on by a step if training, and disturb an array [runs, batch, units]."""
        if not self._ends:
            still = np.zeros((len(self._which), 2, x.shape[-1]))
            still[:, 1] = 1
            self._ends = (still, self._draw(x.shape[-1]))
        if training:
            self._step += 1
            if self._step > self.period:
                self._step, self._ends = 1, (self._ends[1], self._draw(x.shape[-1]))
        share, (before, after) = self._step / self.period, self._ends
        now = ((1 - share) * before + share * after).astype(x.dtype)
        self.shift, self.scale = now[:, None, 0], now[:, None, 1]
        self._scales = self.scale
        return x * self.scale + self.shift


def add_noise(net: network.Network, size: float, layer: type[Noise] = Noise) -> None:
    """Put a `Noise`, or a `Drift`, behind every BN layer."""
    for name in [name for name in net.names if name.startswith("bn_")]:
        number, place = name.removeprefix("bn_"), net.names.index(name) + 1
        net.layers.insert(place, layer(size, net.seeds, int(number)))
        net.names.insert(place, f"noise_{number}")


class DriftWatch:
    """How far the input of ten neurons of the last hidden layer wanders, as in chapter 1.

    It is what enters the activation: behind BN, and behind the noise of the latest step.
    """

    def __init__(self, net: network.Network, images: np.ndarray) -> None:
        """Keep the network and the images to look at it with."""
        self.net, self.images = net, images
        self.seen: list[np.ndarray] = []

    def look(self) -> None:
        """Note the 15th, 50th and 85th percentile over the images."""
        layers = dict(zip(self.net.names, self.net.layers, strict=True))
        outputs = dict(self.net.activations(self.images, training=True))
        z = outputs["bn_3" if self.net.batch_norms else "dense_3"][..., :10]
        with np.errstate(all="ignore"):
            levels = np.percentile(z, [15, 50, 85], axis=1)
        noise = layers.get("noise_3")
        if noise is not None and noise.scale is not None:  # none was drawn before the first step
            levels = levels * noise.scale[:, 0, :10] + noise.shift[:, 0, :10]
        self.seen.append(levels)

    def paths(self, every: int = 1) -> np.ndarray:
        """Path of the median in units of the mean width of the middle 70 %, [runs].

        Args:
            every: how many looks from one that counts to the next.
        """
        low, median, high = np.moveaxis(np.array(self.seen[::every]), 1, 0)
        with np.errstate(all="ignore"):
            path = np.abs(np.diff(median, axis=0)).sum(axis=0) / (high - low).mean(axis=0)
        return path.mean(axis=-1)


def recorded_steps(steps: int) -> list[int]:
    """When a race is looked at: after each of 40 steps, then after every second or tenth one."""
    early = {*range(40), *range(40, 80, 2), *range(80, 1000, 10)}
    return sorted({step for step in early if step < steps} | {steps})


DRIFT_STEPS = 60


def look_at(net: network.Network, dataset: data.Dataset) -> np.ndarray:
    """Accuracy and log-loss with statistics of 256 training images, [parts, 2, runs]."""
    recomputed(net, dataset, 256)
    scores = []
    for part in (getattr(dataset, name) for name in PARTS):
        logits = net(inputs(net, part.x))
        right = (logits.argmax(axis=-1) == part.y).mean(axis=1)
        with np.errstate(over="ignore"):
            scores.append([right, LOSS(logits, part.y)[0].round(3)])
    return np.array(scores, np.float32)


def race_block(settings: Settings) -> xr.Dataset:
    """Train one arm from one initial scale at all rates; accuracy on the way, and drift."""
    seed, rates, kind = settings["seed"], settings["learning_rate"], settings["network"]
    dataset, size = digits(settings), noise_size(settings["arm"])
    norm = None if size is None else network.BatchNorm()
    net = build(kind, norm, [seed] * len(rates), settings["initial_scale"])
    watch = None
    if size:
        add_noise(net, size)
    if kind != "convolutional":
        watch = DriftWatch(net, dataset.validation.x[:100])
        watch.look()
    times, curves = recorded_steps(settings["steps"]), [look_at(net, dataset)]

    def after_step(net: network.Network, step: int) -> None:
        if step in times:
            curves.append(look_at(net, dataset))
        if watch is not None and step <= DRIFT_STEPS and step % 5 == 0:
            watch.look()

    history = train(net, dataset, network.SGD(np.array(rates)), settings["steps"], after_step)
    path = np.full(len(rates), np.nan) if watch is None else watch.paths()
    # Each [steps, parts, rates].
    accuracy, log_loss = np.moveaxis(np.stack(curves), 2, 0)
    axes = ("step", "part", "learning_rate")
    return xr.Dataset(
        {
            "accuracy": (axes, accuracy),
            "log_loss": (axes, log_loss),
            "loss": (("learning_rate", "first"), history["loss"][:, :5]),
            "path": ("learning_rate", path.astype(np.float32)),
        },
        {
            "step": times,
            "learning_rate": list(rates),
            "part": PARTS,
            "first": range(1, 6),
        },
    )


def _crossing(values: np.ndarray, steps: np.ndarray, level: float) -> np.ndarray:
    """First step at which values [steps, ...] reach a level, infinity if they never do."""
    reached = values >= level
    index = reached.argmax(axis=0)
    before = np.maximum(index - 1, 0)
    low, high = (np.take_along_axis(values, at[None], 0)[0] for at in (before, index))
    with np.errstate(all="ignore"):
        share = np.where(index > before, (level - low) / (high - low), 1.0)
    share = np.where(np.isfinite(share), share, 1.0)
    found = steps[before] + share * (steps[index] - steps[before])
    return np.where(reached.any(axis=0), found, np.inf)


GOALS = {"90%": ("accuracy", 0.9), "95%": ("accuracy", 0.95), "loss 0.3": ("log_loss", 0.3)}


def repeated_race_block(settings: Settings) -> xr.Dataset:
    """The same race from several initial weights, with batches of their own, on one split.

    Of each goal the steps to it are kept, infinity where it was not reached.
    """
    seed, rates, draws = settings["seed"], settings["learning_rate"], settings["draws"]
    runs = network.grid(draw=range(draws), learning_rate=rates)
    dataset, size = digits(settings), noise_size(settings["arm"])
    seeds = (1000 * (runs.draw + 1) + seed).astype(int)
    norm = None if size is None else network.BatchNorm()
    net = build(settings["network"], norm, seeds, settings["initial_scale"])
    if size:
        add_noise(net, size)
    times, curves = recorded_steps(settings["steps"]), [look_at(net, dataset)]

    def after_step(net: network.Network, step: int) -> None:
        if step in times:
            curves.append(look_at(net, dataset))

    history = train(net, dataset, network.SGD(runs.learning_rate), settings["steps"], after_step)
    # Each [steps, parts, runs].
    found = dict(zip(("accuracy", "log_loss"), np.moveaxis(np.stack(curves), 2, 0), strict=True))
    reached = []
    for variable, level in GOALS.values():
        sign = 1 if variable == "accuracy" else -1
        reached.append(_crossing(sign * found[variable], np.array(times), sign * level))
    steps = np.array(reached, np.float32)
    return xr.Dataset(
        {
            "reached": (
                ("goal", "part", "draw", "learning_rate"),
                steps.reshape(len(GOALS), len(PARTS), draws, len(rates)),
            ),
            "loss": (("draw", "learning_rate", "first"), runs.reshape(history["loss"][:, :3])),
        },
        {
            "goal": list(GOALS),
            "part": PARTS,
            "draw": range(draws),
            "learning_rate": list(rates),
            "first": range(1, 4),
        },
    )


DRIFTERS = {"no BN": None, "BN": None, "BN + noise": Noise, "BN + slow drift": Drift}


def slow_drift_block(settings: Settings) -> xr.Dataset:
    """The race of one arm with drift looked at in several rhythms over its first 60 steps."""
    seed, arm, looks = settings["seed"], settings["arm"], settings["look"]
    runs = network.grid(**{name: settings[name] for name in ("initial_scale", "learning_rate")})
    dataset, layer = digits(settings), DRIFTERS[arm]
    norm = None if arm == "no BN" else network.BatchNorm()
    seeds = [seed] * len(runs)
    net = build(settings["network"], norm, seeds, runs.initial_scale[:, None, None])
    if layer is not None:
        add_noise(net, {Noise: 0.5, Drift: 1.0}[layer], layer)
    watch = DriftWatch(net, dataset.validation.x[:100])
    watch.look()
    times, curves = recorded_steps(settings["steps"]), [look_at(net, dataset)[:, 0]]

    def after_step(net: network.Network, step: int) -> None:
        if step in times:
            curves.append(look_at(net, dataset)[:, 0])
        if step <= DRIFT_STEPS:
            watch.look()

    history = train(net, dataset, network.SGD(runs.learning_rate), settings["steps"], after_step)
    axes = ("initial_scale", "learning_rate")
    paths = np.stack([watch.paths(every) for every in looks], axis=1).astype(np.float32)
    accuracy = np.moveaxis(np.stack(curves), 2, 0)
    return xr.Dataset(
        {
            "accuracy": ((*axes, "step", "part"), runs.reshape(accuracy)),
            "loss": ((*axes, "first"), runs.reshape(history["loss"][:, :3])),
            "path": ((*axes, "look"), runs.reshape(paths)),
        },
        {name: list(settings[name]) for name in axes}
        | {"look": list(looks), "step": times, "part": PARTS, "first": range(1, 4)},
    )


def fine_rates_block(settings: Settings) -> xr.Dataset:
    """Accuracy at the end of a race, at rates and initial scales that lie close."""
    runs = network.grid(**{name: settings[name] for name in ("initial_scale", "learning_rate")})
    dataset, steps = digits(settings), settings["steps"]
    norm = network.BatchNorm() if settings["arm"] == "BN" else None
    seeds = [settings["seed"]] * len(runs)
    net = build(settings["network"], norm, seeds, runs.initial_scale[:, None, None])
    history = train(net, dataset, network.SGD(runs.learning_rate), steps)
    axes = ("initial_scale", "learning_rate")
    return xr.Dataset(
        {
            "accuracy": ((*axes, "step", "part"), runs.reshape(scored(net, dataset)[:, None])),
            "loss": ((*axes, "first"), runs.reshape(history["loss"][:, :3])),
        },
        {name: list(settings[name]) for name in axes}
        | {"step": [steps], "part": PARTS, "first": range(1, 4)},
    )


# --------------------------------------------------------------------------------------- landscapes

MULTIPLES = [0.5, 1.0, 2.0, 4.0]


def landscape_block(settings: Settings) -> xr.Dataset:
    """At some moments of training: loss and gradient along the step, on 256 training images."""
    seed, rates = settings["seed"], np.array(settings["learning_rate"])
    dataset, moments = digits(settings), settings["moment"]
    norm = network.BatchNorm() if settings["arm"] == "BN" else None
    net = build(settings["network"], norm, [seed] * len(rates), settings["initial_scale"])
    x, y = inputs(net, dataset.train.x[:256]), dataset.train.y[:256]
    found: list[tuple[np.ndarray, ...]] = []

    def at() -> tuple[np.ndarray, np.ndarray]:
        loss, _ = LOSS(net.activations(x, training=True)[-1][1], y)
        net.kernel_gradients(x, y, LOSS)
        return loss, net.gradients.copy()

    def look(net: network.Network, step: int) -> None:
        if step not in moments:
            return
        start, (loss, gradient) = net.weights.copy(), at()
        losses, changes = [loss], []
        for multiple in MULTIPLES:
            net.weights[:] = start - (multiple * rates).astype(start.dtype)[:, None] * gradient
            there, changed = at()
            losses.append(there)
            changes.append(np.linalg.norm(changed - gradient, axis=1))
        net.weights[:] = start
        found.append((np.stack(changes, 1), np.linalg.norm(gradient, axis=1), np.stack(losses, 1)))

    with np.errstate(all="ignore"):
        look(net, 0)
        train(net, dataset, network.SGD(rates), max(moments), look)
    changes, gradients, losses = (np.stack(each, axis=1) for each in zip(*found, strict=True))
    return xr.Dataset(
        {
            "change": (("learning_rate", "moment", "multiple"), changes.astype(np.float32)),
            "gradient": (("learning_rate", "moment"), gradients.astype(np.float32)),
            "loss": (("learning_rate", "moment", "place"), losses.astype(np.float32)),
        },
        {
            "learning_rate": list(rates),
            "moment": list(moments),
            "multiple": MULTIPLES,
            "place": [0.0, *MULTIPLES],
        },
    )


# ------------------------------------------------------------------------------ length, direction


class Scaled(network.SGD):
    """Gradient descent whose rate is multiplied by a factor of its own for each parameter.

    Args:
        learning_rate: as for `SGD`.
        factor: array [runs, parameters], or one that broadcasts to it; 0 freezes a parameter.
        watch: called with the weights and the gradients before each step.
    """

    def __init__(
        self,
        learning_rate: float | np.ndarray,
        factor: np.ndarray,
        watch: Callable[[], object] | None = None,
    ) -> None:
        """Set the rule."""
        super().__init__(learning_rate)
        self.factor, self.watch = factor, watch

    def step(self, weights: np.ndarray, gradients: np.ndarray) -> None:
        """Change the weights in place; the gradients are used up."""
        if self.watch is not None:
            self.watch()
        gradients *= self.factor
        super().step(weights, gradients)


def chosen_columns(net: network.Network, wanted: Callable[[str], bool]) -> np.ndarray:
    """Which columns of the weights belong to parameters whose name is wanted, [parameters]."""
    columns = np.zeros(net.weights.shape[1], dtype=bool)
    for name, where in net.columns.items():
        columns[where] = wanted(name)
    return columns


def is_hidden_kernel(name: str) -> bool:
    """Whether a parameter is a kernel that BN follows in the chapter's dense network."""
    return name in ("dense_1/kernel", "dense_2/kernel", "dense_3/kernel")


def stretched_losses(
    length: float, times: float, seed: int = 0, steps: int = 100
) -> tuple[np.ndarray, network.Network]:
    """Training losses with longer hidden weights at a larger rate than 0.1.

    Args:
        length: factor of the initial hidden weights.
        times: factor of their learning rate.
        seed: of the split, the initial weights and the batches.
        steps: how long to train.

    Returns:
        Losses [steps], and the trained network.
    """
    dataset = digits({"seed": seed, "inputs": "standardized", "dtype": np.float64})
    net = build("ReLU", network.BatchNorm(epsilon=0.0), [seed], dtype=np.float64)
    hidden = chosen_columns(net, is_hidden_kernel)
    net.weights[:, hidden] *= length
    history = train(net, dataset, Scaled(0.1, np.where(hidden, times, 1.0)), steps)
    return history["loss"][0], net


def length_block(settings: Settings) -> xr.Dataset:
    """Check both identities on one replicate, and note the effective rates."""
    seed, rates, steps = settings["seed"], np.array(settings["hidden_rate"]), settings["steps"]
    reference, _ = stretched_losses(1, 1, seed, steps)
    longer, _ = stretched_losses(3, 1, seed, steps)
    pairs = [stretched_losses(a, a**2, seed, steps)[0] for a in settings["stretch"]]
    apart = np.array([np.abs(losses - reference).max() for losses in pairs])

    dataset = digits({"seed": seed, "inputs": "standardized", "dtype": np.float64})
    net = build("ReLU", network.BatchNorm(epsilon=0.0), [seed] * len(rates), dtype=np.float64)
    hidden = chosen_columns(net, is_hidden_kernel)
    layer = net.layers[net.names.index("dense_2")]
    squared = [(layer.kernel**2).sum(axis=(1, 2))]
    grown = np.zeros(len(rates))

    def watch() -> None:
        grown[:] += rates**2 * (layer.dkernel**2).sum(axis=(1, 2))

    factor = np.where(hidden, 1.0, 0.3 / rates[:, None])
    train(net, dataset, Scaled(rates, factor, watch), steps)
    squared.append((layer.kernel**2).sum(axis=(1, 2)))
    wrong = np.abs((squared[0] + grown) / squared[1] - 1)
    return xr.Dataset(
        {
            "apart": ("stretch", apart),
            "wrong": ("hidden_rate", wrong),
            "effective": (("hidden_rate", "moment"), np.stack([rates / s for s in squared], 1)),
            "loss": (("run", "step"), np.stack([reference, longer, pairs[1]])),
        },
        {
            "stretch": list(settings["stretch"]),
            "hidden_rate": list(rates),
            "moment": ["before", "after"],
            "run": ["weights × 1, rate × 1", "weights × 3, rate × 1", "weights × 3, rate × 9"],
            "step": range(1, steps + 1),
        },
    )


def hidden_rates_block(settings: Settings) -> xr.Dataset:
    """Train with one rate for the weights that BN follows, and another for all else."""
    runs = network.grid(hidden_rate=settings["hidden_rate"], other_rate=settings["other_rate"])
    dataset = digits(settings)
    norm = network.BatchNorm() if settings["arm"] == "BN" else None
    net = build(settings["network"], norm, [settings["seed"]] * len(runs))
    hidden = chosen_columns(net, is_hidden_kernel)
    factor = np.where(hidden, (runs.hidden_rate / runs.other_rate)[:, None], 1.0)
    curves = []

    def look(net: network.Network, step: int) -> None:
        if step in settings["step"]:
            curves.append(runs.reshape(scored(net, dataset)))

    optimizer = Scaled(runs.other_rate, factor.astype(np.float32))
    history = train(net, dataset, optimizer, max(settings["step"]), look)
    names = runs.names
    return xr.Dataset(
        {
            "accuracy": (("step", *names, "part"), np.stack(curves)),
            "loss": ((*names, "first"), runs.reshape(history["loss"][:, :3])),
        },
        {name: list(settings[name]) for name in names}
        | {"step": list(settings["step"]), "part": PARTS, "first": range(1, 4)},
    )


# ---------------------------------------------------------------------------- before the first step


def layer_jacobian(
    kernel: np.ndarray, slope: np.ndarray, normalized: np.ndarray | None, sd: np.ndarray | None
) -> np.ndarray:
    """Jacobian of the next layer's values by this layer's, over a whole batch, exactly.

    Both are what enters an activation: behind BN if there is one. A batch of m examples and n
    units has m·n values, so the matrix has (m·n)² entries.

    Args:
        kernel: weights of the next layer, [units, next units].
        slope: derivative of the activation at this layer's values, [batch, units].
        normalized: the next layer's values behind BN, before gamma and beta, [batch, next units];
            None without BN.
        sd: standard deviation, with epsilon, of the next layer's values before BN, [next units].

    Returns:
        Array [batch × next units, batch × units].
    """
    batch, units = slope.shape
    if normalized is None:
        through = np.broadcast_to(np.eye(batch), (kernel.shape[1], batch, batch))
    else:
        outer = np.einsum("ik,jk->kij", normalized, normalized)
        through = (np.eye(batch) - (1 + outer) / batch) / sd[:, None, None]
    whole = np.einsum("kij,uk,ju->ikju", through, kernel, slope)
    return whole.reshape(batch * kernel.shape[1], batch * units)


SLOPES = {
    "linear": np.ones_like,
    "ReLU": lambda a: (a > 0).astype(a.dtype),
    "tanh": lambda a: 1 - np.tanh(a) ** 2,
}
JACOBIAN_EPSILON = 1e-5


def jacobian_of(net: network.Network, kind: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Jacobians from the second hidden layer's values to the third's, in the first run.

    Args:
        net: a dense network of three hidden layers.
        kind: its activation.
        x: a batch, [batch, inputs].

    Returns:
        That of the whole batch, and that of the first example with the statistics held.
    """
    layers = dict(zip(net.names, net.layers, strict=True))
    outputs = {name: values[0] for name, values in net.activations(x, training=True)}
    kernel, bn = layers["dense_3"].kernel[0], layers.get("bn_3")
    if bn is None:
        slope = SLOPES[kind](outputs["dense_2"])
        return layer_jacobian(kernel, slope, None, None), kernel.T * slope[0]
    z = outputs["dense_3"]
    sd = np.sqrt(z.var(axis=0) + JACOBIAN_EPSILON)
    normalized = (z - z.mean(axis=0)) / sd
    # The values before gamma and beta are what the paper calls x-hat: gamma is of the activation.
    slope = SLOPES[kind](outputs["bn_2"]) * layers["bn_2"].gamma[0]
    one = (kernel / sd).T * slope[0]
    return layer_jacobian(kernel, slope, normalized, sd), one


def _singular_values(matrix: np.ndarray) -> np.ndarray:
    if not np.isfinite(matrix).all():  # the run has diverged
        return np.full(min(matrix.shape), np.nan)
    return np.linalg.svd(matrix, compute_uv=False)


def jacobian_block(settings: Settings) -> xr.Dataset:
    """Singular values of a layer's Jacobian, at the start and after training."""
    kind, seed, width = settings["network"], settings["seed"], settings["width"]
    dataset = digits(settings | {"dtype": np.float64})
    norm = network.BatchNorm(epsilon=JACOBIAN_EPSILON) if settings["arm"] == "BN" else None
    widths, scale = [64, width, width, width, 10], settings["initial_scale"]
    net = build(kind, norm, [seed], scale, widths=widths, dtype=np.float64)
    x = dataset.train.x[: settings["batch_size"]]
    levels = np.linspace(0, 1, 101)
    found = []

    def look(net: network.Network, step: int) -> None:
        if step in settings["step"]:
            values = [_singular_values(j) for j in jacobian_of(net, kind, x)]
            near = [((v > 0.5) & (v < 2)).mean() for v in values]
            found.append((near, [np.quantile(v, levels) for v in values]))

    look(net, 0)
    train(net, dataset, network.SGD(settings["learning_rate"]), max(settings["step"]), look)
    near, quantiles = (np.array(each) for each in zip(*found, strict=True))
    return xr.Dataset(
        {
            "near": (("step", "of"), near),
            "quantile": (("step", "of", "level"), quantiles.astype(np.float32)),
        },
        {"step": list(settings["step"]), "of": ["batch", "example"], "level": levels},
    )


def growth_block(settings: Settings) -> xr.Dataset:
    """Growth of the squared norm of the gradient per layer, in the middle of a deep network."""
    seed, kind, depth, width = (settings[n] for n in ("seed", "network", "depth", "width"))
    norm = network.BatchNorm(epsilon=1e-8)
    net = build(kind, norm, [seed], widths=[width] * (depth + 1) + [10])
    first, last = depth // 4, 3 * depth // 4
    rng, growth = np.random.default_rng([seed, 3]), []
    for batch in settings["batch_size"]:
        x, y = rng.standard_normal((batch, width)), rng.integers(0, 10, batch)
        gradients = net.kernel_gradients(x, y, LOSS)
        low, high = (float((gradients[i - 1] ** 2).sum()) for i in (first, last))
        growth.append((low / high) ** (1 / (last - first)))
    return xr.Dataset(
        {"growth": ("batch_size", growth)}, {"batch_size": list(settings["batch_size"])}
    )


def linear_growth(batch: float | np.ndarray) -> float | np.ndarray:
    """Yang et al. 2019: the factor for a linear network with BN."""
    return (batch - 2) / (batch - 3)


def relu_growth(batch: float | np.ndarray) -> float | np.ndarray:
    """The same for ReLU; it falls to pi / (pi - 1)."""
    c, pairs = -1 / (batch - 1), batch * (batch - 1)
    k = batch / 2 + pairs * (1 / 4 + np.arcsin(c) / (2 * np.pi))
    s = batch / 2 + pairs * (np.sqrt(1 - c**2) + c * (np.pi - np.arccos(c))) / (2 * np.pi)
    above = batch / 2 - 3 / 2 + (k + s) / batch**2
    return batch / (batch - 3) * above / (batch / 2 - s / batch)


# --------------------------------------------------------------------------------- gamma and beta

RANDOM = "two random weights a channel"
TRAINED = ["everything", "gamma and beta", RANDOM, "output layer"]


def trained_columns(net: network.Network, what: str, seed: int) -> np.ndarray:
    """Which columns of the weights are trained, [parameters]."""
    affine = chosen_columns(net, lambda name: name.endswith(("gamma", "beta")))
    if what == "everything":
        return np.ones_like(affine)
    if what == "gamma and beta":
        return affine
    if what == "output layer":
        last = net.names[-1]
        return chosen_columns(net, lambda name: name.startswith(f"{last}/"))
    # As many as gamma and beta: two of the weights that lead to each neuron or channel with BN.
    picked, rng = np.zeros_like(affine), np.random.default_rng([seed, 2])
    for name, layer in zip(net.names, net.layers, strict=True):
        if hasattr(layer, "kernel") and name != net.names[-1]:
            _, *inside, units = layer.kernel.shape
            first = np.arange(np.prod(inside)) < 2
            two = [rng.permutation(first) for _ in range(units)]
            picked[net.columns[f"{name}/kernel"]] = np.stack(two, axis=1).ravel()
    return picked


def alone_block(settings: Settings) -> xr.Dataset:
    """Train a part of the parameters of a network with BN, the others at their random start."""
    seed, rates = settings["seed"], settings["learning_rate"]
    dataset = digits(settings)
    net = build(settings["network"], network.BatchNorm(), [seed] * len(rates))
    columns = trained_columns(net, settings["arm"], seed)
    curves = []

    def look(net: network.Network, step: int) -> None:
        if step in settings["step"]:
            curves.append(scored(net, dataset))

    optimizer = Scaled(np.array(rates), columns.astype(np.float32))
    history = train(net, dataset, optimizer, max(settings["step"]), look)
    return xr.Dataset(
        {
            "accuracy": (("step", "learning_rate", "part"), np.stack(curves)),
            "loss": (("learning_rate", "first"), history["loss"][:, :3]),
            "parameters": ((), int(columns.sum())),
        },
        {
            "step": list(settings["step"]),
            "learning_rate": list(rates),
            "part": PARTS,
            "first": range(1, 4),
        },
    )


# --------------------------------------------------------------------------------------- hypotheses

LEVEL = 0.9

_DIGITS = "digits (1,797 images, split anew for each seed into 1,097, 300 and 400)"
_DENSE = f"{_DIGITS}, standardized pixels, three hidden layers of 64, batches of 60"
_CONV = (
    f"{_DIGITS}, standardized pixels, two convolutions of 8 and 16 channels, max pooling, global "
    "average, ReLU, batches of 60"
)
_TUNED = (
    "each network and each replicate at the initial scale and the rate that were best on its "
    "validation images; statistics recomputed on 256 training images"
)
_TWO_POINTS = (
    "two points: 400 test images of a pool of 1,797 can't tell less apart, and less would not "
    "make one change anything"
)

HYPOTHESES = {
    each.name: each
    for each in [
        Hypothesis(
            name="noise-after-bn",
            claim="BN with the drift brought back as noise trains as fast as BN.",
            kind="measured",
            source="santurkar2018",
            said_by="Santurkar et al. 2018, section 2.1: the difference is almost non-existent",
            label="steps to 90%, ReLU, BN + noise ÷ BN",
            claimed="within",
            scale="log",
            margin=1.2,
            reason="a fifth more steps is what one would still call almost no difference",
            spec=".2f",
            setting=f"{_DENSE}, plain gradient descent, {_TUNED}. Noise for each activation and "
            "example, its distribution drawn anew for each neuron at each step: mean shift up to "
            "0.5, mean scale 1 to 1.25. A replicate is the mean of six trainings, its scale 0.3 or "
            "1. Slow drift: shift and scale of each neuron glide to a new draw, up to 1 and from 1 "
            "to 1.5, in 20 steps",
        ),
        Hypothesis(
            name="noise-still-faster",
            claim="BN with the drift brought back as noise trains much faster than no BN.",
            kind="measured",
            source="santurkar2018",
            said_by="Santurkar et al. 2018, section 2.1",
            label="steps to 90%, ReLU, no BN ÷ BN + noise",
            scale="log",
            margin=1.5,
            reason="a third of the steps saved is what a user would notice, as in chapter 1",
            spec=".2f",
            setting=f"as for BN with noise against BN: {_DENSE}, plain gradient descent, {_TUNED}; "
            "a replicate is the mean of six trainings, its scale 0.3 or 1",
        ),
        Hypothesis(
            name="smoother-landscape",
            claim="With BN the gradient changes less along a step: the landscape is smoother.",
            kind="measured",
            source="santurkar2018",
            said_by="Santurkar et al. 2018, section 3.1, of their effective beta-smoothness",
            label="largest change of the gradient per distance, ReLU, rate 0.1, BN ÷ no BN",
            claimed="below",
            scale="log",
            margin=1.5,
            reason="a third less; the paper's figure shows much more",
            spec=".2f",
            setting=f"{_DENSE}, both networks at one rate and at He's scale. On 256 training "
            "images, at half a step, one, two and four steps along the gradient, the largest "
            "change of the gradient divided by the distance; geometric mean over the moments "
            "after 10, 30, 100 and 300 steps",
        ),
        Hypothesis(
            name="smoother-landscape-conv",
            claim="With BN the gradient changes less along a step, in a convolutional network.",
            kind="measured",
            source="santurkar2018",
            said_by="Santurkar et al. 2018, section 3.1, of a convolutional network (VGG)",
            label="largest change of the gradient per distance, convolutional, rate 0.1, "
            "BN ÷ no BN",
            claimed="below",
            scale="log",
            margin=1.5,
            reason="a third less; the paper's figure shows much more",
            spec=".2f",
            setting=f"{_CONV}; otherwise as for the dense network",
        ),
        Hypothesis(
            name="larger-rates",
            claim="BN enables training with larger learning rates.",
            kind="measured",
            source="bjorck2018",
            said_by="Bjorck et al. 2018, abstract",
            label="largest rate that trains, ReLU, standardized pixels, BN ÷ no BN",
            scale="log",
            margin=2.0,
            reason="less than twice the rate would change little",
            spec=".1f",
            setting=f"{_DENSE}, 150 steps, rates from 0.13 to 11, a factor of 1.5 apart; a rate "
            "trains if it reaches 90% on test images at the best of four initial scales, chosen on "
            "validation images",
        ),
        Hypothesis(
            name="rates-are-the-cause",
            claim="The larger rates are the cause of faster training: at equal rates BN is no "
            "faster.",
            kind="measured",
            source="bjorck2018",
            said_by="Bjorck et al. 2018, abstract: larger rates are the cause for faster "
            "convergence and better generalization. The test at an equal rate is ours",
            label="steps to 90% at the rate and scale that suit no BN, ReLU, no BN ÷ BN",
            claimed="within",
            scale="log",
            margin=1.2,
            reason="a fifth more steps is what one would still call almost no difference",
            spec=".2f",
            setting=f"{_DENSE}. Both networks have the rate and the initial scale that most "
            "replicates of the network without BN chose on validation images",
        ),
        Hypothesis(
            name="length-and-direction",
            claim="With BN the learning rate that counts is rate ÷ squared length of the weights, "
            "and the squared length grows by Pythagoras.",
            kind="identity",
            source="vanlaarhoven2017",
            said_by="van Laarhoven 2017",
            label="largest difference of a loss, or relative error of the squared length",
            claimed="below",
            null=1e-9,
            reason="more would not be rounding",
            spec=".1e",
            setting=f"{_DENSE}, ReLU, epsilon 0, float64, 100 steps; weights × 0.1, 2 and 3 with "
            "their rate × the square; rates of the hidden weights from 0.1 to 1,000",
        ),
        Hypothesis(
            name="no-tuned-rate",
            claim="Weights that BN follows need no tuned learning rate.",
            kind="measured",
            source="arora2019",
            said_by="Arora et al. 2019, who prove it for gradient descent",
            label="test accuracy, BN, rate of the hidden weights 1 − 1,000",
            claimed="within",
            margin=0.02,
            reason=_TWO_POINTS,
            setting=f"{_DENSE}, ReLU, 300 steps; all other parameters at a rate of their own, "
            "chosen on validation images",
        ),
        Hypothesis(
            name="singular-values-near-one",
            claim="BN leads the layers' Jacobians to have singular values close to 1.",
            kind="measured",
            source="ioffe2015",
            said_by="Ioffe and Szegedy 2015, section 3.3, as a conjecture; Yang et al. 2019 "
            "disprove it for wide networks before training",
            label="share of singular values from 1/2 to 2, tanh, before training",
            null=0.5,
            reason="most of them, and close taken generously",
            spec=".2f",
            setting=f"{_DIGITS}, standardized pixels, three hidden layers of 32. The exact "
            "Jacobian from what enters the second activation to what enters the third, for a "
            "batch of 32 (1,024 singular values); initial weights at the usual scale",
        ),
        Hypothesis(
            name="exploding-gradients",
            claim="Before training, the squared gradient of a deep network with BN grows from "
            "layer to layer, by (B − 2)/(B − 3) in a linear one on batches of B.",
            kind="measured",
            source="yang2019",
            said_by="Yang et al. 2019, the theorem on ReLU and linear networks (its number differs "
            "between editions), of infinitely wide layers",
            label="growth of the squared norm per layer, linear, batch of 8",
            claimed="within",
            scale="log",
            null=6 / 5,
            margin=1.05,
            reason="5%: a width of 256 stands for an infinite one. Without growth it would be 1",
            spec=".3f",
            setting="random inputs, 40 layers of 256, before training; gradient of the loss by the "
            "weights, layers 10 to 30",
        ),
        Hypothesis(
            name="gamma-beta-alone",
            claim="Training gamma and beta alone learns far more than training as many random "
            "weights.",
            kind="measured",
            source="frankle2021",
            said_by="Frankle et al. 2021, abstract, of deep convolutional networks",
            label="test accuracy, convolutional, gamma and beta − two random weights a channel",
            margin=0.05,
            reason="five points: far more than the two that 400 test images can tell apart",
            setting=f"{_CONV}, 300 steps, each at the rate that was best on its validation images; "
            "statistics recomputed on training images; the weights are two of those that lead to "
            "each channel with BN, as many as gamma and beta. Dense: three hidden layers of 64, "
            "600 steps",
        ),
    ]
}


def _said(*names: str) -> tuple[Hypothesis, ...]:
    return tuple(HYPOTHESES[name] for name in names)


# Large rates magnify the last digit of a number tenfold every few steps, and in that processors
# differ: only the first steps are compared singly.
_FIRST = Tolerance(close=5e-3, relative=2e-2)
_ACCURACY = Tolerance(mean=0.03)
_RACE = {
    "accuracy": _ACCURACY,
    "log_loss": Tolerance(mean=0.1, relative=0.2),
    "loss": _FIRST,
    "path": Tolerance(mean=1.0, relative=0.3),
}
_REACHED = Tolerance(mean=3.0, relative=0.2)
_LANDSCAPE = {
    "change": Tolerance(mean=0.5, relative=0.5),
    "gradient": Tolerance(mean=0.2, relative=0.3),
    "loss": Tolerance(mean=0.2, relative=0.3),
}

_PILOT = (
    "Before the record, a pilot with seeds 100 to 102, other splits of the same images: BN chose "
    "the smallest scale, 0.3, so a smaller one was added, and 3 gave way to 2. The steps to 90% "
    "scattered less than those to 95%, which made them the primary finding."
)
_LONGER = (
    "After a referee, who found that the order turns over with the length of the initial weights: "
    "the initial scale, which was always 1, is a factor. The primary finding is still that at 1."
)
_RIVALS = (
    "After a referee: the rivals of gamma and beta were as many weights drawn from all, the output "
    "layer's among them. The source trains two random weights of each channel, and so do these. "
    "Its networks are convolutional, and the primary finding now is, too; the margin is the same."
)
SCALES = [0.1, 0.3, 1.0, 2.0]
RATES = [0.03, 0.1, 0.3, 1.0, 3.0, 10.0]

STUDIES = (
    Study(
        name="noise",
        question="How fast does BN train if the drift is brought back?",
        block=race_block,
        dims={
            "arm": list(RACERS),
            "initial_scale": SCALES,
            "learning_rate": RATES,
            "seed": range(20),
        },
        together=["learning_rate"],
        fixed={"network": "ReLU", "inputs": "standardized", "steps": 150},
        tolerances=_RACE,
        overlap=DIGITS_OVERLAP,
        hypotheses=_said(
            "noise-after-bn", "noise-still-faster", "larger-rates", "rates-are-the-cause"
        ),
        changes=(_PILOT,),
    ),
    Study(
        name="noise-repeated",
        question="And the mean over several initial weights?",
        block=repeated_race_block,
        dims={
            "arm": ["no BN", "BN", "BN + noise"],
            "initial_scale": [0.3, 1.0],
            "learning_rate": [0.1, 0.3, 1.0, 3.0],
            "seed": range(10),
        },
        together=["learning_rate"],
        fixed={"network": "ReLU", "inputs": "standardized", "draws": 6, "steps": 100},
        tolerances={"reached": _REACHED, "loss": _FIRST},
        overlap=DIGITS_OVERLAP,
        hypotheses=_said("noise-after-bn", "noise-still-faster"),
        changes=(
            "After the record of noise, in which a replicate was one training: BN with noise took "
            "1.08 [0.76, 1.51] times the steps of BN, an interval far wider than the margin. Here "
            "a replicate is the mean of six trainings from weights of their own, at the scales "
            "that were chosen there. The margins are the same.",
        ),
    ),
    Study(
        name="noise-tanh",
        question="And a network with tanh?",
        block=race_block,
        dims={
            "arm": list(RACERS),
            "initial_scale": SCALES,
            "learning_rate": RATES,
            "seed": range(10),
        },
        together=["learning_rate"],
        fixed={"network": "tanh", "inputs": "standardized", "steps": 150},
        tolerances=_RACE,
        overlap=DIGITS_OVERLAP,
    ),
    Study(
        name="raw-pixels",
        question="And if the pixels are left as they are, from 0 to 1?",
        block=race_block,
        dims={
            "arm": ARMS,
            "network": ["ReLU", "tanh"],
            "initial_scale": SCALES,
            "learning_rate": RATES,
            "seed": range(10),
        },
        together=["learning_rate"],
        fixed={"inputs": "raw", "steps": 150},
        tolerances=_RACE,
        overlap=DIGITS_OVERLAP,
    ),
    Study(
        name="rates-conv",
        question="Which rates can a convolutional network use, and how fast is it?",
        block=race_block,
        dims={
            "arm": ARMS,
            "initial_scale": [0.3, 1.0],
            "learning_rate": RATES[:-1],
            "seed": range(10),
        },
        together=["learning_rate"],
        fixed={"network": "convolutional", "inputs": "standardized", "steps": 400},
        tolerances=_RACE,
        overlap=DIGITS_OVERLAP,
        changes=(
            "After a first record of 150 steps, in which half of the replicates without BN had not "
            "reached 90% at any rate: 400 steps. A rate of 10, at which nothing trained, was left "
            "out.",
        ),
    ),
    Study(
        name="landscape",
        question="How much do gradient and loss change along a step?",
        block=landscape_block,
        dims={
            "arm": ARMS,
            "network": ["ReLU", "tanh"],
            "initial_scale": [0.3, 1.0, 2.0],
            "learning_rate": [0.03, 0.1, 0.3],
            "moment": [0, 3, 10, 30, 100, 300],
            "seed": range(20),
        },
        together=["learning_rate", "moment"],
        fixed={"inputs": "standardized"},
        tolerances=_LANDSCAPE,
        overlap=DIGITS_OVERLAP,
        hypotheses=_said("smoother-landscape"),
        changes=(_LONGER,),
    ),
    Study(
        name="landscape-conv",
        question="And in a convolutional network?",
        block=landscape_block,
        dims={
            "arm": ARMS,
            "initial_scale": [0.3, 1.0, 2.0],
            "learning_rate": [0.03, 0.1, 0.3],
            "moment": [0, 3, 10, 30, 100, 300],
            "seed": range(10),
        },
        together=["learning_rate", "moment"],
        fixed={"network": "convolutional", "inputs": "standardized"},
        tolerances=_LANDSCAPE,
        overlap=DIGITS_OVERLAP,
        hypotheses=_said("smoother-landscape-conv"),
        changes=(_LONGER,),
    ),
    Study(
        name="length",
        question="Is rate ÷ squared length the rate that counts, and does length grow exactly?",
        block=length_block,
        dims={
            "hidden_rate": [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0],
            "stretch": [2.0, 3.0, 0.1],
            "seed": range(20),
        },
        together=["hidden_rate", "stretch"],
        fixed={"steps": 100},
        tolerances={
            "apart": Tolerance(1e-9),
            "wrong": Tolerance(1e-9),
            "effective": Tolerance(mean=0.05, relative=0.3),
            "loss": Tolerance(close=1e-6, steps=10, mean=0.02),
        },
        overlap=DIGITS_OVERLAP,
        hypotheses=_said("length-and-direction"),
    ),
    Study(
        name="hidden-rates",
        question="Which rates can the weights have that BN follows?",
        block=hidden_rates_block,
        dims={
            "arm": ARMS,
            "hidden_rate": [0.01, 0.1, 1.0, 10.0, 100.0, 1000.0],
            "other_rate": [0.03, 0.1, 0.3, 1.0],
            "step": [100, 300],
            "seed": range(20),
        },
        together=["hidden_rate", "other_rate", "step"],
        fixed={"network": "ReLU", "inputs": "standardized"},
        tolerances={"accuracy": _ACCURACY, "loss": _FIRST},
        overlap=DIGITS_OVERLAP,
        hypotheses=_said("no-tuned-rate"),
    ),
    Study(
        name="jacobians",
        question="What are the singular values of a layer's Jacobian?",
        block=jacobian_block,
        dims={
            "arm": ARMS,
            "network": ["linear", "ReLU", "tanh"],
            "initial_scale": [0.1, 1.0, 3.0],
            "step": [0, 300],
            "seed": range(10),
        },
        together=["step"],
        fixed={"inputs": "standardized", "width": 32, "batch_size": 32, "learning_rate": 0.1},
        tolerances={"near": Tolerance(mean=0.02), "quantile": Tolerance(mean=0.05, relative=0.05)},
        overlap=DIGITS_OVERLAP,
        hypotheses=_said("singular-values-near-one"),
        changes=(
            "After a referee: ReLU sets about half of the entries to zero, so that a share above "
            "one half was hardly possible, and the primary finding with ReLU was decided before "
            "the run. It is now that with tanh; the bound is the same. The initial scale, which "
            "was always 1, is a factor, since BN could only help where it is a bad one. Ten seeds "
            "instead of 20, for the cost.",
        ),
    ),
    Study(
        name="growth",
        question="How do gradients grow from layer to layer, before training?",
        block=growth_block,
        dims={
            "network": ["linear", "ReLU", "tanh"],
            "batch_size": [8, 16, 32, 64, 128, 256],
            "seed": range(20),
        },
        together=["batch_size"],
        fixed={"depth": 40, "width": 256},
        tolerances={"growth": Tolerance(2e-3)},
        hypotheses=_said("exploding-gradients"),
    ),
    Study(
        name="alone",
        question="What do gamma and beta learn alone?",
        block=alone_block,
        dims={
            "arm": TRAINED,
            "learning_rate": [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0],
            "step": [100, 300, 600],
            "seed": range(20),
        },
        together=["learning_rate", "step"],
        fixed={"network": "ReLU", "inputs": "standardized"},
        tolerances={"accuracy": _ACCURACY, "loss": _FIRST, "parameters": Tolerance(0)},
        overlap=DIGITS_OVERLAP,
        changes=(_RIVALS,),
    ),
    Study(
        name="alone-conv",
        question="And in a convolutional network?",
        block=alone_block,
        dims={
            "arm": TRAINED,
            "learning_rate": [0.1, 0.3, 1.0, 3.0, 10.0, 30.0],
            "step": [100, 300],
            "seed": range(20),
        },
        together=["learning_rate", "step"],
        fixed={"network": "convolutional", "inputs": "standardized"},
        tolerances={"accuracy": _ACCURACY, "loss": _FIRST, "parameters": Tolerance(0)},
        overlap=DIGITS_OVERLAP,
        hypotheses=_said("gamma-beta-alone"),
        changes=(_RIVALS, "20 seeds instead of 10, since the primary finding is now here."),
    ),
    Study(
        name="slow-drift",
        question="And if the drift is slow, and looked at less often?",
        block=slow_drift_block,
        dims={
            "arm": list(DRIFTERS),
            "initial_scale": [0.3, 1.0],
            "learning_rate": [0.1, 0.3, 1.0, 3.0],
            "look": [1, 5, 20, 60],
            "seed": range(15),
        },
        together=["initial_scale", "learning_rate", "look"],
        fixed={"network": "ReLU", "inputs": "standardized", "steps": 100},
        tolerances={
            "accuracy": _ACCURACY,
            "loss": _FIRST,
            "path": Tolerance(mean=1.0, relative=0.3),
        },
        overlap=DIGITS_OVERLAP,
        changes=(
            "After a referee, who found that noise drawn anew at every step goes nowhere: looked "
            "at every 20 steps it drifts less than the network without BN. This study looks in "
            "several rhythms, and has a drift that is slow, of a size (a shift of up to 1, a scale "
            "of up to 1.5) that should make it as large as that of no BN in 20 steps.",
        ),
    ),
    Study(
        name="rates-fine",
        question="How much larger are the rates, on a finer grid?",
        block=fine_rates_block,
        dims={
            "arm": ARMS,
            "network": ["ReLU", "tanh"],
            "initial_scale": SCALES,
            "learning_rate": [0.13, 0.2, 0.3, 0.45, 0.67, 1.0, 1.5, 2.2, 3.3, 5.0, 7.5, 11.0],
            "seed": range(10),
        },
        together=["initial_scale", "learning_rate"],
        fixed={"inputs": "standardized", "steps": 150},
        tolerances={"accuracy": _ACCURACY, "loss": _FIRST},
        overlap=DIGITS_OVERLAP,
        hypotheses=_said("larger-rates"),
        changes=(
            "After a referee: the rates of noise lie a factor of 3.2 apart, more than the margin "
            "of 2, so that an interval can be narrower than what the grid can tell. Here they lie "
            "a factor of 1.5 apart; margin and label are the same.",
        ),
    ),
)


# ------------------------------------------------------------------------------------------- claims

CHOOSE = ("initial_scale", "learning_rate")


def _record(record: str | xr.Dataset) -> xr.Dataset:
    return load(record) if isinstance(record, str) else record


def race_to(
    record: str | xr.Dataset, level: float = LEVEL, variable: str = "accuracy"
) -> Comparison:
    """Steps to a level in one of the races, between records by a straight line.

    Args:
        record: the name of a race, or what a run of one gave.
        level: the level to reach.
        variable: "accuracy", which is to rise, or "log_loss", which is to fall.

    Returns:
        A `Comparison` in which fewer is better.
    """
    record = _record(record)
    sign = 1.0 if variable == "accuracy" else -1.0
    curve = sign * record[variable].transpose("step", ...)
    first = _crossing(curve.values, record["step"].values, sign * level)
    score = curve.isel(step=0, drop=True).copy(data=first).rename(f"steps to {level:g}")
    return Comparison(record, score, CHOOSE, maximize=False)


def repeated_to(goal: str = "90%", record: str | xr.Dataset = "noise-repeated") -> Comparison:
    """Steps to a goal, the geometric mean over the trainings of each replicate.

    Args:
        goal: one of `GOALS`.
        record: a record of "noise-repeated", or its name.

    Returns:
        A `Comparison` in which fewer is better. A training that never gets there counts with the
        last step.
    """
    record = _record(record)
    steps = record["reached"].sel(goal=goal)
    last = provenance(record)["settings"]["fixed"]["steps"]
    mean = np.exp(np.log(steps.clip(max=last)).mean("draw"))
    return Comparison(record, mean.rename(f"steps to {goal}"), CHOOSE, maximize=False)


def ends(record: str | xr.Dataset) -> Comparison:
    """Accuracy at the end of one of the races."""
    record = _record(record)
    return Comparison(record, "accuracy", CHOOSE, step=int(record["step"].max()))


def by_rate(record: str | xr.Dataset) -> Comparison:
    """Accuracy at the end of one of the races, by the learning rate; the scale is chosen."""
    record = _record(record)
    last = int(record["step"].max())
    return Comparison(record, "accuracy", ["initial_scale"], step=last)


def largest_rates(record: str | xr.Dataset) -> dict[str, np.ndarray]:
    """The largest rate at which each replicate of each arm trains, by arm.

    A rate trains if at its best initial scale it reaches 90% on test images by the end. Where no
    rate does, it counts as the smallest.
    """
    compared = by_rate(record)
    rates, found = compared.record["learning_rate"], {}
    for arm in compared.arms:
        good = compared.values(arm) >= 0.9
        found[arm] = rates.where(good).max("learning_rate").fillna(float(rates.min())).values
    return found


def race_table(record: str | xr.Dataset) -> pd.DataFrame:
    """Drift, chosen settings, and steps to 90% in a race.

    Args:
        record: a race, or its name.

    Returns:
        A row for each arm: the drift, the initial scale and the rate chosen most often (with an
        asterisk at an edge of the grid), and the steps.
    """
    race, rows = race_to(record), {}
    for arm in race.arms:
        chosen = race.chosen(arm)
        path = float(race.at_chosen("path", arm).mean())
        rows[arm] = {
            "drift": "—" if np.isnan(path) else f"{path:.1f}",
            **{n.split("_")[1]: f"{c['value']:g}{'*' * c['edge']}" for n, c in chosen.items()},
            "steps": f"{race.mean(arm).mean:.1f}",
        }
    return pd.DataFrame(rows).T


def _choices(compared: Comparison, *arms: str, **settings: Any) -> dict[str, Any]:
    return {arm: compared.chosen(arm, **settings) for arm in arms}


def _ratio(label: str, effect: Interval, claimed: str, margin: float, spec: str = ".2f") -> Finding:
    return Finding(label, effect, claimed, margin=margin, spec=spec)


def _drifts(record: str, arm: str, other: str, **where: Any) -> Interval:
    race = race_to(record)
    path = race.record["path"].sel(where)
    paths = (race.at_chosen(path, each).values for each in (arm, other))
    return paired_ratio(*paths, overlap=race.overlap)


def drift_table() -> pd.DataFrame:
    """Drift over 60 steps, seen every 5 or 20, and steps to 90%, by arm of "slow-drift"."""
    race, rows = race_to("slow-drift"), {}
    for arm in race.arms:
        paths = race.at_chosen("path", arm).mean("seed")
        row = {f"every {look}": f"{float(paths.sel(look=look)):.2g}" for look in (5, 20)}
        rows[arm] = {**row, "steps": f"{race.mean(arm).mean:.1f}"}
    return pd.DataFrame(rows).T


def noise_after_bn() -> Claim:
    """BN with noise against BN."""
    race, noisy = repeated_to(), "BN + noise"
    once, twice = race_to("noise"), "BN + twice the noise"
    others = {
        "steps to 95%": repeated_to("95%").ratio(noisy, "BN"),
        "steps to a test loss of 0.3": repeated_to("loss 0.3").ratio(noisy, "BN"),
        "steps to 90%, one training a replicate": once.ratio(noisy, "BN"),
        "the same, tanh": race_to("noise-tanh").ratio(noisy, "BN"),
        "the same, ReLU, twice the noise": once.ratio(twice, "BN"),
    }
    drift = "drift in 60 steps, looked at every {}, {}, {} ÷ no BN"
    slow = "BN + slow drift"
    others["steps to 90%, ReLU, BN + slow drift ÷ BN"] = race_to("slow-drift").ratio(slow, "BN")
    drifts = [(drift.format(5, "ReLU", a), _drifts("noise", a, "no BN")) for a in (noisy, twice)]
    for arm in (noisy, slow):
        effect = _drifts("slow-drift", arm, "no BN", look=20)
        drifts.append((drift.format(20, "ReLU", arm), effect))
    calm = {"ReLU": "noise", "tanh": "noise-tanh"}
    return HYPOTHESES["noise-after-bn"].judge(
        race.ratio(noisy, "BN"),
        [
            *(_ratio(label, effect, "within", 1.2) for label, effect in others.items()),
            *(_ratio(label, effect, "above", 1.0) for label, effect in drifts),
            *(
                _ratio(drift.format(5, kind, "BN"), _drifts(name, "BN", "no BN"), "below", 1.0)
                for kind, name in calm.items()
            ),
            Finding(
                "accuracy after 150 steps, ReLU, BN + noise − BN",
                ends("noise").gain(noisy, "BN"),
                "within",
                margin=0.02,
            ),
        ],
        chosen=_choices(race, "BN", noisy),
        draws=10,
        record=["noise-repeated", "noise", "noise-tanh", "slow-drift"],
        note="One training a replicate left it undecided, 1.08 [0.76, 1.51]. The record behind "
        "this card was made after that, with the same margin.",
    )


def noise_still_faster() -> Claim:
    """BN with noise against no BN."""
    race, arms = repeated_to(), ("no BN", "BN + noise")
    once = race_to("noise")
    others = {
        "steps to 95%": repeated_to("95%").ratio(*arms),
        "steps to a test loss of 0.3": repeated_to("loss 0.3").ratio(*arms),
        "steps to 90%, one training a replicate": once.ratio(*arms),
        "the same, tanh": race_to("noise-tanh").ratio(*arms),
        "the same, ReLU, twice the noise": once.ratio("no BN", "BN + twice the noise"),
        "the same, ReLU, slow drift": race_to("slow-drift").ratio("no BN", "BN + slow drift"),
    }
    for kind, name in {"ReLU": "noise", "tanh": "noise-tanh"}.items():
        label = f"steps to 90%, {kind}, both at the rate and scale that suit no BN"
        others[label] = equal_rate(name, "BN + noise")
    return HYPOTHESES["noise-still-faster"].judge(
        race.ratio(*arms),
        [
            *(_ratio(label, effect, "above", 1.5) for label, effect in others.items()),
            _ratio(
                "drift in 60 steps, looked at every 5, tanh, BN + noise ÷ no BN",
                _drifts("noise-tanh", "BN + noise", "no BN"),
                "above",
                1.0,
            ),
        ],
        chosen=_choices(race, *arms),
        draws=10,
        record=["noise-repeated", "noise", "noise-tanh", "slow-drift"],
    )


def steepest_change(record: str | xr.Dataset) -> xr.DataArray:
    """The largest change of the gradient per distance along a step: effective beta-smoothness."""
    record = _record(record)
    distance = record["multiple"] * record["learning_rate"] * record["gradient"]
    return (record["change"] / distance).max("multiple", skipna=False).rename("change per distance")


def landscape_ratio(
    record: str | xr.Dataset,
    rate: float,
    of: str = "change",
    scale: float | tuple[float, float] = 1.0,
    **where: Any,
) -> Interval:
    """A measure of roughness, BN over no BN, at one rate.

    Args:
        record: a record of "landscape" or "landscape-conv", or its name.
        rate: the learning rate of both.
        of: "change" (of the gradient, the largest per distance), "gradient" (its change after one
            step, not divided by the distance) or "loss" (its range along the step).
        scale: the initial scale of both, or that of BN and that of no BN.
        **where: a network; moments, of which the geometric mean is taken, by default those after
            10 steps or more.

    Returns:
        A ratio; infinite or undefined values are left to raise.
    """
    record = _record(record)
    where = {"moment": [m for m in record["moment"].values if m >= 10], **where}
    scales = scale if isinstance(scale, tuple) else (scale, scale)
    measured = {
        "change": lambda: steepest_change(record),
        "gradient": lambda: record["change"].sel(multiple=1.0),
        "loss": lambda: record["loss"].max("place") - record["loss"].min("place"),
    }[of]()
    values = np.log(measured.sel(learning_rate=rate, **where))
    values = np.exp(values.mean("moment", skipna=False) if "moment" in values.dims else values)
    arms = [
        values.sel(arm=a, initial_scale=b).values
        for a, b in zip(("BN", "no BN"), scales, strict=True)
    ]
    return paired_ratio(*arms, overlap=DIGITS_OVERLAP)


def by_scale(ax: Axes, records: Mapping[str, xr.Dataset]) -> None:
    """Draw how much rougher the loss is with BN, by network and by the initial scale of both.

    Args:
        ax: where to draw.
        records: a record without the axis of networks for each name.
    """
    looks = {0.3: ("other", "^"), 1.0: ("theory", "o"), 2.0: ("scaler", "s")}
    for place, (scale, (style, marker)) in enumerate(looks.items()):
        found = {name: landscape_ratio(each, 0.1, scale=scale) for name, each in records.items()}
        look = {"color": plots.ARMS[style]["color"], "marker": marker}
        shift = 0.27 * (place - 1)
        plots.in_rows(ax, found, list(records), **look, shift=shift)
        for row, ratio in enumerate(found.values()):
            left = ratio.mean < 1  # the name stands on the side where the line at 1 is not
            ax.annotate(
                f"× {scale:g}" if row or place else f"weights × {scale:g}",
                (ratio.low if left else ratio.high, row + shift),
                xytext=(-5 if left else 5, 0),
                textcoords="offset points",
                ha="right" if left else "left",
                va="center",
                color=look["color"],
                fontsize=11,
                path_effects=plots.halo(),
            )
    ax.axvline(1, color=plots.FAINT, linewidth=1)
    ax.set_xscale("log")
    ax.set_xticks([0.1, 0.3, 1, 3, 10], [0.1, 0.3, 1, 3, 10])
    ax.set_xlim(0.045, 45)
    ax.minorticks_off()


def _landscape(
    name: str, record: str, label: str, others: Sequence[Finding], **where: Any
) -> Claim:
    def finding(what: str, effect: Interval) -> Finding:
        return _ratio(what, effect, "below", 1.5)

    apart = "the same, rate 0.1, BN at 0.3 of He's scale, no BN at 1"
    return HYPOTHESES[name].judge(
        landscape_ratio(record, 0.1, **where),
        [
            *(
                finding(f"the same, rate {rate}", landscape_ratio(record, rate, **where))
                for rate in (0.03, 0.3)
            ),
            *(
                finding(
                    f"the same, rate {rate}, both at {scale:g} of He's scale",
                    landscape_ratio(record, rate, scale=scale, **where),
                )
                for scale, rate in [(0.3, 0.03), (0.3, 0.1), (0.3, 0.3), (2.0, 0.1)]
            ),
            finding(apart, landscape_ratio(record, 0.1, scale=(0.3, 1.0), **where)),
            finding(
                f"the same, rate 0.1, before training, {label}",
                landscape_ratio(record, 0.1, moment=[0], **where),
            ),
            finding(
                f"change of the gradient after one step, not divided by the distance, {label}",
                landscape_ratio(record, 0.1, "gradient", **where),
            ),
            finding(
                f"range of the loss along the step, {label}",
                landscape_ratio(record, 0.1, "loss", **where),
            ),
            *others,
        ],
        draws=load(record).sizes["seed"],
        record=record,
        note="The gradient of weights that BN follows goes as 1 / length, and its change per "
        "distance as 1 / length², so the result depends on the initial scale.",
    )


def smoother_landscape() -> Claim:
    """The dense networks."""
    others = [
        _ratio(
            f"largest change per distance, tanh, rate {rate}",
            landscape_ratio("landscape", rate, network="tanh"),
            "below",
            1.5,
        )
        for rate in (0.03, 0.1, 0.3)
    ]
    return _landscape("smoother-landscape", "landscape", "ReLU", others, network="ReLU")


def smoother_landscape_conv() -> Claim:
    """The convolutional network."""
    return _landscape("smoother-landscape-conv", "landscape-conv", "convolutional", [])


def _largest(record: str | xr.Dataset) -> Interval:
    rates = largest_rates(record)
    return paired_ratio(rates["BN"], rates["no BN"], overlap=DIGITS_OVERLAP)


def _raw(network_name: str) -> xr.Dataset:
    return load("raw-pixels").sel(network=network_name)


def larger_rates() -> Claim:
    """The largest rate that trains."""
    label = "largest rate that trains, {}, BN ÷ no BN"
    fine = load("rates-fine")
    others = {
        "tanh, standardized pixels": fine.sel(network="tanh"),
        "ReLU, standardized pixels, coarse grid": "noise",
        "tanh, standardized pixels, coarse grid": "noise-tanh",
        "ReLU, raw pixels, coarse grid": _raw("ReLU"),
        "tanh, raw pixels, coarse grid": _raw("tanh"),
        "convolutional, 400 steps, coarse grid": "rates-conv",
    }
    return HYPOTHESES["larger-rates"].judge(
        _largest(fine.sel(network="ReLU")),
        [
            _ratio(label.format(what), _largest(record), "above", 2.0, ".1f")
            for what, record in others.items()
        ],
        draws=10,
        record=["rates-fine", "noise", "noise-tanh", "raw-pixels", "rates-conv"],
        note="No interval covers the grid: a step of the coarse one is a factor of 3.2, so that "
        "its 10.0 may be anything from 3 to 30, and its 3.0 from 1 to 10.",
    )


def equal_rate(record: str | xr.Dataset, arm: str = "BN") -> Interval:
    """Steps at the rate and the initial scale that suit no BN: no BN ÷ an arm.

    Args:
        record: a race, or its name.
        arm: the other network.
    """
    race = race_to(record)
    held = {name: each["value"] for name, each in race.chosen("no BN").items()}
    return race.ratio("no BN", arm, **held)


def gain_table(records: Mapping[str, str | xr.Dataset]) -> pd.DataFrame:
    """How many times fewer steps BN needs, by network.

    Args:
        records: races, or their names, by what a row is called.

    Returns:
        Steps, no BN ÷ BN: each at its best settings, and both at the rate and initial scale that
        no BN chose most often.
    """
    return pd.DataFrame(
        {
            name: {
                "each at its best": f"{race_to(record).ratio('no BN', 'BN'):.1f}",
                "at one rate": f"{equal_rate(record):.1f}",
            }
            for name, record in records.items()
        }
    ).T


def rates_are_the_cause() -> Claim:
    """What is left of the gain at an equal rate."""
    race = race_to("noise")
    held = {name: each["value"] for name, each in race.chosen("no BN").items()}
    end = ends("noise")
    others = {
        "tanh, standardized pixels": "noise-tanh",
        "ReLU, raw pixels": _raw("ReLU"),
        "tanh, raw pixels": _raw("tanh"),
        "convolutional": "rates-conv",
    }
    findings = []
    for what, record in others.items():
        findings.append(_ratio(f"the same, {what}", equal_rate(record), "within", 1.2))
    for what, record in {"ReLU, standardized pixels": "noise", **others}.items():
        best = race_to(record).ratio("no BN", "BN")
        findings.append(_ratio(f"each at its best rate, {what}, no BN ÷ BN", best, "above", 1.2))
    gains = {
        "at the rate and scale that suit no BN": end.gain("BN", "no BN", **held),
        "each at its best rate": end.gain("BN", "no BN"),
    }
    for what, gain in gains.items():
        label = f"accuracy after 150 steps, ReLU, {what}, BN − no BN"
        findings.append(Finding(label, gain, "within", margin=0.02))
    return HYPOTHESES["rates-are-the-cause"].judge(
        equal_rate("noise"),
        findings,
        chosen=_choices(race, *ARMS),
        draws=20,
        record=["noise", "noise-tanh", "raw-pixels", "rates-conv"],
    )


def length_and_direction() -> Claim:
    """Both identities."""
    record = load("length")
    apart, wrong = float(record["apart"].max()), float(record["wrong"].max())
    return HYPOTHESES["length-and-direction"].judge(
        exact(max(apart, wrong)),
        [
            Finding("largest difference of a loss", exact(apart), "below", null=1e-9, spec=".1e"),
            Finding(
                "largest relative error of the squared length",
                exact(wrong),
                "below",
                null=1e-9,
                spec=".1e",
            ),
        ],
        draws=record.sizes["seed"],
        record="length",
    )


def hidden_rates(record: xr.Dataset | None = None, step: int | None = None) -> Comparison:
    """Accuracy by the rate of the hidden weights; all other rates chosen.

    Args:
        record: a record of "hidden-rates"; the book's if None.
        step: after how many steps; the most that were recorded if None.
    """
    record = load("hidden-rates") if record is None else record
    step = int(record["step"].max()) if step is None else step
    return Comparison(record, "accuracy", ["other_rate"], step=step)


def no_tuned_rate() -> Claim:
    """Accuracy at rates a thousandfold apart."""

    def apart(arm: str, rate: float, other: float, step: int | None = None) -> Interval:
        compared = hidden_rates(step=step)
        pair = (compared.values(arm, hidden_rate=each) for each in (rate, other))
        return paired_difference(*pair, overlap=compared.overlap)

    label = "{}, rate of the hidden weights {} − {}"
    pairs = [("BN", 1.0, 0.01), ("BN", 1.0, 0.1), ("BN", 1.0, 10.0), ("BN", 1.0, 100.0)]
    pairs += [("no BN", 0.1, 1.0), ("no BN", 0.1, 0.01), ("no BN", 0.1, 10.0)]
    return HYPOTHESES["no-tuned-rate"].judge(
        apart("BN", 1.0, 1000.0),
        [
            *(
                Finding(
                    label.format(arm, f"{a:g}", f"{b:g}"), apart(arm, a, b), "within", margin=0.02
                )
                for arm, a, b in pairs
            ),
            Finding(
                "after 100 steps, BN, 1 − 1,000",
                apart("BN", 1.0, 1000.0, 100),
                "within",
                margin=0.02,
            ),
        ],
        chosen={
            "1": hidden_rates().chosen("BN", hidden_rate=1.0),
            "1,000": hidden_rates().chosen("BN", hidden_rate=1000.0),
        },
        draws=20,
        record="hidden-rates",
    )


def near_table() -> pd.DataFrame:
    """Share of a batch's singular values from 1/2 to 2 before training, by initial scale."""
    near = load("jacobians")["near"].sel(step=0, of="batch").mean("seed")
    table = near.to_series().unstack("initial_scale").round(2)
    table = table.rename(columns="× {:g}".format).rename_axis(columns=None)
    return table.swaplevel().rename_axis([None, None]).sort_index()


def singular_values_near_one() -> Claim:
    """Shares of singular values near 1."""
    near = load("jacobians")["near"]

    def share(kind: str, arm: str, step: int, of: str, scale: float = 1.0) -> np.ndarray:
        return near.sel(network=kind, arm=arm, step=step, of=of, initial_scale=scale).values

    def finding(label: str, *where: Any) -> Finding:
        effect = interval(share(*where), overlap=DIGITS_OVERLAP)
        return Finding(label, effect, null=0.5, spec=".2f")

    def more(kind: str, scale: float) -> Finding:
        arms = (share(kind, arm, 0, "batch", scale) for arm in ("BN", "no BN"))
        effect = paired_difference(*arms, overlap=DIGITS_OVERLAP)
        label = f"share of the batch, {kind}, initial weights × {scale:g}, BN − no BN"
        return Finding(label, effect, margin=0.1, spec=".2f")

    return HYPOTHESES["singular-values-near-one"].judge(
        interval(share("tanh", "BN", 0, "batch"), overlap=DIGITS_OVERLAP),
        [
            finding("the same, linear", "linear", "BN", 0, "batch"),
            finding("the same, ReLU", "ReLU", "BN", 0, "batch"),
            *(
                finding(f"the same, {kind}, after 300 steps", kind, "BN", 300, "batch")
                for kind in ("tanh", "linear", "ReLU")
            ),
            *(
                finding(f"one example, statistics held, {kind}", kind, "BN", 0, "example")
                for kind in ("tanh", "linear", "ReLU")
            ),
            *(more(kind, scale) for kind in ("tanh", "linear", "ReLU") for scale in (0.1, 1, 3)),
        ],
        draws=near.sizes["seed"],
        record="jacobians",
        note="ReLU sets about half of the entries to 0, so that a share above one half is hardly "
        "possible there.",
    )


def by_batch_size(ax: Axes, formulas: Mapping[str, Callable]) -> None:
    """Draw the growth of the squared gradient per layer, measured and by a formula.

    Args:
        ax: where to draw.
        formulas: the formula of each network that is drawn, a function of the batch size.
    """
    growth = load("growth")["growth"]
    sizes = growth.batch_size.values
    for (kind, formula), style in zip(formulas.items(), ["other", "scaler"], strict=True):
        spread = interval(growth.sel(network=kind).transpose("seed", ...))
        color = plots.ARMS[style]["color"]
        points = sizes, spread.mean, spread.half_width
        ax.errorbar(*points, fmt="o", color=color, label=f"{kind}, measured")
        ax.plot(sizes, formula(sizes), ":", color=color, label=f"{kind}, theory")
    ax.set_xscale("log", base=2)
    ax.set_xticks(sizes, sizes)
    ax.minorticks_off()


def exploding_gradients() -> Claim:
    """Growth before training against theory."""
    growth = load("growth")["growth"]

    def measured(kind: str, batch: int) -> Interval:
        values = growth.sel(network=kind, batch_size=batch).values
        return paired_ratio(values, np.ones_like(values))

    def finding(kind: str, batch: int, theory: float) -> Finding:
        label = f"growth per layer, {kind}, batch of {batch}"
        effect = measured(kind, batch)
        return Finding(label, effect, "within", margin=1.05, null=round(theory, 3), spec=".3f")

    return HYPOTHESES["exploding-gradients"].judge(
        measured("linear", 8),
        [
            *(finding("ReLU", batch, relu_growth(batch)) for batch in (8, 32, 256)),
            *(
                Finding(
                    f"growth per layer, linear, batch of {batch} "
                    f"(theory {linear_growth(batch):.3f})",
                    measured("linear", batch),
                    spec=".3f",
                )
                for batch in (32, 256)
            ),
            Finding("growth per layer, tanh, batch of 256", measured("tanh", 256), spec=".3f"),
        ],
        draws=20,
        record="growth",
        note="For large batches of a linear network theory is nearer to 1 than the margin, so only "
        "the sign is judged; at 256 neurons it comes out below 1. Chapter 1 has the limit for "
        "large batches of ReLU, pi / (pi - 1) of the squared norm, on digits.",
    )


def alone(record: str | xr.Dataset = "alone", step: int | None = None) -> Comparison:
    """Accuracy when only a part of the parameters is trained.

    Args:
        record: a record of "alone" or "alone-conv", or its name.
        step: after how many steps; the most that were recorded if None.
    """
    record = _record(record)
    step = int(record["step"].max()) if step is None else step
    return Comparison(record, "accuracy", ["learning_rate"], step=step)


def gamma_beta_alone() -> Claim:
    """Gamma and beta against as many weights, and against the output layer."""
    dense, conv, arm = alone(), alone("alone-conv"), "gamma and beta"
    early, output = alone("alone-conv", 100), "output layer"

    def more(label: str, compared: Comparison, other: str) -> Finding:
        return Finding(label, compared.gain(arm, other), margin=0.05)

    return HYPOTHESES["gamma-beta-alone"].judge(
        conv.gain(arm, RANDOM),
        [
            more("the same, convolutional, after 100 steps", early, RANDOM),
            more("the same, dense, after 600 steps", dense, RANDOM),
            more("convolutional, gamma and beta − output layer", conv, output),
            more("dense, gamma and beta − output layer", dense, output),
            Finding("test accuracy, convolutional, gamma and beta", conv.mean(arm), null=0.5),
            Finding("test accuracy, dense, gamma and beta", dense.mean(arm), null=0.5),
        ],
        chosen=_choices(conv, arm, RANDOM, output),
        draws=20,
        record=["alone-conv", "alone"],
    )


CLAIMS = {
    "noise-after-bn": noise_after_bn,
    "noise-still-faster": noise_still_faster,
    "smoother-landscape": smoother_landscape,
    "smoother-landscape-conv": smoother_landscape_conv,
    "larger-rates": larger_rates,
    "rates-are-the-cause": rates_are_the_cause,
    "length-and-direction": length_and_direction,
    "no-tuned-rate": no_tuned_rate,
    "singular-values-near-one": singular_values_near_one,
    "exploding-gradients": exploding_gradients,
    "gamma-beta-alone": gamma_beta_alone,
}
