"""Chapter 12: six sick models, before and after each repair, one change at a time.

The models are Keras models, as those of the threads were. They are built and traced once in a
process, and get new weights for each seed. The momentum of the moving statistics does not touch the
weights, so one training serves all momenta, in the fifth model on NumPy's engine.

Each seed is a whole replicate: its own initial weights and mini-batches, and its own draw of the
data. Where a learning rate is chosen, each replicate chooses it on its validation part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from bnutils import data, network
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
)
from bnutils.studies import load
from bnutils.studies.common import DIGITS_OVERLAP, PARTS, Settings, accuracies

if TYPE_CHECKING:
    import keras

# Test images over the other images of the two digits: 200 of 1,000.
TWO_DIGITS_OVERLAP = 200 / 800
# The 64 training images over the others, where these are what is scored.
TRAINING_IMAGES_OVERLAP = 64 / 936
# Test days over training days.
RAIN_OVERLAP = 366 / 728
STATISTICS = ["as trained", "recalibrated"]
SIDE = 224


# -- the six models -------------------------------------------------------------------------------


def chairs_and_lamps(side: int = SIDE, momentum: float = 0.99) -> keras.Model:
    """The first model, layer for layer that of its thread, for gray images.

    Args:
        side: pixels along each side of an image; the thread's had 225.
        momentum: of the moving statistics; the thread had the default of Keras.

    Returns:
        The compiled model.
    """
    from bnutils._keras import keras

    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((side, side, 1)),
            layers.Conv2D(5, 4, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Conv2D(10, 4, strides=2, padding="same"),
            layers.BatchNormalization(momentum=momentum, name="bn"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Flatten(),
            layers.Dense(1, activation="sigmoid"),
        ],
        name="chairs_and_lamps",
    )
    return _compiled(model, "binary_crossentropy")


def chairs_dense(momentum: float = 0.99) -> keras.Model:
    """A dense network for the same task, on images of 28 by 28 pixels.

    Args:
        momentum: of the moving statistics.

    Returns:
        The compiled model.
    """
    from bnutils._keras import keras

    stack = [keras.Input((28, 28, 1)), keras.layers.Flatten()]
    for i in (1, 2):
        stack += dense_bn(32, f"bn_{i}", momentum=momentum)
    stack.append(keras.layers.Dense(1, activation="sigmoid"))
    model = keras.Sequential(stack, name="chairs_dense")
    return _compiled(model, "binary_crossentropy")


def _compiled(model: keras.Model, loss: str) -> keras.Model:
    """Compile with Adam, whose memory is made at once, so that it can be saved and emptied."""
    model.compile("adam", loss, metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)
    return model


def dense_bn(units: int, name: str, **options: Any) -> list[keras.layers.Layer]:
    """A dense layer without bias, BN, and ReLU.

    Args:
        units: of the dense layer.
        name: of the BN layer.
        **options: of `keras.layers.BatchNormalization`.

    Returns:
        The three layers.
    """
    from bnutils._keras import keras

    layers = keras.layers
    bn = layers.BatchNormalization(name=name, **options)
    return [layers.Dense(units, use_bias=False), bn, layers.Activation("relu")]


def poses() -> keras.Model:
    """The second model: did it rain today, from nine measurements in raw units?"""
    from bnutils._keras import keras

    head = keras.layers.Dense(1, activation="sigmoid")
    stack = [keras.Input((9,)), *dense_bn(32, "bn_1"), *dense_bn(32, "bn_2"), head]
    model = keras.Sequential(stack, name="poses")
    return _compiled(model, "binary_crossentropy")


def tuned() -> keras.Model:
    """The third model: five digits, to be trained on five others, not yet frozen."""
    from bnutils._keras import keras

    head = keras.layers.Dense(5, activation="softmax")
    stack = [keras.Input((64,)), *dense_bn(64, "bn_1"), *dense_bn(64, "bn_2"), head]
    model = keras.Sequential(stack, name="tuned")
    return _compiled(model, "sparse_categorical_crossentropy")


def scenes(axis: int) -> keras.Model:
    """The fourth model, a small convolutional network for the digits.

    Args:
        axis: of its BN layers; its channels are on the last, -1.

    Returns:
        The compiled model.
    """
    from bnutils._keras import keras

    layers = keras.layers
    stack = [keras.Input((8, 8, 1))]
    for i, filters in enumerate((8, 16), start=1):
        stack += [
            layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv_{i}"),
            layers.BatchNormalization(axis=axis, name=f"bn_{i}"),
            layers.Activation("relu"),
            layers.MaxPooling2D(),
        ]
    stack += [layers.Flatten(), layers.Dense(10, activation="softmax")]
    model = keras.Sequential(stack, name="scenes")
    return _compiled(model, "sparse_categorical_crossentropy")


def signals(momentum: float) -> keras.Model:
    """The fifth model, as Keras sees it; it is trained on NumPy's engine.

    Args:
        momentum: of the moving statistics.
    """
    from bnutils._keras import keras

    stack = [keras.Input((64,))]
    for i in (1, 2):
        stack += dense_bn(32, f"bn_{i}", momentum=momentum)
    return keras.Sequential([*stack, keras.layers.Dense(10)], name="signals")


def leftover() -> keras.Model:
    """The sixth model: rain again, with BN straight on the inputs."""
    from bnutils._keras import keras

    layers = keras.layers
    first = layers.BatchNormalization(momentum=0.9, name="continuous_norm")
    stack = [keras.Input((9,)), first, *dense_bn(32, "bn_1", momentum=0.9)]
    model = keras.Sequential([*stack, layers.Dense(1, activation="sigmoid")], name="leftover")
    return _compiled(model, "binary_crossentropy")


# -- data -----------------------------------------------------------------------------------------


def threes_and_eights(seed: int, side: int, ground: str) -> dict[str, tuple]:
    """32 threes and 32 eights to learn from, and 200 others to test on.

    Args:
        seed: which draw from 1,000 images.
        side: pixels along each side, a multiple of 28: the images are enlarged.
        ground: "dark" as the digits come, or "bright": inverted, like objects on white paper.

    Returns:
        "train" and "test", each a pair (x, y) with x [images, side, side, 1] and y [images, 1].
    """
    drawn, found = data.mnist(split=seed), {}
    for name, sources, most in (
        ("train", [drawn.train], 32),
        ("test", [drawn.validation, drawn.test], None),
    ):
        x = np.concatenate([part.x for part in sources])
        y = np.concatenate([part.y for part in sources])
        rows = [np.flatnonzero(y == digit)[:most] for digit in (3, 8)]
        images = x[np.concatenate(rows)].reshape(-1, 28, 28, 1)
        images = 1 - images if ground == "bright" else images
        labels = np.repeat(np.float32([0, 1]), [len(each) for each in rows])[:, None]
        factor = side // 28
        found[name] = np.kron(images, np.ones((1, factor, factor, 1), np.float32)), labels
    return found


def rain(seed: int) -> dict[str, tuple]:
    """Days in Seattle, drawn by whole weeks: 728 to learn from, 364 to choose with, 366 to test on.

    Args:
        seed: which draw.

    Returns:
        "train", "validation" and "test", each a pair (x, y): nine measurements in raw units, and
        whether it rained, [days, 1].
    """
    source = data.seattle_rain()
    parts = source.train, source.validation, source.test
    x = np.concatenate([part.x for part in parts])
    y = np.concatenate([part.y for part in parts])[:, None] > 0
    weeks = np.random.default_rng([seed, 12]).permutation(-(-len(x) // 7))
    # The last week has two days only; it always stands in the test part.
    weeks = np.append(weeks[weeks < len(x) // 7], len(x) // 7)
    days = (weeks[:, None] * 7 + np.arange(7)).ravel()
    days = days[days < len(x)]
    ends = {"train": days[:728], "validation": days[728:1092], "test": days[1092:]}
    return {name: (x[rows], y[rows].astype(np.float32)) for name, rows in ends.items()}


def half(part: data.Part, low: bool, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The digits 0 to 4 of a part, or 5 to 9, labeled 0 to 4.

    Args:
        part: of the digits.
        low: whether 0 to 4.
        most: how many images; all if None.
    """
    rows = np.flatnonzero((part.y < 5) == low)[:most]
    return part.x[rows], part.y[rows] % 5


