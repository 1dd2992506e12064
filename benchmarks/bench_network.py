"""How many runs per second the NumPy engine trains, from 1 run to 256 at once, beside Keras `fit`.

    python benchmarks/bench_network.py [--rounds 2] [--quick]

Two networks with batch normalization, dense (64-64-64-64-10) and convolutional (8 and 16 filters on
digits of 8 x 8), with ReLU, softmax and SGD; the same weights, data and batch size, one thread
each. Keras is measured in three settings, and twice in each: a *new model*, built, compiled and
trained, as a sweep does it; and *fit again*, a model that is compiled and traced already.
"""

from functools import partial

import common  # before NumPy: it sets the number of threads
from sklearn.datasets import load_digits

from bnutils._keras import keras
from bnutils.keras_nets import twin
from bnutils.network import SGD, BatchNorm, cnn, fit, mlp, softmax_cross_entropy

NETS = {
    "dense": partial(mlp, [64, 64, 64, 64, 10], norm=BatchNorm()),
    "convolutional": partial(cnn, (8, 8, 1), filters=[8, 16], outputs=10, norm=BatchNorm()),
}
BATCH, STEPS_PER_EPOCH, EPOCHS = 60, 23, 13
STEPS = STEPS_PER_EPOCH * EPOCHS
MODES = {
    "default": {"jit_compile": False},
    f"steps_per_execution={STEPS_PER_EPOCH}": {
        "jit_compile": False,
        "steps_per_execution": STEPS_PER_EPOCH,
    },
    f"steps_per_execution={STEPS_PER_EPOCH}, jit_compile": {
        "jit_compile": True,
        "steps_per_execution": STEPS_PER_EPOCH,
    },
}
RUNS = (1, 4, 16, 64, 256)
HEAD = ["network", "trained by", "runs per second", "times Keras"]
HOW = (
    f"Runs of {STEPS} steps with batches of {BATCH} on one thread, per CPU second. Of many runs "
    f"fewer steps were measured, but {STEPS_PER_EPOCH} at least. Keras: `fit` of a model that is "
    "compiled and traced already, in the fastest of three settings, which is named; a new model is "
    "built, compiled and trained in the one that is fastest then"
)


def engine(build, x, y, runs):
    """Build and train a stack of runs; CPU seconds for each run of `STEPS` steps."""
    steps = max(STEPS_PER_EPOCH, STEPS // max(1, runs // 4))

    def train():
        net, rule = build(seeds=range(runs)), SGD(0.1)
        fit(net, x, y, loss=softmax_cross_entropy, optimizer=rule, steps=steps, batch_size=BATCH)

    return common.cpu_seconds(train) * STEPS / steps / runs


class KerasRun:
    """A Keras model in one setting: first made and trained, then trained again."""

    def __init__(self, build, x, y, mode):
        """Take what to build, the data, and the arguments of `compile`."""
        self.build, self.data, self.mode = build, (x, y), mode

    def new(self):
        """CPU seconds to build, compile and train."""

        def run():
            self.model = twin(self.build(seeds=[0]))
            self.model.compile(
                optimizer=keras.optimizers.SGD(0.1),
                loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                **self.mode,
            )
            self.train()

        return common.cpu_seconds(run)

    def again(self):
        """CPU seconds to train the same model once more."""
        return common.cpu_seconds(self.train)

    def train(self):
        """Train."""
        self.model.fit(*self.data, batch_size=BATCH, epochs=EPOCHS, verbose=0)


def main():
    """Print the table, and keep it."""
    options = common.options(__doc__, rounds=2).parse_args()
    digits, y = load_digits(return_X_y=True)
    digits = (digits[: BATCH * STEPS_PER_EPOCH] / 16).astype("float32")
    y = y[: len(digits)]
    rows = []
    for kind, build in NETS.items():
        x = digits if kind == "dense" else digits.reshape(-1, 8, 8, 1)
        contestants = {
            runs: partial(engine, build, x, y, runs) for runs in RUNS[: 2 if options.quick else 5]
        }
        for mode, arguments in MODES.items():
            run = KerasRun(build, x, y, arguments)
            contestants |= {("new", mode): run.new, ("again", mode): run.again}
        least = common.race(contestants, 1 if options.quick else options.rounds)
        best, new = (min(MODES, key=lambda m: least[w, m]) for w in ("again", "new"))
        named = {
            f"Keras, {new}: a new model": least["new", new],
            f"Keras, {best}": least["again", best],
            **{f"our engine, {n} at once": least[n] for n in contestants if n in RUNS},
        }
        for name, seconds in named.items():
            ratio = least["again", best] / seconds
            rows.append([kind, name, common.digits(1 / seconds), common.digits(ratio)])
    how = f"{HOW}. The least of {options.rounds} rounds, in which all take turns."
    common.show("network", HEAD, rows, how, ["numpy", "keras", "tensorflow"], options.quick)


if __name__ == "__main__":
    main()
