"""The exercises that ask for a function: what is right, what goes wrong, and what to say to it.

A wrong function is written as the right one with a part replaced, so that a table row shows its
mistake and nothing else. Several are slips that published code really made.
"""

from types import SimpleNamespace

import numpy as np

from bnutils import norm
from bnutils.checks.engine import Function, Mistake, cases_of, grid_of, small_batches

__all__ = ["FUNCTIONS"]

_DDOF = (
    "The variance divides by m - 1. Batch normalization divides by m: it describes this batch, and "
    "does not estimate that of a population; at m = 2 the two differ by a factor of two."
)
_EPSILON_OUTSIDE = (
    "Epsilon is added to the standard deviation. It belongs to the variance, under the root: "
    "outside it acts as its square would, and another framework's weights do not fit."
)
_NO_EPSILON = (
    "Epsilon is not used. Without it values that are all the same in a batch divide 0 by 0, and "
    "the network is NaN from there on."
)
_VARIANCE = (
    "It divides by the variance, not by its root. The output then depends on the units of x, which "
    "normalization is there to remove."
)
_ONE_FOR_ALL = (
    "One mean and one variance serve all {0}s. Taken together the numbers have mean 0 and "
    "standard deviation 1, but no {0} does; a network trains with it, only worse."
)


def _shared_pieces(x, epsilon, axes):
    return SimpleNamespace(
        x=x,
        epsilon=epsilon,
        m=x.size // x.shape[-1],
        mean=x.mean(axes),
        var=x.var(axes),
        sd=np.sqrt(x.var(axes) + epsilon),
    )


# ---- Forward ------------------------------------------------------------------------------------


def _hat(x, epsilon, axes=0):
    return (x - x.mean(axes)) / np.sqrt(x.var(axes) + epsilon)


def _forward_mistakes(axes, unit):
    """What goes wrong in a forward pass over any axes; `unit` is a feature or a channel."""

    def forward(centered=lambda p: p.x - p.mean, divisor=lambda p: p.sd):
        """The right forward pass, with the mean or the divisor replaced."""

        def f(x, gamma, beta, epsilon):
            p = _shared_pieces(x, epsilon, axes)
            return gamma * (centered(p) / divisor(p)) + beta

        return f

    def before(x, gamma, beta, epsilon):
        return _hat(gamma * x + beta, epsilon, axes)

    def single(x, gamma, beta, epsilon):
        return (gamma * _hat(x.astype(np.float32), epsilon, axes) + beta).astype(np.float64)

    return {
        "ddof": Mistake(
            forward(divisor=lambda p: np.sqrt(p.x.var(axes, ddof=1) + p.epsilon)), _DDOF
        ),
        "epsilon-outside-the-root": Mistake(
            forward(divisor=lambda p: np.sqrt(p.var) + p.epsilon), _EPSILON_OUTSIDE
        ),
        "no-epsilon": Mistake(forward(divisor=lambda p: np.sqrt(p.var)), _NO_EPSILON),
        "one-mean-for-all": Mistake(
            forward(lambda p: p.x - p.x.mean(), lambda p: np.sqrt(p.x.var() + p.epsilon)),
            _ONE_FOR_ALL.format(unit),
        ),
        "divides-by-the-variance": Mistake(
            [forward(divisor=lambda p: p.var + p.epsilon), forward(divisor=lambda p: p.var)],
            _VARIANCE,
        ),
        "sd-of-the-mean": Mistake(
            forward(divisor=lambda p: np.sqrt(p.var / p.m + p.epsilon)),
            "The variance is divided by m once more. That is the variance of the mean, and not of "
            "the data: the output comes out wider by the root of m, so it depends on the batch "
            "size.",
        ),
        "sum-for-mean": Mistake(
            forward(divisor=lambda p: np.sqrt(p.var * p.m + p.epsilon)),
            "The squared distances are added up, but not divided by m. The output shrinks as the "
            "batch grows.",
        ),
        "mean-square": Mistake(
            forward(divisor=lambda p: np.sqrt((p.x**2).mean(axes) + p.epsilon)),
            "It divides by the root of the mean square of x, not of x minus its mean. Far from "
            "zero that is the mean itself, and the spread of the data is lost.",
        ),
        "digits-lost": Mistake(
            [
                forward(
                    divisor=lambda p: np.sqrt(((p.x**2).mean(axes) - p.mean**2).clip(0) + p.epsilon)
                ),
                single,
            ],
            "On ordinary data this is right, but for data far from zero digits are lost. Either "
            "it squares before it subtracts the mean, which leaves a small difference of large "
            "numbers, or it computes in float32.",
        ),
        "sd-forgotten": Mistake(
            forward(divisor=lambda p: 1),
            f"It subtracts the mean, and divides by nothing. Each {unit} keeps its own width, "
            "which was to be the same for all.",
        ),
        "mean-not-subtracted": Mistake(
            forward(lambda p: p.x),
            "The mean is not subtracted. The output keeps the offset of x, which beta was to set.",
        ),
        "multiplies-by-the-sd": Mistake(
            forward(divisor=lambda p: 1 / p.sd),
            f"It multiplies by the standard deviation. Wide {unit}s come out wider still, where "
            "all should have the same width.",
        ),
        "gamma-before-normalizing": Mistake(
            [before, lambda x, gamma, beta, epsilon: _hat(gamma * x, epsilon, axes) + beta],
            "Gamma acts before the normalization, which takes it away again. It has to act on "
            "x-hat, or it can change nothing and has no gradient.",
        ),
        "beta-before-gamma": Mistake(
            lambda x, gamma, beta, epsilon: gamma * (_hat(x, epsilon, axes) + beta),
            "Beta is added before gamma multiplies. The offset then depends on gamma, and the mean "
            "of y is no longer beta.",
        ),
        "gamma-forgotten": Mistake(
            lambda x, gamma, beta, epsilon: _hat(x, epsilon, axes) + beta,
            "Gamma is not used. The layer can then give no output but one of standard deviation 1, "
            "and cannot undo itself where that is best.",
        ),
        "beta-forgotten": Mistake(
            lambda x, gamma, beta, epsilon: gamma * _hat(x, epsilon, axes),
            "Beta is not added. Every output then has mean 0, and with ReLU behind it about half "
            "of it is cut off, whatever the network needs.",
        ),
        "gamma-and-beta-forgotten": Mistake(
            lambda x, gamma, beta, epsilon: _hat(x, epsilon, axes),
            "This is x-hat, without gamma and beta. They let the network choose scale and offset "
            "again, which normalizing took from it.",
        ),
        "gamma-and-beta-swapped": Mistake(
            lambda x, gamma, beta, epsilon: beta * _hat(x, epsilon, axes) + gamma,
            "Gamma and beta have changed places. Gamma multiplies and starts at 1; beta is added "
            "and starts at 0.",
        ),
    }


