"""Chapter 4: the article's model in Keras, with and without batch normalization.

The sweeps are computed with `bnutils.network`; the study "keras-twin" compares it with Keras. Each
seed stands for a whole replicate: its own generated data set (or its own split of the digits), its
own initial weights and mini-batches, and its own choice of settings on its validation part.
"""

from __future__ import annotations

from collections.abc import Callable
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
    steps_to,
)
from bnutils.studies import load
from bnutils.studies.common import DIGITS_OVERLAP, PARTS, Settings, accuracies

if TYPE_CHECKING:
    from bnutils._keras import keras

ARMS = ["no BN", "BN", "BN after"]
CHOOSE = ["initializer", "learning_rate"]
EPOCH = 31  # steps of 64 in 2,000 examples
BATCH = 64


def _norms(arm: str) -> dict[str, Any]:
    """What an arm puts where."""
    norm = None if arm == "no BN" else network.BatchNorm()
    return {"norm": norm, "norm_position": "after" if arm == "BN after" else "before"}


def model_block(settings: Settings) -> xr.Dataset:
    """Train the article's model on a data set of its own; accuracy on the way.

    Accuracy is measured with statistics recomputed over the training part, and with the moving
    ones of momentum 0.99, Keras's default.
    """
    seed, rates = settings["seed"], settings["learning_rate"]
    problem = data.two_classes(seed=seed)
    net = network.mlp(
        [20, 64, 32, 1],
        seeds=[seed] * len(rates),
        initializer=settings["initializer"],
        **_norms(settings["arm"]),
    )
    x, y = problem.train.x, problem.train.y[:, None]
    return _trained(net, problem, x, y, network.sigmoid_cross_entropy, BATCH, settings)


def convolutional_block(settings: Settings) -> xr.Dataset:
    """Train a small convolutional network on the digits, in the same way."""
    seed, rates = settings["seed"], settings["learning_rate"]
    digits = data.digits(split=seed)
    net = network.cnn(
        (8, 8, 1),
        filters=[8, 16],
        outputs=10,
        seeds=[seed] * len(rates),
        initializer=settings["initializer"],
        **_norms(settings["arm"]),
    )
    x, y = digits.train.x, digits.train.y
    return _trained(net, digits, x, y, network.softmax_cross_entropy, 32, settings)


def _trained(
    net: network.Network,
    dataset: data.Dataset,
    x: np.ndarray,
    y: np.ndarray,
    loss: Callable,
    size: int,
    settings: Settings,
) -> xr.Dataset:
    mean, sd = x.mean(), x.std()  # over all features, or all pixels

    def inputs(x: np.ndarray) -> np.ndarray:
        return ((x - mean) / sd).reshape(-1, *net.input_shape)

    scores: list[np.ndarray] = []

    def after_step(net: network.Network, step: int) -> None:
        if step not in settings["times"]:
            return
        kept = [(bn, bn.moving_mean, bn.moving_variance) for bn in net.batch_norms]
        moving = accuracies(net, dataset, inputs)
        if not kept:
            scores.append(np.stack([moving, moving]))
            return
        net.recalibrate(inputs(x))
        scores.append(np.stack([accuracies(net, dataset, inputs), moving]))
        for bn, mean, variance in kept:
            bn.moving_mean, bn.moving_variance = mean, variance

    history = network.fit(
        net,
        inputs(x),
        y,
        loss=loss,
        optimizer=network.Adam(np.array(settings["learning_rate"])),
        steps=max(settings["times"]),
        batch_size=size,
        after_step=after_step,
    )
    return xr.Dataset(
        {
            "accuracy": (
                ("step", "statistics", "learning_rate", "part"),
                np.array(scores, np.float32),
            ),
            "loss": (("learning_rate", "early"), history["loss"][:, :3]),
        },
        {
            "step": sorted(settings["times"]),
            "statistics": ["recomputed", "moving"],
            "learning_rate": list(settings["learning_rate"]),
            "part": PARTS,
            "early": [1, 2, 3],
        },
    )


