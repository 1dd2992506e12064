"""Chapter 11, many devices."""

import numpy as np

from bnutils.checks.engine import ANY, Answer, Function, Mistake, cases_of, small_batches

# ---- 11.3: merging parts of unequal sizes -------------------------------------------------------


def _merge(combine):
    def merge(counts, means, variances):
        share = (counts / counts.sum())[:, None]
        mean = (share * means).sum(axis=0)
        return mean, combine(share, means, variances, mean)

    return merge


def _right(share, means, variances, mean):
    return (share * (variances + (means - mean) ** 2)).sum(axis=0)


def _all_alike(counts, means, variances):
    return means.mean(axis=0), variances.mean(axis=0) + means.var(axis=0)


def _unweighted_mean(counts, means, variances):
    return means.mean(axis=0), _merge(_right)(counts, means, variances)[1]


_MERGE = Function(
    right=_merge(_right),
    returns=("mean", "variance"),
    cases=cases_of(
        [(4, 3), (5, 2)],
        lambda rng, shape: {
            "counts": rng.integers(1, 9, size=shape[0]).astype(float),
            "means": rng.normal(1, 2, size=shape),
            "variances": rng.uniform(0.5, 3, size=shape),
        },
    ),
    tiny=lambda: (
        {"counts": np.arange(1.0, len(x) + 1), "means": x, "variances": x[::-1] ** 2 + 1}
        for x in small_batches()
    ),
    mistakes={
        "sizes-ignored": Mistake(
            _all_alike,
            "Every part counts alike, also one with few rows. A row on a small device then weighs "
            "more than one on a large device.",
        ),
        "mean-unweighted": Mistake(
            _unweighted_mean,
            "The variance is right, but in the mean every part counts alike. Each counts with its "
            "share of the rows there too.",
        ),
        "between-forgotten": Mistake(
            _merge(lambda share, means, variances, mean: (share * variances).sum(axis=0)),
            "The variance is only that within the parts. Their means differ from each other as "
            "well, and that is part of how rows differ.",
        ),
        "within-forgotten": Mistake(
            _merge(lambda share, means, variances, mean: (share * (means - mean) ** 2).sum(axis=0)),
            "The variance is only that between the parts. Rows also differ from the mean of their "
            "own part.",
        ),
        "between-unweighted": Mistake(
            [
                _merge(
                    lambda share, means, variances, mean: (
                        (share * variances).sum(axis=0) + means.var(axis=0)
                    )
                ),
                _merge(
                    lambda share, means, variances, mean: (
                        (share * variances).sum(axis=0) + ((means - mean) ** 2).mean(axis=0)
                    )
                ),
            ],
            "Within the parts you count each with its share, between them all alike. A mean "
            "stands for all the rows of its part there too.",
        ),
        "within-unweighted": Mistake(
            _merge(
                lambda share, means, variances, mean: (
                    variances.mean(axis=0) + (share * (means - mean) ** 2).sum(axis=0)
                )
            ),
            "Between the parts you count each with its share, within them all alike. The variance "
            "of a large part speaks for more rows.",
        ),
        "far-from-the-plain-mean": Mistake(
            _merge(
                lambda share, means, variances, mean: (
                    share * (variances + (means - means.mean(axis=0)) ** 2)
                ).sum(axis=0)
            ),
            "The distances are measured from the plain mean of the means. The mean of all rows "
            "is the one that counts each part with its share.",
        ),
        "sd-instead": Mistake(
            _merge(lambda *given: np.sqrt(_right(*given))),
            "You returned the standard deviation. The moving statistics keep the variance.",
        ),
        "sums-not-means": Mistake(
            lambda counts, means, variances: (
                (counts[:, None] * means).sum(axis=0),
                _merge(_right)(counts, means, variances)[1] * counts.sum(),
            ),
            "You returned sums over all rows. They are still to be divided by the number of rows.",
        ),
    },
)

# ---- 11.4: the gradient on several devices ------------------------------------------------------


def _backward(mean_dy, mean_product):
    def backward(dy, x_hat, scale):
        return scale * (dy - mean_dy(dy) - x_hat * mean_product(dy * x_hat))

    return backward


def _over_all(values):
    return values.mean(axis=(0, 1))


def _on_each(values):
    return values.mean(axis=1, keepdims=True)


def _over_devices(values):
    return values.mean(axis=0, keepdims=True)


def _of_sums(values):
    return values.sum(axis=1).mean(axis=0)


def _all_sums(values):
    return values.sum(axis=(0, 1))


def _nothing(values):
    return 0 * values[:1, :1]


