"""What two workers of TensorFlow do together, for chapter 11: this runs in their processes.

`measured` is called in each of them by `bnutils.workers.run`. All calls come in the same order in
both, since each waits for the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

__all__ = ["ARMS", "MOMENTUM", "example", "measured"]

ARMS = ["local", "synchronized"]
MOMENTUM = 0.9
IN_A_ROW = 2  # all-reduces in one call, so that calling counts for less


def example(seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of a batch that one worker has, unlike the other's, and the gradient of its output.

    Args:
        seed: of the batch.
        index: of the worker.

    Returns:
        Two arrays [6, 4] float32.
    """
    rng = np.random.default_rng([seed, index])
    x = rng.normal(3.0 * index, 1.0 + index, size=(6, 4))
    return x.astype(np.float32), rng.normal(size=(6, 4)).astype(np.float32)


def measured(settings: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Times of messages and of steps, BN of a batch in two parts, and whether `fit` runs.

    Args:
        settings: of a block of the study "synchronizing".
        index: of this worker.

    Returns:
        A dict: "seconds" of an all-reduce by its numbers; "step" and "collectives", [layers, arms],
        the seconds of a step and the all-reduces in it; "bn", for each arm what BN made of this
        worker's part; "fit", what was wrong with `fit`, or "".
    """
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    bn = {arm: _normalized(strategy, arm, *example(settings["seed"], index)) for arm in ARMS}
    messages = [_message(strategy, size) for size in settings["numbers"]]
    steps = [
        _step(strategy, layers, settings["width"], settings["rows"], arm)
        for layers in settings["layers"]
        for arm in ARMS
    ]
    seconds = _shortest([*messages, *steps], settings["rounds"])
    shape = len(settings["layers"]), len(ARMS)
    return {
        "seconds": seconds[: len(messages)] / IN_A_ROW,
        "step": seconds[len(messages) :].reshape(shape),
        "collectives": np.reshape([_collectives(step) for step in steps], shape),
        "bn": bn,
        "fit": _fit(strategy),
    }


def _layer(arm: str, width: int) -> Any:
    import keras

    layer = keras.layers.BatchNormalization(momentum=MOMENTUM, synchronized=arm == "synchronized")
    layer.build((None, width))
    return layer


def _normalized(strategy: Any, arm: str, x: np.ndarray, dy: np.ndarray) -> list[np.ndarray]:
    """Output, gradients of the input, gamma and beta, and both moving statistics after a step."""
    import keras
    import tensorflow as tf

    with strategy.scope():
        layer = _layer(arm, x.shape[1])

    def replica(x: tf.Tensor, dy: tf.Tensor) -> tuple:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        sources = x, layer.gamma.value, layer.beta.value
        return y, *tape.gradient(y, sources, output_gradients=dy)

    found = tf.function(lambda *parts: strategy.run(replica, args=parts))(x, dy)
    moving = layer.moving_mean, layer.moving_variance
    return [keras.ops.convert_to_numpy(each) for each in (*found, *moving)]


def _message(strategy: Any, size: int) -> Callable[[], Any]:
    """A call that sums so many numbers of both workers, and does it again with the sums."""
    import tensorflow as tf

    given = tf.random.stateless_normal([size], seed=(0, 0))

    def replica(x: tf.Tensor) -> tf.Tensor:
        for _ in range(IN_A_ROW):
            x = 0.5 * tf.distribute.get_replica_context().all_reduce("SUM", x)
        return x

    return tf.function(lambda: strategy.run(replica, args=(given,)))


def _step(strategy: Any, layers: int, width: int, rows: int, arm: str) -> Callable[[], Any]:
    """A call that computes the gradients of dense layers with BN, and sums both workers'."""
    import tensorflow as tf

    with strategy.scope():
        norms = [_layer(arm, width) for _ in range(layers)]
        kernels = [
            tf.Variable(tf.random.stateless_normal([width, width], seed=(i, 1)) * width**-0.5)
            for i in range(layers)
        ]
    given = tf.random.stateless_normal([rows, width], seed=(0, 2))

    def replica(x: tf.Tensor) -> list[tf.Tensor]:
        sources = [*kernels, *(p.value for bn in norms for p in (bn.gamma, bn.beta))]
        with tf.GradientTape() as tape:
            for kernel, bn in zip(kernels, norms, strict=True):
                x = tf.nn.relu(bn(x @ kernel, training=True))
            loss = tf.reduce_mean(x**2)
        gradients = tape.gradient(loss, sources)
        return tf.distribute.get_replica_context().all_reduce("SUM", gradients)

    return tf.function(lambda: strategy.run(replica, args=(given,)))


def _collectives(function: Any) -> int:
    """The all-reduces in one call."""
    operations = function.get_concrete_function().graph.get_operations()
    return sum(operation.type.startswith("CollectiveReduce") for operation in operations)


def _shortest(calls: list[Callable[[], Any]], rounds: int) -> np.ndarray:
    """The shortest time of each of some calls, in seconds, as they take turns."""
    for call in calls:
        call()
    times = np.full(len(calls), np.inf)
    for _ in range(rounds):
        for i, call in enumerate(calls):
            start = time.perf_counter()
            call()
            times[i] = min(times[i], time.perf_counter() - start)
    return times


def _fit(strategy: Any) -> str:
    """What Keras says when it is to train under this strategy; empty if it does."""
    import keras

    x, _ = example(0, 0)
    try:
        with strategy.scope():
            model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
            model.compile("sgd", "mse")
        model.fit(x, x[:, :1], batch_size=6, verbose=0)
    except Exception as error:  # whatever it is, it is what the record tells
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""
