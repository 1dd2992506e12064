"""The pages of the package reference: made from the modules, with examples that run."""

import doctest
import gzip
import importlib
import json
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from browser import AXE, NO_BROWSER
from bs4 import BeautifulSoup

import bnutils
from bnutils import norm

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [ROOT / "book" / "api.md", *sorted((ROOT / "book" / "api").glob("*.md"))]
HTML = ROOT / "_build" / "html"
BUILT = HTML / "book" / "api"
MODULES = sorted(set(bnutils.__all__) - {"__version__"})

built = pytest.mark.skipif(not (BUILT / "norm.html").exists(), reason="run `make book` first")


@pytest.fixture
def reference(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    return importlib.import_module("reference")


@cache
def read(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_examples_on_a_page_run(path):
    text = path.read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S))
    test = doctest.DocTestParser().get_doctest(blocks, {}, path.name, str(path), 0)
    assert doctest.DocTestRunner(verbose=False).run(test).failed == 0


def test_a_page_is_made_of_docstrings(reference):
    lines = list(reference.page_lines("bnutils.norm", {"Functions": ["batch_norm"]}))
    says = "Normalize each channel by the statistics of this batch, then scale and shift it."
    assert f"| {{py:obj}}`~bnutils.norm.batch_norm` | {says} |" in lines
    assert ".. autofunction:: bnutils.norm.batch_norm" in lines


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One. Two.", "One."),
        ("One, e.g. this one. Two.", "One, e.g. this one."),
        ("Over two\nlines.\n\nMore.", "Over two lines."),
        ("Version 3.11 is one. `b` too.", "Version 3.11 is one."),
        (None, ""),
    ],
)
def test_first_sentence(reference, text, first):
    assert reference.first_sentence(text) == first


def test_a_member_left_out_is_told(reference, caplog):
    app = SimpleNamespace(config=SimpleNamespace(autodoc_mock_imports=[]))
    source = ["```{reference} bnutils.gradcheck\nOne: relative_error\n```\n"]
    with caplog.at_level("WARNING"):
        reference.fill_page(app, "book/api/gradcheck", source)
    assert "no group has directional_error, numerical_gradient" in caplog.text


def test_a_source_link_gives_the_lines_of_the_repository(reference):
    resolve = reference.source_address("https://example.org/book", "main", ROOT)
    info = {"module": "bnutils.norm", "fullname": "BatchNorm.__call__"}
    address, _, lines = resolve("py", info).partition("#")
    assert address == "https://example.org/book/blob/main/src/bnutils/norm.py"
    first, last = map(int, re.fullmatch(r"L(\d+)-L(\d+)", lines).groups())
    text = Path(norm.__file__).read_text(encoding="utf-8").splitlines()[first - 1 : last]
    assert "def __call__" in text[0]
    assert resolve("py", {"module": "bnutils.plots", "fullname": "ARMS"}) is None


@built
@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_is_in_a_table_and_has_its_entry(name):
    page = read(BUILT / f"{name}.html")
    rows = {
        link.get_text().rpartition(".")[2]: link["href"] for link in page.select("td:first-child a")
    }
    entries = {entry["id"] for entry in page.select("dt[id]")}
    module = page.select_one("[id^=module-]")
    assert module["id"] == f"module-bnutils.{name}"
    public = getattr(importlib.import_module(f"bnutils.{name}"), "__all__", ())
    assert set(public) <= set(rows)
    for address in rows.values():
        place, _, anchor = address.partition("#")
        assert anchor in entries if not place else (BUILT / place).exists()
    for row in page.select("tbody tr"):
        assert row.get_text().strip()


@built
def test_the_overview_names_every_module_and_leads_old_addresses_on():
    page = read(HTML / "book" / "api.html")
    assert {link.text for link in page.select("td a")} == set(MODULES)
    script = next(tag.text for tag in page.find_all("script") if "#bnutils" in tag.text)
    assert json.loads(re.search(r"\[\".*?\]", script)[0]) == MODULES
    # An address of before had the module that defines a name.
    assert read(BUILT / "network.html").find(id="bnutils.network.builders.mlp")


@built
def test_the_reference_is_light_and_its_sources_can_be_read():
    pages = [HTML / "book" / "api.html", *BUILT.glob("*.html")]
    assert sum(len(gzip.compress(path.read_bytes())) for path in pages) < 300_000
    link = next(a for a in read(BUILT / "norm.html").select("dt a") if "source" in a.text)
    if not link["href"].startswith("http"):
        place, _, anchor = link["href"].partition("#")
        assert read((BUILT / place).resolve()).find(id=anchor)


@built
def test_single_backticks_are_code():
    for path in BUILT.glob("*.html"):
        assert not read(path).select("dd cite"), path.name


@built
@NO_BROWSER
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_page_fits_a_phone_and_is_accessible(visit, theme):
    page = visit("book/api/norm.html", theme, width=320)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    assert page.locator(".bn-parameter").count() > 5
    page.evaluate(AXE)
    found = page.evaluate("axe.run('article')")["violations"]
    assert not found, [(one["id"], one["nodes"][0]["html"]) for one in found]
    assert not page.troubles


@built
@NO_BROWSER
def test_an_old_address_leads_to_the_member(visit):
    page = visit("book/api.html#bnutils.network.builders.mlp")
    page.wait_for_url("**/api/network.html#bnutils.network.builders.mlp")
    assert page.locator("[id='bnutils.network.builders.mlp']").count() == 1
