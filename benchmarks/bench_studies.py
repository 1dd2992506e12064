"""What a second worker gains when a study is computed.

    python benchmarks/bench_studies.py [--rounds 2] [--quick]

Computes studies as `make studies` does, start of the workers included, and leaves the records as
they are. Here the clock on the wall counts, so run it on a machine that does nothing else.
"""

import time
from functools import partial

import common  # before NumPy: it sets the number of threads

from bnutils import studies

NAMES = ["growth", "decay-turn"]
WORKERS = (1, 2)
HEAD = ["study", "blocks", *(f"{n} worker{'s' * (n > 1)}, s" for n in WORKERS), "gain", "equal"]
HOW = (
    "Seconds on the clock from the call to the record, one thread each; the gain is their ratio. "
    "Equal: whether both records hold the same bits"
)


def main():
    """Print the table, and keep it."""
    options = common.options(__doc__, rounds=2).parse_args()
    rows, records = [], {}

    def seconds(name, workers):
        start = time.perf_counter()
        records[workers] = studies.get(name).run(workers=workers, progress=False)
        return time.perf_counter() - start

    for name in NAMES[: 1 if options.quick else None]:
        runs = {workers: partial(seconds, name, workers) for workers in WORKERS}
        least = common.race(runs, 1 if options.quick else options.rounds)
        rows.append(
            [
                name,
                len(studies.get(name).blocks()),
                *map(common.digits, least.values()),
                common.digits(least[1] / least[2]),
                "yes" if records[1].identical(records[2].assign_attrs(records[1].attrs)) else "no",
            ]
        )
    how = f"{HOW}. The least of {options.rounds} rounds."
    common.show("studies", HEAD, rows, how, ["numpy", "joblib"], options.quick)


if __name__ == "__main__":
    main()
