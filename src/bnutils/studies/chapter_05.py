"""Chapter 5: batch normalization on outputs and on inputs.

Each seed stands for a whole replicate: its own initial weights and mini-batches, and its own draw
of the data: months of rain, a generated problem, or a split of the digits. At inference BN has the
statistics of all training data ("recomputed"), or moving averages with one of two momenta.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import DTypeLike
from scipy.special import stdtrit

from bnutils import data, network
from bnutils.evidence import (
    Claim,
    Comparison,
    Finding,
    Hypothesis,
    Interval,
    Study,
    Tolerance,
    interval,
    paired_ratio,
)
from bnutils.evidence.intervals import exact
from bnutils.studies import load
from bnutils.studies.chapter_01 import MOMENTA, Averages
from bnutils.studies.common import DIGITS_OVERLAP, PARTS, Settings

FIXED = "BN, no gamma and beta"
NORMS = {
    "no BN": None,
    FIXED: network.BatchNorm(center=False, scale=False),
    "BN": network.BatchNorm(),
}
STATISTICS = ["recomputed", *map(str, MOMENTA)]
TRAINED = [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0]
MONTHS_OVERLAP = 12 / 24  # months of test over months of training


# ----------------------------------------------------------------------------------------- the data


@cache
def months(seed: int) -> data.Dataset:
    """The days of the rain, drawn anew as whole months; inputs standardized.

    Of the four Januaries two are for training, one for validation and one for the test, and so on.
    The first three days of each month are left out: among their inputs is the rain of the month
    before, which may belong to another part.

    Args:
        seed: which draw.

    Returns:
        The parts; all who ask for a draw share its arrays.
    """
    whole = data.seattle_rain()
    x, y = (
        np.concatenate([getattr(getattr(whole, part), name) for part in ("train", *PARTS)])
        for name in "xy"
    )
    day = np.datetime64("2012-01-04") + np.arange(len(y))
    month = day.astype("datetime64[M]")
    year, calendar = np.divmod(month.astype(int), 12)
    inside = (day - month.astype("datetime64[D]")).astype(int) >= 3
    rng = np.random.default_rng([seed, 5])
    place = np.empty(len(y), int)  # 0 and 1 train, 2 validates, 3 tests
    for each in range(12):
        here = calendar == each
        place[here] = rng.permutation(4)[year[here] - year.min()]
    parts = (
        data.Part(x[rows & inside], y[rows & inside])
        for rows in (place < 2, place == 2, place == 3)
    )
    return data.Dataset(whole.name, whole.task, whole.feature_names, *parts).standardized()


# ------------------------------------------------------------------------------------- the training


def _looks(
    net: network.Network,
    averages: Averages,
    x: np.ndarray,
    look: Callable[[network.Network], np.ndarray],
) -> np.ndarray:
    """What a look sees with each kind of statistics, on a new last axis."""
    if not net.batch_norms:
        return np.repeat(look(net)[..., None], len(STATISTICS), axis=-1)
    net.recalibrate(x)
    seen = [look(net)]
    for index in range(len(MOMENTA)):
        averages.install(index)
        seen.append(look(net))
    return np.stack(seen, axis=-1)


def _train(
    net: network.Network,
    part: tuple[np.ndarray, np.ndarray],
    rates: np.ndarray,
    loss: network.Loss,
    batch_size: int,
    times: list[int],
    look: Callable[[network.Network], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Train with Adam.

    Returns:
        What `look` saw at the given numbers of steps, [runs, ..., statistics, times], and the
        first five losses.
    """
    x, y = part
    averages, seen = Averages(net), {}

    def after_step(net: network.Network, step: int) -> None:
        averages.update()
        if step in times:
            seen[step] = _looks(net, averages, x, look)

    history = network.fit(
        net,
        x,
        y,
        loss=loss,
        optimizer=network.Adam(rates),
        steps=max(times),
        batch_size=batch_size,
        after_step=after_step,
    )
    stacked = np.stack([seen[time] for time in times], axis=-1)
    return _stored(stacked), history["loss"][:, :5]


def _stored(values: np.ndarray) -> np.ndarray:
    """Five decimals, which a small file can hold."""
    return np.round(values, 5).astype(np.float32)


WORST = 100.0  # what a larger error, or one of a network that has diverged, counts for


def _capped(errors: np.ndarray) -> np.ndarray:
    return np.where(errors < WORST, errors, WORST)


# ------------------------------------------------------------------------------ outputs: regression


def rain_network(
    head: str,
    seeds: Sequence[int],
    mean: np.ndarray | float = 0.0,
    sd: np.ndarray | float = 1.0,
    dtype: DTypeLike = np.float32,
) -> network.Network:
    """The network of the rain, a copy for each seed.

    Args:
        head: "no BN", "BN", "BN, no gamma and beta", or "head start": BN whose beta begins at the
            mean and whose gamma begins at the standard deviation of the targets.
        seeds: of the initial weights.
        mean: of the targets, a number or one for each copy; only a head start needs it.
        sd: likewise.
        dtype: np.float32 or np.float64.
    """
    norm = NORMS["BN" if head == "head start" else head]
    net = network.mlp([9, 32, 16, 1], seeds=seeds, output_norm=norm, dtype=dtype)
    if head == "head start":
        net.layers[-1].beta[:] = np.reshape(mean, (-1, 1))
        net.layers[-1].gamma[:] = np.reshape(sd, (-1, 1))
    return net


