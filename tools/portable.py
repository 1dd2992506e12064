"""Run what stands in for other machines, and write down what passed.

`python tools/portable.py [NAME ...] [--list] [--minutes 60]`

A setting changes one thing of this machine, as far as this machine lets it: the instructions that
its processor offers, the language, the fonts, the Python. The part of the tests that could notice
then runs. book/measured/portable.json keeps the outcomes; those of settings that were not run stay.
Environments, clones and logs lie in _build/portable. PYTEST_ADDOPTS reaches pytest.
"""

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from functools import cache, partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from chromium import BROWSERS, only

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
TABLE = ROOT / "book" / "measured" / "portable.json"
WORK = ROOT / "_build" / "portable"
HEAD = ["stands in for", "outcome", "what ran", "commit", "how"]


class NotHereError(Exception):
    """Why a setting can't be tried on this machine."""


@dataclass
class Trial:
    """How a setting differs from a plain run of the tests."""

    folder: Path
    variables: dict[str, str | None] = field(default_factory=dict)
    python: str = sys.executable
    root: Path = ROOT
    prefix: list[str] = field(default_factory=list)
    first: list[list[str]] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        """The variables of the processes; None takes one away."""
        merged = {**os.environ, **self.variables}
        return {name: value for name, value in merged.items() if value is not None}

    def how(self) -> str:
        """What was changed, for the table."""
        pairs = [(k, v) for k, v in self.variables.items() if v != os.environ.get(k)]
        shown = [f"`{k}={v}`".replace(str(WORK), "...") if v else f"no `{k}`" for k, v in pairs]
        return ", ".join([*(each for each in shown if len(each) < 80), *self.words])


@dataclass(frozen=True)
class Setting:
    """One machine that this one stands in for."""

    stands_for: str
    part: str
    change: Callable[[Trial], None]


# --- processors and threads ---

#: NumPy's groups of instructions, from older to newer processors.
SIMD = ("X86_V3", "X86_V4", "AVX512_ICL", "AVX512_SPR")
#: What Linux calls the instructions that each level of oneDNN needs.
FLAGS = {
    "SSE41": "sse4_1",
    "AVX": "avx",
    "AVX2": "avx2",
    "AVX2_VNNI": "avx_vnni",
    "AVX512_CORE": "avx512bw",
    "AVX512_CORE_VNNI": "avx512_vnni",
    "AVX512_CORE_BF16": "avx512_bf16",
    "AVX512_CORE_FP16": "avx512_fp16",
}


def simd() -> set[str]:
    """The groups that NumPy finds in this processor."""
    return set(np.show_config(mode="dicts")["SIMD Extensions"].get("found", []))


@cache
def flags() -> set[str]:
    """The instructions that Linux finds in this processor."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        return next(({*line.split()} for line in file if line.startswith("flags")), set())
    return set()


def on_x86() -> None:
    """Refuse another kind of processor."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        raise NotHereError(f"the processor is of another kind: {platform.machine()}")


def processor(trial: Trial, core: str, known: int, isa: str, xla: str) -> None:
    """Hold OpenBLAS, NumPy, oneDNN and XLA to what an older processor offers."""
    on_x86()
    if known and SIMD[known - 1] not in simd():
        raise NotHereError(f"NumPy finds no {SIMD[known - 1]} in this processor")
    if FLAGS[isa] not in flags():
        raise NotHereError(f"this processor has no {FLAGS[isa]}")
    trial.variables = {
        "OPENBLAS_CORETYPE": core,
        "NPY_DISABLE_CPU_FEATURES": ",".join(n for n in SIMD[known:] if n in simd()) or None,
        "ONEDNN_MAX_CPU_ISA": isa,
        "XLA_FLAGS": f"--xla_cpu_max_isa={xla}",
    }
    code = (
        "import numpy, threadpoolctl as t;"
        "print(*{i['architecture'] for i in t.threadpool_info() if 'architecture' in i})"
    )
    kernels = asked([trial.python, "-c", code], trial)
    if not kernels:
        raise NotHereError("NumPy does not use OpenBLAS")
    trial.words = [f"{kernels} kernels"]


