"""How fast is `bnutils.norm`, compared with a textbook version and with Keras?

    python benchmarks/bench_norm.py [--rounds 30]

Times the forward pass and the gradient with respect to x, gamma and beta together, in float32 on
one thread, and prints the least CPU time over interleaved rounds. Times depend on the machine;
ratios much less.
"""

import os

# NumPy and TensorFlow read these once, when they are imported.
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # TensorFlow's greeting is not part of the table
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import argparse
import math
import sys
from time import process_time

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from bnutils.norm import batch_norm, batch_norm_grad

SHAPES = [(64, 100), (256, 1024), (4096, 1024), (32, 28, 28, 64)]
EPSILON = 1e-3


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


def keras_layer(shape, gamma, beta):
    """The Keras layer in a compiled `tf.function`, as a function of tensors."""
    layer = keras.layers.BatchNormalization(epsilon=EPSILON)
    layer.build(shape)
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    parameters = [v.value for v in layer.trainable_variables]

    @tf.function
    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return y, *tape.gradient(y, [x, *parameters], output_gradients=dy)

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
    x, gamma, beta, dy = problem(shape)
    step = keras_layer(shape, gamma, beta)
    x_tf, dy_tf = tf.constant(x), tf.constant(dy)
    calls = {
        "ours": lambda: ours(x, gamma, beta, dy),
        "textbook": lambda: textbook(x, gamma, beta, dy),
        "Keras": lambda: step(x_tf, dy_tf),
    }
    exact = textbook(*(a.astype(np.float64) for a in (x, gamma, beta, dy)))
    for name, call in calls.items():
        for actual, desired in zip(call(), exact, strict=True):
            error = np.abs(actual - desired).max() / np.abs(desired).max()
            if error > 1e-3:
                raise AssertionError(f"{name} is off by {error:.1e} at {shape}")
    return calls


def race(calls, rounds, repeats, bar):
    """Least CPU time of each call over interleaved rounds, in milliseconds."""
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            start = process_time()
            for _ in range(repeats):
                call()
            least[name] = min(least[name], (process_time() - start) / repeats)
        bar.update()
    return {name: 1000 * seconds for name, seconds in least.items()}


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rounds",
        type=int,
        default=30,
        help="rounds for the largest shape; others get up to four times as many (default: 30)",
    )
    least_rounds = parser.parse_args().rounds
    if least_rounds < 1:
        parser.error(f"--rounds must be at least 1, got {least_rounds}")
    sizes = [math.prod(shape) for shape in SHAPES]
    rounds = [least_rounds * min(4, max(sizes) // size) for size in sizes]
    # Many calls in a row where they are short: what ran before leaves the processor's caches cold.
    repeats = [max(1, min(100, 2**21 // size)) for size in sizes]

    rows = []
    with tqdm(total=sum(rounds), disable=not sys.stderr.isatty(), leave=False) as bar:
        for shape, n, k in zip(SHAPES, rounds, repeats, strict=True):
            bar.set_description(str(shape))
            rows.append((shape, race(contestants(shape), n, k, bar)))

    print("forward + gradient, float32, one thread, least CPU time, milliseconds")
    print(
        f"{'shape':18}{'ours':>8}{'textbook':>10}{'Keras':>8}{'textbook/ours':>15}{'Keras/ours':>12}"
    )
    for shape, ms in rows:
        ratios = (ms["textbook"] / ms["ours"], ms["Keras"] / ms["ours"])
        print(
            f"{shape!s:18}{ms['ours']:8.3f}{ms['textbook']:10.3f}{ms['Keras']:8.3f}"
            f"{ratios[0]:15.1f}{ratios[1]:12.1f}"
        )


if __name__ == "__main__":
    main()