# -- training -------------------------------------------------------------------------------------


def fresh(model: keras.Model, seed: int) -> None:
    """Give a compiled model new initial weights and its optimizer an empty memory.

    Args:
        model: a model whose kernels start as Keras's do by default.
        seed: of the kernels.
    """
    from bnutils._keras import keras

    rng = np.random.default_rng([seed, 1])
    for variable in model.weights:
        if variable.name == "kernel":
            *window, inputs, units = variable.shape
            limit = (6 / (np.prod(window) * (inputs + units))) ** 0.5
            value = rng.uniform(-limit, limit, variable.shape)
        else:
            value = np.full(variable.shape, variable.name in ("gamma", "moving_variance"))
        variable.assign(keras.ops.cast(value, variable.dtype))
    _forget(model)


def _forget(model: keras.Model) -> None:
    """Empty the memory of a model's optimizer."""
    from bnutils._keras import keras

    for variable in model.optimizer.variables:
        if variable.name != "learning_rate":
            variable.assign(keras.ops.zeros_like(variable))


def trained_chairs(seed: int) -> tuple[keras.Model, tuple[np.ndarray, np.ndarray]]:
    """The first model after the five epochs of its thread, on a bright ground.

    Args:
        seed: of the weights, the order of the images and their draw, as in the record.

    Returns:
        The model, and its 64 training images with their labels.
    """
    x, y = threes_and_eights(seed, SIDE, "bright")["train"]
    model, rng = chairs_and_lamps(), np.random.default_rng([seed, 2])
    fresh(model, seed)
    for _ in range(5):
        rows = rng.permutation(len(x))
        model.fit(x[rows], y[rows], batch_size=8, shuffle=False, verbose=0)
    return model, (x, y)


def recompute(model: keras.Model, x: np.ndarray) -> None:
    """Set all moving statistics to those of x, as `bnutils.doctor.recalibrate` does, in one pass.

    Args:
        model: a model without dropout.
        x: its inputs, all at once.
    """
    from bnutils._keras import keras

    norms = [each for each in model.layers if isinstance(each, keras.layers.BatchNormalization)]
    before = [(each.momentum, each.trainable) for each in norms]
    for each in norms:
        each.momentum, each.trainable = 0.0, True
    model(x, training=True)
    for each, (momentum, trainable) in zip(norms, before, strict=True):
        each.momentum, each.trainable = momentum, trainable


def training_loop(model: keras.Model, training: bool | None = True) -> Callable:
    """A training loop of one's own, traced once: call it with x, y and the rows of each batch.

    Args:
        model: a compiled model.
        training: what the model is called with; None calls it without.

    Returns:
        A function of x, y and an array [batches, rows].
    """
    from bnutils._keras import tf

    mode = {} if training is None else {"training": training}
    weights, optimizer, loss = model.trainable_variables, model.optimizer, _loss(model)

    two = model.output_shape[-1] == 1
    kind = model.inputs[0].dtype
    signature = [
        tf.TensorSpec([None, *model.input_shape[1:]], kind),
        tf.TensorSpec([None, 1], kind) if two else tf.TensorSpec([None], tf.int64),
        tf.TensorSpec([None, None], tf.int64),
    ]

    @tf.function(input_signature=signature)
    def train(x: tf.Tensor, y: tf.Tensor, batches: tf.Tensor) -> None:
        for rows in batches:
            with tf.GradientTape() as tape:
                value = loss(tf.gather(y, rows), model(tf.gather(x, rows), **mode))
            optimizer.apply(tape.gradient(value, weights))

    def converted(*arrays: np.ndarray) -> None:
        train(*(tf.cast(a, spec.dtype) for a, spec in zip(arrays, signature, strict=True)))

    return converted


def _loss(model: keras.Model) -> Callable:
    """Cross-entropy for the outputs that a model has."""
    from bnutils._keras import keras

    two = model.output_shape[-1] == 1
    losses = keras.losses
    return losses.BinaryCrossentropy() if two else losses.SparseCategoricalCrossentropy()


