"""The built site in a real browser: what it asks the network for, how it fits, what axe-core says.

Skipped, with the reason, where no Chromium is installed; `.ci/run` installs one.
"""

import functools
import http.server
import shutil
import threading
from pathlib import Path

import pytest
from axe_core_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

HTML = Path(__file__).resolve().parents[1] / "_build" / "html"
FOLDERS = ("book", "notebooks")
PAGES = sorted(str(p.relative_to(HTML)) for f in FOLDERS for p in (HTML / f).glob("*.html"))
OTHERS = sorted(p.name for p in HTML.glob("*.html") if p.stem != "index")  # that only forwards
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)

# A layout must not hang on the fonts of one machine: these are wider than any that a reader has.
WIDE = """*:not(mjx-container, mjx-container *, [class*="fa-"]) {
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

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address():
    handler = functools.partial(QuietHandler, directory=HTML)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address):
    """Open a page in a given theme and width; collect what it asks for and what goes wrong.

    `quiet` waits until it has asked for nothing for half a second.
    """
    contexts = []

    def go(path, theme="light", width=1280, quiet=False):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=theme, reduced_motion="reduce"
        )
        contexts.append(context)
        page = context.new_page()
        page.asked, page.troubles = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.troubles.append(str(error)))
        page.on("requestfailed", lambda request: page.troubles.append(request.url))
        page.on(
            "response",
            lambda response: response.status >= 400 and page.troubles.append(response.url),
        )
        page.goto(address + path, wait_until="networkidle" if quiet else "load")
        page.evaluate("() => window.MathJax?.startup?.promise")  # formulas are typeset
        return page

    yield go
    for context in contexts:
        context.close()


@pytest.mark.parametrize("path", PAGES)
def test_page_asks_only_its_own_server_and_typesets_its_math(visit, address, path):
    page = visit(path, quiet=True)
    assert not [url for url in page.asked if not url.startswith((address, "data:", "blob:"))]
    assert not page.troubles
    raw = page.locator("article .math").count()
    assert page.locator("article mjx-container").count() >= raw
    assert page.locator("article mjx-merror").count() == 0


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