def twin_block(settings: Settings) -> xr.Dataset:
    """Train one network in Keras and its twin in the engine, on the same batches."""
    from bnutils import keras_nets
    from bnutils._keras import keras

    seed, epochs = settings["seed"], settings["epochs"]
    problem = data.two_classes(seed=seed)
    x, y = problem.train.x, problem.train.y[:, None]
    net = network.mlp(
        [20, 64, 32, 1], seeds=[seed], initializer="glorot", **_norms(settings["arm"])
    )
    twin = keras_nets.twin(net)
    twin.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True), auto_scale_loss=False)
    rng, theirs = np.random.default_rng([seed, 1]), []  # the engine's order of the rows
    for _ in range(epochs):
        rows = rng.permutation(len(x))[: EPOCH * BATCH]
        told = twin.fit(x[rows], y[rows], batch_size=BATCH, shuffle=False, verbose=0)
        theirs.append(told.history["loss"][0])
    ours = network.fit(
        net,
        x,
        y,
        loss=network.sigmoid_cross_entropy,
        optimizer=network.Adam(),
        steps=EPOCH * epochs,
        batch_size=BATCH,
    )["loss"]
    logits = twin(problem.test.x).numpy(), net(problem.test.x)[0]
    right = [((each[:, 0] > 0) == problem.test.y).mean() for each in logits]
    return xr.Dataset(
        {
            "loss": (("program", "epoch"), [theirs, ours.reshape(epochs, EPOCH).mean(axis=1)]),
            "accuracy": ("program", right),
        },
        {"program": ["Keras", "engine"], "epoch": range(1, epochs + 1)},
    )


# -- hypotheses -----------------------------------------------------------------------------------

_MODEL = (
    "20 generated data sets of two classes (2,000 training, 1,000 validation and 2,000 test "
    "examples), 20-64-32-1 ReLU, Adam, batches of 64, 40 epochs of 31 steps, statistics recomputed "
    "at each look, inputs standardized by one mean and one standard deviation. Each arm has, on "
    "each data set, the learning rate and the initial scale (Glorot's or He's) that were best on "
    "its validation examples"
)
_CONV = (
    "digits (1,797 images, split anew for each seed into 1,097, 300 and 400), two convolutions of "
    "8 and 16 channels, max pooling, global average, ReLU, Adam, batches of 32, 600 steps, "
    "standardized pixels, statistics recomputed at each look. Each arm has, in each replicate, the "
    "learning rate and the initial scale (Glorot's or He's) best on its validation images"
)
_FASTER = (
    "a third of the steps saved is what a user would notice; less, the next choice of a rate "
    "makes up for"
)
_POINT = (
    "one point: less would not make one write a model anew; 2,000 test examples of each of 20 data "
    "sets can tell that much"
)
_TWO_POINTS = "two points: 400 test images of a pool of 1,797 can't tell less apart"

HYPOTHESES = {
    each.name: each
    for each in [
        Hypothesis(
            name="keras-model-with-bn",
            claim="With BN the model learns faster.",
            kind="measured",
            source="ioffe2015",
            said_by="Ioffe and Szegedy 2015, section 4.2, of a large image classifier: fewer steps "
            "to the best accuracy of the network without",
            label="steps to within one point of the plain model's best accuracy, no BN ÷ BN",
            scale="log",
            margin=1.5,
            reason=_FASTER,
            spec=".2f",
            setting=_MODEL,
        ),
        Hypothesis(
            name="keras-model-with-bn-conv",
            claim="With BN a small convolutional network learns faster.",
            kind="measured",
            source="ioffe2015",
            said_by="Ioffe and Szegedy 2015, section 4.2, of a large image classifier: fewer steps "
            "to the best accuracy of the network without",
            label="steps to within two points of the plain network's best, no BN ÷ BN",
            scale="log",
            margin=1.5,
            reason=_FASTER,
            spec=".2f",
            setting=_CONV,
        ),
        Hypothesis(
            name="before-the-activation",
            claim="BN belongs before the activation, in a dense network.",
            kind="measured",
            source="ioffe2015",
            said_by="Ioffe and Szegedy 2015, section 3.2",
            label="test accuracy after 20 epochs, BN before − BN after the ReLU",
            margin=0.01,
            reason=_POINT,
            setting=_MODEL,
        ),
        Hypothesis(
            name="before-the-activation-conv",
            claim="BN belongs before the activation, in a convolutional network.",
            kind="measured",
            source="ioffe2015",
            said_by="Ioffe and Szegedy 2015, section 3.2",
            label="test accuracy after 600 steps, BN before − BN after the ReLU",
            margin=0.02,
            reason=_TWO_POINTS,
            setting=_CONV,
        ),
        Hypothesis(
            name="keras-trains-as-the-engine",
            claim="Keras trains this model as the engine of this book does.",
            kind="version",
            source="keras",
            said_by="this book",
            label="largest relative difference of the mean loss of the first epoch",
            claimed="below",
            null=1e-4,
            reason="float32 rounds in the seventh digit, and 31 steps magnify that; a wrong "
            "formula would show in the first digits",
            spec=".1e",
            setting="10 data sets, three arms, 20-64-32-1 ReLU, Adam at its default rate of 0.001, "
            "5 epochs on the same batches from the same weights",
        ),
    ]
}


