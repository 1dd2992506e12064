"""Chapter 3: a layer written by hand, trained at many rates.

The records are computed with `bnutils.network`, whose layer gives the numbers of the chapter's own.
Accuracy is measured with statistics recomputed over the training images, so that the momentum of
the moving averages has no part. Each seed stands for a whole replicate: its own split of the
digits, its own initial weights and mini-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr

from bnutils import data, network, norm, plots
from bnutils.evidence import (
    Claim,
    Comparison,
    Finding,
    Hypothesis,
    Interval,
    Study,
    Tolerance,
    paired_ratio,
)
from bnutils.studies import load
from bnutils.studies.common import DIGITS_OVERLAP, PARTS, Settings, accuracies

ARMS = ["no BN", "BN"]
CHOOSE = ["initial_scale", "learning_rate"]
USABLE = 0.02  # points of accuracy below an arm's own best


def pixels(kind: str, images: np.ndarray) -> tuple[float, float]:
    """What to subtract from all pixels, and what to divide them by then."""
    return (images.mean(), images.std()) if kind == "standardized" else (0.0, 1.0)


def rates_block(settings: Settings) -> xr.Dataset:
    """Train one arm from one initial scale at all rates; accuracy after some numbers of steps."""
    seed, rates = settings["seed"], settings["learning_rate"]
    dataset = data.digits(split=seed)
    shift, unit = pixels(settings["inputs"], dataset.train.x)
    layer = network.BatchNorm() if settings["arm"] == "BN" else None
    seeds = [seed] * len(rates)
    if settings["network"] == "dense":
        net = network.mlp([64, 64, 64, 10], seeds=seeds, norm=layer)
    else:
        net = network.cnn((8, 8, 1), filters=[8, 16], outputs=10, seeds=seeds, norm=layer)
    for layer in net.layers:
        if hasattr(layer, "kernel"):
            layer.kernel *= np.float32(settings["initial_scale"])

    def inputs(x: np.ndarray) -> np.ndarray:
        return ((x - shift) / unit).reshape(-1, *net.input_shape)

    scores = []

    def after_step(net: network.Network, step: int) -> None:
        if step in settings["steps"]:
            if net.batch_norms:
                net.recalibrate(inputs(dataset.train.x))
            scores.append(accuracies(net, dataset, inputs))

    history = network.fit(
        net,
        inputs(dataset.train.x),
        dataset.train.y,
        loss=network.softmax_cross_entropy,
        optimizer=network.SGD(np.array(rates)),
        steps=max(settings["steps"]),
        batch_size=settings["batch_size"],
        after_step=after_step,
    )
    return xr.Dataset(
        {
            "accuracy": (("steps", "learning_rate", "part"), np.array(scores, np.float32)),
            "loss": (("learning_rate", "step"), history["loss"][:, :5]),
        },
        {
            "steps": sorted(settings["steps"]),
            "learning_rate": list(rates),
            "part": PARTS,
            "step": range(1, 6),
        },
    )


# -- hypotheses -----------------------------------------------------------------------------------

_SETTING = (
    "digits (1,797 images, split anew for each seed into 1,097, 300 and 400), standardized pixels, "
    "ReLU, gradient descent, 500 steps of {size} images, statistics recomputed. A rate is usable "
    "if it comes within two points of test accuracy of the arm's own best. The initial scale, in "
    "multiples of He's, is chosen on validation images for each arm, replicate and rate"
)
_REASON = (
    "much higher: a factor of three, one step of the usual grid 0.1, 0.3, 1. The paper raised its "
    "rate by factors of 5 and 30"
)
_LABEL = "largest usable learning rate, BN ÷ no BN"

HYPOTHESES = {
    each.name: each
    for each in [
        Hypothesis(
            name="own-layer-higher-rates",
            claim="BN allows much higher learning rates, in a dense network.",
            kind="measured",
            source="ioffe2015",
            said_by="Ioffe and Szegedy 2015, abstract",
            label=f"{_LABEL}, dense network",
            scale="log",
            margin=3.0,
            reason=_REASON,
            spec=".1f",
            setting=f"64-64-64-10, {_SETTING.format(size=64)}",
        ),
        Hypothesis(
            name="own-layer-higher-rates-conv",
            claim="BN allows much higher learning rates, in a convolutional network.",
            kind="measured",
            source="ioffe2015",
            said_by="Ioffe and Szegedy 2015, abstract",
            label=f"{_LABEL}, convolutional network",
            scale="log",
            margin=3.0,
            reason=_REASON,
            spec=".1f",
            setting="two convolutions of 8 and 16 channels, max pooling, global average, "
            f"{_SETTING.format(size=32)}",
        ),
    ]
}

_TOLERANCES = {
    "accuracy": Tolerance(typical=0.03),
    "loss": Tolerance(close=2e-3, relative=1e-2, steps=3),
}
_PILOT = (
    "Before the record, a pilot with seeds 100 and 101, other splits of the same images: the best "
    "initial scale was the smallest for both arms, so a smaller one took the place of the largest, "
    "and rates at which both arms fail were left out. It gave ratios near 4 (dense) and 3."
)
_FINE = [0.56, 0.75, 1.0, 1.33, 1.78, 2.37, 3.16, 4.22, 5.62, 7.5, 10.0]

STUDIES = (
    Study(
        name="own-layer-rates",
        question="At which learning rates does a dense network learn, with BN and without?",
        block=rates_block,
        dims={
            "arm": ARMS,
            "inputs": ["standardized", "raw"],
            "initial_scale": [0.125, 0.25, 0.5, 1.0],
            "learning_rate": [0.03, 0.1, 0.3, *_FINE],
            "seed": range(20),
        },
        together=["learning_rate"],
        fixed={"network": "dense", "batch_size": 64, "steps": [150, 500]},
        tolerances=_TOLERANCES,
        overlap=DIGITS_OVERLAP,
        hypotheses=(HYPOTHESES["own-layer-higher-rates"],),
        changes=(_PILOT,),
    ),
    Study(
        name="own-layer-rates-conv",
        question="And a convolutional one?",
        block=rates_block,
        dims={
            "arm": ARMS,
            "inputs": ["standardized"],
            "initial_scale": [0.25, 0.5, 1.0],
            "learning_rate": [0.1, 0.18, 0.32, 0.42, *_FINE[:7]],
            "seed": range(10),
        },
        together=["learning_rate"],
        fixed={"network": "convolutional", "batch_size": 32, "steps": [150, 500]},
        tolerances=_TOLERANCES,
        overlap=DIGITS_OVERLAP,
        hypotheses=(HYPOTHESES["own-layer-higher-rates-conv"],),
        changes=(_PILOT,),
    ),
)


# -- claims ---------------------------------------------------------------------------------------


def at_best(
    record: str | xr.Dataset = "own-layer-rates",
    steps: int | None = None,
    inputs: str = "standardized",
) -> Comparison:
    """Accuracy of each arm at its best initial scale and rate.

    Args:
        record: a record of "own-layer-rates" or "own-layer-rates-conv", or its name.
        steps: after how many; the most that were recorded if None.
        inputs: "standardized" or "raw" pixels.
    """
    return _compared(record, CHOOSE, steps, inputs)


def by_rate(
    record: str | xr.Dataset = "own-layer-rates",
    steps: int | None = None,
    inputs: str = "standardized",
) -> Comparison:
    """Accuracy of each arm by learning rate, at the initial scale that is best for it.

    Args:
        record: as for `at_best`.
        steps: as for `at_best`.
        inputs: as for `at_best`.
    """
    return _compared(record, CHOOSE[:1], steps, inputs)


def _compared(
    record: str | xr.Dataset, choose: list[str], steps: int | None, inputs: str
) -> Comparison:
    record = _record(record)
    steps = int(record["steps"].max()) if steps is None else steps
    return Comparison(record, "accuracy", choose, steps=steps, inputs=inputs)


def _record(record: str | xr.Dataset) -> xr.Dataset:
    """A record by its name, if it is one of this chapter's."""
    known = [study.name for study in STUDIES]
    if isinstance(record, str):
        if record not in known:
            raise ValueError(f"expected a record of {' or '.join(known)}, got {record!r}")
        return load(record)
    if not isinstance(record, xr.Dataset) or not {"arm", *CHOOSE} <= set(record.dims):
        raise ValueError(f"expected a record of {' or '.join(known)}, or its name")
    return record


