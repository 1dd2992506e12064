"""The ten minutes and the landing page: short, every answer with its chapter, no number by hand."""

import importlib
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from bs4 import BeautifulSoup

from bnutils import norm

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html" / "book"
TEXT = (ROOT / "book" / "introduction.md").read_text(encoding="utf-8")
PLACES = {"one-unit": "four-numbers", "lagging": "lagging", "race": "race"}


def read(name):
    return BeautifulSoup((HTML / f"{name}.html").read_text(encoding="utf-8"), "html.parser")


def to_chapter(link):
    return link["href"].startswith("../notebooks/") and "#" not in link["href"]


def test_it_takes_ten_minutes():
    article = read("introduction").find("article")
    for apart in article.select("figcaption, svg, pre, label, .headerlink"):
        apart.extract()
    assert len(re.findall(r"\w[^\s]*", article.get_text(" "))) <= 1000


def test_it_is_the_first_link_of_the_landing_page_and_the_first_page():
    page = read("index")
    assert page.select_one("article a.reference.internal")["href"] == "introduction.html"
    assert page.select_one("nav.bd-links a")["href"] in {"introduction.html", "#"}


def test_every_section_leads_to_a_chapter_and_says_what_to_do():
    sections = read("introduction").select("article section section")
    assert len(sections) == 7
    for section in sections:
        assert any(map(to_chapter, section.select("p a, dd a"))), section.h2
        if not section.select("dl"):
            assert any(strong.text == "Do:" for strong in section.select("strong")), section.h2


def test_the_box_answers_six_situations_each_with_yes_or_no_and_a_chapter():
    answers = read("introduction").select(".bn-rules dd")
    assert len(answers) == 6
    for answer in answers:
        assert answer.strong.text.split()[0].strip(",.") in {"Yes", "No"}
        assert to_chapter(answer.select("a")[-1])


def test_the_four_numbers_come_out_as_told():
    x = np.array([3.0, 9.0, 11.0, 17.0])
    assert (x.mean(), x.std()) == (10, 5)
    said = "−1.4, −0.2, 0.2 and 1.4"
    x_hat = norm.standardize(x[:, None], axis=0)[0].ravel().round(1)
    assert re.findall(r"-?[\d.]+", said.replace("−", "-")) == [f"{v:g}" for v in x_hat]
    assert said in TEXT
    x[3] = 40
    assert norm.standardize(x[:, None], axis=0)[0][0].round(1) == -0.9
    assert "−0.9 instead of −1.4" in TEXT
    for momentum, steps in {0.99: 459, 0.9: 44}.items():
        assert momentum**steps < 0.01 < momentum ** (steps - 1)
        assert f"{steps} steps" in TEXT
    steps_an_epoch = -(-500 // 32)
    assert -(-459 // steps_an_epoch) == 29
    assert "29 epochs of 500 images in batches of 32" in TEXT


def test_measured_numbers_are_not_typed():
    bought = TEXT.partition("## What it buys")[2].partition("**Figure to touch")[0]
    assert re.findall(r"\d\.\d", bought.replace("a BN momentum of 0.9", "")) == []
    page = read("introduction")
    assert len(page.select("a.bn-said")) >= 10
    shown = page.select_one('a.bn-said[href$="#claim-wider-land"]').text
    assert re.fullmatch(r"[\d.]+ \[[\d.]+, [\d.]+\]", shown)


@pytest.mark.parametrize("place", PLACES)
def test_each_figure_to_touch_has_its_place_with_a_still(place):
    places = f"figure.bn-place-{place}, figure#{place}.bn-explorable"
    (figure,) = read("introduction").select(places)
    if image := figure.img:  # a page may also hold the picture itself
        assert Path(image["src"]).stem == PLACES[place]
    else:
        assert figure.svg


def test_a_claim_is_said_in_a_sentence(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    ledger = importlib.import_module("ledger")
    effect = SimpleNamespace(mean=-0.0705, low=-0.087, high=-0.05)
    primary = SimpleNamespace(effect=effect, spec=".3f", effect_text="-0.071 [-0.087, -0.050]")
    book = SimpleNamespace(claims={"a": (SimpleNamespace(primary=primary), "01_x")})
    assert ledger.points(book, "a") == "−7.0 [−8.7, −5.0]"
    assert ledger.effect(book, "a") == "−0.071 [−0.087, −0.050]"


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("https://github.com/a/b.git", ["github.com", "mybinder.org", "colab.research.google.com"]),
        ("https://example.org/a/b", ["example.org"]),
    ],
)
def test_the_landing_page_leads_to_the_repository_where_it_has_an_address(monkeypatch, url, hosts):
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    book_site = importlib.import_module("book_site")
    links = book_site.repository_links(url, "main")
    assert [address.split("/")[2] for _, address in links] == hosts
    assert all(re.search(r"/a/b/(blob/)?main\b", address) for _, address in links[1:])
