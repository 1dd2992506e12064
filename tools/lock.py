"""Resolve the dependencies of pyproject.toml into requirements.lock, for every Python we support.

Versions that still fit stay as they are; `--upgrade` takes the newest of all.
The first line of the lock carries a digest of the dependency lists it was made from, so that a
test can tell when the two have drifted apart.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sysconfig
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"


def digest(pyproject: Path = ROOT / "pyproject.toml") -> str:
    """A digest of what the lock follows from: dependencies, extras, groups and Python versions."""
    read = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    keys = ("requires-python", "dependencies", "optional-dependencies")
    listed = {key: read["project"][key] for key in keys} | {"groups": read["dependency-groups"]}
    text = json.dumps(listed, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def main() -> None:
    """Write the lock: one version of each package for all Pythons, with the hashes of its files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    uv = Path(sysconfig.get_path("scripts")) / "uv"
    command = [str(uv), "pip", "compile", "pyproject.toml", "--quiet", "--all-extras"]
    command += ["--group", "site", "--group", "test", "--universal", "--python-version", "3.11"]
    command += ["--fork-strategy", "fewest", "--generate-hashes"]
    command += ["--no-emit-index-url", "--no-emit-find-links", "--no-header"]
    command += ["--upgrade"] if parser.parse_args().upgrade else []
    with tempfile.TemporaryDirectory() as folder:
        resolved = Path(folder, LOCK.name)  # uv prefers the versions that it finds in its output
        shutil.copy(LOCK, resolved)
        subprocess.run([*command, "--output-file", str(resolved)], cwd=ROOT, check=True)
        text = resolved.read_text(encoding="utf-8")
    LOCK.write_text(f"# Made by `make lock` from pyproject.toml {digest()}\n{text}", "utf-8")
    print(f"{LOCK.name}: {text.count('==')} packages")


if __name__ == "__main__":
    main()
