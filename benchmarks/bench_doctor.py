"""What `audit`, `recalibrate` and `fold` cost beside one `predict`, in time and memory.

    python benchmarks/bench_doctor.py [--rounds 1] [--quick]

Each is measured in a process of its own, from 10 to 200 layers of batch normalization and from a
thousand to a million rows.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import common  # before NumPy: it sets the number of threads
import numpy as np

SIZES = [(10, 10**3), (50, 10**3), (200, 10**3), (10, 10**5), (200, 10**5), (10, 10**6)]
WIDTH, BATCH = 32, 256
TASKS = ("predict", "audit", "recalibrate", "fold")
NET = (
    f"Dense networks: blocks of a layer of {WIDTH} units, batch normalization and ReLU, a block "
    f"for each layer that is counted; float32 data of {WIDTH} columns and targets, batches of "
    f"{BATCH}, one thread; each call is the first of its process"
)
TIMES = (
    f"{NET}, so that compiling is part of it. CPU seconds of `predict` on all rows; the others in "
    "multiples of that"
)
MEMORY = (
    f"{NET}. The most memory that its process held, in MB; the data themselves and TensorFlow are "
    "part of it: `start` is what a process holds that has model and data, and calls nothing"
)


def work(task, layers, rows):
    """Do one task in this process; print its CPU seconds, and the most MB held before and after."""
    import resource

    from bnutils._keras import keras
    from bnutils.doctor import audit, fold, recalibrate

    kinds, rng = keras.layers, np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    parts = [keras.Input((WIDTH,))]
    for _ in range(layers):
        parts += [kinds.Dense(WIDTH, use_bias=False), kinds.BatchNormalization(), kinds.ReLU()]
    model = keras.Sequential([*parts, kinds.Dense(1)])
    model.compile("sgd", "mse")
    x = rng.standard_normal((rows, WIDTH), dtype=np.float32)
    y = x[:, :1].copy()
    calls = {
        "predict": lambda: model.predict(x, batch_size=BATCH, verbose=0),
        "audit": lambda: audit(model, (x, y), batch_size=BATCH),
        "recalibrate": lambda: recalibrate(model, (x, y), batch_size=BATCH, progress=False),
        "fold": lambda: fold(model, x),
    }
    # Linux counts in KiB, macOS in bytes.
    unit = 1e-6 if sys.platform == "darwin" else 1024e-6

    def most():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    before, seconds = most(), common.cpu_seconds(calls[task])
    print(json.dumps({"before": before, "seconds": seconds, "after": most()}))


def measured(task, layers, rows):
    """What `work` prints, from a process of its own."""
    command = [sys.executable, Path(__file__), "--task", task, str(layers), str(rows)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def main():
    """Print the two tables, and keep them."""
    parser = common.options(__doc__, rounds=1)
    parser.add_argument("--task", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        task, *size = options.task
        work(task, *map(int, size))
        return
    times, memory = [], []
    for layers, rows in SIZES[: 1 if options.quick else None]:
        least = {}
        for _ in range(options.rounds):
            for task in TASKS:
                found = measured(task, layers, rows)
                least[task] = {n: min(v, least.get(task, found)[n]) for n, v in found.items()}
        predict, *others = (least[task]["seconds"] for task in TASKS)
        size, before = [layers, f"{rows:,}"], least["predict"]["before"]
        times.append([*size, *map(common.digits, (predict, *(o / predict for o in others)))])
        held = (before, *(least[task]["after"] for task in TASKS))
        memory.append([*size, *(f"{megabytes:.0f}" for megabytes in held)])
    packages, head = ["numpy", "keras", "tensorflow"], ["layers", "rows"]
    common.show(
        "doctor", [*head, "predict, s", *TASKS[1:]], times, f"{TIMES}.", packages, options.quick
    )
    common.show("memory", [*head, "start", *TASKS], memory, f"{MEMORY}.", packages, options.quick)


if __name__ == "__main__":
    main()
