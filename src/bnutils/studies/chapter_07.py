"""Chapter 7: small batches, ghost batches, batches whose examples are alike.

Each seed stands for a whole replicate: its own initial weights, its own mini-batches, and its own
split of the digits. Accuracy is measured with statistics recomputed over the training images
(`Network.recalibrate`), so that the moving averages, which are chapter 6's subject, have no part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
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
    paired_difference,
)
from bnutils.studies import load
from bnutils.studies.common import DIGITS_OVERLAP, PARTS, Settings, accuracies, pictures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAIN = 1097

DENSE = {
    "no BN": None,
    "BN": network.BatchNorm(),
    "layer norm": network.LayerNorm(),
    "group norm": network.GroupNorm(6),
    "batch renorm": network.BatchRenorm(3.0, 5.0),
}
CONVOLUTIONAL = {
    "no BN": None,
    "BN": network.BatchNorm(),
    "group norm": network.GroupNorm(4),
}


def build(settings: Settings, norm: network.Norm | None) -> network.Network:
    """The chapter's dense network, or its convolutional one, a run for each rate."""
    seeds = [settings["seed"]] * len(settings["learning_rate"])
    if settings["network"] == "dense":
        return network.mlp([64, 48, 48, 10], seeds=seeds, norm=norm)
    return network.cnn((8, 8, 1), filters=[8, 16], outputs=10, seeds=seeds, norm=norm)


def inputs(settings: Settings, x: np.ndarray) -> np.ndarray:
    """Images as rows of pixels, or as pictures for convolutions."""
    return x if settings["network"] == "dense" else pictures(x)


def recomputed(net: network.Network, dataset: data.Dataset, settings: Settings) -> np.ndarray:
    """Accuracy on the validation and the test part with recomputed statistics, [runs, 2]."""
    if net.batch_norms:
        net.recalibrate(inputs(settings, dataset.train.x))
    return accuracies(net, dataset, partial(inputs, settings)).astype(np.float32)


