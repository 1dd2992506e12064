"""Compute records: `python -m bnutils.studies [NAME ...] [--workers N] [--scheduler tcp://...]`.

A run that was stopped goes on where it was, from the finished blocks in `--store`. A record that is
there with the fingerprint of its study is left alone, unless it is named.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from bnutils import studies
from bnutils._extras import extra
from bnutils.evidence import provenance
from bnutils.evidence.record import write


def main(arguments: list[str] | None = None) -> int:
    """Compute the records that are asked for, or all that are missing or out of date."""
    parser = argparse.ArgumentParser(prog="python -m bnutils.studies", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="one of: " + ", ".join(studies.names())
    )
    parser.add_argument("--workers", type=int, help="processes; one for each core if not given")
    parser.add_argument("--scheduler", help="address of a Dask scheduler, such as tcp://HOST:8786")
    parser.add_argument(
        "--store", type=Path, default=Path("_build/studies"), help="finished blocks"
    )
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(studies.names()):
        parser.error(f"expected names of {studies.names()}, got {sorted(unknown)}")
    client = None
    if options.scheduler:
        with extra("scale"):
            from distributed import Client

        client = Client(options.scheduler)
    for name in options.names or [name for name in studies.names() if not _is_current(name)]:
        start = time.perf_counter()
        study = studies.get(name)
        record = study.run(
            workers=options.workers, store=options.store, client=client, progress=True
        )
        path = studies.RECORDS / f"{name}.nc"
        write(record, path)
        history = provenance(record)
        print(
            f"{name}: {len(study.blocks())} blocks, {time.perf_counter() - start:.0f} s, "
            f"{history['cpu_seconds']:.0f} CPU seconds, {path.stat().st_size / 1e6:.2f} MB",
            flush=True,
        )
    return 0


def _is_current(name: str) -> bool:
    try:
        return provenance(studies.load(name))["fingerprint"] == studies.get(name).fingerprint
    except (FileNotFoundError, ValueError):
        return False


if __name__ == "__main__":
    sys.exit(main())