def _per_example(keepdims):
    def f(x, gamma, beta, epsilon):
        mean, var = x.mean(1, keepdims=keepdims), x.var(1, keepdims=keepdims)
        return gamma * (x - mean) / np.sqrt(var + epsilon) + beta

    return f


def _tiny_forward(x):
    """One small batch with several parameters, the plainest first."""
    for gamma, beta, epsilon in (
        (1.0, 0.0, 0.0),
        (1.0, 0.0, 1.0),
        (2.0, 0.0, 0.0),
        (2.0, 1.0, 1.0),
    ):
        yield {
            "x": x,
            "gamma": np.full(x.shape[-1], gamma),
            "beta": np.full(x.shape[-1], beta),
            "epsilon": epsilon,
        }


_FAR = 1e7 + np.array([[0.1, 0.4], [0.2, 0.1], [0.4, 0.2], [0.7, 0.9]])
_FAR_FROM_ZERO = {"gamma": np.ones(2), "beta": np.zeros(2), "epsilon": 1e-3}


_FORWARD = Function(
    right=lambda x, gamma, beta, epsilon: norm.batch_norm(x, gamma, beta, epsilon=epsilon)[0],
    returns=("y",),
    cases=cases_of(
        [(4, 4), (5, 3)],
        lambda rng, shape: {
            "x": rng.normal([[1, 3, -2, 5][: shape[1]]], [1, 2, 0.5, 3][: shape[1]], size=shape),
            "gamma": rng.uniform(0.5, 2, size=shape[1]),
            "beta": rng.normal(size=shape[1]),
            "epsilon": 0.5,
        },
    ),
    cache=True,
    rough=[{"x": _FAR, **_FAR_FROM_ZERO}],
    tiny=lambda: (case for x in small_batches() for case in _tiny_forward(x)),
    properties=(
        (
            "Each column of y should have the mean beta.",
            lambda case, r: np.allclose(r["y"].mean(0), case["beta"]),
        ),
        (
            "With epsilon = 0 each column of y should have a standard deviation of |gamma|.",
            lambda case, r: (
                case["epsilon"] > 0 or np.allclose(r["y"].std(0), np.abs(case["gamma"]))
            ),
        ),
    ),
    mistakes={
        **_forward_mistakes(0, "feature"),
        "wrong-axis": Mistake(
            [_per_example(True), _per_example(False)],
            "Mean and variance are taken over the features of each example. That is layer "
            "normalization: here each column should be averaged over the batch.",
        ),
    },
)