def sizes_block(settings: Settings) -> xr.Dataset:
    """Train one arm with one batch size at all rates, for so many passes and so many steps."""
    dataset = data.digits(split=settings["seed"])
    arms = DENSE if settings["network"] == "dense" else CONVOLUTIONAL
    net = build(settings, arms[settings["arm"]])
    size = settings["batch_size"]
    after = {
        **{("passes", n): n * TRAIN // size for n in settings["passes"]},
        **{("steps", n): n for n in settings["steps"]},
    }
    if isinstance(arms[settings["arm"]], network.BatchRenorm):
        net.recalibrate(inputs(settings, dataset.train.x))
    scores, losses = _trained(net, dataset, settings, size, sorted(set(after.values())))
    found = {
        f"after_{unit}": (
            (unit, "learning_rate", "part"),
            np.stack([scores[after[unit, n]] for n in settings[unit]]),
        )
        for unit in ("passes", "steps")
    }
    return xr.Dataset(
        {**found, "loss": (("learning_rate", "step"), losses[:, :5])},
        {
            "passes": list(settings["passes"]),
            "steps": list(settings["steps"]),
            "learning_rate": list(settings["learning_rate"]),
            "part": PARTS,
            "step": range(1, 6),
        },
    )


def ghosts_block(settings: Settings) -> xr.Dataset:
    """Train with gradients from large batches and statistics from parts of them."""
    dataset = data.digits(split=settings["seed"])
    net = build(settings, network.GhostBatchNorm(settings["ghost_size"]))
    size = settings["batch_size"]
    after = [n * TRAIN // size for n in settings["passes"]]
    scores, losses = _trained(net, dataset, settings, size, after)
    return xr.Dataset(
        {
            "accuracy": (
                ("passes", "learning_rate", "part"),
                np.stack([scores[step] for step in after]),
            ),
            "loss": (("learning_rate", "step"), losses[:, :5]),
        },
        {
            "passes": list(settings["passes"]),
            "learning_rate": list(settings["learning_rate"]),
            "part": PARTS,
            "step": range(1, 6),
        },
    )


def _trained(
    net: network.Network, dataset: data.Dataset, settings: Settings, size: int, times: list[int]
) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Train, and measure accuracy after each of the given numbers of steps.

    Recomputing the statistics must not touch training, so the moving ones are put back: batch
    renormalization trains with them.
    """
    scores = {}

    def after_step(net: network.Network, step: int) -> None:
        if step in times:
            kept = [(bn, bn.moving_mean, bn.moving_variance) for bn in net.batch_norms]
            scores[step] = recomputed(net, dataset, settings)
            for bn, mean, variance in kept:
                bn.moving_mean, bn.moving_variance = mean, variance

    history = network.fit(
        net,
        inputs(settings, dataset.train.x),
        dataset.train.y,
        loss=network.softmax_cross_entropy,
        optimizer=network.SGD(np.array(settings["learning_rate"])),
        steps=max(times),
        batch_size=size,
        after_step=after_step,
    )
    return scores, history["loss"]


def alike_batches(labels: np.ndarray, seed: int, classes: int, size: int) -> Iterator[np.ndarray]:
    """Rows of one batch after the other, each from a few randomly chosen classes."""
    order = np.random.default_rng([seed, 7])
    while True:
        chosen = order.permutation(10)[:classes]
        yield order.choice(np.flatnonzero(np.isin(labels, chosen)), size, replace=False)


def alike_block(settings: Settings) -> xr.Dataset:
    """Train on batches whose examples are of few classes; test on all, with both statistics."""
    dataset = data.digits(split=settings["seed"])
    train, size = dataset.train, settings["batch_size"]
    norm = DENSE[settings["arm"]]
    net = build(settings, norm)
    if isinstance(norm, network.BatchRenorm):
        net.recalibrate(train.x)
    optimizer = network.SGD(np.array(settings["learning_rate"]))
    optimizer.build(net.weights, net.columns)
    batches = alike_batches(train.y, settings["seed"], settings["classes"], size)
    losses = []
    for _, rows in zip(range(settings["updates"]), batches, strict=False):
        outputs = net(train.x[rows], training=True)
        loss, gradient = network.softmax_cross_entropy(outputs, train.y[rows])
        net.backward(gradient)
        with np.errstate(all="ignore"):
            optimizer.step(net.weights, net.gradients)
        losses.append(loss)
    moving = accuracies(net, dataset)
    scores = np.stack([moving, recomputed(net, dataset, settings)], axis=1)
    return xr.Dataset(
        {
            "accuracy": (("learning_rate", "statistics", "part"), scores.astype(np.float32)),
            "loss": (("learning_rate", "step"), np.stack(losses[:5], axis=1)),
        },
        {
            "learning_rate": list(settings["learning_rate"]),
            "statistics": ["moving", "recomputed"],
            "part": PARTS,
            "step": range(1, 6),
        },
    )


# -- hypotheses -----------------------------------------------------------------------------------

_TWO_POINTS = (
    "two points: 400 test images of a pool of 1,797 can't tell less apart, and less would not "
    "make one change the normalization"
)
_DIGITS = (
    "digits (1,797 images, split anew for each seed into 1,097, 300 and 400), gradient descent, "
    "statistics recomputed after training, each replicate at the rate that was best on its "
    "validation images"
)
_DENSE = f"{_DIGITS}; 64-48-48-10 ReLU"
_CONV = f"{_DIGITS}; two convolutions of 8 and 16 channels, max pooling, global average, ReLU"
_PASSES = 30

HYPOTHESES = {
    each.name: each
    for each in [
        Hypothesis(
            name="bn-small-batches",
            claim="The error of BN increases rapidly when the batch becomes smaller, in a dense "
            "network.",
            kind="measured",
            source="wu2018",
            said_by="Wu and He 2018, abstract",
            label="accuracy of BN, batch 32 − batch 2, after 30 passes, dense network",
            margin=0.02,
            reason=_TWO_POINTS,
            setting=_DENSE,
        ),
        Hypothesis(
            name="bn-small-batches-conv",
            claim="The error of BN increases rapidly when the batch becomes smaller, in a "
            "convolutional network.",
            kind="measured",
            source="wu2018",
            said_by="Wu and He 2018, abstract",
            label="accuracy of BN, batch 32 − batch 2, after 30 passes, convolutional network",
            margin=0.02,
            reason=_TWO_POINTS,
            setting=_CONV,
        ),
        Hypothesis(
            name="group-norm-any-batch",
            claim="The accuracy of group normalization is stable in a wide range of batch sizes, "
            "in a dense network.",
            kind="measured",
            source="wu2018",
            said_by="Wu and He 2018, abstract",
            label="accuracy of group norm, batch 32 − batch 2, after 30 passes, dense network",
            claimed="within",
            margin=0.02,
            reason=f"{_TWO_POINTS}; the same margin as for BN",
            setting=f"{_DENSE}, 6 groups of 8 neurons",
        ),
        Hypothesis(
            name="it-is-the-statistics",
            claim="What small batches do to BN comes from its statistics, not from a noisy "
            "gradient.",
            kind="measured",
            source="wu2018",
            said_by="Wu and He 2018, abstract",
            label="accuracy with gradients from 128 images, statistics from 128 − from 2",
            margin=0.02,
            reason=_TWO_POINTS,
            setting=f"{_DENSE}, batches of 128 in ghost batches, 60 passes",
        ),
        Hypothesis(
            name="batches-of-32-or-64",
            claim="Statistics from 32 or 64 examples are enough for BN.",
            kind="measured",
            source="article",
            said_by="the article this book grew from, as advice",
            label="accuracy with gradients from 128 images, statistics from 128 − from 32",
            claimed="within",
            margin=0.02,
            reason=_TWO_POINTS,
            setting=f"{_DENSE}, batches of 128 in ghost batches, 60 passes",
        ),
        Hypothesis(
            name="bn-correlated-batches",
            claim="BN is less effective when the examples of a batch are not independent.",
            kind="measured",
            source="ioffe2017",
            said_by="Ioffe 2017, abstract",
            label="accuracy lost by batches of two digits instead of ten, BN − no BN",
            margin=0.02,
            reason=f"{_TWO_POINTS}. What the plain network loses is no fault of BN",
            setting=f"{_DENSE}, 600 steps of 32 images of few classes",
        ),
        Hypothesis(
            name="renorm-correlated-batches",
            claim="Batch renormalization does better than BN when the examples of a batch are not "
            "independent.",
            kind="measured",
            source="ioffe2017",
            said_by="Ioffe 2017, abstract",
            label="accuracy with batches of two digits, batch renorm − BN",
            margin=0.02,
            reason=_TWO_POINTS,
            setting=f"{_DENSE}, 600 steps of 32 images of few classes",
        ),
        Hypothesis(
            name="renorm-small-batches",
            claim="Batch renormalization does better than BN when batches have four examples.",
            kind="measured",
            source="ioffe2017",
            said_by="Ioffe 2017, abstract: substantially, of small batches",
            label="accuracy with batches of 4, after 30 passes, batch renorm − BN",
            margin=0.02,
            reason=_TWO_POINTS,
            setting=f"{_DENSE}; renormalization starts with the statistics of the training images, "
            "and with its limits (3 and 5) from the first step",
        ),
    ]
}


def _said(*names: str) -> tuple[Hypothesis, ...]:
    return tuple(HYPOTHESES[name] for name in names)


# Training on few examples magnifies the last digit of a number, and in that processors differ.
_TOLERANCES = {"loss": Tolerance(close=2e-3, relative=1e-2, steps=3)}
_ACCURACY = Tolerance(mean=0.03)

STUDIES = (
    Study(
        name="batch-sizes",
        question="How does accuracy depend on the batch size, at equal passes and at equal steps?",
        block=sizes_block,
        dims={
            "arm": list(DENSE),
            "batch_size": [2, 4, 8, 16, 32, 64],
            "learning_rate": [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0],
            "seed": range(20),
        },
        together=["learning_rate"],
        fixed={"network": "dense", "passes": [1, 3, 10, 30], "steps": [50, 150, 500, 1500]},
        tolerances={**_TOLERANCES, "after_passes": _ACCURACY, "after_steps": _ACCURACY},
        overlap=DIGITS_OVERLAP,
        hypotheses=_said("bn-small-batches", "group-norm-any-batch", "renorm-small-batches"),
    ),
    Study(
        name="batch-sizes-conv",
        question="And in a convolutional network?",
        block=sizes_block,
        dims={
            "arm": list(CONVOLUTIONAL),
            "batch_size": [2, 4, 8, 16, 32],
            "learning_rate": [0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0],
            "seed": range(10),
        },
        together=["learning_rate"],
        fixed={"network": "convolutional", "passes": [1, 3, 10, 30], "steps": [50, 150, 500]},
        tolerances={**_TOLERANCES, "after_passes": _ACCURACY, "after_steps": _ACCURACY},
        overlap=DIGITS_OVERLAP,
        hypotheses=_said("bn-small-batches-conv"),
        changes=(
            "After a first record, whose largest rate was 1: BN chose it with batches of 32 in 8 "
            "of 10 replicates, so a rate of 3 was added. The outcome was: no difference.",
        ),
    ),
    Study(
        name="ghosts",
        question="Is it the noise of the gradient, or that of the statistics?",
        block=ghosts_block,
        dims={
            "ghost_size": [2, 4, 8, 16, 32, 64, 128],
            "learning_rate": [0.03, 0.1, 0.3, 1.0, 3.0, 10.0],
            "seed": range(20),
        },
        together=["learning_rate"],
        fixed={"network": "dense", "batch_size": 128, "passes": [5, 20, 60]},
        tolerances={**_TOLERANCES, "accuracy": _ACCURACY},
        overlap=DIGITS_OVERLAP,
        hypotheses=_said("it-is-the-statistics", "batches-of-32-or-64"),
    ),
    Study(
        name="alike",
        question="What if the examples of a batch are alike?",
        block=alike_block,
        dims={
            "arm": ["no BN", "BN", "group norm", "batch renorm"],
            "classes": [10, 5, 2, 1],
            "learning_rate": [0.003, 0.01, 0.03, 0.1, 0.3, 1.0],
            "seed": range(20),
        },
        together=["learning_rate"],
        fixed={"network": "dense", "batch_size": 32, "updates": 600},
        tolerances={**_TOLERANCES, "accuracy": _ACCURACY},
        overlap=DIGITS_OVERLAP,
        hypotheses=_said("bn-correlated-batches", "renorm-correlated-batches"),
    ),
)


# -- claims ---------------------------------------------------------------------------------------


def sizes(
    record: str | xr.Dataset = "batch-sizes", unit: str = "passes", amount: int | None = None
) -> Comparison:
    """Accuracy by batch size, after equal passes or equal steps.

    Args:
        record: a record of "batch-sizes" or "batch-sizes-conv", or its name.
        unit: "passes" or "steps".
        amount: how many; the most that were recorded if None.
    """
    record = load(record) if isinstance(record, str) else record
    amount = int(record[unit].max()) if amount is None else amount
    return Comparison(record, f"after_{unit}", ["learning_rate"], **{unit: amount})


def ghosts(record: xr.Dataset | None = None, passes: int | None = None) -> Comparison:
    """Accuracy of BN by the number of images that share their statistics.

    Args:
        record: a record of "ghosts"; the book's if None.
        passes: after how many; the most that were recorded if None.
    """
    record = load("ghosts") if record is None else record
    passes = int(record["passes"].max()) if passes is None else passes
    named = record.expand_dims(arm=["BN"])
    return Comparison(named, "accuracy", ["learning_rate"], passes=passes)


def alike(statistics: str = "recomputed", record: xr.Dataset | None = None) -> Comparison:
    """Accuracy by the number of classes in a batch.

    Args:
        statistics: those of prediction: "recomputed" after training, or "moving".
        record: a record of "alike"; the book's if None.
    """
    record = load("alike") if record is None else record
    return Comparison(record, "accuracy", ["learning_rate"], statistics=statistics)


def funnel(ax: Axes, means: Mapping[int, np.ndarray]) -> None:
    """Draw the means of batches as dots, and how far the mean of m values typically misses.

    Args:
        ax: where to draw.
        means: by the size of a batch, the means of many, in units of the standard deviation of
            all values, whose mean is 0.
    """
    from bnutils import plots  # here, so that a study can run without Matplotlib

    rng, sizes = np.random.default_rng(0), list(means)
    for m, found in means.items():
        beside = m * 2 ** rng.uniform(-0.25, 0.25, size=len(found))
        color = plots.arm_style("BN")["color"]
        ax.plot(beside, found, ".", color=color, alpha=0.35, markersize=4)
    line = np.geomspace(sizes[0] / 1.25, sizes[-1] * 1.25)
    for sign in (-1, 1):
        ax.plot(line, sign / np.sqrt(line), color=plots.INK, linestyle="--", linewidth=1.4)
    ax.set_xscale("log", base=2)
    ax.set_xticks(sizes, sizes)
    ax.minorticks_off()


def lost(compared: Comparison, arm: str, axis: str, small: int, large: int) -> Interval:
    """Test accuracy of an arm at a large value of a setting minus that at a small one."""
    pair = (compared.values(arm, **{axis: value}) for value in (large, small))
    return paired_difference(*pair, overlap=compared.overlap)


def _points(label: str, effect: Interval, claimed: str = "above") -> Finding:
    return Finding(label, effect, claimed, margin=0.02, reason="two points")


def _chosen(compared: Comparison, arms: list[str], axis: str, values: list[int]) -> dict:
    """The rates chosen by some arms at some values of another setting, as a card tells them."""
    words = {
        "batch_size": "{}, batch {}",
        "classes": "{}, {} classes",
        "ghost_size": "statistics from {1}",
    }
    return {
        words[axis].format(arm, value): compared.chosen(arm, **{axis: value})
        for value in values
        for arm in arms
    }


def _by_size(compared: Comparison, arm: str, small: int) -> Interval:
    return lost(compared, arm, "batch_size", small, 32)


def bn_small_batches() -> Claim:
    """BN against itself at 32, dense."""
    after, steps = sizes(), sizes(unit="steps")
    return HYPOTHESES["bn-small-batches"].judge(
        _by_size(after, "BN", 2),
        [
            *(
                _points(f"the same, batch 32 − batch {m}", _by_size(after, "BN", m))
                for m in (4, 8, 16)
            ),
            _points("after 1,500 steps, batch 32 − batch 2", _by_size(steps, "BN", 2)),
            _points("no BN after 30 passes, batch 32 − batch 2", _by_size(after, "no BN", 2)),
        ],
        chosen=_chosen(after, ["BN"], "batch_size", [2, 32]),
        draws=20,
        record="batch-sizes",
    )


def bn_small_batches_conv() -> Claim:
    """BN against itself at 32, convolutional."""
    after, steps = sizes("batch-sizes-conv"), sizes("batch-sizes-conv", unit="steps")
    return HYPOTHESES["bn-small-batches-conv"].judge(
        _by_size(after, "BN", 2),
        [
            _points("the same, batch 32 − batch 4", _by_size(after, "BN", 4)),
            _points("after 500 steps, batch 32 − batch 2", _by_size(steps, "BN", 2)),
            *(
                _points(f"{arm} after 30 passes, batch 32 − batch 2", _by_size(after, arm, 2))
                for arm in ("no BN", "group norm")
            ),
        ],
        chosen=_chosen(after, ["BN"], "batch_size", [2, 32]),
        draws=10,
        record="batch-sizes-conv",
    )


def group_norm_any_batch() -> Claim:
    """Group norm by the rule that BN is judged by."""
    after, steps, name = sizes(), sizes(unit="steps"), "group norm"
    conv = sizes("batch-sizes-conv")
    others = {
        **{f"the same, batch 32 − batch {m}": (after, name, m) for m in (4, 8, 16)},
        "after 1,500 steps, batch 32 − batch 2": (steps, name, 2),
        "convolutional, 30 passes, batch 32 − batch 2": (conv, name, 2),
        "BN by the same rule, dense, 30 passes": (after, "BN", 2),
    }
    return HYPOTHESES["group-norm-any-batch"].judge(
        _by_size(after, name, 2),
        [_points(label, _by_size(*each), "within") for label, each in others.items()],
        chosen=_chosen(after, [name], "batch_size", [2, 32]),
        draws=20,
        record=["batch-sizes", "batch-sizes-conv"],
    )


def _by_ghost(size: int, passes: int | None = None) -> Interval:
    return lost(ghosts(passes=passes), "BN", "ghost_size", size, 128)


def it_is_the_statistics() -> Claim:
    """Statistics from two images, gradient from 128."""
    plain = _by_size(sizes(), "no BN", 2)
    return HYPOTHESES["it-is-the-statistics"].judge(
        _by_ghost(2),
        [
            *(_points(f"statistics from 128 − from {m}", _by_ghost(m)) for m in (4, 8, 16)),
            _points("the noise of the gradient alone: no BN, batch 32 − batch 2", plain, "within"),
        ],
        chosen=_chosen(ghosts(), ["BN"], "ghost_size", [2, 128]),
        draws=20,
        record=["ghosts", "batch-sizes"],
    )


def batches_of_32_or_64() -> Claim:
    """Whether more than 32 help."""
    return HYPOTHESES["batches-of-32-or-64"].judge(
        _by_ghost(32),
        [
            _points("statistics from 128 − from 64", _by_ghost(64), "within"),
            _points("statistics from 128 − from 32, after 20 passes", _by_ghost(32, 20), "within"),
        ],
        chosen=_chosen(ghosts(), ["BN"], "ghost_size", [32, 128]),
        draws=20,
        record="ghosts",
    )


def bn_correlated_batches() -> Claim:
    """What BN loses beyond what the plain network loses."""
    recomputed, moving = alike(), alike("moving")

    def beyond(classes: int, compared: Comparison) -> Interval:
        losses = (
            compared.values(arm, classes=10) - compared.values(arm, classes=classes)
            for arm in ("BN", "no BN")
        )
        return paired_difference(*losses, overlap=compared.overlap)

    return HYPOTHESES["bn-correlated-batches"].judge(
        beyond(2, recomputed),
        [
            _points("the same, five digits", beyond(5, recomputed)),
            _points("the same, one digit", beyond(1, recomputed)),
            _points("two digits, with the moving statistics of training", beyond(2, moving)),
        ],
        chosen=_chosen(recomputed, ["no BN", "BN"], "classes", [10, 2]),
        draws=20,
        record="alike",
    )


def renorm_correlated_batches() -> Claim:
    """Batch renormalization against BN."""
    recomputed, moving = alike(), alike("moving")
    pair = "batch renorm", "BN"
    return HYPOTHESES["renorm-correlated-batches"].judge(
        recomputed.gain(*pair, classes=2),
        [
            _points("the same, five digits", recomputed.gain(*pair, classes=5)),
            _points("the same, one digit", recomputed.gain(*pair, classes=1)),
            _points("two digits, with the moving statistics", moving.gain(*pair, classes=2)),
            _points(
                "two digits, batch renorm − group norm",
                recomputed.gain("batch renorm", "group norm", classes=2),
            ),
        ],
        chosen=_chosen(recomputed, ["BN", "batch renorm"], "classes", [2]),
        draws=20,
        record="alike",
    )


def renorm_small_batches() -> Claim:
    """Batch renormalization against BN in small batches."""
    after, pair = sizes(), ("batch renorm", "BN")
    return HYPOTHESES["renorm-small-batches"].judge(
        after.gain(*pair, batch_size=4),
        [_points(f"the same, batches of {m}", after.gain(*pair, batch_size=m)) for m in (2, 8)],
        chosen=_chosen(after, ["BN", "batch renorm"], "batch_size", [4]),
        draws=20,
        record="batch-sizes",
    )


CLAIMS = {
    "bn-small-batches": bn_small_batches,
    "bn-small-batches-conv": bn_small_batches_conv,
    "group-norm-any-batch": group_norm_any_batch,
    "it-is-the-statistics": it_is_the_statistics,
    "batches-of-32-or-64": batches_of_32_or_64,
    "bn-correlated-batches": bn_correlated_batches,
    "renorm-correlated-batches": renorm_correlated_batches,
    "renorm-small-batches": renorm_small_batches,
}