def batches(rng: np.random.Generator, rows: int, size: int, epochs: int) -> np.ndarray:
    """Rows of each batch, [epochs, batches, size]; what is left of an epoch is dropped.

    Args:
        rng: draws the order.
        rows: how many there are.
        size: of a batch.
        epochs: how many.
    """
    whole = rows // size
    orders = [rng.permutation(rows)[: whole * size].reshape(whole, size) for _ in range(epochs)]
    return np.stack(orders)


def score(model: keras.Model, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Accuracy and loss of a model in inference mode."""
    outputs = model(x)
    loss = float(_loss(model)(y, outputs))
    outputs = outputs.numpy()
    guessed = outputs > 0.5 if outputs.shape[-1] == 1 else outputs.argmax(axis=-1)
    return float((guessed == y).mean()), loss


def _both_ways(model: keras.Model, x: np.ndarray, parts: Sequence[tuple]) -> np.ndarray:
    """Accuracy and loss, as trained and with recomputed statistics, [statistics, parts, 2]."""
    kept = model.get_weights()
    before = [score(model, *part) for part in parts]
    recompute(model, x)
    after = [score(model, *part) for part in parts]
    model.set_weights(kept)
    return np.array([before, after])


# -- blocks ---------------------------------------------------------------------------------------


@cache
def _once(build: Callable, *arguments: Any) -> keras.Model:
    """A model that is built once in a process."""
    return build(*arguments)


@cache
def _loop(build: Callable, *arguments: Any, training: bool | None = True) -> Callable:
    """The loop that trains a model, traced once in a process."""
    return training_loop(_once(build, *arguments), training)


def chairs_block(settings: Settings) -> xr.Dataset:
    """Train as in the thread; look at the same images in several ways after so many epochs."""
    dense = settings["network"] == "dense"
    model = _once(chairs_dense, 0.0) if dense else _once(chairs_and_lamps, SIDE, 0.0)
    drawn = threes_and_eights(settings["seed"], 28 if dense else SIDE, settings["ground"])
    fresh(model, settings["seed"])
    model.optimizer.learning_rate = 0.001
    (x, y), rng = drawn["train"], np.random.default_rng([settings["seed"], 2])
    # Momentum 0 keeps the statistics of each batch; the average of any other momentum follows.
    norms = [each for each in model.layers if "bn" in each.name]
    follow = [(n.moving_mean, n.moving_variance) for n in norms]
    moving = {m: [v.numpy() for pair in follow for v in pair] for m in settings["momentum"]}
    found = []
    for epoch in range(1, max(settings["epochs"]) + 1):
        order = rng.permutation(len(x))
        reported = np.zeros(2)
        for rows in order.reshape(-1, 8):
            loss, accuracy = model.train_on_batch(x[rows], y[rows])
            reported += np.array([accuracy, loss]) / (len(x) / 8)
            for m, values in moving.items():
                new = [v.numpy() for pair in follow for v in pair]
                moving[m] = [m * a + (1 - m) * b for a, b in zip(values, new, strict=True)]
        if epoch in settings["epochs"]:
            found.append([(reported, [np.nan, np.nan])])
            for values in moving.values():
                for variable, value in zip(sum(follow, ()), values, strict=True):
                    variable.assign(value)
                found[-1].append([score(model, *drawn[part]) for part in ("train", "test")])
            recompute(model, x)
            found[-1].append([score(model, *drawn[part]) for part in ("train", "test")])
    accuracy, loss = np.moveaxis(np.array(found, dtype=np.float32), -1, 0)
    axes = "epochs", "seen", "images"
    return xr.Dataset(
        {"accuracy": (axes, accuracy), "loss": (axes, loss)},
        {
            "epochs": list(settings["epochs"]),
            "seen": ["fit", *(f"momentum {m:g}" for m in settings["momentum"]), "recalibrated"],
            "images": ["training", "test"],
        },
    )


def _rated(
    model: keras.Model, rates: Sequence[float], begin: Callable[[], None], train: Callable[[], Any]
) -> np.ndarray:
    """What `train` finds at each rate, from one beginning, [rates, ...]."""
    found = []
    for rate in rates:
        begin()
        model.optimizer.learning_rate = rate
        found.append(train())
    return np.array(found, dtype=np.float32)


def _as_dataset(found: np.ndarray, settings: Settings) -> xr.Dataset:
    """Accuracy and loss, [rates, epochs, statistics, parts, 2], with their labels."""
    axes = "learning_rate", "epochs", "statistics", "part"
    return xr.Dataset(
        {"accuracy": (axes, found[..., 0]), "loss": (axes, found[..., 1])},
        {
            "learning_rate": list(settings["learning_rate"]),
            "epochs": list(settings["epochs"]),
            "statistics": STATISTICS,
            "part": PARTS,
        },
    )


def _spans(epochs: Sequence[int]) -> Iterator[slice]:
    """From one time of measuring to the next."""
    for first, last in zip([0, *epochs], epochs, strict=False):
        yield slice(first, last)


def _trained(
    build: tuple, settings: Settings, parts: dict, size: int, training: bool | None = True
) -> xr.Dataset:
    """Train a model at each rate with a loop of its own, and measure on the way."""
    model, loop = _once(*build), _loop(*build, training=training)
    (x, y), seed = parts["train"], settings["seed"]
    epochs = settings["epochs"]
    rows = batches(np.random.default_rng([seed, 2]), len(x), size, max(epochs))

    def train() -> list:
        found = []
        for span in _spans(epochs):
            loop(x, y, np.concatenate(rows[span]))
            found.append(_both_ways(model, x, [parts[part] for part in PARTS]))
        return found

    rates = settings["learning_rate"]
    return _as_dataset(_rated(model, rates, lambda: fresh(model, seed), train), settings)


FORGETS, SAYS = "forgets training=True", "says training=True"


def poses_block(settings: Settings) -> xr.Dataset:
    """Train with a loop that says, or forgets, training=True."""
    training = None if settings["arm"] == FORGETS else True
    return _trained((poses,), settings, rain(settings["seed"]), 32, training)


def scenes_block(settings: Settings) -> xr.Dataset:
    """Train with BN on an axis."""
    dataset = data.digits(split=settings["seed"])
    named = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    parts = {name: (part.x.reshape(-1, 8, 8, 1), part.y) for name, part in named.items()}
    axis = {"axis 1": 1, "axis -1": -1}[settings["arm"]]
    return _trained((scenes, axis), settings, parts, 64)


FLAG, FREEZE = "flag only", "freeze_bn"


@cache
def _half_frozen(how: str) -> keras.Model:
    """The third model, whose BN somebody froze after its first `fit`."""
    from bnutils.doctor import freeze_bn

    model = tuned()
    model.fit(np.zeros((10, 64), np.float32), np.zeros(10, np.int64), batch_size=10, verbose=0)
    if how == FREEZE:
        freeze_bn(model)
    for name in ("bn_1", "bn_2"):
        model.get_layer(name).trainable = False
    return model


def frozen_block(settings: Settings) -> xr.Dataset:
    """Learn five digits, then five others from 60 images, with BN that is frozen, or only said so.

    The second training is `fit` itself: what it does after a flag was changed is the question.
    """
    dataset, seed, epochs = (
        data.digits(split=settings["seed"]),
        settings["seed"],
        settings["epochs"],
    )
    base, (x, y) = _once(tuned), half(dataset.train, True)
    fresh(base, seed)
    base.optimizer.learning_rate = 0.001
    rng = np.random.default_rng([seed, 2])
    rows = np.concatenate(batches(rng, len(x), 32, 8))
    _loop(tuned)(x, y, rows)
    recompute(base, x)
    pretrained = base.get_weights()

    x, y = half(dataset.train, False, 60)
    parts = [half(getattr(dataset, part), False) for part in PARTS]
    rows = batches(rng, len(x), 10, max(epochs))
    model = _half_frozen(settings["arm"])

    def begin() -> None:
        model.set_weights(pretrained)
        _forget(model)

    def train() -> list:
        found = []
        for span in _spans(epochs):
            order = rows[span].ravel()
            model.fit(x[order], y[order], batch_size=10, shuffle=False, verbose=0)
            found.append(_both_ways(model, x, parts))
        return found

    begin()
    mean = model.get_layer("bn_1").moving_mean
    before = mean.numpy()
    model.fit(x[:10], y[:10], batch_size=10, verbose=0)
    moved = not np.array_equal(mean.numpy(), before)
    found = _as_dataset(_rated(model, settings["learning_rate"], begin, train), settings)
    return found.assign(moved=((), np.float32(moved)))


LEFT_OVER, DROPPED, OTHER_SIZE = "256, one row left", "256, it is dropped", "171, none left"


def leftover_block(settings: Settings) -> xr.Dataset:
    """Train on 513 days, with a last batch of one row, without it, or with batches that fit."""
    seed, epochs, arm = settings["seed"], settings["epochs"], settings["arm"]
    parts = rain(seed)
    x, y = (each[:513] for each in parts["train"])
    model, loop = _once(leftover), _loop(leftover)
    first = model.get_layer("continuous_norm")
    orders = np.random.default_rng([seed, 2])
    orders = np.stack([orders.permutation(513) for _ in range(max(epochs))])
    size = 171 if arm == OTHER_SIZE else 256
    variances = []

    def train() -> list:
        found = []
        for span in _spans(epochs):
            for order in orders[span]:
                whole = 513 // size * size
                loop(x, y, order[:whole].reshape(-1, size))
                if arm == LEFT_OVER:
                    loop(x, y, order[whole:, None])
            found.append(_both_ways(model, x, [parts[part] for part in PARTS]))
        variances.append(np.median(first.moving_variance.numpy() / x.var(axis=0)))
        return found

    rates = settings["learning_rate"]
    found = _as_dataset(_rated(model, rates, lambda: fresh(model, seed), train), settings)
    return found.assign(variance=("learning_rate", np.float32(variances)))


def signals_block(settings: Settings) -> xr.Dataset:
    """Train once at each rate; measure accuracy with the moving statistics of several momenta."""
    dataset = data.digits(split=settings["seed"])
    seeds = [settings["seed"]] * len(settings["learning_rate"])
    momenta, size = settings["momentum"], settings["batch_size"]
    norm = network.BatchNorm(momentum=0.0)  # it keeps the statistics of each batch
    if settings["network"] == "dense":
        net = network.mlp([64, 32, 32, 10], seeds=seeds, norm=norm)
        shape = (64,)
    else:
        net = network.cnn((8, 8, 1), filters=[8, 16], outputs=10, seeds=seeds, norm=norm)
        shape = (8, 8, 1)
    moving = {m: [(bn.moving_mean, bn.moving_variance) for bn in net.batch_norms] for m in momenta}
    after = {n * len(dataset.train) // size: n for n in settings["epochs"]}
    scores = {}

    def inputs(x: np.ndarray) -> np.ndarray:
        return x.reshape(-1, *shape)

    def set_statistics(values: list) -> None:
        for bn, (mean, variance) in zip(net.batch_norms, values, strict=True):
            bn.moving_mean, bn.moving_variance = mean, variance

    def after_step(net: network.Network, step: int) -> None:
        batch = [(bn.moving_mean, bn.moving_variance) for bn in net.batch_norms]
        for m, values in moving.items():
            moving[m] = [
                tuple(m * a + (1 - m) * b for a, b in zip(old, new, strict=True))
                for old, new in zip(values, batch, strict=True)
            ]
        if step in after:
            found = []
            for values in moving.values():
                set_statistics(values)
                found.append(accuracies(net, dataset, inputs))
            net.recalibrate(inputs(dataset.train.x))
            scores[after[step]] = [*found, accuracies(net, dataset, inputs)]
            set_statistics(batch)

    history = network.fit(
        net,
        inputs(dataset.train.x),
        dataset.train.y,
        loss=network.softmax_cross_entropy,
        optimizer=network.Adam(np.array(settings["learning_rate"])),
        steps=max(after),
        batch_size=size,
        after_step=after_step,
        progress=False,
    )
    accuracy = np.array([scores[n] for n in settings["epochs"]], dtype=np.float32)
    return xr.Dataset(
        {
            "accuracy": (("epochs", "arm", "learning_rate", "part"), accuracy),
            "first_losses": (("learning_rate", "step"), history["loss"][:, :5]),
        },
        {
            "epochs": list(settings["epochs"]),
            "arm": [*(f"momentum {m:g}" for m in momenta), "recalibrated"],
            "learning_rate": list(settings["learning_rate"]),
            "part": PARTS,
            "step": range(1, 6),
        },
    )


def translator(momentum: float) -> keras.Model:
    """A small network from image to image, with BN as in pix2pix.

    Args:
        momentum: of the moving statistics.
    """
    from bnutils._keras import keras

    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            layers.Conv2D(8, 4, strides=2, padding="same"),
            layers.BatchNormalization(momentum=momentum, epsilon=1e-5, name="bn_1"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Conv2DTranspose(8, 4, strides=2, padding="same"),
            layers.BatchNormalization(momentum=momentum, epsilon=1e-5, name="bn_2"),
            layers.Activation("relu"),
            layers.Conv2D(1, 3, padding="same", activation="tanh"),
        ],
        name="translator",
    )
    model.compile(keras.optimizers.Adam(0.0002, beta_1=0.5), "mae")
    model.optimizer.build(model.trainable_variables)
    return model


def unused_block(settings: Settings) -> xr.Dataset:
    """Two networks that differ in momentum alone: how far are their outputs apart?

    They start alike and are trained on the same random images, one at a time. Then one more image
    is translated, normalized by itself, as pix2pix does, and by the moving statistics.
    """
    rng = np.random.default_rng([settings["seed"], 3])
    images = rng.uniform(-1, 1, (settings["updates"] + 1, 2, 1, 16, 16, 1)).astype(np.float32)
    outputs = []
    for momentum in settings["momentum"]:
        model = _once(translator, momentum)
        fresh(model, settings["seed"])
        for x, y in images[:-1]:
            model.train_on_batch(x, y)
        x = images[-1, 0]
        outputs.append([model(x, training=True).numpy(), model(x, training=False).numpy()])
    low, high = np.array(outputs)
    return xr.Dataset(
        {"apart": ("normalized", np.abs(low - high).max(axis=(1, 2, 3, 4)))},
        {"normalized": ["by the image itself", "by the moving statistics"]},
    )


# -- hypotheses -----------------------------------------------------------------------------------

_CHAIRS = (
    "32 threes and 32 eights of MNIST, gray, drawn anew for each seed and enlarged to 224 pixels "
    "a side; layers, Adam, batches of 8 and five epochs of the thread, momentum 0.99; bright "
    "ground, as of objects on white paper (what the thread's images looked like is not known)"
)
_SIGNALS = (
    "digits (1,797 images, split anew for each seed into 1,097, 300 and 400), Adam, batches of 4, "
    "10 passes; one and the same training at each rate, two sets of moving statistics; each "
    "momentum at the rate that was best for it on the replicate's validation images"
)
_VERY_MUCH = (
    'five points: "very much" must be well above the two points that 400 test images of this pool '
    "can just tell apart"
)

HYPOTHESES = {
    each.name: each
    for each in [
        Hypothesis(
            name="evaluate-worse-than-fit",
            claim="After 40 updates, evaluate is far worse than what fit reported of the same "
            "images.",
            kind="measured",
            source="keras6014",
            said_by="Keras issue 6014, 2017: an accuracy close to 1.0 from fit, about 0.5 from "
            "evaluate",
            label="accuracy on the 64 training images, fit − evaluate",
            margin=0.1,
            reason='ten points: "far" is more than the few images that change sides while the last '
            "epoch goes on; the thread saw fifty",
            setting=_CHAIRS,
        ),
        Hypothesis(
            name="pytorch-momentum-hurts-in-keras",
            claim="PyTorch's momentum of 0.1, given to TensorFlow, hurts the results very much at "
            "test time, where the moving statistics are used.",
            kind="measured",
            source="pix2pix126",
            said_by="pix2pix-tensorflow issue 126, 2018, of a program that does not use them",
            label="test accuracy, momentum 0.9 − 0.1, batches of 4, dense network",
            margin=0.05,
            reason=_VERY_MUCH,
            setting=f"{_SIGNALS}; 64-32-32-10 ReLU",
        ),
        Hypothesis(
            name="pytorch-momentum-hurts-in-keras-conv",
            claim="PyTorch's momentum of 0.1, given to TensorFlow, hurts the results of a "
            "convolutional network very much at test time, where the moving statistics are used.",
            kind="measured",
            source="pix2pix126",
            said_by="pix2pix-tensorflow issue 126, 2018, of a program that does not use them",
            label="test accuracy, momentum 0.9 − 0.1, batches of 4, convolutional network",
            margin=0.05,
            reason=_VERY_MUCH,
            setting=f"{_SIGNALS}; two convolutions of 8 and 16 channels, max pooling, global "
            "average, ReLU",
        ),
        Hypothesis(
            name="momentum-without-moving-statistics",
            claim="Where prediction normalizes by its own batch too, as in pix2pix-tensorflow, "
            "momentum changes nothing.",
            kind="identity",
            source="pix2pix126",
            said_by="pix2pix-tensorflow issue 126, 2018: momentum 0.1 and 0.9 were tried, and 0.1 "
            "seemed to work well; the program always calls its layers with training=True",
            label="largest difference of an output, momentum 0.1 − 0.9, with training=True",
            claimed="within",
            margin=1e-6,
            reason="rounding of float32",
            spec=".1e",
            setting="a network from image to image with two BN layers, trained by Keras on ten "
            "random images, one at a time; 20 draws",
        ),
        Hypothesis(
            name="wrong-axis-costs-little",
            claim="BN along the wrong axis of a convolutional network changes the results little.",
            kind="measured",
            source="dcase18",
            said_by="DCASE 2018 baseline, issue 18: 59.7% with the wrong axis, 59.9% with the "
            "right one, ten trials each",
            label="test accuracy, axis −1 − axis 1, statistics recalibrated, after 20 epochs",
            claimed="within",
            margin=0.02,
            reason="two points: 400 test images of a pool of 1,797 can't tell less apart",
            setting="digits (1,797 images, split anew for each seed), two convolutions of 8 and 16 "
            "channels, Adam, batches of 64; each axis at the rate that was best on the replicate's "
            "validation images",
        ),
    ]
}


def _said(*names: str) -> tuple[Hypothesis, ...]:
    return tuple(HYPOTHESES[name] for name in names)


# Small nets on few examples: paths of training part on other processors, means stay.
_MEANS = {
    "accuracy": Tolerance(mean=0.04),
    "loss": Tolerance(mean=0.1, relative=0.1),
}
_SEEDS = range(20)
_SIGNALS_FIXED = {"epochs": [1, 3, 10], "momentum": [0.0, 0.1, 0.5, 0.9, 0.99]}
_SIGNALS_CLOSE = {
    "accuracy": Tolerance(mean=0.03),
    "first_losses": Tolerance(close=2e-3, relative=1e-2, steps=3),
}

STUDIES = (
    Study(
        name="chairs",
        question="How far is evaluate from fit, on the same images?",
        block=chairs_block,
        dims={"network": ["thread", "dense"], "ground": ["bright", "dark"], "seed": _SEEDS},
        fixed={"epochs": [1, 2, 3, 5, 8], "momentum": [0.9, 0.99]},
        tolerances=_MEANS,
        overlap=TWO_DIGITS_OVERLAP,
        hypotheses=_said("evaluate-worse-than-fit"),
    ),
    Study(
        name="poses",
        question="What does a loop cost that forgets training=True, and what mends it?",
        block=poses_block,
        dims={
            "arm": [FORGETS, SAYS],
            "learning_rate": [0.0003, 0.001, 0.003, 0.01, 0.03],
            "seed": _SEEDS,
        },
        together=["learning_rate"],
        fixed={"epochs": [5, 15, 40]},
        tolerances=_MEANS,
        overlap=RAIN_OVERLAP,
    ),
    Study(
        name="frozen",
        question="What does a flag cost that fit does not see?",
        block=frozen_block,
        dims={
            "arm": [FLAG, FREEZE],
            "learning_rate": [0.001, 0.003, 0.01, 0.03],
            "seed": _SEEDS,
        },
        together=["learning_rate"],
        fixed={"epochs": [10, 30]},
        tolerances={**_MEANS, "moved": Tolerance(close=0)},
        overlap=DIGITS_OVERLAP,
    ),
    Study(
        name="scenes",
        question="What does BN along the wrong axis cost?",
        block=scenes_block,
        dims={
            "arm": ["axis 1", "axis -1"],
            "learning_rate": [0.003, 0.01, 0.03, 0.1],
            "seed": _SEEDS,
        },
        together=["learning_rate"],
        fixed={"epochs": [4, 20]},
        tolerances=_MEANS,
        overlap=DIGITS_OVERLAP,
        hypotheses=_said("wrong-axis-costs-little"),
        changes=(
            "After a first record, whose largest rate was 0.03: half of the replicates of both "
            "axes chose it, so a rate of 0.1 was added. The outcome was: shown.",
        ),
    ),
    Study(
        name="signals",
        question="What does a momentum of 0.1 cost?",
        block=signals_block,
        dims={
            "batch_size": [4, 8, 32],
            "learning_rate": [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1],
            "seed": _SEEDS,
        },
        together=["learning_rate"],
        fixed={"network": "dense", **_SIGNALS_FIXED},
        tolerances=_SIGNALS_CLOSE,
        overlap=DIGITS_OVERLAP,
        hypotheses=_said("pytorch-momentum-hurts-in-keras"),
        changes=(
            "After a first record, with rates from 0.001 to 0.03: many replicates of momentum 0.1 "
            "chose an end of the grid, so rates of 0.0003 and 0.1 were added. The outcome was: "
            "undecided, 0.096 [0.026, 0.165].",
        ),
    ),
    Study(
        name="signals-conv",
        question="And in a convolutional network?",
        block=signals_block,
        dims={
            "batch_size": [4, 32],
            "learning_rate": [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1],
            "seed": _SEEDS,
        },
        together=["learning_rate"],
        fixed={"network": "convolutional", **_SIGNALS_FIXED},
        tolerances=_SIGNALS_CLOSE,
        overlap=DIGITS_OVERLAP,
        hypotheses=_said("pytorch-momentum-hurts-in-keras-conv"),
        changes=(
            "After a first record, with rates from 0.001 to 0.03: many replicates chose an end of "
            "the grid, so rates of 0.0003 and 0.1 were added. The outcome was: no difference.",
        ),
    ),
    Study(
        name="unused",
        question="What does momentum change where the moving statistics are not used?",
        block=unused_block,
        dims={"seed": _SEEDS},
        fixed={"momentum": [0.1, 0.9], "updates": 10},
        tolerances={"apart": Tolerance(close=0.05, relative=0.1)},
        hypotheses=_said("momentum-without-moving-statistics"),
    ),
    Study(
        name="leftover",
        question="What does a last batch of one row cost?",
        block=leftover_block,
        dims={
            "arm": [LEFT_OVER, DROPPED, OTHER_SIZE],
            "learning_rate": [0.003, 0.01, 0.03, 0.1],
            "seed": _SEEDS,
        },
        together=["learning_rate"],
        fixed={"epochs": [15, 60]},
        tolerances={**_MEANS, "variance": Tolerance(close=0.05)},
        overlap=RAIN_OVERLAP,
    ),
)


# -- before and after -----------------------------------------------------------------------------


def compared(
    name: str,
    epochs: int | None = None,
    record: xr.Dataset | None = None,
    score: str = "accuracy",
) -> Comparison:
    """Test scores of one of the models that choose a rate, an arm for each way to treat it.

    Args:
        name: of the study: "poses", "frozen", "scenes", "signals", "signals-conv" or "leftover".
        epochs: after how many; the most that were recorded if None.
        record: a record of that study; the book's if None.
        score: "accuracy", or "loss", which the signals do not have.

    Returns:
        A `Comparison`. Where there are two kinds of statistics, an arm is called such as
        "axis 1, as trained" or "axis 1, recalibrated".
    """
    record = load(name) if record is None else record
    epochs = int(record["epochs"].max()) if epochs is None else epochs
    scores = record[score]
    if "statistics" in scores.dims:
        scores = xr.concat(
            [
                scores.sel(statistics=kind, drop=True).assign_coords(
                    arm=[f"{arm}, {kind}" for arm in scores["arm"].values]
                )
                for kind in STATISTICS
            ],
            "arm",
        )
    return Comparison(
        record,
        scores.rename(score),
        ["learning_rate"],
        maximize=score == "accuracy",
        epochs=epochs,
    )


def _pair(
    name: str, before: str, after: str, epochs: int | None, score: str = "accuracy", **where: Any
) -> tuple[xr.DataArray, xr.DataArray]:
    """Test scores before and after a change that needs no new training: at one rate."""
    arms = compared(name, epochs, score=score)
    new = arms.scores.sel(arm=[after]).assign_coords(arm=[before])
    return arms.values(before, **where), arms.at_chosen(new, before, **where).sel(part="test")


# model, change, study, before, after, whether the weights stay, other settings
_SIGNALS_AT = {"batch_size": 4}
REPAIRS = (
    ("2 poses", "recalibrate", "poses", f"{FORGETS}, as trained", f"{FORGETS}, recalibrated", {}),
    ("2 poses", "training=True", "poses", f"{FORGETS}, as trained", f"{SAYS}, as trained", {}),
    ("3 frozen", "freeze_bn", "frozen", f"{FLAG}, as trained", f"{FREEZE}, as trained", {}),
    ("3 frozen", "recalibrate", "frozen", f"{FLAG}, as trained", f"{FLAG}, recalibrated", {}),
    ("4 scenes", "axis -1", "scenes", "axis 1, as trained", "axis -1, as trained", {}),
    ("4 scenes", "recalibrate", "scenes", "axis 1, as trained", "axis 1, recalibrated", {}),
    (
        "4 scenes",
        "axis -1, both recalibrated",
        "scenes",
        "axis 1, recalibrated",
        "axis -1, recalibrated",
        {},
    ),
    ("5 signals", "momentum 0.9", "signals", "momentum 0.1", "momentum 0.9", _SIGNALS_AT),
    ("5 signals", "recalibrate", "signals", "momentum 0.1", "recalibrated", _SIGNALS_AT),
    (
        "6 leftover",
        "drop the row",
        "leftover",
        f"{LEFT_OVER}, as trained",
        f"{DROPPED}, as trained",
        {},
    ),
    (
        "6 leftover",
        "batches of 171",
        "leftover",
        f"{LEFT_OVER}, as trained",
        f"{OTHER_SIZE}, as trained",
        {},
    ),
    (
        "6 leftover",
        "recalibrate",
        "leftover",
        f"{LEFT_OVER}, as trained",
        f"{LEFT_OVER}, recalibrated",
        {},
    ),
)


def before_after(
    long: bool = False, score: str = "accuracy"
) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """Test score of every replicate before and after each single change to a model.

    Args:
        long: after the longest training on record instead of a short one.
        score: "accuracy" or "loss". Rates are chosen by the same score.

    Returns:
        For each model and change the scores before and after. A change that needs new training has
        its own best rate; one that keeps the weights keeps the rate.
    """
    chairs = load("chairs")[score].sel(network="thread", ground="bright", images="test")
    chairs = chairs.isel(epochs=-1) if long else chairs.sel(epochs=5)
    sick, mended = (chairs.sel(seen=seen).values for seen in ("momentum 0.99", "recalibrated"))
    found = {("1 chairs", "recalibrate"): (sick, mended)}
    for model, change, name, before, after, where in REPAIRS:
        if score not in load(name):
            continue
        epochs = None if long else _short(name)
        if change == "recalibrate":
            pair = _pair(name, before, after, epochs, score, **where)
        else:
            arms = compared(name, epochs, score=score)
            pair = arms.values(before, **where), arms.values(after, **where)
        found[model, change] = tuple(each.values for each in pair)
    return found


def _short(name: str) -> int:
    """When a sick model is looked at: after 15 passes, or ten, or at the first time on record."""
    return {"poses": 15, "signals": 10}.get(name) or int(load(name)["epochs"].min())


_OVERLAPS = {
    "1 chairs": TWO_DIGITS_OVERLAP,
    "2 poses": RAIN_OVERLAP,
    "6 leftover": RAIN_OVERLAP,
}


def gains(long: bool = False, score: str = "accuracy") -> dict[tuple[str, str], Interval]:
    """What each single change was worth: the test score after it minus that before.

    Args:
        long: as for `before_after`.
        score: likewise.
    """
    return {
        (model, change): paired_difference(
            after, before, overlap=_OVERLAPS.get(model, DIGITS_OVERLAP)
        )
        for (model, change), (before, after) in before_after(long, score).items()
    }


def prices(long: bool = False, score: str = "accuracy") -> pd.DataFrame:
    """Mean test score before and after each single change, and the difference with its interval.

    Args:
        long: as for `before_after`.
        score: likewise.
    """
    pairs, effects = before_after(long, score), gains(long, score)
    rows = {
        each: {
            "before": f"{pairs[each][0].mean():.3f}",
            "after": f"{pairs[each][1].mean():.3f}",
            "change": f"{effects[each]:.3f}",
        }
        for each in pairs
    }
    return pd.DataFrame(rows).T


def changes(model: str, **tables: pd.DataFrame) -> pd.DataFrame:
    """What each single change to one model was worth, a column for each table.

    Args:
        model: such as "4 scenes".
        **tables: tables that `prices` gave, by the name of their column.
    """
    return pd.DataFrame({name: table.loc[model]["change"] for name, table in tables.items()})


# The fault of each model, and the one change that is the right one for it.
FAULTS = {
    "1 too few updates": ("1 chairs", "recalibrate"),
    "2 no training=True": ("2 poses", "training=True"),
    "3 frozen too late": ("3 frozen", "freeze_bn"),
    "4 wrong axis": ("4 scenes", "axis -1, both recalibrated"),
    "5 PyTorch's momentum": ("5 signals", "momentum 0.9"),
    "6 one row left over": ("6 leftover", "drop the row"),
}


def draw_faults() -> None:
    """Draw test accuracy before and after the right change, a panel for each of the six models."""
    import matplotlib.pyplot as plt

    from bnutils import plots  # here, so that a study can run without Matplotlib

    pairs, effects = before_after(), gains()
    color = plots.arm_style("BN")["color"]
    fig, axes = plt.subplots(3, 2, figsize=(4.5, 5.4), sharex=True, sharey=True)
    for ax, (fault, change) in zip(axes.flat, FAULTS.items(), strict=True):
        runs = np.stack(pairs[change])
        ax.plot([0, 1], runs, color=plots.FAINT, linewidth=0.8, alpha=0.7)
        ax.plot([0, 1], runs.mean(axis=1), color=color, linewidth=2.5, marker="o", markersize=6)
        effect = effects[change]
        half = (effect.high - effect.low) / 2
        text = f"{100 * effect.mean:+.0f} ± {100 * half:.0f} points".replace("+0", "0")
        ax.text(0.5, 0.28, text, ha="center", fontsize=11, path_effects=plots.halo())
        ax.set_title(fault, fontsize=11)
        ax.set_xticks([0, 1], ["sick", "mended"])
        ax.set(xlim=(-0.25, 1.25), ylim=(0.23, 1.02), yticks=[0.4, 0.6, 0.8, 1.0])
        ax.grid(visible=False, axis="x")
    fig.supylabel("test accuracy", fontsize="medium")


# -- claims ---------------------------------------------------------------------------------------


def _points(label: str, effect: Interval, claimed: str = "above", margin: float = 0.05) -> Finding:
    reason = {0.1: "ten points", 0.05: "five points", 0.02: "two points"}[margin]
    return Finding(label, effect, claimed, margin=margin, reason=reason)


def gap(
    network: str = "thread",
    ground: str = "bright",
    epochs: int = 5,
    seen: str = "momentum 0.99",
    record: xr.Dataset | None = None,
) -> Interval:
    """Accuracy on the training images that fit reported, minus that of the same images afterwards.

    Args:
        network: "thread" or "dense".
        ground: of the images, "bright" or "dark".
        epochs: of 8 updates each.
        seen: with which statistics afterwards: "momentum 0.9", "momentum 0.99" or "recalibrated".
        record: a record of "chairs"; the book's if None.
    """
    record = load("chairs") if record is None else record
    values = record["accuracy"].sel(
        network=network, ground=ground, epochs=epochs, images="training"
    )
    pair = (values.sel(seen=each).values for each in ("fit", seen))
    return paired_difference(*pair, overlap=TRAINING_IMAGES_OVERLAP)


def evaluate_worse_than_fit() -> Claim:
    """Fit against evaluate, bright ground, 40 updates."""
    after = load("chairs")["accuracy"].sel(
        network="thread", ground="bright", epochs=5, images="training", seen="momentum 0.99"
    )
    low = int((after < 0.7).sum())
    others = {
        "the same, dark ground": gap(ground="dark"),
        "the same, momentum 0.9": gap(seen="momentum 0.9"),
        **{f"the same, after {8 * n} updates": gap(epochs=n) for n in (1, 2, 3, 8)},
        "a dense network, bright ground, 40 updates": gap("dense"),
        "a dense network, dark ground, 40 updates": gap("dense", "dark"),
        "the same, evaluate after recalibrate": gap(seen="recalibrated"),
    }
    return HYPOTHESES["evaluate-worse-than-fit"].judge(
        gap(),
        [_points(label, effect, margin=0.1) for label, effect in others.items()],
        draws=20,
        record="chairs",
        note=f"In {low} of {len(after)} replicates evaluate said less than 0.7 of these images.",
    )


def _momentum_claim(claim: str, study: str) -> Claim:
    arms, pair = compared(study), ("momentum 0.9", "momentum 0.1")
    first = compared(study, 1)
    _, repaired = _pair(study, "momentum 0.1", "recalibrated", None, batch_size=4)
    sick = arms.values("momentum 0.1", batch_size=4)
    sizes = [size for size in load(study)["batch_size"].values.tolist() if size != 4]
    return HYPOTHESES[claim].judge(
        arms.gain(*pair, batch_size=4),
        [
            _points("the same, by two points", arms.gain(*pair, batch_size=4), margin=0.02),
            *(_points(f"the same, batches of {m}", arms.gain(*pair, batch_size=m)) for m in sizes),
            _points("batches of 4, after one pass", first.gain(*pair, batch_size=4)),
            _points(
                "batches of 4, momentum 0.9 − 0",
                arms.gain("momentum 0.9", "momentum 0", batch_size=4),
            ),
            _points(
                "batches of 4, gained by recalibrating at 0.1",
                paired_difference(repaired.values, sick.values, overlap=arms.overlap),
            ),
        ],
        chosen={f"{arm}, batches of 4": arms.chosen(arm, batch_size=4) for arm in pair},
        draws=20,
        record=study,
    )


def pytorch_momentum_hurts() -> Claim:
    """Dense."""
    return _momentum_claim("pytorch-momentum-hurts-in-keras", "signals")


def pytorch_momentum_hurts_conv() -> Claim:
    """Convolutional."""
    return _momentum_claim("pytorch-momentum-hurts-in-keras-conv", "signals-conv")


def momentum_without_moving_statistics() -> Claim:
    """Two momenta, the same outputs."""
    apart = load("unused")["apart"]
    used = apart.sel(normalized="by the moving statistics").values
    return HYPOTHESES["momentum-without-moving-statistics"].judge(
        exact(float(apart.sel(normalized="by the image itself").max())),
        [
            Finding(
                "the same with training=False, mean over the draws",
                interval(used),
                margin=1e-6,
                reason="rounding of float32",
                spec=".2f",
            )
        ],
        draws=20,
        record="unused",
    )


def wrong_axis_costs_little() -> Claim:
    """Both recalibrated, trained long."""
    long, short = compared("scenes"), compared("scenes", 4)
    trained, again = "axis {}, as trained", "axis {}, recalibrated"

    def gain(arms: Comparison, kind: str) -> Interval:
        return arms.gain(kind.format(-1), kind.format(1))

    others = {
        "the same, after 4 epochs": gain(short, again),
        "statistics as trained, after 20 epochs": gain(long, trained),
        "statistics as trained, after 4 epochs": gain(short, trained),
    }
    return HYPOTHESES["wrong-axis-costs-little"].judge(
        gain(long, again),
        [_points(label, effect, "within", 0.02) for label, effect in others.items()],
        chosen={f"axis {axis}": long.chosen(again.format(axis)) for axis in (1, -1)},
        draws=20,
        record="scenes",
    )


CLAIMS = {
    "evaluate-worse-than-fit": evaluate_worse_than_fit,
    "pytorch-momentum-hurts-in-keras": pytorch_momentum_hurts,
    "pytorch-momentum-hurts-in-keras-conv": pytorch_momentum_hurts_conv,
    "momentum-without-moving-statistics": momentum_without_moving_statistics,
    "wrong-axis-costs-little": wrong_axis_costs_little,
}
