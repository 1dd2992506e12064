"""Mutation testing: change the package in small ways, and ask the tests whether they notice.

`python tools/mutate.py [--only norm] [--sample 200] [--seed 1] [--survivors]`

A copy of the repository holds one change at a time. The tests that run the changed lines are asked,
the quickest first, up to the first that fails, or for ten seconds. A change is killed when a test
fails, or never ends. What survives is either listed in tools/mutants.toml as equivalent, with the
reason, or counted.
"""

import argparse
import contextlib
import gc
import importlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import _lru_cache_wrapper as lru_cache_wrapper
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import coverage
import hypothesis
import pytest
from _pytest.main import pytest_runtestloop
from mutants import Mutant, mutants
from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "book" / "measured" / "mutation.json"
EQUIVALENT = ROOT / "tools" / "mutants.toml"
LOGS = ROOT / "_build" / "mutation"
THREADS = Path("/proc/self/task")
HEAD = ["Module", "Killed at first, %", "Killed now, %", "Left", "Changes", "Tried", "Equivalent"]

NOTE = (
    "`make mutate`, with the operators of mutmut 3.8. Tried are all changes, or a random sample, "
    "whose share at first then stands for all, with its 95% interval (Wilson): one drawn anew, "
    "after tests had been written for what an earlier one had left. *Now* is after tests were "
    "written for what had survived this time, too. Shares are of the changes that are not "
    "equivalent."
)


@dataclass(frozen=True)
class Target:
    """A part of the package, and the tests that answer for it.

    Attributes:
        name: what the table calls it.
        files: its files, as patterns.
        tests: the files of tests; the examples in its own docstrings are added.
        sample: how many changes are tried unless the command says so; 0 for all.
        without: parts of the names of tests that take long.
    """

    name: str
    files: tuple[str, ...]
    tests: tuple[str, ...]
    sample: int
    without: str = ""

    def sources(self, root: Path) -> list[str]:
        """Its files, from the root of the repository."""
        found = {p for pattern in self.files for p in (root / "src/bnutils").glob(pattern)}
        return sorted(str(p.relative_to(root)) for p in found)


