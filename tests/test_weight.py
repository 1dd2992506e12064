"""What a page weighs, what it asks for, and that nothing on it moves or is lost by being light."""

import functools
import gzip
import importlib
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import NO_BROWSER
from bs4 import BeautifulSoup

from bnutils.plots import COLORS

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
PAGES = [
    p
    for p in sorted(HTML.rglob("*.html"))
    if "_static" not in p.parts and "data-content_root" in p.read_text("utf-8")
]
KILOBYTES, REQUESTS = 300, 25
SHIFT = """() => new Promise((resolve) => {
  let shift = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) shift += entry.value;
  }).observe({ type: "layout-shift", buffered: true });
  setTimeout(() => resolve(shift), 50);
})"""


@pytest.fixture
def extension(monkeypatch):
    """Import a module of book/_ext by name."""
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    return importlib.import_module


@functools.cache
def packed(path):
    """Bytes of a file as a server sends them."""
    body = path.read_bytes()
    return len(body if path.suffix in (".woff", ".woff2", ".png") else gzip.compress(body, 6))


def asked(path):
    """The files of a page that a browser fetches before the reader does anything."""
    page = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
    found = [path]
    for element in page.select("script[src], img[src], link[rel=stylesheet], link[rel=icon]"):
        if element.get("loading") != "lazy":
            address = urlsplit(element.get("src") or element.get("href"))
            if address.scheme != "data":
                found.append((path.parent / unquote(address.path)).resolve())
    for sheet in [file for file in found if file.suffix == ".css"]:
        text = sheet.read_text(encoding="utf-8")
        assert "@import" not in text
        fonts = re.findall(r"url\(\"?([^)\"]+\.woff2?)", text)
        found += [(sheet.parent / font).resolve() for font in fonts]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(HTML).as_posix())
def test_a_page_keeps_the_budget(path):
    files = asked(path)
    sizes = {file.name: packed(file) for file in files}
    assert sum(sizes.values()) <= KILOBYTES * 1000, sizes
    assert len(files) <= REQUESTS, sizes


def test_every_page_asks_for_the_same_one_sheet_and_script_with_the_same_key():
    keys = {
        tuple(re.findall(r"_static/site\.(?:css|js)\?v=\w+", page.read_text("utf-8")))
        for page in PAGES
    }
    assert len(keys) == 1
    assert len(keys.pop()) == 2


def test_nothing_stops_the_first_paint_but_sheets_the_theme_and_the_font_of_formulas():
    for path in PAGES:
        for script in re.findall(r"<script\b[^>]* src=[^>]*>", path.read_text(encoding="utf-8")):
            assert re.search(r' (defer\b|async\b|blocking="render")', script), (path.name, script)


def test_what_the_pages_show_has_its_rules_and_its_icons(extension):
    icons, sheets = extension("icons"), extension("stylesheets")
    text = (HTML / "_static" / "site.css").read_text(encoding="utf-8")
    assert "/*! Icons: Font Awesome Free" in text, "its license asks for that"
    classes = {
        name
        for path in PAGES
        for name in re.findall(r'class="[^"]*\b(fa-[\w-]+)', path.read_text("utf-8"))
    }
    shapes = classes - {"fa-solid", "fa-brands", "fa-regular", "fa-lg"}
    assert len(shapes) >= 8
    for name in shapes:
        assert f".{name}:before" in text, name
    rules = sheets.read(HTML / "_static" / "site.css", HTML / "_static")
    assert 10 < len(icons.shown(rules)) < 60
    for state in (".dropdown-menu.show", "[data-theme=dark]", "dialog", ".copybtn", ".highlight"):
        assert state in text, state


def used(sheets, css, page, script="", tmp_path=None):
    (tmp_path / "one.css").write_text(css, encoding="utf-8")
    words = sheets.Words([page], [script])
    rules = sheets.used(sheets.read(tmp_path / "one.css", tmp_path), words)
    return sheets.text_of(sheets.without_idle_names(rules, words))


