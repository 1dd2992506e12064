"""The package loads fast, shows its modules, and says the truth about what it needs."""

import ast
import email
import json
import os
import pkgutil
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from itertools import chain
from pathlib import Path, PurePosixPath

import pytest
import setuptools
import yaml
from packaging.requirements import Requirement

import bnutils

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "bnutils"
DOCUMENTS = ("README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff")
ENDS = ("-py3-none-any.whl", ".tar.gz")
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


def in_fresh_python(code, *arguments, **options):
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, **options)
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


# --- NumPy alone, and the extras ---

#: The extra that a module needs to be imported; the others need NumPy alone.
NEEDS = {
    "doctor": "doctor",
    "keras_nets": "doctor",
    "testing": "doctor",
    "evidence": "book",
    "plots": "book",
}
#: Calls in modules that are imported without it.
CALLS = {
    "bnutils.checks.placement(lambda: None)": "doctor",
    "bnutils.data.digits()": "book",
    "bnutils.data.mnist()": "book",
    "bnutils.data.seattle_rain()": "book",
    "bnutils.studies.load('race')": "book",
    "bnutils.workers.run(print)": "book",
}
WITHOUT = """
import contextlib, doctest, importlib, io, json, sys
from importlib.abc import MetaPathFinder

class NumPyAlone(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in sys.stdlib_module_names | {"numpy", "bnutils"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NumPyAlone())
import bnutils
from bnutils.cli import main

def outcome(action):
    try:
        action()
    except ModuleNotFoundError as error:
        return str(error)
    return "works"

def shell(*words):
    streams = io.StringIO()
    with contextlib.redirect_stdout(streams), contextlib.redirect_stderr(streams):
        try:
            status = main(words)
        except SystemExit as end:
            status = end.code
    return status, streams.getvalue()

modules, calls, model = json.loads(sys.argv[1])
found = {name: outcome(lambda: importlib.import_module(f"bnutils.{name}")) for name in modules}
found |= {call: outcome(lambda: eval(call)) for call in calls}
for name in ("norm", "gradcheck", "conventions", "replicas", "progress"):
    module = importlib.import_module(f"bnutils.{name}")
    found[f"doctests of {name}"] = doctest.testmod(module).failed
for words in (("--version",), ("--help",), ("audit", model)):
    found[words[0]] = shell(*words)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """What each module, call and command does where nothing but NumPy is installed."""
    model = tmp_path_factory.mktemp("without") / "model.keras"
    with zipfile.ZipFile(model, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("metadata.json", "{}")
        archive.writestr("model.weights.h5", "")
    return json.loads(
        in_fresh_python(WITHOUT, json.dumps([sorted(MODULES), list(CALLS), str(model)]))
    )


@pytest.mark.parametrize("name", sorted(MODULES | set(CALLS)))
def test_with_numpy_alone_it_works_or_says_its_extra(name, without):
    extra = {**NEEDS, **CALLS}.get(name)
    said = (
        rf"\w+ is not installed\. It comes with: pip install \"bnutils\[{extra}\]\""
        if extra
        else "works"
    )
    assert re.fullmatch(said, without[name])


def test_the_mathematics_and_the_shell_start_with_numpy_alone(without):
    assert {found for name, found in without.items() if name.startswith("doctests of")} == {0}
    assert without["--version"] == [0, f"bnutils {bnutils.__version__}\n"]
    assert without["--help"][0] == 0
    assert without["--help"][1].startswith("usage: bnutils ")
    status, said = without["audit"]
    assert status == 2
    assert said.endswith('keras is not installed. It comes with: pip install "bnutils[doctor]"\n')


def brought(extra):
    """The packages of an extra, and of those that it holds."""
    listed = [Requirement(line) for line in EXTRAS[extra]]
    inner = set().union(*(brought(each) for line in listed for each in line.extras))
    return inner | {line.name for line in listed} - {"bnutils"}


def test_what_is_imported_is_brought_by_the_extra_around_it():
    extras = {**NEEDS, "studies": "book", "_beside": "book", "_keras": "doctor"}
    for path in sorted(SOURCE.rglob("*.py")):
        own = extras.get(path.relative_to(SOURCE).parts[0].removesuffix(".py"))
        if path.stem in ("blocks", "cluster"):  # reached with what Dask has made
            own = "scale"
        for root, around in third_party(ast.parse(path.read_text(encoding="utf-8"))):
            known = set().union(*map(brought, {own, *around} - {None}))
            assert PACKAGES.get(root, root) in known, (
                f"{path.name}: {root} is imported without its extra"
            )


PACKAGES = {"sklearn": "scikit-learn", "vega_datasets": "vega-datasets"}


def third_party(node, around=()):
    """Each package imported below a node, with the extras named around it."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    if isinstance(node, ast.Try) and "ModuleNotFoundError" in ast.unparse(node):
        return  # it does without
    if isinstance(node, ast.With):
        calls = [
            each.context_expr for each in node.items if isinstance(each.context_expr, ast.Call)
        ]
        around += tuple(call.args[0].value for call in calls if ast.unparse(call.func) == "extra")
    names = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and not node.level:
        names = [node.module]
    for root in {name.partition(".")[0] for name in names}:
        # matplotlib_inline is what has chosen the backend that asks for it.
        if root not in sys.stdlib_module_names | {"bnutils", "numpy", "matplotlib_inline"}:
            yield root, around
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.excepthandler):
            yield from third_party(child, around)