def _tests(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/test_{name}.py" for name in names)


TARGETS = [
    Target("norm", ("norm.py",), _tests("norm", "conventions", "faults"), 0),
    Target(
        "evidence",
        ("evidence/*.py",),
        _tests("intervals", "comparison", "claims", "studies", "faults"),
        150,
        # All that asks every record of the book, and what starts processes.
        "is_as_recorded in_double_precision whole_and_finite came_about margins_were "
        "judged_from_the_records can_carry killed_run sign_in_the_engine not_depend_on_the_workers "
        "any_byte_changed at_ten_replicates",
    ),
    Target("network", ("network/*.py",), _tests("network", "convolutions"), 150),
    Target("checks", ("checks/**/*.py",), _tests("checks"), 150),
    Target("fold", ("doctor/fold/*.py",), _tests("doctor_fold"), 60),
    Target(
        "recalibrate",
        ("doctor/recalibrate.py", "doctor/moments.py"),
        _tests("doctor_recalibrate", "doctor_batches"),
        60,
    ),
    Target(
        "rules",
        ("doctor/rules/*.py",),
        _tests(
            "rules_settings",
            "rules_structure",
            "rules_learning",
            "rules_measured",
            "rules_told",
            "rules_counted",
        ),
        60,
        "in_a_process",
    ),
]


Told = dict[str, Any]
Tell = Callable[..., None]


def forked(
    work: Callable[[Tell], None],
    log: Path,
    cpu: float = 0,
    hear: Callable[[Told], None] | None = None,
) -> Told:
    """Work in a process of its own, with an end to its patience: what it told, and how it ended.

    `hear` gets each message at once; without it, the fields of all are in what is returned.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.setsid()
            os.close(reading)
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            if cpu:
                resource.setrlimit(resource.RLIMIT_CPU, (int(cpu) + 1, int(cpu) + 1))
                signal.alarm(20 * int(cpu + 1))  # for tests that wait
            with open(writing, "w") as pipe:
                work(lambda **told: print(json.dumps(told), file=pipe, flush=True))
            code = 0
        except BaseException as error:  # the parent must see how it ended
            print(repr(error), file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    os.close(writing)
    told: Told = {}
    with open(reading) as pipe:
        for line in pipe:
            message = json.loads(line)
            if hear:
                hear(message)
            else:
                told |= message
    _, status, used = os.wait4(child, 0)
    with contextlib.suppress(ProcessLookupError):  # what its tests have started
        os.killpg(child, signal.SIGKILL)
    return told | {"ended": os.waitstatus_to_exitcode(status), "cpu": used.ru_utime + used.ru_stime}


class Runner:
    """The tests of one target, on a copy of the repository.

    A change inside a function is tried in a copy of a process that has collected the tests, by
    giving the function its new code: that takes milliseconds. What runs when modules are imported
    is tried in a process that imports the changed file, and so is what hung or crashed, and all
    where collecting has started threads.
    """

    def __init__(self, target: Target, copy: Path, limit: float, only: str) -> None:
        """Nothing runs before `measure`; a change gets `limit` seconds of tests."""
        self.target, self.copy, self.limit, self.only = target, copy, limit, only
        self.sources = target.sources(copy)
        self.log = LOGS / f"{target.name}.log"

    def run_tests(self, plugin: object, *options: str) -> int:
        """Run all tests of the target that the plugin leaves in."""
        os.chdir(self.copy)
        sys.path[:0] = [str(self.copy / "src")]
        os.environ["PYTHONPATH"] = str(self.copy / "src")
        hypothesis.settings.register_profile(
            "mutate",
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        hypothesis.settings.load_profile("mutate")
        addopts = "addopts=--doctest-modules --import-mode=importlib --strict-markers"
        files = [*self.target.tests, *self.sources]
        # What is loaded before pytest starts can't be rewritten by it: only plugins are.
        command = ["-o", addopts, "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        command += ["-p", "no:cacheprovider", "-q", "--tb=short", *options, *files]
        if self.only or self.target.without:
            command += ["-k", self.only or f"not ({' or '.join(self.target.without.split())})"]
        return int(pytest.main(command, plugins=[plugin]))

    def measure(self) -> None:
        """Load what the tests need, and learn which test runs which line, and for how long."""
        before = set(sys.modules)
        for name in forked(lambda tell: self._load(tell, before), self.log)["modules"]:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        told = forked(self._measure, self.log)
        if told["ended"] or told["code"]:
            raise SystemExit(f"expected passing tests of {self.target.name}, got {self.log}")
        self.seconds: dict[str, float] = told["seconds"]
        self.runs = {
            file: {int(line): set(tests) for line, tests in lines.items()}
            for file, lines in told["lines"].items()
        }
        self.fixtures: dict[str, set[str]] = {t: set(f) for t, f in told["fixtures"].items()}
        self.patience = 10 + 5 * self.limit

    def _load(self, tell: Tell, before: set[str]) -> None:
        self.run_tests(None, "--collect-only")
        own = {"bnutils", "tests", *(path.stem for path in (self.copy / "tests").glob("*.py"))}
        names = [name for name in sys.modules if name not in before]
        tell(modules=[name for name in names if name.split(".")[0] not in own])

    def _measure(self, tell: Tell) -> None:
        runner = self
        measuring = coverage.Coverage(data_file=None, include=[str(self.copy / "src/*")])
        seconds: dict[str, float] = {}
        fixtures: dict[str, list[str]] = {}

        class Plugin:
            def pytest_collection_finish(self) -> None:
                self.caches = caches(runner.sources)

            @pytest.hookimpl(wrapper=True)
            def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
                self.item = item.nodeid
                fixtures[item.nodeid] = list(getattr(item, "fixturenames", ()))
                for cache in self.caches:
                    cache.cache_clear()
                measuring.switch_context(item.nodeid)
                started = time.process_time()
                result = yield
                seconds[item.nodeid] = time.process_time() - started
                return result

            @pytest.hookimpl(wrapper=True)
            def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef) -> Any:
                # What several tests share runs in the first of them, and counts for all.
                if fixturedef.scope == "function":
                    return (yield)
                measuring.switch_context(f"@{fixturedef.argname}")
                result = yield
                measuring.switch_context(self.item)
                return result

        measuring.start()
        code = self.run_tests(Plugin())
        measuring.stop()
        data = measuring.get_data()
        lines = {file: data.contexts_by_lineno(str(self.copy / file)) for file in self.sources}
        tell(code=code, seconds=seconds, fixtures=fixtures, lines=lines)

    def near(self, mutant: Mutant) -> set[str]:
        """The tests that run the changed lines; "" among them if an import does."""
        if mutant.lines is None:
            return {"", *self.seconds}
        lines = self.runs[mutant.file]
        found = set().union(*(lines.get(line, ()) for line in mutant.lines))
        shared = {context[1:] for context in found if context.startswith("@")}
        return found | {test for test, names in self.fixtures.items() if shared & names}

    def ask(self, items: list[pytest.Item], near: set[str]) -> None:
        """Leave those tests of a list that are to be asked, the quickest first."""
        left, asked = self.limit, {}
        for test in sorted(near & self.seconds.keys(), key=self.seconds.get):
            left -= self.seconds[test]
            if asked and left < 0:
                break
            asked[test] = len(asked)
        items[:] = sorted(
            (item for item in items if item.nodeid in asked), key=lambda item: asked[item.nodeid]
        )

    def quickly(self, tried: list[Mutant], hear: Callable[[Mutant, Told], None]) -> None:
        """Try changes inside functions, in copies of a process that has collected the tests."""
        runner, log, killers = self, self.log, set[str]()

        def one(
            session: pytest.Session, exchange: Exchange, mutant: Mutant | None, tell: Tell
        ) -> None:
            self.ask(session.items, self.near(mutant) if mutant else killers)
            if mutant:
                exchange(mutant.file, mutant.source)
            session.config.pluginmanager.register(Reporter(tell))
            session.config.option.maxfail = 1
            with contextlib.suppress(session.Failed):
                pytest_runtestloop(session)
            tell(code=int(bool(session.testsfailed)))

        class Plugin:
            def pytest_runtestloop(self, session: pytest.Session) -> bool:
                # No copy has the threads that TensorFlow began: what waits for one hangs.
                if THREADS.exists() and len(list(THREADS.iterdir())) > 1:
                    return True
                exchange = Exchange(runner.copy, runner.sources)
                gc.freeze()
                # At the end without a change: a test that fails by itself would kill everything.
                for number, mutant in enumerate([*tried, None]):
                    told = forked(partial(one, session, exchange, mutant), log, runner.patience)
                    killers.update(test for test in [told.get("failed")] if test)
                    self.tell(number=number, told=told)
                return True

        def work(tell: Tell) -> None:
            Plugin.tell = staticmethod(tell)
            self.run_tests(Plugin())

        def receive(message: Told) -> None:
            number, told = message["number"], message["told"]
            if number < len(tried):
                hear(tried[number], told)
            elif outcome(told) != "survived":
                raise SystemExit(f"expected tests that pass in any order, got {log}: {told}")

        forked(work, LOGS / f"{self.target.name}-all.log", hear=receive)

    def slowly(self, mutant: Mutant) -> Told:
        """Try a change in a process that imports the changed file."""
        runner = self

        class Chosen(Reporter):
            def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
                runner.ask(items, runner.near(mutant))

        def work(tell: Tell) -> None:
            sys.dont_write_bytecode = True
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
            tell(code=self.run_tests(Chosen(tell), "-x"))

        file = self.copy / mutant.file
        original = file.read_text(encoding="utf-8")
        for stale in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
            stale.unlink()
        try:
            file.write_text(mutant.source, encoding="utf-8")
            return forked(work, self.log, self.patience)
        finally:
            file.write_text(original, encoding="utf-8")


class Reporter:
    """Tells which test runs, and which failed."""

    def __init__(self, tell: Tell) -> None:
        """What it tells goes to `tell`."""
        self.tell = tell

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test begins."""
        self.tell(at=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A part of a test has ended."""
        if report.failed:
            self.tell(failed=report.nodeid)


class Exchange:
    """The functions of the package that are alive by now, and how to give them other code."""

    def __init__(self, root: Path, sources: list[str]) -> None:
        """Look for the functions once: to look at all there is costs a process its memory."""
        files = {str(root / source): source for source in sources}
        self.functions: dict[str, list[FunctionType]] = {source: [] for source in sources}
        self.caches = caches(sources)
        for thing in gc.get_objects():
            if type(thing) is FunctionType and thing.__code__.co_filename in files:
                self.functions[files[thing.__code__.co_filename]].append(thing)
        self.codes = {source: compiled(root / source) for source in sources}

    def __call__(self, file: str, source: str) -> None:
        """Make them what they would be in the changed text of a file."""
        new = {}

        def pair(former: CodeType, latter: CodeType) -> None:
            inner = (
                [c for c in code.co_consts if isinstance(c, CodeType)] for code in (former, latter)
            )
            for a, b in zip(*inner, strict=False):
                new[a] = b
                pair(a, b)

        former = self.codes[file]
        pair(former, compile(source, former.co_filename, "exec"))
        for function in self.functions[file]:
            function.__code__ = new[function.__code__]
        for cache in self.caches:
            cache.cache_clear()


def caches(sources: list[str]) -> list[lru_cache_wrapper]:
    """The caches of functions in files: a value in them is of the unchanged code."""
    modules = {
        source.removeprefix("src/").removesuffix(".py").replace("/", ".") for source in sources
    }
    found = (thing for thing in gc.get_objects() if type(thing) is lru_cache_wrapper)
    return [cache for cache in found if cache.__module__ in modules]


def compiled(file: Path) -> CodeType:
    """The code of a file."""
    return compile(file.read_text(encoding="utf-8"), str(file), "exec")


def outcome(told: Told) -> str:
    """What became of a change, from what its process told."""
    if told.get("failed") or told.get("code"):
        return "killed"
    if told["ended"]:
        return "never ends" if told["ended"] in (-signal.SIGXCPU, -signal.SIGALRM) else "crashed"
    return "survived"


def equivalents(target: Target, known: set[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """Why changes of a target count as none, from the list; all of them must still be possible."""
    sources, found = set(target.sources(ROOT)), {}
    for entry in tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))["equivalent"]:
        if entry["file"] in sources:
            for was, now in entry["changes"]:
                found[entry["file"], entry["where"], was, now] = entry["why"]
    if stale := found.keys() - known:
        lines = "\n".join(map(str, sorted(stale)))
        raise SystemExit(f"expected changes that can be made, got in {EQUIVALENT.name}:\n{lines}")
    return found


def copy_of_the_repository(copy: Path) -> None:
    """All that git knows or would take; `.venv` and the built site as links."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    for name in (".venv", "_build"):
        (copy / name).symlink_to(ROOT / name)


def examine(target: Target, asked: argparse.Namespace) -> bool:
    """Try the changes of a target, and put its line into the table; whether all is in order."""
    sample, again = target.sample if asked.sample is None else asked.sample, asked.survivors
    every = [mutant for file in target.sources(ROOT) for mutant in mutants(ROOT, file)]
    why = equivalents(target, {mutant.key for mutant in every})
    order = random.Random(asked.seed).sample(
        range(len(every)), min(sample or len(every), len(every))
    )
    picked = [every[i] for i in sorted(order)]
    kept = LOGS / f"{target.name}.json"
    results: dict[tuple[str, ...], dict[str, Any]] = {}
    if again:
        results = {tuple(r["key"]): r for r in json.loads(kept.read_text(encoding="utf-8"))}
        picked = [mutant for mutant in every if mutant.key in results]
    trying = picked
    if again:
        trying = [m for m in picked if results[m.key]["now"] == "survived" and m.key not in why]
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        copy = Path(folder).resolve()
        copy_of_the_repository(copy)
        runner = Runner(target, copy, asked.seconds, asked.tests)
        runner.measure()
        seconds = sum(runner.seconds.values())
        print(f"{target.name}: {len(runner.seconds)} tests, {seconds:.1f} s; {len(trying)} changes")

        heard = {}

        def hear(mutant: Mutant, told: Told) -> None:
            by = told.get("failed") or told.get("at", "")
            now, cpu = outcome(told), round(told["cpu"], 2)
            first = results[mutant.key]["first"] if again else now
            heard[mutant.key] = now
            results[mutant.key] = {
                "key": mutant.key,
                "first": first,
                "now": now,
                "by": by,
                "cpu": cpu,
            }
            kept.write_text(json.dumps(list(results.values()), indent=1), encoding="utf-8")

        runner.quickly([m for m in trying if "" not in runner.near(m)], hear)
        certain = ("killed", "survived")
        slow = [mutant for mutant in trying if heard.get(mutant.key) not in certain]
        for mutant in slow:
            hear(mutant, runner.slowly(mutant))
    for mutant in picked:
        if mutant.key not in why and results[mutant.key]["now"] == "survived":
            print(f"  {mutant.file} {mutant.where}\n    {mutant.was}\n    {mutant.now}")
    counted = [results[m.key] for m in picked if m.key not in why]
    write(target.name, len(every), len(picked), counted)
    wrong = [key for key in why if results.get(key, {"now": ""})["now"] == "killed"]
    for key in wrong:
        print(f"listed as equivalent, but noticed by {results[key]['by']}: {key}")
    return not wrong


def write(name: str, every: int, tried: int, counted: list[dict[str, Any]]) -> None:
    """Put the line of a target into the table."""
    of = len(counted)
    first, now = (sum(r[when] != "survived" for r in counted) for when in ("first", "now"))
    ends = ""
    if tried < every:
        interval = stats.binomtest(first, of).proportion_ci(method="wilson")
        ends = f" ({100 * interval.low:.0f} to {100 * interval.high:.0f})"
    shares = f"{100 * first / of:.1f}{ends}", f"{100 * now / of:.1f}"
    row = [name, *shares, *(f"{n:,}" for n in (of - now, every, tried, tried - of))]
    print("  ".join(f"{head}: {cell}" for head, cell in zip(HEAD, row, strict=True)), flush=True)
    former = json.loads(TABLE.read_text(encoding="utf-8"))["rows"] if TABLE.exists() else []
    rows = {row[0]: row for row in [*former, row]}
    rows = [rows[target.name] for target in TARGETS if target.name in rows]
    TABLE.parent.mkdir(exist_ok=True)
    table = {"head": HEAD, "rows": rows, "note": NOTE}
    TABLE.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> int:
    """Examine the targets that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=[target.name for target in TARGETS])
    parser.add_argument("--sample", type=int, help="how many changes of each; 0 for all")
    parser.add_argument("--seed", type=int, default=1, help="which changes are drawn")
    parser.add_argument("--seconds", type=float, default=10, help="of tests for one change")
    parser.add_argument("--survivors", action="store_true", help="only those of the last time")
    parser.add_argument("--tests", default="", help="only these, as pytest's -k names them")
    asked = parser.parse_args()
    LOGS.mkdir(parents=True, exist_ok=True)
    fine = True
    for target in TARGETS:
        if asked.only in (None, target.name):
            fine &= examine(target, asked)
    return not fine


if __name__ == "__main__":
    sys.exit(main())
