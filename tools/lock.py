"""Resolve the dependencies of pyproject.toml into requirements.lock, for every Python we support.

The first line of the lock carries a digest of the dependency lists it was made from, so that a
test can tell when the two have drifted apart.
"""

import hashlib
import json
import subprocess
import sysconfig
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"


def digest(pyproject: Path = ROOT / "pyproject.toml") -> str:
    """A digest of all that the lock follows from: dependencies, extras and Python versions."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    keys = ("requires-python", "dependencies", "optional-dependencies")
    text = json.dumps({key: project[key] for key in keys}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def main() -> None:
    """Write the lock: one version of each package for all Pythons, with the hashes of its files."""
    uv = Path(sysconfig.get_path("scripts")) / "uv"
    command = [
        str(uv),
        "pip",
        "compile",
        "pyproject.toml",
        "--quiet",
        "--all-extras",
        "--universal",
    ]
    command += ["--python-version", "3.11", "--fork-strategy", "fewest", "--generate-hashes"]
    command += ["--no-emit-index-url", "--no-emit-find-links", "--no-header", "--upgrade"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    header = f"# Made by `make lock` from pyproject.toml {digest()}\n"
    LOCK.write_text(header + done.stdout, encoding="utf-8")
    print(f"{LOCK.name}: {done.stdout.count('==')} packages")


if __name__ == "__main__":
    main()
