"""What the benchmarks share: one thread, races, and the tables that book/speed.md shows.

Import it before NumPy and TensorFlow, which read their number of threads once.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # TensorFlow's greeting is not part of the table
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import argparse
import json
import platform
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from time import process_time

from bnutils.evidence.study import _processor

ROOT = Path(__file__).resolve().parents[1]
TABLES = ROOT / "book" / "measured"


def options(doc: str, rounds: int) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--rounds", type=_rounds, default=rounds, help=f"default: {rounds}")
    parser.add_argument(
        "--quick", action="store_true", help="a try: the smallest cases, once, and no table kept"
    )
    return parser


def _rounds(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text}")
    return int(text)


def cpu_seconds(call: Callable, repeats: int = 1, between: Callable | None = None) -> float:
    """Mean CPU seconds of some calls: in a row, or with other work between them."""
    if between is None:
        start = process_time()
        for _ in range(repeats):
            call()
        return (process_time() - start) / repeats
    total = 0.0
    for _ in range(repeats):
        between()
        start = process_time()
        call()
        total += process_time() - start
    return total / repeats


def race(contestants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The least that each contestant measures of itself, over rounds in which all take turns.

    Neighbours on the machine only ever add to a time, and drifts of its speed meet all alike.
    """
    least = dict.fromkeys(contestants, float("inf"))
    for _ in range(rounds):
        for name, measure in contestants.items():
            least[name] = min(least[name], measure())
    return least


def digits(number: float) -> str:
    """Two digits, or all that stand before the point."""
    return f"{number:,.0f}" if number >= 9.95 else f"{number:#.2g}"


def show(
    name: str, head: list[str], rows: Iterable[list], how: str, packages: Iterable[str], quick: bool
) -> None:
    """Print a table; unless it is a quick try, keep it as book/measured/speed-NAME.json."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    print(f"\n{how}")
    for row in (head, *rows):
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    if quick:
        return
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in packages)
    note = (
        f"{how} Measured by `make bench` on {datetime.now(UTC).date().isoformat()}, on "
        f"{_processor()}, {os.cpu_count()} cores, {platform.system()}, Python "
        f"{platform.python_version()}, {versions}."
    )
    table = {"head": head, "rows": rows, "note": note}
    path = TABLES / f"speed-{name}.json"
    path.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
