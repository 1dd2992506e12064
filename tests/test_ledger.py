"""The claims ledger: read from the notebooks, and wrong or missing claims fail the build."""

import importlib
import json
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
import xarray as xr

from bnutils.evidence import CLAIM_MIME, Claim, Finding, Hypothesis, Interval, exact
from bnutils.evidence import record as records

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
NASTY = "<script>|</td> {cite}`x` [a](b) ``` $x$ &amp; \"'"


@pytest.fixture
def ledger(monkeypatch):
    """The extension as a module."""
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    return importlib.import_module("ledger")


@pytest.fixture
def ledger_of(ledger, tmp_path):
    """Build the ledger of a book with the given claims in each notebook."""

    def build(notebooks, article="[]"):
        for folder in ("notebooks", "book"):
            (tmp_path / folder).mkdir(exist_ok=True)
        for stem, claims in notebooks.items():
            outputs = [{"data": {CLAIM_MIME: claim}} for claim in claims]
            notebook = {"cells": [{"outputs": outputs}, {"source": "no outputs"}]}
            (tmp_path / "notebooks" / f"{stem}.ipynb").write_text(json.dumps(notebook), "utf-8")
        (tmp_path / "book" / "article.yml").write_text(article, "utf-8")
        return ledger.Ledger(tmp_path)

    return build


def measured(name, low=5.0, high=7.0, **changes):
    """A measured claim: an effect claimed to be above 0, with its interval."""
    effect = Interval((low + high) / 2, low, high, 20, method="by hand")
    fields = {
        "name": name,
        "claim": "It is above zero.",
        "kind": "measured",
        "source": "ioffe2015",
        "said_by": "Ioffe and Szegedy 2015",
        "setting": "a small network",
        "primary": Finding("a number", effect, reason="anything that is there"),
    }
    return Claim(**fields | changes).to_json()


def identity(name, value=1.0):
    return measured(name, kind="identity", primary=Finding("a number", exact(value)))