_BACKWARD = Function(
    right=_backward(_over_all, _over_all),
    returns=("dx",),
    cases=cases_of(
        [(3, 4, 2), (2, 5, 3)],
        lambda rng, shape: {
            "dy": rng.normal(0.5, 1, size=shape),
            "x_hat": rng.normal(0.2, 1, size=shape),
            "scale": rng.uniform(0.5, 2, size=shape[2]),
        },
    ),
    tiny=lambda: (
        {
            "dy": np.stack([x, x[::-1] * 2]),
            "x_hat": np.stack([x**2, 1 - x]),
            "scale": np.arange(1.0, x.shape[1] + 1),
        }
        for x in small_batches()
    ),
    mistakes={
        "each-its-own": Mistake(
            _backward(_on_each, _on_each),
            "Each device takes the two means over its own rows. That is the gradient of BN without "
            "synchronizing; here an output depends on the rows of all.",
        ),
        "one-mean-its-own": Mistake(
            [_backward(_over_all, _on_each), _backward(_on_each, _over_all)],
            "One of the two means is over all rows, the other over those of each device. Both "
            "travel: the variance is shared as well as the mean.",
        ),
        "statistics-as-constants": Mistake(
            _backward(_nothing, _nothing),
            "The mean and the variance are taken as constants. They are made of these rows, and "
            "the gradient passes through them.",
        ),
        "variance-as-a-constant": Mistake(
            _backward(_over_all, _nothing),
            "The way through the variance is missing. A row that moves changes the spread of all.",
        ),
        "mean-as-a-constant": Mistake(
            _backward(_nothing, _over_all),
            "The way through the mean is missing. A row that moves takes the mean along.",
        ),
        "row-by-row": Mistake(
            _backward(_over_devices, _over_devices),
            "The means run over the devices, row by row. They run over the rows as well: all the "
            "rows of all devices are one batch.",
        ),
        "sums-of-a-device": Mistake(
            _backward(_of_sums, _of_sums),
            "You averaged the devices' sums. They are added up, and then divided by the number of "
            "all rows.",
        ),
        "sums-not-means": Mistake(
            _backward(_all_sums, _all_sums),
            "You subtracted sums over all rows. All-reduce gives sums, and the formula has means.",
        ),
        "scale-forgotten": Mistake(
            lambda dy, x_hat, scale: _backward(_over_all, _over_all)(dy, x_hat, 1.0),
            "The scale is not used. What reaches the input is multiplied by it, as the input was.",
        ),
    },
)

# ---- 11.2: classes on devices -------------------------------------------------------------------

_MEANS, _WITHIN = np.array([0.0, 2, 4, 6]), 1.0
_BETWEEN = _MEANS.var()
_ALL = _WITHIN + _BETWEEN

EXERCISES = {
    "11.1": Answer(
        truth=(64 / 16, 64, 64 * 4),
        names=("local", "synchronized", "gradient"),
        hints={
            "local": "The batch is shared out among the devices; see how many rows one of them "
            "gets.",
            "synchronized": "Synchronizing joins what the devices have at one time, and nothing "
            "of other times.",
            "gradient": "Count the rows of all the batches between two changes of the weights.",
        },
        tolerance=0,
        mistakes={
            "batch-of-a-device": Mistake(
                [(64, ANY, ANY), (ANY, 64 * 16, ANY), (ANY, ANY, 64 * 16 * 4)],
                "You gave every device a whole batch. It is shared out among all of them.",
            ),
            "accumulation-joins-statistics": Mistake(
                [(64 / 16 * 4, ANY, ANY), (ANY, 64 * 4, ANY)],
                "You counted the four batches as one. Gradients add up over them, statistics do "
                "not.",
            ),
            "accumulation-splits-the-batch": Mistake(
                [(64 / 16 / 4, ANY, ANY), (ANY, 64 / 4, ANY), (ANY, ANY, 64)],
                "You cut a batch into micro-batches. Each batch is one, and the step sees several "
                "of them.",
            ),
        },
        hint="First how many rows one device has, then what is joined over the devices, then what "
        "is joined over time.",
    ),
    "11.2": Answer(
        truth=(_ALL, _BETWEEN / _ALL, "the same"),
        choices=("larger", "smaller", "the same"),
        names=("variance", "share", "choice"),
        tolerance=0.005,
        mistakes={
            "between-forgotten": Mistake(
                (_WITHIN, ANY, ANY),
                "That is the variance within the devices. The rows of different devices differ "
                "as well.",
            ),
            "ddof": Mistake(
                [
                    (_WITHIN + _MEANS.var(ddof=1), ANY, ANY),
                    (ANY, _MEANS.var(ddof=1) / (_WITHIN + _MEANS.var(ddof=1)), ANY),
                ],
                "You divided the squares of the four means by 3. BN divides by the number of "
                "rows, and so by the number of equal parts.",
            ),
            "sds-instead": Mistake(
                [
                    (np.sqrt(_ALL), ANY, ANY),
                    (_WITHIN + np.sqrt(_BETWEEN), ANY, ANY),
                    (ANY, np.sqrt(_BETWEEN / _ALL), ANY),
                ],
                "You took a standard deviation. It is variances that add up.",
            ),
            "share-within": Mistake(
                (ANY, _WITHIN / _ALL, ANY),
                "That is the share within the devices. It is the part that stays.",
            ),
            "ratio-for-share": Mistake(
                (ANY, _BETWEEN / _WITHIN, ANY),
                "You divided by what lies within. A share is of the whole.",
            ),
            "rows-mend-it": Mistake(
                (ANY, ANY, "smaller"),
                "More rows make each device surer of its mean. They bring it no nearer to the "
                "means of the others, which are those of other classes.",
            ),
            "rows-harm": Mistake(
                (ANY, ANY, "larger"),
                "Neither the variance within a class nor the distance between the classes "
                "depends on how many rows there are. So what lies between the devices stays too.",
            ),
        },
        hint="Rows differ within a device, and devices differ from each other: put a number on "
        "each. Then ask which of the two subtracting a device's own mean removes.",
    ),
    "11.3": _MERGE,
    "11.4": _BACKWARD,
}
