"""What others show of a page, and the page for addresses that don't exist."""

import re
import struct

import pytest
from browser import HTML, NO_BROWSER
from bs4 import BeautifulSoup
from explore import extension

preview = extension("preview")
PAGES = sorted(p for folder in ("book", "notebooks") for p in (HTML / folder).rglob("*.html"))
BOOK = "Batch Normalization, Measured"
MISSING = HTML / "404.html"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_says_what_it_is_about(path):
    head = BeautifulSoup(path.read_text(encoding="utf-8").split("</head>")[0], "html.parser")
    named = {m["name"]: m["content"] for m in head.select("meta[name]")}
    shared = {m["property"]: m["content"] for m in head.select("meta[property]")}
    said = named["description"]
    assert said == shared["og:description"]
    assert 20 < len(said) <= preview.LONGEST
    assert not re.search(r"[<>\\$]|Figure to touch", said)
    assert shared["og:title"]
    assert shared["og:site_name"] == BOOK
    assert named["twitter:card"] == ("summary_large_image" if "og:image" in shared else "summary")
    assert shared.get("og:image", "https://").startswith("https://")
    assert bool(head.select("link[rel=canonical]")) == ("og:url" in shared)


@pytest.mark.parametrize(
    ("environment", "address"),
    [
        ({}, None),
        ({"BOOK_REPOSITORY_URL": "https://example.org/someone/book"}, None),
        (
            {"BOOK_REPOSITORY_URL": "https://github.com/Some/book.git"},
            "https://some.github.io/book/",
        ),
        ({"BOOK_REPOSITORY_URL": "https://github.com/a/a.github.io"}, "https://a.github.io/"),
        ({"BOOK_SITE_URL": "https://example.org/bn"}, "https://example.org/bn/"),
    ],
)
def test_the_site_has_an_address_only_where_it_is_known(environment, address):
    assert preview.site_address(environment) == address


def test_a_picture_is_named_only_by_its_whole_address():
    without = preview.tags("A", "b", "Book", None, None)
    assert "og:image" not in without
    assert "og:url" not in without
    address, picture = "https://example.org/a.html", "https://example.org/card.png"
    with_both = preview.tags('A "b"', "c & d", "Book", address, picture)
    assert f'property="og:image" content="{picture}"' in with_both
    assert f'property="og:url" content="{address}"' in with_both
    assert "A &quot;b&quot;" in with_both
    assert "c &amp; d" in with_both


def test_a_description_is_the_first_paragraph_in_plain_words():
    body = (
        "<figure><p>A caption.</p></figure><h1>T</h1><p>One <em>two</em> &amp; three.</p><p>X</p>"
    )
    assert preview.description(body) == "One two & three."
    long = preview.description(f"<p>{'word ' * 99}</p>")
    assert len(long) <= preview.LONGEST
    assert long.endswith("word…")


def test_the_picture_is_a_png_of_1200_by_630_and_the_same_each_time(tmp_path):
    one, other = tmp_path / "one.png", tmp_path / "other.png"
    for path in (one, other):
        preview.draw_card(path, BOOK)
    data = one.read_bytes()
    assert data == other.read_bytes()
    assert data[:4] == b"\x89PNG"
    assert struct.unpack(">II", data[16:24]) == (1200, 630)
    assert len(data) < 200_000


def test_the_page_for_missing_addresses_asks_for_no_other_file():
    page = BeautifulSoup(MISSING.read_text(encoding="utf-8"), "html.parser")
    assert BOOK in page.title.text
    assert not page.select("link:not([href^='data:']), img, script[src]")
    assert page.select_one("form[action$='search.html'] input[name=q]")
    for link in page.select("a"):
        assert (HTML / link["href"].removeprefix(page.html.get("data-root", ""))).exists()


#: A site with a known address doesn't look for it.
UNKNOWN = pytest.mark.skipif(
    MISSING.exists() and "data-root" in MISSING.read_text(encoding="utf-8").split("<head>")[0],
    reason="this site is built for a known address",
)


@NO_BROWSER
@UNKNOWN
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_missing_address_leads_back_into_the_book(visit, address, theme):
    page = visit("about:blank", theme=theme, width=390)
    body = MISSING.read_text(encoding="utf-8")
    missing = "**/notebooks/deep/07_small-batches.html"
    page.route(missing, lambda route: route.fulfill(body=body, content_type="text/html"))
    page.goto(f"{address}notebooks/deep/07_small-batches.html")
    assert page.text_content("#address") == "/notebooks/deep/07_small-batches.html"
    assert page.input_value("#words") == "small batches"
    links = page.evaluate("[...document.querySelectorAll('a')].map((one) => one.href)")
    first = f"{address}book/index.html"
    assert links == [first, f"{address}book/introduction.html", first]
    page.click("button")
    page.wait_for_url(f"{address}search.html?q=small+batches")


@NO_BROWSER
@UNKNOWN
def test_on_github_the_root_is_the_folder_of_the_project(visit):
    page = visit("about:blank")
    body = MISSING.read_text(encoding="utf-8")
    page.route("**/*", lambda route: route.fulfill(body=body, content_type="text/html"))
    page.goto("https://someone.github.io/book/notebooks/gone.html")
    links = page.evaluate("[...document.querySelectorAll('a')].map((one) => one.pathname)")
    first = "/book/book/index.html"
    assert links == [first, "/book/book/introduction.html", first]
