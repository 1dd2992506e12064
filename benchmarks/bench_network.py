"""How many runs per second the NumPy engine trains, beside Keras `fit`.

Two networks, dense (64-64-64-64-10) and convolutional (8 and 16 filters on digits of 8 x 8), with
ReLU, softmax and SGD; the same weights, data, batch size and number of steps, one thread each.
Every round measures all contestants one after the other, and the best of each counts, in CPU
seconds, so that neighbours on the machine matter little. Two costs of a Keras run are given: *a new
model*, built, compiled and trained, as a sweep does it; and *fit again*, a model that is compiled
and traced already and only trains.

    python benchmarks/bench_network.py [rounds]

Exit code 1 if the engine is not at least four times as fast as the default `fit` of a model that is
compiled already, the harder of the two, in the dense network.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # TensorFlow's greeting is not part of the table

import itertools
import sys
import time
from functools import partial

import keras
from sklearn.datasets import load_digits

from bnutils.keras_nets import twin
from bnutils.network import SGD, BatchNorm, cnn, fit, mlp, softmax_cross_entropy

NETS = {
    "dense": partial(mlp, [64, 64, 64, 64, 10]),
    "convolutional": partial(cnn, (8, 8, 1), filters=[8, 16], outputs=10),
}
BATCH, STEPS_PER_EPOCH, EPOCHS = 60, 23, 13
STEPS = STEPS_PER_EPOCH * EPOCHS
MODES = {
    "Keras fit, default": {"jit_compile": False},
    f"Keras fit, steps_per_execution={STEPS_PER_EPOCH}": {
        "jit_compile": False,
        "steps_per_execution": STEPS_PER_EPOCH,
    },
    f"Keras fit, steps_per_execution={STEPS_PER_EPOCH}, jit_compile": {
        "jit_compile": True,
        "steps_per_execution": STEPS_PER_EPOCH,
    },
}
RUNS = (1, 10, 100)
TARGET = 4


def engine(x, y, runs, build, norm):
    """Build and train a stack of runs; CPU seconds for each run."""
    start = time.process_time()
    net = build(seeds=range(runs), norm=norm)
    rule = SGD(0.1)
    fit(net, x, y, loss=softmax_cross_entropy, optimizer=rule, steps=STEPS, batch_size=BATCH)
    return (time.process_time() - start) / runs


def keras_fit(x, y, mode, build, norm):
    """Build, compile and train a Keras model, then train it again; CPU seconds for each."""
    start = time.process_time()
    model = twin(build(seeds=[0], norm=norm))
    weights = model.get_weights()
    model.compile(
        optimizer=keras.optimizers.SGD(0.1),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **mode,
    )
    model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    middle = time.process_time()
    model.set_weights(weights)
    model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    return middle - start, time.process_time() - middle


def main():
    """Measure, print the table, and check the target."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    x, y = load_digits(return_X_y=True)
    x = (x[: BATCH * STEPS_PER_EPOCH] / 16).astype("float32")
    y = y[: len(x)]
    missed = False
    for kind, norm in itertools.product(NETS, (None, BatchNorm())):
        build, images = NETS[kind], x if kind == "dense" else x.reshape(-1, 8, 8, 1)
        times = {}
        for _ in range(rounds):
            for runs in RUNS:
                name = f"NumPy engine, {runs} run{'s' * (runs > 1)} at once"
                times.setdefault(name, []).append(engine(images, y, runs, build, norm))
            for mode, options in MODES.items():
                new, again = keras_fit(images, y, options, build, norm)
                times.setdefault(f"{mode}: a new model", []).append(new)
                times.setdefault(f"{mode}: fit again", []).append(again)
        best = {name: min(values) for name, values in times.items()}
        ours = best["NumPy engine, 10 runs at once"]
        print(f"\n{kind}, {'with' if norm else 'without'} batch normalization, {STEPS} steps a run")
        print(f"{'':62}{'runs/s':>8}{'ms/step':>9}{'ratio to 10 at once':>21}")
        for name, value in best.items():
            print(f"{name:62}{1 / value:8.2f}{value / STEPS * 1e3:9.3f}{value / ours:21.2f}")
        missed |= kind == "dense" and best["Keras fit, default: fit again"] < TARGET * ours
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
