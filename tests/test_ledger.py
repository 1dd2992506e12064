"""The claims ledger: read from the notebooks, and wrong or missing claims fail the build."""

import importlib
import json
from pathlib import Path

import pytest

from bnutils.evidence import CLAIM_MIME, Claim, Finding, exact

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def ledger_of(monkeypatch, tmp_path):
    """Build the ledger of a book with the given claims in each notebook."""
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    ledger = importlib.import_module("ledger")

    def build(notebooks, article="[]"):
        for folder in ("notebooks", "book"):
            (tmp_path / folder).mkdir()
        for stem, records in notebooks.items():
            outputs = [{"data": {CLAIM_MIME: record}} for record in records]
            notebook = {"cells": [{"outputs": outputs}, {"source": "no outputs"}]}
            (tmp_path / "notebooks" / f"{stem}.ipynb").write_text(json.dumps(notebook))
        (tmp_path / "book" / "article.yml").write_text(article)
        return ledger.Ledger(tmp_path)

    return build


def record(name, effect=1.0):
    claim = Claim(
        name=name,
        claim="It is above zero.",
        source="ioffe2015",
        said_by="Ioffe and Szegedy 2015",
        setting="none",
        findings=[Finding("a number", exact(effect))],
        refuted_by="a number below zero",
    )
    return claim.to_json()


def test_claims_are_read_in_order_and_counted(ledger_of):
    book = {"01_a": [record("one"), record("two", -1.0)], "02_b": [record("three")]}
    ledger = ledger_of(book)
    assert list(ledger.claims) == ["one", "two", "three"]
    assert [chapter for _, chapter in ledger.claims.values()] == ["01_a", "01_a", "02_b"]
    assert ledger.verdicts() == {"holds": 2, "does not hold here": 1}
    assert ledger.troubles == []


def test_a_claim_that_stands_twice_is_a_trouble(ledger_of):
    ledger = ledger_of({"01_a": [record("one")], "02_b": [record("one")]})
    assert ledger.troubles == ["claim 'one' is in 01_a and in 02_b"]


def test_a_claim_that_was_changed_by_hand_is_a_trouble(ledger_of):
    ledger = ledger_of({"01_a": [record("one") | {"verdict": "does not hold here"}]})
    assert len(ledger.troubles) == 1
    assert "changed after it was measured" in ledger.troubles[0]


@pytest.mark.parametrize("names", ["[]", "[two]"])
def test_the_article_names_claims_that_exist(ledger_of, names):
    ledger = ledger_of({"01_a": [record("one")]}, f"- says: It is so.\n  claims: {names}\n")
    assert len(ledger.troubles) == 1
    assert "It is so." in ledger.troubles[0]


def test_every_claim_of_the_book_has_a_row_on_the_page():
    page = (ROOT / "_build" / "html" / "book" / "claims.html").read_text(encoding="utf-8")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                claim = output.get("data", {}).get(CLAIM_MIME)
                if claim:
                    assert f"{path.stem}.html#claim-{claim['name']}" in page, claim["name"]