def whole_processor(trial: Trial) -> None:
    """Hold nothing back."""
    on_x86()
    held = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "NPY_DISABLE_CPU_FEATURES")
    trial.variables = dict.fromkeys((*held, "ONEDNN_MAX_CPU_ISA", "XLA_FLAGS"))
    trial.words = ["as found: " + ", ".join(name for name in SIMD if name in simd())]


THREADS = ("OPENBLAS", "OMP", "MKL")
TWO = {f"{name}_NUM_THREADS": "2" for name in THREADS}
TWO |= {"TF_NUM_INTRAOP_THREADS": "2", "TF_NUM_INTEROP_THREADS": "2"}


# --- language, time, home ---


def locale(trial: Trial, name: str, **more: str) -> None:
    """A language of its own, made here if the system has the parts."""
    source, _, charmap = name.partition(".")
    file = trial.folder / "locales" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if not shutil.which("localedef"):
        raise NotHereError("there is no localedef")
    if not file.exists():
        asked(["localedef", "-i", source, "-f", charmap, str(file)], trial)
    trial.variables = {"LC_ALL": name, "LANG": name, "LOCPATH": str(file.parent), **more}


#: The earliest time zone.
EARLIEST = "Pacific/Kiritimati"
#: Python's own ways to UTF-8, off.
BYTES = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def read_only_home(trial: Trial) -> None:
    """A home that lies on a disk mounted read-only, which holds for root too."""
    home = trial.folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    mount = f'mount -t tmpfs -o ro tmpfs "{home}" && exec "$@"'
    trial.prefix = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    caches = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "MPLCONFIGDIR")
    trial.variables = {"HOME": str(home), **dict.fromkeys(caches)}
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):  # without which Jupyter starts no kernel
        trial.variables[name] = str(trial.folder / name.lower())
    trial.words = ["a disk mounted read-only there"]
    try:
        asked([*trial.prefix, "true"], trial)
    except NotHereError as error:
        raise NotHereError("no disk may be mounted here") from error


def slow_disk(trial: Trial, milliseconds: int) -> None:
    """A disk that takes its time over each file that is opened, as far as strace can be one."""
    if not shutil.which("strace"):
        raise NotHereError("there is no strace")
    delay = f"inject=openat:delay_enter={milliseconds}ms"
    strace = ["strace", "--follow-forks", "--seccomp-bpf", "--quiet=all", "--output", os.devnull]
    trial.prefix = [*strace, "-e", "trace=openat", "-e", delay]
    trial.words = [f"{milliseconds} ms for each file that is opened"]
    asked([*trial.prefix, "true"], trial)


# --- fonts and browsers ---


#: Debian's packages with the families that the style sheets name, and more.
DEBIAN = ("cantarell", "lato", "liberation2", "noto-core", "noto-mono", "roboto-unhinted")


def fonts(trial: Trial, debian: Iterable[str] = ()) -> None:
    """No fonts, or this system's and those of packages, which are not installed."""
    folder = trial.folder
    folder.mkdir(parents=True, exist_ok=True)
    folders = []
    if debian:
        if not shutil.which("dpkg-deb"):
            raise NotHereError("the fonts come from Debian's packages")
        if not (folder / "usr").exists():
            asked(["apt-get", "download", *(f"fonts-{name}" for name in debian)], trial, folder)
            for package in folder.glob("*.deb"):
                asked(["dpkg-deb", "--extract", package.name, "."], trial, folder)
        folders += [folder / "usr", Path("/usr/share/fonts")]
    if not shutil.which("fc-list"):
        raise NotHereError("there is no fontconfig")
    file = folder / "fonts.conf"
    file.write_text(only(*folders), encoding="utf-8")
    trial.variables = {"FONTCONFIG_FILE": str(file)}
    count = len(asked(["fc-list"], trial).splitlines())
    trial.words = [f"{count} fonts" if count else "no font"]