def largest_usable(
    arm: str,
    record: str | xr.Dataset = "own-layer-rates",
    steps: int | None = None,
    inputs: str = "standardized",
    **settings: Any,
) -> xr.DataArray:
    """The largest rate at which an arm comes within two points of its own best, by seed.

    Args:
        arm: "BN" or "no BN".
        record: as for `at_best`.
        steps: as for `at_best`.
        inputs: as for `at_best`.
        **settings: values that are not to be chosen, such as `initial_scale=1.0`.
    """
    curve = by_rate(record, steps, inputs).values(arm, **settings)
    best = at_best(record, steps, inputs).values(arm, **settings)
    usable = curve >= best - USABLE - 1e-6
    return curve["learning_rate"].where(usable).max("learning_rate")


def usable_ratio(record: str | xr.Dataset = "own-layer-rates", **settings: Any) -> Interval:
    """The largest usable rate with BN over that without; arguments as for `largest_usable`."""
    with_bn, without = (largest_usable(arm, record, **settings) for arm in ("BN", "no BN"))
    return paired_ratio(with_bn, without, overlap=at_best(record).overlap)


def usable_table(record: str | xr.Dataset = "own-layer-rates") -> pd.DataFrame:
    """The largest usable rates, as geometric means over the replicates, and their ratio."""
    record, rows = _record(record), {}
    for inputs in record["inputs"].values:
        for steps in record["steps"].values:
            where = {"steps": int(steps), "inputs": str(inputs)}
            rates = {
                arm: f"{np.exp(np.log(largest_usable(arm, record, **where)).mean()):.2f}"
                for arm in ARMS
            }
            ratio = f"{usable_ratio(record, **where):.1f}"
            name = f"{steps} steps" + (", raw pixels" if inputs == "raw" else "")
            rows[name] = {**rates, "BN ÷ no BN": ratio}
    return pd.DataFrame(rows).T