# ---- Gradient -----------------------------------------------------------------------------------


def _dx(mean_path=lambda p: p.dbeta / p.m, variance_path=lambda p: p.x_hat * p.dgamma / p.m):
    return lambda p: p.gamma / p.sd * (p.dy - mean_path(p) - variance_path(p))


_RIGHT_DX = _dx()


def _gradient(dx=_RIGHT_DX, dgamma=lambda p: p.dgamma, dbeta=lambda p: p.dbeta, **pieces):
    """The right gradient, with a result or one of its pieces replaced."""

    def f(dy, x, gamma, epsilon):
        p = _shared_pieces(x, epsilon, 0)
        p.dy, p.gamma, p.centered = dy, gamma, x - p.mean
        p.sd = pieces.get("sd", lambda p: p.sd)(p)
        p.x_hat = pieces.get("x_hat", lambda p: p.centered / p.sd)(p)
        p.dgamma, p.dbeta = (dy * p.x_hat).sum(0), dy.sum(0)
        return dx(p), dgamma(p), dbeta(p)

    return f


def _per_example_gradient(dy, x, gamma, epsilon):
    mean, sd = x.mean(1, keepdims=True), np.sqrt(x.var(1, keepdims=True) + epsilon)
    x_hat, d = (x - mean) / sd, dy * gamma
    paths = d.mean(1, keepdims=True) + x_hat * (d * x_hat).mean(1, keepdims=True)
    return (d - paths) / sd, (dy * x_hat).sum(0), dy.sum(0)


def _right_gradient(dy, x, gamma, epsilon):
    return norm.batch_norm_grad(dy, norm.batch_norm(x, gamma, None, epsilon=epsilon)[1])