def hidden(trial: Trial, commands: Iterable[str]) -> None:
    """A PATH without some commands; a folder that holds one is replaced by links to the rest."""
    if os.name == "nt":
        raise NotHereError("needs links to commands")
    kept = []
    for number, folder in enumerate(os.environ["PATH"].split(os.pathsep)):
        if any(Path(folder, command).exists() for command in commands):
            links = trial.folder / f"bin{number}"
            shutil.rmtree(links, ignore_errors=True)
            links.mkdir(parents=True)
            for path in Path(folder).iterdir():
                if path.name not in commands:
                    (links / path.name).symlink_to(path)
            folder = str(links)
        kept.append(folder)
    trial.variables = {"PATH": os.pathsep.join(kept)}
    trial.words = [f"no {', no '.join(commands)}"]


# --- Pythons and places ---


def interpreter(version: str) -> str:
    """A Python of a version: of the variable PYTHONS, on PATH, of uv, or of pyenv."""
    named = os.environ.get("PYTHONS", "").split()
    found = subprocess.run(
        [tool("uv"), "python", "find", "--no-python-downloads", version],
        capture_output=True,
        text=True,
    )
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    of_pyenv = sorted(pyenv.glob(f"{version}.*/bin/python"))
    for path in (*named, f"python{version}", found.stdout.strip(), *map(str, of_pyenv)):
        with suppress(OSError):
            code = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
            done = subprocess.run([path, "-c", code], capture_output=True, text=True)
            if done.stdout.strip() == version:
                return path
    raise NotHereError(f"no Python {version} was found; name it in the variable PYTHONS")


def tool(name: str) -> str:
    """A command of the environment that runs this."""
    return str(Path(sys.executable).parent / name)


def python(trial: Trial, version: str, lowest: bool = False) -> None:
    """An environment of another Python, from the lock, or with the lowest versions allowed."""
    if version == "{}.{}".format(*sys.version_info) and not lowest:
        raise NotHereError(f"`make test` itself runs on Python {version}")
    home = trial.folder / "env"
    home.parent.mkdir(parents=True, exist_ok=True)
    trial.python = str(home / ("Scripts" if os.name == "nt" else "bin") / "python")
    requirements = lowest_versions(trial) if lowest else LOCK
    mark, text = home / ".made-from", requirements.read_text(encoding="utf-8")
    install = [tool("uv"), "pip", "install", "--quiet", "--python", trial.python]
    if not mark.exists() or mark.read_text(encoding="utf-8") != text:
        asked([tool("uv"), "venv", "--clear", "--python", interpreter(version), str(home)], trial)
        asked([*install, "--requirements", str(requirements)], trial)
        mark.write_text(text, encoding="utf-8")
    asked([*install, "--no-deps", "--no-build-isolation", "--editable", "."], trial)
    trial.words.insert(0, asked([trial.python, "--version"], trial))


#: A test that the installed versions are those of the lock.
OF_THE_LOCK = "tests/test_package.py::test_what_is_installed_is_what_is_locked"


def lowest_versions(trial: Trial) -> Path:
    """Requirements: what the package imports as old as it may be, all else as in the lock."""
    compiler = [tool("uv"), "pip", "compile", "pyproject.toml", "--quiet", "--no-annotate"]
    compiler += ["--no-header", "--python-version", "3.11"]
    lowest = asked([*compiler, "--extra", "book", "--resolution", "lowest-direct"], trial)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["doctor"], *extras["book"]]
    names = {re.match(r"[\w-]+", line)[0] for line in lines}
    pins = [line for line in lowest.splitlines() if line.split("==")[0] in names]
    constraints, file = trial.folder / "lowest.txt", trial.folder / "requirements.txt"
    constraints.write_text("\n".join(pins), encoding="utf-8")
    shutil.copy(LOCK, file)  # uv prefers the versions that it finds in its output
    compiler += ["--all-extras", "--group", "site", "--group", "test"]
    asked([*compiler, "--constraints", str(constraints), "--output-file", str(file)], trial)
    trial.words = [", ".join(pin.replace("==", " ") for pin in pins)]
    # Old packages use what new ones advise against.
    trial.options = [f"-Wignore::{kind}Warning" for kind in ("Deprecation", "Future")]
    trial.options += [f"--deselect={OF_THE_LOCK}"]
    return file


