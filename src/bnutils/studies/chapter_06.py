"""Chapter 6: the same weights, predicting with statistics of several kinds.

Plain BN trains without looking at its moving statistics. So one training serves them all: moving
averages of any momentum, biased and unbiased, without their start, and statistics that are taken
anew with the weights held still.

Each seed stands for a whole replicate: its own split of the digits, its own initial weights and
mini-batches, and its own choice of the learning rate, by the score that is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    paired_difference,
    paired_ratio,
)
from bnutils.studies import load
from bnutils.studies.common import DIGITS_OVERLAP, PARTS, Settings, accuracies, pictures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEST_BATCH = 50  # of the images that are normalized by their own statistics

Statistics = list[tuple[np.ndarray, np.ndarray]]  # mean and variance of each BN layer


def build(settings: Settings) -> network.Network:
    """The chapter's dense network, or its convolutional one, a run for each rate.

    Momentum 0: after a step the layers hold the statistics of its batch, and nothing else.
    """
    seeds = [settings["seed"]] * len(settings["learning_rate"])
    norm = network.BatchNorm(momentum=0.0)
    if settings["network"] == "dense":
        return network.mlp([64, 64, 64, 64, 10], seeds=seeds, norm=norm)
    return network.cnn((8, 8, 1), filters=[8, 16], outputs=10, seeds=seeds, norm=norm)


def statistics_block(settings: Settings) -> xr.Dataset:
    """Train with one batch size at all rates; predict with all kinds of statistics on the way."""
    dataset = data.digits(split=settings["seed"])
    net, size = build(settings), settings["batch_size"]
    train = _pictures(settings, dataset.train.x)
    x = _pictures(settings, np.concatenate([dataset.validation.x, dataset.test.x]))
    y = np.concatenate([dataset.validation.y, dataset.test.y])
    moving = _Moving(net, settings["momenta"])
    factors = [size * n / (size * n - 1) for n in _positions(net, train)]
    found: dict[str, list] = {"accuracy": [], "log_loss": [], "variance": []}

    def after_step(net: network.Network, step: int) -> None:
        moving.update(net)
        if step not in settings["times"]:
            return
        kinds = {}
        net.recalibrate(train)
        kinds["recomputed"] = _held(net)
        kinds["held still"] = _held_still(net, train, size, settings["seed"])
        kinds["held still, unbiased"] = [
            (mean, variance * factor)
            for (mean, variance), factor in zip(kinds["held still"], factors, strict=True)
        ]
        for momentum in settings["momenta"]:
            kinds |= moving.kinds(momentum, factors)
        scores = [_scores(_by_batch(net, x), y)]
        for kind in kinds.values():
            _hold(net, kind)
            scores.append(_scores(net(x), y))
        true, biased = (kinds[name] for name in ("recomputed", "held still"))
        found["variance"].append(
            [np.median(a[1] / b[1], axis=1) for a, b in zip(true, biased, strict=True)]
        )
        for name, score in zip(("accuracy", "log_loss"), zip(*scores, strict=True), strict=True):
            found[name].append(score)
        found["arms"] = ["batch of 50", *kinds]

    history = network.fit(
        net,
        train,
        dataset.train.y,
        loss=network.softmax_cross_entropy,
        optimizer=network.Adam(np.array(settings["learning_rate"])),
        steps=max(settings["times"]),
        batch_size=size,
        after_step=after_step,
    )
    axes = ("time", "arm", "learning_rate", "part")
    return xr.Dataset(
        {
            "accuracy": (axes, np.array(found["accuracy"], np.float32)),
            "log_loss": (axes, np.array(found["log_loss"], np.float32)),
            "variance": (
                ("time", "layer", "learning_rate"),
                np.array(found["variance"], np.float32),
            ),
            "loss": (("learning_rate", "step"), history["loss"][:, :3]),
        },
        {
            "time": sorted(settings["times"]),
            "arm": found["arms"],
            "learning_rate": list(settings["learning_rate"]),
            "part": PARTS,
            "layer": range(1, len(factors) + 1),
            "step": range(1, 4),
        },
    )


def forgotten_block(settings: Settings) -> xr.Dataset:
    """Train with batch statistics, or without `training=True`; predict with both statistics."""
    dataset = data.digits(split=settings["seed"])
    seeds = [settings["seed"]] * len(settings["learning_rate"])
    norms = {"training=True": network.BatchNorm(0.9), "forgotten": network.InferenceBatchNorm()}
    net = network.mlp([64, 64, 64, 64, 10], seeds=seeds, norm=norms[settings["arm"]])
    scores = []

    def after_step(net: network.Network, step: int) -> None:
        if step in settings["times"]:
            kept = _held(net)
            moving = accuracies(net, dataset)
            net.recalibrate(dataset.train.x)
            scores.append((moving, accuracies(net, dataset)))
            _hold(net, kept)

    history = network.fit(
        net,
        dataset.train.x,
        dataset.train.y,
        loss=network.softmax_cross_entropy,
        optimizer=network.Adam(np.array(settings["learning_rate"])),
        steps=max(settings["times"]),
        batch_size=settings["batch_size"],
        after_step=after_step,
    )
    return xr.Dataset(
        {
            "accuracy": (
                ("time", "statistics", "learning_rate", "part"),
                np.array(scores, np.float32),
            ),
            "loss": (("learning_rate", "step"), history["loss"][:, :3]),
        },
        {
            "time": sorted(settings["times"]),
            "statistics": ["moving", "recomputed"],
            "learning_rate": list(settings["learning_rate"]),
            "part": PARTS,
            "step": range(1, 4),
        },
    )


class _Moving:
    """Moving averages of several momenta side by side, as Keras keeps each of them."""

    def __init__(self, net: network.Network, momenta: list[float]) -> None:
        start = _flat(_held(net))
        self.momenta, self.updates = list(momenta), 0
        self.past = np.array(momenta, start.dtype)[:, None, None]
        self.kept = np.repeat(start[None], len(self.momenta), axis=0)
        self.sizes = [bn.moving_mean.shape[1] for bn in net.batch_norms]

    def update(self, net: network.Network) -> None:
        """Take in the last batch, whose statistics the layers hold."""
        self.updates += 1
        self.kept *= self.past
        self.kept += (1 - self.past) * _flat(_held(net))

    def kinds(self, momentum: float, factors: list[float]) -> dict[str, Statistics]:
        """The averages; with the unbiased variance; without what is left of their start."""
        left = momentum**self.updates
        flat = np.split(self.kept[self.momenta.index(momentum)], 2 * np.cumsum(self.sizes), axis=1)
        kept = [tuple(np.split(one, 2, axis=1)) for one in flat[:-1]]
        unbiased = [  # PyTorch too multiplies what the batches gave, and not the start
            (mean, left + (variance - left) * factor)
            for (mean, variance), factor in zip(kept, factors, strict=True)
        ]
        kinds = {f"moving {momentum:g}": kept, f"unbiased {momentum:g}": unbiased}
        if 0 < momentum < 1:
            kinds[f"start removed {momentum:g}"] = [
                (mean / (1 - left), np.maximum((variance - left) / (1 - left), 0))
                for mean, variance in kept
            ]
        return kinds


def _flat(statistics: Statistics) -> np.ndarray:
    return np.concatenate([each for pair in statistics for each in pair], axis=1)


def _pictures(settings: Settings, x: np.ndarray) -> np.ndarray:
    """Images as rows of pixels, or as pictures for convolutions."""
    return x if settings["network"] == "dense" else pictures(x)


def _positions(net: network.Network, x: np.ndarray) -> list[int]:
    """How many values each image gives to a statistic, in each BN layer."""
    shapes = [z.shape[2:-1] for name, z in net.activations(x[:1]) if name.startswith("bn")]
    return [int(np.prod(shape, dtype=int)) for shape in shapes]


def _held(net: network.Network) -> Statistics:
    return [(bn.moving_mean, bn.moving_variance) for bn in net.batch_norms]


def _hold(net: network.Network, statistics: Statistics) -> None:
    for bn, (mean, variance) in zip(net.batch_norms, statistics, strict=True):
        bn.moving_mean, bn.moving_variance = mean, variance


def _held_still(net: network.Network, x: np.ndarray, size: int, seed: int) -> Statistics:
    """The statistics of batches, averaged over one pass through x without a step."""
    order, seen = np.random.default_rng([seed, 6]).permutation(len(x)), []
    for start in range(0, len(x) - size + 1, size):
        net(x[order[start : start + size]], training=True)
        seen.append(_held(net))
    return [
        tuple(np.mean(each, axis=0) for each in zip(*one, strict=True))
        for one in zip(*seen, strict=True)
    ]


def _by_batch(net: network.Network, x: np.ndarray) -> np.ndarray:
    """Outputs in training mode, fifty images at a time."""
    parts = (x[start : start + TEST_BATCH] for start in range(0, len(x), TEST_BATCH))
    return np.concatenate([net(part, training=True) for part in parts], axis=1)


def _scores(outputs: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy and log-loss of logits, [runs, 2]: on the validation part, then on the test part."""
    parts = slice(None, 300), slice(300, None)
    right = [(outputs[:, p].argmax(axis=-1) == y[p]).mean(axis=1) for p in parts]
    lost = [network.softmax_cross_entropy(outputs[:, p], y[p])[0] for p in parts]
    return np.stack(right, axis=1), np.stack(lost, axis=1)


