"""The built site in a real browser: what it asks the network for, how it fits, what axe-core says.

Skipped, with the reason, where no Chromium is installed; `.ci/run` installs one.
"""

import pytest
from browser import AXE, HTML, NO_BROWSER, watched

OF_REFERENCE = ("norm", "data", "cli")  # their pages are all made in one way
PATHS = [path for folder in ("book", "notebooks") for path in (HTML / folder).glob("*.html")]
PATHS += [HTML / "book" / "api" / f"{name}.html" for name in OF_REFERENCE]
PATHS += [path for path in HTML.glob("*.html") if path.stem != "index"]  # that only forwards
PAGES = sorted(path.relative_to(HTML).as_posix() for path in PATHS if path.exists())
# What is alike on all pages is looked at on these: the frame, in each color and at both widths.
SAMPLE = ("book/index.html", "book/cheatsheet.html", "notebooks/03_numpy.html")

# A layout must not hang on the fonts of one machine: these are wider than any that a reader has.
WIDE = """*:not(math, math *, [class*="fa-"]) {
  font-family: monospace !important; letter-spacing: 0.05em !important;
}"""
# The width of the page, and what sticks out of it: innermost elements that no ancestor clips.
STICKING_OUT = """() => {
  const edge = document.documentElement.clientWidth;
  const whole = document.documentElement.scrollWidth;
  if (whole <= edge) return [whole, []];
  const sticksOut = (e) => e.getBoundingClientRect().right > edge + 0.5;
  const clips = (e) => getComputedStyle(e).overflowX !== "visible";
  const clipped = (e) => e && (clips(e) || clipped(e.parentElement));
  const found = [...document.querySelectorAll("body *")].filter(
    (e) => sticksOut(e) && ![...e.children].some(sticksOut) && !clipped(e.parentElement));
  return [whole, found.slice(0, 4).map((e) => e.outerHTML.slice(0, 200))];
}"""

COLORS = ["color-contrast", "link-in-text-block"]
# axe looks at each text; a page has hundreds in the same color on the same ground. One of each:
# `place` is the page, or those of its texts that differ in color, size, weight or ground.
RUN_AXE = """async ([options, isWhole]) => {
  const looks = new Map([[null, ""]]);
  const texts = new Map();
  const look = (e) => {
    if (!looks.has(e)) {
      const { color, backgroundColor, backgroundImage, opacity } = getComputedStyle(e);
      looks.set(e, `${look(e.parentElement)}|${[backgroundColor, backgroundImage, opacity]
        .filter((one) => !["none", "1", "rgba(0, 0, 0, 0)"].includes(one))}`);
    }
    return looks.get(e);
  };
  const isText = (node) => node.nodeType === Node.TEXT_NODE && node.data.trim();
  const textOf = (e) => {
    const { color, fontSize, fontWeight, textDecorationLine } = getComputedStyle(e);
    return [color, fontSize, fontWeight, textDecorationLine].join();
  };
  for (const e of isWhole ? [] : document.body.querySelectorAll("*")) {
    if (![...e.childNodes].some(isText) || !e.checkVisibility()) continue;
    const key = `${textOf(e)}|${textOf(e.parentElement)}|${look(e)}`;
    if (!texts.has(key)) texts.set(key, e);
  }
  const place = isWhole ? document : { include: [...texts.values()] };
  const wanted = { resultTypes: ["violations"], selectors: false, preload: false, ...options };
  const { violations } = await axe.run(place, wanted);
  return violations.map((one) => [one.id, one.impact, ...one.nodes.slice(0, 3).map((node) =>
    [node.html, node.any[0]?.message ?? ""])]);
}"""
OPEN_ALL = "document.querySelectorAll('details').forEach((e) => { e.open = true; })"
SET_THEME = "(theme) => { document.documentElement.dataset.theme = theme; }"
MENU = "#pst-primary-sidebar-modal nav a, #pst-primary-sidebar-modal button"
# What is shown in these places and less than 44 pixels high or wide.
TOO_SMALL = """(places) => [...document.querySelectorAll(places)]
  .map((e) => [e.outerHTML.slice(0, 80), e.getBoundingClientRect()])
  .filter(([, box]) => box.width && (box.height < 43.9 || box.width < 43.9))
  .map(([text, box]) => [text, box.width, box.height])"""