def clone(trial: Trial) -> None:
    """A clone in a folder whose name is no plain word; the book is made there from nothing."""
    trial.root = trial.folder / "Mein Büchlein, très là (1)"
    shutil.rmtree(trial.root, ignore_errors=True)
    asked(["git", "clone", "--quiet", str(ROOT), str(trial.root)], trial)
    trial.variables = dict.fromkeys(("PYTHONPATH", "VIRTUAL_ENV"))
    trial.first = [["make", f"PYTHON={sys.executable}", "book"]]
    trial.python = str(trial.root / ".venv" / "bin" / "python")
    trial.words = [f"`{trial.root.name}`, made there by `make book`"]


def asked(command: list[str], trial: Trial, folder: Path = ROOT) -> str:
    """What a command prints; a command that fails says why the setting can't be tried."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=trial.environment(),
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise NotHereError(f"`{Path(command[0]).name}` failed: {' '.join(last)[:200]}")
    return done.stdout.strip()


# --- what runs ---

TESTS = {path.stem.removeprefix("test_"): path for path in (ROOT / "tests").glob("test_*.py")}


def using(pattern: str) -> list[str]:
    """The modules of tests with a word in their text."""
    texts = {name: path.read_text(encoding="utf-8") for name, path in TESTS.items()}
    return sorted(name for name, text in texts.items() if re.search(rf"\b({pattern})\b", text))


def files(names: Iterable[str]) -> list[str]:
    """The files of modules."""
    return [f"tests/test_{name}.py" for name in names]


def all_but(*names: str) -> list[str]:
    """All tests and notebooks without some modules: a new one is among them."""
    return ["src", "tests", "notebooks", *(f"--ignore={each}" for each in files(names))]


#: Tests of pages: of how they look in a browser, and of what they hold.
BROWSED = using("NO_BROWSER")
READ = ("back_matter", "design", "introduction", "ledger", "site", "tables")
#: Tests of words, files, signals and processes.
WORDS = (
    *("claims", "data", "doctor_report", "doctor_restoring", "doctor_words", "files", "notebooks"),
    *("package", "plots", "shell", "style"),
)
PROCESSES = ("doctor_blocks", "faults", "portable", "workers")
#: Half of the time goes to these: training runs that hold everywhere for the same reasons.
RECORDED = [name for name in TESTS if name.startswith("studies")]
TRIALS = (
    *("doctor_freeze", "rules_learning", "rules_measured", "rules_settings", "rules_structure"),
)
NO_NUMBERS = (*BROWSED, *READ, *WORDS, *PROCESSES, *TRIALS)

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OF_KERAS = re.compile(r'"(import|from) keras|keras_nets|doctor')
KERAS = [
    f"notebooks/{path.name}"
    for path in NOTEBOOKS
    if OF_KERAS.search(path.read_text(encoding="utf-8"))
]
SOME = [f"notebooks/{path.name}" for path in NOTEBOOKS if path.name[:2] in ("01", "02", "04", "12")]

#: Parts of the tests: what pytest is told.
PARTS = {
    "numbers": all_but(*NO_NUMBERS, *RECORDED),
    "numbers, and the records computed again": all_but(*NO_NUMBERS),
    "numbers of NumPy": [
        *files(("comparison", "conformance", "convolutions", "intervals", "network", "norm")),
        *sorted({f"notebooks/{path.name}" for path in NOTEBOOKS} - set(KERAS)),
    ],
    "numbers of TensorFlow": [*files(("doctor_fold", "doctor_layerwise")), *KERAS],
    "the site made anew, words and files": [
        *files((*WORDS, *READ, "search", "reference")),
        "notebooks/01_motivation.ipynb",
    ],
    "files and notebooks": [*files(("data", "faults", "package", "plots", "shell")), *SOME],
    "pages in a browser": files(BROWSED),
    "pages and figures to touch": files(using("NO_BROWSER|from explore import")),
    "figures to touch": files(using("from explore import")),
    "all but pages and long training": all_but(*BROWSED, *READ, *RECORDED, *TRIALS),
}
NUMBERS, RECORDS, ARRAYS, TENSORS, WORDED, FILES, PAGED, SHOWN, TOUCHED, MOST = PARTS


def x86(year: int, core: str, known: int, isa: str, xla: str, part: str = NUMBERS) -> Setting:
    """An x86 processor: OpenBLAS's name for it, groups of NumPy, levels of oneDNN and of XLA."""
    change = partial(processor, core=core, known=known, isa=isa, xla=xla)
    return Setting(f"an x86 processor of {year}", part, change)