_GRADIENT = Function(
    right=_right_gradient,
    returns=("dx", "dgamma", "dbeta"),
    cases=cases_of(
        [(4, 4), (5, 3)],
        lambda rng, shape: {
            "dy": rng.normal(1, 1, size=shape),
            "x": rng.normal(2, 1.5, size=shape),
            "gamma": rng.uniform(1.5, 3, size=shape[1]),
            "epsilon": 0.5,
        },
    ),
    tiny=lambda: (
        {"dy": dy, "x": x, "gamma": np.full(x.shape[1], gamma), "epsilon": epsilon}
        for x in small_batches()
        for dy in (np.eye(*x.shape), x[::-1] ** 2)
        for gamma, epsilon in ((1.0, 0.0), (1.0, 1.0), (2.0, 1.0))
    ),
    properties=(
        (
            "Each column of dx should sum to 0: adding a constant to x leaves y as it is.",
            lambda case, r: np.allclose(r["dx"].sum(0), 0),
        ),
        (
            "With epsilon = 0 each column of dx should be orthogonal to x: scaling x about its "
            "mean leaves y as it is.",
            lambda case, r: case["epsilon"] > 0 or np.allclose((r["dx"] * case["x"]).sum(0), 0),
        ),
    ),
    mistakes={
        "mean-path-missing": Mistake(
            _gradient(_dx(mean_path=lambda p: 0)),
            "The path through the mean is missing. Each x also moves the mean, and through it "
            "every output; without that term dx does not sum to 0 over the batch.",
        ),
        "variance-path-missing": Mistake(
            _gradient(_dx(variance_path=lambda p: 0)),
            "The path through the variance is missing. Each x also changes the width by which all "
            "outputs are divided; without that term dx is not orthogonal to x-hat.",
        ),
        "constant-statistics": Mistake(
            _gradient(_dx(lambda p: 0, lambda p: 0)),
            "Mean and variance are treated as constants. That is the gradient at inference; in "
            "training both are functions of x, and two of the three paths go through them.",
        ),
        "mean-path-sign": Mistake(
            _gradient(_dx(mean_path=lambda p: -p.dbeta / p.m)),
            "The path through the mean has the wrong sign. The mean is subtracted, so what it "
            "sends back is subtracted too.",
        ),
        "variance-path-sign": Mistake(
            _gradient(_dx(variance_path=lambda p: -p.x_hat * p.dgamma / p.m)),
            "The path through the variance has the wrong sign. A wider batch makes every output "
            "smaller, hence the minus.",
        ),
        "sums-for-means": Mistake(
            _gradient(_dx(lambda p: p.dbeta, lambda p: p.x_hat * p.dgamma)),
            "In dx the two sums over the batch are not divided by m. One example moves the mean by "
            "one m-th of its own step; as it stands the error grows with the batch.",
        ),
        "factor-m": Mistake(
            [
                _gradient(lambda p: p.m * _RIGHT_DX(p)),
                _gradient(lambda p: _RIGHT_DX(p) / p.m),
            ],
            "dx is off by a factor of the batch size. If the loss is a mean over the batch, that "
            "factor is already in dy.",
        ),
        "not-centered": Mistake(
            _gradient(x_hat=lambda p: p.x / p.sd),
            "x / sd stands where x-hat should. It is right only for data of mean 0, which is what "
            "tests often use.",
        ),
        "centered-for-x-hat": Mistake(
            _gradient(x_hat=lambda p: p.centered),
            "x minus its mean stands where x-hat should. Dividing by the standard deviation is "
            "missing, so it is right only for data of standard deviation 1.",
        ),
        "gamma-forgotten": Mistake(
            _gradient(lambda p: _RIGHT_DX(p) / p.gamma),
            "dx lacks gamma. The gradient comes down through y = gamma x-hat + beta; while gamma "
            "is still 1, as at the start, nothing shows.",
        ),
        "gamma-twice": Mistake(
            _gradient(lambda p: _RIGHT_DX(p) * p.gamma),
            "dx has gamma twice. It multiplies dy once, on the way through y = gamma x-hat + "
            "beta; while gamma is still 1, as at the start, nothing shows.",
        ),
        "gamma-in-dgamma": Mistake(
            _gradient(dgamma=lambda p: p.gamma * p.dgamma),
            "dgamma is multiplied by gamma. y is gamma times x-hat, so its derivative with respect "
            "to gamma has no gamma left.",
        ),
        "sd-forgotten": Mistake(
            _gradient(lambda p: _RIGHT_DX(p) * p.sd),
            "dx is not divided by the standard deviation. That factor is how much x-hat moves when "
            "x does.",
        ),
        "divides-by-the-variance": Mistake(
            _gradient(lambda p: _RIGHT_DX(p) / p.sd),
            "dx is divided by the variance, not by its root. It is then off by a factor of the "
            "standard deviation.",
        ),
        "no-epsilon": Mistake(
            _gradient(sd=lambda p: np.sqrt(p.var)),
            "Epsilon is not used. The gradient has to be that of the forward pass with its "
            "epsilon, or a gradient check fails where the variance is small.",
        ),
        "epsilon-outside-the-root": Mistake(
            _gradient(sd=lambda p: np.sqrt(p.var) + p.epsilon), _EPSILON_OUTSIDE
        ),
        "ddof": Mistake(_gradient(sd=lambda p: np.sqrt(p.x.var(0, ddof=1) + p.epsilon)), _DDOF),
        "means-for-sums": Mistake(
            _gradient(dgamma=lambda p: p.dgamma / p.m, dbeta=lambda p: p.dbeta / p.m),
            "dgamma and dbeta are means over the batch. They are sums: gamma and beta act on every "
            "example, and each sends its part back.",
        ),
        "dgamma-and-dbeta-swapped": Mistake(
            _gradient(dgamma=lambda p: p.dbeta, dbeta=lambda p: p.dgamma),
            "dgamma and dbeta have changed places. The order is dx, dgamma, dbeta.",
        ),
        "dgamma-without-x-hat": Mistake(
            [
                _gradient(dgamma=lambda p: (p.dy * p.x).sum(0)),
                _gradient(dgamma=lambda p: (p.dy * p.centered).sum(0)),
            ],
            "dgamma multiplies dy by x, or by x minus its mean. Gamma multiplies x-hat in the "
            "forward pass, so x-hat is its derivative.",
        ),
        "wrong-axis": Mistake(
            _per_example_gradient,
            "This is the gradient of layer normalization: its means run over the features of each "
            "example. Here they run over the batch.",
        ),
    },
)


