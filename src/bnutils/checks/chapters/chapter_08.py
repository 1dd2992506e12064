"""Chapter 8, regularization."""

import numpy as np

from bnutils.checks.engine import ANY, Answer, Function, Mistake, cases_of, small_batches

# ---- 8.4: the variance that BN sees in training -------------------------------------------------


def _seen(
    share=lambda rate: rate / (1 - rate),
    moment=lambda u: (u**2).mean(0),
    square=True,
    without=lambda z: z.var(0),
):
    """The variance after dropout and a dense layer, with a part of the formula replaced."""

    def f(u, kernel, rate):
        weights = kernel**2 if square else kernel
        return without(u @ kernel) + share(rate) * moment(u) @ weights

    return f


_TRAINING_VARIANCE = Function(
    right=_seen(),
    returns=("variance",),
    cases=cases_of(
        [(4, 3), (6, 2)],
        lambda rng, shape: {
            "u": rng.normal(1, 2, size=shape),
            "kernel": rng.normal(0.5, 1, size=(shape[1], 3)),
            "rate": 0.2,
        },
    ),
    tiny=lambda: (
        {"u": x, "kernel": np.arange(1.0, x.shape[1] + 1)[:, None], "rate": rate}
        for x in small_batches()
        for rate in (0.0, 0.5, 0.75)
    ),
    mistakes={
        "rate-for-keep-rate": Mistake(
            _seen(share=lambda rate: (1 - rate) / rate),
            "The factor is upside down. `rate` is the share that is dropped, and nothing should be "
            "added where nothing is dropped.",
        ),
        "variance-for-mean-square": Mistake(
            _seen(moment=lambda u: u.var(0)),
            "The addition uses the variance of u. A neuron that always says 3 has none, and with "
            "dropout it jumps between 0 and more: its mean square counts.",
        ),
        "mean-for-mean-square": Mistake(
            _seen(moment=lambda u: u.mean(0) ** 2),
            "The addition uses the square of the mean of u. The mean of the squares also has the "
            "variance in it.",
        ),
        "kernel-not-squared": Mistake(
            _seen(square=False),
            "The weights are not squared. A variance grows with the square of the factor.",
        ),
        "only-the-addition": Mistake(
            _seen(without=lambda z: np.zeros(z.shape[1])),
            "The variance without dropout is missing. What dropout does comes on top of it.",
        ),
        "ddof": Mistake(
            _seen(without=lambda z: z.var(0, ddof=1)),
            "The variance divides by m - 1. Batch normalization divides by m.",
        ),
        "all-divided-by-keep": Mistake(
            lambda u, kernel, rate: (u @ kernel).var(0) / (1 - rate),
            "The whole variance is divided by the keep rate. That holds for the mean square of one "
            "neuron; neurons of a sum are dropped one by one, not together.",
        ),
        "dropped-together": Mistake(
            lambda u, kernel, rate: (
                (u @ kernel).var(0) + rate / (1 - rate) * ((u @ kernel) ** 2).mean(0)
            ),
            "That is the formula for one neuron, applied to the sum. The neurons of the sum are "
            "dropped one by one, so their additions add up, each with its own weight squared.",
        ),
    },
)

EXERCISES = {
    "8.1": Answer(
        truth=(3**2 / 0.5 - 3**2, 0),
        names=("variance in training", "variance in prediction"),
        tolerance=0.01,
        mistakes={
            "no-shift": Mistake(
                (0, 0),
                "You took the neuron to be constant in training too. With dropout it is 0 half of "
                "the time, and something else the other half.",
            ),
            "not-scaled": Mistake(
                (2.25, ANY),
                "That is a neuron that is 0 or 3. What is kept is divided by the keep rate.",
            ),
            "mean-square": Mistake(
                (18, ANY),
                "That is the mean square. The variance is the mean square minus the square of the "
                "mean.",
            ),
            "standard-deviation": Mistake(
                (3, ANY),
                "That is the standard deviation in training. Asked for is its square.",
            ),
            "shift-in-prediction": Mistake(
                (9, 9),
                "The first is right. In prediction nothing is dropped, and the neuron says the "
                "same of every image.",
            ),
        },
        hint="In training the neuron is 0 or 3 divided by the keep rate, each half of the time. "
        "In prediction it is 3.",
    ),
    "8.2": Answer(
        truth=("yes", "no", "no"),
        names=("gamma and beta of layer 1", "gamma and beta of layer 2", "output kernel"),
        choices=("yes", "no"),
        mistakes={
            "last-layer-too": Mistake(
                ("yes", "yes", "no"),
                "The second is not free. What follows the last hidden layer is the output layer, "
                "and no BN takes the factor away again.",
            ),
            "none": Mistake(
                ("no", "no", "no"),
                "The first is free. Follow the factor through ReLU and the second dense layer, "
                "to what BN 2 does with it.",
            ),
            "all": Mistake(
                ("yes", "yes", "yes"),
                "You took every parameter to be free. The logits come out of the output layer as "
                "they are, so doubling them makes the network more certain.",
            ),
            "output-kernel-free": Mistake(
                ("yes", "no", "yes"),
                "The output kernel is not free. There is no BN behind it.",
            ),
            "reversed": Mistake(
                ("no", "yes", "no"),
                "It is the other way round. Ask of each factor which BN comes after it.",
            ),
        },
        hint="Follow the factor of two forward. Does it meet a BN layer, and can it pass ReLU?",
    ),
    "8.3": Answer(
        truth=lambda: (np.sqrt(10), 0.2),
        names=("times smaller", "decay that restores the angle"),
        tolerance=0.02,
        mistakes={
            "proportional": Mistake(
                (10, ANY),
                "You took the angle to be proportional to the learning rate. It is at the first "
                "step; then the weights get shorter until decay and growth balance again.",
            ),
            "independent": Mistake(
                (1, ANY),
                "You took the angle not to depend on the learning rate. The length adapts, but "
                "only half of the way, in powers of ten.",
            ),
            "upside-down": Mistake(
                lambda: (1 / np.sqrt(10), ANY),
                "The first is the new angle divided by the old. Asked for is how many times "
                "smaller it is: the old divided by the new.",
            ),
            "factor-for-decay": Mistake(
                lambda: (np.sqrt(10), 10),
                "The first is right. The second is by how much the decay has to grow. Asked for is "
                "the decay itself.",
            ),
            "decay-times-root": Mistake(
                lambda: (np.sqrt(10), 0.02 * np.sqrt(10)),
                "The first is right. The decay stands under the same root as the learning rate, so "
                "a root of ten is not enough.",
            ),
            "decay-times-hundred": Mistake(
                lambda: (np.sqrt(10), 2),
                "The first is right. The decay that you gave is ten times too strong: rate and "
                "decay count only as their product.",
            ),
            "decay-wrong-way": Mistake(
                lambda: (np.sqrt(10), 0.002),
                "The first is right. The decay has to make up for the smaller rate, so it is not a "
                "smaller one.",
            ),
        },
        hint="The angle of a step settles at the root of 2 times rate times decay.",
    ),
    "8.4": _TRAINING_VARIANCE,
}
