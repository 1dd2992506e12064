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
from bnutils.network import norm_layers
from bnutils.studies import load
from bnutils.studies.common import DIGITS_OVERLAP, PARTS, Settings, accuracies, pictures

ARMS = ["no BN", "group norm", "synchronized", "local"]
SHARDS = ["dealt", "sorted"]
CONV = "replica-batches-conv"
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


# -- hypotheses -----------------------------------------------------------------------------------

_TWO_POINTS = (
    "two points, as in chapter 7: 400 test images of a pool of 1,797 can't tell less apart, and "
    "less would not make one change how devices work together"
)
_REPLICAS = (
    "digits (1,797 images, split anew for each seed into 1,097, 300 and 400), 64-48-48-10 ReLU, "
    "eight replicas with a fixed shard of the training images each, gradient descent with the "
    "gradient of all replicas, 30 passes, statistics recomputed after training over all training "
    "images, each replicate at the rate that was best on its validation images"
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
            said_by="Peng and others 2018, section 3, of detectors with two images on each device",
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
            said_by="Goyal and others 2017, section 2.3, as advice, of 32 images on each device",
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
            said_by="Ioffe 2017, abstract, of batches whose examples are not independent",
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
            said_by="Wu and He 2018, abstract, of two images on each of eight devices",
            label="accuracy with 2 examples on each of 8 replicas, group norm − local",
            margin=0.02,
            reason=_TWO_POINTS,
            setting=f"{_REPLICAS}, 6 groups of 8 neurons",
        ),
    ]
}


def _said(*names: str) -> tuple[Hypothesis, ...]:
    return tuple(HYPOTHESES[name] for name in names)


# Training on few examples magnifies the last digit of a number.
_TOLERANCES = {
    "loss": Tolerance(close=2e-3, relative=1e-2, steps=3),
    "accuracy": Tolerance(mean=0.03),
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


CLAIMS = {
    "sync-mends-small-batches": sync_mends_small_batches,
    "own-statistics-suffice": own_statistics_suffice,
    "sorted-replicas": sorted_replicas,
    "group-norm-on-small-replicas": group_norm_on_small_replicas,
}
