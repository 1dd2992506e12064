"""`make test-portable`: what it would run is there, and what it says is so."""

import json
import re
import sys

import portable
import pytest
from explore import ROOT

SETTINGS = [*portable.SETTINGS.items()]
REPORT = """<testsuites><testsuite>
<testcase classname="tests.test_a" name="one"/>
<testcase classname="tests.test_a" name="two"><skipped message="no Chromium"/></testcase>
{}</testsuite></testsuites>"""
BAD = '<testcase classname="tests.test_b" name="three"><failure message="no"/></testcase>'


def test_each_part_names_files_that_are_there():
    for words in portable.PARTS.values():
        for word in words:
            path = word.removeprefix("--ignore=")
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize(("name", "setting"), SETTINGS, ids=dict(SETTINGS))
def test_a_setting_is_in_the_table_or_was_never_run(name, setting):
    assert setting.part in portable.PARTS
    rows = json.loads(portable.TABLE.read_text(encoding="utf-8"))["rows"]
    (row,) = [row for row in rows if row[0].endswith(f"(`{name}`)")] or [None]
    assert row is None or len(row) == len(portable.HEAD)


def test_the_report_of_pytest_is_counted(tmp_path):
    file = tmp_path / "report.xml"
    file.write_text(REPORT.format(""), encoding="utf-8")
    assert portable.counted(file) == portable.Outcome("1 passed, 1 skipped", True)
    file.write_text(REPORT.format(BAD), encoding="utf-8")
    outcome = portable.counted(file)
    assert not outcome.good
    assert outcome.words == "**1 failed**, 1 passed, 1 skipped"


def test_what_takes_too_long_is_ended_with_all_that_it_began(tmp_path):
    code = (
        "import subprocess, sys, time; print('begun', flush=True);"
        "subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    )
    trial, log = portable.Trial(tmp_path, root=tmp_path), tmp_path / "log.txt"
    assert portable.finished([sys.executable, "-c", code], trial, log, 1) is None
    assert "begun" in log.read_text(encoding="utf-8")
    assert portable.finished([sys.executable, "-c", "raise SystemExit(3)"], trial, log, 60) == 3


def test_what_cannot_be_tried_here_says_why_and_is_no_failure(tmp_path):
    def change(trial):
        portable.asked(["git", "no-such-command"], trial)

    setting = portable.Setting("nothing", portable.NUMBERS, change)
    outcome = portable.tried(setting, portable.Trial(tmp_path), minutes=1)
    assert outcome.good
    assert re.match("not here: `git` failed: ", outcome.words)


def test_a_path_without_a_command_keeps_the_others(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("node", "git"):
        (folder / name).write_text("", encoding="utf-8")
    monkeypatch.setenv("PATH", str(folder))
    trial = portable.Trial(tmp_path)
    try:
        portable.hidden(trial, commands=("node",))
    except (OSError, portable.NotHereError) as reason:
        pytest.skip(f"no links here: {reason}")
    (left,) = [*(tmp_path / "bin0").iterdir()]
    assert left.name == "git"
    assert trial.variables["PATH"] == str(left.parent)
