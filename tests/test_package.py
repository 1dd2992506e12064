"""The package loads fast, shows its modules, and says the truth about what it needs."""

import ast
import pkgutil
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import bnutils

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, GROUPS = PYPROJECT["project"], PYPROJECT["dependency-groups"]
EXTRAS = PROJECT["optional-dependencies"]
LISTED = [*PROJECT["dependencies"], *chain(*EXTRAS.values()), *chain(*GROUPS.values())]
DIRECT = [each for each in map(Requirement, LISTED) if each.name != "bnutils"]
MODULES = {each.name for each in pkgutil.iter_modules(bnutils.__path__) if each.name[0] != "_"}
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
        ("bnutils.cli", "scipy pandas matplotlib tensorflow keras sklearn"),
    ],
)
def test_import_loads_no_more_than_it_needs(module, forbidden):
    loaded = in_fresh_python(f"import sys, {module}; print(*sys.modules)").split()
    assert not set(forbidden.split()) & set(loaded)


def test_modules_are_there_right_after_the_import():
    code = """
import sys
import bnutils
assert [name for name in sys.modules if name.startswith("bnutils")] == ["bnutils"]
print(bnutils.norm.batch_norm.__module__, bnutils.doctor.fold.__module__)
"""
    assert in_fresh_python(code) == "bnutils.norm bnutils.doctor.fold"


def test_tab_lists_the_modules_and_the_version():
    assert set(dir(bnutils)) == MODULES | {"__version__"}
    assert PROJECT["version"] == bnutils.__version__


def test_tools_that_read_but_do_not_run_see_the_modules():
    tree = ast.parse(Path(bnutils.__file__).read_text(encoding="utf-8"))
    guarded = [node for node in tree.body if isinstance(node, ast.If)]
    imported = [alias.name for node in guarded for each in node.body for alias in each.names]
    assert set(imported) == MODULES


@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_module_has_a_line(name):
    assert len(re.findall(rf"^    {name}: \w.*[.?]$", bnutils.__doc__, re.MULTILINE)) == 1
    page = (ROOT / "book" / "api" / f"{name}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# `bnutils.{name}`\n\nUse it ")
    assert f"```{{reference}} bnutils.{name}\n" in page


def test_a_name_that_is_not_there_gets_the_names_that_are():
    with pytest.raises(AttributeError, match=r"no attribute 'nope': expected one of checks, "):
        bnutils.nope  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'nope'"):
        from bnutils import nope  # noqa: F401


def test_reload_and_pickle_meet_the_same_modules():
    code = """
import importlib, pickle
import bnutils
norm = bnutils.norm
assert importlib.reload(bnutils) is bnutils and bnutils.norm is norm
assert pickle.loads(pickle.dumps(bnutils.norm.batch_norm)) is norm.batch_norm
assert pickle.loads(pickle.dumps(bnutils.norm.BatchNorm())).__class__ is norm.BatchNorm
"""
    in_fresh_python(code)


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


def test_readme_snippets_print_what_they_show():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", text, re.DOTALL)
    assert snippets
    for code, shown in snippets:
        assert ("print(" in code) == bool(shown)
        assert in_fresh_python(code) == shown.strip()


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda r: r.name)
def test_readme_gives_the_reason_of_each_dependency(requirement):
    assert f"| {requirement.name} |" in (ROOT / "README.md").read_text(encoding="utf-8")