# ---- Moving statistics --------------------------------------------------------------------------


def _moved(old, new, p):
    return p.momentum * old + (1 - p.momentum) * new


def _moving(
    mean=lambda p: _moved(p.moving_mean, p.mean, p),
    variance=lambda p: _moved(p.moving_variance, p.var, p),
    when=lambda p: p.training,
):
    """The right update, with one of its three parts replaced."""

    def f(moving_mean, moving_variance, x, momentum, training):
        p = _shared_pieces(x, 0.0, 0)
        p.moving_mean, p.moving_variance = moving_mean, moving_variance
        p.momentum, p.training = momentum, training
        return (mean(p), variance(p)) if when(p) else (moving_mean, moving_variance)

    return f


def _backwards(old, new, p):
    return (1 - p.momentum) * old + p.momentum * new


def _variance_of(mean):
    return _moving(variance=lambda p: _moved(p.moving_variance, ((p.x - mean(p)) ** 2).mean(0), p))


_MOVING = Function(
    right=_moving(),
    returns=("moving_mean", "moving_variance"),
    cases=[
        {
            "moving_mean": rng.normal(size=shape[1]),
            "moving_variance": rng.uniform(0.5, 3, size=shape[1]),
            "x": rng.normal(3, 2, size=shape),
            "momentum": 0.8,
            "training": training,
        }
        for rng in [np.random.default_rng(0)]
        for shape in [(4, 4), (5, 3)]
        for training in (True, False)
    ],
    tiny=lambda: (
        {
            "moving_mean": np.zeros(x.shape[1]),
            "moving_variance": np.ones(x.shape[1]),
            "x": x,
            **rest,
        }
        for x in small_batches()
        for rest in grid_of(momentum=[0.5, 0.75, 0.9], training=[True, False])
    ),
    properties=(
        (
            "With training=False both should come back as they were.",
            lambda case, r: case["training"] or all(np.allclose(r[k], case[k]) for k in r),
        ),
    ),
    mistakes={
        "momentum-wrong-way-round": Mistake(
            _moving(
                lambda p: _backwards(p.moving_mean, p.mean, p),
                lambda p: _backwards(p.moving_variance, p.var, p),
            ),
            "Momentum weighs the batch instead of the past. In Keras 0.99 means that 99% of the "
            "past stays; PyTorch's momentum is the other way round, which is how 0.99 comes to "
            "mean almost no memory.",
        ),
        "pytorch-convention": Mistake(
            _moving(
                lambda p: _backwards(p.moving_mean, p.mean, p),
                lambda p: _backwards(p.moving_variance, p.x.var(0, ddof=1), p),
            ),
            "This is PyTorch's rule: momentum weighs the batch, and the variance divides by m - 1. "
            "Here it is that of Keras, where momentum weighs the past and the variance divides by "
            "m; numbers copied from one to the other mean something else.",
        ),
        "updated-at-inference": Mistake(
            _moving(when=lambda p: True),
            "The statistics move even with training=False. A prediction would then depend on what "
            "was predicted before it, and test data would leak into the model.",
        ),
        "never-updated": Mistake(
            _moving(when=lambda p: False),
            "The statistics never move. At inference the layer would go on using what it was "
            "started with, and normalize nothing.",
        ),
        "training-wrong-way-round": Mistake(
            _moving(when=lambda p: not p.training),
            "They move at inference, and stay in training. The flag is read the wrong way round.",
        ),
        "sd-for-variance": Mistake(
            _moving(variance=lambda p: _moved(p.moving_variance, np.sqrt(p.var), p)),
            "The standard deviation of the batch goes into the moving variance. At inference its "
            "root is taken once more, and the output has the wrong width.",
        ),
        "averages-standard-deviations": Mistake(
            _moving(variance=lambda p: _moved(np.sqrt(p.moving_variance), np.sqrt(p.var), p) ** 2),
            "It averages standard deviations, and squares the result. The mean of roots is smaller "
            "than the root of the mean, so the variance comes out too small; average variances.",
        ),
        "ddof": Mistake(
            _moving(variance=lambda p: _moved(p.moving_variance, p.x.var(0, ddof=1), p)),
            "The batch's variance divides by m - 1. PyTorch and the paper do that for the moving "
            "variance; Keras, and this book, keep the one that normalized the batch, with m.",
        ),
        "last-batch-only": Mistake(
            _moving(lambda p: p.mean, lambda p: p.var),
            "The statistics of the last batch replace the moving ones. Inference would then depend "
            "on which batch happened to be the last.",
        ),
        "past-not-weighed": Mistake(
            _moving(
                lambda p: p.moving_mean + (1 - p.momentum) * p.mean,
                lambda p: p.moving_variance + (1 - p.momentum) * p.var,
            ),
            "The new part is added, but the old one is not made smaller. The two weights must add "
            "up to 1, or the statistics grow with every update.",
        ),
        "around-the-moving-mean": Mistake(
            [
                _variance_of(lambda p: p.moving_mean),
                _variance_of(lambda p: _moved(p.moving_mean, p.mean, p)),
            ],
            "The variance is taken around the moving mean. It then includes how far that mean is "
            "off, which early in training is most of it; use the mean of the batch.",
        ),
        "mean-not-updated": Mistake(
            _moving(mean=lambda p: p.moving_mean),
            "Only the variance moves. At inference the layer would subtract the mean it was "
            "started with.",
        ),
        "variance-not-updated": Mistake(
            _moving(variance=lambda p: p.moving_variance),
            "Only the mean moves. At inference the layer would divide by the standard deviation it "
            "was started with.",
        ),
        "one-for-all": Mistake(
            _moving(
                lambda p: _moved(p.moving_mean, p.x.mean(), p),
                lambda p: _moved(p.moving_variance, p.x.var(), p),
            ),
            _ONE_FOR_ALL.format("feature"),
        ),
        "wrong-axis": Mistake(
            _moving(
                lambda p: _moved(p.moving_mean, p.x.mean(1), p),
                lambda p: _moved(p.moving_variance, p.x.var(1), p),
            ),
            "Mean and variance are those of each example, not of each feature. It fails as soon as "
            "a batch has another size, and before that it mixes up features.",
        ),
        "swapped": Mistake(
            _moving(
                lambda p: _moved(p.moving_variance, p.var, p),
                lambda p: _moved(p.moving_mean, p.mean, p),
            ),
            "The two results have changed places. The order is mean, variance.",
        ),
    },
)