# -- hypotheses -----------------------------------------------------------------------------------

_TWO_POINTS = (
    "two points: 400 test images of a pool of 1,797 can't tell less apart, and less would not "
    "make one change how a network is used"
)
_FIFTH = (
    "a fifth of the log-loss: pilots with other seeds scatter so much that 20 replicates can't "
    "carry less"
)
_DIGITS = (
    "digits (1,797 images, split anew for each seed into 1,097, 300 and 400), Adam; the same "
    "weights for both, at the rate whose score on the validation images was best with the "
    "statistics that are named last"
)
_DENSE = f"{_DIGITS}; 64-64-64-64-10 ReLU"
_CONV = f"{_DIGITS}; two convolutions of 8 and 16 channels, max pooling, global average, ReLU"
_EARLY = (
    "batches of 50, after 40 steps: the start of the averages weighs 1.5%, so what counts is lag"
)
_LATE = 5120
_SIZES = 4, 8, 16, 50

HYPOTHESES = {
    each.name: each
    for each in [
        Hypothesis(
            name="recomputed-statistics-beat-moving",
            claim="During training, statistics recomputed with the weights held still predict "
            "better than moving averages, in a dense network.",
            kind="measured",
            source="wu2021",
            said_by="Wu and Johnson 2021, section 3, of large image classifiers",
            label="accuracy, recomputed − moving at momentum 0.9, dense network",
            margin=0.02,
            reason=_TWO_POINTS,
            setting=f"{_DENSE}; momentum 0.9, as in the source; {_EARLY}",
        ),
        Hypothesis(
            name="recomputed-statistics-beat-moving-conv",
            claim="During training, statistics recomputed with the weights held still predict "
            "better than moving averages, in a convolutional network.",
            kind="measured",
            source="wu2021",
            said_by="Wu and Johnson 2021, section 3, of large image classifiers",
            label="accuracy, recomputed − moving at momentum 0.9, convolutional network",
            margin=0.02,
            reason=_TWO_POINTS,
            setting=f"{_CONV}; momentum 0.9, as in the source; {_EARLY}",
        ),
        Hypothesis(
            name="late-recomputing-changes-nothing",
            claim="Once the moving statistics have arrived, recomputing them changes nothing, in a "
            "dense network.",
            kind="measured",
            source="wu2021",
            said_by="the first edition of this book, of the method of Wu and Johnson 2021",
            label="log-loss, recomputed ÷ moving at momentum 0.99, batches of 4",
            claimed="within",
            margin=1.2,
            scale="log",
            reason=_FIFTH,
            setting=f"{_DENSE}; after 5,120 steps; batches of 4, the smallest that were tried",
            spec=".2f",
        ),
        Hypothesis(
            name="lower-momentum-repairs-most",
            claim="A momentum of 0.9 repairs most of what stale statistics cost.",
            kind="measured",
            source="keras3949",
            said_by="this book, after a suggestion in Keras issue 3949, 2016",
            label="accuracy, momentum 0.9 − halfway from recomputed to momentum 0.99",
            margin=0.02,
            reason=f"{_TWO_POINTS}. Most is more than half",
            setting=f"{_DENSE}; batches of 50, after 20 steps, when 0.99 costs much",
        ),
        Hypothesis(
            name="unbiased-inference-variance",
            claim="At inference, the unbiased variance is the one to use, in a dense network with "
            "batches of four.",
            kind="measured",
            source="ioffe2015",
            said_by="Ioffe and Szegedy 2015, section 3.1 and Algorithm 2",
            label="log-loss, biased ÷ unbiased, averaged over batches of 4 with the weights held "
            "still",
            margin=1.2,
            scale="log",
            reason=_FIFTH,
            setting=f"{_DENSE.replace('named last', 'named first')}; after 5,120 steps; batches of "
            "4, where the factor m/(m − 1) is 1.33; raw pixels",
            spec=".2f",
        ),
        Hypothesis(
            name="forgotten-mode-recomputed",
            claim="Recomputing the statistics does harm where training forgot training=True.",
            kind="measured",
            source="keras3949",
            said_by="this book, as a limit to what Keras issue 3949, 2016, asks for",
            label="accuracy, statistics 0 and 1 − recomputed, trained without training=True",
            margin=0.02,
            reason=_TWO_POINTS,
            setting="digits (1,797 images, split anew for each seed into 1,097, 300 and 400), "
            "Adam, batches of 50, 1,000 steps; 64-64-64-64-10 ReLU; the same weights for both, at "
            "the rate that was best on the validation images with the statistics of training",
        ),
    ]
}


