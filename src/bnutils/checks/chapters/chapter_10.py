"""Chapter 10, deployment."""

import numpy as np

from bnutils.checks.engine import ANY, Answer, Function, Mistake, cases_of, small_batches

_BLOCKS = 16  # of ResNet50V2, with three BN each, and one BN at the end


# ---- 10.4: a depthwise kernel [height, width, channels, multiplier] -----------------------------

_DEPTHWISE = Function(
    right=lambda kernel, a: kernel * a.reshape(kernel.shape[2:]),
    returns=("kernel",),
    cases=cases_of(
        [(3, 3, 4, 2), (2, 2, 3, 3), (1, 2, 2, 3)],
        lambda rng, shape: {
            "kernel": rng.normal(size=shape),
            "a": rng.uniform(0.5, 2, size=shape[2] * shape[3]),
        },
    ),
    tiny=lambda: ({"kernel": x[None, None], "a": 1.0 + np.arange(x.size)} for x in small_batches()),
    mistakes={
        "sorted-by-multiplier": Mistake(
            lambda kernel, a: kernel * a.reshape(kernel.shape[:1:-1]).T,
            "It takes the first outputs of all channels to come first. The outputs of one channel "
            "stand next to each other; the shapes fit either way, so nothing complains.",
        ),
        "one-for-each-channel": Mistake(
            [
                lambda kernel, a: kernel * a[: kernel.shape[2], None],
                lambda kernel, a: kernel * a[:: kernel.shape[3], None],
            ],
            "It uses one number for each channel. Each channel has several outputs, and every "
            "output has a number of its own.",
        ),
        "one-for-each-multiple": Mistake(
            lambda kernel, a: kernel * a[: kernel.shape[3]],
            "It uses the first few numbers for all channels alike. Every output of every channel "
            "has a number of its own.",
        ),
        "divides": Mistake(
            lambda kernel, a: kernel / a.reshape(kernel.shape[2:]),
            "It divides by a. The division by the standard deviation is part of a already.",
        ),
        "kernel-not-scaled": Mistake(
            lambda kernel, a: kernel,
            "The kernel is as it was. What the layer computes has to be scaled, output by output.",
        ),
    },
)


# ---- 10.5: batch normalization before a dense layer ---------------------------------------------


def _fold_before(
    kernel=lambda kernel, a: a[:, None] * kernel,
    bias=lambda bias, b, kernel, a: bias + b @ kernel,
    scale=lambda gamma, variance, epsilon: gamma / np.sqrt(variance + epsilon),
    shift=lambda beta, a, mean: beta - a * mean,
):
    """The right folding into the layer after, with one of its parts replaced."""

    def f(w, c, gamma, beta, mean, variance, epsilon):
        a = scale(gamma, variance, epsilon)
        return kernel(w, a), bias(c, shift(beta, a, mean), w, a)

    return f


def _as_after(w, c, gamma, beta, mean, variance, epsilon):
    a = gamma / np.sqrt(variance + epsilon)
    return w * a, a * (c - mean) + beta


def _before_case(rng, shape):
    case = {"kernel": rng.normal(size=shape), "bias": rng.normal(size=shape[1])}
    for name in ("gamma", "beta", "mean"):
        case[name] = rng.normal(1, 1, size=shape[0])
    return {**case, "variance": rng.uniform(0.5, 3, size=shape[0]), "epsilon": 0.5}