_INITIAL = Function(
    right=lambda features: (np.zeros(features), np.ones(features)),
    returns=("moving_mean", "moving_variance"),
    cases=[{"features": 3}],
    tiny=lambda: ({"features": n} for n in (1, 2)),
    mistakes={
        "variance-starts-at-0": Mistake(
            lambda features: (np.zeros(features), np.zeros(features)),
            "The moving variance starts at 0. A layer used before it has learned would divide by "
            "the root of epsilon alone, and blow up its input about thirty times.",
        ),
        "mean-starts-at-1": Mistake(
            lambda features: (np.ones(features), np.ones(features)),
            "The moving mean starts at 1. A layer used before it has learned would shift its "
            "input, for no reason; it should change nothing.",
        ),
        "swapped": Mistake(
            lambda features: (np.ones(features), np.zeros(features)),
            "The two have changed places. A layer used before it has learned would subtract 1 and "
            "divide by almost nothing.",
        ),
        "one-number": Mistake(
            lambda features: (0.0, 1.0),
            "These are two numbers, and each feature needs its own. One number still adds up with "
            "arrays, so the slip shows only when weights are saved or compared.",
        ),
    },
)


# ---- Convolution --------------------------------------------------------------------------------


def _over(*axes, variance=None, parameters=(-1,)):
    """Normalize over some axes; `parameters` is the shape that gamma and beta take."""

    def f(x, gamma, beta, epsilon):
        mean = x.mean(axes or None, keepdims=True)
        var = x.var(axes or None, keepdims=True) if variance is None else variance(x)
        gamma, beta = gamma.reshape(parameters), beta.reshape(parameters)
        return gamma * (x - mean) / np.sqrt(var + epsilon) + beta

    return f


