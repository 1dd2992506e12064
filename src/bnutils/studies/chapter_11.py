"""Chapter 11: many devices, each with a part of the batch.

Eight replicas of a network take a step together: the gradient is that of all their examples, and
each replica normalizes by its own examples, or all by the same statistics. One array program stands
for all of them: a ghost batch is a replica. Each seed stands for a whole replicate, with its own
initial weights, its own split of the digits and its own shards of the training images.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from bnutils import data, network, workers
from bnutils.evidence import (
    Claim,
    Comparison,
    Finding,
    Hypothesis,
    Interval,
    Study,
    Tolerance,
    exact,
    paired_difference,
    paired_ratio,
    provenance,
)
from bnutils.network import norm_layers
from bnutils.norm import BatchNorm
from bnutils.replicas import Link, merge
from bnutils.studies import load, two_workers
from bnutils.studies.common import DIGITS_OVERLAP, PARTS, Settings, accuracies, pictures

ARMS = ["no BN", "group norm", "synchronized", "local"]
SHARDS = ["dealt", "sorted"]
CONV = "replica-batches-conv"
QUANTITIES = ["output", "dx", "dgamma", "dbeta", "moving mean", "moving variance"]
STATISTICS = ["recomputed", "moving", "first replica"]


class FirstReplicaLayer(norm_layers.GhostBatchNormLayer):
    """Ghost batches as replicas, of which the first one's moving averages are kept as well.

    Attributes:
        first_mean: moving mean of the first ghost batch of each step, [runs, units]; None before
            the first step.
        first_variance: its moving variance, likewise.
    """

    first_mean: np.ndarray | None = None
    first_variance: np.ndarray | None = None

    def __call__(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Apply the layer, as `GhostBatchNormLayer` does."""
        if not training:
            return super().__call__(x)
        if self.first_mean is None:
            self.first_mean, self.first_variance = self.moving_mean, self.moving_variance
        y = super().__call__(x, training=True)
        old, new = self.momentum, 1 - self.momentum
        self.first_mean = old * self.first_mean + new * self._cache.mean[:, 0]
        self.first_variance = old * self.first_variance + new * self._cache.variance[:, 0]
        return y


class Replicas(network.GhostBatchNorm):
    """BN on replicas that don't synchronize. `size` is the number of examples on each."""

    def _layer(self, **options: Any) -> FirstReplicaLayer:
        return FirstReplicaLayer(self.size, **options)


def build(settings: Settings) -> network.Network:
    """The network of one arm, a run for each rate."""
    dense = settings["network"] == "dense"
    norm = {
        "no BN": None,
        "group norm": network.GroupNorm(6 if dense else 4),
        "synchronized": network.BatchNorm(),
        "local": Replicas(settings["local_batch"]),
    }[settings["arm"]]
    seeds = [settings["seed"]] * len(settings["learning_rate"])
    if dense:
        return network.mlp([64, 48, 48, 10], seeds=seeds, norm=norm)
    return network.cnn((8, 8, 1), filters=[8, 16], outputs=10, seeds=seeds, norm=norm)


def inputs(settings: Settings, x: np.ndarray) -> np.ndarray:
    """Images as rows of pixels, or as pictures for convolutions."""
    return x if settings["network"] == "dense" else pictures(x)


def shards(labels: np.ndarray, seed: int, kind: str, replicas: int) -> np.ndarray:
    """Share the training rows out among replicas, once and for all, [replicas, rows].

    Args:
        labels: the class of each row.
        seed: of the order of the rows.
        kind: "dealt" takes them in random order; "sorted" cuts rows that are sorted by class, so
            that each replica has few of the classes.
        replicas: how many; rows that don't fill a shard of each are left out.
    """
    order = np.random.default_rng([seed, 11]).permutation(len(labels))
    if kind == "sorted":
        order = order[np.argsort(labels[order], kind="stable")]
    each = len(labels) // replicas
    return order[: replicas * each].reshape(replicas, each)