def _said(*names: str) -> tuple[Hypothesis, ...]:
    return tuple(HYPOTHESES[name] for name in names)


# Training magnifies the last digit of a number, and in that processors differ. Averages that
# remember one small batch have log-losses with a long tail.
_TOLERANCES = {
    "accuracy": Tolerance(mean=0.03),
    "log_loss": Tolerance(mean=0.1, relative=0.15),
    "variance": Tolerance(mean=0.03),
    "loss": Tolerance(close=2e-3, relative=1e-2, steps=3),
}
_MOMENTA = [0.0, 0.9, 0.99, 0.999]

STUDIES = (
    Study(
        name="moving-statistics",
        question="With which statistics should a network predict, and when does it matter?",
        block=statistics_block,
        dims={
            "batch_size": list(_SIZES),
            "learning_rate": [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1],
            "seed": range(20),
        },
        together=["learning_rate"],
        fixed={
            "network": "dense",
            "momenta": _MOMENTA,
            "times": [5, 10, 20, 40, 80, 160, 320, 640, 1280, 5120],
        },
        tolerances=_TOLERANCES,
        overlap=DIGITS_OVERLAP,
        hypotheses=_said(
            "recomputed-statistics-beat-moving",
            "late-recomputing-changes-nothing",
            "lower-momentum-repairs-most",
            "unbiased-inference-variance",
        ),
    ),
    Study(
        name="moving-statistics-conv",
        question="And in a convolutional network?",
        block=statistics_block,
        dims={
            "batch_size": [4, 16, 50],
            "learning_rate": [0.001, 0.003, 0.01, 0.03, 0.1],
            "seed": range(10),
        },
        together=["learning_rate"],
        fixed={
            "network": "convolutional",
            "momenta": _MOMENTA,
            "times": [10, 20, 40, 80, 320, 1280],
        },
        tolerances=_TOLERANCES,
        overlap=DIGITS_OVERLAP,
        hypotheses=_said("recomputed-statistics-beat-moving-conv"),
    ),
    Study(
        name="forgotten-mode",
        question="What becomes of a network whose training forgot training=True?",
        block=forgotten_block,
        dims={
            "arm": ["training=True", "forgotten"],
            "learning_rate": [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03],
            "seed": range(20),
        },
        together=["learning_rate"],
        fixed={"batch_size": 50, "times": [50, 200, 1000]},
        tolerances={name: _TOLERANCES[name] for name in ("accuracy", "loss")},
        overlap=DIGITS_OVERLAP,
        hypotheses=_said("forgotten-mode-recomputed"),
    ),
)