FOCUS = "document.activeElement"

pytestmark = NO_BROWSER


@pytest.fixture(scope="module")
def window(browser, address):
    """One window in which page after page is opened; what each asks for is kept."""
    context = browser.new_context(reduced_motion="reduce")
    yield watched(context.new_page())
    context.close()


def check_first_screen(page):
    """A chapter begins, on a phone, with its title, its question and a picture."""
    top = "(e) => e.getBoundingClientRect().top"
    paragraph, figure = page.locator("article p").first, page.locator("article figure").first
    assert page.locator("article h1").evaluate(top) < paragraph.evaluate(top)
    assert paragraph.evaluate(top) < figure.evaluate(top) < 844


def check_widths(page):
    """No page scrolls sideways, whatever the fonts."""
    for fonts, widths in (("normal", (768, 390, 360, 320)), ("wide", (768, 320))):
        if fonts == "wide":
            style = page.add_style_tag(content=WIDE)
        for width in widths:
            page.set_viewport_size({"width": width, "height": 900})
            whole, sticking_out = page.evaluate(STICKING_OUT)
            assert whole <= width, (fonts, width, sticking_out)
    style.evaluate("(style) => style.remove()")


def check_access(page, states):
    """No finding of any impact, with all that can be folded open."""
    page.evaluate(AXE)
    page.evaluate(OPEN_ALL)
    rules = {
        "colors": {"runOnly": {"type": "rule", "values": COLORS}},
        "shapes": {"rules": {rule: {"enabled": False} for rule in COLORS}},
    }
    for width, theme, what in states:
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate(SET_THEME, theme)
        found = page.evaluate(RUN_AXE, [rules[what], what == "shapes"])
        assert found == [], (width, theme, what)


@pytest.mark.parametrize("path", PAGES)
def test_page_keeps_to_itself_fits_and_is_accessible(window, address, path):
    """All that holds for every page, in one visit.

    Colors change with the theme and names with neither, so axe's rules are shared out: shapes and
    names on a phone, colors on a phone in the dark and on a desk in the light. What a desk shows
    besides (header, sidebars) is alike on all pages: SAMPLE is looked at in all four states. Of the
    reference, whose pages are made in one way, three are visited.
    """
    window.asked.clear()
    window.troubles.clear()
    window.set_viewport_size({"width": 390, "height": 900})
    window.goto(address + path)
    if path.startswith("notebooks/"):
        check_first_screen(window)
    check_widths(window)
    states = [(390, "light", "shapes"), (390, "dark", "colors"), (1280, "light", "colors")]
    if path in SAMPLE:
        states += [(390, "light", "colors"), (1280, "dark", "colors"), (1280, "dark", "shapes")]
    check_access(window, states)
    assert not [url for url in window.asked if not url.startswith((address, "data:", "blob:"))]
    assert not window.troubles


def test_a_color_that_cannot_be_read_is_found_wherever_it_is(window, address):
    window.goto(address + SAMPLE[0])
    window.evaluate("document.querySelector('article p:last-of-type').style.color = '#ccc'")
    with pytest.raises(AssertionError, match="color-contrast"):
        check_access(window, [(390, "light", "colors")])


def test_a_finger_finds_what_it_can_press(visit):
    page = visit("notebooks/07_batch_size.html", width=390, is_mobile=True, has_touch=True)
    for places in ("article summary, .bd-header-article .btn, .prev-next-area a", MENU):
        if places == MENU:
            page.click("button.primary-toggle")
            page.wait_for_function("document.querySelector('#pst-primary-sidebar-modal').open")
        low = page.evaluate(TOO_SMALL, places)
        assert low == [], low
    name = page.locator(MENU, has_text="reference").first  # words and code keep their spaces
    assert name.inner_text().split() == ["The", "bnutils", "reference"]


