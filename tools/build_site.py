"""Render the book with warnings as errors, and say where it is.

`python tools/build_site.py [--all] [--builder html|linkcheck]`
"""

import argparse
import subprocess
import sys
import sysconfig
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Run jupyter-book once; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="forget what was built before")
    parser.add_argument("--builder", choices=("html", "linkcheck"), default="html")
    options = parser.parse_args()
    command = [str(Path(sysconfig.get_path("scripts")) / "jupyter-book"), "build", "."]
    # -n reports every reference that leads nowhere; -W with --keep-going fails after naming all.
    command += ["-n", "-W", "--keep-going", "--builder", options.builder]
    if options.all:
        command.append("--all")
    (ROOT / "_build").mkdir(exist_ok=True)
    with FileLock(ROOT / "_build" / ".lock"):  # two builds would write into each other's pages
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.stdout.write(done.stdout)
        sys.stderr.write(done.stderr)
    else:
        print(f"site: built without a warning in {ROOT.name}/_build/{options.builder}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
