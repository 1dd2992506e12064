"""Formulas set when the book is built: MathML, and a font with the characters that they use.

A page needs no script for its formulas. One line of script hands it the font before the first
paint, so that no text moves later; pages without scripts, and the PDF, have it from a style sheet.
Both hold the font itself, so that a browser finds it in a folder opened without a server.
"""

import base64
import html
import io
import re
import unicodedata
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

from docutils import nodes
from fontTools import subset
from fontTools.ttLib import TTFont
from math_core import LatexError, LatexToMathML
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

SHEET = "formulas.css"
# A font that a style sheet names comes after the first paint, wherever it is, and lines then break
# elsewhere. Bytes that a script hands over are there at once; the sheet is for pages without it.
FACE = '@font-face { font-family: "Formulas"; src: url("data:font/woff2;base64,%s"); }\n'
SCRIPT = (
    'document.fonts.add(new FontFace("Formulas",'
    'Uint8Array.from(atob("%s"),(c)=>c.charCodeAt(0))));\n'
)
HEAD = """
    <script blocking="render" src="{static}/formulas-font.js"></script>
    <noscript><link rel="stylesheet" href="{static}/formulas-font.css"></noscript>"""
RULES = Path(__file__).with_suffix(".css")
FONT = distribution("ziamath").locate_file("ziamath/fonts/STIXTwoMath-Regular.ttf")
# How many sizes of a tall sign are kept. A browser reserves the width of the widest root, whichever
# it draws, so that a larger one would leave a hole after each; no root of the book needs it.
SIZES, SIZES_OF_ROOT = 3, 1
# How thick bars of fractions and roots are, in thousandths of the size. A browser draws whole
# pixels: just under one or two of them, all bars look alike.
BAR = 55
TOKEN = re.compile(r"<(mi|mn|mo|mtext)\b([^>]*)>([^<]*)</\1>")
ROOT = re.compile(r"<m(?:sqrt|root)\b")
# A letter alone is set in italics, which have characters of their own: x is U+1D465.
ITALICS = {
    chr(int(unicodedata.decomposition(italic).split()[-1], 16)): italic
    for italic in map(chr, [*range(0x1D434, 0x1D468), *range(0x1D6E2, 0x1D71C)])
    if unicodedata.decomposition(italic)
} | {"h": "\N{PLANCK CONSTANT}"}

logger = logging.getLogger(__name__)


@cache
def convert(tex: str, display: bool) -> str:
    """The MathML of a formula.

    Args:
        tex: the formula in TeX, without the dollar signs.
        display: whether it stands on a line of its own.

    Returns:
        A `<math>` element whose `alttext` is the TeX.

    Raises:
        math_core.LatexError: the formula has an error, or a command that is not known.
    """
    converter = LatexToMathML(fancy_error=False)
    math = converter.convert_with_local_state(tex.strip(), displaystyle=display)
    alttext = html.escape(" ".join(tex.split()))
    return math.replace("<math", f'<math alttext="{alttext}"', 1)


def characters(math: str) -> set[str]:
    """The characters of the font that the formula is drawn with."""
    found = {"√"} if ROOT.search(math) else set()
    for tag, attributes, text in TOKEN.findall(math):
        text = html.unescape(text)
        if tag == "mi" and len(text) == 1 and "normal" not in attributes:
            text = ITALICS.get(text, text)
        found.update(c for c in text if unicodedata.category(c) not in ("Cf", "Zs"))
    return found


def make_font(wanted: set[str]) -> bytes:
    """A font with the characters, all their sizes and what a browser needs to set them.

    Raises:
        KeyError: the font lacks characters; they are its argument.
    """
    options = subset.Options()
    options.flavor = "woff2"
    options.hinting = False
    options.layout_features = []  # letters are scaled alike in all browsers
    options.name_IDs = ["*"]  # whose font it is, and under which license
    with subset.load_font(str(FONT), options) as font:
        names = font.getBestCmap()
        missing = wanted - set(map(chr, names))
        if missing:
            raise KeyError("".join(sorted(missing)))
        for table in font["cmap"].tables:  # a prime is always raised, and this one is cut for it
            table.cmap[ord("′")] = "minute.ssty"
        math = font["MATH"].table
        math.MathConstants.FractionRuleThickness.Value = BAR
        math.MathConstants.RadicalRuleThickness.Value = BAR
        _drop_tall_signs(math.MathVariants, names[ord("√")])
        subsetter = subset.Subsetter(options)
        subsetter.populate(text="".join(wanted) + " ")
        subsetter.subset(font)
        made = io.BytesIO()
        subset.save_font(font, made, options)
        return made.getvalue()