def _said(*names: str) -> tuple[Hypothesis, ...]:
    return tuple(HYPOTHESES[name] for name in names)


_PILOT = (
    "Before the record, a pilot with seeds 100 to 102, other data sets: one mean and one "
    "standard deviation for all features, taken out, helped the plain network a little at large "
    "rates, and did nothing for BN, so both get them; dividing each feature by its own helped "
    "neither."
)
_TOLERANCES = {
    "accuracy": Tolerance(close=0.02, steps=10, mean=0.02),
    "loss": Tolerance(close=2e-3, relative=1e-2),
}

STUDIES = (
    Study(
        name="keras-model",
        question="What does BN change for the article's model, and its place?",
        block=model_block,
        dims={
            "arm": ARMS,
            "initializer": ["glorot", "he"],
            "learning_rate": [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1],
            "seed": range(20),
        },
        together=["learning_rate"],
        fixed={
            "times": sorted(
                {*range(5, 61, 5), 31, *range(70, 121, 10), *range(155, 621, 31), 930, 1240}
            )
        },
        tolerances=_TOLERANCES,
        hypotheses=_said("keras-model-with-bn", "before-the-activation"),
        changes=(_PILOT,),
    ),
    Study(
        name="keras-model-conv",
        question="And for a small convolutional network?",
        block=convolutional_block,
        dims={
            "arm": ARMS,
            "initializer": ["glorot", "he"],
            "learning_rate": [0.001, 0.003, 0.01, 0.03, 0.1],
            "seed": range(10),
        },
        together=["learning_rate"],
        fixed={"times": sorted({*range(10, 101, 10), *range(125, 301, 25), *range(350, 601, 50)})},
        tolerances=_TOLERANCES,
        overlap=DIGITS_OVERLAP,
        hypotheses=_said("keras-model-with-bn-conv", "before-the-activation-conv"),
    ),
    Study(
        name="keras-twin",
        question="Does Keras train as the engine of this book does?",
        block=twin_block,
        dims={"arm": ARMS, "seed": range(10)},
        fixed={"epochs": 5},
        tolerances={"loss": Tolerance(2e-3), "accuracy": Tolerance(0.005)},
        hypotheses=_said("keras-trains-as-the-engine"),
    ),
)


# -- claims ---------------------------------------------------------------------------------------


def after(
    step: int | None = None,
    record: str | xr.Dataset = "keras-model",
    statistics: str = "recomputed",
) -> Comparison:
    """Accuracy after some steps, each arm at the settings that are best then.

    Args:
        step: after how many; 31 are an epoch of the dense model. The last recorded if None.
        record: a record of "keras-model" or "keras-model-conv", or its name.
        statistics: those of prediction, "recomputed" over the training part or "moving".
    """
    record = load(record) if isinstance(record, str) else record
    step = int(record["step"].max()) if step is None else step
    return Comparison(record, "accuracy", CHOOSE, step=step, statistics=statistics)


