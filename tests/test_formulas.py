"""Formulas: each in the book is set, its font has what it needs, and no page has TeX to be read."""

import html
import importlib.util
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from browser import NO_BROWSER
from bs4 import BeautifulSoup
from markdown_it import MarkdownIt
from math_core import LatexError
from mdit_py_plugins.dollarmath import dollarmath_plugin

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
EXTENSION = ROOT / "book" / "_ext" / "formulas.py"
SOURCES = [*sorted(ROOT.glob("book/*.md")), *sorted(ROOT.glob("notebooks/*.ipynb"))]
PAGES = sorted(p for folder in ("book", "notebooks") for p in (HTML / folder).glob("*.html"))
TEX = re.compile(r"\\[()\[\]]|\\[A-Za-z]{2,}|\$[^$\s][^$]*\$")


@cache
def extension():
    spec = importlib.util.spec_from_file_location("formulas_extension", EXTENSION)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_formulas(path):
    """The formulas of a source: TeX, and whether it stands on a line of its own."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [c for c in json.loads(text)["cells"] if c["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    tokens = MarkdownIt().use(dollarmath_plugin).enable("table").parse(text)
    for token in tokens:
        for one in [token, *(token.children or [])]:
            if one.type.startswith("math"):
                yield one.content, one.type == "math_block"


FORMULAS = {path: list(read_formulas(path)) for path in SOURCES}
EVERY = sorted({formula for formulas in FORMULAS.values() for formula in formulas})
COMMANDS = sorted({c for tex, _ in EVERY for c in re.findall(r"\\(?:[A-Za-z]+|.)", tex)})


@cache
def page(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def set_formula(tex, display=False):
    return BeautifulSoup(extension().convert(tex, display), "html.parser").math


def sheet(name="formulas.css"):
    return (HTML / "_static" / name).read_text(encoding="utf-8")


def face():
    return sheet("formulas-font.css")


def test_the_book_has_formulas():
    assert len(EVERY) > 100
    assert len(COMMANDS) > 20


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_of_the_book_is_known(command):
    for tex, display in EVERY:
        if command in tex:
            math = set_formula(tex, display)
            assert math.find_all(["mi", "mn", "mo", "mtext"])
            assert not math.find("merror")
            assert "\\" not in math.text
            assert math["alttext"] == " ".join(tex.split())


def test_a_formula_has_the_structure_of_its_tex():
    math = set_formula(r"\hat x_i=\frac{x_i-\mu}{\sqrt{\sigma^2+\epsilon}}", display=True)
    assert math["display"] == "block"
    above, below = math.mfrac.find_all(True, recursive=False)
    assert above.text == "xi−μ"
    assert below.name == "msqrt"
    assert [part.text for part in below.msup.find_all(True)] == ["σ", "2"]
    hat = math.msub.mover
    assert (hat["accent"], hat.mi.text) == ("true", "x")


def test_lines_that_are_aligned_are_rows():
    rows = set_formula(r"\begin{aligned} a &= b \\ cc &= d \end{aligned}", display=True).find_all(
        "mtr"
    )
    assert [[cell.text for cell in row("mtd")] for row in rows] == [["a", "=b"], ["cc", "=d"]]


def test_words_brackets_and_primes():
    assert set_formula(r"\text{moving}").mtext.text == "moving"
    assert set_formula(r"\operatorname{var}(z)").mi.text == "var"
    assert [mo.text for mo in set_formula(r"\langle x \rangle")("mo")] == ["⟨", "⟩"]
    assert set_formula("W'").msup.mo.text == "′"
    assert "display" not in set_formula("x").attrs


def test_signs_of_html_are_escaped():
    assert 'alttext="a &lt; b &quot;"' in extension().convert('a < b "', False)


@pytest.mark.parametrize("tex", [r"\nosuchcommand x", "{x", r"\frac{1}", "x & y", "x_1_2"])
def test_a_wrong_formula_is_refused(tex):
    with pytest.raises(LatexError):
        extension().convert(tex, False)


def test_characters_are_those_that_a_browser_draws():
    def used(tex):
        return extension().characters(extension().convert(tex, False))

    assert used("x") == {"𝑥"}
    assert used("h") == {"ℎ"}
    assert used(r"\epsilon") == {"𝜖"}
    assert used(r"\partial") == {"𝜕"}
    assert used(r"\Delta") == {"Δ"}
    assert used(r"\sqrt{2}") == {"√", "2"}
    assert used(r"\operatorname{var}") == set("var")
    assert used("a < -1") == set("𝑎<−1")


def test_the_font_has_all_that_the_book_uses():
    needed = set().union(
        *(extension().characters(extension().convert(tex, display)) for tex, display in EVERY)
    )
    font = extension().read_font(face())
    assert needed <= set(map(chr, font.getBestCmap()))
    variants = font["MATH"].table.MathVariants
    sizes = {
        sign: len(construction.MathGlyphVariantRecord)
        for sign, construction in zip(
            variants.VertGlyphCoverage.glyphs, variants.VertGlyphConstruction, strict=True
        )
    }
    names = font.getBestCmap()
    assert sizes[names[ord("√")]] == extension().SIZES_OF_ROOT
    assert sizes[names[ord("∑")]] == 2
    for sign in "()⟨⟩":
        assert sizes[names[ord(sign)]] == extension().SIZES


def test_the_font_is_small_and_says_whose_it_is():
    assert len(face()) < 20_000
    assert re.search(r"base64,([^\"]+)", face())[1] in sheet("formulas-font.js")
    names = extension().read_font(face())["name"]
    assert "STIX" in names.getDebugName(1)
    assert "SIL Open Font License" in names.getDebugName(13)
    assert "Open Font License" in sheet()
    assert "url(" in face()
    assert "://" not in re.sub(r"/\*.*?\*/", "", sheet() + face(), flags=re.DOTALL)


def test_a_character_that_the_font_lacks_is_named():
    with pytest.raises(KeyError, match="批"):
        extension().make_font({"x", "批"})


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_formula_is_lost(path):
    made = page((HTML / path.relative_to(ROOT)).with_suffix(".html"))
    shown = [math["alttext"] for math in made.select("article math")]
    written = [" ".join(tex.split()) for tex, _ in FORMULAS[path]]
    for tex in set(written):
        assert shown.count(tex) >= written.count(tex), tex


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_needs_nothing_to_show_its_formulas_but_their_sheet(path):
    made = page(path)
    assert not [s for s in made("script") if "mathjax" in (s.get("src") or s.text).lower()]
    for math in made.select("article .math"):
        assert math.find("math", recursive=False), math
    linked = [link for link in made("link") if "formulas.css" in link["href"]]
    assert len(linked) == bool(made.find("math"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_no_tex_is_left_to_be_read(path):
    for text in page(path).body.find_all(string=TEX):
        assert text.find_parent(["code", "pre", "script", "style"]), text


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_what_touches_a_formula_stays_on_its_line(path):
    for math in page(path).select("article span.math"):
        if math.parent.get("class") != ["bn-glued"]:
            after, before = math.next_sibling, math.previous_sibling
            assert not (isinstance(after, str) and re.match(r"\S", after)), math.parent
            assert not (isinstance(before, str) and re.search(r"\S$", before)), math.parent
    assert ".bn-glued { white-space: nowrap; }" in sheet()


CONF = f"""
import sys
sys.path.insert(0, {str(EXTENSION.parent)!r})
extensions = ["formulas"]
html_math_renderer = "formulas"
math_number_all = True
exclude_patterns = ["out"]
"""


def build(folder, text):
    (folder / "conf.py").write_text(CONF, encoding="utf-8")
    (folder / "index.rst").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", ".", "out"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_formula_that_cannot_be_set_fails_the_build(tmp_path):
    done = build(tmp_path, "Page\n====\n\nText with :math:`\\foo x`, and :math:`y`.\n")
    assert done.returncode
    assert "index" in done.stderr
    assert "\\\\foo x" in done.stderr


def test_equal_texts_after_formulas_keep_their_order(tmp_path):
    text = "Page\n====\n\n*Here*, :math:`x`, and *there*, :math:`y`, or :math:`z`, and on.\n"
    done = build(tmp_path, text)
    assert not done.returncode, done.stderr
    words = page(tmp_path / "out" / "index.html").select_one("p").text
    assert words == "Here, x, and there, y, or z, and on."


def test_a_numbered_formula_has_its_number_and_link(tmp_path):
    text = "Page\n====\n\n.. math:: a = b\n   :label: first\n\nSee (:math:`x`), :eq:`first`.\n"
    done = build(tmp_path, text)
    assert not done.returncode, done.stderr
    made = page(tmp_path / "out" / "index.html")
    number = made.select_one("div.math .eqno")
    assert number.text.startswith("(1)")
    assert number.a["href"] == "#equation-first"
    assert made.select_one("div.math")["id"] == "equation-first"
    assert made.select_one(".bn-glued").text == "(x),"
    assert "math_core" not in html.unescape(str(made))


DRAWN = """() => [...document.querySelectorAll("article math")].map((math) => {
  const box = math.getBoundingClientRect(), size = parseFloat(getComputedStyle(math).fontSize);
  const line = math.closest("div.math");
  return {
    tex: math.getAttribute("alttext"),
    hidden: !math.checkVisibility(),
    drawn: box.width > 3 && box.height > 4,
    scrolls: line !== null && line.scrollWidth > line.clientWidth,
    roots: [...math.querySelectorAll("msqrt")].map((root) => {
      const inside = [...root.children].map((child) => child.getBoundingClientRect());
      const high = Math.max(...inside.map((r) => r.bottom)) - Math.min(...inside.map((r) => r.top));
      return high / size;
    }),
  };
})"""
FONT = """() => [...document.fonts].filter((font) => font.family.includes("Formulas"))
  .map((font) => font.status)"""


@NO_BROWSER
def test_formulas_are_drawn(visit, address):
    with_formulas = [path for path in PAGES if page(path).select_one("article math")]
    assert with_formulas
    browsed = visit(str(with_formulas[0].relative_to(HTML)))
    for path in with_formulas:
        browsed.goto(address + str(path.relative_to(HTML)))
        browsed.evaluate("() => document.fonts.ready.then(() => 0)")
        assert browsed.evaluate(FONT) == ["loaded"], path.stem
        for width in (390, 320):
            browsed.set_viewport_size({"width": width, "height": 900})
            formulas = browsed.evaluate(DRAWN)
            assert formulas
            for formula in formulas:
                case = (path.stem, width, formula)
                assert formula["hidden"] or formula["drawn"], case
                assert not formula["scrolls"], case
                # The one root that the font has is 1.19 high, 0.06 of which its bar.
                assert all(high <= 1.12 for high in formula["roots"]), case


@NO_BROWSER
def test_formulas_are_drawn_with_their_font(visit):
    browsed = visit("notebooks/02_the_math.html")
    browsed.evaluate("() => document.fonts.ready.then(() => 0)")
    session = browsed.context.new_cdp_session(browsed)
    session.send("DOM.enable")
    session.send("CSS.enable")
    root = session.send("DOM.getDocument")["root"]["nodeId"]
    wanted = {"nodeId": root, "selector": "article math :is(mi, mn, mo, mtext)"}
    nodes = session.send("DOM.querySelectorAll", wanted)["nodeIds"]
    assert len(nodes) > 100
    for node in nodes[:: len(nodes) // 60]:
        fonts = session.send("CSS.getPlatformFontsForNode", {"nodeId": node})["fonts"]
        assert all(font["isCustomFont"] for font in fonts), fonts
