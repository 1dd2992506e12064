"""Chapter 2, the mathematics."""

from types import SimpleNamespace

import numpy as np

from bnutils import norm
from bnutils.checks.engine import ANY, Answer, Function, Mistake, cases_of, small_batches

# ---- 2.2: BN twice in a row ---------------------------------------------------------------------


def _twice(once, twice=None):
    """Standard deviations after one and after two passes of x -> x / divisor(sd)."""

    def sds():
        first = 0.01 / once(0.01)
        return first, first / (twice or once)(first)

    return sds


def _sd(sd):
    return np.sqrt(sd**2 + 1e-3)


# ---- 2.3: the gradient of layer normalization ---------------------------------------------------


def _layer_norm(
    mean_over=1,
    path_over=1,
    paths=(1, 1),
    over=1,
    sd=lambda p: np.sqrt(p.var + p.epsilon),
    x_hat=lambda p: p.centered / p.sd,
    steepness=lambda p: 1 / p.sd,
    keepdims=True,
):
    """The right gradient, with a choice of axes, a path or a piece replaced."""

    def f(dy, x, epsilon):
        p = SimpleNamespace(x=x, epsilon=epsilon, axis=over)
        p.var, p.centered = x.var(over, keepdims=keepdims), x - x.mean(over, keepdims=keepdims)
        p.sd = sd(p)
        p.x_hat = x_hat(p)
        dx = dy - paths[0] * dy.mean(mean_over, keepdims=keepdims)
        dx = dx - paths[1] * p.x_hat * (dy * p.x_hat).mean(path_over, keepdims=keepdims)
        return dx * steepness(p)

    return f


def _layer_norm_sums(mean, product):
    """One or both of the means taken as sums."""

    def f(dy, x, epsilon):
        paths = x.shape[1] if mean else 1, x.shape[1] if product else 1
        return _layer_norm(paths=paths)(dy, x, epsilon)

    return f


def _ddof(p):
    return np.sqrt(p.x.var(p.axis, keepdims=True, ddof=1) + p.epsilon)