@pytest.mark.parametrize(
    ("css", "kept"),
    [
        (".a{color:red}.b{color:red}", ".a{color:red}"),
        (".a, .b > p{color:red}", ".a{color:red}"),
        (".a:hover::before{color:red}", ".a:hover::before{color:red}"),
        (".a:not(.b){color:red}", ".a:not(.b){color:red}"),
        (".a:is(.b, .made){color:red}", ".a:is(.b, .made){color:red}"),
        (".a:is(.b, .c){color:red}", ""),
        ("html[data-theme=dark] .a{color:red}", "html[data-theme=dark] .a{color:red}"),
        ("@media print{.a{color:red}.b{color:red}}", "@media print{.a{color:red}}"),
        ("@media print{.b{color:red}}", ""),
        (":root{--x:1;--y:2}.a{margin:var(--x)}", ":root{--x:1}.a{margin:var(--x)}"),
        ("@keyframes k{to{margin:0}}.a{color:red}", ".a{color:red}"),
        ("@font-face{font-family:F;src:url(f.woff)}.a{color:red}", ".a{color:red}"),
        (".a{&.b{color:red}&.made{color:blue}}", ".a{&.made{color:blue}}"),
    ],
)
def test_a_sheet_keeps_what_can_match(extension, tmp_path, css, kept):
    page = '<html data-theme="light"><p class="a">'
    script = 'p.classList.add("made"); document.documentElement.dataset.theme = "dark";'
    assert used(extension("stylesheets"), css, page, script, tmp_path) == kept


def test_addresses_lead_on_from_where_the_joined_sheet_lies(extension, tmp_path):
    (tmp_path / "styles").mkdir()
    (tmp_path / "styles" / "one.css").write_text(
        '@import "../two.css"; p{background:url(../a.svg);cursor:url("b.svg")}', encoding="utf-8"
    )
    (tmp_path / "two.css").write_text("p{background:url(data:x)}", encoding="utf-8")
    sheets = extension("stylesheets")
    text = sheets.text_of(sheets.read(tmp_path / "styles" / "one.css", tmp_path))
    assert text == 'p{background:url(data:x)}p{background:url(a.svg);cursor:url("styles/b.svg")}'


PATH = "M 10.1234 20.5 L 11.1234 20.5 L 11.1239 -3 Q 1 2 3.5 4 C 1 2 3 4 5 6 z M 7 7 L 8 8 z"


def test_a_path_in_steps_goes_to_the_same_places(extension):
    figures = extension("figures")
    short = figures.short_path(PATH)
    assert len(short) < len(PATH)
    places = {"m": 1, "l": 1, "q": 2, "c": 3, "z": 0}
    x = y = 0.0
    start, got, command, at = (0, 0), [], "", 0
    tokens = figures.COMMAND.findall(short)
    while at < len(tokens):
        if tokens[at].isalpha():
            command, at = tokens[at], at + 1
        elif command == "m":
            command = "l"
        pairs = [float(t) for t in tokens[at : at + 2 * places[command]]]
        at += len(pairs)
        ends = [(x + a, y + b) for a, b in zip(pairs[::2], pairs[1::2], strict=True)]
        got += ends
        x, y = ends[-1] if ends else start
        start = (x, y) if command == "m" else start
    numbers = [float(n) for n in figures.NUMBER.findall(PATH)]
    want = list(zip(numbers[::2], numbers[1::2], strict=True))
    assert [v for p in got for v in p] == pytest.approx([v for p in want for v in p], abs=0.006)
    assert figures.short_path("M 0 0 A 1 1 0 0 0 2 2") == "M 0 0 A 1 1 0 0 0 2 2"


SVG = """<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"
  width="72pt" height="36pt" viewBox="0 0 72 36">
 <metadata/><defs><style type="text/css">*{stroke-linejoin: round; stroke-linecap: butt}</style>
 </defs><g id="figure_1"><g style="fill: #1f2430" transform="translate(1.23456 2) scale(0.1 -0.1)">
 <defs><path id="F-1" d="M 640 0 L 1280 64 z" transform="scale(0.015625)"/></defs>
 <use xlink:href="#F-1"/></g>
 <path d="M 0 0 L 1 1" clip-path="url(#p1)" style="fill: none; stroke: #0072B2"/>
 <rect fill="COLOR" width="3.00001"/><defs><clipPath id="p1"><rect width="1"/></clipPath></defs>
 </g></svg>"""


def inlined(figures, folder, color="#ffffff"):
    (folder / "_images").mkdir(exist_ok=True)
    (folder / "_images" / "a.svg").write_text(SVG.replace("COLOR", color), encoding="utf-8")
    image = '<img alt="A &amp; b" class="wide" src="_images/a.svg" />'
    return figures.inlined(f"<article>{image}{image}</article>", "a page", folder)[0]


def test_a_drawing_stands_in_the_page_in_the_colors_of_the_theme(extension, tmp_path):
    text = inlined(extension("figures"), tmp_path)
    assert "<img" not in text
    page = BeautifulSoup(text, "html.parser")
    first, _ = page.select("svg.bn-drawing")
    assert first["class"] == ["wide", "bn-drawing"]
    assert (first["role"], first["aria-label"]) == ("img", "A & b")
    assert (first["width"], first["height"]) == ("96", "48")
    assert first.select_one("rect")["style"] == f"fill:var(--bn-{'ground'})"
    assert "stroke:var(--bn-with)" in first.find("path", {"clip-path": True})["style"]
    ids = [element["id"] for element in page.select("[id]")]
    assert len(ids) == len(set(ids)) == 3, "two clips, and one letter for both"
    for use in page.select("use"):
        assert page.find(id=use["href"][1:]).find_parent("svg")["class"] == ["bn-letters"]
    clips = {re.search(r"#([\w-]+)", e["clip-path"])[1] for e in page.select("[clip-path]")}
    assert clips == {clip["id"] for clip in page.find_all("clippath")}