# -- claims ---------------------------------------------------------------------------------------


def predicted(
    record: str | xr.Dataset = "moving-statistics", score: str = "accuracy", **where: Any
) -> Comparison:
    """Scores by the statistics that predict; each kind at the rates that are best for it.

    Args:
        record: a record of "moving-statistics" or "moving-statistics-conv", or its name.
        score: "accuracy", or "log_loss", of which less is better.
        **where: values of "batch_size" and "time" (steps of training).
    """
    record = load(record) if isinstance(record, str) else record
    return Comparison(record, score, ["learning_rate"], maximize=score == "accuracy", **where)


def with_the_weights_of(compared: Comparison, chooser: str, kinds: Sequence[str]) -> xr.DataArray:
    """Test scores of several kinds of statistics for the same weights.

    The weights are those of the rate that each replicate would choose on its validation images if
    it predicted with one of the kinds.

    Args:
        compared: what `predicted` gives.
        chooser: that kind, such as "moving 0.99".
        kinds: the kinds that are asked for.

    Returns:
        Scores over "arm", "seed" and the axes that `compared` still has.
    """
    test = compared.scores.sel(part="test", drop=True)
    chosen = [
        compared.at_chosen(test.sel(arm=arm, drop=True).expand_dims(arm=[chooser]), chooser)
        for arm in kinds
    ]
    return xr.concat(chosen, pd.Index(kinds, name="arm"))