_LAYER_NORM_GRADIENT = Function(
    right=_layer_norm(),
    returns=("dx",),
    cases=cases_of(
        [(4, 4), (3, 5)],
        lambda rng, shape: {
            "dy": rng.normal(1, 1, size=shape),
            "x": rng.normal(2, 1.5, size=shape),
            "epsilon": 0.5,
        },
    ),
    tiny=lambda: (
        {"dy": dy, "x": x.T.copy(), "epsilon": epsilon}
        for x in small_batches()
        for dy in (np.eye(*x.T.shape), x.T[:, ::-1] ** 2)
        for epsilon in (0.0, 1.0)
    ),
    properties=(
        (
            "Each row of dx should sum to 0: adding a constant to an example leaves its output as "
            "it is.",
            lambda case, r: np.allclose(r["dx"].sum(1), 0),
        ),
    ),
    mistakes={
        "batch-norm": Mistake(
            _layer_norm(0, 0, over=0),
            "This is the gradient of batch normalization. The means run over the batch; here they "
            "run over the features of one example.",
        ),
        "both-means-over-the-batch": Mistake(
            _layer_norm(0, 0),
            "x-hat belongs to the example, but both means still run over the batch. They are the "
            "gradient's way through mean and variance, so they follow the axis of those.",
        ),
        "mean-over-the-batch": Mistake(
            _layer_norm(mean_over=0),
            "The mean of dy still runs over the batch. It comes from the mean of x, which is now "
            "that of one example.",
        ),
        "product-over-the-batch": Mistake(
            _layer_norm(path_over=0),
            "The mean of dy times x-hat still runs over the batch. It comes from the variance, "
            "which is now that of one example.",
        ),
        "statistics-over-the-batch": Mistake(
            _layer_norm(over=0),
            "The means of the gradient run over the features, but x-hat and the variance are those "
            "of the batch. All have to use the same axis.",
        ),
        "mean-path-missing": Mistake(
            _layer_norm(paths=(0, 1)),
            "The path through the mean is missing. Each feature also moves the mean of its "
            "example, and through it all its outputs.",
        ),
        "variance-path-missing": Mistake(
            _layer_norm(paths=(1, 0)),
            "The path through the variance is missing. Each feature also changes the width by "
            "which its example is divided.",
        ),
        "no-epsilon": Mistake(
            [
                _layer_norm(sd=lambda p: np.sqrt(p.var)),
                _layer_norm(x_hat=lambda p: p.centered / np.sqrt(p.var)),
                _layer_norm(steepness=lambda p: 1 / np.sqrt(p.var)),
            ],
            "Epsilon is not used. The gradient has to be that of the forward pass with its "
            "epsilon.",
        ),
        "sd-forgotten": Mistake(
            _layer_norm(steepness=lambda p: 1),
            "The division by the standard deviation is missing. It is how much x-hat moves when x "
            "does.",
        ),
        "mean-path-sign": Mistake(
            _layer_norm(paths=(-1, 1)),
            "The path through the mean has the wrong sign. The mean is subtracted, so what it "
            "sends back is subtracted too.",
        ),
        "variance-path-sign": Mistake(
            _layer_norm(paths=(1, -1)),
            "The path through the variance has the wrong sign. A wider example makes all its "
            "outputs smaller, hence the minus.",
        ),
        "both-signs": Mistake(
            _layer_norm(paths=(-1, -1)),
            "Both paths are added to dy. The mean is subtracted and the width is divided by, so "
            "both send back something to subtract.",
        ),
        "sum-for-mean": Mistake(
            [_layer_norm_sums(*which) for which in ((1, 1), (1, 0), (0, 1))],
            "A sum stands where the closed form has a mean. One feature moves the mean by its part "
            "of its own step; as it stands the error grows with the number of features.",
        ),
        "factor-n": Mistake(
            [
                lambda dy, x, epsilon: _layer_norm()(dy, x, epsilon) * x.shape[1],
                lambda dy, x, epsilon: _layer_norm()(dy, x, epsilon) / x.shape[1],
            ],
            "dx is off by a factor of the number of features. Where the closed form is written "
            "with sums, one n stands in front of dy and another below all of it.",
        ),
        "ddof": Mistake(
            [
                _layer_norm(sd=_ddof),
                _layer_norm(steepness=lambda p: 1 / _ddof(p)),
                _layer_norm(x_hat=lambda p: p.centered / _ddof(p)),
            ],
            "A variance divides by one less than the number of features. Layer normalization "
            "divides by that number, as batch normalization does by m.",
        ),
        "epsilon-outside-the-root": Mistake(
            [
                _layer_norm(sd=lambda p: np.sqrt(p.var) + p.epsilon),
                _layer_norm(steepness=lambda p: 1 / (np.sqrt(p.var) + p.epsilon)),
            ],
            "Epsilon is added to the standard deviation. It belongs to the variance, under the "
            "root, in the forward pass and here.",
        ),
        "divides-by-the-variance": Mistake(
            [
                _layer_norm(steepness=lambda p: 1 / (p.var + p.epsilon)),
                _layer_norm(sd=lambda p: p.var + p.epsilon),
            ],
            "It divides by the variance, not by its root. The result is then off by a factor of "
            "the standard deviation.",
        ),
        "not-centered": Mistake(
            _layer_norm(x_hat=lambda p: p.x / p.sd),
            "x / sd stands where x-hat should. It is right only for examples of mean 0, which is "
            "what tests often use.",
        ),
        "centered-for-x-hat": Mistake(
            _layer_norm(x_hat=lambda p: p.centered),
            "x minus its mean stands where x-hat should. Dividing by the standard deviation is "
            "missing there, so it is right only where that is 1.",
        ),
        "x-for-x-hat": Mistake(
            _layer_norm(x_hat=lambda p: p.x),
            "x itself stands where x-hat should. What the variance path takes away is a part "
            "along x-hat.",
        ),
        "means-without-keepdims": Mistake(
            _layer_norm(keepdims=False),
            "The means have lost their axis. NumPy then lines them up with the features and not "
            "with the examples, which fails unless both are as many; use keepdims=True.",
        ),
    },
)


# ---- 2.4: what is left of orthogonality ---------------------------------------------------------


def _share(p):
    return p.epsilon / (p.var + p.epsilon)


def _ddof_share(p):
    return p.epsilon / (p.x.var(ddof=1) + p.epsilon)


def _ddof_steepness(p):
    return 1 / np.sqrt(p.x.var(ddof=1) + p.epsilon)


