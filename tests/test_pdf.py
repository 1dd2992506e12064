"""The PDF of the book, and what a single page prints: tried on a few pages in a real browser."""

import importlib.util
import io
import re

import pytest
from browser import HTML, NO_BROWSER
from bs4 import BeautifulSoup
from explore import ROOT
from pypdf import PdfReader

pytestmark = pytest.mark.skipif(not (HTML / "book" / "index.html").exists(), reason="no site")

PAGES = ["book/introduction", "notebooks/02_the_math", "book/cheatsheet"]
A4 = (595, 842)


@pytest.fixture(scope="module")
def make_pdf():
    """The tool."""
    path = ROOT / "tools" / "make_pdf.py"
    spec = importlib.util.spec_from_file_location("make_pdf", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pdf(make_pdf, browser, tmp_path_factory):
    """Three pages of the book as a PDF."""
    out = tmp_path_factory.mktemp("pdf") / "book.pdf"
    wide = make_pdf.make(out, browser, PAGES)
    assert not wide, "these are cut at the right"
    return PdfReader(out)


@pytest.fixture(scope="module")
def texts(pdf):
    return [page.extract_text() for page in pdf.pages]


def chapters(pdf):
    """The title and the page, from 1, of each entry of the first rank in the outline."""
    return [
        (entry.title, pdf.get_destination_page_number(entry) + 1)
        for entry in pdf.outline
        if not isinstance(entry, list)
    ]


def apart(text):
    """A pattern for a text between whose letters a reader of PDF may see gaps, by its font."""
    return r"\s*".join(map(re.escape, "".join(text.split())))


def title(name):
    page = BeautifulSoup((HTML / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
    heading = page.select_one("article h1")
    heading.select_one("a.headerlink").decompose()
    return heading.get_text()


@NO_BROWSER
def test_the_outline_has_the_contents_and_each_page_of_the_book(pdf):
    assert [title for title, _ in chapters(pdf)] == ["Contents", *map(title, PAGES)]
    sections = [entry for entry in pdf.outline if isinstance(entry, list)]
    assert len(sections) == len(PAGES)


@NO_BROWSER
def test_each_page_bears_its_number_and_the_title_of_its_chapter(pdf, texts):
    starts = chapters(pdf)
    for number, text in enumerate(texts[1:], 2):
        lines = text.split("\n")
        assert str(number) in (lines[0], lines[-1], *lines[:3], *lines[-3:]), number
        head = [title for title, start in starts if start <= number][-1]
        assert re.search(apart(head), text), number


@NO_BROWSER
def test_the_contents_say_where_a_chapter_begins(pdf, texts):
    for title, start in chapters(pdf)[1:]:
        assert re.search(rf"{apart(title)}\s*{apart(str(start))}\b", texts[1]), title


@NO_BROWSER
def test_links_lead_to_places_in_the_pdf_or_to_an_outside_address(pdf):
    places, inside, outside = pdf.named_destinations, 0, 0
    for page in pdf.pages:
        for annotation in page.get("/Annots", []):
            link = annotation.get_object()
            action = link.get("/A", {})
            if "/URI" in action:
                assert re.match(r"https?://|mailto:", action["/URI"]), action
                outside += 1
            elif "/Dest" in link:
                assert not isinstance(link["/Dest"], str) or link["/Dest"] in places, link
                inside += 1
    assert inside > 30
    assert outside > 0


@NO_BROWSER
def test_figures_formulas_and_fonts_are_there(make_pdf, pdf, texts):
    text = "\n".join(texts)
    for name in PAGES:
        article = BeautifulSoup((HTML / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
        for caption in article.select("article figcaption .caption-number"):
            assert caption.get_text().strip() in text
    assert not re.search(r"\\(frac|sqrt|hat|sum|mu|sigma)\b|\$\$", text), "raw TeX"
    assert "Figure to touch:" not in text
    fonts = [
        font.get_object()
        for page in pdf.pages
        for font in page["/Resources"].get("/Font", {}).values()
    ]
    assert fonts
    for font in fonts:
        inner = font.get("/DescendantFonts", [font])[0].get_object()
        described = inner.get("/FontDescriptor", {})
        embedded = {"/FontFile", "/FontFile2", "/FontFile3"} & set(described)
        assert embedded or font["/Subtype"] == "/Type3", font


def test_letters_and_marks_of_drawings_and_ids_of_two_pages_are_told_apart(make_pdf):
    text = make_pdf.document([make_pdf.read(name, "") for name in PAGES[:2]], None)
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    used = re.findall(r'(?:<use[^>]* href="#|url\(#)([^")]+)', text)
    assert len(used) > 100
    assert set(used) <= set(ids)


@NO_BROWSER
def test_no_page_is_empty(pdf, texts):
    for number, (page, text) in enumerate(zip(pdf.pages, texts, strict=True), 1):
        drawn = "/XObject" in page["/Resources"]
        assert len(text.split()) > 15 or drawn, number


def test_the_pages_come_in_the_order_of_the_contents_without_the_reference(make_pdf):
    toc = {
        "root": "book/index",
        "parts": [
            {"chapters": [{"file": "a"}]},
            {
                "caption": "B",
                "chapters": [{"file": "book/api", "sections": [{"file": "book/api/x"}]}],
            },
            {"caption": "C", "chapters": [{"file": "c", "sections": [{"file": "d"}]}]},
        ],
    }
    assert list(make_pdf.contents(toc)) == [("book/index", ""), ("a", ""), ("c", "C"), ("d", "C")]


def test_without_a_browser_the_tool_says_what_it_needs(make_pdf, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("chromium.BROWSERS", ("no-such-browser",))
    monkeypatch.setattr("sys.argv", ["make_pdf.py", "--out", str(tmp_path / "x.pdf")])
    assert make_pdf.main() == 1
    assert "Chromium" in capsys.readouterr().err


@NO_BROWSER
def test_the_cheat_sheet_prints_on_two_sheets_of_a4(visit):
    page = visit("book/cheatsheet.html")
    sheets = PdfReader(io.BytesIO(page.pdf(format="A4"))).pages
    assert len(sheets) <= 2
    assert [float(side) for side in sheets[0].mediabox[2:]] == pytest.approx(A4, abs=2)


@NO_BROWSER
def test_paper_is_light_and_has_the_text_alone(visit):
    page = visit("notebooks/02_the_math.html", theme="dark")
    page.emulate_media(media="print")
    ground, ink, shown = page.evaluate(
        """() => {
          const paint = (one) => getComputedStyle(document.querySelector(one));
          const idle = `.bd-header-article, .bd-sidebar-primary, .bd-sidebar-secondary, .bn-live,
            .prev-next-footer, #jb-print-toc, .copybtn, .headerlink, #pst-back-to-top`;
          const seen = [...document.querySelectorAll(idle)]
            .filter((one) => one.getClientRects().length).map((one) => one.className || one.id);
          return [paint("body").backgroundColor, paint(".bd-article p").color, seen];
        }"""
    )
    assert ground == "rgb(255, 255, 255)"
    assert ink == "rgb(31, 36, 48)"
    assert shown == []
    assert page.locator("article h1").is_visible()
    assert page.locator("#one-unit .bn-still").is_visible()