def over_time(ax: Axes, compared: Comparison, kinds: Sequence[str], chooser: str) -> None:
    """Draw test scores of the same weights over the steps of training.

    Args:
        ax: where to draw.
        compared: what `predicted` gives, at one batch size.
        kinds: the statistics, such as "recomputed" or "moving 0.99", in the order in which
            they are drawn.
        chooser: as for `with_the_weights_of`.
    """
    from bnutils import plots  # here, so that a study can run without Matplotlib

    styles = {"recomputed": "other", "batch of 50": "scaler", "moving 0.9": "theory"}
    scores = with_the_weights_of(compared, chooser, kinds)
    for kind in kinds:
        values = scores.sel(arm=kind).transpose("seed", "time")
        style = styles.get(kind, "BN")
        plots.band(ax, values["time"], values, style, kind, "o", compared.overlap)
    times = compared.scores["time"].values
    ticks = [*times[:-1:2], times[-1]]
    ax.set_xscale("log")
    ax.set_xticks(ticks, ticks)
    ax.minorticks_off()


def arriving(ax: Axes, moving: np.ndarray, true: float, momentum: float, marked: list[int]) -> None:
    """Draw a moving mean that starts at 0, and what the start still weighs after some updates.

    Args:
        ax: where to draw.
        moving: the moving mean after each update.
        true: the mean that it is to arrive at.
        momentum: of the moving mean.
        marked: numbers of updates.
    """
    from bnutils import plots  # here, so that a study can run without Matplotlib

    ax.axhline(true, color=plots.INK, linestyle="--", linewidth=1.2)
    ax.text(0, 1.03 * true, "true mean", va="bottom")
    ax.plot(range(len(moving) + 1), [0, *moving], **plots.arm_style("BN"))
    for n in marked:
        ax.plot(n, moving[n - 1], "o", color=plots.arm_style("BN")["color"], markersize=7)
        late = 2 * n > len(moving)
        gap = "\n" if late else " "
        ax.annotate(
            f"{n} updates:{gap}start weighs {momentum**n:.0%}",
            (n, moving[n - 1]),
            xytext=(0, -10) if late else (10, 3),
            textcoords="offset points",
            ha="center" if late else "left",
            va="top",
        )
    ax.set_ylim(-0.06 * true, 1.22 * true)