# --- what is released ---


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """The wheel, opened, and the names in the source distribution, built from what a clone has."""
    folder = tmp_path_factory.mktemp("released")
    shutil.copytree(
        SOURCE, folder / "src" / "bnutils", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", *DOCUMENTS):
        shutil.copy(ROOT / name, folder)
    in_fresh_python(
        "from setuptools import build_meta;"
        "build_meta.build_sdist('dist'); build_meta.build_wheel('dist')",
        cwd=folder,
        env={**os.environ, "BOOK_REPOSITORY_URL": "", "PYTHONPATH": ""},
    )
    wheel, sdist = (folder / "dist" / f"bnutils-{bnutils.__version__}{end}" for end in ENDS)
    with tarfile.open(sdist) as archive:
        names = {PurePosixPath(*PurePosixPath(name).parts[1:]) for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        yield archive, {str(name) for name in names}


def test_the_wheel_holds_the_package_and_its_license(released):
    wheel, _ = released
    ours = [path for path in SOURCE.rglob("*") if path.suffix in (".py", ".nc", ".typed")]
    expected = {f"bnutils/{path.relative_to(SOURCE).as_posix()}" for path in ours}
    assert {"bnutils/py.typed", "bnutils/records/race.nc"} <= expected
    info = f"bnutils-{bnutils.__version__}.dist-info"
    rest = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}
    assert set(wheel.namelist()) == expected | {f"{info}/{name}" for name in rest}


def test_the_source_distribution_holds_what_the_wheel_is_built_from(released):
    wheel, names = released
    assert {f"src/{name}" for name in wheel.namelist() if name.startswith("bnutils/")} <= names
    assert {"pyproject.toml", "setup.py", *DOCUMENTS} <= names
    assert not {name for name in names if name.startswith(("tests", "book", "notebooks"))}


def test_the_metadata_name_numpy_the_extras_and_the_version(released):
    wheel, _ = released
    name = f"bnutils-{bnutils.__version__}.dist-info/METADATA"
    about = email.message_from_bytes(wheel.read(name))
    needed = [Requirement(line) for line in about.get_all("Requires-Dist")]
    assert [each.name for each in needed if each.marker is None] == ["numpy"]
    assert set(about.get_all("Provides-Extra")) == {"doctor", "book", "scale", "onnx"}
    assert about["Version"] == bnutils.__version__
    assert about["Requires-Python"] == "<3.14,>=3.11"
    assert about["License-Expression"] == "MIT"
    page = about.get_payload()
    assert "pip install" in page
    assert not re.search(r"\]\((?!\w+:)|<img|<picture", page), "a link that an index cannot follow"


def test_links_on_the_index_lead_to_the_repository_where_it_is_known(monkeypatch):
    set_up = {}
    monkeypatch.setattr(setuptools, "setup", lambda **settings: set_up.update(settings))
    monkeypatch.setenv("BOOK_REPOSITORY_URL", "https://example.org/a/book")
    monkeypatch.setenv("BOOK_REPOSITORY_BRANCH", "v0")
    runpy.run_path(str(ROOT / "setup.py"))
    page = set_up["long_description"]
    for target in re.findall(r"\]\(([^)]*)\)", page):
        match = re.fullmatch(r"https://example\.org/a/book/(?:raw|blob)/v0/(.*)", target)
        assert (ROOT / match[1]).is_file()
    assert "/raw/v0/book/_static/race.svg" in page
    assert set_up["project_urls"]["Changelog"].endswith("/blob/v0/CHANGELOG.md")


def test_what_cites_and_what_changed_name_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(.*)\]", changes, re.MULTILINE)[1]
    assert citation["version"] == bnutils.__version__
    assert newest in ("Unreleased", bnutils.__version__)
    assert ("date-released" in citation) == (newest != "Unreleased")
    assert "\n- " in changes.split("## [")[1]


def test_the_readme_names_the_published_extras():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.split("| extra | for |\n|---|---|\n")[1].split("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE))
    assert list(rows) == list(EXTRAS)
    for module, extra in (NEEDS | {"data": "book", "studies": "book", "workers": "book"}).items():
        assert f"`{module}`" in rows[extra]


# --- the lock ---


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