def _small_images():
    """Two values of one channel, then small whole numbers in more places; in growing order."""
    rng = np.random.default_rng(0)
    batches = list(small_batches())
    yield from (x[:, None, None] for x in batches if x.shape[1] == 1)
    for shape in ((2, 1, 2, 1), (2, 2, 1, 1), (2, 2, 2, 1), (2, 1, 2, 2), (2, 2, 2, 2)):
        for _ in range(4):
            x = rng.integers(-3, 4, size=shape).astype(float)
            x[0] += (x[0] == x[-1]) + np.arange(shape[-1])
            yield x


_FIRST = (1, -1, 1, 1)
_POSITIONS = 0, 1, 2

_CONVOLUTION = Function(
    right=lambda x, gamma, beta, epsilon: norm.batch_norm(x, gamma, beta, epsilon=epsilon)[0],
    returns=("y",),
    cases=cases_of(
        [(3, 2, 2, 2), (2, 3, 4, 2)],
        lambda rng, shape: {
            "x": rng.normal([1, 4], [1, 3], size=shape) + rng.normal(size=(shape[0], 1, 1, 1)),
            "gamma": rng.uniform(0.5, 2, size=shape[-1]),
            "beta": rng.normal(size=shape[-1]),
            "epsilon": 0.5,
        },
    ),
    cache=True,
    rough=[{"x": _FAR.reshape(2, 2, 1, 2), **_FAR_FROM_ZERO}],
    tiny=lambda: (case for x in _small_images() for case in _tiny_forward(x)),
    properties=(
        (
            "Each channel of y, over all images and positions, should have the mean beta.",
            lambda case, r: np.allclose(r["y"].mean(_POSITIONS), case["beta"]),
        ),
    ),
    mistakes={
        **_forward_mistakes(_POSITIONS, "channel"),
        "per-position": Mistake(
            _over(0),
            "Every position has its own mean and variance. A convolution treats all positions "
            "alike, and its normalization should: average over height and width, too.",
        ),
        "per-image": Mistake(
            _over(1, 2),
            "Every image is normalized by itself. That is instance normalization; a difference in "
            "strength between two images would be gone.",
        ),
        "per-example": Mistake(
            _over(1, 2, 3),
            "All channels of an image are normalized together. That is layer normalization: an "
            "image does not meet the rest of the batch.",
        ),
        "per-pixel": Mistake(
            _over(3),
            "The channels of each pixel are normalized together. The axis that should keep its own "
            "statistics is the one averaged over.",
        ),
        "channels-first": Mistake(
            [_over(0, 2, 3, parameters=_FIRST), _over(0, 2, 3)],
            "Axis 1 keeps its own statistics, as if the channels stood first. Here axis 1 is the "
            "height, so every row of the image is a channel; an equal length hides it.",
        ),
        "width-kept": Mistake(
            _over(0, 1),
            "Every column of the image has its own statistics: the width is not averaged over. "
            "With all three axes there is one mean for each channel.",
        ),
        "height-kept": Mistake(
            _over(0, 2),
            "Every row of the image has its own statistics: the height is not averaged over. "
            "With all three axes there is one mean for each channel.",
        ),
        "counts-images-only": Mistake(
            _over(*_POSITIONS, variance=lambda x: x.var(_POSITIONS) * x.shape[1] * x.shape[2]),
            "The sum of squares is divided by the number of images. Each channel has that many "
            "values times height times width.",
        ),
        "averages-the-images-variances": Mistake(
            _over(*_POSITIONS, variance=lambda x: x.var((1, 2)).mean(0)),
            "The variance is the average of those of the single images. It misses how far the "
            "images' means lie apart, so it is too small.",
        ),
    },
)


# ---- Folding ------------------------------------------------------------------------------------


def _fold(
    kernel=lambda p: p.kernel * p.scale,
    bias=lambda p: (p.bias - p.mean) * p.scale + p.beta,
    scale=lambda p: p.gamma / np.sqrt(p.variance + p.epsilon),
):
    """The right folding, with one of its three parts replaced."""

    def f(*arguments):
        names = "kernel", "bias", "gamma", "beta", "mean", "variance", "epsilon"
        p = SimpleNamespace(**dict(zip(names, arguments, strict=True)))
        p.scale = scale(p)
        return kernel(p), bias(p)

    return f


def _folding_case(rng, shape):
    inputs_outputs = {"kernel": rng.normal(size=shape)}
    for name in ("bias", "gamma", "beta", "mean"):
        inputs_outputs[name] = rng.normal(1, 1, size=shape[-1])
    return {**inputs_outputs, "variance": rng.uniform(0.5, 3, size=shape[-1]), "epsilon": 0.5}