def effect(compared: Comparison, arm: str, other: str, chooser: str | None = None) -> Interval:
    """What other statistics do to the same weights.

    Args:
        compared: what `predicted` gives, at one batch size and one time.
        arm: the statistics in question.
        other: those they are compared with.
        chooser: as for `with_the_weights_of`; `other` if None.

    Returns:
        The accuracy of `arm` minus that of `other`, or its log-loss divided by the other's.
    """
    scores = with_the_weights_of(compared, chooser or other, [arm, other])
    statistic = paired_difference if compared.maximize else paired_ratio
    pair = (scores.sel(arm=each).transpose("seed").values for each in (arm, other))
    return statistic(*pair, overlap=compared.overlap)


def effects(
    score: str, arm: str, other: str, times: Sequence[int] = (_LATE,), sizes: Sequence[int] = _SIZES
) -> pd.Series:
    """What other statistics do to the same weights, in the dense network, as text.

    Args:
        score: "accuracy" or "log_loss".
        arm: the statistics in question.
        other: those they are compared with, and that choose the weights.
        times: steps of training.
        sizes: of the batches.

    Returns:
        A row for each batch size and time, with the 95% interval; see `effect`.
    """
    rows = {}
    for size in sizes:
        for time in times:
            found = effect(_at(size, time, score), arm, other)
            rows[size, time] = format(found, ".2f" if found.scale == "log" else ".3f")
    return pd.Series(rows).rename_axis(["batch", "steps"])


def _finding(
    label: str, found: Interval, claimed: str = "above", margin: float | None = None
) -> Finding:
    if found.scale == "log":
        reason = "a fifth" if margin is None else ""
        return Finding(label, found, claimed, margin=margin or 1.2, reason=reason, spec=".2f")
    return Finding(label, found, claimed, margin=0.02, reason="two points")


def _at(size: int, time: int, score: str = "accuracy", conv: bool = False) -> Comparison:
    record = "moving-statistics-conv" if conv else "moving-statistics"
    return predicted(record, score, batch_size=size, time=time)


def _best_momentum(compared: Comparison) -> Comparison:
    """Recomputed against moving, whose momentum is chosen on validation data too."""
    moving = [arm for arm in compared.arms if arm.startswith("moving")]
    momenta = pd.Index([float(arm.split()[1]) for arm in moving], name="momentum")
    scores = {
        "recomputed": compared.scores.sel(arm=["recomputed"] * len(moving)),
        "moving": compared.scores.sel(arm=moving),
    }
    arms = [each.drop_vars("arm").rename(arm="momentum") for each in scores.values()]
    joined = xr.concat(
        [each.assign_coords(momentum=momenta) for each in arms], pd.Index(scores, name="arm")
    )
    return Comparison(
        compared.record,
        joined.rename("score"),
        ["learning_rate", "momentum"],
        maximize=compared.maximize,
        overlap=compared.overlap,
    )


def _beats(name: str, conv: bool) -> Claim:
    pair = "recomputed", "moving 0.9"
    early = _at(50, 40, conv=conv)
    own = early.gain(*pair)
    best = _best_momentum(early).gain("recomputed", "moving")
    size, last = 4, 1280 if conv else _LATE
    late = _at(size, last, conv=conv)
    return HYPOTHESES[name].judge(
        effect(early, *pair),
        [
            _finding("each at its own best rate", own),
            _finding("each at its own best rate, and the averages at their best momentum", best),
            *(
                _finding(f"after {time} steps", effect(_at(50, time, conv=conv), *pair))
                for time in (10, 80, 320)
            ),
            _finding("batches of 4, after 40 steps", effect(_at(4, 40, conv=conv), *pair)),
            _finding(f"batches of {size}, after {last:,} steps", effect(late, *pair)),
            _finding("momentum 0.99, after 40 steps", effect(early, "recomputed", "moving 0.99")),
            _finding(
                "log-loss, moving at momentum 0.9 ÷ recomputed, after 40 steps",
                effect(_at(50, 40, "log_loss", conv), *pair[::-1], chooser=pair[1]),
            ),
        ],
        chosen={pair[1]: early.chosen(pair[1])},
        draws=early.seeds,
        record="moving-statistics-conv" if conv else "moving-statistics",
    )