def test_keys_keep_their_place(visit):
    page = visit("notebooks/01_motivation.html", width=768)

    def press(selector, key="Enter"):
        page.focus(selector)
        page.keyboard.press(key)

    def has_focus(selector):
        page.wait_for_function(f"{FOCUS}?.matches({selector!r})", timeout=5_000)

    for mode in ("dark", "light", "as the system"):
        press(".theme-switch-button")
        has_focus(f'.theme-switch-button[aria-label="Color mode: {mode}"]')
    press(".bd-header-article .search-button")
    has_focus("#pst-search-dialog input")
    page.keyboard.press("Escape")
    has_focus(".bd-header-article .search-button")
    for side, name in (("primary", "Contents"), ("secondary", "On this page")):
        button = f'.{side}-toggle[aria-label="{name}"]'
        press(f'{button}[aria-expanded="false"]')
        has_focus(f"#pst-{side}-sidebar-modal *")
        assert page.get_attribute(button, "aria-expanded") == "true"
        page.keyboard.press("Escape")
        has_focus(f'{button}[aria-expanded="false"]')
    press(".secondary-toggle")
    has_focus("#pst-secondary-sidebar-modal *")
    press('#pst-secondary-sidebar-modal a[href="#one-neuron"]')
    has_focus("#one-neuron > h2")
    press(".dropdown-download-buttons > button")
    assert page.locator(".dropdown-menu a").is_visible()
    button, menu = map(page.locator, (".dropdown-download-buttons > button", ".dropdown-menu"))
    assert abs(button.bounding_box()["x"] - menu.bounding_box()["x"]) < 150
    page.focus(".theme-switch-button")
    assert not page.locator(".dropdown-menu a").is_visible()


def test_the_focus_is_seen(visit):
    page = visit("notebooks/01_motivation.html")
    ring = f"(({{ outline }}) => outline)(getComputedStyle({FOCUS}))"
    rings = set()
    places = (
        "#pst-skip-link a",
        "#pst-primary-sidebar nav li a",
        "#pst-page-toc-nav a",
        ".search-button-field",
        ".theme-switch-button",
        "article section > p a",
        "article details > summary",
        "article button.copybtn",
        ".prev-next-area a",
    )
    page.keyboard.press("Tab")  # from here on the browser shows the focus
    for place in places:
        page.locator(f"{place} >> visible=true").first.focus()
        assert page.evaluate(f"{FOCUS}.matches({place!r})"), place
        rings.add(page.evaluate(ring))
    (same,) = rings
    assert "solid" in same
    assert "3px" in same


def test_text_half_as_large_again_has_its_room(visit):
    page = visit("notebooks/01_motivation.html")
    sizes = {"fontSizes": {"standard": 24, "fixed": 20}}
    page.context.new_cdp_session(page).send("Page.setFontSizes", sizes)
    page.wait_for_function("getComputedStyle(document.documentElement).fontSize === '24px'")
    width = "(e) => e.getBoundingClientRect().width"
    assert page.locator("article p").first.evaluate(width) > 800
    assert not page.locator("#pst-secondary-sidebar").is_visible()
    assert page.locator(".secondary-toggle").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    field = page.locator("#pst-primary-sidebar .search-button-field")
    assert field.evaluate("(e) => e.scrollWidth <= e.clientWidth")
    check_access(page, [(1280, "light", "shapes"), (1280, "light", "colors")])
    page.click(".secondary-toggle")
    drawer = page.locator("#pst-secondary-sidebar-modal")
    assert drawer.bounding_box()["x"] + drawer.bounding_box()["width"] == pytest.approx(
        1280, abs=20
    )
    assert drawer.locator("a").first.is_visible()


def test_what_is_cut_off_fades_as_long_as_there_is_more(visit):
    page = visit("notebooks/05_inputs_and_outputs.html", width=390)
    fades = page.evaluate(
        """async () => {
          const seen = [...document.querySelectorAll("article div.highlight pre")].filter(
            (e) => e.checkVisibility() && getComputedStyle(e).overflowX === "auto");
          const fades = (e) => getComputedStyle(e).maskImage.startsWith("linear-gradient");
          const cut = seen.filter((e) => e.scrollWidth > e.clientWidth + 1);
          const whole = seen.filter((e) => e.scrollWidth <= e.clientWidth);
          const result = [cut.map(fades), whole.map(fades)];
          for (const e of cut) e.scrollTo({ left: e.scrollWidth, behavior: "instant" });
          const frame = () => new Promise((done) => requestAnimationFrame(done));
          for (let i = 0; i < 3; i += 1) await frame();
          return [...result, cut.map(fades)];
        }"""
    )
    cut, whole, at_the_end = fades
    assert cut
    assert all(cut)
    assert whole
    assert not any(whole)
    assert not any(at_the_end)