def race(
    below: float = 0.01,
    record: str | xr.Dataset = "keras-model",
    statistics: str = "recomputed",
) -> Comparison:
    """Steps to an accuracy near the best of the plain network; fewer is better.

    The best of the plain network is that at the settings and the time which are best on the
    validation part; each part of each replicate has a level of its own.

    Args:
        below: how far below that best the level lies.
        record: as for `after`.
        statistics: as for `after`.
    """
    record = load(record) if isinstance(record, str) else record
    curves = record["accuracy"].sel(statistics=statistics)
    free = [*CHOOSE, "step"]
    best = Comparison(record, curves, free).values("no BN")
    highest = curves.sel(arm="no BN", part="validation", drop=True).max(free)
    level = xr.concat([highest, best], pd.Index(PARTS, name="part")) - below - 1e-6
    reached = (curves >= level).astype(float)
    first = reached.reduce(lambda a, axis: _first(a, axis, record["step"].values), "step")
    return Comparison(record, first.rename("steps"), CHOOSE, maximize=False)


def _first(reached: np.ndarray, axis: int, steps: np.ndarray) -> np.ndarray:
    return steps_to(np.moveaxis(reached, axis, -1), steps, 0.5)


#: The records that time a network, and how far below the best of the plain one its level lies.
RACES = {"dense": ("keras-model", 0.01), "convolutional": ("keras-model-conv", 0.02)}


def races() -> pd.DataFrame:
    """Mean steps of both networks to their level, without BN and with it."""
    kinds = {"no BN": "recomputed", "BN, recomputed": "recomputed", "BN, moving": "moving"}
    return pd.DataFrame(
        {
            f"{network} network": {
                row: f"{race(below, record, kind).mean(row.partition(',')[0]):.0f}"
                for row, kind in kinds.items()
            }
            for network, (record, below) in RACES.items()
        }
    )


def curves(name: str, arm: str, statistics: str = "recomputed") -> xr.DataArray:
    """Test accuracy on the way, each replicate at the settings with which it is fastest.

    Args:
        name: "dense" or "convolutional".
        arm: "no BN", "BN" or "BN after".
        statistics: those of prediction. The settings are those of the recomputed ones.

    Returns:
        An array over "seed" and "step".
    """
    record, below = RACES[name]
    accuracy = load(record)["accuracy"].sel(statistics=statistics, part="test", drop=True)
    return race(below, record).at_chosen(accuracy, arm).transpose("seed", "step")


def summary(model: keras.Model) -> pd.DataFrame:
    """How many numbers each layer of a model has, as `model.summary()` tells it, but narrow.

    Args:
        model: a model of Keras that knows its input.

    Returns:
        A row for each layer, with the numbers that are trained and the moving statistics.
    """
    counts = [
        [
            sum(int(np.prod(weight.shape)) for weight in weights)
            for weights in (layer.trainable_weights, layer.non_trainable_weights)
        ]
        for layer in model.layers
    ]
    names = [type(layer).__name__ for layer in model.layers]
    total = np.sum(counts, axis=0)
    return pd.DataFrame([*counts, total], [*names, "in all"], ["trained", "moving"])


def _finding(label: str, effect: Interval, margin: float = 0.01) -> Finding:
    return Finding(
        label, effect, margin=margin, reason="one point" if margin < 0.02 else "two points"
    )


def _chosen(compared: Comparison, *arms: str) -> dict[str, Any]:
    return {arm: compared.chosen(arm) for arm in arms}


def keras_model_with_bn() -> Claim:
    """The article's model."""
    ahead = "accuracy after {}, BN − no BN"
    default = {"learning_rate": 0.001, "initializer": "glorot"}
    return HYPOTHESES["keras-model-with-bn"].judge(
        race().ratio("no BN", "BN"),
        [
            Finding(
                "the same, to within three points",
                race(0.03).ratio("no BN", "BN"),
                margin=1.5,
                reason=_FASTER,
                spec=".2f",
            ),
            Finding(
                "the same, to within one point, with Keras's moving statistics",
                race(statistics="moving").ratio("no BN", "BN"),
                margin=1.5,
                reason=_FASTER,
                spec=".2f",
            ),
            *(
                _finding(ahead.format(name), after(n * EPOCH).gain("BN", "no BN"))
                for name, n in [("1 epoch", 1), ("5 epochs", 5), ("20 epochs", 20)]
            ),
            _finding(ahead.format("40 epochs"), after().gain("BN", "no BN")),
            _finding(
                "accuracy after 1 epoch with Keras's moving statistics, BN − no BN",
                after(EPOCH, statistics="moving").gain("BN", "no BN"),
            ),
            _finding(
                "accuracy after 20 epochs, both at the rate 0.001 and Glorot's scale, BN − no BN",
                after(20 * EPOCH).gain("BN", "no BN", **default),
            ),
            _finding(
                "accuracy after 20 epochs, both at the rate 0.1, BN − no BN",
                after(20 * EPOCH).gain("BN", "no BN", learning_rate=0.1),
            ),
        ],
        chosen=_chosen(race(), "no BN", "BN"),
        draws=20,
        record="keras-model",
    )


