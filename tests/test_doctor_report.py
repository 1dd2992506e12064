"""bnutils.doctor.report: what an audit found, as data, as text and as a table."""

import io
import json
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError
from importlib import metadata

import pytest
from bs4 import BeautifulSoup
from rich.console import Console

import bnutils
from bnutils._markup import plain
from bnutils.doctor import results
from bnutils.doctor.report import Diagnosis, Report
from bnutils.doctor.results import Skipped, Table

FIELDS = {
    "rule": "stale-statistics",
    "level": "error",
    "layer": "base/bn",
    "evidence": "The moving mean is 3.1 standard deviations off.",
    "why": "Inference normalizes with these statistics.",
    "repair": "Call recalibrate(model, data).",
    "chapter": "06_training_and_inference",
}
# What a model file may have as the name of a layer: markup, HTML, a terminal's codes, anything.
NASTY = '[bold red]<script>alert("x")</script>&amp;\x1b[31m\n"\u2028\ud800'


WHOLE = {"model": "net", "batch_norms": 53, "checked": ["dead-bias"], "rows": 64}


def diagnosis(**changes):
    """A valid diagnosis, changed in some fields."""
    return Diagnosis(**{**FIELDS, **changes})


def report(*diagnoses, **changes):
    return Report(**{**WHOLE, "diagnoses": diagnoses, **changes})


def in_terminal(shown, width=100):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system="standard")
    console.print(shown)
    return console.file.getvalue()


STALE = [diagnosis(layer=f"conv{i}_bn", evidence=f"It is {i} off.") for i in range(12)]
MIXED = report(
    diagnosis(rule="pytorch-momentum", level="note"),
    *STALE,
    diagnosis(rule="dead-bias", level="warning", layer="dense", chapter="09_fine_tuning"),
    skipped=[
        Skipped("head", "its call has a loop"),
        Skipped("frozen-but-learning", "the model is not compiled", "rule", "compiled"),
        Skipped("modes-disagree", "no data were given", "rule", "data"),
        Skipped("stale-compile", "the model is not compiled", "rule", "compiled"),
    ],
)
SOUND = report()


# --- as data ---


def test_errors_come_first_and_the_order_of_layers_stays():
    assert [d.level for d in MIXED.diagnoses] == ["error"] * 12 + ["warning", "note"]
    assert MIXED.errors == tuple(STALE)
    assert [d.rule for d in MIXED.warnings] == ["dead-bias"]
    assert [d.rule for d in MIXED.notes] == ["pytorch-momentum"]


@pytest.mark.parametrize(
    ("levels", "sound"),
    [([], True), (["note"], True), (["warning"], False), (["error"], False)],
)
def test_sound_is_no_error_and_no_warning(levels, sound):
    found = report(*(diagnosis(level=level) for level in levels))
    assert (found.sound, found.faulty) == (sound, not sound)


@pytest.mark.parametrize(
    ("changes", "sound"),
    [
        ({"batch_norms": 0}, False),
        ({"checked": []}, False),
        ({"skipped": [Skipped("encoder", "its call has a loop")]}, False),
        ({"skipped": [Skipped("dead-bias", "crashed", "rule")]}, False),
        ({"skipped": [Skipped("modes-disagree", "needs data", "rule", "data")]}, True),
    ],
)
def test_an_all_clear_is_given_only_where_all_was_looked_at(changes, sound):
    found = report(**changes)
    assert (found.sound, found.faulty) == (sound, False)


def test_json_holds_everything():
    data = json.loads(MIXED.to_json())
    assert data == MIXED.to_dict()
    assert data["schema"] == 2
    assert data["versions"] == {
        "bnutils": bnutils.__version__,
        "keras": metadata.version("keras"),
        "tensorflow": metadata.version("tensorflow"),
    }
    assert (data["model"], data["batch_norms"], data["sound"]) == ("net", 53, False)
    assert data["counts"] == {"error": 12, "warning": 1, "note": 1}
    assert [Diagnosis(**entry) for entry in data["diagnoses"]] == list(MIXED.diagnoses)
    assert [Skipped(**entry) for entry in data["skipped"]] == list(MIXED.skipped)
    assert (data["checked"], data["rows"], data["faulty"]) == (["dead-bias"], 64, True)


