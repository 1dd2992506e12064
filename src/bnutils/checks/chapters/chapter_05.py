"""Chapter 5, inputs and outputs."""

from functools import cache

import numpy as np

from bnutils import data
from bnutils.checks.engine import ANY, Answer, Function, Mistake, cases_of, small_batches


def _rain_apart():
    """Measured rain of the 32 wettest test days minus that of the 32 driest, in mm."""
    y = np.sort(data.seattle_rain(dtype=float).test.y)
    return y[-32:].mean() - y[:32].mean()


@cache
def _sds():
    """Standard deviations of the 200 raw features."""
    problems = [data.two_classes(seed=s, raw_scales=True, dtype=float) for s in range(10)]
    return np.concatenate([problem.train.x.std(axis=0) for problem in problems])


def _narrow(after):
    """How many features stay below 0.7, where `after` gives what BN makes of their sds."""
    return int((after(_sds()) < 0.7).sum())


def _normalized(sd):
    return sd / np.sqrt(sd**2 + 1e-3)


def _base_rate_loss(share):
    return -(share * np.log(share) + (1 - share) * np.log(1 - share))


# ---- 5.4: the last layer in millimeters ---------------------------------------------------------


def _in_units(kernel=lambda k, mean, sd: k * sd, bias=lambda b, mean, sd: mean + sd * b):
    return lambda k, b, mean, sd: (kernel(k, mean, sd), bias(b, mean, sd))


_RESCALED = Function(
    right=_in_units(),
    returns=("kernel", "bias"),
    cases=cases_of(
        [(4, 1), (3, 2)],
        lambda rng, shape: {
            "kernel": rng.normal(size=shape),
            "bias": rng.normal(1, 1, size=shape[1]),
            "mean": 2.5,
            "sd": 6.0,
        },
    ),
    tiny=lambda: ({"kernel": x, "bias": x[0], "mean": 1.0, "sd": 2.0} for x in small_batches()),
    mistakes={
        "bias-not-scaled": Mistake(
            _in_units(bias=lambda b, mean, sd: mean + b),
            "The old bias is not multiplied by the standard deviation. It is part of the "
            "standardized prediction, and all of that is scaled.",
        ),
        "mean-forgotten": Mistake(
            _in_units(bias=lambda b, mean, sd: sd * b),
            "The mean is not added. The predictions have the right width, around 0 mm.",
        ),
        "mean-scaled": Mistake(
            _in_units(bias=lambda b, mean, sd: sd * (b + mean)),
            "The mean is multiplied by the standard deviation. It is in millimeters already.",
        ),
        "bias-replaced": Mistake(
            _in_units(bias=lambda b, mean, sd: mean + 0 * b),
            "The old bias is lost. It is part of the standardized prediction.",
        ),
        "kernel-not-scaled": Mistake(
            _in_units(kernel=lambda k, mean, sd: k),
            "The kernel is as it was. The predictions then have the right mean, and spread far "
            "too little.",
        ),
        "kernel-shifted": Mistake(
            _in_units(kernel=lambda k, mean, sd: k * sd + mean),
            "The mean is added to the kernel. It would be multiplied by the activations; it "
            "belongs to the bias.",
        ),
        "standardizes": Mistake(
            _in_units(lambda k, mean, sd: k / sd, lambda b, mean, sd: (b - mean) / sd),
            "It standardizes, the way from millimeters. The network answers standardized, and you "
            "want to go back.",
        ),
    },
)

EXERCISES = {
    "5.1": Answer(
        truth=0,
        tolerance=0.1,
        mistakes={
            "as-measured": Mistake(
                _rain_apart,
                "That is how far the measured rain of the two lies apart. In training mode BN "
                "subtracts the mean of its batch, and so how wet the days are on the whole.",
            ),
            "wrong-way-round": Mistake(
                lambda: -_rain_apart(),
                "That is the measured rain, driest minus wettest. Look at the predictions, in "
                "training mode.",
            ),
            "inference": Mistake(
                [4.06, 8.30, 2.49],  # as measured: BN, no BN, and BN without gamma and beta
                "Those are predictions at inference, or of another network. Did you take "
                '`nets["BN"]`, and pass `training=True`?',
                0.3,
            ),
            "one-batch-alone": Mistake(
                0.78,  # as measured
                "That is the mean prediction for one batch, beta. Asked for is how far the mean "
                "for the wettest days lies above that for the driest.",
            ),
        },
        hint="BN on the output sets the mean of each batch of predictions. To what? If you ran "
        "it, did you pass `training=True`?",
    ),
    "5.2": Answer(
        truth=lambda: (_narrow(_normalized), "no"),
        names=("features below an sd of 0.7", "did it matter"),
        choices=("yes", "no"),
        tolerance=0,
        mistakes={
            "mattered": Mistake(
                lambda: (_narrow(_normalized), "yes"),
                "The count is right. To matter, the difference in accuracy between BN on raw and "
                "on scaled inputs would have to reach a point, that is 0.01.",
            ),
            "share": Mistake(
                [
                    lambda: (_narrow(_normalized) / _sds().size, ANY),
                    lambda: (100 * _narrow(_normalized) / _sds().size, ANY),
                ],
                "That is the share of such features. Asked for is a count, of all ten problems "
                "together.",
                1e-9,
            ),
            "before-bn": Mistake(
                lambda: (_narrow(lambda sd: sd), ANY),
                "You counted the features before BN. Asked for is their standard deviation after "
                "it, which is 1 wherever epsilon does not count.",
            ),
            "epsilon-outside-the-root": Mistake(
                lambda: (_narrow(lambda sd: sd / (sd + 1e-3)), ANY),
                "Epsilon is added to the standard deviation. Under the root it acts up to a "
                "standard deviation of about the root of epsilon.",
            ),
            "divides-by-the-variance": Mistake(
                lambda: (_narrow(lambda sd: sd / (sd**2 + 1e-3)), ANY),
                "You divided by the variance plus epsilon. Take the root.",
            ),
            "none": Mistake(
                (0, ANY),
                "You took BN to give every feature a standard deviation of 1. It divides by the "
                "root of variance plus epsilon, and some variances are far below epsilon.",
            ),
        },
        hint="The standard deviation after BN is sd / sqrt(sd**2 + epsilon), for each feature of "
        "each of the ten problems.",
    ),
    "5.3": Answer(
        truth=0.127,  # as measured
        tolerance=0.02,
        mistakes={
            "unchanged": Mistake(
                0.55,
                "That is the log-loss of the network as it was. Did the scale and the shift reach "
                "the logits of the test data?",
            ),
            "base-rate": Mistake(
                lambda: _base_rate_loss(0.1),
                "That is what predicting one in ten for every example costs. The shift is right "
                "then, but the scale has wiped out what the network knows.",
            ),
        },
        hint="Fit a scale and a shift to the logits of the validation data, then take the log-loss "
        "on the test data.",
    ),
    "5.4": _RESCALED,
}
