"""How fast is `bnutils.norm`, beside a textbook version, Keras, XLA, PyTorch and a copy?

    python benchmarks/bench_norm.py [--rounds 20] [--quick]

Times the forward pass and the gradient with respect to x, gamma and beta together, in float32 on
one thread: call after call, and with other work between the calls, as in a network. PyTorch takes
part where it is installed.
"""

import importlib.util
import itertools
import math
from functools import partial

import common  # before NumPy: it sets the number of threads
import numpy as np

from bnutils._keras import keras, tf
from bnutils.norm import batch_norm, batch_norm_grad

SHAPES = [(64, 100), (256, 1024), (4096, 1024), (32, 28, 28, 64)]
EPSILON = 1e-3
HEAD = ["shape", "calls", "ours, ms", "textbook", "Keras", "XLA", "PyTorch", "a copy"]
HOW = (
    "Forward pass and gradient in float32 on one thread. Milliseconds of ours; the others in "
    "multiples of that, so above 1 they are slower. In a row: a tight loop. Between other work: "
    "each call comes after a product of matrices and a pass over 8 MB. Keras: the layer in a "
    "`tf.function`, XLA: the same with `jit_compile=True`; both also move their statistics. "
    "A copy: of the array, `np.copyto`, once. Least CPU time"
)


def ours(x, gamma, beta, dy):
    """The package."""
    y, cache = batch_norm(x, gamma, beta, epsilon=EPSILON)
    return y, *batch_norm_grad(dy, cache)


def textbook(x, gamma, beta, dy):
    """The equations of arXiv:1502.03167, Algorithm 1 and section 3, one line each."""
    axes = tuple(range(x.ndim - 1))
    m = x[..., 0].size

    mean = np.mean(x, axis=axes)
    variance = np.var(x, axis=axes)
    x_hat = (x - mean) / np.sqrt(variance + EPSILON)
    y = gamma * x_hat + beta

    dx_hat = dy * gamma
    dvariance = np.sum(dx_hat * (x - mean) * -0.5 * (variance + EPSILON) ** -1.5, axis=axes)
    dmean = np.sum(dx_hat * -1 / np.sqrt(variance + EPSILON), axis=axes)
    dmean += dvariance * np.mean(-2 * (x - mean), axis=axes)
    dx = dx_hat / np.sqrt(variance + EPSILON) + dvariance * 2 * (x - mean) / m + dmean / m
    dgamma = np.sum(dy * x_hat, axis=axes)
    dbeta = np.sum(dy, axis=axes)
    return y, dx, dgamma, dbeta


def keras_layer(jit_compile, x, gamma, beta, dy):
    """The Keras layer in a compiled `tf.function`, as a call without arguments."""
    layer = keras.layers.BatchNormalization(epsilon=EPSILON)
    layer.build(x.shape)
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    parameters = [v.value for v in layer.trainable_variables]

    @tf.function(jit_compile=jit_compile)
    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return y, *tape.gradient(y, [x, *parameters], output_gradients=dy)

    return partial(step, tf.constant(x), tf.constant(dy))


def pytorch(x, gamma, beta, dy):
    """PyTorch's function, on arrays whose channels come last in memory, as a call."""
    import torch

    torch.set_num_threads(1)
    channels_second = (0, x.ndim - 1, *range(1, x.ndim - 1))
    x, dy = (torch.from_numpy(a).permute(channels_second) for a in (x, dy))
    arguments = [x, *map(torch.from_numpy, (gamma, beta))]
    for each in arguments:
        each.requires_grad_()

    def step():
        y = torch.nn.functional.batch_norm(
            x, None, None, *arguments[1:], training=True, eps=EPSILON
        )
        return y, *torch.autograd.grad(y, arguments, dy)

    return step


def problem(shape):
    """Input, gamma, beta and output gradient in float32."""
    rng = np.random.default_rng(0)
    arrays = (
        5 + 3 * rng.standard_normal(shape),
        rng.standard_normal(shape[-1]),
        rng.standard_normal(shape[-1]),
        rng.standard_normal(shape),
    )
    return [a.astype(np.float32) for a in arrays]


def contestants(shape):
    """Calls to be timed, by name, after a check that all compute the same."""
    arrays = problem(shape)
    calls = {
        "ours": partial(ours, *arrays),
        "textbook": partial(textbook, *arrays),
        "Keras": keras_layer(False, *arrays),
        "XLA": keras_layer(True, *arrays),
    }
    if importlib.util.find_spec("torch"):
        calls["PyTorch"] = pytorch(*map(np.copy, arrays))
    exact = textbook(*(a.astype(np.float64) for a in arrays))
    for name, call in calls.items():
        for actual, desired in zip(call(), exact, strict=True):
            actual = actual.detach().numpy() if name == "PyTorch" else np.asarray(actual)
            if name == "PyTorch" and actual.ndim > 1:
                actual = np.moveaxis(actual, 1, -1)
            error = np.abs(actual - desired).max() / np.abs(desired).max()
            if error > 1e-3:
                raise AssertionError(f"{name} is off by {error:.1e} at {shape}")
    return calls | {"a copy": partial(np.copyto, np.empty_like(arrays[0]), arrays[0])}


def other_work():
    """What stands between two calls: a product of matrices, and a pass over 8 MB."""
    square, long = np.ones((256, 256), np.float32), np.ones(2**21, np.float32)

    def work():
        np.matmul(square, square)
        np.add(long, 1, out=long)

    return work


def main():
    """Print the table, and keep it."""
    options = common.options(__doc__, rounds=20).parse_args()
    tf.get_logger().setLevel("ERROR")  # it warns of a function for each shape
    shapes = SHAPES[:2] if options.quick else SHAPES
    rows = []
    for shape in shapes:
        calls = contestants(shape)
        # Short calls many times: what ran before leaves the processor's caches cold.
        repeats = max(1, min(100, 2**21 // math.prod(shape)))
        rounds = 1 if options.quick else options.rounds * max(1, min(4, 2**22 // math.prod(shape)))
        modes = {"in a row": (repeats, None), "between other work": (min(repeats, 8), other_work())}
        measured = common.race(
            {
                (mode, name): partial(common.cpu_seconds, call, *modes[mode])
                for mode, (name, call) in itertools.product(modes, calls.items())
            },
            rounds,
        )
        for mode in modes:
            seconds = {name: measured[mode, name] for name in calls}
            ratios = [
                common.digits(seconds[name] / seconds["ours"]) if name in seconds else ""
                for name in HEAD[3:]
            ]
            rows.append([str(shape), mode, f"{1e3 * seconds['ours']:#.3g}", *ratios])
    packages = ["numpy", "keras", "tensorflow", *(["torch"] if "PyTorch" in calls else [])]
    how = f"{HOW} of {options.rounds} rounds and more, in which all take turns."
    common.show("norm", HEAD, rows, how, packages, options.quick)


if __name__ == "__main__":
    main()
