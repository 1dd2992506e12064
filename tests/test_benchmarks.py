"""The benchmarks share one way to measure and to write; what they measure is not asserted."""

import ast
import json
import os
import re
import sys
from importlib import util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "benchmarks").glob("bench_*.py"))


@pytest.fixture
def common(monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))  # the module sets variables
    spec = util.spec_from_file_location("common", ROOT / "benchmarks" / "common.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_contestant_has_a_turn_in_each_round_and_its_least_counts(common):
    turns = []

    def contestant(name, times):
        def measure():
            turns.append(name)
            return times[turns.count(name) - 1]

        return measure

    least = common.race({"a": contestant("a", [3, 1, 2]), "b": contestant("b", [5, 6, 4])}, 3)
    assert least == {"a": 1, "b": 4}
    assert turns == ["a", "b"] * 3


@pytest.mark.parametrize("between", [False, True])
def test_other_work_stands_before_every_call_and_is_not_timed(common, monkeypatch, between):
    done, clock = [], [0.0]
    monkeypatch.setattr(common, "process_time", lambda: clock[0])

    def take(what, seconds):
        done.append(what)
        clock[0] += seconds

    other = (lambda: take("other", 10)) if between else None
    assert common.cpu_seconds(lambda: take("call", 0.5), 3, other) == 0.5
    assert done == (["other", "call"] if between else ["call"]) * 3


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.0123, "0.012"), (0.5, "0.50"), (1, "1.0"), (9.97, "10"), (1234, "1,234")],
)
def test_two_digits_are_shown(common, number, text):
    assert common.digits(number) == text


@pytest.mark.parametrize("quick", [False, True])
def test_a_table_is_printed_and_kept_unless_it_is_a_try(
    common, monkeypatch, tmp_path, capsys, quick
):
    monkeypatch.setattr(common, "TABLES", tmp_path)
    common.show("x", ["a", "b"], [["one", 2]], "How it was done.", ["numpy"], quick)
    assert capsys.readouterr().out.split() == ["How", "it", "was", "done.", "a", "b", "one", "2"]
    if quick:
        assert not list(tmp_path.iterdir())
        return
    kept = json.loads((tmp_path / "speed-x.json").read_text(encoding="utf-8"))
    assert (kept["head"], kept["rows"]) == (["a", "b"], [["one", "2"]])
    assert kept["note"].startswith("How it was done. Measured by `make bench` on 20")


def test_the_page_shows_what_the_scripts_write_and_make_runs_them_all():
    texts = {path.name: path.read_text(encoding="utf-8") for path in SCRIPTS}
    made = (ROOT / "Makefile").read_text(encoding="utf-8")
    written = set()
    for name, text in texts.items():
        assert f"benchmarks/{name}" in made
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "common.show":
                written.add(f"speed-{ast.literal_eval(node.args[0])}")
    page = (ROOT / "book" / "speed.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^```\{measured\} (\S+)$", page, re.MULTILINE)) == written
    assert {path.stem for path in (ROOT / "book" / "measured").glob("speed-*")} == written


def test_threads_are_set_before_numpy_is_imported():
    for path in SCRIPTS:
        text = path.read_text(encoding="utf-8")
        imported = re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE)
        outside = [name for name in imported if name not in sys.stdlib_module_names]
        assert outside[0] == "common", path.name
