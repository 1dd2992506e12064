"""The built site: nothing from a third party, one search field, no dead link, no mute figure."""

import copy
import importlib
import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import build_site
import pytest
from bs4 import BeautifulSoup

from bnutils.plots import GROUND, without_ground

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
PAGES = sorted(p for folder in ("book", "notebooks") for p in (HTML / folder).glob("*.html"))
# What a browser fetches by itself when it reads a page.
LOADS = [("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("link", "href")]


@cache
def read(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@pytest.fixture(params=PAGES, ids=lambda path: path.stem)
def page(request):
    return request.param


def test_the_site_is_built():
    assert len(PAGES) >= 8, "run `make book` first"
    assert (HTML / "index.html").exists()


def test_builds_of_the_site_wait_for_each_other(tmp_path, monkeypatch):
    inside, most = [], []

    def build(*_, **__):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.05)
        inside.pop()
        return subprocess.CompletedProcess([], 0)

    monkeypatch.setattr(build_site, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["build_site.py"])
    monkeypatch.setattr(subprocess, "run", build)
    with ThreadPoolExecutor() as pool:
        codes = [pool.submit(build_site.main) for _ in range(4)]
    assert [code.result() for code in codes] == [0] * 4
    assert most == [1] * 4


def test_a_page_loads_only_files_of_the_site(page):
    for tag, attribute in LOADS:
        for element in read(page).find_all(tag, {attribute: True}):
            url = urlsplit(element[attribute])
            assert not url.netloc, element
            if url.scheme != "data":
                assert (page.parent / unquote(url.path)).exists(), element
    for style in read(page).find_all("style"):
        assert "url(http" not in style.text
        assert "@import" not in style.text


def test_stylesheets_load_nothing_from_a_third_party():
    sheets = list((HTML / "_static").rglob("*.css"))
    assert sheets
    for sheet in sheets:
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"(url\(\s*['\"]?|@import\s+['\"])(https?:)?//", text), sheet.name


def test_one_search_field_and_no_index_on_the_page(page):
    assert len(read(page).find_all("input", {"type": "search"})) == 1
    assert not read(page).find_all("script", src=re.compile("searchindex"))


def test_every_image_has_alt_text_and_every_figure_a_caption(page):
    for image in read(page).select("article img"):
        assert len(image.get("alt", "").split()) >= 4, image
    for figure in read(page).select("article figure"):
        assert figure.find("figcaption"), figure


def test_figures_on_pages_are_drawings_without_a_ground(page):
    for image in read(page).select("article figure img"):
        source = page.parent / unquote(image["src"])
        assert source.suffix == ".svg", "a drawing is sharp at any size"
        svg = source.read_text(encoding="utf-8")
        assert without_ground(svg) == svg, "a white box on a dark page"


def test_a_page_takes_drawing_and_caption_from_where_jupyterlab_shows_them(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    plain_notebooks = importlib.import_module("plain_notebooks")
    svg = f'<svg><g id="patch_1"><path d="M 0 0" style="fill: {GROUND}"/></g></svg>'
    drawn = {"image/png": "AAAA", "image/svg+xml": svg.split("\n"), "text/plain": "<Figure>"}
    figure = {"mystnb": {"figure": {"name": "fig-a"}}}
    notebook = {
        "cells": [
            {"outputs": [{"data": drawn}], "metadata": figure},
            {"source": ["**Figure 1.2.** What it\n", "shows.\n", "\n", "Text."], "metadata": {}},
            {"source": "**Figure 1.2.** Not under a drawing.", "metadata": {}},
        ]
    }
    source = [json.dumps(notebook)]
    app = SimpleNamespace(env=SimpleNamespace(doc2path=lambda name: f"{name}.ipynb"))
    plain_notebooks.prepare_notebook(app, "notebooks/01", source)
    drawing, below, last = json.loads(source[0])["cells"]
    shown = drawing["outputs"][0]["data"]
    assert shown == {"image/svg+xml": svg.replace(GROUND, "none"), "text/plain": "<Figure>"}
    assert drawing["metadata"]["mystnb"]["figure"]["caption"] == "What it\nshows."
    assert below["source"] == "Text."
    assert last == notebook["cells"][2]


@pytest.mark.parametrize("path", [p for p in PAGES if p.parent.name == "notebooks"])
def test_a_work_that_a_chapter_cites_leads_to_its_entry(path):
    entries = read(HTML / "book" / "bibliography.html")
    article = read(path).select_one("article")
    cited = article.select("a.bn-cite")
    assert cited
    addresses = {a["href"] for a in entries.select("div.citation a.external")}
    for link in cited:
        assert entries.find(id=link["href"].partition("#")[2]), link
    for link in article.select("p a.external, li a.external"):
        assert link["href"] not in addresses, f"{link} is in the bibliography"


@pytest.mark.parametrize("path", [p for p in PAGES if p.parent.name == "notebooks"])
def test_a_chapter_has_the_number_of_its_file(path):
    chapter = str(int(path.stem[:2]))
    numbers = [e.text for e in read(path).select("h1 .section-number, h2 .section-number")]
    figures = [
        e.text.removeprefix("Fig. ") for e in read(path).select("figcaption .caption-number")
    ]
    assert numbers[0] == f"{chapter}. "
    assert {n.split(".")[0] for n in numbers + figures} == {chapter}


@cache
def anchors(path):
    """What a link into a page can lead to."""
    tags = read(path).find_all(True)
    return {tag[key] for tag in tags for key in ("id", "name") if tag.has_attr(key)}


def test_every_inside_link_leads_somewhere(page):
    for link in read(page).find_all("a", href=True):
        url = urlsplit(link["href"])
        if url.scheme or url.netloc:
            continue
        target = (page.parent / unquote(url.path)).resolve() if url.path else page
        assert target.exists(), link
        if url.fragment and target.suffix == ".html":
            assert unquote(url.fragment) in anchors(target), link


@pytest.mark.parametrize("address", [None, "https://example.org/someone/book"])
def test_launch_buttons_appear_only_where_the_repository_is_known(monkeypatch, address):
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    book_site = importlib.import_module("book_site")
    monkeypatch.delenv("BOOK_REPOSITORY_URL", raising=False)
    if address:
        monkeypatch.setenv("BOOK_REPOSITORY_URL", address)
    config = SimpleNamespace(html_theme_options={})
    book_site.repository_buttons(None, config)
    assert config.html_theme_options.get("repository_url") == address
    assert bool(config.html_theme_options.get("launch_buttons")) == bool(address)


def test_no_raw_markup_reaches_the_reader(page):
    article = copy.copy(read(page).find("article"))
    for element in article.find_all(["pre", "code", "script"]):
        element.extract()
    assert not re.search(r"\{(cite|doc|ref|numref|eq)[:}]|```|:::|\$\$", article.get_text())


def test_a_report_of_the_doctor_leads_to_the_chapter_that_it_names():
    cells = read(HTML / "notebooks" / "12_audit.html").select(".bn-report td")
    links = [link for cell in cells for link in cell.select("a") if link.text.startswith("chapter")]
    assert links
    assert not any(cell.select(".bn-chapter") for cell in cells)
    for link in links:
        number = int(re.match(r"chapter (\d+)", link.text)[1])
        assert (HTML / "notebooks" / link["href"]).name.startswith(f"{number:02}_")
        assert (HTML / "notebooks" / link["href"]).exists()