def _left_over(
    share=_share,
    mean=np.mean,
    gamma=lambda p: p.gamma,
    var=lambda p: p.x.var(),
    sd=lambda p: np.sqrt(p.var + p.epsilon),
    x_hat=lambda p: p.centered / p.sd,
    steepness=lambda p: 1 / p.sd,
):
    """The formula of the exercise, with one of its pieces replaced."""

    def f(dy, x, gamma_given, epsilon):
        p = SimpleNamespace(x=x, gamma=gamma_given, epsilon=epsilon, centered=x - x.mean())
        p.var = var(p)
        p.sd = sd(p)
        return gamma(p) * steepness(p) * mean(dy * x_hat(p)) * share(p)

    return f


def _measured(dy, x, gamma, epsilon):
    column = x[:, None]
    y, cache = norm.batch_norm(column, np.array([gamma]), None, epsilon=epsilon)
    dx, _, _ = norm.batch_norm_grad(dy[:, None], cache)
    return (dx * y).mean() / gamma


_LEFT_OVER = Function(
    right=_measured,
    returns=("mean of dx times x-hat",),
    cases=[
        {"dy": dy, "x": 0.05 * x, "gamma": gamma, "epsilon": epsilon}
        for rng in [np.random.default_rng(0)]
        for gamma, epsilon in ((2.0, 1e-3), (0.5, 1e-2))
        for dy, x in [rng.normal(1, 1, size=(2, 6))]
    ],
    tiny=lambda: (
        {"dy": x[:, 0] ** 2 + x[:, 0], "x": x[:, 0], "gamma": gamma, "epsilon": 1.0}
        for x in small_batches()
        for gamma in (1.0, 2.0)
    ),
    mistakes={
        "orthogonal": Mistake(
            _left_over(lambda p: 0),
            "You return 0. That holds for epsilon = 0; with epsilon the mean of the squares of "
            "x-hat is less than 1, and something is left.",
        ),
        "other-share": Mistake(
            _left_over(lambda p: p.var / (p.var + p.epsilon)),
            "The last factor is the share of the variance. That is the mean of x-hat squared; what "
            "is left is 1 minus that.",
        ),
        "factor-missing": Mistake(
            _left_over(lambda p: 1),
            "The last factor is missing. Without it this is the product of dy with x-hat, of which "
            "the variance path takes most away.",
        ),
        "epsilon-over-variance": Mistake(
            _left_over(lambda p: p.epsilon / p.var),
            "The last factor divides by the variance without epsilon. For a variance below "
            "epsilon that is more than 1, and more cannot be left than there was.",
        ),
        "sums-for-means": Mistake(
            _left_over(mean=np.sum),
            "It uses a sum over the batch where the angle brackets mean an average. The result "
            "then grows with the batch.",
        ),
        "gamma-forgotten": Mistake(
            _left_over(gamma=lambda p: 1),
            "Gamma is missing. dx is proportional to it; with gamma = 1 nothing shows.",
        ),
        "gamma-twice": Mistake(
            _left_over(gamma=lambda p: p.gamma**2),
            "Gamma stands there twice. dx has it once, and x-hat has none; with gamma = 1 nothing "
            "shows.",
        ),
        "sd-forgotten": Mistake(
            _left_over(steepness=lambda p: 1),
            "A division by the standard deviation is missing. There are two: the closed form "
            "begins with gamma over it, and x-hat is x minus its mean, divided by it.",
        ),
        "multiplies-by-the-sd": Mistake(
            _left_over(steepness=lambda p: p.sd),
            "It multiplies by the standard deviation. The closed form divides by it.",
        ),
        "divides-by-the-variance": Mistake(
            _left_over(steepness=lambda p: 1 / (p.var + p.epsilon)),
            "It divides by the variance, not by its root. The closed form begins with gamma over "
            "the standard deviation.",
        ),
        "epsilon-squared": Mistake(
            _left_over(lambda p: _share(p) ** 2),
            "The last factor is squared. One of the two squares that you average is x-hat, the "
            "other stands in the closed form, and together they give the factor once.",
        ),
        "root-of-the-factor": Mistake(
            _left_over(lambda p: np.sqrt(_share(p))),
            "The last factor stands under a root. It is 1 minus a mean of squares, and no root is "
            "taken of that.",
        ),
        "ddof": Mistake(
            [
                _left_over(var=lambda p: p.x.var(ddof=1)),
                _left_over(share=_ddof_share),
                _left_over(steepness=_ddof_steepness),
                _left_over(share=_ddof_share, steepness=_ddof_steepness),
            ],
            "The variance divides by one less than the number of examples. Batch normalization "
            "divides by that number.",
        ),
        "no-epsilon": Mistake(
            _left_over(steepness=lambda p: 1 / np.sqrt(p.var)),
            "A standard deviation lacks epsilon, in front or inside x-hat. Both are the root of "
            "variance plus epsilon, and here epsilon is a large part of it.",
        ),
        "epsilon-outside-the-root": Mistake(
            _left_over(sd=lambda p: np.sqrt(p.var) + p.epsilon),
            "Epsilon is added to the standard deviation. It belongs to the variance, under the "
            "root.",
        ),
        "not-centered": Mistake(
            _left_over(x_hat=lambda p: p.x / p.sd),
            "x / sd stands where x-hat should. Subtract the mean of x first.",
        ),
        "x-for-x-hat": Mistake(
            _left_over(x_hat=lambda p: p.x),
            "x itself stands where x-hat should. The angle brackets hold dy times x-hat.",
        ),
        "mean-of-dy": Mistake(
            _left_over(x_hat=lambda p: 1),
            "The mean of dy stands where that of dy times x-hat should. The mean path drops out, "
            "for the mean of x-hat is 0.",
        ),
    },
)