def batches(shards: np.ndarray, seed: int, local_batch: int) -> Iterator[np.ndarray]:
    """Rows of one step after the other: those of the first replica, then of the second, ...

    Each replica walks through a permutation of its shard, then through the next.
    """
    rng = np.random.default_rng([seed, 12])
    while True:
        order = rng.permuted(shards, axis=1)
        for start in range(0, shards.shape[1] - local_batch + 1, local_batch):
            yield order[:, start : start + local_batch].ravel()


def replicas_block(settings: Settings) -> xr.Dataset:
    """Train one arm at all rates, and test it with each kind of statistics."""
    seed, rates = settings["seed"], settings["learning_rate"]
    local_batch, replicas = settings["local_batch"], settings["replicas"]
    dataset = data.digits(split=seed)
    seen = partial(inputs, settings)
    x, y = seen(dataset.train.x), dataset.train.y
    parts = shards(y, seed, settings["shards"], replicas)
    net = build(settings)
    optimizer = network.SGD(np.array(rates))
    optimizer.build(net.weights, net.columns)
    updates = settings["passes"] * (parts.shape[1] // local_batch)
    losses = []
    for _, rows in zip(range(updates), batches(parts, seed, local_batch), strict=False):
        outputs = net(x[rows], training=True)
        loss, gradient = network.softmax_cross_entropy(outputs, y[rows])
        net.backward(gradient)
        with np.errstate(all="ignore"):  # a run that diverges turns into NaN
            optimizer.step(net.weights, net.gradients)
        losses.append(loss)
    scores = {"moving": accuracies(net, dataset, seen)}
    for layer in net.batch_norms:
        if isinstance(layer, FirstReplicaLayer):
            layer.moving_mean, layer.moving_variance = layer.first_mean, layer.first_variance
    scores["first replica"] = accuracies(net, dataset, seen)
    if net.batch_norms:
        net.recalibrate(x)
    scores["recomputed"] = accuracies(net, dataset, seen)
    found = np.stack([scores[kind] for kind in STATISTICS], axis=1).astype(np.float32)
    return xr.Dataset(
        {
            "accuracy": (("learning_rate", "statistics", "part"), found),
            "loss": (("learning_rate", "step"), np.stack(losses[:5], axis=1)),
        },
        {
            "learning_rate": list(rates),
            "statistics": STATISTICS,
            "part": PARTS,
            "step": range(1, 6),
        },
    )


def merging_block(settings: Settings) -> xr.Dataset:
    """Merge the mean and the variance of parts, and compare them with those of all values."""
    errors = []
    for seed in settings["seed"]:
        rng = np.random.default_rng([seed, 13])
        sizes = rng.integers(1, 20, size=settings["parts"])
        parts = [rng.normal(rng.normal(size=4), rng.uniform(0.5, 2), (n, 4)) for n in sizes]
        every = np.concatenate(parts)
        _, mean, variance = merge(
            sizes, [part.mean(axis=0) for part in parts], [part.var(axis=0) for part in parts]
        )
        off = np.abs(mean - every.mean(axis=0)) / every.std(axis=0)
        errors.append([off.max(), np.abs(variance / every.var(axis=0) - 1).max()])
    return xr.Dataset(
        {"error": (("seed", "statistic"), np.array(errors))},
        {"seed": list(settings["seed"]), "statistic": ["mean", "variance"]},
    )


def digits_block(settings: Settings) -> xr.Dataset:
    """Let Keras compute the variance of numbers whose mean is far from 0, in float32."""
    from bnutils._keras import keras

    errors = []
    for offset in settings["offset"]:
        rng = np.random.default_rng([settings["seed"], 14])
        x = (offset + rng.normal(size=(64, 8))).astype(np.float32)
        for arm in two_workers.ARMS:
            layer = keras.layers.BatchNormalization(
                momentum=0.0, synchronized=arm == "synchronized"
            )
            layer(x, training=True)
            found = layer.moving_variance.numpy()
            errors.append(np.abs(found / x.astype(float).var(axis=0) - 1).max())
    shape = len(settings["offset"]), len(two_workers.ARMS)
    return xr.Dataset(
        {"error": (("offset", "arm"), np.reshape(errors, shape))},
        {"offset": list(settings["offset"]), "arm": two_workers.ARMS},
    )


def workers_block(settings: Settings) -> xr.Dataset:
    """Start two workers of TensorFlow, and compare what they measure with one device and a model.

    The time of a call is that of the worker that took longer.
    """
    found = workers.run(partial(two_workers.measured, dict(settings)), timeout=600)
    times = {name: np.max([each[name] for each in found], axis=0) for name in ("seconds", "step")}
    errors = np.stack([_apart(found, arm, settings["seed"]) for arm in two_workers.ARMS])
    return xr.Dataset(
        {
            "seconds": ("numbers", times["seconds"]),
            "step": (("layers", "arm"), times["step"]),
            "collectives": (("layers", "arm"), found[0]["collectives"]),
            "error": (("arm", "of", "quantity"), errors),
            "fit_runs": ((), float(not any(each["fit"] for each in found))),
        },
        {
            "numbers": list(settings["numbers"]),
            "layers": list(settings["layers"]),
            "arm": two_workers.ARMS,
            "of": ["all examples", "own examples"],
            "quantity": QUANTITIES,
        },
    )


def _apart(found: list[dict], arm: str, seed: int) -> np.ndarray:
    """How far BN on two workers is from BN of all their examples, and of each's own.

    Of the moving statistics, those of the first worker count: it writes the file.

    Returns:
        Array [2, quantities], largest differences over the largest size.
    """
    parts = [two_workers.example(seed, index) for index in range(len(found))]
    joined = [tuple(map(np.concatenate, zip(*parts, strict=True)))]
    rows = []
    for batches in (joined, parts):
        layers = [BatchNorm(momentum=two_workers.MOMENTUM) for _ in batches]
        outputs, gradients = [], []
        for layer, (x, dy) in zip(layers, batches, strict=True):
            outputs.append(layer(x.astype(float), training=True))
            gradients.append(layer.backward(dy.astype(float)))
        expected = [
            np.concatenate(outputs),
            np.concatenate(gradients),
            sum(layer.dgamma for layer in layers),
            sum(layer.dbeta for layer in layers),
            layers[0].moving_mean,
            layers[0].moving_variance,
        ]
        bn = [each["bn"][arm] for each in found]
        got = [
            np.concatenate([each[0] for each in bn]),
            np.concatenate([each[1] for each in bn]),
            sum(each[2] for each in bn),
            sum(each[3] for each in bn),
            *bn[0][4:],
        ]
        pairs = zip(got, expected, strict=True)
        rows.append([np.abs(a - b).max() / np.abs(b).max() for a, b in pairs])
    return np.array(rows)


# -- hypotheses -----------------------------------------------------------------------------------

_TWO_POINTS = (
    "two points, as in chapter 7: 400 test images of a pool of 1,797 can't tell less apart, and "
    "less would not make one change how devices work together"
)
_WORKERS = (
    "MultiWorkerMirroredStrategy, two processes of one machine that talk over its loopback "
    "address, 10 launches"
)
_REPLICAS = (
    "digits (1,797 images, split anew for each seed into 1,097, 300 and 400), 64-48-48-10 ReLU, "
    "eight replicas, played by ghost batches, with a fixed shard of the training images each, "
    "gradient descent with the gradient of all replicas, 30 passes, statistics recomputed after "
    "training over all training images, each replicate at the rate that was best on its "
    "validation images"
)

HYPOTHESES = {
    each.name: each
    for each in [
        Hypothesis(
            name="sync-mends-small-batches",
            claim="Synchronizing the statistics over the devices mends what very few examples on "
            "each device do to BN.",
            kind="measured",
            source="peng2018",
            said_by="Peng and others 2018, section 3, of detectors with two images on each device, "
            "synchronized over groups of devices",
            label="accuracy with 2 examples on each of 8 replicas, synchronized − local",
            margin=0.02,
            reason=_TWO_POINTS,
            setting=_REPLICAS,
        ),
        Hypothesis(
            name="own-statistics-suffice",
            claim="With eight examples on each device, statistics of their own do as well as "
            "synchronized ones.",
            kind="measured",
            source="goyal2017",
            said_by="this book, prompted by Goyal and others 2017, section 2.3, who keep each "
            "device's own statistics, of 32 images",
            label="accuracy with 8 examples on each of 8 replicas, synchronized − local",
            claimed="within",
            margin=0.02,
            reason=_TWO_POINTS,
            setting=_REPLICAS,
        ),
        Hypothesis(
            name="sorted-replicas",
            claim="BN with each device's own statistics is less effective when each device has "
            "examples of few classes.",
            kind="measured",
            source="ioffe2017",
            said_by="this book, after Ioffe 2017, abstract, of batches whose examples are not "
            "independent",
            label="accuracy of local statistics with 8 examples on each of 8 replicas, dealt − "
            "sorted",
            margin=0.02,
            reason=_TWO_POINTS,
            setting=f"{_REPLICAS}; shards dealt at random, or cut from images sorted by class",
        ),
        Hypothesis(
            name="group-norm-on-small-replicas",
            claim="With two examples on each device, group normalization does better than BN with "
            "each device's own statistics.",
            kind="measured",
            source="wu2018",
            said_by="Wu and He 2018, abstract, of batches of two images; in their experiments on "
            "each of eight devices",
            label="accuracy with 2 examples on each of 8 replicas, group norm − local",
            margin=0.02,
            reason=_TWO_POINTS,
            setting=f"{_REPLICAS}, 6 groups of 8 neurons",
        ),
        Hypothesis(
            name="variance-of-parts",
            claim="The variance of a batch is the mean of the variances of its parts plus the "
            "variance of their means.",
            kind="identity",
            source="chan1983",
            said_by="Chan, Golub and LeVeque 1983, of two parts",
            label="largest difference of mean or variance, merged from parts and of all values, "
            "relative",
            claimed="below",
            null=1e-12,
            reason="float64 rounds in the sixteenth digit; a wrong formula would show in the first",
            spec=".1e",
            setting="20 draws of eight parts of 1 to 19 examples, each with its own mean and "
            "standard deviation, float64; each part counts with its share of the examples",
        ),
        Hypothesis(
            name="synchronized-is-full-batch",
            claim="Keras's synchronized BN on two workers computes what BN on one device computes "
            "with all examples.",
            kind="version",
            source="keras",
            said_by="Keras's documentation of BatchNormalization",
            label="largest difference of output, gradient or moving statistics, relative",
            claimed="below",
            null=1e-5,
            reason="float32 rounds in the seventh digit, and several hundred numbers are added; a "
            "wrong formula would show in the first digits",
            spec=".1e",
            setting=f"{_WORKERS} with six examples on each, of other means and standard deviations "
            "on the second; a loop of one's own",
        ),
        Hypothesis(
            name="unsynchronized-keeps-first",
            claim="Without synchronizing, the statistics that the first worker saves are those of "
            "its own examples.",
            kind="version",
            source="keras",
            said_by="this book; Keras's documentation says that each replica uses its own batch's "
            "statistics, and not which are saved",
            label="largest difference of the first worker's moving statistics from those of its "
            "own examples, relative",
            claimed="below",
            null=1e-5,
            reason="float32 rounds in the seventh digit",
            spec=".1e",
            setting=f"{_WORKERS} with six examples on each, of other means and standard deviations "
            "on the second",
        ),
        Hypothesis(
            name="synchronized-loses-digits",
            claim="Keras's synchronized variance, the mean of squares minus the square of the "
            "mean, loses digits where the mean is large.",
            kind="version",
            source="chan1983",
            said_by="Chan, Golub and LeVeque 1983, of that formula",
            label="mean over draws of the largest relative error of the variance, mean 1,000 "
            "standard deviations",
            null=0.01,
            reason="one percent of a variance is more than what one batch more or less changes "
            "after some hundred, and float32 could give six digits",
            spec=".1e",
            setting="20 draws of 64 examples of 8 features, float32, one device",
        ),
        Hypothesis(
            name="fit-on-many-workers",
            claim="Keras trains a model with fit under MultiWorkerMirroredStrategy.",
            kind="version",
            source="tfmultiworker",
            said_by="TensorFlow's tutorial on multi-worker training with Keras",
            label="share of launches in which fit ran",
            null=0.99,
            spec=".2f",
            setting=f"{_WORKERS}, a dense layer and no BN",
        ),
        Hypothesis(
            name="sync-cost-model",
            claim="What synchronizing adds to a step is, for each message, a latency and its bytes "
            "over the bandwidth.",
            kind="measured",
            source="thakur2005",
            said_by="Thakur, Rabenseifner and Gropp 2005, section 3, of any message",
            label="time that synchronized BN adds to a step of four layers, measured ÷ predicted "
            "from messages alone",
            claimed="within",
            margin=2.0,
            scale="log",
            reason="what the model is for, eight devices against thousands and one link against "
            "another, differs by tens",
            spec=".2f",
            setting=f"{_WORKERS}, shortest time of 10 rounds that take turns; dense layers of 256 "
            "units with BN, 32 examples on each worker; latency and bandwidth from messages of 2 "
            "and of 1,048,576 numbers of the same launch",
        ),
    ]
}


def _said(*names: str) -> tuple[Hypothesis, ...]:
    return tuple(HYPOTHESES[name] for name in names)


# Training on few examples magnifies the last digit of a number.
_TOLERANCES = {
    "loss": Tolerance(close=2e-3, relative=1e-2, steps=3),
    "accuracy": Tolerance(typical=0.03),
}

STUDIES = (
    Study(
        name="replica-batches",
        question="What do small batches on each of eight devices cost, and what mends them?",
        block=replicas_block,
        dims={
            "arm": ARMS,
            "shards": SHARDS,
            "local_batch": [2, 4, 8, 32],
            "learning_rate": [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0],
            "seed": range(20),
        },
        together=["learning_rate"],
        fixed={"network": "dense", "replicas": 8, "passes": 30},
        tolerances=_TOLERANCES,
        overlap=DIGITS_OVERLAP,
        hypotheses=_said(
            "sync-mends-small-batches",
            "own-statistics-suffice",
            "sorted-replicas",
            "group-norm-on-small-replicas",
        ),
    ),
    Study(
        name="replica-batches-conv",
        question="And in a convolutional network?",
        block=replicas_block,
        dims={
            "arm": ARMS,
            "shards": SHARDS,
            "local_batch": [2, 8],
            "learning_rate": [0.03, 0.1, 0.3, 1.0, 3.0],
            "seed": range(10),
        },
        together=["learning_rate"],
        fixed={"network": "convolutional", "replicas": 8, "passes": 15},
        tolerances=_TOLERANCES,
        overlap=DIGITS_OVERLAP,
    ),
    Study(
        name="merging",
        question="Does the variance of parts give the variance of all?",
        block=merging_block,
        dims={"seed": range(20)},
        together=["seed"],
        fixed={"parts": 8},
        tolerances={"error": Tolerance(1e-12)},
        hypotheses=_said("variance-of-parts"),
    ),
    Study(
        name="synchronized-digits",
        question="How exact is Keras's variance of numbers far from 0?",
        block=digits_block,
        dims={"offset": [0.0, 10.0, 100.0, 1000.0, 10000.0], "seed": range(20)},
        together=["offset"],
        # What is left of a difference of large numbers depends on the order of the sums.
        tolerances={"error": Tolerance(mean=0.1, relative=1.0)},
        hypotheses=_said("synchronized-loses-digits"),
    ),
    Study(
        name="synchronizing",
        question="What does it take two workers to share statistics, and does it give the whole "
        "batch's?",
        block=workers_block,
        dims={
            "numbers": [2, 128, 512, 2048, 4096, 65536, 1048576, 4194304],
            "layers": [1, 4],
            "seed": range(10),
        },
        together=["numbers", "layers"],
        fixed={"width": 256, "rows": 32, "rounds": 10},
        # The times are those of one machine, which the provenance names; no limit compares them.
        tolerances={
            "seconds": Tolerance(),
            "step": Tolerance(),
            "collectives": Tolerance(close=0.0),
            "error": Tolerance(close=1e-5, relative=1e-3),
            "fit_runs": Tolerance(close=0.0),
        },
        hypotheses=_said(
            "synchronized-is-full-batch",
            "unsynchronized-keeps-first",
            "fit-on-many-workers",
            "sync-cost-model",
        ),
        changes=(
            "Before the record, pilots showed that the workers run, and their times were seen: "
            "of messages alone, of messages and steps, and of both again with fewer layers and "
            "rounds, for the sake of time. The margin was written down after the second pilot.",
            "A first record, with the same settings, told of the pilots otherwise and counted the "
            "seconds of one process alone, so it was computed again. Its ratio was 0.93.",
        ),
    ),
)


# -- claims ---------------------------------------------------------------------------------------


def replicas(
    shards: str = "dealt",
    statistics: str = "recomputed",
    record: str | xr.Dataset = "replica-batches",
) -> Comparison:
    """Accuracy by the number of examples on each replica.

    Args:
        shards: "dealt" or "sorted".
        statistics: those of prediction: "recomputed" after training, the "moving" averages over all
            replicas, or those of the "first replica" alone, which is what Keras saves.
        record: a record of "replica-batches" or "replica-batches-conv", or its name.
    """
    record = load(record) if isinstance(record, str) else record
    return Comparison(record, "accuracy", ["learning_rate"], shards=shards, statistics=statistics)


def lost(arm: str, local_batch: int, better: Comparison, worse: Comparison) -> Interval:
    """Accuracy of one arm under one of two circumstances minus that under the other."""
    pair = (compared.values(arm, local_batch=local_batch) for compared in (better, worse))
    return paired_difference(*pair, overlap=better.overlap)


def _points(label: str, effect: Interval, claimed: str = "above") -> Finding:
    return Finding(label, effect, claimed, margin=0.02, reason="two points")


def _chosen(compared: Comparison, arms: list[str], local_batch: int) -> dict:
    """The rates that some arms chose, as a card tells them."""
    return {arm: compared.chosen(arm, local_batch=local_batch) for arm in arms}


def _synchronized(local_batch: int, statistics: str = "recomputed") -> Interval:
    return replicas(statistics=statistics).gain("synchronized", "local", local_batch=local_batch)


def sync_mends_small_batches() -> Claim:
    """Two examples on each replica, the statistics of 16 or of 2."""
    dealt, conv = replicas(), replicas(record=CONV)
    return HYPOTHESES["sync-mends-small-batches"].judge(
        _synchronized(2),
        [
            _points("the same, 4 examples on each", _synchronized(4)),
            _points(
                "2 examples, predicting with the averages of the first replica",
                _synchronized(2, "first replica"),
            ),
            _points("2 examples, no BN − local", dealt.gain("no BN", "local", local_batch=2)),
            _points(
                "convolutional, 2 examples, 15 passes",
                conv.gain("synchronized", "local", local_batch=2),
            ),
        ],
        chosen=_chosen(dealt, ["synchronized", "local"], 2),
        draws=20,
        record=["replica-batches", CONV],
    )


def own_statistics_suffice() -> Claim:
    """Eight examples on each replica, the statistics of 64 or of 8."""
    return HYPOTHESES["own-statistics-suffice"].judge(
        _synchronized(8),
        [
            _points("the same, 32 examples on each", _synchronized(32), "within"),
            _points(
                "8 examples, predicting with the averages of the first replica",
                _synchronized(8, "first replica"),
                "within",
            ),
        ],
        chosen=_chosen(replicas(), ["synchronized", "local"], 8),
        draws=20,
        record="replica-batches",
    )


def sorted_replicas() -> Claim:
    """Shards of few classes against shards of all."""
    dealt, by_class = (replicas(kind) for kind in SHARDS)
    conv = [replicas(kind, record=CONV) for kind in SHARDS]
    first = [replicas(kind, "first replica") for kind in SHARDS]
    return HYPOTHESES["sorted-replicas"].judge(
        lost("local", 8, dealt, by_class),
        [
            _points("the same, 2 examples on each", lost("local", 2, dealt, by_class)),
            _points("the same, 32 examples on each", lost("local", 32, dealt, by_class)),
            _points(
                "8 examples, predicting with the averages of the first replica",
                lost("local", 8, *first),
            ),
            *(
                _points(f"{arm}, 8 examples", lost(arm, 8, dealt, by_class), "within")
                for arm in ("synchronized", "group norm")
            ),
            _points("convolutional, 8 examples, 15 passes", lost("local", 8, *conv)),
        ],
        chosen={
            f"local, {kind}": compared.chosen("local", local_batch=8)
            for kind, compared in zip(SHARDS, (dealt, by_class), strict=True)
        },
        draws=20,
        record=["replica-batches", CONV],
    )


def group_norm_on_small_replicas() -> Claim:
    """Group norm against local BN, and against what synchronizing gives."""
    dealt = replicas()
    return HYPOTHESES["group-norm-on-small-replicas"].judge(
        dealt.gain("group norm", "local", local_batch=2),
        [
            *(
                _points(
                    f"the same, {size} examples on each",
                    dealt.gain("group norm", "local", local_batch=size),
                )
                for size in (4, 8)
            ),
            _points(
                "2 examples, group norm − synchronized",
                dealt.gain("group norm", "synchronized", local_batch=2),
                "within",
            ),
        ],
        chosen=_chosen(dealt, ["group norm", "local"], 2),
        draws=20,
        record="replica-batches",
    )


def variance_of_parts() -> Claim:
    """The largest error of 20 draws."""
    errors = load("merging")["error"].max("seed")
    return HYPOTHESES["variance-of-parts"].judge(
        exact(float(errors.max())),
        [
            Finding(f"the largest of 20: {name}", exact(value), "below", null=1e-12, spec=".1e")
            for name, value in _named(errors)
        ],
        draws=20,
        seeds=20,
        record="merging",
    )


def _named(values: xr.DataArray) -> list[tuple[str, float]]:
    """The labels and the numbers of an array with one axis."""
    return [(str(name), float(value)) for name, value in values.to_series().items()]


def _largest(arm: str, of: str) -> xr.DataArray:
    """The largest error of ten launches, by quantity."""
    return load("synchronizing")["error"].sel(arm=arm, of=of).max("seed")


def synchronized_is_full_batch() -> Claim:
    """Output, gradients and statistics of two workers, and of one that has all examples."""
    errors = _largest("synchronized", "all examples")
    apart = float(_largest("local", "all examples").sel(quantity="output"))
    return HYPOTHESES["synchronized-is-full-batch"].judge(
        exact(float(errors.max())),
        [
            *(
                Finding(name, exact(value), "below", null=1e-5, spec=".1e")
                for name, value in _named(errors)
            ),
            Finding("output, not synchronized", exact(apart), "above", null=0.01, spec=".2f"),
        ],
        draws=10,
        record="synchronizing",
    )


def unsynchronized_keeps_first() -> Claim:
    """What the first worker has to save."""
    moving = ["moving mean", "moving variance"]
    own, every = (
        _largest("local", of).sel(quantity=moving) for of in ("own examples", "all examples")
    )
    return HYPOTHESES["unsynchronized-keeps-first"].judge(
        exact(float(own.max())),
        [
            Finding(f"{name}, from that of all examples", exact(value), null=0.01, spec=".2f")
            for name, value in _named(every)
        ],
        draws=10,
        record="synchronizing",
    )


def synchronized_loses_digits() -> Claim:
    """Two formulas for one variance."""
    errors = load("synchronized-digits")["error"].mean("seed")

    def finding(arm: str, offset: float, claimed: str = "above") -> Finding:
        effect = exact(float(errors.sel(arm=arm, offset=offset)))
        label = f"{arm}, mean {offset:,.0f}"
        return Finding(label, effect, claimed, null=0.01, spec=".1e")

    return HYPOTHESES["synchronized-loses-digits"].judge(
        exact(float(errors.sel(arm="synchronized", offset=1000.0))),
        [
            finding("synchronized", 0.0, "below"),
            finding("synchronized", 100.0),
            finding("synchronized", 10000.0),
            finding("local", 1000.0, "below"),
            finding("local", 10000.0, "below"),
        ],
        draws=20,
        record="synchronized-digits",
    )


def fit_on_many_workers() -> Claim:
    """What the installed Keras did when the record was made."""
    return HYPOTHESES["fit-on-many-workers"].judge(
        exact(float(load("synchronizing")["fit_runs"].mean())), draws=10, record="synchronizing"
    )


SHORT, LONG = 2, 1048576
BYTES = 4  # of a number in single precision
SHARED = {"devices": 2, "algorithm": "ring"}  # as TensorFlow's workers do


def links(record: xr.Dataset | None = None) -> list[Link]:
    """The link between the two workers of each launch, from a short and from a long message.

    Args:
        record: a record of "synchronizing"; the book's if None.
    """
    record = load("synchronizing") if record is None else record
    measured = record["seconds"].sel(numbers=[SHORT, LONG]).transpose("seed", "numbers")
    sizes = [BYTES * SHORT, BYTES * LONG]
    return [Link.fitted(sizes, pair, **SHARED) for pair in measured.values.tolist()]


def message(numbers: int, record: xr.Dataset | None = None) -> Interval:
    """Time of an all-reduce between the two workers, measured over predicted.

    Args:
        numbers: how many it sums.
        record: a record of "synchronizing"; the book's if None.
    """
    record = load("synchronizing") if record is None else record
    predicted = [link.all_reduce(BYTES * numbers, **SHARED) for link in links(record)]
    return paired_ratio(record["seconds"].sel(numbers=numbers).values, np.array(predicted))


def added(layers: int, record: xr.Dataset | None = None) -> tuple[np.ndarray, np.ndarray]:
    """What synchronizing adds to a step of two workers.

    Args:
        layers: how many BN layers.
        record: a record of "synchronizing"; the book's if None.

    Returns:
        The seconds measured in each launch, and those that messages alone predict.
    """
    record = load("synchronizing") if record is None else record
    here = record.sel(layers=layers)
    more = {name: _more(here[name]) for name in ("step", "collectives")}
    size = BYTES * provenance(record)["settings"]["fixed"]["width"]
    each = np.array([link.all_reduce(size, **SHARED) for link in links(record)])
    return more["step"], more["collectives"] * each


def _more(values: xr.DataArray) -> np.ndarray:
    local, synchronized = (values.sel(arm=arm).values for arm in two_workers.ARMS)
    return synchronized - local


def sync_cost_model() -> Claim:
    """The model against steps, and against messages that it was not fitted to."""

    def finding(label: str, effect: Interval) -> Finding:
        return Finding(
            label,
            effect,
            "within",
            margin=2.0,
            reason="a factor of two",
            spec=".2f",
        )

    return HYPOTHESES["sync-cost-model"].judge(
        paired_ratio(*added(4)),
        [
            finding("the same, one layer", paired_ratio(*added(1))),
            *(
                finding(f"an all-reduce of {numbers:,} numbers", message(numbers))
                for numbers in (4096, 65536, 4194304)
            ),
        ],
        record="synchronizing",
    )


CLAIMS = {
    "sync-mends-small-batches": sync_mends_small_batches,
    "own-statistics-suffice": own_statistics_suffice,
    "sorted-replicas": sorted_replicas,
    "group-norm-on-small-replicas": group_norm_on_small_replicas,
    "variance-of-parts": variance_of_parts,
    "synchronized-is-full-batch": synchronized_is_full_batch,
    "unsynchronized-keeps-first": unsynchronized_keeps_first,
    "synchronized-loses-digits": synchronized_loses_digits,
    "fit-on-many-workers": fit_on_many_workers,
    "sync-cost-model": sync_cost_model,
}