def given(stands_for: str, part: str, **variables: str) -> Setting:
    """Variables that are set."""
    return Setting(stands_for, part, lambda trial: trial.variables.update(variables))


def made(stands_for: str, part: str, change: Callable[..., None], **options: Any) -> Setting:
    """Something that has to be made."""
    return Setting(stands_for, part, partial(change, **options))


SETTINGS = {
    "prescott": x86(2004, "Prescott", 0, "SSE41", "SSE4_2", RECORDS),
    "sandybridge": x86(2011, "Sandybridge", 0, "AVX", "AVX", ARRAYS),
    "haswell": x86(2013, "Haswell", 1, "AVX2", "AVX2"),
    "zen": x86(2017, "Zen", 1, "AVX2_VNNI", "AVX2", TENSORS),
    "skylakex": x86(2017, "SkylakeX", 2, "AVX512_CORE", "AVX512", ARRAYS),
    "icelake": x86(2019, "SkylakeX", 3, "AVX512_CORE_VNNI", "AVX512_VNNI", TENSORS),
    "cooperlake": x86(2020, "Cooperlake", 2, "AVX512_CORE_BF16", "AVX512_BF16", TENSORS),
    "sapphirerapids": x86(2023, "SapphireRapids", 4, "AVX512_CORE_FP16", "AMX"),
    "unheld": made("this processor, nothing held back", RECORDS, whole_processor),
    "no-onednn": given("TensorFlow without oneDNN", TENSORS, TF_ENABLE_ONEDNN_OPTS="0"),
    "two-threads": given("sums split in two", NUMBERS, **TWO),
    "python-3.11": made("another Python", MOST, python, version="3.11"),
    "python-3.12": made("another Python", MOST, python, version="3.12"),
    "python-3.13": made("another Python", MOST, python, version="3.13"),
    "lowest": made("the oldest packages allowed", MOST, python, version="3.11", lowest=True),
    "ascii": given("a system without a language", WORDED, LC_ALL="C", **BYTES),
    "latin-1": made("no UTF-8, as on Windows", WORDED, locale, name="en_US.ISO-8859-1", **BYTES),
    "turkish": made("a Turkish desk", WORDED, locale, name="tr_TR.UTF-8", TZ=EARLIEST),
    "read-only-home": made("a home nobody may write to", FILES, read_only_home),
    "slow-disk": made("a slow disk", FILES, slow_disk, milliseconds=5),
    "odd-path": made("a folder with spaces and accents", WORDED, clone),
    "no-fonts": made("a server without fonts", PAGED, fonts),
    "many-fonts": made("a desk with many fonts", PAGED, fonts, debian=DEBIAN),
    "no-browser": made("neither browser nor node", SHOWN, hidden, commands=(*BROWSERS, "node")),
    "no-node": made("a browser, no node", TOUCHED, hidden, commands=("node",)),
}


@dataclass(frozen=True)
class Outcome:
    """What became of a setting."""

    words: str
    good: bool = True