def rain_networks(
    head: str, rain: data.Dataset, seeds: Sequence[int] = range(10)
) -> network.Network:
    """Networks that are trained on millimeters for 300 steps of Adam at a rate of 0.003.

    Args:
        head: as for `rain_network`.
        rain: the days, inputs standardized.
        seeds: of the initial weights, one for each network.

    Returns:
        The networks, with statistics recomputed over all training days.
    """
    nets = rain_network(head, seeds, dtype=rain.train.x.dtype)
    network.fit(
        nets,
        rain.train.x,
        rain.train.y,
        loss=network.squared_error,
        optimizer=network.Adam(0.003),
        steps=300,
        batch_size=32,
    )
    nets.recalibrate(rain.train.x)
    return nets


def rain_block(settings: Settings) -> xr.Dataset:
    """Train one output on raw and on standardized millimeters, at all rates."""
    rain, runs = months(settings["seed"]), _grid(settings, "target", "learning_rate")
    raw = (runs.target == "raw")[:, None]
    shift, scale = (
        np.where(raw, plain, of(rain.train.y)) for plain, of in ((0, np.mean), (1, np.std))
    )
    shift, scale = shift.astype(np.float32), scale.astype(np.float32)
    targets = (rain.train.y - shift) / scale
    mean, sd = targets.mean(axis=1), targets.std(axis=1)
    net = rain_network(settings["arm"], [settings["seed"]] * len(runs), mean, sd)

    def look(net: network.Network) -> np.ndarray:
        """Three errors on both parts, the highest prediction, beta and gamma, [runs, 9]."""
        columns = []
        for part in (getattr(rain, name) for name in PARTS):
            with np.errstate(all="ignore"):
                mm = shift + scale * net(part.x)[..., 0]
                off, log = mm - part.y, np.log1p(np.maximum(mm, 0)) - np.log1p(part.y)
                columns += [_capped(e) for e in (_rms(off), np.abs(off).mean(axis=1), _rms(log))]
        last = net.layers[-1]
        own = [getattr(last, name, None) for name in ("beta", "gamma")]
        own = [np.full(len(runs), np.nan) if one is None else one[:, 0] for one in own]
        return np.stack([*columns, _capped(mm.max(axis=1)), *own], axis=1)

    seen, losses = _train(
        net,
        (rain.train.x, targets),
        runs.learning_rate,
        network.squared_error,
        settings["batch_size"],
        settings["after"],
        look,
    )
    axes = ("target", "learning_rate", "statistics", "after")
    seen = runs.reshape(seen)
    errors = seen[:, :, :6].reshape(*runs.shape, 2, 3, *seen.shape[3:])
    found = {
        "rmse": (("target", "learning_rate", "part", *axes[2:]), errors[:, :, :, 0]),
        **{
            name: (("target", "learning_rate", "part", "after"), errors[:, :, :, k, 0])
            for k, name in enumerate(["mae", "log_rmse"], start=1)
        },
        **{
            name: (("target", "learning_rate", "after"), seen[:, :, k, 0])
            for k, name in enumerate(["highest", "beta", "gamma"], start=6)
        },
        "loss": (("target", "learning_rate", "step"), runs.reshape(losses)),
    }
    labels = {"after": list(settings["after"]), "statistics": STATISTICS, "part": PARTS}
    return xr.Dataset(found, _labels(settings, runs) | labels | {"step": range(1, 6)})


def _rms(values: np.ndarray) -> np.ndarray:
    return np.sqrt((values**2).mean(axis=1))


def _grid(settings: Settings, *names: str) -> network.Grid:
    return network.grid(**{name: list(settings[name]) for name in names})


def _labels(settings: Settings, runs: network.Grid) -> dict[str, list]:
    return {name: list(settings[name]) for name in runs.names}


# ---------------------------------------------------------------------------- outputs: a classifier