def far_from_zero() -> pd.DataFrame:
    """The largest error of three programs in float32, for data whose mean moves away from zero.

    Returns:
        A row for each mean, in standard deviations of the data; a column for each program.
    """
    noise, rows = np.random.default_rng(0).normal(size=(64, 100)), {}
    for mean in 10.0 ** np.arange(8):
        x = (noise + mean).astype(np.float32)
        true = norm.standardize(x.astype(np.float64), 0, 1e-3)[0]
        centered = x - x.mean(axis=0)
        shortcut = ((x**2).mean(axis=0) - x.mean(axis=0) ** 2).clip(0)
        found = {
            "a common shortcut": centered / np.sqrt(shortcut + 1e-3),
            "mean subtracted once": centered / np.sqrt((centered**2).mean(axis=0) + 1e-3),
            "bnutils.norm": norm.standardize(x, 0, 1e-3)[0],
        }
        rows[mean] = {name: np.abs(x_hat - true).max() for name, x_hat in found.items()}
    return pd.DataFrame(rows).T


def sweep(
    train: Callable, kind: Any, rates: Sequence, seeds: Sequence, steps: int, **options: Any
) -> pd.Series:
    """Train at each rate from each seed.

    Args:
        train: the chapter's `train(kind, rate, seed, steps, **options)`, which returns accuracy.
        kind: class of the layer.
        rates: learning rates.
        seeds: of initial weights and batches.
        steps: of each training.
        **options: passed on to `train`.

    Returns:
        The mean accuracy over the seeds, by rate.

    Raises:
        ValueError: a setting with which nothing could be trained, before anything is.
    """
    STUDIES[0].with_settings(learning_rate=rates, seed=seeds, steps=[steps])
    scores = [[train(kind, rate, seed, steps, **options) for rate in rates] for seed in seeds]
    return pd.Series(np.mean(scores, axis=0), rates).round(3)


def draw_rates(records: Mapping[str, str], live: Mapping[str, pd.Series]) -> None:
    """Draw accuracy by learning rate, a panel for each record, as Matplotlib's current figure.

    Args:
        records: names of records by the titles of their panels.
        live: by arm, accuracies by learning rate that were found elsewhere; diamonds in the first
            panel.
    """
    _, axes = plt.subplots(len(records), figsize=(4.5, 4.4), sharex=True, sharey=True)
    for ax, (name, record) in zip(axes, records.items(), strict=True):
        compared = by_rate(record)
        for arm in ARMS[::-1]:
            runs = compared.values(arm).transpose("seed", "learning_rate")
            plots.band(ax, runs["learning_rate"], runs, arm, overlap=compared.overlap)
        ax.set(title=name, xscale="log", ylim=(0, 1.02), ylabel="accuracy")
        ax.set_xticks([0.1, 0.3, 1, 3], ["0.1", "0.3", "1", "3"])
        ax.minorticks_off()
    for arm, points in live.items():
        color = plots.arm_style(arm)["color"]
        axes[0].plot(points.index, points, "D", color=color, markeredgecolor=plots.INK)
    axes[-1].set_xlabel("learning rate")
    plots.finish(axes)


def _higher_rates(name: str, record: str, below: str = "") -> Claim:
    """The largest usable rates of both arms."""

    def ratio(label: str, **settings: Any) -> Finding:
        effect = usable_ratio(record, **settings)
        return Finding(f"{_LABEL}, {label}", effect, margin=3.0, reason=_REASON, spec=".1f")

    compared, raw = at_best(record), []
    if "raw" in compared.record["inputs"].values:
        raw = [ratio("raw pixels", inputs="raw")]
    return HYPOTHESES[name].judge(
        usable_ratio(record),
        [
            *raw,
            ratio("both at He's scale", initial_scale=1.0),
            ratio("after 150 steps", steps=150),
            Finding(
                "accuracy after 500 steps, each at its best scale and rate, BN − no BN",
                compared.gain("BN", "no BN"),
                margin=0.02,
                reason="two points",
            ),
            Finding(
                "the same after 150 steps",
                at_best(record, 150).gain("BN", "no BN"),
                margin=0.02,
                reason="two points",
            ),
        ],
        chosen={f"best accuracy, {arm}": compared.chosen(arm) for arm in ARMS},
        draws=compared.seeds,
        record=record,
        note=f"Neighboring rates are a factor of 1.33 apart{below}, so each largest usable rate, "
        "and their ratio, is known up to that factor; the interval does not cover it.",
    )


def own_layer_higher_rates() -> Claim:
    """The dense network."""
    return _higher_rates("own-layer-higher-rates", "own-layer-rates")


def own_layer_higher_rates_conv() -> Claim:
    """The convolutional network."""
    coarse = ", below 0.32 up to 1.8"
    return _higher_rates("own-layer-higher-rates-conv", "own-layer-rates-conv", coarse)


CLAIMS: dict[str, Callable[[], Claim]] = {
    "own-layer-higher-rates": own_layer_higher_rates,
    "own-layer-higher-rates-conv": own_layer_higher_rates_conv,
}
