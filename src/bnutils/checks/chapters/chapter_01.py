"""Chapter 1, motivation."""

from math import erfc, log, sqrt

import numpy as np

from bnutils.checks.engine import ANY, Answer, Mistake

# As measured: the factor by which a gradient grows for each layer, by depth.
_RATES = {5: 1.08, 10: 1.07, 20: 1.09, 40: 1.10}
_HALVINGS = 19 * np.log10(2)  # a factor of two at each of the 19 steps between 20 layers


def _saturated(sd):
    """Share of saturated neurons in the third hidden layer of 100 sigmoids, by theory.

    A weighted sum of 100 independent outputs is nearly normal, with the variance 100 sd^2 times
    the mean square of an output of the layer before.
    """
    node, weight = np.polynomial.hermite_e.hermegauss(200)
    z_sd = sd * np.sqrt(784 * 0.1)  # the mean square of an input is about 0.1
    for _ in range(2):
        square = weight @ (1 / (1 + np.exp(-z_sd * node)) ** 2) / weight.sum()
        z_sd = sd * np.sqrt(100 * square)
    # Outputs below 0.05 or above 0.95.
    return erfc(log(19) / z_sd / sqrt(2))


EXERCISES = {
    "1.1": Answer(
        truth=lambda: (_saturated(1.0), _saturated(0.1)),
        names=("share at 1", "share at 0.1"),
        tolerance=0.05,
        mistakes={
            "wrong-way-round": Mistake(
                lambda: (_saturated(0.1), _saturated(1.0)),
                "The two shares have changed places. Large weights make large weighted sums, and "
                "those are what saturates a sigmoid.",
            ),
            "same-at-both": Mistake(
                lambda: (_saturated(1.0), _saturated(1.0)),
                "Both have the share of the larger weights. Was the second network built with its "
                "own scale? The weighted sums shrink with the weights.",
            ),
            "percent": Mistake(
                lambda: (100 * _saturated(1.0), ANY),
                "These are percentages. Shares lie between 0 and 1.",
                tolerance=5,
            ),
            "other-end": Mistake(
                lambda: (1 - _saturated(1.0), 1 - _saturated(0.1)),
                "These are the shares that are not saturated. Saturated is an output below 0.05 or "
                "above 0.95, where the slope is nearly gone.",
            ),
        },
        hint="Run it: `outputs` gives the outputs for a scale. Count those below 0.05 or above "
        "0.95, each as a share of all.",
    ),
    "1.2": Answer(
        truth=_HALVINGS,
        tolerance=0.35,
        mistakes={
            "one-layer": Mistake(
                np.log10(2),
                "That is the price of one layer. Every layer between the first and the last "
                "takes its part, and the parts multiply.",
            ),
            "unchanged": Mistake(
                0,
                "You compared the first layer with the last. That ratio stays, since both are "
                "halved as often: the signal on its way up, or the gradient on its way down.",
            ),
            "up-and-down": Mistake(
                2 * _HALVINGS,
                "You counted the way up and the way down for the same layer. The first layer sees "
                "a full input and a gradient that came all the way; the last one the reverse.",
            ),
            "powers-of-two": Mistake(
                19,
                "That is how many times it is halved. Asked for are powers of ten.",
            ),
            "sign": Mistake(
                -_HALVINGS, "The size is right. Smaller by powers of ten counts as positive here."
            ),
        },
        hint="Compare the first layer of both networks: the difference of two logarithms to the "
        "base 10.",
    ),
    "1.3": Answer(
        # As measured. The plain network has not left chance, one class in ten.
        truth=(1 / 10, 0.90),
        names=("accuracy without BN", "accuracy with BN"),
        tolerance=0.06,
        mistakes={
            "wrong-way-round": Mistake(
                (0.90, 1 / 10),
                "The two accuracies have changed places. Which of the two rescales its own "
                "weighted sums?",
            ),
            "both-learn": Mistake(
                (0.90, 0.90),
                "Both networks learned. Was `initial_scale=[0.01]` passed on? With such small "
                "weights the neurons of a sigmoid layer all start near one half.",
            ),
            "neither-learns": Mistake(
                (1 / 10, 1 / 10),
                'Neither network learned. Is one of the two the arm "BN", and is it the last '
                "step? Before the first step both are at chance.",
            ),
        },
        hint='`studies.get("race").run(seed=[0], initial_scale=[0.01], ...)` takes the other two '
        'settings as well. Of its `accuracy`, select the arm, the part "test", the lower momentum '
        "and the last step.",
    ),
    "1.4": Answer(
        truth=tuple(_RATES.values()),
        names=("5 layers", "10 layers", "20 layers", "40 layers"),
        tolerance=0.03,
        mistakes={
            "whole-network": Mistake(
                tuple(r ** (n - 1) for n, r in _RATES.items()),
                "These are the factors from the last layer to the first. For a factor of each "
                "layer take the root: there are depth - 1 steps between the layers.",
            ),
            "wrong-way-round": Mistake(
                tuple(1 / r for r in _RATES.values()),
                "That is how the gradient changes on the way up. It comes down from the loss, so "
                "the growth is from the last layer to the first.",
            ),
            "squared": Mistake(
                tuple(r**2 for r in _RATES.values()),
                "These are the factors of the squared norm, as theory often gives them. Asked for "
                "is the norm, their root.",
            ),
            "logarithms": Mistake(
                tuple(np.log10(r) for r in _RATES.values()),
                "These are powers of ten. The record holds logarithms; raise 10 to them.",
            ),
        },
        hint="`kernel` holds logarithms to the base 10. Take the mean of the first layer's minus "
        "the last one's over the seeds, and share it among the steps between.",
    ),
}
