"""Chapter 4, Keras. Its last exercise, a model to build, is `checks.placement`."""

import numpy as np

from bnutils.checks.engine import ANY, Answer, Mistake

_KERNEL = 50 * 100

EXERCISES = {
    "4.1": Answer(
        truth=(_KERNEL + 3 * 100, 2 * 100),
        names=("parameters", "of them not trained"),
        tolerance=0,
        mistakes={
            "100-too-many": Mistake(
                (_KERNEL + 4 * 100, ANY),
                "You counted 100 numbers too many. Either the dense layer has a bias in your "
                "count, or BN a gamma; both are switched off.",
            ),
            "200-too-many": Mistake(
                (_KERNEL + 5 * 100, ANY),
                "You counted both the bias of the dense layer and the gamma of BN. Both are "
                "switched off.",
            ),
            "moving-statistics-missing": Mistake(
                (_KERNEL + 100, ANY),
                "You did not count the moving statistics. They are not trained, but they are "
                "stored with the model and counted by `summary()`.",
            ),
            "beta-missing": Mistake(
                (_KERNEL + 2 * 100, ANY),
                "You did not count beta. `scale=False` takes only gamma away.",
            ),
            "bn-missing": Mistake(
                (_KERNEL, ANY),
                "You counted the dense layer only. BN has numbers of its own for each of the 100 "
                "neurons.",
            ),
            "one-of-two": Mistake(
                (_KERNEL + 3 * 100, 100),
                "The sum is right. Two arrays of BN are moved along rather than trained: one for "
                "the mean, and another.",
            ),
            "beta-not-trained": Mistake(
                (_KERNEL + 3 * 100, 3 * 100),
                "The sum is right. Beta is trained, like a bias; the moving statistics are not.",
            ),
            "all-trained": Mistake(
                (_KERNEL + 3 * 100, 0),
                "The sum is right. The moving statistics follow the batches by their own rule, and "
                "no gradient reaches them.",
            ),
        },
        hint="Count the dense kernel, then the arrays of BN that are left, each of length 100.",
        hints={
            "of them not trained": "Which arrays of BN does a gradient change, and which follow "
            "the batches by their own rule?",
        },
    ),
    "4.2": Answer(
        truth="alive",
        choices=("dead", "alive"),
        mistakes={
            "dead": Mistake(
                "dead",
                "Before BN, a bias moves all outputs of a neuron alike, and the mean takes it "
                "away. Does it move them alike when a ReLU stands between? Print its gradient.",
            ),
        },
        hint="Print the largest gradient of the bias of `short`.",
    ),
    "4.3": Answer(
        truth=lambda: (0, np.sqrt(1 + 1e-3)),
        names=("moving means that moved", "what BN divided by"),
        tolerance=0.01,
        mistakes={
            "training-mode": Mistake(
                [(64, ANY), (96, ANY)],
                "The moving means moved, so the model ran in training mode. The mistake of this "
                "exercise is to call it without `training=True`.",
            ),
            "divides-by-epsilon": Mistake(
                lambda: (0, np.sqrt(1e-3)),
                "The first is right. The moving variance does not start at 0: look at "
                "`moving_variance` of a new layer.",
            ),
            "divides-by-nothing": Mistake(
                (0, 0),
                "The first is right. A moving variance of 0 would make BN divide by almost "
                "nothing; look at `moving_variance` of a new layer.",
            ),
        },
        hint="Both stand in the first BN layer, in `moving_mean` and in `moving_variance`.",
        hints={
            "moving means that moved": "Count what is not 0 in `moving_mean` of the first BN "
            "layer. Was the model called without `training=True`?",
            "what BN divided by": "BN divides by the root of `moving_variance` plus epsilon.",
        },
    ),
}