def logits_block(settings: Settings) -> xr.Dataset:
    """Train one output on an even and on an uneven two-class problem, at all rates."""
    runs = _grid(settings, "share", "learning_rate")
    problems = {
        share: data.two_classes(seed=settings["seed"], positive_share=share).standardized()
        for share in settings["share"]
    }
    train, *others = (
        _stack([getattr(problems[share], part) for share in runs.share])
        for part in ("train", *PARTS)
    )
    net = network.mlp(
        [20, 32, 16, 1],
        seeds=[settings["seed"]] * len(runs),
        output_norm=NORMS[settings["arm"]],
    )
    tables = []

    def look(net: network.Network) -> np.ndarray:
        """Accuracy and log-loss on both parts, and the mean probability on the test part."""
        outputs = [net(x) for x, _ in others]
        tables.append([network.sigmoid(outputs[1][..., 0]), others[1][1]])
        scores = [_two_scores(logit, y) for logit, (_, y) in zip(outputs, others, strict=True)]
        mean = network.sigmoid(outputs[1][..., 0]).mean(axis=1)
        return np.concatenate([*scores, mean[:, None]], axis=1)

    seen, losses = _train(
        net,
        train,
        runs.learning_rate,
        network.sigmoid_cross_entropy,
        settings["batch_size"],
        settings["after"],
        look,
    )
    seen = runs.reshape(seen)
    found = _both_scores(runs, seen[:, :, :4], "after")
    found["mean_p"] = ((*runs.names, "after"), seen[:, :, 4, 0])
    found["positives"] = ("share", [problems[s].test.y.mean() for s in settings["share"]])
    found["loss"] = ((*runs.names, "step"), runs.reshape(losses))
    every = len(tables) // len(settings["after"])  # looks at each time, the first recomputed
    bins = []
    for index, loss in enumerate(seen[:, :, 1, 0]):  # on validation data, by rate and time
        rate, time = np.unravel_index(np.nanargmin(loss), loss.shape)
        p, y = (each[index * len(loss) + rate] for each in tables[time * every])
        bins.append(_bins(p, y))
    found["bins"] = (("share", "bin", "what"), np.array(bins, np.float32))
    labels = {
        "after": list(settings["after"]),
        "statistics": STATISTICS,
        "part": PARTS,
        "step": range(1, 6),
        "bin": range(10),
        "what": ["count", "said", "true"],
    }
    return xr.Dataset(found, _labels(settings, runs) | labels)


def _stack(parts: list[data.Part]) -> tuple[np.ndarray, np.ndarray]:
    """Data of its own for each run."""
    return np.stack([part.x for part in parts]), np.stack([part.y for part in parts])