def test_json_of_any_name_is_plain_ascii():
    nasty = report(diagnosis(layer=NASTY), model=NASTY)
    assert nasty.to_json().isascii()
    assert json.loads(nasty.to_json())["diagnoses"][0]["layer"] == NASTY
    assert "\n" not in nasty.to_json(indent=None)


def test_neither_can_be_changed():
    with pytest.raises(FrozenInstanceError):
        SOUND.model = "other"
    with pytest.raises(FrozenInstanceError):
        STALE[0].level = "note"


# --- as text ---


def test_text_names_a_rule_once_and_says_how_many_layers():
    text = str(MIXED)
    assert text.count("stale-statistics") == 1
    assert "12 layers: conv0_bn, conv1_bn, conv2_bn, ..." in text
    assert "conv2_bn: It is 2 off." in text
    assert "and 9 more" in text
    assert text.count(FIELDS["repair"]) == 3  # once for each rule
    assert "chapter 9, fine tuning" in text


def test_text_says_what_was_not_looked_at():
    text = str(MIXED)
    assert "Not looked into: head (its call has a loop)." in text
    assert "Not checked: frozen-but-learning, stale-compile (the model is not compiled)." in text
    assert "Not checked: modes-disagree (no data were given)." in text


@pytest.mark.parametrize(
    "shown", [MIXED, SOUND, report(diagnosis(layer="a/" * 90, evidence="word " * 90))]
)
def test_text_fits_a_log_of_80_columns(shown, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("FORCE_COLOR", "1")
    lines = str(shown).splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line == line.rstrip() for line in lines)
    assert "\x1b" not in str(shown)
    assert repr(shown) == str(shown)


def test_a_long_text_is_wrapped_and_not_cut():
    evidence = " ".join(f"word{i}" for i in range(90))
    assert " ".join(str(report(diagnosis(evidence=evidence))).split()).count(evidence) == 1


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (SOUND, "net looks sound: 53 batch normalization layers, nothing wrong."),
        (
            report(batch_norms=1, skipped=[Skipped("", "a loop")]),
            "net gets no all-clear, since not all could be checked: 1 batch normalization layer, "
            "nothing wrong in what could.",
        ),
        (
            report(rows=None),
            "net looks sound, as far as it shows without data: 53 batch normalization layers, "
            "nothing wrong.",
        ),
        (
            report(diagnosis(level="note"), diagnosis(level="note", layer="b")),
            "net looks sound: 53 batch normalization layers, 2 notes.",
        ),
        (report(*STALE[:1]), "net: 1 error, in 53 batch normalization layers."),
        (report(batch_norms=0), "net has no batch normalization layer that could be found."),
        (report(model=""), "The model looks sound: 53 batch normalization layers, nothing wrong."),
    ],
)
def test_headline(shown, expected):
    assert " ".join(str(shown).split("\n\n")[0].split()) == expected
    headline = BeautifulSoup(shown._repr_html_(), "html.parser").find("p").get_text()
    assert headline == expected


def test_a_sound_model_still_hears_what_was_not_checked():
    text = str(report(skipped=[Skipped("modes-disagree", "no data were given", "rule", "data")]))
    assert text.splitlines()[-1] == "Not checked: modes-disagree (no data were given)."


def test_a_terminal_has_colors_and_its_own_width():
    text = in_terminal(MIXED, width=60)
    assert "\x1b[1;31mERROR" in text
    assert "\x1b[1;33mWARNING" in text
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert max(map(len, plain.splitlines())) <= 60
    assert plain.split() == str(MIXED).split()


def test_names_are_shown_as_they_are_and_command_no_terminal():
    nasty = report(diagnosis(layer=NASTY), model=NASTY, skipped=[Skipped(NASTY, NASTY)])
    for text in (str(nasty), in_terminal(nasty)):
        assert "[bold red]<script>" in text
        assert "\x1b[31m" not in text.replace("\x1b[31m\x1b[1m", "")
        assert r"\x1b[31m\n" in text
        text.encode("utf-8")


# --- as a table ---