_FOLDING = Function(
    right=_fold(),
    returns=("kernel", "bias"),
    cases=cases_of([(3, 3), (4, 2), (2, 2, 3, 3)], _folding_case),
    tiny=lambda: (
        {
            "kernel": x,
            "bias": x[0],
            "gamma": np.full(x.shape[1], 4.0),
            "beta": x[-1],
            "mean": x[0] - 1,
            "variance": np.full(x.shape[1], 3.0),
            "epsilon": 1.0,
        }
        for x in small_batches()
    ),
    mistakes={
        "bias-not-scaled": Mistake(
            _fold(bias=lambda p: p.bias - p.mean * p.scale + p.beta),
            "The old bias is not multiplied by the scale. It was added before the normalization, "
            "so it is scaled as all the rest is; without a bias in the layer nothing shows.",
        ),
        "bias-forgotten": Mistake(
            _fold(bias=lambda p: p.beta - p.mean * p.scale),
            "The old bias is lost. The moving mean was measured with it, so both have to go in.",
        ),
        "epsilon-forgotten": Mistake(
            _fold(scale=lambda p: p.gamma / np.sqrt(p.variance)),
            "Epsilon is forgotten. The layer divides by the root of variance plus epsilon, and a "
            "channel with little variance changes much.",
        ),
        "epsilon-outside-the-root": Mistake(
            _fold(scale=lambda p: p.gamma / (np.sqrt(p.variance) + p.epsilon)), _EPSILON_OUTSIDE
        ),
        "divides-by-the-variance": Mistake(
            [
                _fold(scale=lambda p: p.gamma / (p.variance + p.epsilon)),
                _fold(scale=lambda p: p.gamma / p.variance),
            ],
            _VARIANCE,
        ),
        "wrong-kernel-axis": Mistake(
            _fold(kernel=lambda p: p.kernel * p.scale[:, None]),
            "The scale multiplies the axis of the kernel's inputs. The outputs are what is "
            "normalized, and they stand on the last axis; a square kernel hides it.",
        ),
        "mean-sign": Mistake(
            _fold(bias=lambda p: (p.bias + p.mean) * p.scale + p.beta),
            "The moving mean is added. Normalizing subtracts it.",
        ),
        "mean-forgotten": Mistake(
            _fold(bias=lambda p: p.bias * p.scale + p.beta),
            "The moving mean is missing from the bias. Every output is shifted by it.",
        ),
        "mean-not-scaled": Mistake(
            _fold(bias=lambda p: p.bias * p.scale - p.mean + p.beta),
            "The moving mean is subtracted without the scale. It is in units of the layer's "
            "output, before the division by the standard deviation.",
        ),
        "beta-forgotten": Mistake(
            _fold(bias=lambda p: (p.bias - p.mean) * p.scale),
            "Beta is forgotten. It is the offset that the layer learned.",
        ),
        "beta-scaled": Mistake(
            _fold(bias=lambda p: (p.bias - p.mean + p.beta) * p.scale),
            "Beta is multiplied by the scale. It is added after scaling, so it goes into the bias "
            "as it is.",
        ),
        "gamma-forgotten": Mistake(
            _fold(scale=lambda p: 1 / np.sqrt(p.variance + p.epsilon)),
            "Gamma is forgotten. It is 1 in a new layer, so a test without training passes.",
        ),
        "multiplies-by-the-sd": Mistake(
            _fold(scale=lambda p: p.gamma * np.sqrt(p.variance + p.epsilon)),
            "It multiplies by the standard deviation. Normalizing divides by it.",
        ),
        "kernel-not-scaled": Mistake(
            _fold(kernel=lambda p: p.kernel),
            "The kernel is as it was. What the layer computes from its inputs has to be scaled, "
            "and not the bias alone.",
        ),
        "bias-not-changed": Mistake(
            _fold(bias=lambda p: p.bias),
            "The bias is as it was. The mean and beta have to go somewhere, and the bias is the "
            "only place.",
        ),
    },
)

FUNCTIONS: dict[str, Function] = {
    "forward": _FORWARD,
    "gradient": _GRADIENT,
    "moving_statistics": _MOVING,
    "initial_statistics": _INITIAL,
    "convolution": _CONVOLUTION,
    "folding": _FOLDING,
}
