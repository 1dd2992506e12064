"""What a second worker gains when a study is computed.

    python benchmarks/bench_studies.py [--rounds 1] [--quick]

Computes studies as `make studies` does, start of the workers included, and leaves the records as
they are. Here the clock on the wall counts, so run it on a machine that does nothing else. CPU
seconds, of all processes together, show what the second worker costs also where it is busy.
"""

import os
import time
from functools import partial

import common  # before NumPy: it sets the number of threads
from joblib.externals.loky import get_reusable_executor

from bnutils import studies
from bnutils.evidence.study import _cpu_seconds

NAMES = ["growth", "decay-turn"]
HEAD = ["study", "blocks", "workers", "seconds", "CPU seconds", "same record"]
HOW = (
    "Seconds on the clock from the call to the record, and CPU seconds of all processes, start of "
    "the workers included, one thread each: the least"
)


def main():
    """Print the table, and keep it."""
    options = common.options(__doc__, rounds=1).parse_args()
    busy = f"{os.getloadavg()[0]:.1f} processes" if hasattr(os, "getloadavg") else "unknown"
    rows, records, work = [], {}, {}

    def seconds(name, workers):
        start, spent = time.perf_counter(), _cpu_seconds()
        records[workers] = studies.get(name).run(workers=workers, progress=False).drop_attrs()
        taken = time.perf_counter() - start
        get_reusable_executor().shutdown()  # what a process took is known when it has ended
        work[workers] = min(_cpu_seconds() - spent, work.get(workers, float("inf")))
        return taken

    for name in NAMES[: 1 if options.quick else None]:
        work.clear()
        runs = {workers: partial(seconds, name, workers) for workers in (1, 2)}
        for workers, least in common.race(runs, 1 if options.quick else options.rounds).items():
            same = "yes" if records[workers].identical(records[1]) else "no"
            took = map(common.digits, (least, work[workers]))
            rows.append([name, len(studies.get(name).blocks()), workers, *took, same])
    rounds = f"{options.rounds} round{'s' * (options.rounds > 1)}"
    how = f"{HOW} of {rounds}. Other work on the machine when it began: {busy}."
    common.show("studies", HEAD, rows, how, ["numpy", "joblib"], options.quick)


if __name__ == "__main__":
    main()