_BEFORE = Function(
    right=_fold_before(),
    returns=("kernel", "bias"),
    cases=cases_of([(3, 3), (4, 2), (2, 4)], _before_case),
    tiny=lambda: (
        {
            "kernel": x,
            "bias": x[0],
            "gamma": np.full(len(x), 4.0),
            "beta": x[:, 0],
            "mean": x[:, -1] - 1,
            "variance": np.full(len(x), 3.0),
            "epsilon": 1.0,
        }
        for x in small_batches()
    ),
    mistakes={
        "as-if-after": Mistake(
            _as_after,
            "That folds into a layer in front of BN. Here BN comes first, and its channels are the "
            "inputs of the kernel; a square kernel hides it.",
        ),
        "wrong-kernel-axis": Mistake(
            _fold_before(kernel=lambda kernel, a: kernel * a),
            "The scale multiplies the outputs of the kernel. BN stands at its inputs; a square "
            "kernel hides it.",
        ),
        "shift-forgotten": Mistake(
            _fold_before(bias=lambda bias, b, kernel, a: bias),
            "The bias is as it was. BN also shifts, and the shift goes through the kernel into the "
            "bias.",
        ),
        "shift-not-through-the-kernel": Mistake(
            _fold_before(bias=lambda bias, b, kernel, a: bias + b),
            "The shift is added to the bias as it is. It belongs to the inputs, and has to pass "
            "through the kernel.",
        ),
        "shift-scaled-twice": Mistake(
            _fold_before(bias=lambda bias, b, kernel, a: bias + b @ (a[:, None] * kernel)),
            "The shift goes through the new kernel. It is added after the scaling, so it goes "
            "through the old one.",
        ),
        "bias-forgotten": Mistake(
            _fold_before(bias=lambda bias, b, kernel, a: b @ kernel),
            "The old bias is lost. The layer adds it as before.",
        ),
        "mean-forgotten": Mistake(
            _fold_before(shift=lambda beta, a, mean: beta),
            "The moving mean is missing. BN subtracts it from each input, so it is part of the "
            "shift.",
        ),
        "mean-sign": Mistake(
            _fold_before(shift=lambda beta, a, mean: beta + a * mean),
            "The moving mean is added. Normalizing subtracts it.",
        ),
        "mean-not-scaled": Mistake(
            _fold_before(shift=lambda beta, a, mean: beta - mean),
            "The moving mean is subtracted without the scale. It is subtracted before the division "
            "by the standard deviation.",
        ),
        "epsilon-forgotten": Mistake(
            _fold_before(scale=lambda gamma, variance, epsilon: gamma / np.sqrt(variance)),
            "Epsilon is forgotten. BN divides by the root of variance plus epsilon, and a channel "
            "with little variance changes much.",
        ),
        "divides-by-the-variance": Mistake(
            _fold_before(scale=lambda gamma, variance, epsilon: gamma / (variance + epsilon)),
            "It divides by the variance plus epsilon. The standard deviation is its root.",
        ),
    },
)

EXERCISES = {
    "10.1": Answer(
        truth=(2 * _BLOCKS, _BLOCKS + 1),
        names=("folded", "left"),
        tolerance=0,
        mistakes={
            "all": Mistake(
                (3 * _BLOCKS + 1, 0),
                "You fold all of them. The first BN of a block has a sum in front of it and a ReLU "
                "behind it, and neither takes it in.",
            ),
            "none": Mistake(
                (0, 3 * _BLOCKS + 1),
                "You fold none of them. BN can also go into the layer in front of it: what stands "
                "in front of each?",
            ),
            "one-for-each-block": Mistake(
                [(_BLOCKS, 2 * _BLOCKS + 1), (_BLOCKS, ANY)],
                "You fold one for each block. Go through a block from the left, and ask for each "
                "BN what stands in front of it.",
            ),
            "last-folded": Mistake(
                (2 * _BLOCKS + 1, _BLOCKS),
                "The blocks are right. In front of the very last BN stands the sum of the last "
                "block, which has no weights.",
            ),
            "last-forgotten": Mistake(
                (2 * _BLOCKS, _BLOCKS),
                "The blocks are right. After the last block stands one more BN.",
            ),
            "all-but-the-last": Mistake(
                (3 * _BLOCKS, 1),
                "You fold three for each block. The first BN of a block has a sum in front of it "
                "and a ReLU behind it.",
            ),
        },
        hint="Ask for each BN of a block whether a convolution stands right in front of it.",
    ),
    "10.2": Answer(
        truth="bc",  # as measured: more than 95% of the answers stay as they were
        choices=("ab", "ac", "ad", "bc", "bd", "cd"),
        mistakes={
            "bias-not-scaled": Mistake(
                ["ab", "ac"],
                "A shifts every channel by an amount of its own. Compute the answers of each: how "
                "many stay as they were?",
            ),
            "divides-by-the-variance": Mistake(
                ["bd", "cd"],
                "D gives every channel another size. Compute the answers of each: how many stay "
                "as they were?",
            ),
            "the-two-large-ones": Mistake(
                "ad",
                "These two change the answers most. Asked for are the two that hardly change them: "
                "their errors show at once, and their accuracy does not.",
            ),
        },
        hint="Put each of the four in front of the rest of the network, and count the digits that "
        "are read as before.",
    ),
    "10.4": _DEPTHWISE,
    "10.5": _BEFORE,
}
