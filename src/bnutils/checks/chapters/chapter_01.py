"""Chapter 1, motivation."""

from math import erfc, log, sqrt

import numpy as np

from bnutils.checks.engine import ANY, Answer, Mistake

# As measured, from the last hidden layer back to the first, by depth: the factor by which the
# gradient by the weights grows from a layer to the one below, and that of the gradient by z.
_RATES = {5: 1.077, 10: 1.066, 20: 1.090, 40: 1.102}
_SIGNAL_RATES = {5: 1.399, 10: 1.227, 20: 1.164, 40: 1.132}
_HALVINGS = 19 * np.log10(2)  # a factor of two at each of the 19 steps between 20 layers


def _saturated(scale):
    """Share of saturated neurons in the third hidden layer of 100 sigmoids, by theory.

    A weighted sum of many independent inputs is nearly normal, with a variance of the squared scale
    (in multiples of LeCun's) times their mean square. That is 1 for standardized images, and below
    1 for the outputs of a layer.
    """
    node, weight = np.polynomial.hermite_e.hermegauss(100)
    z_sd = scale
    for _ in range(2):
        square = weight @ (1 + np.tanh(z_sd * node / 2)) ** 2 / 4 / weight.sum()
        z_sd = scale * np.sqrt(square)
    return _beyond(z_sd)


def _beyond(z_sd):
    """Share of normal weighted sums that make an output below 0.05 or above 0.95."""
    return erfc(log(19) / z_sd / sqrt(2))


EXERCISES = {
    "1.1": Answer(
        truth=lambda: (_saturated(30), _beyond(1)),
        names=("share without BN", "share with BN"),
        tolerance=0.04,
        mistakes={
            "wrong-way-round": Mistake(
                lambda: (_beyond(1), _saturated(30)),
                "The two shares have changed places. Large weights make large weighted sums, and "
                "only one of the two networks divides by their spread.",
            ),
            "both-saturate": Mistake(
                lambda: (_saturated(30), _saturated(30)),
                "Both have the share of the plain network. Did the second get its arm, as in the "
                "question? With BN the size of the weights cancels.",
            ),
            "in-proportion": Mistake(
                lambda: (3 * _saturated(10), ANY),
                "You multiplied the share by three, as the weights were. A share cannot be more "
                "than 1: the sums spread further, and fewer and fewer are left to saturate.",
                tolerance=0.3,
            ),
            "percent": Mistake(
                lambda: (100 * _saturated(30), ANY),
                "These are percentages. Shares lie between 0 and 1.",
                tolerance=5,
            ),
            "other-end": Mistake(
                lambda: (1 - _saturated(30), 1 - _beyond(1)),
                "These are the shares that are not saturated. Saturated is an output below 0.05 or "
                "above 0.95, where the slope is nearly gone.",
            ),
        },
        hint="Run it: outputs gives the outputs for a scale and an arm. Count those below 0.05 or "
        "above 0.95, each as a share of all.",
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
            "plain-factor": Mistake(
                [2**19, 10**5.6],
                "That is the factor itself. Asked for are its powers of ten: take the logarithm.",
                tolerance=1.5e5,
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
        truth=(1 / 10, 0.89),
        names=("accuracy without BN", "accuracy with BN"),
        tolerance=0.06,
        mistakes={
            "wrong-way-round": Mistake(
                (0.89, 1 / 10),
                "The two accuracies have changed places. Which of the two rescales its own "
                "weighted sums?",
            ),
            "percent": Mistake(
                (10, 89),
                "These are percentages. Asked for are shares, between 0 and 1.",
                tolerance=6,
            ),
            "both-learn": Mistake(
                (0.89, 0.89),
                "Both networks learned. Was the initial scale passed on? With such small weights "
                "the neurons of a sigmoid layer all start near one half.",
            ),
            "neither-learns": Mistake(
                (1 / 10, 1 / 10),
                'Neither network learned. Is one of the two the arm "BN", and is it the last '
                "step? Before the first step both are at chance.",
            ),
        },
        hint="Change the initial scale and the learning rate in the cell of the small race, each a "
        "list of one value. Then select the test part, the momentum and the last step.",
    ),
    "1.4": Answer(
        truth=tuple(_RATES.values()),
        names=("5 layers", "10 layers", "20 layers", "40 layers"),
        tolerance=0.0065,
        mistakes={
            "depth": Mistake(
                tuple(r ** ((n - 1) / n) for n, r in _RATES.items()),
                "You shared the growth among all layers. Between them there are depth - 1 steps, "
                "one fewer.",
                tolerance=0.0055,
            ),
            "whole-network": Mistake(
                tuple(r ** (n - 1) for n, r in _RATES.items()),
                "These are the factors from the last layer to the first. For a factor of each "
                "layer take the root: there are depth - 1 steps between the layers.",
                tolerance=1.5,
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
            "raw-logarithms": Mistake(
                tuple((n - 1) * np.log10(r) for n, r in _RATES.items()),
                "These are the powers of ten from the last layer to the first, as the record has "
                "them. Share each among the depth - 1 steps, then raise 10 to it.",
                tolerance=0.05,
            ),
            "signal": Mistake(
                tuple(_SIGNAL_RATES.values()),
                "This is the gradient by the weighted inputs, the signal. Asked for is that by the "
                "weights, the kernel.",
                tolerance=0.02,
            ),
        },
        hint="The kernel's numbers are logarithms to the base 10. Take the mean of the first "
        "layer's minus the last one's over the seeds, share it among the steps between, and raise "
        "10 to it.",
    ),
}