class Text(HTMLParser):
    """The text of HTML whose tags pair up, and its tags."""

    def __init__(self, page):
        """Read it."""
        super().__init__()
        self.open, self.tags, self.parts = [], [], []
        self.feed(page)
        self.close()
        assert self.open == []
        self.text = "".join(self.parts)

    def handle_starttag(self, tag, attrs):
        """Open."""
        self.open.append(tag)
        self.tags.append(tag)

    def handle_endtag(self, tag):
        """Close what was opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data):
        """Keep it."""
        self.parts.append(data)


def test_claims_are_read_in_order_and_counted_by_kind(ledger_of):
    book = {
        "01_a": [measured("one"), measured("two", -7.0, -5.0), identity("three")],
        "02_b": [measured("four", -1.0, 1.0)],
    }
    result = ledger_of(book)
    assert list(result.claims) == ["one", "two", "three", "four"]
    assert [chapter for _, chapter in result.claims.values()] == ["01_a", "01_a", "01_a", "02_b"]
    assert result.count("measured") == {"shown": 1, "contrary shown": 1, "undecided": 1}
    assert result.count("identity") == {"shown": 1}
    assert result.troubles == []


def test_the_summary_counts_kinds_apart(ledger, ledger_of):
    book = {
        "01_a": [measured("one"), measured("two", -7.0, -5.0), identity("three")],
        "02_b": [measured("four", -1.0, 1.0)],
    }
    assert Text(ledger.summary(ledger_of(book))).text == (
        "This book measures 3 claims: 1 shown, 1 with the contrary shown, 0 without a difference "
        "that matters and 1 undecided. Counted apart: exact identities (1)."
    )


def test_outcomes_are_corrected_together(ledger, ledger_of):
    # z = 2.1 alone is beyond 1.96; as one of three it is not.
    book = {"01_a": [measured("weak", 0.14, 4.06), measured("one"), measured("two", -1.0, 1.0)]}
    result = ledger_of(book)
    claim, _ = result.claims["weak"]
    assert (claim.outcome, result.outcomes["weak"]) == ("shown", "undecided")
    page = Text(ledger.entry(result, "weak")).text
    assert page.strip().startswith("Undecided")
    assert "Alone it is shown; corrected together" in page
    assert "corrected together" not in Text(ledger.entry(result, "one")).text
    rows = {row["name"]: row for row in result.to_json()}
    assert rows["weak"]["outcome"] == "undecided"
    assert rows["weak"]["outcome_without_correction"] == "shown"


def test_a_card_says_that_the_correction_changes_it(ledger, ledger_of):
    book = {"01_a": [measured("weak", 0.14, 4.06), measured("one"), measured("two", -1.0, 1.0)]}
    result = ledger_of(book)
    marks = {
        name: ledger.correction(claim, result.outcomes[name])
        for name, (claim, _) in result.claims.items()
    }
    env = SimpleNamespace(bn_ledger=result, bn_marks=marks, bn_before={})
    cards = "".join(claim._repr_mimebundle_()["text/html"] for claim, _ in result.claims.values())
    context = {"body": cards}
    ledger.mark_cards(SimpleNamespace(env=env), "notebooks/01_a", None, context, None)
    assert context["body"].count("Alone it is") == 1
    weak = context["body"].split("</section>")[0]
    assert weak.index(">Undecided<") < weak.index("It is above zero.") < weak.index("Alone it is")
    assert weak.index("Alone it is") < weak.index("How it was measured")
    assert 'data-outcome="undecided"' in weak
    assert 'data-outcome="shown"' not in weak
    assert context["body"].count('data-outcome="shown"') == cards.count('data-outcome="shown"') - 1
    Text(context["body"])
    other = {"body": cards}
    ledger.mark_cards(SimpleNamespace(env=env), "notebooks/02_b", None, other, None)
    assert other == {"body": cards}
    # A page whose notebook did not change is made again when its sentence changes.
    assert ledger.pages_to_mark(None, env, (), (), ()) == ["notebooks/01_a"]
    env.bn_before = marks
    assert ledger.pages_to_mark(None, env, (), (), ()) == []


def test_a_claim_that_stands_twice_is_a_trouble(ledger_of):
    result = ledger_of({"01_a": [measured("one")], "02_b": [measured("one")]})
    assert result.troubles == ["claim 'one' is in 01_a and in 02_b"]


@pytest.mark.parametrize(
    "change",
    [
        {"outcome": "undecided"},
        {"claim": "It is \x00 above zero."},
        {"source": "<b>"},
        {"kind": "law"},
        {"seeds": None},
    ],
)
def test_a_claim_that_was_changed_by_hand_is_a_trouble(ledger_of, change):
    result = ledger_of({"01_a": [measured("one") | change]})
    assert len(result.troubles) == 1
    assert result.troubles[0].startswith("01_a.ipynb: ")
    assert result.claims == {}


@pytest.mark.parametrize(
    ("row", "trouble"),
    [
        ("claims: [one]", None),
        ("claims: []\n  reason: Nobody looked.", None),
        ("claims: []", "needs claims, or the reason for none"),
        ("claims: [one]\n  reason: Nobody looked.", "needs claims, or the reason for none"),
        ("claims: [two]", r"names ['two'], which no chapter tests"),
    ],
)
def test_the_article_is_tested_or_says_why_not(ledger, ledger_of, row, trouble):
    result = ledger_of({"01_a": [measured("one")]}, f"- says: It is so.\n  {row}\n")
    noted = ledger_of({"01_a": [measured("one")]}, "- {says: S, claims: [one], note: <i>n}")
    assert "1 shown</strong> &lt;i&gt;n</span>" in ledger.article(noted)
    assert len(result.troubles) == bool(trouble)
    if trouble:
        assert "It is so." in result.troubles[0]
        assert trouble in result.troubles[0]
    text = Text(ledger.article(result)).text
    assert text.startswith("It is so.")
    if "reason" in row and not trouble:
        assert text == "It is so. Not testedNobody looked."


def test_markup_in_a_claim_stays_text(ledger, ledger_of):
    choice = {NASTY: {NASTY: {"value": NASTY, "share": 1.0, "edge": True}}}
    nasty = measured(
        "one",
        claim=NASTY,
        said_by=NASTY,
        setting=NASTY,
        note=NASTY,
        chosen=choice,
        primary=Finding(NASTY, Interval(6, 5, 7, 20), reason=NASTY, unit=NASTY),
        secondary=[Finding(NASTY, Interval(6, 5, 7, 20))],
    )
    article = json.dumps([{"says": NASTY, "claims": ["one"]}])  # JSON is YAML
    result = ledger_of({"01_a": [nasty]}, article)
    assert result.troubles == []
    for page in (ledger.entry(result, "one"), ledger.article(result)):
        read = Text(page)
        assert not {"script", "td"} & set(read.tags)
        assert NASTY in read.text
    # It reaches the page as HTML: MyST never reads it.
    directive = SimpleNamespace(env=None)
    for kind in (ledger.Article, ledger.Full, ledger.Summary):
        for node in kind.nodes(directive, result):
            assert node.tagname in ("raw", "section")
            assert [child.tagname for child in node.children if child.tagname != "#text"] in (
                [],
                ["title", "raw"],
            )


# --- the commits of margins and records ---


@pytest.fixture
def with_record(ledger_of, tmp_path):
    """A book with one record, made after the given margins had been stated, and one claim on it."""

    def build(claim, margins):
        history = {"study": "race", "fingerprint": "", "margins": margins}
        history["commit"] = "0123456789ab"
        record = xr.Dataset({"x": ("seed", [1.0, 2.0])})
        history["digest"] = records.digest(record)
        record = record.assign_attrs(provenance=json.dumps(history))
        records.write(record, tmp_path / "src" / "bnutils" / "records" / "race.nc")
        return ledger_of({"01_a": [claim]})

    return build


def hypothesis(margin=1.0):
    return Hypothesis(
        name="one",
        claim="It is above one.",
        kind="measured",
        source="ioffe2015",
        said_by="Ioffe and Szegedy 2015",
        label="a number",
        setting="a small network",
        margin=margin,
        reason="less can't be seen",
    )


def test_the_ledger_names_the_commits_of_margin_and_record(ledger, with_record, tmp_path):
    said = hypothesis()
    claim = said.judge(Interval(6, 5, 7, 20), record="race").to_json()
    result = with_record(claim, {"one": said.digest})
    assert result.troubles == []
    assert result.commits == {"one": ("0123456789ab", None)}

    def git(*arguments):
        name = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        done = subprocess.run(
            ["git", "-C", tmp_path, *name, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "The record")
    added = git("rev-parse", "--short=12", "HEAD")
    result = with_record(claim, {"one": said.digest})
    assert result.commits == {"one": ("0123456789ab", added)}
    row = result.to_json()[0]
    assert (row["record"], row["margin_commit"], row["record_commit"]) == (
        ["race"],
        "0123456789ab",
        added,
    )
    page = Text(ledger.entry(result, "one")).text
    assert "at commit 0123456789ab" in page
    assert f"in commit {added}" in page


def test_a_margin_that_the_record_does_not_hold_is_a_trouble(with_record):
    claim = hypothesis().judge(Interval(6, 5, 7, 20), record="race").to_json()
    assert "was not stated before" in with_record(claim, {}).troubles[0]
    other = hypothesis(margin=2.0).digest
    trouble = with_record(claim, {"one": other}).troubles
    assert len(trouble) == 1
    assert "its margin is another than the one that the record 'race' was made with" in trouble[0]


def test_a_record_that_is_missing_is_a_trouble(ledger_of):
    claim = hypothesis().judge(Interval(6, 5, 7, 20), record="race").to_json()
    result = ledger_of({"01_a": [claim]})
    assert result.troubles == [
        "claim 'one': no record at race.nc; compute it: python -m bnutils.studies race"
    ]


# --- the book itself ---


def claims_of_the_book():
    """Every claim in the notebooks, with the stem of its file."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                if CLAIM_MIME in output.get("data", {}):
                    yield path.stem, output["data"][CLAIM_MIME]


def test_every_claim_of_the_book_has_a_row_on_the_page():
    page = (HTML / "book" / "claims.html").read_text(encoding="utf-8")
    for stem, claim in claims_of_the_book():
        assert f"{stem}.html#claim-{claim['name']}" in page, claim["name"]


def test_the_ledger_as_data_holds_every_claim_of_the_book():
    rows = json.loads((HTML / "claims.json").read_text(encoding="utf-8"))
    expected = [
        (claim["name"], int(stem[:2]), claim["kind"]) for stem, claim in claims_of_the_book()
    ]
    assert [(row["name"], row["chapter"], row["kind"]) for row in rows] == expected
    for row, (_, claim) in zip(rows, claims_of_the_book(), strict=True):
        assert row["outcome_without_correction"] == claim["outcome"]
        assert row["outcome"] in (claim["outcome"], "undecided")
        assert row["primary"]["label"] == claim["primary"]["label"]
        assert set(row["primary"]) == {
            *("label", "mean", "low", "high", "margin", "null", "claimed", "scale"),
            *("seeds", "draws"),
        }
        for settings in row["chosen"].values():
            assert all("edge" in choice for choice in settings.values())