def _two_scores(logit: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Accuracy and log-loss, [runs, 2]."""
    if logit.shape[-1] == 1:
        right, loss = (logit[..., 0] > 0) == y, network.sigmoid_cross_entropy(logit, y)[0]
    else:
        right, loss = logit.argmax(-1) == y, network.softmax_cross_entropy(logit, y)[0]
    right = right & ~np.isnan(logit).any(axis=-1)
    return np.stack([right.mean(axis=1), _capped(loss)], axis=1)


def _both_scores(runs: network.Grid, seen: np.ndarray, times: str) -> dict[str, tuple]:
    """Accuracy and log-loss out of what was seen, [*runs, parts x scores, statistics, times]."""
    scores = seen.reshape(*runs.shape, 2, 2, *seen.shape[-2:])
    axes = (*runs.names, "part", "statistics", times)
    return {
        name: (axes, scores[(slice(None),) * (len(runs.shape) + 1) + (k,)])
        for k, name in enumerate(["accuracy", "log_loss"])
    }


def _bins(p: np.ndarray, y: np.ndarray) -> list[list[float]]:
    """By tenths of the predicted probability: how many, what was said, and what came true."""
    where = np.minimum((p * 10).astype(int), 9)
    sums = (np.bincount(where, weights=w, minlength=10) for w in (np.ones(len(p)), p, y))
    return np.stack(list(sums), axis=1).tolist()


# ------------------------------------------------------------------------------------------- inputs


def inputs_block(settings: Settings) -> xr.Dataset:
    """Train one kind of input on raw and on standardized features, at all rates."""
    runs = _grid(settings, "inputs", "learning_rate")
    raw = data.two_classes(seed=settings["seed"], raw_scales=True)
    kinds = {"raw": raw, "standardized": raw.standardized()}
    train, *others = (
        _stack([getattr(kinds[kind], part) for kind in runs.inputs]) for part in ("train", *PARTS)
    )
    net = network.mlp(
        [20, 32, 16, 1],
        seeds=[settings["seed"]] * len(runs),
        input_norm=NORMS[settings["arm"]],
    )
    return _inputs(settings, runs, net, train, others, network.sigmoid_cross_entropy)


def digits_block(settings: Settings) -> xr.Dataset:
    """Train one kind of input on standardized digits, at all rates."""
    runs = _grid(settings, "learning_rate")
    digits = data.digits(split=settings["seed"]).standardized()
    net = network.mlp(
        [64, 48, 48, 10],
        seeds=[settings["seed"]] * len(runs),
        norm=NORMS[settings["hidden"]],
        input_norm=NORMS[settings["arm"]],
    )
    train, *others = ((part.x, part.y) for part in (digits.train, digits.validation, digits.test))
    return _inputs(settings, runs, net, train, others, network.softmax_cross_entropy)


def steps_of(settings: Settings) -> list[int]:
    """When a training on inputs is looked at: small batches take more steps, and fewer passes."""
    whole = settings["work"] / settings["batch_size"] ** 0.5
    return [round(part * whole) for part in settings["trained"]]


def _inputs(
    settings: Settings,
    runs: network.Grid,
    net: network.Network,
    train: tuple[np.ndarray, np.ndarray],
    others: list[tuple[np.ndarray, np.ndarray]],
    loss: network.Loss,
) -> xr.Dataset:
    def look(net: network.Network) -> np.ndarray:
        return np.concatenate([_two_scores(net(x), y) for x, y in others], axis=1)

    seen, losses = _train(
        net, train, runs.learning_rate, loss, settings["batch_size"], steps_of(settings), look
    )
    found = _both_scores(runs, runs.reshape(seen), "trained")
    found["loss"] = ((*runs.names, "step"), runs.reshape(losses))
    labels = {
        "trained": list(settings["trained"]),
        "statistics": STATISTICS,
        "part": PARTS,
        "step": range(1, 6),
    }
    return xr.Dataset(found, _labels(settings, runs) | labels)


# ---------------------------------------------------------------------------------- by construction


def range_block(settings: Settings) -> xr.Dataset:
    """Errors of the mean and the spread that BN's formula fixes, for outputs drawn at random."""
    rng = np.random.default_rng(settings["seed"])
    size, epsilon = int(rng.integers(2, 200)), 1e-3
    scale, shift = 10 ** rng.uniform(-3, 3), rng.normal(scale=100)
    z = (shift + scale * rng.standard_t(3, size=(1, size, 1))).astype(np.float64)
    layer = network.BatchNorm(epsilon=epsilon).build(1, 1, np.dtype(float))
    layer.gamma[:], layer.beta[:] = rng.normal(scale=5, size=2)
    y = layer(z, training=True)[0, :, 0]
    variance = z.var()
    spread = abs(layer.gamma[0, 0]) * np.sqrt(variance / (variance + epsilon))
    errors = abs(y.mean() - layer.beta[0, 0]), abs(y.std() - spread)
    return xr.Dataset({"error": ("what", list(errors))}, {"what": ["mean", "standard deviation"]})


# --------------------------------------------------------------------------------------- hypotheses

_FIVE = (
    "5 % of the error, about a third of what the network gains over the mean of the training "
    "months: less is made up for by another choice of the rate, and another draw of months moves "
    "the error by more"
)
_TENTH = "a tenth of the loss: two problems of the same kind differ by more"
_POINT = "one point: less would not make one change the network"
_RAIN = (
    "Seattle rain: 48 months, drawn anew for each seed, of each calendar month two for training, "
    "one for validation and one for the test; 9-32-16-1 ReLU, Adam, up to 2,000 steps. Each output "
    "and each replicate has the learning rate, the batch size, the stopping step and the "
    "statistics that were best on its validation months"
)
_CLASSES = (
    "twenty generated two-class problems, 20-32-16-1 ReLU, Adam. Each network and each problem has "
    "the learning rate, the stopping step and the statistics that were best on its validation part "
    "by the score that is compared"
)
_SAID = "the article this book grew from"

HYPOTHESES = {
    each.name: each
    for each in [
        Hypothesis(
            name="output-bn-fixes-range",
            claim="BN on the output gives the predictions of every training batch the same mean, "
            "beta, and a spread set by gamma.",
            kind="identity",
            source="article",
            said_by=f"after {_SAID}: BN on the output breaks the expected range",
            label="largest error of mean and standard deviation, in training mode",
            claimed="within",
            margin=1e-9,
            reason="rounding in double precision",
            spec=".0e",
            setting="20 random batches of 2 to 200 outputs of very different mean and spread, "
            "random gamma and beta; the spread is |gamma| sd / sqrt(variance + epsilon)",
        ),
        Hypothesis(
            name="output-bn-breaks-regression",
            claim="BN on the output of a regression makes it worse.",
            kind="measured",
            source="article",
            said_by=_SAID,
            label="RMSE on raw millimeters, BN with gamma and beta ÷ no BN",
            claimed="above",
            margin=1.05,
            scale="log",
            reason=_FIVE,
            setting=_RAIN,
        ),
        Hypothesis(
            name="output-bn-breaks-classifier",
            claim="BN on the output of a classifier makes it worse.",
            kind="measured",
            source="article",
            said_by=_SAID,
            label="log-loss, even classes, BN with gamma and beta ÷ no BN",
            claimed="above",
            margin=1.1,
            scale="log",
            reason=_TENTH,
            spec=".2f",
            setting=f"{_CLASSES}, and so has the batch size, 16 or 64",
        ),
        Hypothesis(
            name="output-bn-breaks-probabilities",
            claim="BN without gamma and beta on a logit makes a rare class look common.",
            kind="measured",
            source="article",
            said_by=f"after {_SAID}: BN on the output breaks the expected range",
            label="mean probability − share of positives, one positive in ten, BN without gamma "
            "and beta",
            claimed="above",
            margin=0.1,
            reason="a class of one in ten would be taken for one of two in ten",
            spec=".2f",
            setting=f"{_CLASSES} (log-loss), and so has the batch size, 16 or 64; statistics "
            "recomputed",
        ),
        Hypothesis(
            name="input-bn-adds-nothing",
            claim="BN on inputs that are normalized already adds nothing.",
            kind="measured",
            source="article",
            said_by=f"{_SAID}; to normalize inputs beforehand, LeCun et al. 1998",
            label="accuracy on standardized inputs, BN − no BN, batches of 32",
            claimed="within",
            margin=0.01,
            reason=f"{_POINT}, be it a gain or a loss",
            setting=f"{_CLASSES}; 6,000 steps with batches of 4, 2,121 with 32, 1,061 with 128",
        ),
    ]
}

_RATES = [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]
_AFTER = [20, 50, 100, 200, 500, 1000, 2000]
# Adam with a large rate magnifies the last digit of a number, and in that processors differ.
_LOSS = Tolerance(close=2e-3, relative=1e-2, steps=2)
_ERROR = Tolerance(mean=0.3, relative=0.1)
_SCORES = {
    "accuracy": Tolerance(mean=0.03),
    "log_loss": Tolerance(mean=0.1, relative=0.1),
    "loss": _LOSS,
}

STUDIES = (
    Study(
        name="output-range",
        question="What does BN's formula fix, whatever comes in?",
        block=range_block,
        dims={"seed": range(20)},
        tolerances={"error": Tolerance(1e-9)},
        hypotheses=(HYPOTHESES["output-bn-fixes-range"],),
    ),
    Study(
        name="rain",
        question="What does BN on the output of a regression do, in raw and in standardized units?",
        block=rain_block,
        dims={
            "arm": ["no BN", FIXED, "BN", "head start"],
            "target": ["raw", "standardized"],
            "batch_size": [8, 32, 128],
            "learning_rate": [*_RATES, 3.0],
            "seed": range(20),
        },
        together=["target", "learning_rate"],
        fixed={"after": _AFTER},
        tolerances={
            **dict.fromkeys(["rmse", "mae", "log_rmse"], _ERROR),
            **dict.fromkeys(["highest", "beta", "gamma"], Tolerance(mean=2.0, relative=0.3)),
            "loss": _LOSS,
        },
        overlap=MONTHS_OVERLAP,
        hypotheses=(HYPOTHESES["output-bn-breaks-regression"],),
    ),
    Study(
        name="logits",
        question="What does BN on the output of a classifier do?",
        block=logits_block,
        dims={
            "arm": list(NORMS),
            "share": [0.5, 0.1],
            "batch_size": [16, 64],
            "learning_rate": _RATES,
            "seed": range(20),
        },
        together=["share", "learning_rate"],
        fixed={"after": _AFTER},
        tolerances={
            **_SCORES,
            "mean_p": Tolerance(mean=0.03),
            "positives": Tolerance(1e-6),
            "bins": Tolerance(mean=30.0),
        },
        hypotheses=(
            HYPOTHESES["output-bn-breaks-classifier"],
            HYPOTHESES["output-bn-breaks-probabilities"],
        ),
    ),
    Study(
        name="inputs",
        question="What does BN on the inputs add, and can it replace a scaler?",
        block=inputs_block,
        dims={
            "arm": list(NORMS),
            "inputs": ["raw", "standardized"],
            "batch_size": [4, 32, 128],
            "learning_rate": _RATES,
            "seed": range(20),
        },
        together=["inputs", "learning_rate"],
        fixed={"work": 12000, "trained": TRAINED},
        tolerances=_SCORES,
        hypotheses=(HYPOTHESES["input-bn-adds-nothing"],),
    ),
    Study(
        name="inputs-long",
        question="And if batches of 4 are given more time?",
        block=inputs_block,
        dims={
            "arm": ["no BN", "BN"],
            "inputs": ["standardized"],
            "batch_size": [4],
            "learning_rate": _RATES[:5],
            "seed": range(20),
        },
        together=["inputs", "learning_rate"],
        fixed={"work": 32000, "trained": TRAINED},
        tolerances=_SCORES,
        changes=(
            "Added after the record of `inputs`: with batches of 4 most replicates with BN chose "
            "the last step, and the distance to the scaler still shrank.",
        ),
    ),
    Study(
        name="inputs-digits",
        question="And on images, with and without BN in the hidden layers?",
        block=digits_block,
        dims={
            "arm": ["no BN", "BN"],
            "hidden": ["no BN", "BN"],
            "batch_size": [32],
            "learning_rate": _RATES[:-1],
            "seed": range(20),
        },
        together=["learning_rate"],
        fixed={"work": 8000, "trained": TRAINED},
        tolerances=_SCORES,
        overlap=DIGITS_OVERLAP,
    ),
)


# ------------------------------------------------------------------------------------------- claims


def _compared(
    record: str | xr.Dataset, score: str, choose: list[str], where: dict, maximize: bool
) -> Comparison:
    record = load(record) if isinstance(record, str) else record
    free = [name for name in choose if name in record[score].dims and name not in where]
    return Comparison(record, score, free, maximize=maximize, **where)


def rain(score: str = "rmse", record: str | xr.Dataset = "rain", **where: object) -> Comparison:
    """Errors on rain; all settings that are not given are chosen on validation months.

    Args:
        score: "rmse", "mae" (mean absolute error), or "log_rmse", the RMSE of log(1 + mm).
        record: a record of "rain", or its name.
        **where: values of target, batch_size, learning_rate, after and statistics.
    """
    choose = ["target", "batch_size", "learning_rate", "after", "statistics"]
    return _compared(record, score, choose, where, maximize=False)


def logits(
    share: float, score: str = "log_loss", record: str | xr.Dataset = "logits", **where: object
) -> Comparison:
    """Scores of classifiers; all settings that are not given are chosen on the validation part.

    Args:
        share: of the positives, 0.5 or 0.1.
        score: "log_loss" or "accuracy".
        record: a record of "logits", or its name.
        **where: values of batch_size, learning_rate, after and statistics.
    """
    choose = ["batch_size", "learning_rate", "after", "statistics"]
    return _compared(record, score, choose, {"share": share, **where}, score == "accuracy")


def inputs(
    score: str = "accuracy", record: str | xr.Dataset = "inputs", **where: object
) -> Comparison:
    """Scores with BN on the inputs; rate, stopping step and statistics are chosen if not given.

    Args:
        score: "accuracy" or "log_loss".
        record: a record of "inputs" or "inputs-digits", or its name.
        **where: values of the other axes, such as inputs or batch_size.
    """
    choose = ["learning_rate", "trained", "statistics"]
    return _compared(record, score, choose, where, score == "accuracy")


def over_scaler(
    arm: str, on: str, score: str = "accuracy", statistics: str | None = None, **where: object
) -> xr.DataArray:
    """An input minus a scaler alone, that is standardized inputs without BN.

    Args:
        arm: "BN", "BN, no gamma and beta" or "no BN".
        on: "raw" or "standardized" inputs.
        score: as for `inputs`.
        statistics: of BN; chosen if None.
        **where: such as batch_size.

    Returns:
        The difference of each replicate, over "seed" and the axes that are not given.
    """
    its = {} if statistics is None else {"statistics": statistics}
    mine = inputs(score, inputs=on, **its, **where)
    return mine.values(arm) - inputs(score, inputs="standardized", **where).values("no BN")


def arriving(batch_size: int = 32) -> pd.DataFrame:
    """Mean accuracy with BN on raw inputs, by the number of steps and the statistics.

    Args:
        batch_size: of training.
    """
    where = {"inputs": "raw", "batch_size": batch_size}
    means = Comparison(load("inputs"), "accuracy", ["learning_rate"], **where).means()
    table = means.sel(arm="BN").transpose("trained", "statistics").to_pandas()
    steps = steps_of({"work": 12000, "batch_size": batch_size, "trained": TRAINED})
    return table.set_axis(pd.Index(steps, name="steps"))


@cache
def _mean_error(seed: int) -> float:
    rain = months(seed)
    return float(np.sqrt(((rain.test.y - rain.train.y.mean()) ** 2).mean()))


def training_mean(seeds: Sequence[int] = range(20)) -> xr.DataArray:
    """Test RMSE of the mean of the training months, which needs no network.

    Args:
        seeds: of the draws of months.

    Returns:
        An array over "seed".
    """
    seeds = [int(seed) for seed in seeds]
    return xr.DataArray([_mean_error(seed) for seed in seeds], {"seed": seeds}, name="rmse")


def over_mean(values: xr.DataArray, *, inverse: bool = False) -> Interval:
    """Test RMSE on rain over that of the mean of the training months.

    Args:
        values: of one output, as `Comparison.values` gives them for `rain`.
        inverse: whether to give the error of the mean over that of the output.
    """
    pair = [values.values, training_mean(values["seed"].values).values]
    return paired_ratio(*(pair[::-1] if inverse else pair), overlap=MONTHS_OVERLAP)


def outputs(compared: Comparison, spec: str = ".2f") -> pd.DataFrame:
    """A row for each output: its usual learning rate, its mean score, and that over no BN's.

    A rate at the edge of its grid is marked with an asterisk. An error that reached the cap of the
    records is no number to divide by: the output has diverged.

    Args:
        compared: as `rain` or `logits` give it.
        spec: of the numbers.
    """
    rows = {}
    diverged = [arm for arm in compared.arms if (compared.values(arm) > 0.999 * WORST).any()]
    for arm in compared.arms:
        rate, row = compared.chosen(arm).get("learning_rate"), {}
        if rate is not None:
            row["rate"] = f"{rate['value']:g}{'*' * rate['edge']}"
        mean, lost = float(compared.values(arm).mean()), arm in diverged
        row[str(compared.scores.name)] = "diverged" if lost else format(mean, spec)
        if "no BN" in compared.arms and len(compared.arms) > 1:
            told = arm == "no BN" or lost or "no BN" in diverged
            row["÷ no BN"] = "" if told else format(compared.ratio(arm, "no BN"), spec)
        rows[arm] = row
    return pd.DataFrame.from_dict(rows, orient="index").fillna("")


def by_rate(target: str, batch_size: int = 32) -> xr.DataArray:
    """Test RMSE on rain at each learning rate, over that of no BN at its best on raw millimeters.

    Statistics are recomputed, and each point has its own stopping step.

    Args:
        target: "raw" or "standardized".
        batch_size: of training.

    Returns:
        Ratios, over "arm", "seed" and "learning_rate".
    """
    plain = rain(target="raw", batch_size=batch_size, statistics="recomputed").values("no BN")
    where = {"target": target, "batch_size": batch_size, "statistics": "recomputed"}
    compared = Comparison(load("rain"), "rmse", ["after"], maximize=False, **where)
    values = [compared.values(arm) / plain for arm in compared.arms]
    return xr.concat(values, pd.Index(compared.arms, name="arm")).transpose("arm", "seed", ...)


def surplus(arm: str, share: float, **where: object) -> Interval:
    """Mean predicted probability minus the share of positives, on the test part.

    Args:
        arm: the output.
        share: 0.5 or 0.1.
        **where: as for `logits`.
    """
    compared = logits(share, statistics="recomputed", **where)
    positives = compared.record["positives"].sel(arm=arm, share=share).isel(batch_size=0)
    return interval(compared.at_chosen("mean_p", arm, share=share, **where) - positives)


def calibration(share: float, batch_size: int = 64) -> dict[str, pd.DataFrame]:
    """For each output, what came true of what was said, all problems together.

    Args:
        share: 0.5 or 0.1.
        batch_size: of training.

    Returns:
        Tables with a row for each tenth of the probability that has 50 examples: "count", the
        means "said" and "true", and "half", half the width of the 95% interval of "true" over
        the problems.
    """
    bins = load("logits")["bins"].sel(share=share, batch_size=batch_size)
    seeds, tables = bins.sizes["seed"], {}
    for arm in bins["arm"].values:
        each = bins.sel(arm=arm).transpose("seed", "bin", "what")
        table = each.sum("seed").to_pandas()
        table = table[table["count"] >= 50]
        means = table[["said", "true"]].div(table["count"], axis=0)
        # A ratio of sums: what each problem adds to the error of the sum above.
        each = each.sel(bin=table.index)
        off = each.sel(what="true") - means["true"].to_xarray() * each.sel(what="count")
        error = np.sqrt((off**2).sum("seed") * seeds / (seeds - 1)).values / table["count"]
        tables[str(arm)] = means.assign(
            half=stdtrit(seeds - 1, 0.975) * error, count=table["count"].astype(int)
        )
    return tables


def _ratio(label: str, effect: Interval, claimed: str = "above") -> Finding:
    return Finding(label, effect, claimed, margin=1.05, reason=_FIVE)


def _loss_ratio(label: str, effect: Interval, claimed: str = "above") -> Finding:
    return Finding(label, effect, claimed, margin=1.1, reason=_TENTH, spec=".2f")


def _points(label: str, effect: Interval, claimed: str = "above") -> Finding:
    return Finding(label, effect, claimed, margin=0.01, reason=_POINT)


def _choice(compared: Comparison, arm: str) -> dict:
    """The chosen settings; without BN there are no statistics to choose."""
    left_out = ("statistics",) if arm == "no BN" else ()
    return {k: v for k, v in compared.chosen(arm).items() if k not in left_out}


def output_bn_fixes_range() -> Claim:
    """The formula, on random outputs."""
    errors = load("output-range")["error"].max("seed")
    return HYPOTHESES["output-bn-fixes-range"].judge(
        exact(float(errors.max())), draws=20, record="output-range"
    )


def output_bn_breaks_regression() -> Claim:
    """BN on the output against no BN, on raw millimeters, everything chosen."""
    pair = "BN", "no BN"
    raw, default = rain(target="raw"), {"learning_rate": 0.001, "after": 200}
    others = {
        "raw, mean absolute error, statistics recomputed": rain("mae", target="raw"),
        "raw, RMSE of log(1 + mm), statistics recomputed": rain("log_rmse", target="raw"),
        **{f"raw, batches of {m}": rain(target="raw", batch_size=m) for m in (8, 32, 128)},
        "raw, moving averages of momentum 0.99": rain(target="raw", statistics="0.99"),
        "raw, rate 0.001, after 200 steps": rain(target="raw", **default),
        "standardized target": rain(target="standardized"),
        "each with its better target": rain(),
    }
    fixed = {
        f"{target}, BN without gamma and beta ÷ no BN, statistics recomputed": rain(
            target=target, statistics="recomputed"
        )
        for target in ("raw", "standardized")
    }
    early, mean = rain(target="raw", **default), "mean of the training months"
    exact = rain(target="raw", statistics="recomputed")
    means = {
        f"raw, {mean} ÷ no BN": over_mean(raw.values("no BN"), inverse=True),
        f"raw, BN without gamma and beta ÷ {mean}, statistics recomputed": over_mean(
            exact.values(FIXED)
        ),
        f"raw, BN, rate 0.001, after 200 steps ÷ {mean}": over_mean(early.values("BN")),
    }
    return HYPOTHESES["output-bn-breaks-regression"].judge(
        raw.ratio(*pair),
        [
            *(_ratio(label, each.ratio(*pair)) for label, each in others.items()),
            *(_ratio(label, each.ratio(FIXED, "no BN")) for label, each in fixed.items()),
            *(_ratio(label, effect) for label, effect in means.items()),
        ],
        chosen={f"raw, {arm}": _choice(raw, arm) for arm in pair},
        draws=20,
        record="rain",
    )


def output_bn_breaks_classifier() -> Claim:
    """BN on the logit against no BN, on log-loss, everything chosen."""
    pair, even, rare = ("BN", "no BN"), logits(0.5), logits(0.1)
    default = {"learning_rate": 0.003, "after": 200}
    ratios = {
        "one positive in ten": rare.ratio(*pair),
        "even, batches of 64": logits(0.5, batch_size=64).ratio(*pair),
        **{
            f"{words}, all at a rate of 0.003, after 200 steps": logits(share, **default).ratio(
                *pair
            )
            for share, words in ((0.5, "even"), (0.1, "one in ten"))
        },
        "even, BN without gamma and beta ÷ no BN, statistics recomputed": logits(
            0.5, statistics="recomputed"
        ).ratio(FIXED, "no BN"),
    }
    points = {
        f"accuracy lost, {words}, no BN − {arm}": logits(share, "accuracy").gain("no BN", arm)
        for arm in ("BN", FIXED)
        for share, words in ((0.5, "even"), (0.1, "one in ten"))
    }
    return HYPOTHESES["output-bn-breaks-classifier"].judge(
        even.ratio(*pair),
        [
            *(_loss_ratio(label, effect) for label, effect in ratios.items()),
            *(_points(label, effect) for label, effect in points.items()),
        ],
        chosen={f"even, {arm}": _choice(even, arm) for arm in pair},
        draws=20,
        record="logits",
    )


def output_bn_breaks_probabilities() -> Claim:
    """The mean probability of a rare class."""
    hypothesis = HYPOTHESES["output-bn-breaks-probabilities"]
    others = {f"the same, {arm}": (surplus(arm, 0.1), "within") for arm in ("BN", "no BN")} | {
        "even classes, BN without gamma and beta": (surplus(FIXED, 0.5), "within")
    }
    loss = logits(0.1, statistics="recomputed")
    return hypothesis.judge(
        surplus(FIXED, 0.1),
        [
            *(
                Finding(label, effect, claimed, 0.1, reason=hypothesis.reason, spec=".2f")
                for label, (effect, claimed) in others.items()
            ),
            _loss_ratio(
                "log-loss, one positive in ten, BN without gamma and beta ÷ no BN",
                loss.ratio(FIXED, "no BN"),
            ),
        ],
        chosen={FIXED: _choice(loss, FIXED)},
        draws=20,
        record="logits",
    )


def input_bn_adds_nothing() -> Claim:
    """BN on standardized inputs, and on raw ones, against a scaler alone."""
    primary = inputs(inputs="standardized", batch_size=32)
    loss = inputs("log_loss", inputs="standardized", batch_size=32)
    pairs = {
        **{f"the same, batches of {m}": ("BN", "standardized", m) for m in (4, 128)},
        **{
            f"the same, BN without gamma and beta, batches of {m}": (FIXED, "standardized", m)
            for m in (4, 32)
        },
        **{f"BN on raw inputs − scaler, batches of {m}": ("BN", "raw", m) for m in (4, 32, 128)},
    }
    against = {
        label: interval(over_scaler(arm, on, batch_size=m)) for label, (arm, on, m) in pairs.items()
    }
    long = inputs(record="inputs-long", inputs="standardized", batch_size=4)
    against["standardized, batches of 4, up to 16,000 steps"] = long.gain("BN", "no BN")
    digits = {
        f"digits, batches of 32, hidden layers with {hidden}": inputs(
            record="inputs-digits", batch_size=32, hidden=hidden
        ).gain("BN", "no BN")
        for hidden in ("no BN", "BN")
    }
    return HYPOTHESES["input-bn-adds-nothing"].judge(
        primary.gain("BN", "no BN"),
        [
            *(_points(label, effect, "within") for label, effect in (against | digits).items()),
            _loss_ratio("log-loss, BN ÷ no BN, batches of 32", loss.ratio("BN", "no BN"), "within"),
        ],
        chosen={arm: _choice(primary, arm) for arm in ("no BN", "BN")},
        draws=20,
        record=["inputs", "inputs-long", "inputs-digits"],
    )


CLAIMS: dict[str, Callable[[], Claim]] = {
    "output-bn-fixes-range": output_bn_fixes_range,
    "output-bn-breaks-regression": output_bn_breaks_regression,
    "output-bn-breaks-classifier": output_bn_breaks_classifier,
    "output-bn-breaks-probabilities": output_bn_breaks_probabilities,
    "input-bn-adds-nothing": input_bn_adds_nothing,
}