def recomputed_statistics_beat_moving() -> Claim:
    """Early in training, dense."""
    return _beats("recomputed-statistics-beat-moving", conv=False)


def recomputed_statistics_beat_moving_conv() -> Claim:
    """Early in training, convolutional."""
    return _beats("recomputed-statistics-beat-moving-conv", conv=True)


def late_recomputing_changes_nothing() -> Claim:
    """After training, at the smallest batch and at others."""
    pair, lost = ("recomputed", "moving 0.99"), "log_loss"
    late = _at(4, _LATE, lost)
    return HYPOTHESES["late-recomputing-changes-nothing"].judge(
        effect(late, *pair),
        [
            _finding("is it more at all?", effect(late, *pair), margin=1.0),
            _finding("each at its own best rate", late.ratio(*pair), "within"),
            _finding("after 1,280 steps", effect(_at(4, 1280, lost), *pair), "within"),
            _finding(
                "recomputed ÷ averaged over batches of 4 with the weights held still",
                effect(late, "recomputed", "held still", chooser=pair[1]),
                "within",
            ),
            *(
                _finding(f"batches of {size}", effect(_at(size, _LATE, lost), *pair), "within")
                for size in (8, 16, 50)
            ),
            *(
                _finding(
                    f"accuracy, recomputed − moving, batches of {size}",
                    effect(_at(size, _LATE), *pair),
                    "within",
                )
                for size in (4, 50)
            ),
            _finding(
                "convolutional, batches of 4, after 1,280 steps",
                effect(_at(4, 1280, lost, conv=True), *pair),
                "within",
            ),
        ],
        chosen={pair[1]: late.chosen(pair[1])},
        draws=late.seeds,
        record=["moving-statistics", "moving-statistics-conv"],
    )


def _beyond_half(compared: Comparison) -> Interval:
    kinds = ["moving 0.9", "moving 0.99", "recomputed"]
    lower, stale, fresh = with_the_weights_of(compared, "moving 0.99", kinds).values
    return paired_difference(lower, (stale + fresh) / 2, overlap=compared.overlap)


def lower_momentum_repairs_most() -> Claim:
    """Momentum 0.9 between 0.99 and recomputed."""
    late = [_at(4, _LATE), _at(4, _LATE, "log_loss")]
    pair = "moving 0.9", "moving 0.99"
    return HYPOTHESES["lower-momentum-repairs-most"].judge(
        _beyond_half(_at(50, 20)),
        [
            *(
                _finding(f"the same, after {time} steps", _beyond_half(_at(50, time)))
                for time in (5, 10, 40, 80)
            ),
            _finding("the same, batches of 4, after 20 steps", _beyond_half(_at(4, 20))),
            _finding(
                "the same, convolutional network, after 20 steps",
                _beyond_half(_at(50, 20, conv=True)),
            ),
            _finding(
                "what it costs in the end: accuracy, 0.9 − 0.99, batches of 4, 5,120 steps",
                effect(late[0], *pair),
                "within",
            ),
            _finding(
                "log-loss, 0.9 ÷ 0.99, batches of 4, 5,120 steps", effect(late[1], *pair), "within"
            ),
            _finding(
                "log-loss, 0 ÷ 0.99, batches of 4, 5,120 steps",
                effect(late[1], "moving 0", "moving 0.99"),
                "within",
            ),
        ],
        chosen={pair[1]: _at(50, 20).chosen(pair[1])},
        draws=20,
        record=["moving-statistics", "moving-statistics-conv"],
    )