def test_a_color_without_a_name_is_a_warning(extension, tmp_path, monkeypatch):
    figures, told = extension("figures"), []
    monkeypatch.setattr(figures.logger, "warning", lambda *message: told.append(message[1:]))
    assert "fill:#123456" in inlined(figures, tmp_path, "#123456")
    assert set(told) == {("a page", "a.svg", "#123456")}


def test_the_colors_of_figures_are_variables_on_every_page():
    text = (HTML / "_static" / "site.css").read_text(encoding="utf-8")
    for name, (light, dark) in COLORS.items():
        assert f"--bn-{name}:{light};" in text
        assert f"--bn-{name}:{dark};" in text


def test_no_two_things_on_a_page_have_one_name():
    for path in PAGES:
        ids = re.findall(r'<[^>]*\bid="([^"]+)"', path.read_text(encoding="utf-8"))
        drawn = [one for one in ids if one.startswith(("bn-d", "bn-l"))]
        assert len(drawn) == len(set(drawn)), path.name


@NO_BROWSER
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize(
    "path", ["book/index.html", "book/introduction.html", "notebooks/01_motivation.html"]
)
def test_nothing_moves_and_little_is_asked_for(visit, path, width):
    page = visit(path, width=width, quiet=True)
    assert page.evaluate(SHIFT) < 0.01
    assert len([url for url in page.asked if not url.startswith("data:")]) <= REQUESTS
    assert not page.troubles


@NO_BROWSER
def test_the_theme_is_chosen_before_anything_is_drawn(visit):
    ask = "[document.documentElement.dataset.theme, document.documentElement.dataset.mode]"
    page = visit("notebooks/01_motivation.html", theme="dark")
    assert page.evaluate(ask) == ["dark", "auto"]
    color = "getComputedStyle(document.documentElement).getPropertyValue('--bn-ink')"
    assert page.evaluate(color) == COLORS["ink"][1]
    button = page.locator(".theme-switch-button:visible").first
    button.click()
    assert page.evaluate(ask) == ["light", "light"]
    assert page.evaluate(color) == COLORS["ink"][0]
    page.reload()
    assert page.evaluate(ask) == ["light", "light"]
    plain = visit("notebooks/01_motivation.html", theme="dark", java_script_enabled=False)
    assert plain.locator("html").get_attribute("data-theme") == "light"


@NO_BROWSER
def test_menus_contents_and_copy_buttons_work_from_a_file(visit):
    page = visit((HTML / "notebooks" / "01_motivation.html").as_uri())
    button = page.locator(".dropdown-download-buttons button").first
    menu = page.locator(".dropdown-download-buttons .dropdown-menu")
    button.click()
    assert menu.is_visible()
    box = menu.bounding_box()
    assert 0 <= box["x"] <= 1280 - box["width"]
    assert button.get_attribute("aria-expanded") == "true"
    page.mouse.move(0, 0)
    page.keyboard.press("Escape")
    assert not menu.is_visible()
    assert button.get_attribute("aria-expanded") == "false"
    page.keyboard.press("Control+k")
    assert page.locator("#pst-search-dialog").is_visible()
    page.keyboard.press("Escape")
    section = page.locator("article section section").nth(2)
    section.evaluate("(e) => e.scrollIntoView({ behavior: 'instant' })")
    active = page.locator("#pst-page-toc-nav a.active")
    active.first.wait_for()
    assert f"#{section.get_attribute('id')}" in [
        link.get_attribute("href") for link in active.all()
    ]
    copy = page.locator(".highlight:visible .copybtn").first
    page.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    copy.click()
    code = copy.locator("xpath=..").locator("pre").text_content()
    assert page.evaluate("window.copied") == code.removesuffix("\n")
    assert not page.troubles


@NO_BROWSER
def test_on_a_phone_the_sidebar_opens_and_closes(visit):
    page = visit("notebooks/01_motivation.html", width=390)
    page.locator(".primary-toggle").first.click()
    dialog = page.locator("#pst-primary-sidebar-modal")
    assert dialog.is_visible()
    assert dialog.get_by_role("link", name="The claims").is_visible()
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
