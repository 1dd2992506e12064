"""The built site in a real browser: what it asks the network for, how it fits, what axe-core says.

Skipped, with the reason, where no Chromium is installed; `.ci/run` installs one.
"""

import pytest
from axe_core_python.sync_playwright import Axe
from browser import HTML, NO_BROWSER

FOLDERS = ("book", "notebooks")
PAGES = sorted(str(p.relative_to(HTML)) for f in FOLDERS for p in (HTML / f).glob("*.html"))
OTHERS = sorted(p.name for p in HTML.glob("*.html") if p.stem != "index")  # that only forwards

# A layout must not hang on the fonts of one machine: these are wider than any that a reader has.
WIDE = """*:not(math, math *, [class*="fa-"]) {
  font-family: monospace !important; letter-spacing: 0.05em !important;
}"""
# The width of the page, and what sticks out of it: innermost elements that no ancestor clips.
STICKING_OUT = """() => {
  const edge = document.documentElement.clientWidth;
  const sticksOut = (e) => e.getBoundingClientRect().right > edge + 0.5;
  const clips = (e) => getComputedStyle(e).overflowX !== "visible";
  const clipped = (e) => e && (clips(e) || clipped(e.parentElement));
  const found = [...document.querySelectorAll("body *")].filter(
    (e) => sticksOut(e) && ![...e.children].some(sticksOut) && !clipped(e.parentElement));
  const texts = found.slice(0, 4).map((e) => e.outerHTML.slice(0, 200));
  return [document.documentElement.scrollWidth, texts];
}"""

pytestmark = NO_BROWSER


@pytest.mark.parametrize("path", PAGES)
def test_page_asks_only_its_own_server(visit, address, path):
    page = visit(path, quiet=True)
    assert not [url for url in page.asked if not url.startswith((address, "data:", "blob:"))]
    assert not page.troubles


@pytest.mark.parametrize("path", [*PAGES, *OTHERS])
def test_page_fits_a_phone_whatever_the_fonts(visit, path):
    page = visit(path, width=390)
    for fonts in ("normal", "wide"):
        if fonts == "wide":
            page.add_style_tag(content=WIDE)
        for width in (390, 360, 320):
            page.set_viewport_size({"width": width, "height": 900})
            whole, sticking_out = page.evaluate(STICKING_OUT)
            assert whole <= width, (fonts, width, sticking_out)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_article_is_accessible(visit, path, theme):
    page = visit(path, theme)
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    levels = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
    # The other theme is the same page in other colors.
    colors = {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}
    rules = {"runOnly": levels if theme == "light" else colors}
    found = Axe().run(page, context="article", options=rules)["violations"]
    serious = [v for v in found if v["impact"] in ("serious", "critical")]
    assert not serious, [(v["id"], v["nodes"][0]["html"]) for v in serious]