def finished(command: list[str], trial: Trial, log: Path, seconds: float) -> int | None:
    """The exit code of a command, whose words go to a file; None if it took too long."""
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            [*trial.prefix, *command],
            cwd=trial.root,
            env=trial.environment(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:  # also when this is interrupted: nothing that was begun stays
            if process.poll() is None:
                end(process)


def end(process: subprocess.Popen) -> None:
    """End a process and what it has started."""
    if os.name == "nt":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True)
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tried(setting: Setting, trial: Trial, minutes: float) -> Outcome:
    """Run one setting."""
    trial.folder.mkdir(parents=True, exist_ok=True)
    log, report = trial.folder / "log.txt", trial.folder / "report.xml"
    log.unlink(missing_ok=True)
    report.unlink(missing_ok=True)
    try:
        setting.change(trial)
    except NotHereError as reason:
        return Outcome(f"not here: {reason}")
    tests = [trial.python, "-m", "pytest", "--quiet", "-p", "no:cacheprovider"]
    # Half of the time without an answer is a hang: the log then says where.
    tests += ["-o", f"faulthandler_timeout={minutes * 30}", f"--junitxml={report}"]
    tests += trial.options
    if setting.part == WORDED and not trial.first:
        trial.first = [[trial.python, "tools/build_site.py", "--all"]]
    last = time.monotonic() + 60 * minutes
    for command in [*trial.first, [*tests, *PARTS[setting.part]]]:
        code = finished(command, trial, log, max(1, last - time.monotonic()))
        words = "making the site" if command in trial.first else "the tests"
        if code is None:
            return Outcome(f"**stopped**: {words} took more than {minutes:.0f} minutes", False)
        if code and (command in trial.first or not report.exists()):
            return Outcome(f"**failed**: {words} ended with {code}", False)
    return counted(report)


def counted(report: Path) -> Outcome:
    """What pytest's report says."""
    cases = list(ElementTree.parse(report).iter("testcase"))
    skipped = sum(case.find("skipped") is not None for case in cases)
    bad = [case for case in cases if {"failure", "error"} & {child.tag for child in case}]
    passed = f"{len(cases) - len(bad) - skipped:,} passed"
    passed += f", {skipped:,} skipped" if skipped else ""
    if not bad:
        return Outcome(passed, bool(cases))
    return Outcome(f"**{len(bad)} failed**, {passed}", False)


def commit() -> str:
    """The commit that is tried, with a + where files differ from it."""
    git = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True)
    name = git(["git", "rev-parse", "--short", "HEAD"]).stdout.strip()
    paths = ["--", "src", "tests", "tools", "notebooks", "book", ":!book/measured"]
    return name + ("+" if git(["git", "status", "--porcelain", *paths]).stdout else "")


def written(rows: dict[str, list[str]]) -> None:
    """Write the table; rows of settings that did not run now stay as they were."""
    known = {}
    if TABLE.exists():
        table = json.loads(TABLE.read_text(encoding="utf-8"))
        known = {re.findall(r"`([\w.-]+)`", row[0])[-1]: row for row in table["rows"]}
    known |= rows
    system = f"{platform.system()}, {os.cpu_count()} processor cores"
    when = f"Written by `make test-portable`, last on {date.today()}"
    note = f"{when}, on {system}, with NumPy {np.__version__}."
    table = {"head": HEAD, "rows": [known[n] for n in SETTINGS if n in known], "note": note}
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> int:
    """Run the settings that are named, or all; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--list", action="store_true", help="only name the settings")
    parser.add_argument("--minutes", type=float, default=60, help="the most that a setting takes")
    options = parser.parse_args()
    if unknown := set(options.names) - set(SETTINGS):
        parser.error(f"expected settings among {', '.join(SETTINGS)}, got {', '.join(unknown)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # and end what was begun
    failed = []
    for name in options.names or SETTINGS:
        setting = SETTINGS[name]
        print(f"{name}: {setting.stands_for}, {setting.part}", flush=True)
        if options.list:
            continue
        begun = time.monotonic()
        trial = Trial(WORK / name)
        outcome = tried(setting, trial, options.minutes)
        print(f"  {outcome.words} ({time.monotonic() - begun:.0f} s)", flush=True)
        if not outcome.good:
            failed.append(name)
            print(f"  the log is {trial.folder.relative_to(ROOT) / 'log.txt'}", flush=True)
        place = f"{setting.stands_for} (`{name}`)"
        written({name: [place, outcome.words, setting.part, commit(), trial.how()]})
    if failed:
        print(f"failed: {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