def unbiased_inference_variance() -> Claim:
    """Biased against unbiased, with the exact statistics as a third."""
    pair, lost = ("held still", "held still, unbiased"), "log_loss"
    late = _at(4, _LATE, lost)
    conv = _at(4, 1280, lost, conv=True)
    return HYPOTHESES["unbiased-inference-variance"].judge(
        effect(late, *pair, chooser=pair[0]),
        [
            _finding("each at its own best rate", late.ratio(*pair)),
            _finding("after 1,280 steps", effect(_at(4, 1280, lost), *pair, chooser=pair[0])),
            _finding("biased ÷ recomputed", effect(late, pair[0], "recomputed", chooser=pair[0])),
            _finding("recomputed ÷ unbiased", effect(late, "recomputed", pair[1], chooser=pair[0])),
            _finding(
                "biased ÷ unbiased, moving averages of momentum 0.99",
                effect(late, "moving 0.99", "unbiased 0.99", chooser="moving 0.99"),
            ),
            *(
                _finding(
                    f"biased ÷ unbiased, batches of {size}",
                    effect(_at(size, _LATE, lost), *pair, chooser=pair[0]),
                )
                for size in (8, 16, 50)
            ),
            *(
                _finding(
                    f"accuracy, unbiased − biased, batches of {size}",
                    effect(_at(size, _LATE), pair[1], pair[0]),
                )
                for size in (4, 50)
            ),
            _finding(
                "biased ÷ unbiased, convolutional, batches of 4, after 1,280 steps",
                effect(conv, *pair, chooser=pair[0]),
            ),
        ],
        chosen={"biased": late.chosen(pair[0])},
        draws=20,
        record=["moving-statistics", "moving-statistics-conv"],
    )


def forgotten(record: xr.Dataset | None = None, time: int = 1000) -> xr.DataArray:
    """Test accuracy of the two loops with both statistics, for the same weights.

    Each replicate takes the rate that is best on its validation images with the statistics that
    its loop left.

    Args:
        record: a record of "forgotten-mode"; the book's if None.
        time: steps of training.

    Returns:
        Accuracy over "arm", "statistics" and "seed".
    """
    record = load("forgotten-mode") if record is None else record
    left = Comparison(record, "accuracy", ["learning_rate"], statistics="moving", time=time)
    test = record["accuracy"].sel(part="test", time=time, drop=True)
    chosen = [left.at_chosen(test, arm) for arm in left.arms]
    return xr.concat(chosen, pd.Index(left.arms, name="arm"))


def forgotten_mode_recomputed() -> Claim:
    """What recomputing does to weights that never met batch statistics."""

    def lost(arm: str, time: int = 1000) -> Interval:
        scores = forgotten(time=time).sel(arm=arm).transpose("statistics", "seed").values
        return paired_difference(*scores, overlap=DIGITS_OVERLAP)

    record = load("forgotten-mode")
    left = Comparison(record, "accuracy", ["learning_rate"], statistics="moving", time=1000)
    return HYPOTHESES["forgotten-mode-recomputed"].judge(
        lost("forgotten"),
        [
            *(
                _finding(f"the same, after {time} steps", lost("forgotten", time))
                for time in (50, 200)
            ),
            _finding("moving at momentum 0.9 − recomputed, training=True", lost("training=True")),
            _finding("accuracy, training=True − forgotten", left.gain(*left.arms)),
        ],
        chosen={arm: left.chosen(arm) for arm in left.arms},
        draws=20,
        record="forgotten-mode",
    )


CLAIMS = {
    "recomputed-statistics-beat-moving": recomputed_statistics_beat_moving,
    "recomputed-statistics-beat-moving-conv": recomputed_statistics_beat_moving_conv,
    "late-recomputing-changes-nothing": late_recomputing_changes_nothing,
    "lower-momentum-repairs-most": lower_momentum_repairs_most,
    "unbiased-inference-variance": unbiased_inference_variance,
    "forgotten-mode-recomputed": forgotten_mode_recomputed,
}
