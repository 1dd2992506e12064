"""The package loads fast, and says the truth about what it needs."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"].values()
DIRECT = [Requirement(r) for r in sum(EXTRAS, start=list(PROJECT["dependencies"]))]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PIN = re.compile(r"^(?P<pin>[\w.-]+==\S+)(?: ; (?P<marker>.*?))? \\$", re.MULTILINE)


def locked():
    """The version that the lock gives this Python and this machine, by package."""
    pins = {}
    for match in PIN.finditer(LOCK):
        marker = f" ; {match['marker']}" if match["marker"] else ""
        requirement = Requirement(match["pin"] + marker)
        if requirement.marker is None or requirement.marker.evaluate():
            pins[requirement.name.lower()] = str(requirement.specifier).removeprefix("==")
    return pins


def in_fresh_python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("bnutils", "numpy scipy pandas matplotlib tensorflow keras sklearn"),
        ("bnutils.norm", "scipy pandas matplotlib tensorflow keras sklearn"),
        ("bnutils.network", "pandas matplotlib tensorflow keras sklearn"),
        ("bnutils.data", "pandas matplotlib tensorflow keras sklearn"),
        ("bnutils.evidence", "matplotlib tensorflow keras sklearn"),
        ("bnutils.plots", "tensorflow keras sklearn"),
        ("bnutils.checks", "pandas matplotlib tensorflow keras sklearn"),
        ("bnutils.conventions", "scipy pandas matplotlib tensorflow keras sklearn"),
        ("bnutils.__main__", "scipy pandas matplotlib tensorflow keras sklearn"),
    ],
)
def test_import_loads_no_more_than_it_needs(module, forbidden):
    loaded = in_fresh_python(f"import sys, {module}; print(*sys.modules)").split()
    assert not set(forbidden.split()) & set(loaded)


def test_lock_was_made_from_this_list_of_dependencies():
    tools = str(ROOT / "tools")
    digest = in_fresh_python(
        f"import sys; sys.path.insert(0, {tools!r}); import lock; print(lock.digest())"
    )
    assert digest in LOCK.splitlines()[0], "pyproject.toml has changed: run `make lock`"


@pytest.mark.parametrize("requirement", DIRECT, ids=str)
def test_lock_satisfies(requirement):
    assert requirement.specifier.contains(locked()[requirement.name.lower()])


def test_every_pin_has_a_hash_and_no_address():
    for block in re.split(r"\n(?=\S)", LOCK)[1:]:
        assert "--hash=sha256:" in block, block.splitlines()[0]
    assert "://" not in LOCK


def test_what_is_installed_is_what_is_locked():
    installed = {name: metadata.version(name) for name in locked()}
    assert installed == locked()


def test_environment_file_points_at_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, listed = environment["dependencies"]
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    assert Requirement(python.replace("=", "==", 1)).specifier.contains("3.12")
    assert pip == "pip"
    assert listed == {"pip": ["-r requirements.lock"]}


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda r: r.name)
def test_readme_gives_the_reason_of_each_dependency(requirement):
    assert f"| {requirement.name} |" in (ROOT / "README.md").read_text(encoding="utf-8")
