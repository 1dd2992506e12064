"""Chapter 7, batch size."""

import numpy as np

from bnutils import norm
from bnutils.checks.engine import ANY, Answer, Function, Mistake, cases_of, small_batches

# ---- 7.3: group norm from standardize -----------------------------------------------------------


def _group_norm(x, groups, epsilon):
    split = x.reshape(len(x), groups, -1)
    return norm.standardize(split, axis=2, epsilon=epsilon)[0].reshape(x.shape)


def _every_nth(x, groups, epsilon):
    split = x.reshape(len(x), -1, groups)
    return norm.standardize(split, axis=1, epsilon=epsilon)[0].reshape(x.shape)


def _over_the_batch(x, groups, epsilon):
    split = x.reshape(len(x), groups, -1)
    return norm.standardize(split, axis=(0, 2), epsilon=epsilon)[0].reshape(x.shape)


def _groups_as_size(x, groups, epsilon):
    return _group_norm(x, x.shape[1] // groups, epsilon)


_GROUP_NORM = Function(
    right=_group_norm,
    returns=("y",),
    cases=cases_of(
        [(4, 12), (3, 12)],
        lambda rng, shape: {"x": rng.normal(2, 1.5, size=shape), "groups": 3, "epsilon": 0.5},
    ),
    tiny=lambda: (
        {"x": np.hstack([x, x[:, ::-1] ** 2 + x, 2 - x, x**2]), "groups": 2, "epsilon": 1.0}
        for x in small_batches()
    ),
    mistakes={
        "layer-norm": Mistake(
            lambda x, groups, epsilon: _group_norm(x, 1, epsilon),
            "All features of an example share one mean. That is layer normalization: the groups "
            "have no effect.",
        ),
        "batch-norm": Mistake(
            lambda x, groups, epsilon: norm.standardize(x, 0, epsilon)[0],
            "The means run over the examples. That is batch normalization; here an example is not "
            "to meet the others.",
        ),
        "groups-over-the-batch": Mistake(
            _over_the_batch,
            "The groups are right, but the means run over the examples too. Then the output of an "
            "example depends on its batch.",
        ),
        "every-nth-feature": Mistake(
            _every_nth,
            "Your groups take every n-th feature. Asked for are neighbors, so the order of the "
            "two new axes matters.",
        ),
        "number-and-size-swapped": Mistake(
            _groups_as_size,
            "You took `groups` as the number of features in a group. It is the number of groups.",
        ),
        "across-groups": Mistake(
            lambda x, groups, epsilon: norm.standardize(
                x.reshape(len(x), groups, -1), axis=1, epsilon=epsilon
            )[0].reshape(x.shape),
            "You averaged over the axis of the groups. Features of different groups then share "
            "their statistics, and those of one group do not.",
        ),
        "no-epsilon": Mistake(
            lambda x, groups, epsilon: _group_norm(x, groups, 0.0),
            "Epsilon is not used. A group whose features are equal would be divided by 0.",
        ),
    },
)

# ---- 7.4: merging ghost batches -----------------------------------------------------------------


def _merge(variance):
    return lambda means, variances: (means.mean(axis=0), variance(means, variances))


_MERGE = Function(
    right=_merge(lambda means, variances: variances.mean(axis=0) + means.var(axis=0)),
    returns=("mean", "variance"),
    cases=cases_of(
        [(4, 3), (5, 2)],
        lambda rng, shape: {
            "means": rng.normal(1, 2, size=shape),
            "variances": rng.uniform(0.5, 3, size=shape),
        },
    ),
    tiny=lambda: ({"means": x, "variances": x[::-1] ** 2 + 1} for x in small_batches()),
    mistakes={
        "between-forgotten": Mistake(
            _merge(lambda means, variances: variances.mean(axis=0)),
            "The variance is only that within the ghosts. Their means differ from each other as "
            "well, and that is part of how rows differ.",
        ),
        "within-forgotten": Mistake(
            _merge(lambda means, variances: means.var(axis=0)),
            "The variance is only that between the ghosts. Rows also differ from the mean of "
            "their own ghost.",
        ),
        "ddof": Mistake(
            _merge(lambda means, variances: variances.mean(axis=0) + means.var(axis=0, ddof=1)),
            "The variance of the means divides by the number of ghosts minus 1. Asked for is the "
            "biased variance of these very rows.",
        ),
        "error-of-the-mean": Mistake(
            _merge(lambda means, v: v.mean(axis=0) + means.var(axis=0) / len(means)),
            "The variance of the means is divided by the number of ghosts once more. That is the "
            "squared error of a mean; here it is a part of the variance.",
        ),
        "sd-instead": Mistake(
            _merge(lambda means, v: np.sqrt(v.mean(axis=0) + means.var(axis=0))),
            "You returned the standard deviation. The moving statistics keep the variance.",
        ),
        "sds-averaged": Mistake(
            _merge(lambda means, v: np.sqrt(v).mean(axis=0) ** 2 + means.var(axis=0)),
            "You averaged standard deviations and squared. It is the squares that add up over the "
            "rows.",
        ),
        "sum-of-variances": Mistake(
            _merge(lambda means, v: v.sum(axis=0) + means.var(axis=0)),
            "The variances within the ghosts are added up. Each ghost holds only its share of the "
            "rows, so they are averaged.",
        ),
    },
)

_PIXELS, _CHANNELS, _IMAGES, _GROUPS, _GHOST = 100, 24, 16, 6, 4
_MEANS = (
    _CHANNELS,
    _IMAGES // _GHOST * _CHANNELS,
    _IMAGES,
    _IMAGES * _GROUPS,
    _IMAGES * _CHANNELS,
)

EXERCISES = {
    "7.1": Answer(
        truth=(3 / np.sqrt(36), (3 / 0.1) ** 2),
        names=("error of the mean", "batch size"),
        hints={
            "error of the mean": "It is the standard deviation divided by the root of the batch "
            "size.",
            "batch size": "Set the standard deviation divided by the root of the batch size equal "
            "to the error that is asked for, and solve for the batch size.",
        },
        tolerance=0.005,
        mistakes={
            "variance-for-sd": Mistake(
                (9 / np.sqrt(36), ANY),
                "You divided the variance by the root of the batch size. The error of the mean is "
                "in the units of the data, so it starts from the standard deviation.",
            ),
            "root-forgotten": Mistake(
                [(3 / 36, ANY), (ANY, 3 / 0.1)],
                "You divided by the batch size, not by its root. Errors partly cancel, but only "
                "as the root.",
            ),
            "variance-of-the-mean": Mistake(
                (9 / 36, ANY),
                "That is the variance of the mean. Take its root.",
            ),
            "error-of-the-sd": Mistake(
                [(3 / np.sqrt(72), ANY), (ANY, (3 / 0.1) ** 2 / 2)],
                "That is how far the standard deviation misses. The mean misses by more.",
            ),
            "mean-instead-of-sd": Mistake(
                [(7 / np.sqrt(36), ANY), (ANY, (7 / 0.1) ** 2)],
                "You started from the mean. Where the data lie does not matter for the error, only "
                "how widely they spread.",
            ),
        },
        hint="The error is the standard deviation divided by the root of the batch size. For the "
        "second part, solve that for the batch size.",
    ),
    "7.2": Answer(
        truth=(*_MEANS, 3),
        names=("BN", "ghost batches", "layer", "group", "instance", "how many"),
        hints={
            "BN": "BN averages over images and positions, so each channel has a mean.",
            "ghost batches": "A ghost batch is normalized as a batch of its own. Count the ghosts, "
            "and the means that each of them has under BN.",
            "layer": "Layer norm averages over all that belongs to one image.",
            "group": "Under group norm the number of means is that of the groups of one image, "
            "times that of the images.",
            "instance": "Under instance norm the number of means is that of the channels of one "
            "image, times that of the images.",
            "how many": "Count those of the five whose means never average over examples: for "
            "each, look for the axis of the images among those averaged over.",
        },
        tolerance=0,
        mistakes={
            "per-pixel": Mistake(
                (_CHANNELS * _PIXELS, ANY, ANY, ANY, ANY, ANY),
                "You gave each pixel of a channel its own mean. In a convolution all positions of "
                "a channel share their weights, and so their statistics.",
            ),
            "ghost-as-bn": Mistake(
                (ANY, _CHANNELS, ANY, ANY, ANY, ANY),
                "You counted the ghost batches as one batch. Each of them has a mean for each "
                "channel.",
            ),
            "layer-norm-of-keras": Mistake(
                (ANY, ANY, _IMAGES * _PIXELS, ANY, ANY, ANY),
                "You gave each position of an image its own mean under layer norm, as Keras's "
                "layer does. Meant is that of figure 7.5, which averages over all of an image.",
            ),
            "group-size-for-number": Mistake(
                (ANY, ANY, ANY, _IMAGES * _CHANNELS // _GROUPS, ANY, ANY),
                "You took 6 as the size of a group. It is the number of groups of each image.",
            ),
            "groups-without-images": Mistake(
                (ANY, ANY, ANY, _GROUPS, ANY, ANY),
                "You counted the groups of one image. Every image has its own.",
            ),
            "instance-as-layer": Mistake(
                (ANY, ANY, ANY, ANY, _IMAGES, ANY),
                "You gave each image one mean under instance norm. That is layer norm; instance "
                "norm keeps the channels apart too.",
            ),
            "ghosts-are-alone": Mistake(
                (*_MEANS, 4),
                "The means are right. But images still meet inside a ghost batch.",
            ),
            "only-one-alone": Mistake(
                (*_MEANS, 1),
                "The means are right. But more than one of the five never averages over examples: "
                "look for the axis of the examples among those averaged over.",
            ),
        },
        hint="The number of means is the number of values, divided by how many are averaged: "
        "multiply the lengths of the axes that are not averaged over.",
    ),
    "7.3": _GROUP_NORM,
    "7.4": _MERGE,
}