def test_html_is_a_table_with_a_row_for_each_rule():
    soup = BeautifulSoup(MIXED._repr_html_(), "html.parser")
    assert soup.section["data-sound"] == "false"
    heads = [head.get_text() for head in soup.find_all("th", scope="col")]
    assert heads == ["level", "layer", "found", "repair"]
    rows = [
        [cell.get_text(" ") for cell in row.find_all("td")] for row in soup.tbody.find_all("tr")
    ]
    assert [row[0].split() for row in rows] == [
        ["error", "stale-statistics"],
        ["warning", "dead-bias"],
        ["note", "pytorch-momentum"],
    ]
    assert rows[1][1] == "dense"
    assert rows[1][2] == f"{FIELDS['evidence']} {FIELDS['why']}"
    assert rows[1][3] == f"{FIELDS['repair']} chapter 9, fine tuning"
    notes = [p.get_text() for p in soup.find_all("p")][1:]
    assert notes == MIXED._footnotes


def test_html_names_the_chapter_and_links_to_no_file_that_the_reader_lacks():
    soup = BeautifulSoup(MIXED._repr_html_(), "html.parser")
    named = soup.find_all("span", class_="bn-chapter")
    assert [each["data-chapter"] for each in named] == [
        "06_training_and_inference",
        "09_fine_tuning",
        "06_training_and_inference",
    ]
    assert not soup.find("a")


def test_html_sets_no_color_of_text_or_background():
    # So the page's own hold, on light and on dark pages.
    assert not re.search(r"[\"; ](color|background)[^:]*:", MIXED._repr_html_())


def test_html_escapes_all_that_a_model_can_name():
    fields = dict.fromkeys(("layer", "evidence", "why", "repair"), NASTY)
    nasty = report(
        diagnosis(**fields),
        model=NASTY,
        skipped=[Skipped(NASTY, NASTY), Skipped("a", NASTY, "rule")],
    )
    soup = BeautifulSoup(nasty._repr_html_(), "html.parser")
    assert not soup.find("script")
    assert soup.tbody.find_all("td")[1].get_text() == plain(NASTY)


def test_a_sound_report_has_no_table():
    soup = BeautifulSoup(SOUND._repr_html_(), "html.parser")
    assert soup.section["data-sound"] == "true"
    assert not soup.find("table")


# --- tables ---


def test_table_text_wraps_long_cells_and_keeps_all_of_them():
    reason = " ".join(f"word{i}" for i in range(40))
    text = str(Table(["layer", "why not"], [["bn1", reason], ["[b]\x1b[31m", "c"]]))
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith("layer")
    assert all(f"word{i}" in text for i in range(40))
    assert text.splitlines()[-1].split() == [r"[b]\x1b[31m", "c"]


def test_table_html_escapes_heads_and_cells():
    soup = BeautifulSoup(Table(["<a>", "b"], [["<c>", NASTY]])._repr_html_(), "html.parser")
    cells = [cell.get_text() for cell in soup.find_all(["th", "td"])]
    assert cells == ["<a>", "b", "<c>", plain(NASTY)]


@pytest.mark.parametrize("row", [["a"], ["a", "b", "c"]])
def test_tables_refuse_a_row_that_does_not_fit(row):
    with pytest.raises(ValueError, match="rows of 2 cells"):
        Table(["x", "y"], [["a", "b"], row])


# --- bad input ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": "Stale"}, "rule to be a name like 'stale-statistics', got 'Stale'"),
        ({"rule": "stale_statistics"}, "rule to be a name"),
        ({"level": "fatal"}, "expected a level.*'fatal'"),
        ({"layer": None}, "path of a layer"),
        ({"evidence": " \n"}, "evidence to be a sentence"),
        ({"why": ""}, "why to be a sentence"),
        ({"repair": None}, "repair to be a sentence"),
        ({"chapter": "6"}, "chapter to be a name like '09_fine_tuning'"),
    ],
)
def test_diagnosis_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        diagnosis(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "name of a model"),
        ({"batch_norms": -1}, "number of layers, got -1"),
        ({"batch_norms": 1.0}, "number of layers"),
        ({"diagnoses": ["bad"]}, "expected a Diagnosis, got 'bad'"),
        ({"skipped": [("a", "b")]}, "expected Skipped entries"),
    ],
)
def test_report_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        report(**changes)


def test_the_module_itself_needs_no_tensorflow():
    code = f"import runpy, sys; runpy.run_path({results.__file__!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"keras", "tensorflow"} & set(done.stdout.split())