def _drop_tall_signs(variants, root):
    signs = zip(variants.VertGlyphCoverage.glyphs, variants.VertGlyphConstruction, strict=True)
    for sign, construction in signs:
        records = construction.MathGlyphVariantRecord
        del records[SIZES_OF_ROOT if sign == root else SIZES :]
        construction.GlyphAssembly = None


def read_font(sheet: str) -> TTFont:
    """The font that a style sheet brings along."""
    data = re.search(r"data:font/woff2;base64,([^\")]+)", sheet)[1]
    return TTFont(io.BytesIO(base64.b64decode(data)))


def formulas(doctree: nodes.document):
    """Each formula of a page: its node, and whether it stands on a line of its own."""
    for node in doctree.findall(lambda n: isinstance(n, nodes.math | nodes.math_block)):
        yield node, isinstance(node, nodes.math_block)


def write_sheet(app, env):
    """Write the style sheet, and the font that all formulas of the book need."""
    if app.builder.format != "html":
        return
    wanted = set()
    for page in sorted(env.found_docs):
        for node, display in formulas(env.get_doctree(page)):
            try:
                wanted |= characters(convert(node.astext(), display))
            except LatexError as error:
                logger.warning("%s: the formula %r: %s", page, node.astext(), error)
    try:
        font = make_font(wanted)
    except KeyError as error:
        logger.warning("the font of the formulas lacks %s", error)
        return
    data = base64.b64encode(font).decode()
    static = Path(app.outdir, "_static")
    static.mkdir(parents=True, exist_ok=True)
    (static / SHEET).write_text(RULES.read_text(encoding="utf-8"), encoding="utf-8")
    (static / "formulas-font.css").write_text(FACE % data, encoding="utf-8")
    (static / "formulas-font.js").write_text(SCRIPT % data, encoding="utf-8")


def glue(app, doctree, page):
    """Keep what touches a formula in a line of text on its line: a bracket, a comma.

    A browser breaks lines at both sides of a formula, as it does for a picture.
    """
    if app.builder.format != "html":
        return
    for node in list(doctree.findall(nodes.math)):
        beside = node.parent, node.parent.index(node)
        before = _take(*beside, -1, r"\S+$")
        after = _take(node.parent, node.parent.index(node), 1, r"^\S+")
        if before or after:
            glued = nodes.inline("", classes=["bn-glued"])
            node.replace_self(glued)
            glued += [part for part in (before, node, after) if part]


def _take(parent, index, step, pattern):
    """Cut from the text beside a node what the pattern finds; None where there is nothing."""
    place = index + step
    text = parent[place] if 0 <= place < len(parent) else None
    found = re.search(pattern, text) if isinstance(text, nodes.Text) else None
    if not found:
        return None
    # By its place: `replace` takes the first of equal texts, such as two commas.
    parent[place] = nodes.Text(text[: found.start()] + text[found.end() :])
    return nodes.Text(found[0])


def visit_inline(translator, node):
    """Write a formula in a line of text."""
    _write(translator, node, "span", False)


def visit_display(translator, node):
    """Write a formula on a line of its own, with its number if it has one."""
    _write(translator, node, "div", True)


def _write(translator, node, tag, display):
    body = translator.body
    body.append(translator.starttag(node, tag, "", CLASS="math notranslate nohighlight"))
    try:
        body.append(convert(node.astext(), display))
    except LatexError:  # reported when the style sheet was written
        body.append(f"<code>{html.escape(node.astext())}</code>")
    if display and node.get("number"):
        body.append(f'<span class="eqno">({get_node_equation_number(translator, node)})')
        translator.add_permalink_ref(node, "Link to this equation")
        body.append("</span>")
    body.append(f"</{tag}>")
    raise nodes.SkipNode


def add_sheet(app, page, template, context, doctree):
    """Give the style sheet and the font to pages with formulas alone."""
    if "<math" in context.get("body", ""):
        app.add_css_file(SHEET)
        context["metatags"] += HEAD.format(static=context["pathto"]("_static", resource=True))


def setup(app):
    """Register the renderer; Sphinx calls this."""
    app.add_html_math_renderer("formulas", (visit_inline, None), (visit_display, None))
    app.connect("env-updated", write_sheet)
    app.connect("doctree-resolved", glue, priority=900)  # after the glossary has cut the text
    app.connect("html-page-context", add_sheet)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
