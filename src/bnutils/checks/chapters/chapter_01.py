"""Chapter 1, motivation."""

from math import erfc, log, sqrt

import numpy as np

from bnutils.checks.engine import ANY, Answer, Mistake

# As measured with ReLU and BN, from the last hidden layer back to the first, by depth: by what
# factor the gradient by the weights grows from a layer to the one below, and the gradient by z.
_RATES = {5: 1.175, 10: 1.209, 20: 1.214, 40: 1.210}
_SIGNAL_RATES = {5: 1.520, 10: 1.348, 20: 1.276, 40: 1.240}
# As measured: the mean slope of neuron 10 over sixty images, without BN and with it.
_SLOPE, _SLOPE_WITH_BN = 0.0012237, 0.20411


def _saturated(scale):
    """Share of saturated neurons in the third hidden layer of 100 sigmoids, by theory.

    A weighted sum of many independent numbers is nearly normal, with a variance of the squared
    scale (in multiples of LeCun's) times their mean square. That is 1 for standardized images, and
    below 1 for the outputs of a layer.
    """
    node, weight = np.polynomial.hermite_e.hermegauss(100)
    z_sd = scale
    for _ in range(2):
        square = weight @ (1 + np.tanh(z_sd * node / 2)) ** 2 / 4 / weight.sum()
        z_sd = scale * np.sqrt(square)
    return _beyond(z_sd)


def _beyond(z_sd):
    """Share of normal weighted inputs that make an output below 0.05 or above 0.95."""
    return erfc(log(19) / z_sd / sqrt(2))


EXERCISES = {
    "1.1": Answer(
        truth=lambda: (_saturated(30), _beyond(1)),
        names=("share without BN", "share with BN"),
        tolerance=0.04,
        mistakes={
            "wrong-way-round": Mistake(
                lambda: (_beyond(1), _saturated(30)),
                "The two shares have changed places. Large weights make large weighted inputs, "
                "and only one of the two networks divides by their standard deviation.",
            ),
            "both-saturate": Mistake(
                lambda: (_saturated(30), _saturated(30)),
                "Both have the share of the plain network. Was the second one built with BN, and "
                "asked with training=True? With BN the size of the weights cancels.",
            ),
            "in-proportion": Mistake(
                lambda: (3 * _saturated(10), ANY),
                "You multiplied the share by three, as the weights were. A share cannot be more "
                "than 1: z spreads further, and fewer and fewer outputs are left to saturate.",
                tolerance=0.3,
            ),
            "other-end": Mistake(
                lambda: (1 - _saturated(30), 1 - _beyond(1)),
                "These are the shares that are not saturated. Saturated is an output below 0.05 or "
                "above 0.95, where the slope is nearly gone.",
            ),
        },
        hint="Run it, for both networks: their last hidden layer is sigmoid_3. Count the outputs "
        "below 0.05 or above 0.95, each as a share of all.",
    ),
    "1.2": Answer(
        truth=_SLOPE_WITH_BN / _SLOPE,
        tolerance=2,
        mistakes={
            "upside-down": Mistake(
                _SLOPE / _SLOPE_WITH_BN,
                "That is the slope before by the slope after. It grows by the normalization, so "
                "the factor is above 1.",
                tolerance=0.001,
            ),
            "at-the-mean": Mistake(
                4037,
                "Those are the slopes at the mean of z, before and after. Most of what a saturated "
                "neuron has of slope comes from the few images nearest to 0: take the slope for "
                "each image, then the mean.",
                tolerance=60,
            ),
            "mean-of-ratios": Mistake(
                34008,
                "You divided for each image and took the mean of the factors. Take both means "
                "first, then divide one by the other: the images share one gradient.",
                tolerance=500,
            ),
            "difference": Mistake(
                _SLOPE_WITH_BN - _SLOPE,
                "That is by how much the slope grows. Asked is how many times as large it is.",
                tolerance=0.0004,
            ),
            "after-alone": Mistake(
                _SLOPE_WITH_BN,
                "That is the slope after. Divide it by the slope before.",
                tolerance=0.0006,
            ),
            "outputs": Mistake(
                0.504,
                "Those are the outputs. The slope of a sigmoid with output a is a (1 - a).",
                tolerance=0.01,
            ),
            "whole-layer": Mistake(
                3.57,
                "That is the factor of the whole layer. Asked is that of one neuron: take its "
                "column.",
                tolerance=0.05,
            ),
        },
        hint="For each of the sixty images take a (1 - a), where a is what the sigmoid makes of z; "
        "then the mean. Do the same with z_hat, and divide.",
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
                "weighted inputs?",
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
        hint="Change the initial scale and the learning rate in the cell that trains, each a "
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
                (1.91, 5.51, 40.0, 1675),
                "These are the factors from the last layer to the first. For a factor of each "
                "layer take the root: there are depth - 1 steps between the layers.",
                tolerance=3,
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