def keras_model_with_bn_conv() -> Claim:
    """A small convolutional network."""
    name = "keras-model-conv"
    compared = race(0.02, name)
    return HYPOTHESES["keras-model-with-bn-conv"].judge(
        compared.ratio("no BN", "BN"),
        [
            Finding(
                "the same with moving statistics",
                race(0.02, name, "moving").ratio("no BN", "BN"),
                margin=1.5,
                reason=_FASTER,
                spec=".2f",
            ),
            Finding(
                "the same, to within one point",
                race(0.01, name).ratio("no BN", "BN"),
                margin=1.5,
                reason=_FASTER,
                spec=".2f",
            ),
            *(
                _finding(
                    f"accuracy after {n} steps, BN − no BN",
                    after(n, name).gain("BN", "no BN"),
                    0.02,
                )
                for n in (50, 150, 600)
            ),
        ],
        chosen=_chosen(compared, "no BN", "BN"),
        draws=compared.seeds,
        record=name,
        note="The plain network still gained between 300 and 600 steps: trained longer, it would "
        "set a higher level.",
    )


def before_the_activation() -> Claim:
    """BN before the ReLU and after it, in the article's model."""
    compared = after(20 * EPOCH)
    label = "accuracy after {}, before − after"
    return HYPOTHESES["before-the-activation"].judge(
        compared.gain("BN", "BN after"),
        [
            *(
                _finding(label.format(name), after(n * EPOCH).gain("BN", "BN after"))
                for name, n in [("1 epoch", 1), ("5 epochs", 5), ("40 epochs", 40)]
            ),
            Finding(
                "steps to within one point of the plain model's best, after ÷ before",
                race().ratio("BN after", "BN"),
                margin=1.5,
                reason=_FASTER,
                spec=".2f",
            ),
        ],
        chosen=_chosen(compared, "BN", "BN after"),
        draws=20,
        record="keras-model",
    )


def before_the_activation_conv() -> Claim:
    """The same in a convolutional network."""
    name = "keras-model-conv"
    compared = after(600, name)
    return HYPOTHESES["before-the-activation-conv"].judge(
        compared.gain("BN", "BN after"),
        [
            _finding(
                f"accuracy after {n} steps, before − after",
                after(n, name).gain("BN", "BN after"),
                0.02,
            )
            for n in (50, 150, 300)
        ],
        chosen=_chosen(compared, "BN", "BN after"),
        draws=compared.seeds,
        record=name,
    )


def keras_trains_as_the_engine() -> Claim:
    """Losses and accuracies of the two programs."""
    record = load("keras-twin")
    theirs, ours = (record.sel(program=each) for each in ("Keras", "engine"))
    off = np.abs(theirs["loss"] / ours["loss"] - 1).max("seed")
    first = off.sel(epoch=1)
    apart = np.abs(theirs["accuracy"] - ours["accuracy"]).max()
    return HYPOTHESES["keras-trains-as-the-engine"].judge(
        exact(float(first.max())),
        [
            Finding(
                "the same over five epochs, rounding magnified by 155 steps",
                exact(float(off.max())),
                "below",
                null=1e-2,
                spec=".1e",
            ),
            Finding(
                "largest difference of test accuracy after 5 epochs, with moving statistics",
                exact(float(apart)),
                "below",
                null=0.005,
                spec=".4f",
            ),
        ],
        draws=10,
        seeds=10,
        record="keras-twin",
    )


CLAIMS: dict[str, Callable[[], Claim]] = {
    "keras-model-with-bn": keras_model_with_bn,
    "keras-model-with-bn-conv": keras_model_with_bn_conv,
    "before-the-activation": before_the_activation,
    "before-the-activation-conv": before_the_activation_conv,
    "keras-trains-as-the-engine": keras_trains_as_the_engine,
}