EXERCISES = {
    "2.1": Answer(
        truth=lambda: (5, 2 / np.sqrt(1e-3) * (1 - 1 / 4)),
        names=("output", "first element of dx"),
        tolerance=0.5,
        mistakes={
            "no-epsilon": Mistake(
                (np.nan, ANY),
                "You divided 0 by 0. Epsilon is there for this case: the root of the variance plus "
                "epsilon is not 0.",
            ),
            "gamma-plus-beta": Mistake(
                (7, ANY),
                "You took x-hat to be 1. The mean is subtracted first, and nothing is left for "
                "gamma to scale.",
            ),
            "no-gradient": Mistake(
                (5, 0),
                "The output is right. But that it is constant here does not make its gradient 0: "
                "move one input a little, and with so small a divisor its output moves much.",
            ),
            "mean-path-missing": Mistake(
                lambda: (5, 2 / np.sqrt(1e-3)),
                "The output is right, and so is the steepness. But the first input also moves the "
                "mean that is subtracted from it.",
            ),
            "gamma-forgotten": Mistake(
                lambda: (5, 1 / np.sqrt(1e-3) * (1 - 1 / 4)),
                "The output is right, and the gradient lacks gamma. It comes down through "
                "y = gamma x-hat + beta.",
            ),
            "gentle": Mistake(
                (5, 2 * (1 - 1 / 4)),
                "The output is right, and the gradient is not divided by the standard deviation. "
                "Only epsilon is under that root, so it is far below 1.",
            ),
        },
        hint="x-hat is (x - mean) divided by the root of variance plus epsilon. For dx use the "
        "closed form.",
    ),
    "2.2": Answer(
        truth=_twice(_sd),
        names=("sd after the first", "sd after the second"),
        tolerance=0.005,  # two decimals will do
        mistakes={
            "epsilon-ignored": Mistake(
                (1, 1),
                "Both are what epsilon = 0 gives. Here epsilon is ten times the variance, so it "
                "decides the divisor.",
            ),
            "second-does-nothing": Mistake(
                lambda: (_twice(_sd)()[0], _twice(_sd)()[0]),
                "The first is right. The second normalization does nothing only if the first one "
                "gave a standard deviation of 1.",
            ),
            "epsilon-outside-the-root": Mistake(
                _twice(lambda sd: sd + 1e-3),
                "Epsilon is added to the standard deviation. Under the root, next to a variance "
                "of 0.0001, it weighs far more.",
            ),
            "divides-by-the-variance": Mistake(
                _twice(lambda sd: sd**2 + 1e-3),
                "You divided by the variance plus epsilon. Take the root: x and its standard "
                "deviation are in the same units.",
            ),
            "ddof": Mistake(
                lambda: _twice(lambda sd: np.sqrt(2 * sd**2 + 1e-3))(),
                "The variance divides by m - 1. With two numbers that doubles it.",
            ),
            "one-pass-each": Mistake(
                lambda: (0.01, _twice(_sd)()[0]),
                "You gave the standard deviation before, and after one normalization. Asked for is "
                "after one, and after two.",
            ),
        },
        hint="The standard deviation of the two numbers is 0.01. After BN it is that divided by "
        "the root of its square plus epsilon; then once more.",
    ),
    "2.3": _LAYER_NORM_GRADIENT,
    "2.4": _LEFT_OVER,
}
