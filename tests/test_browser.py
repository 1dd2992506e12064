"""The built site in a real browser: what it asks the network for, how it fits, what axe-core says.

Skipped, with the reason, where no Chromium is installed; `.ci/run` installs one.
"""

import pytest
from axe_core_python.sync_playwright import Axe
from browser import HTML, NO_BROWSER

FOLDERS = ("book", "book/api", "notebooks")
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

COLOR_RULES = ["color-contrast", "link-in-text-block"]
SAMPLE = ("book/index.html", "book/cheatsheet.html", "notebooks/12_audit.html")
RUN_AXE = """async (options) => {
  const wanted = { resultTypes: ["violations"], selectors: false, preload: false, ...options };
  const { violations } = await axe.run(document, wanted);
  return violations.map((one) => [one.id, one.impact, ...one.nodes.slice(0, 3).map((node) =>
    [node.html, node.any[0]?.message ?? ""])]);
}"""
OPEN_ALL = "document.querySelectorAll('details').forEach((e) => { e.open = true; })"
MENU = "#pst-primary-sidebar-modal nav a, #pst-primary-sidebar-modal button"
# What is shown in these places and less than 44 pixels high or wide.
TOO_SMALL = """(places) => [...document.querySelectorAll(places)]
  .map((e) => [e.outerHTML.slice(0, 80), e.getBoundingClientRect()])
  .filter(([, box]) => box.width && (box.height < 43.9 || box.width < 43.9))
  .map(([text, box]) => [text, box.width, box.height])"""

pytestmark = NO_BROWSER


@pytest.mark.parametrize("path", PAGES)
def test_page_asks_only_its_own_server(visit, address, path):
    page = visit(path, quiet=True)
    assert not [url for url in page.asked if not url.startswith((address, "data:", "blob:"))]
    assert not page.troubles


@pytest.mark.parametrize("path", [*PAGES, *OTHERS])
def test_page_fits_narrow_screens_whatever_the_fonts(visit, path):
    page = visit(path, width=390)
    for fonts in ("normal", "wide"):
        if fonts == "wide":
            page.add_style_tag(content=WIDE)
        for width in (768, 390, 360, 320):
            page.set_viewport_size({"width": width, "height": 900})
            whole, sticking_out = page.evaluate(STICKING_OUT)
            assert whole <= width, (fonts, width, sticking_out)


@pytest.mark.parametrize("path", PAGES)
def test_page_is_accessible_on_a_desk_and_a_phone_light_and_dark(visit, path):
    page = visit(path, width=390)
    page.evaluate(Axe().axe_script)
    page.evaluate(OPEN_ALL)
    # The other theme is the same page in other colors; a phone shows them on other elements only.
    colors = {"runOnly": {"type": "rule", "values": COLOR_RULES}}
    shapes = {"rules": {rule: {"enabled": False} for rule in COLOR_RULES}}
    states = [(390, "dark", shapes), (1280, "dark", colors), (1280, "light", {})]
    if path in SAMPLE:
        states = [(390, "light", colors), (390, "dark", colors), *states]
    for width, theme, options in states:
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate("(theme) => { document.documentElement.dataset.theme = theme; }", theme)
        found = page.evaluate(RUN_AXE, options)
        assert found == [], (width, theme)


def test_a_finger_finds_what_it_can_press(visit):
    page = visit("notebooks/07_batch_size.html", width=390, is_mobile=True, has_touch=True)
    for places in ("article summary, .bd-header-article .btn, .prev-next-area a", MENU):
        if places == MENU:
            page.click("button.primary-toggle")
            page.wait_for_function("document.querySelector('#pst-primary-sidebar-modal').open")
        low = page.evaluate(TOO_SMALL, places)
        assert low == [], low


@pytest.mark.parametrize("path", [p for p in PAGES if p.startswith("notebooks/")])
def test_the_first_screen_of_a_phone_shows_title_question_and_picture(visit, path):
    page = visit(path, width=390)
    top = "(e) => e.getBoundingClientRect().top"
    paragraph, figure = page.locator("article p").first, page.locator("article figure").first
    assert page.locator("article h1").evaluate(top) < paragraph.evaluate(top)
    assert paragraph.evaluate(top) < figure.evaluate(top) < 844


def test_what_is_cut_off_shows_that_there_is_more(visit):
    page = visit("notebooks/05_inputs_and_outputs.html", width=390)
    places = ("article div.highlight pre", "article .pst-scrollable-table-container")
    for element in (page.locator(place).first for place in places):
        overflow, layers = element.evaluate(
            "(e) => [getComputedStyle(e).overflowX, getComputedStyle(e).backgroundAttachment]"
        )
        assert overflow == "auto"
        # The sheet that covers a shadow moves with what is read, the shadow stays at the edge.
        assert set(layers.split(", ")) == {"local", "scroll"}
