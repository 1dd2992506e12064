"""The design: readable colors, cards with their intervals, fold bars that say what they hold."""

import importlib
import json
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup

from bnutils.evidence import Finding, Interval
from bnutils.plots import COLORS

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
STATIC = ROOT / "book" / "_static"
CHAPTERS = sorted((HTML / "notebooks").glob("*.html"))
SHEETS = sorted(STATIC.glob("*.css"))


@pytest.fixture
def extension(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    return importlib.import_module


@cache
def read(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def contrast(one, other):
    """WCAG's ratio of two colors, "#rrggbb"."""

    def luminance(color):
        parts = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def palette(theme):
    """The theme's variables in type.css, with the book's colors in place of their names."""
    text = (STATIC / "type.css").read_text(encoding="utf-8")
    block = re.search(rf'html\[data-theme="{theme}"\] \{{(.*?)\}}', text, re.DOTALL)[1]
    said = dict(re.findall(r"--pst-color-([\w-]+): ([^;]+);", block))
    side = {"light": 0, "dark": 1}[theme]

    def color(value):
        if match := re.fullmatch(r"var\(--bn-([\w-]+)\)", value):
            return COLORS[match[1]][side]
        if match := re.fullmatch(r"var\(--pst-color-([\w-]+)\)", value):
            return color(said[match[1]])
        return value

    return {"background": COLORS["ground"][side]} | {name: color(v) for name, v in said.items()}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read_on_every_ground(theme):
    colors = palette(theme)
    side = {"light": 0, "dark": 1}[theme]
    texts = [colors[name] for name in ("text-base", "text-muted", "link", "link-hover")]
    texts += [COLORS[name][side] for name in ("with", "without", "scaler")]  # the outcomes
    for text in texts:
        for ground in ("background", "surface"):
            assert contrast(text, colors[ground]) >= 4.5, (text, ground)
    assert contrast(colors["background"], colors["link"]) >= 4.5  # the button


def test_text_is_set_in_the_fonts_of_the_reader_and_nothing_is_smaller_than_12_pixels():
    assert SHEETS
    for sheet in SHEETS:
        text = re.sub(r"@media print.*", "", sheet.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert "@font-face" not in text
        sizes = re.findall(r"font(?:-size)?:[^;}]*?\b([\d.]+)rem", text)
        assert all(float(size) >= 0.75 for size in sizes), sheet.name


def test_rules_for_paper_stand_in_one_sheet():
    own = ("type", "frame", "code", "tables", "cards", "back_matter", "landing")
    for name in own:
        assert "@media print" not in (STATIC / f"{name}.css").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_fold_bar_says_what_it_holds(path):
    article = read(path).find("article")
    bars = [bar.get_text(strip=True) for bar in article.select("details > summary")]
    assert "Solution" in bars
    assert not [bar for bar in bars if "code cell" in bar or bar in {"The code", "The output"}]
    assert not article.select("summary[aria-label]")
    for details in article.select("details.bn-fold"):
        if match := re.fullmatch(r"The code that draws figure ([\d.]+)", details.summary.text):
            caption = details.find_next("figcaption").select_one(".caption-number").text
            assert caption.split()[-1] == match[1]


def test_words_of_a_fold_bar(extension):
    fold_bars = extension("fold_bars")

    def cell(source, *tags):
        return {"source": source, "metadata": {"tags": list(tags)}}

    below = cell("**Figure 1.2.** What it shows.")
    assert fold_bars.words(cell("# Solution\nx = 1", "hide-cell"), None) == "Solution"
    drawn = "The code that draws figure 1.2"
    assert fold_bars.words(cell("plots.finish(fig)", "hide-input"), below) == drawn
    assert fold_bars.words(cell("x = 1", "hide-input"), cell("Text.")) == "The code"
    assert fold_bars.words(cell("print(x)", "hide-output"), cell("Text.")) == "The output"
    notebook = {"cells": [cell("plots.finish(fig)", "hide-input"), below, cell("x = 1")]}
    source = [json.dumps(notebook)]
    app = SimpleNamespace(env=SimpleNamespace(doc2path=lambda name: f"{name}.ipynb"))
    fold_bars.name_bars(app, "notebooks/01", source)
    folded, _, plain = json.loads(source[0])["cells"]
    assert folded["metadata"]["mystnb"] == {"code_prompt_show": drawn, "code_prompt_hide": drawn}
    assert "mystnb" not in plain["metadata"]


def finding(low, mean, high, **settings):
    scale = settings.pop("scale", "linear")
    effect = Interval(mean, low, high, 10, scale=scale, standard_error=1.0, degrees=9)
    return Finding("what", effect, **settings)


def places(drawn, name):
    """Shares of the width at which an element of this class stands."""
    element = re.search(rf'<\w+ class="{name}"[^>]*>', drawn)[0]
    return [float(share) for share in re.findall(r'\b(?:x1?|x2|cx|width)="([\d.]+)%"', element)]


def test_an_interval_is_drawn_where_it_is(extension):
    bar = extension("interval_bars").bar
    drawn = bar(finding(0.02, 0.05, 0.08, margin=0.01, claimed="above"))
    low, high = places(drawn, "bn-range")
    start, width = places(drawn, "bn-claimed")
    (mean,) = places(drawn, "bn-mean")
    assert start < low < mean < high <= 90
    assert start + width == pytest.approx(100)
    assert mean == pytest.approx((low + high) / 2, abs=0.2)
    assert ">claimed<" in drawn
    # A ratio on its log scale: 2 is as far from 1 as 1/2.
    drawn = bar(finding(0.5, 1.0, 2.0, scale="log", margin=1.5, claimed="within"))
    low, high = places(drawn, "bn-range")
    assert places(drawn, "bn-mean")[0] == pytest.approx((low + high) / 2, abs=0.2)
    drawn = bar(finding(0.5, 1.0, float("inf"), scale="log", margin=1.5))
    assert places(drawn, "bn-range")[1] == 100
    # A scale has two numbers, also where the margin is near its middle.
    drawn = bar(finding(0.1, 0.11, 0.12, margin=0.01, claimed="above"))
    assert re.findall(r">([\d.]+)</text>", drawn) == ["0", "0.11"]
    exact = Interval(0.0, 0.0, 0.0, 1, confidence=1)
    assert bar(Finding("what", exact, claimed="below", margin=1e-9)) == ""


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_card_says_its_outcome_first_and_draws_what_was_measured(path):
    cards = read(path).select("section.bn-claim")
    for card in cards:
        assert card.find("p")["class"] == ["bn-claim-outcome"]
        assert card["data-outcome"] == card.strong.text.lower().replace(" ", "-")
        if card["data-kind"] == "measured" and "Seeds" in card.get_text():
            drawn = card.select_one("svg.bn-interval")
            assert drawn["aria-hidden"] == "true"
            assert len(drawn.select("text")) >= 3


@pytest.mark.parametrize("name", ["notebooks/07_batch_size", "book/claims"])
def test_negative_numbers_of_claims_have_a_minus(name):
    claims = read(HTML / f"{name}.html").select("section.bn-claim, details.bn-ledger-claim")
    text = " ".join(claim.get_text(" ") for claim in claims)
    assert re.search(r"[\[ ]\N{MINUS SIGN}0\.\d", text)
    assert not re.search(r"(?:^|[\s(\[])-\.?\d", text)


def test_levels_of_a_report_have_a_shape_of_their_own():
    reports = read(HTML / "notebooks" / "12_audit.html").select("section.bn-report[data-sound]")
    levels = {strong["data-level"] for report in reports for strong in report.select("td strong")}
    assert levels == {"error", "warning", "note"}
    assert not [
        strong for r in reports for strong in r.select("td strong") if "style" in strong.attrs
    ]


def test_the_landing_page_starts_and_names_every_chapter():
    article = read(HTML / "book" / "index.html").find("article")
    (start,) = article.select(".bn-start a")
    assert start["href"] == "introduction.html"
    assert article.select_one("p").text.startswith("Batch normalization is a layer that")
    links = article.select(".bn-chapters li a")
    assert [link["href"].rpartition("/")[2] for link in links] == [p.name for p in CHAPTERS]
    for link, path in zip(links, CHAPTERS, strict=True):
        assert link.strong.text == str(int(path.stem[:2]))
        assert link.text.endswith("?")
    assert len(article.select(".bn-ways li")) == 3
    assert article.select_one("figure.bn-explorable")
    bar = article.select_one(".bn-ledger-bar")
    summary = article.select(".bn-ledger-summary strong[data-outcome]")
    counts = {strong["data-outcome"]: strong.text for strong in summary}
    assert {part["data-outcome"]: part.text for part in bar.select("b")} == {
        outcome: number for outcome, number in counts.items() if number != "0"
    }


@pytest.mark.parametrize("name", ["book/index", "book/claims", "notebooks/01_motivation"])
def test_nothing_around_the_text_is_empty_or_there_twice(name):
    page = read(HTML / f"{name}.html")
    names = [nav.get("aria-label") or nav.get("aria-labelledby") for nav in page.find_all("nav")]
    assert len(names) == len(set(names))
    assert not [p for p in page.select("footer p") if not p.get_text(strip=True)]
    assert not page.select(".btn-fullscreen-button, #ethical-ad-placement")
    downloads = page.select(".dropdown-download-buttons")
    assert len(downloads) == name.startswith("notebooks/")


def test_a_row_of_claims_counts_all_its_outcomes_and_leads_to_each_chapter():
    page = read(HTML / "book" / "claims.html")
    for row in page.select(".bn-ledger-article > details"):
        for count in row.select("summary strong"):
            assert re.fullmatch(r"\d+ [a-z ]+", count.text)
        counts = [int(count.text.split()[0]) for count in row.select("summary strong")]
        assert sum(counts) == len(row.select("li strong"))
    jumps = page.select(".bn-ledger-jump a")
    assert len(jumps) == len(page.select("section[id^=chapter-]"))
    assert all(page.select(jump["href"]) for jump in jumps)


def test_the_first_page_and_links_to_sources_have_names_of_their_own():
    first = read(HTML / "book" / "index.html")
    assert first.title.text == first.select_one(".bn-book").text == "Batch Normalization, Measured"
    signatures = read(HTML / "book" / "api" / "norm.html").select("dt.sig:has(.viewcode-link)")
    names = [line.select_one("a:has(.viewcode-link)").get("aria-label", "") for line in signatures]
    assert names
    assert len(set(names)) == len(names)
    assert all(name.startswith("Source of ") for name in names)


def test_pictures_keep_their_place_before_they_are_there():
    for path in CHAPTERS:
        for picture in read(path).select("article img"):
            assert {"width", "height"} <= set(picture.attrs), picture
        for picture in read(path).select("article figure svg.bn-drawing"):
            assert "viewbox" in {key.lower() for key in picture.attrs}
